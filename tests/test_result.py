"""Results: tidy frozen frames, a closed set of figures, and the goodput that the default limiter owes."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pandas as pd
import pytest

from factflow_llm.ratelimit.config import RateLimitConfig, RetryConfig
from factflow_llm.signals import Axis, Reason
from simulators.engine.result import SimResult, jain_index
from simulators.engine.rows import ENDING_WORDS, OUTCOME_WORDS
from simulators.engine.simulate import simulate
from simulators.policies.all_knowing import oracle
from simulators.policies.yardsticks import fixed_rate, retry_only
from simulators.providers.catalogue import Provider
from simulators.providers.latency import LatencyModel
from simulators.providers.quotas import Bucket
from simulators.scenarios.scenario import Scenario, backlog
from simulators.traces import synthesize

NAMES = [
    "goodput", "goodput_ratio", "answered_share", "rejected_share", "attempts_per_success", "wait_p50_s", "wait_p95_s",
    "wait_p99_s", "latency_p50_s", "latency_p95_s", "latency_p99_s", "failed", "unfinished", "tokens_per_s",
    "wasted_tokens", "recovery_s",
]  # fmt: skip
STEADY = LatencyModel(first_token_s=1.0, first_token_sigma=0.0, per_token_s=0.0)


@pytest.fixture(scope="module")
def ours() -> SimResult:
    """Return ten minutes of a busy bucket whose quota halves and comes back."""
    scenario = Scenario(backlog(64, 600.0), "bucket").at(200, quota=0.5, label="halved").at(400, quota=1, label="back")
    return simulate(scenario, RateLimitConfig(), seed=7)


# --- what the default limiter owes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 7])
def test_the_default_limiter_on_the_bucket(seed: int) -> None:
    """Half an hour of 64 workers on 10 requests/s: 93 % of what is possible, at no more than 2 % of refusals."""
    summary = simulate(Scenario(backlog(64, 1800.0), "bucket"), RateLimitConfig(), seed=seed).summary()
    assert summary["goodput_ratio"] >= 0.93
    assert summary["rejected_share"] <= 0.02


# --- figures ---------------------------------------------------------------------------------------------------------


def test_the_names_are_a_closed_set(ours: SimResult) -> None:
    """A summary has these names, in this order, and ``jain`` where clients share a quota."""
    assert ours.summary().index.tolist() == NAMES
    shared = simulate(Scenario(backlog(16, 30.0), "bucket"), clients=2)
    assert shared.summary().index.tolist() == [*NAMES, "jain"]


def test_the_figures_are_what_the_frames_say(ours: SimResult) -> None:
    """Every figure can be had from the frames by hand."""
    summary, requests, attempts = ours.summary(), ours.requests, ours.attempts
    served = requests[requests["outcome"] == "succeeded"]
    best = ours.oracle.requests["outcome"].eq("succeeded").sum()
    answered = attempts[attempts["outcome"] != "unanswered"]
    by_hand = {
        "goodput": len(served) / 600.0,
        "goodput_ratio": len(served) / best,
        "rejected_share": answered["outcome"].eq("rate_limited").mean(),
        "attempts_per_success": len(answered) / len(served),
        "wait_p50_s": served["wait_s"].quantile(0.5),
        "wait_p95_s": served["wait_s"].quantile(0.95),
        "latency_p99_s": served["latency_s"].quantile(0.99),
        "failed": 0,
        "unfinished": requests["outcome"].eq("unfinished").sum(),
        "answered_share": requests["outcome"].eq("succeeded").mean(),
        "tokens_per_s": (served["input_tokens"] + served["output_tokens"]).sum() / 600.0,
        "wasted_tokens": 0,
    }
    for name, value in by_hand.items():
        assert summary[name] == pytest.approx(value), name


def test_retrying_without_a_limiter_is_seen_through() -> None:
    """Success alone says nothing: who just retries succeeds as well, at the price of many refusals."""
    scenario = Scenario(backlog(64, 120.0), "bucket")
    retrying, limited = simulate(scenario, retry_only()).summary(), simulate(scenario).summary()
    assert retrying["rejected_share"] > 5 * limited["rejected_share"]
    assert retrying["attempts_per_success"] > limited["attempts_per_success"]


def test_the_oracle_is_its_own_yardstick() -> None:
    """The best there is has ratio 1 and no refusals."""
    summary = simulate(Scenario(backlog(64, 120.0), "bucket"), oracle()).summary()
    assert summary["goodput_ratio"] == 1.0
    assert summary["rejected_share"] == 0.0
    assert summary["attempts_per_success"] == 1.0


def test_a_yardstick_at_hand_is_used(ours: SimResult) -> None:
    """Given the oracle's result, no second one is run, and the figures are the same."""
    fresh = SimResult(ours.scenario, ours.policy, ours.seed, ours.clients, ours.run)
    assert fresh.summary(ours.oracle).equals(ours.summary())
    assert "oracle" not in vars(fresh)


