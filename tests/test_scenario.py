"""Scenarios: frozen values, built step by step, whose errors name the value, its place and its bound."""

from __future__ import annotations

import math
import pickle
from dataclasses import FrozenInstanceError
from typing import TYPE_CHECKING, Any

import pytest

import simulators as sim
from factflow_llm.errors import ConfigurationError
from factflow_llm.signals import Axis
from simulators.providers.catalogue import provider
from simulators.scenarios.scenario import Scenario, backlog
from simulators.traces import synthesize

if TYPE_CHECKING:
    from pathlib import Path


def test_a_scenario_is_a_value() -> None:
    """It compares by value, cannot be changed in place, and travels between processes."""
    scenario = Scenario(backlog(4, 60.0), "bucket").at(10, quota=0.5)
    assert scenario == Scenario(backlog(4, 60.0), provider("bucket")).at(10, quota=0.5)
    assert pickle.loads(pickle.dumps(scenario)) == scenario
    with pytest.raises(FrozenInstanceError):
        scenario.drain_s = 5.0  # type: ignore[misc]


def test_building_leaves_the_original_alone() -> None:
    """Each step returns another scenario."""
    plain = Scenario(backlog(4, 60.0), "bucket")
    assert plain.at(10, quota=0.5).events
    assert plain.impatient(0.1, 5.0).impatient_share == 0.1
    assert plain.events == ()
    assert plain.impatient_share == 0.0


def test_a_preset_is_found_by_name() -> None:
    """A provider may be named; an unknown name is answered with the near ones."""
    assert Scenario(backlog(1, 1.0), "bucket").provider == provider("bucket")
    with pytest.raises(ConfigurationError, match=r"bukket.*bucket"):
        Scenario(backlog(1, 1.0), "bukket")


def test_names() -> None:
    """A scenario is called after its parts, or as one likes."""
    assert Scenario(backlog(64, 1.0), "bucket").name == "backlog of 64 on bucket"
    assert Scenario(backlog(64, 1.0), "bucket", name="mine").name == "mine"


def test_horizons() -> None:
    """A closed loop ends with its duration; an open one is given time to drain."""
    assert Scenario(backlog(1, 90.0), "bucket").horizon_s == 90.0
    trace = synthesize(1.0, 60.0, seed=1)
    assert Scenario(trace, "bucket").horizon_s == trace.duration_s + 60.0
    assert Scenario(trace, "bucket", drain_s=5.0).horizon_s == trace.duration_s + 5.0


def test_events_are_sorted_and_labelled() -> None:
    """Events stand in order of time, whatever the order of writing; a label says what they do unless given."""
    scenario = Scenario(backlog(1, 99.0), "bucket").at(50, quota=2).at(10, quota=0.5, label="halved", axis="tokens")
    assert [(event.time_s, event.label) for event in scenario.events] == [(10, "halved"), (50, "quota x 2")]
    assert [event.axis for event in scenario.events] == [Axis.TOKENS, None]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"workers": 0}, "workers = 0"),
        ({"workers": math.nan}, "workers = nan"),
        ({"workers": 2.5}, r"workers = 2\.5"),
        ({"duration_s": 0}, "duration_s = 0"),
        ({"duration_s": math.inf}, "duration_s = inf"),
        ({"duration_s": math.nan}, "duration_s = nan"),
        ({"input_tokens": -1}, "input_tokens = -1"),
        ({"output_tokens": math.nan}, "output_tokens = nan"),
        ({"sigma": -0.1}, r"sigma = -0\.1"),
        ({"max_tokens": -5}, "max_tokens = -5"),
    ],
)
def test_a_backlog_of_nonsense(values: dict[str, Any], named: str) -> None:
    """The error names key and value."""
    with pytest.raises(ConfigurationError, match=named):
        backlog(**values)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"time_s": -1, "quota": 1}, "time_s = -1"),
        ({"time_s": math.nan, "quota": 1}, "time_s = nan"),
        ({"time_s": 1, "quota": 0}, "quota = 0"),
        ({"time_s": 1, "quota": math.inf}, "quota = inf"),
        ({"time_s": 1, "quota": 1, "axis": "bananas"}, "axis = 'bananas'.*requests"),
        ({"time_s": 1, "quota": 1e-6}, "quota = 1e-06"),
    ],
)
def test_an_event_of_nonsense(values: dict[str, Any], named: str) -> None:
    """The error names key and value; a quota that leaves room for no request at all is refused before the run."""
    with pytest.raises(ConfigurationError, match=named):
        Scenario(backlog(1, 10.0), "bucket").at(**values)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((-0.1, 5.0), r"share = -0\.1"),
        ((1.5, 5.0), r"share = 1\.5"),
        ((math.nan, 5.0), "share = nan"),
        ((0.5, 0.0), r"patience_s = 0\.0"),
        ((0.5, math.nan), "patience_s = nan"),
    ],
)
def test_impatience_of_nonsense(values: tuple[float, float], named: str) -> None:
    """The error names key and value."""
    with pytest.raises(ConfigurationError, match=named):
        Scenario(backlog(1, 10.0), "bucket").impatient(*values)


