"""Worlds drawn at random for the report: they repeat, span what they promise, and can be run."""

from __future__ import annotations

import pytest

from reports import GOLDEN
from reports.__main__ import differences
from reports.random_worlds import WORLDS, drawn, random_worlds


def test_a_world_repeats_and_bears_its_draws_in_words() -> None:
    """Equal numbers give equal worlds; others give others."""
    assert drawn(3) == drawn(3)
    assert len({drawn(number).words for number in range(WORLDS)}) == WORLDS
    assert "noise" in drawn(0).words


def test_draws_span_two_decades() -> None:
    """Quotas, answers, noise, clients and tails reach from one end to the other."""
    worlds = [drawn(number).world for number in range(200)]
    sources = [world.scenario.provider for world in worlds]
    rates = [source.quotas[0].units_per_s for source in sources]
    shares = [source.faults[0].share for source in sources]
    answers = [source.latency.first_token_s for source in sources]
    for low, high, values in ((0.3, 30.0, rates), (0.0005, 0.05, shares), (0.1, 10.0, answers)):
        assert low <= min(values) < 1.5 * low
        assert 0.7 * high < max(values) <= high
    assert {1, 2, 16} <= {world.clients for world in worlds}


def test_the_committed_table_lists_every_world() -> None:
    """Worst goodput first; `python -m reports random_worlds --write` makes it anew, and the picture."""
    lines = (GOLDEN / "suite" / "random-worlds.txt").read_text(encoding="utf-8").splitlines()[4:]
    goodput = [float(line.split()[0]) for line in lines]
    assert len(goodput) == WORLDS
    assert goodput == sorted(goodput)


@pytest.mark.report
def test_the_table_is_what_is_found() -> None:
    """Two minutes on two cores."""
    assert not differences(random_worlds())
