"""The dashboard's callbacks as functions: no browser, no notebook, no clock."""

from __future__ import annotations

import asyncio
import gc
import html
import itertools
import math
import os
import subprocess
import sys
import tomllib
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING

import ipywidgets
import pytest

import simulators as sim
from factflow_llm import RateLimitConfig
from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.config import OF_THE_FLEET
from simulators.dashboard.choices import EVENTS, GIVEN, Catalogue, Choices, Step, code_of, config_code, remember, spoken
from simulators.dashboard.curves import curves_of
from simulators.dashboard.figures import MORE_IS_BETTER, Difference, differences, figures_of, shown, signed, table
from simulators.dashboard.parameters import UNSET, changed, config_of, parameters, values_of
from simulators.dashboard.runs import BackgroundRun, projected_s, shorter_s
from simulators.dashboard.view import RunView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SCENARIO = sim.Scenario(sim.backlog(12, 90), "bucket").at(45, quota=0.5, label="quota halved")
STORMY = sim.provider("slots").with_faults(*sim.incident("openai-2024-12-04", 9))


@pytest.fixture
def dashboard() -> Iterator[sim.Dashboard]:
    """Yield a dashboard that has run once."""
    panel = sim.Dashboard(SCENARIO, seed=3)
    panel.show()
    yield panel
    panel.close()


# --- parameters ------------------------------------------------------------------------------------------------------


def test_every_setting_has_a_slider_with_its_default_its_unit_and_a_line_of_words() -> None:
    """Nothing is listed by hand: the names are the model's, retries included."""
    names = {parameter.name for parameter in parameters()}
    own = set(RateLimitConfig.model_fields) - {"retry"} - OF_THE_FLEET
    assert names == own | {f"retry.{name}" for name in type(RateLimitConfig().retry).model_fields}
    for parameter in parameters():
        assert parameter.description
        assert parameter.default in parameter.stops
        assert [label for label, _ in parameter.options(parameter.default) if "(default)" in label]


@pytest.mark.parametrize(
    ("name", "unit"),
    [("requests_per_minute", "requests/min"), ("tokens_per_minute", "tokens/min"), ("probe_s", "s"), ("decrease", ""),
     ("max_concurrency", "calls"), ("retry.max_attempts", "attempts")],
)  # fmt: skip
def test_units_come_from_the_name(name: str, unit: str) -> None:
    """The name says what the number is; the slider repeats it."""
    assert next(parameter.unit for parameter in parameters() if parameter.name == name) == unit


def test_every_stop_of_every_slider_is_allowed_by_the_model() -> None:
    """A slider alone never leaves the bounds of its own field; only two that contradict each other can."""
    for parameter in parameters():
        for stop in (parameter.stops[0], parameter.stops[-1]):
            wide = {"initial_concurrency": 1, "max_concurrency": 10**6, "min_requests_per_minute": 1e-3}
            assert values_of(config_of(values_of(RateLimitConfig()) | wide | {parameter.name: stop}))


def test_values_and_configuration_are_each_others_inverse() -> None:
    """What a slider shows is what the limiter gets."""
    config = RateLimitConfig(decrease=0.731, tokens_per_minute=1234, retry={"max_attempts": 3})
    assert config_of(values_of(config)) == config
    assert changed(config) == {"tokens_per_minute": 1234.0, "decrease": 0.731, "retry.max_attempts": 3}
    assert changed(RateLimitConfig()) == {}


# --- figures ---------------------------------------------------------------------------------------------------------


def _figures(**values: float) -> dict[str, float]:
    return dict.fromkeys(MORE_IS_BETTER, 0.0) | values


