"""Ask a real client once, whole or streamed, against a server that answers what a test scripts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from factflow_llm import AdaptiveRateLimiter, CompletionResponse, Message, RateLimitedClient, StreamChunk
from tests.support.faces import OPENAI, Face, openai_answer
from tests.support.loopback import Events, Loopback, Reply

if TYPE_CHECKING:
    from tests.support.loopback import Scripted

HELLO = [Message.user("hello")]


def ask(reply: Scripted | Any, face: Face = OPENAI, **wanted: Any) -> CompletionResponse:
    """Complete once, against a server that answers ``reply``."""

    async def call(server: Loopback) -> CompletionResponse:
        async with face.make(server.url) as client:
            return await client.complete(HELLO, **wanted)

    with Loopback(reply if isinstance(reply, Reply | Events) else Reply(reply)) as server:
        return asyncio.run(call(server))


def follow(
    *events: Any, face: Face = OPENAI, reply: Scripted | None = None, limited: bool = False
) -> tuple[list[StreamChunk], CompletionResponse]:
    """Stream once to the end; return the chunks and the whole answer."""

    async def call(server: Loopback) -> tuple[list[StreamChunk], CompletionResponse]:
        async with face.make(server.url) as client:
            asked = RateLimitedClient(client, AdaptiveRateLimiter()) if limited else client
            async with asked.stream(HELLO) as stream:
                chunks = [chunk async for chunk in stream]
            return chunks, stream.response

    with Loopback(reply or Events(events)) as server:
        return asyncio.run(call(server))


def message(**fields: Any) -> dict[str, Any]:
    """Make an OpenAI answer with a message of these fields."""
    return openai_answer({"role": "assistant", "content": None, **fields}, finish="stop")


def call(id_: Any = "c1", name: Any = "weather", arguments: Any = '{"city": "Bern"}', **more: Any) -> dict[str, Any]:
    """Make a tool call in OpenAI's words."""
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}, **more}
