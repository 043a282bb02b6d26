"""Traces asked turn by turn, lengths that a trace does not know, and clients that are killed in the middle."""

from __future__ import annotations

import numpy as np
import pytest

from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.config import RateLimitConfig, RetryConfig
from simulators import policies
from simulators.engine.simulate import simulate
from simulators.providers.catalogue import Provider
from simulators.providers.latency import LatencyModel
from simulators.providers.quotas import Bucket
from simulators.scenarios.demand import calls
from simulators.scenarios.scenario import Scenario, backlog
from simulators.streams import Streams, generator
from simulators.traces import Mode, Trace, TraceHeader, synthesize

NAN = float("nan")
STEADY = LatencyModel(first_token_s=2.0, first_token_sigma=0.0, per_token_s=0.0)
BOUNDLESS = Provider(name="boundless", latency=STEADY)


def trace_of(**columns: object) -> Trace:
    """Return a trace of these columns."""
    rows = len(columns["arrival_s"])  # type: ignore[arg-type]
    header = TraceHeader(mode=Mode.SIMULATED, source="test", rows_read=rows, rows_emitted=rows)
    return Trace.of(**columns, header=header, name="talk")  # type: ignore[arg-type]


def talk(rounds: int = 4, sessions: int = 30, seed: int = 3) -> Trace:
    """Return sessions of several rounds; a third of the pauses is unknown."""
    luck = generator(seed, "talk")
    begin = np.sort(luck.random(sessions) * 60.0)
    think = luck.random((sessions, rounds)) * 10.0
    arrival = begin[:, None] + np.cumsum(think + 2.0, axis=1)
    think[luck.random((sessions, rounds)) < 1 / 3] = np.nan
    order = np.argsort(arrival, axis=None, kind="stable")
    return trace_of(
        arrival_s=arrival.ravel()[order],
        input_tokens=np.full(sessions * rounds, 100),
        output_tokens=np.full(sessions * rounds, 10),
        session=np.repeat(np.arange(sessions), rounds)[order],
        round_index=np.tile(np.arange(rounds), sessions)[order],
        think_time_s=think.ravel()[order],
    )


def test_a_round_waits_for_the_answer_and_then_for_the_thought() -> None:
    """The next round comes think time after the answer before; one whose pause is unknown at its own time, or then."""
    trace = trace_of(
        arrival_s=[1.0, 2.0, 3.5, 90.0, 91.0],
        input_tokens=[10] * 5,
        output_tokens=[1] * 5,
        session=[0, 0, 0, 0, -1],
        round_index=[0, 1, 2, 3, 0],
        think_time_s=[NAN, 5.0, NAN, NAN, NAN],
    )
    requests = simulate(Scenario(trace, BOUNDLESS).by_session(), policies.retry_only()).requests
    assert requests["arrival_s"].tolist() == [1.0, 3.0 + 5.0, 10.0, 90.0, 91.0]


def test_sessions_hold_under_load() -> None:
    """Behind a narrow quota pauses are as the trace says; an open loop asks before the answer is there."""
    trace = talk()
    narrow = Provider(name="narrow", latency=STEADY, quotas=(Bucket(limit=1, per_s=1, burst_s=1),))
    config = RateLimitConfig()
    closed = simulate(Scenario(trace, narrow, drain_s=1200).by_session(), config, clients=2).requests
    opened = simulate(Scenario(trace, narrow, drain_s=1200), config, clients=2).requests
    pauses = {}
    for name, frame in (("closed", closed), ("open", opened)):
        order = np.lexsort((trace.round_index, trace.session))
        rows = frame.set_index("request").loc[order]
        gaps = rows["arrival_s"].to_numpy()[1:] - rows["end_s"].to_numpy()[:-1]
        later = trace.round_index[order][1:] > 0
        pauses[name] = (gaps[later], trace.think_time_s[order][1:][later])
    gaps, think = pauses["closed"]
    known = ~np.isnan(think)
    np.testing.assert_allclose(gaps[known], think[known], atol=1e-9)
    assert (gaps[~known] >= 0).all()
    assert (pauses["open"][0] < 0).mean() > 0.5, "the load is too low to tell the modes apart"
    assert closed.groupby(trace.session)["client"].nunique().max() == 1, "a session stays with its client"


def test_sessions_go_on_after_a_failure() -> None:
    """A round that failed is followed all the same: demand is equal for every policy."""
    trace = talk()
    narrow = Provider(name="narrow", latency=STEADY, quotas=(Bucket(limit=1, per_s=2, burst_s=2),))
    hasty = policies.retry_only(RetryConfig(max_attempts=1))
    requests = simulate(Scenario(trace, narrow).by_session(), hasty).requests
    assert len(requests) == len(trace)
    assert (requests["outcome"] == "failed").any()


