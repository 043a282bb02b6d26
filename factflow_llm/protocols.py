"""The two shapes every client has, ours or another package's: structural, so any class of the same shape will do.

What the factory hands out takes two keywords more, for the limiter: a priority and a deadline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from factflow_llm.types import CompletionResponse, EmbeddingResponse, Message, StreamChunk, Tool


@runtime_checkable
class LLMClientProtocol(Protocol):
    """A client that completes chats."""

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: Sequence[str] | None = None,
        tools: Sequence[Tool] | None = None,
        response_format: Any = None,
        **provider_options: Any,
    ) -> CompletionResponse:
        """Return the whole answer."""
        ...

    def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: Sequence[str] | None = None,
        tools: Sequence[Tool] | None = None,
        response_format: Any = None,
        **provider_options: Any,
    ) -> AsyncIterator[StreamChunk]:
        """Yield the answer piece by piece; the last chunk carries usage and finish reason."""
        ...

    async def aclose(self) -> None:
        """Release connections; a second call does nothing."""
        ...


@runtime_checkable
class EmbeddingClientProtocol(Protocol):
    """A client that turns texts into vectors."""

    async def embed(self, texts: Sequence[str], *, dimensions: int | None = None) -> EmbeddingResponse:
        """Return one vector per text, in the order of the texts."""
        ...

    async def aclose(self) -> None:
        """Release connections; a second call does nothing."""
        ...


@runtime_checkable
class LimitedLLMClientProtocol(LLMClientProtocol, Protocol):
    """A chat client behind the limiter, as the factory hands it out.

    ``priority``: higher goes first. ``deadline_s``: seconds from now by which the call is over, wherever it
    is: waiting, retrying, answering, streaming.
    """

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: Sequence[str] | None = None,
        tools: Sequence[Tool | Mapping[str, Any]] | None = None,
        response_format: Any = None,
        priority: int = 0,
        deadline_s: float | None = None,
        **provider_options: Any,
    ) -> CompletionResponse:
        """Return the whole answer."""
        ...

    def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: Sequence[str] | None = None,
        tools: Sequence[Tool | Mapping[str, Any]] | None = None,
        response_format: Any = None,
        priority: int = 0,
        deadline_s: float | None = None,
        **provider_options: Any,
    ) -> AsyncIterator[StreamChunk]:
        """Yield the answer piece by piece; the last chunk carries usage and finish reason."""
        ...


@runtime_checkable
class LimitedEmbeddingClientProtocol(EmbeddingClientProtocol, Protocol):
    """An embedding client behind the limiter; ``priority`` and ``deadline_s`` as for chats, for the whole call."""

    async def embed(
        self,
        texts: Sequence[str],
        *,
        dimensions: int | None = None,
        priority: int = 0,
        deadline_s: float | None = None,
    ) -> EmbeddingResponse:
        """Return one vector per text, in the order of the texts."""
        ...
