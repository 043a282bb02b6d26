"""The limiter as a pure state machine: tickets in, admissions out; whoever drives it brings the clock.

Rules, which hold for every driver:

1. ``now`` is an argument of every transition and never runs backwards. Nothing reads a clock, sleeps or draws luck.
2. A ticket waits in line, is admitted (the driver sends the call) or refused, and is settled once after an admission.
3. A waiting ticket holds no send time. Any transition can move ``wake_at``, when a driver calls ``advance``.
4. Within a priority, first come, first served. Nobody overtakes a large call that waits for its tokens.

Here stands who may go, and what every answer is handed to. What is allowed is in ``limits.py``; what becomes of a
rejection is in ``rejections.py``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from factflow_llm.errors import PermitSettledError
from factflow_llm.ratelimit.costs import reserved
from factflow_llm.ratelimit.limits import Limits
from factflow_llm.ratelimit.line import ADMITTED, NEVER, NO_CHANGES, Line, Refusal, Ticket, TicketState
from factflow_llm.ratelimit.metrics import AIMDMetrics, Bound
from factflow_llm.ratelimit.native import mypyc_attr
from factflow_llm.ratelimit.rejections import Rejections
from factflow_llm.signals import Axis, Outcome, Reason

if TYPE_CHECKING:
    from factflow_llm.ratelimit.axis import PacedAxis
    from factflow_llm.ratelimit.config import RateLimitConfig
    from factflow_llm.signals import AxisLimit, Change, RateLimitSignal

_SUCCEEDED: Final = Outcome.SUCCEEDED
_BOUNDS: Final[dict[Axis, Bound]] = {axis: Bound(axis.value) for axis in Axis if axis is not Axis.CONCURRENCY}


@mypyc_attr(allow_interpreted_subclasses=True)
class LimiterCore(Line):
    """Queue, pacing, in-flight cap, token budgets, AIMD, cool-off and breaker; no clock.

    Args:
        config: the settings.
    """

    def __init__(self, config: RateLimitConfig) -> None:
        super().__init__(config.max_queue)
        self._limits = Limits(config)
        self._rejections = Rejections(self._limits)
        self._slots, self._gate = self._limits.slots, self._rejections.gate
        self._breaker_s: float | None = None
        self.resumes_at = -NEVER
        self._breaker_probe: Ticket | None = None
        self._counts = dict.fromkeys(Outcome, 0)
        self._binding = Bound.DEMAND
        self._binding_s: float | None = None
        self.part = self._limits.part

    def __repr__(self) -> str:
        rate = self.rate
        pace = "unpaced" if rate == math.inf else f"{rate * 60:.4g} requests/min"
        state = "breaker open" if self._breaker_s is not None else self._limits.requests.rule.stage.value
        return (
            f"<{type(self).__name__} {state}, {pace}, {self.in_flight}/{self.concurrency:g} in flight, "
            f"{self.queued} waiting, bound by {self._binding.value}, last change: {self.last_reason.value}>"
        )

    @property
    def config(self) -> RateLimitConfig:
        """The settings."""
        return self._limits.config

    @property
    def rate(self) -> float:
        """Requests per second allowed now; ``inf`` while nothing is known."""
        return self._limits.rate

    @property
    def concurrency(self) -> float:
        """Calls allowed in flight now."""
        return self._slots.limit - self.part.others_slots

    @property
    def last_reason(self) -> Reason:
        """Why a limit last changed."""
        return self._limits.last_reason

    # --- the driver's verbs ------------------------------------------------------------------------------------------

    def settle(self, now: float, ticket: Ticket, signal: RateLimitSignal) -> tuple[Change, ...]:
        """Take an admitted ticket back with what its attempt taught; return what changed and why.

        Raises:
            PermitSettledError: when the ticket is not admitted, or was settled before.
        """
        if ticket.state is not ADMITTED:
            msg = f"{ticket!r} cannot be settled: only an admitted ticket can, and only once"
            raise PermitSettledError(msg)
        wake_at, limits, outcome = self.wake_at, self._limits, signal.outcome
        self.release(now, ticket)
        if signal.limits:
            self._observe(now, ticket, signal.limits, refused=outcome is Outcome.RATE_LIMITED)
        if outcome is _SUCCEEDED and limits.active:
            limits.expire(now, ticket)
        self._counts[outcome] += 1
        more = limits.settle_tokens(ticket, signal)
        if ticket.number < self._rejections.before[0]:
            self._rejections.recount(*more)
        if outcome is _SUCCEEDED and ticket is not self._breaker_probe:
            paced_only = not (limits.slots_limited or limits.active_tokens or signal.limits)
            if self._gate.canary == ticket.number:
                self._gate.due_s = now
            limits.succeeded(now, ticket)
            self.passed(now)
            if paced_only and not limits.changed:
                self.wake_at = wake_at  # whoever waits, waits for the pace, which this left as it is
                return NO_CHANGES
        else:
            self._others(now, ticket, signal)
            self.passed(now)
        return limits.changes()

    def retune(self, now: float, config: RateLimitConfig) -> tuple[Change, ...]:
        """Take new settings; what was learned and who waits stay."""
        self.max_queue = config.max_queue
        self._limits.retune(now, config, begun=self._orders > 0)
        self.wake_at = now
        return self.changes()

    def reset_breaker(self, now: float) -> tuple[Change, ...]:
        """Close the breaker: somebody has paid, or mended the key. Return what changed."""
        self._close_breaker(now)
        return self.changes()

    def metrics(self, now: float) -> AIMDMetrics:
        """Return a snapshot."""
        limits = self._limits
        rates = {paced.axis: paced.rate * self.part.share for paced in limits.axes}
        gate, counts = self._gate, self._counts
        return AIMDMetrics(
            time_s=now,
            in_flight=self.in_flight,
            queued=self.queued,
            concurrency_limit=self.concurrency,
            requests_per_s=rates[Axis.REQUESTS],
            input_tokens_per_s=rates[Axis.INPUT_TOKENS],
            output_tokens_per_s=rates[Axis.OUTPUT_TOKENS],
            tokens_per_s=rates[Axis.TOKENS],
            blocked_until_s=gate.until_s if gate.shut and gate.until_s > now else None,
            breaker_open=self._breaker_s is not None,
            last_reason=self.last_reason,
            round_trip_s=limits.round_trip_s,
            succeeded=counts[Outcome.SUCCEEDED],
            rate_limited=counts[Outcome.RATE_LIMITED],
            overloaded=counts[Outcome.OVERLOADED],
            ignored=counts[Outcome.IGNORED],
            binding=Bound.BREAKER if self._breaker_s is not None else self._binding,
            binding_since_s=self._binding_s,
            noise=self._rejections.noise.known,
            shared=any(paced.shared for paced in limits.axes),
        )

    # --- hooks of the line -------------------------------------------------------------------------------------------

    def opened(self, now: float) -> None:
        """Begin: time before the first ticket taught nothing."""
        self._limits.opened(now)

    def passed(self, now: float) -> None:
        """Conclude from silence, and let every rule take its step."""
        self._rejections.passed(now)
        if now >= self._gate.due_s:
            self._opens_again(now)
        limits, slots = self._limits, self._slots
        while self.in_flight >= self.concurrency and slots.due(now):
            old, reason = slots.limit, slots.grow(now)
            limits.tell(now, Axis.CONCURRENCY, old, slots.limit, reason)
        if now >= limits.next_step_s:
            limits.step(now)

    def changes(self) -> tuple[Change, ...]:
        """Return what changed since this was last asked."""
        return self._limits.changes()

    def refusal(self, now: float, ticket: Ticket) -> Refusal | None:
        """Refuse while the breaker is open, but for one call that tries."""
        probe = self._breaker_probe
        if ticket is probe:
            return None
        assert self._breaker_s is not None
        if now >= self._breaker_s and (probe is None or probe.state not in (TicketState.WAITING, TicketState.ADMITTED)):
            self._breaker_probe = ticket
            return None
        return Refusal.BREAKER

    def turn_s(self, now: float, ticket: Ticket) -> float:
        """Wait for the gate, then a slot, then every paced axis."""
        return self._bound(now, ticket)[0]

    def held(self, now: float, ticket: Ticket) -> None:
        """Remember what holds the head of the line back: limits grow only where they were used."""
        _, bound, paced = self._bound(now, ticket)
        if bound is not self._binding:
            self._binding, self._binding_s = bound, now
        if paced is not None:
            paced.limited = True
        elif bound is Bound.CONCURRENCY or bound is Bound.MAX_CONCURRENCY:
            self._limits.slots_limited = True
            self._slots.full(now)
            return
        self._slots.free()

    def _bound(self, now: float, ticket: Ticket) -> tuple[float, Bound, PacedAxis | None]:
        """Return when the ticket may go as things stand, what holds it back until then, and the axis if it is one."""
        gate, slots, limits = self._gate, self._slots, self._limits
        if gate.shut and now < gate.opens_s:
            return gate.opens_s, Bound.GATE, None
        if now < self.part.closed_until_s:
            return self.part.closed_until_s, Bound.GATE, None
        if self.in_flight >= self.concurrency:
            most = slots.limit >= limits.config.max_concurrency
            return slots.grows_at(now), Bound.MAX_CONCURRENCY if most else Bound.CONCURRENCY, None
        inquiry = self._rejections.inquiry
        if inquiry is not None:
            return self._rejections.asks_at(now, inquiry), Bound.INQUIRY, None
        if not gate.shut:
            step_s = limits.next_step_s
            for paced in limits.active:
                cost = 1.0 if paced is limits.requests else limits.costs.expected(paced.axis, ticket)
                wait_s = paced.wait_s(now, cost)
                if wait_s > 0.0 and now + wait_s > now:
                    at = now + wait_s if step_s <= now else min(now + wait_s, step_s)
                    return at, _BOUNDS[paced.axis], paced
        return now, Bound.DEMAND, None

    def admit(self, now: float, ticket: Ticket) -> None:
        """Count the ticket in and take what it is expected to cost."""
        Line.admit(self, now, ticket)
        if not self.queued and self._binding is not Bound.DEMAND:
            self._binding, self._binding_s = Bound.DEMAND, now
        elif self._binding_s is None:
            self._binding_s = now
        limits = self._limits
        ticket.rate, ticket.reason = limits.rate, limits.last_reason
        limits.costs.book(ticket)
        limits.sent(now, ticket)
        if self.in_flight < self.concurrency:
            self._slots.free()
        self._rejections.sent(now, ticket)
        for paced in limits.active:
            paced.reserve(now, 1.0 if paced is limits.requests else reserved(paced.axis, ticket))

    # --- what answers are handed to; a member of a fleet listens here ------------------------------------------------

    def _others(self, now: float, ticket: Ticket, signal: RateLimitSignal) -> None:
        """Learn from what is no common success."""
        outcome, limits = signal.outcome, self._limits
        if ticket is self._breaker_probe:
            self._breaker_probe = None
            if outcome is _SUCCEEDED:
                self._close_breaker(now)
                return
        if outcome is Outcome.RATE_LIMITED:
            told_s = signal.retry_after_s
            if told_s is not None and not 0.0 <= told_s < NEVER:
                told_s = None
            if self._rejections.heard(now, ticket, told_s):
                self._judge(now, ticket, told_s, signal.axis)
            return
        if self._gate.canary == ticket.number:
            self._gate.canary_lost()
        if outcome is Outcome.OVERLOADED and self._rejections.news_of(ticket):
            old = self._slots.limit
            reason = self._slots.overloaded(self.in_flight + self.part.others_in_flight)
            self._rejections.new_epoch()
            limits.tell(now, Axis.CONCURRENCY, old, self._slots.limit, reason)
        elif outcome is Outcome.EXHAUSTED:
            told_s, breaker_s = signal.retry_after_s, self.config.breaker_s
            if told_s is not None and told_s > breaker_s:
                self.resumes_at = now + told_s
            self._breaker_s, self.refusing = self._next_try_s(now), True
            limits.tell(now, Axis.REQUESTS, self.rate, 0.0, Reason.BREAKER_OPEN)

    def _observe(self, now: float, ticket: Ticket, shown: tuple[AxisLimit, ...], *, refused: bool) -> None:
        """Take what an answer's headers show."""
        self._limits.observe(now, ticket, shown, refused=refused)

    def _judge(self, now: float, ticket: Ticket, told_s: float | None, axis: Axis | None) -> None:
        """Take the first rejection of an episode."""
        self._rejections.judge(now, ticket, told_s, axis)

    def _opens_again(self, now: float) -> None:
        """Take that the provider is open again."""
        self._rejections.reopened(now)

    def _next_try_s(self, now: float) -> float:
        """Return when one call may try an exhausted account: at the time it told, where that comes first."""
        try_s = now + self.config.breaker_s
        return self.resumes_at if now < self.resumes_at < try_s else try_s

    def _close_breaker(self, now: float) -> None:
        if self._breaker_s is not None:
            self._breaker_s, self._breaker_probe, self.refusing = None, None, False
            self.resumes_at = -NEVER
            self._limits.tell(now, Axis.REQUESTS, 0.0, self.rate, Reason.BREAKER_CLOSED)
            self.wake_at = now
