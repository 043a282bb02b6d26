"""The openai and anthropic SDKs' own clients, paced: each request passes the profile's limiter on its way out.

Whatever is built on these SDKs keeps its own ways of asking and of reading answers. The profile brings key, address,
retries, pool and fallbacks; the SDK's own retries are off.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from factflow_llm.clients.loops import Connections
from factflow_llm.errors import ConfigurationError, ExtraMissingError
from factflow_llm.providers import ModelType, ProviderName
from factflow_llm.proxy.forwarding import Answer, Forwarding, problem
from factflow_llm.proxy.upstream import ROADS
from factflow_llm.settings import DEFAULT

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from types import ModuleType

    from anthropic import AsyncAnthropic
    from openai import AsyncOpenAI

    from factflow_llm.factory import LLMClientFactory

_TIMEOUT_S = 600.0
_NO_KEY = "the profile has it"
_NOWHERE = "http://factflow-llm.invalid"


def openai_client(factory: LLMClientFactory, provider_name: str = DEFAULT) -> AsyncOpenAI:
    """Make a client of the openai SDK whose requests go out through a profile of OpenAI or Azure.

    Args:
        factory: it must stay open; calls of one event loop share its limiters.
        provider_name: the profile, for chats or for embeddings. Its model answers, whatever model is asked for.

    Raises:
        ConfigurationError: no such profile, or one of another language.
    """
    import openai

    name = _profile(factory, provider_name, (ProviderName.OPENAI, ProviderName.AZURE), "openai")
    http = _paced(factory, name, openai)
    return openai.AsyncOpenAI(api_key=_NO_KEY, base_url=f"{_NOWHERE}/v1", max_retries=0, http_client=http)


def anthropic_client(factory: LLMClientFactory, provider_name: str = DEFAULT) -> AsyncAnthropic:
    """Make a client of the anthropic SDK whose requests go out through a profile; as ``openai_client``."""
    import anthropic

    name = _profile(factory, provider_name, (ProviderName.ANTHROPIC,), "anthropic")
    http = _paced(factory, name, anthropic)
    return anthropic.AsyncAnthropic(api_key=_NO_KEY, base_url=_NOWHERE, max_retries=0, http_client=http)


def needs(extra: str, module: str) -> ModuleType:
    """Import what an adapter is for.

    Raises:
        ExtraMissingError: it is not installed; the message says how.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ExtraMissingError(f'{module} needs {error.name}: pip install "factflow-llm[{extra}]"') from error


def _profile(factory: LLMClientFactory, provider_name: str, speaking: tuple[ProviderName, ...], sdk: str) -> str:
    config = factory.config
    known = config.providers.get(provider_name)
    name, profile = config.find(provider_name, ModelType.CHAT if known is None else known.type)
    if profile.provider not in speaking:
        raise ConfigurationError(
            f"profile {name!r} is of {profile.provider}, which the {sdk} SDK does not speak; name one of "
            f"{' or '.join(speaking)}"
        )
    return name


def _paced(factory: LLMClientFactory, name: str, sdk: Any) -> Any:
    """Make an ``AsyncClient`` of the SDK's own httpx, of whichever of its two majors, that sends through a profile."""
    theirs = next(base for base in sdk.DefaultAsyncHttpxClient.__mro__ if base.__name__ == "AsyncClient")
    httpx: Any = sys.modules[theirs.__module__.partition(".")[0]]

    class Upstream(httpx.AsyncClient):  # type: ignore[misc]
        """Connections of one event loop to the providers."""

        def __init__(self) -> None:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
            super().__init__(timeout=_TIMEOUT_S, limits=limits)
            self.forwarding = Forwarding(factory, self)

        close = httpx.AsyncClient.aclose

    upstream = Connections(Upstream, owned=True)

    class Body(httpx.AsyncByteStream):  # type: ignore[misc]
        """An answer that is still coming."""

        def __init__(self, parts: AsyncGenerator[bytes, None]) -> None:
            self._parts = parts

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for part in self._parts:
                yield part

        async def aclose(self) -> None:
            await self._parts.aclose()

    class Paced(httpx.AsyncBaseTransport):  # type: ignore[misc]
        """Hands requests to the profile's limiter instead of the network."""

        async def handle_async_request(self, request: Any) -> Any:
            content = await request.aread()
            answer = await _answer(upstream.here().forwarding, name, request, content)
            whole = isinstance(answer.content, bytes)
            body = {"content": answer.content} if whole else {"stream": Body(answer.content)}  # type: ignore[arg-type]
            return httpx.Response(answer.status, headers=dict(answer.headers), request=request, **body)

        async def aclose(self) -> None:
            await upstream.aclose()

    return httpx.AsyncClient(transport=Paced(), timeout=None)


async def _answer(forwarding: Forwarding, name: str, request: Any, content: bytes) -> Answer:
    path = request.url.path
    if request.method != "POST" or path not in ROADS:
        words = f"{request.method} {path} goes through no limiter; ask the provider by a client of your own"
        return problem(404, words, "not_paced")
    return await forwarding.answer(path, request.headers, content, name=name)
