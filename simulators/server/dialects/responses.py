"""OpenAI's Responses API, which Azure speaks, too."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from simulators.providers.calls import CallKind
from simulators.server.dialects.base import (
    CREATED,
    Asking,
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
    from collections.abc import Iterator

    from simulators.providers.calls import Call


def read(body: Json) -> Asking:
    """Read a request; its size is estimated as a chat's, item by item."""
    asked = body.get("input")
    items = [{"content": asked}] if isinstance(asked, str) and asked else turns(body, "input")
    if not items:
        raise InvalidAskingError(
            "Missing required parameter: 'input'.", code="missing_required_parameter", param="input"
        )
    if "stop" in body:
        raise InvalidAskingError("Unknown parameter: 'stop'.", code="unknown_parameter", param="stop")
    sizes = [characters(item.get("content") or item.get("output") or item.get("arguments")) for item in items]
    return Asking(
        CallKind.CHAT,
        str(body.get("model", "")),
        sum(
            math.ceil(size / 4) + 1
            for size in [*sizes, *([characters(body["instructions"])] if "instructions" in body else [])]
        ),
        whole(body, "max_output_tokens"),
        stream=bool(body.get("stream")),
        offered=_offered(body),
    )


def _offered(body: Json) -> Offered:
    choice, form = body.get("tool_choice"), inside(body, "text", "format")
    tools = [(tool.get("name"), tool.get("parameters")) for tool in objects(body.get("tools"))]
    schema = {"type": "object"} if inside(form, "type") == "json_object" else inside(form, "schema")
    must = choice == "required" or isinstance(choice, dict)
    return offered(tools, must, schema, inside(choice, "name"))


def answer(wanted: Asking, call: Call) -> Json:
    """Return a finished response of one message."""
    ended: Json = {"status": "completed", "incomplete_details": None}
    if wanted.said.kind in _REASONS:
        ended = {"status": "incomplete", "incomplete_details": {"reason": _REASONS[wanted.said.kind]}}
    usage = {
        "input_tokens": call.input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": call.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": call.input_tokens + call.output_tokens,
    }
    return _response(wanted, call) | ended | {"output": [_item(wanted, call, whole=True)], "usage": usage}


_REASONS = {AnswerKind.LENGTH: "max_output_tokens", AnswerKind.FILTERED: "content_filter"}


def _response(wanted: Asking, call: Call) -> Json:
    return {
        "id": f"resp_{reply_id(call)}",
        "object": "response",
        "created_at": CREATED,
        "status": "in_progress",
        "error": None,
        "model": wanted.model,
        "output": [],
        "usage": None,
    }


def _item(wanted: Asking, call: Call, *, whole: bool) -> Json:
    """Return the one item of the output, before or after it was said."""
    says, status = wanted.said, "completed" if whole else "in_progress"
    if says.tool is not None:
        return {
            "type": "function_call",
            "id": f"fc_{reply_id(call)}",
            "call_id": f"call_{reply_id(call)}",
            "name": says.tool.name,
            "arguments": says.tool.text if whole else "",
            "status": status,
        }
    return {
        "type": "message",
        "id": f"msg_{reply_id(call)}",
        "role": "assistant",
        "status": status,
        "content": [_part(wanted, says.text)] if whole else [],
    }


def _part(wanted: Asking, text: str) -> Json:
    if wanted.said.kind is AnswerKind.REFUSAL:
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "annotations": [], "text": text}


def events(wanted: Asking, call: Call) -> Iterator[bytes]:
    """Yield the events of a streamed response, in the documented order."""
    number = 0

    def say(kind: str, **fields: object) -> bytes:
        nonlocal number
        number += 1
        return event(f"response.{kind}", sequence_number=number - 1, **fields)

    says = wanted.said
    yield say("created", response=_response(wanted, call))
    yield say("in_progress", response=_response(wanted, call))
    yield say("output_item.added", output_index=0, item=_item(wanted, call, whole=False))
    if says.tool is not None:
        place: Json = {"item_id": f"fc_{reply_id(call)}", "output_index": 0}
        for piece in says.pieces:
            yield say("function_call_arguments.delta", **place, delta=piece)
        yield say("function_call_arguments.done", **place, arguments=says.tool.text, name=says.tool.name)
    else:
        place = {"item_id": f"msg_{reply_id(call)}", "output_index": 0, "content_index": 0}
        refused = says.kind is AnswerKind.REFUSAL
        kind, told = ("refusal", "refusal") if refused else ("output_text", "text")
        yield say("content_part.added", **place, part=_part(wanted, ""))
        for piece in says.pieces:
            yield say(f"{kind}.delta", **place, delta=piece)
        yield say(f"{kind}.done", **place, **{told: says.text})
        yield say("content_part.done", **place, part=_part(wanted, says.text))
    yield say("output_item.done", output_index=0, item=_item(wanted, call, whole=True))
    yield say("incomplete" if says.kind in _REASONS else "completed", response=answer(wanted, call))


STREAM_ERROR = event(
    "error",
    code="server_error",
    message="The server had an error while processing your request. Sorry about that!",
    param=None,
    sequence_number=0,
)
