"""Spans and metrics: one span per call, one below it per attempt, usage once, and nothing of prompts or keys."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest

from factflow_llm import LLMClientFactory, LLMConfig, Message, RateLimitConfig, Telemetry
from factflow_llm.errors import ExtraMissingError
from tests.support.calling import message
from tests.support.loopback import Events, Loopback, Reply

sdk = pytest.importorskip("opentelemetry.sdk", reason="the SDK of OpenTelemetry is not installed")
prometheus = pytest.importorskip("opentelemetry.exporter.prometheus", reason="Prometheus' exporter is not installed")

from opentelemetry.sdk.metrics import MeterProvider  # noqa: E402
from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: E402
from opentelemetry.sdk.trace import TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402
from prometheus_client import REGISTRY, generate_latest  # noqa: E402
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

CANARY = "canary-4f0c9a17"
"""Stands for everything that must not come out."""


class Told:
    """What one run told: spans, data points by the metric's name, and the text that Prometheus reads."""

    def __init__(self, spans: list[ReadableSpan], points: dict[str, list[Any]], scraped: str) -> None:
        self.spans = spans
        self.points = points
        self.scraped = scraped

    @property
    def everything(self) -> str:
        """All of it, as text."""
        return " ".join([span.to_json() for span in self.spans]) + str(self.points) + self.scraped


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """Make calls that succeed, are streamed, are rejected and retried, and fail for good; return what was told."""
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider(metric_readers=[reader, prometheus.PrometheusMetricReader()])
    telemetry = Telemetry(tracer_provider=tracers, meter_provider=meters)
    shared = {"shared": f"sqlite:///{tmp_path_factory.mktemp('fleet')}/quota.db"}

    answer = message(content="well") | {
        "usage": {"prompt_tokens": 30, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 20}}
    }
    refusal = Reply({"error": {"message": CANARY, "code": "rate_limit_exceeded"}}, status=429)
    wrong = Reply({"error": {"message": CANARY, "code": "invalid_value"}}, status=400)
    chunk = {"id": "1", "choices": [{"index": 0, "delta": {"content": CANARY}, "finish_reason": "stop"}]}
    streamed = Events(
        [chunk, {"id": "1", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}, "[DONE]"]
    )

    async def calls(url: str) -> tuple[dict[str, list[Any]], str]:
        profile = {"provider": "openai", "model": "gpt-4o-mini", "base_url": f"{url}/v1", "api_key": CANARY}
        config = LLMConfig.from_dict({"providers": {"default": profile | {"rate_limit": shared}}})
        async with LLMClientFactory(config, telemetry=telemetry) as factory:
            client = factory.create_completion_client()
            await client.complete([Message.user(CANARY)], max_tokens=7)
            with pytest.raises(Exception, match="400"):
                await client.complete([Message.user(CANARY)])
            async for _ in client.stream([Message.user(CANARY)]):
                pass
            client.limiter.retune(RateLimitConfig(requests_per_minute=600, **shared))  # type: ignore[attr-defined]
            data: Any = reader.get_metrics_data()
            points = {
                metric.name: list(metric.data.data_points)
                for resource in data.resource_metrics
                for scope in resource.scope_metrics
                for metric in scope.metrics
            }
            return points, generate_latest(REGISTRY).decode()

    with Loopback(refusal, Reply(answer), wrong, streamed) as server:
        points, scraped = asyncio.run(calls(server.url))
    return Told(list(exporter.get_finished_spans()), points, scraped)


def test_one_span_per_call_and_one_below_it_per_attempt(told: Told) -> None:
    """Named by the conventions; attempts name their number and what became of them."""
    by_id = {span.context.span_id: span for span in told.spans if span.context}
    calls = [span for span in told.spans if span.parent is None]
    assert [span.name for span in calls] == ["chat gpt-4o-mini"] * 3
    attempts = [
        (span.name, [call for call in calls if span.parent and by_id[span.parent.span_id] is call] != [])
        for span in told.spans
        if span.parent is not None
    ]
    assert attempts == [("attempt 1", True), ("attempt 2", True), ("attempt 1", True), ("attempt 1", True)]
    first = dict(calls[0].attributes or {})
    assert first["gen_ai.provider.name"] == "openai"
    assert first["gen_ai.request.max_tokens"] == 7
    assert (first["gen_ai.usage.input_tokens"], first["gen_ai.usage.output_tokens"]) == (30, 5)
    assert first["gen_ai.usage.cache_read.input_tokens"] == 20
    assert dict(calls[1].attributes or {})["error.type"] == "invalid_request"


def test_usage_counts_once_and_rejections_by_axis(told: Told) -> None:
    """Two attempts of one call read their tokens once."""
    (read,) = told.points["gen_ai.client.inference.usage.input_tokens"]
    assert read.value == 39
    (rejected,) = told.points["factflow.limiter.rejections"]
    assert (rejected.value, rejected.attributes["factflow.limiter.axis"]) == (1, "unknown")
    (first_chunk,) = told.points["gen_ai.client.inference.time_to_first_chunk"]
    assert first_chunk.count == 1
    assert sum(point.count for point in told.points["gen_ai.client.inference.duration"]) == 3
    assert told.points["factflow.limiter.limit"]


def test_nothing_that_is_secret_comes_out(told: Told) -> None:
    """The key, the prompt, the answer and the errors' texts all hold the canary."""
    assert "gpt-4o-mini" in told.everything
    assert CANARY not in told.everything


def test_nothing_is_imported_unless_it_is_used() -> None:
    """A program that makes no Telemetry never loads OpenTelemetry."""
    code = (
        "import sys, factflow_llm as f\n"
        "f.LLMClientFactory(f.LLMConfig.from_dict({'providers': {'a': {'provider': 'openai', 'model': 'm'}}}))\n"
        "f.RateLimitedClient, f.AdaptiveRateLimiter\n"
        "assert not [name for name in sys.modules if name.startswith(('opentelemetry', 'redis', 'sqlite3'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """As every optional part does."""
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ExtraMissingError, match=r"factflow-llm\[otel\]"):
        Telemetry()


# --- the board ----------------------------------------------------------------------------------------------------


def test_every_query_of_the_board_names_what_prometheus_reads(told: Told) -> None:
    """The board is a dashboard as Grafana reads it, and none of its panels stays empty for a wrong name or label."""
    board = json.loads(files("factflow_llm").joinpath("grafana.json").read_text(encoding="utf-8"))
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= board.keys()
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) >= 8
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(told.scraped):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    for panel in panels:
        assert {"type", "title", "gridPos", "datasource", "targets"} <= panel.keys()
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        for target in panel["targets"]:
            query = target["expr"]
            used = re.findall(r"\b(?:gen_ai|factflow)_\w+(?=[\[{])", query)
            assert used, query
            assert set(used) <= labels.keys(), query
            named = {name for inside in re.findall(r"by \(([^)]*)\)", query) for name in inside.split(", ")}
            named |= set(re.findall(r"(\w+)[!=]=?~?\"", query))
            assert all(named <= labels[metric] for metric in used), query
