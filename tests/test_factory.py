"""The factory: lazy, one client per profile and event loop, one limiter per quota, nothing left open."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import factflow_llm.factory
from factflow_llm import (
    ConfigurationError,
    EmbeddingClientProtocol,
    ExtraMissingError,
    LLMClientFactory,
    LLMClientProtocol,
    LLMConfig,
    Message,
    RateLimitConfig,
    RateLimitedClient,
    UnknownProfileError,
    WrongModelTypeError,
)
from factflow_llm.settings import ModelType
from tests.support.faces import ANTHROPIC, AWS, BEDROCK, EMBEDDING_FACES, OPENAI, Face
from tests.support.loopback import Asked, Events, Loopback, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "sk-very-secret-0123456789"
HELLO = [Message.user("hello")]
ANSWER = Reply(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-mini",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
    }
)
VECTORS = Reply(
    {
        "object": "list",
        "model": "text-embedding-3-small",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.6, 0.8]}],
        "usage": {"prompt_tokens": 1, "total_tokens": 1},
    }
)
CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini"}
STREAM = Events(
    [
        {**CHUNK, "choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}]},
        {**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        "[DONE]",
    ]
)


@pytest.fixture
def server() -> Iterator[Loopback]:
    """Give a server that answers chats."""
    with Loopback(ANSWER) as loopback:
        yield loopback


def profile(server: Loopback, **keys: Any) -> dict[str, Any]:
    """Make a profile that talks to the server."""
    return {"provider": "openai", "model": "gpt-4o-mini", "api_key": SECRET, "base_url": f"{server.url}/v1", **keys}


def make(server: Loopback, **profiles: dict[str, Any]) -> LLMClientFactory:
    """Make a factory of profiles that talk to the server; ``chat`` when none is given."""
    return LLMClientFactory(
        LLMConfig.from_dict({"providers": {name: profile(server, **keys) for name, keys in profiles.items()}})
        if profiles
        else LLMConfig.from_dict({"providers": {"chat": profile(server)}})
    )


async def use(factory: LLMClientFactory, name: str = "default") -> Any:
    """Complete once; return the client."""
    client = factory.create_completion_client(name)
    assert (await client.complete(HELLO)).text == "Hi"
    return client


def test_nothing_is_made_before_it_is_asked_for(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    """A factory of broken profiles is made without complaint; the one asked for is made, once."""
    monkeypatch.delenv("NOT_SET", raising=False)
    factory = make(server, chat={}, broken={"api_key": "${NOT_SET}"})

    async def main() -> None:
        first = factory.create_completion_client("chat")
        assert repr(factory) == "<LLMClientFactory of 2 profiles, 1 clients in 1 loops>"
        assert factory.create_completion_client("chat") is first
        with pytest.raises(ConfigurationError, match=r"profile 'broken': no API key: set .*NOT_SET"):
            factory.create_completion_client("broken")
        assert isinstance(first, LLMClientProtocol)

    asyncio.run(main())
    assert server.asked == []


def test_a_client_answers_and_streams(server: Loopback) -> None:
    """What comes out of the factory completes, streams and embeds against the server."""
    factory = make(server, chat={}, embed={"type": "embedding", "model": "text-embedding-3-small"})

    async def main() -> tuple[str, str, Any]:
        async with factory:
            chat = factory.create_completion_client()
            complete = (await chat.complete(HELLO)).text
            server.script[:] = [STREAM]
            streamed = "".join([chunk.text async for chunk in chat.stream(HELLO)])
            server.script[:] = [VECTORS]
            return complete, streamed, (await factory.create_embedding_client().embed(["x"])).vectors

    complete, streamed, vectors = asyncio.run(main())
    assert (complete, streamed) == ("Hi", "Hi")
    assert vectors[0] == pytest.approx((0.6, 0.8))


def test_profiles_on_one_quota_share_a_limiter(server: Loopback) -> None:
    """Same provider, account and model: one limiter; another account, or a group of its own: another."""
    factory = make(
        server,
        a={"rate_limit": {"requests_per_minute": 600}},
        b={"options": {"temperature": 1.0}},
        other_key={"api_key": "sk-other"},
        own={"quota_group": "own"},
        same={"quota_group": "own", "model": "gpt-4o"},
        unlimited={"rate_limit": False},
    )

    async def main() -> dict[str, Any]:
        return {name: (await use(factory, name)).limiter for name in factory.config.providers}

    limiters = asyncio.run(main())
    assert limiters["a"] is limiters["b"]
    assert limiters["a"].config == RateLimitConfig(requests_per_minute=600)
    assert limiters["own"] is limiters["same"]
    assert limiters["unlimited"] is None
    assert len({id(limiters[name]) for name in ("a", "other_key", "own")}) == 3


def test_an_unlimited_profile_still_retries(server: Loopback) -> None:
    """Without a limiter retrying stays ours."""
    server.script[:] = [Reply({"error": {"message": "busy"}}, status=503, headers={"retry-after": "0"}), ANSWER]
    asyncio.run(use(make(server, chat={"rate_limit": False})))
    assert len(server.asked) == 2


def test_options_go_where_they_belong(server: Loopback) -> None:
    """Arguments of the constructor go there, others into every call, and a call's own override them."""
    factory = make(
        server, chat={"timeout_s": 7, "options": {"headers": {"x-team": "facts"}, "temperature": 0.5, "seed": 7}}
    )

    async def main() -> None:
        client = factory.create_completion_client()
        await client.complete(HELLO, temperature=0.1)

    asyncio.run(main())
    (asked,) = server.asked
    assert asked.headers["x-team"] == "facts"
    assert (asked.body["temperature"], asked.body["seed"]) == (0.1, 7)


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"options": {"api_key": "x"}}, r"options\.api_key is a key of the profile itself"),
        ({"options": {"headers": {"x": "a\nb"}}}, "the header 'x' holds a line break"),
        ({"options": {"proxy": "localhost"}}, "proxy 'localhost' needs a scheme"),
        (
            {"provider": "bedrock", "type": "embedding", "model": "amazon.titan-embed-text-v1", "api_key": None}
            | {"options": {"max_concurency": 2}},
            r"options\.max_concurency is unknown to bedrock; did you mean 'max_concurrency'",
        ),
    ],
    ids=["profile key", "header", "proxy", "misspelt"],
)
def test_refused_settings_name_the_profile(server: Loopback, keys: dict[str, Any], complaint: str) -> None:
    """What a client refuses when it is made carries the profile's name."""
    factory = make(server, mine=keys)

    async def main() -> None:
        create = factory.create_embedding_client if "type" in keys else factory.create_completion_client
        with pytest.raises(ConfigurationError, match=f"profile 'mine': {complaint}"):
            create("mine")

    asyncio.run(main())


