"""Clients behind the limiter: admit, call, classify, settle, retry. They satisfy the protocols of the clients inside.

One call is one ticket, whatever number of attempts it takes; every attempt is admitted anew. Nobody else retries.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Mapping
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from factflow_llm.clients.checks import check_max_tokens, check_messages, check_turn
from factflow_llm.errors import ErrorMetadata, LLMErrorClassification, get_error_metadata
from factflow_llm.headers import parse_limits
from factflow_llm.protocols import EmbeddingClientProtocol, LLMClientProtocol
from factflow_llm.ratelimit.backoff import retry_delay_s
from factflow_llm.ratelimit.config import RetryConfig
from factflow_llm.ratelimit.limiter import AdaptiveRateLimiter, CallTicket, Permit
from factflow_llm.ratelimit.line import NEVER
from factflow_llm.recorder import AttemptRow, AttemptSink, RowOutcome
from factflow_llm.types import CompletionResponse, EmbeddingResponse, Message, StreamChunk, TextPart, Tool, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

ClientT = TypeVar("ClientT", bound=LLMClientProtocol | EmbeddingClientProtocol)
ResponseT = TypeVar("ResponseT", CompletionResponse, EmbeddingResponse)

_call_ids = itertools.count()


class _Call:
    """One call on its way: its ticket, its attempts so far, and what a recorder wants to know of it."""

    __slots__ = ("arrival_s", "attempt", "call_id", "deadline_s", "first_chunk_s", "max_tokens", "operation", "ticket")

    def __init__(self, operation: str, ticket: CallTicket, arrival_s: float, max_tokens: int | None) -> None:
        self.call_id = next(_call_ids)
        self.operation = operation
        self.ticket = ticket
        self.arrival_s = arrival_s
        self.max_tokens = max_tokens
        self.attempt = 0
        self.first_chunk_s: float | None = None


class _Admission(NamedTuple):
    """The limiter's state at an attempt's admission."""

    admitted_s: float
    limit: float
    in_flight: int
    queued: int
    reason: str


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
    ) -> None:
        """Wrap ``client``.

        Args:
            client: any client of the protocol.
            limiter: the limiter of its quota; ``None`` retries without one.
            retry: how failed calls are tried again; by default as the limiter's settings say.
            recorder: gets one row per physical attempt.
            jitter: uniform draws in [0, 1) for the backoff.
            count_tokens: counts a text's tokens for the budgets; by default a calibrated estimate for the model.
        """
        self.client = client
        self.limiter = limiter
        self.retry = retry or (limiter.config.retry if limiter is not None else RetryConfig())
        self._recorder = recorder
        self._jitter = jitter
        self._model = str(getattr(client, "model", ""))
        self._provider = str(getattr(client, "provider", ""))
        if count_tokens is None:
            from factflow_llm.tokens import estimate_tokens

            count_tokens = partial(estimate_tokens, model=self._model)
        self._count_tokens = count_tokens

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.client!r}, {self.limiter!r}>"

    async def aclose(self) -> None:
        """Close the client inside; a second call does nothing."""
        await self.client.aclose()

    def _begin(
        self,
        operation: str,
        input_tokens: int | None,
        max_tokens: int | None,
        priority: int,
        deadline_s: float | None,
    ) -> _Call:
        check_max_tokens(max_tokens)
        check_turn(priority, deadline_s)
        now = asyncio.get_running_loop().time()
        within_s = self.retry.deadline_s if deadline_s is None else deadline_s
        ticket = CallTicket(
            input_tokens,
            0 if operation == "embeddings" else max_tokens,
            priority=priority,
            deadline_s=NEVER if within_s is None else now + within_s,
        )
        return _Call(operation, ticket, now, max_tokens)

    async def _attempts(self, call: _Call, send: Callable[[], Awaitable[ResponseT]]) -> ResponseT:
        while True:
            permit = await self._admit(call)
            admission = self._admission(call)
            try:
                response = await send()
            except BaseException as error:
                delay_s = self._lost(call, permit, admission, error)
                if delay_s is None:
                    raise
            else:
                self._won(call, permit, admission, response.usage, response.headers)
                return response
            await asyncio.sleep(delay_s)

    async def _admit(self, call: _Call) -> Permit | None:
        call.first_chunk_s = None
        if self.limiter is None:
            return None
        permit = Permit(self.limiter, call.ticket)
        try:
            return await permit.__aenter__()
        except BaseException as error:
            self._record(call, None, error=error, metadata=_metadata(error))
            raise

    def _admission(self, call: _Call) -> _Admission | None:
        if self._recorder is None:
            return None
        if self.limiter is None:
            return _Admission(asyncio.get_running_loop().time(), NEVER, 0, 0, "")
        core, ticket = self.limiter._core, call.ticket
        return _Admission(ticket.granted_s, core.rate, ticket.in_flight, ticket.queued, core.last_reason.value)

    def _won(
        self, call: _Call, permit: Permit | None, admission: _Admission | None, usage: Usage | None, headers: Any
    ) -> None:
        if permit is not None:
            permit.succeeded(usage=usage, headers=headers)
        self._record(call, admission, usage=usage, headers=headers)

    def _lost(
        self, call: _Call, permit: Permit | None, admission: _Admission | None, error: BaseException
    ) -> float | None:
        """Settle a failed attempt; return the seconds to wait before the next, or ``None`` to give up."""
        metadata = _metadata(error)
        if permit is not None and metadata is not None:
            permit.failed(metadata)
        elif permit is not None:
            permit.ignored()
        self._record(call, admission, headers=_response_headers(error), error=error, metadata=metadata)
        if metadata is None or metadata.classification is LLMErrorClassification.TERMINAL:
            return None
        deadline_s = call.ticket.deadline_s
        delay_s = retry_delay_s(
            self.retry,
            attempt=call.attempt,
            jitter=self._jitter(),
            retry_after_s=metadata.retry_after_s,
            remaining_s=None if deadline_s == NEVER else deadline_s - asyncio.get_running_loop().time(),
            worth_attempts=metadata.max_attempts,
        )
        call.attempt += 1
        return delay_s

    def _record(
        self,
        call: _Call,
        admission: _Admission | None,
        *,
        usage: Usage | None = None,
        headers: Any = None,
        error: BaseException | None = None,
        metadata: ErrorMetadata | None = None,
    ) -> None:
        if self._recorder is None:
            return
        self._recorder.record(
            AttemptRow(
                call_id=call.call_id,
                attempt=call.attempt,
                arrival_s=call.arrival_s,
                admitted_s=admission.admitted_s if admission else None,
                sent_s=admission.admitted_s if admission else None,
                first_chunk_s=call.first_chunk_s,
                end_s=asyncio.get_running_loop().time(),
                model=self._model,
                provider=self._provider,
                operation=call.operation,
                input_tokens=usage.input_tokens if usage else call.ticket.input_tokens,
                output_tokens=usage.output_tokens if usage else None,
                max_tokens=call.max_tokens,
                status=metadata.status_code if metadata else 200 if error is None else None,
                error=metadata.reason.value if metadata else None,
                outcome=_row_outcome(admission, error, metadata),
                retry_after_s=metadata.retry_after_s if metadata else None,
                axis=metadata.axis if metadata else None,
                limit=admission.limit if admission else None,
                in_flight=admission.in_flight if admission else None,
                queue_depth=admission.queued if admission else None,
                reason=admission.reason if admission else None,
                headers=headers or {},
                limits=metadata.limits if metadata else parse_limits(headers) if headers else (),
            )
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
        tools: Sequence[Tool] | None = None,
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
            deadline_s: seconds from now by which the call must have been admitted.
            **provider_options: handed on to the SDK.

        Raises:
            DeadlineExceededError: not admitted in time.
            BreakerOpenError: the quota is exhausted.
            Exception: the SDK's own, unchanged, when it is terminal or attempts have run out.
        """
        call = self._begin("chat", self._input_tokens(messages), max_tokens, priority, deadline_s)

        def send() -> Awaitable[CompletionResponse]:
            return self.client.complete(
                messages,
                max_tokens=max_tokens,
                temperature=temperature,
                stop=stop,
                tools=tools,
                response_format=response_format,
                **provider_options,
            )

        return await self._attempts(call, send)

    async def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: Sequence[str] | None = None,
        tools: Sequence[Tool] | None = None,
        response_format: Any = None,
        priority: int = 0,
        deadline_s: float | None = None,
        **provider_options: Any,
    ) -> AsyncIterator[StreamChunk]:
        """Yield the answer piece by piece; a failed attempt is repeated only while nothing has been handed on.

        Arguments and errors as for :meth:`complete`. The permit is held until the stream ends.
        """
        call = self._begin("chat", self._input_tokens(messages), max_tokens, priority, deadline_s)
        while True:
            permit = await self._admit(call)
            admission = self._admission(call)
            usage: Usage | None = None
            headers: Any = None
            try:
                chunks = self.client.stream(
                    messages,
                    max_tokens=max_tokens,
                    temperature=temperature,
                    stop=stop,
                    tools=tools,
                    response_format=response_format,
                    **provider_options,
                )
                async with _closing(chunks):
                    async for chunk in chunks:
                        if call.first_chunk_s is None:
                            call.first_chunk_s = asyncio.get_running_loop().time()
                        usage = chunk.usage or usage
                        headers = chunk.headers or headers
                        yield chunk
            except BaseException as error:
                delay_s = self._lost(call, permit, admission, error)
                if delay_s is None or call.first_chunk_s is not None:
                    raise
            else:
                self._won(call, permit, admission, usage, headers)
                return
            await asyncio.sleep(delay_s)

    def _input_tokens(self, messages: Sequence[Message]) -> int:
        check_messages(messages)
        return self._count_tokens("".join([text for message in messages for text in _texts(message)]))


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

        Raises:
            PartialEmbeddingError: some batches failed for good; carries the vectors of the others.
        """
        split = getattr(self.client, "split", None)
        if split is None:

            async def whole(batch: Sequence[str]) -> EmbeddingResponse:
                return await self.client.embed(batch, dimensions=dimensions)

            return await self._batch(texts, whole, priority, deadline_s)

        from factflow_llm.clients.batches import embed_batches, too_much_at_once

        embed_batch = self.client.embed_batch  # type: ignore[attr-defined]

        async def one(batch: Sequence[str]) -> EmbeddingResponse:
            response: EmbeddingResponse = await embed_batch(batch, dimensions=dimensions)
            return response

        async def send(batch: Sequence[str]) -> EmbeddingResponse:
            return await self._batch(batch, one, priority, deadline_s)

        batches = split(texts)
        if not batches:
            return await self.client.embed(texts, dimensions=dimensions)
        return await embed_batches(texts, batches, send, getattr(self.client, "mend_batch", too_much_at_once))

    async def _batch(
        self,
        texts: Sequence[str],
        send: Callable[[Sequence[str]], Awaitable[EmbeddingResponse]],
        priority: int,
        deadline_s: float | None,
    ) -> EmbeddingResponse:
        tokens = sum(map(self._count_tokens, texts))
        call = self._begin("embeddings", tokens, None, priority, deadline_s)
        return await self._attempts(call, lambda: send(texts))


def _metadata(error: BaseException) -> ErrorMetadata | None:
    return get_error_metadata(error) if isinstance(error, Exception) else None


def _closing(chunks: AsyncIterator[StreamChunk]) -> aclosing[Any]:
    return aclosing(chunks)


def _texts(message: Message) -> list[str]:
    if isinstance(message.content, str):
        return [message.content]
    return [part.text for part in message.content if isinstance(part, TextPart)]


def _response_headers(error: BaseException) -> Any:
    headers = getattr(getattr(error, "response", None), "headers", None)
    return headers if isinstance(headers, Mapping) else None


def _row_outcome(
    admission: _Admission | None, error: BaseException | None, metadata: ErrorMetadata | None
) -> RowOutcome:
    if error is None:
        return RowOutcome.OK
    if metadata is None:
        return RowOutcome.CANCELLED
    if admission is None:
        return RowOutcome.REJECTED_LOCAL
    if metadata.classification is LLMErrorClassification.RATE_LIMITED:
        return RowOutcome.RATE_LIMITED
    return RowOutcome.TIMEOUT if metadata.reason.value == "timeout" else RowOutcome.ERROR
