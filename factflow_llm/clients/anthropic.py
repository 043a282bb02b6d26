"""Anthropic's Messages API through the official SDK: chats, one attempt per call.

The SDK is imported when a client is made, never before; ``max_retries`` is 0 because retrying belongs to the limiter.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, ClassVar

from factflow_llm.clients.anthropic_messages import (
    read_finish,
    read_tool_calls,
    read_usage,
    say_format,
    say_messages,
    say_tools,
)
from factflow_llm.clients.anthropic_wishes import say_wishes
from factflow_llm.clients.base import BaseLLMClient, Call
from factflow_llm.clients.checks import check_address, check_api_key, check_count, check_options
from factflow_llm.clients.stainless import (
    CONNECT_TIMEOUT_S,
    TIMEOUT_S,
    Connections,
    accepted_options,
    connection,
    lower_headers,
    parsed,
    raise_cut_stream,
    raise_unless_answer,
    too_slow,
)
from factflow_llm.clients.turns import origin
from factflow_llm.errors import InvalidRequestError
from factflow_llm.types import CompletionResponse, StreamChunk, ToolCallDelta

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

_VERSION = re.compile(r"/v1(?:/messages)?$")
# Opus since 4.7 and every family since 5 answer 400 to any temperature, whatever the API version
_NO_TEMPERATURE = re.compile(r"claude-(?:opus-4-(?:[7-9]|[1-9]\d)(?!\d)|[a-z]+-(?:[5-9]|[1-9]\d)(?!\d))")


class AnthropicClient(BaseLLMClient):
    """Claude, by Anthropic's own API.

    Args:
        model: name of the model.
        api_key: secret; by default the environment's ``ANTHROPIC_API_KEY``.
        base_url: where the API lives, without ``/v1``; by default the environment's ``ANTHROPIC_BASE_URL``, else
            Anthropic's own.
        default_max_tokens: longest answer, in tokens, where a call names none: the API demands a number, and every
            Claude can write this many.
        timeout_s: longest silence of the server and longest wait for a whole answer, per attempt, in seconds.
        connect_timeout_s: longest wait for a connection, in seconds.
        headers: sent with every request.
        proxy: URL of a proxy; by default what the environment says.
        http_client: an ``AsyncClient`` of the SDK's httpx, which stays yours to close.
        options: provider options preset for every call.

    Raises:
        ConfigurationError: when a key is missing or malformed, a URL has no scheme, or a time is not above zero.
    """

    provider: ClassVar[str] = "anthropic"
    max_temperature: ClassVar[float] = 1.0

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        default_max_tokens: int = 4096,
        timeout_s: float = TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        headers: Mapping[str, str] | None = None,
        proxy: str | None = None,
        http_client: Any = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        import anthropic

        super().__init__(model, options=options)
        self.timeout_s = timeout_s
        address = check_address(base_url, variable="ANTHROPIC_BASE_URL", default="https://api.anthropic.com")
        address = _VERSION.sub("", address)
        key = check_api_key(api_key or os.environ.get("ANTHROPIC_API_KEY"), variable="ANTHROPIC_API_KEY")

        def connect() -> Any:
            wiring = connection(
                anthropic,
                timeout_s=timeout_s,
                connect_timeout_s=connect_timeout_s,
                headers=headers,
                proxy=proxy,
                http_client=http_client,
            )
            return anthropic.AsyncAnthropic(api_key=key, base_url=address, **wiring)

        self.default_max_tokens = check_count(default_max_tokens, name="default_max_tokens")
        self._sdk = anthropic
        self._connections = Connections(connect, owned=http_client is None)
        self.origin = origin("anthropic", self._client.base_url)
        # given with each call, lest the SDK refuse a long answer that is not streamed
        self._timeout = self._client.timeout
        self._accepted = accepted_options(self._create)

    @property
    def _client(self) -> Any:
        return self._connections.here()

    @property
    def _create(self) -> Any:
        return self._client.messages.with_raw_response.create

    async def _close(self) -> None:
        await self._connections.aclose()

    def _request(self, call: Call) -> dict[str, Any]:
        check_options(call.options, accepted=self._accepted, sdk=f"anthropic {self._sdk.__version__}")
        system, turns = say_messages(call.messages, self.origin)
        request: dict[str, Any] = {
            "model": self.model,
            "messages": turns,
            "timeout": self._timeout,
            **say_wishes(call, model=self.model, default_max_tokens=self.default_max_tokens),
        }
        if system:
            request["system"] = system
        if call.temperature is not None:
            self._check_temperature(call.temperature, thinks=request.get("thinking"))
            request["temperature"] = call.temperature
        if call.stop:
            request["stop_sequences"] = call.stop
        if call.tools:
            request["tools"] = say_tools(call.tools)
        request |= call.options
        if call.response_format is not None:
            form = say_format(call.response_format, self._sdk)
            request["output_config"] = {**request.get("output_config", {}), "format": form}
        return request

    def _check_temperature(self, temperature: float, *, thinks: Mapping[str, Any] | None) -> None:
        if temperature != 1 and thinks is not None and thinks["type"] != "disabled":
            raise InvalidRequestError(f"temperature={temperature!r}: a Claude that thinks takes only 1; leave it out")
        if _NO_TEMPERATURE.search(self.model):
            raise InvalidRequestError(f"temperature={temperature!r}: {self.model} takes none; leave it out")
        if "temperature" not in self._accepted:
            raise InvalidRequestError(
                f"temperature={temperature!r}: anthropic {self._sdk.__version__} speaks API version 2026-10-21, which "
                "takes none; leave it out, or pin the older version with headers={'anthropic-version': '2023-06-01'} "
                "and write extra_body={'temperature': …}"
            )

    def _too_slow(self, words: str) -> Exception:
        return too_slow(self._sdk, words)

    async def _complete(self, request: dict[str, Any]) -> CompletionResponse:
        response = await self._create(**request)
        answer = await parsed(response)
        raise_unless_answer(response, answer, "content")
        texts = [block.text for block in answer.content if block.type == "text"]
        thoughts = [block.thinking for block in answer.content if block.type == "thinking"]
        return CompletionResponse(
            text="".join(texts),
            model=answer.model,
            usage=read_usage(answer.usage),
            finish_reason=read_finish(answer.stop_reason),
            provider_finish_reason=answer.stop_reason,
            tool_calls=read_tool_calls(answer.content),
            reasoning="".join(thoughts) or None,
            response_id=answer.id,
            headers=lower_headers(response),
            raw=answer,
        )

    async def _stream(self, request: dict[str, Any]) -> AsyncGenerator[StreamChunk, None]:
        response = await self._create(**request, stream=True)
        headers = lower_headers(response)
        stream = await parsed(response)
        event = start = end = word = None
        calls: dict[int, int] = {}  # block index -> ordinal among the tool calls
        try:
            async for event in stream:
                if event.type == "content_block_delta":
                    piece = _read_delta(event, calls)
                    if piece is not None:
                        text, delta, reasoning = piece
                        yield StreamChunk(text, delta, reasoning, headers=headers, raw=event)
                elif event.type == "content_block_start" and event.content_block.type == "tool_use":
                    calls[event.index] = len(calls)
                    opened = ToolCallDelta(calls[event.index], event.content_block.id, event.content_block.name)
                    yield StreamChunk(tool_calls=(opened,), headers=headers, raw=event)
                elif event.type == "message_start":
                    start = event.message.usage
                elif event.type == "message_delta":
                    word, end = event.delta.stop_reason, event.usage
        finally:
            await stream.close()
        if word is None:
            raise_cut_stream(self._sdk, response)
        yield StreamChunk(
            usage=read_usage(start, end),
            finish_reason=read_finish(word),
            provider_finish_reason=word,
            headers=headers,
            raw=event,
        )


def _read_delta(event: Any, calls: dict[int, int]) -> tuple[str, tuple[ToolCallDelta, ...], str] | None:
    delta = event.delta
    if delta.type == "text_delta":
        return delta.text, (), ""
    if delta.type == "thinking_delta":
        return "", (), delta.thinking
    if delta.type == "input_json_delta" and event.index in calls:
        return "", (ToolCallDelta(calls[event.index], arguments=delta.partial_json),), ""
    return None
