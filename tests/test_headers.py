"""Limit headers of OpenAI, Azure and Anthropic, and every parser bug collected from other people's issue trackers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factflow_llm.headers import LimitHeaders, parse_duration, parse_limits, parse_retry_after
from factflow_llm.signals import Axis, AxisLimit

NOW = datetime(2026, 5, 18, 11, 42, 15, tzinfo=UTC)

OPENAI = {  # a success of 2025-10-18
    "content-type": "application/json",
    "openai-processing-ms": "788",
    "openai-version": "2020-10-01",
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-limit-tokens": "200000",
    "x-ratelimit-remaining-requests": "9998",
    "x-ratelimit-remaining-tokens": "199603",
    "x-ratelimit-reset-requests": "14.981s",
    "x-ratelimit-reset-tokens": "119ms",
    "x-request-id": "req_9651a3691a144dd388e97066ad67a49c",
}
ANTHROPIC = {
    "retry-after": "23",
    "anthropic-ratelimit-requests-limit": "1000",
    "anthropic-ratelimit-requests-remaining": "994",
    "anthropic-ratelimit-requests-reset": "2026-05-18T11:42:16Z",
    "anthropic-ratelimit-input-tokens-limit": "450000",
    "anthropic-ratelimit-input-tokens-remaining": "0",
    "anthropic-ratelimit-input-tokens-reset": "2026-05-18T11:42:18Z",
    "anthropic-ratelimit-output-tokens-limit": "90000",
    "anthropic-ratelimit-output-tokens-remaining": "14000",
    "anthropic-ratelimit-output-tokens-reset": "2026-05-18T11:42:17Z",
}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6m0s", 360.0),
        ("1s", 1.0),
        ("0s", 0.0),
        ("120ms", 0.12),
        ("8ms", 0.008),
        ("500ms", 0.5),
        ("8.64s", 8.64),
        ("1m55.869s", 115.869),
        ("7m12s", 432.0),
        ("23h18m29.144s", 83909.144),
        ("1h", 3600.0),
        ("2d3h", 183600.0),
        ("1m30ms", 60.03),
        ("250µs", 0.00025),
        ("10", 10.0),
        ("300", 300.0),
        (" 0.5 ", 0.5),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """Go durations with hours, minutes, fractions and milliseconds, and bare seconds, are read exactly."""
    assert parse_duration(text) == pytest.approx(seconds, rel=1e-15)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "m5",
        "-5",
        "-1s",
        "nan",
        "inf",
        "1e400",
        "9" * 400,
        "9" * 400 + "h",
        "1_000",
        "٣s",
        "1 s",
        "6m0",
        "0x10",
        "1,5s",
    ],
)
def test_what_is_no_duration(text: str) -> None:
    """Negative, infinite, half-read and foreign numbers are no duration, though Python's ``float`` takes some."""
    assert parse_duration(text) is None


@given(st.text(max_size=20))
def test_durations_never_raise(text: str) -> None:
    """Whatever a header holds, the answer is a finite number of 0 or more, or nothing."""
    seconds = parse_duration(text)

    assert seconds is None or 0 <= seconds < float("inf")


def test_openai_limits() -> None:
    """Both axes are read; the reset is the time until the window is full."""
    assert parse_limits(OPENAI) == (
        AxisLimit(Axis.REQUESTS, 10000.0, 9998.0, 14.981),
        AxisLimit(Axis.TOKENS, 200000.0, 199603.0, 0.119),
    )


def test_case_of_names_does_not_matter() -> None:
    """A plain mapping with names in any case is read like the SDK's own."""
    assert parse_limits({name.upper(): text for name, text in OPENAI.items()}) == parse_limits(OPENAI)


def test_tighter_of_organization_and_project() -> None:
    """A project's token limit counts where less is left of it than of the organization's."""
    project = {
        "x-ratelimit-limit-project-tokens": "50000",
        "x-ratelimit-remaining-project-tokens": "10",
        "x-ratelimit-reset-project-tokens": "59s",
    }

    assert parse_limits(OPENAI | project)[1] == AxisLimit(Axis.TOKENS, 50000.0, 10.0, 59.0)
    looser = project | {"x-ratelimit-remaining-project-tokens": "999999"}
    assert parse_limits(OPENAI | looser) == parse_limits(OPENAI)


def test_azure_bare_seconds() -> None:
    """Azure tells resets as bare integers of seconds."""
    headers = {"x-ratelimit-remaining-requests": "79", "x-ratelimit-reset-requests": "10"}

    assert parse_limits(headers) == (AxisLimit(Axis.REQUESTS, None, 79.0, 10.0),)


