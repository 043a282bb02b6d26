"""The limiter as a state machine: whom it admits, what it learns, what it says about it."""

from __future__ import annotations

import math
from random import Random

import pytest

from factflow_llm.errors import PermitSettledError
from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.ratelimit.core import LimiterCore
from factflow_llm.ratelimit.line import NEVER, Decisions, Refusal, Ticket, TicketState
from factflow_llm.ratelimit.metrics import Bound
from factflow_llm.signals import Axis, AxisLimit, Change, Outcome, RateLimitSignal, Reason
from tests.support.crowd import INPUT_TOKENS, Bucket, Crowd

OK = RateLimitSignal(Outcome.SUCCEEDED)
LIMITED = RateLimitSignal(Outcome.RATE_LIMITED)
IGNORED = RateLimitSignal(Outcome.IGNORED)
OVERLOADED = RateLimitSignal(Outcome.OVERLOADED)
EXHAUSTED = RateLimitSignal(Outcome.EXHAUSTED)


def _told(decisions: Decisions) -> tuple[list[Ticket], list[Ticket], tuple[Change, ...]]:
    return decisions.admitted, decisions.refused, decisions.changes


def _core(**settings: object) -> LimiterCore:
    return LimiterCore(RateLimitConfig(**settings))  # type: ignore[arg-type]


def _submit(core: LimiterCore, now: float, count: int, **ticket: object) -> list[Ticket]:
    tickets = [Ticket(**ticket) for _ in range(count)]  # type: ignore[arg-type]
    for one in tickets:
        core.submit(now, one)
    return tickets


def _admitted(tickets: list[Ticket]) -> list[Ticket]:
    return [ticket for ticket in tickets if ticket.state is TicketState.ADMITTED]


def _drain(core: LimiterCore, tickets: list[Ticket], until_s: float) -> None:
    """Go from wake-up to wake-up; nothing is answered."""
    while core.wake_at <= until_s:
        core.advance(core.wake_at)


def _pump(core: LimiterCore, now: float, until_s: float, signal: RateLimitSignal = OK, **ticket: object) -> int:
    """Keep one caller asking and every call answered at once; return how many were admitted."""
    admitted = 0
    while now < until_s:
        one = Ticket(**ticket)  # type: ignore[arg-type]
        if not core.submit(now, one):
            while one.state is TicketState.WAITING:
                now = core.wake_at
                core.advance(now)
        if one.state is not TicketState.ADMITTED:
            break
        admitted += 1
        core.settle(now, one, signal)
        core.advance(now)
        now = max(now, now + 1e-3)
    return admitted


# --- in flight -------------------------------------------------------------------------------------------------------


def test_the_cap_on_calls_in_flight() -> None:
    """No more calls are under way than the cap; each end lets the next one go."""
    core = _core(initial_concurrency=3, max_concurrency=3)
    tickets = _submit(core, 0.0, 5)
    assert _admitted(tickets) == tickets[:3]
    assert (core.in_flight, core.queued, core.wake_at) == (3, 2, NEVER)
    core.settle(1.0, tickets[1], OK)
    assert _told(core.advance(1.0)) == ([tickets[3]], [], ())
    assert (core.in_flight, core.queued) == (3, 1)


def test_slow_start_doubles_by_the_round_trip() -> None:
    """With everything admitted and callers waiting, the cap doubles each round trip; nothing else moves."""
    core = _core(initial_concurrency=4)
    tickets = _submit(core, 0.0, 100)
    changes = []
    for ticket in _admitted(tickets):
        changes += core.settle(1.0, ticket, OK)
        core.advance(1.0)
    assert core.concurrency == 8.0
    assert core.in_flight == 8
    assert {(change.axis, change.reason) for change in changes} == {(Axis.CONCURRENCY, Reason.SLOW_START)}


def test_an_unused_cap_does_not_grow() -> None:
    """While callers are fewer than the cap, success says nothing about it."""
    core = _core(initial_concurrency=4)
    for now in range(100):
        tickets = _submit(core, float(now), 3)
        for ticket in tickets:
            assert core.settle(now + 0.5, ticket, OK) == ()
    assert core.concurrency == 4.0


def test_concurrency_refused_by_name() -> None:
    """A refusal that names concurrency moves the cap and leaves the pace alone."""
    core = _core(initial_concurrency=16)
    tickets = _submit(core, 0.0, 16)
    changes = core.settle(1.0, tickets[-1], RateLimitSignal(Outcome.RATE_LIMITED, axis=Axis.CONCURRENCY))
    assert [change.axis for change in changes] == [Axis.CONCURRENCY]
    assert core.concurrency < 16.0
    assert core.rate == math.inf


# --- pace ------------------------------------------------------------------------------------------------------------


def test_a_known_rate_paces() -> None:
    """With a known quota of 60 a minute and nothing else to learn, about one call a second goes."""
    core = _core(requests_per_minute=60, max_requests_per_minute=60)
    assert _pump(core, 0.0, 100.0) == pytest.approx(100, abs=2)


