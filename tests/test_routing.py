"""Pools and fallbacks: calls go where there is room, and on when one cannot; never for what is wrong."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Any

import openai
import pytest

from factflow_llm import (
    BreakerOpenError,
    ClosedError,
    ConfigurationError,
    InvalidRequestError,
    LLMClientFactory,
    LLMConfig,
    Message,
    ProviderState,
    RateLimitConfig,
    RetryConfig,
)
from factflow_llm.routing import members
from tests.support.faces import openai_answer, openai_chunk
from tests.support.loopback import Asked, Drop, Events, Loopback, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

HELLO = [Message.user("hello")]
ANSWER = Reply(openai_answer({"role": "assistant", "content": "Hi"}, finish="stop"))
FAST = RetryConfig(max_attempts=2, backoff_base_s=0.001, backoff_cap_s=0.001)


def refusal(status: int, code: str | None = None, **headers: str) -> Reply:
    """Make an error of OpenAI's."""
    return Reply({"error": {"message": "no", "type": "t", "code": code}}, status=status, headers=headers)


class Hosts:
    """Three accounts, each a server of its own."""

    def __init__(self) -> None:
        self.a, self.b, self.c = Loopback(ANSWER), Loopback(ANSWER), Loopback(ANSWER)

    def factory(self, *, limits: RateLimitConfig | None = None, **keys: dict[str, Any]) -> LLMClientFactory:
        """Make profiles a, b and c, one a server, and those given beside."""
        base = {"provider": "openai", "model": "gpt-4o-mini", "rate_limit": limits or RateLimitConfig(retry=FAST)}
        given = {name: keys.pop(name, {}) for name in ("a", "b", "c")}
        own = {
            name: {**base, "api_key": f"sk-of-{name}", "base_url": f"{getattr(self, name).url}/v1", **given[name]}
            for name in given
        }
        return LLMClientFactory(LLMConfig.from_dict({"default": "a", "providers": {**own, **keys}}))

    @property
    def asked(self) -> tuple[int, int, int]:
        """How often each was asked."""
        return len(self.a.asked), len(self.b.asked), len(self.c.asked)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Give three servers."""
    three = Hosts()
    with three.a, three.b, three.c:
        yield three


def ask(factory: LLMClientFactory, name: str, times: int = 1, **asked: Any) -> list[Any]:
    """Complete so often, together; return the answers or the errors."""

    async def main() -> list[Any]:
        async with factory:
            client = factory.create_completion_client(name)
            calls = (client.complete(HELLO, **asked) for _ in range(times))
            return await asyncio.gather(*calls, return_exceptions=True)

    return asyncio.run(main())


def test_a_pool_spreads_its_calls(hosts: Hosts) -> None:
    """Members that have room take turns, and each answer says whose it is."""
    answers = ask(hosts.factory(all={"pool": ["a", "b", "c"]}), "all", 9)
    assert Counter(answer.profile for answer in answers) == {"a": 3, "b": 3, "c": 3}
    assert hosts.asked == (3, 3, 3)


def test_calls_go_where_there_is_room(hosts: Hosts) -> None:
    """A member of one slot that does not answer holds one call; all others go elsewhere."""
    held = asyncio.Event()
    limits = RateLimitConfig(initial_concurrency=1, max_concurrency=1, retry=FAST)
    hosts.a.script = [Events([openai_chunk({"content": "Hi"})], hold=True)]
    factory = hosts.factory(limits=limits, all={"pool": ["a", "b"]})

    async def main() -> list[Any]:
        async with factory:
            alone = factory.create_completion_client("a").stream(HELLO)
            async with alone:
                await anext(alone)
                client = factory.create_completion_client("all")
                answers = await asyncio.gather(*(client.complete(HELLO) for _ in range(6)))
                held.set()
                return answers

    assert {answer.profile for answer in asyncio.run(main())} == {"b"}
    assert hosts.asked == (1, 6, 0)


def test_the_cheapest_that_has_room_is_taken(hosts: Hosts) -> None:
    """In the order of prices on request; the answer's price is its own profile's."""
    dear, cheap = {"prices": {"input": 2_000_000}}, {"prices": {"input": 1_000_000}}
    factory = hosts.factory(a=dear, b=cheap, c=dear, all={"pool": ["a", "b", "c"], "pool_by": "price"})
    answers = ask(factory, "all", 4)
    assert [(answer.profile, answer.cost_usd) for answer in answers] == [("b", 20.0)] * 4


@pytest.mark.parametrize(
    "trouble", [refusal(401, "invalid_api_key"), refusal(429, "insufficient_quota"), refusal(500), refusal(404), Drop()]
)
def test_a_member_that_fails_is_passed_over(hosts: Hosts, trouble: Any) -> None:
    """A dead key, a spent account, a broken host: every call is answered by the others."""
    hosts.a.script = [trouble]
    answers = ask(hosts.factory(all={"pool": ["a", "b"]}), "all", 10)
    assert {answer.profile for answer in answers} == {"b"}
    assert hosts.asked[1] == 10


def test_a_host_in_trouble_is_left_alone(hosts: Hosts) -> None:
    """After five failures in a row it is passed over; an answer between them begins the count anew."""

    async def main() -> list[int]:
        counts = []
        async with hosts.factory(all={"pool": ["a", "b"]}) as factory:
            client = factory.create_completion_client("all")
            for script in ([refusal(503), ANSWER] * 10, [refusal(503)]):
                hosts.a.script[:] = script
                before = len(hosts.a.asked)
                for _ in range(30):
                    assert (await client.complete(HELLO)).text == "Hi"
                counts.append(len(hosts.a.asked) - before)
        return counts

    some, few = asyncio.run(main())
    assert some >= 10
    assert few == 5


def test_a_pool_whose_members_are_all_given_up_is_given_up_with_them(hosts: Hosts) -> None:
    """Five failures of each are enough; the fallback does not wait for five more of the pool itself."""
    hosts.a.script, hosts.b.script = [refusal(503)], [refusal(503)]
    patient = RateLimitConfig(retry=RetryConfig(max_attempts=20, backoff_base_s=0.001, backoff_cap_s=0.001))
    (answer,) = ask(hosts.factory(limits=patient, all={"pool": ["a", "b"], "fallback": ["c"]}), "all")
    assert answer.profile == "c"
    assert hosts.asked == (5, 5, 1)


def test_a_429_moves_the_call_at_once(hosts: Hosts) -> None:
    """The refused call does not wait for the member's quota where another has room."""
    hosts.a.script = [refusal(429, "rate_limit_exceeded", **{"retry-after": "60"})]
    answers = ask(hosts.factory(all={"pool": ["a", "b"]}), "all", 8)
    assert {answer.profile for answer in answers} == {"b"}
    assert hosts.asked[0] <= 4


