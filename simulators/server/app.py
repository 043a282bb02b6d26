"""The ASGI application of a simulated provider: reads a request, lets the machine decide, answers in time."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import heapq
import json
import time
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from factflow_llm.errors import ConfigurationError
from factflow_llm.headers import parse_retry_after
from factflow_llm.tables import nearest
from simulators.providers import catalogue
from simulators.providers.calls import Call, CallKind
from simulators.providers.catalogue import Provider
from simulators.providers.limit_headers import Api
from simulators.providers.machine import ProviderMachine, Verdict
from simulators.server.batches import Batches
from simulators.server.bodies import bounded_body, json_object
from simulators.server.conduct import Asked, Conduct
from simulators.server.dialects import dialect_of
from simulators.server.dialects.base import InvalidAskingError
from simulators.server.dialects.said import AnswerKind, said
from simulators.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send

    from simulators.providers.machine import RejectionDetail
    from simulators.server.dialects.base import ApiRoute, Asking, Dialect, Json

_SIZE_HEADER = "x-simulated-output-tokens"
_CALL_HEADER = "x-simulated-call"
_ANSWER_HEADER = "x-simulated-answer"
_BREATH_S = 0.001  # below this real time, waiting costs more than it simulates


class FaultKind(StrEnum):
    """What a scripted fault does to one request; ``NONE`` lets it pass."""

    NONE = "none"
    ERROR = "error"
    STALL = "stall"
    DROP = "drop"
    STREAM_ERROR = "stream_error"
    STREAM_CUT = "stream_cut"


@dataclass(frozen=True, slots=True)
class ScriptedFault:
    """What happens to one request instead of what the machine would decide.

    Attributes:
        kind: an error answer, silence for ``stall_s``, a connection closed without an answer, or a stream that breaks.
        status: of an error answer.
        body: of an error answer: a mapping as JSON, or bytes as they are.
        headers: of an error answer, besides those of every answer.
        stall_s: real seconds of silence before the request is answered as usual.
        after_events: events sent before a stream breaks.
    """

    kind: FaultKind = FaultKind.ERROR
    status: int = 500
    body: Mapping[str, Any] | bytes = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    stall_s: float = 3600.0
    after_events: int = 2


_NO_FAULT = ScriptedFault(FaultKind.NONE)
_BREAKS: dict[str | None, FaultKind] = {"overloaded": FaultKind.STREAM_ERROR, "connection": FaultKind.STREAM_CUT}


class _ClientLeftError(Exception):
    """The client closed the connection while it waited."""


class SimulatedServer:
    """A provider's HTTP face.

    Args:
        provider: it, or the name of a preset.
        seed: decides every random draw.
        speed: simulated seconds per second.
        waits: take the time that answers take; otherwise answer at once.
        answer_tokens: length of an answer, unless the request's ``max_tokens`` is smaller or its header
            ``x-simulated-output-tokens`` says otherwise.
        api_key: the only key that is accepted; by default any.
        answer: what answers say, unless :meth:`answers` or a request's header ``x-simulated-answer`` says otherwise; by
            default what the request asks for: a tool it must call, JSON that fits its schema, else words.
        batch_s: simulated seconds that a batch takes, where the provider has them.
        clock: seconds, of any origin; by default ``time.monotonic``.
        log: called with a line per request.
    """

    def __init__(
        self,
        provider: Provider | str | Path,
        *,
        seed: int = 0,
        speed: float = 1.0,
        waits: bool = True,
        answer_tokens: int = 64,
        api_key: str | None = None,
        answer: AnswerKind | str | None = None,
        batch_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        log: Callable[[str], object] | None = None,
    ) -> None:
        self.provider = provider if isinstance(provider, Provider) else catalogue.provider(provider)
        if self.provider.api is Api.LOCAL:
            msg = f"provider {self.provider.name!r} runs in the client's process and has no HTTP face; choose another"
            raise ConfigurationError(msg)
        if not speed > 0:
            msg = f"speed = {speed!r} must be above 0; to answer at once, set waits=False"
            raise ConfigurationError(msg)
        self.machine = ProviderMachine(self.provider, Streams(seed), start_utc_s=time.time())
        self.dialect: Dialect = dialect_of(self.provider.api)
        self.conduct = Conduct()
        self.url = ""
        self._speed = speed
        self._waits = waits
        self._answer_tokens = answer_tokens
        self._api_key = api_key
        self._answer = None if answer is None else _kind(answer)
        self._answers: deque[AnswerKind] = deque()
        self._clock = clock
        self._start_s = clock()
        self._log = log
        self.batches = Batches(self, batch_s)
        self._script: deque[ScriptedFault] = deque()
        self._ending: list[tuple[float, int, object]] = []  # used where answers are not waited for
        self._arrived = 0

    def __repr__(self) -> str:
        served = f"{len(self.conduct.requests)} requests"
        return f"<SimulatedServer {self.provider.name} at {self.url or 'no address'}: {served}>"

    @property
    def now(self) -> float:
        """Simulated seconds since the start."""
        return (self._clock() - self._start_s) * self._speed

    @property
    def utc_s(self) -> float:
        """What the provider's wall clock shows."""
        return self.machine.utc_s(self.now)

    def script(self, *faults: ScriptedFault) -> None:
        """Let these happen to the next requests, one each."""
        self._script.extend(faults)

    def answers(self, *kinds: AnswerKind | str) -> None:
        """Let the next chats that are served be answered so, one each.

        Raises:
            ConfigurationError: there is no such answer.
        """
        self._answers.extend(_kind(kind) for kind in kinds)

    def say(self, wanted: Asking, call: Call, headers: Mapping[str, str]) -> Asking:
        """Return the request with what its answer says."""
        if wanted.kind is not CallKind.CHAT:
            return wanted
        try:
            named = headers.get(_ANSWER_HEADER)
            kind = _kind(named) if named else self._answers.popleft() if self._answers else self._answer
            return wanted._replace(said=said(kind, wanted.offered, call))
        except (ConfigurationError, ValueError) as error:
            raise InvalidAskingError(f"{_ANSWER_HEADER}: {error}") from None

    def app(self) -> ASGIApp:
        """Make the ASGI application."""
        routes = [Route(one.path, endpoint=_Endpoint(self, one), methods=["POST"]) for one in self.dialect.routes]
        return Starlette(
            routes=[*routes, *self.batches.routes()], exception_handlers={HTTPException: self._no_such_route}
        )

    async def _no_such_route(self, request: Request, error: Exception) -> Response:
        status = cast("HTTPException", error).status_code
        self.note(Asked(self.now, request.url.path, f"{request.method} {request.url.path}", status, "not_found"))
        text = f"Invalid URL ({request.method} {request.url.path})"
        return JSONResponse(self.dialect.problem(status, text), status_code=status)

    def note(self, asked: Asked) -> None:
        """Enter a request into the account and the log."""
        self.conduct.note(asked)
        self.tell(str(asked))

    def tell(self, line: str) -> None:
        """Write a line to the log, if there is one."""
        if self._log is not None:
            self._log(line)

    def next_fault(self) -> ScriptedFault:
        """Take the next scripted fault."""
        return self._script.popleft() if self._script else _NO_FAULT

    def call(self, wanted: Asking, headers: Mapping[str, str]) -> Call:
        """Make the machine's call of a request."""
        index = _whole(headers, _CALL_HEADER, self._arrived)
        self._arrived += 1
        output = 0
        if wanted.kind is CallKind.CHAT:
            output = _whole(headers, _SIZE_HEADER, self._answer_tokens)
            if wanted.max_tokens is not None:
                output = min(output, wanted.max_tokens)
        return Call(index, wanted.input_tokens, output, wanted.max_tokens, wanted.kind)

    def check_key(self, headers: Mapping[str, str]) -> None:
        """Turn away a request without a key, or with another than the accepted one."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        key = headers.get("x-api-key") or headers.get("api-key") or (token if scheme.lower() == "bearer" else "")
        if self.dialect.trusts(scheme):
            return
        if not key:
            raise InvalidAskingError("You didn't provide an API key.", status=401)
        if self._api_key is not None and key != self._api_key:
            masked = f"{key[:3]}***{key[-2:]}" if len(key) > 8 else "***"
            message = f"Incorrect API key provided: {masked}."
            raise InvalidAskingError(message, status=401, code="invalid_api_key")

    def decide(self, call: Call) -> tuple[float, Verdict, dict[str, str]]:
        """Let the machine decide ``call`` now; return the time, the verdict and its headers."""
        now = self.now
        while self._ending and self._ending[0][0] <= now:
            ended_s, _, handle = heapq.heappop(self._ending)
            self.machine.finish(ended_s, handle)
        verdict = self.machine.send(now, call)
        return now, verdict, self.machine.headers(now, verdict)

    def settle(self, sent_s: float, verdict: Verdict) -> None:
        """Tell the machine that an answer has ended, or will have in the time that it is not waited for."""
        if self._waits:
            self.machine.finish(self.now, verdict.handle)
        elif verdict.handle is not None:
            heapq.heappush(self._ending, (sent_s + verdict.duration_s, self._arrived, verdict.handle))

    async def pause(self, seconds: float, request: Request, *, real: bool = False) -> None:
        """Wait simulated seconds, or until the client leaves.

        Raises:
            _ClientLeftError: the client closed the connection first.
        """
        if not real:
            seconds = seconds / self._speed if self._waits else 0.0
        if seconds < _BREATH_S:
            return
        leaving = asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait({leaving}, timeout=seconds)
            if leaving.done() and leaving.result()["type"] == "http.disconnect":
                raise _ClientLeftError
        finally:
            leaving.cancel()


class _Endpoint:
    """One route as an ASGI application: reads the request, lets the machine decide, answers in time."""

    def __init__(self, server: SimulatedServer, route: ApiRoute) -> None:
        self._server = server
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        with contextlib.suppress(_ClientLeftError, ClientDisconnect):
            content, mistake = await bounded_body(request)
            await _Exchange(self._server, self._route, request, content, send).run(mistake)


class _Exchange:
    """One request and its answer."""

    def __init__(self, server: SimulatedServer, route: ApiRoute, request: Request, content: bytes, send: Send) -> None:
        self.server = server
        self.route = route
        self.dialect = server.dialect
        self.request = request
        self.content = content
        self.send = send
        self.fault = server.next_fault()
        self.arrived_s = server.now

    async def run(self, mistake: InvalidAskingError | None = None) -> None:
        """Answer the request, or what is wrong with its body."""
        fault = self.fault
        if fault.kind is FaultKind.DROP:
            self._note(0, "connection")
            self._hang_up()
            return
        if fault.kind is FaultKind.STALL:
            await self.server.pause(fault.stall_s, self.request, real=True)
        if fault.kind is FaultKind.ERROR:
            self._note(fault.status, "scripted", _retry_after_s(fault.headers))
            content = fault.body if isinstance(fault.body, bytes) else json.dumps(fault.body).encode()
            headers = {"content-type": "application/json"} | dict(fault.headers)
            await self._answer(Response(content, fault.status, self._headers(headers, fault.status)))
            return
        try:
            if mistake is not None:
                raise mistake
            self.server.check_key(self.request.headers)
            wanted = self.route.read(json_object(self.content), self.request)
            call = self.server.call(wanted, self.request.headers)
            wanted = self.server.say(wanted, call, self.request.headers)
        except InvalidAskingError as error:
            self._note(error.status, "invalid_request")
            body = self.dialect.problem(error.status, error.message, code=error.code, param=error.param)
            await self._answer_error(body, error.status, self._headers({}, error.status))
            return
        await self._serve(wanted, call)

    async def _serve(self, wanted: Asking, call: Call) -> None:
        server = self.server
        there_s, back_s = server.machine.ways_s(call)
        await server.pause(there_s, self.request)
        now, verdict, shown = server.decide(call)
        self._note(verdict.status, verdict.error, verdict.retry_after_s)
        headers = self._headers(shown, verdict.status)
        if verdict.status != 200:
            detail = server.machine.rejection(now, call, verdict.axis)
            await server.pause(verdict.duration_s + back_s, self.request)
            await self._reject(verdict, detail, headers)
            return
        try:
            if wanted.stream:
                await self._stream(wanted, call, verdict, headers, now + back_s)
                return
            await server.pause(verdict.duration_s, self.request)
        finally:
            server.settle(now, verdict)
        await server.pause(back_s, self.request)
        if verdict.error is None:
            body = self.route.answer(wanted, call)
            await self._answer(JSONResponse(body, headers=headers | self.dialect.usage_headers(call, verdict)))
        elif verdict.error == "connection":
            self._hang_up()
        else:
            await self._reject(verdict._replace(status=self.server.provider.api.overload_status), None, headers)

    async def _reject(self, verdict: Verdict, detail: RejectionDetail | None, headers: Mapping[str, str]) -> None:
        body = self.dialect.rejection(self.server.provider, verdict, detail, self.route.operation)
        more = self.dialect.rejection_headers(verdict, detail, self.server.utc_s)
        await self._answer_error(body, verdict.status, dict(headers) | more)

    async def _stream(
        self, wanted: Asking, call: Call, verdict: Verdict, headers: Mapping[str, str], begun_s: float
    ) -> None:
        assert self.route.events is not None
        events = list(self.route.events(wanted, call))
        kind, last = _BREAKS.get(verdict.error, self.fault.kind), len(events)
        if verdict.error is not None:
            last //= 2
        elif kind in _BREAKS.values():
            last = min(self.fault.after_events, last)
        await self.server.pause(begun_s + verdict.first_chunk_s - self.server.now, self.request)
        shown = dict(headers) | {"content-type": self.route.stream_type}
        raw = [(name.encode(), value.encode()) for name, value in shown.items()]
        await self.send({"type": "http.response.start", "status": 200, "headers": raw})
        pace_s = (verdict.duration_s - verdict.first_chunk_s) / max(last, 1)
        for number, event in enumerate(events[:last], start=1):
            await self.send({"type": "http.response.body", "body": event, "more_body": True})
            due_s = begun_s + verdict.first_chunk_s + number * pace_s
            await self.server.pause(due_s - self.server.now, self.request)
        if kind is FaultKind.STREAM_CUT:
            self._hang_up()
            return
        ending = self.route.stream_error if kind is FaultKind.STREAM_ERROR else b""
        await self.send({"type": "http.response.body", "body": ending})

    def _headers(self, shown: Mapping[str, str], status: int) -> dict[str, str]:
        number = len(self.server.conduct.requests)
        return self.dialect.headers(number, status) | dict(shown)

    def _note(self, status: int, error: str | None, retry_after_s: float | None = None) -> None:
        headers, path = self.request.headers, self.request.url.path
        identity = hashlib.sha256(b"\n".join([path.encode(), headers.get(_CALL_HEADER, "").encode(), self.content]))
        resent = headers.get("x-stainless-retry-count", "0") != "0"
        attempt = headers.get("amz-sdk-request", "attempt=1").partition("attempt=")[2].partition(";")[0]
        self.server.note(
            Asked(
                self.arrived_s,
                identity.hexdigest(),
                f"{self.request.method} {path}",
                status,
                error,
                retry_after_s,
                hidden_retry=resent or attempt != "1",
            )
        )

    async def _answer_error(self, body: Json, status: int, headers: Mapping[str, str]) -> None:
        await self._answer(self.dialect.error(self.dialect.signed(body, headers), status, headers))

    async def _answer(self, response: Response) -> None:
        await response(self.request.scope, self.request.receive, self.send)

    def _hang_up(self) -> None:
        self.request.scope["transport"].abort()


def _kind(word: AnswerKind | str) -> AnswerKind:
    if str(word) not in set(AnswerKind):
        raise ConfigurationError(f"no answer is called {str(word)[:40]!r}{nearest(str(word), map(str, AnswerKind))}")
    return AnswerKind(word)


def _whole(headers: Mapping[str, str], name: str, default: int) -> int:
    text = headers.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise InvalidAskingError(f"{name}: {text[:20]!r} is not a whole number")
    return int(text)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    told = parse_retry_after(headers)
    return None if told is None else told[0]
