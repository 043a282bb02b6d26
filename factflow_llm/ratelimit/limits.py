"""What the limiter allows itself now: a rate for each paced axis, slots, what calls weigh on them, and what changed.

Admission (``core.py``) asks these limits; answers move them here, and rejections in ``rejections.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from factflow_llm.ratelimit.aimd import RateRule
from factflow_llm.ratelimit.axis import PacedAxis, known_rate
from factflow_llm.ratelimit.costs import Costs, booked, on_axis, reserved
from factflow_llm.ratelimit.line import NEVER, NO_CHANGES
from factflow_llm.ratelimit.mirror import Mirror
from factflow_llm.ratelimit.part import Part
from factflow_llm.ratelimit.slots import SlotRule
from factflow_llm.signals import Axis, Change, Outcome, Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from factflow_llm.ratelimit.config import RateLimitConfig
    from factflow_llm.ratelimit.line import Ticket
    from factflow_llm.signals import AxisLimit, RateLimitSignal

_EWMA: Final = 0.1
_MOST_TOKENS: Final = 1e7
"""No call uses so many tokens: an answer that says so is not believed."""


class Limits:
    """The limits of all axes, and how answers move them.

    Attributes:
        config: the settings.
        part: what of the quota is ours.
        costs: what calls weigh, and all that was admitted.
        slots: how many calls may be in flight.
        axes: all paced axes, in the order in which they are asked; ``by_axis`` finds one.
        requests: the first of them.
        active: those that can hold somebody back; ``active_tokens`` without requests.
        next_step_s: when a rule has something to do.
        slots_limited: whether slots held somebody back since they last could grow.
        round_trip_s: the moving mean of how long answers take; ``None`` before the first.
        last_reason: why a limit last changed.
    """

    __slots__ = (
        "_news", "active", "active_tokens", "axes", "by_axis", "config", "costs", "last_reason", "next_step_s", "part",
        "requests", "round_trip_s", "slots", "slots_limited",
    )  # fmt: skip

    def __init__(self, config: RateLimitConfig) -> None:
        self.config = config
        self.part = Part()
        self.costs = Costs()
        self.slots = SlotRule(config)
        self.slots_limited = False
        self.round_trip_s: float | None = None
        self.last_reason = Reason.CONFIGURED
        self._news: list[Change] = []
        self.opened(0.0)

    def opened(self, now: float) -> None:
        """Begin: time before the first ticket taught nothing."""
        axes = (Axis.REQUESTS, Axis.INPUT_TOKENS, Axis.OUTPUT_TOKENS, Axis.TOKENS)
        config = self.config
        self.axes = tuple(
            PacedAxis(axis, self.rule(now, axis, known_rate(config, axis)), now, config.cool_off_cap_s, self.part)
            for axis in axes
        )
        self.requests = self.axes[0]
        self.by_axis = {paced.axis: paced for paced in self.axes}
        self.pace()
        self.next_step_s = now

    def rule(self, now: float, axis: Axis, known: float) -> RateRule:
        """Return a rule that begins now, at a known rate or, with ``inf``, at none."""
        return RateRule(
            self.config, now=now, sent=self.total(now, axis), known=known, of_requests=axis is Axis.REQUESTS
        )

    def pace(self) -> None:
        """List the axes that can hold somebody back."""
        self.active_tokens = [paced for paced in self.axes[1:] if paced.active]
        self.active = [self.requests, *self.active_tokens] if self.requests.active else self.active_tokens

    @property
    def rate(self) -> float:
        """Requests per second allowed now; ``inf`` while nothing is known."""
        return self.requests.rate * self.part.share

    def total(self, now: float, axis: Axis) -> float:
        """Return what all calls admitted so far weigh, those of the others too."""
        return self.costs.total(axis) + self.part.others(axis, now)

    def admitted_before(self, axis: Axis, ticket: Ticket) -> float:
        """Return what was admitted before a rejected call, to the others too."""
        return self.costs.admitted_before(axis, ticket) + self.part.others(axis, ticket.admitted_s)

    def sent(self, now: float, ticket: Ticket) -> None:
        """Note that a call goes."""
        self.requests.rule.lookback.sent(now, self.total(now, Axis.REQUESTS), 1.0)
        for paced in self.active_tokens:
            paced.rule.lookback.sent(now, self.total(now, paced.axis), booked(paced.axis, ticket))

    # --- how they move -----------------------------------------------------------------------------------------------

    def step(self, now: float) -> None:
        """Let every rule that has something to do take its step."""
        next_s = NEVER
        for paced in self.axes:
            rule = paced.rule
            if now >= rule.next_step_s:
                old, total, unit = paced.rate, self.total(now, paced.axis), self.costs.unit(paced.axis)
                reason = rule.step(now, total, limited=paced.limited, unit=unit)
                paced.limited = False
                if reason is not None:
                    paced.repace(now)
                    if paced.rate != old:
                        self.tell(now, paced.axis, old, paced.rate, reason)
            next_s = min(next_s, rule.next_step_s)
        self.next_step_s = next_s

    def succeeded(self, now: float, ticket: Ticket) -> None:
        """Learn how long answers take; slots that held somebody back may grow."""
        took, mean = max(now - ticket.admitted_s, 0.0), self.round_trip_s
        self.round_trip_s = took if mean is None else mean + _EWMA * (took - mean)
        if self.slots_limited:
            self.slots_limited = False
            old = self.slots.limit
            reason = self.slots.step(now, self.round_trip_s)
            if reason is not None:
                self.tell(now, Axis.CONCURRENCY, old, self.slots.limit, reason)

    def settle_tokens(self, ticket: Ticket, signal: RateLimitSignal) -> tuple[float, float]:
        """Correct what was reserved by what the answer says was used; an attempt that failed used none.

        Returns:
            Tokens read and written beyond those that were named.
        """
        more = 0.0, 0.0
        served = signal.outcome is Outcome.SUCCEEDED
        if served:
            read, written = _believed(signal.input_tokens), _believed(signal.output_tokens)
            more = self.costs.settle(ticket, read, written)
        for paced in self.active_tokens:
            used = 0.0
            if served:
                taken = ticket.reserved_input if read is None else read
                given = ticket.reserved_output if written is None else written
                used = on_axis(paced.axis, 1.0, taken, given)
            paced.settle(reserved(paced.axis, ticket), used)
        return more

    def observe(self, now: float, ticket: Ticket, limits: tuple[AxisLimit, ...], *, refused: bool) -> None:
        """Hold the mirrors to what an answer's headers show; a call that was refused has taken nothing."""
        for shown in limits:
            paced = self.by_axis.get(shown.axis)
            if paced is None:
                continue
            mirror = paced.mirror or Mirror()
            old, old_rate = paced.rate, mirror.rate
            before, cost = on_axis(paced.axis, *ticket.sent_before), booked(paced.axis, ticket)
            after = self.costs.total(paced.axis) - before - cost
            taken = 0.0 if refused else cost
            if mirror.observe(now, shown, sent_s=ticket.admitted_s, before=before, cost=taken, after=after):
                paced.mirror = mirror
                self.pace()
            elif mirror.rate == old_rate:
                continue
            self.moved(now, [(paced, old)], Reason.HEADER)

    def expire(self, now: float, ticket: Ticket) -> None:
        """Give up the mirrors of headers that answers have ceased to show."""
        for paced in self.active:
            mirror = paced.mirror
            if mirror is not None and mirror.outlived(ticket.admitted_s):
                old, paced.mirror = paced.rate, None
                self.pace()
                self.moved(now, [(paced, old)], Reason.HEADER)

    def retune(self, now: float, config: RateLimitConfig, *, begun: bool) -> None:
        """Take new settings and keep what was learned, if anything was sent before."""
        before, self.config = self.config, config
        old_slots = self.slots.limit
        self.slots.retune(config)
        if self.slots.limit != old_slots:
            self.tell(now, Axis.CONCURRENCY, old_slots, self.slots.limit, Reason.RETUNED)
        for paced in self.axes:
            known = known_rate(config, paced.axis)
            old, paced_at = paced.rate, paced.rule.rate
            if not begun or known not in (NEVER, known_rate(before, paced.axis)):
                paced.rule = self.rule(now, paced.axis, known)
            else:
                paced.rule.retune(config)
            if paced.rule.rate != paced_at:
                paced.repace(now)
            paced.cap.set_rate(now, paced.rule.bounded(NEVER))
            paced.patience_s = config.cool_off_cap_s
            self.moved(now, [(paced, old)], Reason.RETUNED)
        self.pace()

    # --- what changed ------------------------------------------------------------------------------------------------

    @property
    def changed(self) -> bool:
        """Whether there is something to tell."""
        return bool(self._news)

    def changes(self) -> tuple[Change, ...]:
        """Return what changed since this was last asked."""
        if not self._news:
            return NO_CHANGES
        news = tuple(self._news)
        self._news.clear()
        return news

    def moved(self, now: float, before: Iterable[tuple[PacedAxis, float]], reason: Reason) -> None:
        """Tell of those axes whose rate is another than before."""
        for paced, old in before:
            if paced.rate != old:
                self.tell(now, paced.axis, old, paced.rate, reason)

    def tell(self, now: float, axis: Axis, old: float, new: float, reason: Reason) -> None:
        """Note a change for whoever asks for ``changes``."""
        self.last_reason = reason
        self._news.append(Change(now, axis, old, new, reason))


def _believed(tokens: float | None) -> float | None:
    """Return what an answer says it used, if that can be."""
    return tokens if tokens is not None and 0.0 <= tokens <= _MOST_TOKENS else None
