"""A simulated provider over HTTP, for the real SDKs and for people: the same machine that decides in process.

    with running_server("openai-tier-1") as server:
        client = AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any")

Its time is the clock's since it started, times ``speed``. Every request is noted; ``server.conduct`` judges the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from factflow_llm.errors import ConfigurationError
from simulators.server.app import application
from simulators.server.simulated import FaultKind, ScriptedFault, SimulatedServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

    from starlette.types import ASGIApp, Receive, Scope, Send

    from simulators.providers.catalogue import Provider

HEADER_TIME_S = 20.0

__all__ = ["FaultKind", "ScriptedFault", "SimulatedServer", "running_server", "serve"]


@contextlib.contextmanager
def running_server(
    provider: Provider | str | Path, *, port: int = 0, tls: tuple[Path, Path] | None = None, **options: Any
) -> Iterator[SimulatedServer]:
    """Run a server on the loopback, in a thread of its own, for as long as the block lasts.

    Args:
        provider: it, or the name of a preset.
        port: where to listen; 0 finds a free one.
        tls: certificate and key files, for https.
        options: as of ``SimulatedServer``.

    Raises:
        ConfigurationError: the port is taken, or the provider has no HTTP face.
    """
    server = SimulatedServer(provider, **options)
    with _listening("127.0.0.1", port) as listener:
        runner = _runner(server, listener, tls)
        thread = threading.Thread(
            target=runner.run, args=([listener],), name=f"simulated {server.provider.name}", daemon=True
        )
        thread.start()
        try:
            yield server
        finally:
            runner.should_exit = runner.force_exit = True
            thread.join()


def serve(
    provider: Provider | str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    tls: tuple[Path, Path] | None = None,
    **options: Any,
) -> SimulatedServer:
    """Run a server until it is interrupted, and return it with its account of the client.

    The first line of its log tells where it is, also when ``port`` is 0 and any free one was taken.

    Raises:
        ConfigurationError: the port is taken, or the provider has no HTTP face.
    """
    server = SimulatedServer(provider, **options)
    with _listening(host, port) as listener, contextlib.suppress(KeyboardInterrupt):
        runner = _runner(server, listener, tls)
        server.tell(f"Serving {server.provider.name} at {server.url} until Ctrl-C")
        runner.run([listener])
    return server


def _listening(host: str, port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        msg = f"cannot listen on {host}:{port} ({error}); choose another port, or 0 for any free one"
        raise ConfigurationError(msg) from None
    listener.listen(1024)
    return listener


def _runner(server: SimulatedServer, listener: socket.socket, tls: tuple[Path, Path] | None) -> uvicorn.Server:
    host, port = listener.getsockname()[:2]
    server.url = f"{'https' if tls else 'http'}://{host}:{port}"
    certificate, key = tls or (None, None)
    config = uvicorn.Config(
        _with_transport(application(server)),
        http=_Patient,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        date_header=False,
        server_header=False,
        timeout_keep_alive=60,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    return _Runner(config)


class _Patient(H11Protocol):
    """A connection whose headers have to arrive in time: who trickles them holds no place for ever."""

    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Begin to count when headers are awaited, and stop once they are there."""
        if self.conn.their_state is not h11.IDLE:
            self._forget()
        elif self._limit is None:
            self._limit = self.loop.call_later(HEADER_TIME_S, self.transport.abort)

    def _forget(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None


class _Runner(uvicorn.Server):
    """A server that ends at the first Ctrl-C, whatever answers are still awaited."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drop the connections first: from Python 3.12 on, a server is not closed before the last of them is."""
        if self.force_exit:
            for connection in list(self.server_state.connections):
                connection.transport.abort()
        await super().shutdown(sockets)


def _with_transport(app: ASGIApp) -> ASGIApp:
    """Hand uvicorn's transport down: ASGI has no word for closing a connection without an answer."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        transport = scope["transport"] = cast("Any", send).__self__.transport
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:  # the server ends before the answer does
            transport.abort()
            await asyncio.sleep(0)  # lets uvicorn see that nobody is there to be answered

    return wrapped
