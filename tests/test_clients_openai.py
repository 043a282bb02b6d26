"""OpenAI's own ways: reasoning models, images, formats, embeddings; over the real SDK and a loopback server."""

from __future__ import annotations

import asyncio
import struct
from base64 import b64encode
from typing import Any

import pytest
from pydantic import BaseModel, Field

from factflow_llm.clients.openai import OpenAIClient
from factflow_llm.errors import (
    BadResponseError,
    ConfigurationError,
    ErrorReason,
    InvalidRequestError,
    LLMErrorClassification,
    classify_llm_error,
    get_error_metadata,
)
from factflow_llm.protocols import EmbeddingClientProtocol
from factflow_llm.types import FinishReason, ImagePart, Message, StreamChunk, TextPart, Tool, ToolCall, Usage
from tests.support.faces import OPENAI, openai_answer, openai_chunk
from tests.support.loopback import Asked, Events, Loopback, Reply, Scripted

HELLO = [Message.user("hello")]


def ask(messages: Any = HELLO, *, model: str = "gpt-4o-mini", reply: Any = None, **asked: Any) -> tuple[Any, Any]:
    """Complete once and return the answer and the request's body."""

    async def call(server: Loopback) -> Any:
        async with OPENAI.make(server.url, model) as client:
            return await client.complete(messages, **asked)

    with Loopback(Reply(reply or OPENAI.answer)) as server:
        return asyncio.run(call(server)), server.asked[0].body


def follow(*events: Any, **asked: Any) -> tuple[list[StreamChunk], Any]:
    """Stream once and return the chunks and the request's body."""

    async def call(server: Loopback) -> list[StreamChunk]:
        async with OPENAI.make(server.url) as client:
            return [chunk async for chunk in client.stream(HELLO, **asked)]

    with Loopback(Events(events)) as server:
        return asyncio.run(call(server)), server.asked[0].body


def test_conversation_on_the_wire() -> None:
    """Every kind of turn and part is said in OpenAI's words."""
    call = ToolCall("c1", "weather", '{"city": "Bern"}')
    _, body = ask(
        [
            Message.system("be short"),
            Message.user([TextPart("what is this?"), ImagePart(url="https://example.org/cat.png")]),
            Message.user([ImagePart(data=b"\x89PNG", media_type="image/png")]),
            Message.assistant(tool_calls=(call,)),
            Message.tool("rain", tool_call_id="c1"),
            Message("user", "thanks", name="ann"),
        ],
        tools=[Tool("weather", "Tells the weather", {"type": "object"}), Tool("now")],
        tool_choice="auto",
        seed=7,
        max_tokens=9,
        temperature=0.5,
    )
    function = {"name": "weather", "arguments": '{"city": "Bern"}'}
    assert body == {
        "model": "gpt-4o-mini",
        "messages": [
            {"role": "system", "content": "be short"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what is this?"},
                    {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}},
                ],
            },
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}}],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": function}],
            },
            {"role": "tool", "content": "rain", "tool_call_id": "c1"},
            {"role": "user", "content": "thanks", "name": "ann"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {"name": "weather", "description": "Tells the weather", "parameters": {"type": "object"}},
            },
            {"type": "function", "function": {"name": "now"}},
        ],
        "tool_choice": "auto",
        "seed": 7,
        "max_tokens": 9,
        "temperature": 0.5,
    }


@pytest.mark.parametrize(
    "model", ["o1", "o3-mini", "gpt-5", "gpt-5.6-luna", "gpt-6.1-sol", "ft:o4-mini:us::1", "openai/gpt-5"]
)
def test_reasoning_models(model: str) -> None:
    """Reasoning models get max_completion_tokens, and a temperature other than 1 fails before it is sent."""
    _, body = ask(model=model, max_tokens=9, temperature=1)
    assert (body["max_completion_tokens"], body["temperature"]) == (9, 1)
    assert "max_tokens" not in body
    with pytest.raises(InvalidRequestError, match=r"temperature=0.5: .* leave it out"):
        ask(model=model, temperature=0.5)


@pytest.mark.parametrize(
    "model", ["gpt-4o", "gpt-4.1-mini", "gpt-35-turbo", "gpt-3.5-turbo", "gpt-oss-120b", "llama-o1"]
)
def test_other_models(model: str) -> None:
    """Models that do not reason, and models of other makers, get max_tokens and any temperature."""
    _, body = ask(model=model, max_tokens=9, temperature=0.5)
    assert (body["max_tokens"], body["temperature"]) == (9, 0.5)


