"""Every way to ask is said in each provider's words or refused in ours; turns go round whole; oddities are mended."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import pickle
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pytest
from pydantic import BaseModel, RootModel

from factflow_llm.clients.anthropic import AnthropicClient
from factflow_llm.clients.azure import AzureOpenAIClient
from factflow_llm.clients.openai import OpenAIClient
from factflow_llm.errors import ConfigurationError, InvalidRequestError, WrongEventLoopError
from factflow_llm.factory import LLMClientFactory
from factflow_llm.ratelimit.client import RateLimitedClient
from factflow_llm.settings import LLMConfig
from factflow_llm.types import FinishReason, ImagePart, Message, ProviderState, TextPart, Tool, ToolCall
from tests.support.asking import LANGUAGES, LEFT_OUT, REFUSED, SAID, WAYS, Gear, hear, table
from tests.support.faces import (
    ANTHROPIC,
    AWS,
    AZURE,
    BEDROCK,
    KEY,
    OPENAI,
    RESPONSES,
    Face,
    anthropic_answer,
    openai_answer,
    openai_chunk,
)
from tests.support.loopback import Asked, Events, Loopback, Reply

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = Path(__file__).parents[1] / "docs" / "asking.md"
NAMES = {"openai": "OpenAI", "responses": "Responses", "azure": "Azure", "anthropic": "Anthropic", "bedrock": "Bedrock"}
HELLO = [Message.user("hello")]


@pytest.fixture(scope="module")
def heard() -> dict[str, dict[str, str]]:
    """What became of every way to ask, by provider."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in AWS.items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        return {face.name: hear(face) for face in (OPENAI, RESPONSES, AZURE, ANTHROPIC, BEDROCK)}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
@pytest.mark.parametrize("name", LANGUAGES)
def test_way_is_said(heard: dict[str, dict[str, str]], name: str, way: Any) -> None:
    """What a provider can do is said in its words; what it cannot is refused, or left out where that is harmless."""
    expected = {SAID} if LANGUAGES[name] in way.signs else {LEFT_OUT, REFUSED}
    assert heard[name][way.name] in expected


def test_page_shows_the_table(heard: dict[str, dict[str, str]]) -> None:
    """The documentation holds the table as it comes out today; the message is what belongs there."""
    assert table(heard, lambda name: NAMES[name]) in PAGE.read_text(encoding="utf-8"), table(heard, NAMES.__getitem__)


def exchange(face: Face, *replies: Any, model: str | None = None) -> Callable[..., tuple[Any, Any]]:
    """Make a function that completes once with the next reply, and returns the answer and the request's body."""
    left = list(replies)

    def ask(messages: Any = HELLO, **asked: Any) -> tuple[Any, Any]:
        async def call(server: Loopback) -> Any:
            async with face.make(server.url, **{} if model is None else {"model": model}) as client:
                return await client.complete(messages, **asked)

        with Loopback(Reply(left.pop(0) if left else face.answer)) as server:
            return asyncio.run(call(server)), server.asked[0].body

    return ask


_TOKEN = {"token": "4", "logprob": -0.1, "top_logprobs": [{"token": "5", "logprob": -3.0}]}


def _answer_the_page(asked: Asked) -> Reply | Events:
    """Answer what an example of the page asks: a call where there are tools, JSON where a schema is asked for."""
    body = asked.body
    message: dict[str, Any] = {"role": "assistant", "content": "40"}
    if "response_format" in body:
        message["content"] = '{"teeth": 40, "maker": "Nagl"}'
    elif "tools" in body and body["messages"][-1]["role"] != "tool":
        function = {"name": "lookup", "arguments": '{"number": "7"}'}
        message |= {"content": None, "tool_calls": [{"id": "c1", "type": "function", "function": function}]}
    if body.get("stream"):
        return Events([openai_chunk({"content": message["content"]}), openai_chunk({}, "stop"), "[DONE]"])
    logprobs = {"content": [_TOKEN]} if body.get("logprobs") else None
    choices = [
        {"index": i, "message": message, "finish_reason": "stop", "logprobs": logprobs} for i in range(body.get("n", 1))
    ]
    return Reply(openai_answer(choices=choices))


