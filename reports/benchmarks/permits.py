"""What a permit costs in production: alone, beside an SDK call, and with ten thousand who wait."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import TYPE_CHECKING

from aiolimiter import AsyncLimiter

from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.ratelimit.limiter import AdaptiveRateLimiter
from factflow_llm.types import Usage
from reports.benchmarks.clients import raw_openai
from reports.benchmarks.clients_server import running
from reports.benchmarks.measure import Contestant, in_loop, ratio, show, take_turns, verdict

if TYPE_CHECKING:
    from collections.abc import Callable

PERMITS = 20_000
CALLS = 300
ADMISSIONS = 5_000
WAITERS = (10, 100, 1_000, 10_000)
_USAGE = Usage(900, 300)


async def permits() -> int:
    """Acquire and settle, uncontended, as an adapter does."""
    limiter = AdaptiveRateLimiter()
    for _ in range(PERMITS):
        async with limiter.permit(input_tokens=900, output_tokens=300) as permit:
            permit.succeeded(usage=_USAGE)
    return PERMITS


async def paced_permits() -> int:
    """Do the same where requests and tokens are paced, at quotas that never bind."""
    plenty = 1e12
    limiter = AdaptiveRateLimiter(RateLimitConfig(requests_per_minute=plenty, tokens_per_minute=plenty))
    for _ in range(PERMITS):
        async with limiter.permit(input_tokens=900, output_tokens=300) as permit:
            permit.succeeded(usage=_USAGE)
    return PERMITS


async def aiolimiters() -> int:
    """Acquire from aiolimiter's leaky bucket, uncontended; it has nothing to settle."""
    limiter = AsyncLimiter(1e9, 1.0)
    for _ in range(PERMITS):
        async with limiter:
            pass
    return PERMITS


def sdk_calls(url: str) -> Callable[[], int]:
    """Return a run of openai SDK calls on the loopback, one after the other; the server is another process."""

    async def main() -> int:
        ask = raw_openai(url)
        for _ in range(CALLS):
            await ask(False)
        return CALLS

    return in_loop(main)


async def cost_per_admission_s(waiters: int) -> float:
    """Return the CPU seconds of one admission while so many wait: each goes, settles and queues again."""
    limiter = AdaptiveRateLimiter(RateLimitConfig(initial_concurrency=1, max_concurrency=1))
    admissions, done = 0, asyncio.Event()

    async def worker() -> None:
        nonlocal admissions
        while admissions < ADMISSIONS:
            async with limiter.permit() as permit:
                await asyncio.sleep(0)
                admissions += 1
                permit.succeeded()
        done.set()

    tasks = [asyncio.ensure_future(worker()) for _ in range(waiters)]
    await asyncio.sleep(0)
    before, start = admissions, time.process_time()
    await done.wait()
    cost_s = (time.process_time() - start) / (admissions - before)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return cost_s


async def idle_share(waiters: int) -> float:
    """Return the share of a CPU that a second takes in which so many wait and nothing is due."""
    limiter = AdaptiveRateLimiter(RateLimitConfig(initial_concurrency=1, max_concurrency=1))

    async def wait() -> None:
        async with limiter.permit():
            pass

    async with limiter.permit():
        tasks = [asyncio.ensure_future(wait()) for _ in range(waiters)]
        await asyncio.sleep(0.1)
        start = time.process_time()
        await asyncio.sleep(1.0)
        share = time.process_time() - start
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return share


def main(rounds: int) -> None:
    """Measure and print."""
    with running() as url:
        contestants = [
            Contestant("permit: acquire + settle", in_loop(permits)),
            Contestant("permit, paced on requests and tokens", in_loop(paced_permits)),
            Contestant("aiolimiter: acquire", in_loop(aiolimiters)),
            Contestant("openai SDK: one call on loopback", sdk_calls(url)),
        ]
        spent = take_turns(contestants, rounds)
    show("CPU per permit, uncontended", spent)
    ours, _, aiolimiter, sdk = spent
    cost = ratio(spent, ours, aiolimiter)
    verdict("permit / aiolimiter", cost, "<= 3", met=cost <= 3.0)
    share = 100.0 * ratio(spent, ours, sdk)
    verdict("permit / SDK call, %", share, "<= 1.5", met=share <= 1.5)

    per_admission: dict[str, list[float]] = {f"{waiters} waiting": [] for waiters in WAITERS}
    for _ in range(rounds):
        for waiters in WAITERS:
            gc.collect()
            per_admission[f"{waiters} waiting"].append(asyncio.run(cost_per_admission_s(waiters)))
    show("CPU per admission", per_admission)
    growth = ratio(per_admission, f"{WAITERS[-1]} waiting", f"{WAITERS[0]} waiting")
    verdict(f"{WAITERS[-1]} waiting / {WAITERS[0]} waiting", growth, "flat: <= 2", met=growth <= 2.0)
    busy = 100.0 * min(asyncio.run(idle_share(WAITERS[-1])) for _ in range(3))
    verdict(f"CPU while {WAITERS[-1]} wait and nothing is due, %", busy, "<= 1", met=busy <= 1.0)
