"""The proxy's ASGI application: each request waits for its profile's limiter, goes upstream, and streams back.

What is refused upstream is tried again as the profile's settings say; what the program gets in the end is what the
provider said last. A request of a browser's page is refused: it would spend money from any site that is open.
"""

from __future__ import annotations

import json
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import httpx
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from factflow_llm.errors import BadResponseError, FactflowLLMError, InvalidRequestError, get_error_metadata
from factflow_llm.factory import LLMClientFactory
from factflow_llm.providers import ModelType
from factflow_llm.proxy.upstream import ROADS, address, headers_back, headers_to, longest, profile_for, texts
from factflow_llm.types import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from starlette.requests import Request

    from factflow_llm.recorder import AttemptSink
    from factflow_llm.settings import LLMConfig, LLMProviderConfig

_LARGEST_BYTES = 64 * 2**20
_TIMEOUT_S = 600.0
_STATUS = {"quota": 429, "daily_quota": 429, "queue_full": 429, "deadline": 504, "timeout": 504, "closed": 503}


class _UpstreamError(BadResponseError):
    """What the provider said instead of an answer, whole, for the program."""

    def __init__(self, status: int, content: bytes, headers: httpx.Headers) -> None:
        super().__init__("the provider refused", status_code=status, body=_json(content), headers=dict(headers))
        self.content = content


class Proxy:
    """Programs in front, profiles behind.

    Args:
        config: the profiles; those of OpenAI, Azure and Anthropic can be asked for.
        recorder: gets one row per attempt.
    """

    def __init__(self, config: LLMConfig, *, recorder: AttemptSink | None = None) -> None:
        self._config = config
        self._factory = LLMClientFactory(config, recorder=recorder)
        self._http: httpx.AsyncClient | None = None

    def app(self) -> Starlette:
        """Make the ASGI application."""
        routes = [Route(path, self._answer, methods=["POST"]) for path in ROADS]
        return Starlette(routes=[*routes, Route("/status", self._status)], lifespan=self._life)

    @asynccontextmanager
    async def _life(self, _: Starlette) -> AsyncIterator[None]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        async with self._factory, httpx.AsyncClient(timeout=_TIMEOUT_S, limits=limits, trust_env=True) as http:
            self._http = http
            yield

    async def _status(self, request: Request) -> Response:
        if "origin" in request.headers:
            return _problem(403, "a page in a browser may not use this proxy")
        return JSONResponse({name: asdict(status) for name, status in self._factory.status().items()})

    async def _answer(self, request: Request) -> Response:
        if "origin" in request.headers:
            return _problem(403, "a page in a browser may not use this proxy")
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > _LARGEST_BYTES:
                return _problem(413, f"the request is larger than {_LARGEST_BYTES} bytes")
        body = _json(bytes(content))
        if not isinstance(body, dict):
            return _problem(400, "the request's body is no JSON object")
        try:
            name, profile = profile_for(self._config, ROADS[request.url.path], body.get("model"))
            return await self._forward(request, name, profile, body, bytes(content))
        except _UpstreamError as error:
            return Response(error.content, error.status_code, headers_back(error.headers))
        except InvalidRequestError as error:
            return _problem(404, str(error), "model_not_found")
        except FactflowLLMError as error:
            return _problem(_STATUS.get(error.reason.value, 500), str(error), error.reason.value)
        except httpx.HTTPError as error:
            reason = get_error_metadata(error).reason.value
            return _problem(
                _STATUS.get(reason, 502), f"the provider could not be reached: {type(error).__name__}", reason
            )

    async def _forward(
        self, request: Request, name: str, profile: LLMProviderConfig, body: dict[str, Any], content: bytes
    ) -> Response:
        """Send a request until there is an answer; hand on its first bytes as soon as they are there."""
        if body.get("model") != (model := profile.deployment or profile.model):
            content = json.dumps({**body, "model": model}).encode()
        answer = self._chunks(request, name, profile, body, content)
        status, headers = await anext(answer)
        if not headers.get("content-type", "").startswith("text/event-stream"):
            async with aclosing(answer):
                return Response(b"".join([part async for part in answer]), status, headers)
        return StreamingResponse(answer, status, headers)

    async def _chunks(
        self, request: Request, name: str, profile: LLMProviderConfig, body: dict[str, Any], content: bytes
    ) -> AsyncGenerator[Any, None]:
        """Yield status and headers of the answer, then its bytes."""
        road = ROADS[request.url.path]
        chat = road.type is ModelType.CHAT
        client: Any = (
            self._factory.create_completion_client(name) if chat else self._factory.create_embedding_client(name)
        )
        tokens = client.count_text("\n".join(texts(body)))
        call = client.begin("chat" if chat else "embeddings", tokens, longest(road, body))
        url, sent = address(profile, request.url.path), headers_to(profile, request.headers)
        assert self._http is not None
        while True:
            async with call, self._http.stream("POST", url, content=content, headers=sent) as response:
                if response.status_code >= 400:
                    raise _UpstreamError(response.status_code, await response.aread(), response.headers)
                streams = response.headers.get("content-type", "").startswith("text/event-stream")
                tail = bytearray()
                if not streams:  # whole, before anything is handed on: it may break off and be asked for again
                    tail += await response.aread()
                    call.note(_usage(_json(bytes(tail))), response.headers)
                    yield response.status_code, headers_back(response.headers)
                    yield bytes(tail)
                    return
                yield response.status_code, headers_back(response.headers)
                async for part in response.aiter_raw():
                    tail = (tail + part)[-65_536:]
                    call.begun(None, response.headers)
                    yield part
                call.note(_streamed_usage(bytes(tail)), response.headers)
                return


def _problem(status: int, message: str, code: str = "invalid_request_error") -> Response:
    return JSONResponse({"error": {"message": message, "type": code, "code": code}}, status)


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content.decode(errors="replace")


def _usage(body: Any) -> Usage | None:
    """Return what an answer says of its tokens, in OpenAI's or Anthropic's words."""
    told = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(told, dict):
        return None
    read = _count(told, "prompt_tokens", "input_tokens")
    cached = sum(_count(told, name) or 0 for name in ("cache_read_input_tokens", "cache_creation_input_tokens"))
    return Usage(
        None if read is None else read + cached,
        _count(told, "completion_tokens", "output_tokens"),
        cached_input_tokens=_count(told, "cache_read_input_tokens"),
    )


def _streamed_usage(tail: bytes) -> Usage | None:
    """Return the last usage that the end of a stream tells."""
    for line in reversed(tail.splitlines()):
        if line.startswith(b"data:") and b'"usage"' in line:
            event = _json(line[5:].strip())
            event = event.get("response") or event if isinstance(event, dict) else None
            if (usage := _usage(event)) is not None:
                return usage
    return None


def _count(told: dict[str, Any], *names: str) -> int | None:
    return next((told[name] for name in names if isinstance(told.get(name), int)), None)
