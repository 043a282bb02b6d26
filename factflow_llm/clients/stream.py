"""A streamed answer as the caller holds it: pieces to iterate over, and the whole answer when they have all come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from factflow_llm.clients.schemas import fitted
from factflow_llm.clients.toolcalls import join_calls
from factflow_llm.errors import UnfinishedStreamError
from factflow_llm.types import CompletionResponse, StreamChunk, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from factflow_llm.types import ToolCallDelta


class ChatStream:
    """The pieces of an answer, in the order in which they come.

    Iterate over it, with or without ``async with``; the latter closes the connection when it is left early, too:

        async with client.stream(messages) as stream:
            async for chunk in stream:
                print(chunk.text, end="")
        answer = stream.response

    Args:
        chunks: what to iterate over; closed with the stream when it has an ``aclose``.
        form: the pydantic model the whole answer is to be an instance of, if any.
    """

    def __init__(self, chunks: AsyncIterator[StreamChunk], *, form: Any = None) -> None:
        self._chunks = chunks
        self._form = form
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[ToolCallDelta] = []
        self._last: StreamChunk | None = None
        self._ended = False

    @property
    def response(self) -> CompletionResponse:
        """The whole answer, the same that ``complete`` gives.

        Raises:
            UnfinishedStreamError: the last chunk has not come: go on iterating.
        """
        if not self._ended or self._last is None:
            raise UnfinishedStreamError("the answer is not whole yet: iterate over the stream to its end, then ask")
        return fitted(_joined(self._texts, self._thoughts, self._calls, self._last), self._form)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamChunk:
        try:
            chunk = await self._chunks.__anext__()
        except StopAsyncIteration:
            self._ended = True
            raise
        if chunk.text:
            self._texts.append(chunk.text)
        if chunk.reasoning:
            self._thoughts.append(chunk.reasoning)
        if chunk.tool_calls:
            self._calls += chunk.tool_calls
        self._last = chunk
        return chunk

    async def aclose(self) -> None:
        """Leave the stream: the connection is closed unless the answer is whole; a second call does nothing."""
        close = getattr(self._chunks, "aclose", None)
        if close is not None:
            await close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        state = "whole" if self._ended else "not begun" if self._last is None else "under way"
        return f"<{type(self).__name__} {state}>"


def joined(chunks: Sequence[StreamChunk]) -> CompletionResponse:
    """Join the pieces of an answer, the last chunk at the end, to the whole answer."""
    calls = [delta for chunk in chunks for delta in chunk.tool_calls]
    return _joined([chunk.text for chunk in chunks], [chunk.reasoning for chunk in chunks], calls, chunks[-1])


def _joined(
    texts: Sequence[str], thoughts: Sequence[str], calls: Sequence[ToolCallDelta], last: StreamChunk
) -> CompletionResponse:
    return CompletionResponse(
        text="".join(texts),
        model=last.model,
        usage=last.usage or Usage(),
        finish_reason=last.finish_reason,
        provider_finish_reason=last.provider_finish_reason,
        tool_calls=join_calls(calls),
        reasoning="".join(thoughts) or None,
        response_id=last.response_id,
        headers=last.headers,
        origin=last.origin,
        provider_state=last.provider_state,
        logprobs=last.logprobs,
        profile=last.profile,
        prices=last.prices,
        raw=last.raw,
    )
