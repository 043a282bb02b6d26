"""Luck by number: who asks, when, and in which order changes nothing."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from typing import Any

import pytest

from factflow_llm.errors import ConfigurationError
from simulators.streams import Distribution, Streams

_SAY = "from simulators.streams import Streams; print(Streams(7).stream('latency', 'normal', 3).row(2500))"


def test_any_order_draws_the_same() -> None:
    """Row 5000 is row 5000, whether it is asked first, last or twice."""
    forwards, backwards = (Streams(7).stream("latency", "normal", 3) for _ in range(2))
    numbers = [0, 1, 1023, 1024, 5000, 2, 1_000_000]
    assert [forwards.row(n) for n in numbers] == [backwards.row(n) for n in reversed(numbers)][::-1]
    assert forwards.row(5000) == forwards.row(5000)


def test_other_names_and_seeds_are_other_luck() -> None:
    """Streams share nothing, and reading one leaves the others as they were."""
    streams = Streams(7)
    assert streams.stream("arrivals").row(0) != streams.stream("jitter").row(0)
    assert streams.stream("arrivals").row(0) != Streams(8).stream("arrivals").row(0)


@pytest.mark.filterwarnings("error")
def test_every_integer_is_a_seed_of_its_own() -> None:
    """Large and negative seeds are told apart to the last bit, and without a cast that a host may do in its own way."""
    seeds = [0, 1, -1, -2, 2**63, 2**63 + 1, 2**64 - 3]
    assert len({tuple(Streams(seed).stream("arrivals").row(0)) for seed in seeds}) == len(seeds)


def test_the_draws_have_their_width() -> None:
    """A row holds as many draws as were asked for."""
    assert [len(Streams(0).stream("x", width=width).row(9)) for width in (1, 2, 16)] == [1, 2, 16]


@pytest.mark.parametrize(
    ("distribution", "mean", "deviation"), [("uniform", 0.5, 0.2887), ("normal", 0.0, 1.0), ("exponential", 1.0, 1.0)]
)
def test_the_distributions_are_standard(distribution: Distribution, mean: float, deviation: float) -> None:
    """Twenty thousand draws show the mean and spread that the name promises."""
    stream = Streams(3).stream("x", distribution)
    draws = [stream.row(index)[0] for index in range(20_000)]
    assert statistics.fmean(draws) == pytest.approx(mean, abs=0.02)
    assert statistics.stdev(draws) == pytest.approx(deviation, rel=0.03)


def test_other_processes_draw_the_same() -> None:
    """A process with another hash seed meets the same luck."""
    said = [
        subprocess.run(
            [sys.executable, "-c", _SAY],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("0", "77")
    ]
    assert said == [str(Streams(7).stream("latency", "normal", 3).row(2500))] * 2


@pytest.mark.parametrize("seed", [1.5, float("nan"), "7", None])
def test_seeds_are_whole_numbers(seed: Any) -> None:
    """Anything else is refused before it runs, with the value."""
    with pytest.raises(ConfigurationError, match=f"seed = {seed!r} must be a whole number"):
        Streams(seed)
