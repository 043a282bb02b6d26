"""Quotas and their meters, against waits and headers that real providers have shown."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from factflow_llm.signals import Axis
from simulators.providers.calls import Call, CallKind, Estimate, Settlement
from simulators.providers.catalogue import Provider
from simulators.providers.machine import ProviderMachine
from simulators.providers.quotas import Bucket, FixedWindow, Quota, Ramp, SlidingWindow, Slots, Utilisation
from simulators.streams import Streams

WINDOWED: list[Quota] = [
    Bucket(limit=10, per_s=60),
    Bucket(limit=60, per_s=60, burst_s=6),
    FixedWindow(limit=10, per_s=60),
    FixedWindow(limit=60, per_s=60, enforced_over_s=10, phase_s=3),
    SlidingWindow(limit=10, per_s=60),
    SlidingWindow(limit=60, per_s=60, enforced_over_s=10),
]


@pytest.mark.parametrize(
    ("limit", "per_s", "used", "requested", "wait_s"),
    [
        (30_000, 60, 25_120, 7_868, 5.976),
        (30_000, 60, 14_567, 24_754, 18.642),
        (10_000, 60, 8_554, 3_082, 9.816),
        (30_000, 60, 29_937, 385, 0.644),
        (10_000, 60, 9_348, 5_086, 26.604),
        (3, 60, 3, 1, 20.0),
        (500, 60, 500, 1, 0.12),
        (200, 86_400, 200, 1, 432.0),
    ],
)
def test_a_bucket_waits_as_the_messages_of_openai_say(
    limit: float, per_s: float, used: float, requested: float, wait_s: float
) -> None:
    """Seven captured 429 messages and a daily limit name the wait that a continuously refilled bucket predicts."""
    meter = Bucket(limit=limit, per_s=per_s).meter()
    meter.charge(1000.0, used)
    assert meter.wait_s(1000.0, requested) == pytest.approx(wait_s, abs=5e-4)


@pytest.mark.parametrize(
    ("limit", "per_s", "remaining", "reset_s"),
    [
        (200_000, 60, 199_971, 0.0087),
        (40_000, 60, 39_921, 0.1185),
        (10_000, 86_400, 9_999, 8.64),
        (200, 86_400, 199, 432.0),
        (1_500_000, 86_400, 43_244, 83_909.1456),
    ],
)
def test_a_bucket_resets_as_captured_headers_say(limit: float, per_s: float, remaining: float, reset_s: float) -> None:
    """What is shown as reset is the time until the bucket is full, as captured headers have it."""
    meter = Bucket(limit=limit, per_s=per_s).meter()
    meter.charge(0.0, limit - remaining)
    assert meter.show(0.0) == pytest.approx((limit, remaining, reset_s), abs=1e-3)


@pytest.mark.parametrize("quota", WINDOWED, ids=repr)
@given(gaps=st.lists(st.floats(0, 20), min_size=1, max_size=60), factor=st.sampled_from([0.5, 1.0, 3.0]))
def test_waiting_as_told_is_enough_and_needed(quota: Quota, gaps: list[float], factor: float) -> None:
    """At the moment a meter names it admits, and half a millisecond earlier it does not."""
    meter = quota.meter()
    meter.scale(0.0, factor)
    now = 12_345.0
    for gap in gaps:
        now += gap
        wait_s = meter.wait_s(now, 1.0)
        if wait_s > 1e-3:
            assert meter.wait_s(now + wait_s - 5e-4, 1.0) > 0
        if wait_s:
            now += wait_s
            assert meter.wait_s(now, 1.0) == 0.0
        meter.charge(now, 1.0)


@pytest.mark.parametrize("quota", WINDOWED, ids=repr)
@given(gaps=st.lists(st.floats(0, 5), min_size=1, max_size=200))
def test_no_meter_admits_more_than_its_quota(quota: Quota, gaps: list[float]) -> None:
    """Whatever the arrivals, what is admitted stays within rate times time plus what may come at once."""
    meter = quota.meter()
    start = now = 500.0
    admitted = 0
    for gap in gaps:
        now += gap
        if not meter.wait_s(now, 1.0):
            meter.charge(now, 1.0)
            admitted += 1
    at_once = (
        quota.limit
        * (getattr(quota, "burst_s", None) or getattr(quota, "enforced_over_s", None) or quota.per_s)
        / quota.per_s
    )
    windows = 1 if isinstance(quota, Bucket) else 2
    assert admitted <= meter.rate * (now - start) + windows * at_once + 1e-6


@pytest.mark.parametrize("quota", WINDOWED, ids=repr)
def test_a_call_larger_than_the_quota_never_fits(quota: Quota) -> None:
    """An unused meter answers a wait of infinity to what exceeds its size."""
    assert math.isinf(quota.meter().wait_s(0.0, 61.0))


def test_a_fixed_window_empties_at_its_phase() -> None:
    """The counter falls to zero at multiples of the window after its phase, not a window after the first call."""
    meter = FixedWindow(limit=2, per_s=60, phase_s=10).meter()
    meter.charge(69.0, 2)
    assert meter.wait_s(69.0, 1) == pytest.approx(1.0)
    assert meter.wait_s(70.0, 1) == 0.0


@pytest.mark.parametrize("make", [Bucket, FixedWindow, SlidingWindow])
def test_a_derated_quota_admits_and_shows_less(make: type[Quota]) -> None:
    """Under pressure a share of the quota is in force, as Azure says of its pools; headers show that share."""
    meter = make(limit=10, per_s=60, derating=0.6).meter()
    admitted = 0
    while not meter.wait_s(0.0, 1.0):
        meter.charge(0.0, 1.0)
        admitted += 1
    assert admitted == 6
    assert meter.show(0.0)[:2] == pytest.approx((6.0, 0.0))
    assert make(limit=10, per_s=60, derating=0.6).units_per_s == pytest.approx(0.1)


def test_a_sliding_window_forgets_call_by_call() -> None:
    """Room returns exactly a window after each charge, not all at once."""
    meter = SlidingWindow(limit=2, per_s=60).meter()
    meter.charge(0.0, 1)
    meter.charge(30.0, 1)
    assert meter.wait_s(31.0, 1) == pytest.approx(29.0)
    assert meter.wait_s(31.0, 2) == pytest.approx(59.0)


def test_a_quantised_limit_allows_a_tenth_of_a_minute_per_six_seconds() -> None:
    """600 per minute enforced over 10 s admits 100 at once and says so by its header's limit of 600."""
    meter = FixedWindow(limit=600, per_s=60, enforced_over_s=10).meter()
    meter.charge(0.0, 100)
    assert meter.wait_s(0.0, 1) == pytest.approx(10.0)
    assert meter.show(0.0)[0] == 600


