"""A paced axis: its rule, its budget, and its mirror of what headers show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from factflow_llm.ratelimit.budget import Budget
from factflow_llm.ratelimit.line import NEVER
from factflow_llm.signals import Axis

if TYPE_CHECKING:
    from factflow_llm.ratelimit.aimd import RateRule
    from factflow_llm.ratelimit.config import RateLimitConfig
    from factflow_llm.ratelimit.mirror import Mirror


class PacedAxis:
    """A paced axis: the rule that measures its quota, the budget that paces by it, and the mirror of what headers show.

    ``cap`` holds a mirror to the settings' highest rate, to which the rule keeps by itself; ``limited`` tells whether
    the axis held somebody back since the rule's last step.
    """

    __slots__ = ("axis", "budget", "cap", "limited", "mirror", "rule")

    def __init__(self, axis: Axis, rule: RateRule, now: float) -> None:
        self.axis = axis
        self.rule = rule
        self.budget = Budget(rule.rate, level=NEVER, now=now)  # nothing was sent yet: the first call goes at once
        self.cap = Budget(rule.bounded(NEVER), level=NEVER, now=now)
        self.mirror: Mirror | None = None
        self.limited = False

    @property
    def active(self) -> bool:
        """Whether the axis can hold anybody back: a header showed its quota, or a cut measured it."""
        return self.mirror is not None or self.rule.rate != NEVER

    @property
    def rate(self) -> float:
        """Units per second allowed now; ``inf`` while nothing is known."""
        mirror = self.mirror
        return self.rule.rate if mirror is None or mirror.blind else self.rule.bounded(mirror.rate)


def known_rate(config: RateLimitConfig, axis: Axis) -> float:
    """Return the quota the settings name for the axis, in units per second; ``inf`` when they name none."""
    per_minute = {
        Axis.REQUESTS: config.requests_per_minute,
        Axis.INPUT_TOKENS: config.input_tokens_per_minute,
        Axis.OUTPUT_TOKENS: config.output_tokens_per_minute,
        Axis.TOKENS: config.tokens_per_minute,
    }[axis]
    return NEVER if per_minute is None else per_minute / 60.0
