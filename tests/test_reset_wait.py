"""A refusal without Retry-After beside limit headers: clients wait for the reset, in simulation as in production."""

from __future__ import annotations

import pytest

from factflow_llm.ratelimit.config import RateLimitConfig
from simulators.providers.catalogue import Provider, RetryAfter
from simulators.providers.faults import Refused
from simulators.providers.latency import LatencyModel
from simulators.providers.quotas import FixedWindow, Quota, SlidingWindow
from simulators.scenarios.scenario import Scenario
from simulators.traces import synthesize
from tests.test_conformance import produced, simulated


@pytest.mark.parametrize("window", [FixedWindow(limit=60), SlidingWindow(limit=60)], ids=["fixed", "sliding"])
def test_shell_and_engine_read_the_same_wait_from_headers(window: Quota) -> None:
    """Where headers tell that a limit is used up and when it resets, both drivers wait alike, to the microsecond."""
    silent = Provider(
        quotas=(window,),
        shows_limits=True,
        retry_after=RetryAfter(habit="absent"),
        latency=LatencyModel(first_token_s=0.5, per_token_s=0.0),
        faults=(Refused(status=429, share=0.05),),
    )
    config = RateLimitConfig()
    for seed in range(3):
        scenario = Scenario(synthesize(2.0, 120.0, cv=2.0, seed=seed), silent)
        expected = simulated(scenario, config, seed, 1)
        assert sum(row[4] == "rate_limited" for row in expected) > 2, "hardly refused, hardly tested"
        assert produced(scenario, config, seed, 1) == expected, f"seed {seed}"
