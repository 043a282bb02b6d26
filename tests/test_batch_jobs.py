"""Providers' batches: handed in, waited for, gone on with after a crash, cut to the limits, errors told apart.

All against the simulated providers, whose batches take some simulated seconds.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from factflow_llm import (
    ConfigurationError,
    ErrorReason,
    InvalidRequestError,
    JournalError,
    LLMClientFactory,
    LLMConfig,
    Message,
)
from factflow_llm.clients.offline import AnthropicBatchApi, BatchApi
from factflow_llm.jobs import batch
from simulators.server import batches
from simulators.server.serving import running_server
from simulators.server.simulated import FaultKind, ScriptedFault, SimulatedServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PRESETS = {"openai": "openai-tier-1", "azure": "azure-30k", "anthropic": "anthropic-tier-1"}
FINE = ScriptedFault(FaultKind.NONE)
BAD = ScriptedFault(status=400, body={"error": {"message": "no", "type": "invalid_request_error"}})
BUSY = ScriptedFault(status=529, body={"error": {"message": "Overloaded", "type": "overloaded_error"}})
LATE = ScriptedFault(FaultKind.STALL)


@pytest.fixture(params=sorted(PRESETS))
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, SimulatedServer]]:
    """Give a provider and its server."""
    with running_server(PRESETS[request.param], speed=1_000.0) as running:
        yield request.param, running


def run(
    provider: str, server: SimulatedServer, requests: Any, *, stop_after: int = -1, **settings: Any
) -> tuple[Any, list[Any]]:
    """Hand requests in; return the job and its results in order."""
    profile = {
        "provider": provider,
        "model": "claude-opus-5" if provider == "anthropic" else "gpt-4o-mini",
        "api_key": "sk-test",
        "base_url": f"{server.url}/v1" if provider == "openai" else server.url,
        "prices": {"input": 1.0, "output": 2.0},
    }

    async def main() -> tuple[Any, list[Any]]:
        async with LLMClientFactory(LLMConfig.from_dict({"providers": {"chat": profile}})) as factory:
            job = factory.batch(requests, poll_s=0.005, **settings)
            results = []
            async for result in job:
                results.append(result)
                if len(results) == stop_after:
                    break
            return job, sorted(results, key=lambda result: result.place)

    return asyncio.run(main())


def live(server: SimulatedServer) -> int:
    """Count the calls that were no part of a batch."""
    ends = tuple(route.path for route in server.dialect.routes if "{" not in route.path)
    return sum(asked.route.endswith(ends) for asked in server.conduct.requests)


def asked(*texts: str) -> list[list[Message]]:
    """Make a conversation of each text."""
    return [[Message.user(text)] for text in texts]


def test_requests_are_handed_in_and_answered(server: tuple[str, SimulatedServer]) -> None:
    """Each request has its answer; what failed by no fault of its own is handed in once more; prices are halved."""
    provider, running = server
    running.script(FINE, BAD, BUSY, FINE, LATE)
    job, results = run(provider, running, asked("one", "bad", "busy", "two", "late"))
    assert [result.succeeded for result in results] == [True, False, True, True, True]
    assert all(result.value.text for result in results if result.succeeded)
    assert [result.tries for result in results] == [1, 1, 2, 1, 2]
    assert results[1].error.reason is ErrorReason.INVALID_REQUEST
    assert [len(batch.lines) for batch in running.batches.made.values()] == [5, 2]
    assert live(running) == 0
    assert job.spent.cost_usd == pytest.approx(job.live_cost_usd / 2)
    assert {row["outcome"]: row["items"] for row in job.summary()}["succeeded"] == 4


def test_after_a_crash_the_same_batches_are_waited_for(server: tuple[str, SimulatedServer], tmp_path: Path) -> None:
    """The file remembers them by name: nothing is handed in twice, and nothing is lost."""
    provider, running = server
    path = tmp_path / "batches.jsonl"
    running.script(FINE, FINE, BUSY)
    run(provider, running, asked("one", "two", "busy"), stop_after=1, journal=path)
    assert len(running.batches.made) == 1
    _, results = run(provider, running, asked("one", "two", "busy"), journal=path)
    assert [(result.succeeded, result.tries) for result in results] == [(True, 1), (True, 1), (True, 2)]
    assert len(running.batches.made) == 2
    _, again = run(provider, running, asked("one", "two", "busy"), journal=path)
    assert [result.value.text for result in again] == [result.value.text for result in results]
    assert len(running.batches.made) == 2
    with pytest.raises(JournalError, match="the journal of other requests"):
        run(provider, running, asked("three"), journal=path)


def test_a_line_cut_off_by_a_kill_spoils_no_later_one(tmp_path: Path) -> None:
    """What is noted next begins a line of its own; a first line cut off is begun anew; other files are left alone."""
    path = tmp_path / "batches.jsonl"
    batch._HandedIn(path, "job").note(1, "b1", [0])
    with path.open("a", encoding="utf-8") as file:
        file.write('{"batch": "b2", "tu')
    batch._HandedIn(path, "job").note(1, "b3", [1])
    assert batch._HandedIn(path, "job").of(1) == [("b1", [0]), ("b3", [1])]
    path.write_text('{"factflow_batch": "jo', encoding="utf-8")
    assert batch._HandedIn(path, "job").of(1) == []
    path.write_text("a letter", encoding="utf-8")
    with pytest.raises(JournalError, match="no journal of batches"):
        batch._HandedIn(path, "job")
    assert path.read_text(encoding="utf-8") == "a letter"


def test_batches_keep_to_the_limits(server: tuple[str, SimulatedServer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests beyond a batch's count or bytes go into the next."""
    provider, running = server
    for api in (BatchApi, AnthropicBatchApi):
        monkeypatch.setattr(api, "most", 2)
    _, results = run(provider, running, asked("a", "b", "c", "d", "e"))
    assert all(result.succeeded for result in results)
    assert sorted(len(batch.lines) for batch in running.batches.made.values()) == [1, 2, 2]
    for api in (BatchApi, AnthropicBatchApi):
        monkeypatch.setattr(api, "most_bytes", 1)
    run(provider, running, asked("a", "b"))
    assert sorted(len(batch.lines) for batch in running.batches.made.values()) == [1, 1, 1, 2, 2]


