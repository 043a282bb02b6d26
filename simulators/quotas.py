"""How providers meter traffic: windows and buckets that admit or refuse, each a few lines of plain state.

A *quota* (``Bucket``, ``FixedWindow``, ...) is the frozen description that a TOML file or a notebook holds; ``meter()`` makes
its running state. A meter is asked, then told: ``wait_s`` says how long until so many units fit and changes nothing that
matters, ``charge`` takes them. The provider asks all its meters before it charges any, so admission is atomic.
"""

from __future__ import annotations

import math
from collections import deque
from enum import StrEnum
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator

from factflow_llm.ratelimit.signals import Axis

_SLACK_S = 1e-9  # a nanosecond: float time must not turn "come back in w seconds" into one refusal more
_SLACK = 1e-9

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Estimate(StrEnum):
    """How a provider guesses a call's tokens before it runs.

    ``SUM`` is input plus ``max_tokens`` (what captures of OpenAI traffic fit), ``MAX`` the larger of both (what its guide says),
    ``INPUT`` the input alone (embeddings).
    """

    SUM = "sum"
    MAX = "max"
    INPUT = "input"


class Settlement(StrEnum):
    """What becomes of the estimate once the answer is complete.

    ``NEVER`` keeps it (no refund of unused ``max_tokens``), ``AT_END`` corrects it to the tokens really used, ``REALTIME``
    charges output only when it has been produced.
    """

    NEVER = "never"
    AT_END = "at_end"
    REALTIME = "realtime"


class Meter(Protocol):
    """The running state of one quota."""

    rate: float
    """Units per second that can be sustained (slots for concurrency)."""

    def wait_s(self, now: float, units: float) -> float:
        """Return seconds until ``units`` fit: 0 if they fit now, ``inf`` if they never will."""

    def charge(self, now: float, units: float) -> Any:
        """Take ``units`` and return a receipt for ``correct``."""

    def correct(self, now: float, receipt: Any, units: float) -> None:
        """Add ``units`` (negative: give back) to a charge made earlier."""

    def penalise(self, now: float, units: float) -> None:
        """Let a refused call consume what is left, at most ``units``."""

    def scale(self, now: float, factor: float) -> None:
        """Set the quota to ``factor`` times its nominal size, keeping what is in it as far as it fits."""

    def show(self, now: float) -> tuple[float, float, float]:
        """Return limit, units left, and seconds until all of them are back."""


class BucketMeter:
    """A bucket refilled continuously: ``limit`` units per ``per_s``, holding ``burst_s`` seconds of refill.

    The level is kept as the time at which the bucket will be full again, so that nothing needs refilling.
    """

    __slots__ = ("_burst_s", "_full_at", "_limit", "_nominal", "_per_s", "rate")

    def __init__(self, limit: float, per_s: float, burst_s: float) -> None:
        self._nominal = self._limit = limit
        self._per_s = per_s
        self._burst_s = burst_s
        self.rate = limit / per_s
        self._full_at = -math.inf

    def wait_s(self, now: float, units: float) -> float:
        needed_s = units / self.rate
        missing_s = self._full_at - now
        if missing_s > 0.0:
            wait_s = missing_s + needed_s - self._burst_s
        else:
            wait_s = needed_s - self._burst_s
        if wait_s <= _SLACK_S:
            return 0.0
        return wait_s if needed_s <= self._burst_s + _SLACK_S else math.inf

    def charge(self, now: float, units: float) -> None:
        full_at = self._full_at
        self._full_at = (full_at if full_at > now else now) + units / self.rate

    def correct(self, now: float, receipt: None, units: float) -> None:
        self._full_at = max(self._full_at, now) + units / self.rate

    def penalise(self, now: float, units: float) -> None:
        missing_s = max(self._full_at - now, 0.0)
        self._full_at = now + max(missing_s, min(missing_s + units / self.rate, self._burst_s))

    def scale(self, now: float, factor: float) -> None:
        level = (self._burst_s - max(self._full_at - now, 0.0)) * self.rate
        self._limit = self._nominal * factor
        self.rate = self._limit / self._per_s
        self._full_at = now + max(self._burst_s - level / self.rate, 0.0)

    def show(self, now: float) -> tuple[float, float, float]:
        missing_s = max(self._full_at - now, 0.0)
        return self._limit, max(self._burst_s - missing_s, 0.0) * self.rate, missing_s


class UtilisationMeter(BucketMeter):
    """A leaky bucket that admits whenever it is not over the brim, and may then overflow by one call.

    Provisioned throughput works like this: utilisation at or under 100 % admits anything, above it nothing.
    """

    __slots__ = ()

    def wait_s(self, now: float, units: float) -> float:
        wait_s = self._full_at - now - self._burst_s
        return wait_s if wait_s > _SLACK_S else 0.0


