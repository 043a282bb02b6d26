"""Whether the provider looks back over the last minute, and how much it lets into it.

Behind a sliding window there is room again when a call sent a minute ago expires. So the rate between two openings is
our own of a minute before, and measuring it again and again tells nothing; but what was admitted within the last minute
is the same at every rejection. Where that holds while rates contradict each other, the minute is kept to exactly:
nobody goes while it is full.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

PERIOD_S: Final = 60.0
_GRAIN_S: Final = 0.25
"""Calls this close to each other are kept as one."""
_LATE_S: Final = 5.0
"""For how long after a call was sent its rejection can still be compared with the minute before it."""
_SLACK: Final = 0.03
"""The share by which two minutes may differ and still hold the same."""
_SLACK_CALLS: Final = 2.0
"""The same in calls."""
_APART_S: Final = 6.0
"""Rejections that come sooner have the same minute before them anyway."""
_KNOWN: Final = 3
"""Rejections with the same minute before them, and another rate, from which on it is no chance."""


class Lookback:
    """What was sent within the last minute.

    Attributes:
        quota: units that the provider lets into a minute; 0 while it is not known to look back.
    """

    __slots__ = ("_agreed", "_learned_s", "_marks", "_within", "quota")

    def __init__(self) -> None:
        self._marks: deque[tuple[float, float]] = deque()  # until when so much had been sent
        self._within = 0.0
        self._agreed = 0
        self._learned_s = -PERIOD_S
        self.quota = 0.0

    def sent(self, now: float, total: float, cost: float) -> None:
        """Note how much was sent so far, of which the call that goes now is ``cost``."""
        marks = self._marks
        if not marks:  # what went before nobody looked is no part of any minute
            marks.append((-math.inf, total - cost))
        if now // _GRAIN_S == marks[-1][0] // _GRAIN_S:
            marks[-1] = now, total
            return
        marks.append((now, total))
        while len(marks) > 1 and marks[1][0] <= now - PERIOD_S - _LATE_S:
            marks.popleft()

    def _sent_by(self, time_s: float) -> float:
        total = 0.0
        for at, so_far in self._marks:
            if at > time_s:
                break
            total = so_far
        return total

    def within(self, time_s: float, admitted: float) -> float:
        """Return what was admitted within the minute before ``time_s``, until which so much was in all."""
        return admitted - self._sent_by(time_s - PERIOD_S)

    def learn(self, sent_s: float, within: float, unit: float, *, contradicted: bool) -> None:
        """Take what the minute before a rejection held, and whether the rate measured there contradicts the last."""
        if not self.quota and sent_s < self._learned_s + _APART_S:
            return
        self._learned_s = sent_s
        if abs(within - self._within) > max(_SLACK_CALLS * unit, _SLACK * within):
            self._agreed, self.quota = 0, 0.0
        elif contradicted:
            self._agreed += 1
        self._within = within
        if self.quota or self._agreed >= _KNOWN:
            self.quota = within

    def wait_s(self, now: float, cost: float, rate: float = 0.0) -> float:
        """Return the seconds until ``cost`` fits into the minute, or into what a higher ``rate`` would try there."""
        total = self._marks[-1][1] if self._marks else 0.0
        most = total + cost - max(self.quota, PERIOD_S * rate)
        if most <= self._sent_by(now - PERIOD_S):
            return 0.0
        return next((at + PERIOD_S - now for at, so_far in self._marks if so_far >= most), 0.0)