def test_the_first_call_does_not_wait() -> None:
    """A known quota, however small, is full when nobody has called yet."""
    core = _core(requests_per_minute=3, tokens_per_minute=6000)
    assert core.submit(1000.0, Ticket(500, 500))


def test_the_bound_on_the_rate_holds_from_the_start() -> None:
    """max_requests_per_minute is obeyed before anything was ever refused."""
    core = _core(max_requests_per_minute=60)
    assert core.rate <= 1.0
    assert _pump(core, 0.0, 5.0) <= 7


def test_success_never_lowers_the_pace() -> None:
    """A quota that is known and admitted is not left below its number because calls succeeded."""
    core = _core(requests_per_minute=600)
    _pump(core, 0.0, 30.0)
    assert core.rate >= 10.0


def test_who_waits_is_retimed_by_a_cut() -> None:
    """A rejection takes effect on those who wait: nobody holds a send time from before it."""
    core = _core(requests_per_minute=600, initial_concurrency=100)
    now, flying = 0.0, []
    waiting = _submit(core, now, 60)
    while len(flying) < 30:
        now = max(now, core.wake_at)
        flying += core.advance(now).admitted
    before, admitted = core.wake_at, len(_admitted(waiting))
    core.settle(now, flying[-1], RateLimitSignal(Outcome.RATE_LIMITED, retry_after_s=20.0))
    core.advance(now)
    assert core.wake_at == pytest.approx(now + 2.0), "what nobody has proved is believed for so long"
    assert core.wake_at > before
    assert core.advance(core.wake_at - 1e-6).admitted == []
    assert len(core.advance(core.wake_at).admitted) == 1, "one canary goes, and no other"
    assert len(_admitted(waiting)) == admitted


def test_one_burst_of_rejections_is_one_cut() -> None:
    """Of many calls sent together and rejected, only the first counts: the others were sent before the cut."""
    core = _core(initial_concurrency=64, requests_per_minute=6000)
    tickets = _submit(core, 0.0, 64)
    _drain(core, tickets, 0.7)
    assert len(_admitted(tickets)) == 64
    for ticket in tickets[:16]:
        core.settle(1.0, ticket, OK)
    first = core.settle(1.1, tickets[16], RateLimitSignal(Outcome.RATE_LIMITED, axis=Axis.REQUESTS))
    rate, concurrency = core.rate, core.concurrency
    assert [(change.axis, change.reason) for change in first] == [(Axis.REQUESTS, Reason.COOL_OFF)]
    for ticket in tickets[17:]:
        assert core.settle(1.1, ticket, RateLimitSignal(Outcome.RATE_LIMITED, axis=Axis.REQUESTS)) == ()
    assert (core.rate, core.concurrency) == (rate, concurrency)


def test_a_first_burst_of_rejections_is_one_cut_too() -> None:
    """Where no rate is known they may be noise; most of what is under way being rejected ends that, once."""
    core = _core(initial_concurrency=64)
    tickets, changes = _submit(core, 0.0, 64), []
    for ticket in tickets[:16]:
        core.settle(1.0, ticket, OK)
    for ticket in tickets[16:]:
        changes += core.settle(1.1, ticket, LIMITED)
    assert [(change.axis, change.reason) for change in changes] == [(Axis.REQUESTS, Reason.COOL_OFF)]
    assert core.metrics(1.2).blocked_until_s is not None


def test_a_rejection_among_calls_that_pass_is_forgiven_where_nothing_is_known() -> None:
    """No spent budget lets everything pass that is under way and three calls more: no rate is measured from it."""
    core = _core(initial_concurrency=16)
    first, *others = _submit(core, 0.0, 9)
    core.settle(0.1, first, LIMITED)
    asking = _admitted(_submit(core, 0.1, 20))
    assert len(asking) == 3
    for ticket in [*others, *asking]:
        core.settle(2.0, ticket, OK)
    core.advance(2.0)
    assert core.rate == math.inf
    assert core.metrics(2.0).blocked_until_s is None


def test_what_was_under_way_at_a_rejection_is_counted_once_it_is_known() -> None:
    """An answer that comes after another call's rejection was admitted before it: what it read counts as such."""
    core, now = _core(), 0.0
    for earlier, answered in ((0.0, 100_000.0), (100_000.0, 50_000.0)):
        first, second = Ticket(), Ticket()
        for ticket in (first, second):
            core.submit(now, ticket)
            while ticket.state is TicketState.WAITING:
                now = core.wake_at
                core.advance(now)
        core.settle(now + 0.1, second, RateLimitSignal(Outcome.RATE_LIMITED, retry_after_s=0.2, axis=Axis.TOKENS))
        assert core._rejections.before[1][Axis.TOKENS] == earlier
        core.settle(now + 0.2, first, RateLimitSignal(Outcome.SUCCEEDED, input_tokens=answered, output_tokens=0))
        assert core._rejections.before[1][Axis.TOKENS] == earlier + answered
        now += 60.0
        core.advance(now)


