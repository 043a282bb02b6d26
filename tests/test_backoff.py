"""Whether and when a failed call is tried again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factflow_llm.ratelimit.backoff import retry_delay_s
from factflow_llm.ratelimit.config import RetryConfig

RETRY = RetryConfig(max_attempts=5, backoff_base_s=0.5, backoff_cap_s=30.0, retry_after_cap_s=120.0)
ALMOST_1 = 1.0 - 2**-53


def _delay(
    attempt: int,
    jitter: float,
    retry_after_s: float | None = None,
    remaining_s: float | None = None,
    worth_attempts: int | None = None,
    retry: RetryConfig = RETRY,
) -> float | None:
    return retry_delay_s(
        retry,
        attempt=attempt,
        jitter=jitter,
        retry_after_s=retry_after_s,
        remaining_s=remaining_s,
        worth_attempts=worth_attempts,
    )


def test_full_jitter_doubles_up_to_the_cap() -> None:
    """Waits are drawn from zero to a bound that doubles with every attempt and stops at the cap."""
    patient = RETRY.model_copy(update={"max_attempts": 100})
    bounds = [_delay(attempt, ALMOST_1, retry=patient) for attempt in range(9)]
    assert bounds == pytest.approx([0.5, 1, 2, 4, 8, 16, 30, 30, 30])
    assert _delay(3, 0.0) == 0.0
    assert _delay(3, 0.25) == 1.0


def test_a_thousandth_attempt_does_not_overflow() -> None:
    """The doubling bound is safe for any number of attempts."""
    assert _delay(5000, 0.5, retry=RetryConfig(max_attempts=10_000)) == 15.0


def test_attempts_are_bounded() -> None:
    """The last attempt allowed is not followed by a wait."""
    assert _delay(3, 0.5) is not None
    assert _delay(4, 0.5) is None


@pytest.mark.parametrize(("worth", "expected"), [(2, None), (3, 0.5), (100, 0.5), (1, None)])
def test_some_failures_are_worth_fewer_attempts(worth: int, expected: float | None) -> None:
    """A failure that repetition seldom cures ends sooner, and never later than the settings allow."""
    assert _delay(1, 0.5, worth_attempts=worth) == expected


def test_retry_after_is_a_floor_and_is_clamped() -> None:
    """The provider's wish is obeyed at least, but not for hours."""
    assert _delay(0, 0.5, retry_after_s=7.0) == 7.0
    assert _delay(3, ALMOST_1, retry_after_s=1.0) == pytest.approx(4.0)
    assert _delay(0, 0.5, retry_after_s=86_400.0) == 120.0
    assert _delay(0, 0.5, retry_after_s=0.0) == 0.25


@pytest.mark.parametrize("nonsense", [float("nan"), -5.0, float("-inf"), float("inf")])
def test_a_senseless_retry_after_does_no_harm(nonsense: float) -> None:
    """Whatever a provider says, the wait is a number between zero and the clamp."""
    waited = _delay(0, 0.5, retry_after_s=nonsense)
    assert waited is not None
    assert 0.0 <= waited <= 120.0


def test_no_wait_beyond_the_deadline() -> None:
    """A wait that would outlast the deadline is not begun: the error comes now."""
    assert _delay(0, 0.5, remaining_s=0.3) == 0.25
    assert _delay(0, 0.5, remaining_s=0.25) is None
    assert _delay(0, 0.0, remaining_s=-1.0) is None
    assert _delay(0, 0.5, retry_after_s=10.0, remaining_s=9.0) is None


@given(
    st.integers(0, 2000),
    st.floats(0, 1, exclude_max=True),
    st.none() | st.floats(0, 1e9),
    st.none() | st.floats(-10, 1e6),
)
def test_every_wait_is_within_bounds(
    attempt: int, jitter: float, retry_after_s: float | None, remaining_s: float | None
) -> None:
    """Whatever happens, a wait is not negative, not beyond both caps, and ends before the deadline."""
    waited = _delay(
        attempt, jitter, retry_after_s, remaining_s, retry=RETRY.model_copy(update={"max_attempts": 10_000})
    )
    if waited is not None:
        assert 0.0 <= waited <= max(RETRY.backoff_cap_s, RETRY.retry_after_cap_s)
        assert remaining_s is None or waited < remaining_s