@pytest.mark.parametrize("drain_s", [-1.0, math.nan, math.inf])
def test_draining_of_nonsense(drain_s: float) -> None:
    """Time to drain is a finite number of at least 0."""
    with pytest.raises(ConfigurationError, match="drain_s"):
        Scenario(synthesize(1.0, 10.0, seed=0), "bucket", drain_s=drain_s)


def test_something_else_is_no_workload() -> None:
    """What is neither a trace nor a backlog is named, with what would do."""
    with pytest.raises(ConfigurationError, match=r"'AzureLLMInferenceTrace_code\.csv'.*read_trace"):
        Scenario("AzureLLMInferenceTrace_code.csv", "bucket")  # type: ignore[arg-type]


@pytest.mark.parametrize("run", [sim.simulate, sim.tune, lambda trace: sim.compare([trace], {"ours": None})])
def test_a_trace_alone_is_no_scenario(run: Any) -> None:
    """Whoever forgets the provider is told how to say it."""
    with pytest.raises(ConfigurationError, match=r"is no scenario: say whom it asks, as in sim.Scenario\(trace"):
        run(sim.sample_trace())


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("12:00", "time_s = '12:00': backlog of 2 has no dates; write seconds from the start"),
        (None, "time_s = None must be a number: seconds from the start"),
        (True, "time_s = True must be a number"),
        (1e9, r"time_s = 1e\+09 lies after the end of the run, which is at 60 s"),
    ],
)
def test_an_event_is_a_moment_of_the_run(moment: Any, words: str) -> None:
    """A clock's time and a moment after the end are said in words, for changes and restarts alike."""
    scenario = sim.Scenario(sim.backlog(2, 60.0), "bucket")
    with pytest.raises(ConfigurationError, match=words):
        scenario.at(moment, quota=0.5)
    with pytest.raises(ConfigurationError, match=words):
        scenario.restarting(moment)


def _log(tmp_path: Path) -> sim.Trace:
    """Return a trace of one request a minute that begins at 09:30 on the last day of November."""
    lines = [f"2026-11-30T{9 + m // 60:02d}:{m % 60:02d}:00Z,100,10" for m in range(30, 330)]
    file = tmp_path / "log.csv"
    file.write_text("\n".join(["time,input_tokens,output_tokens", *lines]), encoding="utf-8")
    return sim.read_trace(file, columns={each: each for each in ("time", "input_tokens", "output_tokens")})


@pytest.mark.parametrize(
    ("moment", "time_s"),
    [("noon", 9000.0), ("12:00", 9000.0), ("9:45:30", 930.0), ("2026-11-30T10:30", 3600.0)],
)
def test_a_trace_with_dates_has_times_of_day(tmp_path: Path, moment: str, time_s: float) -> None:
    """Events come by the clock of the log, and later in its windows too."""
    trace = _log(tmp_path)
    assert sim.Scenario(trace, "bucket").at(moment, quota=0.5).events[0].time_s == time_s
    later = sim.Scenario(trace.window(600, 18_000), "bucket").restarting(moment)
    assert later.events[0].time_s == time_s - 600


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("08:00", "lies after the end of the run"),
        ("2026-11-30T08:00", "lies before the trace begins, which is at 2026-11-30 09:30:00 UTC"),
        ("lunch", "is no moment; write seconds from the start, noon, 12:00"),
        ("25:00", "is no moment"),
    ],
)
def test_a_time_of_day_that_never_comes_is_refused(tmp_path: Path, moment: str, words: str) -> None:
    """Before the beginning, after the end, or no time at all."""
    with pytest.raises(ConfigurationError, match=words):
        sim.Scenario(_log(tmp_path), "bucket").at(moment, quota=0.5)


def test_a_trace_sped_up_has_no_clock(tmp_path: Path) -> None:
    """Its noon is not the log's."""
    with pytest.raises(ConfigurationError, match="has no dates"):
        sim.Scenario(_log(tmp_path).sped_up(2.0), "bucket").at("noon", quota=0.5)
