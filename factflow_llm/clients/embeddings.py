"""What every embedding client shares: texts are checked, cut into batches that fit the provider, and embedded."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from factflow_llm.clients.base import BaseClient
from factflow_llm.clients.batches import embed_batches, too_many_texts, too_much_at_once
from factflow_llm.clients.checks import check_dimensions, check_event_loop, check_texts
from factflow_llm.errors import ConfigurationError, InvalidRequestError
from factflow_llm.types import EmbeddingResponse, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

_SURELY_TOO_LONG = 2.0  # an estimate may be off by a third, hardly by this factor; below it the provider decides


class BaseEmbeddingClient(BaseClient):
    """A client that turns texts into vectors, in as many batches as the provider's limits ask for.

    Attributes:
        max_texts_per_batch: texts sent together; lowered for good when the server refuses so many.
        max_tokens_per_batch: estimated tokens sent together; ``None`` for no limit.
    """

    max_texts_per_batch: int
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

    def mend_batch(self, error: Exception, count: int) -> int | None:
        """Return how many texts to send together after a refusal of ``count``; ``None`` when that will not help.

        What the server says of the size of a batch is kept for the calls to come.
        """
        size = too_many_texts(error, count)
        if size is None:
            return too_much_at_once(error, count)
        self.max_texts_per_batch = min(size, self.max_texts_per_batch)
        return size

    @abstractmethod
    async def embed_batch(self, texts: Sequence[str], *, dimensions: int | None = None) -> EmbeddingResponse:
        """Return the vectors of one batch, in one attempt."""

    async def embed(self, texts: Sequence[str], *, dimensions: int | None = None) -> EmbeddingResponse:
        """Return one vector per text, in the order of the texts, with all batches in flight together.

        A batch refused as too large is cut and sent again; one that fails leaves the others alone.

        Args:
            texts: any number of texts; none gives no vectors and sends nothing.
            dimensions: length of the vectors, where the model can shorten them.

        Raises:
            InvalidRequestError: names the text, by its position, that no batch can hold.
            BadResponseError: names the text, by its position, whose vector is missing or no vector.
            PartialEmbeddingError: some batches failed; carries the vectors of the others.
            Exception: the SDK's own, unchanged; read it with ``classify_llm_error``.
        """
        check_event_loop()
        batches = self.split(texts)
        if not batches:
            return EmbeddingResponse((), self.model, Usage(input_tokens=0))

        async def send(batch: Sequence[str]) -> EmbeddingResponse:
            return await self.embed_batch(batch, dimensions=dimensions)

        return await embed_batches(texts, batches, send, self.mend_batch)
