"""One event loop per process, in a thread of its own, for callers who have none: it starts when it is first needed.

A forked child inherits the memory of that loop but not its thread, so it begins a loop of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from concurrent.futures import CancelledError, Future, wait
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from factflow_llm.errors import WrongEventLoopError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

_END_S = 10.0
"""How long the end of the process waits for the loop to close its connections."""


class _Background:
    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, name="factflow-llm calls", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def end(self) -> None:
        with suppress(RuntimeError):  # it is closed already
            self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(_END_S)


_lock = threading.Lock()
_here: _Background | None = None
_inherited: list[_Background] = []  # kept from the collector: it would touch what the parent process still uses


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in this process's background loop; wait for its end and return what it returns.

    The exceptions it raises are raised here, with both tracebacks. An exception that comes while waiting, such as
    Control-C, cancels the coroutine, and is raised when that has ended.

    Raises:
        WrongEventLoopError: called from the background loop itself, which would wait for itself.
    """
    background = _started()
    if threading.current_thread() is background.thread:
        coroutine.close()
        raise WrongEventLoopError(
            "a synchronous client is called from within an asynchronous call, whose event loop would wait for itself: "
            "await the asynchronous client there"
        )
    ended: Future[T] = Future()
    tasks: list[asyncio.Task[T]] = []

    def begin() -> None:
        tasks.append(background.loop.create_task(coroutine))
        tasks[0].add_done_callback(partial(_tell, ended))

    def cancel() -> None:
        tasks[0].cancel()

    background.loop.call_soon_threadsafe(begin)
    try:
        return ended.result()
    except BaseException:
        if not ended.done():
            background.loop.call_soon_threadsafe(cancel)
            wait((ended,))
        raise


async def elsewhere(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine that runs in the background loop; cancelling the wait cancels it."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, _started().loop))


def soon(callback: Callable[..., object], *arguments: Any) -> None:
    """Call something in the background loop, without waiting for it."""
    _started().loop.call_soon_threadsafe(callback, *arguments)


def _tell(ended: Future[T], task: asyncio.Task[T]) -> None:
    if task.cancelled():
        ended.set_exception(CancelledError())
    elif (error := task.exception()) is not None:
        ended.set_exception(error)
    else:
        ended.set_result(task.result())


def _started() -> _Background:
    global _here  # noqa: PLW0603
    with _lock:
        if _here is None:
            _here = _Background()
        return _here


def _after_fork() -> None:
    global _here, _lock  # noqa: PLW0603
    _lock = threading.Lock()
    if _here is not None:
        _inherited.append(_here)
        _here = None


def _end() -> None:
    if _here is not None:
        _here.end()


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_end)
