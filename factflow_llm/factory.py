"""Clients by profile: made when first asked for, one per profile and event loop, behind one limiter per quota.

Connections belong to the event loop in which they were opened, and so do limiters. The factory therefore keeps a shelf
per loop and empties it as the last thing the loop does, so that ``asyncio.run`` twice, threads with loops of their own
and scripts that never close anything all end without an open socket.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakKeyDictionary, WeakSet, ref

from factflow_llm.anyloop import AnyLoopClient, AnyLoopEmbeddingClient
from factflow_llm.clients.checks import check_event_loop, check_positive
from factflow_llm.clients.loops import Closing, before_close
from factflow_llm.clients.pending import PendingClient
from factflow_llm.construction import prepared
from factflow_llm.errors import ClosedError, ConfigurationError, ExtraMissingError
from factflow_llm.providers import PROVIDERS, ModelType
from factflow_llm.settings import DEFAULT, LLMConfig, LLMProviderConfig
from factflow_llm.shelf import Shelf, elsewhere
from factflow_llm.status import ProfileStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable, Sequence
    from datetime import datetime
    from pathlib import Path
    from typing import Literal, TypeVar, Unpack

    from factflow_llm.jobs.batch import BatchJob, BatchRequest
    from factflow_llm.jobs.embedding import EmbeddingJob
    from factflow_llm.jobs.job import Job, JobKeys
    from factflow_llm.protocols import LimitedEmbeddingClientProtocol, LimitedLLMClientProtocol
    from factflow_llm.recorder import AttemptSink
    from factflow_llm.sync import SyncFactory
    from factflow_llm.telemetry import Telemetry

    ItemT = TypeVar("ItemT")
    ValueT = TypeVar("ValueT")

_factories: WeakSet[LLMClientFactory] = WeakSet()


class LLMClientFactory:
    """Makes and keeps the clients of a configuration.

    Inside a running event loop a profile's client is made once and belongs to that loop. Outside of any loop the
    factory hands out a stand-in, which asks for the client of whatever loop it is used in.

    Args:
        config: the profiles.
        recorder: gets one row per physical attempt of every client.
        telemetry: told of every call, attempt and limiter.
    """

    def __init__(
        self, config: LLMConfig, *, recorder: AttemptSink | None = None, telemetry: Telemetry | None = None
    ) -> None:
        self.config = config
        self._recorder = recorder
        self._telemetry = telemetry
        self._shelves: WeakKeyDictionary[asyncio.AbstractEventLoop, ref[Shelf]] = WeakKeyDictionary()
        self._stand_ins: dict[str, AnyLoopClient | AnyLoopEmbeddingClient] = {}
        self._lock = threading.RLock()
        self._drained = False
        _factories.add(self)

    def create_completion_client(self, provider_name: str = DEFAULT) -> LimitedLLMClientProtocol:
        """Return the chat client of a profile, the same one each time within an event loop.

        Raises:
            UnknownProfileError: no such profile.
            WrongModelTypeError: the profile is for embeddings.
            ExtraMissingError: the provider's package is not installed.
            ConfigurationError: the secret cannot be found, or the client refuses a setting.
        """
        client: LimitedLLMClientProtocol = self._get(provider_name, ModelType.CHAT)
        return client

    def create_embedding_client(self, provider_name: str = DEFAULT) -> LimitedEmbeddingClientProtocol:
        """Return the embedding client of a profile, the same one each time within an event loop.

        Errors as for ``create_completion_client``.
        """
        client: LimitedEmbeddingClientProtocol = self._get(provider_name, ModelType.EMBEDDING)
        return client

    async def warm(self, *provider_names: str) -> None:
        """Make clients before they are needed, so that no first call waits for an import.

        SDKs are imported in a thread, which the event loop does not wait for; a first call without ``warm`` does the
        same, but is as much later.

        Args:
            *provider_names: the profiles; by default all.

        Raises:
            ConfigurationError: as for ``create_completion_client``.
        """
        for provider_name in provider_names or self.config.providers:
            profile = self.config.providers.get(provider_name)
            type_ = ModelType.CHAT if profile is None else profile.type
            await self._get(provider_name, type_).ready()

    async def aclose(self) -> None:
        """Close every client, those of loops running in other threads included; a later call makes new ones.

        Calls that wait for their turn or between attempts end at once, with a ``ClosedError``. A loop that is open but
        not running closes its clients itself when it closes.
        """
        await self._end_all(Shelf.aclose)

    async def drain(self, timeout_s: float | None = None, *, refuse_waiting: bool = True) -> int:
        """Begin no call any more, let those in flight finish, and close every client.

        Args:
            timeout_s: longest wait for the calls under way; ``None`` waits as long as it takes.
            refuse_waiting: calls that wait for their turn or between attempts end at once, with a ``ClosedError``;
                otherwise they are let through first.

        Returns:
            How many calls were still under way when the time was over, and lost their connection.
        """
        if timeout_s is not None:
            check_positive(timeout_s, name="timeout_s")
        self._drained = True
        left: list[int] = []

        async def drain(shelf: Shelf) -> None:
            left.append(await shelf.drain(timeout_s, refuse_waiting=refuse_waiting))
            await shelf.aclose()

        await self._end_all(drain)
        return sum(left)

    def status(self) -> dict[str, ProfileStatus]:
        """Say of every profile what its clients do now, in all event loops together."""
        with self._lock:
            shelves = [shelf for reference in self._shelves.values() if (shelf := reference()) is not None]
        return {
            name: ProfileStatus.of(profile, [client for shelf in shelves if (client := shelf.of(name)) is not None])
            for name, profile in self.config.providers.items()
        }

    def map(
        self,
        items: Iterable[ItemT] | AsyncIterable[ItemT],
        call: Callable[[ItemT], Awaitable[ValueT]],
        *,
        ordered: bool = False,
        retries: int = 1,
        window: int = 1024,
        journal: str | Path | None = None,
        job: str | None = None,
        keep: Literal["answers", "prompts"] = "answers",
        max_cost_usd: float | None = None,
        max_tokens_total: int | None = None,
        until: datetime | None = None,
        progress: bool = False,
    ) -> Job[ItemT, ValueT]:
        """Make one call for each item, as many together as the limiters let; return the results to iterate over.

        An item that fails is a result with an ``error``; it ends nothing. Memory is bounded by ``window``, whatever the
        number of items.

        Args:
            items: any number of them; with a journal, in the same order each time.
            call: asks for one item, by clients of this factory, as often as it likes.
            ordered: results in the order of the items; those asked for again come last all the same.
            retries: how often items that failed by no fault of their own are asked for again, after all others.
            window: items begun ahead of the results taken.
            journal: a file in which results are noted; the same call with the same file goes on where it stopped, after
                a crash too.
            job: what the journal calls the job; by default a digest of the call's code and what it rests on.
            keep: ``answers``, or ``prompts`` for the items, too; answers are kept in either case.
            max_cost_usd: US dollars after which nothing more is sent, earlier runs in the journal included.
            max_tokens_total: the same for tokens, read and written.
            until: the moment after which nothing more is sent, with its time zone.
            progress: show a bar, with the extra ``jobs``.

        Raises:
            ConfigurationError: an argument makes no sense; while iterating, also a ``JournalError``.
        """
        from factflow_llm.jobs.job import Job, JobSettings

        settings = JobSettings(
            ordered=ordered,
            retries=retries,
            window=window,
            journal=journal,
            job=job,
            keep=keep,
            max_cost_usd=max_cost_usd,
            max_tokens_total=max_tokens_total,
            until=until,
            progress=progress,
        )
        return Job(items, call, settings)

    def embed_many(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        provider_name: str = DEFAULT,
        *,
        dimensions: int | None = None,
        batch_size: int = 96,
        **settings: Unpack[JobKeys],
    ) -> EmbeddingJob:
        """Embed any number of texts, in batches; return one result per text to iterate over.

        A text that is refused does not take its batch along: the batch is halved until the text stands alone.

        Args:
            texts: any number of them; with a journal, in the same order each time.
            provider_name: the profile.
            dimensions: length of the vectors, where the model can shorten them.
            batch_size: texts asked for together, the unit of journal, window and retries.
            **settings: as for ``map``.

        Raises:
            ConfigurationError: as for ``map`` and ``create_embedding_client``.
        """
        from factflow_llm.jobs.embedding import EmbeddingJob
        from factflow_llm.jobs.job import JobSettings

        name, profile = self.config.find(provider_name, ModelType.EMBEDDING)

        async def embed(batch: Sequence[str]) -> Sequence[tuple[float, ...]]:
            return (await self.create_embedding_client(name).embed(batch, dimensions=dimensions)).vectors

        identity = ["embed_many", profile.provider.value, profile.model, dimensions or profile.dimensions]
        return EmbeddingJob(texts, embed, JobSettings(**settings), batch_size=batch_size, identity=identity)

    def batch(
        self,
        requests: Iterable[BatchRequest],
        provider_name: str = DEFAULT,
        *,
        journal: str | Path | None = None,
        poll_s: float = 60.0,
        live: bool = False,
    ) -> BatchJob:
        """Hand requests in as the provider's batches, which take up to a day at half the price; return the answers.

        Args:
            requests: conversations, or the arguments of ``complete`` by name; cut into as many batches as needed.
            provider_name: a chat profile of OpenAI, Azure or Anthropic.
            journal: a file that remembers which batches were handed in; the same call with it waits for them again.
            poll_s: seconds between two looks at the batches.
            live: what failed by no fault of its own is sent live, instead of being handed in once more.

        Raises:
            ConfigurationError: as for ``create_completion_client``; while iterating, a provider without batches.
        """
        from factflow_llm.jobs.batch import BatchJob

        check_positive(poll_s, name="poll_s")
        name, profile = self.config.find(provider_name, ModelType.CHAT)
        own = self._own(name, profile, self._shelf(asyncio.get_running_loop()))
        return BatchJob(requests, own, provider=profile.provider.value, journal=journal, poll_s=poll_s, live=live)

    def sync(self) -> SyncFactory:
        """Return the same methods for callers without an event loop; each waits for its end. Any thread may call."""
        from factflow_llm.sync import SyncFactory

        return SyncFactory(self)

    def _after_fork(self) -> None:
        """Forget the parent's loops: their threads are not here, and their connections are the parent's."""
        self._lock = threading.RLock()
        self._shelves = WeakKeyDictionary()

    async def _end_all(self, end: Callable[[Shelf], Coroutine[Any, Any, None]]) -> None:
        here = asyncio.get_running_loop()
        with self._lock:
            shelves = [(loop, shelf) for loop, reference in self._shelves.items() if (shelf := reference()) is not None]
        for loop, shelf in shelves:
            if loop is here:
                await asyncio.shield(Closing(end(shelf), loop=loop))
            elif loop.is_running():
                await elsewhere(loop, end, shelf)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        with self._lock:
            shelves = [shelf for reference in self._shelves.values() if (shelf := reference()) is not None]
        made = [len(shelf.clients) for shelf in shelves if shelf.clients]
        return f"<LLMClientFactory of {len(self.config.providers)} profiles, {sum(made)} clients in {len(made)} loops>"

    def _get(self, provider_name: str, type: ModelType) -> Any:  # noqa: A002
        if self._drained:
            raise ClosedError("this factory was drained and begins no call any more: make a new one")
        name, profile = self.config.find(provider_name, type)
        entry = PROVIDERS[profile.provider]
        if find_spec(entry.package) is None:
            raise ExtraMissingError(f'profile {name!r} needs {entry.package}: pip install "{entry.install}"')
        with self._lock:
            loop = check_event_loop()
            if loop is None:
                stand_in = AnyLoopClient if type is ModelType.CHAT else AnyLoopEmbeddingClient
                return self._stand_ins.setdefault(name, stand_in(self, name, type))
            shelf = self._shelf(loop)
            client = shelf.clients.get(name)
            if client is None or client.client._closed:
                make = self._routed if profile.pool or profile.fallback else self._own
                client = shelf.clients[name] = make(name, profile, shelf)
            return client

    def _own(self, name: str, profile: LLMProviderConfig, shelf: Shelf) -> Any:
        """Return the client of the profile itself, which answers whatever else may answer for it."""
        client = shelf.own.get(name)
        if client is None or client.client._closed:
            client = shelf.own[name] = self._make(name, profile, shelf)
        return client

    def _routed(self, name: str, profile: LLMProviderConfig, shelf: Shelf) -> Any:
        """Return a client that hands calls on to the pool and the fallbacks of a profile."""
        from factflow_llm.routing.fallback import FallbackClient, FallbackEmbeddingClient
        from factflow_llm.routing.members import Member
        from factflow_llm.routing.pool import PooledClient, PooledEmbeddingClient

        def own(other: str) -> Member:
            return Member(other, self._own(other, self.config.providers[other], shelf))

        first, chat = own(name) if not profile.pool else None, profile.type is ModelType.CHAT
        if first is None:
            pooled = PooledClient if chat else PooledEmbeddingClient
            pool = pooled([own(other) for other in profile.pool], by_price=profile.pool_by == "price")
            if not profile.fallback:
                return pool
            first = Member(name, pool)
        others = [Member(other, self._get(other, profile.type)) for other in profile.fallback]
        return (FallbackClient if chat else FallbackEmbeddingClient)([first, *others])

    def _shelf(self, loop: asyncio.AbstractEventLoop) -> Shelf:
        """Return the loop's shelf, which the loop itself keeps: it must not outlive it, nor keep it alive."""
        reference = self._shelves.get(loop)
        shelf = None if reference is None else reference()
        if shelf is None:
            shelf = Shelf()
            self._shelves[loop] = ref(shelf)
            before_close(loop, shelf.aclose)
        return shelf

    def _make(self, name: str, profile: LLMProviderConfig, shelf: Shelf) -> Any:
        from factflow_llm.ratelimit.client import RateLimitedClient, RateLimitedEmbeddingClient

        def make() -> Any:
            try:
                return construct()
            except ConfigurationError as error:
                raise ConfigurationError(f"profile {name!r}: {error}") from error

        try:
            construct = prepared(profile)
        except ConfigurationError as error:
            raise ConfigurationError(f"profile {name!r}: {error}") from error
        entry = PROVIDERS[profile.provider]
        if entry.package in sys.modules or not entry.imported_when_made:
            client = make()
        else:
            client = PendingClient(make, model=profile.model, provider=profile.provider.value)
        wrap = RateLimitedClient if profile.type is ModelType.CHAT else RateLimitedEmbeddingClient
        limiter = shelf.limiter(profile, self.config, self._telemetry)
        return wrap(client, limiter, recorder=self._recorder, prices=profile.prices, telemetry=self._telemetry)


def _after_fork() -> None:
    for factory in _factories:
        factory._after_fork()


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_after_fork)
