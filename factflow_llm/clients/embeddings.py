"""Many texts in, vectors in the same order out: split to the provider's limits, sent together, halved when too large.

The bare client and the limited one run the same ``embed_batches``; they differ only in how a batch is sent.
"""

from __future__ import annotations

import asyncio
import re
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, ClassVar, TypeVar

from factflow_llm.clients.base import BaseClient
from factflow_llm.clients.checks import check_dimensions, check_texts
from factflow_llm.errors import ConfigurationError, ErrorReason, InvalidRequestError, get_error_metadata
from factflow_llm.types import EmbeddingResponse, Usage

SendBatch = Callable[[Sequence[str]], Awaitable[EmbeddingResponse]]

_T = TypeVar("_T")
_HALVED = frozenset({ErrorReason.BATCH_TOO_LARGE, ErrorReason.OUT_OF_MEMORY})
_BLAMED = re.compile(r"'input\[(\d+)\]'")
_SURELY_TOO_LONG = 2.0  # an estimate may be off by a third, hardly by this factor; below it the provider decides


class BaseEmbeddingClient(BaseClient):
    """A client that turns texts into vectors, in as many batches as the provider's limits ask for."""

    max_texts_per_batch: ClassVar[int]
    max_tokens_per_batch: ClassVar[int | None] = None

    def _preset_dimensions(self, dimensions: int | None) -> None:
        check_dimensions(dimensions, error=ConfigurationError)
        self.dimensions = dimensions

    def _wanted_dimensions(self, dimensions: int | None) -> int | None:
        check_dimensions(dimensions, error=InvalidRequestError)
        return self.dimensions if dimensions is None else dimensions

    @property
    def max_tokens_per_text(self) -> int | None:
        """Longest text the model reads, in tokens; ``None`` when unknown."""
        return None

    def split(self, texts: Sequence[str]) -> list[slice]:
        """Cut ``texts`` into batches that fit the provider's limits, by count and by estimated tokens.

        Raises:
            InvalidRequestError: names the first text that is empty, no string, or far too long for the model.
        """
        check_texts(texts)
        counts = self._estimate(texts)
        slices, start, tokens = [], 0, 0
        for position, count in enumerate(counts):
            full = position - start == self.max_texts_per_batch
            heavy = self.max_tokens_per_batch is not None and tokens + count > self.max_tokens_per_batch
            if position > start and (full or heavy):
                slices.append(slice(start, position))
                start, tokens = position, 0
            tokens += count
        if counts:
            slices.append(slice(start, len(counts)))
        return slices

    def _estimate(self, texts: Sequence[str]) -> list[int]:
        from factflow_llm.tokens import estimate_tokens

        limit = self.max_tokens_per_text
        if limit is None and self.max_tokens_per_batch is None:
            return [0] * len(texts)
        counts = [estimate_tokens(text, self.model) for text in texts]
        for position, count in enumerate(counts):
            if limit is not None and count > limit * _SURELY_TOO_LONG:
                raise InvalidRequestError(
                    f"texts[{position}] holds about {count:,} tokens; {self.model} reads {limit:,}: cut it into pieces"
                )
        return counts

    @abstractmethod
    async def embed_batch(self, texts: Sequence[str], *, dimensions: int | None = None) -> EmbeddingResponse:
        """Return the vectors of one batch, in one attempt."""

    async def embed(self, texts: Sequence[str], *, dimensions: int | None = None) -> EmbeddingResponse:
        """Return one vector per text, in the order of the texts, with all batches in flight together.

        Args:
            texts: any number of texts; none gives no vectors and sends nothing.
            dimensions: length of the vectors, where the model can shorten them.

        Raises:
            InvalidRequestError: names the text, by its position, that no batch can hold.
            Exception: the SDK's own, unchanged; read it with ``classify_llm_error``.
        """
        batches = self.split(texts)
        if not batches:
            return EmbeddingResponse((), self.model, Usage(input_tokens=0))

        async def send(batch: Sequence[str]) -> EmbeddingResponse:
            return await self.embed_batch(batch, dimensions=dimensions)

        return await embed_batches(texts, batches, send)


async def embed_batches(texts: Sequence[str], batches: Iterable[slice], send: SendBatch) -> EmbeddingResponse:
    """Send every batch at once and join the answers in the order of the texts.

    A batch refused as too large (too many tokens, out of memory) is halved and sent again; the first other failure
    cancels the rest and propagates.
    """
    return _join(await _together(_embed(texts[batch], batch.start, send) for batch in batches))


async def _embed(texts: Sequence[str], start: int, send: SendBatch) -> EmbeddingResponse:
    try:
        return await send(texts)
    except Exception as error:
        if len(texts) == 1 or get_error_metadata(error).reason not in _HALVED:
            _blame(error, start)
            raise
    middle = len(texts) // 2
    halves = (_embed(texts[:middle], start, send), _embed(texts[middle:], start + middle, send))
    return _join(await _together(halves))


def _blame(error: Exception, start: int) -> None:
    """Name the text by its position in the caller's list where the provider names it by its position in the batch."""
    if blamed := _BLAMED.search(str(error)):
        raise InvalidRequestError(
            f"texts[{start + int(blamed[1])}] was refused; the cause is in the provider's words"
        ) from error


async def _together(coroutines: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except* Exception as failures:
        first = failures.exceptions[0]
    else:
        return [task.result() for task in tasks]
    raise first  # outside the handler: the SDK's exception propagates as it was, in no group


def _join(parts: Sequence[EmbeddingResponse]) -> EmbeddingResponse:
    if len(parts) == 1:
        return parts[0]
    counts = [part.usage.input_tokens for part in parts]
    known = [count for count in counts if count is not None]
    return EmbeddingResponse(
        vectors=tuple(vector for part in parts for vector in part.vectors),
        model=parts[0].model,
        usage=Usage(input_tokens=sum(known) if len(known) == len(counts) else None),
        headers=parts[-1].headers,
        raw=tuple(raw for part in parts for raw in part.raw),
    )
