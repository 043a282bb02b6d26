"""One call's attempts: be admitted, send, classify, settle, record, wait, and again. Nobody else retries.

A call is one ticket, whatever number of attempts it takes; every attempt is admitted anew and settled exactly once,
whatever the answer holds and wherever the caller leaves.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

from factflow_llm.clients.timing import TimeBound
from factflow_llm.errors import (
    ClosedError,
    DeadlineExceededError,
    ErrorMetadata,
    LLMErrorClassification,
    get_error_metadata,
)
from factflow_llm.headers import parse_limits
from factflow_llm.ratelimit.backoff import retry_delay_s
from factflow_llm.ratelimit.limiter import AdaptiveRateLimiter, CallTicket, Permit
from factflow_llm.ratelimit.line import NEVER
from factflow_llm.recorder import AttemptRow, RowOutcome
from factflow_llm.watching import WATCH, Reservation, Wanted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from factflow_llm.ratelimit.road import Road
    from factflow_llm.types import Usage

T = TypeVar("T")

_log = logging.getLogger(__name__)

LEFT_OPEN_S = 60.0
"""A stream that nobody has read for so long was forgotten: it keeps its permit no longer."""
_call_ids = itertools.count()

HANDED: ContextVar[Permit | None] = ContextVar("factflow_llm_handed", default=None)
"""A permit that a pool has waited for already: the next call made in this context goes out by it, once."""

ELSEWHERE: ContextVar[Callable[[ErrorMetadata], bool] | None] = ContextVar("factflow_llm_elsewhere", default=None)
"""Told of each failure that is worth another attempt, of calls made in this context; whether others take the call."""


class _Admission(NamedTuple):
    """The limiter's state at an attempt's admission."""

    admitted_s: float
    limit: float
    in_flight: int
    queued: int
    reason: str


class Attempts:
    """One call on its way: ``async with`` it for each attempt, and again, until the body returns.

    ::

        while True:
            async with call:
                return call.answered(await call.within(client.complete(messages)))

    Entering waits for the limiter's leave. Leaving settles and records the attempt. A failure that is worth another
    attempt is swallowed, after the wait, so that the loop goes round; one after ``begun()`` never is.

    Args:
        road: what all calls of the client share.
        operation: ``chat`` or ``embeddings``.
        input_tokens: tokens the call will read; ``None`` when unknown.
        max_tokens: the caller's bound on the answer.
        priority: higher is admitted first.
        deadline_s: seconds from now by which the call is over; ``None`` takes the retry settings'.

    Attributes:
        made_at: for a stream, the caller's file and line.
    """

    __slots__ = (
        "_admission", "_bound", "_elsewhere", "_handed", "_handed_s", "_headers", "_lookout", "_permit", "_reservation",
        "_road", "_trace", "_usage", "arrival_s", "attempt", "call_id", "first_chunk_s", "made_at", "max_tokens",
        "operation", "ticket",
    )  # fmt: skip

    def __init__(
        self,
        road: Road,
        operation: str,
        *,
        input_tokens: int | None,
        max_tokens: int | None,
        priority: int,
        deadline_s: float | None,
    ) -> None:
        now = asyncio.get_running_loop().time()
        within_s = road.retry.deadline_s if deadline_s is None else deadline_s
        by_s = NEVER if within_s is None else now + within_s
        self._road = road
        self.operation = operation
        self.max_tokens = max_tokens
        self.arrival_s = now
        self.call_id = next(_call_ids)
        self.attempt = 0
        self.first_chunk_s: float | None = None
        self.ticket = CallTicket(
            input_tokens, 0 if operation == "embeddings" else max_tokens, priority=priority, deadline_s=by_s
        )
        self._bound = TimeBound(by_s=by_s, expired=self._too_late)
        self.made_at = ""
        self._handed_s = math.nan
        self._lookout: asyncio.TimerHandle | None = None
        self._handed = HANDED.get()
        if self._handed is not None:
            self.ticket = self._handed.ticket
            HANDED.set(None)
        self._elsewhere = ELSEWHERE.get()
        self._permit: Permit | None = None
        self._reservation: Reservation | None = None
        self._admission: _Admission | None = None
        self._usage: Usage | None = None
        self._headers: Mapping[str, str] | None = None
        telemetry = road.telemetry
        self._trace = None if telemetry is None else telemetry.call(operation, road.model, road.provider, max_tokens)

    async def __aenter__(self) -> Self:
        road = self._road
        if road.closed:
            closed = ClosedError("this client was closed: ask the factory for a new one")
            self._over(closed)
            raise closed
        road.calls.add(self)
        if self._trace is not None:
            self._trace.waits()
        self.first_chunk_s = self._usage = self._headers = self._admission = None
        handed = self._handed
        while not await self._admitted_by(handed):
            handed = None
        if road.recorder is not None:
            self._admission = self._admitted(road.limiter)
        if self._trace is not None:
            self._trace.sent(self.attempt)
        return self

    async def _admitted_by(self, handed: Permit | None) -> bool:
        """Wait until the attempt may go; return false where its turn came and what it may use was there no more."""
        road = self._road
        if (watch := WATCH.get()) is not None:
            try:
                self._reservation = await watch.reserve(self._wanted())
            except BaseException as error:
                self._over(error)
                self._permit = handed
                self._give_back()
                raise
        if handed is not None:
            self._permit = handed
        elif road.limiter is not None:
            self._permit = Permit(road.limiter, self.ticket)
            try:
                await self._permit.__aenter__()
            except BaseException as error:
                self._over(error)
                if self._reservation is not None:
                    self._reservation.released()
                self._record(error, self._metadata(error))
                raise
        if self._reservation is None or self._reservation.sends():
            return True
        self._give_back()
        return False

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        again = False
        try:
            again = await self._leave(error)
        except BaseException as ended:
            error = ended
            raise
        finally:
            if not again:
                self._over(error)
        return again

    def _over(self, error: BaseException | None) -> None:
        """Strike the call off, however it ended."""
        self._road.leave(self)
        if self._trace is not None:
            self._trace.over(error, self._metadata(error), self._usage)

    async def _leave(self, error: BaseException | None) -> bool:
        """Settle and record the attempt; return, after the wait, whether there is another."""
        self._bound.close()
        if self._lookout is not None:
            self._lookout.cancel()
        try:
            metadata = self._metadata(error)
            self._settle(error, metadata)
        finally:
            self._give_back()
        if self._reservation is not None:
            self._reservation.settled(self._usage, metadata, cancelled=error is not None and metadata is None)
        self._record(error, metadata)
        if self._trace is not None:
            self._trace.attempted(error, metadata)
        if error is None:
            self._road.heard(None, None)
        if metadata is None or self.first_chunk_s is not None or self._road.closed or self._handed is not None:
            return False
        delay_s = self._delay_s(metadata)
        self._road.heard(metadata.reason, delay_s)
        if delay_s is None or (self._elsewhere is not None and self._elsewhere(metadata)):
            return False
        self.attempt += 1
        await self._road.pause(delay_s)
        return True

    async def within(self, awaitable: Awaitable[T]) -> T:
        """Await what the provider owes, no longer than the call's deadline allows.

        Raises:
            DeadlineExceededError: when that passes first.
        """
        self._handed_s = math.nan
        if self.ticket.deadline_s == NEVER:
            return await awaitable
        return await self._bound.wait(awaitable)

    def answered(self, response: T) -> T:
        """Note what a whole answer says of usage and limits, and hand it back."""
        self._usage = getattr(response, "usage", None)
        self._headers = getattr(response, "headers", None)
        return response

    def note(self, usage: Usage | None, headers: Mapping[str, str] | None) -> None:
        """Note what an answer says of usage and limits."""
        self._usage = usage
        self._headers = headers

    def begun(self, usage: Usage | None, headers: Mapping[str, str] | None) -> None:
        """Note a piece of a streamed answer: from the first on, the attempt is not repeated."""
        loop = asyncio.get_running_loop()
        self._handed_s = now = loop.time()
        if self.first_chunk_s is None:
            self.first_chunk_s = now
            if self._trace is not None:
                self._trace.answers()
            self._lookout = loop.call_later(LEFT_OPEN_S, self._look_out, loop)
        self._usage = usage or self._usage
        self._headers = headers or self._headers

    def _look_out(self, loop: asyncio.AbstractEventLoop) -> None:
        """Return the permit of a stream that nobody reads any more, and say once which it is."""
        idle_s = loop.time() - self._handed_s
        if not idle_s >= LEFT_OPEN_S:
            wait_s = LEFT_OPEN_S if math.isnan(idle_s) else LEFT_OPEN_S - idle_s
            self._lookout = loop.call_later(wait_s, self._look_out, loop)
            return
        self._give_back()
        _log.warning(
            "a stream of %s, made at %s, has not been read for %.0f s and is still open; its permit goes back: read it "
            "to its end, or leave it by `async with client.stream(…)`",
            self._road.model,
            self.made_at or "an unknown place",
            idle_s,
        )

    def leave_the_line(self) -> None:
        """End the wait for a turn, if the call waits for one, by a ``ClosedError``."""
        turn = getattr(self.ticket, "future", None)
        if turn is not None and not turn.done():
            turn.set_exception(ClosedError("the client was closed while the call waited for its turn"))

    def _too_late(self) -> DeadlineExceededError:
        return DeadlineExceededError(
            f"no whole answer by the call's deadline, {self.ticket.deadline_s - self.arrival_s:g} s after it was asked "
            f"for; it was attempt {self.attempt + 1}: give more time, or ask for less"
        )

    def _wanted(self) -> Wanted:
        road, ticket = self._road, self.ticket
        return Wanted(road.model, road.origin, ticket.input_tokens, ticket.output_tokens, road.cost_usd)

    def _admitted(self, limiter: AdaptiveRateLimiter | None) -> _Admission:
        if limiter is None:
            return _Admission(asyncio.get_running_loop().time(), NEVER, 0, 0, "")
        ticket = self.ticket
        return _Admission(ticket.admitted_s, ticket.rate, ticket.in_flight, ticket.queued, ticket.reason.value)

    def _metadata(self, error: BaseException | None) -> ErrorMetadata | None:
        if not isinstance(error, Exception):
            return None
        return get_error_metadata(error, patience_s=self._road.retry.retry_after_cap_s)

    def _give_back(self) -> None:
        """Return a permit that nothing has settled, so that no fault of our own can leak one."""
        permit, self._permit = self._permit, None
        if permit is not None and not permit.settled:
            permit.ignored()

    def _settle(self, error: BaseException | None, metadata: ErrorMetadata | None) -> None:
        if self._permit is None:
            return
        if error is None:
            self._permit.succeeded(usage=self._road.metered(self._usage), headers=self._headers)
        elif metadata is None:
            self._permit.ignored()
        else:
            self._permit.failed(metadata)

    def _delay_s(self, metadata: ErrorMetadata) -> float | None:
        """Return the seconds to wait before the next attempt, or ``None`` to give up."""
        if metadata.classification is LLMErrorClassification.TERMINAL:
            return None
        deadline_s = self.ticket.deadline_s
        return retry_delay_s(
            self._road.retry,
            attempt=self.attempt,
            jitter=self._road.jitter(),
            retry_after_s=metadata.retry_after_s,
            remaining_s=None if deadline_s == NEVER else deadline_s - asyncio.get_running_loop().time(),
            worth_attempts=metadata.max_attempts,
        )

    def _record(self, error: BaseException | None, metadata: ErrorMetadata | None) -> None:
        road, admission, usage = self._road, self._admission, self._usage
        if road.recorder is None:
            return
        headers = self._headers if error is None else _response_headers(error)
        road.record(
            AttemptRow(
                call_id=self.call_id,
                attempt=self.attempt,
                arrival_s=self.arrival_s,
                admitted_s=admission.admitted_s if admission else None,
                sent_s=admission.admitted_s if admission else None,
                first_chunk_s=self.first_chunk_s,
                end_s=asyncio.get_running_loop().time(),
                model=road.model,
                provider=road.provider,
                operation=self.operation,
                input_tokens=usage.input_tokens if usage else self.ticket.input_tokens,
                output_tokens=usage.output_tokens if usage else None,
                max_tokens=self.max_tokens,
                status=metadata.status_code if metadata else 200 if error is None else None,
                error=metadata.reason.value if metadata else None,
                outcome=_row_outcome(admission, error, metadata),
                retry_after_s=metadata.retry_after_s if metadata else None,
                axis=metadata.axis if metadata else None,
                limit=admission.limit if admission else None,
                in_flight=admission.in_flight if admission else None,
                queue_depth=admission.queued if admission else None,
                reason=admission.reason if admission else None,
                headers=headers or {},
                limits=metadata.limits if metadata else parse_limits(headers) if headers else (),
            )
        )


def _response_headers(error: BaseException) -> Mapping[str, str] | None:
    try:
        headers = error.response.headers  # type: ignore[attr-defined]
    except Exception:
        return None
    return headers if isinstance(headers, Mapping) else None


def _row_outcome(
    admission: _Admission | None, error: BaseException | None, metadata: ErrorMetadata | None
) -> RowOutcome:
    if error is None:
        return RowOutcome.OK
    if metadata is None:
        return RowOutcome.CANCELLED
    if admission is None:
        return RowOutcome.REJECTED_LOCAL
    if isinstance(error, DeadlineExceededError):
        return RowOutcome.CANCELLED
    if metadata.classification is LLMErrorClassification.RATE_LIMITED:
        return RowOutcome.RATE_LIMITED
    return RowOutcome.TIMEOUT if metadata.reason.value == "timeout" else RowOutcome.ERROR
