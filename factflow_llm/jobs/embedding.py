"""Embed any number of texts: asked for in batches, handed on one by one, a bad text alone in its misfortune."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence, Sized
from itertools import islice
from typing import TYPE_CHECKING, Any

from factflow_llm.errors import ConfigurationError, get_error_metadata
from factflow_llm.jobs.job import Job, JobSettings, is_final
from factflow_llm.jobs.kept import Embedded
from factflow_llm.jobs.results import JobResult, Results, Spent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Vector = tuple[float, ...]


class EmbeddingJob(Results[str, Vector]):
    """The vectors of many texts: iterate over it with ``async for``, one :class:`JobResult` per text.

    It is a job of batches, and has a job's properties; counts are of texts, and what a batch used stands with its first
    text.
    """

    def __init__(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        embed: Callable[[Sequence[str]], Awaitable[Sequence[Vector]]],
        settings: JobSettings,
        *,
        batch_size: int,
        identity: Any,
    ) -> None:
        if batch_size < 1:
            raise ConfigurationError(f"batch_size = {batch_size} must be at least 1")

        super().__init__(len(texts) if isinstance(texts, Sized) else None)

        async def call(batch: Sequence[str]) -> Embedded:
            return await _embed(batch, embed)

        batches = _batches(texts, batch_size) if isinstance(texts, Iterable) else _coming_batches(texts, batch_size)
        self._job = Job(batches, call, settings, identity=[identity, batch_size])
        self._batch_size = batch_size
        self._ready: deque[JobResult[str, Vector]] = deque()

    def __repr__(self) -> str:
        return f"<EmbeddingJob of batches of {self._batch_size}: {self._job!r}>"

    @property
    def ended(self) -> str:
        """Why it ended, as of :class:`Job`; empty before."""
        return self._job.ended

    @property
    def spent(self) -> Spent:
        """What all calls used so far, those of earlier runs in the journal included."""
        return self._job.spent

    async def __anext__(self) -> JobResult[str, Vector]:
        while not self._ready:
            self._ready.extend(self._texts_of(await anext(self._job)))
        result = self._ready.popleft()
        self._count(result)
        return result

    async def aclose(self) -> None:
        """End what is under way; a second call does nothing."""
        await self._job.aclose()

    def _texts_of(self, batch: JobResult[Sequence[str], Embedded]) -> Iterator[JobResult[str, Vector]]:
        for place, text in enumerate(batch.item):
            vector = None if batch.value is None else batch.value.vectors[place]
            error = batch.error if batch.value is None else batch.value.errors.get(place)
            yield JobResult(
                place=batch.place * self._batch_size + place,
                item=text,
                value=vector,
                error=error,
                exception=batch.exception,
                tries=batch.tries,
                model=batch.model,
                spent=Spent() if place else batch.spent,
                resumed=batch.resumed,
                repeated=batch.repeated,
            )


async def _embed(texts: Sequence[str], embed: Callable[[Sequence[str]], Awaitable[Sequence[Vector]]]) -> Embedded:
    """Embed a batch; one that is refused for what is in it is halved, until the text at fault stands alone."""
    try:
        return Embedded(tuple(await embed(texts)), {})
    except Exception as error:
        metadata = get_error_metadata(error)
        if not is_final(metadata) or isinstance(error, ConfigurationError):
            raise
        if len(texts) == 1:
            return Embedded((None,), {0: metadata})
    half = len(texts) // 2
    first, second = await _embed(texts[:half], embed), await _embed(texts[half:], embed)
    errors = {**first.errors, **{half + place: error for place, error in second.errors.items()}}
    return Embedded(first.vectors + second.vectors, errors)


def _batches(texts: Iterable[str], size: int) -> Iterator[Sequence[str]]:
    left = iter(texts)
    while batch := tuple(islice(left, size)):
        yield batch


async def _coming_batches(texts: AsyncIterable[str], size: int) -> AsyncIterator[Sequence[str]]:
    batch: list[str] = []
    async for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield tuple(batch)
            batch = []
    if batch:
        yield tuple(batch)
