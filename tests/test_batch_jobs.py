"""Providers' batches: handed in, waited for, gone on with after a crash, cut to the limits, errors told apart."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

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
from tests.support.faces import anthropic_answer, openai_answer

if TYPE_CHECKING:
    from pathlib import Path

Judge = Callable[[str, dict[str, Any], int], tuple[int, dict[str, Any]]]


class BatchServer:
    """Both batch APIs: each look at a batch finds it under way once, then ended."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.batches: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        self.looks: dict[str, int] = {}
        self.files: dict[str, bytes] = {}
        self.live = 0
        self.handed_in = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                self._answer(server.post(self.path, body))

            def do_GET(self) -> None:
                self._answer(server.get(self.path))

            def _answer(self, body: bytes | dict[str, Any]) -> None:
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                kind = "application/json" if isinstance(body, dict) else "application/octet-stream"
                self.send_response(200)
                self.send_header("content-type", "application/x-jsonl" if self.path.endswith("/results") else kind)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def post(self, path: str, body: bytes) -> dict[str, Any]:
        """Take a file, a batch, or a live call."""
        if path == "/v1/files":
            lines = [line for line in body.splitlines() if line.startswith(b'{"custom_id"')]
            name = f"file-{len(self.files)}"
            self.files[name] = b"\n".join(lines)
            return {"id": name, "object": "file", "bytes": 1, "created_at": 1, "filename": "f", "purpose": "batch"}
        asked = json.loads(body)
        if path == "/v1/batches":
            lines = map(json.loads, self.files[asked["input_file_id"]].splitlines())
            return self._batch(self._add([(line["custom_id"], line["body"]) for line in lines]), "validating")
        if path == "/v1/messages/batches":
            return self._message_batch(self._add([(one["custom_id"], one["params"]) for one in asked["requests"]]))
        self.live += 1
        return openai_answer({"role": "assistant", "content": "live"}, finish="stop")

    def get(self, path: str) -> bytes | dict[str, Any]:
        """Show a batch, or what came of it."""
        name = path.rsplit("/", maxsplit=1)[-1]
        if path.endswith("/content"):
            return self.files[path.split("/")[-2]]
        if path.endswith("/results"):
            return self._results(path.split("/")[-2])
        self.looks[name] = self.looks.get(name, 0) + 1
        if "messages" in path:
            return self._message_batch(name)
        return self._batch(name, "completed" if self.looks[name] > 1 else "in_progress")

    def _add(self, requests: list[tuple[str, dict[str, Any]]]) -> str:
        self.handed_in += 1
        name = f"batch_{self.handed_in}"
        self.batches[name] = requests
        return name

    def _judged(self, name: str) -> list[tuple[str, int, dict[str, Any]]]:
        number = int(name.rpartition("_")[2])
        return [
            (one, *self.judge(one, body, number))
            for one, body in self.batches[name]
            if self.judge(one, body, number)[0]
        ]

    def _batch(self, name: str, status: str) -> dict[str, Any]:
        batch = {
            "id": name,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "status": status,
            "created_at": 1,
            "input_file_id": "f",
            "completion_window": "24h",
            "output_file_id": None,
            "error_file_id": None,
        }
        if status == "completed":
            lines: dict[bool, list[str]] = {True: [], False: []}
            for one, code, body in self._judged(name):
                response = {"status_code": code, "body": body}
                lines[code == 200].append(json.dumps({"custom_id": one, "response": response, "error": None}))
            for good, key in ((True, "output_file_id"), (False, "error_file_id")):
                if lines[good]:
                    batch[key] = f"{name}-{good}"
                    self.files[f"{name}-{good}"] = "\n".join(lines[good]).encode()
        return batch

    def _message_batch(self, name: str) -> dict[str, Any]:
        ended = self.looks.get(name, 0) > 1
        counts = dict.fromkeys(("canceled", "errored", "expired", "processing", "succeeded"), 0)
        moments = dict.fromkeys(("archived_at", "cancel_initiated_at", "ended_at"))
        return {
            "id": name,
            "type": "message_batch",
            "processing_status": "ended" if ended else "in_progress",
            "request_counts": counts,
            **moments,
            "created_at": "2026-01-01T00:00:00Z",
            "expires_at": "2026-01-02T00:00:00Z",
            "results_url": f"{self.url}/v1/messages/batches/{name}/results",
        }

    def _results(self, name: str) -> bytes:
        lines = []
        for one, code, body in self._judged(name):
            good = {"type": "succeeded", "message": body}
            lines.append(
                json.dumps({"custom_id": one, "result": good if code == 200 else {"type": "errored", "error": body}})
            )
        return "\n".join(lines).encode()


def openai_judge(_: str, body: dict[str, Any], number: int) -> tuple[int, dict[str, Any]]:
    """Answer; refuse ``bad`` for good, ``busy`` once, and never come to ``late`` in the first batch."""
    text = body["messages"][-1]["content"]
    if text == "bad":
        return 400, {"error": {"message": "no", "type": "invalid_request_error", "code": "content_filter"}}
    if text == "busy" and number == 1:
        return 500, {"error": {"message": "oops", "type": "server_error"}}
    if text == "late" and number == 1:
        return 0, {}
    said = json.dumps({"teeth": 7}) if "response_format" in body else text.upper()
    return 200, openai_answer({"role": "assistant", "content": said}, finish="stop")


