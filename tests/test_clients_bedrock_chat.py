"""Bedrock's own ways with chats: blocks, files, thoughts, refusals and streams, over boto3 and a loopback server."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import random
from base64 import b64encode
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
from pydantic import BaseModel

from factflow_llm.clients.answers import AnswerContext
from factflow_llm.clients.anthropic_answers import MessageReader, read_message
from factflow_llm.clients.converse_answers import EventTranslator, said_as_message
from factflow_llm.errors import (
    BadResponseError,
    ConfigurationError,
    ErrorReason,
    InvalidRequestError,
    LLMErrorClassification,
    classify_llm_error,
    get_error_metadata,
)
from factflow_llm.types import (
    DocumentPart,
    FinishReason,
    ImagePart,
    Message,
    TextPart,
    Tool,
    ToolCall,
    Usage,
)
from tests.support.faces import AWS, BEDROCK, CONVERSE_STREAM, converse_answer
from tests.support.loopback import Drop, Frames, Loopback, Reply

if TYPE_CHECKING:
    from factflow_llm.types import CompletionResponse, StreamChunk

boto3 = pytest.importorskip("boto3", reason="the bedrock extra is not installed")

knows_formats = pytest.mark.skipif(
    "outputConfig"
    not in boto3.Session(region_name="us-east-1")
    .client("bedrock-runtime", aws_access_key_id="a", aws_secret_access_key="b")
    .meta.service_model.operation_model("Converse")
    .input_shape.members,
    reason="this boto3 knows neither formats nor lifetimes of cache marks",
)
HELLO = [Message.user("hello")]
WEATHER = Tool("weather", "Tells the weather", {"type": "object", "properties": {"city": {"type": "string"}}})
SAID = converse_answer({"text": "Hello"}, finish="end_turn")


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give boto3 credentials that open nothing, and no region."""
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)


def ask(
    messages: list[Message], *, reply: Any = SAID, model: str | None = None, **asked: Any
) -> tuple[CompletionResponse, dict[str, Any]]:
    """Complete once; return the answer and the body that was sent."""

    async def main(url: str) -> CompletionResponse:
        async with BEDROCK.make(url, **({"model": model} if model else {})) as client:
            return await client.complete(messages, **asked)

    with Loopback(reply if isinstance(reply, Drop | Reply) else Reply(reply)) as server:
        return asyncio.run(main(server.url)), server.asked[0].body


def follow(*events: dict[str, Any], cut: bool = False) -> list[StreamChunk]:
    """Stream once to the end."""

    async def main(url: str) -> list[StreamChunk]:
        async with BEDROCK.make(url) as client:
            return [chunk async for chunk in client.stream(HELLO)]

    with Loopback(Frames(events, cut=cut, headers={"x-amzn-RequestId": "r-1"})) as server:
        return asyncio.run(main(server.url))


def test_a_conversation_in_converses_words() -> None:
    """System stands beside, turns alternate, results of tools are a user's turn, blanks are left out."""
    call = ToolCall("c1", "weather", '{"city": "Bern"}')
    _, body = ask(
        [
            Message.system("Be brief."),
            Message.user("Is it raining?"),
            Message.user("In Bern?"),
            Message.assistant("  ", tool_calls=(call,)),
            Message.tool("42", tool_call_id="c1"),
            Message.tool("no such place", tool_call_id="c2", is_error=True),
            Message.user("So?"),
        ],
        max_tokens=9,
        temperature=0.5,
        stop="END",
        tools=[WEATHER],
    )
    assert body["system"] == [{"text": "Be brief."}]
    assert body["messages"] == [
        {"role": "user", "content": [{"text": "Is it raining?"}, {"text": "In Bern?"}]},
        {
            "role": "assistant",
            "content": [{"toolUse": {"toolUseId": "c1", "name": "weather", "input": {"city": "Bern"}}}],
        },
        {
            "role": "user",
            "content": [
                {"toolResult": {"toolUseId": "c1", "content": [{"text": "42"}]}},
                {"toolResult": {"toolUseId": "c2", "content": [{"text": "no such place"}], "status": "error"}},
                {"text": "So?"},
            ],
        },
    ]
    assert body["inferenceConfig"] == {"maxTokens": 9, "temperature": 0.5, "stopSequences": ["END"]}
    spec = {"name": "weather", "description": "Tells the weather", "inputSchema": {"json": WEATHER.parameters}}
    assert body["toolConfig"] == {"tools": [{"toolSpec": spec}]}


