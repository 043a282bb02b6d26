"""The HTTP face of simulated providers, spoken to by the real SDKs."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import anthropic
import boto3
import openai
import pytest
from botocore.config import Config
from hypothesis import given, settings
from hypothesis import strategies as st

from factflow_llm import LLMClientFactory, LLMConfig, Message, OpenAIClient
from factflow_llm.errors import ConfigurationError, ErrorReason, get_error_metadata
from factflow_llm.headers import parse_limits
from factflow_llm.signals import Axis
from simulators.providers.calls import Call
from simulators.providers.catalogue import Provider, provider
from simulators.providers.faults import Broken, Refused
from simulators.providers.latency import LatencyModel
from simulators.providers.machine import ProviderMachine
from simulators.providers.quotas import Bucket, FixedWindow, Ramp, RejectionKind, Slots
from simulators.server.conduct import Misconduct
from simulators.server.serving import running_server
from simulators.server.simulated import FaultKind, ScriptedFault, SimulatedServer
from simulators.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HELLO: Any = [{"role": "user", "content": "Hello, world!"}]


def openai_client(server: SimulatedServer, **options: Any) -> openai.OpenAI:
    """Make the SDK's client with no retries of its own."""
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-test", **({"max_retries": 0} | options))


def anthropic_client(server: SimulatedServer) -> anthropic.Anthropic:
    """Make the SDK's client with no retries of its own."""
    return anthropic.Anthropic(base_url=server.url, api_key="sk-test", max_retries=0)


def bedrock_client(server: SimulatedServer) -> Any:
    """Make the SDK's client with no retries of its own."""
    return boto3.client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=server.url,
        aws_access_key_id="AK",
        aws_secret_access_key="SK",
        config=Config(retries={"total_max_attempts": 1, "mode": "standard"}),
    )


@pytest.fixture
def tier_1() -> Iterator[SimulatedServer]:
    """Run the OpenAI preset, answering at once."""
    with running_server("openai-tier-1", waits=False, answer_tokens=5) as server:
        yield server


def test_openai_completes_a_chat(tier_1: SimulatedServer) -> None:
    """Text, usage, finish reason and limit headers arrive; the cost of the first call is what captures show (29)."""
    raw = openai_client(tier_1).chat.completions.with_raw_response.create(
        model="gpt-5.4-nano", messages=[{"role": "user", "content": "x" * 45}]
    )
    parsed = raw.parse()
    assert parsed.choices[0].message.content == "word word word word word"
    assert parsed.choices[0].finish_reason == "stop"
    assert parsed.usage is not None
    assert (parsed.usage.prompt_tokens, parsed.usage.completion_tokens) == (13, 5)
    assert raw.headers["x-ratelimit-remaining-tokens"] == str(200_000 - 29)
    assert raw.headers["x-request-id"]


