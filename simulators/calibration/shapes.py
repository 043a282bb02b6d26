"""Every shape of quota, asked one question: how large must it have been for this attempt to pass?

That size is the attempt's *critical capacity*. It follows from what was admitted before, whatever the quota's true
size: a quota of the shape must be at least as large as the critical capacity of everything it admitted, and smaller
than that of everything it rejected. One pass over the recording thus tells all sizes that can be true, and how often
each is contradicted.

Between sending and arrival lies a network. ``leeway_s`` says how far moments may be off: the attempt came so much later
and what was sent that shortly before came after it (positive: the least that it may have needed), or the other way
round (negative: the most).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from typing_extensions import override

from factflow_llm.signals import Axis
from simulators.providers.quotas import Bucket, FixedWindow, Quota, SlidingWindow, Slots

if TYPE_CHECKING:
    from simulators.calibration.evidence import Bools, Currency, Evidence, Floats, Integers

SLACK_S = 2e-6  # recordings round times to the microsecond
STEADY_S = 0.0002  # moments that are off by less tell of no network


class Emptied(NamedTuple):
    """When rejections emptied the bucket.

    Attributes:
        numbers: of the attempts that were rejected.
        at_s: when.
        booked: number of bookings before each.
    """

    numbers: Integers
    at_s: Floats
    booked: Integers


class Ledger:
    """What the attempts charged in one currency, as a row of bookings in order of time.

    Attributes:
        booked_s: time of each booking: charges at sending, corrections when the answer ends.
        charged_s: when the booking's call was sent.
        units: what was booked.
        total: sum of all bookings before each; one longer than they are.
        before: number of bookings before each attempt.
    """

    def __init__(self, evidence: Evidence, currency: Currency) -> None:
        self.evidence = evidence
        self.currency = currency
        self.asked = currency.reserved
        taken = evidence.taken
        sent_s = evidence.sent_s[taken]
        charge, when, charged_s = currency.reserved[taken], sent_s, sent_s
        is_charge = np.ones(len(taken))
        corrected_s = np.zeros(0)
        if currency.settled is not None:
            known = np.isfinite(evidence.end_s[taken])
            corrected_s = evidence.end_s[taken][known]
            charge = np.concatenate([charge, (currency.settled - currency.reserved)[taken][known]])
            when, charged_s = np.concatenate([when, corrected_s]), np.concatenate([charged_s, sent_s[known]])
            is_charge = np.concatenate([is_charge, np.zeros(len(corrected_s))])
        order = np.lexsort((is_charge, when))
        self.booked_s: Floats = when[order]
        self.charged_s: Floats = charged_s[order]
        self.units: Floats = charge[order]
        self.total: Floats = np.concatenate([[0.0], np.cumsum(self.units)])
        earlier: Integers = np.cumsum(evidence.admitted) - evidence.admitted
        self.before: Integers = earlier + np.searchsorted(np.sort(corrected_s), evidence.sent_s, side="right")

    def seen(self, at: Integers, later_s: Floats | float, leeway_s: float) -> tuple[Integers, Floats]:
        """Return how many bookings the attempts ``at`` find, and when they come."""
        sent_s, before = self.evidence.sent_s[at], self.before[at]
        if abs(leeway_s) > SLACK_S:
            shaken = np.searchsorted(self.booked_s, sent_s - leeway_s, side="right")
            before = np.minimum(before, shaken) if leeway_s > 0 else np.maximum(before, shaken)
        return before, sent_s + later_s + leeway_s

    @cached_property
    def emptied(self) -> Emptied:
        """When rejections emptied the bucket, if they count."""
        numbers = np.flatnonzero(self.evidence.rejected)
        return Emptied(numbers, self.evidence.sent_s[numbers], self.before[numbers])

    def since_emptied(self, at: Integers, again: Bools | bool = False) -> tuple[Integers, Floats, Floats]:
        """Return, for the attempts ``at``, the first booking after the last rejection, its time, and units since.

        Args:
            at: attempts.
            again: they were rejected themselves, and the next attempt is meant.
        """
        times = np.searchsorted(self.emptied.numbers, at) + again
        first = np.append(0, self.emptied.booked)[times]
        used = self.total[self.before[at]] - self.total[np.minimum(first, self.before[at])]
        return first, np.append(-np.inf, self.emptied.at_s)[times], used

    def demanded(self, at: Integers) -> tuple[Integers, Floats]:
        """Return for which of the attempts ``at`` an emptied bucket's rate is told, and which rate they demand."""
        _, since_s, used = self.since_emptied(at)
        waited_s = self.evidence.sent_s[at] - since_s
        known = np.isfinite(waited_s) & (waited_s > SLACK_S)
        return at[known], (used + self.asked[at])[known] / waited_s[known]

    @cached_property
    def rate(self) -> float:
        """Units admitted per second, over the whole recording."""
        return float(self.total[-1]) / max(self.evidence.duration_s, 1e-9)


class Shape(ABC):
    """A kind of quota with all its parameters but its size."""

    @abstractmethod
    def critical(self, ledger: Ledger, at: Integers, later_s: Floats | float = 0.0, leeway_s: float = 0.0) -> Floats:
        """Return critical capacities of the attempts ``at``, had they come ``later_s`` later and none in between.

        It is ``inf`` where no size would do.
        """

    @abstractmethod
    def span_s(self, capacity: float) -> float:
        """Return over how long a quota of this size looks back; ``inf`` where no time sets it right."""

    @abstractmethod
    def quota(self, capacity: float, fields: dict[str, Any], per_s: float) -> Quota:
        """Return the quota of this size; ``fields`` name its currency, its limit is quoted per ``per_s``."""


