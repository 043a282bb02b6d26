"""Clients behind the limiter, in virtual time: admit, call, classify, settle, retry, record."""

from __future__ import annotations

import asyncio
import math
from contextlib import aclosing
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from factflow_llm.errors import BreakerOpenError, DeadlineExceededError, ErrorReason, InvalidRequestError
from factflow_llm.protocols import EmbeddingClientProtocol, LLMClientProtocol
from factflow_llm.ratelimit.client import RateLimitedClient, RateLimitedEmbeddingClient
from factflow_llm.ratelimit.config import RateLimitConfig, RetryConfig
from factflow_llm.ratelimit.limiter import AdaptiveRateLimiter
from factflow_llm.ratelimit.road import Road
from factflow_llm.recorder import AttemptRow
from factflow_llm.signals import Axis
from factflow_llm.types import (
    CompletionResponse,
    EmbeddingResponse,
    FinishReason,
    Message,
    StreamChunk,
    TextPart,
    Usage,
)
from tests.support.virtual_loop import run_virtually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

SECRET = "the patient's name"
HELLO = [Message.user(SECRET)]


class _StatusError(Exception):
    """What an SDK raises, as far as the classifier needs it."""

    def __init__(self, status: int, code: str | None = None, **headers: str) -> None:
        super().__init__(str(status))
        self.status_code = status
        self.body = {"code": code, "message": ""}
        self.response = SimpleNamespace(
            status_code=status, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )


class _Chat:
    """A chat client that plays a script: an exception is raised, anything else is an answer after ``takes_s``."""

    provider = "openai"
    model = "gpt-test"

    def __init__(self, *script: BaseException | None, takes_s: float = 1.0) -> None:
        self.script = list(script)
        self.takes_s = takes_s
        self.sent: list[tuple[float, dict[str, Any]]] = []
        self.closed = 0

    def _next(self, asked: dict[str, Any]) -> BaseException | None:
        self.sent.append((asyncio.get_running_loop().time(), asked))
        return self.script.pop(0) if self.script else None

    @property
    def times(self) -> list[float]:
        return [when for when, _ in self.sent]

    async def complete(self, messages: Sequence[Message], **asked: Any) -> CompletionResponse:
        error = self._next({"messages": messages, **asked})
        await asyncio.sleep(self.takes_s)
        if error is not None:
            raise error
        headers = {"x-request-id": "r", "x-ratelimit-remaining-requests": "59"}
        return CompletionResponse("yes", self.model, Usage(10, 5), FinishReason.STOP, headers=headers)

    async def stream(self, messages: Sequence[Message], **asked: Any) -> AsyncIterator[StreamChunk]:
        error = self._next({"messages": messages, **asked})
        await asyncio.sleep(self.takes_s)
        if error is not None and not isinstance(error, _MidStreamError):
            raise error
        for word in ("a", "b"):
            yield StreamChunk(word)
            await asyncio.sleep(self.takes_s)
        if error is not None:
            raise error
        yield StreamChunk(usage=Usage(10, 2), finish_reason=FinishReason.STOP)

    async def aclose(self) -> None:
        self.closed += 1


class _MidStreamError(_StatusError):
    """Raised after two chunks."""


class _Rows(list[AttemptRow]):
    def record(self, row: AttemptRow, /) -> None:
        self.append(row)


def _wrap(client: _Chat, config: RateLimitConfig | None = None, **options: Any) -> RateLimitedClient:
    options = {"jitter": lambda: 0.5, "count_tokens": len} | options
    return RateLimitedClient(client, AdaptiveRateLimiter(config or RateLimitConfig()), **options)


def _idle(limited: Any) -> bool:
    metrics = limited.limiter.metrics
    return metrics.in_flight == 0 and metrics.queued == 0


async def _collect(stream: AsyncIterator[StreamChunk], into: list[str]) -> None:
    async for chunk in stream:
        into.append(chunk.text)  # noqa: PERF401 - what came before an error counts


# --- calling ---------------------------------------------------------------------------------------------------------


