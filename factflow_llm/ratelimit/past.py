"""What a process was at each moment of the last seconds: how much it had been admitted, and what it had in flight.

Members of a fleet are asked about one and the same moment, and answer when they next report; so what they say adds up.
A call that is rejected is taken out of the past, for it took nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import itemgetter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from factflow_llm.ratelimit.said import Units

KEPT_S: Final = 8.0
_GRAIN_S: Final = 0.004
"""Moments closer to each other are one: a thousand calls per second fill no memory."""

_time_s = itemgetter(0)


class Past:
    """The moments at which something changed, oldest first; before them nothing was."""

    __slots__ = ("_moments",)

    def __init__(self) -> None:
        self._moments: list[list[float]] = []

    def note(self, now: float, admitted: Units, in_flight: int) -> None:
        """Keep what was admitted so far and what is in flight, from now on."""
        moments = self._moments
        if moments and now - moments[-1][0] < _GRAIN_S:
            moments[-1][1:] = [*admitted, in_flight]
        else:
            moments.append([now, *admitted, in_flight])

    def rejected(self, sent_s: float, cost: Units) -> None:
        """Take out a call that was under way from ``sent_s`` until now, before its end is noted."""
        for moment in self._moments[max(bisect_right(self._moments, sent_s, key=_time_s) - 1, 0) :]:
            if moment[0] + _GRAIN_S > sent_s:
                for number, units in enumerate((*cost, 1), 1):
                    moment[number] -= units

    def at(self, time_s: float) -> tuple[Units, int]:
        """Return what had been admitted by then, and what was in flight."""
        number = bisect_right(self._moments, time_s, key=_time_s)
        if not number:
            return (0.0, 0.0, 0.0), 0
        _, requests, read, written, in_flight = self._moments[number - 1]
        return (requests, read, written), int(in_flight)

    def forget(self, now: float) -> None:
        """Keep no more than is asked about."""
        number = bisect_right(self._moments, now - KEPT_S, key=_time_s) - 1
        if number > 0:
            del self._moments[:number]
