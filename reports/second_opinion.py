"""A second simulator, which shares nothing with ``simulators``, says what it makes of eight worlds.

A simulator that is wrong is wrong in every report. This one has its own clock, quotas, callers, luck and best client,
in the plainest words that will do, and drives ``AdaptiveRateLimiter.permit()`` as an adapter does. Where the two agree,
what they say is about the limiter.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
import selectors
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from joblib import Parallel, delayed

from factflow_llm import AdaptiveRateLimiter, RateLimitConfig
from factflow_llm.ratelimit.backoff import retry_delay_s
from simulators.engine.simulate import simulate
from simulators.providers.catalogue import Provider, RetryAfter
from simulators.providers.latency import LatencyModel
from simulators.providers.quotas import Bucket, FixedWindow, Slots
from simulators.scenarios.scenario import Scenario, backlog

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

SEEDS = 4
GOODPUT_APART, REJECTED_APART = 0.02, 0.003
"""How far goodput ratios and shares of 429s may lie apart."""
_MEDIAN_S, _SIGMA = 2.0, 0.4
_REJECTION_S = 0.1
_SLOT_WAIT_S = 1.0


# --- quotas: ``wait_s`` is 0 where a call fits, else the time until it does -------------------------------------------


class Paced:
    """So many calls a second, a second's worth at once; the quota is multiplied at moments."""

    def __init__(self, per_s: float, changes: Sequence[tuple[float, float]] = ()) -> None:
        self._nominal = self._per_s = self._left = per_s
        self._changes = list(changes)
        self._seen_s = 0.0

    def wait_s(self, now: float) -> float:
        """Let in what is due, and tell."""
        while self._changes and self._changes[0][0] <= now:
            changes_s, factor = self._changes.pop(0)
            self._fill(changes_s)
            self._per_s = self._nominal * factor
        self._fill(now)
        return 0.0 if self._left > 1.0 - 1e-9 else (1.0 - self._left) / self._per_s

    def _fill(self, now: float) -> None:
        self._left = min(self._per_s, self._left + (now - self._seen_s) * self._per_s)
        self._seen_s = now

    def take(self) -> None:
        """Count a call."""
        self._left -= 1.0


class Counted:
    """So many calls from each multiple of ``span_s`` to the next; of the first span some may be used."""

    def __init__(self, most: int, span_s: float, used: int = 0) -> None:
        self._most, self._span_s, self._used, self._span = most, span_s, used, 0

    def wait_s(self, now: float) -> float:
        """Begin another count if one is due, and tell."""
        span = int(now / self._span_s + 1e-9)
        if span > self._span:
            self._span, self._used = span, 0
        return 0.0 if self._used < self._most else (span + 1) * self._span_s - now

    def take(self) -> None:
        """Count a call."""
        self._used += 1


class Server:
    """A quota or slots, a network before it, and what it says of when to come back."""

    def __init__(self, world: World, luck: random.Random) -> None:
        self.world, self.luck = world, luck
        self.quota = None if world.quota is None else world.quota()
        self.busy = 0

    def told_s(self, now: float) -> float | None:
        """Judge a call that arrives: ``None`` takes it in, else the wait that its caller is told."""
        world = self.world
        wait_s = 0.0 if self.quota is None else self.quota.wait_s(now)
        if world.slots and self.busy >= world.slots:
            wait_s = _SLOT_WAIT_S
        if wait_s:
            return world.told_s or wait_s
        if self.quota is not None:
            self.quota.take()
        return None

    def way_s(self) -> float:
        """Return how long a call or an answer is on its way."""
        return self.world.uplink_s and self.luck.lognormvariate(math.log(self.world.uplink_s), 0.3)

    def takes_s(self) -> float:
        """Return how long an answer takes."""
        return self.luck.lognormvariate(math.log(_MEDIAN_S), _SIGMA)


