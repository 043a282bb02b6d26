"""Policies: yardsticks do what their names say, and anybody's limiter of the same shape can be simulated."""

from __future__ import annotations

import math
from typing import Any

import pytest

from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.config import RateLimitConfig, RetryConfig
from factflow_llm.ratelimit.core import LimiterCore
from factflow_llm.ratelimit.line import Line, Ticket
from factflow_llm.signals import Change, Outcome, RateLimitSignal, Reason
from simulators.engine.simulate import simulate
from simulators.policies.all_knowing import oracle
from simulators.policies.base import Controller, Policy
from simulators.policies.ours import Adaptive, as_policy
from simulators.policies.yardsticks import classic_aimd, fixed_rate, retry_only
from simulators.providers.catalogue import Provider, provider, provider_names
from simulators.providers.latency import LatencyModel
from simulators.providers.machine import ProviderMachine
from simulators.providers.quotas import Slots
from simulators.scenarios.scenario import Scenario, backlog
from simulators.streams import Streams

BUSY = Scenario(backlog(64, 120.0), "bucket")


def test_settings_are_a_policy() -> None:
    """Settings stand for the production core itself; none for the defaults; a policy for itself."""
    machine = ProviderMachine(provider("bucket"), Streams(0))
    config = RateLimitConfig(decrease=0.5, retry=RetryConfig(max_attempts=3))
    policy = as_policy(config)
    controller = policy.controller(machine)
    assert type(controller) is LimiterCore
    assert controller.config == config
    assert policy.retry == config.retry
    assert as_policy(None) == Adaptive(RateLimitConfig())
    assert as_policy(yardstick := oracle()) is yardstick


@pytest.mark.parametrize("nonsense", ["ours", 8, object(), {"decrease": 0.5}])
def test_something_else_is_no_policy(nonsense: Any) -> None:
    """The error shows what was given and says what would do."""
    with pytest.raises(ConfigurationError, match="is no policy: give a RateLimitConfig"):
        as_policy(nonsense)


@pytest.mark.parametrize("policy", [oracle(), retry_only(), fixed_rate(8), classic_aimd(), Adaptive(RateLimitConfig())])
def test_policies_are_values(policy: Policy) -> None:
    """Each satisfies the protocol, has a name of its own, and compares by value."""
    assert isinstance(policy, Policy)
    assert policy.name
    assert policy == type(policy)(**{name: getattr(policy, name) for name in policy.__dataclass_fields__})  # type: ignore[attr-defined]


def test_the_oracle_is_never_refused() -> None:
    """Who knows the provider's state sends each call at the first moment it is admitted."""
    for preset in ("bucket", "fixed-window"):
        result = simulate(Scenario(backlog(64, 120.0), preset), oracle())
        assert (result.attempts["status"] == 200).all()


@pytest.mark.parametrize("preset", provider_names())
def test_nobody_beats_the_oracle(preset: str) -> None:
    """On every preset the oracle gets at least as much as the others."""
    scenario = Scenario(backlog(48, 120.0), preset)
    best = simulate(scenario, oracle()).requests["outcome"].eq("succeeded").sum()
    for policy in (None, fixed_rate(20), classic_aimd()):
        got = simulate(scenario, policy).requests["outcome"].eq("succeeded").sum()
        assert got <= best * 1.02


def test_the_oracle_waits_for_slots() -> None:
    """Where calls in flight are limited, the oracle fills the slots and no more, and sends as soon as one is free."""
    slots = Provider(
        name="slots", latency=LatencyModel(first_token_s=1.0, first_token_sigma=0.0), quotas=(Slots(limit=4),)
    )
    result = simulate(Scenario(backlog(20, 100.0, output_tokens=1), slots), oracle())
    served = result.requests["outcome"].eq("succeeded").sum()
    assert served == pytest.approx(400, abs=5)
    assert (result.attempts["status"] == 200).all()


def test_retry_only_sends_at_once() -> None:
    """Without a limiter nobody waits before the first attempt."""
    first = simulate(BUSY, retry_only()).attempts.query("attempt == 0")
    assert (first["admitted_s"] == first["submitted_s"]).all()


def test_a_fixed_rate_is_evenly_paced() -> None:
    """Eight a second are an eighth apart, whatever the provider says."""
    admitted = simulate(BUSY, fixed_rate(8)).attempts["admitted_s"].sort_values()
    assert admitted.diff().dropna().min() == pytest.approx(0.125)
    assert len(admitted) == pytest.approx(8 * 118, abs=20)


def test_classic_aimd_saws() -> None:
    """The textbook grows with every success and halves at every rejection, one after the other."""
    limits = simulate(BUSY, classic_aimd()).limits
    up, down = limits[limits["reason"] == "probe"], limits[limits["reason"] == "rate_limited"]
    assert (up["new"] - up["old"]).to_numpy() == pytest.approx(0.1)
    assert (down["new"] / down["old"]).to_numpy() == pytest.approx(0.5)
    assert len(down) > 3


@pytest.mark.parametrize("rate", [0, -1, math.nan, math.inf])
def test_a_fixed_rate_of_nonsense(rate: float) -> None:
    """The error names the value."""
    with pytest.raises(ConfigurationError, match=f"requests_per_s = {rate!r}"):
        fixed_rate(rate)


@pytest.mark.parametrize(
    "values",
    [{"start": 0}, {"start": math.nan}, {"increase": -1}, {"increase": math.inf}, {"decrease": 0}, {"decrease": 1.5}],
)
def test_classic_aimd_of_nonsense(values: dict[str, float]) -> None:
    """The error names key and value before anything is divided by it."""
    ((name, value),) = values.items()
    with pytest.raises(ConfigurationError, match=f"{name} = {value!r}"):
        classic_aimd(**values)


# --- anybody's -------------------------------------------------------------------------------------------------------


class _OneAtATime(Line):
    """Somebody else's limiter: one call in flight."""

    last_reason = Reason.CONFIGURED
    rate = math.inf
    concurrency = 1.0

    def turn_s(self, now: float, ticket: Ticket) -> float:
        return now if self.in_flight == 0 else math.inf

    def settle(self, now: float, ticket: Ticket, signal: RateLimitSignal) -> tuple[Change, ...]:
        assert signal.outcome is Outcome.SUCCEEDED
        self.release(now, ticket)
        return ()


class _Theirs:
    name = "theirs"
    retry = RetryConfig()

    def controller(self, machine: ProviderMachine) -> Controller:
        return _OneAtATime()


def test_anybodys_limiter_can_be_simulated() -> None:
    """An object with a name, retry settings and a controller runs like our own."""
    result = simulate(BUSY, _Theirs())
    assert result.attempts["in_flight"].max() == 1
    assert result.summary().name == "theirs"
