"""Jobs: every item comes out once, as a value or a classified error; budgets hold; memory is one window's."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from factflow_llm import (
    CompletionResponse,
    ConfigurationError,
    ErrorReason,
    Job,
    JobResult,
    LLMClientFactory,
    LLMConfig,
    LLMErrorClassification,
    Message,
    RateLimitConfig,
    RetryConfig,
)
from tests.support.faces import openai_answer
from tests.support.loopback import Asked, Loopback, Reply
from tests.support.virtual_loop import run_virtually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

DOLLARS = {"input": 1_000.0, "output": 10_000.0}  # a thousandth of a dollar for each token read, a hundredth written


def said(asked: Asked) -> str:
    """Return the text of a request's last message."""
    text: str = asked.body["messages"][-1]["content"]
    return text


def echo(asked: Asked) -> Reply:
    """Answer with the question, at ten tokens read and two written."""
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
    return Reply(openai_answer({"role": "assistant", "content": said(asked)}, finish="stop", usage=usage))


def refusal(status: int, code: str | None = None, **headers: str) -> Reply:
    """Make an error of OpenAI's."""
    return Reply({"error": {"message": "no", "type": "t", "code": code}}, status=status, headers=headers)


def make(server: Loopback, **keys: Any) -> LLMClientFactory:
    """Make a factory that talks to the server, and repeats no attempt by itself."""
    limits = RateLimitConfig(retry=RetryConfig(max_attempts=1), initial_concurrency=4)
    both = {"provider": "openai", "api_key": "sk-of-the-test", "base_url": f"{server.url}/v1", "rate_limit": limits}
    chat = {**both, "model": "gpt-4o-mini", **keys}
    embed = {**both, "model": "text-embedding-3-small", "type": "embedding"}
    return LLMClientFactory(LLMConfig.from_dict({"default": "chat", "providers": {"chat": chat, "embed": embed}}))


def run(
    server: Loopback, items: Any, *, keys: dict[str, Any] | None = None, max_tokens: int = 2, **settings: Any
) -> tuple[Job[Any, CompletionResponse], list[JobResult[Any, CompletionResponse]]]:
    """Ask for each item over the wire; return the job and its results."""

    async def main() -> tuple[Job[Any, CompletionResponse], list[JobResult[Any, CompletionResponse]]]:
        async with make(server, **keys or {}) as factory:
            client = factory.create_completion_client("chat")

            async def call(item: Any) -> CompletionResponse:
                return await client.complete([Message.user(str(item))], max_tokens=max_tokens)

            job = factory.map(items, call, **settings)
            return job, [result async for result in job]

    return asyncio.run(main())


def a_factory() -> LLMClientFactory:
    """Make a factory whose clients are not used."""
    return LLMClientFactory(LLMConfig.from_dict({"providers": {"chat": {"provider": "openai", "model": "m"}}}))


def test_every_item_comes_out_once() -> None:
    """Results come as they end; each knows its place, its item, what it used, and the summary adds them up."""
    with Loopback(echo) as server:
        job, results = run(server, (f"item {place}" for place in range(30)))
    assert sorted(result.place for result in results) == list(range(30))
    assert all(result.value.text == result.item == f"item {result.place}" for result in results if result.value)
    assert {result.spent.tokens for result in results} == {12}
    assert (job.ended, job.handed_on, job.left, job.spent.tokens) == ("all done", 30, None, 360)
    (row,) = job.summary()
    assert (row["model"], row["outcome"], row["items"], row["output_tokens"]) == ("gpt-4o-mini", "succeeded", 30, 60)


def test_order_is_kept_where_it_is_asked_for() -> None:
    """Results that end out of order are handed on in the order of the items."""

    async def main() -> list[int]:
        async def call(item: int) -> int:
            await asyncio.sleep(item % 7)
            return item

        return [result.place async for result in a_factory().map(range(50), call, ordered=True, window=10)]

    assert run_virtually(main()) == list(range(50))


def test_memory_is_one_windows() -> None:
    """A million items would need no more than twenty: nothing is begun before results are taken."""
    begun = 0

    def items() -> Any:
        nonlocal begun
        while True:
            begun += 1
            yield begun

    async def main() -> None:
        async def call(item: int) -> int:
            return item

        async with a_factory().map(items(), call, window=20) as job:
            async for result in job:
                assert begun - result.place <= 21
                if result.place >= 500:
                    break

    run_virtually(main())


