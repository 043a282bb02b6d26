"""The classifier never raises and never believes an absurd figure, whatever an exception is made of."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factflow_llm.errors import ErrorMetadata, classify_llm_error, failure_inside, get_error_metadata, stamina_hook
from factflow_llm.errors.classify import PATIENCE_S, _describe_gravest
from factflow_llm.headers import LONGEST_S, parse_limits, parse_retry_after
from factflow_llm.ratelimit.attempts import _response_headers

FIELDS = st.sampled_from(
    [
        *("error", "errors", "code", "type", "message", "param", "status", "details", "error_code", "error_msg"),
        *("base_resp", "status_code", "status_msg", "metadata", "headers", "retry_after", "retry_after_ms", "reason"),
        *("violations", "quotaId", "quotaValue", "retryDelay", "innererror", "__type", "success", "choices"),
        *("finish_reason", "object", "data", "detail", "Error", "Code", "Message", "ResponseMetadata"),
        *("HTTPStatusCode", "HTTPHeaders", "originalStatusCode", "raw"),
    ]
)
WORDS = st.sampled_from(
    [
        *("rate_limit_exceeded", "insufficient_quota", "slow_down", "RESOURCE_EXHAUSTED", "429", "503"),
        *("overloaded_error", "1113", "ModelErrorException"),
    ]
)
DIGITS = st.one_of(
    st.from_regex(r"[0-9]{1,6}", fullmatch=True),
    st.sampled_from(["9" * 400, "1" * 5000, "0", "00", "-1", "1e308", "NaN", "inf", "٣٣", "²", "1_0", " 7 ", "1,2,3"]),
)
TEMPLATES = (
    "Please try again in {}:{}:{}",
    "please try again in {}h{}m{}s",
    "retry after {} seconds, {} {}",
    "You have reached your specified API usage limits. You will regain access on {:0>4}-{:0>2}-{:0>2} at 00:00 UTC.",
    "you will regain access on 2026-02-30 at {}:{} utc {}",
    "Limit {}, Used {}, Requested {}.",
    "limit: {}, {} per day {}",
    "replenished in {}:{}:{}.",
)
PROSE = st.one_of(
    st.text(max_size=40),
    st.builds(lambda form, *told: form.format(*told), st.sampled_from(TEMPLATES), DIGITS, DIGITS, DIGITS),
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(min_value=10**390, max_value=10**400), st.floats(), PROSE,
    WORDS, st.binary(max_size=20),
)  # fmt: skip
BODIES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(FIELDS, st.text(max_size=5)), inner, max_size=5),
        inner.map(lambda value: json.dumps(value, default=repr)),
    ),
    max_leaves=12,
)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            *("retry-after", "retry-after-ms", "date", "x-should-retry", "policy-id", "x-request-id"),
            *("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
            *("anthropic-ratelimit-tokens-reset", "anthropic-ratelimit-tokens-remaining", "x-ratelimit-reset"),
            *("x-ratelimit-remaining", "x-ratelimit-limit-tokens-minute", "X-RateLimit-Limit"),
        ]
    ),
    st.one_of(
        DIGITS,
        st.sampled_from(["9999-12-31T23:59:59Z", "0000-00-00", "Wed, 99 Foo 2026 25:61:00 GMT", "999999998s", "6m"]),
        st.text(max_size=10),
    ),
    max_size=5,
)


class Odd(Exception):  # noqa: N818
    """An exception with the attributes it is given."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__("odd")
        vars(self).update(attributes)


class Hostile(RuntimeError):  # noqa: N818
    """An exception that fights back wherever it is touched."""

    __module__ = "openai"
    args = property(lambda self: 1 / 0)  # type: ignore[assignment]

    def __str__(self) -> str:
        raise ValueError("no words")

    def __getattr__(self, name: str) -> object:
        raise KeyError(name)


class Lying(dict[str, Any]):
    """A mapping that raises when it is read."""

    def get(self, *_: Any) -> Any:
        raise RecursionError("deeper")

    def items(self) -> Any:
        raise OSError("gone")


