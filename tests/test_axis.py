"""A paced budget: nothing is handed out ahead of time, nothing is lost between reserve and settle.

And the axis that it paces: whatever headers and answers say, nobody is held back by them beyond the axis' patience.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factflow_llm.ratelimit.aimd import RateRule
from factflow_llm.ratelimit.axis import Budget, PacedAxis, known_rate
from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.ratelimit.mirror import Mirror
from factflow_llm.ratelimit.part import Part
from factflow_llm.signals import Axis, AxisLimit


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


def test_a_burst_that_the_provider_holds_is_saved_up() -> None:
    """Who was idle may send what the provider was seen to hold, and no more."""
    budget = Budget(10.0)
    budget.burst = 5.0
    sent = 0
    while budget.wait_s(3600.0, 1.0) == 0.0:
        budget.reserve(1.0)
        sent += 1
    assert sent == 5


def test_what_is_refilled_stays_until_it_is_taken() -> None:
    """When the provider opens, what has trickled in meanwhile may be more than one call needs."""
    budget = Budget(10.0)
    budget.refill(4.0)
    sent = 0
    while budget.wait_s(0.0, 1.0) == 0.0:
        budget.reserve(1.0)
        sent += 1
    assert sent == 4


PATIENCE_S = 30.0
CENTURIES_S = 1e9


def _axis(axis: Axis = Axis.REQUESTS, **settings_: float) -> PacedAxis:
    config = RateLimitConfig(**settings_)
    rule = RateRule(config, now=0.0, known=known_rate(config, axis), of_requests=axis is Axis.REQUESTS)
    return PacedAxis(axis, rule, 0.0, PATIENCE_S, Part())


def _shows(paced: PacedAxis, limit: float, remaining: float, reset_s: float) -> None:
    paced.mirror = paced.mirror or Mirror()
    shown = AxisLimit(paced.axis, limit, remaining, reset_s)
    paced.mirror.observe(1.0, shown, sent_s=0.5, before=limit - remaining - 1.0, cost=1.0, after=0.0)


def test_an_axis_of_which_nothing_is_known_holds_nobody_back() -> None:
    """Without settings, headers or refusals there is no limit."""
    paced = _axis()
    assert (paced.active, paced.rate, paced.wait_s(0.0, 1e9), paced.shared) == (False, math.inf, 0.0, False)


@pytest.mark.parametrize("reset_s", [CENTURIES_S, 86_400.0, 3600.0, 61.0])
def test_a_reset_in_centuries_blocks_no_longer_than_patience(reset_s: float) -> None:
    """A header that shows nothing to be left until 31 years from now holds the next call back for the cap, no more."""
    paced = _axis()
    _shows(paced, 10.0, 0.0, reset_s)
    paced.reserve(1.0, 1.0)
    assert 0.0 < paced.wait_s(1.0, 1.0) <= PATIENCE_S
    assert paced.wait_s(1.0 + PATIENCE_S, 1.0) == 0.0


def test_each_call_is_waited_for_anew() -> None:
    """Patience is counted from the last call: an empty budget is asked once in a while, not hammered."""
    paced, now, sent = _axis(), 1.0, 0
    _shows(paced, 10.0, 0.0, CENTURIES_S)
    while now < 20.0 * PATIENCE_S:
        while wait_s := paced.wait_s(now, 1.0):
            now += wait_s
        paced.reserve(now, 1.0)
        sent += 1
    assert 19 <= sent <= 22


@pytest.mark.parametrize("used", [1e6, 1e7, 1e300])
def test_a_debt_is_never_longer_than_patience(used: float) -> None:
    """An answer that says it used a million times what was reserved delays the next call by the cap, no more."""
    paced = _axis(Axis.TOKENS, tokens_per_minute=6000)
    assert paced.wait_s(0.0, 100.0) == 0.0
    paced.reserve(0.0, 100.0)
    paced.settle(100.0, used)
    assert paced.wait_s(0.0, 100.0) == pytest.approx(PATIENCE_S + 1.0)


def test_headers_are_held_to_the_highest_rate() -> None:
    """What headers show beyond the settings' bound is not used."""
    paced, now, sent = _axis(max_requests_per_minute=60.0), 1.0, 0
    _shows(paced, 6000.0, 5900.0, 1.0)
    while now < 21.0:
        while wait_s := paced.wait_s(now, 1.0):
            now += wait_s
        paced.reserve(now, 1.0)
        sent += 1
    assert paced.rate <= 1.0
    assert sent == pytest.approx(20, abs=2)


def test_a_blind_mirror_gives_way_to_the_rule() -> None:
    """Once a refusal has shown the headers to be wrong, what was measured paces."""
    paced = _axis(requests_per_minute=60.0)
    _shows(paced, 6000.0, 5900.0, 1.0)
    assert paced.rate == pytest.approx(100.0)
    paced.mirror.rejected(2.0, 1.0)
    assert paced.rate == 1.0


def test_a_provider_that_opens_gives_what_has_trickled_in_since() -> None:
    """Reopened two seconds ago at two calls a second, with one sent since: three are there."""
    paced = _axis(requests_per_minute=120.0)
    paced.reopen(10.0, 8.0, 1.0)
    assert paced.spare == pytest.approx(3.0)
