"""The rule by which a limit moves, against a quota that answers at once: no queue, no latency, no event loop."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factflow_llm.ratelimit import aimd
from factflow_llm.ratelimit.aimd import Mode, RateRule
from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.signals import Reason

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
    refusals: int = 0
    level: float = field(init=False)

    def __post_init__(self) -> None:
        self.level = self.burst

    def run(self, until_s: float) -> None:
        self.admitted = self.rejected = 0
        while self.now < until_s:
            limited = self.rule.rate < self.demand
            self.wait(1.0 / min(self.rule.rate, self.demand))
            self.sent += 1.0
            if self.level >= 1.0:
                self.level -= 1.0
                self.admitted += 1
                if self.refusals:
                    self.refusals = 0
                    self.rule.admitted_again(self.now)
                if self.now >= self.rule.next_step_s:
                    self.rule.step(self.now, self.sent, limited=limited)
            else:
                self.rejected += 1
                _reject(self.rule, self.now, self.sent)
                self.wait(0.1 * 2.0**self.refusals)
                self.refusals += 1

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.level = min(self.burst, self.level + seconds * self.quota(self.now))


class _Windows(_World):
    """The same in front of ten-second windows of a hundred calls; refusals are told when the next one opens."""

    def wait(self, seconds: float) -> None:
        before = self.now
        self.now += seconds
        if before // 10.0 != self.now // 10.0:
            self.level = 10.0 * self.quota(self.now)


def _reject(rule: RateRule, now: float, sent: float) -> Reason:
    """Reject the call sent last, at once."""
    return rule.cut(now, now, sent, sent - 1.0)


def _open(config: RateLimitConfig = CONFIG) -> RateRule:
    return RateRule(config, now=0.0)


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
    _reject(rule, 10.0, 100.0)
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
    assert _reject(rule, 20.0, 200.0) is Reason.RATE_LIMITED
    assert rule.rate == pytest.approx(0.7 * rule.ceiling)


def test_nothing_admitted_means_shut_not_slow() -> None:
    """When not one unit passed since the last cut, the provider is shut: hold off, and leave the rate alone."""
    rule = RateRule(CONFIG, now=0.0, ceiling=10.0)
    _reject(rule, 20.0, 200.0)
    rate, ceiling = rule.rate, rule.ceiling
    for attempt in range(1, 50):
        assert _reject(rule, 20.0 + attempt, 200.0 + attempt) is Reason.COOL_OFF
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


def _in_windows(quota: Callable[[float], float]) -> _World:
    world = _Windows(_open(), quota=quota, burst=100.0)
    world.run(300.0)
    return world


def test_windows_are_known_by_their_openings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who fills windows to their last second is hardly refused, and never forgets what they are."""
    world = _in_windows(lambda _: 10.0)
    world.run(3300.0)
    assert world.rejected <= 0.006 * world.admitted
    assert world.admitted >= 0.985 * 30_000
    monkeypatch.setattr(aimd, "_WHOLE", 0.0)
    forgetful = _in_windows(lambda _: 10.0)
    forgetful.run(3300.0)
    assert forgetful.rejected > 1.25 * world.rejected


def test_the_last_window_ends_a_search() -> None:
    """A quota that grew is known by what filled one window, not by the long climb that led there."""
    world = _in_windows(lambda now: 10.0 if now < 600.0 else 20.0)
    world.run(900.0)
    assert world.rule.ceiling == pytest.approx(20.0, rel=0.12)


def test_a_window_that_was_seen_to_end_leaves_nothing_to_search_for() -> None:
    """The first refusal opens a search, unless the provider was seen to stay shut and to open again."""
    shut = _open()
    for moment in (1.0, 2.0, 4.0, 8.0):
        shut.cut(moment, moment, 100.0, 100.0)
    assert shut.mode is Mode.SEARCH
    assert shut.admitted_again(12.0)
    assert shut.mode is Mode.PROBE
    assert 100.0 / 12.0 < shut.ceiling < 100.0 / 8.0


def test_a_limit_that_was_long_unused_measures_nothing() -> None:
    """Ten minutes at a tenth of the quota say nothing of it: the next refusals measure what came since."""
    world = _World(_open(), quota=lambda _: 10.0)
    world.run(600.0)
    world.demand = 1.0
    world.run(1200.0)
    world.demand = 50.0
    world.run(1260.0)
    assert world.rejected >= 1
    assert world.rule.ceiling == pytest.approx(10.0, rel=0.1)


def test_a_search_begins_where_the_rate_is_not_to_blame() -> None:
    """What a refusal of slots had cut is searched for anew; a rate that nothing has limited stays free."""
    world = _World(_open(), quota=lambda _: 10.0)
    world.run(60.0)
    world.rule.search(world.now, world.sent)
    assert world.rule.mode is Mode.SEARCH
    free = _open()
    free.search(0.0, 0.0)
    assert free.mode is Mode.OPEN


def test_new_settings_keep_what_was_learned() -> None:
    """Retuning changes how the rule moves from here, not where it stands."""
    world = _World(_open(), quota=lambda _: 10.0)
    world.run(300.0)
    rate, ceiling, mode = world.rule.rate, world.rule.ceiling, world.rule.mode
    world.rule.retune(RateLimitConfig(probe_s=99.0, decrease=0.5))
    assert (world.rule.rate, world.rule.ceiling, world.rule.mode) == (rate, ceiling, mode)


@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.floats(0, 100),
            st.floats(0, 5000),
            st.booleans(),
            st.floats(0.5, 2000),
            st.none() | st.floats(0, 1e5),
        ),
        max_size=60,
    ),
    st.none() | st.floats(0.5, 100),
)
@settings(deadline=None)
def test_a_rate_stays_within_its_bounds(
    history: list[tuple[bool, float, float, bool, float, float | None]], ceiling: float | None
) -> None:
    """Whatever comes, in whatever order, a rate once known stays between floor and top, and is a number."""
    config = RateLimitConfig(min_requests_per_minute=30.0, max_requests_per_minute=6000.0)
    rule = RateRule(config, now=0.0, ceiling=math.inf if ceiling is None else ceiling)
    now = sent = 0.0
    for is_cut, pause, units, limited, cost, wish in history:
        now, sent = now + pause, sent + units
        if is_cut:
            rule.cut(now, now, sent, sent - min(cost, sent), retry_after_s=wish)
        else:
            rule.step(now, sent, limited=limited)
        if rule.mode is not Mode.OPEN:
            assert 0.5 <= rule.rate <= 100.0
            assert 0.5 <= rule.ceiling <= 100.0
        assert not math.isnan(rule.next_step_s)


def test_a_refusal_that_was_long_under_way_ends_a_search() -> None:
    """Sent before the search last doubled and heard of after it, it tells nothing of what was admitted since."""
    rule = RateRule(CONFIG, now=0.0, ceiling=10.0)
    now = sent = 0.0
    while rule.mode is not Mode.SEARCH:
        now = max(rule.next_step_s, now + 0.1)
        sent += 60.0
        rule.step(now, sent, limited=True)
    assert rule.cut(now + 30.0, now, sent, sent - 30.0, retry_after_s=0.0) is Reason.RATE_LIMITED
    assert rule.ceiling > 0.0
