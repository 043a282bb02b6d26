"""Whether others draw on the same quota, told by when rejections come.

Alone, a rate is rejected once its climb has passed the ceiling. Where several share a quota, somebody else's climb
empties it as often as one's own, and rejections come at any height.
"""

from __future__ import annotations

from typing import Final, NamedTuple

EARLY: Final = 0.85
"""A rejection before this share of the climb to the ceiling is early."""
_WEIGHT: Final = 0.15
_MOSTLY: Final = 0.5
"""The share of early rejections above which others must be drawing on the quota."""
_SELDOM: Final = 0.3
"""The share below which nobody else does any more."""


def came_early(climbed: float) -> bool:
    """Tell whether a rejection at so many times the climb to the ceiling came before its time."""
    return climbed < EARLY


class Sharing(NamedTuple):
    """What the rejections so far say; the first one leaves it open.

    Attributes:
        early: the moving share of rejections that came early.
        shared: whether others draw on the quota.
    """

    early: float = 0.4
    shared: bool = False

    def after(self, climbed: float) -> Sharing:
        """Return what is thought after a rejection at so many times the climb to a ceiling that holds."""
        early = self.early + _WEIGHT * ((1.0 if came_early(climbed) else 0.0) - self.early)
        return Sharing(early, early > _MOSTLY or (self.shared and early > _SELDOM))
