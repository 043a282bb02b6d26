"""What every chat client must do alike, over the real SDKs and a loopback server."""

from __future__ import annotations

import asyncio
import math
import socket
import subprocess
import sys
from contextlib import aclosing
from importlib import import_module
from typing import Any

import pytest

from factflow_llm.errors import (
    BadResponseError,
    ConfigurationError,
    ErrorReason,
    InvalidRequestError,
    LLMErrorClassification,
    Phase,
    classify_llm_error,
    get_error_metadata,
)
from factflow_llm.protocols import LLMClientProtocol
from factflow_llm.ratelimit.client import RateLimitedClient
from factflow_llm.ratelimit.limiter import AdaptiveRateLimiter
from factflow_llm.types import (
    CompletionResponse,
    FinishReason,
    ImagePart,
    Message,
    StreamChunk,
    TextPart,
    Tool,
    ToolCall,
    Usage,
)
from tests.support.faces import AWS, FACES, KEY, Face
from tests.support.loopback import Drop, Hang, Loopback, Reply

HELLO = [Message.user("hello")]
WEATHER = Tool("weather", "Tells the weather", {"type": "object", "properties": {"city": {"type": "string"}}})


@pytest.fixture(params=FACES, ids=lambda face: face.name)
def face(request: pytest.FixtureRequest) -> Face:
    """Give each client in turn."""
    pytest.importorskip(request.param.sdk, reason="the bedrock extra is not installed")
    return request.param


@pytest.fixture(params=[face for face in FACES if face.stainless], ids=lambda face: face.name)
def stainless(request: pytest.FixtureRequest) -> Face:
    """Give each client with a key, a base_url and an httpx of its own in turn."""
    return request.param


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give boto3 credentials that open nothing."""
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)


async def complete(face: Face, server: Loopback, *, messages: Any = HELLO, made: Any = None, **asked: Any) -> Any:
    """Make a client, complete once, close."""
    async with face.make(server.url, **made or {}) as client:
        return await client.complete(messages, **asked)


async def stream(face: Face, server: Loopback, **asked: Any) -> list[StreamChunk]:
    """Make a client, stream once to the end, close."""
    async with face.make(server.url) as client:
        return [chunk async for chunk in client.stream(HELLO, **asked)]


def test_satisfies_the_protocol(face: Face) -> None:
    """Each client has the shape an adapter asks for."""
    assert isinstance(face.make("http://127.0.0.1:1"), LLMClientProtocol)


def test_answer_is_neutral(face: Face) -> None:
    """Text, tool calls, usage with its parts, finish reason, headers and the SDK's response arrive in one form."""
    with Loopback(Reply(face.answer, headers={"X-RateLimit-Remaining-Requests": "41"})) as server:
        answer = asyncio.run(complete(face, server))
    assert answer == CompletionResponse(
        text="Hello",
        model=face.model or face.answer["model"],
        usage=face.usage,
        finish_reason=FinishReason.TOOL_CALLS,
        provider_finish_reason=face.finish_word,
        tool_calls=(ToolCall("call_1", "weather", '{"city": "Bern"}'),),
        response_id=face.answer.get("id"),
        headers=answer.headers,
        origin=f"{face.language} 127.0.0.1{answer.origin.partition('.1')[2]}",
    )
    assert answer.headers["x-ratelimit-remaining-requests"] == "41"
    assert not face.stainless or type(answer.raw).__module__.startswith(f"{face.sdk}.types")


def test_stream_says_the_same_as_the_answer(face: Face) -> None:
    """The pieces of a stream join to the whole answer; usage and finish reason stand in the last chunk alone."""
    with Loopback(face.streamed(face.stream, headers={"X-RateLimit-Remaining-Requests": "41"})) as server:
        *pieces, last = asyncio.run(stream(face, server))
    calls = [delta for piece in pieces for delta in piece.tool_calls]
    assert "".join(piece.text for piece in pieces) == "Hello"
    assert {delta.index for delta in calls} == {0}
    assert (calls[0].id, calls[0].name) == ("call_1", "weather")
    assert "".join(delta.arguments for delta in calls) == '{"city": "Bern"}'
    assert {(piece.usage, piece.finish_reason) for piece in pieces} == {(None, None)}
    assert last.usage == face.usage
    assert last.finish_reason is FinishReason.TOOL_CALLS
    assert last.headers["x-ratelimit-remaining-requests"] == "41"
    assert last.raw is not None
    assert server.asked[0].body.get("stream") is True or server.asked[0].path.endswith("/converse-stream")