def test_slots_are_taken_and_returned() -> None:
    """A full house answers the constant; a call that ends makes room."""
    meter = Slots(limit=2, retry_after_s=1.5).meter()
    receipt = meter.charge(0.0, 1)
    meter.charge(0.0, 1)
    assert meter.wait_s(0.0, 1) == 1.5
    meter.correct(1.0, receipt, -1)
    assert meter.wait_s(1.0, 1) == 0.0


def test_slots_never_fall_below_one() -> None:
    """A quota of slots scaled down far still runs one call."""
    meter = Slots(limit=4).meter()
    meter.scale(0.0, 0.01)
    assert meter.wait_s(0.0, 1) == 0.0


def test_provisioned_throughput_overflows_by_one_call_and_drains() -> None:
    """Utilisation at or under 100 % admits anything; above it nothing until it has drained to 100 %."""
    meter = Utilisation(axis=Axis.TOKENS, limit=6_000, per_s=60).meter()
    assert meter.wait_s(0.0, 9_000) == 0.0
    meter.charge(0.0, 9_000)
    assert meter.wait_s(0.0, 1) == pytest.approx(30.0)
    assert meter.wait_s(30.0, 50_000) == 0.0


def test_a_settlement_gives_back_what_was_not_used() -> None:
    """Correcting a provisioned call to what it really used makes room at once."""
    meter = Utilisation(axis=Axis.TOKENS, limit=6_000, per_s=60).meter()
    receipt = meter.charge(0.0, 9_000)
    meter.correct(1.0, receipt, -8_000)
    assert meter.wait_s(1.0, 1) == 0.0


def test_refunds_of_a_window_that_has_passed_change_nothing() -> None:
    """A fixed window gives back only what it counts; what was charged to an earlier window is gone."""
    meter = FixedWindow(axis=Axis.TOKENS, limit=100, per_s=60).meter()
    receipt = meter.charge(0.0, 100)
    meter.charge(61.0, 40)
    meter.correct(62.0, receipt, -90)
    assert meter.show(62.0)[1] == 60


@given(units=st.floats(0.1, 500), refused=st.integers(1, 20))
def test_penalties_take_what_is_left_and_no_more(units: float, refused: int) -> None:
    """Refused calls that count can empty a bucket but never push it into debt."""
    meter = Bucket(limit=100, per_s=60).meter()
    for _ in range(refused):
        meter.penalise(0.0, units)
    assert meter.show(0.0)[1] == pytest.approx(max(100 - refused * units, 0.0), abs=1e-6)
    assert meter.wait_s(0.0, 100) <= 60.0 + 1e-9


def test_a_ramp_limit_allows_half_as_much_again_as_before() -> None:
    """After a minute of 100 units the next may have 150, and a long calm takes the allowance back to the floor."""
    meter = Ramp(axis=Axis.TOKENS, limit=10, per_s=60, growth=1.5, memory_s=120).meter()
    meter.charge(0.0, 100)
    assert meter.wait_s(60.0, 150) == 0.0
    meter.charge(60.0, 150)
    assert meter.wait_s(60.0, 1) == pytest.approx(60.0)
    meter.charge(1000.0, 10)
    assert meter.wait_s(1000.0, 1) == pytest.approx(20.0)