def test_openai_streams_a_chat(tier_1: SimulatedServer) -> None:
    """Chunks arrive in order, usage last, ``length`` where max_tokens cut the answer."""
    stream = openai_client(tier_1).chat.completions.create(
        model="m", messages=HELLO, max_tokens=3, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "word word word"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3


def test_openai_embeds_in_both_encodings(tier_1: SimulatedServer) -> None:
    """Packed vectors, which the SDK asks for by default, and plain ones are the same numbers."""
    create = openai_client(tier_1).embeddings.create
    packed = create(model="text-embedding-3-small", input=["a" * 26, "b"], dimensions=8)
    plain = create(model="text-embedding-3-small", input=["a" * 26, "b"], dimensions=8, encoding_format="float")
    assert [len(one.embedding) for one in packed.data] == [8, 8]
    assert plain.data[1].embedding == pytest.approx(packed.data[1].embedding)
    assert packed.usage.prompt_tokens == 7  # 26 characters cost 6, as a capture shows, and one costs 1


def test_azure_speaks_deployments_and_v1() -> None:
    """Both routes serve, with Azure's headers; the deployment is the model."""
    with running_server("azure-30k", waits=False) as server:
        old = openai.AzureOpenAI(azure_endpoint=server.url, api_key="k", api_version="2024-10-21", max_retries=0)
        new = openai.OpenAI(base_url=f"{server.url}/openai/v1/", api_key="k", max_retries=0)
        assert old.chat.completions.create(model="mine", messages=HELLO).model == "mine"
        assert old.embeddings.create(model="ada", input="hello").data[0].embedding
        raw = new.chat.completions.with_raw_response.create(model="mine", messages=HELLO)
    assert raw.headers["x-ratelimit-limit-tokens"] == "30000"
    assert raw.headers["x-ratelimit-reset-tokens"].isdigit()


def test_anthropic_completes_and_streams() -> None:
    """A message and its stream carry text, usage and Anthropic's headers."""
    with running_server("anthropic-start", waits=False, answer_tokens=4) as server:
        client = anthropic_client(server)
        raw = client.messages.with_raw_response.create(model="claude", messages=HELLO, max_tokens=100)
        with client.messages.stream(model="claude", messages=HELLO, max_tokens=3) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
    message = raw.parse()
    assert message.content[0].text == "word word word word"
    assert message.stop_reason == "end_turn"
    assert (text, final.stop_reason, final.usage.output_tokens) == ("word word word", "max_tokens", 3)
    limits = {limit.axis: limit for limit in parse_limits(dict(raw.headers))}
    assert limits[Axis.TOKENS].limit == 2_400_000


@pytest.mark.parametrize(
    ("model", "length"), [("amazon.titan-embed-text-v2:0", 256), ("amazon.titan-embed-text-v1", 1536)]
)
def test_bedrock_embeds_with_titan(model: str, length: int) -> None:
    """The percent-encoded model id is understood, and both versions answer in their shape."""
    body = {"inputText": "hello"} | ({"dimensions": 256} if "v2" in model else {})
    with running_server("bedrock-titan", waits=False) as server:
        response = bedrock_client(server).invoke_model(modelId=model, body=json.dumps(body))
        answer = json.loads(response["body"].read())
    assert len(answer["embedding"]) == length
    assert ("embeddingsByType" in answer) is ("v2" in model)
    assert response["ResponseMetadata"]["HTTPHeaders"]["x-amzn-bedrock-input-token-count"] == "2"


def test_bedrock_throttles_without_a_word_about_when() -> None:
    """The 61st request of a minute is a ThrottlingException with no Retry-After."""
    with running_server("bedrock-titan", waits=False, clock=lambda: 0.0) as server:
        client = bedrock_client(server)
        for _ in range(60):
            client.invoke_model(modelId="amazon.titan-embed-text-v2:0", body=b'{"inputText": "x"}')
        with pytest.raises(client.exceptions.ThrottlingException) as error:
            client.invoke_model(modelId="amazon.titan-embed-text-v2:0", body=b'{"inputText": "x"}')
    assert "Too many requests" in str(error.value)
    assert "retry-after" not in error.value.response["ResponseMetadata"]["HTTPHeaders"]


@pytest.mark.parametrize(("preset", "path"), [("openai-tier-1", "/v1"), ("azure-30k", "/openai/v1")])
def test_responses_are_spoken(preset: str, path: str) -> None:
    """A response and its stream carry text, usage, the reason of an early end and the limit headers."""
    with running_server(preset, waits=False, answer_tokens=4) as server:
        client = openai.OpenAI(base_url=f"{server.url}{path}", api_key="k", max_retries=0)
        raw = client.responses.with_raw_response.create(model="m", input="x" * 45, instructions="x" * 8)
        events = list(client.responses.create(model="m", input=HELLO, max_output_tokens=3, stream=True))
        with pytest.raises(openai.BadRequestError, match="Missing required parameter: 'input'"):
            client.responses.create(model="m")
    whole = raw.parse()
    assert (whole.output_text, whole.status) == ("word word word word", "completed")
    assert whole.usage is not None
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (16, 4)
    assert parse_limits(dict(raw.headers))
    assert "".join([event.delta for event in events if event.type == "response.output_text.delta"]) == "word word word"
    last = events[-1]
    assert last.type == "response.incomplete"
    assert (last.response.output_text, last.response.status) == ("word word word", "incomplete")


def test_bedrock_converses() -> None:
    """A chat and its stream carry text, usage and stop reason; the model is in the path; headers tell no limit."""
    hello: Any = [{"role": "user", "content": [{"text": "x" * 45}]}]
    with running_server("bedrock-claude", waits=False, answer_tokens=4) as server:
        client = bedrock_client(server)
        asked = {"modelId": "anthropic.claude-x-v1:0", "messages": hello}
        whole = client.converse(**asked, system=[{"text": "x" * 8}])
        events = list(client.converse_stream(**asked, inferenceConfig={"maxTokens": 3})["stream"])
        with pytest.raises(client.exceptions.ValidationException, match="must alternate"):
            client.converse(modelId="m", messages=hello * 2)
    assert whole["output"]["message"]["content"] == [{"text": "word word word word"}]
    assert (whole["stopReason"], whole["usage"]["inputTokens"], whole["usage"]["outputTokens"]) == ("end_turn", 14, 4)
    headers = whole["ResponseMetadata"]["HTTPHeaders"]
    assert headers["x-amzn-bedrock-output-token-count"] == "4"
    assert not parse_limits(headers)
    deltas = [event["contentBlockDelta"]["delta"]["text"] for event in events if "contentBlockDelta" in event]
    assert "".join(deltas) == "word word word"
    assert {"messageStop": {"stopReason": "max_tokens"}} in events
    assert events[-1]["metadata"]["usage"]["outputTokens"] == 3


REFUSING: list[tuple[Any, str, str]] = [
    (
        Bucket(limit=1, per_s=100),
        "rate_limit",
        "requests per min (RPM): Limit 1, Used 1, Requested 1. Please try again in 1m40s",
    ),
    (Bucket(limit=1, per_s=86_400), "daily_quota", "requests per day (RPD)"),
    (Slots(limit=1), "rate_limit", "Rate limit reached. Please try again in 1s"),
    (
        FixedWindow(axis=Axis.TOKENS, limit=40, per_s=1e6, rejection=RejectionKind.QUOTA),
        "quota",
        "exceeded your current quota",
    ),
    (Ramp(axis=Axis.TOKENS, limit=1), "ramp", "Slow down"),
    (Bucket(axis=Axis.TOKENS, limit=25), "request_exceeds_limit", "Request too large"),
]


@pytest.mark.parametrize("api", ["openai", "azure", "anthropic"])
@pytest.mark.parametrize(
    ("quota", "reason", "words"), REFUSING, ids=[row[1] + str(n) for n, row in enumerate(REFUSING)]
)
def test_refusals_are_classified_as_what_they_are(quota: Any, reason: str, words: str, api: str) -> None:
    """Bodies and headers of each provider lead our classifier to the machine's own word and wait."""
    spec = Provider(api=api, quotas=(quota,), model="m")
    with running_server(spec, waits=False, clock=lambda: 0.0) as server:
        send = sender(server, api)
        errors = [error for _ in range(2) if (error := failure(send)) is not None]
    metadata = get_error_metadata(errors[-1])
    asked = server.conduct.requests[-1]
    assert asked.error == reason
    if api == "openai":
        assert words in str(errors[-1])
    if reason == "rate_limit" or api == "openai" or (api == "anthropic" and reason in ("quota", "ramp")):
        assert metadata.reason == reason
    if reason == "rate_limit":
        assert metadata.retry_after_s == asked.retry_after_s


def over_http(client: openai.OpenAI, message: Any) -> tuple[int, dict[str, str]]:
    """Send one chat; return status and headers of whatever comes back."""
    try:
        raw = client.chat.completions.with_raw_response.create(model="m", messages=[message], max_tokens=100)
    except openai.APIStatusError as error:
        return error.status_code, dict(error.response.headers)
    return raw.status_code, dict(raw.headers)


def failure(act: Any) -> Exception | None:
    """Return what ``act`` raises."""
    try:
        act()
    except Exception as error:
        return error
    return None


def sender(server: SimulatedServer, api: str) -> Any:
    """Return a function that sends one chat by the api's SDK."""
    if api == "anthropic":
        return lambda: anthropic_client(server).messages.create(model="m", messages=HELLO, max_tokens=26)
    if api == "bedrock":
        said = [{"role": "user", "content": [{"text": "Hello, world!"}]}]
        return lambda: bedrock_client(server).converse(modelId="m", messages=said, inferenceConfig={"maxTokens": 26})
    if api == "responses":
        return lambda: openai_client(server).responses.create(model="m", input=HELLO, max_output_tokens=26)
    if api == "azure":
        client: Any = openai.AzureOpenAI(
            azure_endpoint=server.url, api_key="k", api_version="2024-10-21", max_retries=0
        )
    else:
        client = openai_client(server)
    return lambda: client.chat.completions.create(model="m", messages=HELLO, max_tokens=26)


@pytest.mark.parametrize(
    ("api", "status", "reason"),
    [
        ("openai", 503, ErrorReason.OVERLOADED),
        ("openai", 500, ErrorReason.SERVER),
        ("azure", 503, ErrorReason.OVERLOADED),
        ("anthropic", 529, ErrorReason.OVERLOADED),
        ("anthropic", 500, ErrorReason.SERVER),
        ("bedrock", 503, ErrorReason.OVERLOADED),
        ("bedrock", 500, ErrorReason.SERVER),
    ],
)
def test_storms_reach_the_client(api: str, status: int, reason: ErrorReason) -> None:
    """Faults of the provider come over the wire with their status and are classified so."""
    with running_server(Provider(api=api, faults=(Refused(status=status),)), waits=False) as server:
        metadata = get_error_metadata(failure(sender(server, api)))
    assert (metadata.status_code, metadata.reason) == (status, reason)


@pytest.mark.parametrize("how", ["error", "cut"])
@pytest.mark.parametrize("api", ["openai", "responses", "anthropic", "bedrock"])
def test_streams_break(api: str, how: Any) -> None:
    """A stream that began with 200 ends in an error event or a cut connection; the text before it has arrived."""
    with running_server(Provider(api=spoken_by(api), faults=(Broken(how=how),)), waits=False) as server:
        assert_breaks(server, api)


def spoken_by(api: str) -> Any:
    """Return the provider's api: Responses are OpenAI's."""
    return "openai" if api == "responses" else api


@pytest.mark.parametrize("kind", [FaultKind.STREAM_ERROR, FaultKind.STREAM_CUT])
@pytest.mark.parametrize("api", ["openai", "responses", "anthropic", "bedrock"])
def test_scripted_breaks(api: str, kind: FaultKind) -> None:
    """A script can break one stream and spare the next."""
    with running_server(Provider(api=spoken_by(api)), waits=False) as server:
        server.script(ScriptedFault(kind, after_events=4))
        assert_breaks(server, api)
        sender(server, api)()


async def read_responses(server: SimulatedServer) -> None:
    """Read a streamed response with our own client, to its end."""
    async with OpenAIClient("m", api_key="k", base_url=f"{server.url}/v1", api="responses") as client:
        texts = [chunk.text async for chunk in client.stream([Message.user("Hello, world!")])]
    assert texts


def assert_breaks(server: SimulatedServer, api: str) -> None:
    """Read a stream until it breaks and check that something came before."""
    if api == "openai":
        stream: Any = openai_client(server).chat.completions.create(model="m", messages=HELLO, stream=True)
    elif api == "responses":  # the SDK hands an error on as an event; our client raises it
        error = failure(lambda: asyncio.run(read_responses(server)))
        assert get_error_metadata(error).in_stream or get_error_metadata(error).reason == "connection"
        return
    elif api == "bedrock":
        said = [{"role": "user", "content": [{"text": "Hello, world!"}]}]
        stream = iter(bedrock_client(server).converse_stream(modelId="m", messages=said)["stream"])
    else:
        stream = anthropic_client(server).messages.create(model="m", messages=HELLO, max_tokens=99, stream=True)
    assert next(stream)
    error = failure(lambda: list(stream))
    assert get_error_metadata(error).reason in ("server", "overloaded", "connection")


def test_scripted_errors_drops_and_stalls(tier_1: SimulatedServer) -> None:
    """Each scripted fault hits one request, in order."""
    body = {"error": {"message": "odd", "type": "server_error", "param": None, "code": None}}
    tier_1.script(
        ScriptedFault(status=502, body=body, headers={"retry-after": "3"}),
        ScriptedFault(status=200, body=b"<html>", headers={"content-type": "text/html"}),
        ScriptedFault(FaultKind.DROP),
        ScriptedFault(FaultKind.STALL),
        ScriptedFault(FaultKind.NONE),
    )
    send = sender(tier_1, "openai")
    with pytest.raises(openai.InternalServerError) as caught:
        send()
    assert get_error_metadata(caught.value).retry_after_s == 3
    assert send() == "<html>"
    with pytest.raises(openai.APIConnectionError):
        send()
    with pytest.raises(openai.APITimeoutError):
        openai_client(tier_1, timeout=0.2).chat.completions.create(model="m", messages=HELLO)
    assert send().choices


@pytest.mark.parametrize(
    ("path", "headers", "body", "status", "words"),
    [
        ("/v1/chat/completions", {}, b"{}", 401, "API key"),
        ("/v1/chat/completions", {"authorization": "Bearer wrong-key-of-mine"}, b"{}", 401, "wro***ne"),
        ("/v1/chat/completions", {"authorization": "Bearer right"}, b"{", 400, "parse the JSON"),
        ("/v1/chat/completions", {"authorization": "Bearer right"}, b"{}", 400, "messages"),
        ("/v1/embeddings", {"authorization": "Bearer right"}, b'{"input": [""]}', 400, "input"),
        (
            "/v1/embeddings",
            {"authorization": "Bearer right"},
            json.dumps({"input": "x" * 40_000}).encode(),
            400,
            "8192 tokens",
        ),
        (
            "/v1/embeddings",
            {"authorization": "Bearer right"},
            json.dumps({"input": ["x" * 30_000] * 50}).encode(),
            400,
            "max 300000",
        ),
        ("/v2/nothing", {"authorization": "Bearer right"}, b"{}", 404, "Invalid URL"),
    ],
)
def test_mistakes_get_the_documented_answer(
    path: str, headers: dict[str, str], body: bytes, status: int, words: str
) -> None:
    """Missing and wrong keys, broken bodies, oversized inputs and unknown paths are refused in OpenAI's words."""
    with running_server("openai-tier-1", api_key="right", waits=False) as server:
        request = urllib.request.Request(server.url + path, body, headers)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        text = caught.value.read().decode()
    assert (caught.value.code, words in text) == (status, True)
    assert "wrong-key" not in text


@pytest.mark.parametrize(
    ("preset", "path", "error"),
    [
        (
            "anthropic-start",
            "/v1/messages",
            {
                "type": "error",
                "error": {"type": "authentication_error", "message": "You didn't provide an API key."},
                "request_id": f"req_{1:024d}",
            },
        ),
        (
            "azure-30k",
            "/openai/v1/chat/completions",
            {
                "error": {
                    "code": "401",
                    "message": "Access denied due to invalid subscription key or wrong API endpoint. Make sure to "
                    "provide a valid key for an active subscription and use a correct regional API endpoint for your "
                    "resource.",
                }
            },
        ),
        ("bedrock-titan", "/model/amazon.titan-embed-text-v2:0/invoke", {"message": "You didn't provide an API key."}),
    ],
)
def test_a_missing_key_is_told_in_each_providers_form(preset: str, path: str, error: dict[str, Any]) -> None:
    """The body is the provider's to the last field; Anthropic's repeats the request's id from the header."""
    with running_server(preset, waits=False) as server, pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(server.url + path, b"{}")
    assert (caught.value.code, json.loads(caught.value.read())) == (401, error)
    if "request_id" in error:
        assert caught.value.headers["request-id"] == error["request_id"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["messages", "input", "inputText", "max_tokens", "dimensions", "embeddingTypes", "stream_options", "system"]


@pytest.mark.parametrize(
    ("preset", "path"),
    [
        ("openai-tier-1", "/v1/chat/completions"),
        ("openai-tier-1", "/v1/embeddings"),
        ("azure-30k", "/openai/deployments/d/chat/completions?api-version=1"),
        ("anthropic-start", "/v1/messages"),
        ("bedrock-titan", "/model/amazon.titan-embed-text-v2%3A0/invoke"),
    ],
)
def test_no_body_makes_the_server_stumble(preset: str, path: str) -> None:
    """Whatever JSON comes, the answer is a success or a refusal in the provider's form, never a failure of our own."""
    headers = {"authorization": "Bearer k", "anthropic-version": "2023-06-01"}
    with running_server(preset, waits=False) as server:

        @given(body=st.dictionaries(st.sampled_from(FIELDS), json_values))
        @settings(max_examples=30, deadline=None)
        def post(body: dict[str, Any]) -> None:
            request = urllib.request.Request(server.url + path, json.dumps(body).encode(), headers)
            try:
                status = urllib.request.urlopen(request).status
            except urllib.error.HTTPError as error:
                status = error.code
            assert status in (200, 400, 429)

        post()


def test_anthropic_versions_differ_in_sampling() -> None:
    """Version 2026-10-21 refuses temperature, 2023-06-01 accepts it."""
    body = json.dumps({"model": "m", "max_tokens": 5, "temperature": 1, "messages": HELLO}).encode()
    statuses = []
    with running_server("anthropic-start", waits=False) as server:
        for version in ("2023-06-01", "2026-10-21"):
            headers = {"x-api-key": "k", "anthropic-version": version}
            try:
                statuses.append(
                    urllib.request.urlopen(urllib.request.Request(f"{server.url}/v1/messages", body, headers)).status
                )
            except urllib.error.HTTPError as error:
                statuses.append(error.code)
    assert statuses == [200, 400]


@given(seed=st.integers(0, 1000), sizes=st.lists(st.integers(1, 60_000), min_size=1, max_size=12))
@settings(max_examples=10, deadline=None)
def test_one_machine_two_faces(seed: int, sizes: list[int]) -> None:
    """Over HTTP and in process, the same calls at the same times get the same decisions, waits and limits."""
    spec = provider("openai-tier-1").model_copy(
        update={"quotas": (Bucket(limit=5), Bucket(axis=Axis.TOKENS, limit=40_000))}
    )
    machine = ProviderMachine(spec, Streams(seed))
    time_s = 0.0
    with running_server(spec, seed=seed, waits=False, clock=lambda: time_s, answer_tokens=7) as server:
        client = openai_client(server)
        for index, size in enumerate(sizes):
            time_s += 0.37
            verdict = machine.send(time_s, Call(index, size + 1, 7, 100))
            machine.finish(time_s, verdict.handle)
            message: Any = {"role": "user", "content": "x" * (4 * size)}
            status, headers = over_http(client, message)
            assert (status, parse_limits(headers)) == (verdict.status, verdict.limits)
            asked = server.conduct.requests[-1]
            assert (asked.error, asked.retry_after_s) == (verdict.error, verdict.retry_after_s)


def test_slots_are_held_while_answers_are_awaited() -> None:
    """Concurrent requests beyond the slots are refused; once answers have ended there is room again."""

    async def burst(url: str) -> list[int]:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)
        calls = [client.chat.completions.create(model="m", messages=HELLO) for _ in range(5)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        statuses = [getattr(result, "status_code", 200) for result in results]
        await client.chat.completions.create(model="m", messages=HELLO)
        await client.close()
        return sorted(statuses)

    slow = LatencyModel(first_token_s=200, first_token_sigma=0, per_token_s=0)
    spec = Provider(quotas=(Slots(limit=2),), latency=slow)
    with running_server(spec, speed=1000) as server:
        assert asyncio.run(burst(server.url)) == [200, 200, 429, 429, 429]


def test_a_client_that_leaves_frees_its_slot() -> None:
    """Hanging up before the answer settles the call at once."""
    slow = LatencyModel(first_token_s=1e6, first_token_sigma=0)
    with running_server(Provider(quotas=(Slots(limit=1),), latency=slow)) as server:
        with pytest.raises(openai.APITimeoutError):
            openai_client(server, timeout=0.1).chat.completions.create(model="m", messages=HELLO)
        deadline = time.monotonic() + 5
        while server.machine.wait_s(0.0, Call(1, 1)) and time.monotonic() < deadline:
            pass
        assert server.machine.wait_s(0.0, Call(1, 1)) == 0


def test_many_servers_at_once_on_free_ports() -> None:
    """Servers do not disturb each other."""
    with running_server("bucket", waits=False) as one, running_server("slots", waits=False) as other:
        assert one.url != other.url
        sender(one, "openai")()
        assert (len(one.conduct.requests), len(other.conduct.requests)) == (1, 0)


def test_a_taken_port_and_senseless_settings_are_errors_of_ours() -> None:
    """The message has the value and the remedy."""
    with running_server("bucket") as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(ConfigurationError, match=str(port)), running_server("bucket", port=port):
            pass
    with pytest.raises(ConfigurationError, match="waits=False"):
        SimulatedServer("bucket", speed=0)
    with pytest.raises(ConfigurationError, match="no HTTP face"):
        SimulatedServer(Provider(api="local"))


def test_https_on_demand(tmp_path: Path) -> None:
    """With a certificate the server speaks TLS."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    )
    try:
        subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed, and without it no certificate can be made")
    with running_server("bucket", waits=False, tls=(certificate, key)) as server:
        assert server.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(certificate))
        request = urllib.request.Request(
            f"{server.url}/v1/embeddings", b'{"input": "x"}', {"authorization": "Bearer k"}
        )
        assert urllib.request.urlopen(request, context=context).status == 200


def test_every_request_leaves_a_line(tier_1: SimulatedServer) -> None:
    """The log has one line per request, with route and status and no text of the prompt."""
    lines: list[str] = []
    with running_server("bucket", waits=False, log=lines.append) as server:
        sender(server, "openai")()
    assert len(lines) == 1
    assert "POST /v1/chat/completions" in lines[0]
    assert "200" in lines[0]
    assert "Hello" not in lines[0]


def test_the_sdks_own_retries_are_found_out() -> None:
    """A client that lets the SDK retry is told so by the verdict, as is one that comes back too early."""
    with running_server(Provider(quotas=(Bucket(limit=1),)), waits=False) as server:
        send = openai_client(server).chat.completions.create
        send(model="m", messages=HELLO)
        server.script(ScriptedFault(FaultKind.ERROR, 429, headers={"retry-after": "0.01"}))
        with pytest.raises(openai.RateLimitError):
            openai_client(server, max_retries=1).chat.completions.create(model="m", messages=HELLO)
        with pytest.raises(openai.RateLimitError):
            send(model="m", messages=HELLO)
        with pytest.raises(openai.RateLimitError):
            send(model="m", messages=HELLO)
    findings = server.conduct.findings()
    assert findings[Misconduct.HIDDEN_RETRY] == 1
    assert findings[Misconduct.IGNORED_RETRY_AFTER] >= 1
    assert "ignored_retry_after" in str(server.conduct)


def test_terminal_errors_must_not_come_back() -> None:
    """Sending again what can never succeed is noticed."""
    with running_server(Provider(quotas=(Bucket(axis=Axis.TOKENS, limit=10),)), waits=False) as server:
        for _ in range(2):
            with pytest.raises(openai.RateLimitError):
                sender(server, "openai")()
    assert server.conduct.findings() == {Misconduct.RETRIED_TERMINAL: 1}


OURS: dict[str, dict[str, Any]] = {
    "openai-tier-1": {"provider": "openai", "model": "gpt-5.4-nano", "base_url": "{url}/v1", "api_key": "k"},
    "openai-tier-3": {
        "provider": "openai",
        "model": "gpt-5.4-nano",
        "base_url": "{url}/v1",
        "api_key": "k",
        "api": "responses",
    },
    "azure-30k": {"provider": "azure", "model": "gpt-4o", "base_url": "{url}", "api_key": "k"},
    "anthropic-start": {"provider": "anthropic", "model": "claude-haiku-4-5", "base_url": "{url}", "api_key": "k"},
    "bedrock-claude": {
        "provider": "bedrock",
        "model": "anthropic.claude-sonnet-4-6",
        "base_url": "{url}",
        "region": "us-east-1",
    },
    "bedrock-titan": {
        "provider": "bedrock",
        "type": "embedding",
        "model": "amazon.titan-embed-text-v2:0",
        "base_url": "{url}",
        "region": "us-east-1",
    },
}


@pytest.mark.parametrize("preset", OURS)
def test_our_own_clients_do_nothing_wrong(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The factory's client of each provider meets a 429, trouble and a dropped connection, and is acquitted."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SK")
    limits = {"cool_off_s": 1e-3, "retry": {"backoff_base_s": 1e-3}}
    told = {"x-amz-retry-after": "30"} if "bedrock" in preset else {"retry-after": "0.03"}
    storm = (
        ScriptedFault(FaultKind.ERROR, 429, headers=told),
        ScriptedFault(FaultKind.ERROR, 503),
        ScriptedFault(FaultKind.DROP),
    )

    async def main() -> None:
        profile = {**OURS[preset], "base_url": OURS[preset]["base_url"].format(url=server.url), "rate_limit": limits}
        async with LLMClientFactory(LLMConfig.from_dict({"providers": {"it": profile}})) as factory:
            if profile.get("type") == "embedding":
                vectors = (await factory.create_embedding_client().embed(["one", "two"])).vectors
                assert [len(vector) for vector in vectors] == [1024, 1024]
                return
            client = factory.create_completion_client()
            for words in ("one", "two"):
                assert (await client.complete([Message.user(words)], max_tokens=5)).usage.output_tokens == 5
            text = "".join([chunk.text async for chunk in client.stream([Message.user("three")], max_tokens=5)])
            assert len(text.split()) == 5

    with running_server(preset, waits=False) as server:
        server.script(*storm)
        asyncio.run(main())
    assert "the client did nothing wrong" in str(server.conduct)
    assert sum(asked.status != 200 for asked in server.conduct.requests) == len(storm)


def test_serving_until_ctrl_c() -> None:
    """The command for people tells its address and every request, and on Ctrl-C, answered or not, its verdict."""
    command = [sys.executable, "-m", "simulators", "serve", "--provider", "anthropic-start", "--port", "0"]
    slow = [*command, "--speed", "1e-6"]
    asked = json.dumps({"model": "claude", "max_tokens": 9, "messages": HELLO}).encode()
    keyed = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
    with subprocess.Popen(slow, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        assert served.stderr is not None
        try:
            head = served.stderr.readline()
            told = re.fullmatch(r"Serving anthropic-start at (http://127\.0\.0\.1:(\d+)) until Ctrl-C\n", head)
            assert told is not None
            for _ in range(2):
                with pytest.raises(urllib.error.HTTPError, match="401"):
                    urllib.request.urlopen(f"{told[1]}/v1/messages", data=b"{}")
                assert "POST /v1/messages  401  invalid_request" in served.stderr.readline()
            waiting = http.client.HTTPConnection("127.0.0.1", int(told[2]))
            waiting.request("POST", "/v1/messages", asked, keyed)
            assert "POST /v1/messages  200" in served.stderr.readline()
            served.send_signal(signal.SIGINT)
            with pytest.raises(ConnectionError):
                waiting.getresponse()
            verdict, rest = served.communicate(timeout=60)
        finally:
            served.kill()
    assert (served.returncode, rest) == (0, "")
    head, *findings = verdict.splitlines()
    assert head == "3 requests: 1 served, 0 rejected, 2 failed"
    assert [line.partition(":")[0] for line in findings] == ["  1 x retried_terminal"]
