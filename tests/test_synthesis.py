"""Synthesised traces: the rate, the bursts, the day and the lengths asked for, and the sample that ships."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.traces import Mode, TokenLengths, TraceError, sample_trace, synthesize
from simulators.traces.synthesis import make_sample


@pytest.mark.parametrize("cv", [0.2, 1.0, 4.0])
def test_rate_and_bursts(cv: float) -> None:
    """Arrivals have the rate and the coefficient of variation asked for: regular, Poisson, bursty."""
    figures = synthesize(20.0, 3600.0, cv=cv, seed=1).describe()
    assert figures["requests_per_s"] == pytest.approx(20.0, rel=0.05)
    assert figures["interarrival_cv"] == pytest.approx(cv, rel=0.1)


def test_day() -> None:
    """A day peaks where asked, by as much as asked, around the same mean."""
    trace = synthesize(2.0, 86_400.0, daily_swing=0.5, peak_s=14 * 3600.0, seed=1)
    hours = np.histogram(trace.arrival_s, 24, (0, 86_400))[0] / 7200
    assert len(trace) == pytest.approx(2.0 * 86_400, rel=0.02)
    assert hours[13:15].mean() == pytest.approx(1.5, abs=0.05)
    assert hours[1:3].mean() == pytest.approx(0.5, abs=0.05)


def test_lognormal_lengths() -> None:
    """Lengths are lognormal around the median; sigma 0 makes all alike."""
    trace = synthesize(
        50.0,
        1000.0,
        input_tokens=TokenLengths.lognormal(800, 0.7),
        output_tokens=TokenLengths.lognormal(64, 0.0),
        seed=1,
    )
    logs = np.log(trace.input_tokens)
    assert np.median(trace.input_tokens) == pytest.approx(800, rel=0.03)
    assert logs.std() == pytest.approx(0.7, rel=0.03)
    assert set(trace.output_tokens) == {64}


@given(st.lists(st.floats(1, 1e6), min_size=3, max_size=3, unique=True), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_percentiles_are_met(tokens: list[float], seed: int) -> None:
    """Whatever rising percentiles are given, their own draws come back as those tokens."""
    low, middle, high = sorted(tokens)
    lengths = TokenLengths({10: low, 50: middle, 90: high})
    z90 = 1.2815515655446004
    assert lengths.tokens(np.array([-z90, 0.0, z90])) == pytest.approx(np.rint([low, middle, high]), abs=1)
    drawn = lengths.tokens(np.random.default_rng(seed).standard_normal(100))
    assert (drawn >= 1).all()


def test_max_tokens_cut_answers() -> None:
    """Callers who name a bound get no longer answers; without one it is unknown."""
    trace = synthesize(5.0, 100.0, max_tokens=100, seed=1)
    assert set(trace.max_tokens) == {100}
    assert trace.output_tokens.max() == 100
    assert synthesize(5.0, 100.0, seed=1).frame()["max_tokens"].isna().all()


def test_seed_decides() -> None:
    """Equal seeds give equal traces, others do not, and arrivals do not depend on lengths."""
    frames = [synthesize(5.0, 60.0, seed=seed).frame() for seed in (7, 7, 8)]
    assert frames[0].equals(frames[1])
    assert not frames[0].equals(frames[2])
    longer = synthesize(5.0, 60.0, seed=7, output_tokens=TokenLengths.lognormal(9, 1)).frame()
    assert longer["arrival_s"].equals(frames[0]["arrival_s"])
    assert not synthesize(5.0, 60.0, seed=-1).frame().equals(synthesize(5.0, 60.0, seed=-2).frame())


@pytest.mark.slow
def test_every_process_draws_the_same() -> None:
    """Hash seeds and processes change nothing."""
    code = (
        "import hashlib; from simulators.traces import synthesize\n"
        "t = synthesize(5, 60, cv=3, daily_swing=0.4, seed=7)\n"
        "print(hashlib.sha256(t.arrival_s.tobytes() + t.output_tokens.tobytes()).hexdigest())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("0", "77")
    }
    trace = synthesize(5, 60, cv=3, daily_swing=0.4, seed=7)
    assert printed == {hashlib.sha256(trace.arrival_s.tobytes() + trace.output_tokens.tobytes()).hexdigest()}


def test_header_tells() -> None:
    """A drawn trace says that it is simulated, with its seed and its parameters."""
    trace = synthesize(5.0, 60.0, cv=3, daily_swing=0.4, seed=7)
    assert (trace.header.mode, trace.header.seed, trace.name) == (Mode.SIMULATED, 7, "gamma cv 3, daily")
    assert trace.header.notes == ("5 requests/s for 60 s, cv 3, daily swing 0.4",)
    assert synthesize(5.0, 60.0).name == "poisson"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"requests_per_s": 0.0}, "requests_per_s = 0.0: give a number between"),
        ({"requests_per_s": float("nan")}, "requests_per_s = nan"),
        ({"duration_s": -1.0}, "duration_s = -1.0"),
        ({"cv": 0.0}, "cv = 0.0: give a number between 0.01 and 100"),
        ({"daily_swing": 1.5}, "daily_swing = 1.5: give a number between 0 and 1"),
        ({"max_tokens": 0}, "max_tokens = 0: give a number between 1 and"),
        ({"requests_per_s": 1e6, "duration_s": 1e6}, "1000000000000 requests exceed 50000000; shorten"),
    ],
)
def test_senseless_arguments(arguments: dict[str, float], message: str) -> None:
    """Each argument is refused with its value and its bounds."""
    with pytest.raises(TraceError, match=message):
        synthesize(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "percentiles", [{50: 10}, {50: 10, 90: 5}, {0: 1, 50: 10}, {50: 0, 90: 5}, {50: float("nan"), 90: 5}]
)
def test_senseless_lengths(percentiles: dict[float, float]) -> None:
    """Percentiles must be two or more, inside 0 to 100, and must not fall."""
    with pytest.raises(TraceError, match="give two or more between 0 and 100"):
        TokenLengths(percentiles)
    with pytest.raises(TraceError, match="needs a median of 1 token or more"):
        TokenLengths.lognormal(0, 1)


def test_sample_is_what_its_maker_makes() -> None:
    """The shipped file is the published figures' half hour, drawn by ``make_sample`` and nothing else."""
    sample, made = sample_trace(), make_sample()
    pd.testing.assert_frame_equal(sample.frame(), made.frame(), check_exact=False, rtol=1e-9)
    assert sample.header == made.header
    figures = sample.describe()
    assert figures["duration_s"] == pytest.approx(1800, abs=5)
    assert figures["requests_per_s"] == pytest.approx(5.53, rel=0.05)
    assert figures["input_tokens_p50"] == pytest.approx(1020, rel=0.05)
    assert figures["input_tokens_p99"] == pytest.approx(4142, rel=0.05)
    assert figures["output_tokens_p90"] == pytest.approx(424, rel=0.05)
    assert np.log(sample.input_tokens).mean() == pytest.approx(6.63, abs=0.05)
    assert np.log(sample.output_tokens).mean() == pytest.approx(5.02, abs=0.05)
    assert sample_trace() is sample
