"""Titan embeddings through the real boto3 and a loopback server."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from factflow_llm.clients.bedrock import BedrockEmbeddingClient
from factflow_llm.errors import (
    BadResponseError,
    ConfigurationError,
    ErrorReason,
    ExtraMissingError,
    InvalidRequestError,
    LLMErrorClassification,
    classify_llm_error,
    get_error_metadata,
)
from factflow_llm.protocols import EmbeddingClientProtocol
from tests.support.loopback import Asked, Drop, Hang, Loopback, Reply

if TYPE_CHECKING:
    from factflow_llm.types import EmbeddingResponse

pytest.importorskip("boto3", reason="the bedrock extra is not installed")

V1 = "amazon.titan-embed-text-v1"
V2 = "amazon.titan-embed-text-v2:0"
VECTOR = Reply(
    {"embedding": [0.6, 0.8], "inputTextTokenCount": 3},
    headers={"X-Amzn-Bedrock-Input-Token-Count": "3", "X-Amzn-RequestId": "r-1"},
)


def refusal(status: int, kind: str, message: str = "no") -> Reply:
    """Say no as Bedrock does."""
    return Reply({"message": message}, status=status, headers={"x-amzn-errortype": kind})


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give boto3 credentials that open nothing, and no region."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-aws")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)


def make(server: Loopback, model: str = V2, **settings: Any) -> BedrockEmbeddingClient:
    """Make a client that talks to the server."""
    return BedrockEmbeddingClient(model, region="us-east-1", endpoint_url=server.url, **settings)


def embed(server: Loopback, texts: list[str], *, wanted: int | None = None, **settings: Any) -> EmbeddingResponse:
    """Make a client, embed once, close."""

    async def main() -> EmbeddingResponse:
        async with make(server, **settings) as client:
            return await client.embed(texts, dimensions=wanted)

    return asyncio.run(main())


def test_answer_is_neutral() -> None:
    """Vector, token count, lower-case headers and the SDK's own response come back."""
    with Loopback(VECTOR) as server:
        response = embed(server, ["hello"])
    assert response.vectors == ((0.6, 0.8),)
    assert (response.model, response.usage.input_tokens, response.usage.output_tokens) == (V2, 3, None)
    assert response.headers["x-amzn-bedrock-input-token-count"] == "3"
    assert response.raw[0]["body"]["embedding"] == [0.6, 0.8]


@pytest.mark.parametrize(
    ("settings", "wanted", "body"),
    [
        pytest.param({}, None, {"normalize": True}, id="v2"),
        pytest.param({"dimensions": 256, "normalize": False}, None, {"dimensions": 256, "normalize": False}, id="made"),
        pytest.param({"dimensions": 256}, 512, {"dimensions": 512, "normalize": True}, id="the call overrides"),
        pytest.param({"model": V1}, 1536, {}, id="v1 knows only the text"),
    ],
)
def test_body_is_what_the_version_reads(settings: dict[str, Any], wanted: int | None, body: dict[str, Any]) -> None:
    """Version 2 gets dimensions and normalize, version 1 the bare text."""
    length = wanted or settings.get("dimensions") or 1024
    with Loopback(Reply({"embedding": [0.5] * length, "inputTextTokenCount": 3})) as server:
        embed(server, ["hello"], wanted=wanted, **settings)
    (asked,) = server.asked
    assert asked.body == {"inputText": "hello", **body}
    assert unquote(asked.path) == f"/model/{settings.get('model', V2)}/invoke"


def test_order_is_kept_with_calls_in_flight_together() -> None:
    """Texts travel one per call, as many at once as allowed and no more; vectors come back in the texts' order."""
    texts = [f"text {number}" for number in range(20)]
    together = threading.Barrier(5)
    in_flight: set[int] = set()
    most: list[int] = []

    def answer(asked: Asked) -> Reply:
        number = int(asked.body["inputText"].split()[1])
        in_flight.add(number)
        most.append(len(in_flight))
        together.wait(timeout=10)  # nobody is answered before five have come
        in_flight.discard(number)
        return Reply({"embedding": [number], "inputTextTokenCount": 1})

    with Loopback(answer) as server:
        response = embed(server, texts, max_concurrency=5)
    assert [vector[0] for vector in response.vectors] == list(range(20))
    assert sorted(asked.body["inputText"] for asked in server.asked) == sorted(texts)
    assert response.usage.input_tokens == 20
    assert max(most) == 5


