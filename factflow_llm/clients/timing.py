"""Ends what waits for a provider too long: one bound on the whole wait, one moment by which it must be over.

A silent server is the SDK's to notice (its read timeout). One that sends a byte now and then, for ever, is not silent,
so the whole wait needs a bound of its own. Only time spent waiting for the provider counts: who reads a stream slowly
is not cut off for it.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


class TimeBound:
    """A bound on the waits of one attempt or one call, for one task at a time.

    Args:
        total_s: seconds of waiting in all; ``inf`` for no such bound.
        by_s: the moment, on the event loop's clock, by which every wait is over; ``inf`` for none.
        expired: makes the error to raise.
    """

    __slots__ = ("_by_s", "_expired", "_left_s", "_rang", "_since_s", "_task", "_timer")

    def __init__(self, *, total_s: float = math.inf, by_s: float = math.inf, expired: Callable[[], Exception]) -> None:
        self._left_s = total_s
        self._by_s = by_s
        self._expired = expired
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._since_s = 0.0
        self._rang = False

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """Await, within the bound.

        Raises:
            Exception: what ``expired`` makes, once the bound is passed; what was awaited is cancelled.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        now = loop.time()
        if self._left_s <= 0.0 or self._by_s <= now:
            self._refuse(awaitable)
        cancelled_before = task.cancelling()
        self._task, self._since_s = task, now
        if self._timer is None and (end_s := min(now + self._left_s, self._by_s)) < math.inf:
            self._timer = loop.call_at(end_s, self._ring, loop)
        try:
            return await awaitable
        except asyncio.CancelledError:
            rang, self._rang = self._rang, False
            if rang and task.uncancel() <= cancelled_before:
                error = self._expired()
                error.__suppress_context__ = True  # the cancellation is our own
                raise error  # noqa: B904
            raise
        finally:
            self._task = None
            self._left_s -= loop.time() - now
            if self._rang:  # what was awaited ended all the same, or took the cancellation for its own
                self._rang = False
                task.uncancel()

    def close(self) -> None:
        """Let the timer go."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel who waits too long; set the timer anew where part of the time was not spent waiting."""
        self._timer = None
        if self._task is None:
            return
        now = loop.time()
        end_s = min(self._since_s + self._left_s, self._by_s)
        if end_s > now:
            self._timer = loop.call_at(end_s, self._ring, loop)
        else:
            loop.call_soon(self._cancel)

    def _cancel(self) -> None:
        """End the wait, after whatever was ready at its last moment: an answer that came just then is one."""
        if self._task is not None:
            self._rang = True
            self._task.cancel()

    def _refuse(self, awaitable: Awaitable[T]) -> NoReturn:
        if isinstance(awaitable, asyncio.Future):
            awaitable.cancel()
        elif close := getattr(awaitable, "close", None):
            close()
        raise self._expired()