@pytest.mark.parametrize(
    ("name", "now", "before", "told"),
    [
        ("goodput_ratio", 0.9, 0.8, "▲ +10 pp"),
        ("goodput_ratio", 0.8, 0.9, "▼ \u221210 pp"),
        ("rejected_share", 0.01, 0.03, "▲ \u22122 pp"),
        ("rejected_share", 0.03, 0.01, "▼ +2 pp"),
        ("wait_p95_s", 3.0, 1.5, "▼ +1.5 s"),
        ("wait_p95_s", 1.5, 3.0, "▲ \u22121.5 s"),
        ("unfinished", 10, 12, "▲ \u22122"),
        ("failed", 0, 0, "="),
        ("recovery_s", math.nan, 3.0, ""),
        ("recovery_s", math.inf, 3.0, "▼"),
        ("recovery_s", 3000.0, math.inf, "▲"),
        ("recovery_s", math.inf, math.inf, "="),
    ],
)
def test_a_difference_has_a_sign_and_says_better_or_worse(name: str, now: float, before: float, told: str) -> None:
    """The sign is that of the number, the arrow that of the judgement; where nothing compares, nothing is said."""
    assert signed(name, differences(_figures(**{name: now}), _figures(**{name: before}))[name]) == told


def test_noise_is_no_difference() -> None:
    """A change in the fourth digit is not coloured."""
    moved = differences(_figures(wait_p50_s=10.0001), _figures(wait_p50_s=10.0))
    assert moved["wait_p50_s"].better is None
    assert moved["failed"] == Difference(0.0, None)


def test_the_table_colours_and_escapes() -> None:
    """A pin's name is text, not markup; better and worse are classes that themes can colour."""
    told = table(
        _figures(goodput_ratio=1.0, wait_p50_s=2.0), [("<pin>", _figures(goodput_ratio=0.5, wait_p50_s=1.0), True)]
    )
    assert "&lt;pin&gt;" in told
    assert "ff-better'>▲ +50 pp" in told
    assert "ff-worse'>▼ +1 s" in told
    assert shown("goodput_ratio", math.nan) == "-"


def test_figures_that_need_the_oracle_wait_for_it() -> None:
    """Before the oracle has run they are unknown, never 0 or 1."""
    result = sim.simulate(SCENARIO, seed=3)
    assert math.isnan(figures_of(result, None)["goodput_ratio"])
    assert figures_of(result, result.oracle)["goodput_ratio"] == result.summary()["goodput_ratio"]


# --- choices ---------------------------------------------------------------------------------------------------------


def test_a_dragged_slider_is_one_step_to_undo() -> None:
    """Moves of one control within a second are one step; another control, or a pause, makes a new one."""
    history = remember((), Choices(seed=0), "decrease", 0.0)
    history = remember(history, Choices(seed=1), "decrease", 0.5)
    assert history == (Step(Choices(seed=0), "decrease", 0.5),)
    history = remember(history, Choices(seed=2), "probe_s", 0.6)
    history = remember(history, Choices(seed=3), "probe_s", 1.7)
    assert [step.before.seed for step in history] == [0, 2, 3]


@pytest.mark.parametrize("events", EVENTS)
def test_every_choice_of_events_makes_a_scenario(events: str) -> None:
    """Events lie within the workload, whatever its length."""
    scenario = Catalogue(SCENARIO).scenario(Choices(events=events, length_s=60.0))
    assert scenario.workload.duration_s == 60.0
    assert all(event.time_s <= scenario.horizon_s + 60.0 for event in scenario.events)
    assert bool(scenario.events) == (events != "none")


def _namespace(code: str, **names: object) -> dict[str, object]:
    space: dict[str, object] = dict(names)
    exec(code.replace("sim.plot_overview(result)\n", ""), space)
    return space


