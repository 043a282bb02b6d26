"""How long each call takes: draws of a latency model."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulators.providers.latency import LatencyModel
    from simulators.streams import Streams


class Latency:
    """Draws of a latency model: call ``i`` draws the same under every policy."""

    __slots__ = (
        "_body",
        "_body_sigma",
        "_draws",
        "_input_token",
        "_slow",
        "_slow_above",
        "_slow_sigma",
        "_token",
        "_token_sigma",
        "_uplink",
        "_uplink_sigma",
        "_ways",
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
        self._input_token = model.per_input_token_s
        self._ways = streams.stream("network", "normal", width=2)
        self._uplink = model.uplink_s
        self._uplink_sigma = model.uplink_sigma

    def draw(self, index: int, input_tokens: int, output_tokens: int) -> tuple[float, float]:
        """Return seconds to the first chunk and to the end of call ``index``."""
        body, fate, pace = self._draws.row(index)
        if fate <= self._slow_above:
            first_s = self._body * math.exp(self._body_sigma * body)
        else:
            first_s = self._slow * math.exp(self._slow_sigma * body)
        if self._input_token:
            first_s += self._input_token * input_tokens
        if self._token and output_tokens > 1:
            return first_s, first_s + (output_tokens - 1) * self._token * math.exp(self._token_sigma * pace)
        return first_s, first_s

    def ways(self, index: int) -> tuple[float, float]:
        """Return seconds that call ``index`` is on its way to the provider, and its answer on the way back."""
        there, back = self._ways.row(index)
        return self._uplink * math.exp(self._uplink_sigma * there), self._uplink * math.exp(self._uplink_sigma * back)


def _quantile(share: float) -> float:
    if share >= 1:
        return math.inf
    return NormalDist().inv_cdf(share) if share > 0 else -math.inf
