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

from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.ratelimit.signals import Reason

_SOUND_SAMPLE = 20.0
_STEPS_PER_PROBE = 40.0
_OPEN_WINDOW_S = 10.0


class Mode(Enum):
    """Where a rule stands: no evidence yet, climbing around a ceiling, or doubling away from a stale one."""

    OPEN = "open"
    PROBE = "probe"
    SEARCH = "search"


class RateRule:
    """One axis' rate: what it is, what it remembers, how it moves.

    Attributes:
        rate: units per second allowed now; ``inf`` while there is no evidence.
        ceiling: units per second measured between rejections; ``inf`` likewise.
        mode: where the rule stands.
        next_step_s: when :meth:`step` has something to do.
    """

    __slots__ = (
        "_clock_s", "_config", "_cut_s", "_cut_sent", "_floor", "_mark", "_net", "_older", "_slack", "_step_s",
        "_step_sent", "_top", "ceiling", "mode", "next_step_s", "rate",
    )  # fmt: skip

    def __init__(self, config: RateLimitConfig, *, now: float, sent: float = 0.0, ceiling: float = math.inf) -> None:
        """Start open, or at ``ceiling`` when the quota is known."""
        self.mode = Mode.OPEN if ceiling == math.inf else Mode.PROBE
        self.rate = self.ceiling = ceiling
        self._slack = 0.0
        self._older = (now, sent)
        self._restart(now, sent)
        self.retune(config)

    def retune(self, config: RateLimitConfig) -> None:
        """Take new settings and keep what was learned."""
        self._config = config
        self._floor = config.min_requests_per_minute / 60.0
        top = config.max_requests_per_minute
        self._top = math.inf if top is None else top / 60.0

    def cut(self, now: float, sent: float, cost: float, *, unit: float = 1.0) -> Reason:
        """Learn from the rejection of something sent since the last cut.

        Args:
            now: when the rejection arrived, in seconds.
            sent: running total of units sent.
            cost: units of the rejected call.
            unit: units of a typical call.

        Returns:
            ``RATE_LIMITED``; or ``COOL_OFF``, with nothing moved, when not one unit was admitted since the last cut: the
            provider is shut, which says nothing about its rate.
        """
        admitted = sent - self._cut_sent - cost
        if self.mode is not Mode.OPEN and admitted < 0.5 * unit:
            self._step_s, self._step_sent, self._cut_sent = now, sent, sent
            return Reason.COOL_OFF
        elapsed = max(now - self._cut_s, 1e-3)
        ceiling = self.ceiling
        if self.mode is Mode.OPEN:
            since, mark = self._older
            ceiling = max(sent - mark - cost, unit) / max(now - since, 1e-3)
        elif self.mode is Mode.SEARCH:
            since, mark = self._mark
            recent = (sent - mark - cost) / max(now - since, 1e-3)
            ceiling = min(max(recent, 0.5 * self.rate), self.rate)
        elif admitted >= _SOUND_SAMPLE * unit:
            measured = admitted / elapsed
            self._slack += 0.5 * (max(self._net, 0.0) - self._slack)
            close = abs(measured - ceiling) < 0.1 * ceiling
            ceiling = 0.5 * (ceiling + measured) if close else min(measured, self.rate)
        else:
            ceiling = min(max((admitted + unit) / elapsed, 0.5 * ceiling), 0.9 * ceiling)
        self.ceiling = min(max(ceiling, self._floor * unit), self._top * unit)
        self.mode = Mode.PROBE
        self._restart(now, sent)
        self.rate = max(self.ceiling * self._config.decrease, self._floor * unit)
        return Reason.RATE_LIMITED

    def step(self, now: float, sent: float, *, limited: bool, unit: float = 1.0) -> Reason | None:
        """Move on to ``now``; the rate moves only if the limit was what held calls back. Return why it moved, if it did."""
        dt, units = now - self._step_s, sent - self._step_sent
        self._step_s, self._step_sent = now, sent
        if self.mode is Mode.OPEN:
            self._older, self._mark = self._mark, (now, sent)
            self.next_step_s = now + _OPEN_WINDOW_S
            return None
        config, ceiling = self._config, self.ceiling
        climb_s = max(config.probe_s, config.probe_requests * unit / ceiling)
        self.next_step_s = now + climb_s / _STEPS_PER_PROBE
        self._net = max(self._net + units - ceiling * dt, -ceiling * climb_s)
        if not limited:
            return None
        before = self.rate
        if self.mode is Mode.PROBE:
            self._clock_s += dt
            rate = ceiling * (config.decrease + (1.0 - config.decrease) * self._clock_s / climb_s)
            if self._net > max(2.0 * self._slack, ceiling, 4.0 * unit):
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

    def _restart(self, now: float, sent: float) -> None:
        self._cut_s = self._step_s = self.next_step_s = now
        self._cut_sent = self._step_sent = sent
        self._mark = (now, sent)
        self._net = self._clock_s = 0.0


class SlotRule:
    """Calls in flight: slow start, then the largest number the provider let through, probed one by one.

    Attributes:
        limit: calls allowed in flight.
        mode: where the rule stands.
    """

    __slots__ = ("_clean", "_config", "_next_s", "_peak", "limit", "mode")

    def __init__(self, config: RateLimitConfig) -> None:
        self._config = config
        self.limit = float(config.initial_concurrency)
        self.mode = Mode.OPEN
        self._peak = 0
        self._clean = 0
        self._next_s = 0.0

    def retune(self, config: RateLimitConfig) -> None:
        """Take new settings and keep what was learned."""
        self._config = config
        self.limit = min(self.limit, float(config.max_concurrency))

    def admitted(self, in_flight: int) -> None:
        """Note that a call sent as the ``in_flight``-th was let through."""
        if in_flight > self._peak:
            self._peak = in_flight

    def blames(self, in_flight: int) -> bool:
        """Tell whether the rejection of the ``in_flight``-th call speaks of slots: nothing so high was let through since."""
        return in_flight > self._peak

    def cut(self, now: float, in_flight: int, round_trip_s: float) -> Reason:
        """Fall below the number at which a call was rejected; by a fifth when nothing was admitted since the last cut."""
        fallen = in_flight - 1.0 if self._peak else math.floor(self.limit * 0.8)
        self.limit = max(1.0, min(fallen, self.limit))
        self.mode = Mode.PROBE
        self._clean = 0
        self._next_s = now + self._hold_s(round_trip_s)
        return Reason.RATE_LIMITED

    def new_epoch(self) -> None:
        """Forget what was admitted: a cut was made, on this axis or another."""
        self._peak = 0

    def step(self, now: float, round_trip_s: float) -> Reason | None:
        """Grow because a call succeeded while the limit was what held others back; return why, if it grew."""
        before = self.limit
        top = float(self._config.max_concurrency)
        if self.mode is Mode.OPEN:
            self.limit = min(before + 1.0, top)
            return Reason.SLOW_START if self.limit != before else None
        if now < self._next_s:
            return None
        self._clean += 1
        if self._clean <= 3:
            self.limit = min(before + 1.0, top)
            self._next_s = now + self._hold_s(round_trip_s) / 2.0
            return Reason.PROBE if self.limit != before else None
        self.limit = min(math.ceil(before * 1.25), top)
        self._next_s = now + round_trip_s
        return Reason.RECOVER if self.limit != before else None

    def _hold_s(self, round_trip_s: float) -> float:
        return max(self._config.probe_s, self._config.probe_requests * round_trip_s / self.limit)
