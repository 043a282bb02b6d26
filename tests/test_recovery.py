"""Recovery is bounded in time: from any history, a provider that admits everything is soon sent more and more.

The promise that is tested, with demand always waiting and answers after half a second:

- Within ``BACK_S`` of the provider admitting everything, at least ``RATE_PER_S`` calls a second are sent. That is one
  pause of the gate, at most the cap of two minutes; a minute until headers that have ceased are given up, and a cap's
  wait before the call that finds it out; and a search that doubles every four seconds from one call in two minutes.
- What was measured over many calls is sound, and is left once more is admitted than it explains: two climbs of 60 calls
  at the measured rate, which for a quota of one call in five seconds are ten minutes.
- A provider that rejects everything is sent, after four round trips, at most 30 calls in the next minute and 24 in the
  nine minutes after it: a handful per pause, and pauses double.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.ratelimit.core import LimiterCore
from factflow_llm.ratelimit.line import Ticket, TicketState
from factflow_llm.signals import Axis, AxisLimit, Outcome, RateLimitSignal
from tests.support.crowd import SERVED, Bucket, Crowd

ROUND_TRIP_S = 0.5
RATE_PER_S = 20
BACK_S = 300
LATER_S = 60
DEMAND = 30
"""Calls under way at most: 60 a second."""

nonsense = st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-300, 1e9, 1e13, 1e308])
figures = st.none() | nonsense | st.floats(0, 1000)
headers = st.lists(st.builds(AxisLimit, st.sampled_from(Axis), figures, figures, figures), max_size=3).map(tuple)
usages = st.none() | nonsense | st.integers(0, 5000)
served = st.builds(RateLimitSignal, st.just(Outcome.SUCCEEDED), st.none(), st.none(), usages, usages, headers)
rejected = st.builds(
    RateLimitSignal,
    st.just(Outcome.RATE_LIMITED),
    figures,
    st.none() | st.sampled_from(Axis),
    limits=headers,
)
failed = st.sampled_from([RateLimitSignal(Outcome.OVERLOADED), RateLimitSignal(Outcome.IGNORED)])
tunings = st.builds(
    RateLimitConfig,
    decrease=st.floats(0.3, 0.99),
    probe_s=st.floats(1, 60),
    initial_concurrency=st.integers(1, 64),
    cool_off_s=st.floats(0.01, 5),
)


@dataclass(frozen=True)
class Chapter:
    """So many seconds in which calls are answered by turns as listed; nobody comes where there are no answers."""

    seconds: float
    answers: list[RateLimitSignal]
    cancelled: int
    retuned: RateLimitConfig | None


histories = st.lists(
    st.builds(
        Chapter,
        st.floats(0.1, 45),
        st.lists(served | rejected | failed, max_size=6),
        st.integers(0, 10),
        st.none() | tunings,
    ),
    max_size=4,
)


def _lived(history: list[Chapter]) -> Crowd:
    """Return a crowd before a limiter that has gone through all that."""
    answers = [SERVED]
    turn = 0

    def answer(now: float) -> RateLimitSignal:
        nonlocal turn
        turn += 1
        return answers[turn % len(answers)]

    crowd = Crowd(LimiterCore(RateLimitConfig()), answer, took_s=ROUND_TRIP_S, at_once=DEMAND)
    for chapter in history:
        answers = chapter.answers or [SERVED]
        until_s = crowd.now + chapter.seconds
        if chapter.answers:
            crowd.run(until_s)
        else:
            crowd.pause(until_s)
        _give_up(crowd, chapter.cancelled)
        if chapter.retuned is not None:
            crowd.core.retune(crowd.now, chapter.retuned)
    return crowd


def _give_up(crowd: Crowd, count: int) -> None:
    """Let so many more come and leave, whether they wait or are under way."""
    tickets = [Ticket() for _ in range(count)]
    for ticket in tickets:
        crowd.core.submit(crowd.now, ticket)
    for ticket in tickets:
        crowd.core.cancel(crowd.now, ticket)
        assert ticket.state in (TicketState.CANCELLED, TicketState.SETTLED)


def _odd(limit: float, remaining: float, reset_s: float, axis: Axis = Axis.TOKENS) -> RateLimitSignal:
    return SERVED._replace(limits=(AxisLimit(axis, limit, remaining, reset_s),))


slow = settings(
    max_examples=12,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@given(histories)
@example([Chapter(1.0, [_odd(50.0, 0.0, 1e9)], 0, None)])
@example([Chapter(1.0, [_odd(3.0, 0.0, 80_000.0, Axis.REQUESTS)], 0, None)])
@example([Chapter(90.0, [RateLimitSignal(Outcome.RATE_LIMITED, 1e9)], 0, None)] * 4)
@example([Chapter(60.0, [RateLimitSignal(Outcome.OVERLOADED)], 0, None)])
@example([Chapter(1.0, [SERVED], 0, None), Chapter(90.0, [], 0, None)])
@slow
def test_from_any_history_calls_flow_again(history: list[Chapter]) -> None:
    """Whatever was answered, shown, told, retuned, cancelled: within five minutes twenty calls a second are sent."""
    crowd = _lived(history)
    crowd.answer = lambda now: SERVED
    healed_s = crowd.now
    sent = 0
    while sent < 5 * RATE_PER_S:
        since_s = crowd.now
        assert since_s < healed_s + BACK_S, crowd.core
        crowd.run(since_s + 5.0)
        sent = crowd.sent_between(since_s, crowd.now)


@given(histories)
@slow
def test_a_provider_that_rejects_everything_is_left_alone(history: list[Chapter]) -> None:
    """After four round trips to find out: a handful of calls per pause, and pauses double up to two minutes."""
    crowd = _lived(history)
    crowd.answer = lambda now: RateLimitSignal(Outcome.RATE_LIMITED)
    shut_s = crowd.now + 4.0 * ROUND_TRIP_S
    crowd.run(shut_s + 600.0)
    assert crowd.sent_between(shut_s, shut_s + LATER_S) <= 30, crowd.core
    assert crowd.sent_between(shut_s + LATER_S, shut_s + 600.0) <= 24, crowd.core


@pytest.mark.parametrize("told_s", [None, 1.0, 3600.0])
@pytest.mark.parametrize("quota", [0.2, 1.0, 5.0])
def test_a_sound_belief_is_left_once_more_is_admitted_than_it_explains(quota: float, told_s: float | None) -> None:
    """A measured quota that is lifted: after two climbs and two minutes at most, twenty calls a second are sent."""
    crowd = Crowd(LimiterCore(RateLimitConfig()), Bucket(quota, retry_after_s=told_s), at_once=DEMAND)
    crowd.run(100.0 + 60.0 / quota)
    assert crowd.core.rate == pytest.approx(quota, rel=0.2)
    crowd.answer, lifted_s = lambda now: SERVED, crowd.now
    crowd.run(lifted_s + 2.0 * max(10.0, 60.0 / quota) + 120.0)
    assert crowd.sent_between(crowd.now - 5.0, crowd.now) >= 5 * RATE_PER_S, crowd.core
