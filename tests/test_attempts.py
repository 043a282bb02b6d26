"""One call's attempts: what ends them, what they return to the limiter, and what they never let through."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

from factflow_llm.clients.base import BaseLLMClient
from factflow_llm.clients.pending import PendingClient
from factflow_llm.clients.timing import TimeBound
from factflow_llm.errors import DeadlineExceededError, InvalidRequestError
from factflow_llm.ratelimit.client import RateLimitedClient, RateLimitedEmbeddingClient
from factflow_llm.ratelimit.config import RateLimitConfig, RetryConfig
from factflow_llm.ratelimit.limiter import AdaptiveRateLimiter
from factflow_llm.ratelimit.road import Road
from factflow_llm.types import CompletionResponse, EmbeddingResponse, FinishReason, Message, StreamChunk, Usage
from tests.support.virtual_loop import run_virtually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from factflow_llm.clients.chats import Chat
    from factflow_llm.recorder import AttemptRow

HELLO = [Message.user("hello")]
FOREVER_S = 1e6


class Slow:
    """A client whose answer, or each piece of it, takes so long; it counts what was given up."""

    def __init__(self, takes_s: float, *, fails: Exception | None = None) -> None:
        self.takes_s = takes_s
        self.fails = fails
        self.given_up = 0

    async def complete(self, messages: Sequence[Message], **_: Any) -> CompletionResponse:
        """Answer, late."""
        try:
            await asyncio.sleep(self.takes_s)
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        if self.fails is not None:
            raise self.fails
        return CompletionResponse("yes", "m", Usage(1, 1), FinishReason.STOP)

    async def stream(self, messages: Sequence[Message], **_: Any) -> AsyncIterator[StreamChunk]:
        """Send a piece, and another, for ever."""
        try:
            while True:
                await asyncio.sleep(self.takes_s)
                yield StreamChunk("a")
        except (asyncio.CancelledError, GeneratorExit):
            self.given_up += 1
            raise

    async def aclose(self) -> None:
        """Do nothing."""


def limited(client: Any, **settings: Any) -> RateLimitedClient:
    """Put a client behind a limiter."""
    retry = {"retry": RetryConfig(**settings.pop("retry"))} if "retry" in settings else {}
    return RateLimitedClient(client, AdaptiveRateLimiter(RateLimitConfig(**settings, **retry)), jitter=lambda: 0.5)


def idle(client: RateLimitedClient) -> bool:
    """Tell whether the limiter holds nothing."""
    assert client.limiter is not None
    metrics = client.limiter.metrics
    return (metrics.in_flight, metrics.queued) == (0, 0)


@pytest.mark.parametrize("by", ["call", "settings"])
def test_the_deadline_ends_an_answer_that_does_not_come(by: str) -> None:
    """A call in flight at its deadline is given up, its connection with it, and its permit comes back."""

    async def main() -> None:
        slow = Slow(FOREVER_S)
        client = limited(slow, retry={"deadline_s": 3.0 if by == "settings" else None})
        with pytest.raises(DeadlineExceededError, match="3 s after it was asked for; it was attempt 1"):
            await client.complete(HELLO, deadline_s=3.0 if by == "call" else None)
        assert asyncio.get_running_loop().time() == 3.0
        assert slow.given_up == 1
        assert idle(client)

    run_virtually(main())


def test_the_deadline_ends_a_stream_between_its_pieces() -> None:
    """A stream whose pieces keep coming ends at the deadline, and what had come was handed on."""

    async def main() -> None:
        slow = Slow(1.0)
        client = limited(slow)
        heard: list[str] = []

        async def listen() -> None:
            async for chunk in client.stream(HELLO, deadline_s=3.5):
                heard.append(chunk.text)  # noqa: PERF401 - what came before the end counts

        with pytest.raises(DeadlineExceededError):
            await listen()
        assert heard == ["a"] * 3
        assert asyncio.get_running_loop().time() == 3.5
        assert slow.given_up == 1
        assert idle(client)

    run_virtually(main())


def test_the_deadline_ends_a_retry() -> None:
    """The attempts of a call share one deadline."""

    async def main() -> None:
        client = limited(Slow(4.0, fails=TimeoutError()))
        with pytest.raises(DeadlineExceededError, match="it was attempt 2"):
            await client.complete(HELLO, deadline_s=7.0)
        assert asyncio.get_running_loop().time() == 7.0
        assert idle(client)

    run_virtually(main())


def test_a_cancellation_from_outside_stays_one() -> None:
    """A deadline of the call's own does not take somebody else's cancellation for its own."""

    async def main() -> None:
        client = limited(Slow(FOREVER_S))
        task = asyncio.ensure_future(client.complete(HELLO, deadline_s=50.0))
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.0):
                await client.complete(HELLO, deadline_s=50.0)
        assert idle(client)

    run_virtually(main())


def test_a_slow_reader_is_not_cut_off() -> None:
    """Of a bound on all waiting, only the time spent waiting for the provider is counted."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        bound = TimeBound(total_s=5.0, expired=lambda: TimeoutError("too slow"))
        for _ in range(4):
            await bound.wait(asyncio.sleep(1.0))
            await asyncio.sleep(100.0)
        with pytest.raises(TimeoutError, match="too slow"):
            await bound.wait(asyncio.sleep(2.0))
        assert loop.time() == 405.0
        with pytest.raises(TimeoutError, match="too slow"):
            await bound.wait(asyncio.sleep(0.0))

    run_virtually(main())


