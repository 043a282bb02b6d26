"""Read what a body says of a failure, whatever its shape; and find the failure that an answer of status 200 hides.

A body is somebody else's text: every field may be absent, null, or of another type, and nothing here raises over it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from factflow_llm.errors.exceptions import BadResponseError
from factflow_llm.errors.tables import squash
from factflow_llm.signals import Axis, AxisLimit

MOST_MESSAGE = 2_000
_MOST_TEXT = 65_536
_MOST_NUMBER = 10**18
_MOST_DIGITS = 12
_DEEPEST = 5  # a gateway's error in a gateway's error in …
_ANSWERS = ("choices", "content", "data", "output", "embedding", "embeddings", "delta", "candidates")
_FAILED = re.compile(r"(?:^|_)(?:error|failed|failure|aborted?|timeout|timed_out|insufficient_system_resource)$")


@dataclass(slots=True)
class Body:
    """The facts of an error body.

    Attributes:
        code: the most specific machine code, as it was spelt.
        type: the error's type.
        param: the request parameter that is blamed.
        status: an HTTP status told inside.
        words: squashed machine codes, in order of authority; a number of one vendor's own carries the field's name.
        message: the provider's own words.
        quota_ids: names of the quotas that are used up, in lower case.
        wait: a wait stated in a field of its own.
        headers: those that a gateway puts into its body, by lower-case name (OpenRouter).
        limits: minutes' limits that were used up (Gemini).
        is_error: the body holds an ``error``.
    """

    code: str | None = None
    type: str | None = None
    param: str | None = None
    status: int | None = None
    words: list[str] = field(default_factory=list)
    message: str = ""
    quota_ids: list[str] = field(default_factory=list)
    wait: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    limits: list[AxisLimit] = field(default_factory=list)
    is_error: bool = False


def failure_inside(
    answer: Any, *, status_code: int = 200, headers: Mapping[str, str] | None = None, in_stream: bool = False
) -> BadResponseError | None:
    """Find the failure that an answer of status 2xx, or an event of a stream, tells instead of answering.

    Knows an ``error`` beside or instead of the answer, in it or in one of its choices; MiniMax's ``base_resp``,
    Qianfan's ``error_code``, ``success: false``, a bare ``code`` with a ``message``, a choice that ended in an error.

    Args:
        answer: decoded JSON of the whole answer or of one event; anything else holds no failure.
        status_code: the HTTP status that came with it.
        headers: the HTTP response headers.
        in_stream: the failure came after an answer had begun.

    Returns:
        The error to raise, which the classifier reads as it reads a failed request's; ``None`` for an answer.
    """
    told = _failure(answer)
    if told is None:
        return None
    return BadResponseError(
        f"the provider answered {status_code} with an error inside",
        status_code=status_code,
        body=told,
        headers=headers,
        in_stream=in_stream,
    )


def _failure(answer: Any) -> Mapping[str, Any] | None:
    answer = first(answer)
    if not isinstance(answer, Mapping):
        return None
    if _says(answer.get("error")) or _numbered(answer):
        return answer
    if answer.get("success") is False or "error" in (answer.get("object"), answer.get("type")):
        return answer
    if answer.get("status") == "failed":
        return answer
    choices = answer.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, Mapping):
            if _says(choice.get("error")):
                return choice
            if is_failed(word := choice.get("finish_reason")):
                return {"error": {"type": "server_error", "message": f"the answer ended with {word}"}}
    if any(answer.get(name) is not None for name in _ANSWERS):
        return None
    worded = any(isinstance(answer.get(name), str) for name in ("message", "msg", "error_msg", "detail"))
    coded = _fails(answer.get("code")) or is_failed(answer.get("type")) or _is_refusal(answer.get("status"))
    return answer if worded and (coded or "detail" in answer) else None


def is_failed(word: Any) -> bool:
    """Tell whether a finish word or a type is one of failure, such as ``error``, ``network_error`` or ``aborted``."""
    return isinstance(word, str) and _FAILED.search(word.lower()) is not None


def _is_refusal(status: Any) -> bool:
    return is_failed(status) or (is_status(status) and status >= 400)


def _says(error: Any) -> bool:
    """Tell whether an ``error`` field holds one: an object, a text or a list that is not empty, or ``true``."""
    return error is True or (isinstance(error, Mapping | list | str) and bool(error))


def _fails(code: Any) -> bool:
    """Tell whether a ``code`` is one of failure, and neither zero nor a status of success."""
    text = scalar(code)
    return text is not None and text not in {"0", "200", "201", "success", "Success", "OK", "ok"}


def _numbered(answer: Mapping[str, Any]) -> str | None:
    """Name a vendor's own number with the field it stands in: the same number means different things elsewhere."""
    base = answer.get("base_resp")
    if isinstance(base, Mapping) and _fails(base.get("status_code")):
        return f"baseresp{base.get('status_code')}"
    return f"errorcode{answer.get('error_code')}" if _fails(answer.get("error_code")) else None


