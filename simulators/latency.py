"""How long answers take: time to the first token plus time per token, with the slow tail that real services have.

A single lognormal fitted to a service's median and 95th percentile puts its 99th about three times too low; one or two
calls in a hundred are slow for reasons of their own. Hence a body and a slow component.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from simulators.streams import Streams

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class LatencyModel(BaseModel):
    """The distribution of an answer's times.

    Attributes:
        first_token_s: median time to the first token, of the body.
        first_token_sigma: spread of its logarithm.
        per_token_s: median time per output token after the first.
        per_token_sigma: spread of its logarithm, from call to call.
        slow_share: share of calls that belong to the slow component.
        slow_first_token_s: median time to first token of a slow call.
        slow_sigma: spread of its logarithm.
        rejection_s: time a refusal takes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    first_token_s: NonNegative = 0.6
    first_token_sigma: NonNegative = 0.3
    per_token_s: NonNegative = 0.02
    per_token_sigma: NonNegative = 0.2
    slow_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    slow_first_token_s: NonNegative | None = None
    slow_sigma: NonNegative = 0.3
    rejection_s: NonNegative = 0.1

    @model_validator(mode="after")
    def _slow_is_slower(self) -> Self:
        if self.slow_share > 0 and self.slow_first_token_s is None:
            raise ValueError(f"slow_share = {self.slow_share:g} needs slow_first_token_s, the slow calls' median")
        if self.slow_first_token_s is not None and self.slow_first_token_s < self.first_token_s:
            raise ValueError(
                f"slow_first_token_s = {self.slow_first_token_s:g} is below first_token_s = {self.first_token_s:g}; "
                "the slow component must not be faster than the body"
            )
        return self


class Latency:
    """Draws of a latency model: call ``i`` takes the same time under every policy."""

    __slots__ = (
        "_body",
        "_body_sigma",
        "_draws",
        "_slow",
        "_slow_above",
        "_slow_sigma",
        "_token",
        "_token_sigma",
        "rejection_s",
    )

    def __init__(self, model: LatencyModel, streams: Streams) -> None:
        self._draws = streams.stream("latency", "normal", width=3)
        self._body = model.first_token_s
        self._body_sigma = model.first_token_sigma
        self._slow = model.slow_first_token_s or 0.0
        self._slow_sigma = model.slow_sigma
        self._slow_above = _quantile(1 - model.slow_share)
        self._token = model.per_token_s
        self._token_sigma = model.per_token_sigma
        self.rejection_s = model.rejection_s

    def draw(self, index: int, output_tokens: int) -> tuple[float, float]:
        """Return seconds to the first chunk and to the end of call ``index``."""
        body, fate, pace = self._draws.row(index)
        if fate <= self._slow_above:
            first_s = self._body * math.exp(self._body_sigma * body)
        else:
            first_s = self._slow * math.exp(self._slow_sigma * body)
        if self._token and output_tokens > 1:
            return first_s, first_s + (output_tokens - 1) * self._token * math.exp(self._token_sigma * pace)
        return first_s, first_s


def _quantile(share: float) -> float:
    if share >= 1:
        return math.inf
    return NormalDist().inv_cdf(share) if share > 0 else -math.inf
