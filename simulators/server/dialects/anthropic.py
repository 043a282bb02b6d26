"""Anthropic: messages, whole and streamed, and its rejections."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from factflow_llm.signals import Axis
from simulators.providers.calls import CallKind
from simulators.server.dialects.base import (
    ORG,
    ApiRoute,
    Asking,
    Dialect,
    InvalidAskingError,
    Json,
    characters,
    event,
    reply_id,
    turns,
    whole,
)
from simulators.server.dialects.said import AnswerKind, Offered, inside, objects, offered

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from simulators.providers.calls import Call
    from simulators.providers.catalogue import Provider
    from simulators.providers.machine import RejectionDetail, Verdict

_SAMPLING = ("temperature", "top_p", "top_k")


def read_messages(body: Json, version: str | None) -> Asking:
    """Read a message request; from version 2026-10-21 on, sampling parameters are mistakes."""
    if version is None:
        raise InvalidAskingError("anthropic-version: header is required")
    max_tokens, messages = whole(body, "max_tokens"), turns(body)
    if max_tokens is None:
        raise InvalidAskingError("max_tokens: Field required")
    if not messages:
        raise InvalidAskingError("messages: at least one message is required")
    sampling = [name for name in _SAMPLING if name in body]
    if sampling and version >= "2026-10-21":
        raise InvalidAskingError(f"{sampling[0]}: Extra inputs are not permitted")
    size = characters(body.get("system")) + sum(characters(one.get("content")) for one in messages)
    return Asking(
        CallKind.CHAT,
        str(body.get("model", "")),
        max(math.ceil(size / 4), 1),
        max_tokens,
        stream=bool(body.get("stream")),
        offered=_offered(body),
    )


def _offered(body: Json) -> Offered:
    choice = body.get("tool_choice")
    tools = [(tool.get("name"), tool.get("input_schema")) for tool in objects(body.get("tools"))]
    schema = inside(body, "output_config", "format", "schema") or inside(body, "output_format", "schema")
    return offered(tools, inside(choice, "type") in ("any", "tool"), schema, inside(choice, "name"))


def message(wanted: Asking, call: Call) -> Json:
    """Return a message."""
    return _message(wanted, call) | {
        "content": [_block(wanted, call, whole=True)],
        "stop_reason": _STOPS.get(wanted.said.kind, "end_turn"),
        "usage": _usage(call.input_tokens, call.output_tokens),
    }


_STOPS = {
    AnswerKind.LENGTH: "max_tokens",
    AnswerKind.TOOL_CALL: "tool_use",
    AnswerKind.REFUSAL: "refusal",
    AnswerKind.FILTERED: "refusal",
}


def _block(wanted: Asking, call: Call, *, whole: bool) -> Json:
    """Return the one block of the content, before or after it was said."""
    tool = wanted.said.tool
    if tool is None:
        return {"type": "text", "text": wanted.said.text if whole else ""}
    given = tool.arguments if whole else {}
    return {"type": "tool_use", "id": f"toolu_{reply_id(call)}", "name": tool.name, "input": given}


def events(wanted: Asking, call: Call) -> Iterator[bytes]:
    """Yield the events of a streamed message, in the documented order."""
    yield event("message_start", message=_message(wanted, call))
    yield event("content_block_start", index=0, content_block=_block(wanted, call, whole=False))
    yield event("ping")
    kind, told = ("text_delta", "text") if wanted.said.tool is None else ("input_json_delta", "partial_json")
    for piece in wanted.said.pieces:
        yield event("content_block_delta", index=0, delta={"type": kind, told: piece})
    yield event("content_block_stop", index=0)
    stop = {"stop_reason": _STOPS.get(wanted.said.kind, "end_turn"), "stop_sequence": None}
    yield event("message_delta", delta=stop, usage={"output_tokens": call.output_tokens})
    yield event("message_stop")


def _message(wanted: Asking, call: Call) -> Json:
    return {
        "id": f"msg_{reply_id(call)}",
        "type": "message",
        "role": "assistant",
        "model": wanted.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage(call.input_tokens, 1),
    }


def _usage(input_tokens: int, output_tokens: int) -> Json:
    cache = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {"input_tokens": input_tokens, "output_tokens": output_tokens} | cache


def _error(kind: str, message: str, error_code: str | None = None) -> Json:
    """Return Anthropic's error envelope."""
    details = {"details": {"error_code": error_code}} if error_code else {}
    return {"type": "error", "error": {"type": kind, "message": message} | details}


class Anthropic(Dialect):
    """Anthropic itself."""

    routes: ClassVar[tuple[ApiRoute, ...]] = (
        ApiRoute(
            "/v1/messages",
            lambda body, request: read_messages(body, request.headers.get("anthropic-version")),
            message,
            events,
            event("error", error={"type": "overloaded_error", "message": "Overloaded"}),
        ),
    )
    batch_lists = ("/v1/messages/batches",)

    def headers(self, number: int, status: int) -> dict[str, str]:
        """Name the request and the organization."""
        return {"request-id": f"req_{number:024d}", "anthropic-organization-id": "org-simulated"}

    def signed(self, body: Json, headers: Mapping[str, str]) -> Json:
        """Repeat the request's name."""
        return body | {"request_id": headers["request-id"]}

    def problem(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> Json:
        """Return a mistake in the error envelope."""
        kinds = {401: "authentication_error", 404: "not_found_error", 413: "request_too_large"}
        return _error(kinds.get(status, "invalid_request_error"), message)

    def rejection(self, provider: Provider, verdict: Verdict, detail: RejectionDetail | None, operation: str) -> Json:
        """Return the rejection in the words of the documentation."""
        match verdict.error:
            case "overloaded":
                return _error("overloaded_error", "Overloaded")
            case "quota":
                message = (
                    "You have reached your API usage limits: your organization has crossed its monthly API usage "
                    "threshold, set based on your organization's API tier."
                )
                return _error("rate_limit_error", message, "enforced_spend_limit_reached")
            case "ramp":
                message = "Your organization's usage has grown too fast."
                return _error("rate_limit_error", message, "ramp_limit_exceeded")
            case "rate_limit" | "daily_quota" | "request_exceeds_limit":
                what = ""
                if detail is not None and provider.names_axis and detail.axis is not Axis.CONCURRENCY:
                    what = f" of {detail.limit:,.0f} {detail.axis.replace('_', ' ')} per minute"
                message = (
                    f"This request would exceed your organization's rate limit{what} "
                    f"(org: {ORG}, model: {provider.model}). "
                    "For details, refer to: https://docs.claude.com/en/api/rate-limits."
                )
                return _error("rate_limit_error", message)
            case _:
                return _error("api_error", "Internal server error")


DIALECT = Anthropic()
