"""Pictures are tested by their numbers, their words and their manners; what they look like is for eyes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

import simulators as sim
from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.recorder import AttemptRow, Recorder, RowOutcome
from factflow_llm.signals import Axis, Outcome, Reason
from simulators.attempts import ATTEMPT_COLUMNS, OUTCOMES, REQUEST_COLUMNS
from simulators.calibration.validation import Validation
from simulators.plots import comparisons, look, series
from simulators.plots.calibrations import calibration_ratios
from simulators.studies.comparison import Comparison
from simulators.studies.tuning import Study
from simulators.studies.variation import Variation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from matplotlib.axes import Axes

    from simulators.engine.result import SimResult

WORKERS = 24
TWO_EVENTS = (
    sim.Scenario(sim.backlog(WORKERS, 240), "bucket")
    .at(80, quota=0.5, label="quota halved")
    .at(160, quota=1, label="restored")
)


VARIED = Variation(
    pd.DataFrame(
        {
            "moved": ["", "probe_s", "decrease", "decrease"],
            "decrease": [0.97, 0.97, 0.5, 0.7],
            "probe_s": [8.0, 60.0, 8.0, 8.0],
            "goodput_ratio": [0.9, 0.85, 0.5, 0.7],
            "rejected_share": [0.01, 0.002, 0.03, 0.02],
        }
    ),
    RateLimitConfig(),
    ("probe_s", "decrease"),
    crossed=False,
)
VALIDATED = Validation(
    name="monday",
    since_s=0.0,
    until_s=100.0,
    figures=pd.DataFrame(
        {
            "recorded": [0.0, 4.0, 30.0, 1.0],
            "simulated": [2.0, 4.4, 27.0, 9.0],
            "error": [np.nan, 0.1, -0.1, 8.0],
            "least": [0.0, 4.0, 24.0, 1.5],
            "most": [4.0, 5.0, 30.0, 12.0],
        },
        index=["429s", "goodput", "wait_p95_s", "wait_p99_s"],
    ),
    decisions=pd.Series({"recorded": 0, "predicted": 2, "same": 0}),
    timing_gap=float("nan"),
)


@pytest.fixture(scope="module")
def run() -> SimResult:
    """One client, a quota that is halved and restored."""
    return sim.simulate(TWO_EVENTS, seed=7)


@pytest.fixture(scope="module")
def shared() -> SimResult:
    """Three clients on one quota."""
    return sim.simulate(sim.Scenario(sim.backlog(WORKERS, 120), "bucket"), seed=7, clients=3)


@pytest.fixture(scope="module")
def open_loop() -> SimResult:
    """A trace that asks for more than the tier sells."""
    return sim.simulate(sim.Scenario(sim.sample_trace().window(0, 300), "openai-tier-1"), seed=7)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    """Two policies, two scenarios, three seeds, with round numbers."""
    rows = [
        (scenario, policy, seed, ratio + 0.01 * seed, 0.01 * seed)
        for scenario, policy, ratio in (("a", "x", 0.8), ("b", "x", 0.9), ("a", "y", 0.5), ("b", "y", 0.5))
        for seed in range(3)
    ]
    columns = ["scenario", "policy", "seed", "goodput_ratio", "rejected_share"]
    return Comparison(pd.DataFrame(rows, columns=columns), clients=1)


@pytest.fixture(scope="module")
def study() -> Study:
    """Six trials, two of which break the bound of 2 %."""
    frame = pd.DataFrame(
        {
            "trial": range(6),
            "decrease": np.linspace(0.7, 0.95, 6),
            "goodput_ratio": [0.80, 0.70, 0.90, 0.85, 0.99, 0.85],
            "worst_rejected_share": [0.010, 0.005, 0.03, 0.015, 0.05, 0.020],
            "wait_p95_s": 1.0,
            "feasible": [True, True, False, True, False, True],
        }
    )
    return Study(frame, 7, (0,), ("a",), 0.02, {})


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("duration_s", "width_s"), [(30, 1), (120, 1), (121, 2), (600, 5), (1800, 15), (1e9, 3600)])
def test_windows_are_round_and_at_most_120(duration_s: float, width_s: float) -> None:
    """Windows have round lengths, and as few of them are drawn as fit on a small picture."""
    assert series.window_s(duration_s) == width_s


def test_the_axis_that_was_cut_most_is_shown(run: SimResult, open_loop: SimResult) -> None:
    """A bucket of requests shows requests; a trace with long prompts shows the tokens that bind."""
    assert series.binding_axis(run) is Axis.REQUESTS
    assert series.binding_axis(open_loop) is Axis.TOKENS


def test_capacity_steps_at_events(run: SimResult) -> None:
    """Ten requests per second are 600 per minute, halved and restored by the events, and last to the end."""
    steps = series.capacity_steps(run, Axis.REQUESTS)
    assert steps["time_s"].tolist() == [0, 80, 160, 240]
    assert steps["capacity"].tolist() == pytest.approx([600, 300, 600, 600])
    assert series.capacity_steps(run, Axis.TOKENS).empty


def test_the_limit_of_a_fixed_rate_is_its_rate() -> None:
    """A policy that never changes has a flat limit; one without a limit has none, which is not 0."""
    fixed = series.limit_steps(sim.simulate(TWO_EVENTS, sim.policies.fixed_rate(8)), Axis.REQUESTS)
    none = series.limit_steps(sim.simulate(TWO_EVENTS, sim.policies.retry_only()), Axis.REQUESTS)
    assert fixed["limit"].tolist() == [480, 480]
    assert none["limit"].tolist() == [math.inf, math.inf]


def test_limits_of_clients_add_up(shared: SimResult) -> None:
    """The summed limit is at every moment the sum of the clients' own."""
    total = series.limit_steps(shared, Axis.REQUESTS)
    at = total["time_s"].to_numpy()
    parts = [series.limit_steps(shared, Axis.REQUESTS, client) for client in range(3)]
    own = [part["limit"].to_numpy()[np.searchsorted(part["time_s"], at, side="right") - 1] for part in parts]
    assert total["limit"].to_numpy() == pytest.approx(np.sum(own, axis=0))