def test_examples_of_the_page_run() -> None:
    """Each block of Python in the page runs as it stands, one after another, with a client before them."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)

    async def run(server: Loopback) -> None:
        async with OPENAI.make(server.url, "gpt-5.6") as client:
            names: dict[str, Any] = {"client": client, "print": lambda *_, **__: None}
            for block in blocks:
                code = compile(block, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                waiting = eval(code, names)
                if waiting is not None:
                    await waiting

    with Loopback(_answer_the_page) as server:
        asyncio.run(run(server))
    assert len(server.asked) == len(re.findall("await client.complete|client.stream", "".join(blocks)))


# --- turns that go round ---------------------------------------------------------------------------------------------

BLOCKS: list[Any] = [
    {"type": "thinking", "thinking": "count them", "signature": "c2ln"},
    {"type": "text", "text": "I look "},
    {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"query": "gears"}},
    {"type": "web_search_tool_result", "tool_use_id": "srv_1", "content": [{"type": "x", "encrypted_content": "e"}]},
    {"type": "text", "text": "it up", "citations": [{"type": "char_location", "cited_text": "40"}]},
    {"type": "redacted_thinking", "data": "cmVk"},
    {"type": "tool_use", "id": "toolu_1", "name": "lookup", "input": {"number": "7"}},
]


def test_anthropic_turn_goes_round_whole() -> None:
    """Thoughts, their signatures and the server's own tools come back where they stood."""
    ask = exchange(ANTHROPIC, anthropic_answer(BLOCKS))
    answer, _ = ask()
    assert (answer.text, answer.reasoning) == ("I look it up", "count them")
    _, body = ask([*HELLO, answer.message, Message.tool("40 teeth", tool_call_id="toolu_1")])
    assert body["messages"][1] == {"role": "assistant", "content": BLOCKS}


def test_anthropic_calls_go_round_without_their_message() -> None:
    """Who writes the turn anew from text and calls sends the thoughts that belong to the calls all the same."""
    other = {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}}
    two: list[Any] = [BLOCKS[0], BLOCKS[-1], BLOCKS[5], other]
    ask = exchange(ANTHROPIC, anthropic_answer(two))
    answer, _ = ask()
    turn = Message.assistant(answer.text, tool_calls=answer.tool_calls)
    results = [Message.tool("x", tool_call_id=call.id) for call in answer.tool_calls]
    _, body = ask([*HELLO, turn, *results])
    assert body["messages"][1]["content"] == two


def test_paused_turn_is_sent_back_to_go_on() -> None:
    """A turn that the server paused goes back as the last one."""
    paused: list[Any] = [BLOCKS[2], BLOCKS[3]]
    ask = exchange(ANTHROPIC, anthropic_answer(paused, finish="pause_turn"))
    answer, _ = ask()
    _, body = ask([*HELLO, answer.message])
    assert body["messages"][-1] == {"role": "assistant", "content": paused}


def test_edited_turn_goes_out_edited() -> None:
    """What was struck from a turn does not come back by its state."""
    ask = exchange(ANTHROPIC, anthropic_answer(BLOCKS))
    answer, _ = ask()
    turn = dataclasses.replace(answer.message, content="[struck]", tool_calls=())
    _, body = ask([*HELLO, turn, *HELLO])
    content = body["messages"][1]["content"]
    assert [block["text"] for block in content if block["type"] == "text"] == ["[struck]"]
    assert "tool_use" not in {block["type"] for block in content}
    assert "look" not in str(content)
    assert BLOCKS[0] in content


