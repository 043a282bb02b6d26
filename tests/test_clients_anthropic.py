"""Anthropic's own ways: system prompt, blocks, thinking, temperature; over the real SDK and a loopback server."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import anthropic
import pytest
from pydantic import BaseModel

from factflow_llm.errors import ConfigurationError, InvalidRequestError
from factflow_llm.types import ImagePart, Message, StreamChunk, TextPart, Tool, ToolCall, Usage
from tests.support.faces import ANTHROPIC, ANTHROPIC_STREAM, anthropic_answer
from tests.support.loopback import Asked, Events, Loopback, Reply

HELLO = [Message.user("hello")]
OLD_SDK = "temperature" in inspect.signature(anthropic.AsyncAnthropic(api_key="k").messages.create).parameters


def ask(
    messages: Any = HELLO, *, model: str = "claude-haiku-4-5", reply: Any = None, made: Any = None, **asked: Any
) -> tuple[Any, Asked]:
    """Complete once and return the answer and the request."""

    async def call(server: Loopback) -> Any:
        async with ANTHROPIC.make(server.url, model, **made or {}) as client:
            return await client.complete(messages, **asked)

    with Loopback(Reply(reply or ANTHROPIC.answer)) as server:
        return asyncio.run(call(server)), server.asked[0]


def test_conversation_on_the_wire() -> None:
    """The system prompt is lifted out, tool results are joined in one turn, images and calls are said in blocks."""
    _, asked = ask(
        [
            Message.system("be short"),
            Message.user([TextPart("what is this?"), ImagePart(url="https://example.org/cat.png")]),
            Message.system("be kind"),
            Message.user([ImagePart(data=b"\x89PNG", media_type="image/png")]),
            Message.assistant(
                "I look", tool_calls=(ToolCall("c1", "weather", '{"city": "Bern"}'), ToolCall("c2", "now", ""))
            ),
            Message.tool("rain", tool_call_id="c1"),
            Message.tool("", tool_call_id="c2"),
        ],
        tools=[Tool("weather", "Tells the weather", {"type": "object"}), Tool("now")],
        tool_choice={"type": "auto"},
    )
    assert asked.path == "/v1/messages"
    assert asked.body == {
        "model": "claude-haiku-4-5",
        "max_tokens": 4096,
        "system": [{"type": "text", "text": "be short"}, {"type": "text", "text": "be kind"}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what is this?"},
                    {"type": "image", "source": {"type": "url", "url": "https://example.org/cat.png"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}}
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "I look"},
                    {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Bern"}},
                    {"type": "tool_use", "id": "c2", "name": "now", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "rain"}]},
                    {"type": "tool_result", "tool_use_id": "c2", "content": []},
                ],
            },
        ],
        "tools": [
            {"name": "weather", "description": "Tells the weather", "input_schema": {"type": "object"}},
            {"name": "now", "input_schema": {"type": "object", "properties": {}}},
        ],
        "tool_choice": {"type": "auto"},
    }


def test_max_tokens_is_defaulted() -> None:
    """Without max_tokens the client's default is sent, and the call's number wins over it, however large."""
    assert ask(made={"default_max_tokens": 512})[1].body["max_tokens"] == 512
    assert ask(max_tokens=64_000)[1].body["max_tokens"] == 64_000
    with pytest.raises(ConfigurationError, match="default_max_tokens=0 must be a whole number from 1"):
        ask(made={"default_max_tokens": 0})


def test_stop_and_seed() -> None:
    """Stop texts have Anthropic's name; a seed it does not know is refused before the call."""
    assert ask(stop=["END"])[1].body["stop_sequences"] == ["END"]
    with pytest.raises(InvalidRequestError, match="has no option 'seed'"):
        ask(seed=7)


@pytest.mark.parametrize("model", ["claude-opus-4-7", "claude-sonnet-5", "claude-opus-5-5", "claude-haiku-5-20270101"])
def test_models_without_temperature(model: str) -> None:
    """Models that take no temperature say so before the call."""
    with pytest.raises(InvalidRequestError, match=rf"{model} takes none; leave it out"):
        ask(model=model, temperature=0.5)


