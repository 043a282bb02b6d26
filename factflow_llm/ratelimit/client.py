"""Clients behind the limiter, in the shape of the clients inside; how often a call is sent is ``attempts.py``'s."""

from __future__ import annotations

import asyncio
import random
import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from factflow_llm.clients.base import BaseLLMClient
from factflow_llm.clients.checks import check_event_loop, check_max_tokens, check_messages, check_tools, check_turn
from factflow_llm.clients.pending import PendingClient
from factflow_llm.clients.stream import ChatStream
from factflow_llm.clients.timing import TimeBound
from factflow_llm.errors import DeadlineExceededError
from factflow_llm.protocols import EmbeddingClientProtocol, LLMClientProtocol
from factflow_llm.providers import PROVIDERS
from factflow_llm.ratelimit.attempts import Attempts
from factflow_llm.ratelimit.config import RetryConfig
from factflow_llm.ratelimit.road import Road
from factflow_llm.sizes import count_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from factflow_llm.prices import Prices
    from factflow_llm.ratelimit.limiter import AdaptiveRateLimiter
    from factflow_llm.recorder import AttemptSink
    from factflow_llm.telemetry import Telemetry
    from factflow_llm.types import CompletionResponse, EmbeddingResponse, Message, StreamChunk, Tool, Usage

ClientT = TypeVar("ClientT", bound=LLMClientProtocol | EmbeddingClientProtocol)


class _Limited(Generic[ClientT]):
    """What both limited clients share: the loop of attempts."""

    def __init__(
        self,
        client: ClientT,
        limiter: AdaptiveRateLimiter | None,
        *,
        retry: RetryConfig | None = None,
        recorder: AttemptSink | None = None,
        jitter: Callable[[], float] = random.random,
        count_tokens: Callable[[str], int] | None = None,
        prices: Prices | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        """Wrap ``client``.

        Args:
            client: any client of the protocol.
            limiter: the limiter of its quota; ``None`` retries without one.
            retry: how failed calls are tried again; by default as the limiter's settings say.
            recorder: gets one row per physical attempt.
            jitter: uniform draws in [0, 1) for the backoff.
            count_tokens: counts a text's tokens for the budgets; by default a calibrated estimate for the model.
            prices: what calls cost; by default as listed for the model and its host.
            telemetry: told of each call and attempt.
        """
        self.client = client
        self.limiter = limiter
        self._model = str(getattr(client, "model", ""))
        provider = str(getattr(client, "provider", ""))
        self._road = Road(
            limiter,
            retry or (limiter.config.retry if limiter is not None else RetryConfig()),
            recorder,
            jitter,
            self._model,
            provider,
            telemetry,
            cache_is_free=any(name == provider and entry.cache_is_free for name, entry in PROVIDERS.items()),
            prices=prices,
            origin=str(getattr(client, "origin", "")),
        )
        if count_tokens is None:
            from factflow_llm.tokens import estimate_tokens

            count_tokens = partial(estimate_tokens, model=self._model)
        self._count_tokens = count_tokens

    @property
    def retry(self) -> RetryConfig:
        """How failed calls are tried again; may be set anew, for the attempts to come."""
        return self._road.retry

    @retry.setter
    def retry(self, retry: RetryConfig) -> None:
        self._road.retry = retry

    @property
    def prices(self) -> Prices | None:
        """What calls cost by the profile; ``None`` leaves it to the lists."""
        return self._road.prices

    def cost_usd(self, usage: Usage) -> float | None:
        """Return what a call of that usage costs, in US dollars; ``None`` where it is unknown."""
        return self._road.cost_usd(usage)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.client!r}, {self.limiter!r}>"

    async def aclose(self) -> None:
        """Close the client inside; calls that wait end with a ``ClosedError``; a second call does nothing."""
        self._road.closed = True
        self._road.wake()
        await self.client.aclose()

    @property
    def calls(self) -> int:
        """Calls under way: waiting, answered, or pausing between attempts."""
        return len(self._road.calls)

    async def drain(self, *, refuse_waiting: bool) -> None:
        """Begin no call any more, and wait until those under way are over.

        Args:
            refuse_waiting: calls that wait for a turn or between attempts end at once, with a ``ClosedError``.
        """
        self._road.closed = True
        if refuse_waiting:
            self._road.wake()
        await self._road.over()

    async def ready(self) -> None:
        """Wait until the client inside is made, should its SDK have to be imported yet.

        Raises:
            ConfigurationError: the client refuses a setting.
        """
        client: Any = self.client
        if isinstance(client, PendingClient):
            self.client = made = await client.made()
            self._road.origin = str(getattr(made, "origin", ""))

    async def _time_left_s(self, deadline_s: float | None) -> float | None:
        """Make the client inside ready, within the call's deadline; return what is left of that."""
        check_event_loop()
        client: Any = self.client
        if not isinstance(client, PendingClient):
            return deadline_s
        check_turn(0, deadline_s)
        within_s = self.retry.deadline_s if deadline_s is None else deadline_s
        if within_s is None:
            await self.ready()
            return None
        loop = asyncio.get_running_loop()
        by_s = loop.time() + within_s
        bound = TimeBound(
            by_s=by_s, expired=lambda: DeadlineExceededError(f"no client within {within_s:g} s: warm() it")
        )
        try:
            await bound.wait(self.ready())
        finally:
            bound.close()
        return by_s - loop.time()

    def begin(
        self,
        operation: str,
        input_tokens: int | None,
        max_tokens: int | None,
        priority: int = 0,
        deadline_s: float | None = None,
    ) -> Attempts:
        """Begin a call that somebody else sends; its attempts are admitted, settled, recorded and repeated as ours."""
        check_max_tokens(max_tokens)
        check_turn(priority, deadline_s)
        return Attempts(
            self._road,
            operation,
            input_tokens=input_tokens,
            max_tokens=max_tokens,
            priority=priority,
            deadline_s=deadline_s,
        )


