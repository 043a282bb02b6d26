"""How limits are shown: durations as Go writes them, and rounding as each provider does it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factflow_llm.headers import parse_duration, parse_limits
from factflow_llm.signals import Axis, AxisLimit
from simulators.providers.limit_headers import Api, date_header, go_duration, limit_headers, shown_limits


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.008, "8ms"),
        (0.12, "120ms"),
        (1, "1s"),
        (8.64, "8.64s"),
        (14.981, "14.981s"),
        (115.869, "1m55.869s"),
        (360, "6m0s"),
        (432, "7m12s"),
        (83_909.144, "23h18m29.144s"),
        (86_400, "24h0m0s"),
    ],
)
def test_durations_are_written_as_captured(seconds: float, text: str) -> None:
    """All spellings seen in captures of OpenAI come out as they were seen."""
    assert go_duration(seconds) == text


@given(ms=st.integers(0, 10**9))
def test_durations_are_read_back(ms: int) -> None:
    """What is written is read to the millisecond."""
    assert parse_duration(go_duration(ms / 1000)) == pytest.approx(ms / 1000, abs=1e-9)


axis_limits = st.tuples(st.floats(1, 1e9), st.floats(0, 1e9), st.floats(0, 2e5))


@given(
    requests=axis_limits,
    tokens=axis_limits,
    utc_s=st.floats(1.7e9, 1.9e9),
    api=st.sampled_from([Api.OPENAI, Api.AZURE, Api.ANTHROPIC]),
)
def test_shown_is_read(
    requests: tuple[float, float, float], tokens: tuple[float, float, float], utc_s: float, api: Api
) -> None:
    """Any limit, written by any provider at any time, is read as it was shown."""
    exact = [
        (Axis.REQUESTS, float(int(requests[0])), *requests[1:]),
        (Axis.TOKENS, float(int(tokens[0])), *tokens[1:]),
    ]
    shown = shown_limits(api, exact, utc_s)
    assert parse_limits({"date": date_header(utc_s)} | limit_headers(api, shown, utc_s)) == shown


def test_remaining_is_floored_and_reset_truncated() -> None:
    """A capture shows 9 998 where 9 998.27 were left, and 8 ms where 8.7 were missing."""
    exact = [(Axis.REQUESTS, 10_000.0, 9_998.27, 14.9811), (Axis.TOKENS, 200_000.0, 199_971.0, 0.0087)]
    assert shown_limits(Api.OPENAI, exact, 0.0) == (
        AxisLimit(Axis.REQUESTS, 10_000, 9_998, 14.981),
        AxisLimit(Axis.TOKENS, 200_000, 199_971, 0.008),
    )


def test_bedrock_shows_nothing() -> None:
    """An api without limit headers shows no limits."""
    assert shown_limits(Api.BEDROCK, [(Axis.REQUESTS, 60.0, 1.0, 1.0)], 0.0) == ()
