"""Other people's limiters: they run unmodified, each as its own documents say, and leave no trace on real clocks."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

import pytest

from factflow_llm.ratelimit.line import Ticket
from factflow_llm.signals import Outcome, RateLimitSignal
from simulators.engine.simulate import simulate
from simulators.policies import peers, published
from simulators.policies.all_knowing import oracle
from simulators.policies.peers.driving import finish
from simulators.policies.yardsticks import retry_only
from simulators.providers.catalogue import provider
from simulators.providers.machine import ProviderMachine
from simulators.scenarios.scenario import Scenario, backlog
from simulators.streams import Streams

if TYPE_CHECKING:
    from simulators.policies.base import Controller

WORLD = Scenario(backlog(32, 300.0), "bucket", name="bucket")
ABSENT = peers.absent_peers()
pytestmark = pytest.mark.peers
REJECTED = RateLimitSignal(Outcome.RATE_LIMITED)
SERVED = RateLimitSignal(Outcome.SUCCEEDED)


def needs(name: str) -> pytest.MarkDecorator:
    """Skip where the peer is not installed, saying why."""
    return pytest.mark.skipif(name in ABSENT, reason=f"{name}: {ABSENT.get(name)}")


EVERYBODY = [
    *(pytest.param(peer, id=peer.name, marks=needs(peer.name)) for peer in peers.PEERS),
    *(
        pytest.param(make(), id=make().name)
        for make in (published.netflix_aimd, published.vector_arc, published.polars)
    ),
]


def controller(name: str) -> Controller:
    """Make one client's limiter, on a bucket of 10 requests per second."""
    (peer,) = (peer for peer in peers.PEERS if peer.name == name)
    return peer.controller(ProviderMachine(provider("bucket"), Streams(0)))


def send(limiter: Controller, now: float, signal: RateLimitSignal, took_s: float = 1.0) -> None:
    """Let one call go and end."""
    ticket = Ticket()
    assert limiter.submit(now, ticket)
    limiter.settle(now + took_s, ticket, signal)


@pytest.mark.parametrize("policy", EVERYBODY)
def test_runs_and_repeats_itself(policy: peers.Peer) -> None:
    """Every limiter gets answers in a plain world, and equal seeds give equal runs."""
    first, second = (simulate(WORLD, policy, seed=3).attempts for _ in range(2))
    assert (first["outcome"] == "succeeded").sum() > 300
    assert first.equals(second)


