"""A process' side of ``shared.py``: a core that reports to its fleet and lives by its grant.

A driver sends ``report(now)`` to the store when ``refresh_at`` has come and hands the answer to ``hear``. Without an
answer the share holds until the lease ends; then the core goes on alone, from its share of what was known.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from factflow_llm.ratelimit.core import LimiterCore
from factflow_llm.ratelimit.costs import on_axis
from factflow_llm.ratelimit.demand import Demand
from factflow_llm.ratelimit.law import follow, law_of, lead, resume, retreat
from factflow_llm.ratelimit.line import NEVER, Ticket, TicketState
from factflow_llm.ratelimit.news import News
from factflow_llm.ratelimit.past import Past
from factflow_llm.ratelimit.rejections import Reopened
from factflow_llm.ratelimit.said import SAMPLE_S, SAMPLES, Answer, OpenAgain, Rejected, Report, Shown
from factflow_llm.ratelimit.shared import LEASE_S
from factflow_llm.ratelimit.sharing import Sharing
from factflow_llm.ratelimit.windows import Windows
from factflow_llm.signals import Axis, AxisLimit, Outcome, Reason

if TYPE_CHECKING:
    from factflow_llm.ratelimit.axis import PacedAxis
    from factflow_llm.ratelimit.config import RateLimitConfig
    from factflow_llm.ratelimit.metrics import AIMDMetrics
    from factflow_llm.ratelimit.said import Asked, Grant, Law, Seen, Units
    from factflow_llm.signals import Change, RateLimitSignal

REFRESH_S: Final = 1.0
"""How often a member asks: a fifth of the lease."""
_JITTER: Final = 0.2
"""How much sooner or later, as a share of that."""
_SOON_S: Final = 0.25
"""How often the leader asks, and all while a rate is searched for."""
_SOON_MEMBER_S: Final = 0.002
"""That much more seldom for every member there is: a thousand must not flood the store."""
_GOLDEN: Final = 0.618
"""Its multiples spread evenly between 0 and 1."""
_TELL_CLOSED_S: Final = 0.5
"""A pause shorter than this is over before others would hear of it."""
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
        self._luck = luck
        self._every_s = REFRESH_S * (1.0 + _JITTER * (2.0 * luck - 1.0))
        self._lease_until_s = -NEVER
        self._born, self._epoch = 0.0, 0
        self._law: Law | None = None
        self._sent_s = self._settled_s = -NEVER
        self._own_base: Units = (0.0, 0.0, 0.0)
        self._others_base: Units = (0.0, 0.0, 0.0)
        self._others_last: Units = (0.0, 0.0, 0.0)
        self._others_per_s: Units = (0.0, 0.0, 0.0)
        self._demand = Demand()
        self._past = Past()
        self._asked: Asked | None = None
        self._asked_about_s = 0.0
        self._answered_last: Answer | None = None
        self._saw = 0
        self._news = News()
        self._held: dict[Axis, float] | None = None  # rates before the fall, while the leader waits to judge
        self._breaker_of_all = False
        self._shown: dict[Axis, tuple[AxisLimit, float]] = {}

    # --- what is said ------------------------------------------------------------------------------------------------

    def report(self, now: float, *, leaves: bool = False) -> Report:
        """Return what to tell the fleet now, and set when to do so next."""
        self._measure(now)
        self._sent_s, self.refresh_at = now, now + self._wait_s()
        self._past.forget(now)
        rejected = reopened = None
        if self._news.rejected is not None:
            sent_s, axis = self._news.rejected
            rejected = Rejected(now - sent_s, axis.value if axis is not None else None)
        if self._news.reopened is not None:
            opened_s, doubt_s = self._news.reopened
            reopened = OpenAgain(now - opened_s, doubt_s)
        self._news.say()
        if self._law is None or (self.part.leads and self.together):
            requests, read, written = (
                mine + others for mine, others in zip(self._demand.per_s, self._others_per_s, strict=True)
            )
            self._law = law_of(self._limits, (requests, read, written), fallen=self._held is not None)
        breaker_s = None
        if self._news.breaker is not None:
            breaker_s = max((self._breaker_s or now) - now, 1e-3) if self._news.breaker else 0.0
        return Report(
            member=self.name,
            weight=self.weight,
            wants=self._demand.wants,
            wants_slots=self.in_flight + self.queued,
            in_flight=self.in_flight,
            limited=self.queued > 0,
            admitted=self._own(),
            per_s=self._demand.per_s,
            share=self.part.share if self._born else 0.0,
            born=self._born,
            epoch=self._epoch,
            law=self._law,
            rejected=rejected,
            reopened=reopened,
            answer=self._answer(),
            seen=self._saw,
            closed_s=self._closed_s(now),
            breaker_s=breaker_s,
            shown={
                axis.value: Shown(shown.limit or 0.0, shown.remaining or 0.0, shown.reset_s or 0.0, now - sent_s)
                for axis, (shown, sent_s) in self._shown.items()
            },
            leaves=leaves,
        )

    def _wait_s(self) -> float:
        """Return how long after a report the next one is due."""
        law = self._law
        if self.members > 1 and (self.part.leads or law is None or law.searching):
            return min(_SOON_S + _SOON_MEMBER_S * self.members, 1.0) * self._every_s
        return self._every_s

    def _answer(self) -> Answer | None:
        """Return what we were when we are asked about; it stays as it was first told."""
        asked, at_s, past = self._asked, self._asked_about_s, self._past
        if asked is not None and (self._answered_last is None or self._answered_last.number != asked.number):
            admitted, base = past.at(at_s)[0], self._own_base
            own = admitted[0] - base[0], admitted[1] - base[1], admitted[2] - base[2]
            in_flight = [past.at(at_s - SAMPLE_S * number)[1] for number in range(SAMPLES)]
            self._answered_last = Answer(asked.number, own, in_flight)
        return self._answered_last

    def _own(self) -> Units:
        requests, read, written = (
            self._limits.costs.total(axis) - before for axis, before in zip(_UNITS, self._own_base, strict=True)
        )
        return requests, read, written

    def _measure(self, now: float) -> None:
        waiting: dict[int, float] = {}
        for _, _, ticket in self._queue:
            if ticket.state is TicketState.WAITING:
                waiting[ticket.priority] = waiting.get(ticket.priority, 0.0) + 1.0
        self._demand.measure(now, self._own(), waiting)

    def _closed_s(self, now: float) -> float:
        """Return for how long nobody else should send: until our own canary has come back."""
        gate = self._gate
        left_s = max(gate.until_s - now, 0.0)
        if not self.together or not gate.shut:
            return 0.0
        if self._law is None or not self._law.rates:  # there is nothing to fall back to
            return left_s + _CANARY_S
        if left_s < _TELL_CLOSED_S:
            return 0.0
        return left_s if gate.believes else min(left_s, LEASE_S) + _CANARY_S

    # --- what is heard -----------------------------------------------------------------------------------------------

    def hear(self, now: float, grant: Grant) -> tuple[Change, ...]:
        """Live by a grant, the answer to the last report; return what changed."""
        old = self.rate
        led, was = self.part.leads, self.together
        same = was and grant.born == self._born
        if not same:
            self._saw = 0
            self._rebase(grant)
        self._born, self.together, self.members = grant.born, True, grant.members
        self._lease_until_s = self._sent_s + LEASE_S
        self._news.arrived()
        self._hear_of_others(now, grant)
        self._slots.company = self._in_company
        fell = grant.epoch != self._epoch
        self._epoch = grant.epoch
        if fell and self.members > 1:
            for paced in self._limits.active:
                self._spread(paced, left_out=_CLEAR_CALLS / math.sqrt(self.members))
        part = self.part
        part.share, part.leads = max(grant.share, _LEAST), grant.leads
        part.closed_until_s = now + grant.closed_s if grant.closed_s > 0.0 else -NEVER
        if grant.law is not None:
            self._law = law = grant.law
            if not grant.leads:
                self._held = None
                follow(now, self._limits, law)
            elif not (led and was):
                self._held = None
                lead(now, self._limits, law)
            elif fell:
                before = retreat(self._limits, law)
                self._held = self._held or before
            part.others_slots = self._slots.limit - (grant.slots or 0)
        for paced in self._limits.axes:
            first = paced.budget.rate == NEVER
            paced.repace(now)
            if first and paced.budget.rate != NEVER and self._in_company:
                self._spread(paced)
        if grant.seen is not None and (grant.asked.number != self._saw or not same):
            self._saw = grant.asked.number
            self._see(now, grant.seen)
        self._hear_of_the_account(now, grant)
        self._hear_of_headers(now, grant)
        if not same or abs(self.rate - old) > _WORTH_TELLING * old:
            self._limits.tell(now, Axis.REQUESTS, old, self.rate, Reason.SHARED)
        self._hear_a_question(now, grant.asked)
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
        self._demand.forget()
        self._held = None
        self.together, self.members = False, 1
        part.alone()
        self._slots.company = False
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
        self._others_last, self._others_per_s = (requests, read, written), grant.others_per_s
        self.part.heard(now, self._others_last, grant.others_per_s)
        self.part.others_in_flight = grant.others_in_flight

    def _hear_a_question(self, now: float, asked: Asked) -> None:
        if self._asked is None or asked.number != self._asked.number:
            self._asked, self._asked_about_s = asked, now - asked.ago_s
            if asked.hurry:
                self.refresh_at = now

    def _spread(self, paced: PacedAxis, left_out: float = 0.0) -> None:
        """Have a part of a call, another than everybody else, or all who were held back would send at one moment."""
        budget = paced.budget
        if budget.level >= 0.0:
            part = (self._luck + _GOLDEN * self._epoch) % 1.0
            budget.refill((part - left_out) * self._limits.costs.unit(paced.axis))

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
                per_s = self._demand.per_s
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
        """Send nothing before there is a first word, for as long as one may take."""
        self.part.closed_until_s = now + REFRESH_S
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
        self._past.note(now, self._limits.costs.admitted, self.in_flight)
        self._demand.sent(ticket.priority)

    def reset_breaker(self, now: float) -> tuple[Change, ...]:
        """Close the breaker, and that of all others."""
        if self._breaker_s is not None:
            self._news.breaker, self.refresh_at = False, now
        return super().reset_breaker(now)

    def _others(self, now: float, ticket: Ticket, signal: RateLimitSignal) -> None:
        if signal.outcome is Outcome.RATE_LIMITED:
            self._past.rejected(ticket.admitted_s, (1.0, ticket.input_tokens or 0.0, ticket.output_tokens or 0.0))
        was_open = self._breaker_s is not None
        super()._others(now, ticket, signal)
        is_open = self._breaker_s is not None
        if is_open is not was_open:
            self._news.breaker, self.refresh_at = is_open, now

    def _observe(self, now: float, ticket: Ticket, limits: tuple[AxisLimit, ...], *, refused: bool) -> None:
        super()._observe(now, ticket, limits, refused=refused)
        for shown in limits:
            known = self._shown.get(shown.axis)
            whole = shown.limit is not None and shown.remaining is not None and shown.reset_s is not None
            if whole and shown.axis in self._limits.by_axis and (known is None or ticket.admitted_s > known[1]):
                self._shown[shown.axis] = shown, ticket.admitted_s

    def settle(self, now: float, ticket: Ticket, signal: RateLimitSignal) -> tuple[Change, ...]:
        """Take an admitted ticket back with what its attempt taught; return what changed and why."""
        changes = super().settle(now, ticket, signal)
        self._past.note(now, self._limits.costs.admitted, self.in_flight)
        return changes

    @property
    def _in_company(self) -> bool:
        return self.together and self.members > 1

    def _judge(self, now: float, ticket: Ticket, told_s: float | None, axis: Axis | None) -> None:
        """Pause, and tell the fleet: its leader judges."""
        if not self._in_company:
            super()._judge(now, ticket, told_s, axis)
            return
        self._news.rejected, self.refresh_at = (ticket.admitted_s, axis), now
        if ticket.in_flight >= self.concurrency and axis in (None, Axis.CONCURRENCY):  # its last slot was one too many
            self.part.others_slots += 1.0
            self._news.reopened = Reopened(now, 0.0)
        else:
            self._gate.windows = Windows()  # blocks here are as long as our turns are rare
            self._rejections.obey(now, ticket, told_s, axis)

    def _opens_again(self, now: float) -> None:
        """Tell the others of the opening, which the leader measures."""
        if self._in_company:
            self._news.reopened, self.refresh_at = self._rejections.passed_again(self._limits.requests), now
        else:
            super()._opens_again(now)

    def _see(self, now: float, seen: Seen) -> None:
        """Learn, as the leader, from what all were at one moment; judge the rejection that befell one of them then."""
        at_s, rejected, slots, limits = now - seen.ago_s, seen.rejected, self._slots, self._limits
        if self._held is not None:
            resume(now, limits, self._held)
            self._held = None
        for paced in limits.axes:
            paced.rule.noisy = self._in_company or self._rejections.noise.known
            paced.rule.sharing = Sharing()  # what comes early comes from us
        for number, in_flight in enumerate(seen.in_flight):
            if at_s - SAMPLE_S * number > self._settled_s and (number or rejected is None):
                slots.let_through(in_flight)
        if rejected is None or seen.reopened is None:
            return
        self._settled_s = self.refresh_at = now
        ticket = Ticket()
        ticket.admitted_s, ticket.number = at_s, self._rejections.calls - 1
        ticket.in_flight = seen.in_flight[0] + 1
        ticket.reserved_input = ticket.reserved_output = 0.0
        own, others = self._own_base, self._others_base
        requests, read, written = (seen.admitted[unit] + own[unit] - others[unit] for unit in range(3))
        admitted = {axis: on_axis(axis, requests, read, written) for axis in limits.by_axis}
        reopened = Reopened(now - seen.reopened.ago_s, seen.reopened.doubt_s)
        axis = None if rejected.axis is None else Axis(rejected.axis)
        self._rejections.judge_elsewhere(now, ticket, axis, reopened, admitted)
        inquiry = self._rejections.inquiry
        if inquiry is not None:
            inquiry.calls += math.ceil(_CLEAR_CALLS * math.sqrt(self.members))  # what all left out meanwhile
            if inquiry.calls > self.queued or self._law is None or not self._law.rates:  # nobody to ask, or to compare
                self._rejections.convict(now, at_s, None)
        for paced in limits.axes:
            paced.repace(now)
