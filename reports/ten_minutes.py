"""Ten minutes of the shipped limiter before a real HTTP server, and what the simulator says of the same ten minutes.

The quota moves twice, the limiter is started anew while others use a window up, one Retry-After is a lie, and one call
in a hundred is rejected without a cause. The SDK, its connections, the event loop and the clock are real.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

import openai

from factflow_llm.clients.openai import OpenAIClient
from factflow_llm.ratelimit.client import RateLimitedClient
from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.ratelimit.limiter import AdaptiveRateLimiter
from factflow_llm.recorder import AttemptRow, RowOutcome
from factflow_llm.types import Message
from simulators.engine.simulate import simulate
from simulators.policies.all_knowing import oracle
from simulators.policies.ours import Adaptive
from simulators.providers.catalogue import Provider
from simulators.providers.faults import Misleading, Refused
from simulators.providers.latency import LatencyModel
from simulators.providers.quotas import FixedWindow
from simulators.scenarios.neighbours import Neighbour
from simulators.scenarios.scenario import Scenario, backlog
from simulators.server.serving import SimulatedServer, running_server

if TYPE_CHECKING:
    from collections.abc import Iterable

    from simulators.policies.base import Policy

CALLERS = 48
DURATION_S = 600.0
HALVED_S, DOUBLED_S, RESTART_S, LIE_S = 120.0, 240.0, 360.0, 480.0
PHASES = (
    ("240 a minute, 1 % noise", 0.0),
    ("halved", HALVED_S),
    ("twice the first", DOUBLED_S),
    ("started anew into a window that others use up", RESTART_S),
    ("one Retry-After of an hour", LIE_S),
)
OTHERS = Neighbour(requests_per_s=200.0, input_tokens=10, output_tokens=1, start_s=RESTART_S, end_s=RESTART_S + 5.0)
PROVIDER = Provider(
    name="ten minutes",
    quotas=(FixedWindow(limit=240),),
    latency=LatencyModel(first_token_s=0.3, per_token_s=0.002, rejection_s=0.02),
    faults=(Refused(status=429, share=0.01), Misleading(retry_after_s=3600.0, times=1, start_s=LIE_S)),
    names_axis=False,
)
SEEDS = 5


class Phase(NamedTuple):
    """What became of the attempts that were sent in a phase."""

    answered: float
    rejected: float


def ten_minutes(_: int | None = None) -> dict[str, str]:
    """Return both accounts by their file's name; takes ten minutes, for the clock is real."""
    return {"tests/golden/suite/ten-minutes.txt": report(over_http(), [simulated(seed) for seed in range(SEEDS)])}


def scenario() -> Scenario:
    """Return the ten minutes in the simulator's words."""
    asked = backlog(CALLERS, DURATION_S, input_tokens=10, output_tokens=16, max_tokens=16)
    told = Scenario(asked, PROVIDER, neighbours=(OTHERS,))
    return told.at(HALVED_S, quota=0.5).at(DOUBLED_S, quota=2.0).restarting(RESTART_S)


def simulated(seed: int, policy: Policy | None = None) -> list[Phase]:
    """Return what the simulator says of each phase."""
    attempts = simulate(scenario(), policy or Adaptive(RateLimitConfig()), seed=seed).attempts
    return _phases(zip(attempts["sent_s"].tolist(), map(str, attempts["outcome"]), strict=True))


def over_http() -> list[Phase]:
    """Return what really happened in each phase."""
    with running_server(PROVIDER, seed=SEEDS) as server:
        rows = asyncio.run(_Run(server).run())
    words = {RowOutcome.OK: "succeeded", RowOutcome.RATE_LIMITED: "rate_limited"}
    return _phases((sent_s, words.get(outcome, outcome)) for sent_s, outcome in rows)


