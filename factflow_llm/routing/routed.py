"""What clients of several profiles share: calls are theirs, connections the profiles' own clients'.

A call may come in a provider's own words, from a program that knows nothing of ours: then it is relayed.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from factflow_llm.errors import ClosedError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

    from factflow_llm.ratelimit.config import RetryConfig
    from factflow_llm.routing.members import Member

AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True)
class ForeignCall:
    """A call in a provider's own words.

    Attributes:
        send: sends it through a member's own client, within so many seconds, and yields the answer's parts.
        sizes: tokens it reads, and writes at most; ``None`` where unknown.
        fits: whether the profile of that name speaks the call's language.
        own: the member whose state the conversation carries.
        language: what it speaks, for an error's words.
    """

    send: Callable[[Member, float | None], AsyncGenerator[Any, None]]
    sizes: tuple[int | None, int | None]
    fits: Callable[[str], bool]
    own: str | None
    language: str


class Routed:
    """A client whose calls others answer.

    Args:
        members: who may answer; all of one event loop.

    Attributes:
        limiter: none of its own; each member has one.
        calls: calls under way.
    """

    limiter = None

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = tuple(members)
        self.calls = 0
        self._closed = False
        self._over = asyncio.Event()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {', '.join(member.name for member in self.members)}>"

    @property
    def client(self) -> Any:
        """Itself: it stands where a limited client's inner one does."""
        return self

    @property
    def retry(self) -> RetryConfig:
        """How failed calls are tried again: as the first member's settings say."""
        retry: RetryConfig = self.members[0].client.retry
        return retry

    def relay(self, call: ForeignCall) -> AsyncGenerator[tuple[Member, Any], None]:
        """Yield the parts of the answer to a call in a provider's own words, each with whose it is."""
        raise NotImplementedError

    async def ready(self) -> None:
        """Wait until every member's client is made."""
        for member in self.members:
            await member.client.ready()

    async def aclose(self) -> None:
        """Begin no call any more; the members' clients are closed with the factory."""
        self._closed = True

    async def drain(self, *, refuse_waiting: bool) -> None:
        """Begin no call any more, and wait until those under way are over; the members refuse those that wait."""
        self._closed = True
        while self.calls:
            self._over.clear()
            await self._over.wait()

    @contextmanager
    def _call(self) -> Iterator[None]:
        if self._closed:
            raise ClosedError("this client was closed: ask the factory for a new one")
        self.calls += 1
        try:
            yield
        finally:
            self.calls -= 1
            self._over.set()


def by(member: Member, answer: AnswerT) -> AnswerT:
    """Return an answer that says whose it is, unless it does already."""
    return answer if getattr(answer, "profile", "") else replace(answer, profile=member.name)  # type: ignore[type-var]


def relayed(member: Member, call: ForeignCall) -> AsyncGenerator[tuple[Member, Any], None]:
    """Yield the parts of a call's answer, each with whose it is; a member that hands calls on hands on this one."""
    return member.client.relay(call) if isinstance(member.client, Routed) else _alone(member, call)


async def _alone(member: Member, call: ForeignCall) -> AsyncGenerator[tuple[Member, Any], None]:
    async with aclosing(call.send(member, None)) as parts:
        async for part in parts:
            yield member, part


def refuse(call: ForeignCall) -> NoReturn:
    """Raise: no member speaks the call's language."""
    raise InvalidRequestError(f"no member of this profile speaks the language of {call.language}; name another profile")
