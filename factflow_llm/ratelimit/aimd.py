"""The rule by which a limit moves: additive increase, multiplicative decrease, around a measured ceiling.

A rejection tells more than "too much": the provider's budget is empty *now*. What was admitted between two such moments,
divided by the time between them, is the quota itself, whatever the provider's burst. That measured rate is the *ceiling*.
After each rejection (a *cut*) the rate restarts a little below the ceiling and climbs linearly through it::

    rate
      |                 search: the ceiling proved stale, double until the next rejection
      |               /
      |   ceiling --+-/-------x------   x = rejection: measure the ceiling anew, restart at decrease * ceiling
      |         ___/         |   ___/
      |   ___---  probe      |---
      +-------------------------------> time

Nothing moves while demand, not the limit, is what binds. The same shape serves calls in flight, where the ceiling is the
largest number the provider let through at once.

Time is an argument everywhere; units are requests or tokens per second, or slots. What was sent is handed in as a running
total, of which the rule remembers marks.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import NamedTuple

from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.ratelimit.signals import Reason

_SOUND_SAMPLE = 20
_PRIOR = 5.0
_GROWN = 1.4
_SHORT_BLOCK_S = 1.0
_WINDOW_BLOCK_S = 0.4
_USED = 0.8
_CONVEX = 2.0
_STALE_S = 2.0
_STEPS_PER_PROBE = 40.0
_OPEN_WINDOW_S = 60.0


class Mode(Enum):
    """Where a rule stands: no evidence yet, climbing around a ceiling, or doubling away from a stale one."""

    OPEN = "open"
    PROBE = "probe"
    SEARCH = "search"


class _BeforeCut(NamedTuple):
    """What a cut is measured from; kept until the provider admits again."""

    cut_s: float
    mode: Mode
    ceiling: float
    rate: float
    admitted: float
    recent: float
    net: float


class RateRule:
    """One axis' rate: what it is, what it remembers, how it moves.

    Attributes:
        rate: units per second allowed now; ``inf`` while there is no evidence.
        ceiling: units per second measured between rejections; ``inf`` likewise.
        mode: where the rule stands.
        next_step_s: when :meth:`step` has something to do.
    """

    __slots__ = (
        "_before_cut", "_clock_s", "_config", "_cut_sent", "_floor", "_mark", "_net", "_next_since_s", "_older", "_shut_s", "_since_s",
        "_slack", "_step_s", "_step_sent", "_top", "_window_s", "ceiling", "mode", "next_step_s", "rate",
    )  # fmt: skip

    def __init__(self, config: RateLimitConfig, *, now: float, sent: float = 0.0, ceiling: float = math.inf) -> None:
        """Start open, or at ``ceiling`` when the quota is known."""
        self.mode = Mode.OPEN if ceiling == math.inf else Mode.PROBE
        self.rate = self.ceiling = ceiling
        self._slack = 0.0
        self._older = (now, sent)
        self._since_s = self._next_since_s = now
        self._shut_s = math.nan
        self._window_s = math.inf
        self._before_cut = _BeforeCut(now, self.mode, ceiling, ceiling, 0.0, 0.0, 0.0)
        self._restart(now, sent)
        self.retune(config)

    def retune(self, config: RateLimitConfig) -> None:
        """Take new settings and keep what was learned."""
        self._config = config
        self._floor = config.min_requests_per_minute / 60.0
        top = config.max_requests_per_minute
        self._top = math.inf if top is None else top / 60.0

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
            ``RATE_LIMITED``; or ``COOL_OFF``, with nothing moved, when not one unit was admitted since the last cut: the
            provider is shut, which says nothing about its rate.
        """
        admitted = admitted_to - self._cut_sent
        if self.mode is not Mode.OPEN and admitted < 0.5 * unit:
            self._cut_sent = self._step_sent = sent
            self._step_s = now
            self._shut_s = sent_s
            return Reason.COOL_OFF
        self._since_s, recent = self._next_since_s, 0.0
        if self.mode is Mode.OPEN:
            self._since_s, mark = self._older
            admitted = admitted_to - mark
        elif self.mode is Mode.SEARCH:
            since, mark = self._mark
            recent = (admitted_to - mark) / max(now - since, 1e-3)
        self._before_cut = _BeforeCut(
            now, self.mode, self.ceiling, self.rate, max(admitted, unit), recent, self._net
        )
        hinted_s = now if self.mode is Mode.OPEN else sent_s
        self._measure(hinted_s if retry_after_s is None else now + retry_after_s, unit)
        self._shut_s = math.nan
        self.mode = Mode.PROBE
        self._restart(now, sent)
        return Reason.RATE_LIMITED

    def admitted_again(self, sent_s: float, unit: float = 1.0) -> bool:
        """Note that the first call sent after a cut was admitted; return whether that changed the rate.

        If others had been refused in between, the provider opened somewhere between the last of them and this call.
        """
        if math.isnan(self._shut_s):
            return False
        before = self.rate
        self._measure(0.5 * (self._shut_s + sent_s), unit)
        self._shut_s = math.nan
        return self.rate != before

    def _measure(self, available_s: float, unit: float) -> None:
        """Measure the ceiling between two moments at which the provider, having been empty, admits again.

        That is exact for a bucket and for windows alike: whole windows lie between such moments.
        """
        before = self._before_cut
        elapsed = max(available_s - self._since_s, 1e-3)
        measured = before.admitted / elapsed
        ceiling = before.ceiling
        if before.mode is Mode.OPEN:
            ceiling = measured
        elif before.admitted < _SOUND_SAMPLE * unit:
            weighed = (before.admitted + _PRIOR * unit) / (elapsed + _PRIOR * unit / ceiling)
            ceiling = min(max(weighed, 0.5 * ceiling), 0.95 * ceiling)
        elif before.recent > _GROWN * measured and available_s - before.cut_s < _SHORT_BLOCK_S:
            ceiling = min(before.recent, before.rate)
        else:
            reached = min(before.rate / (3.0 - 2.0 * self._config.decrease), 1.05 * measured)
            close = abs(measured - ceiling) < 0.1 * ceiling
            ceiling = max(0.5 * (ceiling + measured) if close else min(measured, before.rate), reached)
            self._slack = 0.5 * (self._slack + max(before.net, 0.0))
        if available_s - before.cut_s > max(_WINDOW_BLOCK_S, 3.0 * unit / ceiling):
            self._window_s = min(self._window_s, elapsed)
        self.ceiling = min(max(ceiling, self._floor * unit), self._top * unit)
        self.rate = max(self.ceiling * self._decrease, self._floor * unit)
        self._next_since_s = available_s

    def step(self, now: float, sent: float, *, limited: bool, unit: float = 1.0) -> Reason | None:
        """Move on to ``now``; the rate moves only if the limit was what held calls back. Return why it moved, if it did."""
        dt, units = now - self._step_s, sent - self._step_sent
        self._step_s, self._step_sent = now, sent
        if self.mode is Mode.OPEN:
            self._older, self._mark = self._mark, (now, sent)
            self.next_step_s = now + _OPEN_WINDOW_S
            return None
        config, ceiling = self._config, self.ceiling
        window_s = 0.0 if self._window_s == math.inf else self._window_s
        climb_s = max(config.probe_s, config.probe_requests * unit / ceiling, 2.0 * window_s)
        self.next_step_s = now + climb_s / _STEPS_PER_PROBE
        self._net = max(self._net + units - ceiling * dt, -ceiling * climb_s)
        before = self.rate
        if not limited or units + unit < _USED * before * dt:
            return None
        if self.mode is Mode.PROBE:
            self._clock_s += dt
            climbed = self._clock_s / climb_s
            above = max(climbed - 1.0, 0.0)
            rate = ceiling * (self._decrease + (1.0 - self._decrease) * (climbed + _CONVEX * above * above))
            if self._net > max(2.0 * self._slack, _STALE_S * ceiling, 8.0 * unit):
                self.mode = Mode.SEARCH
                self._mark = (now, sent)
        else:
            doubling_s = max(config.search_s, 8.0 * unit / before)
            if now - self._mark[0] >= doubling_s:
                self._mark = (now, sent)
            rate = before * 2.0 ** (dt / doubling_s)
        self.rate = min(max(rate, self._floor * unit), self._top * unit)
        if self.rate == before:
            return None
        return Reason.PROBE if self.mode is Mode.PROBE else Reason.RECOVER

    @property
    def _decrease(self) -> float:
        """What a cut leaves: half as deep where a window refills all at once, for there is no debt to work off."""
        decrease = self._config.decrease
        return decrease if self._window_s == math.inf else 0.5 * (1.0 + decrease)

    def _restart(self, now: float, sent: float) -> None:
        self._step_s = self.next_step_s = now
        self._cut_sent = self._step_sent = sent
        self._mark = (now, sent)
        self._net = self._clock_s = 0.0


