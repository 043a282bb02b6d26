"""Bedrock's Converse language: neutral messages, tools, formats and wishes in.

Its ways: the system prompt stands beside the messages, turns alternate, results of tools are a user's turn, files are
bytes or lie on S3, and what only some models understand goes into ``additionalModelRequestFields``.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from factflow_llm.clients.efforts import BUDGETS, effort_of
from factflow_llm.clients.schemas import described, narrowed, obstacle, schema_name
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
    ToolChoice,
)

if TYPE_CHECKING:
    from factflow_llm.clients.chats import Chat, Wishes

_NO_NAME = re.compile(r"[^A-Za-z0-9\s()\[\]-]+")  # what a document's name may not hold
_FORMATS = {
    "plain": "txt",
    "markdown": "md",
    "msword": "doc",
    "vnd.ms-excel": "xls",
    "vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "jpg": "jpeg",
    "x-wav": "wav",
    "wave": "wav",
    "mpeg": "mp3",
}


def say_messages(messages: Sequence[Message], origin: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Say checked messages in Converse's words: the system blocks, and the turns, joined so that they alternate.

    Blank texts, which Converse refuses, are left out, and so is an assistant's turn that said nothing.

    Args:
        messages: the conversation.
        origin: whom they are for: only what came from there goes back as it came.

    Raises:
        InvalidRequestError: nothing is left to say, or a part cannot be said.
    """
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    for position, message in enumerate(messages):
        where = f"messages[{position}]"
        if message.role == Role.SYSTEM:
            system += _say_content(message.content)
            continue
        if message.role == Role.ASSISTANT:
            content = _say_answer(message, origin, where=where)
        elif message.role == Role.TOOL:
            content = [_say_tool_result(message)]
        else:
            content = _say_content(message.content)
            if not content:
                raise InvalidRequestError(f"{where} is empty: Bedrock takes no turn without content")
        speaker = "assistant" if message.role == Role.ASSISTANT else "user"
        if turns and turns[-1]["role"] == speaker:
            turns[-1]["content"] += content
        elif content:
            turns.append({"role": speaker, "content": content})
    if not turns:
        raise InvalidRequestError("messages holds only system turns: Bedrock needs a turn of the user")
    for turn in turns:
        _number_documents(turn["content"])
    return system, turns


def _say_answer(message: Message, origin: str, *, where: str) -> list[dict[str, Any]]:
    calls = {call.id: _say_tool_call(call, where=where) for call in message.tool_calls}
    content = message.content
    said = content if isinstance(content, str) else [_kept(block) for block in _say_content(content)]
    return [_native(block) for block in restore_blocks(message, said, calls, origin)]


def _kept(block: dict[str, Any]) -> dict[str, Any]:
    """Say a block as ``restore_blocks`` reads it."""
    return {"type": "text", **block} if "text" in block else {"type": "converse", "block": block}


def _native(block: Mapping[str, Any]) -> dict[str, Any]:
    """Say one of our own turn's blocks in Converse's words; the inverse of what ``converse_answers`` makes."""
    match block["type"]:
        case "text":
            return {"text": block["text"]}
        case "tool_use":
            return {"toolUse": {"toolUseId": block["id"], "name": block["name"], "input": block["input"]}}
        case "thinking":
            signed = {"signature": block["signature"]} if block.get("signature") else {}
            return {"reasoningContent": {"reasoningText": {"text": block["thinking"], **signed}}}
        case "redacted_thinking":
            return {"reasoningContent": {"redactedContent": b64decode(block["data"])}}
        case _:
            return dict(block["block"])


def _say_tool_call(call: ToolCall, *, where: str) -> dict[str, Any]:
    try:
        arguments = json.loads(call.arguments) if call.arguments.strip() else {}
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidRequestError(f"{where}: the arguments of the call of {call.name!r} are no JSON object")
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments}


def _say_tool_result(message: Message) -> dict[str, Any]:
    status = {"status": "error"} if message.is_error else {}
    return {
        "toolResult": {"toolUseId": message.tool_call_id, "content": _say_content(message.content), **status},
    }


def _say_content(content: str | Sequence[Part]) -> list[dict[str, Any]]:
    parts: Sequence[Part] = [TextPart(content)] if isinstance(content, str) else content
    said: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, TextPart) and not part.text.strip():
            continue
        said.append(_say_part(part))
        said += _mark(getattr(part, "cache", False))
    return said


def _mark(cache: CacheMark) -> list[dict[str, Any]]:
    """Say a cache breakpoint, which is a block of its own; without a lifetime it is Bedrock's five minutes."""
    if not cache:
        return []
    return [{"cachePoint": {"type": "default"} | ({} if cache is True else {"ttl": cache})}]


def _say_part(part: Part) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"text": part.text}
    if isinstance(part, ImagePart):
        return {"image": {"format": _format(part.media_type, part.url or part.file_id), "source": _source(part)}}
    if isinstance(part, DocumentPart):
        name = " ".join(_NO_NAME.sub(" ", part.name or "").split()) or "document"
        cited = {"citations": {"enabled": True}} if part.citations else {}
        return {"document": {"format": _format(part.media_type), "name": name, "source": _source(part), **cited}}
    if isinstance(part, AudioPart):
        return {"audio": {"format": _format(part.media_type), "source": {"bytes": part.data}}}
    return _own(part)


def _own(words: Mapping[str, Any]) -> dict[str, Any]:
    """Say a block or a tool of Bedrock's own: its ``type`` is the name under which Converse wants the rest."""
    return {words["type"]: {name: value for name, value in words.items() if name != "type"}}


