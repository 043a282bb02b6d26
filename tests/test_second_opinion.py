"""Two simulators that share nothing agree on what the limiter does."""

from __future__ import annotations

import pytest

from reports import GOLDEN
from reports.__main__ import differences
from reports.second_opinion import WORLDS, Counted, Found, Paced, apart, best, first, second, second_opinion
from simulators.engine.simulate import simulate
from simulators.policies.all_knowing import oracle
from simulators.scenarios.scenario import Scenario, backlog


def test_its_quotas_count() -> None:
    """A paced quota holds a second's worth and moves; a counted one begins anew at multiples of its span."""
    paced = Paced(2, [(10.0, 2.0)])
    for _ in range(2):
        assert paced.wait_s(0.0) == 0.0
        paced.take()
    assert paced.wait_s(0.0) == pytest.approx(0.5)
    assert paced.wait_s(9.0) == 0.0
    assert [paced.wait_s(10.0), paced._per_s] == [0.0, 4.0]
    counted = Counted(1, 60.0, used=1)
    assert counted.wait_s(15.0) == 45.0
    assert counted.wait_s(60.0) == 0.0


@pytest.mark.parametrize("name", ["used-up minute", "slots", "bucket halved, then doubled"])
def test_its_best_client_is_as_good_as_the_oracle(name: str) -> None:
    """Two ways to know everything get the same calls answered, to a hundredth."""
    world = WORLDS[name]
    scenario = Scenario(backlog(world.workers, world.duration_s), world.provider)
    for time_s, factor in world.changes:
        scenario = scenario.at(time_s, quota=factor)
    known = simulate(scenario, oracle(), seed=0, collect="summary").run.tally.succeeded
    assert best(world, 0) == pytest.approx(known, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["used-up minute", "Retry-After always 45 s"])
def test_both_say_the_same(name: str) -> None:
    """Goodput and 429s of one run each lie within the bounds that the report sets for means."""
    assert apart(first(name, 0), second(name, 0)) == ""


def test_bounds_have_two_sides() -> None:
    """What lies further apart is told, whoever has more."""
    assert apart(Found(0.95, 0.01), Found(0.98, 0.01)) == "goodput 0.030"
    assert apart(Found(0.98, 0.02), Found(0.97, 0.01)) == "429s 1.00%"


def test_the_committed_opinions_agree() -> None:
    """Every world of the table is within bounds; `python -m reports second_opinion --write` makes it anew."""
    lines = (GOLDEN / "suite" / "second-opinion.txt").read_text(encoding="utf-8").splitlines()
    assert all(line.startswith(name) for line, name in zip(lines[3:], WORLDS, strict=True))
    assert all(line.endswith("within bounds") for line in lines[3:])


@pytest.mark.report
def test_the_opinions_are_what_is_found() -> None:
    """Five minutes on two cores."""
    assert not differences(second_opinion())