def test_equal_pauses_equal_worlds() -> None:
    """Without a quota, replay by session equals an independent reckoning, session by session."""
    trace = talk()
    arrival = simulate(Scenario(trace, BOUNDLESS).by_session(), policies.retry_only()).requests["arrival_s"].to_numpy()
    expected = np.empty(len(trace))
    for session in range(30):
        end = -np.inf
        for row in np.flatnonzero(trace.session == session):
            think = trace.think_time_s[row]
            first = trace.round_index[row] == 0
            expected[row] = max(trace.arrival_s[row], end) if first or np.isnan(think) else end + think
            end = expected[row] + 2.0
    np.testing.assert_allclose(arrival, expected, atol=1e-9)


@pytest.mark.parametrize("workload", [backlog(4), synthesize(1.0, 10.0)], ids=["backlog", "no sessions"])
def test_nothing_to_replay_by_session(workload: object) -> None:
    """A workload without sessions says that it must be replayed in an open loop."""
    with pytest.raises(ConfigurationError, match=r"by_session\(\): .* knows no sessions; replay it in an open loop"):
        Scenario(workload, "bucket").by_session()  # type: ignore[arg-type]


def test_unknown_lengths_are_drawn_from_known_ones() -> None:
    """Where a trace does not know a length, it is one of those it knows, cut at the caller's bound; never 0."""
    rows = 400
    unknown = np.arange(rows) % 4 == 0
    trace = trace_of(
        arrival_s=np.arange(rows) * 0.1,
        input_tokens=np.where(np.arange(rows) % 5 == 0, -1, 100 + np.arange(rows) % 3),
        output_tokens=np.where(unknown, -1, 50 + np.arange(rows) % 7),
        max_tokens=np.where(np.arange(rows) % 2 == 0, 52, -1),
    )
    drawn = [call for _, call in calls(Scenario(trace, "bucket"), Streams(1))]
    assert {call.input_tokens for call in drawn} == {100, 101, 102}
    outputs = [call.output_tokens for call, missing in zip(drawn, unknown, strict=True) if missing]
    assert set(outputs) == {50, 51, 52}
    assert all(
        call.output_tokens == 50 + call.index % 7 for call, missing in zip(drawn, unknown, strict=True) if not missing
    )
    assert drawn == [call for _, call in calls(Scenario(trace, "slots"), Streams(1))], "every policy meets the same"
    assert drawn != [call for _, call in calls(Scenario(trace, "bucket"), Streams(2))]


def test_a_trace_that_knows_no_answers_has_none() -> None:
    """Embeddings: no row knows output tokens, so none are drawn."""
    trace = trace_of(arrival_s=[0.0, 1.0], input_tokens=[5, 6])
    assert [call.output_tokens for _, call in calls(Scenario(trace, "bucket"), Streams(0))] == [0, 0]


def test_a_killed_client_forgets_and_takes_its_work_up_again() -> None:
    """After a restart the limiter is new, what was under way is cancelled, and no request is lost."""
    scenario = Scenario(synthesize(8.0, 120.0, seed=5), "bucket", drain_s=120)
    calm = simulate(scenario, RateLimitConfig(), seed=1)
    killed = simulate(scenario.restarting(60.0), RateLimitConfig(), seed=1)
    before = calm.attempts["end_s"] < 60.0
    assert killed.attempts[killed.attempts["end_s"] < 60.0].equals(calm.attempts[before])
    cancelled = killed.attempts[killed.attempts["outcome"] == "cancelled"]
    assert len(cancelled)
    assert (cancelled["end_s"] == 60.0).all()
    assert (killed.requests["outcome"] == "succeeded").all()
    assert len(killed.requests) == len(calm.requests)
    assert not killed.attempts.duplicated(["request", "attempt"]).any()
    assert "60 s: restart" in killed.recovery().index


def test_one_of_several_clients_is_killed() -> None:
    """Only that client's calls are cancelled."""
    scenario = Scenario(backlog(16, 60.0), "bucket").restarting(30.0, client=1, label="deploy")
    attempts = simulate(scenario, RateLimitConfig(), clients=2).attempts
    cancelled = attempts[attempts["outcome"] == "cancelled"]
    assert len(cancelled)
    assert set(cancelled["client"]) == {1}


def test_the_impatient_still_give_up_after_a_restart() -> None:
    """Patience counts from arrival, whatever became of the process."""
    scenario = Scenario(backlog(60, 60.0), "bucket").impatient(1.0, 20.0).restarting(5.0)
    requests = simulate(scenario, RateLimitConfig()).requests
    early = requests[requests["arrival_s"] < 5.0]
    assert ((early["outcome"] == "cancelled") & (early["end_s"] > 5.0)).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"time_s": -1.0}, "time_s = -1.0 must be a finite"), ({"time_s": 1.0, "client": -1}, "client = -1 must be")],
)
def test_a_senseless_restart(arguments: dict[str, float], message: str) -> None:
    """An error names the value and its bound."""
    with pytest.raises(ConfigurationError, match=message):
        Scenario(backlog(1), "bucket").restarting(**arguments)  # type: ignore[arg-type]
