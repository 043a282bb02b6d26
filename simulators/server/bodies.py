"""Bodies of requests, read as far as they are bounded: in bytes, in time and in nesting."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

from simulators.server.dialects.base import InvalidAskingError

if TYPE_CHECKING:
    from starlette.requests import Request

Json = dict[str, Any]

MAX_BODY_BYTES = 32 * 2**20
MAX_NESTING = 128
BODY_TIME_S = 60.0
_MARKS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


async def bounded_body(request: Request) -> tuple[bytes, InvalidAskingError | None]:
    """Return a body, and what is wrong with it where it is too large or too slow."""
    parts = bytearray()
    try:
        async with asyncio.timeout(BODY_TIME_S):
            async for part in request.stream():
                parts += part
                if len(parts) > MAX_BODY_BYTES:
                    message = f"Request body is larger than {MAX_BODY_BYTES} bytes."
                    return b"", InvalidAskingError(message, status=413)
    except TimeoutError:
        return b"", InvalidAskingError(f"Request body did not arrive within {BODY_TIME_S:g} s.", status=408)
    return bytes(parts), None


def _is_nested_too_deeply(content: bytes) -> bool:
    if content.count(b"[") + content.count(b"{") <= MAX_NESTING:
        return False
    depth = 0
    for mark in _MARKS.finditer(content):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(mark[0], 0)
        if depth > MAX_NESTING:
            return True
    return False


def json_object(content: bytes) -> Json:
    """Return the object that a body holds.

    Raises:
        InvalidAskingError: it holds none, or is nested too deeply.
    """
    if _is_nested_too_deeply(content):
        raise InvalidAskingError(f"The JSON body of your request is nested more than {MAX_NESTING} levels deep.")
    with contextlib.suppress(ValueError):
        body = json.loads(content)
        if isinstance(body, dict):
            return body
    raise InvalidAskingError("We could not parse the JSON body of your request.")
