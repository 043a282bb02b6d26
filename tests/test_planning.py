"""The capacity planner: how much quota a workload needs, and what happens when it is packed tighter."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import simulators as sim
from factflow_llm.errors import ConfigurationError
from factflow_llm.signals import Axis
from simulators.plots.plans import plan_curve, plot_plan
from simulators.providers.quotas import Bucket
from simulators.scenarios.load import mean_load

if TYPE_CHECKING:
    from pathlib import Path

    from simulators.studies.planning import Plan


@pytest.fixture(scope="module")
def plan() -> Plan:
    """Return the plan for five requests per second against ten, and against slots."""
    trace = sim.synthesize(5, 120, seed=1, name="five per second")
    small = sim.provider("bucket").model_copy(update={"name": "a third", "quotas": _scaled("bucket", 1 / 3)})
    return sim.plan(trace, providers=[small, "bucket"], max_wait_p95_s=2.0, jobs=1, progress=False)


def _scaled(name: str, factor: float) -> tuple[object, ...]:
    meters = sim.provider(name).quotas
    return tuple(meter.model_copy(update={"limit": meter.limit * factor}) for meter in meters)


def test_the_first_provider_that_fits_is_chosen(plan: Plan) -> None:
    """A third of the quota does not carry the load, all of it does."""
    table = plan.table()
    assert table["meets"].to_dict() == {"a third": False, "bucket": True}
    assert plan.choice == "bucket"
    assert table.loc["bucket", "load"] == pytest.approx(0.5, rel=0.2)


def test_the_quota_needed_is_the_same_in_units_whoever_sells_it(plan: Plan) -> None:
    """A third sold must be bought three times as often."""
    needed = plan.table()["quota_needed"]
    assert needed["a third"] == pytest.approx(3 * needed["bucket"], rel=0.15)
    assert 0.4 < needed["bucket"] < 0.8


def test_packed_tighter_the_wait_is_too_long(plan: Plan) -> None:
    """One step below what is needed the wait is above the bound, and far below many are never sent."""
    table = plan.table()
    assert (table["wait_p95_tighter_s"] > plan.max_wait_p95_s).all()
    curve = plan_curve(plan, "bucket")
    assert curve["load"].is_monotonic_increasing
    assert curve["wait_p95_s"].iloc[-1] > 10 * plan.max_wait_p95_s


def test_a_request_never_sent_waits_for_ever(plan: Plan) -> None:
    """The 95th percentile is of all requests, not of those that came through."""
    tightest = plan.frame.sort_values("load").groupby("provider").last()
    assert (tightest["wait_p95_s"] > plan.max_wait_p95_s).all()
    assert (tightest["unserved_share"] >= 0).all()
    none_sent = plan.frame[plan.frame["unserved_share"] > 0.5]
    assert none_sent["wait_p95_s"].map(math.isinf).all()


def test_a_request_larger_than_the_quota_waits_for_ever() -> None:
    """Told at once that it can never be admitted, it has not waited, and was not served either."""
    tiny = sim.provider("openai-tier-1").model_copy(
        update={"name": "tiny", "quotas": (Bucket(axis=Axis.TOKENS, limit=10),)}
    )
    trace = sim.synthesize(2, 30, seed=1)
    plan = sim.plan(trace, providers=[tiny], max_wait_p95_s=5, jobs=1, progress=False)
    sold = plan.frame[plan.frame["quota"] == 1.0].iloc[0]
    assert (sold["wait_p95_s"], sold["unserved_share"], plan.choice) == (math.inf, 1.0, None)
    assert plan.table().loc["tiny", "quota_needed"] > 10


def test_load_is_charged_by_the_providers_own_rules() -> None:
    """OpenAI reserves 16 tokens for an answer of unknown length and never settles."""
    trace = sim.sample_trace().window(0.0, 300.0)
    spec = sim.provider("openai-tier-1")
    charged = (trace.input_tokens + 16).sum() / trace.duration_s / (200_000 / 60)
    assert mean_load(sim.Scenario(trace, spec)) == pytest.approx(charged, rel=1e-6)
    assert mean_load(sim.Scenario(trace, sim.Provider(name="no quota"))) == 0.0


def test_load_counts_events_and_neighbours() -> None:
    """Half the quota for half the time is three quarters of it; a neighbour's calls fill it as ours do."""
    alone = sim.Scenario(sim.synthesize(4, 200, seed=1), "bucket")
    load = mean_load(alone)
    assert load == pytest.approx(0.4, rel=0.1)
    half_s = alone.workload.duration_s / 2
    assert mean_load(alone.at(half_s, quota=0.5)) == pytest.approx(load / 0.75)
    beside = replace(alone, neighbours=(sim.Neighbour(requests_per_s=3, start_s=half_s),))
    assert mean_load(beside) == pytest.approx(load + 0.15)
    assert mean_load(sim.Scenario(sim.backlog(4, 60), "bucket")) is None


def test_events_and_clients_are_planned_for() -> None:
    """What halves the quota makes more of it needed; clients are who they are in ``simulate``."""
    calm = sim.Scenario(sim.synthesize(5, 120, seed=1, name="five per second"), "bucket")
    usual = {"max_wait_p95_s": 2.0, "jobs": 1, "progress": False}
    halved = sim.plan(calm.at(60, quota=0.5), **usual)
    plain = sim.plan(calm, **usual)
    assert halved.table().loc["bucket", "quota_needed"] > 1.4 * plain.table().loc["bucket", "quota_needed"]
    shared = sim.plan(calm, clients=3, **usual)
    alone = sim.simulate(calm, clients=3).requests["wait_s"].to_numpy()
    sold = shared.frame[shared.frame["quota"] == 1.0].iloc[0]
    assert sold["wait_p95_s"] == np.percentile(alone, 95, method="higher")


