"""What part of a quota is ours, and what the rest of the fleet does with the others: alone, it is all ours.

A rule measures the whole quota, so it counts what others admitted too; calls are paced, and slots taken, at our part.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from factflow_llm.ratelimit.costs import on_axis

if TYPE_CHECKING:
    from factflow_llm.signals import Axis


class Part:
    """Our part of a quota that several processes draw on.

    Attributes:
        share: of every rate, from 0 to 1.
        others_slots: calls in flight that are not ours to make.
        others_in_flight: calls that the others have in flight.
        leads: whether we are the one who learns; the others follow.
        closed_until_s: before then nobody sends, for somebody was told so.
    """

    __slots__ = (
        "_as_of_s", "_heard", "_per_s", "_totals", "closed_until_s", "leads", "others_in_flight", "others_slots",
        "share",
    )  # fmt: skip

    def __init__(self) -> None:
        self.alone()

    def alone(self) -> None:
        """Take all for ours."""
        self.share, self.others_slots = 1.0, 0.0
        self.others_in_flight = 0
        self.leads = True
        self.closed_until_s = -math.inf
        self._heard = False
        self._as_of_s = 0.0
        self._totals = (0.0, 0.0, 0.0)
        self._per_s = (0.0, 0.0, 0.0)

    def others(self, axis: Axis, at_s: float) -> float:
        """Return the units that the others admitted by then, as far as was heard."""
        if not self._heard:
            return 0.0
        since_s = at_s - self._as_of_s
        return on_axis(axis, *self._totals) + on_axis(axis, *self._per_s) * since_s

    def heard(self, now: float, totals: tuple[float, float, float], per_s: tuple[float, float, float]) -> None:
        """Take what the others admitted so far, in requests, tokens read and tokens written, and do per second."""
        self._heard = True
        self._as_of_s, self._totals, self._per_s = now, totals, per_s