def test_limited_clients_are_clients() -> None:
    """What wraps a client satisfies the same protocol."""
    assert isinstance(_wrap(_Chat()), LLMClientProtocol)
    assert isinstance(RateLimitedEmbeddingClient(_Embedder(), None), EmbeddingClientProtocol)


def test_a_call_goes_through_unchanged() -> None:
    """Arguments reach the client inside, our own (priority, deadline) do not; the answer comes back as it was."""

    async def main() -> None:
        client = _Chat()
        limited = _wrap(client)
        answer = await limited.complete(HELLO, max_tokens=7, temperature=0.1, priority=3, deadline_s=9.0, seed=5)
        assert (answer.text, answer.usage) == ("yes", Usage(10, 5))
        asked = client.sent[0][1]
        assert {name: asked[name] for name in ("max_tokens", "temperature", "seed")} == {
            "max_tokens": 7,
            "temperature": 0.1,
            "seed": 5,
        }
        assert not {"priority", "deadline_s"} & set(asked)
        assert limited.limiter is not None
        assert limited.limiter.metrics.succeeded == 1

    run_virtually(main())


def test_input_tokens_are_counted_from_all_texts() -> None:
    """Every text of every message counts; pictures do not."""
    rows = _Rows()

    async def main() -> None:
        limited = _wrap(_Chat(_StatusError(400)), recorder=rows)
        with pytest.raises(_StatusError):
            await limited.complete([Message.system("123"), Message.user([TextPart("45"), TextPart("6789")])])

    run_virtually(main())
    assert rows[0].input_tokens == 9


def test_closing_closes_the_client_inside() -> None:
    """``aclose`` is handed on."""
    client = _Chat()
    run_virtually(_wrap(client).aclose())
    assert client.closed == 1


def test_repr_shows_state_and_no_content() -> None:
    """One sees client and limiter, and nothing of what was said."""

    async def main() -> None:
        limited = _wrap(_Chat())
        await limited.complete(HELLO)
        assert "RateLimitedClient" in repr(limited)
        assert "in flight" in repr(limited)
        assert SECRET not in repr(limited)

    run_virtually(main())


# --- retrying --------------------------------------------------------------------------------------------------------


def test_what_is_worth_it_is_tried_again() -> None:
    """A 503, a dropped connection and a 429 are followed by another attempt; each is admitted anew."""

    async def main() -> None:
        client = _Chat(_StatusError(503), ConnectionResetError(), _StatusError(429))
        limited = _wrap(client)
        assert (await limited.complete(HELLO)).text == "yes"
        assert len(client.sent) == 4
        assert _idle(limited)

    run_virtually(main())


@pytest.mark.parametrize("error", [_StatusError(400), _StatusError(401), _StatusError(404), ValueError("local")])
def test_what_is_terminal_is_not(error: Exception) -> None:
    """An error that repetition cannot cure reaches the caller unchanged, at once."""

    async def main() -> None:
        client = _Chat(error)
        limited = _wrap(client)
        with pytest.raises(type(error)) as caught:
            await limited.complete(HELLO)
        assert caught.value is error
        assert client.times == [0.0]
        assert _idle(limited)

    run_virtually(main())


def test_attempts_run_out() -> None:
    """After the last attempt allowed, the provider's own last error is raised."""

    async def main() -> None:
        errors = [_StatusError(503) for _ in range(10)]
        client = _Chat(*errors)
        with pytest.raises(_StatusError) as caught:
            await _wrap(client, RateLimitConfig(retry=RetryConfig(max_attempts=3))).complete(HELLO)
        assert caught.value is errors[2]
        assert len(client.sent) == 3

    run_virtually(main())


def test_waits_between_attempts_have_full_jitter() -> None:
    """With draws of one half, waits are half the doubling bound."""

    async def main() -> None:
        client = _Chat(*(_StatusError(503) for _ in range(3)), takes_s=0.0)
        await _wrap(client, retry=RetryConfig(backoff_base_s=2.0)).complete(HELLO)
        assert client.times == pytest.approx([0.0, 1.0, 3.0, 7.0])

    run_virtually(main())


