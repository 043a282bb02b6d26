"""The engine: virtual time, every request accounted for, the same bytes for the same seed."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.config import RateLimitConfig, RetryConfig
from simulators.engine.rows import ENDING_WORDS
from simulators.engine.simulate import simulate
from simulators.policies.all_knowing import oracle
from simulators.policies.yardsticks import fixed_rate, retry_only
from simulators.providers.catalogue import Provider, provider
from simulators.providers.latency import LatencyModel
from simulators.providers.quotas import Bucket, Slots
from simulators.scenarios.scenario import Scenario, backlog
from simulators.traces import Trace, synthesize
from simulators.traces.trace import TraceHeader

if TYPE_CHECKING:
    from simulators.engine.result import SimResult
    from simulators.engine.run_log import Run

SWIFT = LatencyModel(first_token_s=0.5, first_token_sigma=0.0, per_token_s=0.0)
_DIGEST = """
import hashlib
from simulators.engine.simulate import simulate
from simulators.scenarios.scenario import Scenario, backlog
run = simulate(Scenario(backlog(24, 120.0, sigma=0.5), "openai-tier-1").impatient(0.1, 5.0), seed=3, clients=2).run
print(hashlib.sha256(run.attempts.tobytes() + run.requests.tobytes() + run.changes.tobytes()).hexdigest())
"""


def _trace(*arrivals_s: float, input_tokens: Any = 100) -> Trace:
    count = len(arrivals_s)
    return Trace.of(
        arrivals_s,
        np.broadcast_to(input_tokens, count),
        np.full(count, 10),
        header=TraceHeader(mode="simulated", source="by hand", rows_read=count, rows_emitted=count),
        name="by hand",
    )


def _bytes(run: Run) -> tuple[bytes, bytes, Any]:
    return run.attempts.tobytes(), run.requests.tobytes(), run.changes.tobytes()


def _roomy(**changes: Any) -> Provider:
    return Provider(name="roomy", latency=SWIFT, **changes)


def _mixed(seed: int = 0, clients: int = 1) -> SimResult:
    scenario = Scenario(synthesize(6.0, 60.0, cv=3.0, seed=seed), "openai-tier-1").at(30, quota=0.5).impatient(0.2, 4.0)
    return simulate(
        scenario, RateLimitConfig(retry=RetryConfig(deadline_s=30.0, max_attempts=3)), seed=seed, clients=clients
    )


# --- the same world --------------------------------------------------------------------------------------------------


def test_equal_arguments_give_equal_bytes() -> None:
    """The same scenario, policy and seed give the same run to the bit; another seed does not."""
    scenario = Scenario(backlog(16, 60.0, sigma=0.5), "bucket")
    one, two, other = (_bytes(simulate(scenario, seed=seed).run) for seed in (3, 3, 4))
    assert one == two
    assert one != other


@pytest.mark.slow
def test_other_processes_give_the_same_bytes() -> None:
    """Neither the process nor its hash seed leaves a trace in a run."""
    digests = [
        subprocess.run(
            [sys.executable, "-c", _DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "77")
    ]
    assert len(set(digests)) == 1
    assert len(digests[0].strip()) == len(hashlib.sha256().hexdigest())


def test_two_policies_meet_the_same_world() -> None:
    """A request's sizes and its answer's duration are the same under every policy."""
    scenario = Scenario(backlog(8, 30.0, sigma=0.8), "bucket")
    frames = [simulate(scenario, policy, seed=5).attempts for policy in (RateLimitConfig(), fixed_rate(2), oracle())]
    took = []
    for frame in frames:
        answered = frame[frame["status"] == 200].set_index("request")
        took.append((answered["end_s"] - answered["admitted_s"]).sort_index().head(20))
    assert took[0].index.equals(took[1].index)
    np.testing.assert_allclose(took[0], took[1], rtol=0, atol=1e-9)
    np.testing.assert_allclose(took[0], took[2], rtol=0, atol=1e-9)


def test_a_run_touches_nothing() -> None:
    """A scenario, and a policy, can be run again and give the same."""
    scenario, policy = Scenario(backlog(4, 20.0), "slots").at(5, quota=0.5), fixed_rate(3)
    assert _bytes(simulate(scenario, policy, seed=1).run) == _bytes(simulate(scenario, policy, seed=1).run)


def test_results_travel_between_processes() -> None:
    """A result pickles, frames and all."""
    result = _mixed()
    copy = pickle.loads(pickle.dumps(result))
    assert _bytes(copy.run) == _bytes(result.run)
    assert copy.summary().equals(result.summary())


# --- every request accounted for -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("clients", [1, 3])
def test_every_request_ends_once(seed: int, clients: int) -> None:
    """Each request has one row and one end; attempts belong to requests and number from 0 without gaps."""
    result = _mixed(seed, clients)
    requests, attempts = result.requests, result.attempts
    assert requests["request"].is_unique
    assert set(requests["outcome"]) <= set(ENDING_WORDS)
    assert set(attempts["request"]) <= set(requests["request"])
    for _, mine in attempts.groupby("request"):
        assert mine["attempt"].tolist() == list(range(len(mine)))
    counted = attempts.groupby("request").size()
    ended = requests[requests["outcome"] != "unfinished"].set_index("request")
    assert ended["attempts"].sub(counted, fill_value=0).loc[ended.index].eq(0).all()


@pytest.mark.parametrize("seed", range(4))
def test_time_goes_one_way(seed: int) -> None:
    """Submitted, admitted, first chunk, end: in this order for every attempt, and one attempt after the other."""
    result = _mixed(seed)
    attempts = result.attempts
    assert (attempts["submitted_s"] <= attempts["admitted_s"]).all()
    assert (attempts["admitted_s"] <= attempts["end_s"]).all()
    assert attempts["end_s"].is_monotonic_increasing
    for _, mine in attempts.groupby("request"):
        assert (mine["submitted_s"].to_numpy()[1:] >= mine["end_s"].to_numpy()[:-1]).all()
    assert result.limits["time_s"].is_monotonic_increasing
    assert attempts["end_s"].max() <= result.scenario.horizon_s


def test_attempts_that_were_made_are_counted() -> None:
    """A request that used up its attempts, or waits for the next one, has as many as were sent."""
    closed = _roomy(quotas=(Bucket(limit=1, per_s=3600, burst_s=3600),))
    result = simulate(
        Scenario(_trace(0.0, 1.0, 2.0), closed),
        retry_only(RetryConfig(max_attempts=3, retry_after_cap_s=1.0, backoff_cap_s=1.0)),
    )
    assert result.requests["attempts"].tolist() == [1, 3, 3]
    assert result.requests["outcome"].tolist() == ["succeeded", "failed", "failed"]
    waiting = simulate(Scenario(_trace(0.0, 1.0), closed, drain_s=5.0), retry_only())
    assert waiting.requests["attempts"].tolist() == [1, 1]
    assert waiting.requests["outcome"].tolist() == ["succeeded", "unfinished"]


def test_the_frames_of_one_call() -> None:
    """One call by hand: every time is where it belongs."""
    result = simulate(Scenario(_trace(2.0), _roomy()))
    (request,) = result.requests.to_dict("records")
    (attempt,) = result.attempts.to_dict("records")
    assert (request["arrival_s"], request["admitted_s"], request["end_s"]) == (2.0, 2.0, 2.5)
    assert (request["wait_s"], request["latency_s"], request["attempts"]) == (0.0, 0.5, 1)
    assert (request["outcome"], request["input_tokens"], request["output_tokens"]) == ("succeeded", 100, 10)
    assert (attempt["status"], attempt["outcome"], attempt["first_chunk_s"]) == (200, "succeeded", 2.5)
    assert (attempt["rate_per_s"], attempt["concurrency"], attempt["reason"]) == (np.inf, 8.0, "configured")
    assert np.isnan(attempt["retry_after_s"])


# --- ways to end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [RateLimitConfig(), retry_only(), oracle()], ids=["ours", "retry", "oracle"])
def test_a_quota_smaller_than_one_request_is_reported(policy: Any) -> None:
    """A request larger than the quota ends as never admissible at its first attempt; nobody waits for it for ever."""
    small = _roomy(quotas=(Bucket(axis="tokens", limit=500, per_s=60),))
    trace = _trace(*(float(second) for second in range(20)), input_tokens=1000)
    requests = simulate(Scenario(trace, small), policy).requests
    assert set(requests["outcome"]) == {"never_admissible"}
    assert set(requests["attempts"]) == {1}
    assert requests["latency_s"].max() <= 1.0


def test_never_admissible_requests_do_not_hold_up_others() -> None:
    """Between oversized requests the others go on as if nothing were."""
    small = _roomy(quotas=(Bucket(axis="tokens", limit=6000, per_s=60),))
    trace = _trace(*np.arange(60.0).tolist(), input_tokens=np.where(np.arange(60) % 2, 50, 100_000))
    requests = simulate(Scenario(trace, small)).requests
    assert (requests["outcome"][1::2] == "succeeded").all()
    assert (requests["outcome"][::2] == "never_admissible").all()
    assert requests["wait_s"][1::2].max() <= 1.0


def test_a_deadline_refuses_in_the_queue() -> None:
    """Who cannot be admitted in time ends so, at its deadline, unsent."""
    policy = RateLimitConfig(requests_per_minute=6, max_requests_per_minute=6, retry=RetryConfig(deadline_s=15.0))
    result = simulate(Scenario(_trace(*(0.0,) * 6), _roomy(), drain_s=100.0), policy)
    late = result.requests[result.requests["outcome"] == "refused_deadline"]
    assert len(late) >= 3
    assert set(late["attempts"]) == {0}
    assert set(late["end_s"]) == {15.0}
    assert late["admitted_s"].isna().all()


def test_an_exhausted_quota_refuses_at_once() -> None:
    """When the provider's spend cap is reached, the breaker refuses the rest without asking."""
    broke = _roomy(quotas=(Bucket(limit=3, per_s=86_400, rejection="quota"),))
    requests = simulate(Scenario(_trace(*(float(second) for second in range(30))), broke)).requests
    assert (requests["outcome"] == "succeeded").sum() == 3
    assert (requests["outcome"] == "failed").sum() >= 1
    assert (requests["outcome"] == "refused_breaker").sum() >= 20


