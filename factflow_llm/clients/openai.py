"""OpenAI, and every server that speaks its language: chats and embeddings through its SDK, one attempt per call.

The SDK is imported when a client is made, never before; ``max_retries`` is 0 because retrying belongs to the limiter.
"""

from __future__ import annotations

import os
import re
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from factflow_llm.clients.addresses import check_address, check_api_key, split_query
from factflow_llm.clients.base import BaseLLMClient
from factflow_llm.clients.batches import refusal_text
from factflow_llm.clients.checks import check_count, check_options
from factflow_llm.clients.counts import embedding_usage
from factflow_llm.clients.embeddings import BaseEmbeddingClient
from factflow_llm.clients.loops import Connections
from factflow_llm.clients.openai_languages import LANGUAGES, OpenAIApi
from factflow_llm.clients.reading import read_object
from factflow_llm.clients.stainless import (
    CONNECT_TIMEOUT_S,
    TIMEOUT_S,
    accepted_options,
    connection,
    constructed,
    lower_headers,
    too_slow,
)
from factflow_llm.clients.vectors import read_vectors
from factflow_llm.clients.wire import word
from factflow_llm.errors import ConfigurationError
from factflow_llm.types import CompletionResponse, EmbeddingResponse, StreamChunk

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
    from types import ModuleType

    from factflow_llm.clients.chats import Chat

_OPENAI = "https://api.openai.com/v1"
_CALL = re.compile(r"/(?:chat/completions|completions|embeddings|responses)$")

# how servers that cannot send vectors as base64 refuse the wish
_NO_PACKING = re.compile(r"encoding_?format|base64")


class OpenAICompatibleClient(BaseLLMClient, BaseEmbeddingClient):
    """Chats and embeddings over any client object of the openai SDK; where it connects is the subclass's business."""

    max_texts_per_batch = 2048
    max_tokens_per_batch: ClassVar[int | None] = 300_000

    def __init__(
        self,
        model: str,
        *,
        sdk: ModuleType,
        connect: Callable[[], Any],
        target: str,
        dimensions: int | None,
        batch_size: int | None,
        options: Mapping[str, Any] | None,
        owned: bool,
        api: OpenAIApi,
    ) -> None:
        super().__init__(model, options=options)
        self._preset_dimensions(dimensions)
        if batch_size is not None:
            self.max_texts_per_batch = check_count(batch_size, name="batch_size")
        self._encoding = "base64"  # a third of the bytes
        self._sdk = sdk
        self._connections = Connections(connect, owned=owned)
        self._target = target
        self._embedding_options = accepted_options(self._embeddings)
        if api not in LANGUAGES:
            raise ConfigurationError(f"api={api!r} is unknown: write {' or '.join(map(repr, LANGUAGES))}")
        self._chats = LANGUAGES[api](sdk, self._client, model=model, target=target)
        self.origin = self._chats.origin

    @property
    def _client(self) -> Any:
        return self._connections.here()

    @property
    def _embeddings(self) -> Any:
        return self._client.embeddings.with_raw_response.create

    async def _close(self) -> None:
        await self._connections.aclose()

    def _request(self, call: Chat) -> dict[str, Any]:
        return self._chats.say(call)

    async def _complete(self, request: dict[str, Any]) -> CompletionResponse:
        chats = self._chats
        return chats.answers.whole(await chats.method(self._client)(**request), self._target)

    def _stream(self, request: dict[str, Any]) -> AsyncGenerator[StreamChunk, None]:
        chats = self._chats
        send = partial(chats.method(self._client), **chats.streamed(request))
        return chats.answers.stream(send, self._target)

    def _too_slow(self, words: str) -> Exception:
        return too_slow(self._sdk, words)

    @property
    def max_tokens_per_text(self) -> int | None:
        """8,192 for OpenAI's own embedding models; ``None`` for any other, which may read more."""
        return 8192 if self.model.startswith("text-embedding-") else None

    def mend_batch(self, error: Exception, count: int) -> int | None:
        """As for every client; and a server that refuses packed vectors is asked for plain ones from then on."""
        if _NO_PACKING.search(refusal_text(error)) and "encoding_format" not in self._options:
            self._encoding = "float"
            return count
        return super().mend_batch(error, count)

    async def embed_batch(self, texts: Sequence[str], *, dimensions: int | None = None) -> EmbeddingResponse:
        """Return the vectors of one batch that ``split`` has cut, in one attempt, in the order of the texts."""
        check_options(self._options, accepted=self._embedding_options, sdk=f"openai {self._sdk.__version__}")
        wanted = self._wanted_dimensions(dimensions)
        size = {} if wanted is None else {"dimensions": wanted}
        request = {"model": self._target, "input": list(texts), "encoding_format": self._encoding, **size}
        response = await self.in_time(self._embeddings(**(request | self._options)))
        headers = lower_headers(response)
        answer = read_object(response, wanted="data", headers=headers)
        return EmbeddingResponse(
            vectors=read_vectors(answer["data"], len(texts), dimensions=wanted),
            model=word(answer.get("model")) or self.model,
            usage=embedding_usage(answer.get("usage")),
            headers=headers,
            raw=(constructed(self._sdk.types.CreateEmbeddingResponse, answer),),
        )


class OpenAIClient(OpenAICompatibleClient):
    """OpenAI's API, or a server that copies it when ``base_url`` is given.

    Args:
        model: name of the model, for chats or for embeddings.
        api_key: secret; by default the environment's ``OPENAI_API_KEY``.
        base_url: where the API lives, mostly ending in ``/v1``; by default the environment's ``OPENAI_BASE_URL``, else
            OpenAI's own.
        timeout_s: longest silence of the server and longest wait for a whole answer, per attempt, in seconds.
        connect_timeout_s: longest wait for a connection, in seconds.
        headers: sent with every request.
        proxy: URL of a proxy; by default what the environment says.
        http_client: an ``AsyncClient`` of the SDK's httpx, which stays yours to close.
        dimensions: length of the vectors, where the model can shorten them.
        batch_size: texts embedded by one request, by default 2,048; a server that refuses so many lowers it itself.
        api: the language of chats: ``chat_completions``, or ``responses`` for OpenAI's Responses API.
        options: provider options preset for every call.

    Raises:
        ConfigurationError: when a key is missing or malformed, a URL has no scheme, or a time is not above zero.
    """

    provider: ClassVar[str] = "openai"

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout_s: float = TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        headers: Mapping[str, str] | None = None,
        proxy: str | None = None,
        http_client: Any = None,
        dimensions: int | None = None,
        batch_size: int | None = None,
        api: OpenAIApi = "chat_completions",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        import openai

        address = check_address(base_url, variable="OPENAI_BASE_URL", default=_OPENAI)
        address, query = split_query(address)
        address = _CALL.sub("", address)
        if address == _OPENAI.removesuffix("/v1"):
            address = _OPENAI
        key = check_api_key(api_key or os.environ.get("OPENAI_API_KEY"), variable="OPENAI_API_KEY")

        def connect() -> Any:
            wiring = connection(
                openai,
                timeout_s=timeout_s,
                connect_timeout_s=connect_timeout_s,
                headers=headers,
                proxy=proxy,
                http_client=http_client,
            )
            return openai.AsyncOpenAI(api_key=key, base_url=address, default_query=query, **wiring)

        super().__init__(
            model,
            sdk=openai,
            connect=connect,
            target=model,
            dimensions=dimensions,
            batch_size=batch_size,
            api=api,
            options=options,
            owned=http_client is None,
        )
        self.timeout_s = timeout_s