class SlotRule:
    """Calls in flight: slow start, then the largest number the provider let through, probed one by one.

    Attributes:
        limit: calls allowed in flight.
        mode: where the rule stands.
    """

    __slots__ = (
        "_admitted", "_before_blame", "_config", "_next_s", "_peak", "_stride", "_suspect", "limit", "mode",
    )  # fmt: skip

    def __init__(self, config: RateLimitConfig) -> None:
        self._config = config
        self.limit = float(config.initial_concurrency)
        self.mode = Mode.OPEN
        self._peak = self._admitted = 0
        self._suspect = -math.inf
        self._before_blame: tuple[float, Mode] | None = None
        self._stride = 1.0
        self._next_s = 0.0

    def retune(self, config: RateLimitConfig) -> None:
        """Take new settings and keep what was learned."""
        self._config = config
        self.limit = min(self.limit, float(config.max_concurrency))

    def admitted(self, in_flight: int) -> None:
        """Note that a call sent as the ``in_flight``-th was let through."""
        self._admitted += 1
        self._before_blame = None
        if in_flight > self._peak:
            self._peak = in_flight

    def blames(self, in_flight: int) -> bool:
        """Tell whether the rejection of the ``in_flight``-th call speaks of slots.

        It does if of many calls let through since the last cut none was as high, and either the limit stood there too or
        the last suspicion fell on the same number. If it was wrong, nothing is let through afterwards: then the limit
        goes back to where it was.
        """
        if self._before_blame is not None:
            self.limit, self.mode = self._before_blame
            self._before_blame = None
            return False
        if self._admitted < _SOUND_SAMPLE or in_flight <= self._peak:
            return False
        repeated = abs(in_flight - 1.0 - self._suspect) <= max(1.0, 0.05 * self._suspect)
        self._suspect = in_flight - 1.0
        return repeated or in_flight >= self.limit

    def cut(self, now: float, in_flight: int, round_trip_s: float) -> Reason:
        """Fall below the number at which a call was rejected."""
        self._before_blame = self.limit, self.mode
        self.limit = max(1.0, min(in_flight - 1.0, self.limit))
        self.mode = Mode.PROBE
        self._stride = 1.0
        self._next_s = now + self._hold_s(round_trip_s)
        return Reason.RATE_LIMITED

    def new_epoch(self) -> None:
        """Forget what was admitted: a cut was made, on this axis or another."""
        self._peak = self._admitted = 0

    def step(self, now: float, round_trip_s: float) -> Reason | None:
        """Grow because a call succeeded while the limit was what held others back; return why, if it grew."""
        before = self.limit
        top = float(self._config.max_concurrency)
        if self.mode is Mode.OPEN:
            self.limit = min(before + 1.0, top)
            return Reason.SLOW_START if self.limit != before else None
        if now < self._next_s:
            return None
        self.limit = min(before + self._stride, top)
        self._stride *= 2.0
        self._next_s = now + round_trip_s
        if self.limit == before:
            return None
        return Reason.PROBE if self._stride == 2.0 else Reason.RECOVER

    def _hold_s(self, round_trip_s: float) -> float:
        return max(self._config.probe_s, self._config.probe_requests * round_trip_s / self.limit)