class FixedWindowMeter:
    """A counter that falls to zero at every multiple of ``window_s`` (after ``phase_s``)."""

    __slots__ = ("_limit", "_nominal", "_number", "_per_s", "_phase_s", "_used", "_window_s", "rate")

    def __init__(self, limit: float, per_s: float, window_s: float, phase_s: float) -> None:
        self._nominal = limit
        self._per_s = per_s
        self._window_s = window_s
        self._phase_s = phase_s
        self._number = -1
        self._used = 0.0
        self._set(limit)

    def _set(self, limit: float) -> None:
        self.rate = limit / self._per_s
        self._limit = self.rate * self._window_s

    def _enter(self, now: float) -> None:
        number = math.floor((now - self._phase_s) / self._window_s + _SLACK)
        if number != self._number:
            self._number = number
            self._used = 0.0

    def _until_next_s(self, now: float) -> float:
        return (self._number + 1) * self._window_s + self._phase_s - now

    def wait_s(self, now: float, units: float) -> float:
        self._enter(now)
        if self._used + units <= self._limit + _SLACK:
            return 0.0
        return self._until_next_s(now) if units <= self._limit + _SLACK else math.inf

    def charge(self, now: float, units: float) -> int:
        self._enter(now)
        self._used += units
        return self._number

    def correct(self, now: float, receipt: int, units: float) -> None:
        self._enter(now)
        if receipt == self._number or units > 0:
            self._used += units

    def penalise(self, now: float, units: float) -> None:
        self._enter(now)
        self._used = max(self._used, min(self._used + units, self._limit))

    def scale(self, now: float, factor: float) -> None:
        self._set(self._nominal * factor)

    def show(self, now: float) -> tuple[float, float, float]:
        self._enter(now)
        return self.rate * self._per_s, max(self._limit - self._used, 0.0), self._until_next_s(now)


class SlidingWindowMeter:
    """A log of charges of which no more than ``limit`` may fall into any ``window_s``."""

    __slots__ = ("_limit", "_log", "_nominal", "_per_s", "_used", "_window_s", "rate")

    def __init__(self, limit: float, per_s: float, window_s: float) -> None:
        self._nominal = limit
        self._per_s = per_s
        self._window_s = window_s
        self._log: deque[list[float]] = deque()
        self._used = 0.0
        self._set(limit)

    def _set(self, limit: float) -> None:
        self.rate = limit / self._per_s
        self._limit = self.rate * self._window_s

    def _forget(self, now: float) -> None:
        log = self._log
        horizon = now - self._window_s + _SLACK_S
        while log and log[0][0] <= horizon:
            self._used -= log.popleft()[1]
        if not log:
            self._used = 0.0

    def wait_s(self, now: float, units: float) -> float:
        self._forget(now)
        excess = self._used + units - self._limit - _SLACK
        if excess <= 0:
            return 0.0
        if units > self._limit + _SLACK:
            return math.inf
        for when, charged in self._log:
            excess -= charged
            if excess <= 0:
                return when + self._window_s - now
        raise AssertionError("an empty window admits every call that is not larger than it")

    def charge(self, now: float, units: float) -> list[float]:
        entry = [now, units]
        self._log.append(entry)
        self._used += units
        return entry

    def correct(self, now: float, receipt: list[float], units: float) -> None:
        if receipt[0] > now - self._window_s + _SLACK_S:
            receipt[1] += units
            self._used += units
        elif units > 0:
            self.charge(now, units)

    def penalise(self, now: float, units: float) -> None:
        self._forget(now)
        left = min(units, self._limit - self._used)
        if left > _SLACK:
            self.charge(now, left)

    def scale(self, now: float, factor: float) -> None:
        self._set(self._nominal * factor)

    def show(self, now: float) -> tuple[float, float, float]:
        self._forget(now)
        full_s = self._log[-1][0] + self._window_s - now if self._log else 0.0
        return self.rate * self._per_s, max(self._limit - self._used, 0.0), full_s


class SlotsMeter:
    """Calls in flight. When a slot will be free nobody knows, so a refused caller hears a constant."""

    __slots__ = ("_nominal", "_retry_after_s", "_running", "rate")

    def __init__(self, limit: float, retry_after_s: float) -> None:
        self._nominal = limit
        self._retry_after_s = retry_after_s
        self._running = 0.0
        self.rate = limit

    def wait_s(self, now: float, units: float) -> float:
        if self._running + units <= self.rate + _SLACK:
            return 0.0
        return self._retry_after_s

    def charge(self, now: float, units: float) -> None:
        self._running += units

    def correct(self, now: float, receipt: None, units: float) -> None:
        self._running += units

    def penalise(self, now: float, units: float) -> None:
        """Do nothing: a refused call never ran."""

    def scale(self, now: float, factor: float) -> None:
        self.rate = self._nominal * factor

    def show(self, now: float) -> tuple[float, float, float]:
        left = max(self.rate - self._running, 0.0)
        return self.rate, left, 0.0 if self._running == 0 else self._retry_after_s


