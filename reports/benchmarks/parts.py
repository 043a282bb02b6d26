"""What each optional part costs per call, in CPU of this process: all parts in turn, over HTTP on the loopback."""

from __future__ import annotations

import os
import tempfile
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factflow_llm import LLMClientFactory, LLMConfig, Recorder, Telemetry
from reports.benchmarks.clients import KEY, MAX_TOKENS, MESSAGES, MODELS
from reports.benchmarks.clients_server import running
from reports.benchmarks.measure import Contestant, Spent, in_loop, ratio, take_turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from factflow_llm import AttemptSink

CALLS = 200
PRICES = {"input": 1.0, "output": 2.0}
ALONE = "client and limiter"


def calls(
    url: str,
    *,
    recorder: AttemptSink | None = None,
    telemetry: Telemetry | None = None,
    mapped: dict[str, Any] | None = None,
    **keys: Any,
) -> Callable[[], int]:
    """Return a run of calls, one after the other, by a factory of its own, with the keys given in its profile.

    ``mapped`` are the arguments of ``factory.map``, which then makes the calls.
    """
    other = {"provider": "openai", "model": MODELS["openai"], "api_key": KEY, "base_url": f"{url}/v1"}
    config = LLMConfig.from_dict({"providers": {"default": other | keys, "other": other}})

    async def main() -> int:
        async with AsyncExitStack() as stack:
            factory = await stack.enter_async_context(LLMClientFactory(config, recorder=recorder, telemetry=telemetry))
            client = factory.create_completion_client()

            async def ask(_: int) -> Any:
                return await client.complete(MESSAGES, max_tokens=MAX_TOKENS)

            if mapped is None:
                for number in range(CALLS):
                    await ask(number)
                return CALLS
            with tempfile.TemporaryDirectory() as folder:
                journal = {"journal": Path(folder) / "job.jsonl"} if mapped.get("journal") else {}
                async with factory.map(range(CALLS), ask, **mapped | journal) as job:
                    return len([result async for result in job if result.succeeded])

    return in_loop(main)


def _told() -> Telemetry:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider

    return Telemetry(tracer_provider=TracerProvider(), meter_provider=MeterProvider([InMemoryMetricReader()]))


def measured(url: str, folder: Path, recorder: AttemptSink, rounds: int) -> Spent:
    """Let all parts take turns; return the CPU seconds per call, by part."""
    contestants = [
        Contestant(ALONE, calls(url)),
        Contestant("and a recording", calls(url, recorder=recorder)),
        Contestant("and prices of its own", calls(url, prices=PRICES)),
        Contestant("and a profile to fall back on", calls(url, fallback=["other"])),
        Contestant("and a pool of two", calls(url, pool=["other"])),
        Contestant("and a quota shared by a file", calls(url, rate_limit={"shared": f"sqlite:///{folder}/quota.db"})),
        Contestant("in a job", calls(url, mapped={})),
        Contestant(
            "in a job with a journal and a budget", calls(url, mapped={"journal": True, "max_tokens_total": 10**9})
        ),
    ]
    if server := os.environ.get("FACTFLOW_TEST_REDIS"):
        shared = {"shared": f"{server}?namespace=benchmark"}
        contestants.append(Contestant("and a quota shared by Redis", calls(url, rate_limit=shared)))
    else:
        print("a quota shared by Redis is not measured: FACTFLOW_TEST_REDIS names no server")
    if find_spec("opentelemetry.sdk") is not None:
        contestants.append(Contestant("and spans and metrics", calls(url, telemetry=_told())))
    else:
        print('spans and metrics are not measured: pip install "factflow-llm[otel]" opentelemetry-sdk')
    return take_turns(contestants, rounds)


def main(rounds: int = 7) -> None:
    """Print one table; the calls of a part run one after the other, so what it does beside them counts, too."""
    with running() as url, tempfile.TemporaryDirectory() as name, Recorder(Path(name) / "rows.jsonl") as recorder:
        spent = measured(url, Path(name), recorder, rounds)
    print("\neach optional part, CPU per call")
    for part, costs in spent.items():
        print(f"  {part:40} {min(costs) * 1e6:9.1f} us  {ratio(spent, part, ALONE):5.2f} x {ALONE}")