def test_reasoning_switched_off_takes_a_temperature() -> None:
    """With reasoning_effort 'none' a reasoning model is asked with the temperature given."""
    _, body = ask(model="gpt-5.1", temperature=0.5, reasoning_effort="none")
    assert (body["temperature"], body["reasoning_effort"]) == (0.5, "none")


class _City(BaseModel):
    name: str


class _Trip(BaseModel):
    start: _City = Field(description="where from")
    stops: list[_City] = []
    default: str | None = None


def test_pydantic_model_becomes_a_strict_schema() -> None:
    """A model is sent closed and without defaults; a field named like a keyword stays; references are written out."""
    _, body = ask(response_format=_Trip)
    sent = body["response_format"]["json_schema"]
    city = {"type": "object", "title": "_City", "additionalProperties": False, "required": ["name"]}
    city["properties"] = {"name": {"title": "Name", "type": "string"}}
    assert (sent["name"], sent["strict"]) == ("_Trip", True)
    assert sent["schema"]["required"] == ["start", "stops", "default"]
    assert sent["schema"]["additionalProperties"] is False
    assert sent["schema"]["properties"] == {
        "start": city | {"description": "where from"},
        "stops": {"title": "Stops", "type": "array", "items": {"$ref": "#/$defs/_City"}},
        "default": {"title": "Default", "anyOf": [{"type": "string"}, {"type": "null"}]},
    }
    assert sent["schema"]["$defs"] == {"_City": city}


CLOSED = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (CLOSED, True),
        (CLOSED | {"required": []}, False),
        ({"type": "object", "properties": {"a": CLOSED}}, False),
        ({"type": "array", "items": CLOSED}, False),
        (CLOSED | {"$defs": {"b": {"anyOf": [{"type": "object"}]}}}, False),
    ],
)
def test_json_schema_goes_as_it_is(schema: dict[str, Any], strict: bool) -> None:
    """A JSON schema is sent untouched, as strict only when the API would take it as strict."""
    _, body = ask(response_format=schema)
    assert body["response_format"]["json_schema"] == {"name": "answer", "schema": schema, "strict": strict}


def test_native_format_passes() -> None:
    """OpenAI's own response_format is not wrapped."""
    _, body = ask(response_format={"type": "json_object"})
    assert body["response_format"] == {"type": "json_object"}


def test_refusal_is_a_content_filter() -> None:
    """A refusal keeps its text and the provider's word, and is no clean stop."""
    answer, _ = ask(reply=openai_answer({"role": "assistant", "content": None, "refusal": "I will not"}, finish="stop"))
    assert (answer.text, answer.finish_reason, answer.provider_finish_reason) == (
        "I will not",
        FinishReason.CONTENT_FILTER,
        "stop",
    )
    chunks, _ = follow(openai_chunk({"refusal": "I will not"}), openai_chunk({}, "stop"), "[DONE]")
    assert (chunks[0].text, chunks[1].finish_reason) == ("I will not", FinishReason.CONTENT_FILTER)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_of_compatible_servers(name: str) -> None:
    """Reasoning text, under either of its names, is told apart from the answer."""
    answer, _ = ask(reply=openai_answer({"role": "assistant", "content": "42", name: "6 x 7"}))
    assert (answer.text, answer.reasoning) == ("42", "6 x 7")
    chunks, _ = follow(openai_chunk({name: "6 x 7"}), openai_chunk({"content": "42"}, "stop"), "[DONE]")
    assert [(chunk.text, chunk.reasoning) for chunk in chunks] == [("", "6 x 7"), ("42", ""), ("", "")]


def test_stream_asks_for_usage_and_lives_without() -> None:
    """Usage is asked for beside the caller's own stream options, and is None where the server sends none."""
    chunks, body = follow(
        openai_chunk({"content": "hi"}, "stop"), "[DONE]", stream_options={"include_obfuscation": False}
    )
    assert body["stream_options"] == {"include_usage": True, "include_obfuscation": False}
    assert chunks[-1].usage == Usage()


def test_stream_skips_what_is_no_answer() -> None:
    """Chunks without choices, without a delta (Azure's filter notices), or of a second choice are passed over."""
    notice = openai_chunk() | {"choices": [{"index": 0, "finish_reason": None, "content_filter_offsets": {}}]}
    second = openai_chunk() | {"choices": [{"index": 1, "finish_reason": "length", "delta": {"content": "no"}}]}
    chunks, _ = follow(openai_chunk(), notice, second, openai_chunk({"content": "yes"}, "stop"), "[DONE]")
    assert [(chunk.text, chunk.finish_reason) for chunk in chunks] == [("yes", None), ("", FinishReason.STOP)]