class RateLimitedClient(_Limited[LLMClientProtocol]):
    """A chat client whose every attempt passes the limiter."""

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: Sequence[str] | None = None,
        tools: Sequence[Tool | Mapping[str, Any]] | None = None,
        response_format: Any = None,
        priority: int = 0,
        deadline_s: float | None = None,
        **provider_options: Any,
    ) -> CompletionResponse:
        """Return the whole answer, after as many attempts as the retry settings allow.

        Args:
            messages: the conversation.
            max_tokens: bound on the answer.
            temperature: as the provider has it.
            stop: texts that end the answer.
            tools: functions the model may call.
            response_format: a JSON schema or a pydantic model.
            priority: higher goes first.
            deadline_s: seconds from now by which the call is over, wherever it is: waiting, retrying, answering,
                streaming.
            **provider_options: handed on to the SDK.

        Raises:
            DeadlineExceededError: not over in time.
            BreakerOpenError: the quota is exhausted.
            Exception: the SDK's own, unchanged, when it is terminal or attempts have run out.
        """
        deadline_s = await self._time_left_s(deadline_s)
        send, _ = self._ways(
            messages,
            max_tokens=max_tokens,
            temperature=temperature,
            stop=stop,
            tools=tools,
            response_format=response_format,
            **provider_options,
        )
        input_tokens = self.count(messages, tools=tools, response_format=response_format)
        bound = _bound(max_tokens, provider_options.get("n"))
        call = self.begin("chat", input_tokens, bound, priority, deadline_s)
        while True:
            async with call:
                response = call.answered(await call.within(send()))
                return response if self.prices is None else replace(response, prices=self.prices)

    def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: Sequence[str] | None = None,
        tools: Sequence[Tool | Mapping[str, Any]] | None = None,
        response_format: Any = None,
        priority: int = 0,
        deadline_s: float | None = None,
        **provider_options: Any,
    ) -> ChatStream:
        """Give the answer piece by piece; a failed attempt is repeated only while nothing has been handed on.

        Arguments and errors as for ``complete``. The permit is held until the stream ends. Iterated to its end, the
        stream has the whole answer as ``stream.response``.
        """
        asked = {
            "max_tokens": max_tokens,
            "temperature": temperature,
            "stop": stop,
            "tools": tools,
            "response_format": response_format,
            **provider_options,
        }
        return ChatStream(self._chunks(messages, priority, deadline_s, asked, _caller()), form=response_format)

    async def _chunks(
        self, messages: Sequence[Message], priority: int, deadline_s: float | None, asked: dict[str, Any], made_at: str
    ) -> AsyncIterator[StreamChunk]:
        deadline_s = await self._time_left_s(deadline_s)
        _, start = self._ways(messages, **asked)
        read = {name: asked[name] for name in ("tools", "response_format")}
        bound = _bound(asked["max_tokens"], asked.get("n"))
        call = self.begin("chat", self.count(messages, **read), bound, priority, deadline_s)
        call.made_at = made_at
        while True:
            async with call:
                chunks = start()
                try:
                    while (chunk := await call.within(anext(chunks, None))) is not None:
                        call.begun(chunk.usage, chunk.headers)
                        last = chunk.usage is not None and self.prices is not None
                        yield replace(chunk, prices=self.prices) if last else chunk
                    return
                finally:
                    if (close := getattr(chunks, "aclose", None)) is not None:
                        await close()

    def count(self, messages: Sequence[Message], *, tools: Any = None, response_format: Any = None) -> int | None:
        """Return the estimated tokens of a request; ``None`` when unknown."""
        return count_request(self._count_tokens, messages, tools=tools, response_format=response_format)

    def _ways(
        self, messages: Sequence[Message], **arguments: Any
    ) -> tuple[Callable[[], Awaitable[CompletionResponse]], Callable[[], AsyncIterator[StreamChunk]]]:
        """Return what sends the request once, whole and streamed; a client of ours checks and words it only here."""
        client = self.client
        if isinstance(client, BaseLLMClient):
            request = client.prepare(messages, **arguments)
            return partial(client.send, request), partial(client.start, request)
        check_messages(messages)
        check_tools(arguments["tools"])
        return partial(client.complete, messages, **arguments), partial(client.stream, messages, **arguments)


