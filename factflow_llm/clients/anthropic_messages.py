"""Anthropic's language, as it is asked in: neutral messages, tools, formats. ``anthropic_answers`` reads the answers.

Its ways: the system prompt stands beside the messages, tool results are a user's turn, arguments are objects.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from factflow_llm.clients.schemas import described, narrowed, obstacle
from factflow_llm.clients.turns import restore_blocks
from factflow_llm.errors import InvalidRequestError
from factflow_llm.types import (
    AudioPart,
    CacheMark,
    DocumentPart,
    ImagePart,
    Message,
    Part,
    Role,
    TextPart,
    Tool,
    ToolCall,
)

_NO_ID = re.compile(r"[^a-zA-Z0-9_-]")

if TYPE_CHECKING:
    from types import ModuleType


def say_messages(messages: Sequence[Message], origin: str = "") -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Say checked messages in Anthropic's words: the system blocks, and the turns.

    Results of several tools that ran for one turn are joined, as the API demands. A turn of plain text stays a string:
    the SDK walks through every block it is given. What Anthropic never takes is mended: blank texts, and an
    assistant's turn that said nothing, are left out.

    Args:
        messages: the conversation.
        origin: whom they are for: only what came from there goes back as it came.
    """
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    for position, message in enumerate(messages):
        where = f"messages[{position}]"
        if message.role == Role.SYSTEM and turns and not _is_words(message.content):
            turns.append({"role": "system", "content": _say_content(message.content)})  # newer Claudes take it in place
        elif message.role == Role.SYSTEM:
            system += _say_content(message.content)
        elif message.role == Role.TOOL and position and messages[position - 1].role == Role.TOOL:
            turns[-1]["content"] += _say_tool_result(message)
        elif message.role == Role.TOOL:
            turns.append({"role": "user", "content": _say_tool_result(message)})
        elif message.role == Role.USER:
            turns.append({"role": "user", "content": _say_user(message, where=where)})
        elif content := _say_answer(message, origin, last=position == len(messages) - 1, where=where):
            turns.append({"role": "assistant", "content": content})
    if not turns:
        raise InvalidRequestError("messages holds only system turns: Anthropic needs a turn of the user")
    return system, turns


def _is_words(content: str | Sequence[Part]) -> bool:
    return isinstance(content, str) or all(isinstance(part, TextPart) for part in content)


def _say_user(message: Message, *, where: str) -> str | list[dict[str, Any]]:
    if isinstance(message.content, str) and message.content.strip():
        return message.content
    blocks = _say_content(message.content)
    if not blocks:
        raise InvalidRequestError(f"{where} is empty: Anthropic takes no turn without content")
    return blocks


def _say_answer(message: Message, origin: str, *, last: bool, where: str) -> str | list[dict[str, Any]]:
    """Say an assistant's turn, with what the server that gave it wants back; empty when it said nothing."""
    calls = {call.id: _say_tool_call(call, where=where) for call in message.tool_calls}
    content = message.content
    if isinstance(content, str) and not calls and message.provider_state is None:
        return content.rstrip() if last or content.isspace() else content
    said = restore_blocks(message, content if isinstance(content, str) else _say_content(content), calls, origin)
    if last and said and said[-1]["type"] == "text":  # an answer to be continued must not end in a space
        said[-1] = {**said[-1], "text": said[-1]["text"].rstrip()}
    return said


def _say_tool_result(message: Message) -> list[dict[str, Any]]:
    failed = {"is_error": True} if message.is_error else {}
    content = _say_content(message.content)
    return [{"type": "tool_result", "tool_use_id": _id(message.tool_call_id), "content": content, **failed}]


def _say_content(content: str | Sequence[Part]) -> list[dict[str, Any]]:
    """Say text or parts as blocks; blank texts, which Anthropic refuses, are left out."""
    parts: Sequence[Part] = [TextPart(content)] if isinstance(content, str) else content
    return [_say_part(part) for part in parts if not isinstance(part, TextPart) or part.text.strip()]


