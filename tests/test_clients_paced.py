"""The SDKs' own clients, paced: what is built on them passes a profile's limiter and knows nothing of it."""

from __future__ import annotations

import asyncio
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest

from factflow_llm import ConfigurationError, ExtraMissingError, LLMClientFactory, LLMConfig, UnknownProfileError
from factflow_llm.adapters.sdks import anthropic_client, openai_client
from simulators.server.serving import running_server
from tests.support.faces import ANTHROPIC_STREAM, anthropic_answer, openai_answer, openai_chunk
from tests.support.loopback import Drop, Events, Loopback, Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

KEY = "sk-of-the-profile-0123456789"
FAST = {"retry": {"max_attempts": 3, "backoff_base_s": 0.001, "backoff_cap_s": 0.001}}
HELLO: Any = [{"role": "user", "content": "hello"}]
ANSWER = Reply(openai_answer({"role": "assistant", "content": "Hi"}, finish="stop"))
BUSY = Reply({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, 429, {"retry-after": "0"})


def factory(url: str, **keys: Any) -> LLMClientFactory:
    """Make profiles of two providers that talk to one server."""
    both = {"api_key": KEY, "rate_limit": FAST, **keys}
    chat = {"provider": "openai", "model": "gpt-4o-mini", "base_url": f"{url}/v1", **both}
    embed = {**chat, "model": "text-embedding-3-small", "type": "embedding"}
    claude = {"provider": "anthropic", "model": "claude-opus-5", "base_url": url, **both}
    pool = {"pool": ["chat", "other"]}
    profiles = {"chat": chat, "other": {**chat, "api_key": "sk-other"}, "embed": embed, "claude": claude, "pool": pool}
    return LLMClientFactory(LLMConfig.from_dict({"default": "chat", "providers": profiles}))


def speak(server: Loopback, talk: Callable[[LLMClientFactory], Awaitable[Any]], **keys: Any) -> Any:
    """Run a conversation with a factory of profiles for a server."""

    async def main() -> Any:
        async with factory(server.url, **keys) as made:
            return await talk(made)

    return asyncio.run(main())


def test_the_sdk_gets_its_own_answers() -> None:
    """Answers are the SDK's, the key and the model the profile's."""

    async def talk(made: LLMClientFactory) -> Any:
        client = openai_client(made)
        return await client.chat.completions.create(model="whatever", messages=HELLO)

    with Loopback(ANSWER) as server:
        answer = speak(server, talk)
    assert isinstance(answer, openai.types.chat.ChatCompletion)
    assert answer.choices[0].message.content == "Hi"
    assert (server.asked[0].headers["authorization"], server.asked[0].body["model"]) == (f"Bearer {KEY}", "gpt-4o-mini")


def test_refusals_pass_the_limiter() -> None:
    """A 429 and a dropped connection are tried again, by the limiter and not by the SDK; each attempt counts there."""

    async def talk(made: LLMClientFactory) -> Any:
        answer = await openai_client(made).chat.completions.create(model="chat", messages=HELLO)
        return answer.choices[0].message.content, made.create_completion_client().limiter.metrics  # type: ignore[attr-defined]

    with Loopback(BUSY, Drop(), ANSWER) as server:
        text, metrics = speak(server, talk)
    assert (text, len(server.asked), metrics.rate_limited) == ("Hi", 3, 1)


def test_what_remains_is_the_sdks_own_error() -> None:
    """The SDK raises its class for the provider's last word; our own refusals are in its words, too."""

    async def talk(made: LLMClientFactory) -> list[BaseException]:
        calls = [openai_client(made).chat.completions.create(model="chat", messages=HELLO) for _ in range(2)]
        return [await _raised(call) for call in calls]

    spent = Reply({"error": {"message": "pay first", "code": "insufficient_quota"}}, 429)
    with Loopback(spent) as server:
        first, second = speak(server, talk)
    assert isinstance(first, openai.RateLimitError)
    assert "pay first" in str(first)
    assert isinstance(second, openai.RateLimitError)
    assert "not sent: quota" in str(second)
    assert len(server.asked) == 1


async def _raised(call: Awaitable[Any]) -> BaseException:
    (error,) = await asyncio.gather(call, return_exceptions=True)
    assert isinstance(error, BaseException)
    return error


def test_streams_come_in_pieces() -> None:
    """OpenAI's and Anthropic's streams go through as they are."""
    pieces = [openai_chunk({"content": "H"}), openai_chunk({"content": "i"}), openai_chunk({}, "stop"), "[DONE]"]

    async def talk(made: LLMClientFactory) -> tuple[str, str]:
        stream = await openai_client(made).chat.completions.create(model="chat", messages=HELLO, stream=True)
        said = [chunk.choices[0].delta.content or "" async for chunk in stream]
        async with anthropic_client(made, "claude").messages.stream(model="x", max_tokens=9, messages=HELLO) as claude:
            return "".join(said), "".join([text async for text in claude.text_stream])

    with Loopback(Events(pieces), Events(ANTHROPIC_STREAM)) as server:
        assert speak(server, talk) == ("Hi", "Hello")
    assert server.asked[1].headers["x-api-key"] == KEY


def test_a_stream_left_early_returns_its_permit() -> None:
    """Closing the SDK's stream closes the connection, and the limiter has its permit back."""
    pieces = [openai_chunk({"content": str(number)}) for number in range(3)]

    async def talk(made: LLMClientFactory) -> int:
        async with await openai_client(made).chat.completions.create(
            model="chat", messages=HELLO, stream=True
        ) as stream:
            async for _ in stream:
                break
        return made.create_completion_client().limiter.metrics.in_flight  # type: ignore[attr-defined, no-any-return]

    with Loopback(Events(pieces, hold=True)) as server:
        assert speak(server, talk) == 0
        assert server.client_left.wait(10)


def test_pools_embeddings_and_anthropic_answer() -> None:
    """A pool takes turns, vectors come, and Anthropic's messages are answered by its profile."""

    async def talk(made: LLMClientFactory) -> Any:
        pool = openai_client(made, "pool")
        for _ in range(4):
            await pool.chat.completions.create(model="pool", messages=HELLO)
        claude = await anthropic_client(made, "claude").messages.create(model="x", max_tokens=9, messages=HELLO)
        return claude.content[0]

    with Loopback(*[ANSWER] * 4, Reply(anthropic_answer())) as server:
        assert speak(server, talk).text == "Hello"
    assert {asked.headers["authorization"] for asked in server.asked[:4]} == {f"Bearer {KEY}", "Bearer sk-other"}


def test_one_client_serves_several_event_loops() -> None:
    """Made outside of any loop, it finds the factory's client and connections of whichever runs."""
    with Loopback(ANSWER) as server:
        client = openai_client(factory(server.url))
        for _ in range(2):
            answer = asyncio.run(client.chat.completions.create(model="chat", messages=HELLO))  # type: ignore[arg-type]
            assert answer.choices[0].message.content == "Hi"


def test_what_is_not_paced_is_not_sent() -> None:
    """Files, models and whatever else goes through no limiter is refused in words."""

    async def talk(made: LLMClientFactory) -> BaseException:
        return await _raised(openai_client(made).models.retrieve("gpt-4o"))

    with Loopback(ANSWER) as server:
        error = speak(server, talk)
    assert isinstance(error, openai.NotFoundError)
    assert "goes through no limiter" in str(error)
    assert server.asked == []


def test_a_profile_of_another_language_is_refused() -> None:
    """The openai SDK cannot ask Anthropic, and no SDK an unknown profile."""
    made = factory("http://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="'claude' is of anthropic, which the openai SDK does not speak"):
        openai_client(made, "claude")
    with pytest.raises(ConfigurationError, match="name one of anthropic"):
        anthropic_client(made, "chat")
    with pytest.raises(UnknownProfileError):
        openai_client(made, "chta")


def test_a_crowd_is_paced() -> None:
    """Many calls of the SDK through a small quota are all answered, with few refusals."""

    async def crowd(url: str) -> int:
        limits = {"retry": {"max_attempts": 20}}
        async with factory(url, rate_limit=limits) as made, openai_client(made) as client:
            calls = (client.chat.completions.create(model="chat", messages=HELLO, max_tokens=5) for _ in range(60))
            return len(await asyncio.gather(*calls))

    with running_server("bucket", speed=60.0) as server:
        assert asyncio.run(crowd(server.url)) == 60
        statuses = [asked.status for asked in server.conduct.requests]
    assert statuses.count(200) == 60
    assert statuses.count(429) <= 25


def test_vectors_come_from_an_embedding_profile() -> None:
    """The SDK asks for embeddings as it does, in its own encoding."""

    async def talk(url: str) -> Any:
        async with factory(url) as made:
            return await openai_client(made, "embed").embeddings.create(model="any", input=["a", "b"])

    with running_server("openai-tier-5", waits=False) as server:
        assert len(asyncio.run(talk(server.url)).data) == 2


def test_a_message_of_anthropic_is_refused_in_its_own_class() -> None:
    """The anthropic SDK raises its own error for a 400."""

    async def talk(made: LLMClientFactory) -> BaseException:
        client = anthropic_client(made, "claude")
        return await _raised(client.messages.create(model="x", max_tokens=9, messages=HELLO))

    wrong = Reply({"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}, 400)
    with Loopback(wrong) as server:
        assert isinstance(speak(server, talk), anthropic.BadRequestError)


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("langchain", "langchain_core.callbacks", "langchain"),
        ("pydantic_ai", "pydantic_ai.models.openai", "pydantic-ai"),
        ("openai_agents", "agents", "openai-agents"),
    ],
)
def test_a_stack_that_is_not_installed_is_said(
    module: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its package an adapter says what to install."""
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"factflow_llm.adapters.{module}", raising=False)
    with pytest.raises(ExtraMissingError, match=rf'pip install "factflow-llm\[{extra}\]"'):
        import_module(f"factflow_llm.adapters.{module}").model(factory("http://127.0.0.1:1"))
