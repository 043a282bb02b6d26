"""What one event loop has of a factory: its clients and limiters, ended together, from another thread too."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from factflow_llm.clients.loops import Closing

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from factflow_llm.ratelimit.limiter import AdaptiveRateLimiter
    from factflow_llm.settings import LLMConfig, LLMProviderConfig
    from factflow_llm.telemetry import Telemetry

_LOOK_AGAIN_S = 0.2  # another thread's loop may stop without a word


class Shelf:
    """The clients and limiters of one event loop."""

    def __init__(self) -> None:
        self.clients: dict[str, Any] = {}
        self.own: dict[str, Any] = {}
        self.limiters: dict[tuple[object, ...], AdaptiveRateLimiter] = {}

    def limiter(
        self, profile: LLMProviderConfig, config: LLMConfig, telemetry: Telemetry | None = None
    ) -> AdaptiveRateLimiter | None:
        """Return the limiter of the quota the profile draws on; ``None`` for a profile that wants none."""
        from factflow_llm.ratelimit.limiter import AdaptiveRateLimiter

        limits = config.rate_limit_of(profile)
        if limits is None:
            return None
        if profile.quota not in self.limiters:
            limiter = self.limiters[profile.quota] = AdaptiveRateLimiter(limits, quota=profile.quota_name)
            if telemetry is not None:
                telemetry.watch(profile.quota_name, limiter)
        return self.limiters[profile.quota]

    def of(self, name: str) -> Any:
        """Return what a profile's status is told of: its own client, else the one that hands its calls on."""
        return self.own.get(name) or self.clients.get(name)

    def all(self) -> list[Any]:
        """Return every client, those first that hand calls on to others."""
        handed_on = [client for name, client in self.clients.items() if client is not self.own.get(name)]
        return [*handed_on, *self.own.values()]

    async def drain(self, timeout_s: float | None, *, refuse_waiting: bool) -> int:
        """Wait until the calls under way are over; return how many are not when the time is."""
        clients = self.all()
        if refuse_waiting:
            for limiter in self.limiters.values():
                limiter.close()
        drains = [asyncio.ensure_future(client.drain(refuse_waiting=refuse_waiting)) for client in clients]
        if drains:
            _, late = await asyncio.wait(drains, timeout=timeout_s)
            for drain in late:
                drain.cancel()
        return sum(client.calls for client in self.own.values())

    async def aclose(self) -> None:
        """Wake who waits, close the clients, all of them even if one fails, and forget them."""
        clients = self.all()
        limiters = list(self.limiters.values())
        self.clients.clear()
        self.own.clear()
        self.limiters.clear()
        for limiter in limiters:
            limiter.close()
        ends = [client.aclose() for client in clients] + [limiter.aclose() for limiter in limiters]
        results = await asyncio.gather(*ends, return_exceptions=True)
        for error in filter(None, results):
            raise error


async def elsewhere(
    loop: asyncio.AbstractEventLoop, end: Callable[[Shelf], Coroutine[Any, Any, None]], shelf: Shelf
) -> None:
    """Let another thread's loop end its own clients; should it end itself meanwhile, it does so anyhow."""
    ended: Future[None] = Future()

    def begin() -> None:
        def told(task: asyncio.Task[None]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is None:
                ended.set_result(None)
            else:
                ended.set_exception(error)

        Closing(end(shelf), loop=loop).add_done_callback(told)

    try:
        loop.call_soon_threadsafe(begin)
    except RuntimeError:  # it has closed since, and its clients with it
        return
    heard = asyncio.wrap_future(ended)
    while not heard.done() and loop.is_running():
        await asyncio.wait([heard], timeout=_LOOK_AGAIN_S)
    if heard.done():
        heard.result()
