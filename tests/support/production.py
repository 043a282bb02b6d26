"""Production code in a simulated world: RateLimitedClient on a virtual clock, in front of a simulated provider.

The counterpart of ``simulators/engine/loop.py``: same scenario, same seed, but everything between caller and provider
is what adapters run in production.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from factflow_llm.ratelimit.client import RateLimitedClient
from factflow_llm.ratelimit.limiter import AdaptiveRateLimiter
from factflow_llm.recorder import AttemptRow
from factflow_llm.types import Message
from simulators.engine.loop import _JITTERS, ANSWERED_AT_ONCE_S
from simulators.engine.stand_in import SimulatedClient
from simulators.providers.machine import ProviderMachine
from simulators.scenarios import demand
from simulators.scenarios.neighbours import Traffic
from simulators.scenarios.scenario import Backlog, Scenario
from simulators.streams import Streams
from tests.support.virtual_loop import run_virtually

if TYPE_CHECKING:
    from factflow_llm.ratelimit.config import RateLimitConfig
    from simulators.providers.calls import Call


class _Rows(list[AttemptRow]):
    closed = False  # what happens while the loop is taken down is no part of the run

    def record(self, row: AttemptRow, /) -> None:
        if not self.closed:
            self.append(row)


def run_in_production(
    scenario: Scenario, config: RateLimitConfig, seed: int, clients: int = 1
) -> tuple[list[AttemptRow], dict[int, int]]:
    """Run a scenario through production code; return the attempt rows and, by call id, the number of the call."""
    rows = _Rows()
    numbers: dict[int, int] = {}
    run_virtually(_main(scenario, config, seed, clients, rows, numbers))
    return rows, numbers


async def _main(
    scenario: Scenario, config: RateLimitConfig, seed: int, clients: int, rows: _Rows, numbers: dict[int, int]
) -> None:
    loop = asyncio.get_running_loop()
    streams = Streams(seed)
    machine = ProviderMachine(scenario.provider, streams)
    jitters = streams.stream("jitter", "uniform", _JITTERS)
    patience = streams.stream("patience", "uniform", 1)
    patience_left = streams.stream("patience length", "exponential", 1)
    calls = demand.calls(scenario, streams)
    tasks: set[asyncio.Task[None]] = set()
    over = asyncio.Event()
    limiters = [AdaptiveRateLimiter(config) for _ in range(clients)]

    for event in scenario.events:
        loop.call_at(event.time_s, lambda event=event: machine.scale(event.time_s, event.quota, event.axis))
    for place, neighbour in enumerate(scenario.neighbours):
        Traffic(neighbour, place, streams, machine, lambda at, what: loop.call_at(at, what, at))

    async def one(call: Call, client: int) -> None:
        attempts = iter(range(10_000))

        def jitter() -> float:
            return jitters.row(call.index)[next(attempts) % _JITTERS]

        limited = RateLimitedClient(
            SimulatedClient(machine), limiters[client], recorder=rows, jitter=jitter, count_tokens=int
        )
        begin = limited.begin

        def remember(*arguments: Any, **named: Any) -> Any:
            begun = begin(*arguments, **named)
            numbers[begun.call_id] = call.index
            return begun

        limited.begin = remember  # type: ignore[method-assign]
        try:
            await limited.complete([Message.user(str(call.input_tokens))], max_tokens=call.max_tokens, call=call)
        except Exception:
            return

    def begin(call: Call, client: int, then: Any) -> None:
        task = loop.create_task(one(call, client))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        if then is not None:
            begun_s = loop.time()

            def go_on(_: object) -> None:
                if over.is_set():
                    return
                if loop.time() > begun_s:
                    then()
                else:
                    loop.call_later(ANSWERED_AT_ONCE_S, then)

            task.add_done_callback(go_on)
        if scenario.impatient_share and patience.row(call.index)[0] < scenario.impatient_share:
            loop.call_at(loop.time() + scenario.patience_s * patience_left.row(call.index)[0], task.cancel)

    if isinstance(scenario.workload, Backlog):

        def work(worker: int) -> None:
            begin(next(calls)[1], worker % clients, lambda: work(worker))

        for worker in range(scenario.workload.workers):
            work(worker)
    else:
        started = iter(range(10**9))

        def arrive(call: Call) -> None:
            schedule_next()
            begin(call, next(started) % clients, None)

        def schedule_next() -> None:
            following = next(calls, None)
            if following is not None:
                loop.call_at(following[0], arrive, following[1])

        schedule_next()

    await asyncio.sleep(scenario.horizon_s)
    over.set()
    rows.closed = True