def test_missing_extra_says_what_to_install(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider whose package is missing is an error with the pip command, in a loop or out of one."""
    monkeypatch.setattr(factflow_llm.factory, "find_spec", lambda _: None)
    titan = {"provider": "bedrock", "type": "embedding", "model": "amazon.titan-embed-text-v1"}
    factory = LLMClientFactory(LLMConfig.from_dict({"providers": {"titan": titan}}))
    with pytest.raises(ExtraMissingError, match=r"profile 'titan' needs boto3: pip install .factflow-llm\[bedrock\]"):
        factory.create_embedding_client()


def test_wrong_names_and_types_fail_outside_a_loop_too(server: Loopback) -> None:
    """Mistakes in the call show at once, not at the first request."""
    factory = make(server)
    with pytest.raises(UnknownProfileError, match="did you mean 'chat'"):
        factory.create_completion_client("caht")
    with pytest.raises(WrongModelTypeError, match="'chat' is of type chat"):
        factory.create_embedding_client("chat")


def test_second_run_gets_a_client_of_its_own(server: Loopback) -> None:
    """A client made in a loop that has closed is never handed out again; it was closed with its loop."""
    factory = make(server)
    first, second = asyncio.run(use(factory)), asyncio.run(use(factory))
    assert first is not second
    assert first.limiter is not second.limiter
    assert "closed" in repr(first.client)
    assert "closed" in repr(second.client)
    assert repr(factory) == "<LLMClientFactory of 1 profiles, 0 clients in 0 loops>"


def test_loop_closed_by_hand_closes_its_clients(server: Loopback) -> None:
    """A loop nobody shut down properly still closes its clients when it closes."""
    factory = make(server)
    loop = asyncio.new_event_loop()
    client = loop.run_until_complete(use(factory))
    loop.close()
    loop.close()
    assert loop.is_closed()
    assert "closed" in repr(client.client)


def test_threads_with_loops_of_their_own(server: Loopback) -> None:
    """Four threads, four loops, four clients; all closed in the end."""
    factory = make(server)
    clients: list[Any] = []
    together = threading.Barrier(4)

    async def main() -> None:
        clients.append(await use(factory))
        together.wait(timeout=10)

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(client) for client in clients}) == 4
    assert all("closed" in repr(client.client) for client in clients)


def test_stand_in_works_in_every_loop(server: Loopback) -> None:
    """A client got outside of any loop serves each asyncio.run with a client of that loop."""
    factory = make(server, chat={}, embed={"type": "embedding", "model": "text-embedding-3-small"})
    chat, embed = factory.create_completion_client(), factory.create_embedding_client()
    assert factory.create_completion_client("chat") is chat
    assert isinstance(chat, LLMClientProtocol)
    assert isinstance(embed, EmbeddingClientProtocol)
    assert repr(chat) == "<client of profile 'chat' in whatever event loop uses it>"

    async def stream() -> str:
        return "".join([chunk.text async for chunk in chat.stream(HELLO)])

    assert [asyncio.run(chat.complete(HELLO)).text for _ in range(2)] == ["Hi", "Hi"]
    server.script[:] = [STREAM]
    assert [asyncio.run(stream()) for _ in range(2)] == ["Hi", "Hi"]
    server.script[:] = [VECTORS]
    assert [len(asyncio.run(embed.embed(["x"])).vectors) for _ in range(2)] == [1, 1]


def test_stand_in_closes_the_client_of_the_running_loop(server: Loopback) -> None:
    """Closing a stand-in closes what it stands for here, and nothing where there is nothing."""
    factory = make(server)
    stand_in = factory.create_completion_client()

    async def main() -> None:
        client = await use(factory)
        await stand_in.aclose()
        await stand_in.aclose()
        assert "closed" in repr(client.client)
        assert (await stand_in.complete(HELLO)).text == "Hi"

    asyncio.run(main())


def test_closed_client_is_replaced(server: Loopback) -> None:
    """Who closes the client he was given gets a new one the next time, behind the same limiter."""
    factory = make(server)

    async def main() -> None:
        first = await use(factory)
        await first.aclose()
        second = await use(factory)
        assert second is not first
        assert second.limiter is first.limiter

    asyncio.run(main())


def test_aclose_closes_everything_once(server: Loopback) -> None:
    """Every client is closed by the factory, a second aclose does nothing, and the factory works on."""
    factory = make(server, a={}, b={})

    async def main() -> None:
        async with factory:
            clients = [await use(factory, name) for name in "ab"]
        assert all("closed" in repr(client.client) for client in clients)
        await factory.aclose()
        again = await use(factory, "a")
        assert again is not clients[0]

    asyncio.run(main())


def test_aclose_closes_all_though_one_fails(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that fails to close does not keep the others open, and its error is told."""
    factory = make(server, a={}, b={})

    async def fail() -> None:
        raise OSError("no way out")

    async def main() -> None:
        first, second = await use(factory, "a"), await use(factory, "b")
        close = first.client._close
        monkeypatch.setattr(first.client, "_close", fail)
        with pytest.raises(OSError, match="no way out"):
            await factory.aclose()
        assert "closed" in repr(second.client)
        await close()

    asyncio.run(main())


def test_aclose_reaches_loops_of_other_threads(server: Loopback) -> None:
    """One aclose closes the clients of a loop that runs in another thread, in that loop."""
    factory = make(server)
    made, done = threading.Event(), threading.Event()
    clients: list[Any] = []

    async def elsewhere() -> None:
        clients.append(await use(factory))
        made.set()
        await asyncio.to_thread(done.wait, 10)

    thread = threading.Thread(target=asyncio.run, args=(elsewhere(),))
    thread.start()
    assert made.wait(10)
    asyncio.run(factory.aclose())
    assert "closed" in repr(clients[0].client)
    done.set()
    thread.join()


def test_every_attempt_is_recorded(server: Loopback) -> None:
    """The factory's recorder gets a row per attempt, whatever the profile, limited or not."""
    rows: list[Any] = []

    class Sink:
        def record(self, row: Any, /) -> None:
            rows.append(row)

    config = LLMConfig.from_dict({"providers": {"a": profile(server), "b": profile(server, rate_limit=False)}})
    factory = LLMClientFactory(config, recorder=Sink())
    asyncio.run(use(factory, "a"))
    asyncio.run(use(factory, "b"))
    assert [(row.model, row.outcome, row.input_tokens) for row in rows] == [("gpt-4o-mini", "ok", 3)] * 2


def test_unused_loops_are_forgotten(server: Loopback) -> None:
    """A factory that outlives many loops holds on to none of them."""
    factory = make(server)
    for _ in range(3):
        asyncio.run(use(factory))
    gc.collect()
    assert len(factory._shelves) == 0


def test_no_secret_in_a_repr(server: Loopback) -> None:
    """Factory, clients and limiters show no key."""
    factory = make(server)
    client = asyncio.run(use(factory))
    assert isinstance(client, RateLimitedClient)
    assert (
        SECRET
        not in f"{factory!r} {client!r} {client.limiter!r} {client.client!r} {factory.create_completion_client()!r}"
    )


async def wear(factory: LLMClientFactory) -> None:
    """Use the profile "it" as people do: a whole call, a stream left half way, a call cancelled in mid-air."""
    chats = factory.config.providers["it"].type is ModelType.CHAT
    client: Any = factory.create_completion_client() if chats else factory.create_embedding_client()

    def call() -> Any:
        return client.complete(HELLO) if chats else client.embed(["one", "two"])

    await call()
    if chats:
        async for _ in client.stream(HELLO):
            break
    cancelled = asyncio.ensure_future(call())
    await asyncio.sleep(0.01)
    cancelled.cancel()
    await asyncio.wait([cancelled])


WORN = """
import asyncio, gc, json, logging, sys, threading
from factflow_llm import LLMClientFactory, LLMConfig
from tests.test_factory import wear

logging.getLogger("asyncio").setLevel(logging.ERROR)  # which tells in this mode how long a step took
config = LLMConfig.from_dict({"providers": {"it": json.loads(sys.argv[1])}})
factory = LLMClientFactory(config)
asyncio.run(wear(factory))
asyncio.run(wear(factory))
loop = asyncio.new_event_loop()
loop.run_until_complete(wear(factory))
loop.close()
threads = [threading.Thread(target=lambda: asyncio.run(wear(factory))) for _ in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
asyncio.run(wear(LLMClientFactory(config)))
gc.collect()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "face",
    [OPENAI, ANTHROPIC, *(face for face in EMBEDDING_FACES if face.name == "bedrock")],
    ids=lambda face: face.name,
)
def test_nothing_is_left_open_in_development_mode(face: Any) -> None:
    """Runs, threads, a loop closed by hand, a factory nobody closed: not a word from the interpreter."""

    def answer(asked: Asked) -> Reply | Events:
        if not isinstance(face, Face):
            return face.answer(asked)
        return Events(face.stream) if asked.body.get("stream") else Reply(face.answer)

    with Loopback(answer) as server:
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-c", WORN, json.dumps(face.profile(server.url))],
            cwd=Path(__file__).parents[1],
            env=os.environ | AWS,
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(server.asked) >= 7


FIRST_USE = """
import asyncio, json, sys
from threading import get_ident
from factflow_llm import ConfigurationError, LLMClientFactory, LLMConfig, Message

profile, way = json.loads(sys.argv[1]), sys.argv[2]
factory = LLMClientFactory(LLMConfig.from_dict({"providers": {"chat": profile, "keyless": {
    "provider": "openai", "model": "m"}}}))

async def main():
    imported_here = []
    loop_thread = get_ident()
    sdks = ("openai._client", "boto3.session", "anthropic._client")

    class Watch:
        def find_spec(self, name, path=None, target=None):
            if name in sdks and get_ident() == loop_thread:
                imported_here.append(name)

    sys.meta_path.insert(0, Watch())
    try:
        factory.create_completion_client("keyless")
    except ConfigurationError as error:
        assert "profile 'keyless': no API key" in str(error), error
    if way == "warm":
        await factory.warm("chat")
    client = factory.create_completion_client("chat")
    assert factory.create_completion_client("chat") is client
    if way == "stream":
        texts = ["".join([chunk.text async for chunk in client.stream([Message.user("hello")])])]
    else:
        texts = [answer.text for answer in await asyncio.gather(*(client.complete([Message.user("x")]) for _ in "ab"))]
    assert factory.create_completion_client("chat") is client
    await factory.aclose()
    assert not imported_here, imported_here
    print(texts[0])

asyncio.run(main())
"""


@pytest.mark.parametrize("way", ["complete", "stream", "warm"])
@pytest.mark.parametrize("face", [OPENAI, ANTHROPIC, BEDROCK], ids=lambda face: face.name)
def test_first_use_imports_no_sdk_in_the_loops_thread(face: Face, way: str) -> None:
    """The SDK is imported in a thread; the client handed out before is the one used; a missing key is told at once."""
    with Loopback(face.streamed(face.stream) if way == "stream" else Reply(face.answer)) as server:
        done = subprocess.run(
            [sys.executable, "-c", FIRST_USE, json.dumps(face.profile(server.url)), way],
            cwd=Path(__file__).parents[1],
            env={name: value for name, value in (os.environ | AWS).items() if name != "OPENAI_API_KEY"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stdout.strip()) == (0, "Hello"), done.stderr


def test_a_setting_that_the_client_refuses_is_told_by_its_first_call() -> None:
    """What only the client itself can tell comes with the profile's name, from ``warm`` or from the first call."""
    code = (
        "import asyncio\n"
        "from factflow_llm import *\n"
        "profile = {'provider': 'azure', 'model': 'm', 'api_key': 'k'}\n"
        "factory = LLMClientFactory(LLMConfig.from_dict({'providers': {'it': profile}}))\n"
        "async def main():\n"
        "    client = factory.create_completion_client()\n"
        "    for call in (lambda: factory.warm(), lambda: client.complete([Message.user('x')])):\n"
        "        try: await call()\n"
        "        except ConfigurationError as error: print(error)\n"
        "    await factory.aclose()\n"
        "asyncio.run(main())\n"
    )
    environ = {name: value for name, value in os.environ.items() if name != "AZURE_OPENAI_ENDPOINT"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert first == second
    assert first.startswith("profile 'it': no resource: give base_url")
