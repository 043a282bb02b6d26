"""The limiter as a pure state machine: tickets in, grants out; whoever drives it brings the clock.

Rules, which hold for every driver:

1. ``now`` is an argument of every transition and never runs backwards. Nothing reads a clock, sleeps or draws luck.
2. A ticket waits in line, is granted (the driver sends the call) or refused, and after a grant is settled exactly once.
3. A waiting ticket holds no send time. Any transition can move ``wake_at``, when a driver calls ``advance``.
4. Within a priority, first come, first served. Nobody overtakes a large call that waits for its tokens.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from factflow_llm.errors import PermitSettledError
from factflow_llm.ratelimit.aimd import RateRule
from factflow_llm.ratelimit.costs import Costs, on_axis, reserved
from factflow_llm.ratelimit.line import NEVER, Line, Refusal, Ticket, TicketState
from factflow_llm.ratelimit.metrics import AIMDMetrics
from factflow_llm.ratelimit.mirror import Mirror
from factflow_llm.ratelimit.paced import PacedAxis, known_rate
from factflow_llm.ratelimit.slots import SlotRule
from factflow_llm.signals import Axis, AxisLimit, Change, Outcome, RateLimitSignal, Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from factflow_llm.ratelimit.config import RateLimitConfig

_NO_CHANGES: Final[tuple[Change, ...]] = ()
_SUCCEEDED: Final = Outcome.SUCCEEDED
_GRANTED: Final = TicketState.GRANTED
_EWMA: Final = 0.1
_LEAST_PAUSE: Final = 0.5
"""The share of the time between two calls that the first pause lasts at least: a small quota takes long to open."""
_CANARY_S: Final = 0.5
"""The longest wait for news of the first call after a cut."""


class LimiterCore(Line):
    """Queue, pacing, in-flight cap, token budgets, AIMD, cool-off and breaker; no clock.

    Args:
        config: the settings.
    """

    def __init__(self, config: RateLimitConfig) -> None:
        super().__init__()
        self.config = config
        self.last_reason = Reason.CONFIGURED
        self._epoch = 1
        self._epoch_s: float | None = None
        self._refusal_s = 0.0
        self._slots = SlotRule(config)
        self._slots_limited = False
        self._untold: list[Change] = []
        self._gate_s = -NEVER
        self._blocks = 0
        self._cut: PacedAxis | None = None
        self._breaker_s: float | None = None
        self._breaker_probe: Ticket | None = None
        self._round_trip_s: float | None = None
        self._costs = Costs()
        self._served = 0
        self._counts = dict.fromkeys(Outcome, 0)
        self.open(0.0)

    def __repr__(self) -> str:
        rate = self.rate
        pace = "unpaced" if rate == math.inf else f"{rate * 60:.4g} requests/min"
        state = "breaker open" if self._breaker_s is not None else self._requests.rule.mode.value
        return (
            f"<{type(self).__name__} {state}, {pace}, {self.in_flight}/{self._slots.limit:g} in flight, "
            f"{self.queued} waiting, last change: {self.last_reason.value}>"
        )

    @property
    def rate(self) -> float:
        """Requests per second allowed now; ``inf`` while nothing is known."""
        return self._requests.rate

    @property
    def concurrency(self) -> float:
        """Calls allowed in flight now."""
        return self._slots.limit

    # --- transitions -------------------------------------------------------------------------------------------------

    def cancel(self, now: float, ticket: Ticket) -> tuple[Change, ...]:
        """Take a waiting ticket out of the line; a granted one is settled as ignored. Return what changed."""
        self.withdraw(ticket)
        if ticket.state is not _GRANTED:
            return _NO_CHANGES
        return self.settle(now, ticket, RateLimitSignal(Outcome.IGNORED))

    def settle(self, now: float, ticket: Ticket, signal: RateLimitSignal) -> tuple[Change, ...]:
        """Take a granted ticket back with what its attempt taught; return what changed and why.

        Raises:
            PermitSettledError: when the ticket is not granted, or was settled before.
        """
        if ticket.state is not _GRANTED:
            msg = f"{ticket!r} cannot be settled: only a granted ticket can, and only once"
            raise PermitSettledError(msg)
        wake_at = self.wake_at
        self.release(now, ticket)
        shown = self._observe(now, ticket, signal.limits) if signal.limits else _NO_CHANGES
        if self._untold:
            shown = (*self._untold, *shown)
            self._untold.clear()
        if signal.outcome is not _SUCCEEDED or ticket is self._breaker_probe:
            self._settle_tokens(ticket, signal)
            return shown + self._others(now, ticket, signal)
        self._served += 1
        paced = not (signal.limits or self._slots_limited or self._active_tokens)
        if self._active_tokens:
            self._settle_tokens(ticket, signal)
        changes = self._succeeded(now, ticket, signal)
        if paced and not changes:
            self.wake_at = wake_at  # whoever waits, waits for the pace, which this left as it is
        return shown + changes if shown else changes

    def _others(self, now: float, ticket: Ticket, signal: RateLimitSignal) -> tuple[Change, ...]:
        """Learn from what is no common success."""
        outcome = signal.outcome
        self._counts[outcome] += 1
        if ticket is self._breaker_probe:
            self._breaker_probe = None
            if outcome is Outcome.SUCCEEDED:
                self._breaker_s, self.refusing = None, False
                return (self._change(now, Axis.REQUESTS, 0.0, self.rate, Reason.BREAKER_CLOSED),)
        if outcome is Outcome.RATE_LIMITED:
            return self._rate_limited(now, ticket, signal)
        if outcome is Outcome.OVERLOADED:
            return self._overloaded(now, ticket)
        if outcome is Outcome.EXHAUSTED:
            return self._exhausted(now)
        return _NO_CHANGES

    def retune(self, now: float, config: RateLimitConfig) -> tuple[Change, ...]:
        """Take new settings; what was learned and who waits stay."""
        before = self.config
        self.config = config
        changes = [*self._untold]
        self._untold.clear()
        old_slots = self._slots.limit
        self._slots.retune(config)
        if self._slots.limit != old_slots:
            changes.append(self._change(now, Axis.CONCURRENCY, old_slots, self._slots.limit, Reason.RETUNED))
        for paced in self._axes:
            known = known_rate(config, paced.axis)
            old, paced_at = paced.rate, paced.rule.rate
            if not self._orders or known not in (NEVER, known_rate(before, paced.axis)):
                paced.rule = self._rule(now, paced.axis, known)
            else:
                paced.rule.retune(config)
            if paced.rule.rate != paced_at:
                paced.budget.set_rate(now, paced.rule.rate)
            paced.cap.set_rate(now, paced.rule.bounded(NEVER))
            changes += self._moves(now, [(paced, old)], Reason.RETUNED)
        self._pace()
        self.wake_at = now
        return tuple(changes)

    def metrics(self, now: float) -> AIMDMetrics:
        """Return a snapshot."""
        rates = {paced.axis: paced.rate for paced in self._tokens}
        return AIMDMetrics(
            time_s=now,
            in_flight=self.in_flight,
            queued=self.queued,
            concurrency_limit=self._slots.limit,
            requests_per_s=self.rate,
            input_tokens_per_s=rates[Axis.INPUT_TOKENS],
            output_tokens_per_s=rates[Axis.OUTPUT_TOKENS],
            tokens_per_s=rates[Axis.TOKENS],
            blocked_until_s=self._gate_s if self._gate_s > now else None,
            breaker_open=self._breaker_s is not None,
            last_reason=self.last_reason,
            round_trip_s=self._round_trip_s,
            succeeded=self._served + self._counts[Outcome.SUCCEEDED],
            rate_limited=self._counts[Outcome.RATE_LIMITED],
            overloaded=self._counts[Outcome.OVERLOADED],
            ignored=self._counts[Outcome.IGNORED],
        )

    def open(self, now: float) -> None:
        """Begin: time before the first ticket taught nothing."""
        axes = (Axis.REQUESTS, Axis.INPUT_TOKENS, Axis.OUTPUT_TOKENS, Axis.TOKENS)
        self._axes = tuple(PacedAxis(axis, self._rule(now, axis, known_rate(self.config, axis)), now) for axis in axes)
        self._requests, *self._tokens = self._axes
        self._paced = {paced.axis: paced for paced in self._axes}
        self._pace()
        self._next_step_s = now

    def _rule(self, now: float, axis: Axis, ceiling: float) -> RateRule:
        sent, of_requests = self._costs.total(axis), axis is Axis.REQUESTS
        return RateRule(self.config, now=now, sent=sent, ceiling=ceiling, of_requests=of_requests)

    def _pace(self) -> None:
        """List the axes that can hold somebody back."""
        self._active_tokens = [paced for paced in self._tokens if paced.active]
        self._active = [self._requests, *self._active_tokens] if self._requests.active else self._active_tokens

    # --- admission ---------------------------------------------------------------------------------------------------

    def refusal(self, now: float, ticket: Ticket) -> Refusal | None:
        """Refuse while the breaker is open, but for one call that tries."""
        probe = self._breaker_probe
        if ticket is probe:
            return None
        assert self._breaker_s is not None
        if now >= self._breaker_s and (probe is None or probe.state not in (TicketState.WAITING, TicketState.GRANTED)):
            self._breaker_probe = ticket
            return None
        return Refusal.BREAKER

    def turn_s(self, now: float, ticket: Ticket) -> float:
        """Wait for the gate, then a slot, then every paced axis."""
        if now < self._gate_s:
            return self._gate_s
        slots = self._slots
        while self.in_flight >= slots.limit:
            self._slots_limited = True
            grows_at = slots.grows_at(now)
            if now < grows_at:
                return grows_at
            old, reason = slots.limit, slots.grow(now)
            self._untold.append(self._change(now, Axis.CONCURRENCY, old, slots.limit, reason))
        for paced in self._active:
            cost = 1.0 if paced is self._requests else self._costs.expected(paced.axis, ticket)
            mirror = paced.mirror
            if mirror is None or mirror.blind:
                wait_s = paced.budget.wait_s(now, cost)
            else:
                wait_s = max(mirror.wait_s(now, cost), paced.cap.wait_s(now, cost))
            if wait_s > 0.0 and now + wait_s > now:
                paced.limited = True
                return now + wait_s
        return now

    def grant(self, now: float, ticket: Ticket) -> None:
        """Count the ticket in and take what it is expected to cost."""
        Line.grant(self, now, ticket)
        if self._epoch_s is None:
            self._epoch_s = now
            if self._cut is not None:  # a canary: who comes next waits until it could have been refused
                self._gate_s = max(self._gate_s, now + min(1.25 * self._refusal_s, _CANARY_S))
        ticket.epoch = self._epoch
        self._costs.book(ticket)
        for paced in self._active:
            cost = 1.0 if paced is self._requests else reserved(paced.axis, ticket)
            paced.budget.reserve(cost)
            if paced.mirror is not None:
                paced.mirror.spend(cost)
                paced.cap.reserve(cost)

    # --- learning ----------------------------------------------------------------------------------------------------

    def _succeeded(self, now: float, ticket: Ticket, signal: RateLimitSignal) -> tuple[Change, ...]:
        took, mean = now - ticket.granted_s, self._round_trip_s
        if took < 0.0:
            took = 0.0
        self._round_trip_s = took if mean is None else mean + _EWMA * (took - mean)
        self._costs.learn(ticket, signal.input_tokens, signal.output_tokens)
        measured = _NO_CHANGES
        if ticket.epoch == self._epoch:
            self._slots.admitted(ticket.in_flight)
            self._blocks = 0
            if self._cut is not None:
                measured = self._admitted_again(now)
        if now < self._next_step_s and not self._slots_limited:
            return measured
        changes = [*measured]
        if self._slots_limited:
            old = self._slots.limit
            reason = self._slots.step(now, self._round_trip_s)
            self._slots_limited = False
            if reason is not None:
                changes.append(self._change(now, Axis.CONCURRENCY, old, self._slots.limit, reason))
        if now >= self._next_step_s:
            changes += self._step(now)
        return tuple(changes)

    def _observe(self, now: float, ticket: Ticket, limits: tuple[AxisLimit, ...]) -> tuple[Change, ...]:
        """Hold the mirrors to what an answer's headers show."""
        changes: list[Change] = []
        for shown in limits:
            paced = self._paced.get(shown.axis)
            if paced is None:
                continue
            mirror = paced.mirror or Mirror()
            old, old_rate = paced.rate, mirror.rate
            before = on_axis(paced.axis, *ticket.sent_before)
            since = self._costs.total(paced.axis) - before - reserved(paced.axis, ticket)
            if mirror.observe(now, shown, sent_s=ticket.granted_s, spent_since=since):
                paced.mirror = mirror
                self._pace()
            elif mirror.rate == old_rate:
                continue
            changes += self._moves(now, [(paced, old)], Reason.HEADER)
        return tuple(changes)

    def _step(self, now: float) -> list[Change]:
        """Let every rule that has something to do take its step."""
        changes = []
        next_s = NEVER
        for paced in self._axes:
            rule = paced.rule
            if now >= rule.next_step_s:
                old = paced.rate
                reason = rule.step(
                    now, self._costs.total(paced.axis), limited=paced.limited, unit=self._costs.unit(paced.axis)
                )
                paced.limited = False
                if reason is not None:
                    paced.budget.set_rate(now, rule.rate)
                    if paced.rate != old:
                        changes.append(self._change(now, paced.axis, old, paced.rate, reason))
            if rule.next_step_s < next_s:
                next_s = rule.next_step_s
        self._next_step_s = next_s
        return changes

    def _rate_limited(self, now: float, ticket: Ticket, signal: RateLimitSignal) -> tuple[Change, ...]:
        self._requests.budget.settle(1.0, 0.0)  # a refused call took nothing
        if ticket.epoch < self._epoch:
            return _NO_CHANGES
        told_s = signal.retry_after_s
        if told_s is not None and not 0.0 <= told_s < NEVER:
            told_s = None
        axes = self._axes
        rates = [paced.rate for paced in axes]
        if self._expected(now, ticket, signal.axis):
            self._blocks = 0
            self._gate(now, told_s)
            self._slots.new_epoch()
            self._next_epoch()
            return self._moves(now, zip(axes, rates, strict=True), Reason.RATE_LIMITED)
        self._refusal_s = max(now - ticket.granted_s, 0.0)
        changes = []
        slots, old = self._slots, self._slots.limit
        paced = self._blamed(signal.axis)
        of_slots = signal.axis is Axis.CONCURRENCY or (
            signal.axis is not Axis.REQUESTS and slots.blames(ticket.in_flight)
        )
        if of_slots:
            reason = slots.cut(now, ticket.in_flight, self._round_trip_s or 0.0)
            changes.append(self._change(now, Axis.CONCURRENCY, old, slots.limit, reason))
            for each in axes:
                each.rule.search(now, self._costs.total(each.axis))
        else:
            if slots.limit != old:  # a wrong suspicion was taken back
                changes.append(self._change(now, Axis.CONCURRENCY, old, slots.limit, Reason.RECOVER))
            reason = paced.rule.cut(
                now,
                ticket.granted_s,
                self._costs.total(paced.axis),
                on_axis(paced.axis, *ticket.sent_before),
                unit=self._costs.unit(paced.axis),
                retry_after_s=told_s,
            )
            self._cut = paced
            if reason is Reason.RATE_LIMITED:
                paced.budget.set_rate(now, paced.rule.rate)
                self._blocks = 0
            changes += self._moves(now, zip(axes, rates, strict=True), reason, always=paced)
            self._gate(now, told_s)
            self._pace()
            self._next_step_s = min(self._next_step_s, paced.rule.next_step_s)
        slots.new_epoch()
        self._next_epoch()
        return tuple(changes)

    def _expected(self, now: float, ticket: Ticket, axis: Axis | None) -> bool:
        """Tell whether a mirror had shown the budget to be empty; one that had not turns blind."""
        return any(
            paced.mirror.refused(now, reserved(paced.axis, ticket))
            for paced in self._axes
            if paced.mirror is not None and not paced.mirror.blind and axis in (None, paced.axis)
        )

    def _next_epoch(self) -> None:
        self._epoch += 1
        self._epoch_s = None

    def _admitted_again(self, now: float) -> tuple[Change, ...]:
        """Tell the rule that was cut when the provider admitted again: with the first call sent since."""
        paced, self._cut = self._cut, None
        assert paced is not None
        assert self._epoch_s is not None
        old = paced.rate
        if paced.rule.admitted_again(self._epoch_s, self._costs.unit(paced.axis)):
            paced.budget.set_rate(now, paced.rule.rate)
        return self._moves(now, [(paced, old)], Reason.RATE_LIMITED)

    def _moves(
        self,
        now: float,
        before: Iterable[tuple[PacedAxis, float]],
        reason: Reason,
        *,
        always: PacedAxis | None = None,
    ) -> tuple[Change, ...]:
        """Return the changes of those axes whose rate is another than before, and of the one that is told always."""
        return tuple(
            [
                self._change(now, paced.axis, old, paced.rate, reason)
                for paced, old in before
                if paced.rate != old or paced is always
            ]
        )

    def _gate(self, now: float, retry_after_s: float | None) -> None:
        """Hold everybody back for as long as the provider asked, or a little longer each time nothing was admitted."""
        cap = self.config.cool_off_cap_s
        untold_s = max(self.config.cool_off_s, _LEAST_PAUSE / self.rate)
        pause = (untold_s if retry_after_s is None else retry_after_s) * 2.0 ** min(self._blocks, 30)
        self._blocks += 1
        self._gate_s = max(self._gate_s, now + min(pause, cap))

    def _blamed(self, axis: Axis | None) -> PacedAxis:
        for paced in self._tokens:
            if paced.axis is axis:
                return paced
        return self._requests

    def _overloaded(self, now: float, ticket: Ticket) -> tuple[Change, ...]:
        if ticket.epoch < self._epoch:
            return _NO_CHANGES
        old = self._slots.limit
        reason = self._slots.overloaded(self.in_flight)
        self._slots.new_epoch()
        self._next_epoch()
        return (self._change(now, Axis.CONCURRENCY, old, self._slots.limit, reason),)

    def _exhausted(self, now: float) -> tuple[Change, ...]:
        self._breaker_s, self.refusing = now + self.config.breaker_s, True
        return (self._change(now, Axis.REQUESTS, self.rate, 0.0, Reason.BREAKER_OPEN),)

    # --- bookkeeping -------------------------------------------------------------------------------------------------

    def _settle_tokens(self, ticket: Ticket, signal: RateLimitSignal) -> None:
        served = signal.outcome is Outcome.SUCCEEDED
        read = (ticket.reserved_input if signal.input_tokens is None else signal.input_tokens) if served else 0.0
        written = (ticket.reserved_output if signal.output_tokens is None else signal.output_tokens) if served else 0.0
        for paced in self._active_tokens:
            paced.budget.settle(reserved(paced.axis, ticket), on_axis(paced.axis, 1.0, read, written))

    def _change(self, now: float, axis: Axis, old: float, new: float, reason: Reason) -> Change:
        self.last_reason = reason
        return Change(now, axis, old, new, reason)
