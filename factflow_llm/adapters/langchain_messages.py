"""LangChain's messages and ours, in both directions; what a provider wants back travels in ``additional_kwargs``."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_openai_messages,
)
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk

from factflow_llm.errors import InvalidRequestError
from factflow_llm.types import (
    AudioPart,
    DocumentPart,
    ImagePart,
    Message,
    ProviderState,
    Role,
    TextPart,
    ToolCall,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from factflow_llm.types import CompletionResponse, Part, StreamChunk, Usage

_STATE, _CALL_STATES, _REASONING = "provider_state", "tool_call_states", "reasoning_content"


def messages_of(messages: Sequence[BaseMessage]) -> list[Message]:
    """Translate a conversation of LangChain's.

    Raises:
        InvalidRequestError: a message or a part of one has no counterpart.
    """
    return [_message(message) for message in messages]


def _message(message: BaseMessage) -> Message:
    content = _content(message)
    if isinstance(message, SystemMessage):
        return Message.system(content)
    if isinstance(message, HumanMessage):
        return Message(Role.USER, content, name=message.name)
    if isinstance(message, ToolMessage):
        return Message.tool(content, tool_call_id=message.tool_call_id, is_error=message.status == "error")
    if isinstance(message, AIMessage):
        more = message.additional_kwargs
        states = more.get(_CALL_STATES) or {}
        return Message(
            Role.ASSISTANT,
            content if isinstance(content, str) else message.text,
            tool_calls=tuple(
                ToolCall(call["id"] or "", call["name"], json.dumps(call["args"]), _state(states.get(call["id"])))
                for call in message.tool_calls
            ),
            reasoning=more.get(_REASONING),
            provider_state=_state(more.get(_STATE)),
        )
    raise InvalidRequestError(
        f"a message of type {type(message).__name__} has no counterpart; use those for system, human, AI and tool"
    )


def _content(message: BaseMessage) -> str | list[Part]:
    if isinstance(message.content, str):
        return message.content
    said = convert_to_openai_messages(HumanMessage(message.content), text_format="block")["content"]
    return said if isinstance(said, str) else [_part(part) for part in said]


def _part(part: Mapping[str, Any]) -> Part:
    match part.get("type"):
        case "text":
            return TextPart(part["text"])
        case "image_url":
            url, detail = part["image_url"]["url"], part["image_url"].get("detail")
            if not url.startswith("data:"):
                return ImagePart(url=url, detail=detail)
            media_type, data = _data(url)
            return ImagePart(data=data, media_type=media_type, detail=detail)
        case "file" if "file_data" in part["file"]:
            media_type, data = _data(part["file"]["file_data"])
            return DocumentPart(data=data, media_type=media_type, name=part["file"].get("filename"))
        case "file":
            return DocumentPart(file_id=part["file"]["file_id"])
        case "input_audio":
            kind = {"mp3": "mpeg"}.get(part["input_audio"]["format"], part["input_audio"]["format"])
            return AudioPart(base64.b64decode(part["input_audio"]["data"]), f"audio/{kind}")
    return dict(part)


def _data(url: str) -> tuple[str, bytes]:
    head, _, data = url.partition(",")
    return head.removeprefix("data:").partition(";")[0], base64.b64decode(data)


def message_of(response: CompletionResponse) -> AIMessage:
    """Translate an answer."""
    calls, wrong = [], []
    for call in response.tool_calls:
        arguments = _arguments(call.arguments)
        if arguments is not None:
            calls.append(tool_call(name=call.name, args=arguments, id=call.id))
        else:
            error = "its arguments are no JSON object"
            wrong.append(invalid_tool_call(name=call.name, args=call.arguments, id=call.id, error=error))
    states = {call.id: _kept(call.provider_state) for call in response.tool_calls if call.provider_state is not None}
    return AIMessage(
        response.text,
        tool_calls=calls,
        invalid_tool_calls=wrong,
        usage_metadata=_usage(response.usage),
        response_metadata=_metadata(response),
        additional_kwargs=_more(response.reasoning, response.provider_state)
        | ({_CALL_STATES: states} if states else {}),
        id=response.response_id,
    )


def chunk_of(chunk: StreamChunk) -> AIMessageChunk:
    """Translate a piece of a streamed answer; the last one carries usage and metadata."""
    states = {
        call.id: _kept(call.provider_state) for call in chunk.tool_calls if call.id and call.provider_state is not None
    }
    return AIMessageChunk(
        content=chunk.text,
        tool_call_chunks=[
            tool_call_chunk(name=call.name, args=call.arguments, id=call.id, index=call.index)
            for call in chunk.tool_calls
        ],
        usage_metadata=None if chunk.usage is None else _usage(chunk.usage),
        response_metadata=_metadata(chunk) if chunk.usage is not None else {},
        additional_kwargs=_more(chunk.reasoning, chunk.provider_state) | ({_CALL_STATES: states} if states else {}),
        id=chunk.response_id,
    )


def _arguments(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _usage(usage: Usage) -> Any:
    """Return the usage in LangChain's words, which know no unknown count: ``None`` where one is."""
    total = usage.total_tokens
    if total is None:
        return None
    read = {"cache_read": usage.cached_input_tokens, "cache_creation": usage.cache_write_tokens}
    written = {"reasoning": usage.reasoning_tokens}
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": total,
        "input_token_details": {name: count for name, count in read.items() if count is not None},
        "output_token_details": {name: count for name, count in written.items() if count is not None},
    }


def _metadata(answer: CompletionResponse | StreamChunk) -> dict[str, Any]:
    told = {
        "model_name": answer.model,
        "finish_reason": answer.finish_reason.value if answer.finish_reason is not None else None,
        "model_provider": answer.origin.partition(" ")[0],
        "profile": answer.profile,
    }
    return {name: value for name, value in told.items() if value}


def _more(reasoning: str | None, state: ProviderState | None) -> dict[str, Any]:
    return ({_REASONING: reasoning} if reasoning else {}) | ({_STATE: _kept(state)} if state is not None else {})


def _kept(state: ProviderState) -> dict[str, str]:
    return {"origin": state.origin, "data": state.data}


def _state(kept: Mapping[str, str] | None) -> ProviderState | None:
    return None if kept is None else ProviderState(kept["origin"], kept["data"])
