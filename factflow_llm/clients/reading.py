"""From a raw response of an SDK to a neutral answer, whole or streamed, whatever the server really sent.

The SDK carries the bytes; what they say is read here, so that an answer of another shape than the SDK's classes is
still an answer, and one that cannot be read is an error of ours. ``raw`` is the SDK's object wherever it can make one.

A server that streams unasked, or answers whole where a stream was asked for, has still answered.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from factflow_llm.clients.answers import AnswerContext, Piece, ReadAnswer, Reader, ending_of
from factflow_llm.clients.events import Event, EventDecoder
from factflow_llm.clients.stainless import (
    constructed,
    lower_headers,
    raise_cut_stream,
    raise_not_an_answer,
)
from factflow_llm.clients.stream import joined
from factflow_llm.clients.wire import decode, whole
from factflow_llm.errors import BadResponseError, ErrorReason, failure_inside, get_error_metadata
from factflow_llm.errors.bodies import read_body
from factflow_llm.types import CompletionResponse, StreamChunk, ToolCallDelta

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from types import ModuleType

_EVENTS = re.compile(rb"\s*(?:data|event|id|retry)?:")
_NO_EVENTS = (b"{", b"[", b"<")
_DONE = b"[DONE]"
_DRAIN_S = 0.1  # what a server may take to end the response after its last event, so that the connection can be kept
_SUSPECT = frozenset({"error", "base_resp", "error_code", "success"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """How the answers of one API are read.

    Attributes:
        sdk: the SDK.
        origin: who answers, such as ``openai api.openai.com``.
        wanted: the fields of which one makes an object an answer.
        every: the field that every sound event has.
        read: reads an answer.
        reader: makes a reader of one stream.
        model: the SDK's class of an answer.
        event: the SDK's class of an event, given the event.
        failed: makes the SDK's exception for a failure in the middle of a stream, of message, response and body.
    """

    sdk: ModuleType
    origin: str
    wanted: tuple[str, ...]
    every: str
    read: ReadAnswer
    reader: Callable[[AnswerContext], Reader]
    model: type[Any]
    event: Callable[[Mapping[str, Any]], type[Any]]
    failed: Callable[[str, Any, Any], Exception]

    def whole(self, response: Any, model: str) -> CompletionResponse:
        """Read the answer to a request that asked for no stream.

        Args:
            response: what the SDK's ``with_raw_response`` gave.
            model: the model that was asked.

        Raises:
            BadResponseError: it is no answer, tells a failure, or has a field without meaning.
        """
        content = response.http_response.content
        known = AnswerContext(model, self.origin, lower_headers(response))
        if not content.startswith(b"{") and _EVENTS.match(content):
            return self._replay(response, content, known)
        answer = _decoded(response, content)
        raw = constructed(self.model, answer)
        if raw is not answer:
            raw._request_id = known.headers.get("x-request-id", known.headers.get("request-id"))  # as the SDK leaves it
        return self._read(response, answer, raw, known)

    async def stream(self, send: Callable[[], Awaitable[Any]], model: str) -> AsyncGenerator[StreamChunk, None]:
        """Ask for a stream, give the pieces of the answer, and close the response in the end.

        Args:
            send: sends the request; gives what the SDK's ``with_raw_response`` gives.
            model: the model that was asked.

        Raises:
            BadResponseError: as for ``whole``, of an event or of the answer.
            Exception: the SDK's own, when the server tells a failure or the connection breaks off.
        """
        response = await send()
        http = response.http_response
        known = AnswerContext(model, self.origin, lower_headers(response))
        reader, decoder, raw = self.reader(known), EventDecoder(), None
        received = http.aiter_bytes()
        begun = done = False
        try:
            while not done:
                try:
                    data = await received.__anext__()
                except StopAsyncIteration:
                    events: Iterable[Event] = decoder.end()
                    done = True
                except Exception as error:
                    if reader.ended:  # nothing that matters was lost
                        break
                    raise self._broken_off(http, error) from error
                else:
                    if not begun and (begun := bool(data.strip())) and data.lstrip().startswith(_NO_EVENTS):
                        answer = _decoded(response, data + await self._rest(http, received))
                        for chunk in _pieces(self._read(response, answer, constructed(self.model, answer), known)):
                            yield chunk
                        return
                    events = decoder.feed(data)
                for event in events:
                    if event.data.startswith(_DONE):
                        reader.ended = reader.over = True
                    elif (told := _object(event, cut=done)) is not None:
                        piece = self._take(http, reader, told, known)
                        raw = constructed(self.event(told), told)
                        if piece is not None:
                            yield StreamChunk(piece.text, piece.calls, piece.reasoning, headers=known.headers, raw=raw)
                    if reader.over:
                        await _drain(received)
                        done = True
                        break
        finally:
            await http.aclose()
        if not reader.ended:
            raise_cut_stream(self.sdk, response)
        yield self._last(reader, raw)

    def _read(self, response: Any, answer: dict[str, Any], raw: Any, known: AnswerContext) -> CompletionResponse:
        _sound(response, answer, self.wanted, known.headers)
        try:
            return self.read(answer, known, raw)
        except BadResponseError as error:
            error.headers = dict(known.headers)
            raise
        except RecursionError:
            raise_not_an_answer(response)

    def _replay(self, response: Any, content: bytes, known: AnswerContext) -> CompletionResponse:
        """Read the events of a server that streams unasked."""
        reader, decoder = self.reader(known), EventDecoder()
        chunks, raw = [], None
        for events in (decoder.feed(content), decoder.end()):
            for event in events:
                if event.data.startswith(_DONE):
                    reader.ended = reader.over = True
                elif not reader.over and (told := _object(event, cut=True)) is not None:
                    piece = self._take(response.http_response, reader, told, known)
                    raw = constructed(self.event(told), told)
                    if piece is not None:
                        chunks.append(StreamChunk(*piece))
        if not reader.ended:
            raise_not_an_answer(response)
        return joined([*chunks, self._last(reader, raw)])

    def _last(self, reader: Reader, raw: Any) -> StreamChunk:
        try:
            return replace(reader.last(), raw=raw)
        except RecursionError:
            raise BadResponseError("the answer cannot be read: it is nested too deeply; try again") from None

    def _take(self, http: Any, reader: Reader, event: dict[str, Any], known: AnswerContext) -> Piece | None:
        try:
            sound = self.every in event and _SUSPECT.isdisjoint(event) and event.get("type") != "error"
            if sound or (failure := failure_inside(event)) is None:
                return reader.read(event)
        except RecursionError:
            raise BadResponseError("the answer cannot be read: an event is nested too deeply; try again") from None
        except BadResponseError as error:
            failure = error
        if failure.body is None:
            failure.headers = dict(known.headers)
            raise failure
        told = read_body(failure.body)
        inner = failure.body.get("error")
        body = inner if isinstance(inner, Mapping) else failure.body
        raise self.failed(whole(told.message) or "the server told a failure in the middle of its answer", http, body)

    async def _rest(self, http: Any, received: AsyncIterator[bytes]) -> bytes:
        try:
            return b"".join([data async for data in received])
        except Exception as error:
            raise self._broken_off(http, error) from error

    def _broken_off(self, http: Any, error: Exception) -> Exception:
        """Say a transport's error as the SDK says it, in all its versions."""
        reason = get_error_metadata(error).reason
        if reason is ErrorReason.TIMEOUT:
            return self.sdk.APITimeoutError(request=http.request)  # type: ignore[no-any-return]
        if reason is ErrorReason.CONNECTION:
            return self.sdk.APIConnectionError(request=http.request)  # type: ignore[no-any-return]
        return BadResponseError("the answer cannot be read: its encoding is broken; try again")


