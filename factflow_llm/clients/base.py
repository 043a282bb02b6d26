"""What every client shares: it opens no connection before the first call, closes once, and shows no secret.

``BaseLLMClient`` checks a chat before anything is sent and hands the provider's file one plain ``Chat``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from factflow_llm.clients.chats import Chat, Wishes
from factflow_llm.clients.checks import (
    check_event_loop,
    check_messages,
    check_sampling,
    check_stop,
    check_tools,
    check_unicode,
    check_wishes,
)
from factflow_llm.clients.schemas import fitted
from factflow_llm.clients.stream import ChatStream
from factflow_llm.clients.timing import TimeBound
from factflow_llm.errors import ConfigurationError, InvalidRequestError
from factflow_llm.secrecy import enrol_options

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence

    from pydantic import BaseModel

    from factflow_llm.types import CompletionResponse, Message, StreamChunk, Tool

T = TypeVar("T")

_PRESETTABLE = ("max_tokens", "temperature", "stop", "tools", "response_format")


class SdkRequest(dict[str, Any]):
    """A call in the SDK's words.

    Attributes:
        form: the pydantic model its answer is to be an instance of.
    """

    form: type[BaseModel] | None = None


_WISHES = frozenset(Wishes._fields)
_NO_WISHES = Wishes()


class BaseClient(ABC):
    """A connection to one model of one provider.

    Attributes:
        timeout_s: longest silence of the server and longest wait for a whole answer, per attempt, in seconds; ``None``
            for neither.
    """

    provider: ClassVar[str]
    timeout_s: float | None = None

    def __init__(self, model: str, *, options: Mapping[str, Any] | None = None) -> None:
        if not isinstance(model, str) or not model.strip() or not model.isprintable():
            raise ConfigurationError(f"model={model!r} must be the name of a model, such as 'gpt-4o-mini'")
        self.model = model
        self._options = dict(options or {})
        enrol_options(self._options)
        self._closed = False

    @abstractmethod
    async def _close(self) -> None:
        """Release what this client opened."""

    async def aclose(self) -> None:
        """Release connections; a second call does nothing."""
        if not self._closed:
            self._closed = True
            await self._close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def in_time(self, awaitable: Awaitable[T], *, timeout_s: float | None = None) -> T:
        """Await one attempt, at most ``timeout_s`` in all; by default the client's own.

        Raises:
            Exception: the SDK's own error of a time-out, when it takes longer.
        """
        bound = self._time_bound(timeout_s)
        try:
            return await bound.wait(awaitable)
        finally:
            bound.close()

    def _time_bound(self, timeout_s: float | None) -> TimeBound:
        total_s = self.timeout_s if timeout_s is None else timeout_s
        return TimeBound(
            total_s=math.inf if total_s is None else total_s,
            expired=lambda: self._too_slow(
                f"no whole answer of {self.model} within timeout_s = {total_s:g} s of waiting; give it more time, "
                "or ask for less"
            ),
        )

    def _too_slow(self, words: str) -> Exception:
        """Make the error of an attempt that took too long: the SDK's own, where it has one."""
        return TimeoutError(words)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.model!r} {'closed' if self._closed else 'open'}>"


