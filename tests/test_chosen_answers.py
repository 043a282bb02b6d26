"""Every answer a simulated provider gives can be chosen, whole and streamed, and read by the real SDKs and by ours."""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING, Any

import anthropic
import boto3
import openai
import pytest
from botocore.config import Config

from factflow_llm.errors import ConfigurationError
from simulators.server import bodies, serving
from simulators.server.dialects.instances import instance
from simulators.server.serving import SimulatedServer, running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 3},
        "mood": {"enum": ["sunny", "grey"]},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "minItems": 2},
    },
    "required": ["city", "days", "mood", "tags"],
    "additionalProperties": False,
    "$defs": {"tag": {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"name": {"type": "string"}}}]}},
}
FITTING = {"city": "word", "days": 3, "mood": "sunny", "tags": [{"name": "word"}, {"name": "word"}]}
HELLO: Any = [{"role": "user", "content": "Hello"}]
TOOLS: Any = [
    {"type": "function", "function": {"name": "other", "parameters": {"type": "object", "properties": {}}}},
    {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}},
]


@pytest.fixture
def server() -> Iterator[SimulatedServer]:
    """Run OpenAI's preset, answering at once."""
    with running_server("openai-tier-1", waits=False, answer_tokens=8) as running:
        yield running


def sdk(server: SimulatedServer) -> openai.OpenAI:
    """Return OpenAI's SDK, pointed at the server."""
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)


def test_a_tool_that_must_be_called_is_called(server: SimulatedServer) -> None:
    """The tool that the request names, with arguments that fit its schema, whole and in pieces."""
    with sdk(server) as client:
        asked: Any = {
            "model": "m", "messages": HELLO, "tools": TOOLS,
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
        }  # fmt: skip
        choice = client.chat.completions.create(**asked).choices[0]
        chunks = list(client.chat.completions.create(**asked, stream=True))
    (use,) = choice.message.tool_calls or ()
    assert (choice.finish_reason, choice.message.content, use.function.name) == ("tool_calls", None, "weather")
    assert json.loads(use.function.arguments) == FITTING
    deltas = [chunk.choices[0].delta.tool_calls[0].function for chunk in chunks if chunk.choices[0].delta.tool_calls]
    assert deltas[0].name == "weather"
    assert json.loads("".join(delta.arguments or "" for delta in deltas)) == FITTING
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_structured_output_fits_the_schema_asked_for(server: SimulatedServer) -> None:
    """Chats and Responses answer a schema with JSON that fits it."""
    form: Any = {"type": "json_schema", "json_schema": {"name": "plan", "schema": SCHEMA, "strict": True}}
    with sdk(server) as client:
        (choice,) = client.chat.completions.create(model="m", messages=HELLO, response_format=form).choices
        told: Any = {"format": {"type": "json_schema", "name": "plan", "schema": SCHEMA}}
        response = client.responses.create(model="m", input="Hello", text=told)
    assert json.loads(choice.message.content or "") == FITTING
    assert json.loads(response.output_text) == FITTING


@pytest.mark.parametrize(
    ("kind", "finish", "refused"),
    [
        ("refusal", "stop", True),
        ("filtered", "content_filter", False),
        ("length", "length", False),
        ("text", "stop", False),
    ],
)
def test_answers_are_chosen_one_by_one(server: SimulatedServer, kind: str, finish: str, refused: bool) -> None:
    """What was scripted comes once, whole or streamed; the next answer is ordinary again."""
    with sdk(server) as client:
        server.answers(kind, kind)
        choice = client.chat.completions.create(model="m", messages=HELLO).choices[0]
        chunks = list(client.chat.completions.create(model="m", messages=HELLO, stream=True))
        after = client.chat.completions.create(model="m", messages=HELLO).choices[0]
    assert choice.finish_reason == chunks[-1].choices[0].finish_reason == finish
    assert bool(choice.message.refusal) is refused
    said = [(each.choices[0].delta.refusal if refused else each.choices[0].delta.content) or "" for each in chunks]
    assert "".join(said) == (choice.message.refusal if refused else choice.message.content)
    assert (after.finish_reason, after.message.refusal) == ("stop", None)


