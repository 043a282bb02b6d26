"""What was tuned is what runs: the asyncio shell and the event heap make the same attempts, to the microsecond."""

from __future__ import annotations

import pytest

from factflow_llm.ratelimit.config import RateLimitConfig, RetryConfig
from simulators.attempts import UNANSWERED
from simulators.engine.simulate import simulate
from simulators.providers.catalogue import provider, provider_names
from simulators.scenarios.scenario import Scenario, backlog
from simulators.traces import synthesize
from tests.support.production import run_in_production

SEEDS = range(20)
Row = tuple[int, int, float, float, str, float, int, int, str]


def simulated(scenario: Scenario, config: RateLimitConfig, seed: int, clients: int) -> list[Row]:
    """Return the attempts that the heap makes and that end: production writes no row for one that does not."""
    frame = simulate(scenario, config, seed=seed, clients=clients).attempts
    return [
        (
            row.request, row.attempt, round(row.admitted_s, 6), round(row.end_s, 6), str(row.outcome), row.rate_per_s,
            row.in_flight, row.queued, str(row.reason),
        )
        for row in frame.itertuples()
        if row.outcome != UNANSWERED
    ]  # fmt: skip


def produced(scenario: Scenario, config: RateLimitConfig, seed: int, clients: int) -> list[Row]:
    """Return the attempts that production code makes on a virtual clock."""
    rows, numbers = run_in_production(scenario, config, seed, clients)
    told = {"overloaded": "overloaded", "daily_quota": "exhausted"}
    words = {"ok": "succeeded", "error": "ignored", "timeout": "overloaded"}
    return [
        (
            numbers[row.call_id], row.attempt, round(row.admitted_s, 6), round(row.end_s, 6),
            told.get(row.error) or words.get(row.outcome, str(row.outcome)), row.limit, row.in_flight, row.queue_depth,
            row.reason,
        )
        for row in rows
        if row.admitted_s is not None
    ]  # fmt: skip


def demand(kind: str, seed: int) -> object:
    """Return an open-loop or a closed-loop workload."""
    if kind == "closed":
        return backlog(24, 60.0, input_tokens=700, output_tokens=60, sigma=0.6)
    return synthesize(6.0, 60.0, cv=3.0, seed=seed)


QUICK = ("anthropic-start", "azure-30k", "bucket", "openai-tier-1", "slots")  # one preset per shape of quota


@pytest.mark.parametrize("kind", ["open", pytest.param("closed", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "preset", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in provider_names()]
)
def test_shell_and_engine_agree(preset: str, kind: str) -> None:
    """Twenty seeds of a preset, with an event, cancellations and a deadline, give the same rows from both drivers."""
    config = RateLimitConfig(retry=RetryConfig(deadline_s=40.0))
    for seed in SEEDS:
        scenario = Scenario(demand(kind, seed), preset).at(30.0, quota=0.6).impatient(0.1, 5.0)
        expected = simulated(scenario, config, seed, 1)
        assert expected, "a scenario in which nothing happens proves nothing"
        assert produced(scenario, config, seed, 1) == expected, f"seed {seed}"


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["bucket", "slots", "openai-tier-1"])
def test_a_network_is_the_same_for_both(preset: str) -> None:
    """Calls that are judged after their way there, and heard of after the way back, agree too; some are given up."""
    config = RateLimitConfig(retry=RetryConfig(deadline_s=40.0))
    far = provider(preset).with_uplink(0.06)
    for seed in range(6):
        scenario = Scenario(backlog(48, 60.0), far).at(30.0, quota=0.6).impatient(0.2, 3.0)
        assert produced(scenario, config, seed, 1) == simulated(scenario, config, seed, 1), f"seed {seed}"


def test_independent_clients_agree() -> None:
    """Four limiters on one quota meet the same world under both drivers."""
    scenario = Scenario(backlog(32, 90.0), "bucket")
    for seed in range(5):
        assert produced(scenario, RateLimitConfig(), seed, 4) == simulated(scenario, RateLimitConfig(), seed, 4)
