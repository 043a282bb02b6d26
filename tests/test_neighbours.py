"""Other people's traffic: it takes quota, it backs off or does not, and both drivers meet the same of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.config import RateLimitConfig
from simulators.engine.simulate import simulate
from simulators.policies.yardsticks import fixed_rate
from simulators.providers.catalogue import RetryAfter, provider
from simulators.providers.machine import ProviderMachine, Verdict
from simulators.scenarios.neighbours import Neighbour, Traffic
from simulators.scenarios.scenario import Scenario, backlog
from simulators.streams import Streams
from tests.test_conformance import produced, simulated

if TYPE_CHECKING:
    from simulators.providers.calls import Call

NOISY = Neighbour(requests_per_s=4.0, start_s=10.0, end_s=50.0)
POLITE = NOISY.model_copy(update={"backs_off": True})


class Counting(ProviderMachine):
    """A provider that keeps the times of what it was sent and whether it refused."""

    def __init__(self, seed: int = 0) -> None:
        silent = provider("bucket").model_copy(update={"retry_after": RetryAfter(habit="absent")})
        super().__init__(silent, Streams(seed))
        self.sent: list[tuple[float, bool]] = []

    def send(self, now: float, call: Call) -> Verdict:
        """Decide, and write it down."""
        verdict = super().send(now, call)
        self.sent.append((now, verdict.error is not None))
        return verdict


def alone(neighbour: Neighbour, until_s: float = 200.0) -> list[tuple[float, bool]]:
    """Run a neighbour alone on a bucket of 10 requests per second; return what the provider saw."""
    machine = Counting()
    due: list[tuple[float, int, object]] = []
    Traffic(neighbour, 0, Streams(0), machine, lambda at, what: due.append((at, len(due), what)))
    while due:
        first = min(due)
        due.remove(first)
        if first[0] <= until_s:
            first[2](first[0])  # type: ignore[operator]
    return machine.sent


def test_both_drivers_meet_the_same_neighbours() -> None:
    """The event loop and the heap make the same attempts beside two neighbours, one of whom backs off."""
    scenario = Scenario(backlog(24, 60.0), "bucket", neighbours=(NOISY, POLITE)).at(30.0, quota=0.6)
    for seed in range(5):
        expected = simulated(scenario, RateLimitConfig(), seed, 1)
        assert expected
        assert produced(scenario, RateLimitConfig(), seed, 1) == expected, f"seed {seed}"


def test_neighbours_take_quota() -> None:
    """A client at 9 of 10 requests per second is refused once a neighbour takes 4, and not before or after."""
    attempts = simulate(Scenario(backlog(64, 80.0), "bucket", neighbours=(NOISY,)), fixed_rate(9.0)).attempts
    refused = attempts[attempts["outcome"] == "rate_limited"]["admitted_s"]
    assert len(refused) > 50
    assert refused.between(10.0, 51.0).all()


def test_calls_keep_to_their_span_and_rate() -> None:
    """Calls lie between start and end, at the mean rate."""
    times = [at for at, _ in alone(Neighbour(requests_per_s=5.0, start_s=20.0, end_s=120.0))]
    assert min(times) >= 20.0
    assert max(times) < 120.0
    assert len(times) == pytest.approx(500, rel=0.15)


def test_backing_off_sends_less_into_a_full_provider() -> None:
    """Where the provider refuses, a neighbour who backs off is refused far less often than one who does not."""
    rude, polite = (
        sum(refused for _, refused in alone(Neighbour(requests_per_s=30.0, end_s=100.0, backs_off=polite)))
        for polite in (False, True)
    )
    assert polite < rude / 2


def test_neighbours_do_not_touch_our_luck() -> None:
    """Our calls draw the same latencies whether neighbours are there or not."""
    plain = Scenario(backlog(4, 30.0), provider("bucket").model_copy(update={"quotas": ()}))
    beside = replace(plain, neighbours=(Neighbour(requests_per_s=10.0),))
    assert simulate(plain).attempts.equals(simulate(beside).attempts)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"requests_per_s": 0.0}, "requests_per_s"),
        ({"requests_per_s": 1.0, "input_tokens": -1}, "tokens"),
        ({"requests_per_s": 1.0, "start_s": -1.0}, "start_s"),
        ({"requests_per_s": 1.0, "start_s": 5.0, "end_s": 5.0}, "end_s"),
    ],
)
def test_nonsense_is_refused(values: dict[str, float], word: str) -> None:
    """A neighbour that cannot be is refused by the value's name."""
    with pytest.raises(ConfigurationError, match=word):
        Neighbour(**values)  # type: ignore[arg-type]