@dataclass(frozen=True)
class BucketShape(Shape):
    """A bucket refilled at ``rate`` units per second; its capacity is what it holds.

    Where rejections count, a rejected attempt takes what was left: the bucket is then empty, whatever it can hold.
    """

    rate: float
    rejections_count: bool = False

    @override
    def critical(self, ledger: Ledger, at: Integers, later_s: Floats | float = 0.0, leeway_s: float = 0.0) -> Floats:
        refilled = self.rate * ledger.booked_s
        level, lowest = ledger.total[1:] - refilled, ledger.total[:-1] - refilled
        before, arrival_s = ledger.seen(at, later_s, leeway_s)
        last = np.maximum(before - 1, 0)
        drained = self.rate * np.maximum(arrival_s - ledger.booked_s[last], 0.0)
        if not self.rejections_count:
            missing = level - np.minimum.accumulate(lowest)
            needed: Floats = (before > 0) * np.maximum(missing[last] - drained, 0.0) + ledger.asked[at]
            return needed
        first, since_s, used = ledger.since_emptied(at, np.asarray(later_s) != 0.0)
        fall = 2.0 * (np.ptp(lowest) if len(lowest) else 0.0) + 1.0
        spells = fall * np.searchsorted(ledger.emptied.booked, np.arange(len(lowest)), side="right")
        missing = level - (np.minimum.accumulate(lowest - spells) + spells)
        needed = (before > first) * np.maximum(missing[last] - drained, 0.0) + ledger.asked[at]
        short = used + ledger.asked[at] > self.rate * (arrival_s - since_s)
        return np.where(short, np.inf, needed)

    @override
    def span_s(self, capacity: float) -> float:
        return capacity / self.rate

    @override
    def quota(self, capacity: float, fields: dict[str, Any], per_s: float) -> Quota:
        burst_s = max(capacity, 1.0) / self.rate  # a hair less than one request would be none
        return Bucket(
            limit=self.rate * per_s, per_s=per_s, burst_s=burst_s, rejections_count=self.rejections_count, **fields
        )


@dataclass(frozen=True)
class FixedShape(Shape):
    """A counter that starts anew every ``window_s``, ``phase_s`` after the recording's zero."""

    window_s: float
    phase_s: float

    @override
    def critical(self, ledger: Ledger, at: Integers, later_s: Floats | float = 0.0, leeway_s: float = 0.0) -> Floats:
        total = ledger.total
        if ledger.currency.settled is not None:  # what is given back after its window has ended is lost
            lost = (ledger.units < 0) & (self._number(ledger.charged_s) != self._number(ledger.booked_s))
            total = np.concatenate([[0.0], np.cumsum(np.where(lost, 0.0, ledger.units))])
        before, arrival_s = ledger.seen(at, later_s, leeway_s)
        begin_s = self._number(arrival_s) * self.window_s + self.phase_s - SLACK_S
        first = np.searchsorted(ledger.booked_s, begin_s)
        used: Floats = total[before] - total[np.minimum(first, before)] + ledger.asked[at]
        return used

    def _number(self, when_s: Floats) -> Floats:
        number: Floats = np.floor((when_s - self.phase_s + SLACK_S) / self.window_s)
        return number

    @override
    def span_s(self, capacity: float) -> float:
        return self.window_s

    @override
    def quota(self, capacity: float, fields: dict[str, Any], per_s: float) -> Quota:
        over_s = self.window_s if per_s > self.window_s else None
        return FixedWindow(
            limit=capacity * per_s / self.window_s,
            per_s=per_s,
            enforced_over_s=over_s,
            phase_s=self.phase_s % self.window_s,
            **fields,
        )


@dataclass(frozen=True)
class SlidingShape(Shape):
    """A limit on every span of ``window_s``. Corrections are taken to expire a window after they were made."""

    window_s: float

    @override
    def critical(self, ledger: Ledger, at: Integers, later_s: Floats | float = 0.0, leeway_s: float = 0.0) -> Floats:
        before, arrival_s = ledger.seen(at, later_s, leeway_s)
        horizon = arrival_s - self.window_s
        first = np.searchsorted(ledger.booked_s, horizon, side="right")
        used: Floats = ledger.total[before] - ledger.total[np.minimum(first, before)] + ledger.asked[at]
        return used

    @override
    def span_s(self, capacity: float) -> float:
        return self.window_s

    @override
    def quota(self, capacity: float, fields: dict[str, Any], per_s: float) -> Quota:
        over_s = self.window_s if per_s > self.window_s else None
        return SlidingWindow(limit=capacity * per_s / self.window_s, per_s=per_s, enforced_over_s=over_s, **fields)


@dataclass(frozen=True)
class SlotsShape(Shape):
    """A number of calls that may run at once; who is rejected hears ``retry_after_s``.

    An answer gives its slot back ``back_s`` before it has come all the way.
    """

    retry_after_s: float
    back_s: float = 0.0

    @override
    def critical(self, ledger: Ledger, at: Integers, later_s: Floats | float = 0.0, leeway_s: float = 0.0) -> Floats:
        begun, arrival_s = ledger.seen(at, later_s, leeway_s)
        ended = np.searchsorted(ledger.evidence.ends_s, arrival_s + self.back_s, side="right")
        return np.asarray(begun - ended + 1.0, dtype=np.float64)

    @override
    def span_s(self, capacity: float) -> float:
        return math.inf

    @override
    def quota(self, capacity: float, fields: dict[str, Any], per_s: float) -> Quota:
        return Slots(limit=capacity, axis=Axis.CONCURRENCY, retry_after_s=self.retry_after_s)
