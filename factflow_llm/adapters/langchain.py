"""For LangChain: a chat model that asks through a profile, and a rate limiter for other packages' models.

The chat model is the better of the two: it has the profile's retries, pool, fallbacks and provider state. The rate
limiter only says when a call may go; to learn how calls end, it must be among their callbacks, too.
"""

from __future__ import annotations

import asyncio
import logging
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from factflow_llm.background import elsewhere, run, soon
from factflow_llm.errors import ConfigurationError, DeadlineExceededError, ExtraMissingError
from factflow_llm.providers import ModelType
from factflow_llm.settings import DEFAULT
from factflow_llm.tokens import estimate_tokens
from factflow_llm.types import Tool, Usage

try:
    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
    from langchain_core.rate_limiters import BaseRateLimiter
    from langchain_core.utils.function_calling import convert_to_openai_tool

    from factflow_llm.adapters.langchain_messages import chunk_of, message_of, messages_of
except ModuleNotFoundError as missing:
    raise ExtraMissingError(
        f'factflow_llm.adapters.langchain needs {missing.name}: pip install "factflow-llm[langchain]"'
    ) from missing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from uuid import UUID

    from langchain_core.messages import BaseMessage

    from factflow_llm.factory import LLMClientFactory
    from factflow_llm.ratelimit.limiter import Permit

_log = logging.getLogger(__name__)
_AT_ONCE_S = 0.001


class ChatModel(BaseChatModel):  # type: ignore[misc]
    """A LangChain chat model that asks through a profile, with tools, structured output and streams.

    ::

        model = ChatModel(factory=factory, provider_name="chat")

    Synchronous calls run in the background loop of ``factory.sync()``, asynchronous ones in their own.

    Attributes:
        factory: it must stay open while the model is used.
        provider_name: the chat profile.
        max_tokens: bound on each answer.
        temperature: as the provider has it.
    """

    factory: Any
    provider_name: str = DEFAULT
    max_tokens: int | None = None
    temperature: float | None = None

    @property
    def _llm_type(self) -> str:
        return "factflow-llm"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        name, profile = self.factory.config.find(self.provider_name, ModelType.CHAT)
        told = {"profile": name, "model": profile.model, "provider": profile.provider.value}
        return told | {"max_tokens": self.max_tokens, "temperature": self.temperature}

    def _asked(self, stop: list[str] | None, more: dict[str, Any]) -> dict[str, Any]:
        return {"max_tokens": self.max_tokens, "temperature": self.temperature, "stop": stop, **more}

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **more: Any
    ) -> ChatResult:
        client = self.factory.sync().create_completion_client(self.provider_name)
        return _result(client.complete(messages_of(messages), **self._asked(stop, more)))

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **more: Any
    ) -> ChatResult:
        client = self.factory.create_completion_client(self.provider_name)
        return _result(await client.complete(messages_of(messages), **self._asked(stop, more)))

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **more: Any
    ) -> Iterator[ChatGenerationChunk]:
        client = self.factory.sync().create_completion_client(self.provider_name)
        for chunk in client.stream(messages_of(messages), **self._asked(stop, more)):
            yield ChatGenerationChunk(message=chunk_of(chunk))

    async def _astream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **more: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        client = self.factory.create_completion_client(self.provider_name)
        async with client.stream(messages_of(messages), **self._asked(stop, more)) as chunks:
            async for chunk in chunks:
                yield ChatGenerationChunk(message=chunk_of(chunk))

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: Any = None, strict: bool | None = None, **more: Any
    ) -> Any:
        """Return the model with tools to call: functions, pydantic models, LangChain's tools, or schemas.

        Args:
            tools: what may be called.
            tool_choice: ``auto``, ``none``, ``any``, ``required``, ``True`` for any, or a tool's name.
            strict: whether the provider must hold arguments to the schema.
            **more: further arguments of each call.
        """
        choice = "required" if tool_choice in (True, "any") else tool_choice
        if isinstance(choice, dict):
            choice = choice.get("function", choice).get("name")
        chosen = {"tool_choice": choice} if choice else {}
        return self.bind(tools=[_tool(tool, strict) for tool in tools], **chosen, **more)


def _tool(tool: Any, strict: bool | None) -> Tool:
    told = convert_to_openai_tool(tool)["function"]
    return Tool(told["name"], told.get("description", ""), told.get("parameters", {}), told.get("strict", strict))


def _result(response: Any) -> ChatResult:
    message = message_of(response)
    return ChatResult(generations=[ChatGeneration(message=message)], llm_output={"model_name": response.model})


