"""Synchronous callers: one loop and limiter for all threads, another after a fork, the caller's own errors."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from inspect import signature
from typing import TYPE_CHECKING, Any

import openai
import pytest

from factflow_llm import (
    ConfigurationError,
    LLMClientFactory,
    LLMConfig,
    Message,
    UnfinishedStreamError,
    WrongEventLoopError,
)
from factflow_llm.protocols import LimitedEmbeddingClientProtocol, LimitedLLMClientProtocol
from factflow_llm.sync import SyncClient, SyncEmbeddingClient
from tests.support.faces import openai_answer, openai_chunk
from tests.support.loopback import Asked, Events, Loopback, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

HELLO = [Message.user("hello")]
ANSWER = Reply(openai_answer({"role": "assistant", "content": "Hi"}, finish="stop"))
REFUSAL = Reply({"error": {"message": "no", "type": "invalid_request_error", "code": None}}, status=400)


def make(server: Loopback, **keys: Any) -> LLMClientFactory:
    """Make a factory with a chat profile and an embedding profile that talk to the server."""
    both = {"provider": "openai", "api_key": "sk-of-the-test", "base_url": f"{server.url}/v1", **keys}
    chat = {**both, "model": "gpt-4o-mini"}
    embed = {**both, "model": "text-embedding-3-small", "type": "embedding"}
    return LLMClientFactory(LLMConfig.from_dict({"default": "chat", "providers": {"chat": chat, "embed": embed}}))


def vectors(asked: Asked) -> Reply:
    """Answer with a vector per text."""
    data = [
        {"object": "embedding", "index": place, "embedding": [float(len(text)), 1.0]}
        for place, text in enumerate(asked.body["input"])
    ]
    return Reply({"object": "list", "model": "m", "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}})


@pytest.fixture
def server() -> Iterator[Loopback]:
    """Give a server that answers chats."""
    with Loopback(ANSWER) as loopback:
        yield loopback


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SyncClient.complete, LimitedLLMClientProtocol.complete),
        (SyncClient.stream, LimitedLLMClientProtocol.stream),
        (SyncEmbeddingClient.embed, LimitedEmbeddingClientProtocol.embed),
    ],
)
def test_calls_are_signed_as_their_asynchronous_ones(ours: object, theirs: object) -> None:
    """``help()`` and notebooks show every argument, under the name and with the default that it has elsewhere."""
    assert callable(ours)
    assert callable(theirs)
    assert list(signature(ours).parameters.values()) == list(signature(theirs).parameters.values())


def test_the_methods_are_those_of_the_factory(server: Loopback) -> None:
    """Completing, streaming and embedding wait for their end; leaving the block closes the clients."""
    streamed = Events([openai_chunk({"content": "Hi"}), openai_chunk({}, "stop"), "[DONE]"])
    server.script = [ANSWER, streamed, vectors]
    factory = make(server)
    with factory.sync() as llm:
        client = llm.create_completion_client()
        assert client.complete(HELLO).text == "Hi"
        with client.stream(HELLO) as stream:
            with pytest.raises(UnfinishedStreamError):
                _ = stream.response
            assert "".join(chunk.text for chunk in stream) == "Hi"
        assert stream.response.text == "Hi"
        assert llm.create_embedding_client("embed").embed(["a", "bcd"]).vectors == ((1.0, 1.0), (3.0, 1.0))
        assert llm.status()["chat"].loops == 1
    assert factory.status()["chat"].loops == 0


def test_all_threads_share_one_limiter(server: Loopback) -> None:
    """Calls of many threads go through one client of one loop."""
    factory = make(server)
    with factory.sync() as llm, ThreadPoolExecutor(8) as pool:
        client = llm.create_completion_client()
        answers = list(pool.map(lambda _: client.complete(HELLO).text, range(24)))
        status = factory.status()["chat"]
        assert answers == ["Hi"] * 24
        assert (status.loops, len(status.limiter)) == (1, 1)


def test_it_works_beside_a_running_loop(server: Loopback) -> None:
    """A cell of a notebook calls it although the notebook's own loop runs in the same thread."""
    factory = make(server)

    async def cell() -> str:
        with factory.sync() as llm:
            return llm.create_completion_client().complete(HELLO).text

    assert asyncio.run(cell()) == "Hi"


def test_from_within_its_own_loop_it_says_what_to_do(server: Loopback) -> None:
    """Waiting for the loop inside the loop would last for ever."""
    from factflow_llm.background import run

    llm = make(server).sync()

    async def inside() -> None:
        llm.create_completion_client()

    with pytest.raises(WrongEventLoopError, match="await the asynchronous client"):
        run(inside())


def test_errors_are_the_callers(server: Loopback) -> None:
    """The SDK's error is raised unchanged where the call was made, and the traceback shows the line."""
    server.script = [REFUSAL]
    with make(server).sync() as llm:
        client = llm.create_completion_client()
        with pytest.raises(openai.BadRequestError) as caught:
            client.complete(HELLO)  # this very line
        shown = "".join(traceback.format_exception(caught.value))
        assert "# this very line" in shown
        assert "ratelimit/client.py" in shown
        with pytest.raises(ConfigurationError, match="no profile 'chatt'"):
            llm.create_completion_client("chatt")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let Control-C raise, as in a terminal: a process begun in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_control_c_ends_the_call() -> None:
    """An interrupt reaches the waiting thread, and the request is given up."""
    held = Events([openai_chunk({"content": "Hi"})], hold=True)
    with Loopback(held) as server, make(server).sync() as llm:
        stream = llm.create_completion_client().stream(HELLO)
        assert next(stream).text == "Hi"
        main = threading.main_thread().ident
        assert main is not None
        interrupt = threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGINT))
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            next(stream)
        stream.close()
        assert server.client_left.wait(10)
        server.script = [ANSWER]
        assert llm.create_completion_client().complete(HELLO).text == "Hi"


FORK = """
import os, sys
from factflow_llm import LLMClientFactory, LLMConfig, Message
profile = {"provider": "openai", "model": "gpt-4o-mini", "api_key": "sk-of-the-test", "base_url": sys.argv[1] + "/v1"}
factory = LLMClientFactory(LLMConfig.from_dict({"providers": {"chat": profile}}))
llm = factory.sync()
client = llm.create_completion_client()
asked = lambda: client.complete([Message.user("hello")]).text
print(asked(), flush=True)
child = os.fork()
if not child:
    print(asked(), factory.status()["chat"].loops, flush=True)
    llm.close()
    os._exit(0)
os.waitpid(child, 0)
print(asked(), factory.status()["chat"].loops, flush=True)
"""


def test_a_forked_child_has_a_loop_of_its_own(server: Loopback) -> None:
    """Parent and child both go on calling after a fork, and the process ends with nothing left open."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.splitlines(), done.stderr) == (["Hi", "Hi 1", "Hi 1"], "")