def test_a_wait_that_swallows_its_cancellation_leaves_no_trace() -> None:
    """What answers although it was given up has answered, and the task is not left half cancelled."""

    async def stubborn() -> str:
        try:
            await asyncio.sleep(FOREVER_S)
        except asyncio.CancelledError:
            return "all the same"
        return "late"

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        bound = TimeBound(total_s=5.0, expired=TimeoutError)
        assert await bound.wait(stubborn()) == "all the same"
        assert task.cancelling() == 0
        with pytest.raises(TimeoutError):
            await bound.wait(asyncio.sleep(1.0))

    run_virtually(main())


def test_a_classifier_that_raises_leaks_no_permit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong between an attempt's end and its settlement, the permit comes back."""

    def broken(_: BaseException, **__: float) -> None:
        raise ZeroDivisionError("a fault of our own")

    monkeypatch.setattr("factflow_llm.ratelimit.attempts.get_error_metadata", broken)

    async def main() -> None:
        client = limited(Slow(1.0, fails=ValueError("no")), initial_concurrency=1, max_concurrency=1)
        for _ in range(5):
            with pytest.raises(ZeroDivisionError):
                await client.complete(HELLO, deadline_s=100.0)
        assert idle(client)

    run_virtually(main())


def test_a_recorder_that_raises_costs_rows_and_no_call(caplog: pytest.LogCaptureFixture) -> None:
    """A recorder's failure is told once and counted; calls go on."""

    class Full:
        def record(self, row: AttemptRow, /) -> None:
            raise OSError(28, "No space left on device")

    async def main() -> None:
        client = RateLimitedClient(Slow(1.0), None, recorder=Full())
        for _ in range(3):
            assert (await client.complete(HELLO)).text == "yes"
        assert client._road.rows_lost == 3

    with caplog.at_level(logging.DEBUG):
        run_virtually(main())
    assert [record.levelname for record in caplog.records if "recorder" in record.message] == ["ERROR"]


def test_the_deadline_of_an_embedding_is_one_for_all_its_batches() -> None:
    """Batches that are cut and sent again do not get a deadline of their own."""

    class Halving:
        """A client whose every batch is refused, late, as too large."""

        def split(self, texts: Sequence[str]) -> list[slice]:
            return [slice(0, len(texts))]

        def mend_batch(self, _: Exception, count: int) -> int | None:
            return (count + 1) // 2

        async def embed_batch(self, texts: Sequence[str], **_: Any) -> EmbeddingResponse:
            await asyncio.sleep(2.0)
            raise InvalidRequestError("too large")

        async def embed(self, texts: Sequence[str], **_: Any) -> EmbeddingResponse:
            raise NotImplementedError

        async def aclose(self) -> None:
            """Do nothing."""

    async def main() -> None:
        client = RateLimitedEmbeddingClient(Halving(), AdaptiveRateLimiter())
        with pytest.raises(DeadlineExceededError):
            await client.embed(["a"] * 9, deadline_s=5.0)
        assert asyncio.get_running_loop().time() == 5.0

    run_virtually(main())


def test_the_deadline_covers_the_import_of_an_sdk() -> None:
    """A call whose client is still being made ends at its deadline, too; the making goes on for the next."""
    made = threading.Event()

    async def main() -> None:
        client: Any = RateLimitedClient(PendingClient(made.wait, model="m", provider="openai"), None)  # type: ignore[arg-type]
        with pytest.raises(DeadlineExceededError, match="no client within"):
            await client.complete(HELLO, deadline_s=0.01)
        made.set()
        await client.ready()
        assert client.client is True

    asyncio.run(main())


def test_a_request_is_worded_once_for_all_its_attempts() -> None:
    """A client of ours checks a call and says it in its SDK's words once, however often it is sent."""

    class Counting(BaseLLMClient):
        provider = "counting"
        worded = sent = 0

        def _request(self, call: Chat) -> dict[str, Any]:
            self.worded += 1
            return {"messages": len(call.messages)}

        async def _complete(self, request: dict[str, Any]) -> CompletionResponse:
            self.sent += 1
            if self.sent < 4:
                raise TimeoutError
            return CompletionResponse(str(request["messages"]), "m", Usage(1, 1), FinishReason.STOP)

        def _stream(self, request: dict[str, Any]) -> Any:
            raise NotImplementedError

        async def _close(self) -> None:
            """Do nothing."""

    async def main() -> None:
        inner = Counting("m")
        assert (await limited(inner).complete(HELLO)).text == "1"
        assert (inner.worded, inner.sent) == (1, 4)

    run_virtually(main())


@pytest.mark.parametrize(
    ("usage", "free", "counted"),
    [
        (Usage(900, 7), False, (900, 7)),
        (Usage(900, 7, cached_input_tokens=800), False, (900, 7)),
        (Usage(900, 7, cached_input_tokens=800), True, (100, 7)),
        (Usage(10**9, 7), False, (None, 7)),
        (Usage(900, 10**15), False, (900, None)),
        (Usage(-5, None), True, (None, None)),
        (Usage(), True, (None, None)),
    ],
)
def test_what_counts_of_a_usage(usage: Usage, free: bool, counted: tuple[int | None, int | None]) -> None:
    """Cached tokens are left out where they are free, and a count that no call can have is unknown."""
    road = Road(None, RetryConfig(), None, lambda: 0.5, "m", "p", cache_is_free=free)

    metered = road.metered(usage)

    assert metered is not None
    assert (metered.input_tokens, metered.output_tokens) == counted
    assert road.metered(None) is None
