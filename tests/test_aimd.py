"""The rule by which a limit moves, against a quota that answers at once: no queue, no latency, no event loop."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factflow_llm.ratelimit.aimd import Mode, RateRule, SlotRule
from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.ratelimit.signals import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

CONFIG = RateLimitConfig()


@dataclass
class _World:
    """Calls of one unit, sent as fast as rule and demand allow, to a bucket that refuses what does not fit."""

    rule: RateRule
    quota: Callable[[float], float]
    demand: float = 50.0
    burst: float = 3.0
    now: float = 0.0
    sent: float = 0.0
    admitted: int = 0
    rejected: int = 0
    level: float = field(init=False)

    def __post_init__(self) -> None:
        self.level = self.burst

    def run(self, until_s: float) -> None:
        self.admitted = self.rejected = 0
        while self.now < until_s:
            limited = self.rule.rate < self.demand
            pause = 1.0 / min(self.rule.rate, self.demand)
            self.now += pause
            self.level = min(self.burst, self.level + pause * self.quota(self.now))
            self.sent += 1.0
            if self.level >= 1.0:
                self.level -= 1.0
                self.admitted += 1
                if self.now >= self.rule.next_step_s:
                    self.rule.step(self.now, self.sent, limited=limited)
            else:
                self.rejected += 1
                self.rule.cut(self.now, self.sent, 1.0)
                self.now += 0.1


def _open(config: RateLimitConfig = CONFIG) -> RateRule:
    return RateRule(config, now=0.0)


# --- a rate ----------------------------------------------------------------------------------------------------------


def test_open_until_there_is_evidence() -> None:
    """Without evidence there is no limit, and no number of successes makes one."""
    world = _World(_open(), quota=lambda _: 1000.0)
    world.run(60.0)
    assert world.rejected == 0
    assert (world.rule.mode, world.rule.rate, world.rule.ceiling) == (Mode.OPEN, math.inf, math.inf)


def test_a_known_quota_is_where_it_starts() -> None:
    """Who knows the quota need not search."""
    rule = RateRule(CONFIG, now=0.0, ceiling=8.0)
    assert (rule.rate, rule.ceiling) == (8.0, 8.0)
    assert rule.mode is not Mode.OPEN


@pytest.mark.parametrize("burst", [1.0, 3.0, 30.0])
@pytest.mark.parametrize("quota", [0.2, 1.0, 10.0, 40.0])
def test_the_ceiling_is_measured(quota: float, burst: float) -> None:
    """Between two rejections the provider admits its quota, whatever its burst: that is the ceiling, within a tenth."""
    world = _World(_open(), quota=lambda _: quota, burst=burst)
    world.run(600.0 + 100.0 / quota)
    assert world.rule.ceiling == pytest.approx(quota, rel=0.1)
    world.run(world.now + 1200.0)
    assert world.admitted >= 0.88 * quota * 1200.0
    assert world.rejected <= 0.05 * world.admitted


def test_a_first_cut_gives_a_finite_rate_near_what_was_admitted() -> None:
    """One rejection is enough to know the order of magnitude."""
    world = _World(_open(), quota=lambda _: 10.0)
    while world.rejected == 0:
        world.run(world.now + 0.02)
    assert world.rule.mode is not Mode.OPEN
    assert 1.0 <= world.rule.rate <= 50.0


def test_nothing_moves_while_demand_binds() -> None:
    """A limit that held nobody back learns nothing from success, however long."""
    rule = RateRule(CONFIG, now=0.0, ceiling=8.0)
    before = rule.rate
    for second in range(1, 3600):
        assert rule.step(float(second), 2.0 * second, limited=False) is None
    assert rule.rate == before


def test_the_climb_is_gradual_and_only_up() -> None:
    """While the limit binds and nobody is rejected, the rate rises from below the ceiling, step by step."""
    rule = RateRule(CONFIG, now=0.0, ceiling=10.0)
    rule.cut(10.0, 100.0, 1.0)
    rates, now, sent = [rule.rate], 10.0, 100.0
    assert rates[0] < rule.ceiling
    for _ in range(20):
        now = rule.next_step_s
        sent += rule.rate * (now - 10.0) / 20
        rule.step(now, sent, limited=True)
        rates.append(rule.rate)
    assert rates == sorted(rates)
    assert rates[-1] > rates[0]
    assert all(after <= 1.25 * before for before, after in pairwise(rates))


def test_a_cut_starts_below_the_ceiling() -> None:
    """After a rejection the rate is a share of what was admitted: never more than the configured decrease of it."""
    config = RateLimitConfig(decrease=0.7)
    rule = RateRule(config, now=0.0, ceiling=10.0)
    assert rule.cut(20.0, 200.0, 1.0) is Reason.RATE_LIMITED
    assert rule.rate == pytest.approx(0.7 * rule.ceiling)


def test_nothing_admitted_means_shut_not_slow() -> None:
    """When not one unit passed since the last cut, the provider is shut: hold off, and leave the rate alone."""
    rule = RateRule(CONFIG, now=0.0, ceiling=10.0)
    rule.cut(20.0, 200.0, 1.0)
    rate, ceiling = rule.rate, rule.ceiling
    for attempt in range(1, 50):
        assert rule.cut(20.0 + attempt, 200.0 + attempt, 1.0) is Reason.COOL_OFF
    assert (rule.rate, rule.ceiling) == (rate, ceiling)


def test_a_doubled_quota_is_found() -> None:
    """The memory of the ceiling ages: minutes after the quota doubled, most of it is used."""
    world = _World(_open(), quota=lambda now: 10.0 if now < 600.0 else 20.0)
    world.run(600.0)
    world.run(900.0)
    world.run(1200.0)
    assert world.admitted >= 0.9 * 20.0 * 300.0


def test_a_halved_quota_is_obeyed() -> None:
    """Within a minute of the quota's fall, rejections are rare again and little is left unused."""
    world = _World(_open(), quota=lambda now: 10.0 if now < 600.0 else 5.0)
    world.run(660.0)
    world.run(1260.0)
    assert world.rejected <= 0.05 * (world.admitted + world.rejected)
    assert world.admitted >= 0.88 * 5.0 * 600.0


