"""What a quota is measured to be along a chain of openings."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factflow_llm.ratelimit.openings import SOUND, Opening, Openings


def _measured(*openings: tuple[float, float], unit: float = 1.0, used: bool = True) -> Openings:
    chain = Openings()
    for time_s, admitted in openings:
        chain.opened(Opening(time_s, admitted), unit, used=used)
    return chain


def test_nothing_is_known_before_there_were_two() -> None:
    """One opening measures nothing: what came before it was the provider's store."""
    chain = Openings()
    assert (chain.rate, chain.sound, chain.last) == (math.inf, False, None)
    assert chain.opened(Opening(5.0, 100.0), 1.0, used=True)
    assert (chain.rate, chain.sound) == (math.inf, False)
    assert chain.last == Opening(5.0, 100.0)


def test_between_two_openings_exactly_the_quota_was_admitted() -> None:
    """One division."""
    chain = _measured((5.0, 100.0), (15.0, 150.0))
    assert (chain.rate, chain.sound) == (5.0, True)


def test_a_known_rate_is_sound() -> None:
    """Settings that name the quota are relied on."""
    assert (Openings(4.0).rate, Openings(4.0).sound) == (4.0, True)


def test_a_guess_is_not() -> None:
    """What was sent, for want of anything better."""
    chain = Openings()
    chain.guess(7.0)
    assert (chain.rate, chain.sound) == (7.0, False)


def test_few_calls_are_no_sound_sample() -> None:
    """One call more or less of three is a third; of twenty it is 5 %."""
    assert not _measured((0.0, 0.0), (1.0, 3.0)).sound
    assert _measured((0.0, 0.0), (10.0, SOUND)).sound


def test_few_calls_that_agree_again_and_again_are() -> None:
    """Five samples of two calls each, all alike, are as good as one of twenty."""
    chain = _measured(*((2.0 * number, 2.0 * number) for number in range(8)))
    assert chain.sound
    assert chain.rate == pytest.approx(1.0)


def test_what_agrees_is_measured_further_back() -> None:
    """Samples that are off by a call each way are exact together."""
    jitter = (1.0, -1.0, 0.5, 0.0, -0.5, 1.0, -1.0, 0.0)
    chain = _measured(*((10.0 * number, 50.0 * number + off) for number, off in enumerate(jitter)))
    assert chain.rate == pytest.approx(5.0, rel=0.01)


def test_an_old_opening_is_let_go() -> None:
    """Beyond some hundreds of calls the past would only make it slow to follow a drift."""
    chain, time_s, admitted, rate = Openings(), 0.0, 0.0, 10.0
    for _ in range(200):
        chain.opened(Opening(time_s, admitted), 1.0, used=True)
        time_s, admitted, rate = time_s + 10.0, admitted + 10.0 * rate, rate * 1.002
    assert chain.rate == pytest.approx(rate, rel=0.02)


@pytest.mark.parametrize("new", [2.0, 20.0])
def test_one_contradiction_ends_the_chain(new: float) -> None:
    """The quota moved: what was known before says nothing any more, and the sample is the new rate."""
    chain = _measured(*((10.0 * number, 50.0 * number) for number in range(10)))
    assert not chain.opened(Opening(110.0, 450.0 + 20.0 * new), 1.0, used=True)
    assert chain.rate == pytest.approx(new)
    assert chain.sound
    assert chain.opened(Opening(120.0, 450.0 + 30.0 * new), 1.0, used=True)
    assert chain.rate == pytest.approx(new)


def test_a_contradiction_of_few_calls_is_weighed() -> None:
    """Three calls in a second where ten were expected pull the rate down, but not to three."""
    chain = _measured(*((10.0 * number, 100.0 * number) for number in range(5)))
    assert not chain.opened(Opening(41.0, 403.0), 1.0, used=True)
    assert 3.0 < chain.rate < 10.0
    assert not chain.sound


def test_a_searched_rate_counts_by_its_end() -> None:
    """The sample of a search began far below: what was admitted lately is higher, and nothing sound yet."""
    chain = _measured((0.0, 0.0), (10.0, 50.0))
    assert not chain.opened(Opening(20.0, 250.0), 1.0, used=True, recent=40.0)
    assert (chain.rate, chain.sound) == (40.0, False)


def test_a_limit_that_was_not_used_proves_no_less() -> None:
    """Ten minutes at a tenth of the quota are a lower bound: the rate stays, and is doubted."""
    chain = _measured((0.0, 0.0), (10.0, 100.0))
    assert chain.opened(Opening(610.0, 700.0), 1.0, used=False)
    assert (chain.rate, chain.sound) == (10.0, False)


def test_a_limit_that_was_not_used_proves_more() -> None:
    """More than was known, though some of the time went unused: it grew."""
    chain = _measured((0.0, 0.0), (10.0, 100.0))
    assert not chain.opened(Opening(20.0, 400.0), 1.0, used=False)
    assert chain.rate == pytest.approx(30.0)


def test_doubt_about_the_moment_is_allowed_for() -> None:
    """An opening known to within five seconds contradicts nothing that five seconds would explain."""
    exact, vague = _measured((0.0, 0.0), (10.0, 100.0)), _measured((0.0, 0.0), (10.0, 100.0))
    assert not exact.opened(Opening(20.0, 150.0), 1.0, used=True)
    assert vague.opened(Opening(20.0, 150.0, 5.0), 1.0, used=True)


def test_a_total_that_falls_measures_nothing() -> None:
    """A member of the fleet is no longer heard of, and its calls are gone from the total: the next sample is new."""
    chain = _measured((0.0, 0.0), (10.0, 100.0))
    assert chain.opened(Opening(20.0, 60.0), 1.0, used=True)
    assert (chain.rate, chain.sound) == (10.0, True)
    assert chain.opened(Opening(30.0, 160.0), 1.0, used=True)
    assert chain.rate == pytest.approx(10.0)


def test_units_may_be_tokens() -> None:
    """The same of calls of 2,000 tokens each: all measures scale with the unit."""
    calls = _measured((0.0, 0.0), (10.0, 50.0), (20.0, 103.0), (30.0, 150.0))
    tokens = _measured((0.0, 0.0), (10.0, 1e5), (20.0, 2.06e5), (30.0, 3e5), unit=2000.0)
    assert tokens.rate == pytest.approx(2000.0 * calls.rate)
    assert tokens.sound == calls.sound


histories = st.lists(
    st.tuples(st.floats(0, 1e5), st.floats(-5, 1e5), st.floats(0, 100), st.booleans(), st.floats(0, 1e4)), max_size=60
)


@given(histories, st.floats(1.0, 1e5))
def test_a_rate_is_a_positive_number(history: list[tuple[float, float, float, bool, float]], unit: float) -> None:
    """Whatever comes: refunds after the fact, openings at one moment, doubts longer than samples."""
    chain, time_s, admitted = Openings(), 0.0, 0.0
    for pause_s, units, doubt_s, used, recent in history:
        time_s, admitted = time_s + pause_s, admitted + units
        chain.opened(Opening(time_s, admitted, doubt_s), unit, used=used, recent=recent)
        assert chain.rate > 0.0
        assert chain.rate == math.inf or chain.rate < 1e12
