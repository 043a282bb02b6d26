"""Ends: whoever waits is woken, what is in flight may finish, other loops are left whole, no permit is lost."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from contextlib import suppress
from typing import Any
from weakref import ref

import pytest

from factflow_llm import LLMClientFactory, LLMConfig, RateLimitedClient
from factflow_llm.clients.loops import Connections
from factflow_llm.clients.openai import OpenAIClient
from factflow_llm.errors import ClosedError, ConfigurationError, get_error_metadata
from factflow_llm.ratelimit.attempts import LEFT_OPEN_S
from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.ratelimit.limiter import AdaptiveRateLimiter
from tests.support.loopback import Hang, Loopback
from tests.support.virtual_loop import run_virtually
from tests.test_attempts import FOREVER_S, HELLO, Slow, idle, limited
from tests.test_factory import ANSWER, SECRET, profile

ONE = {"initial_concurrency": 1, "max_concurrency": 1}
TIGHT = {"requests_per_minute": 10, "max_requests_per_minute": 10}


def factory_of(server: Loopback, **keys: Any) -> LLMClientFactory:
    """Make a factory with one profile that talks to the server."""
    return LLMClientFactory(LLMConfig(providers={"default": profile(server, **keys)}))


async def several(client: Any, count: int) -> list[asyncio.Task[Any]]:
    """Begin calls, and go on once the first has its answer and the others wait."""
    tasks = [asyncio.create_task(client.complete(HELLO)) for _ in range(count)]
    await tasks[0]
    assert client.limiter.metrics.queued == count - 1
    return tasks


def test_closing_the_factory_wakes_who_waits() -> None:
    """Calls in line end at once, with an error that says why and is classified; a later call makes a new client."""

    async def main(server: Loopback) -> None:
        factory = factory_of(server, rate_limit=TIGHT)
        tasks = await several(factory.create_completion_client(), 6)
        await factory.aclose()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        closed = [end for end in ends if isinstance(end, ClosedError)]
        assert len(closed) == 5
        assert {(str(get_error_metadata(end).reason), get_error_metadata(end).fatal) for end in closed} == {
            ("closed", True)
        }
        async with factory:
            assert (await factory.create_completion_client().complete(HELLO)).text == "Hi"

    with Loopback(ANSWER) as server:
        asyncio.run(main(server))


def test_closing_a_client_ends_its_pauses() -> None:
    """A call that pauses between two attempts ends at once; the next call is refused in words."""

    async def main() -> None:
        client = limited(Slow(1.0, fails=TimeoutError()), retry={"backoff_base_s": 1000.0, "backoff_cap_s": 1000.0})
        call = asyncio.create_task(client.complete(HELLO))
        await asyncio.sleep(2.0)
        assert client.calls == 1
        await client.aclose()
        with pytest.raises(ClosedError):
            await call
        assert asyncio.get_running_loop().time() == 2.0
        with pytest.raises(ClosedError, match="ask the factory for a new one"):
            await client.complete(HELLO)
        assert client.calls == 0
        assert idle(client)

    run_virtually(main())


def test_closing_a_client_takes_its_calls_out_of_the_line() -> None:
    """Of two clients behind one limiter, the closed one's waiting calls end; the other's go on."""

    async def main() -> None:
        limiter = AdaptiveRateLimiter(RateLimitConfig(**ONE))
        first, second = (RateLimitedClient(Slow(4.0), limiter) for _ in range(2))
        calls = [asyncio.create_task(client.complete(HELLO)) for client in (first, first, second)]
        await asyncio.sleep(1.0)
        await first.aclose()
        with pytest.raises(ClosedError, match="for its turn"):
            await calls[1]
        assert asyncio.get_running_loop().time() == 1.0
        assert (await calls[0]).text == (await calls[2]).text == "yes"
        assert asyncio.get_running_loop().time() == 8.0
        assert limiter.metrics.queued == 0

    run_virtually(main())


@pytest.mark.parametrize("refuse", [True, False])
def test_draining_lets_what_is_in_flight_finish(refuse: bool) -> None:
    """Draining ends waiting calls, or lets them through; calls in flight finish either way; no call begins."""

    async def main() -> None:
        client = limited(Slow(4.0), **ONE)
        first, second = (asyncio.create_task(client.complete(HELLO)) for _ in range(2))
        await asyncio.sleep(1.0)
        if refuse:
            assert client.limiter is not None
            client.limiter.close()
        await client.drain(refuse_waiting=refuse)
        assert (await first).text == "yes"
        if refuse:
            with pytest.raises(ClosedError):
                await second
        else:
            assert (await second).text == "yes"
        assert asyncio.get_running_loop().time() == (4.0 if refuse else 8.0)
        with pytest.raises(ClosedError):
            await client.complete(HELLO)

    run_virtually(main())


def test_a_drained_factory_begins_nothing() -> None:
    """Draining says how many calls it had to cut, and the factory makes no client any more."""

    async def main(server: Loopback) -> None:
        factory = factory_of(server)
        call = asyncio.create_task(factory.create_completion_client().complete(HELLO))
        await asyncio.sleep(0.0)
        assert factory.status()["default"].calls == 1
        assert await factory.drain(0.01) == 1
        with pytest.raises(ClosedError, match="make a new one"):
            factory.create_completion_client()
        call.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await call

    with Loopback(Hang()) as server:
        asyncio.run(main(server))
        with pytest.raises(ConfigurationError, match="timeout_s"):
            asyncio.run(factory_of(server).drain(0.0))


def test_status_tells_of_every_profile() -> None:
    """Profiles in use and those that nobody asked for are told, without a secret."""

    async def main(server: Loopback) -> None:
        config = LLMConfig(providers={"default": profile(server, rate_limit=TIGHT), "other": profile(server)})
        async with LLMClientFactory(config) as factory:
            tasks = await several(factory.create_completion_client(), 4)
            status = factory.status()
            assert list(status) == ["default", "other"]
            assert (status["default"].queued, status["default"].calls, status["default"].loops) == (3, 3, 1)
            assert (status["other"].queued, status["other"].loops, status["other"].limiter) == (0, 0, ())
            assert "3 waiting" in status["default"].limiter[0]
            assert SECRET not in repr(status)
        await asyncio.gather(*tasks, return_exceptions=True)

    with Loopback(ANSWER) as server:
        asyncio.run(main(server))


def test_a_loop_that_ends_meanwhile_is_left_whole() -> None:
    """Closing from one loop while another thread's loop ends cancels nobody here and hangs nobody."""
    with Loopback(ANSWER) as server:
        factory = factory_of(server, rate_limit=False)
        client = factory.create_completion_client()
        for delay_s in (0.0, 0.001, 0.003):
            called = threading.Event()

            async def elsewhere(called: threading.Event = called, delay_s: float = delay_s) -> None:
                await client.complete(HELLO)
                called.set()
                await asyncio.sleep(delay_s)

            thread = threading.Thread(target=lambda work=elsewhere: asyncio.run(work()))
            thread.start()
            assert called.wait(20.0)
            asyncio.run(factory.aclose())
            thread.join(20.0)
            assert not thread.is_alive()