@pytest.mark.parametrize("model", ["claude-haiku-4-5", "claude-opus-4-20250514", "claude-3-5-sonnet-20241022"])
def test_temperature_as_the_sdk_takes_it(model: str) -> None:
    """Older models get the temperature where the SDK still has it; a newer SDK gives our error with the way out."""
    if OLD_SDK:
        assert ask(model=model, temperature=0.5)[1].body["temperature"] == 0.5
    else:
        with pytest.raises(InvalidRequestError, match="pin the older version with headers="):
            ask(model=model, temperature=0.5)


def test_the_way_out_of_the_temperature_error_works() -> None:
    """Pinning the older API version and writing extra_body puts both on the wire."""
    _, asked = ask(made={"headers": {"anthropic-version": "2023-06-01"}}, extra_body={"temperature": 0.5})
    assert (asked.headers["anthropic-version"], asked.body["temperature"]) == ("2023-06-01", 0.5)


def test_temperature_ends_at_one() -> None:
    """Anthropic's scale is shorter than OpenAI's."""
    with pytest.raises(InvalidRequestError, match=r"temperature=1.5 must be a number from 0 to 1"):
        ask(temperature=1.5)


class _City(BaseModel):
    name: str


SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


@pytest.mark.parametrize(
    "wanted", [SCHEMA, {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}, _City]
)
def test_structured_output(wanted: Any) -> None:
    """A model, a schema and OpenAI's form become Anthropic's format, beside the caller's other output settings."""
    _, asked = ask(response_format=wanted, output_config={"effort": "low"})
    sent = asked.body["output_config"]
    assert (sent["effort"], sent["format"]["type"]) == ("low", "json_schema")
    assert sent["format"]["schema"]["required"] == ["name"]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([Message.system("x")], "holds only system turns"),
        ([Message.user("x"), Message.user(" \n")], r"messages\[1\] is empty"),
        ([Message.assistant(tool_calls=(ToolCall("c", "f", "{oops"),))], r"messages\[0\]: the arguments of .*'f'"),
        ([Message.assistant(tool_calls=(ToolCall("c", "f", "[1]"),))], r"messages\[0\]: the arguments of .*'f'"),
    ],
)
def test_what_anthropic_cannot_be_told(messages: Any, words: str) -> None:
    """Conversations OpenAI would take but Anthropic would not are refused before the call, by position."""
    with pytest.raises(InvalidRequestError, match=words):
        ask(messages)


def test_json_object_needs_a_schema() -> None:
    """Free-form JSON is nothing Anthropic offers."""
    with pytest.raises(InvalidRequestError, match="only to a schema"):
        ask(response_format={"type": "json_object"})


def test_thinking_is_reasoning() -> None:
    """Thinking blocks are told apart from the answer, whole and in pieces; signatures are passed over."""
    thought = {"type": "thinking", "thinking": "6 x 7", "signature": "s"}
    answer, _ = ask(reply=anthropic_answer([thought, {"type": "text", "text": "42"}]))
    assert (answer.text, answer.reasoning) == ("42", "6 x 7")

    async def call(server: Loopback) -> list[StreamChunk]:
        async with ANTHROPIC.make(server.url) as client:
            return [chunk async for chunk in client.stream(HELLO)]

    pieces = [{"type": "thinking_delta", "thinking": "6 x 7"}, {"type": "signature_delta", "signature": "s"}]
    thinking = [{"type": "content_block_delta", "index": 0, "delta": piece} for piece in pieces]
    with Loopback(Events([ANTHROPIC_STREAM[0], *thinking, *ANTHROPIC_STREAM[-2:]])) as server:
        chunks = asyncio.run(call(server))
    assert [(chunk.text, chunk.reasoning) for chunk in chunks] == [("", "6 x 7"), ("", "")]


def test_uncached_usage() -> None:
    """Without a cache the input count is the provider's own, and what it did not tell is None."""
    answer, _ = ask(reply=anthropic_answer(usage={"input_tokens": 8, "output_tokens": 7}))
    assert answer.usage == Usage(8, 7)


def test_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without api_key the environment's key is sent, in the header of the SDK's version."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-env")
    _, asked = ask(made={"api_key": None})
    assert "sk-env" in (asked.headers.get("x-api-key") or asked.headers["authorization"])