def test_retry_after_gates_everybody_as_far_as_it_was_proved() -> None:
    """Waited for two seconds at first, twice as long after each try it survived, never beyond the cap."""
    core, now, pauses = _core(cool_off_cap_s=30.0, requests_per_minute=60), 0.0, []
    (canary,) = _submit(core, now, 1)
    _submit(core, now, 20)
    for _ in range(12):
        core.settle(now, canary, RateLimitSignal(Outcome.RATE_LIMITED, retry_after_s=86_400.0))
        core.advance(now)
        until_s = core.metrics(now).blocked_until_s
        assert until_s is not None
        assert core.wake_at == until_s
        pauses.append(until_s - now)
        now = until_s
        assert core.advance(now - 1e-6).admitted == []
        (canary,) = core.advance(now).admitted
        assert core.advance(now).admitted == [], "one at a time"
    assert pauses == pytest.approx([min(2.0 * 2.0**tries, 30.0) for tries in range(12)])


def test_one_retry_after_of_a_day_costs_nothing() -> None:
    """The provider admits again after a moment, whatever it said: all that is lost are two seconds."""
    core = _core(requests_per_minute=600)
    (first,) = _submit(core, 0.0, 1)
    core.settle(0.1, first, RateLimitSignal(Outcome.RATE_LIMITED, retry_after_s=86_400.0))
    core.advance(0.1)
    assert _pump(core, 0.1, 12.1) >= 90


@pytest.mark.parametrize("known", [None, 60.0])
@pytest.mark.parametrize("wish", [math.nan, math.inf, -math.inf, -7.0, 1e308])
def test_a_senseless_retry_after_does_no_harm(wish: float, known: float | None) -> None:
    """Whatever a header says, rates stay numbers within bounds and the line moves on within the cap."""
    core = _core(initial_concurrency=4, cool_off_cap_s=30.0, requests_per_minute=known)
    tickets = _submit(core, 0.0, 4)
    _drain(core, tickets, 4.0)
    core.settle(5.0, tickets[0], OK)
    for ticket in tickets[1:]:
        core.settle(5.0, ticket, RateLimitSignal(Outcome.RATE_LIMITED, retry_after_s=wish, axis=Axis.REQUESTS))
    assert core.rate >= 0.5 / 60.0
    assert known is None or core.rate < math.inf
    late = _submit(core, 6.0, 1)
    _drain(core, late, 36.0)
    assert _admitted(late)


def test_a_shut_provider_is_asked_ever_more_rarely() -> None:
    """While nothing at all is admitted, pauses double up to the cap, and the rate that was learned stays."""
    core = _core(cool_off_s=0.1, cool_off_cap_s=20.0)
    _pump(core, 0.0, 1.0)
    tickets = _submit(core, 1.0, 1)
    core.settle(1.0, tickets[0], LIMITED)
    now, pauses, rate = 1.0, [], core.rate
    for _ in range(14):
        (ticket,) = _submit(core, now, 1)
        _drain(core, [ticket], now + 60.0)
        pauses.append(ticket.admitted_s - now)
        now = ticket.admitted_s
        core.settle(now, ticket, LIMITED)
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(20.0, rel=0.2)
    assert core.last_reason is Reason.COOL_OFF
    assert core.rate >= 0.5 * rate


def test_trouble_of_the_provider_is_not_our_quota() -> None:
    """An overload lowers the number in flight, not the pace."""
    core = _core(initial_concurrency=20)
    tickets = _submit(core, 0.0, 20)
    (change,) = core.settle(1.0, tickets[0], OVERLOADED)
    assert (change.axis, change.reason) == (Axis.CONCURRENCY, Reason.OVERLOADED)
    assert core.concurrency < 20.0
    assert core.rate == math.inf


def test_what_is_ignored_teaches_nothing() -> None:
    """A 400, a cancellation or a local fault returns the permit and changes nothing else."""
    core = _core(initial_concurrency=4, tokens_per_minute=60_000)
    assert core.metrics(0.0).ignored == 0
    for now in range(50):
        (ticket,) = _submit(core, float(now), 1, input_tokens=100, output_tokens=100)
        core.advance(now + 0.9)
        before = (core.rate, core.concurrency)
        assert core.settle(now + 0.9, ticket, IGNORED) == ()
        assert (core.rate, core.concurrency) == before
    assert core.metrics(50.0).ignored == 50


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_tokens_are_paced() -> None:
    """With 60,000 tokens a minute known, calls of 1,000 go once a second."""
    core = _core(tokens_per_minute=60_000, initial_concurrency=100)
    tickets = _submit(core, 0.0, 40, input_tokens=700, output_tokens=300)
    _drain(core, tickets, 20.0)
    assert len(_admitted(tickets)) == pytest.approx(20, abs=1)


