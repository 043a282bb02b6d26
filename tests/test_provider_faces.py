"""Providers of today behind loopback HTTP: each refuses in its own headers, bodies and waits, which we read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import openai
import pytest

from factflow_llm.errors import get_error_metadata
from factflow_llm.headers import parse_limits
from factflow_llm.signals import Axis
from simulators.providers.calls import Call
from simulators.providers.catalogue import Provider, provider
from simulators.providers.limit_headers import Api
from simulators.providers.machine import ProviderMachine
from simulators.providers.quotas import Bucket, FixedWindow
from simulators.server.serving import SimulatedServer, running_server
from simulators.streams import Streams

PATHS = {
    Api.GEMINI: "/v1beta/openai",
    Api.GROQ: "/openai/v1",
    Api.OPENROUTER: "/api/v1",
    Api.COHERE: "/compatibility/v1",
}


def client(server: SimulatedServer) -> openai.OpenAI:
    """Return the real SDK, pointed at the server, with its own retries off."""
    path = PATHS.get(server.provider.api, "/v1")
    return openai.OpenAI(base_url=f"{server.url}{path}", api_key="any", max_retries=0)


def ask(server: SimulatedServer) -> Any:
    """Make one small call: a chat, or vectors where there is nothing else."""
    with client(server) as sdk:
        if server.provider.api is Api.VOYAGE:
            return sdk.embeddings.with_raw_response.create(model="voyage-4", input="hi")
        return sdk.chat.completions.with_raw_response.create(
            model="any", messages=[{"role": "user", "content": "hi"}], max_tokens=5
        )


def refusal(spec: Provider, most: int = 60) -> openai.APIStatusError:
    """Call until the provider refuses, and return how it did."""
    with running_server(spec, waits=False, seed=3, clock=lambda: 0.0) as server:
        for _ in range(most):
            try:
                ask(server)
            except openai.APIStatusError as error:
                return error
    raise AssertionError(f"{spec.name} never refused")


@pytest.mark.parametrize(
    "name", ["gemini-free", "groq-free", "mistral-free", "openrouter-free", "cohere-trial", "litellm", "nginx", "vllm"]
)
def test_every_face_answers_the_real_sdk(name: str) -> None:
    """A small call is answered on the path that the provider documents."""
    spec = provider(name).model_copy(update={"faults": ()})
    with running_server(spec, waits=False) as server:
        assert ask(server).parse().choices[0].message.content
    assert [asked.status for asked in server.conduct.requests] == [200]


def test_gemini_tells_quota_and_wait_in_the_body_alone() -> None:
    """A list of one error, whose details name the quota and the wait; not a word in the headers."""
    error = refusal(provider("gemini-free"))
    assert not [name for name in error.response.headers if "retry" in name or "ratelimit" in name]
    (body,) = error.response.json()
    failure, retry = body["error"]["details"]
    assert failure["violations"][0]["quotaId"] == "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
    assert failure["violations"][0]["quotaValue"] == "10"
    wait_s = int(retry["retryDelay"].removesuffix("s"))
    assert 50 <= wait_s <= 60
    metadata = get_error_metadata(error)
    assert metadata.classification == "rate_limited"
    assert metadata.retry_after_s == pytest.approx(wait_s, abs=1.0)


def test_gemini_s_day_ends_at_midnight_in_pacific_time() -> None:
    """The day's quota is full again at midnight of Los Angeles, whatever hour it is where the clock began."""
    spec = Provider(
        name="day", api=Api.GEMINI, quotas=(FixedWindow(limit=2, per_s=86_400, midnight_in="America/Los_Angeles"),)
    )
    noon = datetime(2026, 7, 4, 12, 0, tzinfo=ZoneInfo("America/Los_Angeles")).timestamp()
    machine = ProviderMachine(spec, Streams(0), start_utc_s=noon)
    assert [machine.send(0.0, Call(n, 1)).status for n in range(3)] == [200, 200, 429]
    assert machine.wait_s(0.0, Call(3, 1)) == pytest.approx(12 * 3600)
    assert machine.send(12 * 3600.0 + 1, Call(4, 1)).status == 200


def test_a_shared_pool_refuses_without_a_quota() -> None:
    """Vertex says that the resource is exhausted, and nothing of what, or when."""
    error = refusal(provider("vertex-shared"), most=400)
    (body,) = error.response.json()
    assert body["error"]["status"] == "RESOURCE_EXHAUSTED"
    assert "details" not in body["error"]
    assert get_error_metadata(error).retry_after_s is None


