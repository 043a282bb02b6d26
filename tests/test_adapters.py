"""Other people's stacks, in their newest releases: each asks through a profile, by its own ways of asking."""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from factflow_llm import BreakerOpenError, ConfigurationError, LLMClientFactory, LLMConfig
from simulators.server.serving import running_server
from tests.support.faces import ANTHROPIC_STREAM, OPENAI_STREAM, anthropic_answer, openai_answer, openai_chunk
from tests.support.loopback import Events, Loopback, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[1] / "docs" / "stacks.md"
KEY = "sk-of-the-profile-0123456789"
FAST = {"retry": {"max_attempts": 3, "backoff_base_s": 0.001, "backoff_cap_s": 0.001}}
HI = Reply(openai_answer({"role": "assistant", "content": "Hi"}, finish="stop"))
CALL = Reply(openai_answer())
BUSY = Reply({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, 429, {"retry-after": "0"})
SPENT = Reply({"error": {"message": "pay first", "code": "insufficient_quota"}}, 429)
PIECES = Events([openai_chunk({"content": "H"}), openai_chunk({"content": "i"}), openai_chunk({}, "stop"), "[DONE]"])


def needs(package: str) -> pytest.MarkDecorator:
    """Skip where a stack is not installed."""
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed; .ci/run tests with it")


pytestmark = pytest.mark.stacks
langchain, pydantic_ai, agents = needs("langchain_core"), needs("pydantic_ai"), needs("agents")


def factory(url: str, **keys: Any) -> LLMClientFactory:
    """Make profiles of two providers that talk to one server."""
    both = {"api_key": KEY, "rate_limit": FAST, **keys}
    chat = {"provider": "openai", "model": "gpt-4o-mini", "base_url": f"{url}/v1", **both}
    claude = {"provider": "anthropic", "model": "claude-opus-5", "base_url": url, **both}
    profiles = {
        "chat": chat,
        "responses": {**chat, "api": "responses"},
        "claude": claude,
        "pool": {"pool": ["chat", "claude"]},
        "unpaced": {**chat, "rate_limit": False, "api_key": "sk-unpaced-0123456789"},
    }
    return LLMClientFactory(LLMConfig.from_dict({"default": "chat", "providers": profiles}))


@pytest.fixture
def server() -> Iterator[Loopback]:
    """Give a server that says hi."""
    with Loopback(HI) as one:
        yield one


def weather(city: str) -> str:
    """Say how the weather is."""
    return f"sunny in {city}"


# --- LangChain: the chat model


@langchain
def test_langchain_invokes_and_streams(server: Loopback) -> None:
    """Whole and streamed, with an event loop and without, the model answers as LangChain's do, with usage."""
    from langchain_core.messages import AIMessage, AIMessageChunk

    from factflow_llm.adapters.langchain import ChatModel

    model = ChatModel(factory=factory(server.url), max_tokens=9)
    server.script[:] = [BUSY, HI]
    answer = model.invoke("hello", stop=["x"])
    assert isinstance(answer, AIMessage)
    assert (answer.content, answer.usage_metadata["total_tokens"]) == ("Hi", 27)
    assert answer.response_metadata["finish_reason"] == "stop"
    assert (server.asked[0].body["max_tokens"], server.asked[0].body["stop"]) == (9, ["x"])
    assert asyncio.run(model.ainvoke([("system", "Be brief."), ("human", "hello")])).content == "Hi"
    assert [said["role"] for said in server.asked[-1].body["messages"]] == ["system", "user"]
    server.script[:] = [Events(OPENAI_STREAM)]
    whole = AIMessageChunk("")
    for chunk in model.stream("hello"):
        whole += chunk
    assert (whole.content, whole.tool_calls[0]["args"], whole.usage_metadata["output_tokens"]) == (
        "Hello", {"city": "Bern"}, 7
    )  # fmt: skip

    async def stream() -> str:
        return "".join([chunk.content async for chunk in model.astream("hello")])

    assert asyncio.run(stream()) == "Hello"


@langchain
def test_langchain_calls_tools_and_returns_their_answers(server: Loopback) -> None:
    """Tools are bound, called and answered; what the provider wants back with a turn goes back."""
    from langchain_core.messages import HumanMessage, ToolMessage

    from factflow_llm.adapters.langchain import ChatModel

    server.script[:] = [CALL, HI]
    model = ChatModel(factory=factory(server.url)).bind_tools([weather], tool_choice="any")
    called = model.invoke([HumanMessage("How is it in Bern?")])
    (call,) = called.tool_calls
    assert (call["name"], call["args"], server.asked[0].body["tool_choice"]) == (
        "weather",
        {"city": "Bern"},
        "required",
    )
    said = [HumanMessage("How is it in Bern?"), called, ToolMessage(weather(**call["args"]), tool_call_id=call["id"])]
    assert model.invoke(said).content == "Hi"
    assert [turn["role"] for turn in server.asked[1].body["messages"]] == ["user", "assistant", "tool"]
    assert server.asked[1].body["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"city": "Bern"}'


@langchain
def test_langchain_keeps_what_a_provider_wants_back(server: Loopback) -> None:
    """A thought's signature of Anthropic's survives LangChain's own writing and reading of messages."""
    from langchain_core.load import dumps, load
    from langchain_core.messages import HumanMessage

    from factflow_llm.adapters.langchain import ChatModel

    thought = {"type": "thinking", "thinking": "Hm.", "signature": "sig-1"}
    server.script[:] = [Reply(anthropic_answer([thought, {"type": "text", "text": "Hello"}], finish="end_turn"))]
    model = ChatModel(factory=factory(server.url), provider_name="claude", max_tokens=9)
    first = model.invoke("hello")
    assert first.additional_kwargs["reasoning_content"] == "Hm."
    kept = load(json.loads(dumps(first)), allowed_objects="messages")
    model.invoke([HumanMessage("hello"), kept, HumanMessage("and?")])
    assert server.asked[1].body["messages"][1]["content"][0] == thought


@langchain
def test_langchain_structures_answers(server: Loopback) -> None:
    """``with_structured_output`` works as for every model with tools; a call whose arguments are no JSON is told."""
    from pydantic import BaseModel

    from factflow_llm.adapters.langchain import ChatModel

    class weather(BaseModel):  # noqa: N801
        """Where."""

        city: str

    server.script[:] = [CALL]
    model = ChatModel(factory=factory(server.url))
    assert model.with_structured_output(weather).invoke("Bern?") == weather(city="Bern")
    broken = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{"}}
    server.script[:] = [Reply(openai_answer({"role": "assistant", "content": None, "tool_calls": [broken]}))]
    answer = model.invoke("Bern?")
    assert (answer.tool_calls, answer.invalid_tool_calls[0]["args"]) == ([], "{")


@langchain
def test_langchain_shows_images_documents_and_sound(server: Loopback) -> None:
    """LangChain's own blocks arrive as the provider's parts."""
    from langchain_core.messages import ChatMessage, HumanMessage

    from factflow_llm.adapters.langchain import ChatModel
    from factflow_llm.adapters.langchain_messages import messages_of
    from factflow_llm.errors import InvalidRequestError

    blocks = [
        {"type": "text", "text": "What is this?"},
        {"type": "image", "url": "https://example.org/a.png"},
        {"type": "image", "base64": "aGk=", "mime_type": "image/png"},
        {"type": "file", "base64": "aGk=", "mime_type": "application/pdf", "filename": "a.pdf"},
        {"type": "audio", "base64": "aGk=", "mime_type": "audio/wav"},
    ]
    ChatModel(factory=factory(server.url)).invoke([HumanMessage(blocks)])
    sent = server.asked[0].body["messages"][0]["content"]
    assert [part["type"] for part in sent] == ["text", "image_url", "image_url", "file", "input_audio"]
    assert sent[2]["image_url"]["url"] == "data:image/png;base64,aGk="
    with pytest.raises(InvalidRequestError, match="type ChatMessage has no counterpart"):
        messages_of([ChatMessage("hello", role="critic")])


# --- LangChain: the rate limiter


def chat_openai(url: str, **keys: Any) -> Any:
    """Make a model of another package's: LangChain's own interface over the openai SDK, without our clients."""
    import openai
    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.messages import AIMessage
    from langchain_core.outputs import ChatGeneration, ChatResult

    class Theirs(BaseChatModel):  # type: ignore[misc]
        @property
        def _llm_type(self) -> str:
            return "theirs"

        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **more: Any) -> Any:
            with openai.OpenAI(base_url=f"{url}/v1", api_key="own", max_retries=0) as client:
                said: Any = [{"role": "user", "content": messages[0].content}]
                answer = client.chat.completions.create(model="gpt-4o-mini", messages=said, max_tokens=5)
            usage = answer.usage
            assert usage is not None
            told = {"input_tokens": usage.prompt_tokens, "output_tokens": usage.completion_tokens}
            told["total_tokens"] = usage.total_tokens
            message = AIMessage(answer.choices[0].message.content or "", usage_metadata=told)
            return ChatResult(generations=[ChatGeneration(message=message)])

    return Theirs(**keys)


@langchain
def test_langchains_rate_limiter_hears_how_calls_end(server: Loopback) -> None:
    """It settles each call by its own end, in threads and in event loops: what was refused counts, what failed goes."""
    from factflow_llm.adapters.langchain import RateLimiter

    made = factory(server.url)
    limiter = RateLimiter(made)
    model = chat_openai(server.url, rate_limiter=limiter, callbacks=[limiter])
    server.script[:] = [HI, BUSY, HI]
    assert model.invoke("hello").content == "Hi"
    with pytest.raises(Exception, match="slow down"):
        asyncio.run(model.ainvoke("hello"))
    assert model.with_retry().invoke("hello").content == "Hi"
    metrics = _metrics(made)
    assert (metrics.succeeded, metrics.rate_limited, metrics.in_flight) == (2, 1, 0)


def _metrics(made: LLMClientFactory) -> Any:
    """Return what the limiter of the background loop knows, after all that was told to it."""
    from factflow_llm.background import elsewhere

    async def look() -> Any:
        return made.create_completion_client().limiter.metrics  # type: ignore[attr-defined]

    return asyncio.run(elsewhere(look()))


@langchain
def test_langchains_rate_limiter_paces_a_crowd() -> None:
    """Threads and tasks behind one limiter find a small quota: all are answered, few are refused."""
    from factflow_llm.adapters.langchain import RateLimiter

    with running_server("bucket", speed=60.0) as one:
        limiter = RateLimiter(factory(one.url))
        model = chat_openai(one.url, rate_limiter=limiter, callbacks=[limiter])
        retried = model.with_retry(stop_after_attempt=20, wait_exponential_jitter=False)
        assert len(retried.batch(["hello"] * 40, config={"max_concurrency": 16})) == 40
        statuses = [asked.status for asked in one.conduct.requests]
    assert statuses.count(200) == 40
    assert statuses.count(429) <= 30


@langchain
def test_langchains_rate_limiter_says_what_it_cannot_know(server: Loopback, caplog: pytest.LogCaptureFixture) -> None:
    """Without callbacks it warns once; it refuses a pool; an open breaker reaches the caller; no wait is possible."""
    from factflow_llm.adapters.langchain import RateLimiter

    caplog.set_level(logging.WARNING)
    made = factory(server.url)
    limiter = RateLimiter(made)
    model = chat_openai(server.url, rate_limiter=limiter)
    assert [model.invoke("hello").content for _ in range(2)] == ["Hi", "Hi"]
    assert sum("callbacks=[limiter]" in record.getMessage() for record in caplog.records) == 1
    with pytest.raises(ConfigurationError, match="'pool' hands its calls on"):
        RateLimiter(made, "pool")
    assert RateLimiter(made, "unpaced").acquire()
    server.script[:] = [SPENT]
    heard = chat_openai(server.url, rate_limiter=limiter, callbacks=[limiter])
    with pytest.raises(Exception, match="pay first"):
        heard.invoke("hello")
    with pytest.raises(BreakerOpenError):
        heard.invoke("hello")


@langchain
def test_langchains_rate_limiter_can_be_asked_without_waiting() -> None:
    """``blocking=False`` says whether a call may go now."""
    from factflow_llm.adapters.langchain import RateLimiter

    limiter = RateLimiter(factory("http://127.0.0.1:1", rate_limit={"requests_per_minute": 1.0}))
    told = [limiter.acquire(blocking=False) for _ in range(3)]
    assert (told[0], told[-1]) == (True, False)
    assert asyncio.run(limiter.aacquire(blocking=False)) is False


# --- pydantic-ai


@pydantic_ai
def test_pydantic_ai_runs_an_agent_with_tools(server: Loopback) -> None:
    """An agent calls its tool and answers; a 429 on the way is the limiter's affair."""
    from pydantic_ai import Agent

    from factflow_llm.adapters.pydantic_ai import model

    server.script[:] = [BUSY, CALL, HI]
    agent = Agent(model(factory(server.url)), instructions="Be brief.")
    agent.tool_plain(weather)
    result = agent.run_sync("How is it in Bern?")
    assert (result.output, len(server.asked)) == ("Hi", 3)
    assert server.asked[2].body["messages"][-1]["content"] == "sunny in Bern"
    assert server.asked[2].headers["authorization"] == f"Bearer {KEY}"


@pydantic_ai
def test_pydantic_ai_streams_and_structures(server: Loopback) -> None:
    """Streams come in pieces; an output type is held to by the package's own means."""
    from pydantic import BaseModel
    from pydantic_ai import Agent

    from factflow_llm.adapters.pydantic_ai import model

    class Place(BaseModel):
        city: str

    async def talk() -> tuple[str, Place]:
        async with factory(server.url) as made:
            server.script[:] = [PIECES]
            async with Agent(model(made)).run_stream("hello") as stream:
                text = await stream.get_output()
            call = {
                "id": "c",
                "type": "function",
                "function": {"name": "final_result", "arguments": '{"city": "Bern"}'},
            }
            server.script[:] = [Reply(openai_answer({"role": "assistant", "content": None, "tool_calls": [call]}))]
            return text, (await Agent(model(made), output_type=Place).run("Where?")).output

    assert asyncio.run(talk()) == ("Hi", Place(city="Bern"))


@pydantic_ai
def test_pydantic_ai_asks_anthropic(server: Loopback) -> None:
    """A profile of Anthropic's makes the package's own model for it, whole and streamed."""
    from pydantic_ai import Agent

    from factflow_llm.adapters.pydantic_ai import model

    async def talk() -> list[Any]:
        async with factory(server.url) as made:
            agent = Agent(model(made, "claude"))
            server.script[:] = [Events(_words_of(ANTHROPIC_STREAM))]
            said = [(await agent.run("hello")).output]
            async with agent.run_stream("hello") as stream:
                return [*said, [piece async for piece in stream.stream_text(delta=True)]]

    whole, pieces = asyncio.run(talk())
    assert (whole, "".join(pieces)) == ("Hello", "Hello")
    assert server.asked[0].headers["x-api-key"] == KEY


def _words_of(events: list[Any]) -> list[Any]:
    """Leave the tool's call out of a stream."""
    called = {event["index"] for event in events if event.get("content_block", {}).get("type") == "tool_use"}
    return [event for event in events if event.get("index") not in called]


@pydantic_ai
def test_pydantic_ai_speaks_responses_and_pools() -> None:
    """``api = "responses"`` asks that API; a pool answers, with those who speak its language; limits are found."""
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIResponsesModel

    from factflow_llm.adapters.pydantic_ai import model

    async def crowd(url: str) -> Any:
        async with factory(url) as made:
            responses = model(made, "responses")
            assert isinstance(responses, OpenAIResponsesModel)
            assert (await Agent(responses).run("hello")).output
            agent = Agent(model(made, "pool"))
            return await asyncio.gather(*(agent.run("hello") for _ in range(10)))

    with running_server("openai-tier-5", waits=False) as one:
        assert all(result.output for result in asyncio.run(crowd(one.url)))
        paths = {asked.route for asked in one.conduct.requests}
    assert paths == {"POST /v1/responses", "POST /v1/chat/completions"}


# --- OpenAI Agents SDK


@agents
def test_agents_run_with_tools(server: Loopback) -> None:
    """An agent calls its tool and answers, through refusals; the limiter has seen every attempt."""
    from agents import Agent, Runner, function_tool, set_tracing_disabled

    from factflow_llm.adapters.openai_agents import model

    set_tracing_disabled(True)

    async def talk() -> tuple[Any, int]:
        async with factory(server.url) as made:
            agent = Agent("Watcher", model=model(made), tools=[function_tool(weather)])
            said = (await Runner.run(agent, "How is it in Bern?")).final_output
            return said, made.create_completion_client().limiter.metrics.rate_limited  # type: ignore[attr-defined]

    server.script[:] = [CALL, BUSY, HI]
    assert asyncio.run(talk()) == ("Hi", 1)
    assert server.asked[-1].body["messages"][-1]["content"] == "sunny in Bern"


@agents
def test_agents_stream_and_speak_responses(server: Loopback) -> None:
    """Streamed answers come in pieces; ``api = "responses"`` asks that API."""
    from agents import Agent, Runner, set_tracing_disabled

    from factflow_llm.adapters.openai_agents import model

    set_tracing_disabled(True)
    server.script[:] = [PIECES]

    async def stream() -> str:
        async with factory(server.url) as made:
            run = Runner.run_streamed(Agent("Critic", model=model(made)), "hello")
            async for _ in run.stream_events():
                pass
            return str(run.final_output)

    async def respond(url: str) -> str:
        async with factory(url) as made:
            return str((await Runner.run(Agent("Critic", model=model(made, "responses")), "hello")).final_output)

    assert asyncio.run(stream()) == "Hi"
    with running_server("openai-tier-5", waits=False) as one:
        assert asyncio.run(respond(one.url))
        assert {asked.route for asked in one.conduct.requests} == {"POST /v1/responses"}


@agents
def test_agents_cannot_ask_anthropic_and_say_so(server: Loopback) -> None:
    """The SDK speaks OpenAI's language only: a profile of another provider is refused when the model is made."""
    from factflow_llm.adapters.openai_agents import model

    with pytest.raises(ConfigurationError, match="'claude' is of anthropic, which the openai SDK does not speak"):
        model(factory(server.url), "claude")


# --- all of them


@langchain
@pydantic_ai
@agents
def test_examples_of_the_page_run() -> None:
    """Each block of Python in the page runs as it stands, with a factory before them."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)

    async def run(url: str) -> None:
        async with factory(url) as made:
            for block in blocks:
                names: dict[str, Any] = {"factory": made, "print": lambda *_, **__: None}
                waiting = eval(compile(block, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
                if waiting is not None:
                    await waiting

    with running_server("openai-tier-5", waits=False) as one:
        asyncio.run(run(one.url))
        assert sum(asked.status == 200 for asked in one.conduct.requests) == 4
    assert len(blocks) == 5