@pytest.mark.parametrize(
    "beside",
    [
        {"reasoning_content": "count them"},
        {"reasoning": "count them", "reasoning_details": [{"type": "reasoning.encrypted", "data": "e"}]},
        {"extra_content": {"google": {"thought_signature": "c2ln"}}},
    ],
    ids=["deepseek", "openrouter", "gemini"],
)
def test_chat_turn_goes_round_whole(beside: dict[str, Any]) -> None:
    """What servers put beside an answer and beside its calls comes back to them."""
    function = {"name": "lookup", "arguments": ""}
    call = {"id": "c1", "type": "function", "function": function, "extra_content": {"google": {"signature": "s"}}}
    ask = exchange(OPENAI, openai_answer({"role": "assistant", "content": None, "tool_calls": [call], **beside}))
    answer, _ = ask()
    _, body = ask([*HELLO, answer.message, Message.tool("40 teeth", tool_call_id="c1")])
    sent = body["messages"][1]
    assert sent.items() >= beside.items()
    assert sent["content"] is None
    assert sent["tool_calls"] == [call | {"function": {"name": "lookup", "arguments": "{}"}}]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_chat_calls_go_round_without_their_message(streamed: bool) -> None:
    """Who writes the turn anew from text and calls sends what belongs beside them all the same."""
    function = {"name": "lookup", "arguments": "{}"}
    calls = [{"id": f"c{number}", "type": "function", "function": function} for number in range(2)]
    pieces = [{**call, "index": number} for number, call in enumerate(calls)]
    deltas = [{"reasoning_content": "count "}, {"reasoning_content": "them"}, *({"tool_calls": [p]} for p in pieces)]
    events = Events([*(openai_chunk(delta) for delta in deltas), openai_chunk({}, "tool_calls"), "[DONE]"])
    message = {"role": "assistant", "content": None, "reasoning_content": "count them", "tool_calls": calls}

    async def call(server: Loopback) -> Any:
        async with OPENAI.make(server.url) as client:
            if streamed:
                async with client.stream(HELLO) as stream:
                    async for _ in stream:
                        pass
                answer = stream.response
            else:
                answer = await client.complete(HELLO)
            turn = Message.assistant(answer.text, tool_calls=answer.tool_calls)
            results = [Message.tool("x", tool_call_id=one.id) for one in answer.tool_calls]
            await client.complete([*HELLO, turn, *results])
            return server.asked[-1].body["messages"][1]

    with Loopback(events if streamed else Reply(openai_answer(message)), Reply(openai_answer())) as server:
        sent = asyncio.run(call(server))
    assert sent["reasoning_content"] == "count them"
    assert sent["tool_calls"] == calls


FOREIGN = [Message.user("Which?"), Message.assistant(tool_calls=(ToolCall("c1", "f", "{}"), ToolCall("c2", "f", "{}")))]
RESULTS = [Message.tool("x", tool_call_id=call_id) for call_id in ("c1", "c2")]


def test_gemini_is_told_that_a_foreign_call_is_unsigned() -> None:
    """Gemini since 3 refuses a turn whose calls another model made, unless told to skip the check."""
    ask = exchange(OPENAI, openai_answer(), openai_answer(), model="gemini-3-flash")
    calls = ask([*FOREIGN, *RESULTS])[1]["messages"][1]["tool_calls"]
    assert calls[0]["extra_content"] == {"google": {"thought_signature": "skip_thought_signature_validator"}}
    assert "extra_content" not in calls[1]
    earlier = exchange(OPENAI, model="gemini-2.5-pro")([*FOREIGN, *RESULTS])[1]["messages"][1]["tool_calls"]
    assert all("extra_content" not in call for call in earlier)


