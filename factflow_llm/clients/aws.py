"""A connection to Bedrock: boto3 is synchronous, so each call has a worker thread, and a stream has it to its end.

boto3 is imported when a connection is made, never before; its retries are off because retrying belongs to the limiter.
A connection is bound to no event loop.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from factflow_llm.clients.addresses import check_headers, check_url
from factflow_llm.clients.checks import check_count, check_positive
from factflow_llm.errors import BadResponseError, ConfigurationError, ErrorReason, ExtraMissingError, get_error_metadata
from factflow_llm.secrecy import enrol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_BEARER_TOKEN_BEDROCK")
_AHEAD = 256  # events a thread reads before the consumer has taken them
_EVENT_STREAM = "application/vnd.amazon.eventstream"
_NO_ANSWER = "Bedrock's answer cannot be read: check endpoint_url"
_UNREADABLE = (AttributeError, TypeError, ValueError, LookupError, RecursionError)  # botocore's parser on odd answers


class BedrockConnection:
    """One boto3 client with its threads.

    Args:
        region: AWS region; by default what the environment or ``~/.aws/config`` says.
        endpoint_url: another address of the service.
        max_concurrency: calls in flight, each on a thread and a connection of its own.
        timeout_s: longest silence of the server and longest wait for a whole answer, per attempt, in seconds.
        connect_timeout_s: longest wait for a connection, in seconds.
        headers: sent with every request.
        proxy: URL of a proxy; by default what the environment says.
        aws_profile: a profile of ``~/.aws/config``.

    Raises:
        ExtraMissingError: boto3 is not installed.
        ConfigurationError: no region, a malformed URL, header or number.
    """

    def __init__(
        self,
        *,
        region: str | None,
        endpoint_url: str | None,
        max_concurrency: int,
        timeout_s: float,
        connect_timeout_s: float,
        headers: Mapping[str, str] | None,
        proxy: str | None,
        aws_profile: str | None,
    ) -> None:
        check_count(max_concurrency, name="max_concurrency")
        enrol(*map(os.environ.get, _SECRETS))
        self._headers = check_headers(headers)
        self._client = _connect(
            region=region,
            aws_profile=aws_profile,
            endpoint_url=endpoint_url and check_url(endpoint_url, name="endpoint_url"),
            max_pool_connections=max_concurrency,
            read_timeout=check_positive(timeout_s, name="timeout_s"),
            connect_timeout=check_positive(connect_timeout_s, name="connect_timeout_s"),
            proxies=None if proxy is None else dict.fromkeys(("http", "https"), check_url(proxy, name="proxy")),
        )
        self._client.meta.events.register("before-sign.bedrock-runtime", self._add_headers)
        self._threads = ThreadPoolExecutor(max_concurrency, thread_name_prefix="bedrock")

    @property
    def address(self) -> str:
        """Where the service is."""
        return str(self._client.meta.endpoint_url)

    @property
    def sdk(self) -> str:
        """The SDK's name and version."""
        import boto3

        return f"boto3 {boto3.__version__}"

    def too_slow(self, words: str) -> Exception:
        """Make the error of an answer that took too long in all."""
        from botocore.exceptions import ReadTimeoutError

        error: Exception = ReadTimeoutError(endpoint_url=self.address)
        error.__cause__ = TimeoutError(words)
        return error

    def cut_stream(self) -> Exception:
        """Make the error of a stream that ended before its stop reason."""
        from botocore.exceptions import ConnectionClosedError

        error: Exception = ConnectionClosedError(endpoint_url=self.address)
        return error

    def accepted(self, operation: str) -> frozenset[str]:
        """Return the names of the arguments an operation takes, whatever boto3's version."""
        return frozenset(self._client.meta.service_model.operation_model(operation).input_shape.members)

    async def call(self, method: str, request: Mapping[str, Any]) -> Any:
        """Call a method of the boto3 client; a streamed body is read to its end.

        A cancelled call gives up waiting at once; its thread ends with the answer or the timeout.

        Raises:
            BadResponseError: botocore cannot parse the answer.
            Exception: botocore's own, unchanged.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._call, method, request)

    def _call(self, method: str, request: Mapping[str, Any]) -> Any:
        try:
            response = getattr(self._client, method)(**request)
        except _UNREADABLE as error:
            raise _unreadable(error) from None
        if "body" in response:
            response["body"] = response["body"].read()
        return response

    async def stream(self, method: str, field: str, request: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        """Yield the whole response of a streaming method first, then each event of its ``field``.

        Leaving early closes the connection at once.

        Raises:
            BadResponseError: what came is no stream of events, or botocore cannot parse it.
            Exception: botocore's own, unchanged; urllib3's in botocore's words.
        """
        events = _Events(asyncio.get_running_loop(), self._client.meta.endpoint_url)
        pumped = self._threads.submit(events.pump, getattr(self._client, method), field, dict(request))
        pumped.add_done_callback(lambda future: events.give_up(self.cut_stream()) if future.cancelled() else None)
        try:
            while True:
                event = await events.next()
                if event is None:
                    return
                yield event
        finally:
            events.leave()

    def close(self) -> None:
        """Let threads and connections go."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _add_headers(self, request: Any, **_: Any) -> None:
        for name, value in self._headers.items():
            request.headers[name] = value