def test_the_impatient_leave_nothing_behind() -> None:
    """Callers who give up in the queue or in mid-air free their slot for others; what is left is nobody's."""
    slots = _roomy(quotas=(Slots(limit=2),))
    result = simulate(Scenario(backlog(6, 120.0), slots).impatient(0.5, 0.6), RateLimitConfig(initial_concurrency=2))
    outcomes = result.requests["outcome"].value_counts()
    assert outcomes["cancelled"] > 20
    assert outcomes["succeeded"] > 200
    assert outcomes["unfinished"] <= 6
    cancelled = result.attempts[result.attempts["outcome"] == "cancelled"]
    assert (cancelled["status"] == 200).any()


# --- workloads and events --------------------------------------------------------------------------------------------


def test_a_backlog_keeps_its_workers_busy() -> None:
    """Each worker asks again as soon as it has its answer: no more and no fewer are on their way than there are."""
    result = simulate(Scenario(backlog(5, 60.0), _roomy()))
    assert len(result.requests) == 5 * 120 + 5
    assert result.attempts["in_flight"].max() == 5


def test_open_loop_callers_wait_for_nobody() -> None:
    """Arrivals of a trace come when the trace says, whatever became of those before."""
    arrivals = tuple(np.linspace(0.0, 20.0, 41).tolist())
    requests = simulate(Scenario(_trace(*arrivals), _roomy(quotas=(Slots(limit=1),))), fixed_rate(1)).requests
    assert requests["arrival_s"].tolist() == list(arrivals)


