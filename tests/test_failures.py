"""Failures that servers tell under a status of 200: found wherever they stand, and judged like any other."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from factflow_llm.errors import BadResponseError, failure_inside, get_error_metadata

TOLD: list[tuple[str, Any, str, str]] = [
    (
        "minimax key",
        {"base_resp": {"status_code": 2049, "status_msg": "invalid key"}},
        "terminal",
        "authentication",
    ),
    ("minimax balance", {"choices": None, "base_resp": {"status_code": "1008"}}, "terminal", "quota"),
    ("minimax rate", {"base_resp": {"status_code": 1002, "status_msg": "rate limit"}}, "rate_limited", "rate_limit"),
    ("minimax server", {"base_resp": {"status_code": 1033, "status_msg": "system error"}}, "retryable", "server"),
    ("qianfan token", {"error_code": 110, "error_msg": "Access token invalid"}, "terminal", "authentication"),
    ("qianfan qps", {"error_code": 18, "error_msg": "Open api qps request limit"}, "rate_limited", "rate_limit"),
    ("qianfan day", {"error_code": 17, "error_msg": "Open api daily request limit"}, "terminal", "daily_quota"),
    ("qianfan busy", {"error_code": 336100, "error_msg": "try again"}, "retryable", "overloaded"),
    ("openrouter", {"error": {"code": 502, "message": "upstream"}, "choices": []}, "retryable", "server"),
    ("a list", [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}], "rate_limited", "rate_limit"),
    ("a sentence", {"error": "Model is overloaded", "error_type": "overloaded"}, "retryable", "overloaded"),
    ("cloudflare", {"success": False, "errors": [{"code": 401, "message": "no"}]}, "terminal", "authentication"),
    (
        "vllm",
        {"object": "error", "message": "no", "type": "BadRequestError", "code": 400},
        "terminal",
        "invalid_request",
    ),
    ("a bare code", {"code": 429, "message": "slow", "data": None}, "rate_limited", "rate_limit"),
    ("a code in words", {"code": "InvalidApiKey", "message": "no", "request_id": "r"}, "terminal", "authentication"),
    ("responses", {"status": "failed", "error": {"code": "server_error", "message": "x"}}, "retryable", "server"),
    ("anthropic", {"type": "error", "error": {"type": "overloaded_error"}}, "retryable", "overloaded"),
    ("a choice", {"choices": [{"error": {"code": 503}, "finish_reason": "error"}]}, "retryable", "overloaded"),
    ("a choice's word", {"choices": [{"finish_reason": "error", "message": {}}]}, "retryable", "server"),
    ("zhipu's word", {"choices": [{"finish_reason": "network_error"}]}, "retryable", "server"),
    ("nothing known", {"success": False}, "retryable", "bad_response"),
]
ANSWERS: list[Any] = [
    {"choices": [{"finish_reason": "stop", "message": {"content": "error"}}], "error": None},
    {"choices": [{"finish_reason": "stop", "error": None}], "base_resp": {"status_code": 0, "status_msg": ""}},
    {"choices": [], "error_code": 0},
    {"data": [{"embedding": [1.0]}], "code": 20000, "message": "fine"},
    {"code": 0, "message": "success", "data": None},
    {"success": True, "choices": []},
    {"id": "c", "object": "chat.completion.chunk", "choices": [{"delta": {}}], "error": {}},
    {"type": "message", "content": []},
    {"status": "completed", "error": None, "output": []},
    "error",
    None,
    7,
    [],
    [1, "error"],
    {"choices": "error"},
    {"choices": [None, 1]},
]


@pytest.mark.parametrize(("answer", "classification", "reason"), [case[1:] for case in TOLD], ids=[c[0] for c in TOLD])
def test_failures_are_found_and_judged(answer: Any, classification: str, reason: str) -> None:
    """Wherever a failure stands in an answer, it is an error with a verdict, and shows nothing of the body."""
    error = failure_inside(answer)
    assert isinstance(error, BadResponseError)

    metadata = get_error_metadata(error)

    assert (metadata.classification, metadata.reason) == (classification, reason)
    assert str(error) == "the provider answered 200 with an error inside"
    assert get_error_metadata(pickle.loads(pickle.dumps(error))) == metadata


@pytest.mark.parametrize("answer", ANSWERS, ids=repr)
def test_answers_are_no_failures(answer: Any) -> None:
    """What answers, and what is nothing at all, tells no failure."""
    assert failure_inside(answer) is None


def test_place_and_headers_are_kept() -> None:
    """Whether an answer had begun, and the headers that say how long to wait, reach the verdict."""
    error = failure_inside({"error": {"code": 429}}, headers={"retry-after": "7"}, in_stream=True)

    metadata = get_error_metadata(error)  # type: ignore[arg-type]

    assert (metadata.in_stream, metadata.retry_after_s) == (True, 7.0)