@pytest.mark.parametrize(
    ("given", "choices"),
    [
        (SCENARIO, Choices()),
        (SCENARIO, Choices(provider="slots", events="restart halfway", seed=5, clients=2, length_s=60.0)),
        (SCENARIO, Choices(workload="sample: 30 min of chat", length_s=120.0, events="quota halved halfway")),
        (SCENARIO, Choices(values=(("decrease", 0.5), ("probe_s", 3.15), ("retry.max_attempts", 2)))),
        (replace(SCENARIO.impatient(0.5, 20.0), workload=sim.backlog(8, 60, sigma=0.5, max_tokens=64)), Choices()),
        (replace(SCENARIO, provider=sim.provider("bucket").model_copy(update={"names_axis": True})), Choices()),
        (sim.Scenario(sim.backlog(4, 60), STORMY), Choices()),
        (sim.Scenario(sim.synthesize(4, 60, seed=2), "bucket", drain_s=30.0), Choices()),
    ],
)
def test_copied_code_reproduces_the_run_to_the_bit(given: sim.Scenario, choices: Choices) -> None:
    """The cell is executed, and its result compared with the dashboard's own."""
    catalogue = Catalogue(given)
    space = _namespace(code_of(catalogue, choices, lambda: "trace"), trace=given.workload)
    result = space["result"]
    assert isinstance(result, sim.SimResult)
    ours = sim.simulate(catalogue.scenario(choices), choices.config, seed=choices.seed, clients=choices.clients)
    assert result.run.attempts.tobytes() == ours.run.attempts.tobytes()
    assert result.scenario.name == ours.scenario.name


def test_code_of_a_configuration_names_only_what_was_moved() -> None:
    """Defaults go without saying."""
    assert config_code(RateLimitConfig()) == "RateLimitConfig()"
    moved = RateLimitConfig(decrease=0.5, retry={"max_attempts": 2})
    assert config_code(moved) == "RateLimitConfig(decrease=0.5, retry={'max_attempts': 2})"


@pytest.mark.parametrize(
    ("duration_s", "told"),
    [(1.5, "1.5 s"), (45, "45 s"), (60, "1 min"), (90, "90 s"), (600, "10 min"), (86400, "24 h")],
)
def test_durations_are_spoken(duration_s: float, told: str) -> None:
    """The largest unit that suits."""
    assert spoken(duration_s) == told


# --- runs ------------------------------------------------------------------------------------------------------------


def test_a_job_gives_what_simulate_gives() -> None:
    """The ear at the controller's door changes nothing."""
    job = BackgroundRun(SCENARIO, RateLimitConfig(), 3, 1, None).start()
    job.wait()
    assert job.error is None
    assert job.progress == 1.0
    assert job.result is not None
    assert job.yardstick is not None
    assert job.result.run.attempts.tobytes() == sim.simulate(SCENARIO, seed=3).run.attempts.tobytes()
    assert job.yardstick.run.attempts.tobytes() == job.result.oracle.run.attempts.tobytes()
    assert gc.isenabled()


def test_a_stopped_job_ends_without_a_result() -> None:
    """A day of backlog, stopped at once."""
    job = BackgroundRun(sim.Scenario(sim.backlog(64, 86400), "bucket"), RateLimitConfig(), 0, 1, None).start()
    job.stop()
    job.wait()
    assert (job.result, job.error) == (None, None)


@pytest.mark.parametrize(("expected_s", "offered_s"), [(10.0, 300.0), (100.0, 60.0), (1e6, 60.0), (2.5, 900.0)])
def test_the_shorter_run_offered_is_the_longest_that_is_quick(expected_s: float, offered_s: float) -> None:
    """Where none is quick, the shortest is offered."""
    assert shorter_s(1800.0, expected_s, [60.0, 300.0, 900.0, math.inf], within_s=2.0) == offered_s


def test_nothing_shorter_is_offered_where_there_is_nothing() -> None:
    """A minute is the least."""
    assert shorter_s(50.0, 10.0, [60.0, math.inf], within_s=2.0) is None
    assert projected_s(2.0, 0.5) == 4.0
    assert math.isinf(projected_s(2.0, 0.0))


# --- the view --------------------------------------------------------------------------------------------------------


