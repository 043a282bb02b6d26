"""Streamed answers as servers really send them: where they end, how calls are told apart, what is no event."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from factflow_llm import (
    BadResponseError,
    CompletionResponse,
    FinishReason,
    ToolCall,
    UnfinishedStreamError,
    Usage,
    get_error_metadata,
)
from tests.support.calling import HELLO, ask, call, follow, message
from tests.support.faces import ANTHROPIC, ANTHROPIC_STREAM, OPENAI, Face, openai_chunk
from tests.support.loopback import Events, Loopback, Reply

FACES = [OPENAI, ANTHROPIC]
face_names = [face.name for face in FACES]


def test_usage_of_a_stream_is_gathered() -> None:
    """Counts beside a choice or in a corner of their own are found; later zeros and nothings wipe no earlier count."""
    counts = {"prompt_tokens": 30, "completion_tokens": 20}
    corner = openai_chunk({}, "stop") | {"x_groq": {"usage": counts}}
    beside = openai_chunk({}, "stop")
    beside["choices"][0]["usage"] = counts
    for last in (corner, beside):
        chunks, _ = follow(openai_chunk({"content": "a"}), last, openai_chunk(usage={"prompt_tokens": 0}), "[DONE]")
        assert chunks[-1].usage == Usage(30, 20)
    zeros = {"input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 7}
    events = [*ANTHROPIC_STREAM[:-2], {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": zeros}]
    _, answer = follow(*events, {"type": "message_stop"}, face=ANTHROPIC)
    assert answer.usage == Usage(12, 7, 0, 4)


@pytest.mark.parametrize("limited", [False, True], ids=["bare", "limited"])
@pytest.mark.parametrize("face", FACES, ids=face_names)
def test_a_stream_ends_in_the_same_answer(face: Face, limited: bool) -> None:
    """Iterated to its end, a stream has the answer that ``complete`` gives; before, it says to go on."""
    chunks, answer = follow(*face.stream, face=face, limited=limited)
    whole = ask(face.answer, face)
    assert answer == CompletionResponse(**{name: getattr(answer, name) for name in ("headers", "raw")}, **_but(whole))
    assert answer.message == whole.message
    assert "".join(chunk.text for chunk in chunks) == whole.text


def _but(answer: CompletionResponse) -> dict[str, Any]:
    names = set(CompletionResponse.__dataclass_fields__) - {"headers", "raw"}
    return {name: getattr(answer, name) for name in names}


def test_an_unfinished_stream_has_no_answer() -> None:
    """Asked too early, a stream says to iterate on."""

    async def early(server: Loopback) -> None:
        async with OPENAI.make(server.url) as client, client.stream(HELLO) as stream:
            assert (await anext(stream)).text == "Hel"
            assert repr(stream) == "<ChatStream under way>"
            with pytest.raises(UnfinishedStreamError, match="iterate over the stream to its end"):
                _ = stream.response

    with Loopback(Events(OPENAI.stream)) as server:
        asyncio.run(early(server))


def test_events_that_are_no_objects_are_passed_over() -> None:
    """Null, numbers, lists, words and empty data keep a connection alive and are nothing else."""
    noise = ["null", "3", "[]", '"ping"', "keep-alive", "", "[null]"]
    chunks, answer = follow(openai_chunk({"content": "a"}), *noise, openai_chunk({"content": "b"}, "stop"), "[DONE]")
    assert (answer.text, len(chunks)) == ("ab", 3)


@pytest.mark.parametrize(
    "end",
    [["[DONE]"], [openai_chunk({}, "stop")], [openai_chunk(usage={"prompt_tokens": 1, "completion_tokens": 1})]],
    ids=["done", "finish reason", "usage"],
)
def test_a_stream_ends_by_any_of_three_signs(end: list[Any]) -> None:
    """``[DONE]``, a finish reason, or the usage: each alone makes a stream whole."""
    _, answer = follow(openai_chunk({"content": "42"}), *end)
    assert answer.text == "42"


STREAMED_CALLS = {
    "no index": [[call("a", "f", "{}")], [call("b", "g", "{}")]],
    "index 0 for all": [[call("a", "f", "{}", index=0)], [call("b", "g", "{}", index=0)]],
    "the id on every piece": [
        [call("a", "f", "{", index=0)],
        [call("a", None, "}", index=0)],
        [call("b", "g", "{}", index=1)],
    ],
    "a new id on every piece": [
        [call("a", "f", "{", index=0)],
        [call("x", None, "}", index=0)],
        [call("b", "g", "{}", index=1)],
    ],
    "the name on every piece": [
        [call("a", "f", "{", index=0)],
        [call(None, "f", "}", index=0)],
        [call("b", "g", "{}", index=1)],
    ],
    "an index in words, from 1": [[call("a", "f", "{}", index="1")], [call("b", "g", {}, index="2")]],
    "an id, then a name": [
        [{"index": 0, "id": "a"}],
        [{"index": 0, "function": {"name": "f", "arguments": "{}"}}],
        [call("b", "g", "", index=1)],
    ],
    "interleaved": [
        [call("a", "f", "{", index=0), call("b", "g", "{", index=1)],
        [call(None, None, "}", index=1), call(None, None, "}", index=0)],
    ],
}


@pytest.mark.parametrize("case", STREAMED_CALLS)
def test_streamed_calls_are_told_apart(case: str) -> None:
    """Two calls stay two, whole and in order, however a server marks their pieces; each index is a whole number."""
    chunks, answer = follow(*(openai_chunk({"tool_calls": deltas}) for deltas in STREAMED_CALLS[case]), "[DONE]")
    assert answer.tool_calls == (ToolCall("a", "f", "{}"), ToolCall("b", "g", "{}"))
    assert {delta.index for chunk in chunks for delta in chunk.tool_calls} == {0, 1}
    assert answer.finish_reason is FinishReason.TOOL_CALLS


def test_a_streamed_call_without_a_name_cannot_be_read() -> None:
    """A call that never got a name is named by its place."""
    with pytest.raises(BadResponseError, match=r"tool_calls\[0\].function.name is null or missing"):
        follow(openai_chunk({"tool_calls": [{"index": 0, "id": "a"}]}), openai_chunk({}, "tool_calls"), "[DONE]")


@pytest.mark.parametrize("face", FACES, ids=face_names)
def test_no_arguments_are_an_empty_object_everywhere(face: Face) -> None:
    """A call without arguments has ``{}``, whole and streamed, in the pieces and in the answer."""
    if face is OPENAI:
        events = [openai_chunk({"tool_calls": [call("c", "now", "", index=0)]}), openai_chunk({}, "tool_calls")]
    else:
        block = {"type": "tool_use", "id": "c", "name": "now", "input": {}}
        opened = {"type": "content_block_start", "index": 0, "content_block": block}
        events = [ANTHROPIC_STREAM[0], opened, {"type": "content_block_stop", "index": 0}, *ANTHROPIC_STREAM[-2:]]
    chunks, answer = follow(*events, face=face)
    assert answer.tool_calls == (ToolCall("c", "now", "{}"),)
    assert "".join(delta.arguments for chunk in chunks for delta in chunk.tool_calls) == "{}"


@pytest.mark.parametrize("face", FACES, ids=face_names)
@pytest.mark.parametrize(
    "event",
    [
        'event: error\ndata: {"message": "slow down", "code": 503}\n\n',
        'data: {"error": {"message": "slow down", "code": 503}}\n\n',
        'data: {"message": "slow down", "code": 503, "type": "error"}\n\n',
        "event: error\ndata: slow down\n\n",
        'data: {"error": "slow down"}\n\n',
    ],
)
def test_an_error_event_keeps_its_words(face: Face, event: str) -> None:
    """Bare, wrapped, named or in plain words: the server's message is the error's, and it came in the stream."""
    with pytest.raises(Exception, match="slow down") as caught:
        follow(reply=_raw_events(face, event), face=face)
    metadata = get_error_metadata(caught.value)
    assert metadata.in_stream
    assert not metadata.fatal


def _raw_events(face: Face, event: str) -> Reply:
    told = "".join(f"data: {json.dumps(one)}\n\n" for one in face.stream[:4] if isinstance(one, dict))
    return Reply((told + event).encode(), content_type="text/event-stream")


@pytest.mark.parametrize("face", FACES, ids=face_names)
def test_a_whole_answer_to_a_stream_request_is_an_answer(face: Face) -> None:
    """JSON where a stream was asked for is streamed in one piece; a stream where none was asked for is joined."""
    chunks, answer = follow(face=face, reply=Reply(face.answer))
    assert (chunks[0].text, answer.text, answer.tool_calls) == ("Hello", "Hello", ask(face.answer, face).tool_calls)
    joined = ask(Events(face.stream), face)
    assert (joined.text, joined.tool_calls, joined.usage) == ("Hello", answer.tool_calls, answer.usage)


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"], ids=["crlf", "cr", "lf"])
def test_lines_end_in_every_way(end: str) -> None:
    """Events end at any of the three line ends, over several data lines, after comments, without a last blank line."""
    one, other = json.dumps(openai_chunk({"content": "a"})), json.dumps(openai_chunk({"content": "b"}, "stop"))
    halves = other.partition(", ")
    lines = [": hello", f"data:{one}", "", "id: 7", f"data: {halves[0]},", f"data: {halves[2]}"]
    _, answer = follow(reply=Reply(end.join(lines).encode(), content_type="text/event-stream"))
    assert answer.text == "ab"


def test_a_second_message_in_the_middle_is_no_answer() -> None:
    """A gateway that begins anew within a stream is told; one that repeats itself, or goes on after the end, is not."""
    again = ANTHROPIC_STREAM[0]
    other = again | {"message": again["message"] | {"id": "msg_2"}}
    with pytest.raises(BadResponseError, match="a second one begins in its middle"):
        follow(*ANTHROPIC_STREAM[:4], other, *ANTHROPIC_STREAM[1:], face=ANTHROPIC)
    _, repeated = follow(again, *ANTHROPIC_STREAM, face=ANTHROPIC)
    _, appended = follow(*ANTHROPIC_STREAM, other, *ANTHROPIC_STREAM[1:], face=ANTHROPIC)
    assert repeated.message == appended.message == ask(ANTHROPIC.answer, ANTHROPIC).message


def test_blocks_and_pieces_without_a_kind_are_told_by_what_they_hold() -> None:
    """Anthropic's language without types, indices and openings is read all the same."""
    pieces = [{"text": "Hel"}, {"type": "text_delta", "text": ["lo"]}, {"thinking": "6 x 7"}]
    call = {"name": "now", "id": "c", "input": {"zone": "CET"}}
    events = [
        *({"type": "content_block_delta", "delta": piece} for piece in pieces),
        {"type": "content_block_start", "content_block": call},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
    ]
    _, answer = follow(*events, face=ANTHROPIC)
    assert (answer.text, answer.reasoning, answer.tool_calls[0].arguments) == ("Hello", "6 x 7", '{"zone": "CET"}')
    assert (answer.finish_reason, answer.usage) == (FinishReason.TOOL_CALLS, Usage())


def test_half_characters_are_mended() -> None:
    """A character cut in two between pieces is whole again; a half that stays alone is replaced."""
    body = json.dumps({"content": "\ud83d"}).encode(), json.dumps({"content": "\ude00!"}).encode()
    chunks, answer = follow(*(openai_chunk(json.loads(one)) for one in body), openai_chunk({}, "stop"))
    assert [chunk.text for chunk in chunks] == ["\N{GRINNING FACE}!", ""]
    assert answer.text == "\N{GRINNING FACE}!"
    assert ask(message(content="a\ud83d", reasoning_content="\ude00")).text == "a\N{REPLACEMENT CHARACTER}"
