"""A proxy that does nothing but pass requests on, with the parts that ours is made of: what they alone cost.

``python -m reports.benchmarks.pass_through SERVER PORT``; ``reports.benchmarks.jobs`` runs it.
"""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request


def app(server: str) -> Starlette:
    """Return the application: whatever is posted goes to the server, and its answer back."""

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        async with httpx.AsyncClient() as app.state.http:
            yield

    async def passed_on(request: Request) -> Response:
        headers = {"content-type": "application/json", "authorization": "Bearer k"}
        url = server + request.url.path
        answer = await request.app.state.http.post(url, content=await request.body(), headers=headers)
        return Response(answer.content, answer.status_code, media_type="application/json")

    return Starlette(routes=[Route("/{path:path}", passed_on, methods=["POST"])], lifespan=life)


if __name__ == "__main__":
    uvicorn.run(app(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), access_log=False, log_level="warning")