def test_groq_s_headers_show_the_day_of_requests_and_the_minute_of_tokens() -> None:
    """Its documented example to the digit: 14 370 of 14 400 left, full again in 2m59.56s."""
    spec = provider("groq-free").model_copy(
        update={"quotas": (Bucket(limit=14_400, per_s=86_400), Bucket(axis=Axis.TOKENS, limit=18_000))}
    )
    machine = ProviderMachine(spec, Streams(0))
    for number in range(29):
        machine.send(0.0, Call(number, 0, 0, 0))
    verdict = machine.send(0.44, Call(29, 3, 0, 0))
    headers = machine.headers(0.44, verdict)
    assert headers["x-ratelimit-limit-requests"] == "14400"
    assert headers["x-ratelimit-remaining-requests"] == "14370"
    assert headers["x-ratelimit-reset-requests"] == "2m59.56s"
    assert headers["x-ratelimit-remaining-tokens"] == "17997"
    assert parse_limits(headers) == verdict.limits


def test_groq_refuses_a_minute_with_a_wait_in_whole_seconds() -> None:
    """The minute's requests stand in no header; the refusal names them, and Retry-After is whole."""
    error = refusal(provider("groq-free"))
    assert "requests per minute (RPM): Limit 30, Used 30, Requested 1" in error.message
    assert error.response.headers["retry-after"] == "2"
    assert error.response.headers["x-ratelimit-limit-requests"] == "1000"
    assert get_error_metadata(error).classification == "rate_limited"


def test_mistral_has_names_of_its_own_and_says_nothing_about_when() -> None:
    """Limits by the minute without a reset, the cost of a call, and a 429 without Retry-After."""
    with running_server("mistral-free", waits=False) as server:
        answer = ask(server)
        told = answer.headers
        assert (told["x-ratelimit-limit-req-minute"], told["x-ratelimit-limit-tokens-minute"]) == ("60", "500000")
        assert told["x-ratelimit-tokens-query-cost"] == str(answer.parse().usage.total_tokens)
    error = refusal(provider("mistral-free"))
    assert "retry-after" not in error.response.headers
    assert error.response.json()["type"] == "rate_limited"
    limits = parse_limits(dict(error.response.headers))
    assert [(limit.axis, limit.reset_s) for limit in limits] == [(Axis.REQUESTS, None), (Axis.TOKENS, None)]


def test_openrouter_tells_the_reset_in_unix_milliseconds() -> None:
    """Only a refusal has headers, and its body repeats them; a full pool behind is told apart."""
    error = refusal(provider("openrouter-free").model_copy(update={"faults": ()}))
    headers = error.response.headers
    assert (headers["x-ratelimit-limit"], headers["x-ratelimit-remaining"]) == ("20", "0")
    reset = datetime.fromtimestamp(int(headers["x-ratelimit-reset"]) / 1000, UTC)
    assert 0 <= (reset - datetime.now(UTC)).total_seconds() <= 61
    body = error.response.json()["error"]
    assert body["message"].startswith("Rate limit exceeded: free-models-per-min.")
    assert body["metadata"]["headers"]["X-RateLimit-Reset"] == headers["x-ratelimit-reset"]
    assert get_error_metadata(error).classification == "rate_limited"


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("cohere-trial", 429, "Trial key, which is limited to 20 API calls / minute"),
        ("nginx", 429, "<h1>429 Too Many Requests</h1>"),
    ],
)
def test_those_that_say_little(name: str, status: int, words: str) -> None:
    """A sentence, or a page for people: read as a rate limit all the same."""
    error = refusal(provider(name).with_quota(requests_per_minute=20 if name == "cohere-trial" else 60))
    assert error.status_code == status
    assert words in error.response.text
    assert "retry-after" not in error.response.headers
    assert get_error_metadata(error).classification == "rate_limited"


def test_litellm_names_the_key_s_limit() -> None:
    """The gateway writes words for null, and a wait in whole seconds."""
    error = refusal(provider("litellm").with_quota(requests_per_minute=5))
    assert error.response.json()["error"]["code"] == "429"
    assert "Limit type: requests. Current limit: 5, Remaining: 0." in error.message
    assert 0 < int(error.response.headers["retry-after"]) <= 60


def test_voyage_has_details() -> None:
    """An embedding call over the limit is refused in Voyage's envelope."""
    error = refusal(provider("voyage-tier-1").with_quota(requests_per_minute=2))
    assert error.response.json() == {"detail": "You have exceeded your rate limits. Please wait and try again later."}


def test_a_full_queue_is_overload() -> None:
    """VLLM's router refuses with 503 what finds no place in the queue."""
    machine = ProviderMachine(provider("vllm"), Streams(0))
    statuses = [machine.send(0.0, Call(n, 100, 200)).status for n in range(65)]
    assert statuses == [200] * 64 + [503]


def test_deepseek_slows_down_instead_of_refusing() -> None:
    """Nothing is refused; with a hundred calls in flight an answer takes twice as long."""
    calm, busy = (ProviderMachine(provider("deepseek"), Streams(0)) for _ in range(2))
    for number in range(1, 100):
        busy.send(0.0, Call(number, 100, 50))
    first, last = calm.send(0.0, Call(0, 100, 50)), busy.send(0.0, Call(0, 100, 50))
    assert last.status == 200
    assert last.duration_s == pytest.approx(2 * first.duration_s, rel=0.05)
