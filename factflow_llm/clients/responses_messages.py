"""The language of OpenAI's Responses API: neutral messages, tools, formats and wishes in.

Its ways: a conversation is a list of items, in which thoughts, words and calls of one turn stand side by side, each
with an id; results of tools are items, too, and may show images and documents.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from factflow_llm.clients.efforts import effort_of
from factflow_llm.clients.openai_messages import say_content
from factflow_llm.clients.openai_messages import say_format as say_chat_format
from factflow_llm.clients.schemas import narrowed, obstacle
from factflow_llm.clients.turns import restore_blocks
from factflow_llm.errors import InvalidRequestError
from factflow_llm.types import (
    TOOL_CHOICES,
    AudioPart,
    DocumentPart,
    ImagePart,
    Message,
    Part,
    Role,
    TextPart,
    Tool,
    ToolChoice,
)

if TYPE_CHECKING:
    from factflow_llm.clients.chats import Wishes

_NO_PARAMETERS = {"type": "object", "properties": {}}


def say_input(messages: Sequence[Message], origin: str, *, marks: bool) -> list[dict[str, Any]]:
    """Say checked messages as the items of a conversation.

    Args:
        messages: the conversation.
        origin: whom they are for: only what came from there goes back as it came.
        marks: whether the model takes cache breakpoints; the others cache by themselves.
    """
    said: list[dict[str, Any]] = []
    for message in messages:
        if message.role == Role.ASSISTANT:
            said += _say_answer(message, origin, marks=marks)
        elif message.role == Role.TOOL:
            said.append(_say_tool_result(message, marks=marks))
        else:
            said.append({"role": str(message.role), "content": say_content(message.content, _say_part, marks=marks)})
    return said


def _say_answer(message: Message, origin: str, *, marks: bool) -> list[dict[str, Any]]:
    """Say an assistant's turn as items, with what the server that gave it wants back."""
    calls = {
        call.id: {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}
        for call in message.tool_calls
    }
    shown = say_content(message.content, _say_part, marks=marks)
    content = shown if isinstance(shown, str) else [_kept(part) for part in shown]
    said: list[dict[str, Any]] = []
    for block in restore_blocks(message, content, calls, origin):
        item = _item(block)
        if said and item.get("id") and said[-1].get("id") == item["id"]:  # another part of the same item
            said[-1]["content"] += item["content"]
        else:
            said.append(item)
    return said


def _kept(part: dict[str, Any]) -> dict[str, Any]:
    """Say a part as ``restore_blocks`` reads it."""
    return {"type": "text", "text": part["text"]} if "text" in part else part


def _item(block: Mapping[str, Any]) -> dict[str, Any]:
    """Say one of our own turn's blocks as an item; the inverse of what ``responses_answers`` makes."""
    if block["type"] == "text":
        item = block.get("item")
        if item is None:
            return {"role": "assistant", "content": block["text"]}
        words = {"type": "output_text", "text": block["text"], "annotations": []}
        if block.get("kind") == "refusal":
            words = {"type": "refusal", "refusal": block["text"]}
        return {"type": "message", "role": "assistant", **item, "content": [words]}
    if block["type"] == "tool_use":
        arguments = block["input"] if block["input"].strip() else "{}"
        call = {"call_id": block["id"], "name": block["name"], "arguments": arguments}
        return {"type": "function_call", **block.get("item", {}), **call}
    return dict(block)


def _say_tool_result(message: Message, *, marks: bool) -> dict[str, Any]:
    output = say_content(message.content, _say_part, marks=marks)
    if message.is_error:
        error = "Error: "
        output = error + output if isinstance(output, str) else [{"type": "input_text", "text": error}, *output]
    return {"type": "function_call_output", "call_id": message.tool_call_id, "output": output}


def _say_part(part: Part) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "input_text", "text": part.text}
    if isinstance(part, ImagePart):
        shown = {"file_id": part.file_id} if part.file_id else {"image_url": part.url or _data_url(part)}
        return {"type": "input_image", "detail": part.detail or "auto", **shown}
    if isinstance(part, DocumentPart):
        return {"type": "input_file", **_say_document(part)}
    if isinstance(part, AudioPart):
        raise InvalidRequestError("a recording: the Responses API hears none; use chat completions")
    return dict(part)


def _say_document(document: DocumentPart) -> dict[str, Any]:
    if document.file_id is not None:
        return {"file_id": document.file_id}
    if document.url is not None:
        return {"file_url": document.url}
    extension = document.media_type.rpartition("/")[2].partition("+")[0]
    name = document.name or f"document.{'txt' if extension == 'plain' else extension}"
    return {"filename": name, "file_data": _data_url(document)}


def _data_url(part: ImagePart | DocumentPart) -> str:
    return f"data:{part.media_type};base64,{b64encode(part.data or b'').decode()}"


def say_tools(tools: Sequence[Tool | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Say tool definitions as items; a mapping is a tool of OpenAI's own and goes as it is.

    Whether arguments are held to the schema is always said, because this API would hold them to it unasked.
    """
    return [_say_tool(tool) if isinstance(tool, Tool) else dict(tool) for tool in tools]


def _say_tool(tool: Tool) -> dict[str, Any]:
    parameters = dict(tool.parameters) or _NO_PARAMETERS
    strict = False
    if tool.strict:
        narrow = narrowed(parameters)
        strict = obstacle(narrow) is None
        parameters = narrow if strict else parameters
    words = {"description": tool.description} if tool.description else {}
    return {"type": "function", "name": tool.name, **words, "parameters": parameters, "strict": strict}


def say_format(response_format: Any) -> dict[str, Any]:
    """Say a structured output as ``text.format``; errors as for chat completions."""
    said = say_chat_format(response_format)
    return {"type": said["type"], **said["json_schema"]} if "json_schema" in said else said


def say_wishes(wishes: Wishes) -> dict[str, Any]:
    """Say what most providers understand; a budget for thoughts becomes the nearest effort above.

    Raises:
        InvalidRequestError: for what this API cannot do and chat completions can.
    """
    for name, asked, remedy in (
        ("seed", wishes.seed is not None, "leave it out, or use chat completions"),
        ("n", (wishes.n or 1) > 1, "call as often as you want answers, or use chat completions"),
    ):
        if asked:
            raise InvalidRequestError(f"the Responses API has no option {name!r}: {remedy}")
    said: dict[str, Any] = {}
    if wishes.tool_choice is not None:
        said["tool_choice"] = _say_tool_choice(wishes.tool_choice)
    if wishes.parallel_tool_calls is not None:
        said["parallel_tool_calls"] = wishes.parallel_tool_calls
    if wishes.reasoning is not None:
        told = wishes.reasoning
        said["reasoning"] = {"effort": told if isinstance(told, str) else effort_of(told)}
    if wishes.logprobs:
        said["include"] = ["message.output_text.logprobs"]
        if not isinstance(wishes.logprobs, bool):
            said["top_logprobs"] = wishes.logprobs
    return said


def _say_tool_choice(choice: ToolChoice) -> str | dict[str, Any]:
    if isinstance(choice, Mapping):
        return dict(choice)
    return choice if choice in TOOL_CHOICES else {"type": "function", "name": choice}