@pytest.mark.parametrize(
    ("setting", "cost"),
    [("input_tokens_per_minute", 600), ("output_tokens_per_minute", 200), ("tokens_per_minute", 800)],
)
def test_each_axis_counts_its_own_tokens(setting: str, cost: int) -> None:
    """Read, written, and both together are separate budgets."""
    core = _core(**{setting: cost * 60}, initial_concurrency=100)
    tickets = _submit(core, 0.0, 30, input_tokens=600, output_tokens=200)
    _drain(core, tickets, 10.0)
    assert len(_admitted(tickets)) == pytest.approx(10, abs=1)


def test_unused_tokens_come_back() -> None:
    """What was reserved and not written is given to those who wait."""
    core = _core(tokens_per_minute=6000, initial_concurrency=100)
    flying, _ = _submit(core, 0.0, 2, input_tokens=0, output_tokens=1000)
    assert core.wake_at == pytest.approx(10.0)
    core.settle(0.0, flying, RateLimitSignal(Outcome.SUCCEEDED, input_tokens=0, output_tokens=100))
    core.advance(0.0)
    assert core.wake_at == pytest.approx(1.0, rel=0.05)


def test_tokens_beyond_the_estimate_are_a_debt() -> None:
    """What was written beyond the reservation is waited for."""
    core = _core(tokens_per_minute=6000, initial_concurrency=100)
    flying, _ = _submit(core, 0.0, 2, input_tokens=0, output_tokens=100)
    core.settle(0.0, flying, RateLimitSignal(Outcome.SUCCEEDED, input_tokens=0, output_tokens=600))
    core.advance(0.0)
    assert core.wake_at == pytest.approx(6.0, rel=0.05)


@pytest.mark.parametrize("signal", [IGNORED, OVERLOADED])
def test_a_refused_call_used_no_tokens(signal: RateLimitSignal) -> None:
    """A rejected, failed or cancelled call gives its reservation back."""
    core = _core(tokens_per_minute=6000, initial_concurrency=100)
    flying, waiting = _submit(core, 0.0, 2, input_tokens=500, output_tokens=500)
    core.settle(0.0, flying, signal)
    assert core.advance(0.0).admitted == [waiting]


def test_a_start_into_an_empty_budget_that_shows_headers_is_not_company() -> None:
    """A first call that is refused took nothing: what it shows is an old level, not others who draw on the quota."""
    core = _core()
    (first,) = _submit(core, 0.0, 1, input_tokens=2_000)

    def shown(remaining: float) -> tuple[AxisLimit, ...]:
        return (AxisLimit(Axis.TOKENS, 300_000.0, remaining, (300_000.0 - remaining) / 5_000.0),)

    core.settle(0.1, first, RateLimitSignal(Outcome.RATE_LIMITED, 1.0, Axis.TOKENS, limits=shown(300.0)))
    calls = _submit(core, 0.1, 200, input_tokens=2_000)
    now, used = 0.1, 0.0
    while now < 60.0:
        now = max(now, min(core.wake_at, now + 1.0))
        for ticket in core.advance(now):
            used += 2_000.0
            core.settle(
                now,
                ticket,
                RateLimitSignal(Outcome.SUCCEEDED, None, None, 2_000, 0, shown(300.0 + 5_000.0 * now - used)),
            )
        now += 0.01
    assert used > 0.9 * 60.0 * 5_000.0
    assert sum(call.state is TicketState.SETTLED for call in calls) * 2_000.0 == used


def test_an_unknown_estimate_is_learned() -> None:
    """Calls that name no tokens are expected to read and write what others did."""
    core = _core(tokens_per_minute=60_000, initial_concurrency=100)
    _pump(core, 0.0, 120.0, RateLimitSignal(Outcome.SUCCEEDED, input_tokens=500, output_tokens=300))
    (ticket,) = _submit(core, 200.0, 1)
    assert (ticket.reserved_input, ticket.reserved_output) == pytest.approx((500.0, 300.0), rel=0.05)


def test_unknown_usage_means_the_estimate() -> None:
    """Where a provider tells no usage, the reservation stands: unknown is not zero."""
    counts = set()
    for said in (OK, RateLimitSignal(Outcome.SUCCEEDED, input_tokens=500, output_tokens=500)):
        core = _core(tokens_per_minute=60_000, initial_concurrency=100)
        counts.add(_pump(core, 0.0, 60.0, said, input_tokens=500, output_tokens=500))
    assert len(counts) == 1


def test_nobody_overtakes_a_large_call() -> None:
    """A call that waits for its tokens is not passed by small ones behind it."""
    core = _core(tokens_per_minute=6000, initial_concurrency=100)
    large = Ticket(900, 100)
    core.submit(0.0, large)
    small = _submit(core, 0.1, 5, input_tokens=1, output_tokens=0)
    _drain(core, small, 60.0)
    assert large.admitted_s <= min(ticket.admitted_s for ticket in small)


