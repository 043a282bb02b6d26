"""Comparisons: paired worlds, one oracle per world, figures that do not depend on the number of processes."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest

import simulators as sim
from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.config import RateLimitConfig
from simulators.studies import parallel
from simulators.studies.comparison import HEADLINES, half_width, shown

SCENARIO = sim.Scenario(sim.backlog(workers=16, duration_s=40.0), "bucket")
POLICIES = {"ours": RateLimitConfig(), "fixed": sim.policies.fixed_rate(8.0), "oracle": sim.policies.oracle()}


@pytest.fixture(scope="module")
def comparison() -> sim.Comparison:
    """Compare three policies over two scenarios and three seeds."""
    return sim.compare([SCENARIO, SCENARIO.at(20.0, quota=0.5, label="halved")], POLICIES, seeds=3, jobs=1)


def test_the_frame_has_a_row_per_scenario_policy_and_seed(comparison: sim.Comparison) -> None:
    """Rows stand in the order asked for, with every name of the summary."""
    frame = comparison.frame
    assert len(frame) == 2 * 3 * 3
    assert list(frame["policy"][:3]) == list(POLICIES)
    assert list(frame.columns[3:]) == list(sim.simulate(SCENARIO).summary().index)
    assert comparison.seeds == [0, 1, 2]


def test_figures_are_those_of_single_runs(comparison: sim.Comparison) -> None:
    """A cell of the frame is what simulate() and summary() say."""
    row = comparison.frame.iloc[3]
    alone = sim.simulate(SCENARIO, POLICIES["ours"], seed=1).summary()
    assert row[list(HEADLINES)].to_dict() == alone[list(HEADLINES)].to_dict()


@pytest.mark.slow
def test_two_processes_give_the_same_figures(comparison: sim.Comparison) -> None:
    """Parallel runs are an economy, not a setting."""
    again = sim.compare([SCENARIO, SCENARIO.at(20.0, quota=0.5, label="halved")], POLICIES, seeds=3, jobs=2)
    assert again.frame.equals(comparison.frame)


def test_the_oracle_runs_once_per_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many policies are measured by it, and even where it is one of them."""
    ran: list[str] = []
    simulate = parallel.simulate

    def counted(scenario: sim.Scenario, policy: sim.Policy, **how: Any) -> sim.SimResult:
        ran.append(policy.name)
        return simulate(scenario, policy, **how)

    monkeypatch.setattr(parallel, "simulate", counted)
    sim.compare(SCENARIO, POLICIES, seeds=2, jobs=1)
    assert ran.count("oracle") == 2
    assert len(ran) == 2 * len(POLICIES)


def test_the_table_has_means_and_intervals(comparison: sim.Comparison) -> None:
    """Numbers for further use: mean and half a 95 % interval by Student's t."""
    frame = comparison.frame
    values = frame[(frame["scenario"] == SCENARIO.name) & (frame["policy"] == "ours")]["wait_p95_s"].tolist()
    table = comparison.table()
    assert table.loc[(SCENARIO.name, "ours"), ("wait_p95_s", "mean")] == pytest.approx(statistics.fmean(values))
    expected = 4.303 * statistics.stdev(values) / math.sqrt(3)
    assert table.loc[(SCENARIO.name, "ours"), ("wait_p95_s", "±")] == pytest.approx(expected)
    assert [figure for figure, part in table.columns if part == "mean"] == list(HEADLINES)


def test_differences_are_paired_by_seed(comparison: sim.Comparison) -> None:
    """Against a policy, rows are the others' mean differences in the same worlds."""
    table = comparison.table(["goodput"], against="oracle")
    frame = comparison.frame[comparison.frame["scenario"] == SCENARIO.name].set_index(["policy", "seed"])["goodput"]
    differences = (frame["ours"] - frame["oracle"]).tolist()
    row = table.loc[(SCENARIO.name, "ours")]
    assert row[("goodput", "mean")] == pytest.approx(statistics.fmean(differences))
    assert row[("goodput", "±")] == pytest.approx(half_width(differences))
    assert "oracle" not in table.index.get_level_values("policy")


def test_a_figure_that_one_seed_lacks_has_no_mean() -> None:
    """A recovery that never came must not be averaged away."""
    comparison = sim.compare(SCENARIO, {"ours": RateLimitConfig()}, seeds=2, jobs=1)
    assert comparison.table(["recovery_s"]).isna().all(axis=None)
    assert comparison.text(["recovery_s"]).iloc[0, 0] == "-"


def test_several_clients_have_a_fairness() -> None:
    """With more than one client the frame has Jain's index."""
    comparison = sim.compare(SCENARIO, {"ours": RateLimitConfig()}, seeds=1, clients=2, jobs=1)
    assert comparison.frame["jain"].between(0.5, 1.0).all()
    assert "2 clients" in repr(comparison)


def test_faces_show_the_table(comparison: sim.Comparison) -> None:
    """Terminals and notebooks see means with intervals, without loss of columns."""
    for face in (repr(comparison), comparison._repr_html_()):
        assert all(word in face for word in (*HEADLINES, "ours", "3 seeds", "±"))


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0], math.nan), ([1.0, 3.0], 12.706), ([2.0, 2.0, 2.0], 0.0), ([0.0, 1.0] * 50, 1.9842 * 0.0502519)],
)
def test_half_widths(values: list[float], expected: float) -> None:
    """One value has no interval, two have a wide one, and many approach the normal quantile."""
    assert half_width(values) == pytest.approx(expected, rel=1e-3, nan_ok=True)


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [(0.95, 0.01, "0.9500 ± 0.0100"), (1638.27, math.nan, "1638.3"), (math.nan, math.nan, "-")],
)
def test_figures_for_the_eye(mean: float, half: float, text: str) -> None:
    """What has no value is a dash, never a zero."""
    assert shown(mean, half) == text


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"policies": {}}, "policies is empty"),
        ({"policies": {"x": 3}}, "no policy"),
        ({"policies": POLICIES, "clients": 0}, "clients = 0"),
        ({"policies": POLICIES, "seeds": 0}, "seeds = 0"),
        ({"policies": POLICIES, "jobs": 0}, "jobs = 0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], word: str) -> None:
    """Each refusal names the argument, before anything runs."""
    with pytest.raises(ConfigurationError, match=word):
        sim.compare(SCENARIO, **arguments)  # type: ignore[arg-type]


def test_unknown_figures_and_policies_are_named(comparison: sim.Comparison) -> None:
    """A table of something that is not there says what is."""
    with pytest.raises(ConfigurationError, match=r"'goodputs'.*known: goodput,"):
        comparison.table(["goodputs"])
    with pytest.raises(ConfigurationError, match=r"'theirs'.*known: ours, fixed, oracle"):
        comparison.table(against="theirs")
