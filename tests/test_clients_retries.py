"""Exactly one owner of retries: attempts counted on the wire, for each client as the factory makes it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from factflow_llm import LLMClientFactory, LLMConfig, Message
from factflow_llm.errors import (
    BreakerOpenError,
    ErrorReason,
    LLMErrorClassification,
    classify_llm_error,
    get_error_metadata,
)
from factflow_llm.ratelimit.config import RetryConfig
from tests.support.faces import AWS, EMBEDDING_FACES, FACES, EmbeddingFace, Face
from tests.support.loopback import Drop, Hang, Loopback, Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from factflow_llm.recorder import AttemptRow

HELLO = [Message.user("hello")]
ATTEMPTS = 3
RETRY = RetryConfig(max_attempts=ATTEMPTS, backoff_base_s=1e-3, backoff_cap_s=1e-3)
LIMITS = {"cool_off_s": 1e-3, "retry": RETRY}
SPENT = {"error": {"type": "insufficient_quota", "code": "insufficient_quota", "param": None, "message": "pay"}}

WIRED: list[Any] = [*FACES, *(face for face in EMBEDDING_FACES if face.profile is not None)]
FAULTS: dict[str, tuple[Callable[[Any], Any], ErrorReason]] = {
    "429": (lambda face: face.refuse(429), ErrorReason.RATE_LIMIT),
    "500": (lambda face: face.refuse(500), ErrorReason.SERVER),
    "timeout": (lambda _: Hang(), ErrorReason.TIMEOUT),
    "dropped": (lambda _: Drop(), ErrorReason.CONNECTION),
}
PATIENCE_S = {"timeout": 0.5}
"""How long an answer is waited for that never comes; others may take their time on a busy machine."""


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give boto3 credentials that open nothing."""
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=WIRED, ids=lambda face: f"{face.name} {type(face).__name__}")
def face(request: pytest.FixtureRequest) -> Any:
    """Give each client that has a wire in turn, for chats and for embeddings."""
    pytest.importorskip(request.param.sdk, reason="the bedrock extra is not installed")
    return request.param


@pytest.fixture(params=FACES, ids=lambda face: face.name)
def chat(request: pytest.FixtureRequest) -> Face:
    """Give each chat client in turn."""
    return request.param


def use(face: Face | EmbeddingFace, server: Loopback, call: Callable[[Any], Awaitable[Any]], **keys: Any) -> Any:
    """Let ``call`` use the client that the factory makes of the face; return what it does and the attempts recorded."""
    rows: list[AttemptRow] = []

    class Sink:
        def record(self, row: AttemptRow, /) -> None:
            rows.append(row)

    assert face.profile is not None
    profile = {**face.profile(server.url), "timeout_s": 10.0, "rate_limit": LIMITS, **keys}

    async def main() -> Any:
        factory = LLMClientFactory(LLMConfig.from_dict({"providers": {"it": profile}}), recorder=Sink())
        chats = isinstance(face, Face)
        async with factory:
            return await call(factory.create_completion_client() if chats else factory.create_embedding_client())

    return asyncio.run(main()), rows


async def ask(client: Any) -> Any:
    """Ask once, whatever the client does."""
    return await (client.complete(HELLO) if hasattr(client, "complete") else client.embed(["hello"]))


