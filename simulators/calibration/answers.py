"""Fit a latency model to whole answers, of which nobody saw the first chunk: only length and duration are known."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from simulators.providers.latency import LatencyModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulators.calibration.evidence import Floats

_SAMPLE = 1500
_PACES = 32
_SLOW_SHARE, _SLOW_RATIO, _SLOW_SIGMA = 0.02, 5.0, 0.3  # to begin with
_NOBODY = 1e-9  # likelihood of an answer that the model cannot give: it is an accident, and must not decide
_TINY = 1e-12

# First token and its spread, per token and its spread, slow share, slow over normal and its spread: as logarithms.
_Parameters = list[float]


def fit_whole_answers(duration_s: Floats, tokens: Floats) -> LatencyModel:
    """Return the likeliest model for answers of these durations and lengths.

    Short answers tell the first token, long ones the pace; where all are of one length there is no pace. Slow calls
    are told only if that makes the answers likelier than three more parameters do by chance (Schwarz's criterion).
    """
    order = np.argsort(tokens, kind="stable")
    if len(order) > _SAMPLE:
        order = order[np.linspace(0, len(order) - 1, _SAMPLE).astype(np.int64)]
    duration_s, steps = duration_s[order], np.maximum(tokens[order] - 1.0, 0.0)
    varied = bool(np.ptp(steps) > 0)
    slope = _slope(duration_s, steps) if varied else 0.0
    rest = np.maximum(duration_s - slope * steps, 0.1 * duration_s)
    start = [float(np.median(np.log(rest))), math.log(0.3), math.log(max(slope, 1e-9)), math.log(0.2)]
    surprise = _surprise(duration_s, steps if varied else np.zeros_like(steps))
    pace = [2, 3] if varied else []
    plain = _compass(surprise, [*start, -math.inf, 0.0, 0.0], [0, 1, *pace])
    slow = [math.log(_SLOW_SHARE), math.log(_SLOW_RATIO), math.log(_SLOW_SIGMA)]
    mixed = _compass(surprise, [*plain[1][:4], *slow], [0, 1, *pace, 4, 5, 6])
    worth = 1.5 * math.log(len(steps))
    first, first_sigma, token, token_sigma, share, ratio, slow_sigma = np.exp(
        mixed[1] if mixed[0] < plain[0] - worth else plain[1]
    ).tolist()
    slow_calls = {"slow_share": min(share, 1.0), "slow_first_token_s": first * (1 + ratio), "slow_sigma": slow_sigma}
    return LatencyModel(
        first_token_s=first,
        first_token_sigma=first_sigma,
        per_token_s=token if varied else 0.0,
        per_token_sigma=token_sigma if varied else 0.0,
        **(slow_calls if share else {}),
    )


def _surprise(duration_s: Floats, steps: Floats) -> Callable[[_Parameters], float]:
    """Return what says how unlikely the answers are by a model: minus the logarithm of its likelihood.

    The time to the first token is what is left of the duration at some pace; all paces are tried, in equal shares.
    """
    normal = NormalDist()
    luck = np.array([normal.inv_cdf((place + 0.5) / _PACES) for place in range(_PACES)]) if steps.any() else np.zeros(1)
    luck /= luck.std() or 1.0

    def surprise(parameters: _Parameters) -> float:
        first, first_sigma, token, token_sigma, share, ratio, slow_sigma = np.exp(parameters).tolist()
        share = min(share, 1.0)
        begun = duration_s - steps * (token * np.exp(token_sigma * luck))[:, None]
        log = np.log(np.maximum(begun, _TINY))
        density = (1 - share) * _bell(log, math.log(first), first_sigma)
        if share:
            density += share * _bell(log, math.log(first * (1 + ratio)), slow_sigma)
        return -float(np.log((density / np.maximum(begun, _TINY) * (begun > 0)).mean(axis=0) + _NOBODY).sum())

    return surprise


def _bell(log: Floats, median: float, sigma: float) -> Floats:
    bell: Floats = np.exp(-0.5 * ((log - median) / max(sigma, 1e-3)) ** 2) / max(sigma, 1e-3)
    return bell


def _slope(duration_s: Floats, steps: Floats) -> float:
    """Return the median time per token over pairs of a short and a long answer (Theil and Sen)."""
    half = len(steps) // 2
    apart = steps[len(steps) - half :] - steps[:half]
    slopes = (duration_s[len(steps) - half :] - duration_s[:half])[apart > 0] / apart[apart > 0]
    return max(float(np.median(slopes)), 1e-9) if len(slopes) else 1e-9


def _compass(
    distance: Callable[[_Parameters], float], start: _Parameters, free: list[int]
) -> tuple[float, _Parameters]:
    """Walk downhill along one parameter at a time and on where that led, in steps that shrink (Hooke and Jeeves 1961).

    Plain, without derivatives, and repeatable.
    """

    def around(here: _Parameters, least: float, step: float) -> tuple[float, _Parameters]:
        for place in free:
            for sign in (1.0, -1.0):
                there = list(here)
                there[place] += sign * step
                found = distance(there)
                if found < least:
                    here, least = there, found
                    break
        return least, here

    here, least, step = list(start), distance(start), 0.4
    while step > 0.01:
        found, there = around(here, least, step)
        if found == least:
            step /= 2.0
            continue
        while found < least:
            onward = [
                2.0 * new - old if place in free else new
                for place, (new, old) in enumerate(zip(there, here, strict=True))
            ]
            here, least = there, found
            found, there = around(onward, distance(onward), step)
    return least, here