def test_items_may_come_slowly() -> None:
    """An asynchronous source is read while calls go on; what has ended is handed on meanwhile."""
    seen: list[float] = []

    async def source() -> AsyncIterator[int]:
        for number in range(3):
            yield number
            await asyncio.sleep(100)

    async def main() -> None:
        async def call(item: int) -> int:
            await asyncio.sleep(1)
            return item

        loop = asyncio.get_running_loop()
        async for _ in a_factory().map(source(), call):
            seen.append(loop.time())  # noqa: PERF401 - one at a time, as they come

    run_virtually(main())
    assert seen == [1.0, 101.0, 201.0]


def test_errors_are_values() -> None:
    """An item that fails is classified and ends nothing; one at fault itself is not asked for again."""

    def reply(asked: Asked) -> Reply:
        return refusal(400, "content_filter") if said(asked) == "3" else echo(asked)

    with Loopback(reply) as server:
        job, results = run(server, range(6), retries=3)
        assert len(server.asked) == 6
    (failed,) = [result for result in results if not result.succeeded]
    assert failed.error is not None
    assert (failed.place, failed.value, failed.tries) == (3, None, 1)
    assert failed.error.reason is ErrorReason.CONTENT_FILTER
    assert failed.error.classification is LLMErrorClassification.TERMINAL
    assert {row["outcome"]: row["items"] for row in job.summary()} == {"succeeded": 5, "content_filter": 1}


def test_failed_items_are_asked_for_again_at_the_end() -> None:
    """What failed by the provider's fault comes last, with the number of its tries and all it used."""
    refused: set[str] = set()

    def reply(asked: Asked) -> Reply:
        if said(asked) in {"1", "2"} and said(asked) not in refused:
            refused.add(said(asked))
            return refusal(500)
        return echo(asked)

    with Loopback(reply) as server:
        _, results = run(server, range(8), window=3)
    assert all(result.succeeded for result in results)
    assert {result.place for result in results[-2:]} == {1, 2}
    assert [result.tries for result in results] == [1] * 6 + [2] * 2


def test_a_wrong_key_ends_the_job() -> None:
    """What every other request would meet, too, ends the job after a row of them; the rest is left."""
    with Loopback(refusal(404, "model_not_found")) as server:
        job, results = run(server, range(200), window=5)
        assert len(server.asked) < 60
    assert job.ended == "fatal"
    assert job.left == 200 - len(results)
    assert {result.error.reason for result in results if result.error} == {ErrorReason.NOT_FOUND}


def test_leaving_early_ends_what_is_under_way() -> None:
    """Calls in flight are cancelled when the block is left."""
    cancelled = 0

    async def main() -> None:
        async def call(item: int) -> int:
            nonlocal cancelled
            try:
                await asyncio.sleep(item)
            except asyncio.CancelledError:
                cancelled += 1
                raise
            return item

        async with a_factory().map(range(10), call) as job:
            async for _ in job:
                break

    run_virtually(main())
    assert cancelled == 9


@pytest.mark.parametrize(
    ("keys", "settings", "bound", "most"),
    [
        ({"prices": DOLLARS}, {"max_cost_usd": 0.3}, "max_cost_usd", 10),  # 10 x 0.001 + 2 x 0.01 = 0.03 a call
        ({}, {"max_tokens_total": 100}, "max_tokens_total", 8),
    ],
)
def test_a_budget_is_kept(keys: dict[str, Any], settings: dict[str, Any], bound: str, most: int) -> None:
    """What a call may use is set aside before it is sent, so that no more is sent than fits; the rest is left."""
    with Loopback(echo) as server:
        job, results = run(
            server, ["a question of more than ten tokens, for all I know of tokens"] * 40, keys=keys, **settings
        )
        sent = len(server.asked)
    assert job.ended == bound
    assert len(results) == sent
    assert most - 2 <= sent <= most
    assert job.left == 40 - sent
    spent = job.spent.cost_usd if bound == "max_cost_usd" else job.spent.tokens
    assert spent is not None
    assert spent <= next(iter(settings.values())) + 1e-9


