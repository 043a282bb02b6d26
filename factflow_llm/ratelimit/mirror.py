"""Headers as a prior: a mirror of the provider's own budget, on one axis, as far as its headers show it.

A provider that shows ``limit``, ``remaining`` and ``reset`` leaves nothing to search for: what it shows, less what
was sent since, is what may be sent now. But headers are stale, rounded, per day instead of per minute, or plainly
wrong, so a refusal that the mirror did not expect turns it blind for a while, and the measured rule takes over.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from factflow_llm.signals import AxisLimit

_MINUTE_S: Final = 60.0
_DAY_S: Final = 86_400.0
_MARGIN: Final = 0.015
_BLIND_S: Final = 120.0
_MOST: Final = 1e12
"""No provider counts so many units or seconds: what is above is nonsense."""


class Mirror:
    """What is left of one axis' budget.

    Attributes:
        limit: units per window; ``nan`` while no header has shown any.
        rate: units per second that trickle in.
        blind: a refusal that it did not expect has shown it to be wrong.
    """

    __slots__ = (
        "_as_of_s",
        "_blind_until_s",
        "_level",
        "_most",
        "_resets_at_s",
        "_restarts",
        "_shown_s",
        "blind",
        "limit",
        "rate",
    )

    def __init__(self) -> None:
        self.limit = math.nan
        self.rate = math.nan
        self._level = 0.0
        self._most = 0.0
        self._as_of_s = 0.0
        self._shown_s = -math.inf
        self._restarts = False  # once its reset has been seen not to be the time to refill, it is a window's restart
        self._resets_at_s = math.nan
        self._blind_until_s = -math.inf
        self.blind = False

    def observe(self, now: float, shown: AxisLimit, *, sent_s: float, spent_since: float) -> bool:
        """Take what an answer's headers show; return whether the limit is new, or can be relied on again.

        Args:
            now: when the answer came.
            shown: one axis of its headers.
            sent_s: when its call was sent: the headers know of nothing later.
            spent_since: units of the calls sent after it.
        """
        limit, remaining, reset_s = shown.limit, shown.remaining, shown.reset_s
        if limit is None or remaining is None or reset_s is None or sent_s < self._shown_s:
            return False
        if not (1.0 <= limit <= _MOST and 0.0 <= remaining < limit and 0.0 < reset_s <= _MOST):
            return False
        window_s = _window_s(limit, limit - remaining, reset_s)
        changed = self.limit != limit
        if self.blind and now >= self._blind_until_s:
            self.blind, changed = False, True
        self.limit, self.rate = limit, limit / window_s
        self._shown_s = sent_s
        self._most = max(self._most, remaining) if not changed else remaining
        self._restarts |= abs((limit - remaining) / self.rate - reset_s) > 0.1 * window_s + 1.0
        self._resets_at_s = sent_s + reset_s if self._restarts else math.nan
        self._level = remaining - spent_since + (0.0 if self._restarts else self.rate * (now - sent_s))
        self._as_of_s = now
        return changed

    def wait_s(self, now: float, cost: float) -> float:
        """Return the seconds until ``cost`` fits, with a little held back for rounding; 0 when it fits now."""
        needed = min(cost + _MARGIN * self.limit, self.limit)
        self._refill(now, needed)
        missing = needed - self._level
        if missing <= 1e-9 * self.limit:
            return 0.0
        return missing / self.rate if math.isnan(self._resets_at_s) else self._resets_at_s - now

    def spend(self, units: float) -> None:
        """Take what a call costs; negative units give back."""
        self._level -= units

    def refused(self, now: float, cost: float) -> bool:
        """Take a refusal; return whether it was to be expected. If not, the mirror turns blind for a while."""
        self._refill(now, cost)
        expected = self._level < cost + 2.0 * _MARGIN * self.limit
        self._level = min(self._level, 0.0)
        if not expected:
            self.blind, self._blind_until_s = True, now + _BLIND_S
        return expected

    def _refill(self, now: float, needed: float) -> None:
        """Let in what has trickled since, up to the most that was ever shown to be left, or what is needed."""
        if math.isnan(self._resets_at_s):
            self._level = min(self._level + self.rate * (now - self._as_of_s), max(self._most, needed))
        elif now >= self._resets_at_s:
            self._level = self._most
            self._resets_at_s = math.nan
        self._as_of_s = now


def _window_s(limit: float, used: float, reset_s: float) -> float:
    """Return the window a header speaks of, which it does not name: a minute, unless it refills at a day's pace."""
    pace = used / reset_s
    return _DAY_S if pace < 2.0 * limit / _DAY_S or reset_s > 2.0 * _MINUTE_S else _MINUTE_S
