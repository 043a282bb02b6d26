"""A scripted HTTP server on the loopback: answers from a queue, remembers what was asked. For tests of the real SDKs.

    with Loopback(Reply({"id": "…"}), Reply({"error": {…}}, status=429)) as server:
        client = OpenAIClient("gpt-4o-mini", api_key="k", base_url=f"{server.url}/v1")

One reply per request, in order; the last one repeats. ``Hang`` says nothing, ``Drop`` closes without an answer; a
function makes the reply from the request.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self

from simulators.server import event_stream


def free_port() -> int:
    """Return a port of the loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Reply:
    """One answer: a mapping is sent as JSON, bytes as they are."""

    body: Mapping[str, Any] | list[Any] | bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


@dataclass(frozen=True)
class Events:
    """A stream of server-sent events: strings as they are, mappings as JSON, named by their ``type`` if they have one.

    ``cut`` closes the connection after the last event without ending the stream; ``hold`` keeps it open until the
    client leaves.
    """

    content_type: ClassVar[str] = "text/event-stream"

    events: Iterable[Mapping[str, Any] | str]
    cut: bool = False
    hold: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def encode(event: Mapping[str, Any] | str) -> bytes:
        """Write one event as it goes over the wire."""
        data = event if isinstance(event, str) else json.dumps(event)
        named = f"event: {event['type']}\n" if isinstance(event, Mapping) and "type" in event else ""
        return f"{named}data: {data}\n\n".encode()


@dataclass(frozen=True)
class Frames(Events):
    """A stream in AWS's binary frames: mappings of one name to its payload."""

    content_type = event_stream.CONTENT_TYPE
    encode = staticmethod(event_stream.frame)


@dataclass(frozen=True)
class Hang:
    """No answer at all until the server stops."""


@dataclass(frozen=True)
class Drop:
    """The connection closed without an answer."""


@dataclass(frozen=True)
class Asked:
    """One request as it came over the wire."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


Scripted = Reply | Events | Hang | Drop | Callable[[Asked], Reply | Events]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # more come at once than the default of 5


class Loopback:
    """The server: a context manager with a ``url``, the list ``asked`` and the event ``client_left``."""

    def __init__(self, *script: Scripted) -> None:
        self.script = list(script)
        self.asked: list[Asked] = []
        self.client_left = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()

    def _next(self, asked: Asked) -> Reply | Events | Hang | Drop:
        with self._lock:
            self.asked.append(asked)
            reply = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return reply(asked) if callable(reply) else reply

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        loopback = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                reply = loopback._next(Asked(self.command, self.path, headers, json.loads(body) if body else None))
                if isinstance(reply, Reply):
                    self._answer(reply)
                elif isinstance(reply, Events):
                    self._stream(reply)
                else:
                    if isinstance(reply, Hang):
                        loopback._stopping.wait()
                    self.close_connection = True

            def _answer(self, reply: Reply) -> None:
                body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                self.send_response(reply.status)
                self.send_header("content-type", reply.content_type)
                self.send_header("content-length", str(len(body)))
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def _stream(self, reply: Events) -> None:
                self.send_response(200)
                self.send_header("content-type", reply.content_type)
                self.send_header("transfer-encoding", "chunked")
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    self._send_events(reply)
                except ConnectionError:
                    loopback.client_left.set()
                self.close_connection = reply.cut or reply.hold

            def _send_events(self, reply: Events) -> None:
                for event in reply.events:
                    piece = reply.encode(event)
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                if reply.hold:
                    self.connection.recv(1)  # nothing more is asked: this returns when the client leaves
                    loopback.client_left.set()
                elif not reply.cut:
                    self.wfile.write(b"0\r\n\r\n")

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        return Handler