def test_a_header_chooses_for_one_request(server: SimulatedServer) -> None:
    """Any client may ask for an answer by a header; a word that is none gets the nearest."""
    with sdk(server) as client:
        options: Any = {"model": "m", "input": "Hello"}
        refused = client.responses.create(**options, extra_headers={"x-simulated-answer": "refusal"})
        filtered = client.responses.create(**options, extra_headers={"x-simulated-answer": "filtered"})
        with pytest.raises(openai.BadRequestError, match="no answer is called 'refusl'; did you mean 'refusal'"):
            client.responses.create(**options, extra_headers={"x-simulated-answer": "refusl"})
        with pytest.raises(openai.BadRequestError, match="needs a request that offers one"):
            client.responses.create(**options, extra_headers={"x-simulated-answer": "tool_call"})
    assert refused.output[0].content[0].type == "refusal"  # type: ignore[union-attr]
    assert (filtered.status, filtered.incomplete_details.reason) == ("incomplete", "content_filter")  # type: ignore[union-attr]
    with pytest.raises(ConfigurationError, match="did you mean 'tool_call'"):
        server.answers("tool_cal")


def test_responses_call_tools(server: SimulatedServer) -> None:
    """A function call is an item of its own, and its arguments come in pieces."""
    tools: Any = [{"type": "function", "name": "weather", "parameters": SCHEMA}]
    with sdk(server) as client:
        options: Any = {"model": "m", "input": "Hello", "tools": tools, "tool_choice": "required"}
        (item,) = client.responses.create(**options).output
        events = list(client.responses.create(**options, stream=True))
    assert (item.type, item.name, json.loads(item.arguments)) == ("function_call", "weather", FITTING)  # type: ignore[union-attr]
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert json.loads("".join(pieces)) == FITTING
    assert events[-1].type == "response.completed"


def test_anthropic_says_them_in_its_own_words() -> None:
    """Tools, refusals and structured output of Anthropic, whole and streamed."""
    asked: Any = {"model": "m", "max_tokens": 50, "messages": HELLO}
    tools: Any = [{"name": "weather", "input_schema": SCHEMA}]
    with running_server("anthropic-start", waits=False, answer_tokens=8) as server:
        client = anthropic.Anthropic(base_url=server.url, api_key="any", max_retries=0)
        called = client.messages.create(**asked, tools=tools, tool_choice={"type": "any"})
        with client.messages.stream(**asked, tools=tools, tool_choice={"type": "any"}) as stream:
            streamed = stream.get_final_message()
        fitting = client.messages.create(
            **asked, extra_body={"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
        )
        server.answers("refusal")
        refused = client.messages.create(**asked)
    for message in (called, streamed):
        (block,) = message.content
        assert (message.stop_reason, block.type, block.name, block.input) == (
            "tool_use",
            "tool_use",
            "weather",
            FITTING,
        )  # type: ignore[union-attr]
    assert json.loads(fitting.content[0].text) == FITTING  # type: ignore[union-attr]
    assert refused.stop_reason == "refusal"


def test_bedrock_says_them_in_its_own_words() -> None:
    """Tools and filtered answers of Converse, whole and streamed."""
    talk: Any = {"modelId": "m", "messages": [{"role": "user", "content": [{"text": "Hello"}]}]}
    spec = {"toolSpec": {"name": "weather", "inputSchema": {"json": SCHEMA}}}
    with running_server("bedrock-claude", waits=False, answer_tokens=8) as server:
        client = boto3.client(
            "bedrock-runtime", region_name="us-east-1", endpoint_url=server.url, aws_access_key_id="AK",
            aws_secret_access_key="SK", config=Config(retries={"total_max_attempts": 1, "mode": "standard"}),
        )  # fmt: skip
        tools: Any = {"tools": [spec], "toolChoice": {"any": {}}}
        called = client.converse(**talk, toolConfig=tools)
        events = list(client.converse_stream(**talk, toolConfig=tools)["stream"])
        server.answers("filtered")
        filtered = client.converse(**talk)
    assert called["stopReason"] == "tool_use"
    assert called["output"]["message"]["content"][0]["toolUse"]["input"] == FITTING
    pieces = [
        event["contentBlockDelta"]["delta"]["toolUse"]["input"] for event in events if "contentBlockDelta" in event
    ]
    assert json.loads("".join(pieces)) == FITTING
    assert filtered["stopReason"] == "content_filtered"


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "number", "exclusiveMinimum": 0.5, "maximum": 0.9}, 0.7),
        ({"type": "integer", "maximum": -2}, -2),
        ({"type": "integer", "multipleOf": 5, "minimum": 11}, 15),
        ({"type": ["null", "string"], "minLength": 6}, "wordxx"),
        ({"type": "string", "format": "date"}, "2026-01-01"),
        (
            {"allOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"b": {"type": "boolean"}}}]},
            {"a": 1, "b": True},
        ),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"type": "array", "items": {"type": "integer"}}}}, [1]),
        ({"type": "array", "maxItems": 0}, []),
        ("nonsense", None),
    ],
)
def test_instances_fit_their_schema(schema: Any, value: Any) -> None:
    """Bounds, steps, formats, references and unions are kept."""
    assert instance(schema) == value