class RateLimitedEmbeddingClient(_Limited[EmbeddingClientProtocol]):
    """An embedding client whose every batch passes the limiter."""

    async def embed(
        self,
        texts: Sequence[str],
        *,
        dimensions: int | None = None,
        priority: int = 0,
        deadline_s: float | None = None,
    ) -> EmbeddingResponse:
        """Return one vector per text, in order; batches run together, each under its own permit.

        A client that cannot ``split`` (another package's) is called once, under one permit.

        Args:
            texts: any number of texts.
            dimensions: length of the vectors, where the model can shorten them.
            priority: higher goes first.
            deadline_s: seconds from now by which the call is over, wherever it is: waiting, retrying, answering, and
                with all its batches.

        Raises:
            DeadlineExceededError: not over in time.
            PartialEmbeddingError: some batches failed for good; carries the vectors of the others.
        """
        deadline_s = await self._time_left_s(deadline_s)
        split = getattr(self.client, "split", None)
        if split is None:
            return await self.embed_batch(texts, dimensions=dimensions, priority=priority, deadline_s=deadline_s)

        from factflow_llm.clients.batches import embed_batches, too_much_at_once

        loop = asyncio.get_running_loop()
        check_turn(priority, deadline_s)
        within_s = self.retry.deadline_s if deadline_s is None else deadline_s
        by_s = None if within_s is None else loop.time() + within_s

        async def send(batch: Sequence[str]) -> EmbeddingResponse:
            left_s = None if by_s is None else by_s - loop.time()
            return await self.embed_batch(batch, dimensions=dimensions, priority=priority, deadline_s=left_s)

        batches = split(texts)
        if not batches:
            return await self.client.embed(texts, dimensions=dimensions)
        return await embed_batches(texts, batches, send, getattr(self.client, "mend_batch", too_much_at_once))

    async def embed_batch(
        self,
        texts: Sequence[str],
        *,
        dimensions: int | None = None,
        priority: int = 0,
        deadline_s: float | None = None,
    ) -> EmbeddingResponse:
        """Return the vectors of one batch that fits the provider's limits, under one permit; as ``embed``."""
        client: Any = self.client
        send = getattr(client, "embed_batch", client.embed)
        call = self.begin("embeddings", self.count(texts), None, priority, deadline_s)
        while True:
            async with call:
                response: EmbeddingResponse = call.answered(await call.within(send(texts, dimensions=dimensions)))
                return response

    def count(self, texts: Sequence[str]) -> int:
        """Return the estimated tokens of some texts."""
        return sum(map(self._count_tokens, texts))


def _bound(max_tokens: Any, answers: Any) -> Any:
    """Return the bound on all answers together; what is no number is for others to refuse."""
    several = isinstance(max_tokens, int) and isinstance(answers, int) and answers > 1
    return max_tokens * answers if several else max_tokens


def _caller() -> str:
    """Name the file and line outside this package that called, for whoever has to find it again."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("factflow_llm."):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
