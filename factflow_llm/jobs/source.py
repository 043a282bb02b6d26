"""Where a job's items come from: any iterable, or an asynchronous one that is read while calls go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

T = TypeVar("T")


class ItemSource(Generic[T]):
    """Items one by one, each with its place, without waiting for one that is not there yet.

    Attributes:
        ended: whether there are no more.
        taken: how many have been taken.
    """

    def __init__(self, items: Iterable[T] | AsyncIterable[T], changed: asyncio.Event) -> None:
        self.ended = False
        self._changed = changed
        self.taken = 0
        self._plain: Iterator[T] | None = iter(items) if isinstance(items, Iterable) else None
        self._coming: AsyncIterator[T] | None = None if isinstance(items, Iterable) else aiter(items)
        self._next: asyncio.Task[T] | None = None

    def take(self) -> tuple[int, T] | None:
        """Return the next item with its place; ``None`` when there is none, or none yet: then ``changed`` tells."""
        if self.ended:
            return None
        try:
            item = next(self._plain) if self._plain is not None else self._taken()
        except (StopIteration, StopAsyncIteration):
            self.ended = True
            return None
        if item is None and self._plain is None:
            return None
        self.taken += 1
        return self.taken - 1, item  # type: ignore[return-value]

    def _taken(self) -> T | None:
        if self._next is None:
            assert self._coming is not None
            self._next = asyncio.ensure_future(_anext(self._coming))
            self._next.add_done_callback(lambda _: self._changed.set())
        if not self._next.done():
            return None
        ended, self._next = self._next, None
        return ended.result()

    async def aclose(self) -> None:
        """Read nothing any more."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
        if self._coming is not None and (close := getattr(self._coming, "aclose", None)) is not None:
            await close()


async def _anext(coming: AsyncIterator[T]) -> T:
    return await anext(coming)