def vectors(*numbers: float, plain: bool = False, backwards: bool = True, tokens: int = 1) -> Reply:
    """Make an embeddings body with one two-dimensional vector per number, out of order."""
    data = []
    for index, number in enumerate(numbers):
        packed = [number, 0.5] if plain else b64encode(struct.pack("<2f", number, 0.5)).decode()
        data.append({"object": "embedding", "index": index, "embedding": packed})
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return Reply({"object": "list", "model": "text-embedding-3-small", "data": data[::-1], "usage": usage})


def embed(
    texts: Any, *replies: Scripted, model: str = "text-embedding-3-small", **wanted: Any
) -> tuple[Any, list[Any]]:
    """Embed and return the response and the bodies asked."""
    made = {name: wanted.pop(name) for name in ("options",) if name in wanted}

    async def call(server: Loopback) -> Any:
        async with OPENAI.make(server.url, model, **made) as client:
            assert isinstance(client, EmbeddingClientProtocol)
            return await client.embed(texts, **wanted)

    with Loopback(*replies) as server:
        return asyncio.run(call(server)), [asked.body for asked in server.asked]


@pytest.mark.parametrize("plain", [False, True], ids=["packed", "plain"])
def test_embeddings_are_ordered_by_index(plain: bool) -> None:
    """Vectors come back in the order of the texts, whether packed or plain."""
    response, [body] = embed(["a", "b"], vectors(1.0, 2.0, plain=plain, tokens=2), dimensions=2)
    assert response.vectors == ((1.0, 0.5), (2.0, 0.5))
    assert (response.dimensions, response.usage, len(response.raw)) == (2, Usage(input_tokens=2), 1)
    assert body == {
        "model": "text-embedding-3-small",
        "input": ["a", "b"],
        "encoding_format": "base64",
        "dimensions": 2,
    }


def test_embeddings_take_preset_options() -> None:
    """Options of the client reach the embeddings request; a misspelt one fails before it."""
    _, [body] = embed(["a"], vectors(1.0, plain=True), options={"encoding_format": "float", "user": "u"})
    assert (body["encoding_format"], body["user"]) == ("float", "u")
    with pytest.raises(InvalidRequestError, match="did you mean 'user'"):
        embed(["a"], vectors(1.0), options={"usr": "u"})


def test_no_texts_ask_nothing() -> None:
    """Embedding nothing sends nothing and costs nothing."""
    response, bodies = embed([], vectors())
    assert (response.vectors, response.dimensions, response.usage.input_tokens, bodies) == ((), 0, 0, [])


def test_split_by_count() -> None:
    """No batch holds more than 2,048 texts, and the batches cover all texts in order."""
    client = OpenAIClient("text-embedding-3-small", api_key="k")
    assert client.split(["a"] * 4100) == [slice(0, 2048), slice(2048, 4096), slice(4096, 4100)]


def test_split_by_tokens() -> None:
    """No batch is estimated above 300,000 tokens."""
    client = OpenAIClient("text-embedding-3-small", api_key="k")
    batches = client.split(["word " * 7000] * 100)
    assert len(batches) > 2
    assert [batch.start for batch in batches[1:]] == [batch.stop for batch in batches[:-1]]
    assert batches[-1].stop == 100


def test_batches_are_in_flight_together_and_joined_in_order() -> None:
    """All batches are sent before the first answer is awaited, and their answers join in the order of the texts."""
    from factflow_llm.clients.embeddings import embed_batches
    from factflow_llm.types import EmbeddingResponse

    texts = ["0", "1", "2", "3"]
    started: list[str] = []
    all_started = asyncio.Event()

    async def send(batch: Any) -> EmbeddingResponse:
        started.append(batch[0])
        if len(started) == 2:
            all_started.set()
        await asyncio.wait_for(all_started.wait(), 5)
        return EmbeddingResponse(tuple((float(text),) for text in batch), "m", Usage(input_tokens=len(batch)))

    response = asyncio.run(embed_batches(texts, [slice(0, 3), slice(3, 4)], send))
    assert response.vectors == ((0.0,), (1.0,), (2.0,), (3.0,))
    assert response.usage == Usage(input_tokens=4)


TOO_MANY = Reply(
    {
        "error": {
            "message": "Requested 306153 tokens, max 300000 tokens per request",
            "type": "max_tokens_per_request",
            "param": None,
            "code": "max_tokens_per_request",
        }
    },
    status=400,
)


def test_too_many_tokens_are_halved() -> None:
    """A batch refused for its tokens is halved and sent again; the vectors still stand in order."""

    def refuse_three(asked: Asked) -> Reply:
        numbers = [float(text) for text in asked.body["input"]]
        return TOO_MANY if len(numbers) == 3 else vectors(*numbers, tokens=len(numbers))

    response, bodies = embed(["0", "1", "2"], refuse_three)
    assert sorted(len(body["input"]) for body in bodies) == [1, 2, 3]
    assert (response.vectors, response.usage.input_tokens) == (((0.0, 0.5), (1.0, 0.5), (2.0, 0.5)), 3)