@pytest.mark.parametrize(("said", "waited"), [("9", 9.0), ("86400", 20.0), ("0", 0.25)])
def test_retry_after_is_a_floor_and_is_clamped(said: str, waited: float) -> None:
    """The provider's wish is obeyed, but not for hours."""

    async def main() -> None:
        client = _Chat(_StatusError(503, retry_after=said), takes_s=0.0)
        await _wrap(client, retry=RetryConfig(retry_after_cap_s=20.0)).complete(HELLO)
        assert client.times[1] == pytest.approx(waited)

    run_virtually(main())


def test_the_deadline_covers_waiting_and_retries() -> None:
    """A wait that would outlast the deadline is not begun; the provider's error is raised instead."""

    async def main() -> None:
        client = _Chat(*(_StatusError(503, retry_after="4") for _ in range(9)))
        loop = asyncio.get_running_loop()
        with pytest.raises(_StatusError):
            await _wrap(client).complete(HELLO, deadline_s=10.0)
        assert len(client.sent) == 2
        assert loop.time() <= 10.0

    run_virtually(main())


def test_the_settings_deadline_holds_where_the_call_names_none() -> None:
    """``retry.deadline_s`` bounds every call; a call's own deadline goes before it."""

    async def main() -> None:
        limited = _wrap(
            _Chat(takes_s=100.0),
            RateLimitConfig(max_concurrency=1, initial_concurrency=1, retry=RetryConfig(deadline_s=5.0)),
        )
        busy = asyncio.ensure_future(limited.complete(HELLO, deadline_s=200.0))
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        with pytest.raises(DeadlineExceededError):
            await limited.complete(HELLO)
        assert loop.time() == 5.0
        with pytest.raises(DeadlineExceededError):
            await limited.complete(HELLO, deadline_s=2.0)
        assert loop.time() == 7.0
        await busy

    run_virtually(main())


@pytest.mark.parametrize(
    ("turn", "told"),
    [
        ({"priority": "high"}, "priority='high' must be a whole number"),
        ({"priority": 0.5}, "priority=0.5 must be a whole number"),
        ({"deadline_s": "5"}, "deadline_s='5' must be a number of seconds"),
        ({"deadline_s": math.nan}, "deadline_s=nan must be a number of seconds"),
    ],
)
def test_a_place_in_line_that_cannot_be_meant_is_refused(turn: dict[str, Any], told: str) -> None:
    """A priority or a deadline that is none would confuse the line for everybody; nothing is admitted or sent."""

    async def main() -> None:
        client = _Chat()
        limited = _wrap(client)
        with pytest.raises(InvalidRequestError, match=told):
            await limited.complete(HELLO, **turn)
        with pytest.raises(InvalidRequestError, match=told):
            await anext(limited.stream(HELLO, **turn))
        assert client.sent == []

    run_virtually(main())


def test_an_exhausted_quota_is_not_retried() -> None:
    """No money left is terminal; the next call is not even sent."""

    async def main() -> None:
        client = _Chat(_StatusError(429, "insufficient_quota"))
        limited = _wrap(client)
        with pytest.raises(_StatusError):
            await limited.complete(HELLO)
        with pytest.raises(BreakerOpenError):
            await limited.complete(HELLO)
        assert len(client.sent) == 1

    run_virtually(main())


def test_a_retry_keeps_its_place_in_line() -> None:
    """A call that was refused goes before those that came after it."""

    async def main() -> None:
        client = _Chat(_StatusError(503), takes_s=1.0)
        limited = _wrap(client, RateLimitConfig(initial_concurrency=1, max_concurrency=1), jitter=lambda: 0.0)
        order: list[str] = []

        async def call(name: str) -> None:
            await limited.complete([Message.user(name)])
            order.append(name)

        await asyncio.gather(*(call(name) for name in ("first", "second", "third")))
        assert order.index("first") <= 1
        assert order[-1] == "third"

    run_virtually(main())