@knows_formats
def test_files_and_marks() -> None:
    """Images and documents are bytes or lie on S3, are named apart, and a mark is a block of its own."""
    _, body = ask(
        [
            Message.user(
                [
                    TextPart("look", cache=True),
                    ImagePart(data=b"png", media_type="image/png", cache="1h"),
                    DocumentPart(data=b"pdf", name="Q3/report_final.pdf"),
                    DocumentPart(data=b"txt", media_type="text/plain", name="Q3 report final pdf", citations=True),
                    DocumentPart(file_id="s3://bucket/x.pdf"),
                ]
            )
        ]
    )
    look, mark, image, hour, report, text, stored = body["messages"][0]["content"]
    assert (look, mark) == ({"text": "look"}, {"cachePoint": {"type": "default"}})
    assert image == {"image": {"format": "png", "source": {"bytes": b64encode(b"png").decode()}}}
    assert hour == {"cachePoint": {"type": "default", "ttl": "1h"}}
    assert (report["document"]["format"], report["document"]["name"]) == ("pdf", "Q3 report final pdf")
    assert (text["document"]["format"], text["document"]["name"]) == ("txt", "Q3 report final pdf 2")
    assert text["document"]["citations"] == {"enabled": True}
    assert stored["document"]["source"] == {"s3Location": {"uri": "s3://bucket/x.pdf"}}


UNSAID = {
    "an image by URL": (
        {"messages": [Message.user([ImagePart(url="https://e.org/x.png")])]},
        "give its bytes as data=",
    ),
    "only system": ({"messages": [Message.system("x")]}, "needs a turn of the user"),
    "blanks": ({"messages": [Message.user("  ")]}, "is empty: Bedrock takes no turn without content"),
    "no tool": ({"tools": [WEATHER], "tool_choice": "none"}, "leave the tools out"),
    "one tool at a time": ({"tools": [WEATHER], "parallel_tool_calls": False}, "leaves that to the model"),
    "a seed": ({"seed": 7}, "Bedrock has no option 'seed'"),
    "several answers": ({"n": 2}, "call as often as you want answers"),
    "thoughts without room": ({"reasoning": 2048, "max_tokens": 100}, "must be above 2048"),
    "a hot temperature": ({"temperature": 1.5}, "must be a number from 0 to 1"),
    "arguments that are no object": (
        {"messages": [*HELLO, Message.assistant(tool_calls=(ToolCall("1", "f", "[1"),))]},
        "no JSON object",
    ),
    "any JSON": ({"response_format": {"type": "json_object"}}, "only to a schema"),
}


@pytest.mark.parametrize("case", UNSAID)
def test_what_bedrock_cannot_do_is_told_before_it_is_sent(case: str) -> None:
    """Each with its remedy, as an error of ours."""
    asked, words = UNSAID[case]
    with pytest.raises(InvalidRequestError, match=words):
        ask(asked.get("messages", HELLO), **{name: value for name, value in asked.items() if name != "messages"})


@pytest.mark.parametrize(
    ("model", "reasoning", "fields"),
    [
        (None, 2048, {"thinking": {"type": "enabled", "budget_tokens": 2048}}),
        (None, "low", {"thinking": {"type": "enabled", "budget_tokens": 2048}}),
        (None, "none", {"thinking": {"type": "disabled"}}),
        ("amazon.nova-2-lite-v1:0", "max", {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "high"}}),
        ("amazon.nova-2-lite-v1:0", "none", {"reasoningConfig": {"type": "disabled"}}),
    ],
)
def test_how_much_to_think(model: str | None, reasoning: Any, fields: dict[str, Any]) -> None:
    """A budget for Claude, an effort for Nova, in the fields that only they read; beside those of the caller."""
    _, body = ask(HELLO, model=model, reasoning=reasoning, additionalModelRequestFields={"top_k": 5})
    assert body["additionalModelRequestFields"] == {**fields, "top_k": 5}


