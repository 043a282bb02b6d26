"""One process of a fleet that works before a real server.

``python -m reports.fleet_worker URL SHARED CALLERS SINCE UNTIL``: callers ask from one moment of the wall clock until
another. Each attempt is a line on the standard output, written as soon as it is over: when it was sent, and what became
of it. A call that failed for good is a line ``failed``; calls that are still under way at the end are given up.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

from factflow_llm.clients.openai import OpenAIClient
from factflow_llm.ratelimit.client import RateLimitedClient
from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.ratelimit.limiter import AdaptiveRateLimiter
from factflow_llm.types import Message

if TYPE_CHECKING:
    from factflow_llm.recorder import AttemptRow


class _Lines:
    """Writes an attempt as a line, on the clock that all processes of a host share."""

    def __init__(self) -> None:
        self._since = time.time() - asyncio.get_running_loop().time()

    def record(self, row: AttemptRow, /) -> None:
        if row.admitted_s is not None:
            print(f"{self._since + row.admitted_s:.3f} {row.outcome}", flush=True)


async def main(url: str, shared: str, callers: int, since_s: float, until_s: float) -> None:
    """Let callers ask from then until then."""
    limiter = AdaptiveRateLimiter(RateLimitConfig(shared=shared))
    sdk = OpenAIClient("simulated", api_key="sk-test", base_url=f"{url}/v1")
    client = RateLimitedClient(sdk, limiter, recorder=_Lines())

    async def call_on() -> None:
        while True:
            try:
                await client.complete([Message.user("say something")], max_tokens=16)
            except Exception as error:
                print(f"{time.time():.3f} failed {type(error).__name__}", flush=True)

    await asyncio.sleep(max(since_s - time.time(), 0.0))
    tasks = [asyncio.create_task(call_on()) for _ in range(callers)]
    await asyncio.sleep(max(until_s - time.time(), 0.0))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.aclose()
    await limiter.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5])))
