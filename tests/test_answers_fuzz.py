"""Answers bent at random: whatever a server sends is read, or is an error of ours or the SDK's that says what it was.

python -m pytest tests/test_answers_fuzz.py -m slow        # 200,000 bodies per API, half of them streams
"""

from __future__ import annotations

import asyncio
import pickle
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from factflow_llm import ErrorReason, FinishReason, Message, classify_llm_error, get_error_metadata
from factflow_llm.clients.stream import ChatStream
from factflow_llm.errors import BadResponseError, LLMErrorClassification
from tests.support.faces import (
    ANTHROPIC,
    OPENAI,
    RESPONSE_STREAM,
    RESPONSES,
    Face,
    anthropic_answer,
    openai_answer,
    openai_chunk,
    response_answer,
    response_event,
)
from tests.support.loopback import Loopback, Reply
from tests.support.mutations import bent, encoded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from factflow_llm.clients.reading import Answers
    from factflow_llm.types import CompletionResponse

HELLO = [Message.user("hello")]
FACES = {"openai": OPENAI, "responses": RESPONSES, "anthropic": ANTHROPIC}
_CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}, "extra_content": {"google": {}}}
_THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}

_SUMMARY = {"type": "summary_text", "text": "hm"}
_LOGPROB = {"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": [{"token": "a", "logprob": -0.1}]}


def _opened(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind, **fields}}


def _piece(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


_RICH: dict[str, list[Any]] = {
    "openai": [
        openai_answer(),
        openai_answer(
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                    {"type": "text", "text": "4"},
                ],
                "reasoning_content": "hm",
                "reasoning_details": [{"type": "reasoning.text", "text": "hm", "index": 0, "signature": "s"}],
                "refusal": None,
                "tool_calls": [_CALL, _CALL],
                "function_call": {"name": "f", "arguments": "{}"},
                "audio": {"id": "a", "data": "", "transcript": ""},
            },
            x_groq={"usage": {"prompt_tokens": 1}},
            base_resp={"status_code": 0, "status_msg": ""},
        ),
        openai_answer(
            choices=[
                {"index": 0, "message": {"content": "a"}, "finish_reason": "stop", "logprobs": {"content": [_LOGPROB]}},
                {"index": 1, "message": {"content": "b"}, "finish_reason": "stop"},
            ]
        ),
    ],
    "responses": [
        response_answer(),
        response_answer(
            {"type": "reasoning", "id": "rs", "summary": [_SUMMARY], "encrypted_content": "x"},
            {"type": "web_search_call", "id": "ws", "status": "completed", "action": {"query": "q"}},
            *response_answer()["output"],
        ),
    ],
    "anthropic": [
        anthropic_answer(),
        anthropic_answer(
            [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "4", "citations": [{"type": "char_location", "cited_text": "4"}]},
                {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "q"}},
                {"type": "web_search_tool_result", "tool_use_id": "s1", "content": [{"type": "web_search_result"}]},
                {"type": "tool_use", "id": "c", "name": "f", "input": {"a": [1, {"b": None}]}},
            ]
        ),
    ],
}
_STREAMS: dict[str, list[list[Any]]] = {
    "openai": [
        [event for event in OPENAI.stream if isinstance(event, dict)],
        [
            openai_chunk({"role": "assistant", "content": [{"type": "thinking", "thinking": [{"text": "hm"}]}]}),
            openai_chunk({"reasoning_details": [{"type": "reasoning.text", "text": "h", "index": 0}]}),
            openai_chunk({"reasoning_details": [{"type": "reasoning.text", "text": "m", "index": 0}]}),
            openai_chunk({"content": "4\ud83d"}),
            openai_chunk({"content": "\ude00"}),
            openai_chunk({"tool_calls": [_CALL, _CALL]}),
            openai_chunk({"function_call": {"name": "f", "arguments": "{"}}),
            openai_chunk({}, "stop", x_groq={"usage": {"prompt_tokens": 1}}),
        ],
    ],
    "responses": [
        RESPONSE_STREAM,
        [
            RESPONSE_STREAM[0],
            response_event("reasoning_summary_text.delta", output_index=0, summary_index=0, delta="hm"),
            response_event("output_item.done", output_index=0, item={"type": "reasoning", "id": "rs", "summary": []}),
            *RESPONSE_STREAM[1:],
        ],
    ],
    "anthropic": [
        list(ANTHROPIC.stream),
        [
            ANTHROPIC.stream[0],
            _opened(0, "thinking", thinking=""),
            _piece(0, "thinking_delta", thinking="hm"),
            _piece(0, "signature_delta", signature="s"),
            _opened(1, "server_tool_use", id="s", input={}),
            _piece(1, "input_json_delta", partial_json="{}"),
            _opened(2, "text", text=""),
            _piece(2, "text_delta", text="4"),
            _piece(2, "citations_delta", citation={"type": "char_location"}),
            *ANTHROPIC.stream[-8:],
        ],
    ],
}
"""Sound answers with all that is read of them, to be bent."""


