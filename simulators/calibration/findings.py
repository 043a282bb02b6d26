"""What calibration says of a provider, one figure at a time: value, interval, and how well it is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum


class Known(StrEnum):
    """How well a figure is identified."""

    PINNED = "pinned down"
    ROUGH = "roughly known"
    LOOSE = "hardly known"
    FLOOR = "bounded from below only"
    READ = "read from headers, never tested"
    UNKNOWN = "not identified"

    @classmethod
    def by_width(cls, low: float, high: float) -> Known:
        """Return the word for an interval: within 3 % pinned down, within 30 % roughly known."""
        if not math.isfinite(high):
            return cls.FLOOR
        width = (high - low) / high if high else 0.0
        return cls.PINNED if width <= 0.03 else cls.ROUGH if width <= 0.3 else cls.LOOSE

    @classmethod
    def worse(cls, one: Known, other: Known) -> Known:
        """Return the less certain word of two."""
        listed = list(cls)
        return max(one, other, key=listed.index)


@dataclass(frozen=True)
class Finding:
    """One figure.

    Attributes:
        name: of what.
        value: the best guess, a number or a word; ``None`` where there is none.
        low: the least value that the recording does not contradict; ``None`` for words.
        high: the greatest; ``inf`` where nothing bounds it.
        known: how well it is identified.
        note: what the judgement rests on.
    """

    name: str
    value: float | str | None
    low: float | None = None
    high: float | None = None
    known: Known = Known.PINNED
    note: str = ""

    @property
    def interval(self) -> str:
        """The interval in words; empty for words."""
        if self.low is None or self.high is None:
            return ""
        return f"at least {self.low:.6g}" if math.isinf(self.high) else f"{self.low:.6g} to {self.high:.6g}"

    def __str__(self) -> str:
        value = (
            "unknown" if self.value is None else f"{self.value:.6g}" if isinstance(self.value, float) else self.value
        )
        return f"{self.name:<34} {value:<22} {self.interval:<28} {self.known:<32} {self.note}".rstrip()


def roundest(low: float, high: float) -> float:
    """Return the number of fewest digits in [low, high), for people choose round limits; of several, the middle one."""
    if math.isinf(high):
        return low
    middle = (low + high) / 2
    step = 10.0 ** math.ceil(math.log10(high)) if high > 0 else 1.0
    for _ in range(15):
        near = round(middle / step) * step
        for number in (near, math.ceil(low / step) * step):
            if low <= number < high:
                return float(f"{number:.12g}")
        step /= 10.0
    return middle