async def fail(client: Any) -> Exception:
    """Ask once and return the failure."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - what it is, is looked at by the tests
        await ask(client)
    return caught.value


def assert_no_sdk_retried(server: Loopback) -> None:
    """Check that each request was, by the SDK's own word, its first attempt."""
    counts = {asked.headers.get("x-stainless-retry-count", "0") for asked in server.asked}
    attempts = {asked.headers.get("amz-sdk-request", "attempt=1").partition(";")[0] for asked in server.asked}
    assert (counts, attempts) == ({"0"}, {"attempt=1"})


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_is_tried_as_often_as_the_settings_say(face: Any, fault: str) -> None:
    """On the wire are max_attempts requests, each admitted anew; then the SDK's own error comes out."""
    make, reason = FAULTS[fault]
    with Loopback(make(face)) as server:
        error, rows = use(face, server, fail, timeout_s=0.1 if fault == "timeout" else 10.0)
        assert len(server.asked) == ATTEMPTS
        assert_no_sdk_retried(server)
    assert type(error).__module__.partition(".")[0] == face.sdk
    assert get_error_metadata(error).reason is reason
    assert [(row.attempt, row.error) for row in rows] == [(number, reason) for number in range(ATTEMPTS)]
    admitted = [row.admitted_s for row in rows]
    assert admitted == sorted(set(admitted))
    assert {row.in_flight for row in rows} == {1}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_is_waited_out(face: Any, fault: str) -> None:
    """Two faults and then an answer are three requests and one answer."""
    answer = Reply(face.answer) if isinstance(face, Face) else face.answer
    make, _ = FAULTS[fault]
    with Loopback(make(face), make(face), answer) as server:
        response, rows = use(face, server, ask, timeout_s=PATIENCE_S.get(fault, 10.0))
        assert len(server.asked) == ATTEMPTS
        assert_no_sdk_retried(server)
    assert response.usage.input_tokens
    assert [row.outcome for row in rows][-1] == "ok"


def test_without_a_limiter_the_settings_bound_all_the_same(face: Any) -> None:
    """``rate_limit = false`` leaves the retries where they are: here, and nowhere below."""

    async def call(client: Any) -> Exception:
        client.retry = RETRY
        return await fail(client)

    with Loopback(face.refuse(500)) as server:
        use(face, server, call, rate_limit=False)
        assert len(server.asked) == ATTEMPTS
        assert_no_sdk_retried(server)


def test_what_can_never_succeed_is_asked_once(chat: Face) -> None:
    """A 400 is one request; a spent quota is one too, and the next call is not sent at all."""

    async def twice(client: Any) -> list[Exception]:
        return [await fail(client), await fail(client)]

    with Loopback(Reply(chat.broken, status=400)) as server:
        errors, _ = use(chat, server, twice)
        assert len(server.asked) == 2
    assert not any(isinstance(error, BreakerOpenError) for error in errors)
    if not chat.stainless:  # AWS sends a bill at the end of the month
        return

    with Loopback(Reply(SPENT, status=429)) as server:
        (first, second), _ = use(chat, server, twice)
        assert len(server.asked) == 1
    assert get_error_metadata(first).reason is ErrorReason.QUOTA
    assert isinstance(second, BreakerOpenError)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_stream_is_retried_before_its_first_chunk(chat: Face, fault: str) -> None:
    """While nothing has been handed on, a stream is tried again like any call."""

    async def follow(client: Any) -> str:
        return "".join([chunk.text async for chunk in client.stream(HELLO)])

    make, _ = FAULTS[fault]
    with Loopback(make(chat), chat.streamed(chat.stream)) as server:
        text, rows = use(chat, server, follow, timeout_s=PATIENCE_S.get(fault, 10.0))
        assert (text, len(server.asked)) == ("Hello", 2)
        assert_no_sdk_retried(server)
    assert [row.outcome for row in rows][-1] == "ok"


@pytest.mark.parametrize("ending", ["cut", "error"])
def test_a_stream_is_never_retried_once_a_chunk_has_been_handed_on(chat: Face, ending: str) -> None:
    """What the consumer has read cannot be taken back: one request, the pieces, and the error."""
    begun = chat.stream[:4]
    broken = chat.streamed(begun, cut=True) if ending == "cut" else chat.streamed([*begun, chat.stream_error])
    seen: list[str] = []

    async def follow(client: Any) -> None:
        async with aclosing(client.stream(HELLO)) as chunks:
            async for chunk in chunks:
                seen.append(chunk.text)  # noqa: PERF401 - the pieces before the error are what is looked at

    with Loopback(broken, chat.streamed(chat.stream)) as server:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            use(chat, server, follow)
        assert len(server.asked) == 1
    assert seen[0] == "Hel"
    assert classify_llm_error(caught.value) is LLMErrorClassification.RETRYABLE