def read_object(response: Any, *, wanted: str, headers: Mapping[str, str]) -> dict[str, Any]:
    """Decode the answer of a raw response of an SDK.

    Raises:
        BadResponseError: it is no object with the field ``wanted``, or tells a failure.
    """
    return _sound(response, _decoded(response, response.http_response.content), (wanted,), headers)


def _sound(
    response: Any, answer: dict[str, Any], wanted: tuple[str, ...], headers: Mapping[str, str]
) -> dict[str, Any]:
    if failure := failure_inside(answer, headers=headers):
        raise failure
    if all(answer.get(field) is None for field in wanted):
        raise_not_an_answer(response)
    return answer


def _decoded(response: Any, content: bytes) -> dict[str, Any]:
    """Decode an answer; an object may stand in a list, as some servers' errors do."""
    try:
        answer = decode(content)
    except ValueError:
        raise_not_an_answer(response)
    if isinstance(answer, list):
        answer = next((item for item in answer if isinstance(item, dict)), None)
    if not isinstance(answer, dict):
        raise_not_an_answer(response)
    return answer


def _object(event: Event, *, cut: bool) -> dict[str, Any] | None:
    """Decode an event; ``None`` for one that is no object, unless it is named an error.

    Raises:
        BadResponseError: broken JSON; where the stream was cut it is only that.
    """
    failed = event.name == b"error"
    try:
        told = decode(event.data)
    except ValueError:
        if failed:
            return {"error": whole(event.data.decode(errors="replace"))}
        if not cut and event.data.lstrip().startswith(b"{"):
            raise BadResponseError("the answer cannot be read: an event is broken JSON; try again") from None
        return None
    if isinstance(told, list):
        told = next((item for item in told if isinstance(item, dict)), None)
    if not isinstance(told, dict):
        return {"error": told or "an error without words"} if failed else None
    if failed and not told.get("error"):
        return {"error": told}
    return told


def _pieces(answer: CompletionResponse) -> Iterable[StreamChunk]:
    """Give a whole answer as a stream of one piece and an end."""
    deltas = tuple(
        ToolCallDelta(number, call.id, call.name, call.arguments, call.provider_state)
        for number, call in enumerate(answer.tool_calls)
    )
    if answer.text or answer.reasoning or deltas:
        yield StreamChunk(answer.text, deltas, answer.reasoning or "", headers=answer.headers, raw=answer.raw)
    yield replace(ending_of(answer), logprobs=answer.logprobs, raw=answer.raw)


async def _drain(received: AsyncIterator[bytes]) -> None:
    """Read the rest of a response, should it come at once: only then can its connection be used again."""
    try:
        async with asyncio.timeout(_DRAIN_S):
            async for _ in received:
                pass
    except Exception:  # the answer is whole already
        return
