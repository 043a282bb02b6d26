"""Faults: episodes in time, fair shares, the same incidents under every policy, and shapes of real ones."""

from __future__ import annotations

import pytest

from factflow_llm.signals import Axis
from simulators.providers.calls import Call, Settlement
from simulators.providers.catalogue import Provider
from simulators.providers.faults import Blind, Broken, Dripping, Fault, Misleading, Refused, Stalled, incident
from simulators.providers.latency import LatencyModel
from simulators.providers.machine import ProviderMachine, Verdict
from simulators.providers.quotas import Bucket
from simulators.streams import Streams

QUICK = LatencyModel(first_token_s=1, first_token_sigma=0, per_token_s=0.1, per_token_sigma=0)


def world(*faults: Fault, seed: int = 7, **more: object) -> ProviderMachine:
    """Make a quick provider with these faults."""
    return ProviderMachine(Provider(latency=QUICK, faults=faults, **more), Streams(seed))


def share_refused(machine: ProviderMachine, start_s: float, end_s: float, calls: int = 2000) -> float:
    """Return the share of evenly spaced calls that do not succeed."""
    step_s = (end_s - start_s) / calls
    return sum(machine.send(start_s + step_s * n, Call(n, 1)).status != 200 for n in range(calls)) / calls


def test_a_storm_hits_its_share_and_fades() -> None:
    """Within the episode the share holds; during recovery half of it on average; after it nothing."""
    storm = Refused(status=503, share=0.4, start_s=100, duration_s=100, recovery_s=100)
    assert share_refused(world(storm), 0, 100) == 0
    assert share_refused(world(storm), 100, 200) == pytest.approx(0.4, abs=0.03)
    assert share_refused(world(storm), 200, 300) == pytest.approx(0.2, abs=0.03)
    assert share_refused(world(storm), 300, 400) == 0


def test_storms_come_back_after_calms() -> None:
    """With ``every_s`` episodes recur; the time they fill is their share of the whole cycle."""
    storm = Refused(duration_s=60, every_s=240)
    assert share_refused(world(storm), 0, 300_000, 20_000) == pytest.approx(60 / 300, abs=0.03)


def test_episodes_do_not_depend_on_who_asks() -> None:
    """A client that calls rarely meets the same storms as one that calls often."""
    storm = Refused(duration_s=60, every_s=240)
    often, rarely = world(storm), world(storm)
    busy = [often.send(float(now), Call(now, 1)).status for now in range(5000)]
    assert [rarely.send(float(now), Call(now, 1)).status for now in range(0, 5000, 50)] == busy[::50]


def test_a_retry_gets_a_fresh_chance() -> None:
    """A call hit once is not hit for ever, and its second fate is the same in every world of that seed."""
    storm = Refused(status=500, share=0.5)
    fates = [[one.send(0.0, Call(3, 1)).status for _ in range(6)] for one in (world(storm), world(storm))]
    assert fates[0] == fates[1]
    assert 200 in fates[0]


@pytest.mark.parametrize(
    ("status", "error"),
    [(429, "rate_limit"), (503, "overloaded"), (529, "overloaded"), (500, "server"), (530, "server")],
)
def test_refusals_carry_the_word_of_their_status(status: int, error: str) -> None:
    """Statuses map to the reason words of the classifier."""
    verdict = world(Refused(status=status, retry_after_s=3)).send(0.0, Call(0, 1))
    assert verdict[:4] == (status, error, None, 3)


def test_stalls_and_drips_delay() -> None:
    """A stall moves the whole answer; a drip stretches only its writing."""
    call = Call(0, 1, 11)
    assert times(world(Stalled(stall_s=30)).send(0.0, call)) == pytest.approx((31, 32))
    assert times(world(Dripping(factor=5)).send(0.0, call)) == pytest.approx((1, 6))


