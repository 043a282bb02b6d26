"""Worlds and processes: same order and same figures whatever runs where, and plain words for impossible worlds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import simulators as sim
from factflow_llm.errors import ConfigurationError
from simulators.progress import reporting
from simulators.providers.catalogue import Provider
from simulators.providers.quotas import Bucket
from simulators.studies.parallel import make_worlds, processes, quotas, with_yardsticks

if TYPE_CHECKING:
    from collections.abc import Sequence

SCENARIO = sim.Scenario(sim.backlog(workers=8, duration_s=20.0), "bucket")


def test_worlds_are_scenarios_times_seeds_in_order() -> None:
    """The order of results is the order in which worlds are made."""
    other = sim.Scenario(sim.backlog(workers=8, duration_s=20.0), "slots")
    worlds = make_worlds([SCENARIO, other], [3, 1])
    assert [(world.name, world.seed) for world in worlds] == [
        (SCENARIO.name, 3),
        (SCENARIO.name, 1),
        (other.name, 3),
        (other.name, 1),
    ]


def test_scenarios_that_differ_in_events_are_told_apart_by_them() -> None:
    """The natural pair, a scenario and the same with an event, needs no names."""
    halved = SCENARIO.at(10.0, quota=0.5, label="halved")
    assert [world.name for world in make_worlds([SCENARIO, halved], 1)] == [SCENARIO.name, f"{SCENARIO.name}, halved"]


@pytest.mark.parametrize(
    ("scenarios", "seeds", "word"),
    [
        ([], 1, "at least one"),
        ([SCENARIO], 0, "seeds = 0"),
        ([SCENARIO], [1, 1], "twice"),
        ([SCENARIO] * 2, 1, "name="),
    ],
)
def test_worlds_that_make_no_sense_are_refused(
    scenarios: Sequence[sim.Scenario], seeds: int | Sequence[int], word: str
) -> None:
    """Each refusal names the value or the remedy."""
    with pytest.raises(ConfigurationError, match=word):
        make_worlds(scenarios, seeds)


@pytest.mark.parametrize("jobs", [1, 2])
def test_processes_keep_the_order(jobs: int) -> None:
    """Results come in the order of the items, from here or from elsewhere."""
    with processes(jobs) as each:
        assert list(each(str, [3, 1, 2])) == ["3", "1", "2"]


def test_no_processes_are_refused() -> None:
    """Zero jobs would never end."""
    with pytest.raises(ConfigurationError, match="jobs = 0"), processes(0):
        pass


def test_yardsticks_are_the_oracles_own_runs() -> None:
    """What a world carries along is what the oracle does in it."""
    with processes(1) as each:
        (world,) = with_yardsticks(make_worlds([SCENARIO], [5]), each)
    assert world.yardstick is not None
    assert world.oracle() is world.yardstick
    alone = sim.simulate(SCENARIO, sim.policies.oracle(), seed=5)
    assert world.yardstick.run.attempts.tobytes() == alone.run.attempts.tobytes()


def test_the_oracle_measured_by_itself_is_perfect() -> None:
    """The yardstick's own ratio is 1, without a second run."""
    (world,) = make_worlds([SCENARIO], [0])
    assert world.figures([sim.policies.oracle()])[0]["goodput_ratio"] == 1.0


def test_a_quota_below_any_request_is_never_admissible() -> None:
    """Nobody waits for ever: the message names the request, the quota and the remedy."""
    tiny = Provider(name="tiny", quotas=(Bucket(axis="tokens", limit=10.0),))
    (world,) = make_worlds([sim.Scenario(sim.backlog(workers=2, duration_s=20.0), tiny)], 1)
    with pytest.raises(ConfigurationError, match=r"never admissible: .*1150 tokens.*10 tokens per 60 s.*larger quota"):
        world.oracle()


def test_an_empty_workload_is_refused() -> None:
    """Nothing asked is nothing measured."""
    (world,) = make_worlds([sim.Scenario(sim.sample_trace().head(0), "bucket")], 1)
    with pytest.raises(ConfigurationError, match="holds no request"):
        world.oracle()


def test_quotas_in_words() -> None:
    """Units and spans are spelt out."""
    assert quotas(sim.provider("openai-tier-1")) == "500 requests per 60 s, 200,000 tokens per 60 s"
    assert quotas(sim.provider("slots")) == "20 calls at once"


def test_progress_reaches_a_function() -> None:
    """A caller who gives a function hears how far it is."""
    heard: list[tuple[int, int]] = []
    with reporting(lambda done, total: heard.append((done, total)), 2, "test") as one_more:
        one_more()
        one_more()
    assert heard == [(1, 2), (2, 2)]


@pytest.mark.parametrize("progress", [True, False])
def test_progress_is_silent_where_nobody_watches(progress: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """No bar in a log file."""
    with reporting(progress, 2, "test") as one_more:
        one_more()
    assert capsys.readouterr() == ("", "")
