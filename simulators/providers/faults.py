"""What goes wrong beside quotas: storms, false 429s and waits, stalls, slow drips, broken streams, stale headers.

Each fault is data; it can lie over any provider. Faults come in episodes, as incidents do: within one, a share of
calls is hit, and after it the share fades during recovery. Episodes are drawn by number and hits by (call, how often
it was hit before): every policy meets the same incidents, and a retry gets a fresh chance.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from factflow_llm.signals import AxisLimit
    from simulators.providers.calls import Call
    from simulators.streams import Streams

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]

_RETRIES = 8  # columns of a call's fate; a call hit more often starts over


class _Fault(BaseModel):
    """When a fault rages and whom it hits.

    Attributes:
        start_s: begin of the first episode.
        duration_s: an episode's full strength; ``None``: for ever.
        recovery_s: after it, the time in which the share falls to 0, evenly.
        every_s: mean calm between episodes; ``None``: there is but one.
        share: share of calls that are hit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    start_s: NonNegative = 0.0
    duration_s: Positive | None = None
    recovery_s: NonNegative = 0.0
    every_s: Positive | None = None
    share: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _episodes_end(self) -> Self:
        for name in ("recovery_s", "every_s"):
            if getattr(self, name) and self.duration_s is None:
                msg = f"{name} = {getattr(self, name):g} needs duration_s, or the episode never ends"
                raise ValueError(msg)
        return self


class Refused(_Fault):
    """The provider answers ``status`` instead of working: 503, 529, 500, 530, or a 429 although quota is left."""

    kind: Literal["refused"] = "refused"
    status: Annotated[int, Field(ge=429, le=599)] = 503
    retry_after_s: NonNegative | None = None

    @property
    def error(self) -> str:
        """The reason word that goes with the status."""
        if self.status == 429:
            return "rate_limit"
        return "overloaded" if self.status in (503, 529) else "server"


class Stalled(_Fault):
    """The first chunk comes ``stall_s`` later."""

    kind: Literal["stalled"] = "stalled"
    stall_s: Positive


class Dripping(_Fault):
    """Tokens come ``factor`` times slower."""

    kind: Literal["dripping"] = "dripping"
    factor: Annotated[float, Field(gt=1, allow_inf_nan=False)]


class Broken(_Fault):
    """An answer that began well ends early: with an error inside the stream, or the connection cut."""

    kind: Literal["broken"] = "broken"
    how: Literal["error", "cut"] = "error"

    @property
    def error(self) -> str:
        """The reason word of the break."""
        return "overloaded" if self.how == "error" else "connection"


class Blind(_Fault):
    """Limit headers are missing, or are those of the last ``stale_s``."""

    kind: Literal["blind"] = "blind"
    stale_s: Positive | None = None


class Misleading(_Fault):
    """A call over quota is told to wait for ``retry_after_s``, whatever is true: the first ``times``, or all."""

    kind: Literal["misleading"] = "misleading"
    retry_after_s: NonNegative
    times: Annotated[int, Field(ge=1)] | None = None


Fault = Annotated[Refused | Stalled | Dripping | Broken | Blind | Misleading, Field(discriminator="kind")]


def incident(name: str, start_s: float = 0.0) -> tuple[Fault, ...]:
    """Return the faults of a documented incident's shape, beginning at ``start_s``.

    Args:
        name: ``openai-2024-12-04``, ``openai-2025-06-10``, ``openai-2026-06-02`` or ``anthropic-529-storm``.
        start_s: begin, in seconds from the start of the run.

    Raises:
        ValueError: no incident has that name.
    """
    shapes: dict[str, tuple[Fault, ...]] = {
        # 4 min of nothing but HTTP 530; later 90 min of 30 s stalls: 45 % of clients hang up (status.openai.com)
        "openai-2024-12-04": (
            Refused(status=530, start_s=start_s, duration_s=240),
            Stalled(stall_s=30, share=0.45, start_s=start_s + 3600, duration_s=5400),
        ),
        # about 15 h, a quarter of calls failing at the peak, gradual recovery (status.openai.com, straced.com)
        "openai-2025-06-10": (Refused(status=500, share=0.25, start_s=start_s, duration_s=21_600, recovery_s=32_400),),
        # a rate limiter's dependency fell ill: 429 although within limits (status.openai.com); share and length assumed
        "openai-2026-06-02": (Refused(status=429, share=0.5, start_s=start_s, duration_s=1800, recovery_s=900),),
        # 30 min and more, all retries of ten attempts fail, interleaved with 500s (anthropics/claude-code#3572, #69767)
        "anthropic-529-storm": (
            Refused(status=500, share=0.1, start_s=start_s, duration_s=1800, recovery_s=900),
            Refused(status=529, share=0.95, start_s=start_s, duration_s=1800, recovery_s=900),
        ),
    }
    if name not in shapes:
        msg = f"no incident is called {name!r}; there are {', '.join(shapes)}"
        raise ValueError(msg)
    return shapes[name]