def test_server_that_thinks_gets_thoughts_with_every_call() -> None:
    """A server that has sent reasoning_content wants it on all turns with calls, be it empty."""
    state = ProviderState.of("openai 127.0.0.1", {"reasoning_content": "6 x 7"})
    own = dataclasses.replace(Message.assistant("42"), provider_state=state)
    _, body = exchange(OPENAI)([*FOREIGN, *RESULTS, own, *HELLO])
    assert [turn.get("reasoning_content") for turn in body["messages"] if turn["role"] == "assistant"] == ["", "6 x 7"]
    _, body = exchange(OPENAI)([*FOREIGN, *RESULTS])
    assert "reasoning_content" not in body["messages"][1]


def test_half_a_character_a_provider_gave_is_no_obstacle() -> None:
    """What a provider wants back goes back, though it was cut within a character."""
    state = ProviderState.of("openai 127.0.0.1", {"reasoning_content": "6 x 7 \ud83d"})
    turn = dataclasses.replace(Message.assistant("42"), provider_state=state)
    _, body = exchange(OPENAI)([*HELLO, turn, *HELLO])
    assert body["messages"][1]["reasoning_content"] == "6 x 7 ?"


def test_thoughts_within_the_content_go_round() -> None:
    """A content of parts, as Mistral has it, comes back as parts, with the words of the message."""
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "6 x 7"}]}
    parts = [thought, {"type": "text", "text": "42"}]
    ask = exchange(OPENAI, openai_answer({"role": "assistant", "content": parts}, finish="stop"))
    answer, _ = ask()
    assert answer.text == "42"
    assert ask([*HELLO, answer.message, *HELLO])[1]["messages"][1]["content"] == parts
    edited = dataclasses.replace(answer.message, content="41, say")
    again = exchange(OPENAI)([*HELLO, edited, *HELLO])[1]["messages"][1]["content"]
    assert again == [thought, {"type": "text", "text": "41, say"}]


@pytest.mark.parametrize(("first", "then"), [(ANTHROPIC, OPENAI), (OPENAI, ANTHROPIC)], ids=["to openai", "to claude"])
def test_another_provider_gets_words_only(first: Face, then: Face) -> None:
    """Opaque state stays with the provider that gave it; text, calls and results go on."""
    message = {"role": "assistant", "content": "I look it up", "reasoning_content": "secret thoughts"}
    function = {"name": "lookup", "arguments": '{"number": "7"}'}
    spoken = openai_answer(message | {"tool_calls": [{"id": "call/1", "type": "function", "function": function}]})
    answer, _ = exchange(first, spoken if first is OPENAI else anthropic_answer(BLOCKS))()
    results = [Message.tool("40 teeth", tool_call_id=call.id) for call in answer.tool_calls]
    _, body = exchange(then)([*HELLO, answer.message, *results])
    said = str(body["messages"])
    assert "I look it up" in said
    assert "lookup" in said
    for opaque in ("c2ln", "cmVk", "secret thoughts", "encrypted", "call/1"):
        assert opaque not in said


def test_turn_is_a_value() -> None:
    """An answered turn is equal to its copy by pickle, can be hashed, and shows nothing of itself."""
    answer, _ = exchange(ANTHROPIC, anthropic_answer(BLOCKS))()
    copy = pickle.loads(pickle.dumps(answer.message))
    assert copy == answer.message
    assert hash(copy) == hash(answer.message)
    assert dataclasses.replace(copy, content="other") != answer.message
    for word in ("I look", "count", "c2ln", "gears"):
        assert word not in repr(copy)


def test_state_of_a_gateway_is_its_path() -> None:
    """One host with two providers behind it is told apart by path; a port and /v1 are nobody's name."""
    state = ProviderState.of("openai 127.0.0.1/deep", {"reasoning_content": "deep"})
    turn = Message.assistant("42")
    turn = dataclasses.replace(turn, provider_state=state)

    async def ask(url: str, server: Loopback) -> Any:
        async with OpenAIClient("m", api_key=KEY, base_url=url) as client:
            await client.complete([*HELLO, turn, *HELLO])
            return server.asked[-1].body["messages"][1]

    with Loopback(Reply(openai_answer())) as server:
        assert "reasoning_content" in asyncio.run(ask(f"{server.url}/deep/v1", server))
        assert "reasoning_content" not in asyncio.run(ask(f"{server.url}/other/v1", server))


