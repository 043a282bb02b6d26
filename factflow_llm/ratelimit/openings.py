"""What a quota was measured to be: the units admitted between two moments at which the provider opened again.

A provider that rejects has spent its budget; when it admits again, one unit has come back. Between two such *openings*
exactly the quota was admitted: of a token bucket, whatever it holds, and of windows, for whole windows lie between. So
one division measures it, and it grows more exact the further back the first of the openings lies.

An opening counts back as long as the samples agree. One sample that contradicts the others ends the chain: the quota
moved, and what was known before says nothing any more.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

SOUND: Final = 20.0
"""Calls admitted between two openings from which a quota is known: one call more or less is then 5 %."""
_EXACT: Final = 200.0
"""Calls over which a measurement is averaged; beyond them an older opening would only make it slow to follow."""
_SLACK_CALLS: Final = 2.5
"""Calls by which a sample may differ from what was expected and still agree: one at either end, and some haste."""
_SLACK: Final = 0.06
"""The same as a share of a long sample."""
_AGREEING: Final = 5
_FEWER: Final = 0.4
"""So many samples in a row that agree make fewer calls enough."""
_TOGETHER: Final = 3
"""Samples in a row that are also held against the measurement together: each of them may be too short to tell."""
_PRIOR: Final = 2.0
"""What the old rate weighs, in calls, against a contradicting sample of a few."""


class Opening(NamedTuple):
    """A moment at which the provider admitted again, and the running total of units admitted before it.

    ``doubt_s`` is how far off the moment may be: it lies between the last call rejected and the first admitted.
    """

    time_s: float
    admitted: float
    doubt_s: float = 0.0


class Openings:
    """A chain of openings and the rate measured along it.

    Attributes:
        rate: units per second; ``inf`` while nothing was measured.
        sound: whether the rate rests on enough calls to be relied on.
    """

    __slots__ = ("_chain", "rate", "sound")

    def __init__(self, rate: float = math.inf) -> None:
        self.rate = rate
        self.sound = rate != math.inf
        self._chain: list[Opening] = []

    @property
    def last(self) -> Opening | None:
        """The last opening; ``None`` while there was none, or what was admitted since tells nothing."""
        return self._chain[-1] if self._chain else None

    def guess(self, rate: float) -> None:
        """Take a rate that was sent, for want of anything better."""
        self.rate, self.sound = rate, False

    def know(self, rate: float) -> None:
        """Take a rate that is known otherwise."""
        self.rate, self.sound = rate, True
        del self._chain[:-1]

    def count_from(self, earlier: Opening, unit: float) -> None:
        """Measure from a moment at which a window must have begun to the last opening."""
        last = self._chain[-1]
        units = last.admitted - earlier.admitted
        self._chain = [earlier, last]
        self.rate, self.sound = units / (last.time_s - earlier.time_s), units >= SOUND * unit

    def opened(self, opening: Opening, unit: float, *, used: bool, recent: float = 0.0) -> bool:
        """Take the next opening; return whether it agrees with what was known.

        Args:
            opening: when, and after how many units.
            unit: units of a typical call.
            used: whether the limit was used all the time since the last opening; if not, the sample is a lower bound.
            recent: units per second admitted lately, if the rate was searched: the sample itself began far below.
        """
        chain = self._chain
        if not chain:
            chain.append(opening)
            return True
        last = chain[-1]
        units, elapsed_s = opening.admitted - last.admitted, max(opening.time_s - last.time_s, 1e-3)
        if units < 0.0:  # others of the fleet are no longer heard of, and what they were admitted went with them
            chain[:] = [opening]
            return True
        chain.append(opening)
        if self.rate == math.inf:
            self.rate, self.sound = max(units / elapsed_s, 1e-9 * unit), units >= SOUND * unit
            return True
        if not used and self.sound and units < self.rate * elapsed_s:
            del chain[:-1]
            self.sound = False
            return True
        for number in range(len(chain) - 2, max(len(chain) - 2 - _TOGETHER, -1), -1):
            earlier = chain[number]
            units, elapsed_s = opening.admitted - earlier.admitted, max(opening.time_s - earlier.time_s, 1e-3)
            excess = units - self.rate * elapsed_s
            slack = max(_SLACK_CALLS * unit, _SLACK * units) + self.rate * (opening.doubt_s + earlier.doubt_s)
            if abs(excess) > slack:
                del chain[:number]
                self._contradicted(opening, unit, units, elapsed_s, recent, grown=excess > 0.0)
                return False
        if used:
            self._lengthen(opening, unit)
        else:
            del chain[:-1]
            self.sound = False
        return True

    def _lengthen(self, opening: Opening, unit: float) -> None:
        """Measure along the whole chain, for the sample agrees."""
        chain = self._chain
        while len(chain) > 2 and opening.admitted - chain[1].admitted >= _EXACT * unit:
            del chain[0]
        units, elapsed_s = opening.admitted - chain[0].admitted, max(opening.time_s - chain[0].time_s, 1e-3)
        if units >= SOUND * unit or (len(chain) > _AGREEING and units >= _FEWER * SOUND * unit):
            self.rate, self.sound = units / elapsed_s, True
        else:
            self._blend(units, elapsed_s, unit)

    def _contradicted(
        self, opening: Opening, unit: float, units: float, elapsed_s: float, recent: float, *, grown: bool
    ) -> None:
        """Measure anew, for the quota moved."""
        sample = units / elapsed_s
        self.sound = units >= SOUND * unit and recent <= sample
        if grown:
            self.rate = max(sample, recent)
            if recent > sample:
                del self._chain[0]
        elif units >= SOUND * unit:
            self.rate, self.sound = sample, True
        else:
            self._blend(units, elapsed_s, unit)

    def _blend(self, units: float, elapsed_s: float, unit: float) -> None:
        """Weigh a sample of a few calls against what was known."""
        prior = _PRIOR * unit
        self.rate = (max(units, 0.0) + prior) / (elapsed_s + prior / self.rate)