def test_one_text_is_not_halved() -> None:
    """A single text refused for its tokens raises the SDK's own error."""
    import openai

    with pytest.raises(openai.BadRequestError) as caught:
        embed(["a"], TOO_MANY)
    assert get_error_metadata(caught.value).reason is ErrorReason.BATCH_TOO_LARGE


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["a", ""], r"texts\[1\] is empty"),
        (["a", "b", None], r"texts\[2\] is of type NoneType"),
        ("a", r"write \[text\]"),
        (["a", "one two three " * 20_000], r"texts\[1\] holds about .* reads 8,192: cut it into pieces"),
    ],
)
def test_bad_texts_are_named_by_position(texts: Any, words: str) -> None:
    """An empty, a wrong and a far too long text fail before anything is sent, named by position."""
    with Loopback(vectors(1.0)) as server:
        client = OpenAIClient("text-embedding-3-small", api_key="k", base_url=server.url)
        with pytest.raises(InvalidRequestError, match=words):
            asyncio.run(client.embed(texts))
        assert server.asked == []


def test_text_the_provider_refuses_is_named_by_its_place_in_the_callers_list() -> None:
    """The provider counts within a batch; the error counts within the caller's list and keeps its cause."""
    import openai

    from factflow_llm.clients.embeddings import embed_batches

    refusal = {"error": {"message": "Invalid 'input[1]': maximum input length is 8192 tokens.", "type": "x"}}
    with Loopback(vectors(1.0), Reply(refusal, status=400)) as server:
        client = OpenAIClient("text-embedding-3-small", api_key="k", base_url=server.url)

        async def send(batch: Any) -> Any:
            return await client.embed_batch(batch)

        async def call() -> None:
            await send(["warm up"])
            async with client:
                await embed_batches(["a", "b", "c", "d"], [slice(2, 4)], send)

        with pytest.raises(InvalidRequestError, match=r"texts\[3\] was refused") as caught:
            asyncio.run(call())
    assert isinstance(caught.value.__cause__, openai.BadRequestError)
    assert classify_llm_error(caught.value) is LLMErrorClassification.TERMINAL


def test_missing_vectors_are_a_bad_response() -> None:
    """Fewer vectors than texts, none, or a web page never pass for an answer; the first text without one is named."""
    page = Reply(b"<html>", content_type="text/html")
    replies = {
        r"texts\[1\] has no vector": vectors(1.0),
        r"texts\[0\] has no vector": vectors(),
        "check base_url": page,
    }
    for words, reply in replies.items():
        with pytest.raises(BadResponseError, match=words) as caught:
            embed(["a", "b"], reply)
        assert get_error_metadata(caught.value).reason is ErrorReason.BAD_RESPONSE


def test_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without api_key the environment's key is sent."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-env")

    async def call(server: Loopback) -> None:
        async with OpenAIClient("text-embedding-3-small", base_url=server.url) as client:
            await client.embed(["a"])

    with Loopback(vectors(1.0)) as server:
        asyncio.run(call(server))
    assert server.asked[0].headers["authorization"] == "Bearer sk-env"


@pytest.mark.parametrize(("url", "fits"), [("api.example.org/v1", False), ("https://api.example.org/v1", True)])
def test_base_url_of_the_environment_is_checked(url: str, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A malformed base_url is told when the client is made, wherever it comes from."""
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    if fits:
        assert repr(OpenAIClient("gpt-4o", api_key="k")) == "<OpenAIClient 'gpt-4o' open>"
    else:
        with pytest.raises(ConfigurationError, match="needs a scheme and a host"):
            OpenAIClient("gpt-4o", api_key="k")


def test_answer_without_choices_is_a_bad_response() -> None:
    """An answer with nothing to choose from is no answer."""
    with pytest.raises(BadResponseError, match=r"choices\[0\] is null or missing"):
        ask(reply=openai_answer(choices=[]))


def test_custom_tool_calls_stay_raw() -> None:
    """A call of a custom tool has no JSON arguments: it breaks nothing and is left in the SDK's response."""
    custom = {"id": "c", "type": "custom", "custom": {"name": "shell", "input": "ls"}}
    answer, _ = ask(reply=openai_answer({"role": "assistant", "content": None, "tool_calls": [custom]}))
    assert answer.tool_calls == ()
    assert answer.raw.choices[0].message.tool_calls[0].custom.name == "shell"