def test_events_change_the_quota_when_they_say() -> None:
    """From its moment on an event's quota holds: the oracle gets half of it."""
    scenario = Scenario(backlog(64, 200.0), "bucket").at(100, quota=0.5)
    result = simulate(scenario, oracle())
    admitted = result.attempts.loc[result.attempts["status"] == 200, "admitted_s"]
    assert admitted.between(20, 100).sum() == pytest.approx(800, abs=10)
    assert admitted.between(101, 180).sum() == pytest.approx(395, abs=10)
    assert result.capacity["capacity"].tolist() == [10.0, 5.0]
    assert result.capacity["time_s"].tolist() == [0.0, 100.0]


def test_clients_are_independent_and_equal() -> None:
    """Requests are dealt to the clients in turn, and each client learns for itself."""
    result = simulate(Scenario(backlog(32, 300.0), "bucket"), clients=4)
    assert result.attempts["client"].nunique() == 4
    assert result.limits["client"].nunique() == 4
    assert result.requests.groupby("client").size().min() > 50


def test_time_stands_still_for_nobody() -> None:
    """In a closed loop whose calls take no time a caller pauses between them, or the run would never end."""
    instant = Provider(name="instant", latency=LatencyModel(first_token_s=0.0, per_token_s=0.0))
    requests = simulate(Scenario(backlog(2, 3.5), instant)).requests
    assert requests["arrival_s"].tolist() == [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0]