def _phases(attempts: Iterable[tuple[float, str]]) -> list[Phase]:
    counts: Counter[tuple[int, str]] = Counter()
    for sent_s, outcome in attempts:
        phase = sum(sent_s >= since_s for _, since_s in PHASES) - 1
        counts[phase, outcome] += 1
    return [Phase(counts[place, "succeeded"], counts[place, "rate_limited"]) for place in range(len(PHASES))]


class _Run:
    """The real run: callers who never pause, a limiter that is replaced once, and others who use a window up."""

    def __init__(self, server: SimulatedServer) -> None:
        self._server = server
        self._url = f"{server.url}/v1"
        self._began_s = 0.0
        self._rows: list[tuple[float, str]] = []

    def record(self, row: AttemptRow, /) -> None:
        """Keep when an attempt was sent and what became of it."""
        if row.admitted_s is not None:
            self._rows.append((row.admitted_s - self._began_s, str(row.outcome)))

    async def run(self) -> list[tuple[float, str]]:
        """Let the ten minutes pass."""
        loop = asyncio.get_running_loop()
        self._began_s = loop.time()
        machine = self._server.machine
        for time_s, factor in ((HALVED_S, 0.5), (DOUBLED_S, 2.0)):
            loop.call_later(time_s, lambda factor=factor: machine.scale(self._server.now, factor))
        await self._serve(until_s=RESTART_S)
        others = loop.create_task(self._others())
        await self._serve(until_s=DURATION_S)
        await others
        return self._rows

    async def _serve(self, *, until_s: float) -> None:
        """Let callers work under a new limiter until then."""
        sdk = OpenAIClient("simulated", api_key="sk-test", base_url=self._url)
        client = RateLimitedClient(sdk, AdaptiveRateLimiter(RateLimitConfig()), recorder=self)

        async def call_on() -> None:
            while True:
                with contextlib.suppress(openai.APIError):
                    await client.complete([Message.user("say something")], max_tokens=16)

        tasks = [asyncio.create_task(call_on()) for _ in range(CALLERS)]
        await asyncio.sleep(self._began_s + until_s - asyncio.get_running_loop().time())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.aclose()

    async def _others(self) -> None:
        """Send so many calls without a limiter that nothing is left of the window."""
        sdk = OpenAIClient("simulated", api_key="sk-other", base_url=self._url)

        async def ask() -> None:
            with contextlib.suppress(openai.APIError):
                await sdk.complete([Message.user("mine")], max_tokens=1)

        calls = round(OTHERS.requests_per_s * ((OTHERS.end_s or 0.0) - OTHERS.start_s))
        for _ in range(calls // CALLERS):
            await asyncio.gather(*(ask() for _ in range(CALLERS)))
        await sdk.aclose()


def report(real: list[Phase], runs: list[list[Phase]]) -> str:
    """Return both accounts as text."""
    best = simulated(0, oracle())
    lines = [
        f"{CALLERS} callers who never pause, ten minutes of real time, the real SDK over HTTP; beside it what the",
        f"simulator says, mean of {SEEDS} seeds, and how many calls one who sees the provider's state gets answered",
        "",
        f"{'from':>5}  {'':45} {'over HTTP':>18} {'simulated':>20} {'oracle':>7}",
    ]
    total: list[list[float]] = []
    for place, (name, since_s) in enumerate(PHASES):
        answered, rejected = (fmean(run[place][column] for run in runs) for column in (0, 1))
        total.append([*real[place], answered, rejected, best[place].answered])
        lines.append(_line(f"{since_s:.0f} s", name, total[-1]))
    lines.append(_line("", "in all", [sum(column) for column in zip(*total, strict=True)]))
    return "\n".join(lines) + "\n"


def _line(since: str, name: str, figures: list[float]) -> str:
    answered, rejected, simulated_answered, simulated_rejected, best = figures
    return (
        f"{since:>5}  {name:45} {answered:6.0f} and {rejected:3.0f} 429s"
        f" {simulated_answered:8.1f} and {simulated_rejected:4.1f} 429s {best:4.0f}"
    )
