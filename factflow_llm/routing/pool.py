"""Accounts and regions as one: a call waits in the lines of all at once, and goes to the first that lets it in.

So it goes where the room is, by what each limiter has learned, and no wait has to be guessed. A member that refuses is
left to its limiter; one that fails is passed over; the call goes on with the others.
"""

from __future__ import annotations

import asyncio
import math
import random
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from factflow_llm.clients.batches import embed_batches, too_much_at_once
from factflow_llm.clients.stream import ChatStream
from factflow_llm.errors import BreakerOpenError, DeadlineExceededError, LLMErrorClassification, get_error_metadata
from factflow_llm.ratelimit.attempts import ELSEWHERE, HANDED
from factflow_llm.ratelimit.backoff import retry_delay_s
from factflow_llm.ratelimit.limiter import CallTicket, Permit, first_to_admit
from factflow_llm.ratelimit.line import NEVER
from factflow_llm.routing.members import Member, Memory, is_members_fault, open_first
from factflow_llm.routing.routed import ForeignCall, Routed, by, refuse
from factflow_llm.types import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from factflow_llm.errors import ErrorMetadata
    from factflow_llm.types import CompletionResponse, EmbeddingResponse, Message, StreamChunk

_USUAL = Usage(2_000, 500)
"""The call by which prices are compared."""


class _Pooled(Routed):
    """Members that may all answer the same calls.

    Args:
        members: those of the pool; the first one's retry settings are the pool's.
        by_price: the cheapest that has room is taken; otherwise they take turns.
        jitter: uniform draws in [0, 1) for the waits between attempts.
    """

    def __init__(
        self, members: Sequence[Member], *, by_price: bool, jitter: Callable[[], float] = random.random
    ) -> None:
        super().__init__(members)
        self.jitter = jitter
        self._by_price = by_price
        self._turn = 0

    async def turns(self, members: list[Member]) -> list[Member]:
        """Return these members in the order in which a call asks for room."""
        if self._by_price:
            await self.ready()
            return sorted(members, key=_price)
        self._turn += 1
        first = self._turn % len(members)
        return members[first:] + members[:first]

    async def relay(self, call: ForeignCall) -> AsyncGenerator[tuple[Member, Any], None]:
        """Hand on a call in a provider's own words, to whichever member that speaks them has room first."""
        fitting = [member for member in self.members if call.fits(member.name)] or refuse(call)
        way = _Way(self, call.sizes, 0, None, call.own, members=fitting)
        async with aclosing(self._parts(way, call.send)) as parts:
            async for member, part in parts:
                yield member, part

    async def _parts(
        self, way: _Way, send: Callable[[Member, float | None], Any]
    ) -> AsyncGenerator[tuple[Member, Any], None]:
        """Yield what the first member yields that lets the call in; none takes over once an answer has begun."""
        with self._call():
            while True:
                member, begun = None, False
                try:
                    member = await way.admitted()
                    async with aclosing(send(member, way.left_s)) as parts:
                        async for part in parts:
                            begun = True
                            yield member, part
                    member.answered()
                    return
                except Exception as error:
                    way.left()
                    if begun or not await way.goes_on(member, error):
                        raise


def _price(member: Member) -> float:
    cost_usd: float | None = member.client.cost_usd(_USUAL)
    return math.inf if cost_usd is None else cost_usd


class _Way:
    """One call on its way through the members of a pool: admitted by one, perhaps failed there, admitted by another."""

    def __init__(
        self,
        pool: _Pooled,
        sizes: tuple[int | None, int | None],
        priority: int,
        deadline_s: float | None,
        own: str | None = None,
        members: Sequence[Member] | None = None,
    ) -> None:
        within_s = pool.retry.deadline_s if deadline_s is None else deadline_s
        self._by_s = NEVER if within_s is None else asyncio.get_running_loop().time() + within_s
        self._pool = pool
        self._sizes = sizes
        self._priority = priority
        self._own = own
        self._members = pool.members if members is None else members
        self._unable: set[str] = set()
        self._troubled: set[str] = set()
        self._attempt = 0
        self._elsewhere = ELSEWHERE.get()
        self._permit: Permit | None = None

    @property
    def left_s(self) -> float | None:
        """Seconds until the call's deadline; ``None`` without one."""
        return None if self._by_s == NEVER else self._by_s - asyncio.get_running_loop().time()

    async def admitted(self) -> Member:
        """Wait for the first member that lets the call in, and hand it the permit.

        Raises:
            BreakerOpenError: none of them takes calls now.
            DeadlineExceededError: none has room in time.
        """
        able = [member for member in self._members if member.name not in self._unable]
        rested = [member for member in able if member.name not in self._troubled]
        members = [member for member in able if member.name == self._own] or open_first(rested or able)
        members = await self._pool.turns(members)
        free = next((member for member in members if member.client.limiter is None), None)
        if free is not None:
            return free
        permits = [
            Permit(member.client.limiter, CallTicket(*self._sizes, priority=self._priority, deadline_s=self._by_s))
            for member in members
        ]
        self._permit = await first_to_admit(permits)
        HANDED.set(self._permit)
        return members[permits.index(self._permit)]

    def left(self) -> None:
        """Give the permit back where the member did not even begin."""
        if self._permit is not None and HANDED.get() is self._permit:
            HANDED.set(None)
            if not self._permit.settled:
                self._permit.ignored()

    async def goes_on(self, member: Member | None, error: Exception) -> bool:
        """Take a failure; return, after a wait where one is due, whether the call is tried again."""
        metadata = get_error_metadata(error, patience_s=self._pool.retry.retry_after_cap_s)
        if isinstance(error, DeadlineExceededError) or not is_members_fault(metadata):
            return False
        if member is None:  # nobody takes calls now
            own, self._own = self._own, None
            return own is not None
        self._own = None
        if metadata.classification is LLMErrorClassification.TERMINAL:
            self._unable.add(member.name)
            if not isinstance(error, BreakerOpenError):
                member.shun(metadata)
            return len(self._unable) < len(self._members)
        if metadata.classification is LLMErrorClassification.RETRYABLE:
            member.stumble(metadata)
            if self._handed_over():
                return False
        self._attempt += 1
        delay_s = self._delay_s(metadata)
        if delay_s is None:
            return False
        self._troubled.add(member.name)
        if len(self._troubled | self._unable) == len(self._members):
            self._troubled.clear()
            if metadata.classification is LLMErrorClassification.RETRYABLE:  # limiters pace what was refused
                await asyncio.sleep(delay_s)
        return True

    def _handed_over(self) -> bool:
        """Tell whether somebody else takes the call now: all here are in trouble."""
        able = [member for member in self._members if member.name not in self._unable]
        return self._elsewhere is not None and all(member.shunned for member in able)

    def _delay_s(self, metadata: ErrorMetadata) -> float | None:
        """Return the wait that is due when all members have failed; ``None`` when attempts have run out."""
        return retry_delay_s(
            self._pool.retry,
            attempt=(self._attempt - 1) // len(self._members),
            jitter=self._pool.jitter(),
            retry_after_s=None,
            remaining_s=self.left_s,
            worth_attempts=metadata.max_attempts,
        )


