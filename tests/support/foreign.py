"""Servers that nobody here wrote, each with a quota of its own, asked in real time by the real SDK.

mocklimit and LLMock come from the package index, nginx from Debian; their commands are looked for beside Python and on
the PATH. Each runs on the loopback while a block lasts.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factflow_llm.recorder import Recorder
from simulators.providers.catalogue import Provider
from simulators.providers.latency import LatencyModel
from simulators.providers.quotas import Bucket, FixedWindow, Quota, SlidingWindow
from simulators.server.serving import running_server
from simulators.traces import Recording, read_recording, synthesize
from tests.support.loopback import free_port
from tests.support.recordings import MAX_TOKENS
from tests.support.recordings_over_http import ask_over_http

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_STARTS_WITHIN_S = 30.0


@dataclass(frozen=True)
class Foreign:
    """A server, and the quota that its documentation says it has.

    Attributes:
        name: of the server and its quota.
        quota: by its documentation.
        per_s: calls that are asked of it per second.
        command: that runs it.
        start: runs it; yields its address.
    """

    name: str
    quota: Quota
    per_s: float
    command: str
    start: Callable[[], Any]

    @property
    def is_there(self) -> bool:
        """Whether it is installed."""
        return bool(_found(self.command))


class Steady:
    """A load that stays as it is; see ``recordings_over_http.Load`` for one that seeks the quota."""

    def __init__(self, recorder: Recorder, per_s: float, until_s: float) -> None:
        self.per_s = per_s
        self._until_s = until_s
        self.record = recorder.record

    def goes_on(self, now: float, begun: int, over: int) -> bool:
        """Return whether to go on."""
        return now < self._until_s


def record_foreign(server: Foreign, duration_s: float, folder: Path) -> Recording:
    """Return what our recorder saw of a foreign server, without a limiter before it."""
    trace = synthesize(1.0, duration_s * server.per_s * 1.5, cv=1.0, max_tokens=MAX_TOKENS, seed=5)
    path = folder / f"{server.name}.jsonl"
    with server.start() as url, Recorder(path) as recorder:
        asyncio.run(ask_over_http(url, trace, Steady(recorder, server.per_s, duration_s), None))
    return read_recording(path)


@contextmanager
def _running(command: list[str], port: int, **more: Any) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)
    try:
        until = time.monotonic() + _STARTS_WITHIN_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
                break
            except OSError:
                assert time.monotonic() < until, f"{command[0]} does not listen on {port}"
                with suppress(subprocess.TimeoutExpired):
                    raise AssertionError(f"{command[0]} ended with {process.wait(0.05)}") from None
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _mocklimit(strategy: str, limit: dict[str, float]) -> Iterator[str]:
    cost = {"input": {"strategy": "fixed", "value": 1}, "output": {"strategy": "fixed", "value": 0}}
    policy = {
        "strategy": strategy,
        "limits": [{"dimension": "requests", **limit}],
        "scope": "api_key",
        "format": {"reset": "go_duration", "retry_after": {"header": "retry-after-ms", "unit": "milliseconds"}},
        "error_template": {"provider": "openai"},
    }
    endpoint = {
        "methods": ["POST"], "policy": "chat", "resources": {"requests": cost}, "timing": {"base_ms": [100, 300]},
    }  # fmt: skip
    config = {"policies": {"chat": policy}, "endpoints": {"/chat/completions": endpoint}}
    with tempfile.TemporaryDirectory() as folder:
        spec, limits = Path(folder) / "spec.yaml", Path(folder) / "limits.yaml"
        spec.write_text(json.dumps(_chat_api()))
        limits.write_text(json.dumps(config))
        port = free_port()
        command = [_found("mocklimit"), "serve", "--spec", str(spec), "--rate-config", str(limits)]
        with _running([*command, "--port", str(port)], port):
            yield f"http://127.0.0.1:{port}/v1"


def _chat_api() -> dict[str, Any]:
    """Return the least of OpenAI's API by which a server can make up answers."""

    def holding(**properties: Any) -> dict[str, Any]:
        return {"type": "object", "properties": properties}

    text, number = {"type": "string"}, {"type": "integer"}
    choice = holding(
        index=number, finish_reason={"type": "string", "enum": ["stop"]},
        message=holding(role={"type": "string", "enum": ["assistant"]}, content=text),
    )  # fmt: skip
    answer = holding(
        id=text, object={"type": "string", "enum": ["chat.completion"]}, created=number, model=text,
        choices={"type": "array", "items": choice},
        usage=holding(prompt_tokens=number, completion_tokens=number, total_tokens=number),
    )  # fmt: skip
    answers = {"200": {"description": "an answer", "content": {"application/json": {"schema": answer}}}}
    return {
        "openapi": "3.0.0", "info": {"title": "chat", "version": "1"}, "servers": [{"url": "http://127.0.0.1/v1"}],
        "paths": {"/chat/completions": {"post": {"responses": answers}}},
    }  # fmt: skip


@contextmanager
def _nginx(per_minute: int, burst: int) -> Iterator[str]:
    """Run nginx before a server of ours that never refuses, so that there are answers."""
    behind = Provider(
        name="behind", quotas=(), latency=LatencyModel(first_token_s=0.2, first_token_sigma=0.3, per_token_s=0.001)
    )
    port = free_port()
    with running_server(behind) as server, tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "nginx.conf"
        config.write_text(
            f"""
daemon off; master_process off; pid {folder}/pid; error_log /dev/null; user root;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  limit_req_zone $binary_remote_addr zone=all:1m rate={per_minute}r/m;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      limit_req zone=all burst={burst} nodelay; limit_req_status 429;
      proxy_pass {server.url}; proxy_http_version 1.1; proxy_set_header Connection "";
    }}
  }}
}}
"""
        )
        with _running([_found("nginx"), "-c", str(config), "-p", folder], port):
            yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def _llmock(per_minute: int) -> Iterator[str]:
    port = free_port()
    command = [_found("llmock"), "serve", "--port", str(port), "--rpm", str(per_minute)]
    with _running(command, port):
        yield f"http://127.0.0.1:{port}/v1"


def _found(command: str) -> str:
    """Return where a command is; empty if nowhere."""
    beside_python = os.path.dirname(sys.executable)  # noqa: PTH120
    return shutil.which(command, path=os.pathsep.join([beside_python, os.environ["PATH"], "/usr/sbin"])) or ""


SERVERS = [
    Foreign(
        "mocklimit, sliding", SlidingWindow(limit=480, enforced_over_s=5), 9.0, "mocklimit",
        lambda: _mocklimit("sliding_window", {"limit": 40, "window_seconds": 5}),
    ),
    Foreign(
        "mocklimit, fixed", FixedWindow(limit=480, enforced_over_s=5), 9.0, "mocklimit",
        lambda: _mocklimit("fixed_window", {"limit": 40, "window_seconds": 5}),
    ),
    Foreign(
        "mocklimit, bucket", Bucket(limit=480, burst_s=2.5), 9.0, "mocklimit",
        lambda: _mocklimit("token_bucket", {"capacity": 20, "refill_rate": 8}),
    ),
    Foreign("nginx", Bucket(limit=480, burst_s=21 / 8), 9.0, "nginx", lambda: _nginx(480, 20)),
    Foreign("LLMock", Bucket(limit=150), 11.0, "llmock", lambda: _llmock(150)),
]  # fmt: skip