def test_a_run_in_which_nothing_succeeds() -> None:
    """Where a figure has no meaning it is NaN; counts are counts."""
    small = Provider(name="small", latency=STEADY, quotas=(Bucket(axis="tokens", limit=10, per_s=60),))
    result = simulate(Scenario(synthesize(1.0, 20.0, seed=1), small))
    summary = result.summary()
    assert summary["goodput"] == 0.0
    assert summary["failed"] == len(result.requests)
    assert summary["unfinished"] == 0
    for name in ("goodput_ratio", "attempts_per_success", "wait_p50_s", "latency_p99_s", "recovery_s"):
        assert math.isnan(summary[name])


def test_wasted_tokens_are_those_nobody_got() -> None:
    """Input that the provider read for callers who had gone is counted as wasted."""
    roomy = Provider(name="roomy", latency=STEADY)
    result = simulate(Scenario(backlog(8, 60.0, input_tokens=100), roomy).impatient(0.5, 0.5))
    read = result.attempts[(result.attempts["outcome"] == "cancelled") & (result.attempts["status"] == 200)]
    assert len(read) > 20
    assert result.summary()["wasted_tokens"] == 100 * len(read)


# --- recovery --------------------------------------------------------------------------------------------------------


def test_recovery_is_told_for_the_start_and_each_event(ours: SimResult) -> None:
    """Seconds to the first thirty good ones, by event; the summary shows the worst of the events."""
    recovery = ours.recovery()
    assert recovery.index.tolist() == ["start", "200 s: halved", "400 s: back"]
    assert (recovery >= 0).all()
    assert ours.summary()["recovery_s"] == recovery[1:].max()


def test_two_events_of_one_name_are_two() -> None:
    """Events at one moment or with one label do not swallow each other."""
    scenario = Scenario(backlog(4, 200.0), "bucket").at(50, quota=2, label="x").at(50, quota=1, label="x")
    assert len(simulate(scenario, fixed_rate(5)).recovery()) == 3


def test_the_oracle_recovers_at_once() -> None:
    """Who knows the quota needs no time to find it."""
    scenario = Scenario(backlog(64, 300.0), "bucket").at(100, quota=0.5).at(200, quota=1)
    assert simulate(scenario, oracle()).recovery().max() <= 1.0


def test_who_never_recovers_has_no_figure() -> None:
    """A fixed rate far below the new quota does not get there: NaN, not zero."""
    scenario = Scenario(backlog(64, 300.0), "bucket").at(100, quota=4)
    recovery = simulate(scenario, fixed_rate(9)).recovery()
    assert recovery["start"] <= 2.0
    assert math.isnan(recovery.iloc[1])
    assert math.isnan(simulate(scenario, fixed_rate(9)).summary()["recovery_s"])


def test_rejections_are_no_recovery() -> None:
    """Getting the quota by hammering does not count while more than one in twenty is refused."""
    scenario = Scenario(backlog(64, 200.0), "bucket")
    assert math.isnan(
        simulate(scenario, retry_only(RetryConfig(max_attempts=1000, backoff_cap_s=1.0))).recovery()["start"]
    )


# --- fairness --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shares", "index"), [([5, 5, 5, 5], 1.0), ([1, 0, 0, 0], 0.25), ([1], 1.0), ([2, 1], 0.9)])
def test_jain(shares: list[float], index: float) -> None:
    """Equal shares give 1, one who has it all gives 1/n."""
    assert jain_index(shares) == pytest.approx(index)


def test_jain_of_nothing() -> None:
    """Where nobody has anything there is no fairness to speak of."""
    assert math.isnan(jain_index([0, 0, 0]))


def test_a_starved_client_counts() -> None:
    """A client that got nothing is in the index, not left out of it."""
    result = simulate(Scenario(backlog(1, 60.0), "bucket"), clients=4)
    assert result.summary()["jain"] == pytest.approx(0.25)


# --- frames ----------------------------------------------------------------------------------------------------------


