"""OpenAI's chat language: neutral messages, tools and formats in; answers, deltas and usage out.

Azure and every server that copies OpenAI speak it too, with gaps: what they leave out becomes ``None``.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from factflow_llm.clients.schemas import is_closed, strict_schema
from factflow_llm.errors import InvalidRequestError
from factflow_llm.types import FinishReason, ImagePart, Message, Role, TextPart, Tool, ToolCall, ToolCallDelta, Usage

_FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
}
_NATIVE_FORMATS = frozenset({"text", "json_object", "json_schema"})


def say_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Say checked messages in OpenAI's words."""
    return [_say_message(message) for message in messages]


def _say_message(message: Message) -> dict[str, Any]:
    content = message.content
    said: dict[str, Any] = {
        "role": str(message.role),
        "content": content if isinstance(content, str) else [_say_part(part) for part in content],
    }
    if message.name:
        said["name"] = message.name
    if message.role == Role.TOOL:
        said["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        said["content"] = said["content"] or None
        said["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return said


def _say_part(part: TextPart | ImagePart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    url = part.url or f"data:{part.media_type};base64,{b64encode(part.data or b'').decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def say_tools(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Say tool definitions in OpenAI's words."""
    functions = [
        {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)} for tool in tools
    ]
    return [
        {"type": "function", "function": {name: value for name, value in function.items() if value}}
        for function in functions
    ]


def say_format(response_format: Any) -> dict[str, Any]:
    """Say a structured output in OpenAI's words.

    A pydantic model becomes a strict schema. A JSON schema goes as it is, strict when each of its objects forbids
    additional properties. OpenAI's own forms (``{"type": "json_object"}``…) pass untouched.
    """
    if isinstance(response_format, type) and issubclass(response_format, BaseModel):
        name, schema, strict = response_format.__name__, strict_schema(response_format), True
    elif isinstance(response_format, Mapping):
        if response_format.get("type") in _NATIVE_FORMATS:
            return dict(response_format)
        name, schema = str(response_format.get("title", "answer")), dict(response_format)
        strict = is_closed(schema)
    else:
        raise InvalidRequestError(
            f"response_format is of type {type(response_format).__name__}: give a pydantic model class or a JSON schema"
        )
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": strict}}


def read_finish(word: str | None, *, refused: bool) -> FinishReason | None:
    """Normalise OpenAI's finish word; a refusal comes with ``stop`` and is a content filter all the same."""
    if word is None:
        return None
    return FinishReason.CONTENT_FILTER if refused else _FINISH_REASONS.get(word, FinishReason.OTHER)


def read_usage(usage: Any) -> Usage:
    """Read token counts; ``None`` where the server told none."""
    if usage is None:
        return Usage()
    read = getattr(usage, "prompt_tokens_details", None)
    written = getattr(usage, "completion_tokens_details", None)
    return Usage(
        input_tokens=usage.prompt_tokens,
        output_tokens=getattr(usage, "completion_tokens", None),
        cached_input_tokens=getattr(read, "cached_tokens", None),
        cache_write_tokens=getattr(read, "cache_write_tokens", None),
        reasoning_tokens=getattr(written, "reasoning_tokens", None),
    )


def read_tool_calls(calls: Sequence[Any] | None) -> tuple[ToolCall, ...]:
    """Read the calls of a finished answer; calls of OpenAI's custom tools, which take no JSON, stay in ``raw``."""
    functions = [call for call in calls or () if call.type != "custom"]
    return tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in functions)


def read_tool_deltas(calls: Sequence[Any]) -> tuple[ToolCallDelta, ...]:
    """Read the pieces of tool calls in one chunk."""
    return tuple(
        ToolCallDelta(
            call.index, call.id, call.function and call.function.name, (call.function and call.function.arguments) or ""
        )
        for call in calls
    )


def read_reasoning(message: Any) -> str:
    """Read the reasoning text that other servers add to OpenAI's shape, under either of its two names."""
    extra = message.model_extra
    return (extra.get("reasoning_content") or extra.get("reasoning") or "") if extra else ""