class _Quota(BaseModel):
    """What all quotas share.

    Attributes:
        axis: the dimension that is metered.
        limit: units allowed per ``per_s``.
        per_s: the window the limit is quoted for: 60 for "per minute", 86 400 for "per day".
        rejections_count: a refused call consumes quota too (as far as some is left).
        shown: the provider's limit headers show this quota.
        estimate: how tokens are guessed at admission (token axes only).
        unset_output_tokens: output assumed for a chat that names no ``max_tokens``.
        output_weight: units an output token costs where input and output are metered together.
        cached_input_counts: whether input read from the prompt cache is charged.
        settlement: what becomes of the guess afterwards.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    axis: Axis = Axis.REQUESTS
    limit: Positive
    per_s: Positive = 60.0
    rejections_count: bool = False
    shown: bool = True
    estimate: Estimate = Estimate.SUM
    unset_output_tokens: Annotated[int, Field(ge=0)] = 16
    output_weight: Positive = 1.0
    cached_input_counts: bool = True
    settlement: Settlement = Settlement.NEVER

    @model_validator(mode="after")
    def _axis_fits(self) -> _Quota:
        token_only = {"estimate", "unset_output_tokens", "output_weight", "cached_input_counts", "settlement"}
        given = sorted(token_only & self.model_fields_set)
        if self.axis is Axis.REQUESTS and given:
            raise ValueError(
                f"{given[0]} speaks about tokens, but this quota meters requests; remove it or change axis"
            )
        if self.axis is Axis.CONCURRENCY and not isinstance(self, Slots):
            raise ValueError(f'a {type(self).__name__} cannot meter concurrency; write kind = "slots"')
        return self


class Bucket(_Quota):
    """A continuously refilled bucket that holds ``burst_s`` seconds of refill; by default a whole ``per_s``."""

    kind: Literal["bucket"] = "bucket"
    burst_s: Positive | None = None

    def meter(self) -> Meter:
        """Make a full bucket."""
        return BucketMeter(self.limit, self.per_s, self.burst_s or self.per_s)


class Utilisation(_Quota):
    """Provisioned throughput: admits while utilisation is at most 100 %, reserves, settles, drains continuously."""

    kind: Literal["utilisation"] = "utilisation"
    burst_s: Positive | None = None
    settlement: Settlement = Settlement.AT_END

    def meter(self) -> Meter:
        """Make an idle deployment."""
        return UtilisationMeter(self.limit, self.per_s, self.burst_s or self.per_s)


class _Window(_Quota):
    """A window; with ``enforced_over_s`` the limit is enforced in windows of that length, ``per_s`` staying what is quoted."""

    enforced_over_s: Positive | None = None

    @model_validator(mode="after")
    def _enforced_within(self) -> _Window:
        if self.enforced_over_s is None:
            return self
        if self.enforced_over_s > self.per_s:
            raise ValueError(
                f"enforced_over_s = {self.enforced_over_s:g} is longer than per_s = {self.per_s:g}; quote the limit for the longer window"
            )
        share = self.limit * self.enforced_over_s / self.per_s
        if self.axis is Axis.REQUESTS and share < 1:
            raise ValueError(
                f"limit = {self.limit:g} per {self.per_s:g} s leaves {share:g} requests per {self.enforced_over_s:g} s window, so none "
                f"could ever pass; enforced_over_s must be at least {self.per_s / self.limit:g}"
            )
        return self


class FixedWindow(_Window):
    """A counter reset at fixed times."""

    kind: Literal["fixed-window"] = "fixed-window"
    phase_s: NonNegative = 0.0

    def meter(self) -> Meter:
        """Make an unused window."""
        return FixedWindowMeter(self.limit, self.per_s, self.enforced_over_s or self.per_s, self.phase_s)


class SlidingWindow(_Window):
    """A limit on every span of the window's length."""

    kind: Literal["sliding-window"] = "sliding-window"

    def meter(self) -> Meter:
        """Make an unused window."""
        return SlidingWindowMeter(self.limit, self.per_s, self.enforced_over_s or self.per_s)


class Slots(_Quota):
    """A number of calls that may run at once; refused callers hear ``retry_after_s``."""

    kind: Literal["slots"] = "slots"
    axis: Axis = Axis.CONCURRENCY
    retry_after_s: Positive = 1.0
    shown: bool = False

    @model_validator(mode="after")
    def _meters_concurrency(self) -> Slots:
        if self.axis is not Axis.CONCURRENCY:
            raise ValueError(f"slots meter concurrency, not {self.axis}; choose another kind for that axis")
        return self

    def meter(self) -> Meter:
        """Make free slots."""
        return SlotsMeter(self.limit, self.retry_after_s)


Quota = Annotated[Bucket | FixedWindow | SlidingWindow | Slots | Utilisation, Field(discriminator="kind")]