@pytest.mark.parametrize("policy", EVERYBODY)
def test_waits_in_virtual_time_only(policy: peers.Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever would sleep on the real clock fails; and the real clock is back in its place afterwards."""

    def refuse(*_: object) -> None:
        raise AssertionError("slept on the real clock")

    monkeypatch.setattr(time, "sleep", refuse)
    monkeypatch.setattr(asyncio, "sleep", refuse)
    simulate(WORLD, policy)
    names = (name for peer in peers.PEERS if peer.name not in ABSENT for name in (peer.module,))
    for name in names:
        module = __import__("sys").modules[name]
        assert getattr(module, "time", time) is time
    assert callable(random.random)


# Measured by others with the same constants: facts of 2026-11-22, two seeds of 1800 s on a bucket with quota steps.
@pytest.mark.parametrize(
    ("name", "goodput", "rejected"),
    [
        pytest.param("aimd-limiter", 0.996, 0.105, marks=needs("aimd-limiter")),
        pytest.param("botocore adaptive", 0.897, 0.032, marks=needs("botocore adaptive")),
        pytest.param("inspect_ai", 0.934, 0.059, marks=needs("inspect_ai")),
        pytest.param("DataDesigner", 0.902, 0.013, marks=needs("DataDesigner")),
        pytest.param("Phoenix", 0.753, 0.0018, marks=needs("Phoenix")),
    ],
)
def test_repeats_independent_measurements(name: str, goodput: float, rejected: float) -> None:
    """Driven at virtual times, a limiter does what it did on a patched event loop in an independent side-by-side."""
    scenario = Scenario(backlog(64, 1800.0), "bucket").at(600, quota=0.5).at(1200, quota=2.0)
    figures = simulate(scenario, peers.peers()[name], seed=1).summary(simulate(scenario, oracle(), seed=1))
    assert figures.goodput_ratio == pytest.approx(goodput, abs=0.02)
    assert figures.rejected_share == pytest.approx(rejected, rel=0.25)


@needs("inspect_ai")
def test_inspect_ai_cuts_once_per_cool_down_and_learns_nothing_from_retried_calls() -> None:
    """Two rejections within 15 s are one cut by a fifth, a third after it is another."""
    limiter = controller("inspect_ai")
    assert limiter.concurrency == 20
    for now in (0.0, 1.0):
        send(limiter, now, REJECTED)
        assert limiter.concurrency == 15
    send(limiter, 20.0, REJECTED)
    assert limiter.concurrency == 10
    retried = Ticket()
    for start, signal in ((40.0, REJECTED), (60.0, SERVED)):
        assert limiter.submit(start, retried)
        limiter.settle(start + 1.0, retried, signal)
    assert limiter.concurrency == 10


@needs("DataDesigner")
def test_data_designer_holds_everybody_until_retry_after() -> None:
    """After a rejection nobody goes before the time it named, and three quarters of the limit are left."""
    limiter = controller("DataDesigner")
    send(limiter, 0.0, RateLimitSignal(Outcome.RATE_LIMITED, 7.0))
    assert limiter.concurrency == 48
    waiting = Ticket()
    assert not limiter.submit(2.0, waiting)
    assert limiter.wake_at == pytest.approx(8.0)
    assert list(limiter.advance(8.0)) == [waiting]


@needs("botocore adaptive")
def test_botocore_is_off_until_the_first_throttle() -> None:
    """Hundreds of calls go at once; after one throttle they are paced."""
    limiter = controller("botocore adaptive")
    for _ in range(300):
        send(limiter, 0.0, SERVED, took_s=0.0)
    send(limiter, 1.0, REJECTED)
    sent = [limiter.submit(3.0, Ticket()) for _ in range(300)]
    assert 0 < sum(sent) < 300


@needs("aimd-limiter")
def test_aimd_limiter_halves_on_any_failure() -> None:
    """An overloaded provider counts like a rejection, as its context manager takes any exception."""
    limiter = controller("aimd-limiter")
    for second in range(20):
        send(limiter, float(second), SERVED, took_s=0.5)
    before = limiter.rate
    send(limiter, 30.0, RateLimitSignal(Outcome.OVERLOADED))
    assert limiter.rate == before / 2


@pytest.mark.parametrize(
    ("name", "rate"), [("aiolimiter, right", 10), ("aiolimiter, 2 x", 20), ("LangChain, right", 10)]
)
def test_fixed_limiters_are_told_the_nominal_rate(name: str, rate: float) -> None:
    """A fixed limiter gets the provider's nominal rate or a wrong one, and keeps to it on a provider without quota."""
    if name in ABSENT:
        pytest.skip(f"{name}: {ABSENT[name]}")
    free = provider("bucket").model_copy(update={"quotas": ()})
    (peer,) = (peer for peer in peers.PEERS if peer.name == name)
    limiter = peer.controller(ProviderMachine(provider("bucket"), Streams(0)))
    assert limiter.rate == rate

    class Told(peers.Peer):
        def controller(self, machine: ProviderMachine) -> Controller:
            return peer.controller(ProviderMachine(provider("bucket"), Streams(0)))

    frame = simulate(Scenario(backlog(128, 100.0), free), Told(name, peer.package, peer.module, peer.make)).attempts
    assert len(frame) == pytest.approx(100.0 * rate, rel=0.12)


def test_openai_sdk_obeys_retry_after_and_gives_up_after_three_attempts() -> None:
    """The SDK's own wait is the Retry-After up to two minutes, else a doubling 0.5 s; the third failure is final."""
    (peer,) = (peer for peer in peers.PEERS if peer.name == "OpenAI SDK retries")
    assert isinstance(peer, peers.RetryPeer)

    def wait_s(attempt: int, retry_after_s: float | None) -> float | None:
        return peer.retry_delay_s(
            peer.retry, attempt=attempt, jitter=0.0, retry_after_s=retry_after_s, remaining_s=None
        )

    assert [wait_s(0, 7.0), wait_s(0, None), wait_s(1, None), wait_s(2, 7.0)] == [7.0, 0.5, 1.0, None]
    frame = simulate(WORLD, peer).requests
    assert frame["attempts"].max() == 3
    assert (frame["outcome"] == "failed").any()


@needs("tenacity")
def test_tenacity_does_not_know_retry_after() -> None:
    """The wait is drawn from 1 s to a doubling bound, whatever the provider says."""
    (peer,) = (peer for peer in peers.PEERS if peer.name == "tenacity")
    assert isinstance(peer, peers.RetryPeer)
    assert [peer.delay_s(attempt, 1.0, 50.0) for attempt in range(7)] == [1, 2, 4, 8, 16, 32, 60]
    assert peer.delay_s(5, 0.0, 50.0) == 1.0


def test_netflix_stays_within_its_bounds() -> None:
    """The limit lies between 20 and 200 and grows only while it is used."""
    frame = simulate(WORLD, published.netflix_aimd()).attempts
    assert frame["concurrency"].between(20, 200).all()
    few = simulate(Scenario(backlog(4, 60.0), "bucket"), published.netflix_aimd()).attempts
    assert (few["concurrency"] == 20).all()


def test_vector_moves_at_most_once_per_round_trip() -> None:
    """From one call in flight the limit grows one by one, no faster than answers come."""
    changes = simulate(Scenario(backlog(64, 30.0), "bucket"), published.vector_arc()).limits
    assert changes["new"].iloc[0] == 2
    assert (changes["time_s"].diff().dropna() > 0.5).all()


def test_polars_falls_to_a_share_of_its_goodput() -> None:
    """The first refusal ends the search, and no rate afterwards is as high for half a minute."""
    changes = simulate(Scenario(backlog(64, 40.0), "bucket"), published.polars()).limits
    assert changes["new"].iloc[0] < changes["old"].iloc[0]
    assert changes["new"].max() < 64.0


def test_a_coroutine_that_waits_is_an_error() -> None:
    """A limiter that would wait though it was asked in time is not quietly taken for one that did not."""
    with pytest.raises(RuntimeError, match="waited"):
        finish(asyncio.sleep(0))


def test_absent_packages_are_named_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that is not installed is left out, and the reason says what to install."""
    lost = peers.Peer("lost", "lost", "no_such_package_anywhere", lambda _: retry_only().controller(_))
    monkeypatch.setattr(peers, "PEERS", (lost,))
    assert peers.peers() == {}
    assert "factflow-llm[peers]" in peers.absent_peers()["lost"]
