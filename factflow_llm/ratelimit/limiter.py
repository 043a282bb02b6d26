"""The asyncio shell around the pure core: futures for those who wait, one timer for all, no polling, no lock."""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Self

from factflow_llm.errors import (
    BreakerOpenError,
    ClosedError,
    DeadlineExceededError,
    ErrorMetadata,
    ErrorReason,
    InvalidRequestError,
    LLMErrorClassification,
    PermitSettledError,
    QueueFullError,
    WrongEventLoopError,
    get_error_metadata,
)
from factflow_llm.headers import parse_limits
from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.ratelimit.core import LimiterCore
from factflow_llm.ratelimit.line import IGNORED, NEVER, Refusal, Ticket, TicketState
from factflow_llm.signals import Axis, Change, Outcome, RateLimitSignal

if TYPE_CHECKING:
    from types import TracebackType

    from factflow_llm.ratelimit.fellowship import Fellowship
    from factflow_llm.ratelimit.metrics import AIMDMetrics
    from factflow_llm.types import Usage

_log = logging.getLogger(__name__)

_NO_DATE_S = 366 * 86_400.0  # who promises access later than that promises none

Subscriber = Callable[[Change], object]


class CallTicket(Ticket):
    """A ticket whose owner may be waiting for a future."""

    __slots__ = ("future",)
    future: asyncio.Future[None] | None