def raw_response(content: bytes) -> Any:
    """Make what an SDK's ``with_raw_response`` gives, out of the bytes of a body."""

    async def received() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 700):
            yield content[start : start + 700]

    async def aclose() -> None:
        pass

    request = SimpleNamespace(url="http://x", headers={})
    http = SimpleNamespace(
        content=content,
        headers=SimpleNamespace(raw=[], get=lambda *_: "text/event-stream"),
        status_code=200,
        url=SimpleNamespace(host="x"),
        request=request,
        aiter_bytes=received,
        aclose=aclose,
    )
    return SimpleNamespace(http_response=http, headers=http.headers)


def hold(answer: CompletionResponse) -> None:
    """Hold an answer to its types: what an adapter may rely on, whatever came over the wire."""
    for text in (answer.text, answer.reasoning or "", answer.model, answer.response_id or ""):
        assert isinstance(text, str)
        text.encode()
    assert answer.finish_reason is None or isinstance(answer.finish_reason, FinishReason)
    for call in answer.tool_calls:
        assert call.id
        assert call.name
        assert call.arguments.strip()
        (call.id + call.name + call.arguments).encode()
    assert len({call.id for call in answer.tool_calls}) == len(answer.tool_calls)
    usage = answer.usage
    for count in (usage.input_tokens, usage.output_tokens, usage.cached_input_tokens, usage.reasoning_tokens):
        assert count is None or (isinstance(count, int) and count >= 0)
    assert pickle.loads(pickle.dumps(answer.message)) == answer.message


def judge(error: Exception, sdk: Any) -> None:
    """Hold an error to what may leave a client: ours or the SDK's own, and the classifier knows what to do."""
    assert isinstance(error, BadResponseError | sdk.APIError), repr(error)
    assert get_error_metadata(error).reason is not ErrorReason.UNKNOWN or not isinstance(error, BadResponseError)
    assert classify_llm_error(error) in set(LLMErrorClassification)
    str(error).encode()


async def read_bent(name: str, *, seed: int, count: int) -> tuple[int, int]:
    """Bend and read ``count`` answers and as many streams; return how many were read and how many refused."""
    face = FACES[name]
    client: Any = face.make("http://127.0.0.1:1")
    answers: Answers = client._answers if face is ANTHROPIC else client._chats.answers
    draws = Random(seed)
    read = refused = 0
    for _ in range(count):
        content = encoded(bent(draws.choice(_RICH[name]), draws, times=draws.randint(1, 4)))
        events = bent(draws.choice(_STREAMS[name]), draws, times=draws.randint(1, 6))
        told = events if isinstance(events, list) else [events]
        body = b"".join(b"data: %s\n\n" % encoded(event) for event in told) + b"data: [DONE]\n\n"
        for streamed in (False, True):
            try:
                if streamed:
                    hold(await _follow(answers, body))
                else:
                    hold(answers.whole(raw_response(content), "asked"))
                read += 1
            except Exception as error:
                judge(error, answers.sdk)
                refused += 1
    return read, refused


async def _follow(answers: Answers, body: bytes) -> CompletionResponse:
    async def send() -> Any:
        return raw_response(body)

    async with ChatStream(answers.stream(send, "asked")) as stream:
        async for chunk in stream:
            assert all(isinstance(delta.index, int) for delta in chunk.tool_calls)
            chunk.text.encode()
    return stream.response


@pytest.mark.parametrize("name", FACES)
def test_bent_answers_are_read_or_refused(name: str) -> None:
    """Of six hundred bent bodies none raises anything but a classified error; many are read all the same."""
    read, refused = asyncio.run(read_bent(name, seed=1, count=300))
    assert read > 200
    assert refused > 30


@pytest.mark.report
@pytest.mark.parametrize("name", FACES)
def test_two_hundred_thousand_bent_bodies_are_read_or_refused(name: str) -> None:
    """The same for 200,000 bodies per API, half of them streams."""
    read, refused = asyncio.run(read_bent(name, seed=2, count=100_000))
    print(f"{name}: {read} read, {refused} refused")
    assert read + refused == 200_000


@pytest.mark.slow
@pytest.mark.parametrize("face", [OPENAI, ANTHROPIC], ids=lambda face: face.name)
def test_bent_answers_over_http(face: Face) -> None:
    """The same through the real SDK and a real connection."""
    draws = Random(3)
    bodies = [bent(_RICH[face.name][1], draws, times=2) for _ in range(100)]

    async def ask(server: Loopback) -> int:
        read = 0
        async with face.make(server.url) as client:
            for _ in bodies:
                try:
                    hold(await client.complete(HELLO))
                    read += 1
                except Exception as error:
                    judge(error, client._sdk)  # type: ignore[attr-defined]
        return read

    with Loopback(*(Reply(encoded(body)) for body in bodies)) as server:
        assert asyncio.run(ask(server)) > 30