@pytest.mark.parametrize("start", [0.0, 32_768.0, 1e6])
def test_rounding_opens_no_other_budget(start: float) -> None:
    """Whoever comes back as told by one budget, an ulp early by another clock, is still held back by the next."""
    core = _core(input_tokens_per_minute=24_360, tokens_per_minute=600)
    tickets = [Ticket(141, None) for _ in range(3)]
    for ticket in tickets:
        core.submit(start, ticket)
    _drain(core, tickets, start + 50.0)
    assert tickets[1].admitted_s - tickets[0].admitted_s == pytest.approx(14.1, rel=0.05)
    assert tickets[2].admitted_s - tickets[1].admitted_s == pytest.approx(14.1, rel=0.05)


def test_tokens_refused_by_name_leave_requests_alone() -> None:
    """Refusals that name a token axis measure that axis' quota and no other."""
    crowd = Crowd(_core(), Bucket(5.0, axis=Axis.INPUT_TOKENS), waiting=5)
    crowd.run(120.0)
    metrics = crowd.core.metrics(120.0)
    assert metrics.input_tokens_per_s == pytest.approx(5.0 * INPUT_TOKENS, rel=0.15)
    assert (metrics.requests_per_s, metrics.output_tokens_per_s, metrics.tokens_per_s) == (math.inf,) * 3


# --- breaker ---------------------------------------------------------------------------------------------------------


def test_exhausted_opens_the_breaker() -> None:
    """With the quota gone for good, those who wait and those who come are refused at once."""
    core = _core(initial_concurrency=2, breaker_s=60.0)
    flying = _submit(core, 0.0, 2)
    waiting = _submit(core, 0.0, 3)
    (change,) = core.settle(1.0, flying[0], EXHAUSTED)
    assert (change.reason, change.new) == (Reason.BREAKER_OPEN, 0.0)
    assert _told(core.advance(1.0)) == ([], waiting, ())
    newcomer = Ticket()
    assert not core.submit(30.0, newcomer)
    for ticket in (*waiting, newcomer):
        assert (ticket.state, ticket.refusal) == (TicketState.REFUSED, Refusal.BREAKER)
    assert core.metrics(30.0).breaker_open
    assert "breaker open" in repr(core)


def test_one_call_tries_again() -> None:
    """After the pause one call goes; its success closes the breaker, meanwhile others are refused."""
    core = _core(breaker_s=60.0)
    (flying,) = _submit(core, 0.0, 1)
    core.settle(1.0, flying, EXHAUSTED)
    probe, other = Ticket(), Ticket()
    assert core.submit(61.0, probe)
    assert not core.submit(61.0, other)
    (change,) = core.settle(62.0, probe, OK)
    assert change.reason is Reason.BREAKER_CLOSED
    assert not core.metrics(62.0).breaker_open
    assert core.submit(62.0, Ticket())


def test_a_failed_probe_keeps_the_breaker_open() -> None:
    """A probe that meets the same wall starts the pause anew."""
    core = _core(breaker_s=60.0)
    (flying,) = _submit(core, 0.0, 1)
    core.settle(1.0, flying, EXHAUSTED)
    probe = Ticket()
    core.submit(61.0, probe)
    core.settle(62.0, probe, EXHAUSTED)
    assert not core.submit(100.0, Ticket())
    assert core.submit(122.0, Ticket())


@pytest.mark.parametrize("signal", [IGNORED, OVERLOADED, LIMITED])
def test_an_undecided_probe_lets_another_try(signal: RateLimitSignal) -> None:
    """A probe whose end says nothing about the quota is followed by another, and the breaker stays open."""
    core = _core(breaker_s=60.0)
    (flying,) = _submit(core, 0.0, 1)
    core.settle(1.0, flying, EXHAUSTED)
    probe, second = Ticket(), Ticket()
    core.submit(61.0, probe)
    core.settle(62.0, probe, signal)
    assert core.metrics(62.0).breaker_open
    core.submit(200.0, second)
    core.advance(200.0)
    assert second.state is TicketState.ADMITTED


def test_a_cancelled_probe_lets_another_try() -> None:
    """A probe that gives up while it waits does not hold the breaker open for ever."""
    core = _core(breaker_s=60.0, initial_concurrency=1)
    busy = Ticket()
    core.submit(0.0, busy)
    (first,) = _submit(core, 0.0, 1)
    core.settle(1.0, busy, EXHAUSTED)
    core.advance(1.0)
    assert first.state is TicketState.REFUSED
    blocker, waiting = Ticket(), Ticket()
    core.submit(61.0, blocker)
    core.cancel(61.0, blocker)
    core.advance(61.0)
    assert core.submit(61.5, waiting)


# --- leaving ---------------------------------------------------------------------------------------------------------


