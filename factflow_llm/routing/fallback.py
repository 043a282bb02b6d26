"""Another model for when one cannot: its account is spent, its host in trouble, its context too short.

Never for a request that is wrong: another model would refuse it, too, or worse, answer it.
"""

from __future__ import annotations

from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any

from factflow_llm.clients.stream import ChatStream
from factflow_llm.errors import DeadlineExceededError, ErrorReason, get_error_metadata
from factflow_llm.ratelimit.attempts import ELSEWHERE
from factflow_llm.routing.members import Member, Memory, is_members_fault, open_first
from factflow_llm.routing.routed import ForeignCall, Routed, by, refuse, relayed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

    from factflow_llm.types import CompletionResponse, EmbeddingResponse, Message, StreamChunk


class _Falling(Routed):
    """Members asked one after another, each until its own retries are over or its host is known to be in trouble."""

    def _order(self, own: str | None) -> list[Member]:
        """Return whom to ask, in order: a conversation's own member first, none that is passed over."""
        order = open_first(self.members)
        return sorted(order, key=lambda member: member.name != own)

    async def relay(self, call: ForeignCall) -> AsyncGenerator[tuple[Member, Any], None]:
        """Hand on a call in a provider's own words, to the first member that speaks them and can answer."""
        order = [member for member in self._order(call.own) if call.fits(member.name)] or refuse(call)
        async with aclosing(self._parts(order, lambda member: relayed(member, call))) as parts:
            async for _, (member, part) in parts:
                yield member, part

    async def _parts(
        self, left: list[Member], send: Callable[[Member], Any]
    ) -> AsyncGenerator[tuple[Member, Any], None]:
        """Yield what the first member yields that can; none takes over once an answer has begun."""
        with self._call():
            while True:
                member, begun = left.pop(0), False
                ELSEWHERE.set(member.attempt_failed if left else None)
                try:
                    async with aclosing(send(member)) as parts:
                        async for part in parts:
                            if not begun:
                                begun = True
                                ELSEWHERE.set(None)
                            yield member, part
                except Exception as error:
                    if begun or not self._falls(member, error, left):
                        raise
                else:
                    member.welcome()
                    return
                finally:
                    ELSEWHERE.set(None)

    def _falls(self, member: Member, error: Exception, left: Sequence[Member]) -> bool:
        """Tell whether the next member is asked, and pass over for a while who failed for its own sake."""
        metadata = get_error_metadata(error)
        if metadata.reason is ErrorReason.CONTEXT_LENGTH:
            return bool(left)
        if isinstance(error, DeadlineExceededError) or not is_members_fault(metadata):
            return False
        member.shun(metadata)
        return bool(left)


@contextmanager
def _others_know(member: Member, left: Sequence[Member]) -> Iterator[None]:
    """Let a member's calls end as soon as its host is known to be in trouble, if somebody is left to make them."""
    before = ELSEWHERE.set(member.attempt_failed if left else None)
    try:
        yield
    finally:
        ELSEWHERE.reset(before)


class FallbackClient(_Falling):
    """A chat client with others to fall back on; arguments and errors as of ``RateLimitedClient``."""

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__(members)
        self._memory = Memory()

    async def complete(self, messages: Sequence[Message], **asked: Any) -> CompletionResponse:
        """Return the whole answer of the first member that can give one."""
        with self._call():
            left = self._order(self._memory.giver(messages))
            while True:
                member = left.pop(0)
                try:
                    with _others_know(member, left):
                        response: CompletionResponse = await member.client.complete(messages, **asked)
                except Exception as error:
                    if not self._falls(member, error, left):
                        raise
                else:
                    member.welcome()
                    self._memory.note(member.name, response)
                    return by(member, response)

    def stream(self, messages: Sequence[Message], **asked: Any) -> ChatStream:
        """Give the answer piece by piece, of the first member that can; none takes over once an answer has begun."""
        return ChatStream(self._chunks(messages, asked), form=asked.get("response_format"))

    async def _chunks(self, messages: Sequence[Message], asked: dict[str, Any]) -> AsyncGenerator[StreamChunk, None]:
        order = self._order(self._memory.giver(messages))
        async with aclosing(self._parts(order, lambda member: member.client.stream(messages, **asked))) as parts:
            async for member, chunk in parts:
                self._memory.note(member.name, chunk)
                yield by(member, chunk)


class FallbackEmbeddingClient(_Falling):
    """An embedding client with others of the same model to fall back on."""

    async def embed(self, texts: Sequence[str], **asked: Any) -> EmbeddingResponse:
        """Return one vector per text, all of the first member that can give them."""
        with self._call():
            left = self._order(None)
            while True:
                member = left.pop(0)
                try:
                    with _others_know(member, left):
                        response: EmbeddingResponse = await member.client.embed(texts, **asked)
                except Exception as error:
                    if not self._falls(member, error, left):
                        raise
                else:
                    member.welcome()
                    return by(member, response)
