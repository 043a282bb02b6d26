"""How providers limit traffic, as data: each class describes one quota; ``meter()`` makes its running state.

A quota says what is counted (``axis``), how much of it, over what kind of window, and what a call costs before and
after it ran. Any number of quotas stand together; all must admit.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, model_validator
from typing_extensions import override

from factflow_llm.signals import Axis
from simulators.providers.calls import (
    CostRule,
    Estimate,
    FinalRule,
    Settlement,
    estimate_rule,
    final_rule,
    input_rule,
    nothing,
    output_rule,
    released,
)
from simulators.providers.meters import (
    BucketMeter,
    FixedWindowMeter,
    Meter,
    RampMeter,
    SlidingWindowMeter,
    SlotsMeter,
    UtilisationMeter,
)

DAY_S = 86_400.0
_ROUNDING = 1e-9
_REJECTION = AliasChoices("rejection", "refusal")  # the second as files once had it

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        msg = f"{name!r} is no time zone that this machine knows; write one such as America/Los_Angeles"
        raise ValueError(msg) from None
    return name


def _until_midnight_s(utc_s: float, zone: str) -> float:
    local = datetime.fromtimestamp(utc_s, ZoneInfo(zone))
    tomorrow = (local + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return tomorrow.timestamp() - utc_s


class RejectionKind(StrEnum):
    """The reason word of a rejection.

    ``QUOTA`` (a spend cap) is rejected without any Retry-After; ``OVERLOADED`` with a 503, or a 529 at Anthropic.
    """

    RATE_LIMIT = "rate_limit"
    DAILY_QUOTA = "daily_quota"
    QUOTA = "quota"
    RAMP = "ramp"
    OVERLOADED = "overloaded"


class _Quota(BaseModel):
    """What all quotas share.

    Attributes:
        axis: the dimension that is counted.
        limit: units allowed per ``per_s``.
        per_s: the span the limit is quoted for: 60 for "per minute", 86 400 for "per day".
        derating: share of the limit in force while the pool is under pressure; headers show the derated limit.
        rejections_count: a rejected call consumes quota too, as far as some is left.
        used_share: share of it that others have used up when the run starts.
        shown: the provider's limit headers show this quota.
        rejection: the word for a rejection by this quota; by default ``daily_quota`` from a day on, else
            ``rate_limit``.
        estimate: how tokens are guessed at admission.
        unset_output_tokens: output assumed of a chat that names no ``max_tokens``.
        output_weight: units an output token costs where input and output are counted together.
        weighs_reservation: ``output_weight`` already applies to the estimate, not only to the settlement.
        cached_input_counts: input read from the prompt cache is charged.
        settlement: what becomes of the guess afterwards.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    axis: Axis = Axis.REQUESTS
    limit: Positive
    per_s: Positive = 60.0
    derating: Annotated[float, Field(gt=0, le=1)] = 1.0
    rejections_count: bool = False
    used_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    shown: bool = True
    rejection: Annotated[RejectionKind | None, Field(validation_alias=_REJECTION)] = None
    estimate: Estimate = Estimate.SUM
    unset_output_tokens: Annotated[int, Field(ge=0)] = 16
    output_weight: Positive = 1.0
    weighs_reservation: bool = True
    cached_input_counts: bool = True
    settlement: Settlement = Settlement.NEVER

    @model_validator(mode="after")
    def _fields_fit_the_axis(self) -> Self:
        about_tokens = ("cached_input_counts", "estimate", "output_weight", "settlement", "unset_output_tokens")
        misplaced = [name for name in about_tokens if getattr(self, name) != type(self).model_fields[name].default]
        if self.axis in (Axis.REQUESTS, Axis.CONCURRENCY) and misplaced:
            msg = f"{misplaced[0]} speaks about tokens but axis is {self.axis}; remove it or meter tokens"
            raise ValueError(msg)
        if self.used_share and isinstance(self, Slots | Ramp):
            msg = f'used_share = {self.used_share:g} does not go with kind = "{self.kind}", which has none; remove it'
            raise ValueError(msg)
        if (self.axis is Axis.CONCURRENCY) != isinstance(self, Slots):
            msg = (
                f'axis = "{self.axis}" does not go with {type(self).__name__}; concurrency is metered by kind = "slots"'
            )
            raise ValueError(msg)
        return self

    @property
    def units_per_s(self) -> float:
        """What the quota lets through for ever; ``inf`` where it limits something else."""
        return self.limit * self.derating / self.per_s

    @property
    def rejection_word(self) -> RejectionKind:
        """The reason word of a rejection by this quota."""
        return self.rejection or (RejectionKind.DAILY_QUOTA if self.per_s >= DAY_S else RejectionKind.RATE_LIMIT)

    def meter(self, start_utc_s: float = 0.0) -> Meter:
        """Make the unused state of this quota; the wall clock shows ``start_utc_s`` at time 0."""
        raise NotImplementedError

    def cost_rule(self) -> CostRule | None:
        """Return the function that estimates a call's units at admission; ``None``: every call costs 1."""
        if self.axis in (Axis.REQUESTS, Axis.CONCURRENCY):
            return None
        input_of = input_rule(self.cached_input_counts)
        output_of = output_rule(self.output_weight if self.weighs_reservation else 1.0, self.unset_output_tokens)
        if self.axis is Axis.OUTPUT_TOKENS:
            return nothing if self.settlement is Settlement.REALTIME else output_of
        if self.axis is Axis.INPUT_TOKENS or self.settlement is Settlement.REALTIME:
            return input_of
        return estimate_rule(self.estimate, input_of, output_of)

    def final_rule(self) -> FinalRule | None:
        """Return what a call that produced so many tokens costs in the end; ``None``: the estimate stands."""
        if self.axis is Axis.REQUESTS or self.settlement is Settlement.NEVER:
            return None
        return final_rule(self.axis, input_rule(self.cached_input_counts), self.output_weight)


