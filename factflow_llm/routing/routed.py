"""What clients of several profiles share: calls are theirs, connections the profiles' own clients'."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from factflow_llm.errors import ClosedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from factflow_llm.ratelimit.config import RetryConfig
    from factflow_llm.routing.members import Member

AnswerT = TypeVar("AnswerT")


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