def test_settled_exactly_once() -> None:
    """A ticket that was not admitted, or was settled before, cannot be settled."""
    core = _core(initial_concurrency=1)
    flying, waiting = _submit(core, 0.0, 2)
    core.settle(1.0, flying, OK)
    for ticket in (flying, waiting, Ticket()):
        with pytest.raises(PermitSettledError, match="only once"):
            core.settle(1.0, ticket, OK)
    assert core.in_flight == 0


def test_cancel_in_every_state() -> None:
    """Cancelling takes a waiting ticket out, settles an admitted one as ignored, and does nothing to the rest."""
    core = _core(initial_concurrency=1)
    flying, waiting, next_one = _submit(core, 0.0, 3)
    core.cancel(1.0, waiting)
    assert (waiting.state, core.queued) == (TicketState.CANCELLED, 1)
    core.cancel(1.0, flying)
    assert core.advance(1.0).admitted == [next_one]
    core.cancel(1.0, flying)
    core.cancel(1.0, waiting)
    assert (core.in_flight, core.queued) == (1, 0)
    assert core.metrics(1.0).ignored == 1


# --- new settings ----------------------------------------------------------------------------------------------------


def test_retune_keeps_learning_and_waiting() -> None:
    """New settings change neither what was learned nor who waits in which order."""
    crowd = Crowd(core := _core(initial_concurrency=8), Bucket(5.0), waiting=4)
    crowd.run(60.0)
    before = (core.rate, core.concurrency, core.in_flight, core.queued)
    assert before[0] == pytest.approx(5.0, rel=0.2)
    assert core.retune(60.0, RateLimitConfig(initial_concurrency=3, probe_s=99.0)) == ()
    assert (core.rate, core.concurrency, core.in_flight, core.queued) == before
    crowd.run(70.0)
    assert crowd.orders == sorted(crowd.orders)
    assert crowd.sent_between(60.0, 70.0) == pytest.approx(50, abs=10)


def test_retune_to_a_known_quota() -> None:
    """A quota that became known holds at once, and says so."""
    core = _core()
    changes = core.retune(5.0, RateLimitConfig(requests_per_minute=120, tokens_per_minute=6000))
    assert {(change.axis, change.new, change.reason) for change in changes} == {
        (Axis.REQUESTS, 2.0, Reason.RETUNED),
        (Axis.TOKENS, 100.0, Reason.RETUNED),
    }
    assert core.rate == 2.0


def test_retune_to_tighter_bounds_holds_at_once() -> None:
    """A lowered bound on rate or concurrency holds from this moment, for those under way it is too late."""
    core = _core(requests_per_minute=600, initial_concurrency=16)
    changes = core.retune(0.0, RateLimitConfig(max_requests_per_minute=60, initial_concurrency=2, max_concurrency=4))
    assert core.rate <= 1.0
    assert core.concurrency == 4.0
    assert {change.axis for change in changes} == {Axis.REQUESTS, Axis.CONCURRENCY}


def test_retune_to_a_higher_floor_holds_at_once() -> None:
    """A raised minimum lifts a rate that lies below it."""
    core = _core(requests_per_minute=60)
    core.retune(0.0, RateLimitConfig(min_requests_per_minute=600))
    assert core.rate >= 10.0


# --- what it says ----------------------------------------------------------------------------------------------------


def test_metrics_tell_the_truth() -> None:
    """A snapshot counts what happened and shows what holds."""
    core = _core(initial_concurrency=5)
    tickets = _submit(core, 0.0, 8)
    for ticket, signal in zip(tickets, (OK, OK, IGNORED, OVERLOADED), strict=False):
        core.settle(2.0, ticket, signal)
    metrics = core.metrics(2.0)
    assert (metrics.succeeded, metrics.ignored, metrics.overloaded, metrics.rate_limited) == (2, 1, 1, 0)
    assert (metrics.in_flight, metrics.queued, metrics.time_s) == (1, 3, 2.0)
    assert metrics.round_trip_s == pytest.approx(2.0)
    assert metrics.blocked_until_s is None
    assert metrics.requests_per_s == core.rate
    assert metrics.concurrency_limit == core.concurrency


def test_repr_tells_the_state() -> None:
    """One line answers: what is it doing now?"""
    core = _core(requests_per_minute=90, initial_concurrency=7)
    assert "90 requests/min" in repr(core)
    assert "0/7 in flight" in repr(core)
    assert "0 waiting" in repr(core)
    assert "unpaced" in repr(_core())


def test_every_change_joins_on() -> None:
    """The changes of an axis form a chain, whichever verb tells them: each starts where the one before ended."""
    core = _core(initial_concurrency=8)
    last = {Axis.REQUESTS: core.rate, Axis.CONCURRENCY: core.concurrency}
    now, flying, seen = 0.0, [], set()
    for number in range(3000):
        now += 0.05
        ticket = Ticket()
        if core.submit(now, ticket):
            flying.append(ticket)
        decisions = core.advance(now)
        flying += decisions.admitted
        changes = [*decisions.changes]
        while len(flying) > 4:
            ticket = flying.pop(0)
            changes += core.settle(now, ticket, LIMITED if number % 97 < 12 else OK)
        for change in changes:
            assert change.old == pytest.approx(last[change.axis])
            assert change.time_s == now
            last[change.axis] = change.new
            seen.add(change.reason)
    assert core.rate == last[Axis.REQUESTS] < math.inf
    assert core.concurrency == last[Axis.CONCURRENCY]
    assert {Reason.COOL_OFF, Reason.RATE_LIMITED, Reason.RECOVER} <= seen


