"""The Responses API's own ways: items, thoughts that go back, tools and formats; over the real SDK and a loopback."""

from __future__ import annotations

import asyncio
import pickle
import random
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from factflow_llm import LLMClientFactory, LLMConfig
from factflow_llm.clients.answers import AnswerContext
from factflow_llm.clients.responses_answers import ResponseReader, read_response
from factflow_llm.errors import (
    BadResponseError,
    ConfigurationError,
    ErrorReason,
    InvalidRequestError,
    LLMErrorClassification,
    get_error_metadata,
)
from factflow_llm.types import DocumentPart, FinishReason, ImagePart, Message, TextPart, Tool, ToolCall, Usage
from tests.support.faces import OPENAI, RESPONSE_STREAM, RESPONSES, response_answer, response_event
from tests.support.loopback import Events, Loopback, Reply

if TYPE_CHECKING:
    from factflow_llm.types import CompletionResponse, StreamChunk

HELLO = [Message.user("hello")]
WEATHER = Tool("weather", "Tells the weather", {"type": "object", "properties": {"city": {"type": "string"}}})
THOUGHT = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [{"type": "summary_text", "text": "hmm"}, {"type": "summary_text", "text": "so"}],
    "encrypted_content": "SECRET",
    "status": None,
}
SEARCH = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}}
SAID, CALLED = response_answer()["output"]


def ask(
    messages: list[Message] = HELLO, *, reply: Any = None, model: str = "gpt-5.5", **asked: Any
) -> tuple[CompletionResponse, dict[str, Any]]:
    """Complete once; return the answer and the body that was sent."""

    async def main(url: str) -> CompletionResponse:
        async with RESPONSES.make(url, model=model) as client:
            return await client.complete(messages, **asked)

    with Loopback(reply if isinstance(reply, Reply) else Reply(reply or response_answer())) as server:
        return asyncio.run(main(server.url)), server.asked[0].body


def follow(*events: dict[str, Any]) -> tuple[list[StreamChunk], CompletionResponse]:
    """Stream once to the end; return the pieces and the whole answer."""

    async def main(url: str) -> tuple[list[StreamChunk], CompletionResponse]:
        async with RESPONSES.make(url) as client:
            stream = client.stream(HELLO)
            return [chunk async for chunk in stream], stream.response

    with Loopback(Events(events)) as server:
        return asyncio.run(main(server.url))


def test_a_conversation_is_a_list_of_items() -> None:
    """Turns, calls and results are items; images and documents stand in a result as in a turn."""
    image, document = ImagePart(data=b"x", media_type="image/png"), DocumentPart(data=b"y", name="a.pdf")
    _, body = ask(
        [
            Message.system("Be brief."),
            Message.user([TextPart("look"), ImagePart(url="https://e.org/x.png", detail="low"), document]),
            Message.assistant("I look.", tool_calls=(ToolCall("call_1", "weather", ""),)),
            Message.tool([TextPart("42"), image], tool_call_id="call_1"),
            Message.tool("no such place", tool_call_id="call_2", is_error=True),
        ],
        max_tokens=99,
        reasoning=9_000,
        tool_choice="weather",
        parallel_tool_calls=False,
        tools=[WEATHER, {"type": "web_search"}],
    )
    assert body["input"] == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "look"},
                {"type": "input_image", "detail": "low", "image_url": "https://e.org/x.png"},
                {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,eQ=="},
            ],
        },
        {"role": "assistant", "content": "I look."},
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
        {
            "type": "function_call_output",
            "call_id": "call_1",
            "output": [
                {"type": "input_text", "text": "42"},
                {"type": "input_image", "detail": "auto", "image_url": "data:image/png;base64,eA=="},
            ],
        },
        {"type": "function_call_output", "call_id": "call_2", "output": "Error: no such place"},
    ]
    assert (body["max_output_tokens"], body["reasoning"]) == (99, {"effort": "high"})
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ({"type": "function", "name": "weather"}, False)
    assert body["tools"] == [
        {
            "type": "function",
            "name": "weather",
            "description": "Tells the weather",
            "parameters": WEATHER.parameters,
            "strict": False,
        },
        {"type": "web_search"},
    ]
    assert body["include"] == ["reasoning.encrypted_content"]


