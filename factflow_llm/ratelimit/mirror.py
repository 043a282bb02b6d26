"""Headers as a prior: a mirror of the provider's own budget, on one axis, as far as its headers show it.

A provider that shows ``limit``, ``remaining`` and ``reset`` leaves nothing to search for: what it shows, less what
was sent since, is what may be sent now. But headers are stale, rounded, per day instead of per minute, or plainly
wrong, so a rejection that the mirror did not expect turns it blind for a while, and the measured rule takes over.

What ``remaining`` loses beyond what was sent from here, others took. In company everybody paces by the level that all
see: where it is low all are slow, where it is high all are fast. So shares draw level by themselves, and the level
settles where nobody is rejected.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from factflow_llm.signals import AxisLimit

_MINUTE_S: Final = 60.0
_DAY_S: Final = 86_400.0
_MARGIN: Final = 0.015
"""The share of the limit that is held back: headers are rounded, and calls arrive in another order."""
_BLIND_S: Final = 120.0
"""How long headers are not believed after a rejection that they did not foretell."""
_LEAST: Final = 0.01
"""The least share of what trickles in that somebody in company sends: who never asks never sees the level again."""
_FASTEST: Final = 4.0
"""How far above the level at which it settles somebody in company counts it, at most."""
_WATCH_S: Final = 1.0
"""What is left is compared over so long at least: less is rounding."""
_LOOK_AGAIN_S: Final = 0.5
"""The longest wait in company before the level is looked at again."""
_HOPE: Final = 0.1
"""The share of what trickles in that is taken to be left over, until the next header says."""
_MEMORY_S: Final = 5.0
"""Over how long what others take is averaged."""
_COMPANY: Final = 0.05
"""The share taken by others from which on the quota is shared."""
_SETTLES: Final = 0.4
"""The share of the limit at which somebody alone would send what trickles in; N clients settle at it by sqrt(N)."""
_MOST: Final = 1e12
"""No provider counts so many units or seconds: what is above is nonsense."""


class Mirror:
    """What is left of one axis' budget.

    Attributes:
        limit: units per window; ``nan`` while no header has shown any.
        rate: units per second that trickle in.
        blind: a rejection that it did not expect has shown it to be wrong.
        others: units per second that others take.
        company: whether that is a share that matters.
    """

    __slots__ = (
        "_as_of_s", "_blind_until_s", "_credit", "_level", "_most", "_own", "_resets_at_s", "_restarts", "_seen",
        "_shown_s", "_window_s", "blind", "company", "limit", "others", "rate",
    )  # fmt: skip

    def __init__(self) -> None:
        self.limit = math.nan
        self.rate = math.nan
        self.others = 0.0
        self.company = False
        self._own = 0.0
        self._seen: tuple[float, float, float] | None = None
        self._credit = 0.0
        self._level = 0.0
        self._most = 0.0
        self._window_s = _MINUTE_S
        self._as_of_s = 0.0
        self._shown_s = -math.inf
        self._restarts = False  # once its reset has been seen not to be the time to refill, it is a window's restart
        self._resets_at_s = math.nan
        self._blind_until_s = -math.inf
        self.blind = False

    def observe(self, now: float, shown: AxisLimit, *, sent_s: float, before: float, cost: float, after: float) -> bool:
        """Take what an answer's headers show; return whether the limit is new, or can be relied on again.

        Args:
            now: when the answer came.
            shown: one axis of its headers.
            sent_s: when its call was sent: the headers know of nothing later.
            before: units of all calls sent before it.
            cost: units of the call itself.
            after: units of the calls sent after it.
        """
        limit, remaining, reset_s = shown.limit, shown.remaining, shown.reset_s
        if limit is None or remaining is None or reset_s is None or sent_s < self._shown_s:
            return False
        if not (1.0 <= limit <= _MOST and 0.0 <= remaining < limit and 0.0 < reset_s <= _MOST):
            return False
        self._window_s = window_s = _window_s(limit, limit - remaining, reset_s)
        changed = self.limit != limit
        if self.blind and now >= self._blind_until_s:
            self.blind, changed = False, True
        self.limit, self.rate = limit, limit / window_s
        self._shown_s = sent_s
        self._most = max(self._most, remaining) if not changed else remaining
        self._restarts |= abs((limit - remaining) / self.rate - reset_s) > 0.1 * window_s + 1.0
        self._resets_at_s = sent_s + reset_s if self._restarts else math.nan
        self._watch_others(sent_s, remaining, before + cost)
        self._level = remaining - after + (0.0 if self._restarts else self.rate * (now - sent_s))
        if self.company:
            self._level = remaining
        self._as_of_s = now
        return changed

    def outlived(self, sent_s: float) -> bool:
        """Tell whether a call sent at ``sent_s``, whose answer showed nothing new, proves that headers are gone."""
        return sent_s > self._shown_s + _MINUTE_S

    def _watch_others(self, sent_s: float, remaining: float, spent: float) -> None:
        """Compare what is left with what should be, had nobody else drawn on it."""
        if self._seen is None:
            taken = self.limit - remaining
            self.company = taken > 2.0 * spent + _MARGIN * self.limit
            self._seen = sent_s, remaining, spent
            return
        since_s, before, spent_then = self._seen
        dt = sent_s - since_s
        if dt < _WATCH_S:
            return
        self._seen = sent_s, remaining, spent
        own = spent - spent_then
        taken = before + (0.0 if self._restarts else self.rate * dt) - remaining
        if remaining > (1.0 - _MARGIN) * self.limit or (self._restarts and remaining > before):
            return
        weight = min(1.0, dt / _MEMORY_S)
        self.others += weight * (max(taken - own, 0.0) / dt - self.others)
        self._own += weight * (own / dt - self._own)
        alone = not self.company
        share = self.others / max(self.others + self._own, 1e-12)
        self.company = share > (0.5 * _COMPANY if self.company else _COMPANY)
        if alone and self.company:
            self._credit = 0.0

    def wait_s(self, now: float, cost: float) -> float:
        """Return the seconds until ``cost`` fits, with a little held back for rounding; 0 when it fits now."""
        needed = min(cost + _MARGIN * self.limit, self.limit)
        self._refill(now, needed)
        if self.company:
            missing = cost - self._credit
            return min(missing / self._share(now), _LOOK_AGAIN_S) if missing > 1e-9 * cost else 0.0
        missing = needed - self._level
        if missing <= 1e-9 * self.limit:
            return 0.0
        return missing / self.rate if math.isnan(self._resets_at_s) else self._resets_at_s - now

    def spend(self, now: float, units: float) -> None:
        """Take what a call costs; negative units give back."""
        self._credit -= max(units, 0.0)
        if not self.company:
            self._level -= units

    def _share(self, now: float) -> float:
        """Return the rate at which to send in company."""
        left = max(self._level, 0.0) / self.limit
        if math.isnan(self._resets_at_s):
            left /= _SETTLES
        else:
            left /= max((self._resets_at_s - now) / self._window_s, 0.01)
        return max(self.rate * min(left, _FASTEST) ** 2, _LEAST * self.rate)

    def rejected(self, now: float, cost: float) -> bool:
        """Take a rejection; return whether it was to be expected. If not, the mirror turns blind for a while."""
        self._refill(now, cost)
        expected = self.company or self._level < cost + 2.0 * _MARGIN * self.limit
        self._level = min(self._level, 0.0)
        if not expected:
            self.blind, self._blind_until_s = True, now + _BLIND_S
        return expected

    def _refill(self, now: float, needed: float) -> None:
        """Let in what has trickled since, up to the most that was ever shown to be left, or what is needed."""
        if self.company:
            self._credit = min(self._credit + self._share(now) * (now - self._as_of_s), needed)
        if math.isnan(self._resets_at_s):
            rate = _HOPE * self.rate if self.company and self.others else self.rate  # a low level alone may be old
            self._level = min(self._level + rate * (now - self._as_of_s), max(self._most, needed))
        elif now >= self._resets_at_s:
            self._level = self._most
            self._resets_at_s = math.nan
        self._as_of_s = now


def _window_s(limit: float, used: float, reset_s: float) -> float:
    """Return the window a header speaks of, which it does not name: a minute, unless it refills at a day's pace."""
    pace = used / reset_s
    return _DAY_S if pace < 2.0 * limit / _DAY_S or reset_s > 2.0 * _MINUTE_S else _MINUTE_S
