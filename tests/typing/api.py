"""The public API as its users type it: checked by mypy, never run."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, assert_type

import pandas as pd

import simulators as sim
from factflow_llm import (
    AdaptiveRateLimiter,
    AIMDMetrics,
    AnthropicClient,
    AxisLimit,
    AzureOpenAIClient,
    BedrockClient,
    BedrockEmbeddingClient,
    Change,
    CompletionResponse,
    EmbeddingClientProtocol,
    EmbeddingResponse,
    ErrorMetadata,
    HuggingFaceEmbeddingClient,
    Job,
    JobResult,
    LimitedEmbeddingClientProtocol,
    LimitedLLMClientProtocol,
    LLMClientFactory,
    LLMClientProtocol,
    LLMConfig,
    LLMErrorClassification,
    Message,
    ModelType,
    OpenAIClient,
    Outcome,
    Permit,
    ProfileStatus,
    RateLimitConfig,
    RateLimitedClient,
    RateLimitedEmbeddingClient,
    RateLimitSignal,
    Role,
    StreamChunk,
    SyncFactory,
    Tool,
    classify_llm_error,
    get_error_metadata,
    is_fatal_llm_error,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from matplotlib.axes import Axes

log = logging.getLogger(__name__)


async def an_adapter(factory: LLMClientFactory) -> str:
    """Use the factory as an adapter does."""
    chat = factory.create_completion_client()
    assert_type(chat, LimitedLLMClientProtocol)
    response = await chat.complete(
        [Message(Role.USER, "?"), Message.user("!")], max_tokens=5, priority=1, deadline_s=2.5
    )
    assert_type(response, CompletionResponse)
    async for chunk in chat.stream([Message.user("?")], tools=[Tool("clock")], seed=7):
        assert_type(chunk, StreamChunk)
    embedder = factory.create_embedding_client(provider_name="embed")
    assert_type(embedder, LimitedEmbeddingClientProtocol)
    assert_type(await embedder.embed(["a", "b"], dimensions=256), EmbeddingResponse)
    assert_type(factory.status()["embed"], ProfileStatus)
    assert_type(await factory.drain(timeout_s=30, refuse_waiting=False), int)
    await factory.aclose()
    return response.text


async def a_job(factory: LLMClientFactory) -> list[dict[str, object]]:
    """Ask for many items, and embed many texts."""
    client = factory.create_completion_client()

    async def call(item: str) -> CompletionResponse:
        return await client.complete([Message.user(item)])

    job = factory.map(["a", "b"], call, journal="run.jsonl", max_cost_usd=5.0)
    assert_type(job, Job[str, CompletionResponse])
    async for result in job:
        assert_type(result, JobResult[str, CompletionResponse])
        assert_type(result.value, CompletionResponse | None)
    async for vector in factory.embed_many(["a"], "embed", progress=True):
        assert_type(vector.value, tuple[float, ...] | None)
    async for answer in factory.batch([[Message.user("?")]], journal="batches.jsonl"):
        assert_type(answer.value, CompletionResponse | None)
    return job.summary()


def a_script(factory: LLMClientFactory) -> str:
    """Use the factory without an event loop."""
    with factory.sync() as llm:
        assert_type(llm, SyncFactory)
        chat = llm.create_completion_client()
        for chunk in chat.stream([Message.user("?")]):
            assert_type(chunk, StreamChunk)
        assert_type(llm.create_embedding_client("embed").embed(["a"]), EmbeddingResponse)
        return chat.complete([Message.user("?")], max_tokens=5).text


class TheirClient:
    """A client of another package, of the same shape and no kinship."""

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: Sequence[str] | None = None,
        tools: Sequence[Tool] | None = None,
        response_format: Any = None,
        **provider_options: Any,
    ) -> CompletionResponse:
        """Answer at once."""
        raise NotImplementedError

    async def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: Sequence[str] | None = None,
        tools: Sequence[Tool] | None = None,
        response_format: Any = None,
        **provider_options: Any,
    ) -> AsyncIterator[StreamChunk]:
        """Answer piece by piece."""
        yield StreamChunk()

    async def aclose(self) -> None:
        """Close nothing."""


def clients() -> list[LLMClientProtocol]:
    """Take any client, ours or theirs, bare or limited, for a client."""
    limiter = AdaptiveRateLimiter(RateLimitConfig(requests_per_minute=500))
    theirs = TheirClient()
    return [
        OpenAIClient("gpt-4o-mini", api_key="k"),
        AzureOpenAIClient("gpt-4o", base_url="https://example.openai.azure.com", api_key="k"),
        OpenAIClient("gpt-5.5", api_key="k", api="responses"),
        AnthropicClient("claude-sonnet-5", api_key="k"),
        BedrockClient("amazon.nova-2-lite-v1:0", region="us-east-1"),
        theirs,
        RateLimitedClient(theirs, limiter),
    ]


def embedders() -> list[EmbeddingClientProtocol]:
    """Take any embedding client for one."""
    titan = BedrockEmbeddingClient("amazon.titan-embed-text-v2:0", region="us-east-1")
    return [titan, HuggingFaceEmbeddingClient("a-model"), RateLimitedEmbeddingClient(titan, None)]


async def by_hand(limiter: AdaptiveRateLimiter) -> None:
    """Drive the limiter without a client."""

    def tell(change: Change) -> None:
        log.info("%s: %s", change.axis, change.reason)

    unsubscribe = limiter.subscribe(tell)
    async with limiter.permit(input_tokens=900, output_tokens=300, priority=1) as permit:
        assert_type(permit, Permit)
        permit.rate_limited(retry_after=2.0, axis="tokens")
    assert_type(limiter.metrics, AIMDMetrics)
    limiter.retune(RateLimitConfig())
    unsubscribe()


def read(signal: RateLimitSignal) -> tuple[Outcome, tuple[AxisLimit, ...]]:
    """Look into what an attempt taught."""
    return signal.outcome, signal.limits


def judge(error: BaseException) -> tuple[LLMErrorClassification, ErrorMetadata, bool, RateLimitSignal | None]:
    """Ask about an error."""
    return classify_llm_error(error), get_error_metadata(error), is_fatal_llm_error(error), None


def configure() -> LLMConfig:
    """Build a configuration in every way there is."""
    assert_type(ModelType("chat"), ModelType)
    LLMConfig.from_toml("llm.toml")
    return LLMConfig.from_dict({"providers": {"default": {"provider": "openai", "model": "gpt-4o-mini"}}})


def the_laboratory() -> Axes:
    """Walk the laboratory's loop."""
    trace = sim.read_trace("requests.csv")
    scenario = sim.Scenario(trace, sim.provider("openai-tier-1")).at(600, quota=0.5, label="halved")
    result = sim.simulate(scenario, RateLimitConfig(), seed=7, clients=4)
    store = sim.Store(delay_s=0.002, loss=0.1).gone(60, for_s=20).flushed(120)
    assert_type(sim.simulate(scenario, clients=4, shared=True, store=store), sim.SimResult)
    accounts = {"key1": scenario, "key2": scenario.at(600, quota=0.5)}
    assert_type(sim.simulate_pool(accounts, workers=50, fallback=["key2"]).oracle_s, float)
    assert_type(sim.plan_pool(accounts, take=1), pd.DataFrame)
    assert_type(sim.run_pools({"mine": sim.read_pool("mine.toml")}, seeds=2), pd.DataFrame)
    assert_type(result, sim.SimResult)
    assert_type(result.attempts, pd.DataFrame)
    closed = sim.Scenario(sim.backlog(workers=64), "bucket")
    table = sim.compare([scenario, closed], {"ours": RateLimitConfig(), "8/s": sim.policies.fixed_rate(8)}, seeds=5)
    assert_type(table, sim.Comparison)
    study = sim.tune([scenario], trials=10, seed=7)
    assert_type(study.best_config, RateLimitConfig)
    return sim.plot_limits(result)