def test_formats_and_options() -> None:
    """A model becomes a strict schema beside what else is asked of the text; a chat model is asked for no thoughts."""

    class Report(BaseModel):
        title: str

    answer, body = ask(
        model="gpt-4o",
        response_format=Report,
        text={"verbosity": "low"},
        logprobs=3,
        store=False,
        reply=response_answer({**SAID, "content": [{"type": "output_text", "text": '{"title": "x"}'}]}),
    )
    form = body["text"]["format"]
    assert (form["type"], form["name"], form["strict"]) == ("json_schema", "Report", True)
    assert form["schema"]["additionalProperties"] is False
    assert (body["text"]["verbosity"], body["store"], body["top_logprobs"]) == ("low", False, 3)
    assert body["include"] == ["message.output_text.logprobs"]
    assert answer.parsed == Report(title="x")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"seed": 7}, "has no option 'seed'"),
        ({"n": 2}, "call as often as you want answers"),
        ({"stop": "END"}, "the Responses API has none"),
        ({"temperature": 0.5}, "a reasoning model takes only 1"),
        ({"max_completion_tokens": 7}, "has no option 'max_completion_tokens': did you mean 'max_output_tokens'"),
    ],
)
def test_what_this_api_cannot_do_is_told(asked: dict[str, Any], words: str) -> None:
    """Each with its remedy, before anything is sent."""
    with pytest.raises(InvalidRequestError, match=words):
        ask(model="gpt-5", **asked)


def test_a_turn_goes_round_whole() -> None:
    """Thoughts, encrypted ones too, and tools of OpenAI's own go back where they stood; a turn without any, bare."""
    answer, _ = ask(reply=response_answer(THOUGHT, SEARCH, SAID, CALLED))
    assert (answer.text, answer.reasoning) == ("Hello", "hmm\n\nso")
    turn = pickle.loads(pickle.dumps(answer.message))
    assert "SECRET" not in repr(turn)
    _, body = ask([*HELLO, turn, Message.tool("42", tool_call_id="call_1")])
    kept = {name: value for name, value in THOUGHT.items() if name != "status"}
    search = {name: value for name, value in SEARCH.items() if name != "status"}
    assert body["input"][1:-1] == [kept, search, SAID, CALLED]
    bare, _ = ask()
    assert bare.message.provider_state is None
    _, body = ask([*HELLO, bare.message])
    assert body["input"][1] == {"role": "assistant", "content": "Hello"}


def test_state_is_nobody_elses() -> None:
    """Chat completions on the same host are not sent the items of a turn, nor the other way round."""
    turn = ask(reply=response_answer(THOUGHT, SAID))[0].message

    async def main(url: str) -> None:
        async with OPENAI.make(url, "gpt-5.5") as client:
            await client.complete([*HELLO, turn, *HELLO])

    with Loopback(Reply(OPENAI.answer)) as server:
        asyncio.run(main(server.url))
        assert server.asked[0].body["messages"][1] == {"role": "assistant", "content": "Hello"}


def test_an_edited_turn_goes_back_edited() -> None:
    """What the message says is what is sent, between the thoughts that were there."""
    turn = ask(reply=response_answer(THOUGHT, SAID))[0].message
    edited = Message(turn.role, "Redacted", provider_state=turn.provider_state)
    _, body = ask([*HELLO, edited])
    assert body["input"][1]["id"] == "rs_1"
    assert "Redacted" in str(body["input"][2]["content"])
    assert "Hello" not in str(body["input"])


def test_parts_of_one_message_go_back_as_one() -> None:
    """An item with several parts of text is one item again."""
    parts = [{"type": "output_text", "text": text, "annotations": []} for text in ("one ", "two")]
    turn = ask(reply=response_answer(THOUGHT, {**SAID, "content": parts}))[0].message
    assert turn.content == "one two"
    _, body = ask([*HELLO, turn])
    assert body["input"][2] == {**SAID, "content": parts}


THOUGHT_IN_PIECES = [
    RESPONSE_STREAM[0],
    response_event("output_item.added", output_index=0, item={**THOUGHT, "summary": []}),
    response_event("reasoning_summary_text.delta", output_index=0, summary_index=0, delta="h"),
    response_event("reasoning_summary_text.delta", output_index=0, summary_index=0, delta="mm"),
    response_event("reasoning_summary_text.delta", output_index=0, summary_index=1, delta="so"),
    response_event("output_item.done", output_index=0, item=THOUGHT),
    response_event("output_item.added", output_index=1, item={**CALLED, "arguments": ""}),
    response_event("function_call_arguments.delta", output_index=1, delta='{"city": "Bern"}'),
    response_event("output_item.done", output_index=1, item=CALLED),
    response_event("completed", response=response_answer(THOUGHT, CALLED)),
]


def test_a_stream_keeps_what_the_whole_answer_keeps() -> None:
    """Pieces join to the same answer, state of turn and of call included."""
    _, streamed = follow(*THOUGHT_IN_PIECES)
    whole, _ = ask(reply=response_answer(THOUGHT, CALLED))
    assert (streamed.message, streamed.usage, streamed.response_id) == (whole.message, whole.usage, "resp_1")
    assert streamed.finish_reason is FinishReason.TOOL_CALLS