def read_body(content: Any, depth: int = 0) -> Body:
    """Read an error body: an object, one inside ``error`` or ``errors``, a list, JSON text, JSON in a message."""
    content = first(decoded(content))
    if not isinstance(content, Mapping):
        return Body(message=content[:MOST_MESSAGE] if isinstance(content, str) else "")
    nested = content.get("error") or first(content.get("errors"))
    inner = first(decoded(nested))
    told: Mapping[str, Any] = inner if isinstance(inner, Mapping) else content
    details = told.get("details")
    body = Body(
        code=scalar(told.get("code")) or scalar(told.get("__type")) or scalar(told.get("error_code")),
        type=scalar(told.get("type")) or scalar(told.get("error_type")),
        param=scalar(told.get("param")),
        is_error=nested is not None,
    )
    words: list[Any] = [_numbered(told), body.code, body.type, _dig(told, "innererror", "code"), told.get("status")]
    if (code := scalar(told.get("code"))) is not None and len(code) == 4 and code.isdecimal():
        words.insert(0, f"code{code}")
    if isinstance(details, Mapping):
        words.insert(0, details.get("error_code"))
        body.code = scalar(details.get("error_code")) or body.code
    if isinstance(details, list):
        _read_google(details, body, words)
    message = _message(told)
    if isinstance(nested, str) and told is content:  # {"error": "a sentence"} or {"error": "invalid_client"}
        words.append(None if " " in nested else nested)
        message = message or content.get("error_description") or nested
    body.headers = _gateway_headers(_dig(told, "metadata", "headers"))
    for holder in (told, told.get("metadata"), content):
        if isinstance(holder, Mapping) and body.wait is None:
            body.wait = _stated_wait(holder)
    numbers = [word for word in map(_number_in, words) if word is not None]
    body.status = next(filter(is_status, numbers), None)
    body.words = [squash(word) for word in words if isinstance(word, str) and not word.isdecimal()]
    body.message = message[:MOST_MESSAGE] if isinstance(message, str) else ""
    if depth < _DEEPEST:
        for text in (body.message, _dig(told, "metadata", "raw")):
            if isinstance(text, str) and text.lstrip()[:1] in {"{", "["}:
                deeper = read_body(text, depth + 1)
                if deeper.is_error:
                    deeper.status = deeper.status or body.status
                    deeper.wait = deeper.wait or body.wait
                    deeper.headers = body.headers | deeper.headers
                    deeper.words += body.words
                    return deeper
    return body


def _message(told: Mapping[str, Any]) -> Any:
    base = told.get("base_resp")
    return (
        told.get("message")
        or told.get("Message")
        or told.get("detail")
        or told.get("error_msg")
        or told.get("msg")
        or (base.get("status_msg") if isinstance(base, Mapping) else None)
        or ""
    )


def _gateway_headers(headers: Any) -> dict[str, str]:
    if not isinstance(headers, Mapping):
        return {}
    return {str(name).lower(): text for name, value in headers.items() if (text := scalar(value)) is not None and name}


def _stated_wait(holder: Mapping[str, Any]) -> str | None:
    for name in ("retry_after", "retryAfter", "retry_after_seconds", "retryDelay", "estimated_time"):
        stated = holder.get(name)
        if isinstance(stated, int | float | str) and not isinstance(stated, bool):
            return _short(stated)
    stated = holder.get("retry_after_ms")
    return f"{_short(stated)}ms" if isinstance(stated, int | float) and not isinstance(stated, bool) else None


def _read_google(details: list[Any], body: Body, words: list[Any]) -> None:
    for detail in details:
        if not isinstance(detail, Mapping):
            continue
        words.insert(0, detail.get("reason"))
        body.wait = body.wait or scalar(detail.get("retryDelay"))
        violations = detail.get("violations")
        for violation in violations if isinstance(violations, list) else ():
            if isinstance(violation, Mapping) and (quota := scalar(violation.get("quotaId"))):
                body.quota_ids.append(quota.lower())
                _read_quota(quota.lower(), scalar(violation.get("quotaValue")), body)


def _read_quota(quota: str, value: str | None, body: Body) -> None:
    """Read a minute's limit out of ``GenerateRequestsPerMinutePerProjectPerModel`` and its ``quotaValue``."""
    if "perminute" not in quota or value is None or not value.isdecimal() or len(value) > _MOST_DIGITS:
        return
    axis = Axis.INPUT_TOKENS if "input" in quota else Axis.TOKENS if "token" in quota else Axis.REQUESTS
    body.limits.append(AxisLimit(axis, limit=float(value), remaining=0.0))


def first(content: Any) -> Any:
    """Take the first object of a list; anything else as it is."""
    return next((item for item in content if isinstance(item, Mapping)), None) if isinstance(content, list) else content


def decoded(content: Any) -> Any:
    """Decode JSON, be it bytes or text; anything else stays as it is."""
    if isinstance(content, bytes | bytearray):
        content = bytes(content[:_MOST_TEXT]).decode("utf-8", "replace")
    if isinstance(content, str) and content.lstrip()[:1] in {"{", "["} and len(content) <= _MOST_TEXT:
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            return content
    return content


def scalar(value: Any) -> str | None:
    """Take a machine-readable scalar as text; an empty or composite one is nothing."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return _short(value) or None


def _short(value: str | float) -> str:
    """Write a text or a number out; a number that no machine's word can be is nothing."""
    if isinstance(value, int) and abs(value) >= _MOST_NUMBER:
        return ""
    return str(value)


def is_status(value: Any) -> bool:
    """Tell whether a value can be an HTTP status."""
    return isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 999


def _number_in(word: Any) -> int | None:
    if isinstance(word, int) and not isinstance(word, bool):
        return word
    return int(word) if isinstance(word, str) and word.isdecimal() and len(word) == 3 else None


def _dig(value: Mapping[str, Any], *names: str) -> Any:
    found: Any = value
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