def test_a_wrong_request_goes_nowhere_else(hosts: Hosts) -> None:
    """Neither pool nor fallback repeats what is wrong, be it refused by the server or before."""
    for server in (hosts.a, hosts.b, hosts.c):
        server.script = [refusal(400, "invalid_value")]
    factory = hosts.factory(a={"fallback": ["c"]}, all={"pool": ["b", "c"]})
    assert isinstance(ask(factory, "a")[0], openai.BadRequestError)
    assert isinstance(ask(factory, "all")[0], openai.BadRequestError)
    assert sum(hosts.asked) == 2
    assert isinstance(ask(factory, "all", temperature=99.0)[0], InvalidRequestError)


def test_no_permit_leaks_where_nothing_was_sent(hosts: Hosts) -> None:
    """A call that is refused before it is sent gives back the permit that the pool had waited for."""
    limits = RateLimitConfig(initial_concurrency=1, max_concurrency=1, retry=FAST)
    factory = hosts.factory(limits=limits, all={"pool": ["a"]})

    async def main() -> None:
        async with factory:
            client = factory.create_completion_client("all")
            for _ in range(3):
                with pytest.raises(InvalidRequestError):
                    await client.complete(HELLO, temperature=99.0)
            assert (await client.complete(HELLO)).text == "Hi"
            assert factory.status()["a"].in_flight == 0

    asyncio.run(main())


