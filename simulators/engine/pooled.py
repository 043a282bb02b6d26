"""Pools and fallbacks: production's own clients on a virtual clock, in front of several simulated accounts.

What is between the callers and the providers here is what runs in production, ``factflow_llm/routing`` with a limiter
for each account. Beside it the oracle: each call goes, in order, to the account that lets it in first.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.client import RateLimitedClient
from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.ratelimit.limiter import AdaptiveRateLimiter
from factflow_llm.routing.fallback import FallbackClient
from factflow_llm.routing.members import Member
from factflow_llm.routing.pool import PooledClient
from factflow_llm.types import Message
from simulators.engine.stand_in import SimulatedClient
from simulators.engine.virtual_loop import run_virtually
from simulators.providers.machine import ProviderMachine
from simulators.scenarios import demand
from simulators.scenarios.scenario import Backlog, QuotaChange
from simulators.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from factflow_llm.recorder import AttemptRow
    from simulators.providers.calls import Call
    from simulators.scenarios.scenario import Scenario


_log = logging.getLogger("simulators.accounts")
_log.setLevel(logging.CRITICAL)  # what befalls simulated accounts is in the result; lower it to hear of it


class _Ended(NamedTuple):
    """How a request ended: its number, when it came and ended, whose answer it is, and else what failed."""

    request: int
    arrival_s: float
    end_s: float
    account: str
    error: str


@dataclass(frozen=True)
class PoolResult:
    """What became of the requests to several accounts.

    Attributes:
        accounts: the scenario of each.
        seed: decided every random draw.
    """

    accounts: Mapping[str, Scenario]
    seed: int
    _ended: Sequence[_Ended]
    _rows: Sequence[tuple[str, AttemptRow]]
    _oracle_s: float

    @cached_property
    def requests(self) -> pd.DataFrame:
        """A row per request: ``arrival_s``, ``end_s``, ``account`` (whose answer), ``error`` (empty: answered)."""
        return pd.DataFrame(self._ended, columns=_Ended._fields).sort_values("request", ignore_index=True)

    @cached_property
    def attempts(self) -> pd.DataFrame:
        """A row per attempt: ``account``, ``admitted_s``, ``end_s``, ``outcome``."""
        rows = [(account, row.admitted_s, row.end_s, str(row.outcome)) for account, row in self._rows]
        return pd.DataFrame(rows, columns=["account", "admitted_s", "end_s", "outcome"])

    @property
    def duration_s(self) -> float:
        """When the last request ended."""
        return float(self.requests["end_s"].max())

    @property
    def oracle_s(self) -> float:
        """When the last would have ended with somebody who sees all accounts, and so is never refused."""
        return self._oracle_s

    def summary(self) -> pd.DataFrame:
        """Return a row per account: requests ``answered``, ``attempts``, and the share of these that were 429s."""
        answered = self.requests[self.requests["error"] == ""].groupby("account").size()
        attempts = self.attempts.groupby("account")
        limited = attempts["outcome"].apply(lambda outcomes: float((outcomes == "rate_limited").mean()))
        table = pd.DataFrame({"answered": answered, "attempts": attempts.size(), "rejected_share": limited})
        return table.reindex(list(self.accounts)).fillna({"answered": 0, "attempts": 0})


def simulate_pool(
    accounts: Mapping[str, Scenario],
    config: RateLimitConfig | None = None,
    *,
    workers: int | None = None,
    fallback: Sequence[str] = (),
    seed: int = 0,
) -> PoolResult:
    """Run requests through a pool of accounts, as ``pool`` and ``fallback`` of a profile do in production.

    Args:
        accounts: a scenario per account: its provider and what befalls it. All have the same workload, a trace.
        config: settings of each account's limiter; ``None`` means our defaults.
        workers: so many callers work through the trace's requests, one after the other, whenever those came: a job.
            ``None`` asks for each when it came.
        fallback: accounts that are no part of the pool, and asked in this order when it cannot answer.
        seed: decides every random draw.

    Raises:
        ConfigurationError: no accounts, different workloads, a backlog, or a fallback that is no account.
    """
    scenarios = list(accounts.values())
    if not scenarios or any(scenario.workload is not scenarios[0].workload for scenario in scenarios):
        raise ConfigurationError("simulate_pool(): give each account a scenario, all of one and the same trace")
    if isinstance(scenarios[0].workload, Backlog):
        raise ConfigurationError("simulate_pool(): a backlog has no end; give a trace, and workers for a job")
    unknown = [name for name in fallback if name not in accounts]
    pooled = [name for name in accounts if name not in fallback]
    if unknown or not pooled:
        raise ConfigurationError(
            f"simulate_pool(): fallback = {list(fallback)!r} must name accounts, and leave one to the pool"
        )
    if workers is not None and workers < 1:
        raise ConfigurationError(f"simulate_pool(): workers = {workers!r} must be at least 1")
    run = _Run(accounts, config or RateLimitConfig(), seed)
    run_virtually(run.main(pooled, fallback, workers))
    return PoolResult(accounts, seed, run.ended, run.rows, _oracle(accounts, workers, seed))


class _Sink:
    def __init__(self, rows: list[tuple[str, AttemptRow]], name: str) -> None:
        self._rows = rows
        self._name = name

    def record(self, row: AttemptRow, /) -> None:
        self._rows.append((self._name, row))


class _Run:
    def __init__(self, accounts: Mapping[str, Scenario], config: RateLimitConfig, seed: int) -> None:
        self._accounts = accounts
        self._config = config
        self._seed = seed
        self.ended: list[_Ended] = []
        self.rows: list[tuple[str, AttemptRow]] = []

    def _member(self, name: str) -> Member:
        scenario, loop = self._accounts[name], asyncio.get_running_loop()
        machine = ProviderMachine(scenario.provider, Streams(self._seed))
        for event in scenario.events:
            if isinstance(event, QuotaChange):
                loop.call_at(event.time_s, machine.scale, event.time_s, event.quota, event.axis)
        luck = itertools.cycle(Streams(self._seed).stream("jitter", "uniform", 997).row(0))
        inner: Any = SimulatedClient(machine)
        client = RateLimitedClient(
            inner,
            AdaptiveRateLimiter(self._config),
            recorder=_Sink(self.rows, name),
            jitter=lambda: float(next(luck)),
            count_tokens=int,
        )
        return Member(name, client, log=_log)

    async def main(self, pooled: Sequence[str], fallback: Sequence[str], workers: int | None) -> None:
        loop = asyncio.get_running_loop()
        luck = itertools.cycle(Streams(self._seed).stream("jitter", "uniform", 997).row(1))
        pool = PooledClient([self._member(name) for name in pooled], by_price=False, jitter=lambda: float(next(luck)))
        others = [self._member(name) for name in fallback]
        client = FallbackClient([Member("the pool", pool, log=_log), *others]) if others else pool
        calls = demand.calls(next(iter(self._accounts.values())), Streams(self._seed))

        async def ask(arrival_s: float, call: Call) -> None:
            account, failed = "", ""
            try:
                said = [Message.user(str(call.input_tokens))]
                account = (await client.complete(said, max_tokens=call.max_tokens, call=call)).profile
            except Exception as error:
                failed = type(error).__name__
            self.ended.append(_Ended(call.index, arrival_s, loop.time(), account, failed))

        async def work() -> None:
            for _, call in calls:
                await ask(loop.time(), call)

        async def arrive() -> None:
            async with asyncio.TaskGroup() as group:
                for arrival_s, call in calls:
                    await asyncio.sleep(arrival_s - loop.time())
                    group.create_task(ask(arrival_s, call))

        await (arrive() if workers is None else asyncio.gather(*(work() for _ in range(workers))))


def _oracle(accounts: Mapping[str, Scenario], workers: int | None, seed: int) -> float:
    """Return when the last request ends if each goes, in order, to the account that lets it in first."""
    machines = [ProviderMachine(scenario.provider, Streams(seed)) for scenario in accounts.values()]
    changes: list[tuple[float, int, QuotaChange]] = [
        (event.time_s, number, event)
        for number, scenario in enumerate(accounts.values())
        for event in scenario.events
        if isinstance(event, QuotaChange)
    ]
    heapq.heapify(changes)
    ends: list[tuple[float, int, int, Any]] = []
    now, last_s, count = 0.0, 0.0, itertools.count()
    for arrival_s, call in demand.calls(next(iter(accounts.values())), Streams(seed)):
        now = max(now, arrival_s) if workers is None else now
        refused: set[int] = set()
        while True:
            due = min(changes[0][0] if changes else math.inf, ends[0][0] if ends else math.inf)
            full = workers is not None and len(ends) >= workers
            waits = [
                math.inf if number in refused else machine.wait_s(now, call) for number, machine in enumerate(machines)
            ]
            wait_s = min(waits)
            if len(refused) == len(machines):
                break  # everybody is in trouble: the request fails
            if full or now + wait_s > due or math.isinf(wait_s):
                if math.isinf(due):
                    break
                now = max(now, due)
                while changes and changes[0][0] <= now:
                    _, number, event = heapq.heappop(changes)
                    machines[number].scale(now, event.quota, event.axis)
                while ends and ends[0][0] <= now:
                    _, _, number, handle = heapq.heappop(ends)
                    machines[number].finish(now, handle)
                continue
            now += wait_s
            chosen = waits.index(wait_s)
            verdict = machines[chosen].send(now, call)
            if verdict.status != 200:
                refused.add(chosen)  # it is down, which the oracle knows without asking
                continue
            ended_s = now + verdict.duration_s
            heapq.heappush(ends, (ended_s, next(count), chosen, verdict.handle))
            last_s = max(last_s, ended_s)
            break
    return last_s