def _say_part(part: Part) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text, **_mark(part.cache)}
    if isinstance(part, ImagePart):
        return {"type": "image", "source": _source(part), **_mark(part.cache)}
    if isinstance(part, DocumentPart):
        title = {"title": part.name} if part.name else {}
        cited = {"citations": {"enabled": True}} if part.citations else {}
        return {"type": "document", "source": _source(part), **title, **cited, **_mark(part.cache)}
    if isinstance(part, AudioPart):
        raise InvalidRequestError("a recording: Anthropic hears none; write down what is said")
    return dict(part)


def _source(part: ImagePart | DocumentPart) -> dict[str, Any]:
    if part.file_id is not None:
        return {"type": "file", "file_id": part.file_id}
    if part.url is not None:
        return {"type": "url", "url": part.url}
    data = part.data or b""
    if part.media_type == "text/plain":
        return {"type": "text", "media_type": part.media_type, "data": data.decode(errors="replace")}
    return {"type": "base64", "media_type": part.media_type, "data": b64encode(data).decode()}


def _mark(cache: CacheMark) -> dict[str, Any]:
    """Say a cache breakpoint; without a lifetime Anthropic's own is five minutes."""
    if not cache:
        return {}
    lifetime = {} if cache is True else {"ttl": cache}
    return {"cache_control": {"type": "ephemeral", **lifetime}}


def _id(call_id: str | None) -> str:
    """Say a call's id, which another provider may have given, with no letter that Anthropic refuses."""
    return _NO_ID.sub("_", call_id or "")


def _say_tool_call(call: ToolCall, *, where: str) -> dict[str, Any]:
    try:
        arguments = json.loads(call.arguments) if call.arguments.strip() else {}
    except (ValueError, RecursionError):
        arguments = None
    if arguments is None and call.arguments.strip() == "null":
        arguments = {}
    if not isinstance(arguments, dict):
        raise InvalidRequestError(f"{where}: the arguments of the call of {call.name!r} are no JSON object")
    return {"type": "tool_use", "id": _id(call.id), "name": call.name, "input": arguments}


def say_tools(tools: Sequence[Tool | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Say tool definitions in Anthropic's words; a mapping is a tool of the provider's own and goes as it is."""
    return [_say_tool(tool) if isinstance(tool, Tool) else dict(tool) for tool in tools]


def _say_tool(tool: Tool) -> dict[str, Any]:
    schema = dict(tool.parameters) or {"type": "object", "properties": {}}
    strict = {} if tool.strict is None else {"strict": tool.strict}
    if tool.strict:
        narrow = narrowed(schema)
        strict = {"strict": obstacle(narrow) is None}
        schema = narrow if strict["strict"] else schema
    words = {"description": tool.description} if tool.description else {}
    return {"name": tool.name, **words, "input_schema": schema, **strict, **_mark(tool.cache)}


def say_format(response_format: Any, sdk: ModuleType) -> dict[str, Any]:
    """Say a structured output in Anthropic's words; OpenAI's ``json_schema`` form is understood too."""
    if isinstance(response_format, type) and issubclass(response_format, BaseModel):
        schema = described(response_format)
        if reason := obstacle(narrowed(schema)):
            raise InvalidRequestError(
                f"response_format: Anthropic cannot hold an answer to {response_format.__name__}, {reason}; name every "
                "field (a list of pairs for a dict, a model for a tuple), or ask in words and parse the text"
            )
        schema = sdk.transform_schema(schema)
    elif isinstance(response_format, Mapping) and response_format.get("type") == "json_schema":
        schema = response_format.get("schema") or response_format["json_schema"]["schema"]
    elif isinstance(response_format, Mapping) and response_format.get("type") != "json_object":
        schema = dict(response_format)
    else:
        raise InvalidRequestError(
            "response_format: Anthropic answers in JSON only to a schema; give a pydantic model class or a JSON schema"
        )
    return {"type": "json_schema", "schema": schema}
