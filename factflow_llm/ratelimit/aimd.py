"""The rule by which a rate moves: additive increase, multiplicative decrease, around a measured ceiling.

A rejection tells more than "too much": the provider's budget is empty *now*. What was admitted between two moments at
which it opened again after being empty, divided by the time between them, is the quota itself: of a bucket, whatever
its burst, and of a window, for whole windows lie between. That measured rate is the *ceiling*. After a rejection (a
*cut*) the rate restarts a little below the ceiling and climbs through it::

    rate
      |                     search: the ceiling proved stale, double until the next rejection
      |                   /
      |   ceiling ----+--/------x-----   x = rejection: measure anew, restart at decrease * ceiling
      |           _.-'  |    _.-'
      |   ___.--''      |.--'' probe: a straight climb to the ceiling, faster and faster above it
      +---------------------------------> time

Nothing moves while demand, not the limit, is what binds. Time constants follow the quota (so many requests per climb)
and the provider's window, once a long block has shown that there is one. A ceiling that was confirmed is tried half as
often. Where others draw on the same quota, all cut deeper and climb for the same time, however large their shares: who
has more is refused more often, so shares draw level.

Time is an argument everywhere; units are requests or tokens. What was sent is handed in as a running total, of which
the rule remembers marks.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from factflow_llm.ratelimit.sharing import Sharing, came_early
from factflow_llm.signals import Reason

if TYPE_CHECKING:
    from factflow_llm.ratelimit.config import RateLimitConfig

SOUND_SAMPLE = 20
"""Calls admitted between two cuts from which a quota can be measured; with fewer, one call more or less is over 5 %."""
_PRIOR_CALLS = 5.0
"""What the old ceiling weighs, in calls, against a measurement that is not sound."""
_GROWN = 1.4
"""A search that was admitted at so many times the measured rate has found a larger quota, not a full bucket."""
_SHORT_BLOCK_S = 1.0
"""A provider shut for longer than this meters by windows, and what was admitted lately is no rate."""
_WINDOW_BLOCK_S = 0.4
"""A provider shut for longer than this, and than three calls take, is waiting for its window to end."""
_FORGET_WINDOW = 3
"""Sound cuts in a row without such a block, after which the window is forgotten."""
_EARLY = 0.3
"""Of the time between a refusal and the next admission, the share after which the provider is taken to have opened."""
_WHOLE = 0.05
"""So near to a whole number of windows counts as one."""
_USED = 0.8
"""The share of the rate that must really have been sent for the limit to count as used."""
_UNUSED_CLIMBS = 1.0
"""Not used for so many climbs, a limit has measured no more than that the quota is not smaller than what was sent."""
_CONVEX = 2.0
"""How fast the climb above the ceiling steepens."""
_STALE_S = 2.0
"""Seconds' worth of the ceiling that, admitted on top of it, prove it stale; more where more was normal before."""
_STALE_CALLS = 8.0
"""The same for small quotas, in calls."""
_LEAST_TOKENS_PER_S = 1.0
"""No token axis is paced more slowly than this, whatever was measured."""
_CONFIRMED_CLIMB = 2.0
"""A confirmed ceiling is climbed to in so many times the time."""
_CLOSE = 0.1
"""A measurement so near to the ceiling confirms it."""
_SHARED_DEPTH = 0.06
"""How deep a cut is, at least, where others draw on the quota."""
_SHARED_CLIMB_S = 30.0
"""How long a climb lasts there, for all alike."""
_SHARED_CLIMB_CALLS = 20.0
"""The least it lasts for the smallest of shares."""
_DOUBTFUL = 0.4
"""With more doubt than this, what was reached counts for nothing beside what was measured."""
_DOUBT_FADES = 0.9
"""What a refusal above the ceiling leaves of the doubt that one below it raised: nine of them end it."""
_LIKELY = 0.8
"""A measurement that is not sound but at least so much of the ceiling does not contradict it."""
_FEW_CALLS = 5.0
"""The fewest calls that say anything."""
_STEPS_PER_CLIMB = 20.0
_OPEN_WINDOW_S = 60.0
"""How far back the first rejection of all looks: the minute for which most quotas are quoted."""


class Mode(Enum):
    """Where a rule stands: no evidence yet, climbing around a ceiling, or doubling away from a stale one."""

    OPEN = "open"
    PROBE = "probe"
    SEARCH = "search"