@pytest.mark.parametrize(("how", "error"), [("error", "overloaded"), ("cut", "connection")])
def test_broken_streams_begin_well_and_end_early(how: str, error: str) -> None:
    """A broken answer has status 200, an error, a first chunk as planned and an end before the planned one."""
    verdict = world(Broken(how=how)).send(0.0, Call(0, 1, 101))
    assert (verdict.status, verdict.error) == (200, error)
    assert verdict.first_chunk_s == pytest.approx(1)
    assert verdict.first_chunk_s < verdict.duration_s < 11


def test_a_broken_stream_pays_for_what_it_wrote() -> None:
    """Settlement counts the tokens written before the break."""
    quota = Bucket(axis=Axis.OUTPUT_TOKENS, limit=1000, per_s=86_400, settlement=Settlement.AT_END)
    machine = world(Broken(), quotas=(quota,))
    verdict = machine.send(0.0, Call(0, 1, 101, 1000))
    machine.finish(verdict.duration_s, verdict.handle)
    written = (verdict.duration_s - 1) / 0.1
    refused = machine.rejection(verdict.duration_s, Call(1, 1, 1, 1000), Axis.OUTPUT_TOKENS)
    assert refused is not None
    assert refused.used == pytest.approx(written, abs=1.5)


def test_headers_go_missing() -> None:
    """A blind spell leaves answers without limits."""
    machine = world(Blind(start_s=10), quotas=(Bucket(limit=60),), shows_limits=True)
    assert machine.send(0.0, Call(0, 1)).limits
    assert machine.send(11.0, Call(1, 1)).limits == ()


def test_headers_go_stale() -> None:
    """Stale headers repeat what was true a while ago."""
    machine = world(Blind(stale_s=30), quotas=(Bucket(limit=60, per_s=3600),), shows_limits=True)
    remaining = [machine.send(float(now), Call(now, 1)).limits[0].remaining for now in range(40)]
    assert len(set(remaining[:30])) == 1
    assert remaining[30] != remaining[0]


def test_incidents_have_their_documented_shapes() -> None:
    """The outage of December 2024 is total for four minutes; that of June 2025 fails a quarter at its peak."""
    assert share_refused(world(*incident("openai-2024-12-04", 60)), 60, 300) == 1
    assert share_refused(world(*incident("openai-2025-06-10")), 0, 3600) == pytest.approx(0.25, abs=0.03)
    assert world(*incident("openai-2026-06-02")).send(0.0, Call(3, 1)).status in (200, 429)
    assert share_refused(world(*incident("anthropic-529-storm")), 0, 1800) > 0.9


def test_an_unknown_incident_lists_the_known() -> None:
    """The error helps to choose."""
    with pytest.raises(ValueError, match="openai-2024-12-04"):
        incident("titanic")


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Refused(recovery_s=10), "needs duration_s"),
        (lambda: Refused(every_s=10), "needs duration_s"),
        (lambda: Refused(share=0), "greater than 0"),
        (lambda: Refused(status=404), "429"),
        (lambda: Dripping(factor=1), "greater than 1"),
    ],
)
def test_contradictory_faults_are_refused(build: object, words: str) -> None:
    """Faults that cannot be meant are named when written."""
    assert callable(build)
    with pytest.raises(ValueError, match=words):
        build()


def times(verdict: Verdict) -> tuple[float, float]:
    """Return first chunk and end."""
    return verdict.first_chunk_s, verdict.duration_s


def test_a_wait_may_be_told_wrong_once() -> None:
    """Of the calls over quota the first after the fault's start hears the lie, all others the truth."""
    lie = Misleading(retry_after_s=3600.0, times=1, start_s=3.0)
    source = Provider(quotas=(Bucket(limit=1, per_s=10.0),), faults=(lie,))
    machine = ProviderMachine(source, Streams(0))
    told = [machine.send(float(now), Call(now, 1)).retry_after_s for now in range(6)]
    assert told == pytest.approx([None, 9, 8, 3600, 6, 5])


def test_calls_within_quota_are_not_misled() -> None:
    """A lie about waits touches nobody who need not wait."""
    machine = ProviderMachine(Provider(faults=(Misleading(retry_after_s=60.0),)), Streams(0))
    assert machine.send(0.0, Call(0, 1)).status == 200