def test_marks_are_the_jumps(run: SimResult) -> None:
    """Every change that no slope shows is marked, at the limit that it led to."""
    marks = series.limit_marks(run, Axis.REQUESTS)
    jumps = run.limits[(run.limits["axis"] == "requests") & ~run.limits["reason"].isin(series.MOVES)]
    assert len(marks) == len(jumps) > 0
    assert marks["reason"].tolist() == jumps["reason"].tolist()
    assert marks["limit"].to_numpy() == pytest.approx(jumps["new"].to_numpy() * 60)


def test_nothing_sent_is_lost_between_windows(run: SimResult) -> None:
    """Attempts by outcome add up to all attempts and to the calls that the end of the run cut off."""
    rates = series.outcome_rates(run)
    counts = (rates * series.window_s(240) / 60).sum()
    told = run.attempts["outcome"].astype(str).value_counts()
    assert counts["succeeded"] == pytest.approx(told["succeeded"])
    assert counts["rate_limited"] == pytest.approx(told["rate_limited"])
    assert 0 < counts["in_flight"] <= WORKERS
    used = series.used_per_window(run, Axis.REQUESTS)["used"].sum() * series.window_s(240) / 60
    assert used == pytest.approx(counts["succeeded"] + counts["in_flight"])


def test_tokens_used_are_in_the_quota_s_currency(open_loop: SimResult) -> None:
    """Used tokens are what the provider charged: with its guess at the output where it keeps that, never beyond it."""
    windows = series.used_per_window(open_loop, Axis.TOKENS, width_s=60)
    used = windows["used"]
    minutes = np.diff(np.append(windows["time_s"], open_loop.scenario.horizon_s)) / 60
    requests = open_loop.requests
    charged = requests["input_tokens"] + np.where(
        open_loop.scenario.workload.max_tokens < 0, 16, open_loop.scenario.workload.max_tokens
    )
    open_at_end = open_loop.attempts.loc[open_loop.attempts["outcome"] == "unanswered", "request"]
    taken = (requests["outcome"] == "succeeded") | requests["request"].isin(open_at_end)
    assert (used * minutes).sum() == pytest.approx(charged[taken].sum())
    capacity = series.capacity_steps(open_loop, Axis.TOKENS)["capacity"].max()
    assert used.iloc[0] <= 2 * capacity
    assert (used.iloc[1:] <= 1.02 * capacity).all()