def test_when_all_fail_there_is_no_storm(hosts: Hosts) -> None:
    """A call that nobody can answer is sent no oftener than the retry settings say, for each member."""
    for server in (hosts.a, hosts.b, hosts.c):
        server.script = [refusal(500)]
    (pooled,) = ask(hosts.factory(all={"pool": ["a", "b", "c"]}), "all")
    assert isinstance(pooled, openai.InternalServerError)
    assert sum(hosts.asked) <= 6

    factory = hosts.factory(a={"fallback": ["b", "c"]})

    async def again() -> list[int]:
        counts = []
        async with factory:
            client = factory.create_completion_client("a")
            for _ in range(5):
                before = sum(hosts.asked)
                with pytest.raises(openai.InternalServerError):
                    await client.complete(HELLO)
                counts.append(sum(hosts.asked) - before)
        return counts

    assert asyncio.run(again()) == [6, 2, 2, 2, 2]


def test_all_breakers_open_is_said(hosts: Hosts) -> None:
    """A pool of spent accounts says so, and sends nothing more."""
    for server in (hosts.a, hosts.b):
        server.script = [refusal(429, "insufficient_quota")]
    factory = hosts.factory(all={"pool": ["a", "b"]})

    async def main() -> None:
        async with factory:
            client = factory.create_completion_client("all")
            with pytest.raises(openai.RateLimitError):
                await client.complete(HELLO)
            sent = sum(hosts.asked)
            with pytest.raises(BreakerOpenError):
                await client.complete(HELLO)
            assert sum(hosts.asked) == sent

    asyncio.run(main())


@pytest.mark.parametrize(
    ("trouble", "sent"),
    [
        (refusal(429, "insufficient_quota"), 1),
        (refusal(503), 2),
        (refusal(400, "context_length_exceeded"), 1),
        (refusal(404, "model_not_found"), 1),
    ],
)
def test_a_fallback_answers_when_the_first_cannot(hosts: Hosts, trouble: Reply, sent: int) -> None:
    """A spent account, trouble beyond the retries, a context too short: the next one answers, and says so."""
    hosts.a.script = [trouble]
    hosts.b.script = [refusal(401, "invalid_api_key")]
    (answer,) = ask(hosts.factory(a={"fallback": ["b", "c"]}), "a")
    assert answer.profile == "c"
    assert hosts.asked == (sent, 1, 1)


def test_a_host_in_trouble_is_not_asked_by_every_call(hosts: Hosts) -> None:
    """Once it has cost one call its patience, the others go to the fallback straight away."""
    hosts.a.script = [refusal(503)]
    factory = hosts.factory(a={"fallback": ["b"]})

    async def main() -> list[str]:
        async with factory:
            client = factory.create_completion_client("a")
            return [(await client.complete(HELLO)).profile for _ in range(5)]

    assert asyncio.run(main()) == ["b"] * 5
    assert hosts.asked == (2, 5, 0)


@pytest.mark.parametrize("way", ["complete", "stream", "pool"])
def test_a_crowd_leaves_a_dead_host_together(hosts: Hosts, way: str) -> None:
    """Five failures in a row are known to all: nobody goes on trying there as often as the retry settings allow."""
    hosts.a.script = [refusal(503)]
    whole = Events([openai_chunk({"content": "Hi"}), openai_chunk({}, "stop"), "[DONE]"])
    hosts.b.script = [whole if way == "stream" else ANSWER]
    patient = RateLimitConfig(retry=RetryConfig(max_attempts=20, backoff_base_s=0.001, backoff_cap_s=0.001))
    pool = {"all": {"pool": ["a"], "fallback": ["b"]}} if way == "pool" else {"a": {"fallback": ["b"]}}
    factory = hosts.factory(limits=patient, **pool)

    async def main() -> list[str]:
        async with factory:
            client = factory.create_completion_client("all" if way == "pool" else "a")

            async def call() -> str:
                if way != "stream":
                    return (await client.complete(HELLO)).profile
                async with client.stream(HELLO) as stream:
                    _ = [chunk async for chunk in stream]
                return stream.response.profile

            return await asyncio.gather(*(call() for _ in range(30)))

    assert asyncio.run(main()) == ["b"] * 30
    assert hosts.asked[0] < 2 * 30


