"""What calls that do not say will probably use."""

from __future__ import annotations

from factflow_llm.ratelimit.estimate import RecentQuantile
from hypothesis import given
from hypothesis import strategies as st

from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.ratelimit.core import LimiterCore
from factflow_llm.ratelimit.line import Ticket
from factflow_llm.signals import Outcome, RateLimitSignal


def _after(*used: float) -> float:
    estimate = RecentQuantile()
    for each in used:
        estimate.learn(each)
    return estimate.value


def test_it_starts_from_the_first_call() -> None:
    """Nothing is expected before anything was seen; then what was seen is."""
    assert RecentQuantile().value == 0.0
    assert _after(120.0) == 120.0


def test_a_single_long_answer_moves_it_little() -> None:
    """Six of ten use no more, whatever the tenth uses."""
    assert _after(*[100.0] * 9, 64_000.0) == 100.0
    assert _after(*range(9)) == 5.0


def test_it_follows_a_change_of_work() -> None:
    """Sixty calls later the old ones are forgotten."""
    assert _after(*[100.0] * 200, *[900.0] * 60) == 900.0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=120))
def test_it_is_one_of_the_last_calls(used: list[float]) -> None:
    """No estimate is made up: it is what some recent call used."""
    assert _after(*used) in used[-60:]


def test_a_token_budget_reserves_it_and_settles_what_was_used() -> None:
    """Who names no size waits for what the last calls used, and what it did not use is given back."""
    core = LimiterCore(RateLimitConfig(output_tokens_per_minute=3600))
    first, second, third = (Ticket(0) for _ in range(3))
    assert core.submit(0.0, first)
    core.settle(1.0, first, RateLimitSignal(Outcome.SUCCEEDED, None, None, 0, 600))
    assert not core.submit(1.0, second)
    assert core.wake_at > 10.0
    assert core.advance(30.0) == [second]
    assert second.reserved_output == 600.0
    core.settle(31.0, second, RateLimitSignal(Outcome.SUCCEEDED, None, None, 0, 60))
    assert core.submit(31.0, third)
