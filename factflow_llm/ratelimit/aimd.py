"""The rule by which a rate moves around what was measured: a tooth that climbs through it, or a search away from it.

::

    rate
      |                     search: more was admitted than the measurement explains, double until rejected
      |                   /
      |  measured ----+--/------x-----   x = rejection: measure anew, restart a little below
      |           _.-'  |    _.-'
      |   ___.--''      |.--'' tooth: a straight climb to what was measured, faster and faster above it
      +---------------------------------> time

A measurement that rests on a few calls is no reason to wait: the rate is searched from there. Nothing moves while
demand, not the limit, is what binds. Time is an argument everywhere; units are requests or tokens.
"""

from __future__ import annotations

import math
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Final

from factflow_llm.ratelimit.lookback import PERIOD_S, Lookback
from factflow_llm.ratelimit.openings import SOUND, Opening, Openings
from factflow_llm.ratelimit.sharing import EARLY, Sharing
from factflow_llm.ratelimit.windows import is_long
from factflow_llm.signals import Reason

if TYPE_CHECKING:
    from factflow_llm.ratelimit.config import RateLimitConfig

_CONVEX: Final = 2.0
"""How fast the climb above the measured rate steepens."""
_STALE_S: Final = 1.0
"""Seconds' worth of the measured rate that, admitted on top of it, prove it stale, beside what was usual before."""
_STALE_CALLS: Final = 5.0
"""The same for small quotas, in calls."""
_USED: Final = 0.8
"""The share of the rate that must really have been sent for the limit to count as used."""
_IDLE: Final = 0.1
"""The share of the time since an opening that may go unused before a sample is no more than a lower bound."""
_BELIEVED_TEETH: Final = 8
"""Teeth for which a sample is believed once a higher rate than sampled was rejected early."""
_RAISED_WRONGLY: Final = 0.99
"""A raised rate was wrong, if the next sample is less than this share of it."""
_LOST: Final = 0.5
"""Calls fewer than measured at a rejection which say that what was not used was lost."""
_RAISE_SURE: Final = 1.03
_RAISE_UNSURE: Final = 1.25
"""How far a rate that was lost is raised above its sample, at most."""
_SHARED_DEPTH: Final = 0.06
"""How deep a cut is, at least, where others draw on the quota."""
_SHARED_CLIMB_S: Final = 15.0
"""How long a climb lasts there at one call a second; it grows with the root of the rate, so that shares draw level."""
_SHARED_CLIMB_CALLS: Final = 20.0
"""The least it lasts for the smallest of shares."""
_SHARED_SEARCH_S: Final = 5.0
"""How long a search takes to double there, at least: it robs the others."""
_STALE_SHARED_S: Final = 2.0
"""Seconds' worth that prove a measurement stale there: others leave room for a moment, too."""
_SEARCH_UNITS: Final = 1.5
"""A search for tokens doubles in the time of so many typical calls, for nothing is heard sooner."""
_FORGET_WINDOW: Final = 3
"""Openings in a row without a long block, after which the window is forgotten."""
_CAREFUL: Final = 0.9
"""What is used of a burst that the provider was seen to hold."""
_LEAST_TOKENS_PER_S: Final = 1.0
"""No token axis is paced more slowly than this, whatever was measured."""
_RECENT_S: Final = 30.0
"""How far back a first rejection looks for a rate."""
_STEPS: Final = 20.0
"""Steps in which a climb or a doubling is made."""


class Stage(Enum):
    """Where a rule stands: no evidence yet, climbing through what was measured, or doubling away from it."""

    OPEN = "open"
    PROBE = "probe"
    SEARCH = "search"