def test_workers_of_a_backlog_are_always_somewhere(run: SimResult) -> None:
    """In a closed loop every worker waits or is in flight, in every window, up to the last."""
    lengths = series.queue_lengths(run)
    assert lengths.sum(axis=1).to_numpy() == pytest.approx(WORKERS, abs=1e-6)
    assert (lengths >= 0).all(axis=None)


def test_calls_in_flight_are_counted_over_time(run: SimResult) -> None:
    """The mean in flight of a window is that of many moments in it."""
    moments = np.arange(20.0, 22.0, 0.01)[:, None]
    flying = (run.attempts["admitted_s"].to_numpy() <= moments) & (moments < run.attempts["end_s"].to_numpy())
    assert series.queue_lengths(run, 2.0)["in_flight"].loc[20.0] == pytest.approx(flying.sum(axis=1).mean(), abs=0.2)


def test_survival_is_the_share_that_waits_longer() -> None:
    """At each value the curve shows the share of larger ones, and ends at 0."""
    curve = series.survival(np.array([0.0, 0.0, 1.0, 3.0]))
    assert curve["value"].tolist() == [0, 1, 3]
    assert curve["share"].tolist() == [0.5, 0.25, 0]
    assert series.survival(np.array([])).empty


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> sim.Recording:
    """Record by hand: one request that is rejected once, one answered at once, one refused, one that timed out."""
    path = tmp_path_factory.mktemp("recorded") / "r.jsonl"
    plain = AttemptRow("a", 0, 0.0, 0.1, 0.1, None, 0.2, "m", "openai", "chat", 100, 10, limit=2.0, reason="configured")
    rows = (
        plain._replace(status=429, outcome=RowOutcome.RATE_LIMITED, error="rate_limit"),
        plain._replace(call_id="b", arrival_s=1.0, admitted_s=1.5, sent_s=1.6, end_s=3.0, status=200, limit=4.0),
        plain._replace(attempt=1, admitted_s=2.5, sent_s=2.5, end_s=4.0, status=200, limit=1.0, reason="rate_limited"),
        plain._replace(
            call_id="c", arrival_s=2.0, admitted_s=None, sent_s=None, end_s=5.0, outcome=RowOutcome.REJECTED_LOCAL,
            error="deadline", limit=None,
        ),
        plain._replace(
            call_id="d", arrival_s=3.0, admitted_s=3.0, sent_s=3.0, end_s=9.0, outcome=RowOutcome.TIMEOUT,
            error="timeout", limit=1.0,
        ),
    )  # fmt: skip
    with Recorder(path) as recorder:
        for row in rows:
            recorder.record(row)
    return sim.read_recording(path)


def test_recorder_and_simulator_speak_of_attempts_alike(recorded: sim.Recording, open_loop: SimResult) -> None:
    """Both frames begin with the same columns, and outcomes and endings are the same words."""
    for run in (recorded, open_loop):
        assert set(ATTEMPT_COLUMNS) <= set(run.attempts)
        assert set(REQUEST_COLUMNS) <= set(run.requests)
        assert set(run.attempts["outcome"].cat.categories) == set(OUTCOMES)
    told = ["rate_limited", "succeeded", "succeeded", "refused", "overloaded"]
    assert recorded.attempts["outcome"].tolist() == told
    assert recorded.requests["outcome"].tolist() == ["succeeded", "succeeded", "refused_deadline", "failed"]
    assert recorded.requests["attempts"].tolist() == [2, 1, 0, 1]


def test_a_recording_is_drawn_like_a_run(recorded: sim.Recording) -> None:
    """Every plot of one run takes a recording; what was never sent is drawn as waiting only."""
    assert series.waits(recorded).tolist() == [0.5, 2.5]
    rates = series.outcome_rates(recorded, width_s=9.0)
    assert (rates * 9.0 / 60.0).round(6).iloc[0].to_dict() == {
        "succeeded": 2.0, "rate_limited": 1.0, "overloaded": 1.0, "other": 0.0, "in_flight": 0.0
    }  # fmt: skip
    assert recorded.limits[["old", "new"]].to_numpy().tolist() == [[2.0, 4.0], [4.0, 1.0]]
    assert series.used_per_window(recorded, Axis.TOKENS, 9.0)["used"].tolist() == [pytest.approx(220 * 60 / 9)]
    for draw in (sim.plot_limits, sim.plot_outcomes, sim.plot_queue, sim.plot_waits_over_time, sim.plot_waits,
                 sim.plot_fairness):  # fmt: skip
        axes = draw(recorded, ax=Figure().subplots())
        assert axes.has_data()
    limits = sim.plot_limits(recorded, ax=Figure().subplots())
    assert "true capacity" not in [text.get_text() for text in limits.get_legend().get_texts()]
    assert len(sim.plot_overview(recorded)) == 4