# --- the worlds, in the words of both ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """One world as both simulators have it.

    Attributes:
        quota: makes the quota of this file; ``None`` for none.
        provider: the same in the words of ``simulators``.
        slots: calls at once; 0 for any number.
        changes: factors on the quota, by moment.
        told_s: what Retry-After always says; ``None`` for the truth.
        uplink_s: median time on the way, each way.
        workers: callers who never pause.
        duration_s: how long they go on.
    """

    quota: Callable[[], Paced | Counted] | None
    provider: Provider
    slots: int = 0
    changes: tuple[tuple[float, float], ...] = ()
    told_s: float | None = None
    uplink_s: float = 0.0
    workers: int = 64
    duration_s: float = 1200.0


def _provider(*quotas: Any, told_s: float | None = None, uplink_s: float = 0.0) -> Provider:
    answers = LatencyModel(
        first_token_s=_MEDIAN_S, first_token_sigma=_SIGMA, per_token_s=0.0, rejection_s=_REJECTION_S, uplink_s=uplink_s
    )
    return Provider(quotas=quotas, latency=answers, retry_after=RetryAfter(constant_s=told_s), names_axis=False)


_STEPS = ((400.0, 0.5), (800.0, 2.0))
WORLDS = {
    "bucket": World(lambda: Paced(10), _provider(Bucket(limit=10, per_s=1))),
    "bucket halved, then doubled": World(
        lambda: Paced(10, _STEPS), _provider(Bucket(limit=10, per_s=1)), changes=_STEPS
    ),
    "minute": World(lambda: Counted(600, 60), _provider(FixedWindow(limit=600))),
    "used-up minute": World(lambda: Counted(600, 60, used=600), _provider(FixedWindow(limit=600, used_share=1.0))),
    "Retry-After always 45 s": World(lambda: Paced(10), _provider(Bucket(limit=10, per_s=1), told_s=45.0), told_s=45.0),
    "slots": World(None, _provider(Slots(limit=20)), slots=20),
    "slots far away": World(
        None, _provider(Slots(limit=20), uplink_s=0.05), slots=20, uplink_s=0.05, duration_s=3600.0
    ),
    "seconds far away": World(
        lambda: Counted(12, 1), _provider(FixedWindow(limit=12, per_s=1), uplink_s=0.05), uplink_s=0.05
    ),
}


class Found(NamedTuple):
    """What a simulator says: goodput over the best there is, and 429s over attempts."""

    goodput: float
    rejected: float


# --- the second simulator ---------------------------------------------------------------------------------------------


class _Leap(selectors.DefaultSelector):
    """Waits for nobody: time passes by leaps to whatever is due next."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        """Let the time pass in which nothing happens."""
        assert timeout is not None, "everybody waits for everybody"
        self.now += max(timeout, 0.0)
        return []


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._leap = _Leap()
        super().__init__(self._leap)

    def time(self) -> float:
        return self._leap.now


def _run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(main)


def limited(world: World, seed: int) -> tuple[int, int]:
    """Return how many calls the limiter got answered, and how many were rejected."""
    luck = random.Random(seed)
    server, config = Server(world, luck), RateLimitConfig()
    answered = rejected = 0

    async def caller(limiter: AdaptiveRateLimiter, loop: asyncio.AbstractEventLoop) -> None:
        nonlocal answered, rejected
        attempt = 0
        while True:
            async with limiter.permit(input_tokens=1000, output_tokens=150) as permit:
                await _pause(server.way_s())
                told_s = server.told_s(loop.time())
                if told_s is None:
                    server.busy += 1
                    await asyncio.sleep(server.takes_s())
                    server.busy -= 1
                    await _pause(server.way_s())
                    permit.succeeded()
                    answered += 1
                    attempt = 0
                    continue
                await asyncio.sleep(_REJECTION_S)
                await _pause(server.way_s())
                permit.rate_limited(retry_after=told_s)
                rejected += 1
            delay_s = retry_delay_s(
                config.retry, attempt=attempt, jitter=luck.random(), retry_after_s=told_s, remaining_s=None
            )
            attempt = 0 if delay_s is None else attempt + 1
            await _pause(delay_s or 0.0)

    async def everybody() -> None:
        limiter, loop = AdaptiveRateLimiter(config), asyncio.get_running_loop()
        tasks = [asyncio.create_task(caller(limiter, loop)) for _ in range(world.workers)]
        await asyncio.sleep(world.duration_s)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    _run(everybody())
    return answered, rejected


async def _pause(seconds: float) -> None:
    if seconds > 0.0:
        await asyncio.sleep(seconds)


def best(world: World, seed: int) -> int:
    """Return how many calls get answered if each is sent, from beside the server, at the moment at which it fits."""
    server = Server(world, random.Random(seed))
    workers = world.slots or world.workers
    free_s, answered = [0.0] * min(workers, world.workers), 0
    while (now := heapq.heappop(free_s)) < world.duration_s:
        wait_s = 0.0 if server.quota is None else server.quota.wait_s(now)
        if wait_s:
            heapq.heappush(free_s, now + wait_s + 1e-9)
            continue
        if server.quota is not None:
            server.quota.take()
        ends_s = now + server.takes_s()
        answered += ends_s <= world.duration_s
        heapq.heappush(free_s, ends_s)
    return answered


def second(name: str, seed: int) -> Found:
    """Return what this file makes of a world."""
    answered, rejected = limited(WORLDS[name], seed)
    return Found(answered / best(WORLDS[name], seed), rejected / (answered + rejected))


def first(name: str, seed: int) -> Found:
    """Return what ``simulators`` makes of it."""
    world = WORLDS[name]
    scenario = Scenario(backlog(world.workers, world.duration_s), world.provider)
    for time_s, factor in world.changes:
        scenario = scenario.at(time_s, quota=factor)
    figures = simulate(scenario, seed=seed, collect="summary").summary()
    return Found(float(figures["goodput_ratio"]), float(figures["rejected_share"]))


def second_opinion(jobs: int | None = None) -> dict[str, str]:
    """Return the table by its file's name."""
    asked = [(judge, name, seed) for name in WORLDS for judge in (first, second) for seed in range(SEEDS)]
    found = Parallel(n_jobs=jobs or -1)(delayed(judge)(name, seed) for judge, name, seed in asked)
    bounds = f"{GOODPUT_APART:g} of goodput and {REJECTED_APART:.1%} of 429s"
    lines = [
        f"{len(WORLDS)} worlds, the default limiter, means of {SEEDS} seeds; they shall differ by at most {bounds}",
        "",
        f"{'world':28} {'simulators':>17} {'second opinion':>17}  apart",
    ]
    for place, name in enumerate(WORLDS):
        rows = found[2 * SEEDS * place : 2 * SEEDS * (place + 1)]
        one, other = (Found(*map(fmean, zip(*part, strict=True))) for part in (rows[:SEEDS], rows[SEEDS:]))
        lines.append(f"{name:28} {_told(one):>17} {_told(other):>17}  {apart(one, other) or 'within bounds'}")
    return {"tests/golden/suite/second-opinion.txt": "\n".join(lines) + "\n"}


def apart(one: Found, other: Found) -> str:
    """Return in words how far two opinions lie apart; empty within bounds."""
    goodput, rejected = abs(one.goodput - other.goodput), abs(one.rejected - other.rejected)
    words = [f"goodput {goodput:.3f}"] if goodput > GOODPUT_APART else []
    words += [f"429s {rejected:.2%}"] if rejected > REJECTED_APART else []
    return ", ".join(words)


def _told(found: Found) -> str:
    return f"{found.goodput:.3f} at {found.rejected:.2%}"
