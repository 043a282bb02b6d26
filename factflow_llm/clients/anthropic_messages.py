"""Anthropic's language: neutral messages, tools and formats in; content blocks and usage out.

Its ways: the system prompt stands beside the messages, tool results are a user's turn, arguments are objects, and the
input count leaves out what the cache served.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from factflow_llm.errors import InvalidRequestError
from factflow_llm.types import FinishReason, ImagePart, Message, Role, TextPart, Tool, ToolCall, Usage

if TYPE_CHECKING:
    from types import ModuleType

_FINISH_REASONS = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.CONTENT_FILTER,
}


def say_messages(messages: Sequence[Message]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Say checked messages in Anthropic's words: the system blocks, and the turns.

    Results of several tools that ran for one turn are joined, as the API demands. A turn of plain text stays a string:
    the SDK walks through every block it is given.
    """
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    for position, message in enumerate(messages):
        if message.role == Role.SYSTEM:
            system += _say_content(message.content)
        elif message.role == Role.TOOL and position and messages[position - 1].role == Role.TOOL:
            turns[-1]["content"] += _say_tool_result(message)
        elif message.role == Role.TOOL:
            turns.append({"role": "user", "content": _say_tool_result(message)})
        else:
            turns.append({"role": str(message.role), "content": _say_turn(message, where=f"messages[{position}]")})
    if not turns:
        raise InvalidRequestError("messages holds only system turns: Anthropic needs a turn of the user")
    return system, turns


def _say_turn(message: Message, *, where: str) -> str | list[dict[str, Any]]:
    if message.content and isinstance(message.content, str) and not message.tool_calls:
        return message.content
    blocks = _say_content(message.content) + [_say_tool_call(call, where=where) for call in message.tool_calls]
    if not blocks:
        raise InvalidRequestError(f"{where} is empty: Anthropic takes no turn without content")
    return blocks


def _say_tool_result(message: Message) -> list[dict[str, Any]]:
    content = _say_content(message.content)
    return [{"type": "tool_result", "tool_use_id": message.tool_call_id, "content": content}]


def _say_content(content: str | Sequence[TextPart | ImagePart]) -> list[dict[str, Any]]:
    parts = [TextPart(content)] if isinstance(content, str) else content
    return [_say_part(part) for part in parts if not isinstance(part, TextPart) or part.text]


def _say_part(part: TextPart | ImagePart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if part.url is not None:
        return {"type": "image", "source": {"type": "url", "url": part.url}}
    data = b64encode(part.data or b"").decode()
    return {"type": "image", "source": {"type": "base64", "media_type": part.media_type, "data": data}}


def _say_tool_call(call: ToolCall, *, where: str) -> dict[str, Any]:
    try:
        arguments = json.loads(call.arguments or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidRequestError(f"{where}: the arguments of the call of {call.name!r} are no JSON object") from None
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments}


def say_tools(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Say tool definitions in Anthropic's words."""
    return [
        {
            "name": tool.name,
            **({"description": tool.description} if tool.description else {}),
            "input_schema": dict(tool.parameters) or {"type": "object", "properties": {}},
        }
        for tool in tools
    ]


def say_format(response_format: Any, sdk: ModuleType) -> dict[str, Any]:
    """Say a structured output in Anthropic's words; OpenAI's ``json_schema`` form is understood too."""
    if isinstance(response_format, type) and issubclass(response_format, BaseModel):
        schema = sdk.transform_schema(response_format)
    elif isinstance(response_format, Mapping) and response_format.get("type") == "json_schema":
        schema = response_format.get("schema") or response_format["json_schema"]["schema"]
    elif isinstance(response_format, Mapping) and response_format.get("type") != "json_object":
        schema = dict(response_format)
    else:
        raise InvalidRequestError(
            "response_format: Anthropic answers in JSON only to a schema; give a pydantic model class or a JSON schema"
        )
    return {"type": "json_schema", "schema": schema}


def read_finish(word: str | None) -> FinishReason | None:
    """Normalise Anthropic's stop reason."""
    return None if word is None else _FINISH_REASONS.get(word, FinishReason.OTHER)


def read_usage(start: Any, end: Any = None) -> Usage:
    """Read token counts, the later report before the earlier one; cached and cache-write tokens count as input."""

    def told(name: str) -> Any:
        later = None if end is None else getattr(end, name, None)
        return getattr(start, name, None) if later is None else later

    fresh, cached, written = (
        told(name) for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    )
    return Usage(
        input_tokens=None if fresh is None else fresh + (cached or 0) + (written or 0),
        output_tokens=told("output_tokens"),
        cached_input_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=_thinking_tokens(told("output_tokens_details")),
    )


def _thinking_tokens(details: Any) -> int | None:
    """Read a field that SDKs older than itself leave as a plain mapping."""
    tokens = (
        details.get("thinking_tokens") if isinstance(details, Mapping) else getattr(details, "thinking_tokens", None)
    )
    return tokens if isinstance(tokens, int) else None


def read_tool_calls(content: Sequence[Any]) -> tuple[ToolCall, ...]:
    """Read the tool calls among the blocks of a finished answer."""
    return tuple(
        ToolCall(block.id, block.name, json.dumps(block.input)) for block in content if block.type == "tool_use"
    )
