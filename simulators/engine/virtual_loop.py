"""An event loop whose clock jumps: production coroutines run unmodified, and an hour passes in a moment.

Timers that are due at the same instant fire in the order in which they were set. A loop with nothing left to wait for
is a deadlock and says so. Threads and sockets do not exist here: whoever needs one fails at once.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextvars import Context

T = TypeVar("T")


class _Timer(asyncio.TimerHandle):
    __slots__ = ("sequence",)
    sequence: int
    _scheduled: bool
    _when: float

    def __lt__(self, other: object) -> bool:
        assert isinstance(other, _Timer)
        return (self._when, self.sequence) < (other._when, other.sequence)


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop in virtual time, from 0."""

    _scheduled: list[_Timer]

    def __init__(self) -> None:
        super().__init__()
        self._virtual_s = 0.0
        self._sequence = 0
        self._clock_resolution = math.ulp(0.0)
        self._selector = self

    def time(self) -> float:
        """Return virtual seconds."""
        return self._virtual_s

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Set a timer; those of one instant fire in the order in which they were set."""
        timer = _Timer(when, callback, args, self, context)
        timer.sequence = self._sequence
        self._sequence += 1
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True
        return timer

    def select(self, timeout: float | None) -> list[Any]:
        """Stand in for the selector: jump to the next timer."""
        if self._scheduled and timeout != 0:
            self._virtual_s = max(self._virtual_s, self._scheduled[0]._when)
            self._clock_resolution = math.ulp(self._virtual_s)  # due now means now, not a tick later
        elif timeout is None:
            msg = f"deadlock at {self._virtual_s} s: nothing is scheduled and nobody can wake anybody"
            raise RuntimeError(msg)
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in virtual time; beside a running loop, as in a notebook, in a thread of its own."""
    if asyncio._get_running_loop() is None:
        return _run(main)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_run, main).result()


def _run(main: Coroutine[Any, Any, T]) -> T:
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main)
    finally:
        pending = asyncio.all_tasks(loop)
        for task in pending:
            task.cancel()
        if pending:
            loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
