"""The simulated providers' batches, by the real SDKs: states, files, results, and what is wrong with them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest

from simulators.server.serving import running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simulators.server.simulated import SimulatedServer

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def openai_server() -> Iterator[SimulatedServer]:
    """Give a provider whose batches take an hour, which is four seconds here."""
    with running_server("openai-tier-1", speed=900.0, batch_s=3_600.0, api_key="sk-right") as running:
        yield running


def client(server: SimulatedServer, key: str = "sk-right") -> openai.OpenAI:
    """Make OpenAI's own client."""
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


def hand_in(sdk: openai.OpenAI, path: str, *lines: tuple[str, Any]) -> Any:
    """Upload lines and make a batch of them."""
    text = "".join(
        json.dumps({"custom_id": name, "method": "POST", "url": path, "body": body}) + "\n" for name, body in lines
    )
    file = sdk.files.create(file=("lines.jsonl", text.encode()), purpose="batch")
    endpoint: Any = path
    return sdk.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")


def test_a_batch_is_under_way_until_its_time_has_come(openai_server: SimulatedServer) -> None:
    """In progress without results at first; then completed, with a file of answers and one of errors."""
    vectors = {"model": "text-embedding-3-small", "input": ["a", "b"]}
    with client(openai_server) as sdk:
        batch = hand_in(sdk, "/v1/embeddings", ("one", vectors), ("bad", {"input": []}))
        assert (batch.status, batch.output_file_id, batch.request_counts.total) == ("in_progress", None, 2)
        openai_server.batches.made[batch.id].ends_s = 0.0  # its time has come
        batch = sdk.batches.retrieve(batch.id)
        assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("completed", 1, 1)
        (good,) = sdk.files.content(batch.output_file_id).text.splitlines()
        (bad,) = sdk.files.content(batch.error_file_id).text.splitlines()
    assert len(json.loads(good)["response"]["body"]["data"]) == 2
    assert json.loads(bad)["response"]["status_code"] == 400


def test_a_batch_can_be_cancelled(openai_server: SimulatedServer) -> None:
    """What was not answered yet never is."""
    with client(openai_server) as sdk:
        batch = hand_in(sdk, "/v1/chat/completions", ("one", {"model": "gpt-4o-mini", "messages": HELLO}))
        cancelled = sdk.batches.cancel(batch.id)
        assert (cancelled.status, cancelled.output_file_id, cancelled.error_file_id) == ("cancelled", None, None)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([("one", {}), ("one", {})], "The custom_id 'one' is not unique"),
        ([], "The batch is empty"),
    ],
)
def test_a_file_that_is_wrong_fails_the_batch(
    openai_server: SimulatedServer, lines: list[tuple[str, Any]], words: str
) -> None:
    """The batch is made, and has failed; its errors say why."""
    with client(openai_server) as sdk:
        batch = hand_in(sdk, "/v1/chat/completions", *lines)
    assert batch.status == "failed"
    assert words in batch.errors.data[0].message


def test_what_is_not_there_or_not_ours_is_refused(openai_server: SimulatedServer) -> None:
    """Unknown names and paths, wrong keys and a form without a file: the provider's own classes of errors."""
    with client(openai_server) as sdk:
        for ask in (sdk.batches.retrieve, sdk.batches.cancel, sdk.files.content):
            with pytest.raises(openai.NotFoundError):
                ask("nothing")
        with pytest.raises(openai.NotFoundError, match="No such File object"):
            sdk.batches.create(input_file_id="none", endpoint="/v1/chat/completions", completion_window="24h")
        with pytest.raises(openai.BadRequestError, match="Invalid value: '/v1/images'"):
            hand_in(sdk, "/v1/images", ("one", {}))
    with client(openai_server, "sk-wrong") as sdk, pytest.raises(openai.AuthenticationError):
        hand_in(sdk, "/v1/chat/completions", ("one", {}))


def test_anthropics_lists_are_answered_and_cancelled() -> None:
    """Results come once a batch has ended; a cancelled one says so of each request; a wrong list is refused whole."""
    body: Any = {"model": "claude-opus-5", "max_tokens": 9, "messages": HELLO}
    wrong: Any = {"model": "claude-opus-5", "messages": HELLO}
    with running_server("anthropic-tier-1", batch_s=3_600.0) as server:
        sdk = anthropic.Anthropic(base_url=server.url, api_key="any", max_retries=0)
        one, other = (
            sdk.messages.batches.create(
                requests=[{"custom_id": "good", "params": body}, {"custom_id": "bad", "params": wrong}]
            )
            for _ in range(2)
        )
        assert (one.processing_status, one.request_counts.processing, one.results_url) == ("in_progress", 2, None)
        server.batches.made[one.id].ends_s = 0.0
        told = {line.custom_id: line.result.type for line in sdk.messages.batches.results(one.id)}
        assert told == {"good": "succeeded", "bad": "errored"}
        assert sdk.messages.batches.cancel(other.id).request_counts.canceled == 2
        with pytest.raises(anthropic.BadRequestError, match="not unique"):
            sdk.messages.batches.create(requests=[{"custom_id": "x", "params": body}] * 2)