def test_capacity_is_told_in_the_units_of_quotas() -> None:
    """A tier of 200,000 tokens per minute is drawn at 200,000; what is not metered has no capacity."""
    tier = sim.provider("openai-tier-1")
    assert series.capacity_of(tier, Axis.TOKENS) == pytest.approx(200_000)
    assert series.capacity_of(tier, Axis.CONCURRENCY) is None
    assert series.capacity_of(sim.provider("slots"), Axis.CONCURRENCY) == 20


def test_waits_by_window_are_percentiles_of_that_window(open_loop: SimResult) -> None:
    """The p95 of a window is numpy's over the requests that arrived in it and succeeded; an empty window is NaN."""
    found = series.wait_percentiles(open_loop, 60)
    requests = open_loop.requests
    here = requests[requests["arrival_s"].between(60, 120, inclusive="left") & (requests["outcome"] == "succeeded")]
    assert found["p95"].loc[60.0] == pytest.approx(np.percentile(here["wait_s"], 95))
    assert np.isnan(found["p50"].iloc[-1])


def test_recovery_curves_cross_where_recovery_says(run: SimResult) -> None:
    """The first second with 90 % of the oracle's admissions and at most 5 % of 429s is the reported recovery."""
    curves = series.recovery_curves(run)
    for event, after_s in run.recovery().items():
        curve = curves[curves["event"] == event]
        good = curve[(curve["admitted"] >= 0.9) & (curve["rejected"] <= 0.05)]
        assert (good["since_s"].iloc[0] if len(good) else math.nan) == pytest.approx(after_s, nan_ok=True)


def test_goodput_of_clients_adds_up(shared: SimResult) -> None:
    """The successes of all clients are those of the run."""
    assert series.client_goodput(shared).sum(axis=1).to_numpy() == pytest.approx(
        series.outcome_rates(shared)["succeeded"].to_numpy()
    )


def test_demand_holds_every_request_and_known_token() -> None:
    """A trace's windows hold all its requests and tokens, and unknown counts add nothing."""
    trace = sim.sample_trace().window(0, 300)
    asked = series.demand(trace, 60)
    widths_min = np.diff(np.append(asked.index, trace.duration_s)) / 60
    tokens = trace.input_tokens.sum() + trace.output_tokens.sum()
    assert (asked["requests"] * widths_min).sum() == pytest.approx(len(trace))
    assert (asked["tokens"] * widths_min).sum() == pytest.approx(tokens)


@pytest.mark.parametrize(("longest", "width"), [(0.0, 0.002), (10.0, 0.2), (14.0, 0.5), (49.0, 1.0), (600.0, 20.0)])
def test_bars_have_round_widths(longest: float, width: float) -> None:
    """At most fifty bars reach from 0 to the longest wait, each 1, 2 or 5 times a power of ten wide."""
    assert series.bar_width(np.array([0.0, longest])) == pytest.approx(width)


def test_the_frontier_averages_scenarios_before_seeds(comparison: Comparison) -> None:
    """Means are over everything; intervals over the seeds alone, so that unlike scenarios do not widen them."""
    points = comparisons.frontier(comparison)
    assert points.index.tolist() == ["x", "y"]
    assert points["goodput_ratio"].tolist() == pytest.approx([0.86, 0.51])
    assert points["goodput_ratio_half"].tolist() == pytest.approx([4.303 * 0.01 / math.sqrt(3)] * 2)


def test_the_pareto_front_holds_what_nothing_beats(study: Study) -> None:
    """A trial is on the front unless another has at least its goodput with fewer 429s."""
    assert comparisons.pareto_front(study)["trial"].tolist() == [1, 0, 3, 2, 4]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (950, "950"), (1500, "1.5k"), (200_000, "200k"), (1.2e6, "1.2M"), (4.5, "4.5")]
)
def test_numbers_are_written_short(value: float, text: str) -> None:
    """Ticks spend few characters."""
    assert look.thousands(value) == text