def _source(part: ImagePart | DocumentPart) -> dict[str, Any]:
    place = part.file_id or part.url
    if place is None:
        return {"bytes": part.data}
    if not place.startswith("s3://"):
        raise InvalidRequestError(
            "a file by URL or id: Bedrock fetches none from the web; give its bytes as data=, or file_id='s3://…'"
        )
    return {"s3Location": {"uri": place}}


def _format(media_type: str | None, place: str | None = None) -> str:
    """Name a format as Converse does: ``png``, ``pdf``, ``docx``…; of a file whose type is not told, by its name."""
    kind = (media_type or (place or "").replace(".", "/")).partition(";")[0].rpartition("/")[2]
    return _FORMATS.get(kind, kind)


def _number_documents(content: list[dict[str, Any]]) -> None:
    """Tell documents of one turn apart: Bedrock refuses two of one name."""
    taken: set[str] = set()
    for block in content:
        if "document" in block:
            name, number = block["document"]["name"], 2
            while name in taken:
                name, number = f"{block['document']['name']} {number}", number + 1
            taken.add(name)
            block["document"]["name"] = name


def say_tools(tools: Sequence[Tool | Mapping[str, Any]], wishes: Wishes) -> dict[str, Any]:
    """Say tools, and which of them to call, as Converse's ``toolConfig``; a mapping is one of Bedrock's own.

    Raises:
        InvalidRequestError: a choice that Converse does not know.
    """
    said: list[dict[str, Any]] = []
    for tool in tools:
        if isinstance(tool, Tool):
            said.append({"toolSpec": _say_tool(tool)})
            said += _mark(tool.cache)
        else:
            said.append(_own(tool))
    if wishes.parallel_tool_calls is not None:
        raise InvalidRequestError("parallel_tool_calls: Bedrock leaves that to the model; leave it out")
    choice = wishes.tool_choice
    return {"tools": said} | ({} if choice is None else {"toolChoice": _say_tool_choice(choice)})


def _say_tool(tool: Tool) -> dict[str, Any]:
    schema = dict(tool.parameters) or {"type": "object", "properties": {}}
    strict = {} if tool.strict is None else {"strict": tool.strict}
    if tool.strict:
        narrow = narrowed(schema)
        strict = {"strict": obstacle(narrow) is None}
        schema = narrow if strict["strict"] else schema
    words = {"description": tool.description} if tool.description else {}
    return {"name": tool.name, **words, "inputSchema": {"json": schema}, **strict}


def _say_tool_choice(choice: ToolChoice) -> dict[str, Any]:
    if isinstance(choice, Mapping):
        return dict(choice)
    if choice == "none":
        raise InvalidRequestError("tool_choice='none': Bedrock has no such choice; leave the tools out")
    if choice in {"auto", "required"}:
        return {"any" if choice == "required" else "auto": {}}
    return {"tool": {"name": choice}}


def say_wishes(call: Chat, *, model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Say how much to think, as ``inferenceConfig`` and ``additionalModelRequestFields``.

    Claude thinks in a budget of tokens, which is counted with the answer; Nova thinks in efforts.

    Raises:
        InvalidRequestError: for what Converse cannot do.
    """
    wishes = call.wishes
    for name, asked, remedy in (
        ("seed", wishes.seed is not None, "leave it out"),
        ("n", (wishes.n or 1) > 1, "call as often as you want answers"),
        ("logprobs", bool(wishes.logprobs), "leave it out"),
    ):
        if asked:
            raise InvalidRequestError(f"Bedrock has no option {name!r}: {remedy}")
    longest: dict[str, Any] = {} if call.max_tokens is None else {"maxTokens": call.max_tokens}
    reasoning = wishes.reasoning
    if reasoning is None:
        return longest, {}
    if "nova" in model:
        effort = reasoning if isinstance(reasoning, str) else effort_of(reasoning)
        if effort == "none":
            return longest, {"reasoningConfig": {"type": "disabled"}}
        level = {"minimal": "low", "xhigh": "high", "max": "high"}.get(effort, effort)
        return longest, {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": level}}
    if reasoning == "none":
        return longest, {"thinking": {"type": "disabled"}}
    budget = BUDGETS[reasoning] if isinstance(reasoning, str) else reasoning
    if call.max_tokens is not None and budget >= call.max_tokens:
        raise InvalidRequestError(
            f"reasoning={reasoning!r} with max_tokens={call.max_tokens}: thoughts and answer share max_tokens, which "
            f"must be above {budget}"
        )
    return longest, {"thinking": {"type": "enabled", "budget_tokens": budget}}


def say_format(response_format: Any) -> dict[str, Any]:
    """Say a structured output as Converse's ``outputConfig``; OpenAI's ``json_schema`` form is understood too.

    Raises:
        InvalidRequestError: it is no schema, or a model whose answers no schema can hold.
    """
    if isinstance(response_format, type) and issubclass(response_format, BaseModel):
        schema = narrowed(described(response_format))
        if reason := obstacle(schema):
            raise InvalidRequestError(
                f"response_format: Bedrock cannot hold an answer to {response_format.__name__}, {reason}; name every "
                "field (a list of pairs for a dict, a model for a tuple), or ask in words and parse the text"
            )
        name = response_format.__name__
    elif isinstance(response_format, Mapping) and response_format.get("type") == "json_schema":
        inner = response_format.get("json_schema", response_format)
        schema, name = dict(inner["schema"]), str(inner.get("name", "answer"))
    elif isinstance(response_format, Mapping) and response_format.get("type") != "json_object":
        schema, name = dict(response_format), str(response_format.get("title", "answer"))
    else:
        raise InvalidRequestError(
            "response_format: Bedrock answers in JSON only to a schema; give a pydantic model class or a JSON schema"
        )
    structure = {"jsonSchema": {"schema": json.dumps(schema), "name": schema_name(name)}}
    return {"textFormat": {"type": "json_schema", "structure": structure}}
