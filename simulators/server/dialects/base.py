"""What the dialects share: what a request asks for, a route with its ways, and the parts of which answers are made."""

from __future__ import annotations

import json
import zlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from starlette.responses import JSONResponse

from simulators.server.dialects.said import AnswerKind, Offered, Said

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from simulators.providers.calls import Call, CallKind
    from simulators.providers.catalogue import Provider
    from simulators.providers.machine import RejectionDetail, Verdict

Json = dict[str, Any]

CREATED = 1_767_225_600
ORG = "org-XXXX"
EVENTS = "text/event-stream; charset=utf-8"

_LARGEST = 1_000_000


class InvalidAskingError(Exception):
    """The request is wrong: a 4xx and what the provider says about it."""

    def __init__(self, message: str, *, status: int = 400, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param


class Asking(NamedTuple):
    """What a valid request asks for."""

    kind: CallKind
    model: str
    input_tokens: int
    max_tokens: int | None = None
    stream: bool = False
    stream_usage: bool = False
    texts: tuple[str, ...] = ()
    dimensions: int = 0
    packed: bool = False
    vector_kinds: tuple[str, ...] = ()
    offered: Offered = Offered()
    said: Said = Said(AnswerKind.TEXT)


class ApiRoute(NamedTuple):
    """A path with all its ways.

    Attributes:
        path: as Starlette writes it.
        read: reads a request.
        answer: makes the body that answers it.
        events: makes the answer in pieces, as they go over the wire; ``None`` where there is no stream.
        stream_error: the piece that reports an overload inside a stream that began well.
        operation: what Azure calls the request.
        stream_type: the content type of a stream.
    """

    path: str
    read: Callable[[Json, Request], Asking]
    answer: Callable[[Asking, Call], Json]
    events: Callable[[Asking, Call], Iterator[bytes]] | None = None
    stream_error: bytes = b""
    operation: str = ""
    stream_type: str = EVENTS


class Dialect(ABC):
    """How one provider speaks HTTP.

    Attributes:
        routes: its paths.
        batch_files: where files of requests, and the batches made of them, are found.
        batch_lists: where batches are found that are handed in as lists.
    """

    routes: ClassVar[tuple[ApiRoute, ...]]
    batch_files: ClassVar[tuple[str, ...]] = ()
    batch_lists: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def rejection(self, provider: Provider, verdict: Verdict, detail: RejectionDetail | None, operation: str) -> Json:
        """Return the body with which the provider rejects a request."""

    @abstractmethod
    def problem(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> Json:
        """Return the body of a client's mistake."""

    @abstractmethod
    def headers(self, number: int, status: int) -> dict[str, str]:
        """Return what every answer carries, the request's number among it."""

    def usage_headers(self, call: Call, verdict: Verdict) -> dict[str, str]:
        """Return what the headers of an answer tell of its tokens."""
        return {}

    def rejection_headers(self, verdict: Verdict, detail: RejectionDetail | None, utc_s: float) -> dict[str, str]:
        """Return what the headers of a rejection alone tell."""
        return {}

    def error(self, body: Json, status: int, headers: Mapping[str, str]) -> Response:
        """Return an error's answer."""
        return JSONResponse(body, status, headers)

    def trusts(self, scheme: str) -> bool:
        """Tell whether this scheme of authorization needs no key."""
        return False

    def signed(self, body: Json, headers: Mapping[str, str]) -> Json:
        """Return an error's body with what it repeats of the headers."""
        return body


def embedding(text: str, dimensions: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Return a unit vector that depends on the text alone."""
    vector = np.random.Generator(np.random.Philox(zlib.crc32(text.encode()))).standard_normal(dimensions)
    unit: np.ndarray[tuple[int], np.dtype[np.float32]] = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit


def data(body: Json) -> bytes:
    """Write an event without a name."""
    return f"data: {json.dumps(body, separators=(',', ':'))}\n\n".encode()


def event(kind: str, **fields: Any) -> bytes:
    """Write an event named by its type."""
    return f"event: {kind}\n".encode() + data({"type": kind} | fields)


def reply_id(call: Call) -> str:
    """Name the answer to a call."""
    return f"{call.index:08d}"


def turns(body: Json, name: str = "messages") -> list[Json]:
    """Return a conversation's turns; none for what is no conversation."""
    listed = body.get(name)
    return listed if isinstance(listed, list) and all(isinstance(turn, dict) for turn in listed) else []


def whole(body: Json, name: str) -> int | None:
    """Return a count that the request names, or ``None``; anything else is a mistake."""
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _LARGEST:
        raise InvalidAskingError(f"Invalid '{name}': expected an integer from 1 to {_LARGEST}.", param=name)
    return value


def characters(content: Any) -> int:
    """Count the characters of a text, or of the texts among its parts."""
    if isinstance(content, str):
        return len(content)
    if isinstance(content, list):
        return sum(characters(part.get("text")) for part in content if isinstance(part, dict))
    return 0