def test_a_cancelled_call_leaves_nothing() -> None:
    """Cancelled while waiting, while sending, and between attempts: the limiter is empty each time."""

    async def main() -> None:
        for moment in (0.5, 1.2, 3.0):
            limited = _wrap(_Chat(_StatusError(503)), RateLimitConfig(initial_concurrency=1), jitter=lambda: 0.99)
            tasks = [asyncio.ensure_future(limited.complete(HELLO)) for _ in range(3)]
            await asyncio.sleep(moment)
            for task in tasks:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert any(isinstance(one, asyncio.CancelledError) for one in done)
            assert _idle(limited)

    run_virtually(main())


def test_without_a_limiter_only_retries() -> None:
    """``rate_limit = false`` leaves classification and retries in place."""
    rows = _Rows()

    async def main() -> None:
        client = _Chat(_StatusError(429), takes_s=0.0)
        limited = RateLimitedClient(client, None, recorder=rows, jitter=lambda: 0.5, count_tokens=len)
        assert (await limited.complete(HELLO)).text == "yes"
        assert client.times == [0.0, 0.25]

    run_virtually(main())
    assert [row.outcome for row in rows] == ["rate_limited", "ok"]


# --- streaming -------------------------------------------------------------------------------------------------------


def test_a_stream_is_handed_on_and_holds_its_permit() -> None:
    """Chunks come as they come; the permit is held to the end and usage reaches the limiter."""

    async def main() -> None:
        limited = _wrap(_Chat())
        assert limited.limiter is not None
        seen = []
        async for chunk in limited.stream(HELLO):
            seen.append(chunk.text)
            assert limited.limiter.metrics.in_flight == 1
        assert seen == ["a", "b", ""]
        assert limited.limiter.metrics.succeeded == 1
        assert _idle(limited)

    run_virtually(main())


def test_a_stream_is_retried_before_its_first_chunk() -> None:
    """A stream that fails before it said anything is begun anew, and nobody notices."""

    async def main() -> None:
        client, seen = _Chat(_StatusError(503), _StatusError(429)), []
        limited = _wrap(client)
        await _collect(limited.stream(HELLO), seen)
        assert seen == ["a", "b", ""]
        assert len(client.sent) == 3
        assert _idle(limited)

    run_virtually(main())


def test_a_stream_is_not_retried_after_its_first_chunk() -> None:
    """A stream that breaks half way raises: the caller has half of it, and a repetition would say it twice."""

    async def main() -> None:
        client, seen = _Chat(_MidStreamError(503)), []
        limited = _wrap(client)
        with pytest.raises(_MidStreamError):
            await _collect(limited.stream(HELLO), seen)
        assert seen == ["a", "b"]
        assert len(client.sent) == 1
        assert _idle(limited)

    run_virtually(main())


def test_a_stream_left_early_returns_its_permit() -> None:
    """Who breaks off has got what they wanted: the permit is back, and nothing was learned."""

    async def main() -> None:
        limited = _wrap(_Chat())
        assert limited.limiter is not None
        async with aclosing(limited.stream(HELLO)) as stream:  # type: ignore[type-var]
            async for _ in stream:
                break
        assert _idle(limited)
        assert limited.limiter.metrics.ignored == 1

    run_virtually(main())


def test_a_stream_never_begun_takes_nothing() -> None:
    """A stream that nobody iterates asks neither limiter nor provider."""

    async def main() -> None:
        client = _Chat()
        limited = _wrap(client)
        async with aclosing(limited.stream(HELLO)):  # type: ignore[type-var]
            pass
        assert client.sent == []
        assert _idle(limited)

    run_virtually(main())


# --- recording -------------------------------------------------------------------------------------------------------


