"""Make traces where there are none: Poisson, bursty and daily arrivals, with token counts of a given shape."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import as_file, files
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from simulators.streams import generator
from simulators.traces.trace import MAX_TOKENS, Floats, Integers, Mode, Trace, TraceError, TraceHeader

if TYPE_CHECKING:
    from collections.abc import Mapping

_SAMPLE = "sample.jsonl.gz"
_DAY_S = 86_400.0
_MAX_REQUESTS = 50_000_000


@dataclass(frozen=True, slots=True)
class TokenLengths:
    """Token counts whose logarithm is piecewise linear in a normal draw: lognormal between published percentiles.

    Args:
        percentiles: tokens by percent, at least two, both rising, as {50: 1020, 90: 2734}.
    """

    percentiles: Mapping[float, float]

    def __post_init__(self) -> None:
        points = sorted(self.percentiles.items())
        percents, tokens = [percent for percent, _ in points], [value for _, value in points]
        rising = all(low <= high for low, high in itertools.pairwise(tokens))
        if (
            len(points) < 2
            or not (percents[0] > 0 and percents[-1] < 100)
            or not (0 < tokens[0] <= MAX_TOKENS and rising)
        ):
            raise TraceError(
                f"percentiles {dict(self.percentiles)}: give two or more between 0 and 100, with token counts above 0 "
                "that do not fall"
            )

    @classmethod
    def lognormal(cls, median: float, sigma: float) -> TokenLengths:
        """Return lognormal lengths; ``sigma`` is the standard deviation of the logarithm, 0 for all alike."""
        if not (1 <= median <= MAX_TOKENS and 0 <= sigma <= 10):
            raise TraceError(
                f"lognormal(median={median}, sigma={sigma}): needs a median of 1 token or more, 0 <= sigma <= 10"
            )
        one_sigma = 100 * NormalDist().cdf(1.0)
        return cls({50: median, one_sigma: median * float(np.exp(sigma))})

    def tokens(self, normal: Floats) -> Integers:
        """Return the lengths that belong to standard normal draws; never below 1 token."""
        points = sorted(self.percentiles.items())
        knots = np.array([NormalDist().inv_cdf(percent / 100) for percent, _ in points])
        logs = np.log([value for _, value in points])
        slopes = np.diff(logs) / np.diff(knots)
        piece = np.clip(np.searchsorted(knots, normal) - 1, 0, len(slopes) - 1)
        drawn = np.exp(np.minimum(logs[piece] + slopes[piece] * (normal - knots[piece]), np.log(MAX_TOKENS)))
        whole: Integers = np.maximum(np.rint(drawn), 1).astype(np.int64)
        return whole


# Azure's conversation hour of 2023-11-16, as published: percentiles 50, 90 and 99. The 10th is where the mean of the
# logarithm comes out as published (6.63 and 5.02).
AZURE_CONVERSATION_INPUT = TokenLengths({10: 155, 50: 1020, 90: 2734, 99: 4142})
AZURE_CONVERSATION_OUTPUT = TokenLengths({10: 72, 50: 129, 90: 424, 99: 601})


def synthesize(
    requests_per_s: float = 5.53,
    duration_s: float = 1800.0,
    *,
    cv: float = 1.0,
    daily_swing: float = 0.0,
    peak_s: float = _DAY_S / 2,
    input_tokens: TokenLengths = AZURE_CONVERSATION_INPUT,
    output_tokens: TokenLengths = AZURE_CONVERSATION_OUTPUT,
    max_tokens: int | None = None,
    seed: int = 0,
    name: str | None = None,
) -> Trace:
    """Draw a trace; equal arguments give equal traces.

    Arrivals are a gamma renewal process run on a clock that is as fast as the rate, so bursts and days combine. The
    defaults look like an hour of chat (Azure's conversations, 2023).

    Args:
        requests_per_s: mean rate.
        duration_s: length of the trace.
        cv: coefficient of variation of the intervals: 1 is Poisson, 4 is bursty, 0.1 is almost regular.
        daily_swing: how far the rate swings around its mean over 24 h: 0 is flat, 0.6 peaks at 1.6 times the mean.
        peak_s: when the day peaks, seconds from the trace's zero.
        input_tokens: lengths of prompts.
        output_tokens: lengths of answers.
        max_tokens: bound that every caller names, which also cuts the answers; ``None`` names none.
        seed: of all draws.
        name: what plots and tables call it; by default the arrivals in words.

    Raises:
        TraceError: naming the value and its bounds.
    """
    bounds = {
        "requests_per_s": (requests_per_s, 1e-9, 1e6),
        "duration_s": (duration_s, 1e-3, 1e9),
        "cv": (cv, 0.01, 100.0),
        "daily_swing": (daily_swing, 0.0, 1.0),
        "peak_s": (peak_s, 0.0, 1e9),
        "max_tokens": (1 if max_tokens is None else max_tokens, 1, MAX_TOKENS),
    }
    for argument, (value, low, high) in bounds.items():
        if not low <= value <= high:
            raise TraceError(f"{argument} = {value}: give a number between {low:g} and {high:g}")
    if requests_per_s * duration_s > _MAX_REQUESTS:
        raise TraceError(f"{requests_per_s * duration_s:.0f} requests exceed {_MAX_REQUESTS}; shorten the trace")
    arrival_s = _arrivals(requests_per_s, duration_s, cv, daily_swing, peak_s, seed)
    size = len(arrival_s)
    output = output_tokens.tokens(generator(seed, "output tokens").standard_normal(size))
    return Trace.of(
        arrival_s,
        input_tokens.tokens(generator(seed, "input tokens").standard_normal(size)),
        output if max_tokens is None else np.minimum(output, max_tokens),
        max_tokens=None if max_tokens is None else np.full(size, max_tokens),
        header=TraceHeader(
            mode=Mode.SIMULATED,
            source="synthesize",
            rows_read=size,
            rows_emitted=size,
            seed=seed,
            notes=(f"{requests_per_s:g} requests/s for {duration_s:g} s, cv {cv:g}, daily swing {daily_swing:g}",),
        ),
        name=name or _words(cv, daily_swing),
    )


def sample_trace() -> Trace:
    """Return the half hour that ships with the package, drawn from the published figures of Azure's conversations."""
    return _sample()


def make_sample() -> Trace:
    """Draw the sample anew: 1,800 s at 5.53 requests per second and interval cv 1.09, seed 2023.

    ``make_sample().write("simulators/presets/sample.jsonl.gz", overwrite=True)`` made the file that ships.
    """
    trace = synthesize(5.53, 1800.0, cv=1.09, seed=2023, name="sample")
    note = "rate, cv and token percentiles as published for Azure's conversation trace of 2023-11-16; no real request"
    # Microseconds suffice, and halve the file.
    return replace(trace, arrival_s=np.round(trace.arrival_s, 6), header=trace.header.noted(note))


@cache
def _sample() -> Trace:
    from simulators.traces.importers import read_trace

    with as_file(files("simulators") / "presets" / _SAMPLE) as path:
        return read_trace(path)


def _arrivals(rate: float, duration_s: float, cv: float, swing: float, peak_s: float, seed: int) -> Floats:
    """Return arrivals in [0, duration): unit-rate gamma renewals, mapped back through the rate's integral."""
    luck = generator(seed, "arrivals")
    due = _due(np.array([duration_s]), rate, swing, peak_s)[0]
    shape = cv**-2
    moments = [np.zeros(0)]
    now = 0.0
    while now < due:
        size = int((due - now) * 1.1) + 64
        moments.append(now + np.cumsum(luck.gamma(shape, 1 / shape, size)))
        now = float(moments[-1][-1])
        if sum(map(len, moments)) > 2 * _MAX_REQUESTS:
            raise TraceError(f"cv = {cv} draws more than {_MAX_REQUESTS} requests; lower it or shorten the trace")
    operational: Floats = np.concatenate(moments)
    operational = operational[operational < due]
    if not swing:
        return operational / rate
    # A thousandth of a day resolves a sine to a few parts in 10^6.
    clock = np.linspace(0.0, duration_s, max(2, int(duration_s / _DAY_S * 1000) + 2))
    arrivals: Floats = np.interp(operational, _due(clock, rate, swing, peak_s), clock)
    return arrivals


def _due(moments: Floats, rate: float, swing: float, peak_s: float) -> Floats:
    """Return the requests expected by each moment: the integral of rate × (1 + swing × cos(angle from the peak))."""
    turn = 2 * np.pi / _DAY_S
    wave = np.sin(turn * (moments - peak_s)) - np.sin(-turn * peak_s)
    expected: Floats = rate * (moments + swing * wave / turn)
    return expected


def _words(cv: float, daily_swing: float) -> str:
    burst = "poisson" if cv == 1.0 else f"gamma cv {cv:g}"
    return f"{burst}, daily" if daily_swing else burst
