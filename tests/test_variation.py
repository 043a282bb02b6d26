"""Settings moved one at a time, or two against each other: the rows, and the figures they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import simulators as sim
from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.config import RateLimitConfig

if TYPE_CHECKING:
    from collections.abc import Callable

SCENARIO = sim.Scenario(sim.backlog(8, 20), "bucket")
QUIET: dict[str, Any] = {"seeds": 2, "jobs": 1, "progress": False}


@pytest.fixture(scope="module")
def alone() -> sim.Variation:
    """Three settings, each moved alone; one of them is not set by default."""
    settings = {"decrease": (0.5, 0.97), "probe_s": (32, 2), "requests_per_minute": (60, 600)}
    return sim.vary(SCENARIO, settings, **QUIET)


@pytest.fixture(scope="module")
def crossed() -> sim.Variation:
    """Two settings, every value of one with every value of the other."""
    return sim.vary(SCENARIO, {"requests_per_minute": (600, 60), "probe_s": (2, 8, 32)}, crossed=True, **QUIET)


def test_each_setting_is_moved_alone_and_what_is_given_runs_once(alone: sim.Variation) -> None:
    """The first row is the settings as given; a value that they hold already is no move."""
    assert alone.frame["moved"].tolist() == ["", "decrease", *["probe_s"] * 2, *["requests_per_minute"] * 2]
    assert alone.frame["decrease"].tolist() == [0.97, 0.5, 0.97, 0.97, 0.97, 0.97]
    probe_s = RateLimitConfig().probe_s
    assert alone.frame["probe_s"].tolist() == [probe_s, probe_s, 2, 32, probe_s, probe_s]
    assert alone.frame["requests_per_minute"].isna().tolist() == [True] * 4 + [False] * 2


def test_figures_are_means_over_the_worlds(alone: sim.Variation) -> None:
    """A row holds what compare says of those settings in the same worlds."""
    known = sim.compare(SCENARIO, {"known": RateLimitConfig(requests_per_minute=60)}, **QUIET).frame
    row = alone.frame.iloc[4]
    assert row["requests_per_minute"] == 60
    assert row["goodput_ratio"] == pytest.approx(known["goodput_ratio"].mean())


def test_what_matters_most_comes_first(alone: sim.Variation) -> None:
    """A tenth of the quota hurts more than anything else; a setting that is not set by default has no default point."""
    spans = alone.spans()
    assert spans.index[0] == "requests_per_minute"
    assert spans["span"].is_monotonic_decreasing
    assert (spans["span"] == spans["most"] - spans["least"]).all()
    assert alone.curve("requests_per_minute")["requests_per_minute"].tolist() == [60, 600]
    assert alone.curve("decrease", "rejected_share")["decrease"].tolist() == [0.5, 0.97]


def test_crossed_settings_meet_in_every_pair(crossed: sim.Variation) -> None:
    """A table with the first setting down and the second across, values ascending."""
    table = crossed.table("wait_p95_s")
    assert (table.index.name, table.index.tolist()) == ("requests_per_minute", [60, 600])
    assert (table.columns.name, table.columns.tolist()) == ("probe_s", [2, 8, 32])
    assert (table.loc[60] > table.loc[600]).all()


def test_it_shows_itself(alone: sim.Variation) -> None:
    """In a terminal and in a notebook."""
    assert repr(alone).startswith("<Variation of decrease, probe_s, requests_per_minute>")
    assert "<table" in alone._repr_html_()


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda alone, _: alone.spans("success"), "no figure is called 'success'; known: goodput_ratio"),
        (lambda alone, _: alone.table(), "call vary() with two settings, crossed=True"),
        (lambda _, crossed: crossed.spans(), "call vary() with crossed=False"),
        (lambda *_: sim.vary(SCENARIO, {}, **QUIET), "settings is empty"),
        (lambda *_: sim.vary(SCENARIO, {"probe_s": ()}, **QUIET), "settings is empty"),
        (lambda *_: sim.vary(SCENARIO, {"probe": (1,)}, **QUIET), "probe: unknown key; did you mean 'probe_s'"),
        (
            lambda *_: sim.vary(SCENARIO, {"decrease": (2,)}, **QUIET),
            "decrease: Input should be less than 1 (given: 2)",
        ),
        (lambda *_: sim.vary(SCENARIO, {"probe_s": (1,)}, crossed=True, **QUIET), "crossed needs two settings, not 1"),
    ],
)
def test_bad_input_is_said_in_words(
    ask: Callable[..., object], told: str, alone: sim.Variation, crossed: sim.Variation
) -> None:
    """The value and the remedy, before any run."""
    with pytest.raises(ConfigurationError) as error:
        ask(alone, crossed)
    assert told in str(error.value)