def test_one_row_per_attempt() -> None:
    """Rows tell when, how and why each attempt ended, and hold nothing that was said."""
    rows = _Rows()

    async def main() -> None:
        shown = {"x_ratelimit_limit_requests": "60", "x_ratelimit_remaining_requests": "0"}
        client = _Chat(_StatusError(429, retry_after="3", **shown), takes_s=2.0)
        await _wrap(client, RateLimitConfig(requests_per_minute=600), recorder=rows).complete(HELLO, max_tokens=50)

    run_virtually(main())
    refused, answered = rows
    assert refused.call_id == answered.call_id
    assert (refused.attempt, answered.attempt) == (0, 1)
    assert (refused.arrival_s, refused.admitted_s, refused.end_s) == (0.0, 0.0, 2.0)
    assert (refused.outcome, refused.status, refused.retry_after_s) == ("rate_limited", 429, 3.0)
    assert (refused.axis, answered.axis) == (Axis.REQUESTS, None)
    assert refused.headers is not None
    assert refused.headers["x-ratelimit-limit-requests"] == "60"
    assert refused.limits[0].limit == 60.0
    assert answered.headers is not None
    assert answered.headers["x-ratelimit-remaining-requests"] == "59"
    assert answered.limits[0].remaining == 59.0
    assert refused.output_tokens is None
    assert answered.arrival_s == 0.0
    assert answered.admitted_s is not None
    assert answered.admitted_s >= 5.0
    assert (answered.outcome, answered.input_tokens, answered.output_tokens) == ("ok", 10, 5)
    assert (answered.max_tokens, answered.model, answered.provider) == (50, "gpt-test", "openai")
    assert answered.reason == "cool_off"
    assert (refused.in_flight, refused.queue_depth) == (1, 0)
    assert SECRET not in repr(rows)


def test_a_refusal_of_our_own_is_a_row() -> None:
    """A call that was never sent says so: no admission, no status, and why."""
    rows = _Rows()

    async def main() -> None:
        limited = _wrap(_Chat(takes_s=9.0), RateLimitConfig(initial_concurrency=1), recorder=rows)
        busy = asyncio.ensure_future(limited.complete(HELLO))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceededError):
            await limited.complete(HELLO, deadline_s=1.0)
        await busy

    run_virtually(main())
    refused = rows[0]
    assert (refused.outcome, refused.error, refused.status) == ("rejected_local", "deadline", None)
    assert (refused.admitted_s, refused.sent_s, refused.end_s) == (None, None, 1.0)