def test_finish_reasons_are_a_closed_set(face: Face) -> None:
    """Each word of the provider maps to one of ours and is kept beside it."""
    with Loopback(*(Reply(face.with_finish(word)) for word in face.finish)) as server:
        for word, neutral in face.finish.items():
            answer = asyncio.run(complete(face, server))
            assert (answer.provider_finish_reason, answer.finish_reason) == (word, neutral)


def test_unknown_usage_is_none(face: Face) -> None:
    """A provider that tells no token counts yields None, never 0."""
    with Loopback(Reply({**face.answer, "usage": None})) as server:
        answer = asyncio.run(complete(face, server))
    assert answer.usage == Usage()
    assert answer.usage.total_tokens is None


FAULTS = [
    ("429", 429, LLMErrorClassification.RATE_LIMITED, ErrorReason.RATE_LIMIT),
    ("500", 500, LLMErrorClassification.RETRYABLE, ErrorReason.SERVER),
    ("silence", Hang(), LLMErrorClassification.RETRYABLE, ErrorReason.TIMEOUT),
    ("drop", Drop(), LLMErrorClassification.RETRYABLE, ErrorReason.CONNECTION),
]


@pytest.mark.parametrize("streamed", [False, True], ids=["complete", "stream"])
@pytest.mark.parametrize(("fault", "reply", "kind", "reason"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_one_call_is_one_attempt(
    face: Face, fault: str, reply: Any, kind: LLMErrorClassification, reason: ErrorReason, streamed: bool
) -> None:
    """Whatever goes wrong, exactly one request is on the wire, and the SDK's error arrives unchanged and readable."""
    scripted = face.refuse(reply) if isinstance(reply, int) else reply

    async def call(server: Loopback) -> None:
        async with face.make(server.url, timeout_s=0.5 if fault == "silence" else 30) as client:
            if streamed:
                assert [chunk async for chunk in client.stream(HELLO)] == []
            else:
                await client.complete(HELLO)

    with Loopback(scripted) as server:
        with pytest.raises(face.errors) as caught:
            asyncio.run(call(server))
        assert len(server.asked) == 1
    assert classify_llm_error(caught.value) is kind
    assert get_error_metadata(caught.value).reason is reason


def test_error_inside_a_stream_is_raised(face: Face) -> None:
    """An error after a 200 arrives as an exception that classifies as retryable, after the pieces before it."""
    seen: list[StreamChunk] = []

    async def call(server: Loopback) -> None:
        async with face.make(server.url) as client:
            async for chunk in client.stream(HELLO):
                seen.append(chunk)  # noqa: PERF401 - the pieces before the error are what is looked at

    with Loopback(face.streamed([*face.stream[:4], face.stream_error])) as server:
        with pytest.raises(face.errors) as caught:
            asyncio.run(call(server))
        assert len(server.asked) == 1
    assert seen[0].text == "Hel"
    assert get_error_metadata(caught.value).in_stream
    assert classify_llm_error(caught.value) is LLMErrorClassification.RETRYABLE


@pytest.mark.parametrize("cut", [True, False], ids=["cut", "ended"])
def test_stream_without_an_end_is_a_dropped_connection(face: Face, cut: bool) -> None:
    """A stream that breaks off, or ends before its finish reason, raises a retryable connection error."""
    with Loopback(face.streamed(face.stream[:4], cut=cut)) as server, pytest.raises(Exception) as caught:  # noqa: PT011
        asyncio.run(stream(face, server))
    assert classify_llm_error(caught.value) is LLMErrorClassification.RETRYABLE
    assert get_error_metadata(caught.value).reason is ErrorReason.CONNECTION


@pytest.mark.parametrize("politely", [True, False], ids=["closed", "broken off"])
@pytest.mark.parametrize("limited", [False, True], ids=["bare", "limited"])
def test_leaving_a_stream_early_closes_the_connection(face: Face, limited: bool, politely: bool) -> None:
    """A consumer that stops after one chunk takes the connection down at once, with the client still open."""

    async def call(server: Loopback) -> bool:
        async with face.make(server.url) as client:
            asked = RateLimitedClient(client, AdaptiveRateLimiter()) if limited else client
            if politely:
                async with aclosing(asked.stream(HELLO)) as chunks:
                    assert (await anext(chunks)).text == "Hel"
            else:
                async for chunk in asked.stream(HELLO):
                    assert chunk.text == "Hel"
                    break
            return await asyncio.to_thread(server.client_left.wait, 5)

    with Loopback(face.streamed(face.stream[:4], hold=True)) as server:
        assert asyncio.run(call(server))


@pytest.mark.parametrize("streamed", [False, True], ids=["complete", "stream"])
def test_html_is_a_bad_response(face: Face, streamed: bool) -> None:
    """A web page where an answer should be names the remedy, shows nothing of the page, and classifies as such."""
    page = Reply(b"<html>secret page</html>", content_type="text/html; charset=utf-8")
    with Loopback(page) as server, pytest.raises(BadResponseError, match=r"check (base|endpoint)_url") as caught:
        asyncio.run((stream if streamed else complete)(face, server))
    assert get_error_metadata(caught.value).reason is ErrorReason.BAD_RESPONSE
    assert "secret page" not in str(caught.value)


@pytest.mark.parametrize("body", [b'{"id": "secret page', b"<html>secret page</html>", b'{"id": "\xff"}', b"[]", b"7"])
def test_what_only_says_it_is_json_is_a_bad_response(face: Face, body: bytes) -> None:
    """A body that breaks off, is a web page, is not UTF-8 or is no object is an error of ours that shows none of it."""
    with Loopback(Reply(body)) as server, pytest.raises(BadResponseError, match=r"check (base|endpoint)_url") as caught:
        asyncio.run(complete(face, server))
    assert get_error_metadata(caught.value).reason is ErrorReason.BAD_RESPONSE
    assert "secret page" not in str(caught.value)


def test_error_in_a_200_is_raised(stainless: Face) -> None:
    """A gateway's 200 with an error object inside is an error, not an empty answer."""
    face = stainless
    with Loopback(Reply(face.rate_limited)) as server, pytest.raises(BadResponseError) as caught:
        asyncio.run(complete(face, server))
    assert get_error_metadata(caught.value).reason is ErrorReason.RATE_LIMIT


IMAGE = ImagePart(url="https://example.org/cat.png")
BAD_REQUESTS = {
    "no messages": ({"messages": []}, "messages is empty"),
    "a string": ({"messages": "hello"}, r"write \[Message.user"),
    "a dict": ({"messages": [{"role": "user", "content": "x"}]}, r"messages\[0\] is of type dict"),
    "an unknown role": (
        {"messages": [*HELLO, Message("robot", "x")]},
        r"messages\[1\] has the role 'robot': use one of",
    ),
    "a role that is none": ({"messages": [Message(["user"], "x")]}, r"messages\[0\] has the role \['user'\]"),
    "half a character": ({"messages": [Message.user("a\ud800")]}, r"messages\[0\].content holds half a character at 1"),
    "half a character in a part": ({"messages": [Message.user([TextPart("\ud800")])]}, "holds half a character at 0"),
    "a call that is none": (
        {"messages": [*HELLO, Message.assistant("", tool_calls=({"id": "1"},))]},
        r"messages\[1\].tool_calls\[0\] is of type dict",
    ),
    "text that is none": ({"messages": [Message.user(7)]}, r"messages\[0\].content is of type int"),
    "bytes": ({"messages": [Message.user(b"x")]}, r"messages\[0\].content is of type bytes"),
    "a part that is none": ({"messages": [Message.user(["x"])]}, r"messages\[0\].content\[0\] is of type str"),
    "a part without text": ({"messages": [Message.user([TextPart(None)])]}, r"content\[0\] is of type NoneType"),
    "an image of nothing": ({"messages": [Message.user([ImagePart()])]}, "must have either url or data"),
    "an image of text": (
        {"messages": [Message.user([ImagePart(data="x", media_type="image/png")])]},
        "data is of type",
    ),
    "an image of no type": ({"messages": [Message.user([ImagePart(data=b"x")])]}, "media_type='image/png'"),
    "an image by data URL": ({"messages": [Message.user([ImagePart(url="data:x")])]}, "must begin with https://"),
    "a system's image": ({"messages": [Message("system", [IMAGE])]}, "only a user's turn can show images"),
    "a tool's answer to nothing": ({"messages": [Message("tool", "x")]}, "no tool_call_id"),
    "NaN temperature": ({"temperature": math.nan}, "temperature=nan must be a number from 0"),
    "negative temperature": ({"temperature": -0.1}, "temperature=-0.1 must be a number from 0"),
    "a temperature in words": ({"temperature": "0.5"}, "temperature='0.5' must be a number from 0"),
    "a temperature of truth": ({"temperature": True}, "temperature=True must be a number from 0"),
    "a length of truth": ({"max_tokens": True}, "max_tokens=True must be a whole number"),
    "a stop that is no text": ({"stop": 5}, "stop=5: give texts"),
    "an empty stop": ({"stop": ["END", ""]}, "give texts that are not empty"),
    "half a token": ({"max_tokens": 1.5}, "max_tokens=1.5 must be a whole number"),
    "a length in words": ({"max_tokens": "9"}, "max_tokens='9' must be a whole number"),
    "no room for an answer": ({"max_tokens": 0}, "max_tokens=0 must be a whole number from 1"),
    "a tool that is none": ({"tools": [{"name": "x"}]}, r"tools\[0\] is of type dict"),
    "one tool": ({"tools": WEATHER}, "tools must be a list of Tool, not Tool"),
    "a tool without a name": ({"tools": [Tool("")]}, r"tools\[0\] has no name"),
    "a stream by option": ({"stream": True}, r"stream is no provider option: call the client's stream\(\)"),
    "another model": ({"model": "other"}, "model is no provider option: .* make another client"),
    "a format that is none": ({"response_format": "json"}, "give a pydantic model class or a JSON schema"),
}


def test_options_of_the_provider_are_checked(face: Face) -> None:
    """A misspelt option names the nearest that the SDK knows, one that is no number itself; neither is sent."""
    wrong, right = face.misspelt
    with Loopback(Reply(face.answer)) as server:
        with pytest.raises(InvalidRequestError, match=f"has no option '{wrong}': did you mean '{right}'"):
            asyncio.run(complete(face, server, **{wrong: "auto"}))
        with pytest.raises(InvalidRequestError, match=f"{face.a_number}=nan must be a finite number"):
            asyncio.run(complete(face, server, **{face.a_number: math.nan}))
        assert server.asked == []


@pytest.mark.parametrize("way", ["complete", "stream", "limited"])
@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_request_fails_before_anything_is_sent(face: Face, case: str, way: str) -> None:
    """A request that cannot be meant names itself and the remedy, is terminal, and never reaches the wire."""
    asked, words = BAD_REQUESTS[case]
    messages = asked.get("messages", HELLO)
    rest = {name: value for name, value in asked.items() if name != "messages"}

    async def call(server: Loopback) -> None:
        async with face.make(server.url) as client:
            if way == "stream":
                client.stream(messages, **rest)
            elif way == "limited":
                await RateLimitedClient(client, AdaptiveRateLimiter()).complete(messages, **rest)
            else:
                await client.complete(messages, **rest)

    with Loopback(Reply(face.answer)) as server:
        with pytest.raises(InvalidRequestError, match=words) as caught:
            asyncio.run(call(server))
        assert server.asked == []
    assert classify_llm_error(caught.value) is LLMErrorClassification.TERMINAL


BAD_CLIENTS = {
    "no key": ({"api_key": None}, "set the environment variable [A-Z_]+_API_KEY or give api_key"),
    "a key with a newline": ({"api_key": "sk-hidden\n"}, r"was it read from a file\? strip\(\) it"),
    "a key with a dash of Word": ({"api_key": "sk\u2013hidden"}, "a character outside ASCII"),
    "no scheme": ({"base_url": "example.org/v1"}, "base_url 'example.org/v1' needs a scheme and a host"),
    "a base_url that is none": ({"base_url": 5}, "base_url 5 is no URL"),
    "a base_url with a newline": ({"base_url": "https://example.org/v1\n"}, "no space or line break"),
    "half an address": ({"base_url": "http://[::1"}, "Invalid IPv6 URL; write https://HOST"),
    "no port": ({"base_url": "http://example.org:http"}, "is no URL: Port could not be cast"),
    "a port too high": ({"base_url": "http://example.org:99999"}, "is no URL: Port out of range"),
    "a key that is none": ({"api_key": 5}, "the API key is of type int"),
    "a time in words": ({"timeout_s": "60"}, "timeout_s='60' must be a finite number above 0"),
    "a header that is none": ({"headers": {"x-team": 5}}, "the header 'x-team' is of type int"),
    "a header with a space": ({"headers": {"x team": "a"}}, "'x team' cannot be the name of a header"),
    "no host": ({"base_url": "https:///v1"}, "needs a scheme and a host"),
    "a proxy without scheme": ({"proxy": "proxy:3128"}, "proxy 'proxy:3128' needs a scheme"),
    "two ways out": ({"proxy": "http://proxy:3128", "http_client": object()}, "either proxy or http_client"),
    "no time": ({"timeout_s": 0}, "timeout_s=0 must be a finite number above 0"),
    "no time to connect": ({"connect_timeout_s": math.inf}, "connect_timeout_s=inf must be"),
    "a broken header": ({"headers": {"x-team": "a\r\nb"}}, "the header 'x-team' holds a line break"),
    "no model": ({"model": " "}, "must be the name of a model"),
}


@pytest.mark.parametrize("case", BAD_CLIENTS)
def test_bad_client_fails_when_made(stainless: Face, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that cannot work says so with the remedy when it is made, and never shows a key."""
    face = stainless
    for variable in ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    wanted, words = BAD_CLIENTS[case]
    with pytest.raises(ConfigurationError, match=words) as caught:
        face.make("http://127.0.0.1:1", **wanted)
    assert "hidden" not in str(caught.value)
    assert classify_llm_error(caught.value) is LLMErrorClassification.TERMINAL


def test_connect_timeout_is_one_of_its_own(face: Face) -> None:
    """A host that takes no connection is given up after connect_timeout_s, long before timeout_s; nothing was sent."""

    async def call(port: int) -> None:
        async with face.make(f"http://127.0.0.1:{port}", timeout_s=600, connect_timeout_s=0.1) as client:
            await client.complete(HELLO)

    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        one_waits_and_no_other_is_let_in = socket.create_connection(("127.0.0.1", port))
        with one_waits_and_no_other_is_let_in, pytest.raises(face.errors) as caught:
            asyncio.run(call(port))
    metadata = get_error_metadata(caught.value)
    assert (metadata.reason, metadata.phase, metadata.request_sent) == (ErrorReason.TIMEOUT, Phase.CONNECT, False)


def test_headers_and_preset_options_reach_the_wire(face: Face) -> None:
    """A header of the client, and options preset or given by the call (the call's win), are in the request."""
    made = {"headers": {"X-Team": "facts"}, "options": {"max_tokens": 5, **face.extra(1)}}
    with Loopback(Reply(face.answer)) as server:
        asyncio.run(complete(face, server, made=made))
        asyncio.run(complete(face, server, made=made, max_tokens=6, **face.extra(2)))
    assert [(asked.headers["x-team"], *face.sent(asked.body)) for asked in server.asked] == [
        ("facts", 5, None, 1),
        ("facts", 6, None, 2),
    ]


def test_stop_may_be_one_word(face: Face) -> None:
    """A single stop text and a list of them are the same on the wire; who knows no stop says what to do instead."""
    if not face.stops:
        with Loopback(Reply(face.answer)) as server, pytest.raises(InvalidRequestError, match="use chat completions"):
            asyncio.run(complete(face, server, stop="END"))
        return
    with Loopback(Reply(face.answer)) as server:
        asyncio.run(complete(face, server, stop="END"))
        asyncio.run(complete(face, server, stop=("END",)))
    first, second = (asked.body for asked in server.asked)
    assert face.sent(first)[1] == ["END"]
    assert first == second


def test_proxy_is_used(face: Face) -> None:
    """With a proxy the request goes there, whatever host it is for."""

    async def call(proxy: Loopback) -> str:
        async with face.make("http://nowhere.invalid", proxy=proxy.url) as client:
            return (await client.complete(HELLO)).text

    with Loopback(Reply(face.answer)) as proxy:
        assert asyncio.run(call(proxy)) == "Hello"
    assert proxy.asked[0].path.startswith("http://nowhere.invalid/")


def test_http_client_of_the_caller_stays_open(stainless: Face) -> None:
    """A connection pool handed in is used and is not closed with the client."""
    face = stainless

    async def call(server: Loopback) -> bool:
        async with import_module(face.sdk).DefaultAsyncHttpxClient() as pool:
            async with face.make(server.url, http_client=pool) as client:
                await client.complete(HELLO)
            return pool.is_closed

    with Loopback(Reply(face.answer)) as server:
        assert asyncio.run(call(server)) is False


def test_closes_once_and_shows_no_secret(face: Face) -> None:
    """A second aclose does nothing; the repr tells the state and never the key."""

    async def life() -> tuple[str, str]:
        client = face.make("http://127.0.0.1:1")
        born = repr(client)
        await client.aclose()
        await client.aclose()
        return born, repr(client)

    born, dead = asyncio.run(life())
    assert "open" in born
    assert "closed" in dead
    assert KEY not in born + dead


def test_importing_the_clients_imports_no_sdk() -> None:
    """The SDKs are loaded when a client is made, not when the modules are imported."""
    code = (
        "import sys, factflow_llm.clients.openai, factflow_llm.clients.azure, factflow_llm.clients.anthropic;"
        "print(sorted({'openai', 'anthropic', 'httpx', 'httpx2', 'boto3', 'tiktoken'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
