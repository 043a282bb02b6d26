"""One SDK client per event loop: connections opened in one are of no use in another, and end with it."""

from __future__ import annotations

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
        self._first = connect()
        self._connect = connect
        self._owned = owned
        self._loop: weakref.ref[AbstractEventLoop] | None = None
        self._others: weakref.WeakKeyDictionary[AbstractEventLoop, Any] = weakref.WeakKeyDictionary()

    def here(self) -> Any:
        """Return the client of the running loop; outside any, the first.

        Raises:
            WrongEventLoopError: under trio, and in a second loop with an ``http_client`` of the caller's own.
        """
        loop = check_event_loop()
        if loop is None:
            return self._first
        if self._loop is None:
            self._loop = weakref.ref(loop)
            self._end_with(loop)
        if self._loop() is loop:
            return self._first
        if not self._owned:
            raise WrongEventLoopError(
                "the http_client given belongs to the event loop of the first call: make a client in each loop, or "
                "leave http_client out"
            )
        if loop not in self._others:
            self._others[loop] = self._connect()
            self._end_with(loop)
        return self._others[loop]

    async def aclose(self) -> None:
        """Close what the running loop opened; each other loop closes its own when it ends."""
        if self._owned:
            await self.here().close()

    def _end_with(self, loop: AbstractEventLoop) -> None:
        if not self._owned:
            return
        if loop not in _in_use:
            _in_use[loop] = opened = weakref.WeakSet[Connections]()

            async def close_all() -> None:
                for connections in list(opened):
                    await connections.aclose()

            before_close(loop, close_all)
        _in_use[loop].add(self)


_in_use: weakref.WeakKeyDictionary[AbstractEventLoop, weakref.WeakSet[Connections]] = weakref.WeakKeyDictionary()


def before_close(loop: AbstractEventLoop, cleanup: Callable[[], Awaitable[None]]) -> None:
    """Run ``cleanup`` as the last thing the loop does.

    asyncio has no hook for that, so this one loop's ``close`` is wrapped; ``shutdown_asyncgens``, the usual trick, is
    not called by those who close a loop by hand.
    """
    close = loop.close

    def close_after_cleanup() -> None:
        try:
            if not (loop.is_closed() or loop.is_running()):
                loop.run_until_complete(cleanup())
        finally:
            close()

    loop.close = close_after_cleanup  # type: ignore[method-assign]