# --- what is mended on the way out -----------------------------------------------------------------------------------


def test_blank_texts_are_left_out_for_anthropic() -> None:
    """Blank text beside a call, blank parts, and a turn that said nothing are no blocks."""
    turn = Message.assistant(" \n", tool_calls=(ToolCall("c 1", "now", " "),))
    conversation = [
        Message.user([TextPart(" "), TextPart("hello")]),
        turn,
        Message.tool("  ", tool_call_id="c 1"),
        Message.assistant(""),
        Message.user("go on"),
        Message.assistant("Well, \n"),
    ]
    _, body = exchange(ANTHROPIC)(conversation)
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "hello"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c_1", "name": "now", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c_1", "content": []}]},
        {"role": "user", "content": "go on"},
        {"role": "assistant", "content": "Well,"},
    ]


def test_files_of_tools_follow_the_last_result() -> None:
    """A tool's turn holds text alone in OpenAI's language: what else it returned follows, after all results."""
    calls = tuple(ToolCall(f"c{number}", "look", "{}") for number in (1, 2))
    picture = ImagePart(data=b"png", media_type="image/png")
    conversation = [
        *HELLO,
        Message.assistant(tool_calls=calls),
        Message.tool([picture], tool_call_id="c1"),
        Message.tool("nothing", tool_call_id="c2"),
        Message.user("well?"),
    ]
    _, body = exchange(OPENAI)(conversation)
    roles = [message["role"] for message in body["messages"]]
    assert roles == ["user", "assistant", "tool", "tool", "user", "user"]
    assert body["messages"][2]["content"] == "What it returned follows in the next turn."
    assert [part["type"] for part in body["messages"][4]["content"]] == ["text", "image_url"]


@pytest.mark.parametrize("face", [OPENAI, ANTHROPIC], ids=lambda face: face.name)
def test_choice_among_no_tools_is_left_out(face: Face) -> None:
    """Servers refuse a choice among tools that are not there."""
    _, body = exchange(face)(tool_choice="auto", parallel_tool_calls=False)
    assert body.keys().isdisjoint({"tool_choice", "parallel_tool_calls"})


HALF = "\ud83d"
NOWHERE = Message.assistant(tool_calls=(ToolCall("c", "f", HALF),))