def test_a_cancelled_attempt_is_a_row() -> None:
    """Who gives up in mid-air leaves a row without status or output."""
    rows = _Rows()

    async def main() -> None:
        task = asyncio.ensure_future(_wrap(_Chat(takes_s=9.0), recorder=rows).complete(HELLO))
        await asyncio.sleep(1.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run_virtually(main())
    assert [(row.outcome, row.status, row.output_tokens, row.end_s) for row in rows] == [("cancelled", None, None, 1.0)]


def test_a_stream_records_its_first_chunk() -> None:
    """The time to the first chunk is in the row, and belongs to the attempt that had one."""
    rows = _Rows()

    async def main() -> None:
        await _collect(_wrap(_Chat(_StatusError(503), takes_s=2.0), recorder=rows).stream(HELLO), [])

    run_virtually(main())
    failed, streamed = rows
    assert failed.first_chunk_s is None
    assert streamed.sent_s is not None
    assert streamed.first_chunk_s == streamed.sent_s + 2.0
    assert (streamed.input_tokens, streamed.output_tokens) == (10, 2)


# --- embedding -------------------------------------------------------------------------------------------------------


class _Embedder:
    """Another package's client: it cannot split."""

    provider = "elsewhere"
    model = "vectors"

    def __init__(self, fail: Callable[[Sequence[str]], Exception | None] = lambda texts: None) -> None:
        self.fail = fail
        self.batches: list[tuple[float, list[str]]] = []
        self.flying = self.most = 0

    async def _embed(self, texts: Sequence[str]) -> EmbeddingResponse:
        self.batches.append((asyncio.get_running_loop().time(), list(texts)))
        self.flying += 1
        self.most = max(self.most, self.flying)
        await asyncio.sleep(1.0)
        self.flying -= 1
        if (error := self.fail(texts)) is not None:
            raise error
        return EmbeddingResponse(tuple((float(text),) for text in texts), self.model, Usage(len(texts), 0))

    async def embed(self, texts: Sequence[str], *, dimensions: int | None = None) -> EmbeddingResponse:
        return await self._embed(texts)

    async def aclose(self) -> None:
        pass


class _Splitter(_Embedder):
    """Ours: it splits by three."""

    def split(self, texts: Sequence[str]) -> list[slice]:
        return [slice(start, min(start + 3, len(texts))) for start in range(0, len(texts), 3)]

    async def embed_batch(self, texts: Sequence[str], *, dimensions: int | None = None) -> EmbeddingResponse:
        return await self._embed(texts)


def _embedding(client: _Embedder, **settings: Any) -> RateLimitedEmbeddingClient:
    return RateLimitedEmbeddingClient(
        client, AdaptiveRateLimiter(RateLimitConfig(**settings)), jitter=lambda: 0.5, count_tokens=len
    )


def _run(main: Callable[[], Awaitable[None]]) -> None:
    async def wrapped() -> None:
        await main()

    run_virtually(wrapped())


def test_batches_run_together_and_come_back_in_order() -> None:
    """Ten texts are four batches in flight at once; vectors and tokens come back as if it had been one."""

    async def main() -> None:
        client = _Splitter()
        answer = await _embedding(client).embed([str(number) for number in range(10)])
        assert answer.vectors == tuple((float(number),) for number in range(10))
        assert answer.usage.input_tokens == 10
        assert client.most == 4

    _run(main)


def test_every_batch_has_its_own_permit() -> None:
    """With two slots, no more than two batches fly."""

    async def main() -> None:
        client = _Splitter()
        limited = _embedding(client, initial_concurrency=2, max_concurrency=2)
        await limited.embed([str(number) for number in range(15)])
        assert client.most == 2
        assert limited.limiter is not None
        assert limited.limiter.metrics.succeeded == 5

    _run(main)


def test_only_the_failed_batch_is_sent_again() -> None:
    """A refused batch is tried again; the others are not bothered."""

    async def main() -> None:
        refusals = [_StatusError(503)]
        client = _Splitter(lambda texts: refusals.pop() if refusals and "4" in texts else None)
        answer = await _embedding(client).embed([str(number) for number in range(9)])
        assert len(answer.vectors) == 9
        sent = [texts for _, texts in client.batches]
        assert sent.count(["3", "4", "5"]) == 2
        assert len(sent) == 4

    _run(main)


def test_a_hopeless_batch_cancels_the_rest() -> None:
    """The first terminal error propagates as it was, and nothing stays behind."""

    async def main() -> None:
        error = _StatusError(401)
        limited = _embedding(
            _Splitter(lambda texts: error if "0" in texts else None), initial_concurrency=1, max_concurrency=1
        )
        with pytest.raises(_StatusError) as caught:
            await limited.embed([str(number) for number in range(9)])
        assert caught.value is error
        assert _idle(limited)

    _run(main)


def test_another_packages_client_is_called_once() -> None:
    """A client that cannot split gets all texts under one permit."""

    async def main() -> None:
        client = _Embedder()
        limited = _embedding(client)
        assert len((await limited.embed(["1", "2"])).vectors) == 2
        assert len(client.batches) == 1
        assert limited.limiter is not None
        assert limited.limiter.metrics.succeeded == 1

    _run(main)


def test_no_texts_ask_nothing_of_the_limiter() -> None:
    """Nothing in, nothing out, no permit."""

    async def main() -> None:
        limited = _embedding(_Splitter())
        assert (await limited.embed([])).vectors == ()
        assert limited.limiter is not None
        assert limited.limiter.metrics.succeeded == 0

    _run(main)


def test_a_provider_that_is_not_there_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """A closed port is no silence: the first failed connection is logged, and again after there was an answer."""
    road = Road(None, RetryConfig(), None, lambda: 0.5, model="m", provider="openai", origin="openai api.test")
    for _ in range(3):
        road.heard(ErrorReason.CONNECTION, 1.5)
    road.heard(None, None)
    road.heard(ErrorReason.CONNECTION, None)  # nothing is tried again, so the error itself tells
    assert len(caplog.messages) == 1
    assert "openai api.test cannot be reached for m: is its address right, and does it run?" in caplog.text
    road.heard(ErrorReason.RATE_LIMIT, 1.0)
    road.heard(ErrorReason.CONNECTION, 1.5)
    assert len(caplog.messages) == 2