def test_the_frames_are_tidy(ours: SimResult) -> None:
    """Words are categories of a closed vocabulary, counts are integers, unknown times are NaN."""
    attempts, requests, limits = ours.attempts, ours.requests, ours.limits
    assert attempts["outcome"].cat.categories.tolist() == list(OUTCOME_WORDS)
    assert requests["outcome"].cat.categories.tolist() == list(ENDING_WORDS)
    assert limits["reason"].cat.categories.tolist() == [str(reason) for reason in Reason]
    assert set(limits["axis"]) <= {str(axis) for axis in Axis}
    for column in ("request", "attempt", "client", "status", "in_flight", "queued"):
        assert pd.api.types.is_integer_dtype(attempts[column]), column
    assert requests["request"].tolist() == list(range(len(requests)))
    assert requests.loc[requests["outcome"] == "unfinished", "end_s"].isna().all()


def test_retry_after_is_unknown_where_none_was_named(ours: SimResult) -> None:
    """Null is not zero: only refusals name a time."""
    named = ours.attempts["retry_after_s"].notna()
    assert (named == (ours.attempts["status"] == 429)).all()


def test_a_result_is_frozen(ours: SimResult) -> None:
    """Neither the value nor the run behind it can be changed, and changing a frame changes no figure."""
    with pytest.raises(FrozenInstanceError):
        ours.seed = 8  # type: ignore[misc]
    before = ours.summary()
    spoiled = ours.attempts
    spoiled.loc[:, "status"] = 500
    assert ours.summary().equals(before)
    vars(ours).pop("attempts")


def test_attempts_in_flight_at_the_end_are_rows() -> None:
    """Whatever was sent has a row; what the run did not live to see answered is unanswered and counts nowhere else."""
    result = simulate(Scenario(backlog(24, 90.0), "bucket"), retry_only(), seed=3)
    attempts, requests = result.attempts, result.requests
    assert len(attempts) == requests["attempts"].sum()
    unanswered = attempts[attempts["outcome"] == "unanswered"]
    assert 0 < len(unanswered) <= 24
    assert unanswered["end_s"].isna().all()
    assert attempts.index[-len(unanswered) :].tolist() == unanswered.index.tolist()
    assert set(requests.loc[requests["request"].isin(unanswered["request"]), "outcome"]) == {"unfinished"}
    figures = simulate(Scenario(backlog(24, 90.0), "bucket"), retry_only(), seed=3, collect="summary").summary()
    assert figures["attempts_per_success"] == pytest.approx(
        (len(attempts) - len(unanswered)) / requests["outcome"].eq("succeeded").sum()
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("preset", ["bucket", "fixed-window"])
def test_nobody_beats_a_bound(preset: str, seed: int) -> None:
    """Where the oracle is a bound, no client has more goodput: not by what stands in flight when the run ends."""
    result = simulate(Scenario(backlog(48, 61.0), preset), retry_only(), seed=seed)
    assert result.oracle_is_bound
    assert result.summary()["goodput_ratio"] <= 1.0
    assert "no bound" not in repr(result)


def test_where_the_oracle_is_no_bound_the_result_says_so() -> None:
    """With several quotas a client that reorders calls can do better than an oracle that does not."""
    tokens = Provider(name="tokens", latency=STEADY, quotas=(Bucket(axis=Axis.TOKENS, limit=60_000),))
    mixed = backlog(64, 600.0, input_tokens=2000, output_tokens=5, sigma=1.0)
    result = simulate(Scenario(mixed, tokens), retry_only(), seed=7)
    assert not result.oracle_is_bound
    assert result.summary()["goodput_ratio"] > 1.0
    assert "keeps the order of calls and is no bound" in repr(result)


def test_empty_frames_have_their_columns() -> None:
    """A run that is over before anything happens still has all its frames."""
    roomy = Provider(name="roomy", latency=STEADY)
    result = simulate(Scenario(backlog(1, 0.5), roomy))
    (attempt,) = result.attempts.to_dict("records")
    assert (attempt["outcome"], attempt["status"]) == ("unanswered", 200)
    assert np.isnan(attempt["end_s"])
    assert "outcome" in result.attempts
    assert result.limits.empty
    assert result.requests["outcome"].tolist() == ["unfinished"]
    assert result.summary()["unfinished"] == 1


def test_what_it_shows(ours: SimResult) -> None:
    """Text and HTML tell scenario, policy and seed, and the summary."""
    for shown in (repr(ours), ours._repr_html_()):
        for word in ("bucket", "seed 7", "goodput_ratio", "policy ours"):
            assert word in shown
    assert np.isfinite(ours.summary()["goodput"])
    assert list(ours.provenance) == ["scenario", "policy", "seed", "clients", "settings", "events", "factflow-llm"]