class _Episodes:
    """A fault's way through time and through calls."""

    __slots__ = ("_begin_s", "_draws", "_gaps", "_hits", "_number", "fault")

    def __init__(self, fault: _Fault, streams: Streams, place: int) -> None:
        self.fault = fault
        self._begin_s = fault.start_s
        self._number = 0
        self._gaps = streams.stream(f"fault {place} gaps", "exponential")
        self._draws = streams.stream(f"fault {place}", "uniform", width=2 * _RETRIES)
        self._hits: dict[int, int] = {}

    def share(self, now: float) -> float:
        """Return the share of calls that are hit at ``now``."""
        fault = self.fault
        while now >= self._begin_s:
            if fault.duration_s is None or now < self._begin_s + fault.duration_s:
                return fault.share
            fading_s = now - self._begin_s - fault.duration_s
            if fading_s < fault.recovery_s:
                return fault.share * (1 - fading_s / fault.recovery_s)
            if fault.every_s is None:
                break
            gap_s = self._gaps.row(self._number)[0] * fault.every_s
            self._number += 1
            self._begin_s += fault.duration_s + fault.recovery_s + gap_s
        return 0.0

    def strike(self, now: float, index: int) -> float | None:
        """Return a uniform draw that shapes the hit if call ``index`` is hit at ``now``, else ``None``."""
        share = self.share(now)
        if share == 0.0:
            return None
        column = 2 * (self._hits.get(index, 0) % _RETRIES)
        row = self._draws.row(index)
        if row[column] >= share:
            return None
        if isinstance(self.fault, Refused | Broken | Misleading):  # the others do not make a client come back
            self._hits[index] = self._hits.get(index, 0) + 1
        return row[column + 1]


class FaultLayer:
    """The running state of a provider's faults."""

    __slots__ = ("_blind", "_failing", "_misleading", "_seen", "_shaping", "_told")

    def __init__(self, faults: tuple[Fault, ...], streams: Streams) -> None:
        episodes = [_Episodes(fault, streams, place) for place, fault in enumerate(faults)]
        self._failing = [one for one in episodes if isinstance(one.fault, Refused)]
        self._shaping = [one for one in episodes if isinstance(one.fault, Stalled | Dripping | Broken)]
        self._blind = [one for one in episodes if isinstance(one.fault, Blind)]
        self._misleading = [one for one in episodes if isinstance(one.fault, Misleading)]
        self._told = [0] * len(self._misleading)
        self._seen: tuple[float, tuple[AxisLimit, ...]] = (-math.inf, ())

    def storm(self, now: float, call: Call) -> Refused | None:
        """Return the storm that hits ``call``, if one does."""
        for episodes in self._failing:
            if episodes.strike(now, call.index) is not None:
                assert isinstance(episodes.fault, Refused)
                return episodes.fault
        return None

    def told_s(self, now: float, call: Call, true_s: float | None) -> float | None:
        """Return the wait that ``call``, which is over quota, hears of: ``true_s``, or what somebody makes of it."""
        for place, episodes in enumerate(self._misleading):
            fault = episodes.fault
            assert isinstance(fault, Misleading)
            spent = fault.times is not None and self._told[place] >= fault.times
            if not spent and episodes.strike(now, call.index) is not None:
                self._told[place] += 1
                return fault.retry_after_s
        return true_s

    def shape(self, now: float, call: Call, first_s: float, end_s: float) -> tuple[float, float, float, str | None]:
        """Return when an answer begins, when it is whole, when it ends instead, and why; without faults, as given."""
        cut, error = 1.0, None
        for episodes in self._shaping:
            draw = episodes.strike(now, call.index)
            if draw is None:
                continue
            fault = episodes.fault
            if isinstance(fault, Stalled):
                first_s, end_s = first_s + fault.stall_s, end_s + fault.stall_s
            elif isinstance(fault, Dripping):
                end_s = first_s + (end_s - first_s) * fault.factor
            elif isinstance(fault, Broken):
                cut, error = draw, fault.error
        return first_s, end_s, first_s + (end_s - first_s) * cut, error

    def veil(self, now: float, call: Call, limits: tuple[AxisLimit, ...]) -> tuple[AxisLimit, ...]:
        """Return what headers show of ``limits``: all, nothing, or what was true a while ago."""
        for episodes in self._blind:
            if episodes.strike(now, call.index) is None:
                continue
            assert isinstance(episodes.fault, Blind)
            if episodes.fault.stale_s is None:
                return ()
            if now - self._seen[0] >= episodes.fault.stale_s:
                self._seen = (now, limits)
            return self._seen[1]
        return limits