def test_durations_and_shares_are_written_short() -> None:
    """Durations from two minutes on are minutes; shares keep their digits below one per cent."""
    assert [look.seconds(90), look.seconds(180)] == ["90 s", "3 min"]
    assert [look.percent(0.001), look.percent(1.0)] == ["0.1%", "100%"]


# --- words and manners -----------------------------------------------------------------------------------------------

OF_A_RUN: list[Callable[..., Axes]] = [
    sim.plot_limits,
    sim.plot_outcomes,
    sim.plot_queue,
    sim.plot_waits_over_time,
    sim.plot_waits,
    sim.plot_recovery,
    sim.plot_fairness,
]


def _draw(draw: Callable[..., Axes], subject: Any, **options: Any) -> Axes:
    ax = Figure().subplots()
    assert draw(subject, ax=ax, **options) is ax
    ax.figure.canvas.draw()
    return ax


def _legend(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


@pytest.mark.parametrize("draw", OF_A_RUN, ids=lambda draw: draw.__name__)
def test_axes_in_axes_out_in_words_and_units(draw: Callable[..., Axes], run: SimResult) -> None:
    """Every picture draws on the axes it is given, names both, and leaves pyplot and its settings alone."""
    before = dict(mpl.rcParams)
    ax = _draw(draw, run)
    assert "(" in ax.get_xlabel()
    assert ax.get_ylabel()
    assert ax.get_title(loc="left")
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("draw", OF_A_RUN, ids=lambda draw: draw.__name__)
def test_without_axes_pyplot_gives_some(draw: Callable[..., Axes], run: SimResult) -> None:
    """In a notebook a picture needs no figure made by hand."""
    assert plt.fignum_exists(draw(run).figure.number)  # type: ignore[union-attr]


@pytest.mark.parametrize("draw", OF_A_RUN, ids=lambda draw: draw.__name__)
def test_a_run_without_any_success_can_be_drawn(draw: Callable[..., Axes]) -> None:
    """Nothing to show is shown as nothing, not as an error."""
    nothing = sim.simulate(sim.Scenario(sim.backlog(1, 0.01), "bucket"))
    assert _draw(draw, nothing).get_xlabel()


def test_the_overview_is_four_panels_over_one_time_axis(run: SimResult) -> None:
    """Limit, outcomes, queue and waits share the time, which is named once, below; given axes are used."""
    panels = sim.plot_overview(run)
    assert [panel.get_title(loc="left") for panel in panels] == ["Limit", "Outcomes", "Queue", "Wait of those answered"]
    assert [panel.get_xlabel() for panel in panels] == ["", "", "", "time (s)"]
    given = list(Figure().subplots(4))
    assert sim.plot_overview(run, ax=given) == given


def test_the_limit_is_drawn_against_the_truth(run: SimResult) -> None:
    """The lines are the capacity and the limit; each reason has its mark and its count; events are named."""
    ax = _draw(sim.plot_limits, run)
    lines = {str(line.get_label()): line for line in ax.lines}
    assert lines["true capacity"].get_ydata() == pytest.approx([600, 300, 600, 600])
    cuts = len(series.limit_marks(run, Axis.REQUESTS).query("reason == 'rate_limited'"))
    assert f"rate limited ({cuts})" in _legend(ax)
    assert {text.get_text() for text in ax.texts} == {"quota halved", "restored"}
    assert ax.get_ylabel() == "requests/min"


def test_no_limit_is_said_not_drawn() -> None:
    """A policy without a limit has no line at some invented height."""
    ax = _draw(sim.plot_limits, sim.simulate(TWO_EVENTS, sim.policies.retry_only()))
    line = next(line for line in ax.lines if line.get_label() == "limit: none")
    assert np.isnan(np.asarray(line.get_ydata(), dtype=float)).all()


def test_runs_are_compared_on_the_same_axes(run: SimResult, shared: SimResult) -> None:
    """A second run on the same axes takes another colour, dash and shape, and its own name."""
    ax = _draw(sim.plot_waits, run)
    sim.plot_waits(shared, ax=ax, label="three clients")
    first, second = ax.lines
    assert first.get_color() != second.get_color()
    assert first.get_marker() != second.get_marker()
    assert first.get_linestyle() != second.get_linestyle()
    assert _legend(ax) == ["ours", "three clients"]


def test_the_area_of_a_distribution_is_one(run: SimResult) -> None:
    """Shares per second of wait times seconds are everybody, whatever the width of the bars."""
    ax = _draw(sim.plot_waits, run, kind="distribution")
    values, edges, _ = ax.patches[0].get_data()  # type: ignore[attr-defined]
    assert (values * np.diff(edges)).sum() == pytest.approx(1.0)


def test_unknown_kinds_are_refused_by_name(run: SimResult, study: Study) -> None:
    """The message names the value and what there is."""
    with pytest.raises(ValueError, match=r"kind = 'cdf'.*survival.*distribution"):
        sim.plot_waits(run, kind="cdf")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"kind = 'history'.*progress.*pareto"):
        sim.plot_study(study, kind="history")  # type: ignore[arg-type]