def test_headers_do_not_lift_the_highest_rate() -> None:
    """Where headers show more to be left than the settings allow, the settings hold, before and after a retune."""
    core = _core(max_requests_per_minute=60.0)
    plenty = RateLimitSignal(Outcome.SUCCEEDED, limits=(AxisLimit(Axis.REQUESTS, 500.0, 400.0, 12.0),))
    first = Ticket()
    assert core.submit(0.0, first)
    core.settle(0.5, first, plenty)
    for most, until_s in ((60.0, 20.0), (120.0, 40.0)):
        core.retune(until_s - 20.0, RateLimitConfig(max_requests_per_minute=most))
        admitted, now = 0, until_s - 20.0
        while now < until_s:
            ticket = Ticket(deadline_s=now + 0.01)
            if core.submit(now, ticket):
                admitted += 1
                core.settle(now, ticket, RateLimitSignal(Outcome.IGNORED))
            core.advance(now + 0.01)
            now += 0.05
        assert admitted == pytest.approx(20.0 * most / 60.0, abs=2)


def test_a_refused_call_takes_nothing() -> None:
    """Whoever is refused may try again when the provider says: its turn is not lost, however slow the pace."""
    core = _core(requests_per_minute=6.0)
    (ticket,) = _submit(core, 0.0, 1)
    core.advance(0.0)
    core.settle(0.05, ticket, RateLimitSignal(Outcome.RATE_LIMITED, retry_after_s=0.1))
    core.submit(0.05, ticket)
    _drain(core, [ticket], 1.0)
    assert ticket.state is TicketState.ADMITTED, "one call in ten seconds is allowed, and none was made"


def test_a_small_quota_is_not_pestered() -> None:
    """Without a Retry-After the first pause is a second where calls are further apart, and then twice as long."""
    core, now, pauses = _core(requests_per_minute=6.0), 0.0, []
    (ticket,) = _submit(core, now, 1)
    for _ in range(4):
        core.settle(now, ticket, LIMITED)
        core.submit(now, ticket)
        _drain(core, [ticket], now + 60.0)
        pauses.append(ticket.admitted_s - now)
        now = ticket.admitted_s
    assert pauses == pytest.approx([1.0, 2.0, 4.0, 8.0])


# --- what it says ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axis", "bound"),
    [
        ("requests_per_minute", Bound.REQUESTS),
        ("input_tokens_per_minute", Bound.INPUT_TOKENS),
        ("output_tokens_per_minute", Bound.OUTPUT_TOKENS),
        ("tokens_per_minute", Bound.TOKENS),
    ],
)
def test_it_explains_which_quota_binds(axis: str, bound: Bound) -> None:
    """It names the axis, what is allowed a minute, since when, and who waits."""
    core = _core(**{axis: 60})
    _submit(core, 10.0, 3, input_tokens=1000, output_tokens=1000)
    metrics = core.metrics(14.0)
    assert metrics.binding is bound
    text = metrics.explain()
    assert f"quota of {bound.value.replace('_', ' ')} binds for 4 s: 60 a minute" in text
    assert "2 waiting, 1 in flight" in text


def test_it_explains_that_nothing_binds() -> None:
    """And what would send more."""
    core = _core()
    assert core.metrics(0.0).explain() == (
        "Nothing binds: calls go at once, and only more demand would send more. (0 waiting, 0 in flight)"
    )
    _submit(core, 5.0, 2)
    assert core.metrics(8.0).explain().startswith("Nothing binds for 3 s")
    assert "0 waiting, 2 in flight" in core.metrics(8.0).explain()


@pytest.mark.parametrize(
    ("most", "bound", "says"),
    [
        (9, Bound.CONCURRENCY, "Calls in flight bind for 0 s: 2 are let through"),
        (2, Bound.MAX_CONCURRENCY, "max_concurrency binds for 0 s: 2 calls are in flight"),
    ],
)
def test_it_explains_calls_in_flight(most: int, bound: Bound, says: str) -> None:
    """Whether it is what was learned, or what the settings allow, which somebody could change."""
    core = _core(initial_concurrency=2, max_concurrency=most)
    _submit(core, 1.0, 5)
    assert core.metrics(1.0).binding is bound
    assert core.metrics(1.0).explain().startswith(says)


