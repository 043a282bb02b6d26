"""Anthropic's Messages API through the official SDK: chats, one attempt per call.

The SDK is imported when a client is made, never before; ``max_retries`` is 0 because retrying belongs to the limiter.
"""

from __future__ import annotations

import os
import re
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from factflow_llm.clients.addresses import check_address, check_api_key, split_query
from factflow_llm.clients.anthropic_answers import MessageReader, read_message
from factflow_llm.clients.anthropic_messages import say_format, say_messages, say_tools
from factflow_llm.clients.anthropic_wishes import say_wishes
from factflow_llm.clients.base import BaseLLMClient
from factflow_llm.clients.checks import check_count, check_options
from factflow_llm.clients.loops import Connections
from factflow_llm.clients.reading import Answers
from factflow_llm.clients.stainless import (
    CONNECT_TIMEOUT_S,
    TIMEOUT_S,
    accepted_options,
    connection,
    too_slow,
)
from factflow_llm.clients.turns import origin
from factflow_llm.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from types import ModuleType

    from factflow_llm.clients.chats import Chat
    from factflow_llm.types import CompletionResponse, StreamChunk

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
        address, query = split_query(address)
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
            return anthropic.AsyncAnthropic(api_key=key, base_url=address, default_query=query, **wiring)

        self.default_max_tokens = check_count(default_max_tokens, name="default_max_tokens")
        self._sdk = anthropic
        self._connections = Connections(connect, owned=http_client is None)
        self.origin = origin("anthropic", self._client.base_url)
        # given with each call, lest the SDK refuse a long answer that is not streamed
        self._timeout = self._client.timeout
        self._accepted = accepted_options(self._create)
        self._answers = _answers(anthropic, self.origin)

    @property
    def _client(self) -> Any:
        return self._connections.here()

    @property
    def _create(self) -> Any:
        return self._client.messages.with_raw_response.create

    async def _close(self) -> None:
        await self._connections.aclose()

    def _request(self, call: Chat) -> dict[str, Any]:
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
        return self._answers.whole(await self._create(**request), self.model)

    def _stream(self, request: dict[str, Any]) -> AsyncGenerator[StreamChunk, None]:
        return self._answers.stream(partial(self._create, **request, stream=True), self.model)


def _answers(sdk: ModuleType, source: str) -> Answers:
    kinds = {
        "message_start": sdk.types.RawMessageStartEvent,
        "message_delta": sdk.types.RawMessageDeltaEvent,
        "message_stop": sdk.types.RawMessageStopEvent,
        "content_block_start": sdk.types.RawContentBlockStartEvent,
        "content_block_delta": sdk.types.RawContentBlockDeltaEvent,
        "content_block_stop": sdk.types.RawContentBlockStopEvent,
    }

    def failed(message: str, http: Any, body: Any) -> Exception:
        error: Exception = sdk.APIStatusError(message, response=http, body={"type": "error", "error": body})
        return error

    return Answers(
        sdk=sdk,
        origin=source,
        wanted=("content", "stop_reason"),
        every="type",
        read=read_message,
        reader=MessageReader,
        model=sdk.types.Message,
        event=lambda event: kinds.get(str(event.get("type")), sdk.BaseModel),
        failed=failed,
    )
