"""Fit a latency model to whole answers, of which nobody saw the first chunk: only length and duration are known."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from simulators.latency import LatencyModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulators.calibration.evidence import Floats

_SAMPLE = 3000
_BINS = 5
_PERCENTS = (2, 10, 25, 50, 75, 90, 97, 99.5)
_SLOW_SHARES = (0.0, 0.01, 0.03)

# First token and its spread, per token and its spread, slow share, slow over normal and its spread: as logarithms.
_Parameters = list[float]


def fit_whole_answers(duration_s: Floats, tokens: Floats) -> LatencyModel:
    """Return the model whose durations lie nearest to those given, for answers of the lengths given.

    Nearest: in the logarithms of mean and percentiles, within each of five classes of length, over one fixed set of
    normal draws. Short answers tell the first token, long ones the pace; where all are of one length there is no pace.
    """
    order = np.argsort(tokens, kind="stable")
    if len(order) > _SAMPLE:
        order = order[np.linspace(0, len(order) - 1, _SAMPLE).astype(np.int64)]
    duration_s, steps = duration_s[order], np.maximum(tokens[order] - 1.0, 0.0)
    classes = np.array_split(np.arange(len(order)), _BINS if len(order) >= 40 * _BINS else 1)
    luck = np.random.Generator(np.random.Philox(key=1))
    body, fate, pace = luck.standard_normal(len(order)), luck.random(len(order)), luck.standard_normal(len(order))
    target = _profile(duration_s, classes)

    def distance(parameters: _Parameters) -> float:
        first, first_sigma, token, token_sigma, share, ratio, slow_sigma = np.exp(parameters).tolist()
        slow = fate < share
        begun = np.where(slow, first * (1 + ratio) * np.exp(slow_sigma * body), first * np.exp(first_sigma * body))
        drawn = begun + steps * token * np.exp(token_sigma * pace)
        return float(np.abs(_profile(drawn, classes) - target).mean())

    varied = np.ptp(steps) > 0
    slope = _slope(duration_s, steps) if varied else 0.0
    rest = np.maximum(duration_s - slope * steps, 0.1 * duration_s)
    fits = []
    for share in _SLOW_SHARES:
        start = [float(np.median(np.log(rest))), math.log(0.3), math.log(max(slope, 1e-9)), math.log(0.2)]
        start += [math.log(max(share, 1e-12)), math.log(6.0), math.log(0.3)]
        free = [0, 1, *([2, 3] if varied else []), *([4, 5, 6] if share else [])]
        fits.append(_compass(distance, start, free))
    best = min(fits, key=lambda fit: fit[0] - (0.003 if fit[1][4] < -20 else 0.0))[
        1
    ]  # slow calls must earn their place
    first, first_sigma, token, token_sigma, share, ratio, slow_sigma = np.exp(best).tolist()
    slow = {"slow_share": min(share, 1.0), "slow_first_token_s": first * (1 + ratio), "slow_sigma": slow_sigma}
    return LatencyModel(
        first_token_s=first,
        first_token_sigma=first_sigma,
        per_token_s=token if varied else 0.0,
        per_token_sigma=token_sigma if varied else 0.0,
        **(slow if share > 1e-6 else {}),
    )


def _profile(durations: Floats, classes: list[np.ndarray[tuple[int], np.dtype[np.int64]]]) -> Floats:
    rows = [[*np.percentile(durations[each], _PERCENTS), durations[each].mean()] for each in classes]
    return np.log(np.maximum(np.array(rows), 1e-6))


def _slope(duration_s: Floats, steps: Floats) -> float:
    """Return the median time per token over pairs of a short and a long answer (Theil and Sen)."""
    half = len(steps) // 2
    apart = steps[len(steps) - half :] - steps[:half]
    slopes = (duration_s[len(steps) - half :] - duration_s[:half])[apart > 0] / apart[apart > 0]
    return max(float(np.median(slopes)), 1e-9) if len(slopes) else 1e-9


def _compass(
    distance: Callable[[_Parameters], float], start: _Parameters, free: list[int]
) -> tuple[float, _Parameters]:
    """Walk downhill along one parameter at a time, in steps that shrink; plain, without derivatives, and repeatable."""
    here, least, step = list(start), distance(start), 0.4
    while step > 0.01:
        moved = False
        for place in free:
            for sign in (1.0, -1.0):
                there = list(here)
                there[place] += sign * step
                found = distance(there)
                if found < least:
                    here, least, moved = there, found, True
                    break
        if not moved:
            step /= 2.0
    return least, here