def test_it_explains_the_gate() -> None:
    """How long it has been shut, and when somebody tries again."""
    core = _core(requests_per_minute=600)
    (ticket,) = _submit(core, 0.0, 1)
    core.settle(0.0, ticket, RateLimitSignal(Outcome.RATE_LIMITED, retry_after_s=9.0))
    _submit(core, 0.0, 1)
    assert core.metrics(0.05).binding is Bound.GATE
    assert "the gate has been shut for 0 s; one call tries again in 1.9 s" in core.metrics(0.05).explain()


def test_it_explains_an_inquiry() -> None:
    """A surprise is being asked about: who waits, waits for news."""
    core = _core()
    (ticket,) = _submit(core, 0.0, 1)
    core.settle(1.0, ticket, LIMITED)
    asking = _submit(core, 1.0, 5)
    assert len(_admitted(asking)) == 3
    assert core.metrics(1.0).binding is Bound.INQUIRY
    assert "asking whether it was noise" in core.metrics(1.0).explain()


def test_it_explains_the_breaker() -> None:
    """What to do about it, and by which name."""
    core = _core()
    (ticket,) = _submit(core, 0.0, 1)
    core.settle(1.0, ticket, EXHAUSTED)
    assert core.metrics(1.0).binding is Bound.BREAKER
    assert "call reset_breaker()" in core.metrics(1.0).explain()


def test_it_explains_noise() -> None:
    """One call in fifty rejected without a cause: it is recognised, said, and costs hardly anything."""
    luck = Random(7)
    crowd = Crowd(_core(), lambda _: LIMITED if luck.random() < 0.02 else OK)
    crowd.run(300.0)
    metrics = crowd.core.metrics(300.0)
    assert metrics.noise
    assert "rejections without a cause are being ignored" in metrics.explain()


# --- the way out -----------------------------------------------------------------------------------------------------


def test_reset_breaker_closes_it_at_once() -> None:
    """Somebody has paid: calls go again without waiting for the next try, and it is told."""
    core = _core(breaker_s=3600.0)
    (ticket,) = _submit(core, 0.0, 1)
    core.settle(1.0, ticket, EXHAUSTED)
    assert not core.submit(2.0, Ticket())
    (change,) = core.reset_breaker(3.0)
    assert (change.reason, change.old, change.new) == (Reason.BREAKER_CLOSED, 0.0, core.rate)
    assert core.submit(3.0, Ticket())
    assert not core.metrics(3.0).breaker_open
    assert core.reset_breaker(4.0) == (), "nothing to close"


def test_a_full_line_sheds_the_lowest_priority() -> None:
    """``max_queue`` holds, also after a retune; whoever is shed is told by the next advance."""
    core = _core(initial_concurrency=1, max_concurrency=1, max_queue=2)
    _, first, second = _submit(core, 0.0, 3)
    (urgent,) = _submit(core, 1.0, 1, priority=1)
    assert (second.state, second.refusal) == (TicketState.REFUSED, Refusal.QUEUE_FULL)
    assert core.advance(1.0).refused == [second]
    (late,) = _submit(core, 2.0, 1)
    assert (late.state, late.refusal) == (TicketState.REFUSED, Refusal.QUEUE_FULL)
    core.retune(3.0, RateLimitConfig(max_queue=3))
    (late,) = _submit(core, 3.0, 1)
    assert [one.state for one in (first, urgent, late)] == [TicketState.WAITING] * 3


# --- nonsense --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("used", [math.nan, math.inf, -math.inf, -5.0, 1e9, 1e300])
def test_senseless_usage_holds_nobody_up_for_longer_than_the_cap(used: float, told: bool) -> None:
    """One answer that says it used a thousand million tokens, or none that can be: the line moves within the cap."""
    core = _core(tokens_per_minute=60_000, cool_off_cap_s=60.0)
    tokens = {"input_tokens": 500, "output_tokens": 500} if told else {}
    usual = RateLimitSignal(Outcome.SUCCEEDED, input_tokens=500, output_tokens=500)
    _pump(core, 0.0, 30.0, usual, **tokens)
    (odd,) = _submit(core, 40.0, 1, **tokens)
    core.advance(40.0)
    core.settle(41.0, odd, RateLimitSignal(Outcome.SUCCEEDED, input_tokens=used, output_tokens=used))
    late = _submit(core, 41.0, 3, **tokens)
    _drain(core, late, 41.0 + 60.0 + 3.0)
    assert _admitted(late)


def test_the_largest_usage_that_is_believed_is_a_debt_of_the_cap() -> None:
    """Ten million tokens may be true: those who come after wait for them, but no longer than the cap."""
    core = _core(tokens_per_minute=60_000, cool_off_cap_s=60.0)
    (odd,) = _submit(core, 0.0, 1, input_tokens=500, output_tokens=500)
    core.settle(1.0, odd, RateLimitSignal(Outcome.SUCCEEDED, input_tokens=9_900_000, output_tokens=0))
    late = _submit(core, 1.0, 1, input_tokens=500, output_tokens=500)
    _drain(core, late, 1.0 + 60.0 + 1.0)
    assert _admitted(late)
