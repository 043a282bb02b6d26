"""Turns that go round: what a provider wants back with its own turn, whole or streamed, comes back as it was."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from factflow_llm import Message, Tool
from tests.support.calling import HELLO, ask, call, follow, message
from tests.support.faces import ANTHROPIC, ANTHROPIC_STREAM, OPENAI, Face, anthropic_answer, openai_answer, openai_chunk
from tests.support.loopback import Asked, Loopback, Reply


def go_round(face: Face, *turns: Any) -> list[Any]:
    """Ask, answer the tools behind ``response.message``, ask again; return the messages of the last request."""

    async def loop(server: Loopback) -> list[Any]:
        tools = [Tool("weather", "Tells the weather", {"type": "object"})]
        async with face.make(server.url) as client:
            answer = await client.complete(HELLO, tools=tools)
            turn = pickle.loads(pickle.dumps(answer.message))
            assert turn == answer.message
            results = [Message.tool("rain", tool_call_id=one.id) for one in answer.tool_calls]
            await client.complete([*HELLO, turn, *results], tools=tools)
        return server.asked[-1].body["messages"]

    with Loopback(*(Reply(turn) for turn in turns)) as server:
        return asyncio.run(loop(server))


def test_thoughts_go_back_to_anthropic_as_they_came() -> None:
    """Signed and redacted thoughts and the server's own tools stand in the next request where they stood."""
    blocks = [
        {"type": "thinking", "thinking": "rain?", "signature": "S1"},
        {"type": "redacted_thinking", "data": "R"},
        {"type": "text", "text": "Let me look."},
        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "Bern"}},
        {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []},
        {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Bern"}},
    ]
    _, turn, result = go_round(ANTHROPIC, anthropic_answer(blocks), anthropic_answer())
    assert turn == {"role": "assistant", "content": blocks}
    assert result["content"][0]["tool_use_id"] == "c1"


def test_a_streamed_turn_goes_back_whole() -> None:
    """What a stream brought in pieces is the same turn as the whole answer's."""
    blocks = [
        {"type": "thinking", "thinking": "rain?", "signature": "S1"},
        {"type": "text", "text": "Let me look."},
        {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Bern"}},
    ]
    events = [
        ANTHROPIC_STREAM[0],
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "rain?"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "S1"}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": "Let me "}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "look."}},
        {"type": "content_block_start", "index": 2, "content_block": {**blocks[2], "input": {}}},
        {
            "type": "content_block_delta",
            "index": 2,
            "delta": {"type": "input_json_delta", "partial_json": '{"city": "Bern"}'},
        },
        *ANTHROPIC_STREAM[-2:],
    ]
    _, streamed = follow(*events, face=ANTHROPIC)
    assert streamed.message == ask(anthropic_answer(blocks), ANTHROPIC).message


@pytest.mark.parametrize(
    "beside",
    [
        {"reasoning_content": "rain?"},
        {"reasoning_details": [{"type": "reasoning.encrypted", "data": "R", "index": 0}]},
        {"extra_content": {"google": {"thought_signature": "S"}}},
    ],
)
def test_state_beside_a_message_goes_back(beside: dict[str, Any]) -> None:
    """Reasoning that a server wants to see again is laid beside the turn; the turn itself is in neutral words."""
    _, turn, _ = go_round(OPENAI, message(tool_calls=[call()], **beside), openai_answer())
    assert {name: turn[name] for name in beside} == beside
    deltas = [openai_chunk({"content": ""} | beside), openai_chunk({"tool_calls": [call(index=0)]}), "[DONE]"]
    _, streamed = follow(*deltas)
    assert streamed.message == ask(message(tool_calls=[call()], **beside)).message


def test_a_calls_own_state_goes_back_with_the_call() -> None:
    """What a provider hangs on a call travels with the call, so a turn built anew from its calls carries it, too."""
    signed = call(extra_content={"google": {"thought_signature": "S"}})
    answer = ask(message(tool_calls=[signed]))
    rebuilt = Message.assistant(answer.text, tool_calls=answer.tool_calls)
    assert rebuilt == answer.message

    async def send(server: Loopback) -> Asked:
        async with OPENAI.make(server.url) as client:
            await client.complete([*HELLO, rebuilt, Message.tool("rain", tool_call_id="c1")])
        return server.asked[0]

    with Loopback(Reply(openai_answer())) as server:
        assert asyncio.run(send(server)).body["messages"][1]["tool_calls"] == [signed]
