"""Azure's ways in: deployment and version, the v1 API, key and Entra token; over the real SDK and a loopback server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from factflow_llm.clients.azure import AzureOpenAIClient
from factflow_llm.errors import ConfigurationError, LLMErrorClassification, classify_llm_error, get_error_metadata
from factflow_llm.types import Message
from tests.support.faces import AZURE, openai_answer
from tests.support.loopback import Asked, Loopback, Reply

HELLO = [Message.user("hello")]


def ask(path: str = "", **made: Any) -> Asked:
    """Complete once and return the request."""

    async def call(server: Loopback) -> None:
        async with AzureOpenAIClient("gpt-4o-mini", base_url=server.url + path, **made) as client:
            await client.complete(HELLO)

    with Loopback(Reply(openai_answer())) as server:
        asyncio.run(call(server))
    return server.asked[0]


def test_deployment_and_version() -> None:
    """With an api_version the deployment stands in the path and the key in its own header."""
    asked = ask(deployment="prod", api_version="2024-10-21", api_key="k")
    assert asked.path == "/openai/deployments/prod/chat/completions?api-version=2024-10-21"
    assert asked.headers["api-key"] == "k"


@pytest.mark.parametrize("path", ["", "/", "/openai", "/openai/v1", "/openai/v1/"])
def test_v1_api(path: str) -> None:
    """Without an api_version the v1 API is asked, however much of its path the resource already names."""
    asked = ask(path, deployment="prod", api_key="k")
    assert (asked.path, asked.body["model"]) == ("/openai/v1/chat/completions", "prod")
    assert asked.headers["authorization"] == "Bearer k"


async def _later() -> str:
    return "token"


def _now() -> str:
    return "token"


@pytest.mark.parametrize("provider", [_now, _later])
@pytest.mark.parametrize("api_version", [None, "2024-10-21"])
def test_entra_token(provider: Any, api_version: str | None) -> None:
    """A token provider, sync or async, opens both ways in, whatever key the environment holds."""
    asked = ask(token_provider=provider, api_version=api_version)
    assert asked.headers["authorization"] == "Bearer token"
    assert asked.headers.get("api-key") is None


def test_token_is_asked_for_each_call() -> None:
    """Tokens expire: the provider is asked before every request."""
    tokens = iter(["one", "two"])

    async def call(server: Loopback) -> None:
        async with AzureOpenAIClient("gpt-4o", base_url=server.url, token_provider=lambda: next(tokens)) as client:
            await client.complete(HELLO)
            await client.complete(HELLO)

    with Loopback(Reply(openai_answer())) as server:
        asyncio.run(call(server))
    assert [asked.headers["authorization"] for asked in server.asked] == ["Bearer one", "Bearer two"]


def test_model_tells_what_the_deployment_takes() -> None:
    """A deployment of any name gets the arguments of the model behind it."""

    async def call(server: Loopback) -> None:
        async with AzureOpenAIClient("o3-mini", deployment="gpt-4o-prod", base_url=server.url, api_key="k") as client:
            await client.complete(HELLO, max_tokens=9)

    with Loopback(Reply(openai_answer())) as server:
        asyncio.run(call(server))
    assert server.asked[0].body["max_completion_tokens"] == 9


@pytest.mark.parametrize("api_version", [None, "2024-10-21"])
def test_embeddings_go_to_the_deployment(api_version: str | None) -> None:
    """Embeddings take the same way in as chats."""
    body = {"object": "list", "model": "e", "data": [{"index": 0, "embedding": [0.5]}], "usage": None}

    async def call(server: Loopback) -> Any:
        made = {"deployment": "d", "base_url": server.url, "api_key": "k", "api_version": api_version}
        async with AzureOpenAIClient("e", **made) as client:
            return await client.embed(["a"])

    with Loopback(Reply(body)) as server:
        response = asyncio.run(call(server))
    assert response.vectors == ((0.5,),)
    assert response.usage.input_tokens is None
    assert server.asked[0].path == (
        "/openai/v1/embeddings" if api_version is None else "/openai/deployments/d/embeddings?api-version=2024-10-21"
    )


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resource and key come from the environment where none is given."""

    async def call() -> None:
        async with AzureOpenAIClient("gpt-4o") as client:
            await client.complete(HELLO)

    with Loopback(Reply(openai_answer())) as server:
        monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", server.url)
        monkeypatch.setenv("AZURE_OPENAI_API_KEY", "env")
        asyncio.run(call())
    assert server.asked[0].headers["authorization"] == "Bearer env"


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({}, "give base_url='https://RESOURCE.openai.azure.com'"),
        ({"base_url": "https://r", "api_key": "k", "token_provider": _now}, "either api_key or token_provider"),
    ],
)
def test_incomplete_client(made: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing resource and two secrets at once are told when the client is made."""
    monkeypatch.delenv("AZURE_OPENAI_ENDPOINT", raising=False)
    with pytest.raises(ConfigurationError, match=words):
        AzureOpenAIClient("gpt-4o", **made)


def test_azure_body_of_a_429() -> None:
    """Azure's own wording and header survive to the classifier."""
    body = {"error": {"code": "429", "message": "… exceeded token rate limit … Please retry after 22 seconds."}}

    async def call(server: Loopback) -> None:
        async with AZURE.make(server.url) as client:
            await client.complete(HELLO)

    with Loopback(Reply(body, status=429, headers={"retry-after-ms": "21500"})) as server:
        with pytest.raises(Exception, match="429") as caught:
            asyncio.run(call(server))
        assert len(server.asked) == 1
    assert classify_llm_error(caught.value) is LLMErrorClassification.RATE_LIMITED
    assert get_error_metadata(caught.value).retry_after_s == 21.5
