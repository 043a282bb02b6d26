"""The running state of quotas: buckets, windows and slots that are asked, then told.

``wait_s`` says how long until so many units fit and takes nothing; ``charge`` takes them. A provider asks all its
meters before it charges any: that makes admission by several quotas atomic. A meter never looks back in time.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Final

from typing_extensions import override

_SLACK_S: Final = 1e-9  # a nanosecond: rounding of times must not turn "come back in w seconds" into one rejection more
_SLACK: Final = 1e-9  # the same for units


class Meter(ABC):
    """What a provider does with a quota.

    Attributes:
        quoted: the limit as headers quote it.
        rate: units per second that can be sustained; slots for concurrency; ``inf`` where the meter limits something
            else.
    """

    __slots__ = ("quoted", "rate")
    quoted: float
    rate: float

    @abstractmethod
    def wait_s(self, now: float, units: float) -> float:
        """Return seconds until ``units`` fit: 0 if they fit now, ``inf`` if they never will."""

    @abstractmethod
    def charge(self, now: float, units: float) -> Any:
        """Take ``units`` and return a receipt for ``correct``."""

    @abstractmethod
    def correct(self, now: float, receipt: Any, units: float) -> None:
        """Add ``units`` (negative: give back) to a charge made earlier."""

    @abstractmethod
    def penalise(self, now: float, units: float) -> None:
        """Let a rejected call consume what is left, at most ``units``."""

    @abstractmethod
    def scale(self, now: float, factor: float) -> None:
        """Make the quota ``factor`` times its nominal size, keeping what is in it as far as it fits."""

    @abstractmethod
    def show(self, now: float) -> tuple[float, float, float]:
        """Return the limit as quoted, the units left, and seconds until nothing is missing."""


class BucketMeter(Meter):
    """A bucket refilled continuously that holds ``burst_s`` seconds of refill.

    Its level is kept as the time at which it will be full again, so that nothing ever needs refilling.
    """

    __slots__ = ("_burst_s", "_full_at", "_nominal", "_per_s")

    def __init__(self, limit: float, per_s: float, burst_s: float) -> None:
        self._nominal = self.quoted = limit
        self._per_s = per_s
        self._burst_s = burst_s
        self.rate = limit / per_s
        self._full_at = -math.inf

    @override
    def wait_s(self, now: float, units: float) -> float:
        needed_s = units / self.rate
        missing_s = self._full_at - now
        wait_s = (missing_s + needed_s if missing_s > 0.0 else needed_s) - self._burst_s
        if wait_s <= _SLACK_S:
            return 0.0
        return wait_s if needed_s <= self._burst_s + _SLACK_S else math.inf

    @override
    def charge(self, now: float, units: float) -> None:
        if self._full_at < now:
            self._full_at = now
        self._full_at += units / self.rate

    @override
    def correct(self, now: float, receipt: None, units: float) -> None:
        self.charge(now, units)

    @override
    def penalise(self, now: float, units: float) -> None:
        missing_s = max(self._full_at - now, 0.0)
        self._full_at = now + max(missing_s, min(missing_s + units / self.rate, self._burst_s))

    @override
    def scale(self, now: float, factor: float) -> None:
        level = (self._burst_s - max(self._full_at - now, 0.0)) * self.rate
        self.quoted = self._nominal * factor
        self.rate = self.quoted / self._per_s
        self._full_at = now + max(self._burst_s - level / self.rate, 0.0)

    @override
    def show(self, now: float) -> tuple[float, float, float]:
        missing_s = max(self._full_at - now, 0.0)
        return self.quoted, max(self._burst_s - missing_s, 0.0) * self.rate, missing_s


class UtilisationMeter(BucketMeter):
    """A leaky bucket that admits anything while it is not above its brim, and may so overflow by one call."""

    __slots__ = ()

    @override
    def wait_s(self, now: float, units: float) -> float:
        wait_s = self._full_at - now - self._burst_s
        return wait_s if wait_s > _SLACK_S else 0.0


class _WindowMeter(Meter):
    """What fixed and sliding windows share: so many units per ``window_s``, quoted per ``per_s``."""

    __slots__ = ("_limit", "_nominal", "_per_s", "_used", "_window_s")

    def __init__(self, limit: float, per_s: float, window_s: float) -> None:
        self._nominal = limit
        self._per_s = per_s
        self._window_s = window_s
        self._used = 0.0
        self.scale(0.0, 1.0)

    @override
    def scale(self, now: float, factor: float) -> None:
        self.quoted = self._nominal * factor
        self.rate = self.quoted / self._per_s
        self._limit = self.rate * self._window_s


class FixedWindowMeter(_WindowMeter):
    """A counter that falls to zero at every multiple of ``window_s`` (after ``phase_s``)."""

    __slots__ = ("_number", "_phase_s")

    def __init__(self, limit: float, per_s: float, window_s: float, phase_s: float = 0.0) -> None:
        super().__init__(limit, per_s, window_s)
        self._phase_s = phase_s
        self._number = -1

    def _enter(self, now: float) -> None:
        number = math.floor((now - self._phase_s) / self._window_s + _SLACK)
        if number != self._number:
            self._number = number
            self._used = 0.0

    def _rest_s(self, now: float) -> float:
        return (self._number + 1) * self._window_s + self._phase_s - now

    @override
    def wait_s(self, now: float, units: float) -> float:
        self._enter(now)
        if self._used + units <= self._limit + _SLACK:
            return 0.0
        return self._rest_s(now) if units <= self._limit + _SLACK else math.inf

    @override
    def charge(self, now: float, units: float) -> int:
        self._enter(now)
        self._used += units
        return self._number

    @override
    def correct(self, now: float, receipt: int, units: float) -> None:
        self._enter(now)
        if receipt == self._number or units > 0:
            self._used += units

    @override
    def penalise(self, now: float, units: float) -> None:
        self._enter(now)
        self._used = max(self._used, min(self._used + units, self._limit))

    @override
    def show(self, now: float) -> tuple[float, float, float]:
        self._enter(now)
        return self.quoted, max(self._limit - self._used, 0.0), self._rest_s(now)


class SlidingWindowMeter(_WindowMeter):
    """A log of charges of which no more than the limit may fall into any span of ``window_s``."""

    __slots__ = ("_log",)

    def __init__(self, limit: float, per_s: float, window_s: float) -> None:
        super().__init__(limit, per_s, window_s)
        self._log: deque[list[float]] = deque()

    def _forget(self, now: float) -> None:
        log = self._log
        horizon = now - self._window_s + _SLACK_S
        while log and log[0][0] <= horizon:
            self._used -= log.popleft()[1]
        if not log:
            self._used = 0.0

    @override
    def wait_s(self, now: float, units: float) -> float:
        self._forget(now)
        excess = self._used + units - self._limit - _SLACK
        if excess <= 0:
            return 0.0
        if units > self._limit + _SLACK:
            return math.inf
        for sent_s, charged in self._log:
            excess -= charged
            if excess <= _SLACK:
                return sent_s + self._window_s - now
        return self._log[-1][0] + self._window_s - now

    @override
    def charge(self, now: float, units: float) -> list[float]:
        entry = [now, units]
        self._log.append(entry)
        self._used += units
        return entry

    @override
    def correct(self, now: float, receipt: list[float], units: float) -> None:
        self._forget(now)
        if self._log and receipt[0] >= self._log[0][0]:
            receipt[1] += units
            self._used += units
        elif units > 0:
            self.charge(now, units)

    @override
    def penalise(self, now: float, units: float) -> None:
        self._forget(now)
        left = min(units, self._limit - self._used)
        if left > _SLACK:
            self.charge(now, left)

    @override
    def show(self, now: float) -> tuple[float, float, float]:
        self._forget(now)
        missing_s = self._log[-1][0] + self._window_s - now if self._log else 0.0
        return self.quoted, max(self._limit - self._used, 0.0), missing_s


class RampMeter(FixedWindowMeter):
    """A limit on growth: a window may hold ``growth`` times the busiest of the last ``memory``, or ``limit``."""

    __slots__ = ("_floor", "_growth", "_past")

    def __init__(self, limit: float, window_s: float, growth: float, memory: int) -> None:
        self._floor = limit
        self._growth = growth
        self._past: deque[tuple[int, float]] = deque(maxlen=memory)
        super().__init__(limit, window_s, window_s)

    @override
    def _enter(self, now: float) -> None:
        last, used = self._number, self._used
        super()._enter(now)
        if self._number != last:
            self._past.append((last, used))
            while self._past and self._past[0][0] < self._number - (self._past.maxlen or 0):
                self._past.popleft()
            self._limit = max(self._floor, self._growth * max((units for _, units in self._past), default=0.0))

    @override
    def wait_s(self, now: float, units: float) -> float:
        self._enter(now)
        return 0.0 if self._used == 0 or self._used + units <= self._limit + _SLACK else self._rest_s(now)

    @override
    def scale(self, now: float, factor: float) -> None:
        self.rate = math.inf
        self.quoted = self._floor = self._limit = self._nominal * factor


class SlotsMeter(Meter):
    """Calls in flight. When a slot will be free nobody knows, so a rejected caller hears a constant."""

    __slots__ = ("_nominal", "_retry_after_s", "_running")

    def __init__(self, limit: float, retry_after_s: float) -> None:
        self._nominal = self.rate = self.quoted = limit
        self._retry_after_s = retry_after_s
        self._running = 0.0

    @override
    def wait_s(self, now: float, units: float) -> float:
        return 0.0 if self._running + units <= self.rate + _SLACK else self._retry_after_s

    @override
    def charge(self, now: float, units: float) -> None:
        self._running += units

    @override
    def correct(self, now: float, receipt: None, units: float) -> None:
        self._running += units

    @override
    def penalise(self, now: float, units: float) -> None:
        """Do nothing: a rejected call never ran."""

    @override
    def scale(self, now: float, factor: float) -> None:
        self.rate = self.quoted = max(self._nominal * factor, 1.0)

    @override
    def show(self, now: float) -> tuple[float, float, float]:
        return self.quoted, max(self.rate - self._running, 0.0), self._retry_after_s if self._running else 0.0
