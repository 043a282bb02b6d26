"""The hard-coded rate: quota divided by the average request, on whichever axis binds."""

from __future__ import annotations

import math

import pytest

import simulators as sim
from simulators.policies.by_the_book import by_the_book
from simulators.providers.machine import ProviderMachine
from simulators.streams import Streams


def _rate(preset: str, workload: sim.Backlog | sim.Trace) -> float:
    return by_the_book(workload).requests_per_s(ProviderMachine(sim.provider(preset), Streams(0)))


@pytest.mark.parametrize(
    ("preset", "tokens", "expected"),
    [
        ("bucket", 1000.0, 10.0),
        ("openai-tier-1", 10.0, 500 / 60),
        ("openai-tier-1", 1900.0, 200_000 / 60 / 2000),
        ("slots", 10.0, 10.0),
        ("local", 10.0, math.inf),
    ],
)
def test_the_scarcest_quota_sets_the_rate(preset: str, tokens: float, expected: float) -> None:
    """Requests, tokens or slots over the median time of an answer; without a quota there is no limit."""
    workload = sim.backlog(workers=4, duration_s=10.0, input_tokens=tokens, output_tokens=100.0)
    assert _rate(preset, workload) == pytest.approx(expected)


def test_a_traces_average_leaves_unknown_tokens_out() -> None:
    """Unknown is not zero: it does not lower the average."""
    sample = sim.sample_trace()
    mean = float((sample.input_tokens + sample.output_tokens).mean())
    assert _rate("openai-tier-1", sample) == pytest.approx(200_000 / 60 / mean)


def test_spread_sizes_count_with_their_mean() -> None:
    """The mean of lognormal sizes lies above their median."""
    even, spread = (sim.backlog(workers=4, duration_s=10.0, sigma=sigma) for sigma in (0.0, 1.0))
    assert _rate("openai-tier-1", spread) == pytest.approx(_rate("openai-tier-1", even) / math.exp(0.5))


def test_without_a_quota_everything_is_sent() -> None:
    """The policy runs where there is nothing to divide."""
    workload = sim.backlog(workers=4, duration_s=10.0)
    result = sim.simulate(sim.Scenario(workload, "local"), by_the_book(workload))
    assert (result.requests["wait_s"].dropna() == 0.0).all()