@pytest.mark.parametrize("bare", [False, True])
def test_a_loop_dropped_unclosed_is_not_kept(bare: bool) -> None:
    """Neither the factory nor a client of ours keeps a loop alive that nobody closed."""
    with Loopback(ANSWER) as server:
        factory = factory_of(server, rate_limit=False)
        client: Any = factory.create_completion_client()
        if bare:
            client = OpenAIClient("m", api_key=SECRET, base_url=f"{server.url}/v1")
        loops = []
        for _ in range(3):
            loop = asyncio.new_event_loop()
            assert loop.run_until_complete(client.complete(HELLO)).text == "Hi"
            loops.append(ref(loop))
            del loop
            gc.collect()
        assert [each() for each in loops] == [None] * 3


def test_loops_that_begin_at_once_share_no_connections() -> None:
    """Two threads that make their first call at the same moment each get what is theirs, however long making takes."""
    asking = threading.Barrier(2, timeout=30)

    class Opened:
        async def close(self) -> None:
            """Have nothing to close."""

    class Meeting(Connections):
        def _fresh(self) -> object:
            client = super()._fresh()
            with suppress(threading.BrokenBarrierError):
                asking.wait(0.2)  # were both let in, both would be here with the same one
            return client

    connections = Meeting(Opened, owned=True)
    got: list[object] = []

    async def ask() -> None:
        got.append(connections.here())

    threads = [threading.Thread(target=asyncio.run, args=(ask(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 2
    assert got[0] is not got[1]


def test_a_coroutine_closed_while_it_waits_leaves_the_line() -> None:
    """``coroutine.close()`` on a call that waits takes its ticket out, as a cancellation does."""

    async def main() -> None:
        limiter = AdaptiveRateLimiter(RateLimitConfig(**ONE))
        async with limiter.permit():
            waiting = limiter.permit().__aenter__()
            waiting.send(None)
            assert limiter.metrics.queued == 1
            waiting.close()
            assert limiter.metrics.queued == 0
        async with limiter.permit():
            assert limiter.metrics.in_flight == 1
        assert limiter.metrics.in_flight == 0

    run_virtually(main())


def test_an_abandoned_stream_returns_its_permit() -> None:
    """A stream dropped half-way is closed by the loop, and its permit comes back."""

    async def main() -> None:
        client = limited(Slow(1.0), **ONE)
        async for _ in client.stream(HELLO):
            break
        gc.collect()
        await asyncio.sleep(0.0)
        await asyncio.sleep(0.0)
        assert idle(client)

    run_virtually(main())


def test_a_stream_left_open_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """A stream held and not read gives its permit back after a while, and a warning says where it was made."""

    async def main() -> None:
        client = limited(Slow(1.0), **ONE)
        stream = client.stream(HELLO)
        await anext(stream)
        await asyncio.sleep(LEFT_OPEN_S - 1.0)
        assert not idle(client)
        await anext(stream)
        await asyncio.sleep(LEFT_OPEN_S * 2)
        assert idle(client)
        assert (await anext(stream)).text == "a"
        await stream.aclose()
        assert idle(client)

    with caplog.at_level(logging.WARNING):
        run_virtually(main())
    (told,) = [record.message for record in caplog.records]
    assert f"made at {__file__}:" in told


def test_a_stream_read_without_end_is_not_named(caplog: pytest.LogCaptureFixture) -> None:
    """A stream whose provider is slow is not forgotten."""

    async def main() -> None:
        client = limited(Slow(FOREVER_S))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(LEFT_OPEN_S * 5):
                await anext(client.stream(HELLO))

    with caplog.at_level(logging.WARNING):
        run_virtually(main())
    assert caplog.records == []