class Bucket(_Quota):
    """A continuously refilled bucket that holds ``burst_s`` seconds of refill; by default all of ``per_s``."""

    kind: Literal["bucket"] = "bucket"
    burst_s: Positive | None = None

    @model_validator(mode="after")
    def _one_request_fits(self) -> Self:
        _one_request_fits(self, self.burst_s, "burst_s")
        return self

    @override
    def meter(self, start_utc_s: float = 0.0) -> Meter:
        return BucketMeter(self.limit * self.derating, self.per_s, self.burst_s or self.per_s)


class Utilisation(_Quota):
    """Provisioned throughput: admits while utilisation is at most 100 %, reserves, settles, drains continuously.

    100 % is ``burst_s`` seconds of drain. How long that is at Azure is not published; a minute is assumed.
    """

    kind: Literal["utilisation"] = "utilisation"
    burst_s: Positive = 60.0
    settlement: Settlement = Settlement.AT_END

    @override
    def meter(self, start_utc_s: float = 0.0) -> Meter:
        return UtilisationMeter(self.limit * self.derating, self.per_s, self.burst_s)


class _WindowQuota(_Quota):
    """A window of ``enforced_over_s``, by default ``per_s``: "600 per minute" may be enforced as 100 per 10 s."""

    enforced_over_s: Positive | None = None

    @model_validator(mode="after")
    def _enforced_within(self) -> Self:
        if self.enforced_over_s is not None and self.enforced_over_s > self.per_s:
            msg = (
                f"enforced_over_s = {self.enforced_over_s:g} exceeds per_s = {self.per_s:g}: a window cannot be longer"
            )
            raise ValueError(msg)
        _one_request_fits(self, self.enforced_over_s, "enforced_over_s")
        return self


class FixedWindow(_WindowQuota):
    """A counter that starts anew at fixed times, the first after ``phase_s``, or at midnight of a time zone.

    Attributes:
        midnight_in: the zone whose midnight begins a day's window, as ``America/Los_Angeles``.
    """

    kind: Literal["fixed-window"] = "fixed-window"
    phase_s: NonNegative = 0.0
    midnight_in: Annotated[str, AfterValidator(_known_zone)] | None = None

    @override
    def meter(self, start_utc_s: float = 0.0) -> Meter:
        window_s = self.enforced_over_s or self.per_s
        phase_s = self.phase_s if self.midnight_in is None else _until_midnight_s(start_utc_s, self.midnight_in)
        return FixedWindowMeter(self.limit * self.derating, self.per_s, window_s, phase_s)


class SlidingWindow(_WindowQuota):
    """A limit on every span of the window's length."""

    kind: Literal["sliding-window"] = "sliding-window"

    @override
    def meter(self, start_utc_s: float = 0.0) -> Meter:
        return SlidingWindowMeter(self.limit * self.derating, self.per_s, self.enforced_over_s or self.per_s)


class Ramp(_Quota):
    """A limit on growth: ``growth`` times the busiest window of ``memory_s`` may pass, and ``limit`` always."""

    kind: Literal["ramp"] = "ramp"
    growth: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 1.5
    memory_s: Positive = 900.0
    shown: bool = False
    rejection: Annotated[RejectionKind | None, Field(validation_alias=_REJECTION)] = RejectionKind.RAMP

    @property
    @override
    def units_per_s(self) -> float:
        return math.inf

    @override
    def meter(self, start_utc_s: float = 0.0) -> Meter:
        return RampMeter(self.limit * self.derating, self.per_s, self.growth, max(round(self.memory_s / self.per_s), 1))


class Slots(_Quota):
    """A number of calls that may run at once; a rejected caller hears ``retry_after_s``."""

    kind: Literal["slots"] = "slots"
    axis: Axis = Axis.CONCURRENCY
    retry_after_s: Positive = 1.0
    shown: bool = False

    @model_validator(mode="after")
    def _holds_a_call(self) -> Self:
        if self.limit * self.derating < 1:
            msg = f"limit = {self.limit:g} slots holds no call; it must be at least 1"
            raise ValueError(msg)
        return self

    @override
    def meter(self, start_utc_s: float = 0.0) -> Meter:
        return SlotsMeter(self.limit * self.derating, self.retry_after_s)

    @override
    def final_rule(self) -> FinalRule:
        return released


Quota = Annotated[
    Bucket | FixedWindow | SlidingWindow | Slots | Utilisation | Ramp,
    Field(discriminator="kind"),
]


def _one_request_fits(quota: _Quota, span_s: float | None, name: str) -> None:
    if span_s is None or quota.axis is not Axis.REQUESTS or quota.units_per_s * span_s >= 1 - _ROUNDING:
        return
    msg = (
        f"limit = {quota.limit:g} per {quota.per_s:g} s leaves {quota.units_per_s * span_s:g} requests per {name} = "
        f"{span_s:g}, so none could ever pass; {name} must be at least {1 / quota.units_per_s:g}"
    )
    raise ValueError(msg)
