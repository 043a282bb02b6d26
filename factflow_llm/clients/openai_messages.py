"""OpenAI's chat language, as it is asked in: neutral messages, tools and formats. ``openai_answers`` reads the answers.

Azure and every server that copies OpenAI speak it too.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from factflow_llm.clients.efforts import effort_of
from factflow_llm.clients.schemas import model_schema, narrowed, obstacle, schema_name
from factflow_llm.clients.turns import restore_chat_turn
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
    ToolCall,
    ToolChoice,
)

if TYPE_CHECKING:
    from factflow_llm.clients.chats import Wishes

_NATIVE_FORMATS = frozenset({"text", "json_object", "json_schema"})


def say_messages(messages: Sequence[Message], origin: str = "", *, marks: bool = False) -> list[dict[str, Any]]:
    """Say checked messages in OpenAI's words.

    Args:
        messages: the conversation.
        origin: whom they are for: only what came from there goes back as it came.
        marks: whether the model takes cache breakpoints; the others cache by themselves.

    A tool's turn holds text alone here: its images and documents follow as a user's turn, after the last tool's.
    """
    said: list[dict[str, Any]] = []
    shown: list[dict[str, Any]] = []
    for message in messages:
        if shown and message.role != Role.TOOL:
            said.append({"role": "user", "content": shown})
            shown = []
        if message.role == Role.TOOL:
            said.append(_say_tool_result(message, shown, marks=marks))
        elif message.role == Role.ASSISTANT:
            said.append(_say_answer(message, origin, marks=marks))
        else:
            said.append(
                _named(
                    message,
                    {"role": str(message.role), "content": say_content(message.content, _say_part, marks=marks)},
                )
            )
    return [*said, {"role": "user", "content": shown}] if shown else said


def _named(message: Message, said: dict[str, Any]) -> dict[str, Any]:
    return {**said, "name": message.name} if message.name else said


def say_content(
    content: str | Sequence[Part], say_part: Callable[[Part], dict[str, Any]], *, marks: bool
) -> str | list[dict[str, Any]]:
    """Say text, or parts by ``say_part``; parts without text are left out, since no server takes them."""
    if isinstance(content, str):
        return content
    said = []
    for part in content:
        if not isinstance(part, TextPart) or part.text:
            said.append(say_part(part))
            if marks and getattr(part, "cache", False):
                said[-1]["prompt_cache_breakpoint"] = {"mode": "explicit"}
    return said or ""


def _say_answer(message: Message, origin: str, *, marks: bool) -> dict[str, Any]:
    """Say an assistant's turn, with what the server that gave it wants back."""
    content = say_content(message.content, _say_part, marks=marks)
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _arguments(call)}}
        for call in message.tool_calls
    ]
    said = _named(message, {"role": "assistant", "content": content or None if calls else content})
    if calls:
        said["tool_calls"] = calls
    return restore_chat_turn(message, said, origin)


def _arguments(call: ToolCall) -> str:
    """Say a call's arguments; servers that parse them choke on an empty text."""
    return call.arguments if call.arguments.strip() else "{}"


def _say_tool_result(message: Message, shown: list[dict[str, Any]], *, marks: bool) -> dict[str, Any]:
    """Say a tool's turn; parts that are no text are put into ``shown``, behind a line that says whose they are."""
    content = say_content(message.content, _say_part, marks=marks)
    if not isinstance(content, str):
        others = [part for part in content if part.get("type") != "text"]
        content = [part for part in content if part.get("type") == "text"]
        if others:
            shown += [{"type": "text", "text": f"What the tool call {message.tool_call_id} returned:"}, *others]
            content = content or "What it returned follows in the next turn."
    if message.is_error:
        content = f"Error: {content}" if isinstance(content, str) else [{"type": "text", "text": "Error:"}, *content]
    return _named(message, {"role": "tool", "content": content, "tool_call_id": message.tool_call_id})


def _say_part(part: Part) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if isinstance(part, ImagePart):
        return _say_image(part)
    if isinstance(part, DocumentPart):
        return _say_document(part)
    if isinstance(part, AudioPart):
        return {"type": "input_audio", "input_audio": {"data": _base64(part.data), "format": _audio_format(part)}}
    return dict(part)