class AdaptiveRateLimiter:
    """Finds a provider's quota and lives with it, for the calls of one event loop.

    Args:
        config: the settings; without any, the limiter finds everything itself.
        quota: names the quota among those that ``config.shared`` holds; the limiters of one quota have one name.

    Example::

        async with limiter.permit(input_tokens=900, output_tokens=300) as permit:
            response = await call()
            permit.succeeded(usage=response.usage, headers=response.headers)
    """

    def __init__(self, config: RateLimitConfig | None = None, *, quota: str = "default") -> None:
        self.config = config or RateLimitConfig()
        self._quota = quota
        self._loop: asyncio.AbstractEventLoop | None = None
        self._core, self._fellowship = self._begin()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_s = NEVER
        self._subscribers: list[Subscriber] = []
        self._exhausted_by = ErrorMetadata(classification=LLMErrorClassification.TERMINAL, reason=ErrorReason.QUOTA)
        self._now_s = 0.0
        self._waiting: set[asyncio.Future[None]] = set()
        self._closed = False

    def __repr__(self) -> str:
        return repr(self._core).replace("LimiterCore", type(self).__name__)

    @property
    def metrics(self) -> AIMDMetrics:
        """What the limiter knows and does now; times are the event loop's."""
        return self._core.metrics(self._loop.time() if self._loop is not None else 0.0)

    def permit(
        self,
        *,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        priority: int = 0,
        deadline: float | None = None,
    ) -> Permit:
        """Return a permit to be entered with ``async with``; entering waits for its turn.

        Args:
            input_tokens: tokens the call will read; ``None`` when unknown.
            output_tokens: tokens it is expected to write; ``None`` leaves the estimate to the limiter.
            priority: higher goes first; equal ones go in order of arrival.
            deadline: on the event loop's clock (``loop.time()``); a call not admitted by then fails.

        Raises:
            InvalidRequestError: for tokens below 0, or a deadline that is no time.
            DeadlineExceededError: on entering, when the deadline passes first.
            BreakerOpenError: on entering, while the quota is exhausted.
            QueueFullError: on entering, when ``max_queue`` calls of no lower priority wait already.
            WrongEventLoopError: on entering, from another event loop than the first.
        """
        deadline_s = NEVER if deadline is None else deadline
        if not ((input_tokens or 0) >= 0 and (output_tokens or 0) >= 0 and deadline_s >= 0):
            given = {"input_tokens": input_tokens, "output_tokens": output_tokens, "deadline": deadline}
            name, value = next((name, value) for name, value in given.items() if value is not None and not value >= 0)
            msg = f"permit(): {name} = {value!r} must be at least 0; leave it out where it is unknown"
            raise InvalidRequestError(msg)
        return Permit(self, CallTicket(input_tokens, output_tokens, priority=priority, deadline_s=deadline_s))

    def close(self) -> None:
        """Let nobody in any more: those who wait, and whoever comes, get a ``ClosedError``; those let in may finish.

        Of a quota that is shared, the share goes back to the others, in the background.
        """
        self._closed = True
        self._fail_waiting(ClosedError("the limiter was closed while the call waited for its turn"))
        if self._fellowship is not None and self._loop is not None and not self._loop.is_closed():
            self._fellowship.close()

    async def aclose(self) -> None:
        """Close, and wait until a share of the quota has gone back to the others."""
        self.close()
        if self._fellowship is not None:
            await self._fellowship.aclose()

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call ``subscriber`` at every change of a limit; return what ends the subscription."""
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber)

    def explain(self) -> str:
        """Say in a sentence what holds calls back now, since when, and what would lift it."""
        return self.metrics.explain()

    def reset_breaker(self) -> None:
        """Let calls go again at once: somebody has paid, or mended the key. Without an open breaker, do nothing."""
        if self._loop is not None:
            now = self._now()
            self._tell(self._core.reset_breaker(now))
            self._advance(now)

    def retune(self, config: RateLimitConfig) -> None:
        """Take new settings at once; what was learned and who waits stay."""
        self.config = config
        if self._loop is None:
            self._core, self._fellowship = self._begin()
            return
        now = self._now()
        self._tell(self._core.retune(now, config))
        self._advance(now)

    def _begin(self) -> tuple[LimiterCore, Fellowship | None]:
        """Return a core, and what links it to others if the quota is shared."""
        config = self.config
        if config.shared is None:
            return LimiterCore(config), None
        from factflow_llm.ratelimit.fellowship import Fellowship
        from factflow_llm.ratelimit.member import MemberCore

        core = MemberCore(config, uuid.uuid4().hex, weight=config.weight, luck=random.random())
        return core, Fellowship(self, core, config.shared, self._quota, required=config.shared_required)

    def _bind(self) -> None:
        if self._loop is not None:
            msg = (
                "this limiter belongs to another event loop; make one limiter per loop "
                "(LLMClientFactory does), or keep all calls in one asyncio.run()"
            )
            raise WrongEventLoopError(msg)
        self._loop = asyncio.get_running_loop()

    def _now(self) -> float:
        """Return the event loop's time; a timer that fired a clock tick early has not turned it back."""
        assert self._loop is not None
        now = self._loop.time()
        if now > self._now_s:
            self._now_s = now
        return self._now_s

    def _submit(self, ticket: CallTicket) -> bool:
        """Put the ticket in line and return whether it was admitted at once; if not, its turn must be awaited."""
        if asyncio.get_running_loop() is not self._loop:
            self._bind()
        if self._closed:
            raise ClosedError("this limiter was closed: ask the factory for a new client")
        now = self._now()
        if self._fellowship is not None:
            self._fellowship.look(now)
        return self._core.submit(now, ticket)

    async def _turn(self, ticket: CallTicket) -> None:
        core, loop = self._core, self._loop
        assert loop is not None
        if ticket.state is TicketState.WAITING:
            future = ticket.future = loop.create_future()
            self._waiting.add(future)
            self._arm()
            try:
                await future
            except BaseException:  # cancelled, closed, or the coroutine itself was closed while it waited
                self._tell(core.cancel(self._now(), ticket))
                self._advance(self._now())
                raise
            finally:
                self._waiting.discard(future)
        if ticket.state is TicketState.REFUSED:
            raise self._refusal(ticket)

    def _refusal(self, ticket: Ticket) -> Exception:
        if ticket.refusal is Refusal.DEADLINE:
            return DeadlineExceededError(
                f"not admitted by its deadline: {self!r}; give more time, ask for less, or raise the quota"
            )
        if ticket.refusal is Refusal.QUEUE_FULL:
            return QueueFullError(
                f"not sent: {self.config.max_queue} calls wait already (max_queue), and this one is of no higher "
                "priority; send less, raise max_queue, or raise the quota"
            )
        cause = self._exhausted_by
        resumes = f"access returns at {cause.resumes_at:%Y-%m-%d %H:%M %Z}; " if cause.resumes_at else ""
        return BreakerOpenError(
            f"not sent: {cause.reason.value} made the provider refuse all calls; {resumes}one call tries again every "
            f"{self.config.breaker_s:g} s",
            reason=cause.reason,
            resumes_at=cause.resumes_at,
        )

    def _settle(self, ticket: Ticket, signal: RateLimitSignal) -> None:
        now = self._now()
        changes = self._core.settle(now, ticket, signal)
        if changes:
            self._tell(changes)
        if self._core.wake_at <= now:
            self._advance(now)
        if self._fellowship is not None:
            self._fellowship.look(now)

    def _changed(self, now: float, changes: tuple[Change, ...]) -> None:
        """Take what the fleet's word changed: somebody may have a turn now."""
        self._tell(changes)
        self._advance(now)

    def _exhausted(self, cause: ErrorMetadata) -> float | None:
        """Note why calls are refused from now on; return in how many seconds access returns, where that was told."""
        left_s, now = cause.retry_after_s, datetime.now(UTC)
        if cause.resumes_at is not None:
            left_s = (cause.resumes_at - now).total_seconds()
        elif left_s is not None and left_s < _NO_DATE_S:
            cause = replace(cause, resumes_at=now + timedelta(seconds=left_s))
        self._exhausted_by = cause
        return left_s

    def _fail_waiting(self, error: Exception) -> None:
        """End all waits for a turn with an error."""
        for future in self._waiting:
            if not future.done():
                future.set_exception(error)

    def _advance(self, now: float) -> None:
        """Let those go whose turn has come, and set the timer for the next."""
        core = self._core
        if core.wake_at <= now:
            decisions = core.advance(now)
            if decisions.changes:
                self._tell(decisions.changes)
            for ticket in decisions:
                assert isinstance(ticket, CallTicket)
                assert ticket.future is not None
                if not ticket.future.done():
                    ticket.future.set_result(None)
        self._arm()

    def _arm(self) -> None:
        wake_at = self._core.wake_at
        if wake_at == self._armed_s:
            return
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._armed_s = wake_at
        if wake_at != NEVER:
            self._timer = self._loop.call_at(wake_at, self._wake)

    def _wake(self) -> None:
        self._now_s = max(self._now_s, self._armed_s)
        self._timer = None
        self._armed_s = NEVER
        self._advance(self._now())

    def _tell(self, changes: tuple[Change, ...]) -> None:
        for change in changes:
            _log.debug("%s limit %.4g -> %.4g: %s", change.axis, change.old, change.new, change.reason)
            for subscriber in tuple(self._subscribers):
                try:
                    subscriber(change)
                except Exception:
                    _log.exception("a subscriber failed at a change of the %s limit", change.axis)