def test_a_stream_whose_last_event_is_bare_is_joined_from_its_items() -> None:
    """A server that repeats nothing at the end, or sends no pieces before it, is understood all the same."""
    bare = response_event("completed", response=response_answer(output=[]))
    _, streamed = follow(*THOUGHT_IN_PIECES[:-1], bare)
    assert streamed.message == ask(reply=response_answer(THOUGHT, CALLED))[0].message
    _, only_end = follow(THOUGHT_IN_PIECES[-1])
    assert (only_end.reasoning, only_end.tool_calls[0].arguments) == ("hmm\n\nso", '{"city": "Bern"}')


@pytest.mark.parametrize("streamed", [False, True], ids=["complete", "stream"])
def test_an_answer_that_failed_is_an_error(streamed: bool) -> None:
    """A failure told in a 200 is raised and judged by its code."""
    failed = response_answer(output=[], status="failed", error={"code": "rate_limit_exceeded", "message": "slow down"})
    events = [*RESPONSE_STREAM[:3], response_event("failed", response=failed)]
    with pytest.raises(Exception) as caught:  # noqa: PT011 - what it is, is looked at below
        _ = follow(*events) if streamed else ask(reply=failed)
    metadata = get_error_metadata(caught.value)
    assert (metadata.classification, metadata.reason) == (LLMErrorClassification.RATE_LIMITED, ErrorReason.RATE_LIMIT)
    assert metadata.in_stream == streamed


def test_a_refusal_and_a_cut_answer() -> None:
    """A refusal's words are the text and the answer is told to be filtered; one cut at its length says so."""
    refusal = {**SAID, "content": [{"type": "refusal", "refusal": "No."}]}
    answer, _ = ask(reply=response_answer(refusal))
    assert (answer.text, answer.finish_reason) == ("No.", FinishReason.CONTENT_FILTER)
    cut = response_answer(SAID, status="incomplete", incomplete_details={"reason": "max_output_tokens"})
    answer, _ = ask(reply=cut)
    assert (answer.finish_reason, answer.provider_finish_reason) == (FinishReason.LENGTH, "max_output_tokens")
    _, streamed = follow(*RESPONSE_STREAM[:-1], response_event("incomplete", response=cut))
    assert streamed.finish_reason is FinishReason.LENGTH


def test_a_profile_chooses_the_api() -> None:
    """``api = "responses"`` in a profile; by default it is chat completions, and embeddings have no such choice."""

    async def main(url: str, **keys: Any) -> str:
        profile = {"provider": "openai", "model": "gpt-5.5", "api_key": "k", "base_url": f"{url}/v1", **keys}
        async with LLMClientFactory(LLMConfig.from_dict({"providers": {"it": profile}})) as factory:
            return (await factory.create_completion_client().complete(HELLO)).text

    with Loopback(Reply(response_answer()), Reply(OPENAI.answer)) as server:
        assert asyncio.run(main(server.url, api="responses")) == "Hello"
        assert asyncio.run(main(server.url)) == "Hello"
        assert [asked.path for asked in server.asked] == ["/v1/responses", "/v1/chat/completions"]
    with pytest.raises(ConfigurationError, match="api is for chats"):
        asyncio.run(main("http://127.0.0.1:1", api="responses", type="embedding"))
    with pytest.raises(ConfigurationError, match="api does not apply to anthropic"):
        asyncio.run(main("http://127.0.0.1:1", api="responses", provider="anthropic"))
    with pytest.raises(ConfigurationError, match="api='chat' is unknown"):
        RESPONSES.make("http://127.0.0.1:1", api="chat")


def _mutated(value: Any, chance: random.Random) -> Any:
    if chance.random() < 0.12:
        return chance.choice([None, "", "x", 7, -1, 2.5, True, [], {}, [None], {"text": 3}, [["x"]], {"type": []}])
    if isinstance(value, dict):
        return {key: _mutated(item, chance) for key, item in value.items() if chance.random() > 0.05}
    if isinstance(value, list):
        return [_mutated(item, chance) for item in value for _ in range(chance.choice([1, 1, 1, 0, 2]))]
    return value


def test_whatever_comes_is_read_or_is_a_bad_response() -> None:
    """Mutated answers and events give an answer or an error of ours, never another exception."""
    chance, known = random.Random(7), AnswerContext("m", "responses here", {})
    read = 0
    for _ in range(3_000):
        try:
            answer = _mutated(response_answer(THOUGHT, SEARCH, SAID, CALLED), chance)
            if isinstance(answer, dict):
                read += isinstance(read_response(answer, known, None).usage, Usage)
            reader = ResponseReader(known)
            events = _mutated(THOUGHT_IN_PIECES, chance)
            for event in events if isinstance(events, list) else ():
                if isinstance(event, dict):
                    reader.read(event)
            read += isinstance(reader.last().usage, Usage)
        except BadResponseError:
            continue
    assert read > 1_000
