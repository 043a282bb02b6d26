"""The other end of the clients' benchmark: a process that answers every chat with the same words, at little cost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNKS = 100
_WORDS = [f" word{number}" for number in range(CHUNKS)]  # all different: litellm takes repetition for a model gone mad
_TEXT = "".join(_WORDS)
_OPENAI_USAGE = {"prompt_tokens": 190, "completion_tokens": CHUNKS, "total_tokens": 190 + CHUNKS}
_ANTHROPIC_USAGE = {"input_tokens": 190, "output_tokens": CHUNKS}
_HEADERS = {
    "openai": {
        "openai-organization": "org-x",
        "openai-processing-ms": "788",
        "openai-version": "2020-10-01",
        "x-ratelimit-limit-requests": "600000",
        "x-ratelimit-limit-tokens": "900000000",
        "x-ratelimit-remaining-requests": "599999",
        "x-ratelimit-remaining-tokens": "899999603",
        "x-ratelimit-reset-requests": "0s",
        "x-ratelimit-reset-tokens": "0s",
        "x-request-id": "req_9651a3691a144dd388e97066ad67a49c",
    },
    "anthropic": {
        "anthropic-organization-id": "org-x",
        "anthropic-ratelimit-requests-limit": "600000",
        "anthropic-ratelimit-requests-remaining": "599999",
        "anthropic-ratelimit-requests-reset": "2026-11-22T12:00:00Z",
        "anthropic-ratelimit-input-tokens-limit": "900000000",
        "anthropic-ratelimit-input-tokens-remaining": "899999603",
        "anthropic-ratelimit-input-tokens-reset": "2026-11-22T12:00:00Z",
        "date": "Sun, 22 Nov 2026 12:00:00 GMT",
        "request-id": "req_011CSHoEeqs5C35K2UUqR7Fy",
    },
}


def _openai_chunk(choices: list[dict[str, Any]], usage: Any = None) -> str:
    shared = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini-2024-07-18"}
    return f"data: {json.dumps({**shared, 'choices': choices, 'usage': usage})}\n\n"


def _openai_events() -> list[str]:
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, *({"content": word} for word in _WORDS)]
    chunks = [_openai_chunk([{"index": 0, "delta": delta, "finish_reason": None}]) for delta in deltas]
    end = _openai_chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    return [*chunks, end, _openai_chunk([], _OPENAI_USAGE), "data: [DONE]\n\n"]


def _anthropic_event(kind: str, **fields: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n"


def _anthropic_message(**changed: Any) -> dict[str, Any]:
    shared = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-4-5-20251001"}
    return {**shared, "content": [], "stop_reason": None, "stop_sequence": None, "usage": _ANTHROPIC_USAGE} | changed


def _anthropic_events() -> list[str]:
    deltas = [{"type": "text_delta", "text": word} for word in _WORDS]
    return [
        _anthropic_event("message_start", message=_anthropic_message()),
        _anthropic_event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *(_anthropic_event("content_block_delta", index=0, delta=delta) for delta in deltas),
        _anthropic_event("content_block_stop", index=0),
        _anthropic_event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": CHUNKS}),
        _anthropic_event("message_stop"),
    ]


def _openai_answer() -> dict[str, Any]:
    message = {"role": "assistant", "content": _TEXT, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    shared = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini-2024-07-18"}
    return {**shared, "choices": [choice], "usage": _OPENAI_USAGE}


def _whole(provider: str, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    return _head(provider, "application/json", f"content-length: {len(content)}") + content


def _streamed(provider: str, events: list[str]) -> bytes:
    pieces = [b"%x\r\n%s\r\n" % (len(event), event.encode()) for event in events]
    return _head(provider, "text/event-stream", "transfer-encoding: chunked") + b"".join([*pieces, b"0\r\n\r\n"])


def _head(provider: str, kind: str, framing: str) -> bytes:
    lines = [f"{name}: {value}" for name, value in _HEADERS[provider].items()]
    return "\r\n".join(["HTTP/1.1 200 OK", f"content-type: {kind}", framing, *lines, "", ""]).encode()


class _Canned(asyncio.Protocol):
    """One connection: reads whole requests, writes whole answers."""

    answers: ClassVar = {
        ("openai", False): _whole("openai", _openai_answer()),
        ("openai", True): _streamed("openai", _openai_events()),
        ("anthropic", False): _whole(
            "anthropic", _anthropic_message(content=[{"type": "text", "text": _TEXT}], stop_reason="end_turn")
        ),
        ("anthropic", True): _streamed("anthropic", _anthropic_events()),
    }

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._read = b""

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, found, rest = self._read.partition(b"\r\n\r\n")
        if not found:
            return
        lower = head.lower()
        length = int(lower.split(b"content-length:")[1].split(b"\r\n")[0])
        if len(rest) < length:
            return
        self._read = rest[length:]
        provider = "anthropic" if b"/messages" in lower.split(b"\r\n")[0] else "openai"
        streamed = bool(json.loads(rest[:length]).get("stream"))
        assert isinstance(self._transport, asyncio.WriteTransport)
        self._transport.write(self.answers[provider, streamed])


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Canned, "127.0.0.1", 0, backlog=256)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)  # until the benchmark has ended


@contextlib.contextmanager
def running() -> Iterator[str]:
    """Run the server in a process of its own; give its address."""
    command = [sys.executable, "-m", "reports.benchmarks.clients_server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()


if __name__ == "__main__":
    asyncio.run(_serve())