class Permit:
    """Leave to make one attempt; settled exactly once, by a method or by leaving the ``async with``."""

    __slots__ = ("_limiter", "_ticket")

    def __init__(self, limiter: AdaptiveRateLimiter, ticket: CallTicket) -> None:
        self._limiter = limiter
        self._ticket = ticket

    def __repr__(self) -> str:
        return f"<Permit {self._ticket.state.value}>"

    @property
    def ticket(self) -> CallTicket:
        """What stands for it in the limiter's line."""
        return self._ticket

    @property
    def admitted_s(self) -> float:
        """When it was admitted, on the event loop's clock; NaN before."""
        return self._ticket.admitted_s

    @property
    def settled(self) -> bool:
        """Whether it holds nothing: settled already, or never admitted."""
        return self._ticket.state is not TicketState.ADMITTED

    async def __aenter__(self) -> Self:
        if not self._limiter._submit(self._ticket):
            await self._limiter._turn(self._ticket)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._ticket.state is not TicketState.ADMITTED:
            return
        if isinstance(error, Exception):
            self.failed(error)
        else:
            self.ignored()

    def succeeded(self, *, usage: Usage | None = None, headers: Mapping[str, str] | None = None) -> None:
        """Settle: the provider answered; ``usage`` and ``headers``, where known, teach the budgets."""
        limits = parse_limits(headers) if headers else ()
        read, written = (usage.input_tokens, usage.output_tokens) if usage is not None else (None, None)
        self._settle(RateLimitSignal(Outcome.SUCCEEDED, None, None, read, written, limits))

    def rate_limited(self, *, retry_after: float | None = None, axis: Axis | str | None = None) -> None:
        """Settle: the provider refused. ``retry_after`` in seconds; ``axis`` where it was named."""
        self._settle(RateLimitSignal(Outcome.RATE_LIMITED, retry_after, None if axis is None else Axis(axis)))

    def overloaded(self, *, retry_after: float | None = None) -> None:
        """Settle: the provider is in trouble (503, 529, a timeout); this says little about our quota."""
        self._settle(RateLimitSignal(Outcome.OVERLOADED, retry_after))

    def ignored(self) -> None:
        """Settle: teaches nothing (a 400, a cancellation, a local fault)."""
        self._settle(IGNORED)

    def failed(self, error: BaseException | ErrorMetadata) -> None:
        """Settle by what the error classifier says of ``error``; its verdict may be given instead."""
        metadata = error if isinstance(error, ErrorMetadata) else get_error_metadata(error)
        told_s = metadata.retry_after_s
        if metadata.outcome is Outcome.EXHAUSTED:
            told_s = self._limiter._exhausted(metadata)
        self._settle(RateLimitSignal(metadata.outcome, told_s, metadata.axis, None, None, metadata.limits))

    def _settle(self, signal: RateLimitSignal) -> None:
        if self._ticket.state is not TicketState.ADMITTED:
            msg = f"{self!r} cannot be settled: only an entered permit can, and only once"
            raise PermitSettledError(msg)
        self._limiter._settle(self._ticket, signal)