def test_a_budget_of_dollars_needs_a_price() -> None:
    """A cap that cannot be kept is refused before anything is sent, in words."""
    with Loopback(echo) as server:
        with pytest.raises(
            ConfigurationError, match=r"max_cost_usd = 5 cannot be kept: no price is known of gpt-4o-mini"
        ):
            run(server, range(5), max_cost_usd=5)
        assert server.asked == []


def test_after_until_nothing_is_sent() -> None:
    """A moment that has passed lets nothing go, and says so."""
    with Loopback(echo) as server:
        job, results = run(server, range(5), until=datetime.now(UTC) - timedelta(minutes=1))
        assert (job.ended, job.left, results, server.asked) == ("until", 5, [], [])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"retries": -1}, "retries = -1 must be at least 0"),
        ({"window": 0}, "window = 0 must be at least 1"),
        ({"keep": "all"}, "keep = 'all': write"),
        ({"max_cost_usd": 0}, "max_cost_usd = 0 must be above 0"),
        ({"max_tokens_total": -5}, "max_tokens_total = -5 must be above 0"),
        ({"until": datetime(2026, 1, 1)}, "until = 2026-01-01T00:00:00 has no time zone"),  # noqa: DTZ001
    ],
)
def test_senseless_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    """The error names value, bound and remedy, before anything begins."""
    with pytest.raises(ConfigurationError, match=words):
        a_factory().map([1], str, **settings)  # type: ignore[type-var]


def test_a_call_that_does_not_wait_is_refused() -> None:
    """A plain function is no call of an asynchronous job, and the words say what is."""

    async def main() -> None:
        async for _ in a_factory().map([1], str):  # type: ignore[type-var]
            pass

    with pytest.raises(ConfigurationError, match=r"returned a str, nothing to await: write it as async def"):
        asyncio.run(main())


def vectors(bad: str) -> Callable[[Asked], Reply]:
    """Make a server that embeds, and refuses every batch that holds the bad text."""

    def reply(asked: Asked) -> Reply:
        texts = asked.body["input"]
        if bad in texts:
            return refusal(400, "invalid_value")
        data = [
            {"object": "embedding", "index": place, "embedding": [float(text.split()[1]), 0.5]}
            for place, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        return Reply({"object": "list", "model": "m", "data": data, "usage": usage})

    return reply


def test_texts_are_embedded_in_batches_and_a_bad_one_stands_alone() -> None:
    """One result per text, in batches over the wire; a refused text does not take its neighbours along."""

    async def main(server: Loopback) -> tuple[Any, list[Any]]:
        async with make(server) as factory:
            texts = (f"text {place}" for place in range(50))
            job = factory.embed_many(texts, "embed", batch_size=16, ordered=True)
            return job, [result async for result in job]

    with Loopback(vectors("text 21")) as server:
        job, results = asyncio.run(main(server))
        assert len(server.asked) == 4 + 2 * 4
    assert [result.place for result in results] == list(range(50))
    assert [result.item for result in results if result.error] == ["text 21"]
    assert all(result.value == (float(result.place), 0.5) for result in results if result.succeeded)
    assert (job.spent.input_tokens, job.spent.output_tokens, job.ended) == (49, 0, "all done")


def test_synchronous_callers_have_jobs_too() -> None:
    """Each item is asked for in a thread, through one limiter; budgets and summary are the same."""
    with Loopback(echo) as server, make(server).sync() as llm:
        client = llm.create_completion_client("chat")
        with llm.map(range(12), lambda item: client.complete([Message.user(str(item))]).text, threads=4) as job:
            results = list(job)
        assert {result.item: result.value for result in results} == {item: str(item) for item in range(12)}
        assert (job.ended, job.left, job.spent.tokens) == ("all done", 0, 144)
        assert job.summary()[0]["items"] == 12
        server.script = [vectors("none")]
        assert [result.value for result in llm.embed_many(["text 7"], "embed")] == [(7.0, 0.5)]


def test_a_bar_shows_progress(capsys: pytest.CaptureFixture[str]) -> None:
    """The bar counts items, failures, refusals, tokens and dollars."""
    with Loopback(echo) as server:
        run(server, range(4), keys={"prices": DOLLARS}, progress=True)
    shown = capsys.readouterr().err
    assert "4/4" in shown
    assert "tokens=48" in shown
    assert "cost=0.12 USD" in shown