def test_who_is_passed_over_is_told_once(
    hosts: Hosts, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is tried again in vain; and that it answers again."""
    monkeypatch.setattr(members, "SHUNNED_S", 0.0)
    hosts.a.script = [*[refusal(503)] * 8, ANSWER]
    factory = hosts.factory(a={"fallback": ["b"]})

    async def main() -> list[str]:
        async with factory:
            client = factory.create_completion_client("a")
            return [(await client.complete(HELLO)).profile for _ in range(6)]

    with caplog.at_level("INFO", "factflow_llm.routing"):
        assert asyncio.run(main()) == ["b"] * 4 + ["a"] * 2
    lost, found = [record.message for record in caplog.records if record.name.startswith("factflow_llm.routing")]
    assert "profile 'a' is passed over" in lost
    assert found == "profile 'a' answers again"


def test_the_last_one_left_is_asked_with_all_patience(hosts: Hosts) -> None:
    """There is nobody to hand a call on to: its own retries are all there is."""
    hosts.a.script = [refusal(503)]
    hosts.b.script = [*[refusal(503)] * 8, ANSWER]
    patient = RateLimitConfig(retry=RetryConfig(max_attempts=20, backoff_base_s=0.001, backoff_cap_s=0.001))
    (answer,) = ask(hosts.factory(limits=patient, a={"fallback": ["b"]}), "a")
    assert answer.profile == "b"
    assert hosts.asked == (5, 9, 0)


def test_a_pool_may_fall_back(hosts: Hosts) -> None:
    """Both at once: the pool first, then the fallback, which may be asked for by any name."""
    for server in (hosts.a, hosts.b):
        server.script = [refusal(429, "insufficient_quota")]
    (answer,) = ask(hosts.factory(all={"pool": ["a", "b"], "fallback": ["c"]}), "all")
    assert answer.profile == "c"


def streamed(*, cut: bool) -> Events:
    """Make a stream that ends, or breaks off."""
    return Events([openai_chunk({"content": "Hi"}), *([] if cut else [openai_chunk({}, "stop"), "[DONE]"])], cut=cut)


def test_streams_are_handed_on_until_they_begin(hosts: Hosts) -> None:
    """Before its first piece a stream may come from anybody; after it, its end is the end."""
    hosts.a.script = [refusal(503)]
    hosts.b.script = [streamed(cut=False), streamed(cut=True)]
    for keys in ({"a": {"fallback": ["b"]}}, {"all": {"pool": ["a", "b"], "pool_by": "price"}}):
        hosts.b.script = [streamed(cut=False), streamed(cut=True)]
        factory = hosts.factory(**keys)

        async def main(factory: LLMClientFactory = factory, name: str = next(iter(keys))) -> None:
            async with factory:
                client = factory.create_completion_client(name)
                async with client.stream(HELLO) as stream:
                    assert "".join([chunk.text async for chunk in stream]) == "Hi"
                assert stream.response.profile == "b"
                with pytest.raises(openai.OpenAIError):
                    _ = [chunk async for chunk in client.stream(HELLO)]

        asyncio.run(main())


def test_a_conversation_stays_where_its_state_is(hosts: Hosts) -> None:
    """Turns with opaque state go back to whoever gave it; others take turns."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    signed = {"role": "assistant", "content": None, "tool_calls": [{**call, "extra_content": {"google": {"s": "1"}}}]}
    for name, server in (("a", hosts.a), ("b", hosts.b), ("c", hosts.c)):
        said = {**signed, "tool_calls": [{**call, "extra_content": {"google": {"thought_signature": name}}}]}
        server.script = [Reply(openai_answer(said))]
    factory = hosts.factory(all={"pool": ["a", "b", "c"]})

    async def main() -> None:
        async with factory:
            client = factory.create_completion_client("all")
            for _ in range(3):
                first = await client.complete(HELLO)
                turn = dataclasses.replace(first.message)
                result = Message.tool("x", tool_call_id=first.tool_calls[0].id)
                again = await client.complete([*HELLO, turn, result])
                assert again.profile == first.profile

    asyncio.run(main())
    assert isinstance(ProviderState.of("o", {}), ProviderState)


def vectors(asked: Asked) -> Reply:
    """Answer with a vector per text."""
    data = [
        {"object": "embedding", "index": place, "embedding": [float(text), 1.0]}
        for place, text in enumerate(asked.body["input"])
    ]
    return Reply({"object": "list", "model": "m", "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}})


def test_batches_of_one_call_are_spread(hosts: Hosts) -> None:
    """The batches of an embedding go wherever there is room, and come back in order; one that fails goes on."""
    embed = {"type": "embedding", "model": "text-embedding-3-small", "options": {"batch_size": 2}}
    hosts.a.script, hosts.b.script, hosts.c.script = [vectors], [vectors], [refusal(401, "invalid_api_key")]
    factory = hosts.factory(
        a=embed, b=embed, c=embed, all={"pool": ["a", "b", "c"]}, safe={"pool": ["c"], "fallback": ["a"]}
    )

    async def main() -> tuple[Any, Any]:
        async with factory:
            texts = [str(number) for number in range(20)]
            pooled = await factory.create_embedding_client("all").embed(texts)
            return pooled, await factory.create_embedding_client("safe").embed(["7"])

    pooled, safe = asyncio.run(main())
    assert [vector[0] for vector in pooled.vectors] == list(range(20))
    assert min(hosts.asked[:2]) >= 4
    assert (safe.vectors, safe.profile) == (((7.0, 1.0),), "a")


def test_routed_clients_drain_and_close_with_the_factory(hosts: Hosts) -> None:
    """A drained factory begins nothing by any way; status tells of each member."""
    factory = hosts.factory(all={"pool": ["a", "b"]})

    async def main() -> None:
        client = factory.create_completion_client("all")
        assert repr(client) == "<PooledClient of a, b>"
        await client.complete(HELLO)
        status = factory.status()
        assert (status["a"].loops, status["b"].loops, status["c"].loops) == (1, 1, 0)
        assert await factory.drain(timeout_s=5) == 0
        with pytest.raises(ClosedError):
            await client.complete(HELLO)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"a": {"pool": ["d"]}}, "profile 'a': pool names no profile 'd'"),
        ({"a": {"fallback": ["a"]}}, "fallback names the profile itself"),
        ({"a": {"fallback": ["b", "b"]}}, "fallback names a profile twice"),
        ({"a": {"fallback": ["b"]}, "b": {"fallback": ["c"]}}, "'b', which hands calls on itself"),
        (
            {"a": {"pool": ["a", "e"]}, "e": {"type": "embedding"}},
            "pool names 'e', which is of type embedding, not chat",
        ),
    ],
)
def test_ways_that_lead_nowhere_are_refused(keys: dict[str, Any], words: str) -> None:
    """The error names the profile, the key and what to name instead."""
    base = {"provider": "openai", "model": "m"}
    profiles = {name: {**base, **keys.get(name, {})} for name in {"a", "b", "c", *keys}}
    with pytest.raises(ConfigurationError, match=words):
        LLMConfig.from_dict({"providers": profiles})


def test_vectors_of_different_models_are_not_mixed() -> None:
    """They lie in different spaces, so that no embedding model stands in for another."""
    base = {"provider": "openai", "type": "embedding"}
    profiles = {"a": {**base, "model": "m", "fallback": "b"}, "b": {**base, "model": "n"}}
    with pytest.raises(ConfigurationError, match=r"whose vectors \(n, dimensions None\) are not those of m"):
        LLMConfig.from_dict({"providers": profiles})


def test_a_pool_has_its_first_members_model() -> None:
    """A profile that is nothing but a pool need not repeat provider and model; the environment lists names."""
    profiles = {
        "a": {"provider": "openai", "model": "m"},
        "all": {"pool": "a, b"},
        "b": {"provider": "azure", "model": "m"},
    }
    config = LLMConfig.from_dict({"providers": profiles})
    assert (config.providers["all"].model, config.providers["all"].pool) == ("m", ("a", "b"))
    assert 'pool = ["a", "b"]' in config.to_toml()