@dataclass(eq=False)
class _Run:
    """A call of LangChain's: the permit by which it went, until it is over."""

    limiter: RateLimiter
    input_tokens: int
    permit: Permit | None = None
    over: bool = False


_RUN: ContextVar[_Run | None] = ContextVar("factflow_llm_langchain_run", default=None)


class RateLimiter(BaseRateLimiter, BaseCallbackHandler):  # type: ignore[misc]
    """Lets the calls of any LangChain chat model go when a profile's limiter has room for them.

    ::

        limiter = RateLimiter(factory, "chat")
        model = ChatOpenAI(model="gpt-4o-mini", rate_limiter=limiter, callbacks=[limiter], max_retries=0)

    As ``rate_limiter`` it paces. As one of the ``callbacks`` it hears how each call ends, and so finds the quota;
    without that it only keeps to the rates that the settings name. It works in one background loop for all threads and
    event loops. The SDK's own retries must be off: they pass no limiter; ``model.with_retry()`` does.

    Args:
        factory: it must stay open.
        provider_name: a chat profile without ``pool`` and ``fallback``: whose key is used is the model's affair.

    Raises:
        ConfigurationError: no such profile, or one that hands its calls on.
    """

    run_inline = True

    def __init__(self, factory: LLMClientFactory, provider_name: str = DEFAULT) -> None:
        self._name, profile = factory.config.find(provider_name, ModelType.CHAT)
        if profile.pool or profile.fallback:
            raise ConfigurationError(
                f"profile {self._name!r} hands its calls on, which a rate limiter cannot: use ChatModel, or name a "
                "profile without pool and fallback"
            )
        self._factory, self._model = factory, profile.model
        self._runs: dict[UUID, _Run] = {}
        self._told = False

    def acquire(self, *, blocking: bool = True) -> bool:
        """Wait until the call may go, and return true; without ``blocking``, say whether it may go now.

        Raises:
            BreakerOpenError: the account is exhausted.
        """
        return run(self._admitted(_RUN.get(), blocking=blocking))

    async def aacquire(self, *, blocking: bool = True) -> bool:
        """Wait until the call may go; as ``acquire``."""
        return await elsewhere(self._admitted(_RUN.get(), blocking=blocking))

    async def _admitted(self, call: _Run | None, *, blocking: bool) -> bool:
        client: Any = self._factory.create_completion_client(self._name)
        if client.limiter is None:
            return True
        known = call if call is not None and call.limiter is self and not call.over and call.permit is None else None
        permit = client.limiter.permit(
            input_tokens=None if known is None else known.input_tokens,
            deadline=None if blocking else asyncio.get_running_loop().time() + _AT_ONCE_S,
        )
        try:
            await permit.__aenter__()
        except DeadlineExceededError:
            return False
        if known is not None and not known.over:
            known.permit = permit
            return True
        permit.ignored()
        if known is None and not self._told:
            self._told = True
            _log.warning(
                "the limiter of profile %r does not hear how calls end and cannot find their quota: give it as "
                "callbacks=[limiter], too",
                self._name,
            )
        return True

    def on_chat_model_start(
        self, serialized: Any, messages: list[list[BaseMessage]], *, run_id: UUID, **_: Any
    ) -> None:
        """Note how much a call will read."""
        text = "\n".join(message.text for batch in messages for message in batch)
        self._runs[run_id] = begun = _Run(self, estimate_tokens(text, model=self._model))
        _RUN.set(begun)

    def on_llm_end(self, response: Any, *, run_id: UUID, **_: Any) -> None:
        """Settle a call that was answered."""
        if (ended := self._runs.pop(run_id, None)) is not None:
            soon(_settle, ended, None, _usage(response))

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """Settle a call that failed, by what its error says."""
        if (ended := self._runs.pop(run_id, None)) is not None:
            soon(_settle, ended, error, None)


def _settle(call: _Run, error: BaseException | None, usage: Usage | None) -> None:
    call.over = True
    permit, call.permit = call.permit, None
    if permit is None:  # served by a cache, or never let go
        return
    if error is None:
        permit.succeeded(usage=usage)
    elif isinstance(error, Exception):
        permit.failed(error)
    else:
        permit.ignored()


def _usage(response: Any) -> Usage | None:
    try:
        told = response.generations[0][0].message.usage_metadata
    except (AttributeError, IndexError):
        return None
    return None if not told else Usage(told.get("input_tokens"), told.get("output_tokens"))
