"""How long answers take: time to the first token plus time per token, with the slow tail that real services have.

A single lognormal through a service's median and 95th percentile puts its 99th about three times too low: one or two
calls in a hundred are slow for reasons of their own. Hence a body and a slow component.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import pandas as pd

Logs = np.ndarray[tuple[int], np.dtype[np.float64]]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]

_DAY_S = 86_400.0
_FEWEST_CALLS = 20


class Load(BaseModel):
    """Slowdown by load: a call takes ``slope`` longer for every ``knee`` calls in flight beyond the first ``knee``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    knee: Annotated[float, Field(gt=0)]
    slope: NonNegative


class LatencyModel(BaseModel):
    """The distribution of an answer's times, as the provider takes them, and of the network before it.

    A recording tells round trips alone: a model fitted to one holds the network in its other times.

    Attributes:
        first_token_s: median time to the first token, of the body.
        first_token_sigma: spread of its logarithm.
        per_token_s: median time per output token after the first.
        per_token_sigma: spread of its logarithm, from call to call.
        per_input_token_s: time to read each input token, before the first token.
        slow_share: share of calls that belong to the slow component.
        slow_first_token_s: median time to first token of a slow call.
        slow_sigma: spread of its logarithm.
        rejection_s: time a rejection takes.
        uplink_s: median time that a call is on its way to the provider, and its answer on the way back; the provider
            judges a call when it arrives.
        uplink_sigma: spread of its logarithm, each way drawn by itself.
        load: slowdown when many calls are in flight.
        daily_swing: times are this much longer at ``daily_peak_s`` of each day, and as much shorter half a day later.
        daily_peak_s: seconds from the start of the run to the first daily peak.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    first_token_s: NonNegative = 0.6
    first_token_sigma: NonNegative = 0.3
    per_token_s: NonNegative = 0.02
    per_token_sigma: NonNegative = 0.2
    per_input_token_s: NonNegative = 0.0
    slow_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    slow_first_token_s: NonNegative | None = None
    slow_sigma: NonNegative = 0.3
    rejection_s: NonNegative = 0.1
    uplink_s: NonNegative = 0.0
    uplink_sigma: NonNegative = 0.3
    load: Load | None = None
    daily_swing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    daily_peak_s: float = 0.0

    @model_validator(mode="after")
    def _slow_is_slower(self) -> Self:
        if self.slow_share > 0 and self.slow_first_token_s is None:
            msg = f"slow_share = {self.slow_share:g} needs slow_first_token_s, the slow calls' median"
            raise ValueError(msg)
        if self.slow_first_token_s is not None and self.slow_first_token_s < self.first_token_s:
            msg = (
                f"slow_first_token_s = {self.slow_first_token_s:g} is below first_token_s = {self.first_token_s:g}; "
                "the slow component must not be faster than the body"
            )
            raise ValueError(msg)
        return self

    def slowdown(self, now: float, in_flight: int) -> float:
        """Return the factor on all times of a call sent at ``now`` beside ``in_flight`` others."""
        factor = 1.0
        if self.load is not None:
            factor += self.load.slope * max(in_flight / self.load.knee - 1.0, 0.0)
        if self.daily_swing:
            factor *= 1.0 + self.daily_swing * math.cos(2 * math.pi * (now - self.daily_peak_s) / _DAY_S)
        return factor

    @classmethod
    def fit(cls, frame: pd.DataFrame) -> Self:
        """Return the model nearest to the successful calls of a frame.

        Args:
            frame: one row per attempt: ``first_chunk_s`` and ``duration_s`` from sending, ``output_tokens``, and
                optionally ``status``, which tells rejections (429) and failures apart. Unknown values are NA.

        Raises:
            ValueError: a column is missing, or fewer than 20 calls have the times that are needed.
        """
        missing = {"first_chunk_s", "duration_s", "output_tokens"} - set(frame.columns)
        if missing:
            msg = f"cannot fit a latency model without the column {', '.join(sorted(missing))}"
            raise ValueError(msg)
        status = (
            frame["status"].to_numpy(dtype=float, na_value=np.nan) if "status" in frame else np.full(len(frame), 200.0)
        )
        first, duration, tokens = (
            frame[name].to_numpy(dtype=float, na_value=np.nan)
            for name in ("first_chunk_s", "duration_s", "output_tokens")
        )
        succeeded = (status >= 200) & (status < 300)
        known = succeeded & (first > 0)
        if known.sum() < _FEWEST_CALLS:
            msg = f"{known.sum()} successful calls tell first_chunk_s; a latency model needs at least {_FEWEST_CALLS}"
            raise ValueError(msg)
        values: dict[str, Any] = _fit_two_components(np.log(first[known]))
        written = known & (tokens > 1) & (duration > first)
        if written.sum() >= _FEWEST_CALLS:
            pace = np.log((duration[written] - first[written]) / (tokens[written] - 1))
            values |= {"per_token_s": math.exp(np.median(pace)), "per_token_sigma": float(np.std(pace))}
        else:
            values |= {"per_token_s": 0.0, "per_token_sigma": 0.0}
        rejected = (status == 429) & (duration >= 0)
        if rejected.any():
            values["rejection_s"] = float(np.median(duration[rejected]))
        return cls(**values)


def _fit_two_components(logs: Logs) -> dict[str, float]:
    """Fit body and slow component to logarithms of times by expectation maximisation.

    The slow component is believed only if it lies beyond the body's 95th percentile, holds at least three calls and at
    most a fifth of all, and makes the data likelier by more than its three parameters cost (Bayesian information
    criterion); else one lognormal has to do.
    """
    middle, spread = float(np.mean(logs)), float(np.std(logs))
    single = {"first_token_s": math.exp(np.median(logs)), "first_token_sigma": spread, "slow_share": 0.0}
    body = float(np.median(logs))
    body_spread = float(np.subtract(*np.percentile(logs, [75, 25]))) / 1.349
    tail = logs[logs > body + 2.5 * body_spread]
    if len(tail) < 3 or body_spread == 0:
        return single
    means = np.array([body, np.median(tail)])
    spreads = np.array([body_spread, max(np.std(tail), 0.05)])
    shares = np.array([1 - len(tail) / len(logs), len(tail) / len(logs)])
    for _ in range(200):
        density = shares * _normal(logs[:, None], means, spreads)
        weights = density / density.sum(axis=1, keepdims=True)
        totals = weights.sum(axis=0)
        shares = totals / len(logs)
        means = (weights * logs[:, None]).sum(axis=0) / totals
        spreads = np.maximum(np.sqrt((weights * (logs[:, None] - means) ** 2).sum(axis=0) / totals), 0.02)
    likelier = np.log(density.sum(axis=1)).sum() - np.log(_normal(logs, middle, spread)).sum()
    apart = means[1] > means[0] + 1.645 * spreads[0] and 3 / len(logs) <= shares[1] <= 0.2
    if not apart or likelier < 1.5 * math.log(len(logs)):
        return single
    return {
        "first_token_s": math.exp(means[0]),
        "first_token_sigma": float(spreads[0]),
        "slow_share": float(shares[1]),
        "slow_first_token_s": math.exp(means[1]),
        "slow_sigma": float(spreads[1]),
    }


def _normal(values: Any, mean: Any, spread: Any) -> Any:
    return np.exp(-0.5 * ((values - mean) / spread) ** 2) / (spread * math.sqrt(2 * math.pi))
