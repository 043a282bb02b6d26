"""A process' side of ``shared.py``: a core that reports to its fleet and lives by its grant.

A driver sends ``report(now)`` to the store when ``refresh_at`` has come and hands the answer to ``hear``. Without an
answer the share holds until the lease ends; then the core goes on alone, from its share of what was known.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from factflow_llm.ratelimit.aimd import Mode
from factflow_llm.ratelimit.core import LimiterCore
from factflow_llm.ratelimit.costs import on_axis
from factflow_llm.ratelimit.line import NEVER, Ticket, TicketState
from factflow_llm.ratelimit.rejections import Reopened
from factflow_llm.ratelimit.shared import LEASE_S, Law, Rejected, Report, Shown
from factflow_llm.ratelimit.sharing import Sharing
from factflow_llm.signals import Axis, AxisLimit, Reason

if TYPE_CHECKING:
    from factflow_llm.ratelimit.config import RateLimitConfig
    from factflow_llm.ratelimit.metrics import AIMDMetrics
    from factflow_llm.ratelimit.shared import Grant, Units
    from factflow_llm.signals import Change, RateLimitSignal

REFRESH_S: Final = 1.0
"""How often a member asks: a fifth of the lease."""
_JITTER: Final = 0.2
"""How much sooner or later, as a share of that."""
_AT_ONCE_S: Final = 0.05
"""How long a rejection waits for others to be told with it."""
_FIRST_WORD_S: Final = 1.0
"""How long a new member waits for its first grant before it goes on alone."""
_LATELY: Final = 0.3
"""What the last second weighs in what a member says it does per second."""
_HEADROOM: Final = 1.1
"""What a member wants, as a multiple of what it does: room to grow without asking."""
_TELL_CLOSED_S: Final = 0.5
"""A pause shorter than this is over before others would hear of it."""
_NEWS_S: Final = 1.25
"""How long it takes at most until all have heard of a cut; what is rejected before says nothing of it."""
_CLEAR_CALLS: Final = 1.0
"""What all leave out after a cut, times the root of their number: members' calls come by chance at once."""
_CANARY_S: Final = 1.5
"""How long others wait for a canary that tries before the time that was told."""
_WORTH_TELLING: Final = 0.1
"""The least change of a share, relative to it, that is told."""
_LEAST: Final = 1e-4
"""No share is so small that nothing would ever be sent."""
_UNITS: Final = (Axis.REQUESTS, Axis.INPUT_TOKENS, Axis.OUTPUT_TOKENS)