def anthropic_judge(_: str, body: dict[str, Any], number: int) -> tuple[int, dict[str, Any]]:
    """The same in Anthropic's words."""
    text = body["messages"][-1]["content"]
    text = text if isinstance(text, str) else text[0]["text"]
    if text == "bad":
        return 400, {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}
    if text in ("busy", "late") and number == 1:
        return 529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    return 200, anthropic_answer() | {"content": [{"type": "text", "text": text.upper()}]}


@pytest.fixture(params=["openai", "anthropic"])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, BatchServer]]:
    """Give a provider and its server."""
    with BatchServer(openai_judge if request.param == "openai" else anthropic_judge) as running:
        yield request.param, running


def run(
    provider: str, server: BatchServer, requests: Any, *, stop_after: int = -1, **settings: Any
) -> tuple[Any, list[Any]]:
    """Hand requests in; return the job and its results in order."""
    openai_like = provider == "openai"
    profile = {
        "provider": provider,
        "model": "gpt-4o-mini" if openai_like else "claude-sonnet-4-5",
        "api_key": "sk-test",
        "base_url": f"{server.url}/v1" if openai_like else server.url,
        "prices": {"input": 1.0, "output": 2.0},
    }

    async def main() -> tuple[Any, list[Any]]:
        async with LLMClientFactory(LLMConfig.from_dict({"providers": {"chat": profile}})) as factory:
            job = factory.batch(requests, poll_s=0.001, **settings)
            results = []
            async for result in job:
                results.append(result)
                if len(results) == stop_after:
                    break
            return job, sorted(results, key=lambda result: result.place)

    return asyncio.run(main())


def asked(*texts: str) -> list[list[Message]]:
    """Make a conversation of each text."""
    return [[Message.user(text)] for text in texts]


def test_requests_are_handed_in_and_answered(server: tuple[str, BatchServer]) -> None:
    """Each request has its answer; what failed by no fault of its own is handed in once more; prices are halved."""
    provider, running = server
    job, results = run(provider, running, asked("one", "bad", "busy", "two", "late"))
    assert [result.value.text if result.value else None for result in results] == ["ONE", None, "BUSY", "TWO", "LATE"]
    assert [result.tries for result in results] == [1, 1, 2, 1, 2]
    assert results[1].error.reason in {ErrorReason.CONTENT_FILTER, ErrorReason.INVALID_REQUEST}
    assert running.handed_in == 2
    assert job.spent.cost_usd == pytest.approx(job.live_cost_usd / 2)
    assert {row["outcome"]: row["items"] for row in job.summary()}["succeeded"] == 4


def test_after_a_crash_the_same_batches_are_waited_for(server: tuple[str, BatchServer], tmp_path: Path) -> None:
    """The file remembers them by name: nothing is handed in twice, and nothing is lost."""
    provider, running = server
    path = tmp_path / "batches.jsonl"
    run(provider, running, asked("one", "two", "busy"), stop_after=1, journal=path)
    assert running.handed_in == 1
    _, results = run(provider, running, asked("one", "two", "busy"), journal=path)
    assert [result.value.text for result in results] == ["ONE", "TWO", "BUSY"]
    assert running.handed_in == 2
    _, again = run(provider, running, asked("one", "two", "busy"), journal=path)
    assert [result.value.text for result in again] == ["ONE", "TWO", "BUSY"]
    assert running.handed_in == 2
    with pytest.raises(JournalError, match="the journal of other requests"):
        run(provider, running, asked("three"), journal=path)


def test_batches_keep_to_the_limits(server: tuple[str, BatchServer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests beyond a batch's count or bytes go into the next."""
    provider, running = server
    for api in (BatchApi, AnthropicBatchApi):
        monkeypatch.setattr(api, "most", 2)
    _, results = run(provider, running, asked("a", "b", "c", "d", "e"))
    assert [result.value.text for result in results] == ["A", "B", "C", "D", "E"]
    assert sorted(map(len, running.batches.values())) == [1, 2, 2]
    for api in (BatchApi, AnthropicBatchApi):
        monkeypatch.setattr(api, "most_bytes", 1)
    run(provider, running, asked("a", "b"))
    assert sorted(map(len, running.batches.values())) == [1, 1, 1, 2, 2]


class Part(BaseModel):
    """What an answer is read as."""

    teeth: int


def test_arguments_go_along_and_failures_may_go_live() -> None:
    """A request may name what ``complete`` takes; with ``live`` the second try is a call."""
    with BatchServer(openai_judge) as running:
        requests = [{"messages": [Message.user("x")], "response_format": Part, "max_tokens": 9}, *asked("busy")]
        _, results = run("openai", running, requests, live=True)
        assert results[0].value.parsed == Part(teeth=7)
        assert (results[1].value.text, running.live, running.handed_in) == ("live", 1, 1)
        body = running.batches["batch_1"][0][1]
        assert 9 in (body.get("max_tokens"), body.get("max_completion_tokens"))
        assert "timeout" not in body
        with pytest.raises(InvalidRequestError, match="extra_headers cannot go into a batch"):
            run("openai", running, [{"messages": [Message.user("x")], "extra_headers": {"a": "b"}}])


def test_a_provider_without_batches_says_so() -> None:
    """Bedrock's batches are files in a bucket of yours, which is another thing."""

    async def main() -> None:
        profile = {"provider": "bedrock", "model": "amazon.nova-2-lite-v1:0", "region": "us-east-1"}
        async with LLMClientFactory(LLMConfig.from_dict({"providers": {"chat": profile}})) as factory:
            await anext(factory.batch(asked("one")))

    with pytest.raises(ConfigurationError, match=r"bedrock has no batch API here: use factory\.map"):
        asyncio.run(main())
