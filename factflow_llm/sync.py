"""The factory and its clients for callers without an event loop: scripts, threads, ``pandas.apply``, Airflow.

All calls of a process run in one background loop, so all its threads share each profile's connections and limiter.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, Unpack

from factflow_llm.background import run
from factflow_llm.jobs.job import Job, JobKeys, JobSettings
from factflow_llm.protocols import LimitedEmbeddingClientProtocol, LimitedLLMClientProtocol
from factflow_llm.settings import DEFAULT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from factflow_llm.clients.stream import ChatStream
    from factflow_llm.jobs.embedding import EmbeddingJob
    from factflow_llm.jobs.results import JobResult, Spent
    from factflow_llm.status import ProfileStatus
    from factflow_llm.types import CompletionResponse, EmbeddingResponse, StreamChunk


P = ParamSpec("P")
T = TypeVar("T")
ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")


class _Factory(Protocol):
    def create_completion_client(self, provider_name: str) -> LimitedLLMClientProtocol: ...

    def create_embedding_client(self, provider_name: str) -> LimitedEmbeddingClientProtocol: ...

    async def warm(self, *provider_names: str) -> None: ...

    async def aclose(self) -> None: ...

    async def drain(self, timeout_s: float | None = None, *, refuse_waiting: bool = True) -> int: ...

    def status(self) -> dict[str, ProfileStatus]: ...

    def embed_many(
        self,
        texts: Iterable[str],
        provider_name: str,
        *,
        dimensions: int | None,
        batch_size: int,
        **settings: Unpack[JobKeys],
    ) -> EmbeddingJob: ...


class SyncFactory:
    """The factory's methods, each of which waits for its end: what :meth:`LLMClientFactory.sync` returns.

    It may be used from any thread, and where an event loop runs, as in a notebook. Leaving its ``with`` block closes
    the factory's clients.
    """

    def __init__(self, factory: _Factory) -> None:
        self._factory = factory

    def create_completion_client(self, provider_name: str = DEFAULT) -> SyncClient:
        """Return the chat client of a profile; errors as of the factory's method of that name."""
        client = SyncClient(self._factory, provider_name)
        run(client._known())
        return client

    def create_embedding_client(self, provider_name: str = DEFAULT) -> SyncEmbeddingClient:
        """Return the embedding client of a profile; errors as of the factory's method of that name."""
        client = SyncEmbeddingClient(self._factory, provider_name)
        run(client._known())
        return client

    def warm(self, *provider_names: str) -> None:
        """Make clients before they are needed; errors as of the factory's method of that name."""
        run(self._factory.warm(*provider_names))

    def status(self) -> dict[str, ProfileStatus]:
        """Say of every profile what its clients do now, in all event loops together."""
        return self._factory.status()

    def drain(self, timeout_s: float | None = None, *, refuse_waiting: bool = True) -> int:
        """Begin no call any more, let those in flight finish, and close every client; as the factory's method."""
        return run(self._factory.drain(timeout_s, refuse_waiting=refuse_waiting))

    def map(
        self,
        items: Iterable[ItemT],
        call: Callable[[ItemT], ValueT],
        *,
        threads: int = 64,
        **settings: Unpack[JobKeys],
    ) -> SyncJob[ItemT, ValueT]:
        """Make one call for each item, each in a thread; return the results to iterate over.

        Args:
            items: any number of them.
            call: asks for one item, by synchronous clients.
            threads: calls that run together at most.
            **settings: as of the factory's method of that name.
        """
        pool = ThreadPoolExecutor(threads, thread_name_prefix="factflow-llm job")

        async def asked(item: ItemT) -> ValueT:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(pool, partial(copy_context().run, call, item))

        return SyncJob(Job(items, asked, JobSettings(**settings), identity=call), pool)

    def embed_many(
        self,
        texts: Iterable[str],
        provider_name: str = DEFAULT,
        *,
        dimensions: int | None = None,
        batch_size: int = 96,
        **settings: Unpack[JobKeys],
    ) -> SyncJob[str, tuple[float, ...]]:
        """Embed any number of texts, one result per text; arguments as of the factory's method of that name."""
        job = self._factory.embed_many(texts, provider_name, dimensions=dimensions, batch_size=batch_size, **settings)
        return SyncJob(job)

    def close(self) -> None:
        """Close every client of the factory, those of event loops included; a later call makes new ones."""
        run(self._factory.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<SyncFactory of {self._factory!r}>"


def _asked_like(
    method: Callable[Concatenate[Any, P], object],
) -> Callable[[Callable[..., T]], Callable[Concatenate[Any, P], T]]:
    """Sign a method that hands on what it is asked like the one that takes it: for editors, checkers and ``help()``."""

    def signed(function: Callable[..., T]) -> Callable[Concatenate[Any, P], T]:
        given = signature(function).return_annotation
        function.__signature__ = signature(method).replace(return_annotation=given)  # type: ignore[attr-defined]
        return function

    return signed


class _Named:
    """A profile's client, asked of the factory at every call: a forked child, or who closed it, gets a new one."""

    def __init__(self, factory: _Factory, name: str) -> None:
        self._factory = factory
        self._name = name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of profile {self._name!r}>"


class SyncClient(_Named):
    """A chat client whose calls wait for the answer."""

    async def _known(self) -> LimitedLLMClientProtocol:
        return self._factory.create_completion_client(self._name)

    @_asked_like(LimitedLLMClientProtocol.complete)  # type: ignore[arg-type]  # mypy fears an option named self
    def complete(self, *asked: Any, **options: Any) -> CompletionResponse:
        """Return the whole answer; arguments and errors as of ``RateLimitedClient.complete``."""

        async def complete() -> CompletionResponse:
            return await (await self._known()).complete(*asked, **options)

        return run(complete())

    @_asked_like(LimitedLLMClientProtocol.stream)  # type: ignore[arg-type]
    def stream(self, *asked: Any, **options: Any) -> SyncStream:
        """Give the answer piece by piece; arguments and errors as of ``RateLimitedClient.stream``."""

        async def begin() -> Any:
            return (await self._known()).stream(*asked, **options)

        return SyncStream(run(begin()))


class SyncEmbeddingClient(_Named):
    """An embedding client whose calls wait for the vectors."""

    async def _known(self) -> LimitedEmbeddingClientProtocol:
        return self._factory.create_embedding_client(self._name)

    @_asked_like(LimitedEmbeddingClientProtocol.embed)
    def embed(self, *asked: Any, **options: Any) -> EmbeddingResponse:
        """Return one vector per text, in order; arguments and errors as of ``RateLimitedEmbeddingClient.embed``."""

        async def embed() -> EmbeddingResponse:
            return await (await self._known()).embed(*asked, **options)

        return run(embed())


class SyncStream:
    """The pieces of an answer, in the order in which they come; leaving the ``with`` block closes the connection."""

    def __init__(self, stream: ChatStream) -> None:
        self._stream = stream

    @property
    def response(self) -> CompletionResponse:
        """The whole answer; an ``UnfinishedStreamError`` before the last piece has come."""
        return self._stream.response

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StreamChunk:
        chunk = run(_next(self._stream))
        if chunk is None:
            raise StopIteration
        return chunk

    def close(self) -> None:
        """Leave the stream; a second call does nothing."""
        run(self._stream.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._stream)


class SyncJob(Generic[ItemT, ValueT]):
    """The results of a job, as of ``Job``, to be iterated over by ``for``; leaving the ``with`` block ends it."""

    def __init__(self, job: Any, pool: ThreadPoolExecutor | None = None) -> None:
        self._job = job
        self._pool = pool

    @property
    def ended(self) -> str:
        """Why it ended, as of ``Job``; empty before."""
        return str(self._job.ended)

    @property
    def spent(self) -> Spent:
        """What all calls used so far, those of earlier runs in the journal included."""
        spent: Spent = self._job.spent
        return spent

    @property
    def left(self) -> int | None:
        """How many items are not over yet; ``None`` where nobody knows how many there are."""
        left: int | None = self._job.left
        return left

    def summary(self) -> list[dict[str, object]]:
        """Return what has been handed on so far, a row per model and outcome."""
        rows: list[dict[str, object]] = self._job.summary()
        return rows

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> JobResult[ItemT, ValueT]:
        result: JobResult[ItemT, ValueT] | None = run(_next(self._job))
        if result is None:
            self.close()
            raise StopIteration
        return result

    def close(self) -> None:
        """End what is under way; a second call does nothing."""
        run(self._job.aclose())
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._job)


async def _next(coming: AsyncIterator[T]) -> T | None:
    with suppress(StopAsyncIteration):
        return await anext(coming)
    return None
