"""Clients for those who hold them outside of any event loop: each use finds the client of the running one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from factflow_llm.providers import ModelType
    from factflow_llm.types import CompletionResponse, EmbeddingResponse, Message, StreamChunk


class _AnyLoop:
    """Stands for a client outside of any event loop; each use finds the client of the running one."""

    def __init__(self, factory: Any, name: str, type: ModelType) -> None:  # noqa: A002
        self._factory = factory
        self._name = name
        self._type = type

    def __repr__(self) -> str:
        return f"<client of profile {self._name!r} in whatever event loop uses it>"

    def _here(self) -> Any:
        return self._factory._get(self._name, self._type)

    async def aclose(self) -> None:
        """Release the connections of the running loop's client; a second call does nothing."""
        client = self._factory._shelf(asyncio.get_running_loop()).clients.pop(self._name, None)
        if client is not None:
            await client.aclose()


class AnyLoopClient(_AnyLoop):
    """Stands for a chat client."""

    async def complete(self, messages: Sequence[Message], **arguments: Any) -> CompletionResponse:
        """Return the whole answer."""
        response: CompletionResponse = await self._here().complete(messages, **arguments)
        return response

    def stream(self, messages: Sequence[Message], **arguments: Any) -> AsyncIterator[StreamChunk]:
        """Yield the answer piece by piece."""
        chunks: AsyncIterator[StreamChunk] = self._here().stream(messages, **arguments)
        return chunks


class AnyLoopEmbeddingClient(_AnyLoop):
    """Stands for an embedding client."""

    async def embed(self, texts: Sequence[str], **arguments: Any) -> EmbeddingResponse:
        """Return one vector per text, in the order of the texts."""
        response: EmbeddingResponse = await self._here().embed(texts, **arguments)
        return response
