"""Calls in flight: slow start, then the largest number that the provider let through, probed by ever longer strides.

A rejection comes sooner than an answer: while there is no evidence, whoever has been under way for a second counts as
let through, and the limit grows, however long answers take.

A rejection that names no axis may speak of the rate or of slots. It speaks of slots if, of many calls let through
lately, none was sent with so many others in flight; and if cutting the number helps. If it does not, the suspicion
was wrong. Whichever of the two is blamed, the other is searched anew: what it had been cut to was a mistake.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from factflow_llm.ratelimit.aimd import Stage
from factflow_llm.ratelimit.openings import SOUND as SOUND_SAMPLE
from factflow_llm.signals import Reason

if TYPE_CHECKING:
    from factflow_llm.ratelimit.config import RateLimitConfig


_HOLD: Final = 1.5
"""A number of slots that was found is tried again after so many times as many calls as a rate."""
_GIVE_WAY: Final = 0.9
NEWS_S: Final = 1.0
"""A rejection has arrived by then, as long as none has shown how long it takes."""
_FEW: Final = 3
"""Calls let through from which a suspicion may arise; it needs to be repeated before it counts."""
_SOON: Final = 9
"""The same, in company, where there are samples of what was in flight instead."""
_SELDOM: Final = 3.0
"""How much more seldom several processes probe a number that was found twice: all are rejected before all know."""
_TOLD_S: Final = 2.5
"""How long it takes there until a stride was taken by somebody, and what became of it is known."""


class SlotRule:
    """How many calls may be in flight.

    Attributes:
        limit: calls allowed in flight.
        before: how many were allowed before the last stride.
        stage: where the rule stands.
        company: whether the calls of several processes are counted: together, and exactly, but a second late.
    """

    __slots__ = (
        "_before_blame", "_config", "_found", "_full_s", "_next_s", "_passed", "_peak", "_stride", "_suspect", "before",
        "company", "limit", "stage",
    )  # fmt: skip

    def __init__(self, config: RateLimitConfig) -> None:
        self._config = config
        self.limit = self.before = float(config.initial_concurrency)
        self.stage = Stage.OPEN
        self.company = False
        self._peak = self._passed = 0
        self._suspect = self._found = -math.inf
        self._before_blame: tuple[float, Stage] | None = None
        self._stride = 1.0
        self._next_s = 0.0
        self._full_s = math.nan

    def retune(self, config: RateLimitConfig) -> None:
        """Take new settings and keep what was learned."""
        self._config = config
        self.limit = min(self.limit, float(config.max_concurrency))

    def follow(self, limit: float) -> None:
        """Stay at a number that somebody else has found."""
        self.limit, self.before, self.stage, self._next_s = limit, limit, Stage.PROBE, math.inf

    def lead(self, now: float, *, opens: bool) -> None:
        """Learn from here on; ``opens`` says that nothing was rejected yet."""
        self.stage, self._stride, self._full_s = Stage.OPEN if opens else Stage.PROBE, 1.0, math.nan
        self._next_s = now + self._config.probe_s

    def let_through(self, in_flight: int) -> None:
        """Note that a call sent as the ``in_flight``-th was let through."""
        self._passed += 1
        self._before_blame = None
        if in_flight > self._peak:
            self._peak = in_flight

    def blames(self, in_flight: int) -> bool:
        """Tell whether the rejection of the ``in_flight``-th call speaks of slots.

        It does if of many calls let through since the last cut none was as high, and either the limit had stood there
        before its last stride, or the last suspicion fell on the same number. If it was wrong, nothing is let through
        afterwards: then the limit goes back to where it was. Where rejections speak of the rate, whatever held calls in
        flight back so far is in doubt, and their number may grow fast again.
        """
        if self._before_blame is not None:
            limit, self.stage = self._before_blame
            self.limit = min(limit, float(self._config.max_concurrency))
            self._before_blame = None
            return False
        if self._passed < (_SOON if self.company else _FEW) or in_flight <= self._peak:
            if self.stage is Stage.PROBE:
                self.stage, self._stride, self._full_s = Stage.OPEN, 1.0, math.nan
            return False
        off = 0.0 if self.company else max(1.0, 0.05 * self._suspect)
        repeated = abs(in_flight - 1.0 - self._suspect) <= off
        self._suspect = in_flight - 1.0
        before_stride = self.limit - 0.5 * self._stride
        return repeated or (self._passed >= SOUND_SAMPLE and in_flight >= before_stride)

    def cut(self, now: float, in_flight: int, round_trip_s: float) -> Reason:
        """Fall below the number at which a call was rejected."""
        self._before_blame = self.limit, self.stage
        found, self._found = self._found, max(1.0, min(in_flight - 1.0, self.limit))
        self.limit = self.before = self._found
        self.stage = Stage.PROBE
        self._stride = 1.0
        again = self.company and abs(self.limit - found) <= 1.0
        self._next_s = now + (_SELDOM if again else 1.0) * self._hold_s(round_trip_s)
        return Reason.RATE_LIMITED

    def full(self, now: float) -> None:
        """Note that the limit holds somebody back."""
        if math.isnan(self._full_s):
            self._full_s = now

    def free(self) -> None:
        """Note that the limit holds nobody back."""
        self._full_s = math.nan

    def grows_at(self, now: float) -> float:
        """Return when a limit that holds calls back will grow, unless something is heard before; after ``now``."""
        if self.stage is not Stage.OPEN or self.limit >= self._config.max_concurrency:
            return math.inf
        at = self._full_s + NEWS_S
        return at if at > now else now + NEWS_S

    def due(self, now: float) -> bool:
        """Tell whether a limit that holds calls back may grow, for nothing was heard."""
        return self.stage is Stage.OPEN and self.limit < self._config.max_concurrency and now >= self._full_s + NEWS_S

    def grow(self, now: float) -> Reason:
        """Grow by one because nothing was heard; at that pace, the limit doubles in the time that news takes."""
        self.limit = min(self.limit + 1.0, float(self._config.max_concurrency))
        self._full_s = now - NEWS_S * (1.0 - 1.0 / self.limit)
        return Reason.SLOW_START

    def overloaded(self, in_flight: int) -> Reason:
        """Give way a little, for the provider is in trouble; grow again as soon as calls succeed."""
        self.limit = max(1.0, math.floor(min(self.limit, in_flight + 1.0) * _GIVE_WAY))
        self.stage, self._stride = Stage.PROBE, 1.0
        return Reason.OVERLOADED

    def new_epoch(self) -> None:
        """Forget what was let through: a cut was made, on this axis or another."""
        self._peak = self._passed = 0

    def step(self, now: float, round_trip_s: float) -> Reason | None:
        """Grow because a call succeeded while the limit was what held others back; return why, if it grew."""
        before = self.limit
        top = float(self._config.max_concurrency)
        if self.stage is Stage.OPEN:
            self.limit, self._full_s = min(before + 1.0, top), now
            return Reason.SLOW_START if self.limit != before else None
        if now < self._next_s:
            return None
        self.limit, self.before = min(before + self._stride, top), before
        self._stride *= 2.0
        self._next_s = now + round_trip_s + (_TOLD_S if self.company else 0.0)
        if self.limit == before:
            return None
        return Reason.PROBE if self._stride == 2.0 else Reason.RECOVER

    def _hold_s(self, round_trip_s: float) -> float:
        calls_s = _HOLD * self._config.probe_requests * round_trip_s / self.limit
        return max(self._config.probe_s, calls_s)