def test_azure_odd_spelling() -> None:
    """``x-rate-limit-…`` is the same header."""
    assert parse_limits({"x-rate-limit-reset-tokens": "55"}) == (AxisLimit(Axis.TOKENS, None, None, 55.0),)


def test_azure_sentinels() -> None:
    """-1 for limit and remaining with a reset of 0 means that nothing is metered, not that nothing is left."""
    headers = {
        "x-ratelimit-limit-tokens": "-1",
        "x-ratelimit-remaining-tokens": "-1",
        "x-ratelimit-reset-tokens": "0",
    }

    assert parse_limits(headers) == ()
    assert parse_retry_after(headers) is None


def test_missing_headers_are_unknown_not_zero() -> None:
    """What a provider does not tell is ``None``; without any header there is no limit at all."""
    assert parse_limits({"x-ratelimit-limit-requests": "500"}) == (AxisLimit(Axis.REQUESTS, 500.0, None, None),)
    assert parse_limits({}) == ()
    assert parse_retry_after({"x-ratelimit-limit-requests": "500", "x-ratelimit-reset-requests": "1s"}) is None


@pytest.mark.parametrize("text", ["", "many", "nan", "1e999", "100, 100", "None"])
def test_senseless_numbers_are_unknown(text: str) -> None:
    """A number that is none is left out, and the rest is read."""
    headers = {"x-ratelimit-limit-requests": "500", "x-ratelimit-remaining-requests": text}

    assert parse_limits(headers) == (AxisLimit(Axis.REQUESTS, 500.0, None, None),)


def test_anthropic_limits() -> None:
    """Resets told as a time of day are measured against the moment of the answer."""
    assert parse_limits(ANTHROPIC, now_utc=NOW) == (
        AxisLimit(Axis.REQUESTS, 1000.0, 994.0, 1.0),
        AxisLimit(Axis.INPUT_TOKENS, 450000.0, 0.0, 3.0),
        AxisLimit(Axis.OUTPUT_TOKENS, 90000.0, 14000.0, 2.0),
    )


def test_clock_skew() -> None:
    """The response's own date counts, not a local clock that is an hour off."""
    told = ANTHROPIC | {"Date": "Mon, 18 May 2026 11:42:15 GMT"}

    assert parse_limits(told, now_utc=NOW + timedelta(hours=1)) == parse_limits(ANTHROPIC, now_utc=NOW)
    assert parse_limits(told) == parse_limits(ANTHROPIC, now_utc=NOW)


def test_no_clock_is_read() -> None:
    """Without a date and a moment, a time of day says nothing."""
    assert parse_limits(ANTHROPIC)[0] == AxisLimit(Axis.REQUESTS, 1000.0, 994.0, None)


@pytest.mark.parametrize("now", [NOW, NOW.replace(tzinfo=None), NOW.astimezone(timezone(timedelta(hours=9)))])
@pytest.mark.parametrize("reset", ["2026-05-18T11:42:18Z", "2026-05-18T11:42:18", "2026-05-18T13:42:18.000+02:00"])
def test_naive_and_aware_times_mix(now: datetime, reset: str) -> None:
    """A time without a zone is UTC, on either side."""
    headers = {"anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": reset}

    assert parse_limits(headers, now_utc=now)[0].reset_s == 3.0


def test_reset_that_is_a_unix_time() -> None:
    """A reset of half a century is a moment in the wrong place, and is left out."""
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1779104535"}

    assert parse_limits(headers, now_utc=NOW) == (AxisLimit(Axis.REQUESTS, None, 0.0, None),)


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry-after": "23"}, (23.0, "retry-after")),
        ({"Retry-After": "0"}, (0.0, "retry-after")),
        ({"retry-after": "0.5"}, (0.5, "retry-after")),
        ({"retry-after": "1e1"}, (10.0, "retry-after")),
        ({"retry-after": "1s"}, (1.0, "retry-after")),
        ({"retry-after": "6m0s"}, (360.0, "retry-after")),
        ({"retry-after": "86400"}, (86400.0, "retry-after")),
        ({"retry-after": "4294967"}, (4294967.0, "retry-after")),
        ({"retry-after-ms": "976", "retry-after": "1"}, (0.976, "retry-after-ms")),
        ({"retry-after-ms": "soon", "retry-after": "1"}, (1.0, "retry-after")),
        ({"x-ms-retry-after-ms": "250"}, (0.25, "x-ms-retry-after-ms")),
        ({"x-amz-retry-after": "2500"}, (2.5, "x-amz-retry-after")),
        ({"retry-after": "2814, 2"}, (2814.0, "retry-after")),
        ({"retry-after": "Mon, 18 May 2026 11:42:45 GMT"}, (30.0, "retry-after")),
        ({"retry-after": "Mon, 18 May 2026 11:42:45 -0000"}, (30.0, "retry-after")),
        ({"retry-after": "Mon, 18 May 2026 11:42:45"}, (30.0, "retry-after")),
        ({"retry-after": "Monday, 18-May-26 11:42:45 GMT"}, (30.0, "retry-after")),
        ({"retry-after": "2026-05-18T11:42:45Z"}, (30.0, "retry-after")),
        ({"retry-after": "Mon, 18 May 2015 11:42:45 GMT"}, (0.0, "retry-after")),
        (
            {"retry-after": "Mon, 18 May 2026 11:42:45 GMT", "date": "Mon, 18 May 2026 11:42:40 GMT"},
            (5.0, "retry-after"),
        ),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e400"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "5, soon"}, None),
        ({"retry-after": "Mon, 99 May 2026 11:42:45 GMT"}, None),
        ({"retry-after": "Mon, 18 May 99999 11:42:45 GMT"}, None),
        ({}, None),
    ],
)
def test_stated_waits(headers: dict[str, str], wait: tuple[float, str] | None) -> None:
    """Seconds, fractions, milliseconds, dates and doublets are read, uncapped; nonsense is passed over."""
    assert parse_retry_after(headers, now_utc=NOW) == wait