class PooledClient(_Pooled):
    """A chat client of several profiles; arguments and errors as of ``RateLimitedClient``."""

    def __init__(
        self, members: Sequence[Member], *, by_price: bool, jitter: Callable[[], float] = random.random
    ) -> None:
        super().__init__(members, by_price=by_price, jitter=jitter)
        self._memory = Memory()

    async def complete(
        self, messages: Sequence[Message], *, priority: int = 0, deadline_s: float | None = None, **asked: Any
    ) -> CompletionResponse:
        """Return the whole answer, of whichever member has room first."""
        with self._call():
            way = self._way(messages, priority, deadline_s, asked)
            while True:
                member = None
                try:
                    member = await way.admitted()
                    response: CompletionResponse = await member.client.complete(
                        messages, priority=priority, deadline_s=way.left_s, **asked
                    )
                except Exception as error:
                    way.left()
                    if not await way.goes_on(member, error):
                        raise
                else:
                    member.answered()
                    self._memory.note(member.name, response)
                    return by(member, response)

    def stream(
        self, messages: Sequence[Message], *, priority: int = 0, deadline_s: float | None = None, **asked: Any
    ) -> ChatStream:
        """Give the answer piece by piece, of whichever member has room first."""
        chunks = self._chunks(messages, priority, deadline_s, asked)
        return ChatStream(chunks, form=asked.get("response_format"))

    async def _chunks(
        self, messages: Sequence[Message], priority: int, deadline_s: float | None, asked: dict[str, Any]
    ) -> AsyncGenerator[StreamChunk, None]:
        def ask(member: Member, left_s: float | None) -> Any:
            return member.client.stream(messages, priority=priority, deadline_s=left_s, **asked)

        async with aclosing(self._parts(self._way(messages, priority, deadline_s, asked), ask)) as parts:
            async for member, chunk in parts:
                self._memory.note(member.name, chunk)
                yield by(member, chunk)

    def _way(self, messages: Sequence[Message], priority: int, deadline_s: float | None, asked: dict[str, Any]) -> _Way:
        read = {name: asked.get(name) for name in ("tools", "response_format")}
        sizes = self.members[0].client.count(messages, **read), asked.get("max_tokens")
        return _Way(self, sizes, priority, deadline_s, self._memory.giver(messages))


class PooledEmbeddingClient(_Pooled):
    """An embedding client of several profiles; arguments and errors as of ``RateLimitedEmbeddingClient``."""

    async def embed(
        self,
        texts: Sequence[str],
        *,
        dimensions: int | None = None,
        priority: int = 0,
        deadline_s: float | None = None,
    ) -> EmbeddingResponse:
        """Return one vector per text, in order; each batch goes to whichever member has room first."""
        with self._call():
            await self.members[0].client.ready()
            first = self.members[0].client.client

            async def send(batch: Sequence[str]) -> EmbeddingResponse:
                return await self._batch(batch, dimensions, priority, deadline_s)

            batches = first.split(texts)
            if not batches:
                empty: EmbeddingResponse = await first.embed(texts, dimensions=dimensions)
                return empty
            return await embed_batches(texts, batches, send, getattr(first, "mend_batch", too_much_at_once))

    async def _batch(
        self, texts: Sequence[str], dimensions: int | None, priority: int, deadline_s: float | None
    ) -> EmbeddingResponse:
        way = _Way(self, (self.members[0].client.count(texts), 0), priority, deadline_s)
        while True:
            member = None
            try:
                member = await way.admitted()
                await member.client.ready()
                response: EmbeddingResponse = await member.client.embed_batch(
                    texts, dimensions=dimensions, priority=priority, deadline_s=way.left_s
                )
                member.answered()
                return by(member, response)
            except Exception as error:
                way.left()
                if not await way.goes_on(member, error):
                    raise
