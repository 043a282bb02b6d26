"""The proxy: programs that know nothing of it are paced, streams go through, no key leaves that should not."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest
import uvicorn

from factflow_llm import LLMConfig, RateLimitConfig, RetryConfig
from factflow_llm.proxy.app import Proxy
from simulators.server.serving import running_server
from tests.support.faces import anthropic_answer, openai_answer, openai_chunk
from tests.support.loopback import Asked, Events, Loopback, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "sk-of-the-profile-0123456789"
FAST = {"retry": {"max_attempts": 3, "backoff_base_s": 0.001, "backoff_cap_s": 0.001}}
ANSWER = Reply(openai_answer({"role": "assistant", "content": "Hi"}, finish="stop"), headers={"set-cookie": "a=b"})


@contextmanager
def proxy(config: LLMConfig, **keys: Any) -> Iterator[str]:
    """Run a proxy in a thread; give its address."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    options = uvicorn.Config(Proxy(config, **keys).app(), log_config=None, access_log=False)
    runner = uvicorn.Server(options)
    thread = threading.Thread(target=runner.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        runner.should_exit = True
        thread.join()


def config(url: str, **keys: Any) -> LLMConfig:
    """Make profiles of two providers that talk to one server."""
    both = {"api_key": KEY, "rate_limit": FAST, **keys}
    return LLMConfig.from_dict(
        {
            "providers": {
                "chat": {"provider": "openai", "model": "gpt-4o-mini", "base_url": f"{url}/v1", **both},
                "embed": {
                    "provider": "openai",
                    "model": "text-embedding-3-small",
                    "type": "embedding",
                    "base_url": f"{url}/v1",
                    **both,
                },
                "claude": {"provider": "anthropic", "model": "claude-sonnet-5", "base_url": url, **both},
            }
        }
    )


def post(url: str, body: Any, **headers: str) -> tuple[int, Any]:
    """Send what curl would; return status and body."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    asked = urllib.request.Request(url, data, {"content-type": "application/json", **headers})
    try:
        with urllib.request.urlopen(asked) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_sdks_speak_through_it() -> None:
    """OpenAI's and Anthropic's own clients need nothing but the address; streams come in pieces."""
    pieces = [openai_chunk({"content": "H"}), openai_chunk({"content": "i"}), openai_chunk({}, "stop"), "[DONE]"]
    with Loopback(ANSWER, Events(pieces), Reply(anthropic_answer())) as server, proxy(config(server.url)) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="anything", max_retries=0)
        hello: Any = [{"role": "user", "content": "hello"}]
        assert client.chat.completions.create(model="gpt-4o-mini", messages=hello).choices[0].message.content == "Hi"
        stream = client.chat.completions.create(model="chat", messages=hello, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "Hi"
        claude = anthropic.Anthropic(base_url=url, api_key="anything", max_retries=0)
        assert claude.messages.create(model="claude-sonnet-5", max_tokens=9, messages=hello).content
        assert [asked.path for asked in server.asked] == ["/v1/chat/completions"] * 2 + ["/v1/messages"]
        assert server.asked[1].body["model"] == "gpt-4o-mini"


@pytest.mark.parametrize(
    ("base", "keys", "asked", "goes_to"),
    [
        ("", {"deployment": "mine"}, "/v1/chat/completions", "/openai/v1/chat/completions"),
        ("/openai/v1", {"deployment": "mine"}, "/v1/responses", "/openai/v1/responses"),
        (
            "",
            {"deployment": "my own", "api_version": "2024-10-21"},
            "/v1/chat/completions",
            "/openai/deployments/my%20own/chat/completions?api-version=2024-10-21",
        ),
        (
            "/openai/deployments/mine/chat/completions?api-version=2025-04-01-preview",
            {},
            "/v1/responses",
            "/openai/responses?api-version=2025-04-01-preview",
        ),
    ],
)
def test_azure_is_addressed_as_its_portal_shows_it(base: str, keys: dict[str, str], asked: str, goes_to: str) -> None:
    """By v1, or by a deployment and its dated version; the deployment stands for the model wherever one is named."""
    with Loopback(ANSWER) as server:
        azure = {"provider": "azure", "model": "gpt-4o-mini", "base_url": server.url + base, "api_key": KEY, **keys}
        with proxy(LLMConfig.from_dict({"providers": {"chat": azure}})) as url:
            status, _ = post(f"{url}{asked}", {"model": "gpt-4o-mini", "messages": [], "input": "hello"})
        (sent,) = server.asked
        assert (status, sent.path) == (200, goes_to)
        assert sent.body["model"] == keys.get("deployment", "mine")
        assert sent.headers["api-key"] == KEY


def test_no_header_goes_along_that_should_not() -> None:
    """The program's key, cookies and names stay here, and so do the provider's cookies; the profile's key goes."""
    with Loopback(ANSWER) as server, proxy(config(server.url)) as url:
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
        secret = {"authorization": "Bearer sk-of-the-program", "cookie": "c=1", "x-forwarded-for": "10.0.0.1"}
        asked = urllib.request.Request(
            f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json", **secret}
        )
        with urllib.request.urlopen(asked) as answer:
            assert "set-cookie" not in answer.headers
        sent = server.asked[0].headers
        assert sent["authorization"] == f"Bearer {KEY}"
        assert not {"cookie", "x-forwarded-for", "x-api-key"} & set(sent)
        assert "sk-of-the-program" not in str(sent)


def test_refusals_are_tried_again_and_the_last_is_handed_on(caplog: pytest.LogCaptureFixture) -> None:
    """A 429 is the limiter's business; what remains is the provider's own answer, and no log shows a key."""
    caplog.set_level(logging.DEBUG)
    limited = Reply({"error": {"message": "slow", "code": "rate_limit_exceeded"}}, 429, {"retry-after": "0"})
    wrong = Reply({"error": {"message": "no such thing", "type": "invalid_request_error"}}, 400, {"x-request-id": "r"})
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
    with Loopback(limited, ANSWER, wrong) as server, proxy(config(server.url)) as url:
        assert post(f"{url}/v1/chat/completions", body)[0] == 200
        assert len(server.asked) == 2
        status, said = post(f"{url}/v1/chat/completions", body)
        assert (status, said["error"]["message"], len(server.asked)) == (400, "no such thing", 3)
    assert KEY not in caplog.text


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "words"),
    [
        ("/v1/chat/completions", {"model": "gpt-9"}, {}, 404, "no profile of this proxy has the model 'gpt-9'"),
        ("/v1/messages", {"model": "gpt-4o-mini"}, {}, 404, "known: claude-sonnet-5"),
        ("/v1/chat/completions", b"{", {}, 400, "no JSON object"),
        ("/v1/chat/completions", {"model": "chat"}, {"origin": "https://evil.example"}, 403, "a page in a browser"),
    ],
)
def test_what_cannot_be_meant_is_said(path: str, body: Any, headers: dict[str, str], status: int, words: str) -> None:
    """An unknown model, no JSON, a browser's page: refused in words, and nothing is sent."""
    with Loopback(ANSWER) as server, proxy(config(server.url)) as url:
        got, said = post(url + path, body, **headers)
        assert (got, server.asked) == (status, [])
        assert words in said["error"]["message"]