@pytest.mark.parametrize(
    ("answer", "classification", "reason"),
    [
        (refusal(429, "ThrottlingException"), LLMErrorClassification.RATE_LIMITED, ErrorReason.RATE_LIMIT),
        (refusal(429, "ModelNotReadyException"), LLMErrorClassification.RETRYABLE, ErrorReason.NOT_READY),
        (refusal(500, "InternalServerException"), LLMErrorClassification.RETRYABLE, ErrorReason.SERVER),
        (refusal(503, "ServiceUnavailableException"), LLMErrorClassification.RETRYABLE, None),
        (refusal(403, "AccessDeniedException"), LLMErrorClassification.TERMINAL, ErrorReason.PERMISSION),
        (refusal(400, "ValidationException"), LLMErrorClassification.TERMINAL, ErrorReason.INVALID_REQUEST),
        (Drop(), LLMErrorClassification.RETRYABLE, ErrorReason.CONNECTION),
    ],
    ids=lambda value: getattr(value, "headers", {}).get("x-amzn-errortype", type(value).__name__),
)
def test_one_call_is_one_attempt(answer: Reply | Drop, classification: Any, reason: ErrorReason | None) -> None:
    """boto3 never retries by itself, whatever it is told, and its errors are classified."""
    with Loopback(answer) as server, pytest.raises(Exception) as caught:  # noqa: PT011 - botocore makes its classes up
        embed(server, ["hello"])
    assert len(server.asked) == 1
    metadata = get_error_metadata(caught.value)
    assert metadata.classification is classification
    assert reason is None or metadata.reason is reason


def test_timeout_is_one_attempt() -> None:
    """A server that says nothing is left after the timeout, once."""
    with Loopback(Hang()) as server, pytest.raises(Exception) as caught:  # noqa: PT011
        embed(server, ["hello"], timeout_s=0.1)
    assert len(server.asked) == 1
    assert get_error_metadata(caught.value).reason is ErrorReason.TIMEOUT