class RateRule:
    """One axis' rate: what it is and how it moves.

    Attributes:
        rate: units per second allowed now; ``inf`` while there is no evidence.
        measured: what the quota was measured to be.
        sharing: whether others draw on it.
        lookback: what the last minute held, and whether the provider counts that.
        stage: where the rule stands.
        burst: units that the provider was seen to hold for those who were idle.
        noisy: whether rejections without a cause are known: then teeth are longer, for each end costs more.
        next_step_s: when ``step`` has something to do.
    """

    __slots__ = (
        "_began_s", "_believed", "_climbed", "_climbing_s", "_config", "_first", "_mark", "_marks", "_net",
        "_of_requests", "_older_mark", "_period_began", "_period_s", "_raised", "_rejected_rate", "_rejected_s",
        "_shut", "_slack", "_step_s", "_step_sent", "_unblocked", "_unused_s", "_window_s", "_within", "burst",
        "lookback", "measured", "next_step_s", "noisy", "rate", "sharing", "stage",
    )  # fmt: skip

    def __init__(
        self,
        config: RateLimitConfig,
        *,
        now: float,
        sent: float = 0.0,
        known: float = math.inf,
        of_requests: bool = True,
    ) -> None:
        """Start open, or at ``known`` when the settings name the quota, which bound a rate ``of_requests``."""
        self._config = config
        self._of_requests = of_requests
        self.measured = Openings(known)
        self.sharing = Sharing()
        self.lookback = Lookback()
        self.stage = Stage.OPEN if known == math.inf else Stage.PROBE
        self.rate = self.bounded(known)
        self.burst = 0.0
        self.noisy = self._shut = False
        self._began_s = self._step_s = self.next_step_s = now
        self._step_sent = sent
        self._mark = self._older_mark = (now, sent)
        self._marks: deque[tuple[float, float]] = deque()  # what was sent by when, two windows back
        self._first: tuple[float, float] | None = None  # units and seconds until the first rejection of all
        self._net = self._unused_s = self._slack = self._window_s = self._rejected_s = self._rejected_rate = 0.0
        self._climbed = self._raised = self._period_s = self._within = 0.0
        self._period_began = Opening(now, sent)
        self._believed = self._unblocked = 0
        self._climbing_s = self._climb_s(1.0)  # a known quota is stood at, not climbed to

    def retune(self, config: RateLimitConfig) -> None:
        """Take new settings and keep what was learned, within their bounds."""
        self._config = config
        self.rate = self.bounded(math.inf if self.stage is Stage.OPEN else self.rate)

    # --- what is heard -----------------------------------------------------------------------------------------------

    def early(self, unit: float) -> bool:
        """Tell whether a rejection now would come before its time."""
        return self.stage is Stage.OPEN or (
            self.stage is Stage.PROBE and self._climbing_s < EARLY * self._climb_s(unit)
        )

    def rejected(self, now: float, sent_s: float, admitted: float, unit: float, *, spare: float) -> None:
        """Note that the provider shut.

        Args:
            now: when that was heard.
            sent_s: when the rejected call was sent.
            admitted: units admitted before it, in all.
            unit: units of a typical call.
            spare: units that the budget should have held.
        """
        self._rejected_s, self._rejected_rate = sent_s, self.rate
        self._within = self.lookback.within(sent_s, admitted)
        if spare > 3.0 * unit + 0.1 * self.burst:
            self.burst = _CAREFUL * max(self.burst - spare, 0.0)
        if self.stage is Stage.OPEN:
            if self.measured.last is None:
                self._first = self._first or (admitted, sent_s - self._began_s)
                since_s, mark = self._older_mark
                if admitted - mark > unit:
                    self.measured.guess(max((admitted - mark) / max(now - since_s, 1.0), 1e-6))
        else:
            self._net += admitted - self._step_sent - self.measured.rate * (sent_s - self._step_s)
        self._climbed = self._climbing_s / self._climb_s(unit)
        self._shut, self.next_step_s = True, math.inf

    def opened(self, opening: Opening, unit: float, *, period_s: float = 0.0) -> None:
        """Measure, and begin a tooth: the provider admits again, ``period_s`` after it last did if it is known."""
        self._period_s = period_s
        self._period_began = opening
        measured, last = self.measured, self.measured.last
        recent = 0.0
        if self.stage is Stage.SEARCH:
            since_s, mark = self._older_mark
            recent = min((opening.admitted - mark) / max(opening.time_s - since_s, 1e-3), self.rate)
        used = last is None or self._unused_s <= _IDLE * (opening.time_s - last.time_s)
        probed = self.stage is Stage.PROBE
        agrees = measured.opened(opening, unit, used=used, recent=recent)
        self.lookback.learn(self._rejected_s, self._within, unit, contradicted=not agrees)
        if self.lookback.quota:
            measured.know(self.lookback.quota / PERIOD_S)
            self.sharing = Sharing()
        elif agrees:
            self._slack = 0.5 * (self._slack + max(self._net, 0.0))
            if probed and not self._window_s:  # a rejection without a cause comes early, too
                self.sharing = Sharing() if self.noisy else self.sharing.after(self._climbed)
        if probed:
            wrong = self._climbed < EARLY or measured.rate < _RAISED_WRONGLY * self._raised
            self._believed = _BELIEVED_TEETH if wrong else max(self._believed - 1, 0)
        self._raised = 0.0
        if measured.rate != math.inf:
            if last is not None and not self.lookback.quota:
                self._notice_window(opening, last, unit)
            if self._first is not None and measured.sound:
                self._remember_burst(*self._first)
                self._first = None
            if self._window_s:
                self.burst = 0.0
            elif probed and self._net < -_LOST * unit and not self.lookback.quota:
                self._raise_lost()
            measured.rate = self.bounded(measured.rate)
            self.stage = Stage.PROBE if measured.sound else Stage.SEARCH
            self.rate = self.bounded(measured.rate * (1.0 - self._depth))
        self._unused_s, self._shut = 0.0, False
        self._mark = self._older_mark = (opening.time_s, opening.admitted)
        self._net = self._climbing_s = 0.0
        self._step_s = self.next_step_s = opening.time_s
        self._step_sent = opening.admitted

    def _remember_burst(self, units: float, elapsed_s: float) -> None:
        """Take what the first rejection of all came too late for the rate to explain: the provider held it."""
        self.burst = _CAREFUL * max(units - self.measured.rate * elapsed_s, 0.0)

    def _raise_lost(self) -> None:
        """Raise the rate to what was rejected: where what is not used is lost, less is admitted than there is.

        Of a quota that fell or is shared, this is found out at once, by an early rejection, and not tried again soon.
        """
        if self._believed or self.sharing.shared:
            return
        measured = self.measured
        most = (_RAISE_SURE if measured.sound else _RAISE_UNSURE) * measured.rate
        reached = min(self._rejected_rate / (1.0 + 0.5 * self._depth), most)
        if reached > measured.rate:
            measured.rate = self._raised = reached

    def _notice_window(self, opening: Opening, last: Opening, unit: float) -> None:
        """Take the time between two long blocks for the provider's window; forget it when no more of them come.

        Of windows that nobody was rejected in, the last was filled: what was sent in it is the quota.
        """
        blocked_s, elapsed_s = opening.time_s - self._rejected_s, opening.time_s - last.time_s
        if is_long(blocked_s, unit / max(self.measured.rate, 1e-9)):
            self._window_s, self._unblocked = min(self._window_s or math.inf, elapsed_s), 0
        elif self._window_s:
            self._unblocked += 1
            if self._unblocked >= _FORGET_WINDOW:
                self._window_s = 0.0
        if self._period_s:
            self._window_s = self._period_s
        if self._window_s and self._marks and elapsed_s > 1.5 * self._window_s:
            began_s = opening.time_s - self._window_s
            sent = self._sent_by(began_s)
            if opening.admitted - sent > self.measured.rate * self._window_s:
                if self._period_s:
                    self.measured.count_from(Opening(began_s, sent), unit)
                else:
                    self.measured.rate = (opening.admitted - sent) / self._window_s

    def _sent_by(self, time_s: float) -> float:
        """Return about how much had been sent by then."""
        older = self._marks[0]
        for mark in self._marks:
            if mark[0] >= time_s:
                share = (time_s - older[0]) / max(mark[0] - older[0], 1e-9)
                return older[1] + min(max(share, 0.0), 1.0) * (mark[1] - older[1])
            older = mark
        return older[1]

    def search(self, now: float, sent: float) -> None:
        """Doubt what was measured, for rejections were about something else: double until one that is about it."""
        if self.stage is Stage.PROBE:
            self.stage, self._mark, self._older_mark = Stage.SEARCH, (now, sent), (now, sent)

    # --- how time moves it -------------------------------------------------------------------------------------------

    def step(self, now: float, sent: float, *, limited: bool, unit: float = 1.0) -> Reason | None:
        """Move on to ``now``; the rate moves only if the limit was what held calls back. Return why, if it moved."""
        dt, units = now - self._step_s, sent - self._step_sent
        if dt <= 0.0 or self._shut:
            return None
        if self._period_s:
            self._enter_period(now, sent)
        self._step_s, self._step_sent = now, sent
        if self.stage is Stage.OPEN:
            self._older_mark, self._mark = self._mark, (now, sent)
            self.next_step_s = now + _RECENT_S
            return None
        before, measured = self.rate, self.measured.rate
        climb_s, search_s = self._climb_s(unit), self._search_s(unit)
        self.next_step_s = now + (search_s if self.stage is Stage.SEARCH else climb_s) / _STEPS
        self._keep_mark(now, sent)
        self._net = max(self._net + units - measured * dt, -measured * climb_s)
        if not limited:
            most = (units + unit) / _USED
            if most < dt * (min(before, measured) if self._of_requests else before):  # a search leaves demand behind
                self._unused_s += dt
            if most < dt * before:
                return None
        if self.stage is Stage.SEARCH:
            rate = before * 2.0 ** (dt / search_s)
            if now - self._mark[0] >= search_s:
                self._older_mark, self._mark = self._mark, (now, sent)
        else:
            self._climbing_s += dt
            below = max(1.0 - self._climbing_s / climb_s, 0.0)
            above = max(self._climbing_s / climb_s - 1.0, 0.0)
            rate = max(before, measured * (1.0 + self._depth * (above + _CONVEX * above * above - below)))
            if self._excess(now, sent) > max(
                (_STALE_SHARED_S if self.sharing.shared else _STALE_S) * measured, _STALE_CALLS * unit
            ):
                self.search(now, sent)
                self.next_step_s = now + search_s / _STEPS
        self.rate = self.bounded(rate)
        if self.rate == before:
            return None
        return Reason.PROBE if self.stage is Stage.PROBE else Reason.RECOVER

    def _enter_period(self, now: float, sent: float) -> None:
        """Note how much had been sent when the last period began."""
        periods = math.floor((now - self._period_began.time_s) / self._period_s)
        if periods >= 1:
            began_s = self._period_began.time_s + periods * self._period_s
            share = min(max((began_s - self._step_s) / (now - self._step_s), 0.0), 1.0)
            self._period_began = Opening(began_s, self._step_sent + share * (sent - self._step_sent))

    def _excess(self, now: float, sent: float) -> float:
        """Return the units admitted beyond what is explained: in this window, this minute, or since the opening."""
        if self.lookback.quota:
            return self.lookback.within(now, sent) - self.lookback.quota
        if self._period_s:
            return sent - self._period_began.admitted - self.measured.rate * self._period_s
        return self._net - 1.2 * self._slack

    def _keep_mark(self, now: float, sent: float) -> None:
        marks = self._marks
        marks.append((now, sent))
        while len(marks) > 1 and marks[1][0] <= now - 2.0 * self._window_s:
            marks.popleft()

    def _search_s(self, unit: float) -> float:
        """Return how long a search takes to double: a call worth half a minute of tokens is waited for."""
        seconds = self._config.search_s
        if self.sharing.shared:
            seconds = max(seconds, _SHARED_SEARCH_S)
        if self._of_requests:  # where a window holds too few calls to measure anything, it is waited for
            few = not self.measured.sound and self.measured.rate * self._window_s < SOUND * unit
            return max(seconds, self._window_s) if few else seconds
        return max(seconds, min(_SEARCH_UNITS * unit / self.rate, self._config.cool_off_cap_s / 2.0))

    def _climb_s(self, unit: float) -> float:
        """Return how long a climb from a cut to the measured rate lasts."""
        rate, config = self.measured.rate, self._config
        if rate == math.inf:
            return config.probe_s
        if self.sharing.shared:
            return max(_SHARED_CLIMB_S * math.sqrt(rate / unit), config.probe_s, _SHARED_CLIMB_CALLS * unit / rate)
        calls = config.probe_requests if self._of_requests else config.probe_requests / 3.0  # tokens move more at once
        return (2.0 if self.noisy else 1.0) * max(config.probe_s, calls * unit / rate, 0.5 * self._window_s)

    @property
    def _depth(self) -> float:
        depth = 1.0 - self._config.decrease
        return max(depth, _SHARED_DEPTH) if self.sharing.shared else depth

    def bounded(self, rate: float) -> float:
        """Return the rate within the settings' bounds."""
        if not self._of_requests:
            return max(rate, _LEAST_TOKENS_PER_S)
        config = self._config
        top = config.max_requests_per_minute
        bounded = max(rate, config.min_requests_per_minute / 60.0)
        return bounded if top is None else min(bounded, top / 60.0)