def test_fairness_tells_jain(shared: SimResult) -> None:
    """The title holds Jain's index of the run, one line each client, and the fair share."""
    ax = _draw(sim.plot_fairness, shared)
    assert ax.get_title(loc="left") == f"Fairness: Jain {shared.summary()['jain']:.3f}"
    assert _legend(ax) == ["client 1", "client 2", "client 3", "fair share"]


def test_recovery_tells_seconds(run: SimResult) -> None:
    """The legend says after how long each event was overcome."""
    told = _legend(_draw(sim.plot_recovery, run))
    for label, (event, after_s) in zip(told, run.recovery().items(), strict=True):
        assert label == f"{event}: " + ("not recovered" if math.isnan(after_s) else look.seconds(after_s))


def test_long_legends_leave_room_for_the_title() -> None:
    """Five long labels stand in two rows, two short ones in one."""
    ax = Figure().subplots()
    look.title(ax, "Outcomes")
    for number in range(5):
        ax.plot([], [], label=f"longish label {number}")
    look.legend(ax)
    assert ax.get_legend()._ncols == 3  # type: ignore[union-attr]


@pytest.mark.parametrize("axis", ["requests", "tokens"])
def test_a_trace_is_drawn_by_what_it_asks(axis: Any) -> None:
    """A trace's picture names the trace, its size and the unit."""
    ax = _draw(sim.plot_trace, sim.sample_trace(), axis=axis, provider=sim.provider("openai-tier-1"))
    assert ax.get_ylabel() == f"{axis}/min"
    assert ax.get_xlabel() == "time (min)"
    assert ax.get_title(loc="left") == "sample: 9,724 requests"
    assert _legend(ax) == ["asked", "sold by openai-tier-1"]


