"""Azure OpenAI: the same language as OpenAI's, another way in.

Two ways in: a deployment with its dated ``api_version``, or the v1 API, where the deployment goes by ``model`` and no
version is named. Either opens with a key or with an Entra ID token.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from factflow_llm.clients.addresses import azure_resource, check_api_key
from factflow_llm.clients.openai import OpenAICompatibleClient
from factflow_llm.clients.stainless import CONNECT_TIMEOUT_S, TIMEOUT_S, connection
from factflow_llm.errors import ConfigurationError

if TYPE_CHECKING:
    from factflow_llm.clients.openai_languages import OpenAIApi

TokenProvider = Callable[[], str | Awaitable[str]]


class AzureOpenAIClient(OpenAICompatibleClient):
    """A deployment of an OpenAI model on Azure.

    Args:
        model: name of the model behind the deployment: it tells which arguments are accepted.
        deployment: name of the deployment; by default the model's.
        base_url: the resource, ``https://RESOURCE.openai.azure.com``, or the target URI the portal shows, of which
            deployment and version are taken; by default the environment's ``AZURE_OPENAI_ENDPOINT``.
        api_version: such as ``2024-10-21``; left out, the v1 API answers.
        api_key: secret; by default the environment's ``AZURE_OPENAI_API_KEY``.
        token_provider: gives an Entra ID token, now or awaited, such as
            ``azure.identity.aio.get_bearer_token_provider(…)``; takes the place of a key.
        timeout_s: longest silence of the server and longest wait for a whole answer, per attempt, in seconds.
        connect_timeout_s: longest wait for a connection, in seconds.
        headers: sent with every request.
        proxy: URL of a proxy; by default what the environment says.
        http_client: an ``AsyncClient`` of the SDK's httpx, which stays yours to close.
        dimensions: length of the vectors, where the model can shorten them.
        batch_size: texts embedded by one request, by default 2,048; a server that refuses so many lowers it itself.
        api: the language of chats: ``chat_completions``, or ``responses`` for OpenAI's Responses API.
        options: provider options preset for every call.

    Raises:
        ConfigurationError: when resource or key is missing or malformed, both key and token are given, or a time is not
            above zero.
    """

    provider: ClassVar[str] = "azure"

    def __init__(
        self,
        model: str,
        *,
        deployment: str | None = None,
        base_url: str | None = None,
        api_version: str | None = None,
        api_key: str | None = None,
        token_provider: TokenProvider | None = None,
        timeout_s: float = TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        headers: Mapping[str, str] | None = None,
        proxy: str | None = None,
        http_client: Any = None,
        dimensions: int | None = None,
        batch_size: int | None = None,
        api: OpenAIApi = "chat_completions",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        import openai

        endpoint, named, dated = azure_resource(base_url)
        if api_key and token_provider:
            raise ConfigurationError("give either api_key or token_provider, not both")
        if named and deployment not in {None, named}:
            raise ConfigurationError(
                f"base_url names the deployment {named!r} and deployment= the deployment {deployment!r}: "
                f"write base_url={endpoint!r}"
            )
        deployment, version = deployment or named, api_version or dated
        tokens = None if token_provider is None else _awaited(token_provider)
        key = tokens or check_api_key(
            api_key or os.environ.get("AZURE_OPENAI_API_KEY"), variable="AZURE_OPENAI_API_KEY"
        )

        def connect() -> Any:
            wiring = connection(
                openai,
                timeout_s=timeout_s,
                connect_timeout_s=connect_timeout_s,
                headers=headers,
                proxy=proxy,
                http_client=http_client,
            )
            if version is None:
                return openai.AsyncOpenAI(base_url=f"{endpoint}/openai/v1/", api_key=key, **wiring)
            secret: dict[str, Any] = {"azure_ad_token_provider": tokens} if tokens else {"api_key": key}
            return openai.AsyncAzureOpenAI(azure_endpoint=endpoint, api_version=version, **secret, **wiring)

        super().__init__(
            model,
            sdk=openai,
            connect=connect,
            target=deployment or model,
            dimensions=dimensions,
            batch_size=batch_size,
            api=api,
            options=options,
            owned=http_client is None,
        )
        self.timeout_s = timeout_s


def _awaited(token_provider: TokenProvider) -> Callable[[], Awaitable[str]]:
    """Make one kind of token provider out of two."""

    async def token() -> str:
        given = token_provider()
        return given if isinstance(given, str) else await given

    return token
