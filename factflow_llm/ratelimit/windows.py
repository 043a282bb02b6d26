"""When a provider that meters by windows opens: at moments a whole number of periods apart, whatever it says.

Each long block ends within an interval, between the last call rejected and the first admitted. Two of them bound the
period, a third confirms it, and every further one narrows when the next window begins. So nobody needs to be told: one
call is sent when the window must have begun, instead of one after the other until it has.
"""

from __future__ import annotations

import math
from typing import Final

_SLACK: Final = 0.03
"""The share of a period by which an opening may miss what was foreseen: calls take their time on the way."""
_DOUBT: Final = 0.05
"""The share of a period below which it is no longer worth a rejection to know an opening more exactly."""
_CHANCE: Final = 0.02
"""How improbable it must be that openings were foreseen by chance."""
_FORGET: Final = 3
"""Openings after short blocks, none of them foreseen, after which there are no windows."""
_BLOCK_S: Final = 0.4
_BLOCK_CALLS: Final = 3.0
"""A provider shut for longer than this, and than so many calls take, meters by windows."""


def is_long(block_s: float, call_s: float) -> bool:
    """Tell whether a block speaks of a window: it lasted longer than a bucket takes to let a few calls in."""
    return block_s > max(_BLOCK_S, _BLOCK_CALLS * call_s)


class Windows:
    """The period of a provider's windows, and when they begin."""

    __slots__ = ("_anchor", "_count", "_doubted", "_high", "_least", "_low", "_most", "_odds", "_test", "_uses")

    def __init__(self) -> None:
        self._odds = 1.0  # that openings were foreseen by chance
        self._low = self._high = math.nan
        self._least, self._most = 0.0, math.inf
        self._anchor = (math.nan, math.nan)
        self._count = self._doubted = self._uses = 0
        self._test = 1

    @property
    def known(self) -> bool:
        """Whether so many openings were foreseen, and so exactly, that it cannot be chance."""
        return self._odds < _CHANCE

    @property
    def period_s(self) -> float:
        """The time between two openings; 0 while nothing speaks of windows."""
        return 0.5 * (self._least + self._most) if self._most < math.inf else 0.0

    def opened(self, low_s: float, high_s: float, *, long: bool) -> tuple[float, float]:
        """Take an opening that lay between two moments, after a ``long`` block or a short one.

        Returns:
            The two moments, narrowed by what is known.
        """
        if self._most < math.inf:
            foreseen = self._foreseen(low_s, high_s)
            if foreseen is not None:
                self._narrow(*foreseen)
                return (self._low, self._high) if self.known else (low_s, high_s)
            self._doubted += 1
            self._odds = 1.0
        if long:
            least, most = low_s - self._high, high_s - self._low
            if least > 0.0 and (most < self._most or self._doubted >= _FORGET):
                self._least, self._most, self._doubted = least, most, 0
            self._anchor, self._count = (low_s, high_s), 0
            self._low, self._high = low_s, high_s
        elif self._doubted >= _FORGET:
            self._forget()
        return low_s, high_s

    def next(self, rejected_s: float) -> tuple[float, float]:
        """Return the bounds of the first opening after a rejection; NaN while none can be foreseen."""
        if self.known:
            count = max(math.ceil((rejected_s - self._high) / self._most), 1)
            low_s, high_s = self._low + count * self._least, self._high + count * self._most
            if high_s - low_s < self._least:  # after idling it may be any moment
                return low_s, high_s
        return math.nan, math.nan

    def tests(self) -> bool:
        """Tell whether to try earlier than foreseen, as is done ever more seldom: it may have ceased to be true."""
        self._uses += 1
        if self._uses < self._test:
            return False
        self._uses, self._test = 0, 2 * self._test
        return True

    def canary_s(self, low_s: float, high_s: float, rejected_s: float, *, test: bool) -> float:
        """Return when to try: once the window must have begun, or half-way while that is not known well."""
        if test:
            return 0.5 * (rejected_s + low_s)
        low_s = max(low_s, rejected_s)
        return high_s if high_s - low_s <= _DOUBT * self.period_s else 0.5 * (low_s + high_s)

    def _foreseen(self, low_s: float, high_s: float) -> tuple[float, float, int] | None:
        """Return an opening narrowed by what was foreseen, and how many periods later it is; None if it was not."""
        period_s = self.period_s
        count = round((0.5 * (low_s + high_s) - 0.5 * (self._low + self._high)) / period_s)
        slack_s = _SLACK * period_s
        least, most = self._low + count * self._least, self._high + count * self._most
        if count < 1 or low_s > most + slack_s or high_s < least - slack_s:
            return None
        self._odds *= min((high_s - low_s + most - least + 2.0 * slack_s) / period_s, 1.0)
        low_s, high_s = max(low_s, min(least, high_s)), min(high_s, max(most, low_s))
        return low_s, high_s, count

    def _narrow(self, low_s: float, high_s: float, count: int) -> None:
        self._count += count
        self._doubted = 0
        since_low, since_high = self._anchor
        least, most = (low_s - since_high) / self._count, (high_s - since_low) / self._count
        if least <= self._most and most >= self._least:
            self._least, self._most = max(self._least, least), min(self._most, most)
        else:
            self._least, self._most = least, most
        self._low, self._high = low_s, high_s

    def _forget(self) -> None:
        self._odds = 1.0
        self._least, self._most = 0.0, math.inf
        self._count = self._doubted = self._uses = 0
        self._test = 1
