"""The proxy's ASGI application: requests in, forwarded, and their answers back.

A request of a browser's page is refused: it would spend money from any site that is open.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import httpx
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from factflow_llm.factory import LLMClientFactory
from factflow_llm.proxy.forwarding import Answer, Forwarding, problem
from factflow_llm.proxy.upstream import ROADS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from factflow_llm.recorder import AttemptSink
    from factflow_llm.settings import LLMConfig

_LARGEST_BYTES = 64 * 2**20
_TIMEOUT_S = 600.0


class Proxy:
    """Programs in front, profiles behind.

    Args:
        config: the profiles; those of OpenAI, Azure and Anthropic can be asked for.
        recorder: gets one row per attempt.
    """

    def __init__(self, config: LLMConfig, *, recorder: AttemptSink | None = None) -> None:
        self._factory = LLMClientFactory(config, recorder=recorder)
        self._forwarding: Forwarding | None = None

    def app(self) -> Starlette:
        """Make the ASGI application."""
        routes = [Route(path, self._answer, methods=["POST"]) for path in ROADS]
        return Starlette(routes=[*routes, Route("/status", self._status)], lifespan=self._life)

    @asynccontextmanager
    async def _life(self, _: Starlette) -> AsyncIterator[None]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        async with self._factory, httpx.AsyncClient(timeout=_TIMEOUT_S, limits=limits, trust_env=True) as http:
            self._forwarding = Forwarding(self._factory, http)
            yield

    async def _status(self, request: Request) -> Response:
        if "origin" in request.headers:
            return _whole(problem(403, "a page in a browser may not use this proxy"))
        return JSONResponse({name: asdict(status) for name, status in self._factory.status().items()})

    async def _answer(self, request: Request) -> Response:
        if "origin" in request.headers:
            return _whole(problem(403, "a page in a browser may not use this proxy"))
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > _LARGEST_BYTES:
                return _whole(problem(413, f"the request is larger than {_LARGEST_BYTES} bytes"))
        assert self._forwarding is not None
        answer = await self._forwarding.answer(request.url.path, request.headers, bytes(content))
        if isinstance(answer.content, bytes):
            return _whole(answer)
        return StreamingResponse(answer.content, answer.status, answer.headers)


def _whole(answer: Answer) -> Response:
    assert isinstance(answer.content, bytes)
    return Response(answer.content, answer.status, answer.headers)