async def first_to_admit(permits: Sequence[Permit]) -> Permit:
    """Wait in the lines of several limiters at once; return the permit that was admitted first, and leave the others.

    A limiter that has room lets the call go at once; earlier ones in the sequence come first.

    Raises:
        Exception: why the first of them refused, when all refuse.
    """
    for place, permit in enumerate(permits):
        if permit._limiter._submit(permit._ticket):
            _leave_lines(permits[:place])
            return permit
    while waiting := [permit for permit in permits if permit._ticket.state is TicketState.WAITING]:
        turn = asyncio.get_running_loop().create_future()
        for permit in waiting:
            permit._ticket.future = turn
            permit._limiter._waiting.add(turn)
            permit._limiter._arm()
        try:
            await turn
        except BaseException:
            _leave_lines(permits)
            raise
        finally:
            for permit in waiting:
                permit._limiter._waiting.discard(turn)
        admitted = next((permit for permit in waiting if not permit.settled), None)
        if admitted is not None:
            _leave_lines([permit for permit in permits if permit is not admitted])
            return admitted
    raise permits[0]._limiter._refusal(permits[0]._ticket)


def _leave_lines(permits: Sequence[Permit]) -> None:
    """Give back what was admitted, and leave the lines of those that still wait."""
    for permit in permits:
        if not permit.settled:
            permit.ignored()
        elif permit._ticket.state is TicketState.WAITING:
            limiter = permit._limiter
            limiter._tell(limiter._core.cancel(limiter._now(), permit._ticket))
            limiter._advance(limiter._now())
