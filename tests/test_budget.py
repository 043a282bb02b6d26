"""A paced budget: nothing is handed out ahead of time, nothing is lost between reserve and settle."""

from __future__ import annotations

import math

import pytest
from factflow_llm.ratelimit.budget import Budget
from hypothesis import given, settings
from hypothesis import strategies as st


def test_without_a_rate_everything_fits() -> None:
    """While nothing is known, nobody waits and nothing is counted."""
    budget = Budget()
    assert budget.wait_s(0.0, 1e12) == 0.0
    budget.reserve(1e12)
    assert budget.wait_s(0.0, 1e12) == 0.0


def test_waiting_is_what_is_missing_over_the_rate() -> None:
    """The wait shrinks as units trickle in, and is 0 when the cost fits."""
    budget = Budget(2.0)
    assert budget.wait_s(0.0, 1.0) == pytest.approx(0.5)
    assert budget.wait_s(0.25, 1.0) == pytest.approx(0.25)
    assert budget.wait_s(0.5, 1.0) == 0.0
    budget.reserve(1.0)
    assert budget.wait_s(0.5, 1.0) == pytest.approx(0.5)


def test_asking_takes_nothing() -> None:
    """However often one asks, the wait is the same."""
    budget = Budget(10.0)
    assert {budget.wait_s(1.0, 30.0) for _ in range(5)} == {2.0}


def test_an_idle_hour_earns_no_burst() -> None:
    """After a long rest one call goes at once and the next waits its full turn."""
    budget = Budget(10.0)
    assert budget.wait_s(3600.0, 1.0) == 0.0
    budget.reserve(1.0)
    assert budget.wait_s(3600.0, 1.0) == pytest.approx(0.1)


def test_what_is_there_at_first_is_capped_by_the_first_cost() -> None:
    """However much a budget starts with, one call goes at once and the next waits its full turn."""
    budget = Budget(10.0, level=math.inf)
    assert budget.wait_s(0.0, 50.0) == 0.0
    budget.reserve(50.0)
    assert budget.wait_s(0.0, 50.0) == pytest.approx(5.0)


def test_a_large_call_does_not_starve() -> None:
    """A cost of many seconds' refill fits once enough has trickled in."""
    budget = Budget(10.0)
    assert budget.wait_s(0.0, 100.0) == pytest.approx(10.0)
    assert budget.wait_s(10.0, 100.0) == 0.0


def test_settling_corrects_an_estimate() -> None:
    """What was reserved and not used comes back; what was used beyond it is a debt that later calls wait for."""
    budget = Budget(10.0, now=0.0)
    assert budget.wait_s(10.0, 100.0) == 0.0
    budget.reserve(100.0)
    budget.settle(100.0, 40.0)
    assert budget.wait_s(10.0, 60.0) == 0.0
    budget.reserve(60.0)
    budget.settle(60.0, 80.0)
    assert budget.wait_s(10.0, 10.0) == pytest.approx(3.0)


def test_a_change_of_rate_retimes_who_waits() -> None:
    """What has trickled in stays; the rest comes at the new rate."""
    budget = Budget(10.0)
    assert budget.wait_s(0.0, 20.0) == pytest.approx(2.0)
    budget.set_rate(1.0, 1.0)
    assert budget.wait_s(1.0, 20.0) == pytest.approx(10.0)
    budget.set_rate(1.0, 100.0)
    assert budget.wait_s(1.0, 20.0) == pytest.approx(0.1)


def test_the_first_rate_starts_empty() -> None:
    """When a rejection teaches the first rate, the provider's budget is empty, and so is ours."""
    budget = Budget()
    budget.set_rate(5.0, 2.0)
    assert budget.wait_s(5.0, 1.0) == pytest.approx(0.5)


def test_repr_tells_level_and_rate() -> None:
    """One sees at a glance what is left and how fast it refills."""
    assert repr(Budget(2.0, level=4.0)) == "<Budget 4 at 2/s>"


steps = st.lists(
    st.tuples(st.floats(0, 10), st.floats(0.1, 100), st.floats(0, 2), st.floats(0.1, 50)), min_size=1, max_size=40
)


@given(steps)
@settings(deadline=None)
def test_no_more_is_taken_than_trickled_in(history: list[tuple[float, float, float, float]]) -> None:
    """Whoever waits as told has, at every admission, used no more than what the rate allowed so far."""
    now = allowed = used = 0.0
    rate = 1.0
    budget = Budget(rate)
    for pause, cost, misjudged, next_rate in history:
        now, allowed = now + pause, allowed + pause * rate
        wait = budget.wait_s(now, cost)
        now, allowed = now + wait, allowed + wait * rate
        assert budget.wait_s(now, cost) * rate <= 1e-6 * cost + 1e-9 * now * rate
        budget.reserve(cost)
        assert used + cost <= allowed + 1e-6 * (1 + allowed)
        budget.settle(cost, cost * misjudged)
        used += cost * misjudged
        budget.set_rate(now, next_rate)
        rate = next_rate


@given(st.floats(0.01, 1e6), st.floats(0.0, 1e9), st.floats(0.001, 1e9))
def test_who_comes_back_as_told_is_let_through(rate: float, now: float, cost: float) -> None:
    """Rounding never makes a caller who waited as told wait again for longer than rounding explains."""
    budget = Budget(rate, now=now)
    back = now + budget.wait_s(now, cost)
    assert budget.wait_s(back, cost) <= math.ulp(back) * 2 + 1e-9 * cost / rate