class _Events:
    """A stream on its way from a thread to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, address: str) -> None:
        self._loop = loop
        self._address = address
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self._room = threading.Semaphore(_AHEAD)
        self._left = threading.Event()
        self._stream: Any = None

    async def next(self) -> Any:
        """Return the next event, ``None`` at the end."""
        item = await self._queue.get()
        self._room.release()
        if isinstance(item, Exception):
            raise item
        return item

    def leave(self) -> None:
        """Stop the thread, which may be reading."""
        self._left.set()
        self._room.release()
        _hang_up(self._stream)

    def give_up(self, error: Exception) -> None:
        """End the stream with an error: its client was closed before a thread was free."""
        self._hand_on(error)

    def pump(self, method: Any, field: str, request: dict[str, Any]) -> None:
        """Send the request and hand on what comes, in a thread."""
        try:
            if self._left.is_set():
                return
            response = method(**request)
            self._stream = response[field]
            if self._left.is_set():
                _hang_up(self._stream)
            if not _content_type(response).startswith(_EVENT_STREAM):
                raise BadResponseError(f"{_NO_ANSWER}: {_content_type(response)} came where events were asked for")
            self._hand_on({name: value for name, value in response.items() if name != field})
            for event in self._stream:
                self._hand_on(event)
            self._hand_on(None)
        except Exception as error:
            self._hand_on(self._in_botocores_words(error))
        finally:
            if self._stream is not None:
                self._stream.close()

    def _hand_on(self, item: Any) -> None:
        self._room.acquire()
        if self._left.is_set():
            return
        with suppress(RuntimeError):  # the loop is closed: nobody listens
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    def _in_botocores_words(self, error: Exception) -> Exception:
        from botocore.eventstream import ParserError
        from botocore.exceptions import BotoCoreError, ClientError, ReadTimeoutError, ResponseStreamingError

        if isinstance(error, BotoCoreError | ClientError | BadResponseError):
            return error
        if isinstance(error, (ParserError, *_UNREADABLE)):
            return _unreadable(error)
        reason = get_error_metadata(error).reason
        if reason is ErrorReason.TIMEOUT:
            return ReadTimeoutError(endpoint_url=self._address, error=error)  # type: ignore[no-any-return]
        if reason is ErrorReason.CONNECTION:
            return ResponseStreamingError(error=error)  # type: ignore[no-any-return]
        return error


def _unreadable(error: Exception) -> BadResponseError:
    return BadResponseError(f"{_NO_ANSWER}; boto3 gave up with {type(error).__name__}")


def _content_type(response: Mapping[str, Any]) -> str:
    headers = response["ResponseMetadata"]["HTTPHeaders"]
    return str(headers.get("content-type", "an unnamed type")).split(";")[0]


def _hang_up(stream: Any) -> None:
    """Close a stream's socket: the only way to wake a thread that reads from it."""
    connection = getattr(getattr(stream, "_raw_stream", None), "_connection", None)
    if (wire := getattr(connection, "sock", None)) is not None:
        with suppress(OSError):
            wire.shutdown(socket.SHUT_RDWR)


def _connect(*, region: str | None, aws_profile: str | None, endpoint_url: str | None, **config: Any) -> Any:
    """Make the boto3 client, each on a session of its own because boto3's default session is not thread-safe."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise ExtraMissingError('Bedrock needs boto3: pip install "factflow-llm[bedrock]"') from error
    try:
        session = boto3.Session(profile_name=aws_profile, region_name=region)
        if session.region_name is None:
            raise ConfigurationError("no AWS region: give region, such as 'us-east-1', or set AWS_DEFAULT_REGION")
        return session.client(
            "bedrock-runtime",
            endpoint_url=endpoint_url,
            config=Config(retries={"total_max_attempts": 1, "mode": "standard"}, **config),
        )
    except BotoCoreError as error:
        raise ConfigurationError(f"boto3 refuses these settings: {error}") from error