@pytest.mark.parametrize(
    "body", [b"<html>captive portal</html>", json.dumps({"text": "hi"}).encode(), b"[]"], ids=["html", "shape", "list"]
)
def test_other_answers_are_bad_responses(body: bytes) -> None:
    """A 200 without an embedding is an error that shows nothing of the body."""
    with Loopback(Reply(body)) as server, pytest.raises(BadResponseError, match="check endpoint_url") as caught:
        embed(server, ["hello"])
    assert "portal" not in str(caught.value)


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        (["fine", ""], r"texts\[1\] is empty"),
        (["fine", 3], r"texts\[1\] is of type int"),
        (["fine", "x" * 50_001], r"texts\[1\] has 50,001 characters; Titan reads 50,000"),
        (["fine", "字" * 20_000], r"texts\[1\] holds about [\d,]+ tokens; .* reads 8,192"),
    ],
    ids=["empty", "number", "characters", "tokens"],
)
def test_bad_texts_are_named_by_position(texts: list[Any], complaint: str) -> None:
    """A text Titan would refuse is named before anything is sent."""
    with Loopback(VECTOR) as server:
        with pytest.raises(InvalidRequestError, match=complaint):
            embed(server, texts)
        assert server.asked == []


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"model": "cohere.embed-v3"}, "no Titan text embedding model: write 'amazon.titan-embed-text-v2:0'"),
        ({"dimensions": 300}, "dimensions=300: .* has 256 or 512 or 1024"),
        ({"model": V1, "dimensions": 256}, "has 1536"),
        ({"region": None}, "no AWS region: give region"),
        ({"endpoint_url": "bedrock.example"}, "needs a scheme"),
        ({"timeout_s": float("nan")}, "timeout_s=nan"),
        ({"max_concurrency": 0}, "max_concurrency=0 must be a whole number from 1"),
        ({"max_concurrency": 1.5}, "max_concurrency=1.5 must be"),
        ({"headers": {"x-team": "a\nb"}}, "x-team"),
        ({"aws_profile": "nobody"}, "boto3 refuses these settings: .*nobody"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_settings_fail_when_made(settings: dict[str, Any], complaint: str) -> None:
    """A setting that cannot work is an error of ours before any call."""
    with pytest.raises(ConfigurationError, match=complaint):
        BedrockEmbeddingClient(**{"region": "us-east-1", **settings})


def test_wrong_dimensions_of_a_call_are_its_fault() -> None:
    """Dimensions asked per call are checked per call, before anything is sent."""
    with Loopback(VECTOR) as server:
        with pytest.raises(InvalidRequestError, match="dimensions=7"):
            embed(server, ["hello"], wanted=7)
        assert server.asked == []


def test_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without boto3 the error is the pip command."""
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ExtraMissingError, match=r"factflow-llm\[bedrock\]") as caught:
        BedrockEmbeddingClient(region="us-east-1")
    assert classify_llm_error(caught.value) is LLMErrorClassification.TERMINAL


def test_missing_credentials_are_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials nothing is sent and nothing is retried."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with Loopback(VECTOR) as server:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            embed(server, ["hello"])
        assert server.asked == []
    assert classify_llm_error(caught.value) is LLMErrorClassification.TERMINAL


def test_headers_are_signed_and_sent() -> None:
    """Extra headers reach the wire as part of what is signed."""
    with Loopback(VECTOR) as server:
        embed(server, ["hello"], headers={"x-team": "facts"})
    assert server.asked[0].headers["x-team"] == "facts"
    assert "x-team" in server.asked[0].headers["authorization"]


def test_proxy_is_used() -> None:
    """Requests go to the proxy, with the service's address in the request line."""
    with Loopback(VECTOR) as proxy:

        async def main() -> EmbeddingResponse:
            client = BedrockEmbeddingClient(
                region="us-east-1", endpoint_url="http://bedrock.invalid", proxy=proxy.url, timeout_s=5
            )
            async with client:
                return await client.embed(["hello"])

        assert asyncio.run(main()).vectors == ((0.6, 0.8),)
    assert proxy.asked[0].path.startswith("http://bedrock.invalid/model/")


def test_survives_a_second_event_loop() -> None:
    """One client serves asyncio.run twice: it is bound to no loop."""
    with Loopback(VECTOR) as server:
        client = make(server)
        vectors = [asyncio.run(client.embed(["hello"])).vectors for _ in range(2)]
        asyncio.run(client.aclose())
    assert vectors[0] == vectors[1] == ((0.6, 0.8),)


def test_cancelling_gives_up_at_once() -> None:
    """A cancelled call does not wait for its thread."""
    reached = threading.Event()

    def say_nothing(asked: Any) -> Hang:
        server.asked.append(asked)
        reached.set()
        return Hang()

    async def main(server: Loopback) -> None:
        async with make(server, timeout_s=2) as client:
            call = asyncio.create_task(client.embed(["hello"]))
            assert await asyncio.to_thread(reached.wait, 10)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    with Loopback(Hang()) as server:
        server._next = say_nothing  # type: ignore[method-assign]
        asyncio.run(main(server))
    assert len(server.asked) == 1


def test_closes_once_and_shows_no_secret() -> None:
    """A second aclose does nothing, and the repr shows model and state alone."""
    with Loopback(VECTOR) as server:
        client = make(server)
        assert isinstance(client, EmbeddingClientProtocol)
        assert repr(client) == f"<BedrockEmbeddingClient '{V2}' open>"
        asyncio.run(client.aclose())
        asyncio.run(client.aclose())
    assert repr(client) == f"<BedrockEmbeddingClient '{V2}' closed>"


def test_importing_the_client_imports_no_boto3() -> None:
    """The SDK is imported when a client is made."""
    code = "import sys, factflow_llm.clients.bedrock; sys.exit('boto3' in sys.modules or 'botocore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