class MemberCore(LimiterCore):
    """A limiter that draws on a quota together with others.

    Args:
        config: the settings.
        name: told apart from all other members.
        weight: how much of what is scarce this one gets, relative to others.
        luck: from 0 to 1; spreads members' refreshes over time.

    Attributes:
        refresh_at: when to send the next report.
        together: whether this process lives by a grant now.
        members: how many there are, as far as was heard.
    """

    def __init__(self, config: RateLimitConfig, name: str, *, weight: float = 1.0, luck: float = 0.5) -> None:
        self.together = False
        self.refresh_at = NEVER
        super().__init__(config)
        self.name = name
        self.weight = weight
        self.members = 1
        self.refresh_at = NEVER
        self.part.closed_until_s = -NEVER
        self._every_s = REFRESH_S * (1.0 + _JITTER * (2.0 * luck - 1.0))
        self._lease_until_s = -NEVER
        self._born, self._epoch = 0.0, 0
        self._law: Law | None = None
        self._asked_s = self._settled_s = -NEVER
        self._own_base: Units = (0.0, 0.0, 0.0)
        self._others_base: Units = (0.0, 0.0, 0.0)
        self._others_last: Units = (0.0, 0.0, 0.0)
        self._sent_by_priority: dict[int, float] = {}
        self._last: tuple[float, Units] | None = None
        self._per_s: Units = (0.0, 0.0, 0.0)
        self._wants: dict[int, float] = {}
        self._refused: tuple[float, Axis | None, int, int] | None = None
        self._reopened: Reopened | None = None
        self._breaker_news: bool | None = None
        self._breaker_told: bool | None = None
        self._breaker_of_all = False
        self._shown: dict[Axis, tuple[AxisLimit, float]] = {}

    # --- what is said ------------------------------------------------------------------------------------------------

    def report(self, now: float, *, leaves: bool = False) -> Report:
        """Return what to tell the fleet now, and set when to do so next."""
        self._measure(now)
        self._asked_s, self.refresh_at = now, now + self._every_s
        rejected = None
        if self._refused is not None:
            sent_s, axis, in_flight, epoch = self._refused
            opened_s, doubt_s = self._reopened or (now, 0.0)
            if self._reopened is not None or self.part.leads:
                named = axis.value if axis is not None else None
                rejected = Rejected(epoch, now - sent_s, now - opened_s, doubt_s, named, in_flight)
                self._refused = self._reopened = None
        if self._law is None or (self.part.leads and self.together):
            self._law = self._learned()
        breaker_s = None
        if self._breaker_news is not None:
            breaker_s = max((self._breaker_s or now) - now, 1e-3) if self._breaker_news else 0.0
        self._breaker_told = self._breaker_news
        return Report(
            member=self.name,
            weight=self.weight,
            wants=self._wants,
            wants_slots=self.in_flight + self.queued,
            in_flight=self.in_flight,
            limited=self.queued > 0,
            admitted=self._own(),
            per_s=self._per_s,
            share=self.part.share if self._born else 0.0,
            born=self._born,
            epoch=self._epoch,
            law=self._law,
            rejected=rejected,
            closed_s=self._closed_s(now),
            breaker_s=breaker_s,
            shown={
                axis.value: Shown(shown.limit or 0.0, shown.remaining or 0.0, shown.reset_s or 0.0, now - sent_s)
                for axis, (shown, sent_s) in self._shown.items()
            },
            leaves=leaves,
        )

    def _own(self) -> Units:
        requests, read, written = (
            self._limits.costs.total(axis) - before for axis, before in zip(_UNITS, self._own_base, strict=True)
        )
        return requests, read, written

    def _measure(self, now: float) -> None:
        """Say what is sent per second lately, and what would be, by priority."""
        own = self._own()
        sent, self._sent_by_priority = self._sent_by_priority, {}
        if self._last is None:
            self._wants = {0: float(self.queued)}
        else:
            since_s = max(now - self._last[0], 1e-3)
            weight = 1.0 - (1.0 - _LATELY) ** (since_s / REFRESH_S)
            before = self._last[1]
            self._per_s = (
                self._per_s[0] + weight * ((own[0] - before[0]) / since_s - self._per_s[0]),
                self._per_s[1] + weight * ((own[1] - before[1]) / since_s - self._per_s[1]),
                self._per_s[2] + weight * ((own[2] - before[2]) / since_s - self._per_s[2]),
            )
            wants = {}
            for priority in {*self._wants, *sent}:
                old = self._wants.get(priority, 0.0)
                want = old + weight * (_HEADROOM * sent.get(priority, 0.0) / since_s - old)
                if want > 1e-3:
                    wants[priority] = want
            self._wants = wants
        self._last = now, own
        waiting: dict[int, float] = {}
        for _, _, ticket in self._queue:
            if ticket.state is TicketState.WAITING:
                waiting[ticket.priority] = waiting.get(ticket.priority, 0.0) + 1.0
        self._wants = {**self._wants, **{p: max(self._wants.get(p, 0.0), n) for p, n in waiting.items()}}

    def _learned(self) -> Law:
        rates, calls_per_s = {}, NEVER
        for paced in self._limits.active:
            rates[paced.axis.value] = paced.rule.rate
            calls_per_s = min(calls_per_s, paced.rate / self._limits.costs.unit(paced.axis))
        rates = {axis: rate for axis, rate in rates.items() if rate != NEVER}
        return Law(
            rates=rates,
            calls_per_s=None if calls_per_s == NEVER else calls_per_s,
            slots=self._slots.limit,
            slots_open=self._slots.mode is Mode.OPEN,
        )

    def _closed_s(self, now: float) -> float:
        """Return for how long nobody else should send: until our own canary has come back."""
        gate = self._gate
        left_s = gate.until_s - now
        if not self.together or not gate.shut or left_s < _TELL_CLOSED_S:
            return 0.0
        return left_s if gate.believes else left_s + _CANARY_S

    # --- what is heard -----------------------------------------------------------------------------------------------

    def hear(self, now: float, grant: Grant) -> tuple[Change, ...]:
        """Live by a grant, the answer to the last report; return what changed."""
        old = self.rate
        if self._breaker_news is self._breaker_told:  # what was told has arrived; what was not is told again
            self._breaker_news = None
        led, was = self.part.leads, self.together
        same = was and grant.born == self._born
        if not same:
            self._rebase(grant)
        self._born, self.together, self.members = grant.born, True, grant.members
        self._lease_until_s = self._asked_s + LEASE_S
        self._hear_of_others(now, grant)
        if grant.epoch != self._epoch:
            self._epoch = grant.epoch
            if not grant.leads:
                self._rejections.new_epoch()
            if self.members > 1:
                calls = _CLEAR_CALLS / math.sqrt(self.members)
                for paced in self._limits.active:
                    paced.budget.settle(0.0, calls * self._limits.costs.unit(paced.axis))
        part = self.part
        part.share, part.leads = max(grant.share, _LEAST), grant.leads
        part.closed_until_s = now + grant.closed_s if grant.closed_s > 0.0 else -NEVER
        if grant.law is not None:
            self._law = law = grant.law
            if not grant.leads:
                self._follow(now, law)
            elif not (led and was):
                self._lead(now, law)
            part.others_slots = max(law.slots - (grant.slots or 0), 0.0)
        for paced in self._limits.axes:
            paced.repace(now)
        if grant.rejected is not None:
            self._judge_elsewhere(now, grant.rejected)
        self._hear_of_the_account(now, grant)
        self._hear_of_headers(now, grant)
        if not same or abs(self.rate - old) > _WORTH_TELLING * old:
            self._limits.tell(now, Axis.REQUESTS, old, self.rate, Reason.SHARED)
        self.wake_at = now
        return self.changes()

    def lapse(self, now: float) -> tuple[Change, ...]:
        """Go on alone if the lease has ended, from the share of what was known; return what changed."""
        part = self.part
        if not self.together:
            if part.closed_until_s > now:  # nobody has answered yet
                part.closed_until_s = -NEVER
                self.wake_at = now
            return self.changes()
        if now < self._lease_until_s:
            return self.changes()
        old, mine = self.rate, part.share
        known = {paced.axis: paced.rule.rate * mine for paced in self._limits.axes}
        slots = max(self.concurrency, 1.0)
        requests, read, written = (self._limits.costs.total(axis) for axis in _UNITS)
        self._own_base = requests, read, written
        self._last, self.together, self.members = None, False, 1
        part.alone()
        for paced in self._limits.axes:
            paced.rule = self._limits.rule(now, paced.axis, known[paced.axis])
            paced.repace(now)
        self._slots.follow(slots)
        self._slots.lead(now, opens=False)
        self._limits.pace()
        self._limits.next_step_s = now
        self._limits.tell(now, Axis.REQUESTS, old, self.rate, Reason.SHARED)
        self.wake_at = now
        return self.changes()

    def _rebase(self, grant: Grant) -> None:
        """Count what the others admit from now on, whatever the store counted before."""
        self._others_base = tuple(  # type: ignore[assignment]
            new - so_far for new, so_far in zip(grant.others_admitted, self._others_last, strict=True)
        )

    def _hear_of_others(self, now: float, grant: Grant) -> None:
        base = self._others_base
        requests, read, written = (new - old for new, old in zip(grant.others_admitted, base, strict=True))
        self._others_last = requests, read, written
        self.part.heard(now, self._others_last, grant.others_per_s)
        self.part.others_in_flight = grant.others_in_flight

    def _follow(self, now: float, law: Law) -> None:
        """Take the law as it is: who follows learns only where the leader has not learned yet."""
        for paced in self._limits.axes:
            rate = law.rates.get(paced.axis.value)
            if rate is not None and (paced.rule.rate != rate or paced.rule.next_step_s != NEVER):
                paced.rule = self._limits.rule(now, paced.axis, rate)
                paced.rule.next_step_s = NEVER
        self._slots.follow(law.slots)
        self._limits.pace()

    def _lead(self, now: float, law: Law) -> None:
        """Take up learning where the leader before left it, or what is known from before."""
        for paced in self._limits.axes:
            paced.rule = self._limits.rule(now, paced.axis, law.rates.get(paced.axis.value, NEVER))
        self._slots.follow(law.slots)
        self._slots.lead(now, opens=law.slots_open)
        self._limits.pace()
        self._limits.next_step_s = now

    def _hear_of_the_account(self, now: float, grant: Grant) -> None:
        breaker_s = grant.breaker_s
        if breaker_s is not None:
            self._breaker_of_all = True
            if self._breaker_s is None:
                if grant.exhausted is not None and grant.exhausted.resumes_s is not None:
                    self.resumes_at = now + grant.exhausted.resumes_s
                self._breaker_s, self.refusing = now + breaker_s, True
                self._limits.tell(now, Axis.REQUESTS, self.rate, 0.0, Reason.BREAKER_OPEN)
        elif self._breaker_s is not None and self._breaker_of_all:
            self._breaker_of_all = False
            self._close_breaker(now)

    def _hear_of_headers(self, now: float, grant: Grant) -> None:
        for name, shown in grant.shown.items():
            axis, sent_s = Axis(name), now - shown.ago_s
            known = self._shown.get(axis)
            if known is None or sent_s > known[1] + 1e-3:
                ticket = Ticket()
                ticket.admitted_s = sent_s
                requests, read, written = (self._limits.costs.total(axis) for axis in _UNITS)
                per_s = self._per_s
                ago_s = shown.ago_s
                ticket.sent_before = requests - per_s[0] * ago_s, read - per_s[1] * ago_s, written - per_s[2] * ago_s
                self._observe(
                    now, ticket, (AxisLimit(axis, shown.limit, shown.remaining, shown.reset_s),), refused=False
                )

    # --- what happens to calls ---------------------------------------------------------------------------------------

    def opened(self, now: float) -> None:
        """Begin, and wait a moment for a first word from the fleet."""
        super().opened(now)
        if not self.together:
            self.await_word(now)

    def await_word(self, now: float) -> None:
        """Send nothing before there is a first word, for a moment."""
        self.part.closed_until_s = now + _FIRST_WORD_S
        self.refresh_at = now

    def metrics(self, now: float) -> AIMDMetrics:
        """Return a snapshot."""
        if not self.together:
            return super().metrics(now)
        asked_s = self._lease_until_s - LEASE_S
        return replace(
            super().metrics(now), share=self.part.share, members=self.members, lease_age_s=max(now - asked_s, 0.0)
        )

    def admit(self, now: float, ticket: Ticket) -> None:
        """Count the ticket in, by its priority."""
        super().admit(now, ticket)
        sent, priority = self._sent_by_priority, ticket.priority
        sent[priority] = sent.get(priority, 0.0) + 1.0

    def reset_breaker(self, now: float) -> tuple[Change, ...]:
        """Close the breaker, and that of all others."""
        if self._breaker_s is not None:
            self._breaker_news, self.refresh_at = False, now
        return super().reset_breaker(now)

    def _others(self, now: float, ticket: Ticket, signal: RateLimitSignal) -> None:
        was_open = self._breaker_s is not None
        super()._others(now, ticket, signal)
        is_open = self._breaker_s is not None
        if is_open is not was_open:
            self._breaker_news, self.refresh_at = is_open, now

    def _observe(self, now: float, ticket: Ticket, limits: tuple[AxisLimit, ...], *, refused: bool) -> None:
        super()._observe(now, ticket, limits, refused=refused)
        for shown in limits:
            known = self._shown.get(shown.axis)
            whole = shown.limit is not None and shown.remaining is not None and shown.reset_s is not None
            if whole and shown.axis in self._limits.by_axis and (known is None or ticket.admitted_s > known[1]):
                self._shown[shown.axis] = shown, ticket.admitted_s

    def _judge(self, now: float, ticket: Ticket, told_s: float | None, axis: Axis | None) -> None:
        if not self.together:
            super()._judge(now, ticket, told_s, axis)
            return
        in_flight = ticket.in_flight + self.part.others_in_flight
        self._refused = self._refused or (ticket.admitted_s, axis, in_flight, self._epoch)
        self.refresh_at = min(self.refresh_at, now + _AT_ONCE_S)
        learns = self.part.leads or self._law is None or not self._law.rates
        if learns and ticket.admitted_s >= self._settled_s:
            super()._judge(now, ticket, told_s, axis)
            return
        self._rejections.obey(now, ticket, told_s, axis)

    def _judge_elsewhere(self, now: float, rejected: Rejected) -> None:
        """Judge, as the leader, a rejection that another member reports."""
        sent_s = now - rejected.ago_s
        rejections, gate = self._rejections, self._gate
        if sent_s < self._settled_s:
            return
        if gate.shut:
            if gate.canary < 0:
                gate.rejected_too(sent_s)
            return
        ticket = Ticket()
        ticket.admitted_s, ticket.number = sent_s, rejections.calls - 1
        ticket.in_flight = rejected.in_flight - self.part.others_in_flight
        ticket.reserved_input = ticket.reserved_output = 0.0
        rejections.before = ticket.number, {axis: self._total_at(axis, now, sent_s) for axis in self._limits.by_axis}
        if rejections.inquiry is not None:
            rejections.asked(now, rejections.inquiry, sent_s, None)
            return
        reopened = Reopened(now - rejected.opened_ago_s, rejected.doubt_s)
        if rejections.judge(now, ticket, None, None if rejected.axis is None else Axis(rejected.axis), reopened):
            self._tell_of_opening(now, reopened)

    def _total_at(self, axis: Axis, now: float, at_s: float) -> float:
        """Return what had been admitted to all by a moment not long ago."""
        return (
            self._limits.costs.total(axis) - on_axis(axis, *self._per_s) * (now - at_s) + self.part.others(axis, at_s)
        )

    def _opens_again(self, now: float) -> None:
        """Measure the opening, and tell the others of it."""
        self._tell_of_opening(now, self._rejections.reopened(now))

    def _tell_of_opening(self, now: float, reopened: Reopened) -> None:
        if self.together and not self.part.leads:
            self._reopened, self.refresh_at = reopened, now
        blamed = self._rejections.blamed
        if self.together and self.members > 1 and blamed is not None:
            self._settled_s, self.refresh_at = now + _NEWS_S, now
            blamed.rule.sharing = Sharing()  # what came early came from us
