"""Whatever a provider says in a turn goes back to it as it came, by property, in both languages."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from factflow_llm.clients.answers import AnswerContext
from factflow_llm.clients.anthropic_answers import read_message
from factflow_llm.clients.anthropic_messages import say_messages as say_to_anthropic
from factflow_llm.clients.openai_answers import read_completion
from factflow_llm.clients.openai_messages import say_messages as say_to_openai
from factflow_llm.types import Message

HELLO = Message.user("hello")
ANTHROPIC = AnswerContext("claude", "anthropic here", {})
OPENAI = AnswerContext("gpt", "openai here", {})

WORDS = st.text(alphabet="ab é😀", min_size=1).filter(str.strip)
OPAQUE = st.dictionaries(st.sampled_from(["data", "signature", "content"]), WORDS, min_size=1)
BLOCKS = st.lists(
    st.one_of(
        st.builds(lambda text: {"type": "text", "text": text}, WORDS),
        st.builds(lambda text, cited: {"type": "text", "text": text, "citations": [cited]}, WORDS, OPAQUE),
        st.builds(lambda kept: {"type": "redacted_thinking", **kept}, OPAQUE),
        st.builds(lambda words: {"type": "thinking", "thinking": words, "signature": "s"}, WORDS),
        st.builds(lambda kept: {"type": "web_search_tool_result", "tool_use_id": "x", **kept}, OPAQUE),
        st.builds(lambda name: {"type": "tool_use", "id": "", "name": name, "input": {"a": 1}}, st.just("look")),
    ),
    min_size=1,
    max_size=6,
)
CALLS = st.lists(st.booleans(), max_size=3)
BESIDE = st.dictionaries(st.sampled_from(["reasoning_content", "reasoning_details", "extra_content"]), OPAQUE)


def numbered(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give each call an id of its own."""
    return [
        {**block, "id": f"call_{number}"} if block["type"] == "tool_use" else block
        for number, block in enumerate(blocks)
    ]


def neutral(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Say what the neutral form holds of blocks: all words as one text, then the calls."""
    words = "".join(block["text"] for block in blocks if block["type"] == "text")
    calls = [block for block in blocks if block["type"] == "tool_use"]
    return [*as_blocks(words), *calls]


def as_blocks(content: Any) -> Any:
    """Write a text as the one block it stands for."""
    return ([{"type": "text", "text": content}] if content else []) if isinstance(content, str) else content


@settings(max_examples=200, deadline=None)
@given(BLOCKS)
def test_blocks_come_back(blocks: list[dict[str, Any]]) -> None:
    """Blocks of any kind, in any order, go back as they came; to another provider go words and calls."""
    blocks = numbered(blocks)
    answer = read_message({"content": blocks, "stop_reason": "end_turn", "usage": {}}, ANTHROPIC, None)
    _, turns = say_to_anthropic([HELLO, answer.message, HELLO], ANTHROPIC.origin)
    assert as_blocks(turns[1]["content"]) == (blocks if answer.provider_state else neutral(blocks))
    _, elsewhere = say_to_anthropic([HELLO, answer.message, HELLO], "anthropic there")
    if neutral(blocks):
        assert as_blocks(elsewhere[1]["content"]) == neutral(blocks)
    else:
        assert len(elsewhere) == 2


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.none(), WORDS), CALLS, BESIDE)
def test_messages_come_back(content: str | None, calls: list[bool], beside: dict[str, Any]) -> None:
    """Fields beside a message and beside its calls go back as they came, edited words as they are."""
    signed = {"extra_content": {"google": {"thought_signature": "s"}}}
    listed = [
        {"id": f"c{n}", "type": "function", "function": {"name": "f", "arguments": "{}"}} | (signed if sign else {})
        for n, sign in enumerate(calls)
    ]
    message = {"role": "assistant", "content": content, **beside, **({"tool_calls": listed} if listed else {})}
    answer = read_completion({"choices": [{"message": message, "finish_reason": "stop"}]}, OPENAI, None)
    said = say_to_openai([HELLO, answer.message], OPENAI.origin)[1]
    assert said == {**message, "content": content or (None if listed else "")}
    edited = dataclasses.replace(answer.message, content="edited")
    assert say_to_openai([HELLO, edited], OPENAI.origin)[1] == {**message, "content": "edited"}
    elsewhere = say_to_openai([HELLO, answer.message], "openai there")[1]
    assert elsewhere.keys() <= {"role", "content", "tool_calls"}
    assert "signature" not in str(elsewhere)