@knows_formats
def test_choice_format_and_options_of_boto3() -> None:
    """A tool by name, a schema for the answer, and whatever else ``converse`` takes."""

    class Report(BaseModel):
        title: str

    _, body = ask(
        HELLO,
        tools=[WEATHER, {"type": "systemTool", "name": "nova_grounding"}],
        tool_choice="weather",
        response_format=Report,
        guardrailConfig={"guardrailIdentifier": "g", "guardrailVersion": "1"},
        inferenceConfig={"topP": 0.5},
        max_tokens=7,
    )
    assert body["toolConfig"]["toolChoice"] == {"tool": {"name": "weather"}}
    assert body["toolConfig"]["tools"][1] == {"systemTool": {"name": "nova_grounding"}}
    said = body["outputConfig"]["textFormat"]["structure"]["jsonSchema"]
    assert (said["name"], json.loads(said["schema"])["required"]) == ("Report", ["title"])
    assert body["guardrailConfig"]["guardrailIdentifier"] == "g"
    assert body["inferenceConfig"] == {"maxTokens": 7, "topP": 0.5}


REDACTED = b64encode(b"\x00secret").decode()
THOUGHT = [
    {"reasoningContent": {"reasoningText": {"text": "hmm", "signature": "SIG"}}},
    {"reasoningContent": {"redactedContent": REDACTED}},
    {"text": "Hello"},
    {"toolUse": {"toolUseId": "c1", "name": "weather", "input": {"city": "Bern"}}},
]
THOUGHT_IN_PIECES = [
    {"messageStart": {"role": "assistant"}},
    {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "h"}}}},
    {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "mm"}}}},
    {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"reasoningContent": {"signature": "SIG"}}}},
    {"contentBlockDelta": {"contentBlockIndex": 1, "delta": {"reasoningContent": {"redactedContent": REDACTED}}}},
    {"contentBlockDelta": {"contentBlockIndex": 2, "delta": {"text": "Hello"}}},
    {"contentBlockStart": {"contentBlockIndex": 3, "start": {"toolUse": {"toolUseId": "c1", "name": "weather"}}}},
    {"contentBlockDelta": {"contentBlockIndex": 3, "delta": {"toolUse": {"input": '{"city": "Bern"}'}}}},
    {"messageStop": {"stopReason": "tool_use"}},
    {"metadata": {"usage": {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}, "metrics": {"latencyMs": 1}}},
]


def test_a_turn_goes_round_whole() -> None:
    """Thoughts with their signature and redacted ones go back where they stood; to nobody else."""
    answer, _ = ask(HELLO, reply=converse_answer(*THOUGHT))
    assert (answer.text, answer.reasoning) == ("Hello", "hmm")
    turn = pickle.loads(pickle.dumps(answer.message))
    _, body = ask([*HELLO, turn, Message.tool("42", tool_call_id="c1")], tools=[WEATHER])
    assert body["messages"][1]["content"] == THOUGHT
    assert "secret" not in repr(turn)


def test_a_streamed_turn_goes_round_whole() -> None:
    """A stream keeps the same as the whole answer does."""

    async def main(url: str) -> Any:
        async with BEDROCK.make(url) as client:
            stream = client.stream(HELLO)
            async for _ in stream:
                pass
            return stream.response

    with Loopback(Frames(THOUGHT_IN_PIECES)) as server:
        answer = asyncio.run(main(server.url))
    assert (answer.text, answer.reasoning, answer.usage) == ("Hello", "hmm", Usage(1, 2))
    _, body = ask([*HELLO, answer.message, Message.tool("42", tool_call_id="c1")], tools=[WEATHER])
    assert body["messages"][1]["content"] == THOUGHT


def test_request_id_names_the_answer() -> None:
    """Bedrock gives no id but the request's; the address holds the model."""
    with Loopback(Reply(SAID, headers={"x-amzn-RequestId": "r-1"})) as server:

        async def main() -> CompletionResponse:
            async with BEDROCK.make(server.url, model="eu.anthropic.claude-x-v1:0") as client:
                return await client.complete(HELLO)

        assert asyncio.run(main()).response_id == "r-1"
        assert unquote(server.asked[0].path) == "/model/eu.anthropic.claude-x-v1:0/converse"
    assert follow(*CONVERSE_STREAM)[-1].response_id == "r-1"


