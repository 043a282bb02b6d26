"""What a chat reserves: everything it will read, not its words alone; and what its limit counts afterwards."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from factflow_llm.providers import PROVIDERS, ProviderName
from factflow_llm.ratelimit.client import RateLimitedClient
from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.ratelimit.limiter import AdaptiveRateLimiter
from factflow_llm.sizes import TOKENS_PER_GLANCE, TOKENS_PER_IMAGE, TOKENS_PER_PAGE, count_request
from factflow_llm.types import (
    AudioPart,
    CompletionResponse,
    DocumentPart,
    FinishReason,
    ImagePart,
    Message,
    ProviderState,
    Role,
    TextPart,
    Tool,
    ToolCall,
    Usage,
)
from tests.support.virtual_loop import run_virtually

ASK = [Message.user("What is in it?")]
LOOKUP = Tool("lookup", "Looks a part up", {"type": "object", "properties": {"number": {"type": "string"}}})


class Part(BaseModel):
    """What an answer may have to fit."""

    number: str
    maker: str


def reserved(messages: list[Message], **beside: Any) -> int:
    """Count with one token a character, to see each text."""
    return count_request(len, messages, **beside)


def test_words_alone_are_their_own_count() -> None:
    """A plain chat reserves what its texts cost."""
    assert reserved(ASK) == len("What is in it?")
    assert reserved([Message.user([TextPart("What is "), TextPart("in it?")])]) == reserved(ASK)


@pytest.mark.parametrize(
    ("messages", "beside", "least"),
    [
        (ASK, {"tools": [LOOKUP]}, 80),
        (ASK, {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, 50),
        (ASK, {"response_format": Part}, 100),
        (ASK, {"response_format": {"type": "object", "properties": {"number": {"type": "string"}}}}, 60),
        ([*ASK, Message.assistant(tool_calls=(ToolCall("c", "lookup", '{"number": "7"}'),))], {}, 21),
        ([*ASK, Message.tool("a gear of 40 teeth", tool_call_id="c")], {}, 18),
        ([*ASK, Message.tool([ImagePart(url="https://x.org/a.png")], tool_call_id="c")], {}, TOKENS_PER_IMAGE),
        ([Message.user([ImagePart(data=b"x", media_type="image/png", detail="low")])], {}, TOKENS_PER_GLANCE - 14),
        ([*ASK, Message.user([DocumentPart(b"/Type /Pages /Type /Page /Type/Page")])], {}, 2 * TOKENS_PER_PAGE),
        ([*ASK, Message.user([DocumentPart(file_id="file-1")])], {}, TOKENS_PER_PAGE),
        ([*ASK, Message.user([DocumentPart(b"forty words", media_type="text/plain")])], {}, 11),
        ([*ASK, Message.user([AudioPart(bytes(160_000), "audio/mpeg")])], {}, 100),
        ([*ASK, Message.user([{"type": "video_url", "video_url": {"url": "https://x.org/v"}}])], {}, TOKENS_PER_IMAGE),
        ([*ASK, Message(Role.ASSISTANT, "", provider_state=ProviderState.of("o", {"reasoning": "long"}))], {}, 19),
    ],
    ids=[
        *("tool", "own tool", "model", "schema", "call", "result", "shown", "glance", "pdf", "file", "text", "sound"),
        *("own part", "state"),
    ],
)
def test_all_that_is_read_counts(messages: list[Message], beside: dict[str, Any], least: int) -> None:
    """Schemas, calls, results, files and what the provider wants back are reserved, too."""
    assert reserved(messages, **beside) >= reserved(ASK) + least


def test_no_schema_is_for_the_client_to_refuse() -> None:
    """Counting raises nothing for what is no format."""
    assert reserved(ASK, response_format="json") == reserved(ASK)


class _Cached:
    """A client whose answers were read from a cache, mostly."""

    model = "claude-sonnet-5"

    def __init__(self, provider: str) -> None:
        self.provider = provider

    async def complete(self, messages: Any, **_: Any) -> CompletionResponse:
        usage = Usage(input_tokens=10_000, output_tokens=50, cached_input_tokens=9_000)
        return CompletionResponse("yes", self.model, usage, FinishReason.STOP)

    def stream(self, messages: Any, **_: Any) -> Any:
        raise NotImplementedError

    async def aclose(self) -> None:
        """Nothing is open."""


class _Watched(AdaptiveRateLimiter):
    """A limiter that shows what its permits were settled with."""

    def __init__(self, config: RateLimitConfig) -> None:
        super().__init__(config)
        self.read: list[float | None] = []

    def _settle(self, ticket: Any, signal: Any) -> None:
        self.read.append(signal.input_tokens)
        super()._settle(ticket, signal)


@pytest.mark.parametrize(
    ("provider", "counted"), [("anthropic", 1_000), ("bedrock", 1_000), ("openai", 10_000), ("a stranger", 10_000)]
)
def test_cached_tokens_are_settled_as_the_provider_counts_them(provider: str, counted: int) -> None:
    """What a cache served is taken off where the provider's limits leave it out; the answer still tells all of it."""
    limiter = _Watched(RateLimitConfig())

    async def call() -> CompletionResponse:
        return await RateLimitedClient(_Cached(provider), limiter).complete(ASK)

    answer = run_virtually(call())
    assert limiter.read == [counted]
    assert answer.usage.input_tokens == 10_000


def test_providers_that_do_not_count_their_cache() -> None:
    """The entry of a provider says it."""
    free = {name for name, entry in PROVIDERS.items() if entry.cache_is_free}
    assert free == {ProviderName.ANTHROPIC, ProviderName.BEDROCK}