def test_the_view_moves_its_artists_and_makes_no_new_ones() -> None:
    """Run after run the same lines carry new numbers, and pyplot knows nothing of the figure."""
    view = RunView()
    results = [sim.simulate(SCENARIO, RateLimitConfig(decrease=decrease), seed=3) for decrease in (0.97, 0.5)]
    pictures, artists = [], []
    for result in results:
        curves = curves_of(result)
        view.show(curves, [("pin 1", curves_of(results[0]))])
        pictures.append(view.png())
        artists.append({name: [*ax.lines, *ax.patches] for name, ax in view.axes.items()})
        limit = view.axes["limit"].lines
        assert any(list(line.get_ydata()) == pytest.approx(list(curves.limit[1]), nan_ok=True) for line in limit)
        assert curves.outcomes["rate_limited"].sum() > 0
    assert artists[0] == artists[1]
    assert pictures[0] != pictures[1]
    assert pictures[0].startswith(b"\x89PNG")
    assert [text.get_text() for text in view.axes["limit"].texts] == ["quota halved"]
    import matplotlib.pyplot as plt

    assert plt.get_fignums() == []


# --- the panel -------------------------------------------------------------------------------------------------------


def test_a_move_runs_and_tells_the_difference(dashboard: sim.Dashboard) -> None:
    """The result is that of the settings chosen, beside the run before and the oracle's."""
    before = dashboard.widget.children[2].children[1].children[2].value
    dashboard.controls["decrease"].value = 0.5
    assert dashboard.config == RateLimitConfig(decrease=0.5)
    assert dashboard.result is not None
    assert (
        dashboard.result.run.attempts.tobytes()
        == sim.simulate(SCENARIO, RateLimitConfig(decrease=0.5), seed=3).run.attempts.tobytes()
    )
    _, told, picture = dashboard.widget.children[2].children[1].children
    assert "previous run" in told.value
    assert "oracle" in told.value
    assert picture.value != before


def test_settings_that_contradict_are_refused_and_the_last_good_result_stays(dashboard: sim.Dashboard) -> None:
    """The panel says what and why; undo brings the slider back."""
    dashboard.controls["initial_concurrency"].value = 16
    good = dashboard.result
    dashboard.controls["max_concurrency"].value = 11
    assert dashboard.messages.is_error
    assert "initial_concurrency 16 is above max_concurrency 11" in dashboard.messages.text
    assert dashboard.result is good
    dashboard.buttons["undo"].click()
    assert dashboard.controls["max_concurrency"].value == 1024
    assert not dashboard.messages.is_error
    assert dashboard.result is good


def test_undo_goes_back_step_by_step(dashboard: sim.Dashboard) -> None:
    """Settings and world alike; at the beginning it says so."""
    dashboard.controls["decrease"].value = 0.5
    dashboard.controls["provider"].value = "slots"
    dashboard.controls["requests_per_minute"].value = 1000.0
    dashboard.buttons["undo"].click()
    assert dashboard.controls["requests_per_minute"].value == UNSET
    dashboard.buttons["undo"].click()
    assert dashboard.result is not None
    assert dashboard.result.scenario.provider.name == "bucket"
    dashboard.buttons["undo"].click()
    assert dashboard.choices == Choices(seed=3)
    dashboard.buttons["undo"].click()
    assert dashboard.messages.text == "There is nothing to undo."


def test_settings_between_the_stops_can_be_set_by_name(dashboard: sim.Dashboard) -> None:
    """A tuned value is shown as it is; an unknown name is refused."""
    dashboard.set(decrease=0.8731, tokens_per_minute=12345.0)
    assert dashboard.controls["decrease"].value == 0.8731
    assert dashboard.config == RateLimitConfig(decrease=0.8731, tokens_per_minute=12345.0)
    with pytest.raises(ConfigurationError, match="decreese: unknown key"):
        dashboard.set(decreese=0.5)
    dashboard.buttons["reset"].click()
    assert dashboard.config == RateLimitConfig()