def test_nonsense_is_passed_over_for_the_next_rung() -> None:
    """A senseless ``retry-after`` does not hide the reset of a used-up limit."""
    headers = {
        "retry-after": "-1",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "120ms",
        "x-ratelimit-remaining-tokens": "5",
        "x-ratelimit-reset-tokens": "59s",
    }

    assert parse_retry_after(headers) == (0.12, "x-ratelimit-reset-requests")


def test_longest_reset_among_the_used_up() -> None:
    """Two exhausted limits both have to refill."""
    headers = {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "120ms",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "59s",
    }

    assert parse_retry_after(headers) == (59.0, "x-ratelimit-reset-tokens")


def test_reset_without_remaining_needs_to_know_what_refused() -> None:
    """A reset alone says nothing of a refusal, unless the axis that refused is known."""
    read = LimitHeaders({"x-rate-limit-reset-tokens": "55"})

    assert read.reset_wait() is None
    assert read.reset_wait(Axis.REQUESTS) is None
    assert read.reset_wait(Axis.TOKENS) == (55.0, "x-ratelimit-reset-tokens")


@given(st.dictionaries(st.sampled_from([*OPENAI, *ANTHROPIC, "date", "retry-after-ms"]), st.text(max_size=30)))
def test_whatever_headers_hold(headers: dict[str, str]) -> None:
    """Nothing raises, nothing is negative, nothing is infinite."""
    wait = parse_retry_after(headers, now_utc=NOW)
    numbers = [number for limit in parse_limits(headers, now_utc=NOW) for number in limit[1:] if number is not None]

    assert all(0 <= number < float("inf") for number in [*numbers, *(wait or (0.0,))[:1]])


def test_mistral() -> None:
    """Mistral names the minute, and no reset."""
    headers = {
        "x-ratelimit-limit-req-minute": "60",
        "x-ratelimit-remaining-req-minute": "59",
        "x-ratelimit-limit-tokens-minute": "500000",
        "x-ratelimit-remaining-tokens-minute": "0",
        "x-ratelimit-tokens-query-cost": "77",
    }

    assert parse_limits(headers) == (
        AxisLimit(Axis.REQUESTS, 60.0, 59.0, None),
        AxisLimit(Axis.TOKENS, 500_000.0, 0.0, None),
    )


def test_openrouter() -> None:
    """OpenRouter names no axis, and its reset is a Unix time in milliseconds."""
    reset_ms = int((NOW.timestamp() + 90) * 1_000)
    headers = {"X-RateLimit-Limit": "20", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(reset_ms)}

    assert parse_limits(headers, now_utc=NOW) == (AxisLimit(Axis.REQUESTS, 20.0, 0.0, pytest.approx(90.0)),)


@pytest.mark.parametrize("absurd", ["999999998s", "1e308", "9" * 400, "40000d"])
def test_absurd_figures_are_none(absurd: str) -> None:
    """A reset in thirty years and 1e308 requests are no news; a wait of that kind is none either."""
    told = {"x-ratelimit-limit-requests": absurd, "x-ratelimit-remaining-requests": "0"}

    assert parse_limits(told | {"x-ratelimit-reset-requests": absurd}) == (AxisLimit(Axis.REQUESTS, None, 0.0, None),)
    assert parse_retry_after({"retry-after": absurd}) is None
