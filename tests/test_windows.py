"""Windows: foreseen once it cannot be chance, forgotten when they cease to be true."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factflow_llm.ratelimit.windows import Windows


def _opened(windows: Windows, begins_s: float, doubt_s: float = 2.0) -> tuple[float, float]:
    """Hear of a window that began at ``begins_s``, somewhere within so many seconds."""
    return windows.opened(begins_s - 0.4 * doubt_s, begins_s + 0.6 * doubt_s, long=True)


@pytest.mark.parametrize("period_s", [10.0, 60.0, 3600.0])
def test_a_period_is_known_after_a_few_openings_and_then_narrowed(period_s: float) -> None:
    """What is foreseen holds the next window's beginning, ever more closely."""
    windows = Windows()
    for number in range(4):
        assert not windows.known
        assert all(math.isnan(bound) for bound in windows.next(number * period_s + 1.0))
        _opened(windows, number * period_s, 0.05 * period_s)
    for number in range(4, 20):
        _opened(windows, number * period_s, 0.05 * period_s)
    assert windows.known
    low_s, high_s = windows.next(19.9 * period_s)
    assert low_s <= 20 * period_s <= high_s
    assert high_s - low_s < 0.1 * period_s


def test_windows_in_between_that_were_not_filled_are_counted() -> None:
    """Nobody is rejected in every window."""
    windows = Windows()
    for number in (0, 1, 2, 3, 5, 8):
        _opened(windows, 60.0 * number)
    assert windows.known
    assert windows.period_s == pytest.approx(60.0, abs=1.0)


def test_a_shorter_period_takes_the_place_of_its_multiple() -> None:
    """Where every second window was filled at first, two periods were taken for one."""
    windows = Windows()
    for begins_s in (0.0, 120.0, 180.0, 240.0, 300.0, 360.0, 420.0):
        _opened(windows, begins_s)
    assert windows.known
    assert windows.period_s == pytest.approx(60.0, abs=2.0)


def test_what_comes_at_any_moment_is_not_foreseen() -> None:
    """A bucket that was empty for long opens whenever it opens."""
    windows = Windows()
    for begins_s in (0.0, 31.0, 77.0, 95.0, 151.0, 170.0, 233.0, 260.0):
        _opened(windows, begins_s)
        assert not windows.known


def test_windows_that_cease_are_given_up() -> None:
    """One opening that was not foreseen is enough to foresee nothing; several of them end it."""
    windows = Windows()
    for number in range(6):
        _opened(windows, 60.0 * number)
    assert windows.known
    for opened_s in (327.0, 341.0, 378.0):
        windows.opened(opened_s, opened_s, long=False)
        assert not windows.known
    assert windows.period_s == 0.0


def test_after_long_idling_nothing_is_foreseen() -> None:
    """What is not known to a tenth of a percent may be any moment a thousand periods later."""
    windows = Windows()
    for number in range(6):
        _opened(windows, 60.0 * number)
    assert all(math.isnan(bound) for bound in windows.next(1e6))


def test_the_canary_goes_when_it_must_have_begun_or_half_way() -> None:
    """A wide interval is halved; a narrow one is waited for; a test goes half-way from the rejection."""
    windows = Windows()
    for number in range(6):
        _opened(windows, 60.0 * number)
    assert windows.canary_s(358.0, 360.0, 340.0, test=False) == 360.0
    assert windows.canary_s(340.0, 360.0, 330.0, test=False) == 350.0
    assert windows.canary_s(340.0, 360.0, 350.0, test=False) == 355.0
    assert windows.canary_s(358.0, 360.0, 340.0, test=True) == 349.0


def test_it_is_tested_ever_more_seldom() -> None:
    """The first, third, seventh and fifteenth time."""
    windows = Windows()
    assert [number for number in range(1, 20) if windows.tests()] == [1, 3, 7, 15]


@given(st.lists(st.tuples(st.floats(0.01, 500.0), st.floats(0.0, 100.0), st.booleans()), max_size=30))
def test_whatever_was_heard_an_opening_is_narrowed_within_its_bounds(heard: list[tuple[float, float, bool]]) -> None:
    """No history makes an opening anything but an interval inside the one given, and none foresees the past."""
    windows, now = Windows(), 0.0
    for later_s, doubt_s, long in heard:
        low_s, high_s = now + later_s, now + later_s + doubt_s
        now = high_s
        from_s, to_s = windows.opened(low_s, high_s, long=long)
        assert low_s <= from_s <= to_s <= high_s
        first_s, last_s = windows.next(now)
        assert math.isnan(first_s) or (first_s <= last_s and last_s >= now - 1e-6)