def _base64(data: bytes | None) -> str:
    return b64encode(data or b"").decode()


def _say_image(image: ImagePart) -> dict[str, Any]:
    if image.file_id is not None:
        raise InvalidRequestError("an image by file_id: OpenAI's chat completions take url or data")
    shown = {"url": image.url or f"data:{image.media_type};base64,{_base64(image.data)}"}
    return {"type": "image_url", "image_url": shown | ({"detail": image.detail} if image.detail else {})}


def _say_document(document: DocumentPart) -> dict[str, Any]:
    if document.url is not None:
        raise InvalidRequestError(
            "a document by url: OpenAI's chat completions take data or file_id; fetch it and give its bytes as data="
        )
    if document.file_id is not None:
        return {"type": "file", "file": {"file_id": document.file_id}}
    extension = document.media_type.rpartition("/")[2].partition("+")[0]
    return {
        "type": "file",
        "file": {
            "filename": document.name or f"document.{'txt' if extension == 'plain' else extension}",
            "file_data": f"data:{document.media_type};base64,{_base64(document.data)}",
        },
    }


def _audio_format(audio: AudioPart) -> str:
    """Name a recording as OpenAI does, ``wav`` or ``mp3``; other servers take more."""
    kind = audio.media_type.partition(";")[0].rpartition("/")[2].removeprefix("x-")
    return {"mpeg": "mp3", "wave": "wav"}.get(kind, kind)


def say_tools(tools: Sequence[Tool | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Say tool definitions in OpenAI's words; a mapping is a tool of the provider's own and goes as it is."""
    return [_say_tool(tool) if isinstance(tool, Tool) else dict(tool) for tool in tools]


def _say_tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.strict:
        narrow = narrowed(tool.parameters or {"type": "object", "properties": {}})
        function["strict"] = obstacle(narrow) is None
        function["parameters"] = narrow if function["strict"] else dict(tool.parameters)
    elif tool.parameters:
        function["parameters"] = dict(tool.parameters)
    if tool.strict is False:
        function["strict"] = False
    return {"type": "function", "function": function}


def say_wishes(wishes: Wishes) -> dict[str, Any]:
    """Say what most providers understand in OpenAI's words; a budget for thoughts becomes the nearest effort above."""
    said: dict[str, Any] = {}
    if wishes.tool_choice is not None:
        said["tool_choice"] = _say_tool_choice(wishes.tool_choice)
    if wishes.reasoning is not None:
        told = wishes.reasoning
        said["reasoning_effort"] = told if isinstance(told, str) else effort_of(told)
    if wishes.logprobs is not None:
        said["logprobs"] = bool(wishes.logprobs)
        if wishes.logprobs and not isinstance(wishes.logprobs, bool):
            said["top_logprobs"] = wishes.logprobs
    for name in ("parallel_tool_calls", "seed", "n"):
        if (value := getattr(wishes, name)) is not None:
            said[name] = value
    return said


def _say_tool_choice(choice: ToolChoice) -> str | dict[str, Any]:
    if isinstance(choice, Mapping):
        return dict(choice)
    return choice if choice in TOOL_CHOICES else {"type": "function", "function": {"name": choice}}


def say_format(response_format: Any) -> dict[str, Any]:
    """Say a structured output in OpenAI's words.

    A pydantic model becomes a strict schema where it can. A JSON schema goes as it is, strict when it keeps OpenAI's
    rules. OpenAI's own forms (``{"type": "json_object"}``…) pass untouched.
    """
    if isinstance(response_format, type) and issubclass(response_format, BaseModel):
        name = response_format.__name__
        schema, strict = model_schema(response_format)
    elif isinstance(response_format, Mapping):
        if response_format.get("type") in _NATIVE_FORMATS:
            return dict(response_format)
        name, schema = response_format.get("title", "answer"), dict(response_format)
        strict = obstacle(schema) is None
    else:
        raise InvalidRequestError(
            f"response_format is of type {type(response_format).__name__}: give a pydantic model class or a JSON schema"
        )
    return {"type": "json_schema", "json_schema": {"name": schema_name(name), "schema": schema, "strict": strict}}
