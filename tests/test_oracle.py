"""The yardstick, honest: exact for one quota, a bound in several dimensions; brute force says so on small cases."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from factflow_llm.signals import Axis
from simulators import policies
from simulators.engine.simulate import simulate
from simulators.providers.calls import Call, Estimate
from simulators.providers.catalogue import Provider
from simulators.providers.latency import LatencyModel
from simulators.providers.machine import ProviderMachine
from simulators.providers.quotas import Bucket, FixedWindow, Quota, SlidingWindow, Slots
from simulators.scenarios.scenario import Scenario
from simulators.streams import Streams, generator
from simulators.traces import Mode, Trace, TraceHeader

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

GRID_S = [0.5 * step for step in range(13)]
AT_ONCE = LatencyModel(first_token_s=1.0, first_token_sigma=0.0, per_token_s=0.0)
TOKENS: dict[str, Any] = {"axis": Axis.TOKENS, "estimate": Estimate.INPUT, "per_s": 1.0}

ONE: dict[str, Quota] = {
    "bucket": Bucket(limit=1, per_s=1, burst_s=2),
    "fixed window": FixedWindow(limit=2, per_s=2, phase_s=0.5),
    "sliding window": SlidingWindow(limit=2, per_s=2),
    "slots": Slots(limit=2, retry_after_s=0.5),
}
TOKEN_BUCKET = Bucket(limit=2, burst_s=4, **TOKENS)
SEVERAL: dict[str, tuple[Quota, ...]] = {
    "two buckets": (Bucket(limit=1, per_s=1, burst_s=3), TOKEN_BUCKET),
    "bucket and window": (TOKEN_BUCKET, FixedWindow(limit=3, per_s=2)),
    "window and slots": (SlidingWindow(limit=8, **TOKENS | {"per_s": 4.0}), Slots(limit=2)),
}


def world(meters: Iterable[Quota], seed: int, sizes: Sequence[int], calls: int = 4) -> tuple[Provider, Trace]:
    """Return a provider without luck and a few calls whose times lie on the grid of brute force."""
    luck = generator(seed, "oracle")
    arrivals = np.sort(luck.integers(0, 4, calls)) * GRID_S[1]
    tokens = luck.choice(sizes, calls)
    header = TraceHeader(mode=Mode.SIMULATED, source="test", rows_read=calls, rows_emitted=calls)
    trace = Trace.of(arrivals, tokens, np.zeros(calls), header=header, name="few")
    return Provider(quotas=tuple(meters), latency=AT_ONCE), trace


def oracle_sends(provider: Provider, trace: Trace) -> list[float]:
    """Return when the oracle sent each call."""
    requests = simulate(Scenario(trace, provider, drain_s=60.0), policies.oracle()).requests
    assert (requests["attempts"] == 1).all(), "the oracle was refused"
    return [float(sent) for sent in requests["admitted_s"]]


def admitted(provider: Provider, trace: Trace, order: Sequence[int], sends: Sequence[float]) -> bool:
    """Return whether the provider admits all calls when they are sent in this order at these times."""
    machine = ProviderMachine(provider, Streams(0))
    running: list[tuple[float, object]] = []
    for call, now in zip(order, sends, strict=True):
        for end_s, handle in [each for each in running if each[0] <= now]:
            machine.finish(end_s, handle)
        running = [each for each in running if each[0] > now]
        verdict = machine.send(now, Call(call, int(trace.input_tokens[call])))
        if verdict.error is not None:
            return False
        running.append((now + verdict.duration_s, verdict.handle))
    return True


def feasible(
    provider: Provider, trace: Trace, order: Sequence[int], grid_s: Sequence[float] = GRID_S
) -> list[tuple[float, ...]]:
    """Return all ways to send the calls in this order, on the grid and not before they arrive, without a refusal."""
    ways: list[tuple[float, ...]] = [()]
    for length in range(1, len(order) + 1):
        earliest = trace.arrival_s[order[length - 1]]
        ways = [
            (*way, now)
            for way in ways
            for now in grid_s
            if now >= earliest
            and (not way or now >= way[-1])
            and admitted(provider, trace, order[:length], (*way, now))
        ]
    return ways


@pytest.mark.parametrize("kind", ONE)
def test_one_quota_calls_alike(kind: str) -> None:
    """With one quota and calls alike, no schedule has admitted its k-th call before the oracle has, for any k."""
    for seed in range(2):
        provider, trace = world([ONE[kind]], seed, sizes=[1])
        sends = np.sort(oracle_sends(provider, trace))
        ways = feasible(provider, trace, range(4))
        assert len(ways) > 10, "nothing to choose from"
        assert (np.array(ways) >= sends - 1e-9).all()
        assert np.array(ways).min(axis=0) == pytest.approx(sends), "some schedule on the grid is as good"


@pytest.mark.parametrize("kind", SEVERAL)
def test_several_dimensions_in_order(kind: str) -> None:
    """In several dimensions, no schedule that keeps the order of arrival admits any call before the oracle does."""
    for seed in range(2):
        provider, trace = world(SEVERAL[kind], seed, sizes=[1, 2, 4])
        sends = oracle_sends(provider, trace)
        ways = feasible(provider, trace, range(4))
        assert ways
        assert (np.array(ways) >= np.array(sends) - 1e-9).all()


def most_admitted(provider: Provider, trace: Trace, until_s: float) -> int:
    """Return how many calls any client could have had admitted by ``until_s``, in whatever order."""
    grid_s = np.arange(0.0, until_s + 0.5).tolist()
    for size in range(len(trace), 0, -1):
        orders = itertools.permutations(range(len(trace)), size)
        if any(feasible(provider, trace, order, grid_s) for order in orders):
            return size
    return 0


def fluid_bound(meters: Iterable[Bucket], trace: Trace, until_s: float) -> int:
    """Return what nobody can exceed: as many of the smallest calls as everything a bucket ever held would pay for."""
    bounds = []
    for meter in meters:
        costs = np.sort(trace.input_tokens if meter.axis is Axis.TOKENS else np.ones(len(trace)))
        held = meter.units_per_s * ((meter.burst_s or meter.per_s) + until_s)
        bounds.append(int(np.searchsorted(np.cumsum(costs), held + 1e-9, side="right")))
    return min(bounds)


def test_calls_of_several_sizes_can_be_reordered_to_beat_the_oracle() -> None:
    """The oracle keeps the order; small calls first can do better, and never better than the fluid bound."""
    meters = (Bucket(limit=4, per_s=1, burst_s=4), TOKEN_BUCKET)
    gains = []
    for seed in range(4):
        provider, trace = world(meters, seed, sizes=[1, 2, 8])
        sends = oracle_sends(provider, trace)
        for until_s in (2.0, 4.0):
            mine = sum(sent <= until_s for sent in sends)
            best = most_admitted(provider, trace, until_s)
            assert mine <= best <= fluid_bound(meters, trace, until_s)
            gains.append(best - mine)
    assert max(gains) > 0, "no case in which order matters: the bound would be exact, and the documents wrong"
    assert min(gains) == 0


def test_calls_alike_cannot_be_reordered_to_any_use() -> None:
    """With calls of one size the oracle is exact in several dimensions, too."""
    for seed in range(3):
        provider, trace = world(SEVERAL["two buckets"], seed, sizes=[2])
        sends = oracle_sends(provider, trace)
        for until_s in (1.0, 3.0):
            assert sum(sent <= until_s for sent in sends) == most_admitted(provider, trace, until_s)