@pytest.mark.parametrize("word", ["guardrail_intervened", "content_filtered"])
def test_a_guardrail_stops_an_answer(word: str) -> None:
    """What the guardrail says instead is the text, and the answer is told to be filtered."""
    answer, _ = ask(HELLO, reply=converse_answer({"text": "Sorry."}, finish=word))
    assert (answer.text, answer.finish_reason) == ("Sorry.", FinishReason.CONTENT_FILTER)
    *_, last = follow(*CONVERSE_STREAM[:3], {"messageStop": {"stopReason": word}})
    assert last.finish_reason is FinishReason.CONTENT_FILTER


SHAPES = [
    ("AccessDeniedException", 403, LLMErrorClassification.TERMINAL, ErrorReason.PERMISSION),
    ("ConflictException", 400, LLMErrorClassification.RETRYABLE, ErrorReason.CONFLICT),
    ("InternalServerException", 500, LLMErrorClassification.RETRYABLE, ErrorReason.SERVER),
    ("ModelErrorException", 424, LLMErrorClassification.RETRYABLE, ErrorReason.MODEL_ERROR),
    ("ModelNotReadyException", 429, LLMErrorClassification.RETRYABLE, ErrorReason.NOT_READY),
    ("ModelStreamErrorException", 424, LLMErrorClassification.RETRYABLE, ErrorReason.SERVER),
    ("ModelTimeoutException", 408, LLMErrorClassification.RETRYABLE, ErrorReason.TIMEOUT),
    ("ResourceNotFoundException", 404, LLMErrorClassification.TERMINAL, ErrorReason.NOT_FOUND),
    ("ServiceQuotaExceededException", 400, LLMErrorClassification.RATE_LIMITED, ErrorReason.SERVICE_QUOTA),
    ("ServiceUnavailableException", 503, LLMErrorClassification.RETRYABLE, ErrorReason.OVERLOADED),
    ("ThrottlingException", 429, LLMErrorClassification.RATE_LIMITED, ErrorReason.RATE_LIMIT),
    ("ValidationException", 400, LLMErrorClassification.TERMINAL, ErrorReason.INVALID_REQUEST),
]


@pytest.mark.parametrize("streamed", [False, True], ids=["complete", "stream"])
@pytest.mark.parametrize(("kind", "status", "classification", "reason"), SHAPES)
def test_its_twelve_refusals(
    kind: str, status: int, classification: LLMErrorClassification, reason: ErrorReason, streamed: bool
) -> None:
    """Each shape of error is boto3's own, comes after one attempt, and means the same whole and streamed."""
    refusal = Reply({"message": "no"}, status=status, headers={"x-amzn-errortype": kind})

    async def main(url: str) -> None:
        async with BEDROCK.make(url) as client:
            if streamed:
                assert [chunk async for chunk in client.stream(HELLO)] == []
            else:
                await client.complete(HELLO)

    with Loopback(refusal) as server:
        with pytest.raises(BEDROCK.errors) as caught:
            asyncio.run(main(server.url))
        assert len(server.asked) == 1
    metadata = get_error_metadata(caught.value)
    assert (metadata.classification, metadata.reason, metadata.code) == (classification, reason, kind)


@pytest.mark.parametrize(
    ("kind", "classification", "reason"),
    [
        ("internalServerException", LLMErrorClassification.RETRYABLE, ErrorReason.SERVER),
        ("modelStreamErrorException", LLMErrorClassification.RETRYABLE, ErrorReason.SERVER),
        ("serviceUnavailableException", LLMErrorClassification.RETRYABLE, ErrorReason.OVERLOADED),
        ("throttlingException", LLMErrorClassification.RATE_LIMITED, ErrorReason.RATE_LIMIT),
        ("validationException", LLMErrorClassification.TERMINAL, ErrorReason.INVALID_REQUEST),
    ],
)
def test_errors_in_mid_stream(kind: str, classification: LLMErrorClassification, reason: ErrorReason) -> None:
    """An exception among the events is boto3's, told to be in the stream, and judged as one before it."""
    with pytest.raises(BEDROCK.errors) as caught:
        follow(*CONVERSE_STREAM[:3], {kind: {"message": "no"}})
    metadata = get_error_metadata(caught.value)
    assert (metadata.in_stream, metadata.classification, metadata.reason) == (True, classification, reason)