def test_status_tells_of_every_profile() -> None:
    """Plain values, and no secret among them."""
    with Loopback(ANSWER) as server, proxy(config(server.url)) as url:
        post(f"{url}/v1/chat/completions", {"model": "chat", "messages": [{"role": "user", "content": "hi"}]})
        with urllib.request.urlopen(f"{url}/status") as answer:
            told = answer.read().decode()
        assert json.loads(told)["chat"]["loops"] == 1
        assert KEY not in told


@pytest.mark.slow
def test_a_crowd_is_paced_as_in_process() -> None:
    """Many callers behind the proxy get all their answers from a provider with a small quota, with few 429s."""

    async def crowd(url: str) -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
            hello: Any = [{"role": "user", "content": "hello"}]
            calls = (client.chat.completions.create(model="chat", messages=hello, max_tokens=5) for _ in range(120))
            return await asyncio.gather(*calls)

    limits = RateLimitConfig(retry=RetryConfig(max_attempts=20))
    with running_server("bucket", speed=60.0) as server, proxy(config(server.url, rate_limit=limits)) as url:
        assert len(asyncio.run(crowd(url))) == 120
        statuses = [asked.status for asked in server.conduct.requests]
    assert statuses.count(200) == 120
    assert statuses.count(429) <= 40


def test_the_command_needs_a_configuration_that_can_be_read(tmp_path: Path) -> None:
    """It says what is wrong and ends with 2."""
    command = [sys.executable, "-c", "from factflow_llm._console import main; main()", "proxy", "--config", "none.toml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=_here())
    assert (done.returncode, "none.toml" in done.stderr) == (2, True)


def _here() -> dict[str, str]:
    return {"PYTHONPATH": str(Path(__file__).parents[1])}


def test_answers_know_their_tokens() -> None:
    """What answers say of their usage, whole or streamed, reaches the recorder in both languages."""
    rows: list[Any] = []

    class Sink:
        def record(self, row: Any, /) -> None:
            rows.append(row)

    def reply(asked: Asked) -> Reply | Events:
        if asked.path == "/v1/messages":
            return Reply(anthropic_answer())
        usage = {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}
        return Events([openai_chunk({"content": "Hi"}), openai_chunk({}, "stop"), openai_chunk(usage=usage), "[DONE]"])

    hello = [{"role": "user", "content": "hello"}]
    with Loopback(reply) as server, proxy(config(server.url), recorder=Sink()) as url:
        post(f"{url}/v1/messages", {"model": "claude", "max_tokens": 5, "messages": hello})
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
        list(client.chat.completions.create(model="chat", messages=hello, stream=True))  # type: ignore[call-overload]
    assert [(row.input_tokens, row.output_tokens, row.outcome) for row in rows] == [(20, 7, "ok"), (5, 6, "ok")]