def test_the_frontier_shows_every_world_and_bold_means(comparison: Comparison) -> None:
    """Each policy has a faint point for each scenario and seed, and one bold mean in the legend."""
    ax = _draw(sim.plot_frontier, comparison)
    faint = [line for line in ax.lines if line.get_alpha() is not None and line.get_linestyle() == "None"]
    assert [len(np.atleast_1d(line.get_xdata())) for line in faint] == [6, 6]
    assert _legend(ax) == ["x", "y"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("429s among attempts", "goodput ÷ oracle's")


def test_the_frontier_is_not_flattened_by_one_world(comparison: Comparison) -> None:
    """A world far above every mean, where only small calls came through, leaves the scale as it is."""
    frame = comparison.frame.copy()
    frame.loc[frame.index[-1], "goodput_ratio"] = 3.4
    top = _draw(sim.plot_frontier, Comparison(frame, clients=1)).get_ylim()[1]
    assert top < 2.0


@pytest.mark.parametrize("kind", ["progress", "pareto"])
def test_a_study_shows_defaults_best_and_broken_bounds(kind: Any, study: Study) -> None:
    """Trials within and beyond the bound differ in shape and colour; defaults and the best are named."""
    ax = _draw(sim.plot_study, study, kind=kind)
    assert {"within the bound", "too many 429s", "defaults: 80.0%", "best: 85.0%"} <= set(_legend(ax))
    assert ax.get_xlabel()
    assert ax.get_ylabel() == "goodput ÷ oracle's"


def test_sensitivity_puts_what_matters_most_on_top() -> None:
    """A row per setting, widest first; marks below and above the value moved from; a line where nothing was moved."""
    ax = _draw(sim.plot_sensitivity, VARIED)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["decrease", "probe_s"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    assert [sorted(line.get_xdata()) for line in ax.lines if line.get_color() == look.GREY] == [[0.5, 0.9], [0.85, 0.9]]
    marks = {line.get_marker(): line.get_xdata().tolist() for line in ax.lines if line.get_color() == look.ORANGE}
    assert marks == {"^": [0.85]}
    assert ax.get_xlabel() == "goodput ÷ oracle's (dashed: nothing moved, 90%)"
    assert [text.get_text() for text in ax.texts if "%" in text.get_text()] == ["1% – 3%", "0.2% – 1%"]  # noqa: RUF001


def test_the_heat_map_writes_each_figure_in_its_field() -> None:
    """First setting up, second across, values ascending; ink tells from the ground."""
    frame = pd.DataFrame(
        {"moved": "decrease, probe_s", "decrease": [0.5, 0.5, 0.9, 0.9], "probe_s": [2.0, 8.0, 2.0, 8.0],
         "wait_p95_s": [1.0, 2.0, 3.0, 180.0]}
    )  # fmt: skip
    variation = Variation(frame, RateLimitConfig(), ("decrease", "probe_s"), crossed=True)
    ax = _draw(sim.plot_heat_map, variation, figure="wait_p95_s")
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title(loc="left")) == ("probe_s", "decrease", "Wait p95")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0.5", "0.9"]
    assert [text.get_text() for text in ax.texts] == ["1 s", "2 s", "3 s", "3 min"]
    assert [text.get_color() for text in ax.texts] == ["white"] * 3 + ["black"]


def test_calibration_is_what_was_simulated_over_what_was_recorded() -> None:
    """One row per figure with the range of its seeds; what was recorded as 0 has no ratio, but its numbers."""
    ratios = calibration_ratios(VALIDATED)
    assert ratios.loc["goodput"].tolist() == [1.1, 1.0, 1.25]
    assert ratios.loc["429s"].isna().all()
    ax = _draw(sim.plot_calibration, VALIDATED)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["429s", "goodput", "wait_p95_s", "wait_p99_s"]
    assert [text.get_text() for text in ax.texts] == ["0 → 2", "4 → 4.4", "30 s → 27 s", "1 s → 9 s"]
    assert ax.get_xlim() == pytest.approx((0.7, 2.1))
    assert [line.get_marker() for line in ax.lines if line.get_marker() != "None"] == ["o", "o", "o", ">"]
    assert [line.get_xdata().tolist() for line in ax.lines if line.get_linewidth() == 2.0][1:] == [
        [1.0, 1.25], [0.8, 1.0], [1.5, 2.0],
    ]  # fmt: skip


def test_closed_sets_have_a_look_each() -> None:
    """Each reason that is marked, each outcome and each axis has its own shape, hatch or word."""
    assert set(look.REASONS) == {str(reason) for reason in Reason} - {str(reason) for reason in series.MOVES}
    assert len({mark[:2] for mark in look.REASONS.values()}) == len(look.REASONS)
    assert len({mark.marker for mark in look.OUTCOMES.values()}) == len(look.OUTCOMES)
    assert {str(Outcome.SUCCEEDED), str(Outcome.RATE_LIMITED)} < set(look.OUTCOMES) == set(look.OUTCOME_NAMES)
    assert set(look.AXIS_LABELS) == set(Axis)


def test_dark_styles_survive(run: SimResult) -> None:
    """Ink is the style's, also when the picture is drawn after the style's block; no ground is painted."""
    with plt.style.context("dark_background"):
        ax = plt.subplots()[1]
    sim.plot_limits(run, ax=ax)
    capacity = next(line for line in ax.lines if line.get_label() == "true capacity")
    assert capacity.get_color() == "white"
    assert ax.get_facecolor() == (0, 0, 0, 1)


def test_labels_of_close_events_step_down(run: SimResult) -> None:
    """Two events at nearly one time write their names below each other."""
    scenario = sim.Scenario(run.scenario.workload, "bucket").at(80, quota=0.5).at(82, quota=1)
    ax = Figure().subplots()
    look.events(ax, scenario.events, 240)
    assert len({text.get_position()[1] for text in ax.texts}) == 2
