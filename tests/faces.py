"""The chat clients as the shared suites see them: how to make each one, and the bodies its provider answers with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from factflow_llm.clients.anthropic import AnthropicClient
from factflow_llm.clients.azure import AzureOpenAIClient
from factflow_llm.clients.openai import OpenAIClient

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from factflow_llm.clients.base import BaseLLMClient

KEY = "sk-secret-of-the-test"


@dataclass(frozen=True)
class Face:
    """One client and its provider's language.

    ``answer`` says hello with a tool call, ``stream`` the same in pieces; ``finish`` maps each word of the provider to
    a neutral one; ``stream_error`` is the event of an overload after the answer has begun.
    """

    name: str
    make: Callable[..., BaseLLMClient]
    sdk: str
    answer: Mapping[str, Any]
    stream: list[Any]
    finish: Mapping[str, str]
    with_finish: Callable[[str], Mapping[str, Any]]
    stream_error: Mapping[str, Any]
    rate_limited: Mapping[str, Any]
    broken: Mapping[str, Any]


def openai_answer(
    message: Mapping[str, Any] | None = None, *, finish: str = "tool_calls", **changed: Any
) -> dict[str, Any]:
    """Make the body of a chat completion."""
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
    usage = {
        "prompt_tokens": 20,
        "completion_tokens": 7,
        "total_tokens": 27,
        "prompt_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    message = message or {"role": "assistant", "content": "Hello", "refusal": None, "tool_calls": [call]}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
        "usage": usage,
    } | changed


def openai_chunk(delta: Mapping[str, Any] | None = None, finish: str | None = None, **changed: Any) -> dict[str, Any]:
    """Make one chunk of a streamed chat completion; without a delta, one with no choices."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": choices,
        "usage": None,
    } | changed


def _openai_call(**piece: Any) -> dict[str, Any]:
    return openai_chunk({"tool_calls": [{"index": 0, **piece}]})


OPENAI_STREAM = [
    openai_chunk({"role": "assistant", "content": ""}),
    openai_chunk({"content": "Hel"}),
    openai_chunk({"content": "lo"}),
    _openai_call(id="call_1", type="function", function={"name": "weather", "arguments": ""}),
    _openai_call(function={"arguments": '{"city": '}),
    _openai_call(function={"arguments": '"Bern"}'}),
    openai_chunk({}, "tool_calls"),
    openai_chunk(usage=openai_answer()["usage"]),
    "[DONE]",
]


def anthropic_answer(
    content: list[Mapping[str, Any]] | None = None, *, finish: str = "tool_use", **changed: Any
) -> dict[str, Any]:
    """Make the body of a message."""
    call = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Bern"}}
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5-20251001",
        "content": content or [{"type": "text", "text": "Hello"}, call],
        "stop_reason": finish,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 8,
            "cache_read_input_tokens": 8,
            "cache_creation_input_tokens": 4,
            "output_tokens": 7,
            "output_tokens_details": {"thinking_tokens": 3},
        },
    } | changed


def _block(index: int, block: Mapping[str, Any], *deltas: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": block},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


_ANTHROPIC_END = {"cache_read_input_tokens": 8, "output_tokens": 7, "output_tokens_details": {"thinking_tokens": 3}}

ANTHROPIC_STREAM = [
    {
        "type": "message_start",
        "message": anthropic_answer(content=[], finish=None)  # type: ignore[arg-type]
        | {"content": [], "usage": {"input_tokens": 8, "cache_creation_input_tokens": 4, "output_tokens": 1}},
    },
    {"type": "ping"},
    *_block(
        0,
        {"type": "text", "text": ""},
        {"type": "text_delta", "text": "Hel"},
        {"type": "text_delta", "text": "lo"},
    ),
    *_block(
        1,
        {"type": "tool_use", "id": "call_1", "name": "weather", "input": {}},
        {"type": "input_json_delta", "partial_json": '{"city": '},
        {"type": "input_json_delta", "partial_json": '"Bern"}'},
    ),
    {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use", "stop_sequence": None},
        "usage": _ANTHROPIC_END,
    },
    {"type": "message_stop"},
]

_OPENAI_WORDS: dict[str, Any] = {
    "sdk": "openai",
    "answer": openai_answer(),
    "stream": OPENAI_STREAM,
    "finish": {
        "stop": "stop",
        "length": "length",
        "tool_calls": "tool_calls",
        "function_call": "tool_calls",
        "content_filter": "content_filter",
        "a word of tomorrow": "other",
    },
    "with_finish": lambda word: openai_answer(finish=word),
    "stream_error": {"error": {"type": "server_error", "code": None, "message": "The server had an error"}},
    "rate_limited": {"error": {"type": "tokens", "code": "rate_limit_exceeded", "param": None, "message": "Slow down"}},
    "broken": {"error": {"type": "server_error", "code": None, "param": None, "message": "Sorry about that!"}},
}


def _make_openai(url: str, model: str = "gpt-4o-mini", **wanted: Any) -> OpenAIClient:
    return OpenAIClient(model, **{"api_key": KEY, "base_url": f"{url}/v1"} | wanted)


def _make_azure(url: str, model: str = "gpt-4o-mini", **wanted: Any) -> AzureOpenAIClient:
    return AzureOpenAIClient(model, **{"api_key": KEY, "base_url": url, "api_version": "2024-10-21"} | wanted)


def _make_azure_v1(url: str, model: str = "gpt-4o-mini", **wanted: Any) -> AzureOpenAIClient:
    return AzureOpenAIClient(model, **{"api_key": KEY, "base_url": url} | wanted)


def _make_anthropic(url: str, model: str = "claude-haiku-4-5", **wanted: Any) -> AnthropicClient:
    return AnthropicClient(model, **{"api_key": KEY, "base_url": url} | wanted)


OPENAI = Face(name="openai", make=_make_openai, **_OPENAI_WORDS)
AZURE = Face(name="azure", make=_make_azure, **_OPENAI_WORDS)
AZURE_V1 = Face(name="azure-v1", make=_make_azure_v1, **_OPENAI_WORDS)
ANTHROPIC = Face(
    name="anthropic",
    make=_make_anthropic,
    sdk="anthropic",
    answer=anthropic_answer(),
    stream=ANTHROPIC_STREAM,
    finish={
        "end_turn": "stop",
        "stop_sequence": "stop",
        "max_tokens": "length",
        "model_context_window_exceeded": "length",
        "tool_use": "tool_calls",
        "refusal": "content_filter",
        "pause_turn": "other",
    },
    with_finish=lambda word: anthropic_answer(finish=word),
    stream_error={"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
    rate_limited={"type": "error", "error": {"type": "rate_limit_error", "message": "Slow down"}},
    broken={"type": "error", "error": {"type": "api_error", "message": "Internal server error"}},
)
FACES = (OPENAI, AZURE, AZURE_V1, ANTHROPIC)