class BaseLLMClient(BaseClient):
    """A client that completes chats: checks here, the provider's language in the subclass.

    What the constructor's ``options`` preset, an argument of the call overrides.
    """

    max_temperature: ClassVar[float] = 2.0

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: Sequence[str] | None = None,
        tools: Sequence[Tool | Mapping[str, Any]] | None = None,
        response_format: Any = None,
        **provider_options: Any,
    ) -> CompletionResponse:
        """Return the whole answer, in one attempt.

        Args:
            messages: the conversation.
            max_tokens: longest answer, in tokens.
            temperature: from 0 to ``max_temperature``.
            stop: texts at which the model stops.
            tools: functions the model may call.
            response_format: a pydantic model class or a JSON schema the answer must fit.
            **provider_options: ``tool_choice``, ``parallel_tool_calls``, ``reasoning``, ``seed``, ``n`` and
                ``logprobs`` as ``Wishes`` has them, for every provider; any other is passed to the SDK as it is
                (``top_p``, ``extra_headers``…).

        Raises:
            InvalidRequestError: before anything is sent, when the request cannot be meant.
            Exception: the SDK's own, unchanged; read it with ``classify_llm_error``.
        """
        request = self.prepare(
            messages,
            max_tokens=max_tokens,
            temperature=temperature,
            stop=stop,
            tools=tools,
            response_format=response_format,
            **provider_options,
        )
        return await self.send(request)

    def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: Sequence[str] | None = None,
        tools: Sequence[Tool | Mapping[str, Any]] | None = None,
        response_format: Any = None,
        **provider_options: Any,
    ) -> ChatStream:
        """Give the answer piece by piece, in one attempt; the last chunk carries usage and finish reason.

        Leaving early closes the connection: ``async with client.stream(…) as stream``; iterated to its end, the stream
        has the whole answer as ``stream.response``. An error the provider sends after the answer has begun, and a
        connection that drops, arrive as exceptions. Arguments and errors otherwise as for ``complete``; a request that
        cannot be meant fails here, not at the first chunk.
        """
        request = self.prepare(
            messages,
            max_tokens=max_tokens,
            temperature=temperature,
            stop=stop,
            tools=tools,
            response_format=response_format,
            **provider_options,
        )
        return ChatStream(self.start(request), form=request.form)

    def prepare(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None,
        temperature: float | None,
        stop: Sequence[str] | None,
        tools: Sequence[Tool | Mapping[str, Any]] | None,
        response_format: Any,
        **provider_options: Any,
    ) -> SdkRequest:
        """Check a call and say it in the SDK's words, once for all its attempts; arguments as for ``complete``.

        Raises:
            InvalidRequestError: when the request cannot be meant.
        """
        given = (max_tokens, temperature, stop, tools, response_format)
        call = self._call(messages, given, provider_options)
        request = SdkRequest(self._request(call))
        if isinstance(call.response_format, type):
            request.form = call.response_format
        return request

    async def send(self, request: SdkRequest) -> CompletionResponse:
        """Send what ``prepare`` returned, in one attempt of at most ``timeout_s``, and return the whole answer."""
        check_event_loop()
        return fitted(await self.in_time(self._complete(request), timeout_s=_own_timeout_s(request)), request.form)

    async def start(self, request: SdkRequest) -> AsyncGenerator[StreamChunk, None]:
        """Send what ``prepare`` returned, in one attempt of at most ``timeout_s``, and yield the answer's pieces."""
        check_event_loop()
        if request.get("n", 1) > 1:
            raise InvalidRequestError(f"n={request['n']}: a stream is one answer; use complete()")
        bound = self._time_bound(_own_timeout_s(request))
        try:
            async with aclosing(self._stream(request)) as chunks:
                while (chunk := await bound.wait(anext(chunks, None))) is not None:
                    yield chunk
        finally:
            bound.close()

    def _call(self, messages: Sequence[Message], given: tuple[Any, ...], provider_options: dict[str, Any]) -> Chat:
        options = {**self._options, **provider_options}
        if self._options:
            presets = [options.pop(name, None) for name in _PRESETTABLE]
            given = tuple(preset if value is None else value for value, preset in zip(given, presets, strict=True))
        max_tokens, temperature, stop, tools, response_format = given
        check_messages(messages)
        check_tools(tools)
        check_unicode(response_format, where="response_format")
        check_sampling(temperature, max_tokens, max_temperature=self.max_temperature)
        wishes = _NO_WISHES
        if not _WISHES.isdisjoint(options):
            wishes = Wishes(**{name: options.pop(name) for name in _WISHES & options.keys()})
            check_wishes(wishes, tools or ())
            if not tools and wishes.tool_choice in ("auto", "none", None):  # servers refuse a choice among no tools
                wishes = wishes._replace(tool_choice=None, parallel_tool_calls=None)
        return Chat(messages, max_tokens, temperature, check_stop(stop), tools or (), response_format, options, wishes)

    @abstractmethod
    def _request(self, call: Chat) -> dict[str, Any]:
        """Say ``call`` in the SDK's words."""

    @abstractmethod
    async def _complete(self, request: dict[str, Any]) -> CompletionResponse:
        """Send ``request`` once and say the answer in neutral form."""

    @abstractmethod
    def _stream(self, request: dict[str, Any]) -> AsyncGenerator[StreamChunk, None]:
        """Send ``request`` once and say each piece of the answer in neutral form."""


def _own_timeout_s(request: Mapping[str, Any]) -> float | None:
    """Return the ``timeout`` that a call brought as a provider option; ``None`` where it is no number of seconds."""
    timeout = request.get("timeout")
    return timeout if isinstance(timeout, int | float) else None
