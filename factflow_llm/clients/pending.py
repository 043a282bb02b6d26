"""A client yet to be made: its SDK takes seconds to import, which a thread does while the event loop goes on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from factflow_llm.clients.checks import check_event_loop

if TYPE_CHECKING:
    from collections.abc import Callable


class PendingClient:
    """Stands for a client until its first call. It belongs to one event loop.

    Args:
        make: imports what it needs and makes the client.
        model: the client's model.
        provider: the client's provider.
    """

    def __init__(self, make: Callable[[], Any], *, model: str, provider: str) -> None:
        self.model = model
        self.provider = provider
        self._make = make
        self._making: asyncio.Task[Any] | None = None
        self._closed = False

    async def made(self) -> Any:
        """Return the client, made in a thread; all who wait get the same.

        Raises:
            ConfigurationError: the client refuses a setting.
        """
        check_event_loop()
        if self._making is None or (self._making.done() and self._making.exception()):
            self._making = asyncio.ensure_future(asyncio.to_thread(self._make))
        return await asyncio.shield(self._making)

    async def aclose(self) -> None:
        """Close the client, if it has been made or is being made."""
        self._closed = True
        making, self._making = self._making, None
        if making is None:
            return
        await asyncio.wait({making})
        if not making.cancelled() and making.exception() is None:
            await making.result().aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.model!r} {'closed' if self._closed else 'to be made'}>"
