"""What becomes of a rejection: whom it blames, whether it is believed, and what is measured once the provider opens.

A rejection goes through four hands. Headers may have foretold it (``mirror.py``); calls in flight may be to blame
(``slots.py``); it may be noise, which a few calls sent at once find out (``noise.py``); otherwise the provider is shut
(``gate.py``), and when it opens again the quota is measured (``openings.py``) and the rate set anew (``aimd.py``).

From the first rejection until the provider opens again is one *episode*: what else is rejected of the calls sent before
its end is no news.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from factflow_llm.ratelimit.aimd import Stage
from factflow_llm.ratelimit.costs import on_axis, reserved
from factflow_llm.ratelimit.gate import Gate
from factflow_llm.ratelimit.line import ADMITTED, NEVER
from factflow_llm.ratelimit.noise import Inquiry, Noise
from factflow_llm.ratelimit.openings import Opening
from factflow_llm.ratelimit.slots import NEWS_S
from factflow_llm.signals import Axis, Reason

if TYPE_CHECKING:
    from factflow_llm.ratelimit.axis import PacedAxis
    from factflow_llm.ratelimit.limits import Limits
    from factflow_llm.ratelimit.line import Ticket

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


class Reopened(NamedTuple):
    """The provider is open again.

    Attributes:
        opened_s: since when.
        doubt_s: how far off that may be.
    """

    opened_s: float
    doubt_s: float


class Rejections:
    """The episode under way, if there is one, and what earlier ones taught.

    Args:
        limits: what rejections cut, and what is measured anew after them.

    Attributes:
        gate: until when nobody sends.
        noise: whether rejections without a cause are known.
        inquiry: the question under way whether a rejection was noise.
        calls: how many were sent so far; their numbers run from 0.
        lag_s: how long a rejection takes to come back; 0 before the first.
        blamed: the axis that the episode is about; ``None`` where headers had foretold it, or slots were to blame.
        before: the number of the last call rejected, and what all axes had admitted before it.
    """

    __slots__ = (
        "_canary", "_elsewhere", "_limits", "_since", "_under_way", "before", "blamed", "calls", "gate",
        "inquiry", "lag_s", "noise",
    )  # fmt: skip

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.gate = Gate()
        self.noise = Noise()
        self.inquiry: Inquiry | None = None
        self.calls = 0
        self.lag_s = 0.0
        self.blamed: PacedAxis | None = None
        self.before: tuple[int, dict[Axis, float]] = (-1, {})
        self._since = 0  # the first call sent since the last rejections were dealt with
        self._canary: Ticket | None = None
        self._elsewhere: tuple[float, Reopened, dict[Axis, float]] | None = None  # what befell others
        self._under_way: deque[Ticket] = deque()

    def news_of(self, ticket: Ticket) -> bool:
        """Tell whether what became of a call can be news: it was sent since rejections were last dealt with."""
        return ticket.number >= self._since

    def asks_at(self, now: float, inquiry: Inquiry) -> float:
        """Return when an inquiry lets the next call go: now, while it asks, or once its answer is there."""
        return now if inquiry.sent < inquiry.calls else inquiry.sent_s + _SURE * self.lag_s

    # --- what calls and time do --------------------------------------------------------------------------------------

    def sent(self, now: float, ticket: Ticket) -> None:
        """Give a call its number; while the provider is thought to reject, it is the canary or one that asks."""
        ticket.number = self.calls
        ticket.rejected = False
        self.calls += 1
        gate, inquiry = self.gate, self.inquiry
        if gate.shut:
            gate.sent(ticket.number, now, _SURE * self.lag_s)
            self._canary = ticket
        elif inquiry is not None:
            inquiry.sent += 1
            inquiry.sent_s = now
        self._under_way.append(ticket)

    def passed(self, now: float) -> None:
        """Conclude from silence that calls were let through, and that nobody answers an inquiry any more."""
        under_way = self._under_way
        if under_way:
            heard_s = now - _SURE * (self.lag_s or NEWS_S)
            while under_way and (under_way[0].admitted_s <= heard_s or under_way[0].state is not ADMITTED):
                ticket = under_way.popleft()
                if ticket.number >= self._since and not ticket.rejected and not self._limits.slots.company:
                    self._limits.slots.let_through(ticket.in_flight)
        inquiry = self.inquiry
        if inquiry is not None and now >= inquiry.sent_s + _SURE * self.lag_s:
            if inquiry.sent >= inquiry.calls:
                self.answered(now, inquiry)
            elif now >= inquiry.expires_s:
                self.inquiry = None
                fresh = now < inquiry.expires_s + _FRESH_S
                if fresh and (inquiry.rejected or not inquiry.sent):  # nobody is left to ask: believe what was heard
                    self.convict(now, inquiry.rejected_s, inquiry.told_s)

    def reopened(self, now: float) -> Reopened:
        """Measure, for the canary was let through: the provider is open again."""
        reopened = self.passed_again(self.blamed)
        self._limits.slots.new_epoch()
        self._measure(now, reopened)
        return reopened

    def passed_again(self, paced: PacedAxis | None) -> Reopened:
        """Open the gate, for the canary was let through; ``paced`` is the axis it was about."""
        canary = self._canary
        assert canary is not None
        call_s = 0.0 if paced is None else self._limits.costs.unit(paced.axis) / paced.rule.measured.rate
        self._since = canary.number
        return Reopened(*self.gate.opened(canary.admitted_s, call_s))

    def new_epoch(self) -> None:
        """Take no rejection of what was sent so far for news."""
        self._since = self.calls
        self._limits.slots.new_epoch()

    def recount(self, read: float, written: float) -> None:
        """Count in what a call that was under way at the last rejection used beyond what it had named."""
        admitted = self.before[1]
        for axis in admitted:
            admitted[axis] += on_axis(axis, 0.0, read, written)

    # --- what rejections do ------------------------------------------------------------------------------------------

    def heard(self, now: float, ticket: Ticket, told_s: float | None) -> bool:
        """Take a rejection; return whether it begins an episode, and so has to be judged.

        Args:
            now: when it was heard.
            ticket: the rejected call.
            told_s: what its Retry-After said; ``None`` without one.
        """
        limits = self._limits
        ticket.rejected = True
        limits.costs.refund(ticket)
        limits.requests.budget.settle(1.0, 0.0)  # a rejected call took nothing
        self.lag_s = max(now - ticket.admitted_s, _LAG_FADES * self.lag_s, 1e-3)
        if ticket.number < self._since:
            return False
        if ticket.number > self.before[0]:
            self.before = ticket.number, {axis: limits.admitted_before(axis, ticket) for axis in limits.by_axis}
        gate, inquiry = self.gate, self.inquiry
        if gate.shut:
            if ticket.number == gate.canary:
                self._shut(now, ticket.admitted_s, told_s)
            elif gate.canary < 0:
                gate.rejected_too(ticket.admitted_s)
        elif inquiry is None:
            return True
        elif ticket.number > inquiry.number:
            self.asked(now, inquiry, ticket.admitted_s, told_s)
        return False

    def judge_elsewhere(
        self, now: float, ticket: Ticket, axis: Axis | None, reopened: Reopened, admitted: dict[Axis, float]
    ) -> None:
        """Judge what befell another process, for whom the provider has opened again since.

        Args:
            now: when it was heard.
            ticket: stands for the rejected call.
            axis: what it blamed by name.
            reopened: when the provider had opened again.
            admitted: what all had been admitted before it.
        """
        self._elsewhere = ticket.admitted_s, reopened, admitted
        self.judge(now, ticket, None, axis)

    def judge(self, now: float, ticket: Ticket, told_s: float | None, axis: Axis | None) -> None:
        """Say what the first rejection of an episode was about.

        Args:
            now: when it was heard.
            ticket: the rejected call.
            told_s: what its Retry-After said; ``None`` without one.
            axis: what it blamed by name; ``None`` when it did not.
        """
        limits = self._limits
        rates = [(paced, paced.rate) for paced in limits.axes]
        if self._foretold(now, ticket, axis):
            self.blamed = None
            self._shut(now, ticket.admitted_s, told_s)
            limits.moved(now, rates, Reason.RATE_LIMITED)
            return
        slots, old, in_flight = limits.slots, limits.slots.limit, ticket.in_flight
        if axis is Axis.CONCURRENCY or (axis is not Axis.REQUESTS and slots.blames(in_flight)):
            reason = slots.cut(now, in_flight, limits.round_trip_s or 0.0)
            self.new_epoch()
            for paced in limits.axes:
                paced.rule.search(now, limits.total(now, paced.axis))
            limits.tell(now, Axis.CONCURRENCY, old, slots.limit, reason)
            return
        if slots.limit != old:  # a wrong suspicion was taken back
            limits.tell(now, Axis.CONCURRENCY, old, slots.limit, Reason.RECOVER)
        before, paced = self.blamed, self._accused(axis)
        if axis is None and before is not None and before is not paced:
            before.rule.search(now, limits.total(now, before.axis))
        self.blamed = paced
        unit = limits.costs.unit(paced.axis)
        early = paced.rule.early(unit)
        askable = paced is limits.requests or not limits.costs.varied
        if askable and self.noise.asks(early=early, searching=paced.rule.stage is Stage.SEARCH):
            sent_after = self.calls - ticket.number - 1
            trickled = 0.0 if paced.rate == NEVER else paced.rate * self.lag_s / unit
            self.inquiry = Inquiry.about(ticket, told_s, now, sent_after=sent_after, trickled=trickled, early=early)
            return
        self.convict(now, ticket.admitted_s, told_s)

    def obey(self, now: float, ticket: Ticket, told_s: float | None, axis: Axis | None) -> None:
        """Shut the gate and learn nothing: that is left to somebody else."""
        self.blamed = None
        foretold, config = self._foretold(now, ticket, axis), self._limits.config
        self.gate.rejected(
            now, ticket.admitted_s, told_s, pause_s=config.cool_off_s, cap_s=config.cool_off_cap_s, lag_s=self.lag_s,
            obey=foretold,
        )  # fmt: skip

    def asked(self, now: float, inquiry: Inquiry, sent_s: float, told_s: float | None) -> None:
        """Take that one of the calls that ask was rejected."""
        inquiry.reject(sent_s, told_s)
        if inquiry.failed:
            self.answered(now, inquiry)

    def answered(self, now: float, inquiry: Inquiry) -> None:
        """Take the answer to an inquiry: forgive the rejection, or believe it."""
        self.inquiry = None
        if not self.noise.found(inquiry):
            self.convict(now, inquiry.rejected_s, inquiry.told_s)
        for paced in self._limits.axes:
            paced.rule.noisy = self.noise.known

    def _foretold(self, now: float, ticket: Ticket, axis: Axis | None) -> bool:
        """Tell whether a mirror had shown the budget to be empty; one that had not turns blind."""
        foretold = False
        for paced in self._limits.axes:
            mirror = paced.mirror
            if mirror is not None and not mirror.blind and axis in (None, paced.axis):
                foretold |= mirror.rejected(now, reserved(paced.axis, ticket))
        return foretold

    def _accused(self, axis: Axis | None) -> PacedAxis:
        limits = self._limits
        if axis is None and limits.costs.large_are_rejected:
            return limits.by_axis[Axis.TOKENS]
        return limits.requests if axis is None or axis is Axis.CONCURRENCY else limits.by_axis[axis]

    def convict(self, now: float, sent_s: float, told_s: float | None) -> None:
        """Believe that the budget is spent: shut the gate until a canary is let through, if it did not open already."""
        paced, limits, elsewhere = self.blamed, self._limits, self._elsewhere
        assert paced is not None
        self.inquiry = self._elsewhere = None
        admitted, unit = self.before[1], limits.costs.unit(paced.axis)
        if elsewhere is not None:
            sent_s, reopened, admitted = elsewhere
            self.before = self.calls - 1, admitted
        paced.rule.rejected(now, sent_s, admitted[paced.axis], unit, spare=paced.spare)
        if elsewhere is not None:
            self.new_epoch()
            self._measure(now, reopened)
            return
        self._shut(now, sent_s, told_s)
        limits.tell(now, paced.axis, paced.rate, paced.rate, Reason.COOL_OFF)

    def _shut(self, now: float, sent_s: float, told_s: float | None) -> None:
        limits, paced = self._limits, self.blamed
        config = limits.config
        pause_s = min(max(config.cool_off_s, _PAUSE_CALLS / limits.rate), _PAUSE_MOST_S)
        if paced is None:  # headers had foretold it, which a Retry-After only confirms
            obey = True
        else:  # where the provider looks back, a call of a minute ago must expire first
            obey = paced.rule.lookback.quota > 0.0 or (paced is not limits.requests and limits.costs.varied)
        self.gate.rejected(
            now, sent_s, told_s, pause_s=pause_s, cap_s=config.cool_off_cap_s, lag_s=self.lag_s, obey=obey
        )

    def _measure(self, now: float, reopened: Reopened) -> None:
        """Measure the blamed axis, if one is."""
        paced, limits = self.blamed, self._limits
        if paced is None:
            return
        old, unit, admitted = paced.rate, limits.costs.unit(paced.axis), self.before[1][paced.axis]
        rule, opened_s = paced.rule, reopened.opened_s
        windows = self.gate.windows
        period_s = windows.period_s if windows.known else 0.0
        rule.opened(Opening(opened_s, admitted, reopened.doubt_s), unit, period_s=period_s)
        reserve = unit if paced is not limits.requests and limits.costs.varied else 0.0
        paced.reopen(now, opened_s, limits.total(now, paced.axis) - admitted + reserve)
        limits.pace()
        limits.next_step_s = min(limits.next_step_s, rule.next_step_s)
        limits.tell(now, paced.axis, old, paced.rate, Reason.RATE_LIMITED)