class Part(BaseModel):
    """What an answer is read as."""

    teeth: int


def test_arguments_go_along_and_failures_may_go_live(server: tuple[str, SimulatedServer]) -> None:
    """A request may name what ``complete`` takes; with ``live`` the second try is a call, at the full price."""
    provider, running = server
    running.script(FINE, BUSY)
    requests = [{"messages": [Message.user("x")], "response_format": Part, "max_tokens": 30}, *asked("busy")]
    job, results = run(provider, running, requests, live=True)
    assert isinstance(results[0].value.parsed, Part)
    assert results[0].value.usage.output_tokens <= 30
    assert (results[1].succeeded, live(running), len(running.batches.made)) == (True, 1, 1)
    assert job.live_cost_usd / 2 < job.spent.cost_usd < job.live_cost_usd
    with pytest.raises(InvalidRequestError, match="extra_headers cannot go into a batch"):
        run(provider, running, [{"messages": [Message.user("x")], "extra_headers": {"a": "b"}}])


def test_a_batch_refused_as_a_whole_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that the provider cannot read ends the job in the provider's words."""
    monkeypatch.setattr(batches, "_MOST_LINES", 1)
    words = "2 requests are more than a batch takes, which is 1"
    with running_server("openai-tier-1", speed=1_000.0) as running, pytest.raises(InvalidRequestError, match=words):
        run("openai", running, asked("a", "b"))


def test_a_provider_without_batches_says_so() -> None:
    """Bedrock's batches are files in a bucket of yours, which is another thing."""

    async def main() -> None:
        profile = {"provider": "bedrock", "model": "amazon.nova-2-lite-v1:0", "region": "us-east-1"}
        async with LLMClientFactory(LLMConfig.from_dict({"providers": {"chat": profile}})) as factory:
            await anext(factory.batch(asked("one")))

    with pytest.raises(ConfigurationError, match=r"bedrock has no batch API here: use factory\.map"):
        asyncio.run(main())