def assert_bounded(metadata: ErrorMetadata) -> None:
    """Check that no figure is infinite, not a number, or absurd, and that it all travels."""
    assert metadata.retry_after_s is None or 0 <= metadata.retry_after_s <= LONGEST_S
    for limit in metadata.limits:
        assert all(figure is None or 0 <= figure <= 1e12 for figure in limit[1:])
    assert pickle.loads(pickle.dumps(metadata)) == metadata
    assert len(str(metadata)) < 1000


@given(
    body=BODIES, status=st.one_of(st.none(), st.integers(0, 1000), SCALARS), headers=HEADERS, aws=BODIES,
    sdk=st.sampled_from(["openai", "anthropic", "botocore", "builtins", "tests"]),
)  # fmt: skip
def test_nothing_an_answer_holds_breaks_the_classifier(
    body: Any, status: Any, headers: dict[str, str], aws: Any, sdk: str
) -> None:
    """Any body, status, header and AWS response is judged by the rules, not by the last resort."""
    made = type("Error", (Odd,), {"__module__": sdk})
    for error in (
        made(body=body, status_code=status, headers=headers),
        made(body=body, response=Odd(status_code=status, headers=headers, text=body)),
        made(response={"Error": aws, "ResponseMetadata": body, "originalStatusCode": status}),
    ):
        assert_bounded(_describe_gravest(error, PATIENCE_S))
        assert stamina_hook(error) is not None


@given(answer=BODIES, headers=HEADERS)
def test_nothing_breaks_the_search_for_a_failure(answer: Any, headers: dict[str, str]) -> None:
    """Any decoded JSON is an answer or a failure, and a failure has a verdict."""
    error = failure_inside(answer, headers=headers)
    if error is not None:
        assert_bounded(get_error_metadata(error))
    assert error is None or isinstance(answer, dict | list)


@given(headers=HEADERS)
def test_headers_are_read_within_bounds(headers: dict[str, str]) -> None:
    """No header makes a limit or a wait that no provider can mean."""
    for limit in parse_limits(headers):
        assert all(figure is None or 0 <= figure <= 1e12 for figure in limit[1:])
    wait = parse_retry_after(headers)
    assert wait is None or 0 <= wait[0] <= LONGEST_S


@pytest.mark.parametrize("headers", [None, 7, [1], {1: 2}, {"retry-after": 3}, {"x-ratelimit-limit-requests": 5}, "x"])
def test_headers_that_are_none_show_none(headers: Any) -> None:
    """What is no mapping of texts shows no limits."""
    assert parse_limits(headers) == ()


@pytest.mark.parametrize(
    "error",
    [
        Hostile(),
        Odd(body=Lying(), status_code=429),
        Odd(response=Lying(Error={"Code": "x"})),
        Odd(response=Odd(headers=Lying(a="b"), status_code=503)),
        Odd(last_attempt=Odd(done=lambda: True, exception=lambda: 1 / 0)),
        ExceptionGroup("g", [Hostile(), Odd(body=[[[[]]]] * 3)]),
        UnicodeEncodeError("utf-8", "\ud83d", 0, 1, "surrogates"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_hostile_exceptions(error: BaseException) -> None:
    """Attributes that lie and texts that raise end in a verdict."""
    metadata = get_error_metadata(error)

    assert_bounded(metadata)
    assert classify_llm_error(error) is metadata.classification
    assert _response_headers(error) is None or metadata.status_code


def test_deep_nesting() -> None:
    """A body nested beyond recursion, be it text or decoded, is read as far as it can be."""
    deep: Any = {"code": "rate_limit_exceeded"}
    for _ in range(5_000):
        deep = {"error": deep, "message": [deep]}
    for body in (deep, "[" * 100_000, '{"error":' * 50_000, {"error": {"message": json.dumps({"error": "x"}) * 3}}):
        assert get_error_metadata(Odd(status_code=503, body=body)).status_code == 503
