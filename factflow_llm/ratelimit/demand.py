"""What a process sends lately, and what it would send, by priority: it wants its share of the quota by that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from factflow_llm.ratelimit.said import Units

_LATELY: Final = 0.3
"""What the last second weighs."""
_HEADROOM: Final = 1.1
"""What is wanted, as a multiple of what is sent: room to grow without asking."""


class Demand:
    """Moving averages over some seconds.

    Attributes:
        wants: calls per second that would be sent, by priority.
        per_s: units admitted per second.
    """

    __slots__ = ("_admitted", "_measured_s", "_sent", "per_s", "wants")

    def __init__(self) -> None:
        self.wants: Mapping[int, float] = {}
        self.per_s: Units = (0.0, 0.0, 0.0)
        self._sent: dict[int, float] = {}
        self._measured_s: float | None = None
        self._admitted: Units = (0.0, 0.0, 0.0)

    def sent(self, priority: int) -> None:
        """Count a call."""
        self._sent[priority] = self._sent.get(priority, 0.0) + 1.0

    def forget(self) -> None:
        """Begin anew with the next measurement."""
        self._measured_s = None

    def measure(self, now: float, admitted: Units, waiting: Mapping[int, float]) -> None:
        """Take what was admitted in all until now, and how many calls wait, by priority."""
        sent, self._sent = self._sent, {}
        wants = dict(self.wants)
        if self._measured_s is None:
            wants = {0: sum(waiting.values())}
        else:
            since_s = max(now - self._measured_s, 1e-3)
            weight = 1.0 - (1.0 - _LATELY) ** since_s
            requests, read, written = (
                mean + weight * ((new - old) / since_s - mean)
                for mean, new, old in zip(self.per_s, admitted, self._admitted, strict=True)
            )
            self.per_s = requests, read, written
            for priority in {*wants, *sent}:
                want = wants.pop(priority, 0.0)
                want += weight * (_HEADROOM * sent.get(priority, 0.0) / since_s - want)
                if want > 1e-3:
                    wants[priority] = want
        self._measured_s, self._admitted = now, admitted
        self.wants = {**wants, **{p: max(wants.get(p, 0.0), number) for p, number in waiting.items()}}
