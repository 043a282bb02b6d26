"""A paced budget: units trickle in at a rate, calls reserve what they will use and settle what they used.

No slot is handed out ahead of time. A caller asks "how long until this cost fits?" and asks again after every change of
rate, so a cut takes effect on everybody who waits.
"""

from __future__ import annotations

import math
from typing import Final

_NO_LIMIT: Final = math.inf
_EPSILON: Final = 1e-9


class Budget:
    """Units of one axis, refilled continuously; ``rate`` is in units per second, ``inf`` while nothing is known.

    The level may be negative: an estimate that proved too small is a debt that later calls wait for. It grows no
    further than the cost that waits, so an idle hour earns no burst and a large call, which goes alone, does not
    starve.
    """

    __slots__ = ("_as_of_s", "level", "rate")

    def __init__(self, rate: float = _NO_LIMIT, *, level: float = 0.0, now: float = 0.0) -> None:
        self.rate = rate
        self.level = level
        self._as_of_s = now

    def __repr__(self) -> str:
        return f"<Budget {self.level:.3g} at {self.rate:.4g}/s>"

    def wait_s(self, now: float, cost: float) -> float:
        """Return the seconds until ``cost`` fits; 0 when it fits now."""
        rate = self.rate
        if rate == _NO_LIMIT:
            return 0.0
        level = self.level + (now - self._as_of_s) * rate
        self.level = level = level if level < cost else cost  # noqa: FURB136 - the hot path: a call costs more
        self._as_of_s = now
        missing = cost - level
        return missing / rate if missing > _EPSILON else 0.0

    def reserve(self, cost: float) -> None:
        """Take ``cost`` out of the level, as of the last ``wait_s``."""
        if self.rate != _NO_LIMIT:
            self.level -= cost

    def settle(self, reserved: float, used: float) -> None:
        """Correct a reservation by what was really used."""
        if self.rate != _NO_LIMIT:
            self.level += reserved - used

    def set_rate(self, now: float, rate: float) -> None:
        """Change the rate; what has trickled in so far is kept. The first finite rate starts from an empty level."""
        if self.rate == _NO_LIMIT:
            self.level = 0.0
        else:
            self.level += (now - self._as_of_s) * self.rate
        self._as_of_s = now
        self.rate = rate