def test_schemas_that_contain_themselves_end() -> None:
    """A tree's schema gives a tree, not a stack overflow."""
    node = {"type": "object", "properties": {"next": {"$ref": "#"}, "v": {"type": "integer"}}, "required": ["v"]}
    assert len(json.dumps(instance(node))) < 2_000


# --- what does not fit is bounded ------------------------------------------------------------------------------------


def post(server: SimulatedServer, body: bytes) -> tuple[int, bytes]:
    """Post a chat's body as it is."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    connection.request("POST", "/v1/chat/completions", body, {"authorization": "Bearer any"})
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_bodies_are_bounded(server: SimulatedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many bytes and too deep a nesting are the client's mistakes; the server goes on."""
    monkeypatch.setattr(bodies, "MAX_BODY_BYTES", 50_000)
    deep = b'{"messages": ' + b"[" * 5_000 + b"]" * 5_000 + b"}"
    assert post(server, deep)[0] == 400
    assert b"nested more than" in post(server, deep)[1]
    quoted = json.dumps({"messages": [{"role": "user", "content": '[{"' * 4_000}]}).encode()
    assert post(server, quoted)[0] == 200
    assert post(server, b'{"messages": "' + b"x" * 60_000 + b'"}')[0] == 413
    assert post(server, json.dumps({"model": "m", "messages": HELLO}).encode())[0] == 200


def test_slow_headers_and_bodies_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who trickles headers is cut off; who never sends the body is told so."""
    monkeypatch.setattr(serving, "HEADER_TIME_S", 0.05)
    monkeypatch.setattr(bodies, "BODY_TIME_S", 0.05)
    with running_server("openai-tier-1", waits=False) as server:
        host, _, port = server.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=30) as trickle:
            trickle.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n")
            with pytest.raises((ConnectionResetError, AssertionError)):
                assert trickle.recv(100)
        with socket.create_connection((host, int(port)), timeout=30) as silent:
            silent.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 90\r\n\r\n{")
            assert silent.recv(100).startswith(b"HTTP/1.1 408")
        assert post(server, json.dumps({"model": "m", "messages": HELLO}).encode())[0] == 200


def test_clients_that_hang_up_leave_a_server_that_serves(server: SimulatedServer) -> None:
    """In the headers, in the body, in the answer: connections that drop harm nobody else."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    whole = json.dumps({"model": "m", "messages": HELLO, "stream": True}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer any\r\n"
    sent = [head, head + b"content-length: 900\r\n\r\n{", head + b"content-length: %d\r\n\r\n" % len(whole) + whole]
    for content in sent * 5:
        with socket.create_connection((host, int(port)), timeout=30) as leaving:
            leaving.sendall(content)
    assert post(server, json.dumps({"model": "m", "messages": HELLO}).encode())[0] == 200