def test_new_settings_keep_what_was_learned() -> None:
    """Retuning changes how the rule moves from here, not where it stands."""
    world = _World(_open(), quota=lambda _: 10.0)
    world.run(300.0)
    rate, ceiling, mode = world.rule.rate, world.rule.ceiling, world.rule.mode
    world.rule.retune(RateLimitConfig(probe_s=99.0, decrease=0.5))
    assert (world.rule.rate, world.rule.ceiling, world.rule.mode) == (rate, ceiling, mode)


@given(
    st.lists(
        st.tuples(st.booleans(), st.floats(0, 100), st.floats(0, 5000), st.booleans(), st.floats(0.5, 2000)),
        max_size=60,
    ),
    st.none() | st.floats(0.5, 100),
)
@settings(deadline=None)
def test_a_rate_stays_within_its_bounds(
    history: list[tuple[bool, float, float, bool, float]], ceiling: float | None
) -> None:
    """Whatever comes, in whatever order, a rate once known stays between floor and top, and is a number."""
    config = RateLimitConfig(min_requests_per_minute=30.0, max_requests_per_minute=6000.0)
    rule = RateRule(config, now=0.0, ceiling=math.inf if ceiling is None else ceiling)
    now = sent = 0.0
    for is_cut, pause, units, limited, cost in history:
        now, sent = now + pause, sent + units
        if is_cut:
            rule.cut(now, sent, min(cost, sent))
        else:
            rule.step(now, sent, limited=limited)
        if rule.mode is not Mode.OPEN:
            assert 0.5 <= rule.rate <= 100.0
            assert 0.5 <= rule.ceiling <= 100.0
        assert not math.isnan(rule.next_step_s)


# --- calls in flight -------------------------------------------------------------------------------------------------


def test_slots_start_slow_and_grow_by_one_per_success() -> None:
    """While nothing was rejected, every success of a full house adds a slot: doubling per round trip."""
    rule = SlotRule(RateLimitConfig(initial_concurrency=4))
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


def test_slots_fall_below_the_rejected_one() -> None:
    """The 13th call in flight was refused while smaller numbers passed: 12 it is."""
    rule = SlotRule(RateLimitConfig(initial_concurrency=16))
    rule.admitted(12)
    assert rule.blames(13)
    assert not rule.blames(12)
    assert rule.cut(5.0, 13, 1.0) is Reason.RATE_LIMITED
    assert rule.limit == 12.0


def test_slots_hold_before_they_probe() -> None:
    """After a cut the number stays for a while, then one more is tried."""
    rule = SlotRule(RateLimitConfig(initial_concurrency=16))
    rule.admitted(12)
    rule.cut(5.0, 13, 1.0)
    assert rule.step(5.1, 1.0) is None
    assert rule.limit == 12.0
    assert rule.step(5.0 + 3600.0, 1.0) is Reason.PROBE
    assert rule.limit == 13.0


def test_slots_forget_at_a_new_epoch() -> None:
    """What was admitted before a cut is no evidence about what is admitted after it."""
    rule = SlotRule(CONFIG)
    rule.admitted(12)
    rule.new_epoch(blamed=True)
    assert rule.blames(1)


def test_slots_find_a_grown_number() -> None:
    """When the provider's slots multiply, probing turns into recovery and finds them."""
    rule = SlotRule(RateLimitConfig(initial_concurrency=16))
    rule.admitted(8)
    rule.cut(0.0, 9, 1.0)
    now = 0.0
    while rule.limit < 64.0:
        now += 1.0
        assert now < 600.0, f"still at {rule.limit:g}"
        rule.step(now, 1.0)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0, 50), st.integers(1, 40), st.floats(0, 30)), max_size=60),
    st.integers(1, 64),
)
def test_slots_stay_within_their_bounds(history: list[tuple[int, float, int, float]], top: int) -> None:
    """Whatever comes, in whatever order: at least one, at most the configured number."""
    rule = SlotRule(RateLimitConfig(initial_concurrency=1, max_concurrency=top))
    now = 0.0
    for what, pause, in_flight, round_trip_s in history:
        now += pause
        if what == 0:
            rule.cut(now, in_flight, round_trip_s)
        elif what == 1:
            rule.step(now, round_trip_s)
        elif what == 2:
            rule.admitted(in_flight)
        else:
            rule.new_epoch(blamed=True)
        assert 1.0 <= rule.limit <= top


def test_slots_take_a_smaller_bound_at_once() -> None:
    """A lowered max_concurrency holds from the moment it is set; a raised one changes nothing yet."""
    rule = SlotRule(RateLimitConfig(initial_concurrency=16))
    rule.retune(RateLimitConfig(initial_concurrency=2, max_concurrency=5))
    assert rule.limit == 5.0
    rule.retune(RateLimitConfig(initial_concurrency=2, max_concurrency=500))
    assert rule.limit == 5.0