def test_three_runs_can_be_pinned(dashboard: sim.Dashboard) -> None:
    """A fourth is refused in words; unpinning forgets all."""
    for _ in range(4):
        dashboard.buttons["pin"].click()
    assert dashboard.messages.text == "3 runs are pinned already; unpin them first."
    told = dashboard.widget.children[2].children[1].children[1]
    assert "pin 3: defaults" in told.value
    dashboard.buttons["unpin"].click()
    assert "pin 1" not in told.value


def test_what_is_saved_is_what_production_reads(
    dashboard: sim.Dashboard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file holds the settings and where they come from; it is not written over unless told to."""
    monkeypatch.chdir(tmp_path)
    dashboard.controls["decrease"].value = 0.5
    dashboard.buttons["save"].click()
    assert dashboard.messages.text.startswith("Saved ")
    saved = tmp_path / "limiter.toml"
    assert RateLimitConfig.from_toml(saved) == RateLimitConfig(decrease=0.5)
    assert "# seed: 3" in saved.read_text()
    assert tomllib.loads(saved.read_text())["decrease"] == 0.5
    dashboard.controls["decrease"].value = 0.6
    dashboard.buttons["save"].click()
    assert "the file exists" in dashboard.messages.text
    assert RateLimitConfig.from_toml(saved).decrease == 0.5
    dashboard.controls["overwrite"].value = True
    dashboard.buttons["save"].click()
    assert RateLimitConfig.from_toml(saved).decrease == 0.6


def test_a_folder_that_is_not_there_is_said_in_words(dashboard: sim.Dashboard, tmp_path: Path) -> None:
    """As is one that cannot be written."""
    dashboard.controls["file"].value = str(tmp_path / "nowhere" / "limiter.toml")
    dashboard.buttons["save"].click()
    assert "cannot be written" in dashboard.messages.text
    assert dashboard.messages.is_error


def test_a_trace_from_a_file_becomes_a_workload(dashboard: sim.Dashboard, tmp_path: Path) -> None:
    """And one that does not load leaves everything as it was, with the reason."""
    good = dashboard.result
    dashboard.controls["trace"].value = str(tmp_path / "nothing.csv")
    assert "no such file" in dashboard.messages.text
    assert dashboard.result is good
    path = sim.synthesize(3, 60, seed=1, name="mine").write(tmp_path / "mine.jsonl")
    dashboard.controls["trace"].value = str(path)
    assert dashboard.controls["workload"].value == "file: mine"
    assert not dashboard.messages.is_error
    assert f"sim.Scenario(sim.read_trace({str(path)!r})" in dashboard.code()
    assert dashboard.controls["length_s"].options[0][1] == math.inf


def test_a_log_is_opened_with_its_map(dashboard: sim.Dashboard, tmp_path: Path) -> None:
    """What the command line understands, the field for a trace does, and the code repeats it."""
    path = tmp_path / "log.csv"
    path.write_text("t,asked\n0,900\n1500,400\n")
    dashboard.controls["trace"].value = f"{path} --columns time=t,input_tokens=asked --time-unit ms"
    assert not dashboard.messages.is_error, dashboard.messages.text
    labels = [label for label, name in dashboard.controls["workload"].options if name == "file: log"]
    assert labels == ["file: log: 2 requests in 1.5 s, 1,300 input tokens"]
    columns = {"time": "t", "input_tokens": "asked"}
    assert f"sim.read_trace({str(path)!r}, columns={columns!r}, time_unit='ms')" in dashboard.code()


def test_a_trace_without_a_name_is_written_beside_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside a notebook nothing has a name, and the code must run all the same."""
    monkeypatch.chdir(tmp_path)
    panel = sim.Dashboard(sim.Scenario(sim.synthesize(3, 60, seed=1, name="mine"), "bucket"))
    panel.show()
    result = _namespace(panel.code())["result"]
    assert isinstance(result, sim.SimResult)
    assert panel.result is not None
    assert result.run.attempts.tobytes() == panel.result.run.attempts.tobytes()
    panel.buttons["code"].click()
    area = panel.widget.children[2].children[0].children[-1].children[0].children[0]
    assert area.value == panel.code()
    panel.close()


def test_copied_code_runs_in_a_fresh_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the notebook calls its trace: the cell stands alone, and its last line is the run shown."""
    monkeypatch.chdir(tmp_path)
    panel = sim.Dashboard(sim.Scenario(sim.synthesize(3, 60, seed=1, name="mine"), "bucket").at(30, quota=0.5), seed=5)
    panel.show()
    panel.controls["decrease"].value = 0.5
    shown = panel.result
    assert shown is not None
    cell = f"{panel.code()}\nprint(result.run.attempts.tobytes().hex())"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "MPLBACKEND": "agg"}
    fresh = subprocess.run([sys.executable, "-c", cell], capture_output=True, text=True, check=True, env=environment)
    assert fresh.stdout.strip() == shown.run.attempts.tobytes().hex()


def test_a_drag_is_one_step_however_long_it_takes(dashboard: sim.Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    """From taking the slider to letting go there is one step back, and the previous run is the one before the drag."""
    clock = itertools.count(0.0, 5.0)
    monkeypatch.setattr("simulators.dashboard.steps.time.monotonic", lambda: next(clock))
    first = dashboard.result
    for values in ((0.9, 0.8, 0.7), (0.6, 0.5)):
        before = dashboard.result
        dashboard.buttons["taken"].click()
        for value in values:
            dashboard.controls["decrease"].value = value
        dashboard.buttons["let-go"].click()
        assert dashboard.config.decrease == values[-1]
        assert dashboard._before is not None
        assert dashboard._before.result is before
    dashboard.buttons["undo"].click()
    assert dashboard.config.decrease == 0.7
    dashboard.buttons["undo"].click()
    assert dashboard.config == RateLimitConfig()
    assert dashboard.result is not None
    assert first is not None
    assert dashboard.result.run.attempts.tobytes() == first.run.attempts.tobytes()


def test_while_dragged_only_the_beginning_is_run(dashboard: sim.Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole run comes with the release, once; until then table and file are those of the last whole run."""
    started: list[tuple[float, bool]] = []
    begin = BackgroundRun.start
    monkeypatch.setattr(
        BackgroundRun, "start", lambda job: (started.append((job.scenario.horizon_s, job.coarse)), begin(job))[1]
    )
    before = dashboard.result
    assert before is not None
    dashboard._speed = before.horizon_s  # a run of a second: too slow to follow a hand
    dashboard.buttons["taken"].click()
    dashboard.controls["decrease"].value = 0.8
    assert dashboard.result is before
    assert "while you drag" in dashboard.messages.text
    dashboard.buttons["let-go"].click()
    assert dashboard.result is not before
    assert [coarse for _, coarse in started] == [True, False]
    assert started[0][0] < started[1][0] == before.horizon_s


def test_runs_of_different_worlds_are_not_compared(dashboard: sim.Dashboard) -> None:
    """A pin of another world says which, without arrows, and the previous run of another world is not in the table."""
    told = dashboard.widget.children[2].children[1].children[1]
    dashboard.buttons["pin"].click()
    dashboard.controls["provider"].value = "slots"
    assert "previous run" not in told.value
    row = told.value.partition("pin 1")[2].partition("</tr>")[0]
    assert "not compared: provider as given" in row
    assert "▲" not in row
    assert "▼" not in row
    dashboard.controls["provider"].value = GIVEN
    assert "not compared" not in told.value


def test_answers_stand_beside_the_button(dashboard: sim.Dashboard, tmp_path: Path) -> None:
    """Of save and copy below them, of open below the field; one place speaks at a time."""
    places, head = dashboard.messages.places, dashboard.messages.widget
    dashboard.controls["file"].value = str(tmp_path / "limiter.toml")
    dashboard.buttons["save"].click()
    assert "Saved" in places["save"].value
    dashboard.buttons["save"].click()
    assert "the file exists" in places["save"].value
    dashboard.controls["trace"].value = str(tmp_path / "nothing.csv")
    assert "no such file" in places["trace"].value
    assert places["save"].value == head.value == ""


def test_the_verdict_stands_below_the_table(dashboard: sim.Dashboard) -> None:
    """The panel says in words what the table says in figures."""
    assert dashboard.result is not None
    told = dashboard.widget.children[2].children[1].children[1].value
    assert html.escape(sim.verdict(dashboard.result)) in told


def test_a_fault_of_ours_is_shown_with_its_place(dashboard: sim.Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing vanishes into a log, not even a bug; the last good result stays."""
    good = dashboard.result

    def broken(*arguments: object, **named: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr("simulators.dashboard.runs.simulate", broken)
    dashboard.controls["decrease"].value = 0.5
    assert dashboard.messages.text.startswith("ZeroDivisionError: of all things. The last good result stays.")
    assert "broken" in dashboard.messages.widget.value
    assert dashboard.result is good


def test_without_a_run_there_is_nothing_to_save(tmp_path: Path) -> None:
    """The error says what to do."""
    panel = sim.Dashboard(SCENARIO)
    with pytest.raises(ConfigurationError, match="nothing was run yet"):
        panel.save(tmp_path / "limiter.toml")
    assert panel.result is None
    panel.close()


def test_another_dashboard_takes_the_place_and_leaves_nothing() -> None:
    """Widgets, layouts, styles and the panel itself are gone when a cell is run again."""
    instances = ipywidgets.widgets.widget._instances
    sim.Dashboard(SCENARIO).close()
    gone = weakref.ref(sim.Dashboard(SCENARIO))
    count = len(instances)
    for _ in range(3):
        last = sim.Dashboard(SCENARIO)
        assert len(instances) == count
    gc.collect()
    assert gone() is None
    last.close()
    assert len(instances) <= count - 100


async def _until(happened: Callable[[], bool]) -> None:
    """Let the loop go round until it has happened."""
    for _ in range(100_000):
        if happened():
            return
        await asyncio.sleep(0)
    pytest.fail("it never happened")


def test_a_long_run_goes_on_in_the_background_and_can_be_cancelled() -> None:
    """Where an event loop runs, the panel says how long it takes, offers less, and cancel ends it."""

    async def scene() -> None:
        panel = sim.Dashboard(sim.Scenario(sim.backlog(64, 86400), "bucket"))
        panel.patience_s = 0.0
        panel.show()
        await _until(lambda: panel.buttons["cancel"].layout.display == "")
        assert panel.messages.text.startswith("This run takes")
        assert "is done" in panel.messages.text
        job, task = panel._job, panel._task
        assert job is not None
        assert task is not None
        panel.buttons["cancel"].click()
        job.wait()
        await task
        assert panel.messages.text.startswith("Cancelled.")
        assert panel.buttons["cancel"].layout.display == "none"
        assert panel.result is None
        panel.close()

    asyncio.run(scene())


def test_the_shorter_run_offered_replaces_the_long_one() -> None:
    """One click, and only the beginning is run."""

    async def scene() -> None:
        panel = sim.Dashboard(sim.Scenario(sim.backlog(8, 86400), "bucket"))
        panel.patience_s = 0.0
        panel.show()
        await _until(lambda: panel.buttons["shorter"].layout.display == "")
        panel.buttons["shorter"].click()
        assert panel.result is not None
        assert panel.result.scenario.workload.duration_s == panel.choices.length_s < 86400
        panel.close()

    asyncio.run(scene())


def test_without_ipywidgets_the_error_says_what_to_install() -> None:
    """The rest of the laboratory works all the same."""
    script = (
        "import sys; sys.modules['ipywidgets'] = None\n"
        "import simulators as sim\n"
        "assert sim.simulate(sim.Scenario(sim.backlog(2, 5), 'bucket')).seed == 0\n"
        "try: sim.Dashboard\n"
        "except ImportError as error: print(error)\n"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "simulators.Dashboard needs ipywidgets" in told
    assert 'pip install "factflow-llm[lab]"' in told
