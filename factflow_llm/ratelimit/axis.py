"""A paced axis: the rule that measures its quota, the budget that paces by it, and the mirror of what headers show.

No send time is handed out ahead. A caller asks "how long until this cost fits?" and asks again after every change of
rate, so a cut takes effect on everybody who waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from factflow_llm.ratelimit.line import NEVER
from factflow_llm.signals import Axis

if TYPE_CHECKING:
    from factflow_llm.ratelimit.aimd import RateRule
    from factflow_llm.ratelimit.config import RateLimitConfig
    from factflow_llm.ratelimit.mirror import Mirror
    from factflow_llm.ratelimit.part import Part

_EPSILON: Final = 1e-9


class Budget:
    """Units of one axis, refilled continuously; ``rate`` is in units per second, ``inf`` while nothing is known.

    The level may be negative: an estimate that proved too small is a debt that later calls wait for. It grows no
    further than the cost that waits, so a large call, which goes alone, does not starve; or than ``burst``, what the
    provider has shown that it holds for those who were idle.
    """

    __slots__ = ("_as_of_s", "_spare", "burst", "level", "rate")

    def __init__(self, rate: float = NEVER, *, level: float = 0.0, now: float = 0.0) -> None:
        self.rate = rate
        self.level = level
        self.burst = self._spare = 0.0
        self._as_of_s = now

    def __repr__(self) -> str:
        return f"<Budget {self.level:.3g} at {self.rate:.4g}/s>"

    def wait_s(self, now: float, cost: float) -> float:
        """Return the seconds until ``cost`` fits; 0 when it fits now."""
        rate = self.rate
        if rate == NEVER:
            return 0.0
        level = self.level + (now - self._as_of_s) * rate
        if level > cost:
            most = max(cost, self._spare, self.burst)
            if level > most:
                level = most
        self._spare = self.level = level
        self._as_of_s = now
        missing = cost - level
        return missing / rate if missing > _EPSILON else 0.0

    def refill(self, level: float) -> None:
        """Set what is there, which may be more than one call needs; what is not taken of it at once stays."""
        self.level = self._spare = level

    def reserve(self, cost: float) -> None:
        """Take ``cost`` out of the level, as of the last ``wait_s``."""
        if self.rate != NEVER:
            self.level -= cost

    def settle(self, reserved: float, used: float) -> None:
        """Correct a reservation by what was really used."""
        if self.rate != NEVER:
            self.level += reserved - used

    def set_rate(self, now: float, rate: float) -> None:
        """Change the rate; what has trickled in so far is kept. The first finite rate starts from an empty level."""
        if self.rate == NEVER:
            self.level = 0.0
        else:
            self.level += (now - self._as_of_s) * self.rate
        self._as_of_s = now
        self.rate = rate


class PacedAxis:
    """One axis of the quota.

    ``cap`` holds a mirror to the settings' highest rate, to which the rule keeps by itself; ``limited`` tells whether
    the axis held somebody back since the rule's last step. Whatever headers or answers
    say, nobody is held back by them for longer than ``patience_s`` after the last call.
    """

    __slots__ = ("_part", "_sent_s", "axis", "budget", "cap", "limited", "mirror", "patience_s", "rule")

    def __init__(self, axis: Axis, rule: RateRule, now: float, patience_s: float, part: Part) -> None:
        self.axis = axis
        self.rule = rule
        self._part = part
        self.patience_s = patience_s
        self._sent_s = now
        self.budget = Budget(rule.rate, level=NEVER, now=now)  # nothing was sent yet: the first call goes at once
        self.cap = Budget(rule.bounded(NEVER), level=NEVER, now=now)
        self.mirror: Mirror | None = None
        self.limited = False

    @property
    def active(self) -> bool:
        """Whether the axis can hold anybody back: a header showed its quota, or a rejection measured it."""
        return self.mirror is not None or self.rule.rate != NEVER

    @property
    def rate(self) -> float:
        """Units per second of the whole quota allowed now; ``inf`` while nothing is known."""
        mirror = self.mirror
        return self.rule.rate if mirror is None or mirror.blind else self.rule.bounded(mirror.rate)

    def repace(self, now: float) -> None:
        """Pace at our part of the rule's rate."""
        self.budget.set_rate(now, self.rule.rate * self._part.share)

    def wait_s(self, now: float, cost: float) -> float:
        """Return the seconds until ``cost`` fits; 0 when it fits now."""
        mirror = self.mirror
        if mirror is None or mirror.blind:
            rule, wait_s = self.rule, self.budget.wait_s(now, cost)
            return max(wait_s, rule.lookback.wait_s(now, cost, rule.rate)) if rule.lookback.quota else wait_s
        patience_s = max(self._sent_s + self.patience_s - now, 0.0)
        return max(min(mirror.wait_s(now, cost), patience_s), self.cap.wait_s(now, cost))

    def reserve(self, now: float, cost: float) -> None:
        """Take what a call is expected to cost."""
        self._sent_s = now
        self.budget.reserve(cost)
        if self.mirror is not None:
            self.mirror.spend(now, cost)
            self.cap.reserve(cost)

    def settle(self, reserved: float, used: float) -> None:
        """Correct a reservation by what was really used; a debt is never larger than patience allows."""
        budget = self.budget
        budget.settle(reserved, used)
        if used > reserved:
            budget.level = max(budget.level, -self.patience_s * budget.rate)

    def reopen(self, now: float, opened_s: float, sent: float) -> None:
        """Begin anew at the measured rate: the provider opened at ``opened_s``, and so much was sent since, by all."""
        budget, rate, share = self.budget, self.rule.rate, self._part.share
        self.repace(now)
        budget.refill(((0.0 if rate == NEVER else rate * (now - opened_s)) - sent) * share)
        budget.burst = self.rule.burst

    @property
    def spare(self) -> float:
        """Units that the budget still held, to the best of our knowledge."""
        return 0.0 if self.budget.rate == NEVER else self.budget.level

    @property
    def shared(self) -> bool:
        """Whether others were seen to draw on this axis."""
        mirror = self.mirror
        return self.rule.sharing.shared or (mirror is not None and mirror.company)


def known_rate(config: RateLimitConfig, axis: Axis) -> float:
    """Return the quota the settings name for the axis, in units per second; ``inf`` when they name none."""
    per_minute = {
        Axis.REQUESTS: config.requests_per_minute,
        Axis.INPUT_TOKENS: config.input_tokens_per_minute,
        Axis.OUTPUT_TOKENS: config.output_tokens_per_minute,
        Axis.TOKENS: config.tokens_per_minute,
    }[axis]
    return NEVER if per_minute is None else per_minute / 60.0
