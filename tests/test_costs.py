"""What calls weigh: what untold ones will probably use, what was reserved, and what was admitted."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.ratelimit.core import LimiterCore
from factflow_llm.ratelimit.costs import Costs, RecentMean, booked, on_axis, reserved
from factflow_llm.ratelimit.line import Ticket
from factflow_llm.signals import Axis, Outcome, RateLimitSignal

TOKEN_AXES = (Axis.INPUT_TOKENS, Axis.OUTPUT_TOKENS, Axis.TOKENS)


def _after(*used: float) -> float:
    estimate = RecentMean()
    for each in used:
        estimate.learn(each)
    return estimate.value


def _sent(costs: Costs, *tokens: int | None) -> Ticket:
    ticket = Ticket(*tokens)
    costs.book(ticket)
    return ticket


# --- the estimate ----------------------------------------------------------------------------------------------------


def test_it_starts_from_the_first_call() -> None:
    """Nothing is expected before anything was seen; then what was seen is."""
    assert RecentMean().value == 0.0
    assert _after(120.0) == 120.0


def test_heavy_tails_count_in_full() -> None:
    """Where one in ten is huge, the sum of a hundred estimates is what they use; a quantile would miss it."""
    used = ([100.0] * 9 + [64_000.0]) * 10
    assert 100 * _after(*used) == pytest.approx(sum(used))


def test_it_follows_a_change_of_work() -> None:
    """A hundred calls later the old ones are forgotten."""
    assert _after(*[100.0] * 200, *[900.0] * 100) == pytest.approx(900.0)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=220))
def test_it_is_the_mean_of_the_last_hundred(used: list[float]) -> None:
    """Neither more nor less, however long it goes on: rounding does not pile up."""
    last = used[-100:]
    assert _after(*used) == pytest.approx(math.fsum(last) / len(last), rel=1e-9, abs=1e-3)


def test_a_token_budget_reserves_it_and_settles_what_was_used() -> None:
    """Who names no size waits for what the last calls used, and what it did not use is given back."""
    core = LimiterCore(RateLimitConfig(output_tokens_per_minute=3600))
    first, second, third = (Ticket(0) for _ in range(3))
    assert core.submit(0.0, first)
    core.settle(1.0, first, RateLimitSignal(Outcome.SUCCEEDED, None, None, 0, 600))
    assert not core.submit(1.0, second)
    assert core.wake_at > 10.0
    assert core.advance(30.0).admitted == [second]
    assert second.reserved_output == 600.0
    core.settle(31.0, second, RateLimitSignal(Outcome.SUCCEEDED, None, None, 0, 60))
    assert core.submit(31.0, third)


# --- two currencies --------------------------------------------------------------------------------------------------


def test_what_nobody_named_is_reserved_and_not_booked() -> None:
    """An untold call paces by the mean; what is measured does not count it before its answer says what it used."""
    costs = Costs()
    costs.settle(_sent(costs, None, None), 700.0, 300.0)
    ticket = _sent(costs, None, None)
    assert [reserved(axis, ticket) for axis in TOKEN_AXES] == [700.0, 300.0, 1000.0]
    assert [booked(axis, ticket) for axis in TOKEN_AXES] == [0.0, 0.0, 0.0]
    assert [costs.total(axis) for axis in TOKEN_AXES] == [700.0, 300.0, 1000.0]
    costs.settle(ticket, 50.0, 20.0)
    assert [costs.total(axis) for axis in TOKEN_AXES] == [750.0, 320.0, 1070.0]
    assert costs.total(Axis.REQUESTS) == 2.0


def test_what_was_named_is_booked_at_once_and_corrected_by_the_answer() -> None:
    """A provider charges what was asked for; in the end what was really used."""
    costs = Costs()
    ticket = _sent(costs, 900, 400)
    assert (reserved(Axis.TOKENS, ticket), booked(Axis.TOKENS, ticket), costs.total(Axis.TOKENS)) == (1300.0,) * 3
    costs.settle(ticket, 880.0, 20.0)
    assert costs.total(Axis.TOKENS) == 900.0


def test_unknown_usage_is_what_was_reserved_and_teaches_nothing() -> None:
    """Unknown is not zero: where an answer says nothing, the reservation stands."""
    costs = Costs()
    costs.settle(_sent(costs, None, None), 100.0, 100.0)
    costs.settle(_sent(costs, None, None), None, None)
    assert costs.total(Axis.TOKENS) == 400.0
    assert costs.expected(Axis.TOKENS, Ticket()) == 200.0


def test_a_call_that_named_its_tokens_teaches_nothing_of_those_that_did_not() -> None:
    """The mean is of calls that name no size: others are other work."""
    costs = Costs()
    costs.settle(_sent(costs, 5000, 5000), 5000.0, 5000.0)
    assert costs.expected(Axis.TOKENS, Ticket()) == 0.0


def test_what_was_admitted_before_a_call_leaves_the_rejected_out() -> None:
    """Of six calls sent, the second was rejected before the last was: four were admitted before that."""
    costs = Costs()
    calls = [_sent(costs, 10, 0) for _ in range(6)]
    costs.refund(calls[1])
    costs.refund(calls[5])
    assert costs.admitted_before(Axis.REQUESTS, calls[5]) == 4.0
    assert costs.admitted_before(Axis.INPUT_TOKENS, calls[5]) == 40.0
    assert (costs.total(Axis.REQUESTS), costs.total(Axis.TOKENS)) == (4.0, 40.0)


@given(st.lists(st.tuples(st.none() | st.integers(0, 5000), st.none() | st.integers(0, 5000), st.booleans())))
def test_the_books_balance(calls: list[tuple[int | None, int | None, bool]]) -> None:
    """Refunded calls leave no trace in the totals, settled ones exactly what they used."""
    costs, used = Costs(), 0.0
    for number, (read, written, is_admitted) in enumerate(calls):
        ticket = _sent(costs, read, written)
        if is_admitted:
            costs.settle(ticket, float(number), 1.0)
            used += number + 1.0
        else:
            costs.refund(ticket)
    assert costs.total(Axis.TOKENS) == pytest.approx(used)
    assert costs.total(Axis.REQUESTS) == sum(is_admitted for *_, is_admitted in calls)


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_a_typical_unit_belongs_to_a_large_call() -> None:
    """Among nine calls of 100 tokens and one of 9,100, a token is most likely the large one's."""
    costs = Costs()
    for number in range(1000):
        costs.settle(_sent(costs), 9100.0 if number % 10 == 0 else 100.0, 0.0)
    assert costs.unit(Axis.REQUESTS) == 1.0
    assert costs.unit(Axis.INPUT_TOKENS) == pytest.approx(8300.0, rel=0.1)
    assert costs.varied


def test_equal_calls_are_their_own_unit() -> None:
    """Where all are alike there is no bias, and no variety."""
    costs = Costs()
    assert costs.unit(Axis.TOKENS) == 1.0
    for _ in range(20):
        costs.settle(_sent(costs), 300.0, 100.0)
    assert costs.unit(Axis.TOKENS) == pytest.approx(400.0)
    assert not costs.varied


@pytest.mark.parametrize(("rejected", "blamed"), [([5000] * 3, True), ([5000] * 2, False), ([450] * 5, False)])
def test_large_calls_rejected_speak_of_tokens(rejected: list[int], *, blamed: bool) -> None:
    """Three of them, much larger than those admitted, say so; two do not, nor does what is hardly larger."""
    costs = Costs()
    for _ in range(20):
        costs.settle(_sent(costs, 300, 100), 300.0, 100.0)
    for size in rejected:
        costs.refund(_sent(costs, size, 0))
    assert costs.large_are_rejected is blamed


def test_each_axis_weighs_its_own() -> None:
    """Requests, tokens read, tokens written, and both together."""
    assert [on_axis(axis, 1.0, 20.0, 3.0) for axis in (Axis.REQUESTS, *TOKEN_AXES)] == [1.0, 20.0, 3.0, 23.0]
