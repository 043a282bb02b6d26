"""Calls in flight: slow start, what a rejection says of them, and how they are probed for."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.ratelimit.slots import SlotRule
from factflow_llm.signals import Reason

PLENTY = 100


def _rule(slots: int = 16) -> SlotRule:
    return SlotRule(RateLimitConfig(initial_concurrency=slots))


def _proved(slots: int = 12) -> SlotRule:
    """Return a rule under which many calls were let through, the highest as the ``slots``-th."""
    rule = _rule()
    for _ in range(PLENTY):
        rule.let_through(slots)
    return rule


def test_slots_start_slow_and_grow_by_one_per_success() -> None:
    """While nothing was rejected, every success of a full house adds a slot: doubling per round trip."""
    rule = _rule(4)
    reasons = [rule.step(now=1.0, round_trip_s=1.0) for _ in range(4)]
    assert rule.limit == 8.0
    assert set(reasons) == {Reason.SLOW_START}


def test_slots_stop_at_the_configured_number() -> None:
    """No slow start and no recovery leads above max_concurrency."""
    rule = SlotRule(RateLimitConfig(initial_concurrency=4, max_concurrency=6))
    for now in range(100):
        rule.step(float(now), 1.0)
    assert rule.limit == 6.0
    assert rule.step(100.0, 1.0) is None


def test_a_rejection_where_more_were_let_through_is_not_about_slots() -> None:
    """Twelve at once passed, so the refusal of the tenth has another reason."""
    rule = _proved(12)
    assert not rule.blames(10)
    assert not rule.blames(12)


def test_a_rejection_at_the_limit_is() -> None:
    """Many passed below, none as high as this one, and the limit stood there: it speaks of slots."""
    rule = _proved(15)
    assert rule.blames(16)


def test_a_rejection_above_where_the_limit_stood_is_too() -> None:
    """From 8 slots to 9, 11 and 15: who is refused as the 12th was let in by the last stride, and that is to blame."""
    rule = _proved(8)
    rule.cut(0.0, 9, 1.0)
    for now in (100.0, 102.0, 104.0):
        rule.step(now, 1.0)
    assert rule.limit == 15.0
    rule.new_epoch()
    for _ in range(PLENTY):
        rule.let_through(11)
    assert rule.blames(12)


def test_a_rejection_of_the_rate_lets_slots_grow_fast() -> None:
    """A number within which the rate was refused is no evidence of slots: silence and answers make room again."""
    rule = _proved(12)
    rule.cut(0.0, 13, 1.0)
    rule.let_through(12)
    assert not rule.blames(10)
    assert rule.step(0.1, 1.0) is Reason.SLOW_START


def test_slots_fall_below_the_rejected_one() -> None:
    """The 13th call in flight was refused while smaller numbers passed: 12 it is."""
    rule = _proved(12)
    assert rule.cut(5.0, 13, 1.0) is Reason.RATE_LIMITED
    assert rule.limit == 12.0


def test_slots_hold_before_they_probe() -> None:
    """After a cut the number stays for a while, then one more is tried."""
    rule = _proved(12)
    rule.cut(5.0, 13, 1.0)
    assert rule.step(5.1, 1.0) is None
    assert rule.limit == 12.0
    assert rule.step(5.0 + 3600.0, 1.0) is Reason.PROBE
    assert rule.limit == 13.0


def test_what_was_admitted_before_a_cut_is_no_evidence_after_it() -> None:
    """A new epoch knows nothing of what was let through: too little to blame anybody."""
    rule = _proved(12)
    rule.new_epoch()
    assert not rule.blames(16)


def test_a_wrong_suspicion_gives_the_slots_back() -> None:
    """When cutting the number let nothing through, it was not the number: the limit is what it was."""
    rule = _proved(15)
    assert rule.blames(16)
    rule.cut(5.0, 16, 1.0)
    rule.new_epoch()
    assert not rule.blames(15)
    assert rule.limit == 16.0


def test_slots_find_a_grown_number() -> None:
    """When the provider's slots multiply, probing turns into recovery and finds them."""
    rule = _proved(8)
    rule.cut(0.0, 9, 1.0)
    now = 0.0
    while rule.limit < 64.0:
        now += 1.0
        assert now < 600.0, f"still at {rule.limit:g}"
        rule.step(now, 1.0)


def test_slots_take_a_smaller_bound_at_once() -> None:
    """A lowered max_concurrency holds from the moment it is set; a raised one changes nothing yet."""
    rule = _rule()
    rule.retune(RateLimitConfig(initial_concurrency=2, max_concurrency=5))
    assert rule.limit == 5.0
    rule.retune(RateLimitConfig(initial_concurrency=2, max_concurrency=500))
    assert rule.limit == 5.0


def test_slots_given_back_respect_a_new_bound() -> None:
    """A suspicion that proves wrong after max_concurrency was lowered gives back no more than is allowed now."""
    rule = _proved(15)
    rule.blames(16)
    rule.cut(5.0, 16, 1.0)
    rule.retune(RateLimitConfig(initial_concurrency=2, max_concurrency=5))
    rule.blames(5)
    assert rule.limit == 5.0


events = st.lists(
    st.tuples(st.sampled_from(["reject", "step", "admit", "epoch"]), st.floats(0, 50), st.integers(1, 40)), max_size=90
)


@given(events, st.integers(1, 64))
def test_slots_stay_within_their_bounds(history: list[tuple[str, float, int]], top: int) -> None:
    """Whatever comes, in whatever order: at least one, at most the configured number."""
    rule = SlotRule(RateLimitConfig(initial_concurrency=1, max_concurrency=top))
    now = 0.0
    for what, pause, in_flight in history:
        now += pause
        if what == "reject":
            if rule.blames(in_flight):
                rule.cut(now, in_flight, pause)
        elif what == "step":
            rule.step(now, pause)
        elif what == "admit":
            for _ in range(10):
                rule.let_through(in_flight)
        else:
            rule.new_epoch()
        assert 1.0 <= rule.limit <= top


def test_slots_grow_in_silence() -> None:
    """Where answers take minutes, a second without a refusal lets one more go, and then twice as many every second."""
    rule = _rule(16)
    assert rule.grows_at(10.0) == 11.0
    now = 11.0
    while rule.limit < 32.0:
        assert rule.grow(now) is Reason.SLOW_START
        now = rule.grows_at(now)
    assert now == pytest.approx(11.0 + math.log(2.0), abs=0.05)


def test_slots_do_not_grow_in_silence_once_there_is_evidence() -> None:
    """After a refusal or overload only answers make room; nor does silence lead above the configured number."""
    cut, tired = _proved(), _rule()
    cut.cut(1.0, 13, 1.0)
    tired.overloaded(16)
    assert cut.grows_at(2.0) == tired.grows_at(2.0) == math.inf
    full = SlotRule(RateLimitConfig(initial_concurrency=4, max_concurrency=4))
    assert full.grows_at(2.0) == math.inf


def test_overload_takes_a_tenth_and_gives_it_back() -> None:
    """Trouble at the provider costs a tenth of the calls in flight; the first answers of a full house win it back."""
    rule = _rule(100)
    assert rule.overloaded(79) is Reason.OVERLOADED
    assert rule.limit == 72.0
    for now in range(4):
        rule.step(float(now), 1.0)
    assert rule.limit >= 80.0
