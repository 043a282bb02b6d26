"""A provider that looks back over a minute: how it is recognised, and how the minute is kept to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import simulators as sim
from factflow_llm.ratelimit.lookback import Lookback
from simulators.providers.catalogue import Provider
from simulators.providers.latency import LatencyModel
from simulators.providers.quotas import SlidingWindow

if TYPE_CHECKING:
    from collections.abc import Iterable


def _sent(times: Iterable[float]) -> Lookback:
    """Return what is remembered of calls sent at these times."""
    lookback = Lookback()
    for number, time_s in enumerate(times, 1):
        lookback.sent(time_s, float(number), 1.0)
    return lookback


def test_what_the_last_minute_held() -> None:
    """A call counts until a minute after it was sent."""
    lookback = _sent([0.0, 10.0, 20.0, 65.0])
    assert lookback.within(65.0, 4.0) == 3.0
    assert lookback.within(69.9, 4.0) == 3.0
    assert lookback.within(70.1, 4.0) == 2.0


def test_what_was_sent_before_it_looked_is_in_no_minute() -> None:
    """An axis that begins to be paced after hours has sent a billion tokens; its first minute holds its own only."""
    lookback = Lookback()
    lookback.sent(7_200.0, 1e9 + 500.0, 500.0)
    assert lookback.within(7_210.0, 1e9 + 800.0) == 800.0


def test_it_is_known_by_minutes_that_agree_while_rates_do_not() -> None:
    """Three rejections with the same minute before them, each at another rate."""
    lookback = Lookback()
    for time_s, within in ((10.0, 300.0), (20.0, 301.0), (30.0, 299.0)):
        lookback.learn(time_s, within, 1.0, contradicted=True)
        assert lookback.quota == 0.0
    lookback.learn(40.0, 300.0, 1.0, contradicted=True)
    assert lookback.quota == 300.0


def test_a_bucket_is_not_taken_for_it() -> None:
    """Its minutes agree as well, but so do its rates."""
    lookback = Lookback()
    for turn in range(20):
        lookback.learn(30.0 * turn, 300.0, 1.0, contradicted=False)
    assert lookback.quota == 0.0


def test_a_storm_is_not_taken_for_it() -> None:
    """Rejections within a moment have the same minute before them, whatever the quota is."""
    lookback = Lookback()
    for turn in range(20):
        lookback.learn(100.0 + 0.1 * turn, 300.0, 1.0, contradicted=True)
    assert lookback.quota == 0.0


def test_it_is_forgotten_when_a_minute_holds_another_number() -> None:
    """The quota moved, or it never was a sliding minute."""
    lookback = Lookback()
    for turn in range(5):
        lookback.learn(10.0 * turn, 300.0, 1.0, contradicted=True)
    assert lookback.quota == 300.0
    lookback.learn(60.0, 150.0, 1.0, contradicted=True)
    assert lookback.quota == 0.0


def test_there_is_room_when_a_call_of_a_minute_ago_expires() -> None:
    """Three a minute, three sent: the next goes when the first expires, two of them when the second does."""
    lookback = _sent([1.0, 10.0, 20.0])
    lookback.quota = 3.0
    assert lookback.wait_s(30.0, 1.0) == pytest.approx(31.0)
    assert lookback.wait_s(30.0, 2.0) == pytest.approx(40.0)
    assert lookback.wait_s(61.0, 1.0) == 0.0
    assert lookback.wait_s(30.0, 1.0, rate=4 / 60) == 0.0, "a rate above the measured one tries more"


def test_callers_who_wait_behind_a_sliding_minute() -> None:
    """Nearly all of it is used and few are rejected, though rates contradict each other after a first burst."""
    provider = Provider(quotas=(SlidingWindow(limit=480),), latency=LatencyModel(first_token_s=1.5, per_token_s=0.0))
    result = sim.simulate(sim.Scenario(sim.backlog(64, duration_s=1200.0), provider), seed=3)
    figures = result.summary()
    assert figures["goodput_ratio"] > 0.95
    assert figures["rejected_share"] < 0.012