def test_broken_frames_are_a_bad_response() -> None:
    """Bytes that are no frames, named as if they were, are an error of ours."""

    class Noise(Frames):
        @staticmethod
        def encode(event: Any) -> bytes:
            return b"\x00\x00\x00\x20noise that is longer than a frame's prelude"

    async def main(url: str) -> None:
        async with BEDROCK.make(url) as client:
            assert [chunk async for chunk in client.stream(HELLO)] == []

    with Loopback(Noise([{"messageStart": {}}])) as server, pytest.raises(BadResponseError) as caught:
        asyncio.run(main(server.url))
    assert classify_llm_error(caught.value) is LLMErrorClassification.RETRYABLE


def test_a_cancelled_stream_hangs_up() -> None:
    """Who gives up waiting for the next piece takes the connection down at once; its thread is free again."""

    async def main(server: Loopback) -> bool:
        async with BEDROCK.make(server.url, max_concurrency=1) as client:
            stream = client.stream(HELLO)
            assert (await anext(stream)).text == "Hel"
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            left = await asyncio.to_thread(server.client_left.wait, 5)
            server.script[:] = [Reply(SAID)]
            return left and (await client.complete(HELLO)).text == "Hello"

    with Loopback(Frames(CONVERSE_STREAM[:2], hold=True)) as server:
        assert asyncio.run(main(server))


def test_no_region_is_told_with_the_remedy() -> None:
    """A client that does not know where to ask is not made."""
    with pytest.raises(ConfigurationError, match="set AWS_DEFAULT_REGION"):
        BEDROCK.make("http://127.0.0.1:1", region=None)


def test_no_secret_in_botocores_own_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """At DEBUG botocore logs whole requests: without the session's token and the headers that were configured."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-token-of-the-session")

    async def main(url: str) -> None:
        async with BEDROCK.make(url, headers={"x-team": "a-secret-of-the-team"}) as client:
            await client.complete(HELLO)

    with caplog.at_level(logging.DEBUG), Loopback(Reply(SAID)) as server:
        asyncio.run(main(server.url))
        assert server.asked[0].headers["x-amz-security-token"] == "a-token-of-the-session"
    assert "x-team" in caplog.text
    assert "a-token-of-the-session" not in caplog.text
    assert "a-secret-of-the-team" not in caplog.text


def _mutated(value: Any, chance: random.Random) -> Any:
    """Change a JSON value in one place or so."""
    if chance.random() < 0.15:
        return chance.choice([None, "", "x", 7, -1, 2.5, True, [], {}, [None], {"text": 3}, [[{"text": []}]]])
    if isinstance(value, dict):
        return {key: _mutated(item, chance) for key, item in value.items() if chance.random() > 0.05}
    if isinstance(value, list | tuple):
        return [_mutated(item, chance) for item in value for _ in range(chance.choice([1, 1, 1, 0, 2]))]
    return value


def test_whatever_comes_is_read_or_is_a_bad_response() -> None:
    """Mutated answers and events give an answer or an error of ours, never another exception."""
    chance, known = random.Random(7), AnswerContext("m", "bedrock here", {})
    read = 0
    for _ in range(3_000):
        try:
            answer = _mutated(converse_answer(*THOUGHT), chance)
            if isinstance(answer, dict):
                read += read_message(said_as_message(answer, request_id="r"), known, answer).model == "m"
            reader, translator = MessageReader(known), EventTranslator(request_id="r")
            events = _mutated(THOUGHT_IN_PIECES, chance)
            for event in events if isinstance(events, list) else ():
                for said in translator.translate(event) if isinstance(event, dict) else ():
                    reader.read(said)
            read += reader.last().model == "m"
        except BadResponseError:
            continue
    assert read > 1_000