class _Cut(NamedTuple):
    """What a ceiling is measured from; kept until it is known when the provider opened again.

    ``recent`` is the rate admitted since the search last doubled, at ``recent_since_s``; ``net`` what was sent beyond
    the ceiling since the last cut; ``slack`` what such an excess used to be; ``climbed`` how many times the climb to
    the ceiling was behind it.
    """

    time_s: float
    since_s: float
    mode: Mode
    ceiling: float
    rate: float
    admitted: float
    recent: float
    recent_since_s: float
    net: float
    slack: float
    climbed: float
    sharing: Sharing


class RateRule:
    """One axis' rate: what it is, what it remembers, how it moves.

    Attributes:
        rate: units per second allowed now; ``inf`` while there is no evidence.
        ceiling: units per second measured between rejections; ``inf`` likewise.
        mode: where the rule stands.
        next_step_s: when ``step`` has something to do.
    """

    __slots__ = (
        "_climbing_s", "_config", "_confirmed", "_cut", "_cut_sent", "_doubt", "_mark", "_net", "_of_requests",
        "_older_mark", "_opened_s", "_sharing", "_shut_s", "_slack", "_step_s", "_step_sent", "_unblocked_cuts",
        "_unused_s", "_window_s", "ceiling", "mode", "next_step_s", "rate",
    )  # fmt: skip

    def __init__(
        self,
        config: RateLimitConfig,
        *,
        now: float,
        sent: float = 0.0,
        ceiling: float = math.inf,
        of_requests: bool = True,
    ) -> None:
        """Start open, or at ``ceiling`` when the quota is known; the settings bound a rate ``of_requests``."""
        self._config = config
        self._of_requests = of_requests
        self.mode = Mode.OPEN if ceiling == math.inf else Mode.PROBE
        self._window_s = 0.0
        self._confirmed = False
        self._sharing = Sharing()
        self.ceiling = ceiling
        self.rate = self.bounded(ceiling)
        self._slack = self._net = self._unused_s = self._doubt = 0.0
        self._climbing_s = self._climb_s(1.0)  # a known quota is stood at, not climbed to
        self._mark = self._older_mark = (now, sent)
        self._step_s = self.next_step_s = self._opened_s = now
        self._step_sent = self._cut_sent = sent
        self._cut: _Cut | None = None
        self._shut_s = math.nan
        self._unblocked_cuts = 0

    def retune(self, config: RateLimitConfig) -> None:
        """Take new settings and keep what was learned, within their bounds."""
        self._config = config
        free = self.mode is Mode.OPEN
        self.ceiling = math.inf if free else self.bounded(self.ceiling)
        self.rate = self.bounded(math.inf if free else self.rate)

    def cut(
        self,
        now: float,
        sent_s: float,
        sent: float,
        admitted_to: float,
        *,
        unit: float = 1.0,
        retry_after_s: float | None = None,
    ) -> Reason:
        """Learn from the rejection of something sent since the last cut.

        Args:
            now: when the rejection arrived, in seconds.
            sent_s: when the rejected call was sent.
            sent: running total of units sent.
            admitted_to: running total of units sent before the rejected call; what came later has hardly fared better.
            unit: units of a typical call.
            retry_after_s: when the provider says it will admit again; ``None`` when it does not.

        Returns:
            ``RATE_LIMITED``; or ``COOL_OFF``, with nothing moved, when not one unit was admitted since the last cut:
            the provider is shut, which says nothing about its rate.
        """
        admitted, since_s, recent, recent_since_s = admitted_to - self._cut_sent, self._opened_s, 0.0, now
        if self.mode is not Mode.OPEN and admitted < 0.5 * unit:
            self._shut_s = sent_s
            self._cut_sent = self._step_sent = sent
            self._step_s = now
            return Reason.COOL_OFF
        if self.mode is Mode.OPEN:
            since_s, mark = self._older_mark
            admitted = admitted_to - mark
            sent_s = now
        elif self.mode is Mode.SEARCH:
            recent_since_s, mark = self._mark
            recent = (admitted_to - mark) / max(now - recent_since_s, 1e-3)
        self._cut = _Cut(
            time_s=now,
            since_s=since_s,
            mode=self.mode,
            ceiling=self.ceiling,
            rate=self.rate,
            admitted=max(admitted, unit),
            recent=recent,
            recent_since_s=recent_since_s,
            net=self._net,
            slack=self._slack,
            climbed=self._climbing_s / self._climb_s(unit),
            sharing=self._sharing,
        )
        self._measure(self._cut, sent_s + (retry_after_s or 0.0), unit)
        if self.mode is Mode.PROBE:
            self._doubt = 1.0 if came_early(self._cut.climbed) else _DOUBT_FADES * self._doubt
        self._opened_s = max(self._opened_s, now)
        self._shut_s = math.nan
        self.mode = Mode.SEARCH if self.mode is Mode.OPEN else Mode.PROBE
        self._mark = (now, sent)
        self._net = self._climbing_s = 0.0
        self._step_s = self.next_step_s = now
        self._cut_sent = self._step_sent = sent
        return Reason.RATE_LIMITED

    def admitted_again(self, sent_s: float, unit: float = 1.0) -> bool:
        """Note that the first call sent after a cut was admitted; return whether that changed the rate.

        If others had been refused in between, the provider opened somewhere between the last of them and this call. The
        ceiling takes it to have been early: one that is too high is found out at once, one too low only by a climb.
        """
        if self._cut is None or math.isnan(self._shut_s):
            return False
        before, blocked_s = self.rate, self._shut_s - self._cut.time_s
        unknown_s = sent_s - self._shut_s
        self._measure(self._cut, self._shut_s + _EARLY * unknown_s, unit)
        self._opened_s = self._shut_s + 0.5 * unknown_s
        if blocked_s > _SHORT_BLOCK_S:
            self.mode = Mode.PROBE  # a window was seen from its beginning to its end: nothing is left to search for
        self._shut_s = math.nan
        return self.rate != before

    def step(self, now: float, sent: float, *, limited: bool, unit: float = 1.0) -> Reason | None:
        """Move on to ``now``; the rate moves only if the limit was what held calls back. Return why, if it moved."""
        dt, units = now - self._step_s, sent - self._step_sent
        self._step_s, self._step_sent = now, sent
        if self.mode is Mode.OPEN:
            self._older_mark, self._mark = self._mark, (now, sent)
            self.next_step_s = now + _OPEN_WINDOW_S
            return None
        config, ceiling, before = self._config, self.ceiling, self.rate
        climb_s, probe_s = self._climb_s(unit), self._probe_s(unit)
        self.next_step_s = now + probe_s / _STEPS_PER_CLIMB
        self._net = max(self._net + units - ceiling * dt, -ceiling * climb_s)
        if not limited or units + unit < _USED * before * dt:
            self._unused_s += dt
            if self._unused_s > _UNUSED_CLIMBS * climb_s:
                sample_s = now - self._opened_s
                if sample_s > climb_s:
                    self.ceiling = self.bounded(max(self.ceiling, (sent - self._cut_sent) / sample_s))
                self._opened_s, self._cut_sent = now, sent
            return None
        self._unused_s = 0.0
        if self.mode is Mode.PROBE:
            self._climbing_s += dt
            below = max(1.0 - self._climbing_s / climb_s, 0.0)
            above = max(self._climbing_s - climb_s, 0.0) / probe_s
            rate = max(before, ceiling * (1.0 + self._depth * (above + _CONVEX * above * above - below)))
            if self._net > max(2.0 * self._slack, _STALE_S * ceiling, _STALE_CALLS * unit):
                self.mode, self._mark, self._confirmed = Mode.SEARCH, (now, sent), False
        else:
            doubling_s = max(config.search_s, 8.0 * unit / before, self._window_s)
            rate = before * 2.0 ** (dt / doubling_s)
            if now - self._mark[0] >= doubling_s:
                self._mark = (now, sent)
        self.rate = self.bounded(rate)
        if self.rate == before:
            return None
        return Reason.PROBE if self.mode is Mode.PROBE else Reason.RECOVER

    def search(self, now: float, sent: float) -> None:
        """Doubt the ceiling, for refusals were about something else: double until the next one that is about it."""
        if self.mode is Mode.PROBE:
            self.mode, self._mark = Mode.SEARCH, (now, sent)

    def _climb_s(self, unit: float) -> float:
        """Return how long a climb from a cut to the ceiling lasts."""
        calm = self._confirmed and not self._window_s and not self._sharing.shared
        return (_CONFIRMED_CLIMB if calm else 1.0) * self._probe_s(unit)

    def _probe_s(self, unit: float) -> float:
        """Return the time scale of a probe: that of the climb above the ceiling, and of one to it that is in doubt."""
        config = self._config
        if self._sharing.shared and not self._window_s:
            return max(_SHARED_CLIMB_S, config.probe_s, _SHARED_CLIMB_CALLS * unit / self.ceiling)
        return max(config.probe_s, config.probe_requests * unit / self.ceiling, 3.0 * self._window_s)

    @property
    def _depth(self) -> float:
        """What a cut takes off the ceiling: half where a window refills all at once, for no debt need be worked off."""
        return 0.5 * (1.0 - self._config.decrease) if self._window_s else self._bucket_depth(self._sharing)

    def _bucket_depth(self, sharing: Sharing) -> float:
        depth = 1.0 - self._config.decrease
        return max(depth, _SHARED_DEPTH) if sharing.shared else depth

    def _measure(self, cut: _Cut, opened_s: float, unit: float) -> None:
        """Set the ceiling to what was admitted between the provider's last two openings, per second."""
        elapsed_s = max(opened_s - cut.since_s, 1e-3)
        measured = cut.admitted / elapsed_s
        sound = cut.admitted >= SOUND_SAMPLE * unit
        blocked_s = opened_s - cut.time_s
        close = abs(measured - cut.ceiling) < _CLOSE * cut.ceiling
        likely = cut.admitted >= _FEW_CALLS * unit and measured > _LIKELY * cut.ceiling
        if cut.mode is Mode.PROBE and not self._window_s and (close if sound else likely):
            self._sharing = cut.sharing.after(cut.climbed)
        if cut.mode is Mode.OPEN:
            ceiling = measured
        elif not sound:
            weighed = (cut.admitted + _PRIOR_CALLS * unit) / (elapsed_s + _PRIOR_CALLS * unit / cut.ceiling)
            least = 0.25 if cut.mode is Mode.SEARCH else 0.5  # a search ends where nothing is known yet
            ceiling = min(max(weighed, least * cut.ceiling), 0.95 * cut.ceiling)
        elif cut.recent > _GROWN * measured and blocked_s < _SHORT_BLOCK_S:
            ceiling = min(cut.recent, cut.rate)
        else:
            self._confirmed = close
            ceiling = 0.5 * (cut.ceiling + measured) if close else min(measured, cut.rate)
            ceiling = max(ceiling, self._reached(cut, measured, blocked_s))
            if cut.recent > 0.0 and opened_s > cut.recent_since_s:
                # the end of a search: what filled the last window counts, not the slow climb before
                filled = cut.recent * (cut.time_s - cut.recent_since_s) / (opened_s - cut.recent_since_s)
                ceiling = max(ceiling, min(filled, cut.rate))
            self._slack = 0.5 * (cut.slack + max(cut.net, 0.0))
        self._notice_window(blocked_s > max(_WINDOW_BLOCK_S, 3.0 * unit / ceiling), sound, elapsed_s)
        self.ceiling = self.bounded(ceiling)
        self.rate = self.bounded(self.ceiling * (1.0 - self._depth))
        self._opened_s = opened_s

    def _reached(self, cut: _Cut, measured: float, blocked_s: float) -> float:
        """Return what quota the rate speaks of that was refused: where unused quota is lost, less was admitted.

        A bucket that loses nothing is refused at a higher rate the lower the climb began. To take that for its quota is
        found out at once, by a refusal below the ceiling; only where others share it do such refusals say nothing.
        """
        if self._window_s:
            full = cut.rate * max(1.0 - blocked_s / self._window_s, 0.0)
            return min(0.5 * (measured + full), 1.05 * measured)
        if self._doubt > _DOUBTFUL and not cut.sharing.shared:
            return 0.0
        return min(cut.rate / (1.0 + 2.0 * self._bucket_depth(cut.sharing)), 1.03 * measured)

    def _notice_window(self, blocked: bool, sound: bool, elapsed_s: float) -> None:
        """Take the time between two long blocks for the provider's window; forget it when no more of them come.

        Who keeps to a window's quota is refused only at its very end: openings that lie whole windows apart confirm it.
        """
        if blocked:
            self._window_s = min(self._window_s or math.inf, elapsed_s)
            self._unblocked_cuts = 0
        elif sound and self._window_s:
            windows = elapsed_s / self._window_s
            if abs(windows - round(windows)) < _WHOLE:
                return
            self._unblocked_cuts += 1
            if self._unblocked_cuts >= _FORGET_WINDOW:
                self._window_s = 0.0

    def bounded(self, rate: float) -> float:
        """Return the rate within the settings' bounds."""
        if not self._of_requests:
            return max(rate, _LEAST_TOKENS_PER_S)
        config = self._config
        top = config.max_requests_per_minute
        bounded = max(rate, config.min_requests_per_minute / 60.0)
        return bounded if top is None else min(bounded, top / 60.0)