def test_an_open_breaker_does_not_stop_the_clock() -> None:
    """Callers in a closed loop whom the breaker refuses at once ask again later, until the run is over."""
    capped = provider("bucket").model_copy(update={"quotas": (Bucket(limit=20, per_s=86400),)})
    outcomes = simulate(Scenario(backlog(4, 60.0), capped)).requests["outcome"]
    assert (outcomes == "refused_breaker").sum() > 100


@pytest.mark.parametrize("clients", [0, -1])
def test_some_client_there_must_be(clients: int) -> None:
    """Fewer than one client is an error that names the value."""
    with pytest.raises(ConfigurationError, match=str(clients)):
        simulate(Scenario(backlog(1, 1.0), "bucket"), clients=clients)


def test_presets_need_no_limiter_to_run() -> None:
    """Every policy runs on a preset for a while without leaving requests unaccounted for."""
    for policy in (None, retry_only(), fixed_rate(5), oracle()):
        requests = simulate(Scenario(backlog(8, 30.0), provider("anthropic-start")), policy).requests
        assert requests["request"].tolist() == list(range(len(requests)))


# --- a network before the provider --------------------------------------------------------------------------------


def test_a_network_takes_its_time_both_ways_and_the_provider_judges_in_between() -> None:
    """Answers and rejections come later by both ways; a slot is free once its answer has left, not once it is heard."""
    quick = LatencyModel(first_token_s=1.0, first_token_sigma=0.0, per_token_s=0.0, rejection_s=0.1)
    near = Provider(quotas=(Slots(limit=1),), latency=quick)
    far = near.with_uplink(0.25, sigma=0.0)
    frame = simulate(Scenario(backlog(1, 30.0), far), retry_only(), seed=0).attempts
    answered = frame[frame["outcome"] == "succeeded"]
    assert (answered["end_s"] - answered["sent_s"]).to_numpy() == pytest.approx(1.5)
    assert (answered["first_chunk_s"] - answered["sent_s"]).to_numpy() == pytest.approx(1.5)
    crowded = simulate(Scenario(backlog(2, 30.0), far), retry_only(), seed=0).attempts
    rejected = crowded[crowded["outcome"] == "rate_limited"]
    assert len(rejected)
    assert (rejected["end_s"] - rejected["sent_s"]).to_numpy() == pytest.approx(0.6)


def test_the_oracle_stands_at_the_other_end_of_the_network() -> None:
    """It is as quick as without one, and nobody who is far away gets more than it."""
    near = Scenario(backlog(8, 60.0), Provider(quotas=(Slots(limit=4),)))
    far = Scenario(backlog(8, 60.0), near.provider.with_uplink(0.1))
    best = simulate(far, oracle(), seed=1)
    assert best.summary()["goodput"] == simulate(near, oracle(), seed=1).summary()["goodput"]
    assert simulate(far, retry_only(), seed=1).summary(best)["goodput_ratio"] < 0.97


def test_what_is_on_its_way_when_its_caller_leaves_still_arrives() -> None:
    """A call given up before it arrived is written down as of no status, and has cost a unit of quota all the same."""
    source = Provider(quotas=(Bucket(limit=2, per_s=1000.0, burst_s=1000.0),)).with_uplink(5.0, sigma=0.0)
    leaving = Scenario(synthesize(0.5, 20.0, seed=3), source, drain_s=60.0).impatient(1.0, 0.001)
    frame = simulate(leaving, retry_only(), seed=0).attempts
    assert set(frame["outcome"]) == {"cancelled"}
    assert (frame["status"] == -1).all()
    staying = Scenario(synthesize(0.5, 20.0, seed=3), source, drain_s=60.0).impatient(0.3, 0.001)
    assert (simulate(staying, retry_only(), seed=0).attempts["outcome"] == "succeeded").sum() <= 2


@pytest.mark.parametrize(("uplink_s", "words"), [(-1.0, "with_uplink.uplink_s.*-1"), (float("nan"), "with_uplink")])
def test_a_senseless_network_is_named(uplink_s: float, words: str) -> None:
    """The error names the value and the bound."""
    with pytest.raises(ConfigurationError, match=words):
        provider("bucket").with_uplink(uplink_s)
