"""What belongs to an event loop is kept by the loop: it ends with it, and does not keep it alive.

Connections opened in one loop are of no use in another. A dictionary from loops to connections would hold each loop for
ever, for a connection refers to its loop; so a loop carries its belongings itself.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from typing import TYPE_CHECKING, Any

from factflow_llm.clients.checks import check_event_loop
from factflow_llm.errors import WrongEventLoopError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Awaitable, Callable


class Connections:
    """The SDK's clients, one per event loop.

    The first is made at once, so that wrong settings show where they are written, and belongs to the loop of the first
    call. A caller's own ``http_client`` is one for all, and so for one loop.
    """

    def __init__(self, connect: Callable[[], Any], *, owned: bool) -> None:
        self._unused: Any = connect()
        self._connect = connect
        self._owned = owned
        self._loop: weakref.ref[AbstractEventLoop] | None = None
        self._taking = threading.Lock()  # loops of several threads may begin at once

    def here(self) -> Any:
        """Return the client of the running loop; outside any, one that no loop has used.

        Raises:
            WrongEventLoopError: under trio, and in a second loop with an ``http_client`` of the caller's own.
        """
        loop = check_event_loop()
        if loop is None:
            return self._fresh()
        if not self._owned:
            self._loop = self._loop or weakref.ref(loop)
            if self._loop() is loop:
                return self._unused
            raise WrongEventLoopError(
                "the http_client given belongs to the event loop of the first call: make a client in each loop, or "
                "leave http_client out"
            )
        kept = _belongings(loop).connections
        client = kept.get(self)
        if client is None:
            with self._taking:
                client, self._unused = self._fresh(), None
            kept[self] = client
        return client

    def _fresh(self) -> Any:
        if self._unused is None:
            self._unused = self._connect()
        return self._unused

    async def aclose(self) -> None:
        """Close what the running loop opened; each other loop closes its own when it ends."""
        if not self._owned:
            return
        unused, self._unused = self._unused, None
        client = _belongings(asyncio.get_running_loop()).connections.pop(self, None)
        for each in (unused, client):
            if each is not None:
                await each.close()


class Closing(asyncio.Task[None]):
    """A task that a loop's end waits for instead of cancelling it: half-closed connections stay open."""

    def cancel(self, msg: Any = None) -> bool:
        """Go on."""
        return False


class _Belongings:
    """What one loop keeps: clients for as long as their owner lives, and what to do before it closes."""

    def __init__(self) -> None:
        self.connections: weakref.WeakKeyDictionary[Connections, Any] = weakref.WeakKeyDictionary()
        self.cleanups: list[Callable[[], Awaitable[None]]] = []

    async def end(self) -> None:
        """Do all there is to do, whatever fails of it."""
        for client in list(self.connections.values()):
            self.cleanups.append(client.close)
        self.connections.clear()
        ways, self.cleanups = self.cleanups, []
        begun = [task for task in asyncio.all_tasks() if isinstance(task, Closing)]
        results = await asyncio.gather(*begun, *(cleanup() for cleanup in ways), return_exceptions=True)
        for error in filter(None, results):
            raise error


def before_close(loop: AbstractEventLoop, cleanup: Callable[[], Awaitable[None]]) -> None:
    """Run ``cleanup`` as the last thing the loop does; the loop holds it until then."""
    _belongings(loop).cleanups.append(cleanup)


def _belongings(loop: AbstractEventLoop) -> _Belongings:
    """Return what the loop keeps.

    asyncio has no hook for a loop's end, so this one loop's ``close`` is wrapped; ``shutdown_asyncgens``, the usual
    trick, is not called by those who close a loop by hand.
    """
    kept: _Belongings | None = getattr(loop, "_factflow_llm", None)
    if kept is not None:
        return kept
    kept = loop._factflow_llm = _Belongings()  # type: ignore[attr-defined]
    close = loop.close

    def close_after_cleanup() -> None:
        try:
            if not (loop.is_closed() or loop.is_running() or asyncio._get_running_loop()):
                loop.run_until_complete(kept.end())
        finally:
            close()

    loop.close = close_after_cleanup  # type: ignore[method-assign]
    return kept