def test_halving_keeps_the_level_as_far_as_it_fits() -> None:
    """A bucket cut in half keeps its tokens up to the new brim and refills half as fast."""
    meter = Bucket(limit=600, per_s=60).meter()
    meter.charge(0.0, 400)
    meter.scale(0.0, 0.5)
    assert meter.show(0.0)[:2] == pytest.approx((300, 200))
    meter.scale(0.0, 1.0)
    assert meter.show(0.0)[:2] == pytest.approx((600, 200))


@pytest.mark.parametrize(
    ("estimate", "call", "units"),
    [
        (Estimate.SUM, Call(0, 20, 0, 100), 120),
        (Estimate.SUM, Call(0, 13, 0, None), 29),
        (Estimate.MAX, Call(0, 20, 0, 100), 100),
        (Estimate.MAX, Call(0, 200, 0, 100), 200),
        (Estimate.INPUT, Call(0, 20, 0, 100), 20),
        (Estimate.OUTPUT, Call(0, 20, 0, None), 16),
        (Estimate.SUM, Call(0, 6, 0, None, CallKind.EMBEDDING), 6),
        (Estimate.OUTPUT, Call(0, 6, 0, None, CallKind.EMBEDDING), 6),
    ],
)
def test_estimates_cost_what_their_rule_says(estimate: Estimate, call: Call, units: float) -> None:
    """Sum, maximum, input and output rules price a call; embeddings have no output under any."""
    rule = Bucket(axis=Axis.TOKENS, limit=1000, estimate=estimate).cost_rule()
    assert rule is not None
    assert rule(call) == units


def test_bedrock_reserves_the_maximum_and_burns_output_fivefold() -> None:
    """Reservation is input plus max_tokens; settlement is input plus five times the output."""
    quota = Bucket(
        axis=Axis.TOKENS,
        limit=1e6,
        output_weight=5,
        weighs_reservation=False,
        settlement=Settlement.AT_END,
    )
    cost, final = quota.cost_rule(), quota.final_rule()
    assert cost is not None
    assert final is not None
    assert cost(Call(0, 1000, 200, 4000)) == 5000
    assert final(Call(0, 1000, 200, 4000), 200) == 2000


def test_cached_input_is_free_where_the_provider_says_so() -> None:
    """Anthropic's input meter does not charge what is read from the cache."""
    rule = Bucket(axis=Axis.INPUT_TOKENS, limit=1000, cached_input_counts=False).cost_rule()
    assert rule is not None
    assert rule(Call(0, 500, 0, 100, cached_input_tokens=450)) == 50


def test_realtime_output_costs_nothing_before_it_is_written() -> None:
    """Real-time output meters charge at the end, by what was produced."""
    quota = Bucket(axis=Axis.OUTPUT_TOKENS, limit=1000, settlement=Settlement.REALTIME)
    cost, final = quota.cost_rule(), quota.final_rule()
    assert cost is not None
    assert final is not None
    assert (cost(Call(0, 10, 70, 4000)), final(Call(0, 10, 70, 4000), 70)) == (0, 70)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Bucket(limit=0), ["greater than 0"]),
        (lambda: Bucket(limit=math.nan), ["finite"]),
        (lambda: Bucket(limit=5, per_minute=3), ["per_minute", "not permitted"]),
        (lambda: Bucket(limit=30, per_s=60, burst_s=1), ["0.5 requests", "burst_s", "at least 2"]),
        (lambda: FixedWindow(limit=3, per_s=60, enforced_over_s=10), ["0.5 requests", "at least 20"]),
        (lambda: SlidingWindow(limit=60, per_s=60, enforced_over_s=90), ["enforced_over_s = 90", "per_s = 60"]),
        (lambda: Bucket(limit=5, estimate="max"), ["estimate", "requests"]),
        (lambda: Bucket(limit=5, axis="concurrency"), ["slots"]),
        (lambda: Slots(limit=0.5), ["0.5", "at least 1"]),
        (lambda: Slots(limit=5, axis="tokens"), ["concurrency"]),
        (lambda: Ramp(limit=5, growth=1), ["greater than 1"]),
    ],
)
def test_contradictions_name_value_bound_and_remedy(build: object, words: list[str]) -> None:
    """What makes no sense is refused when it is written down, in words that help."""
    assert callable(build)
    with pytest.raises(ValidationError) as error:
        build()
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("quota", "wait_s"),
    [
        (Bucket(limit=60, used_share=1.0), 1.0),
        (Bucket(limit=60, used_share=0.5), 0.0),
        (FixedWindow(limit=60, phase_s=20.0, used_share=1.0), 20.0),
        (SlidingWindow(limit=60, used_share=1.0), 60.0),
    ],
)
def test_others_may_have_used_a_quota_up(quota: Quota, wait_s: float) -> None:
    """What was used before the start comes back as if we had used it."""
    machine = ProviderMachine(Provider(quotas=(quota,)), Streams(0))
    assert machine.wait_s(0.0, Call(0, 1)) == pytest.approx(wait_s)


def test_slots_cannot_be_used_up_for_ever() -> None:
    """Nobody would ever give them back."""
    with pytest.raises(ValidationError, match=r"used_share = 0.5 does not go with kind = .slots."):
        Slots(limit=4, used_share=0.5)
