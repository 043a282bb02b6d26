"""The limiter as a pure state machine: tickets in, grants out; whoever drives it brings the clock.

Rules, which hold for every driver:

1. ``now`` is an argument of every transition and never runs backwards. Nothing reads a clock, sleeps or draws luck.
2. A ticket waits in line, is granted (the driver sends the call) or refused, and after a grant is settled exactly once.
3. A waiting ticket holds no send time. Any transition can move ``wake_at``, when a driver calls ``advance``.
4. Within a priority, first come, first served. Nobody overtakes a large call that waits for its tokens.

A rejection goes through four hands. Headers may have foretold it (``mirror.py``); calls in flight may be to blame
(``slots.py``); it may be noise, which a few calls sent at once find out (``noise.py``); otherwise the provider is shut
(``gate.py``), and when it opens again the quota is measured (``openings.py``) and the rate set anew (``aimd.py``).
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final

from factflow_llm.errors import PermitSettledError
from factflow_llm.ratelimit.aimd import Mode, RateRule
from factflow_llm.ratelimit.axis import PacedAxis, known_rate
from factflow_llm.ratelimit.costs import Costs, booked, on_axis, reserved
from factflow_llm.ratelimit.gate import Gate
from factflow_llm.ratelimit.line import NEVER, NO_CHANGES, Line, Refusal, Ticket, TicketState
from factflow_llm.ratelimit.metrics import AIMDMetrics, Bound
from factflow_llm.ratelimit.mirror import Mirror
from factflow_llm.ratelimit.native import mypyc_attr
from factflow_llm.ratelimit.noise import Inquiry, Noise
from factflow_llm.ratelimit.openings import Opening
from factflow_llm.ratelimit.part import Part
from factflow_llm.ratelimit.slots import SlotRule
from factflow_llm.signals import Axis, AxisLimit, Change, Outcome, RateLimitSignal, Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from factflow_llm.ratelimit.config import RateLimitConfig

_SUCCEEDED: Final = Outcome.SUCCEEDED
_GRANTED: Final = TicketState.GRANTED
_EWMA: Final = 0.1
_LAG_S: Final = 1.0
"""How long a rejection takes to come back, at most, while none was seen."""
_LAG_FADES: Final = 0.95
"""What is left of the longest lag after each rejection that came sooner."""
_SURE: Final = 1.25
"""Silence for so many lags means that a call was let through."""
_PAUSE_CALLS: Final = 0.5
"""The first pause without a Retry-After lasts as long as so many calls: half of the time until one fits."""
_PAUSE_MOST_S: Final = 1.0
"""And no longer than this: the rate may be wrong."""
_FRESH_S: Final = 30.0
"""A rejection that could not be asked about is believed for so long, and then forgotten."""
_MOST_TOKENS: Final = 1e7
"""No call uses so many tokens: an answer that says so is not believed."""
_BOUNDS: Final[dict[Axis, Bound]] = {axis: Bound(axis.value) for axis in Axis if axis is not Axis.CONCURRENCY}


@mypyc_attr(allow_interpreted_subclasses=True)
class LimiterCore(Line):
    """Queue, pacing, in-flight cap, token budgets, AIMD, cool-off and breaker; no clock.

    Args:
        config: the settings.
    """

    def __init__(self, config: RateLimitConfig) -> None:
        super().__init__(config.max_queue)
        self.config = config
        self.part = Part()
        self.last_reason = Reason.CONFIGURED
        self._news: list[Change] = []
        self._grants = 0
        self._since = 0  # the first call sent since the last rejections were dealt with
        self._lag_s = 0.0
        self._under_way: deque[Ticket] = deque()
        self._slots = SlotRule(config)
        self._slots_limited = False
        self._gate = Gate()
        self._canary: Ticket | None = None
        self._noise = Noise()
        self._inquiry: Inquiry | None = None
        self._blamed: PacedAxis | None = None
        self._before: tuple[int, dict[Axis, float]] = (
            -1,
            {},
        )  # the last rejected call, what came before
        self._breaker_s: float | None = None
        self._breaker_probe: Ticket | None = None
        self._round_trip_s: float | None = None
        self._costs = Costs()
        self._counts = dict.fromkeys(Outcome, 0)
        self._binding = Bound.DEMAND
        self._binding_s: float | None = None
        self.opened(0.0)

    def __repr__(self) -> str:
        rate = self.rate
        pace = "unpaced" if rate == math.inf else f"{rate * 60:.4g} requests/min"
        state = "breaker open" if self._breaker_s is not None else self._requests.rule.mode.value
        return (
            f"<{type(self).__name__} {state}, {pace}, {self.in_flight}/{self.concurrency:g} in flight, "
            f"{self.queued} waiting, bound by {self._binding.value}, last change: {self.last_reason.value}>"
        )

    @property
    def rate(self) -> float:
        """Requests per second allowed now; ``inf`` while nothing is known."""
        return self._requests.rate * self.part.share

    @property
    def concurrency(self) -> float:
        """Calls allowed in flight now."""
        return self._slots.limit - self.part.others_slots

    # --- the driver's verbs ------------------------------------------------------------------------------------------

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
        if signal.limits:
            self._observe(now, ticket, signal.limits, refused=signal.outcome is Outcome.RATE_LIMITED)
        outcome = signal.outcome
        if outcome is _SUCCEEDED and self._active:
            self._expire(now, ticket)
        self._counts[outcome] += 1
        self._settle_tokens(ticket, signal)
        if outcome is _SUCCEEDED and ticket is not self._breaker_probe:
            paced_only = not (self._slots_limited or self._active_tokens or signal.limits)
            self._succeeded(now, ticket)
            self.passed(now)
            if paced_only and not self._news:
                self.wake_at = wake_at  # whoever waits, waits for the pace, which this left as it is
                return NO_CHANGES
        else:
            self._others(now, ticket, signal)
            self.passed(now)
        return self.changes()

    def retune(self, now: float, config: RateLimitConfig) -> tuple[Change, ...]:
        """Take new settings; what was learned and who waits stay."""
        before, self.config = self.config, config
        self.max_queue = config.max_queue
        old_slots = self._slots.limit
        self._slots.retune(config)
        if self._slots.limit != old_slots:
            self._tell(now, Axis.CONCURRENCY, old_slots, self._slots.limit, Reason.RETUNED)
        for paced in self._axes:
            known = known_rate(config, paced.axis)
            old, paced_at = paced.rate, paced.rule.rate
            if not self._orders or known not in (NEVER, known_rate(before, paced.axis)):
                paced.rule = self._rule(now, paced.axis, known)
            else:
                paced.rule.retune(config)
            if paced.rule.rate != paced_at:
                paced.repace(now)
            paced.cap.set_rate(now, paced.rule.bounded(NEVER))
            paced.patience_s = config.cool_off_cap_s
            self._moved(now, [(paced, old)], Reason.RETUNED)
        self._pace()
        self.wake_at = now
        return self.changes()

    def reset_breaker(self, now: float) -> tuple[Change, ...]:
        """Close the breaker: somebody has paid, or mended the key. Return what changed."""
        if self._breaker_s is not None:
            self._breaker_s, self._breaker_probe, self.refusing = None, None, False
            self._tell(now, Axis.REQUESTS, 0.0, self.rate, Reason.BREAKER_CLOSED)
            self.wake_at = now
        return self.changes()

    def metrics(self, now: float) -> AIMDMetrics:
        """Return a snapshot."""
        rates = {paced.axis: paced.rate * self.part.share for paced in self._axes}
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
            round_trip_s=self._round_trip_s,
            succeeded=counts[Outcome.SUCCEEDED],
            rate_limited=counts[Outcome.RATE_LIMITED],
            overloaded=counts[Outcome.OVERLOADED],
            ignored=counts[Outcome.IGNORED],
            binding=Bound.BREAKER if self._breaker_s is not None else self._binding,
            binding_since_s=self._binding_s,
            noise=self._noise.known,
            shared=any(paced.shared for paced in self._axes),
        )

    # --- hooks of the line -------------------------------------------------------------------------------------------

    def opened(self, now: float) -> None:
        """Begin: time before the first ticket taught nothing."""
        axes = (Axis.REQUESTS, Axis.INPUT_TOKENS, Axis.OUTPUT_TOKENS, Axis.TOKENS)
        config = self.config
        self._axes = tuple(
            PacedAxis(axis, self._rule(now, axis, known_rate(config, axis)), now, config.cool_off_cap_s, self.part)
            for axis in axes
        )
        self._requests, *self._tokens = self._axes
        self._paced = {paced.axis: paced for paced in self._axes}
        self._pace()
        self._next_step_s = now

    def _rule(self, now: float, axis: Axis, known: float) -> RateRule:
        return RateRule(
            self.config, now=now, sent=self._total(now, axis), known=known, of_requests=axis is Axis.REQUESTS
        )

    def _pace(self) -> None:
        """List the axes that can hold somebody back."""
        self._active_tokens = [paced for paced in self._tokens if paced.active]
        self._active = [self._requests, *self._active_tokens] if self._requests.active else self._active_tokens

    def passed(self, now: float) -> None:
        """Conclude from silence, and let every rule take its step."""
        under_way = self._under_way
        if under_way:
            heard_s = now - _SURE * (self._lag_s or _LAG_S)
            while under_way and (under_way[0].granted_s <= heard_s or under_way[0].state is not _GRANTED):
                ticket = under_way.popleft()
                if ticket.number >= self._since and not ticket.rejected:
                    self._slots.admitted(ticket.in_flight + self.part.others_in_flight)
        inquiry = self._inquiry
        if inquiry is not None and now >= inquiry.sent_s + _SURE * self._lag_s:
            if inquiry.sent >= inquiry.calls:
                self._answered(now, inquiry)
            elif now >= inquiry.expires_s:
                self._inquiry = None
                fresh = now < inquiry.expires_s + _FRESH_S
                if fresh and (inquiry.rejected or not inquiry.sent):  # nobody is left to ask: believe what was heard
                    self._convict(now, inquiry.refused_s, inquiry.told_s)
        if now >= self._gate.due_s:
            self._admitted_again(now)
        slots = self._slots
        while self.in_flight >= self.concurrency and slots.due(now):
            old, reason = slots.limit, slots.grow(now)
            self._tell(now, Axis.CONCURRENCY, old, slots.limit, reason)
        if now >= self._next_step_s:
            self._step(now)

    def changes(self) -> tuple[Change, ...]:
        """Return what changed since this was last asked."""
        if not self._news:
            return NO_CHANGES
        news = tuple(self._news)
        self._news.clear()
        return news

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
        return self._bound(now, ticket)[0]

    def held(self, now: float, ticket: Ticket) -> None:
        """Remember what holds the head of the line back: limits grow only where they were used."""
        _, bound, paced = self._bound(now, ticket)
        if bound is not self._binding:
            self._binding, self._binding_s = bound, now
        if paced is not None:
            paced.limited = True
        elif bound is Bound.CONCURRENCY or bound is Bound.MAX_CONCURRENCY:
            self._slots_limited = True
            self._slots.full(now)
            return
        self._slots.free()

    def _bound(self, now: float, ticket: Ticket) -> tuple[float, Bound, PacedAxis | None]:
        gate, inquiry, slots = self._gate, self._inquiry, self._slots
        if gate.shut and now < gate.opens_s:
            return gate.opens_s, Bound.GATE, None
        if now < self.part.closed_until_s:
            return self.part.closed_until_s, Bound.GATE, None
        if self.in_flight >= self.concurrency:
            most = slots.limit >= self.config.max_concurrency
            return slots.grows_at(now), Bound.MAX_CONCURRENCY if most else Bound.CONCURRENCY, None
        if inquiry is not None:
            news_s = now if inquiry.sent < inquiry.calls else inquiry.sent_s + _SURE * self._lag_s
            return news_s, Bound.INQUIRY, None
        if not gate.shut:
            for paced in self._active:
                cost = 1.0 if paced is self._requests else self._costs.expected(paced.axis, ticket)
                wait_s = paced.wait_s(now, cost)
                if wait_s > 0.0 and now + wait_s > now:
                    at = now + wait_s if self._next_step_s <= now else min(now + wait_s, self._next_step_s)
                    return at, _BOUNDS[paced.axis], paced
        return now, Bound.DEMAND, None

    def grant(self, now: float, ticket: Ticket) -> None:
        """Count the ticket in and take what it is expected to cost."""
        Line.grant(self, now, ticket)
        if not self.queued and self._binding is not Bound.DEMAND:
            self._binding, self._binding_s = Bound.DEMAND, now
        elif self._binding_s is None:
            self._binding_s = now
        ticket.rate, ticket.reason = self.rate, self.last_reason
        ticket.number = self._grants
        ticket.rejected = False
        self._grants += 1
        self._costs.book(ticket)
        if self.in_flight < self.concurrency:
            self._slots.free()
        gate, inquiry = self._gate, self._inquiry
        if gate.shut:
            gate.sent(ticket.number, now, _SURE * self._lag_s)
            self._canary = ticket
        elif inquiry is not None:
            inquiry.sent += 1
            inquiry.sent_s = now
        self._under_way.append(ticket)
        for paced in self._active:
            paced.reserve(now, 1.0 if paced is self._requests else reserved(paced.axis, ticket))

    # --- learning from answers ---------------------------------------------------------------------------------------

    def _succeeded(self, now: float, ticket: Ticket) -> None:
        took, mean = max(now - ticket.granted_s, 0.0), self._round_trip_s
        self._round_trip_s = took if mean is None else mean + _EWMA * (took - mean)
        if self._gate.canary == ticket.number:
            self._gate.due_s = now
        if self._slots_limited:
            self._slots_limited = False
            old = self._slots.limit
            reason = self._slots.step(now, self._round_trip_s)
            if reason is not None:
                self._tell(now, Axis.CONCURRENCY, old, self._slots.limit, reason)

    def _others(self, now: float, ticket: Ticket, signal: RateLimitSignal) -> None:
        """Learn from what is no common success."""
        outcome = signal.outcome
        if ticket is self._breaker_probe:
            self._breaker_probe = None
            if outcome is _SUCCEEDED:
                self._news += self.reset_breaker(now)
                return
        if outcome is Outcome.RATE_LIMITED:
            self._rejected(now, ticket, signal)
            return
        if self._gate.canary == ticket.number:
            self._gate.canary_lost()
        if outcome is Outcome.OVERLOADED and ticket.number >= self._since:
            old = self._slots.limit
            reason = self._slots.overloaded(self.in_flight + self.part.others_in_flight)
            self._new_epoch()
            self._tell(now, Axis.CONCURRENCY, old, self._slots.limit, reason)
        elif outcome is Outcome.EXHAUSTED:
            self._breaker_s, self.refusing = now + self.config.breaker_s, True
            self._tell(now, Axis.REQUESTS, self.rate, 0.0, Reason.BREAKER_OPEN)

    def _settle_tokens(self, ticket: Ticket, signal: RateLimitSignal) -> None:
        served = signal.outcome is _SUCCEEDED
        if served:
            read, written = _believed(signal.input_tokens), _believed(signal.output_tokens)
            self._costs.settle(ticket, read, written)
        for paced in self._active_tokens:
            used = 0.0
            if served:
                taken = ticket.reserved_input if read is None else read
                given = ticket.reserved_output if written is None else written
                used = on_axis(paced.axis, 1.0, taken, given)
            paced.settle(reserved(paced.axis, ticket), used)

    def _observe(self, now: float, ticket: Ticket, limits: tuple[AxisLimit, ...], *, refused: bool) -> None:
        """Hold the mirrors to what an answer's headers show; a call that was refused has taken nothing."""
        for shown in limits:
            paced = self._paced.get(shown.axis)
            if paced is None:
                continue
            mirror = paced.mirror or Mirror()
            old, old_rate = paced.rate, mirror.rate
            before, cost = on_axis(paced.axis, *ticket.sent_before), booked(paced.axis, ticket)
            after = self._costs.total(paced.axis) - before - cost
            taken = 0.0 if refused else cost
            if mirror.observe(now, shown, sent_s=ticket.granted_s, before=before, cost=taken, after=after):
                paced.mirror = mirror
                self._pace()
            elif mirror.rate == old_rate:
                continue
            self._moved(now, [(paced, old)], Reason.HEADER)

    def _expire(self, now: float, ticket: Ticket) -> None:
        """Give up the mirrors of headers that answers have ceased to show."""
        for paced in self._active:
            mirror = paced.mirror
            if mirror is not None and mirror.outlived(ticket.granted_s):
                old, paced.mirror = paced.rate, None
                self._pace()
                self._moved(now, [(paced, old)], Reason.HEADER)

    def _step(self, now: float) -> None:
        """Let every rule that has something to do take its step."""
        next_s = NEVER
        for paced in self._axes:
            rule = paced.rule
            if now >= rule.next_step_s:
                old, total, unit = paced.rate, self._total(now, paced.axis), self._costs.unit(paced.axis)
                reason = rule.step(now, total, limited=paced.limited, unit=unit)
                paced.limited = False
                if reason is not None:
                    paced.repace(now)
                    if paced.rate != old:
                        self._tell(now, paced.axis, old, paced.rate, reason)
            next_s = min(next_s, rule.next_step_s)
        self._next_step_s = next_s

    # --- learning from rejections ------------------------------------------------------------------------------------

    def _rejected(self, now: float, ticket: Ticket, signal: RateLimitSignal) -> None:
        ticket.rejected = True
        self._costs.refund(ticket)
        self._requests.budget.settle(1.0, 0.0)  # a rejected call took nothing
        self._lag_s = max(now - ticket.granted_s, _LAG_FADES * self._lag_s, 1e-3)
        told_s = signal.retry_after_s
        if told_s is not None and not 0.0 <= told_s < NEVER:
            told_s = None
        if ticket.number < self._since:
            return
        if ticket.number > self._before[0]:
            self._before = (
                ticket.number,
                {axis: self._admitted_before(axis, ticket) for axis in self._paced},
            )
        gate, inquiry = self._gate, self._inquiry
        if gate.shut:
            if ticket.number == gate.canary:
                self._shut(now, ticket.granted_s, told_s)
            elif gate.canary < 0:
                gate.rejected_too(ticket.granted_s)
        elif inquiry is None:
            self._judge(now, ticket, told_s, signal.axis)
        elif ticket.number > inquiry.number:
            inquiry.refuse(ticket.granted_s, told_s)
            if inquiry.failed:
                self._answered(now, inquiry)

    def _judge(self, now: float, ticket: Ticket, told_s: float | None, axis: Axis | None) -> None:
        """Say what the first rejection of an episode was about."""
        rates = [(paced, paced.rate) for paced in self._axes]
        if self._foretold(now, ticket, axis):
            self._blamed = None
            self._shut(now, ticket.granted_s, told_s)
            self._moved(now, rates, Reason.RATE_LIMITED)
            return
        slots, old, in_flight = self._slots, self._slots.limit, ticket.in_flight + self.part.others_in_flight
        if axis is Axis.CONCURRENCY or (axis is not Axis.REQUESTS and slots.blames(in_flight)):
            reason = slots.cut(now, in_flight, self._round_trip_s or 0.0)
            self._new_epoch()
            for paced in self._axes:
                paced.rule.search(now, self._total(now, paced.axis))
            self._tell(now, Axis.CONCURRENCY, old, slots.limit, reason)
            return
        if slots.limit != old:  # a wrong suspicion was taken back
            self._tell(now, Axis.CONCURRENCY, old, slots.limit, Reason.RECOVER)
        before, paced = self._blamed, self._accused(axis)
        if axis is None and before is not None and before is not paced:
            before.rule.search(now, self._total(now, before.axis))
        self._blamed = paced
        unit = self._costs.unit(paced.axis)
        early = paced.rule.early(unit)
        askable = paced is self._requests or not self._costs.varied
        if askable and self._noise.asks(early=early, searching=paced.rule.mode is Mode.SEARCH):
            sent_after = self._grants - ticket.number - 1
            trickled = 0.0 if paced.rate == NEVER else paced.rate * self._lag_s / unit
            self._inquiry = Inquiry.about(ticket, told_s, now, sent_after=sent_after, trickled=trickled, early=early)
        else:
            self._convict(now, ticket.granted_s, told_s)

    def _foretold(self, now: float, ticket: Ticket, axis: Axis | None) -> bool:
        """Tell whether a mirror had shown the budget to be empty; one that had not turns blind."""
        foretold = False
        for paced in self._axes:
            mirror = paced.mirror
            if mirror is not None and not mirror.blind and axis in (None, paced.axis):
                foretold |= mirror.refused(now, reserved(paced.axis, ticket))
        return foretold

    def _accused(self, axis: Axis | None) -> PacedAxis:
        if axis is None and self._costs.large_are_rejected:
            return self._paced[Axis.TOKENS]
        return self._requests if axis is None or axis is Axis.CONCURRENCY else self._paced[axis]

    def _answered(self, now: float, inquiry: Inquiry) -> None:
        """Take the answer to an inquiry: forgive the rejection, or believe it."""
        self._inquiry = None
        if not self._noise.found(inquiry):
            self._convict(now, inquiry.refused_s, inquiry.told_s)
        for paced in self._axes:
            paced.rule.noisy = self._noise.known

    def _convict(self, now: float, sent_s: float, told_s: float | None) -> None:
        """Believe that the budget is spent: shut the gate until a canary is let through."""
        paced = self._blamed
        assert paced is not None
        admitted = self._before[1][paced.axis]
        paced.rule.refused(now, sent_s, admitted, self._costs.unit(paced.axis), spare=paced.spare)
        self._shut(now, sent_s, told_s)
        self._tell(now, paced.axis, paced.rate, paced.rate, Reason.COOL_OFF)

    def _shut(self, now: float, sent_s: float, told_s: float | None) -> None:
        config, paced = self.config, self._blamed
        pause_s = min(max(config.cool_off_s, _PAUSE_CALLS / self.rate), _PAUSE_MOST_S)
        foretold = paced is None  # by headers, which a Retry-After only confirms
        obey = foretold or (paced is not self._requests and self._costs.varied)
        self._gate.rejected(
            now, sent_s, told_s, pause_s=pause_s, cap_s=config.cool_off_cap_s, lag_s=self._lag_s, obey=obey
        )

    def _admitted_again(self, now: float) -> None:
        """Measure, for the canary was let through: the provider admits again."""
        canary, paced = self._canary, self._blamed
        assert canary is not None
        call_s = 0.0 if paced is None else self._costs.unit(paced.axis) / paced.rule.measured.rate
        opened_s, doubt_s = self._gate.admitted(canary.granted_s, call_s)
        self._since = canary.number
        self._slots.new_epoch()
        self._open(now, opened_s, doubt_s)

    def _open(self, now: float, opened_s: float, doubt_s: float) -> None:
        """Measure the blamed axis, which opened at ``opened_s``."""
        paced = self._blamed
        if paced is None:
            return
        old, unit, admitted = paced.rate, self._costs.unit(paced.axis), self._before[1][paced.axis]
        rule = paced.rule
        windows = self._gate.windows
        period_s = windows.period_s if windows.known else 0.0
        rule.opened(Opening(opened_s, admitted, doubt_s), unit, period_s=period_s)
        reserve = unit if paced is not self._requests and self._costs.varied else 0.0
        paced.reopen(now, opened_s, self._total(now, paced.axis) - admitted + reserve)
        self._pace()
        self._next_step_s = min(self._next_step_s, rule.next_step_s)
        self._tell(now, paced.axis, old, paced.rate, Reason.RATE_LIMITED)

    def _new_epoch(self) -> None:
        """Take no rejection of what was sent so far for news."""
        self._since = self._grants
        self._slots.new_epoch()

    def _total(self, now: float, axis: Axis) -> float:
        """Return what all calls admitted so far weigh, those of the others too."""
        return self._costs.total(axis) + self.part.others(axis, now)

    def _admitted_before(self, axis: Axis, ticket: Ticket) -> float:
        """Return what was admitted before a rejected call, to the others too."""
        return self._costs.admitted_before(axis, ticket) + self.part.others(axis, ticket.granted_s)

    # --- telling -----------------------------------------------------------------------------------------------------

    def _moved(self, now: float, before: Iterable[tuple[PacedAxis, float]], reason: Reason) -> None:
        """Tell of those axes whose rate is another than before."""
        for paced, old in before:
            if paced.rate != old:
                self._tell(now, paced.axis, old, paced.rate, reason)

    def _tell(self, now: float, axis: Axis, old: float, new: float, reason: Reason) -> None:
        self.last_reason = reason
        self._news.append(Change(now, axis, old, new, reason))


def _believed(tokens: float | None) -> float | None:
    """Return what an answer says it used, if that can be."""
    return tokens if tokens is not None and 0.0 <= tokens <= _MOST_TOKENS else None