@pytest.mark.slow
def test_a_fleet_is_planned_for() -> None:
    """Clients that share what they learn are those of ``simulate``, and need less than those who are apart."""
    calm = sim.Scenario(sim.synthesize(8, 200, seed=1, name="eight per second"), "bucket")
    usual = {"max_wait_p95_s": 2.0, "jobs": 1, "progress": False, "clients": 4}
    shared, apart = sim.plan(calm, shared=True, **usual), sim.plan(calm, **usual)
    waits = sim.simulate(calm, clients=4, shared=True).requests["wait_s"].to_numpy()
    sold = shared.frame[shared.frame["quota"] == 1.0].iloc[0]
    assert sold["wait_p95_s"] == np.percentile(waits, 95, method="higher")
    rejected = [plan.frame["rejected_share"].mean() for plan in (shared, apart)]
    assert rejected[0] < rejected[1]


def test_quotas_of_one_preset_stand_side_by_side() -> None:
    """Their names tell them apart, in the table and in the picture."""
    bucket = sim.provider("bucket")
    two = [bucket.with_quota(requests_per_second=3), bucket]
    found = sim.plan(sim.synthesize(5, 60, seed=1), providers=two, max_wait_p95_s=2.0, jobs=1, progress=False)
    assert list(found.table().index) == ["bucket (3 requests per 1 s)", "bucket (10 requests per 1 s)"]
    assert found.choice == "bucket (10 requests per 1 s)"


def test_a_plan_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Runs in the journal are not done again, and the plan is the same."""
    journal = tmp_path / "plan.journal"
    usual = {"providers": "bucket", "max_wait_p95_s": 2.0, "jobs": 1, "journal": journal}
    trace = sim.synthesize(5, 60, seed=1)

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sim.plan(trace, progress=stop, **usual)
    kept = journal.read_text().count("\n")
    whole = sim.plan(trace, progress=False, **usual)
    assert 3 <= kept - 1 < len(whole.frame)
    pd.testing.assert_frame_equal(whole.frame, sim.plan(trace, progress=False, **usual | {"journal": None}).frame)


def test_both_faces_tell_the_choice(plan: Plan) -> None:
    """Terminal and notebook show the same sentence."""
    assert "five per second: wait p95 at most 2 s; bucket meets it as sold" in repr(plan)
    assert "bucket meets it as sold" in plan._repr_html_()


def test_the_plot_marks_what_is_sold_and_the_bound(plan: Plan) -> None:
    """One curve and one large mark per provider, and the bound's line."""
    ax = plan.plot(ax=Figure().subplots())
    curves = [line for line in ax.lines if line.get_markersize() == 4]
    sold = [line for line in ax.lines if line.get_markersize() == 10]
    assert len(curves) == len(sold) == 2
    assert float(sold[1].get_xdata()[0]) == plan.table().loc["bucket", "load"]
    assert 2.0 in [line.get_ydata()[0] for line in ax.lines]
    assert plot_plan(plan, ax=ax) is ax


def test_nothing_is_drawn_where_there_is_no_wait() -> None:
    """Never and nothing are not invented numbers: a row of crosses, and 0 at 0."""
    trace = sim.synthesize(5, 120, seed=1, name="five per second")
    found = sim.plan(trace, providers="bucket", max_wait_p95_s=2.0, jobs=1, progress=False)
    waits = plan_curve(found, "bucket")["wait_p95_s"]
    frame = found.frame.assign(wait_p95_s=found.frame["wait_p95_s"].where(found.frame["load"] < 1.1, math.inf))
    ax = plot_plan(replace(found, frame=frame), ax=Figure().subplots())
    curve, crosses = ax.lines[0].get_ydata(), ax.lines[1].get_ydata()
    lost = len(waits) - int(np.isfinite(curve).sum())
    assert lost == len(crosses) > 0
    assert set(curve[np.isfinite(curve)]) <= set(waits)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names[-1] == "never"
    assert len(set(crosses)) == 1
    assert max(crosses) > max(curve[np.isfinite(curve)])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"trace": sim.backlog(4, 60)}, "any quota fits; give a trace"),
        ({"providers": []}, "providers is empty"),
        ({"providers": ["bucket", "bucket"]}, "bucket \\(10 requests per 1 s\\) stands twice"),
        ({"providers": ["bukket"]}, "no provider is called 'bukket'"),
        ({"max_wait_p95_s": 0.0}, "max_wait_p95_s = 0.0 must be a finite number"),
        ({"max_wait_p95_s": math.nan}, "max_wait_p95_s = nan must be a finite number"),
        ({"seeds": 0}, "seeds = 0: give a number of at least 1"),
    ],
)
def test_bad_input_is_said_in_words(change: dict[str, object], told: str) -> None:
    """Each refusal names the value and the remedy."""
    usual = {"trace": sim.sample_trace(), "providers": ["bucket"], "max_wait_p95_s": 1.0, "jobs": 1, "progress": False}
    with pytest.raises(ConfigurationError, match=told):
        sim.plan(**usual | change)


def test_one_provider_may_stand_alone() -> None:
    """A single provider needs no list, as a single scenario needs none."""
    trace = sim.sample_trace().window(0, 30)
    alone, listed = (
        sim.plan(trace, providers=given, max_wait_p95_s=2.0, jobs=1, progress=False) for given in ("slots", ["slots"])
    )
    assert alone.frame.equals(listed.frame)
