"""Converse's answers said in Anthropic's words, which they differ from in names alone, for the reader of those.

So texts, thoughts, signatures, tool calls and counts of both are read, kept and sent back by one rule.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from factflow_llm.clients.wire import count, items, mapping

_COUNTS = {
    "inputTokens": "input_tokens",
    "outputTokens": "output_tokens",
    "cacheReadInputTokens": "cache_read_input_tokens",
    "cacheWriteInputTokens": "cache_creation_input_tokens",
}


def said_as_message(answer: Mapping[str, Any], *, request_id: str | None) -> dict[str, Any]:
    """Say a whole answer as one of Anthropic's messages; Bedrock names an answer by its request's id.

    Raises:
        BadResponseError: names the field that has no meaning.
    """
    content = mapping(mapping(answer.get("output")).get("message")).get("content")
    return {
        "id": request_id,
        "content": [_block(block) for block in items(content, "output.message.content")],
        "stop_reason": answer.get("stopReason"),
        "usage": _usage(answer.get("usage")),
    }


def _usage(usage: Any) -> dict[str, Any]:
    told = mapping(usage)
    return {ours: told.get(theirs) for theirs, ours in _COUNTS.items()}


def _block(block: Any) -> Any:
    if not isinstance(block, Mapping):
        return block
    if "text" in block:
        return {"type": "text", "text": block["text"]}
    if "toolUse" in block:
        call = mapping(block["toolUse"])
        if call.get("type") is None:
            given = {"id": call.get("toolUseId"), "name": call.get("name"), "input": call.get("input")}
            return {"type": "tool_use", **given}
    if "reasoningContent" in block:
        return _thought(mapping(block["reasoningContent"]))
    if "citationsContent" in block:
        return {"type": "text", "text": mapping(block["citationsContent"]).get("content")}
    return {"type": "converse", "block": json.loads(json.dumps(block, default=_readable))}


def _thought(thought: Mapping[str, Any]) -> dict[str, Any]:
    if redacted := thought.get("redactedContent"):
        return {"type": "redacted_thinking", "data": _readable(redacted)}
    told = mapping(thought.get("reasoningText"))
    signed = {"signature": told["signature"]} if told.get("signature") else {}
    return {"type": "thinking", "thinking": told.get("text"), **signed}


def _readable(value: Any) -> str:
    return b64encode(value).decode() if isinstance(value, bytes | bytearray) else str(value)


class EventTranslator:
    """Says the events of one stream in Anthropic's words; Converse opens no block of text or thought by an event."""

    def __init__(self, *, request_id: str | None) -> None:
        self._request_id = request_id
        self._open: set[int] = set()

    def translate(self, event: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return what one event says, which may be nothing or, where it opens a block, two things."""
        for kind, told in event.items():
            if kind == "messageStart":
                return [{"type": "message_start", "message": {"id": self._request_id, "content": []}}]
            if kind == "messageStop":
                return [{"type": "message_delta", "delta": {"stop_reason": mapping(told).get("stopReason")}}]
            if kind == "metadata":
                return [{"type": "message_delta", "delta": {}, "usage": _usage(mapping(told).get("usage"))}]
            index = count(mapping(told).get("contentBlockIndex")) or 0
            if kind == "contentBlockStart":
                self._open.add(index)
                return [_opening(index, _block(mapping(mapping(told).get("start"))))]
            if kind == "contentBlockDelta":
                return self._delta(index, mapping(mapping(told).get("delta")))
        return []

    def _delta(self, index: int, delta: Mapping[str, Any]) -> list[dict[str, Any]]:
        said = _said_delta(delta)
        if said is None:
            return []
        if index in self._open:
            return [{"type": "content_block_delta", "index": index, "delta": said}]
        self._open.add(index)
        if said["type"] == "redacted":
            return [_opening(index, {"type": "redacted_thinking", "data": said["data"]})]
        kind = "text" if said["type"] == "text_delta" else "thinking"
        opening = _opening(index, {"type": kind, kind: ""})
        return [opening, {"type": "content_block_delta", "index": index, "delta": said}]


def _opening(index: int, block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def _said_delta(delta: Mapping[str, Any]) -> dict[str, Any] | None:
    if "text" in delta:
        return {"type": "text_delta", "text": delta["text"]}
    if "toolUse" in delta:
        return {"type": "input_json_delta", "partial_json": mapping(delta["toolUse"]).get("input")}
    thought = mapping(delta.get("reasoningContent"))
    if "text" in thought:
        return {"type": "thinking_delta", "thinking": thought["text"]}
    if "signature" in thought:
        return {"type": "signature_delta", "signature": thought["signature"]}
    if "redactedContent" in thought:
        return {"type": "redacted", "data": _readable(thought["redactedContent"])}
    return None
