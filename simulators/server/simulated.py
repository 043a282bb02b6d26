"""A simulated provider that is asked over HTTP: its machine, its clock, what was scripted, its account of clients.

How requests are read and answered is in ``app.py``.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from factflow_llm.errors import ConfigurationError
from factflow_llm.tables import nearest
from simulators.providers import catalogue
from simulators.providers.calls import Call, CallKind
from simulators.providers.catalogue import Provider
from simulators.providers.limit_headers import Api
from simulators.providers.machine import ProviderMachine, Verdict
from simulators.server.batches import Batches
from simulators.server.conduct import Asked, Conduct
from simulators.server.dialects import dialect_of
from simulators.server.dialects.base import InvalidAskingError
from simulators.server.dialects.said import AnswerKind, said
from simulators.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from starlette.requests import Request

    from simulators.server.dialects.base import Asking, Dialect

CALL_HEADER = "x-simulated-call"
_SIZE_HEADER = "x-simulated-output-tokens"
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


class ClientLeftError(Exception):
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
        index = _whole(headers, CALL_HEADER, self._arrived)
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
            ClientLeftError: the client closed the connection first.
        """
        if not real:
            seconds = seconds / self._speed if self._waits else 0.0
        if seconds < _BREATH_S:
            return
        leaving = asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait({leaving}, timeout=seconds)
            if leaving.done() and leaving.result()["type"] == "http.disconnect":
                raise ClientLeftError
        finally:
            leaving.cancel()


def _kind(word: AnswerKind | str) -> AnswerKind:
    if str(word) not in set(AnswerKind):
        raise ConfigurationError(f"no answer is called {str(word)[:40]!r}{nearest(str(word), map(str, AnswerKind))}")
    return AnswerKind(word)


def _whole(headers: Mapping[str, str], name: str, default: int) -> int:
    text = headers.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise InvalidAskingError(f"{name}: {text[:20]!r} is not a whole number")
    return int(text)
