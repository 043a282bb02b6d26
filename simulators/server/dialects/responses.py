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
    answer_text,
    characters,
    event,
    is_cut,
    reply_id,
    turns,
    whole,
    words,
)

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
    )


def answer(wanted: Asking, call: Call) -> Json:
    """Return a finished response of one message."""
    ended: Json = {"status": "completed", "incomplete_details": None}
    if is_cut(call):
        ended = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    usage = {
        "input_tokens": call.input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": call.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": call.input_tokens + call.output_tokens,
    }
    return (
        _response(wanted, call) | ended | {"output": [_message(call, answer_text(call.output_tokens))], "usage": usage}
    )


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


def _message(call: Call, text: str | None) -> Json:
    content = [] if text is None else [{"type": "output_text", "text": text, "annotations": []}]
    status = "in_progress" if text is None else "completed"
    return {
        "type": "message",
        "id": f"msg_{reply_id(call)}",
        "role": "assistant",
        "status": status,
        "content": content,
    }


def events(wanted: Asking, call: Call) -> Iterator[bytes]:
    """Yield the events of a streamed response, in the documented order."""
    number = 0

    def say(kind: str, **fields: object) -> bytes:
        nonlocal number
        number += 1
        return event(f"response.{kind}", sequence_number=number - 1, **fields)

    place = {"item_id": f"msg_{reply_id(call)}", "output_index": 0, "content_index": 0}
    text = answer_text(call.output_tokens)
    part = {"type": "output_text", "annotations": []}
    yield say("created", response=_response(wanted, call))
    yield say("in_progress", response=_response(wanted, call))
    yield say("output_item.added", output_index=0, item=_message(call, None))
    yield say("content_part.added", **place, part=part | {"text": ""})
    for word in words(call.output_tokens):
        yield say("output_text.delta", **place, delta=word)
    yield say("output_text.done", **place, text=text)
    yield say("content_part.done", **place, part=part | {"text": text})
    yield say("output_item.done", output_index=0, item=_message(call, text))
    yield say("incomplete" if is_cut(call) else "completed", response=answer(wanted, call))


STREAM_ERROR = event(
    "error",
    code="server_error",
    message="The server had an error while processing your request. Sorry about that!",
    param=None,
    sequence_number=0,
)