@pytest.mark.parametrize(
    ("messages", "asked"),
    [
        ([Message("user", "x", name=HALF)], {}),  # type: ignore[arg-type]
        ([*HELLO, NOWHERE], {}),
        ([*HELLO, Message.tool("x", tool_call_id=HALF)], {}),
        ([Message.user([{"type": "video_url", "video_url": {"url": HALF}}])], {}),
        (HELLO, {"tools": [Tool("f", parameters={"properties": {HALF: {}}})]}),
        (HELLO, {"tools": [{"type": "web_search", "domains": [HALF]}]}),
        (HELLO, {"extra_body": {"deep": [{"er": HALF}]}}),
        (HELLO, {"tool_choice": {"type": HALF}}),
        (HELLO, {"response_format": {"title": "x", "description": HALF, "type": "object"}}),
    ],
    ids=["name", "arguments", "call id", "own part", "schema", "own tool", "option", "choice", "format"],
)
@pytest.mark.parametrize("face", [OPENAI, ANTHROPIC], ids=lambda face: face.name)
def test_half_a_character_is_told_anywhere(face: Face, messages: Any, asked: dict[str, Any]) -> None:
    """Half a surrogate pair cannot be sent: the error says where it stands, and nothing of the text."""
    with pytest.raises(InvalidRequestError, match="holds half a character at 0"):
        exchange(face)(messages, **asked)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"reasoning": "hgih"}, "must be an effort"),
        ({"reasoning": 0}, "must be an effort"),
        ({"seed": 1.5}, "seed=1.5 must be a whole number"),
        ({"n": 0}, "n=0 must be a whole number from 1"),
        ({"logprobs": -1}, "logprobs=-1 must be True"),
        ({"tool_choice": "lookup"}, "tool_choice='lookup' names no tool"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls='no' must be True or False"),
        ({"parallel_tool_calls": []}, r"parallel_tool_calls=\[\] must be True or False"),
        ({"messages": [Message.user([{"text": "x"}])]}, "the provider's own words as"),
        ({"messages": [Message.user([TextPart("x", cache="2h")])]}, r"content\[0\] has cache='2h': write True"),  # type: ignore[arg-type]
        ({"tools": [Tool("f", cache="2h")]}, r"tools\[0\] has cache='2h': write True"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_meant(asked: dict[str, Any], words: str) -> None:
    """A wish that cannot be meant fails before anything is sent."""
    with pytest.raises(InvalidRequestError, match=words):
        exchange(OPENAI)(**asked)


@pytest.mark.parametrize(
    ("model", "max_tokens", "reasoning", "sent"),
    [
        ("claude-3-7-sonnet-20250219", None, "low", {"max_tokens": 6144, "thinking": 2048}),
        ("claude-haiku-4-5", 5000, "high", {"max_tokens": 5000, "thinking": 4999}),
        ("claude-opus-4-6", None, "xhigh", {"max_tokens": 36_864, "effort": "high"}),
        ("claude-opus-4-8", 900, 20_000, {"max_tokens": 900, "effort": "xhigh"}),
        ("claude-fable-5", None, "minimal", {"max_tokens": 5120, "effort": "low"}),
    ],
)
def test_how_claude_is_told_to_think(model: str, max_tokens: Any, reasoning: Any, sent: dict[str, Any]) -> None:
    """Older models get a budget, newer ones an effort; there is room for the thoughts beside the answer."""
    _, body = exchange(ANTHROPIC, model=model)(max_tokens=max_tokens, reasoning=reasoning)
    told = {"max_tokens": body["max_tokens"]}
    if body["thinking"]["type"] == "enabled":
        told["thinking"] = body["thinking"]["budget_tokens"]
    else:
        told["effort"] = body["output_config"]["effort"]
    assert told == sent


@pytest.mark.parametrize(("max_tokens", "reasoning"), [(1000, "low"), (3000, 3000), (None, 100)])
def test_claude_needs_room_to_think(max_tokens: Any, reasoning: Any) -> None:
    """A budget that leaves no room for an answer, or is less than Anthropic takes, fails before it is sent."""
    with pytest.raises(InvalidRequestError, match="thinks in no fewer than 1024 tokens"):
        exchange(ANTHROPIC, model="claude-haiku-4-5")(max_tokens=max_tokens, reasoning=reasoning)


@pytest.mark.parametrize(
    ("model", "asked", "sent"),
    [
        ("gpt-5.2", {}, True),
        ("gpt-5.4", {"reasoning": "none"}, True),
        ("gpt-5.2", {"reasoning": "low"}, False),
        ("gpt-5", {}, False),
        ("o3", {}, False),
    ],
)
def test_temperature_of_models_that_can_do_without_thoughts(model: str, asked: Any, sent: bool) -> None:
    """gpt-5.1 to 5.4 reason only when asked, and take a temperature unless they are."""
    ask = exchange(OPENAI, model=model)
    if sent:
        assert ask(temperature=0.2, **asked)[1]["temperature"] == 0.2
    else:
        with pytest.raises(InvalidRequestError, match="takes only 1"):
            ask(temperature=0.2, **asked)


# --- what comes back of it -------------------------------------------------------------------------------------------


class Sizes(RootModel[list[int]]):
    """An answer that is no object."""


T = TypeVar("T")


class Listing(BaseModel, Generic[T]):
    """A model with a parameter."""

    items: list[T]


@pytest.mark.parametrize(
    ("form", "text", "parsed"),
    [
        (Gear, '{"teeth": 40}', Gear(teeth=40)),
        (Listing[int], '{"items": [1]}', Listing[int](items=[1])),
        (Sizes, '{"value": [1, 2]}', Sizes([1, 2])),
        (Sizes, "[1, 2]", Sizes([1, 2])),
    ],
    ids=["plain", "generic", "wrapped", "bare"],
)
def test_answer_is_an_instance_of_the_model(form: Any, text: str, parsed: Any) -> None:
    """The text is read as the model that was asked for, and kept."""
    answer, _ = exchange(OPENAI, openai_answer({"role": "assistant", "content": text}))(response_format=form)
    assert (answer.parsed, answer.text, answer.parse_error) == (parsed, text, None)


@pytest.mark.parametrize("text", ['{"teeth": "many"}', '{"teeth": 4', '{"value": 3}'])
def test_answer_that_does_not_fit(text: str) -> None:
    """The text stays; what does not fit is told by place and rule, without a word of it."""
    answer, _ = exchange(OPENAI, openai_answer({"role": "assistant", "content": text}))(response_format=Gear)
    assert (answer.parsed, answer.text) == (None, text)
    assert answer.parse_error.startswith("the answer is no Gear: ")
    assert "many" not in answer.parse_error


def test_several_answers_and_their_probabilities() -> None:
    """All answers stand in ``responses``, the first is the answer; probabilities are read where they are told."""
    logprobs = {"content": [{"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "b", "logprob": -2}]}]}
    choices = [
        {"index": i, "message": {"role": "assistant", "content": f"{i}"}, "finish_reason": "stop", "logprobs": logprobs}
        for i in range(3)
    ]
    answer, body = exchange(OPENAI, openai_answer(choices=choices))(n=3, logprobs=1)
    assert (body["n"], body["logprobs"], body["top_logprobs"]) == (3, True, 1)
    assert [one.text for one in answer.responses] == ["0", "1", "2"]
    assert (answer.text, answer.usage.input_tokens, answer.finish_reason) == ("0", 20, FinishReason.STOP)
    (token,) = answer.logprobs
    assert (token.token, token.logprob, token.likeliest[0].token) == ("a", -0.5, "b")


# --- where it is sent ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blank", ["", "  "])
@pytest.mark.parametrize(
    ("variable", "make", "host"),
    [
        ("OPENAI_BASE_URL", OpenAIClient, "https://api.openai.com/v1/"),
        ("ANTHROPIC_BASE_URL", AnthropicClient, "https://api.anthropic.com"),
    ],
)
def test_blank_address_is_the_default(
    variable: str, make: Any, host: str, blank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that is set to nothing says nothing."""
    monkeypatch.setenv(variable, blank)
    assert str(make("m", api_key=KEY)._client.base_url) == host


@pytest.mark.parametrize("tail", ["", "/", "/v1", "/v1/", "/v1/messages"])
def test_anthropic_address_is_mended(tail: str) -> None:
    """The SDK adds the version itself; an address that holds it already is understood."""

    async def ask(server: Loopback) -> str:
        async with AnthropicClient("claude-haiku-4-5", api_key=KEY, base_url=server.url + tail) as client:
            await client.complete(HELLO)
            return server.asked[0].path

    with Loopback(Reply(anthropic_answer())) as server:
        assert asyncio.run(ask(server)) == "/v1/messages"


@pytest.mark.parametrize(
    ("tail", "version", "path"),
    [
        ("/openai/deployments/fast/chat/completions?api-version=2024-10-21", None, "/openai/deployments/fast/"),
        ("/openai/deployments/fast/embeddings?api-version=2024-06-01", "2024-10-21", "/openai/deployments/fast/"),
        ("/openai/v1/chat/completions", None, "/openai/v1/chat/completions"),
        ("/openai/v1/responses?api-version=preview", None, "/openai/v1/chat/completions"),
        ("/api/projects/gears", None, "/openai/v1/chat/completions"),
        ("/gateway/openai/deployments/fast/chat/completions?api-version=1", None, "/gateway/openai/deployments/fast/"),
    ],
)
def test_azure_target_uri_is_understood(tail: str, version: str | None, path: str) -> None:
    """The address the portal shows, with deployment, call and version in it, leads to the resource."""

    async def ask(server: Loopback) -> str:
        async with AzureOpenAIClient("gpt-4o", api_key=KEY, base_url=server.url + tail, api_version=version) as client:
            await client.complete(HELLO)
            return server.asked[0].path

    with Loopback(Reply(openai_answer())) as server:
        assert asyncio.run(ask(server)).startswith(path)


def test_azure_address_of_another_deployment() -> None:
    """Two deployments are one too many: the error says what to write."""
    url = "https://x.openai.azure.com/openai/deployments/fast/chat/completions?api-version=1"
    with pytest.raises(ConfigurationError, match=r"write base_url='https://x\.openai\.azure\.com'"):
        AzureOpenAIClient("gpt-4o", api_key=KEY, base_url=url, deployment="slow")


@pytest.mark.parametrize("face", [OPENAI, AZURE, ANTHROPIC], ids=lambda face: face.name)
def test_one_client_in_many_loops(face: Face) -> None:
    """A bare client works in one event loop after another, and leaves nothing open in any."""
    with Loopback(Reply(face.answer)) as server:
        client = face.make(server.url)
        assert [asyncio.run(client.complete(HELLO)).text for _ in range(3)] == ["Hello"] * 3
        asyncio.run(client.aclose())


def test_system_turn_in_the_providers_words_stays_in_its_place() -> None:
    """Plain system turns are lifted out; one in Anthropic's own words is meant where it stands."""
    own = {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "lookup"}}
    conversation = [Message.system("short"), *HELLO, Message.system([own]), Message.system("kind")]
    _, body = exchange(ANTHROPIC)(conversation)
    assert [block["text"] for block in body["system"]] == ["short", "kind"]
    assert body["messages"][1] == {"role": "system", "content": [own]}


@pytest.mark.parametrize("use", ["complete", "stream", "embed", "limited", "factory"])
def test_trio_is_refused_in_words(use: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under trio the error says what to do; trio itself need not be installed to tell."""
    lowlevel = SimpleNamespace(current_task=lambda: "a task of trio")
    monkeypatch.setitem(sys.modules, "trio", SimpleNamespace(lowlevel=lowlevel))
    config = LLMConfig(providers={"default": {"provider": "openai", "model": "m", "api_key": KEY}})  # type: ignore[dict-item]

    async def ask() -> Any:
        if use == "factory":
            return await LLMClientFactory(config).create_completion_client().complete(HELLO)
        client = _offline()
        if use == "embed":
            return await client.embed(["x"])
        if use == "stream":
            return await anext(client.stream(HELLO))
        return await (RateLimitedClient(client, None) if use == "limited" else client).complete(HELLO)

    def _offline() -> OpenAIClient:
        monkeypatch.delitem(sys.modules, "trio")
        client = OpenAIClient("m", api_key=KEY, base_url="http://127.0.0.1:1/v1")
        monkeypatch.setitem(sys.modules, "trio", SimpleNamespace(lowlevel=lowlevel))
        return client

    with pytest.raises(WrongEventLoopError, match="runs on asyncio, and this is trio"):
        ask().send(None)


def test_name_of_a_model_is_sound() -> None:
    """A model's name that cannot be sent fails where it is written."""
    with pytest.raises(ConfigurationError, match="must be the name of a model"):
        OpenAIClient(f"gpt{HALF}", api_key=KEY)
