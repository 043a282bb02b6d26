"""Ten minutes of eight processes that share one quota through Redis, over HTTP, and the same ten minutes simulated.

Meanwhile two processes are killed, Redis stops for twenty seconds, is flushed, answers late, and is out of reach for
one process. Processes, sockets, the SDK, the server and Redis are real; between each process and Redis lies a wire that
can be cut and made slow.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from factflow_llm.ratelimit.config import RateLimitConfig
from reports import ROOT
from simulators.engine.simulate import simulate
from simulators.policies.all_knowing import oracle
from simulators.policies.fleet import Fleet, Store
from simulators.scenarios.scenario import Scenario, backlog
from simulators.server.serving import running_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

    from simulators.policies.base import Policy

WORLDS = ("bucket", "openai-tier-1", "slots")
PROCESSES, CALLERS, DURATION_S = 8, 8, 600.0
KILLED_S, STOPPED_S, FLUSHED_S, SLOW_S, CUT_S = 180.0, 300.0, 360.0, 420.0, 500.0
STOPPED_FOR_S, SLOW_FOR_S, SLOW_BY_S, CUT_FOR_S = 20.0, 30.0, 0.3, 30.0
PHASES = (
    ("undisturbed", 0.0),
    ("two of eight killed, and started anew", KILLED_S),
    ("Redis stopped for 20 s", STOPPED_S),
    ("Redis flushed", FLUSHED_S),
    ("Redis 300 ms away for 30 s", SLOW_S),
    ("Redis out of reach of one for 30 s", CUT_S),
)
SEED = 5


class Account(NamedTuple):
    """What became of a fleet's attempts.

    Attributes:
        sent: when each was sent, by which member, and what became of it, such as ``succeeded`` or ``rate_limited``.
        failed: calls that failed for good.
    """

    sent: list[tuple[float, int, str]]
    failed: int


class Fault(NamedTuple):
    """What happens at a moment; ``do`` is handed the fleet."""

    time_s: float
    do: Callable[[Processes], Awaitable[None]]


def fleet(_: int | None = None) -> dict[str, str]:
    """Return all accounts by their file's name; takes ten minutes, for the clock is real."""
    with redis_server() as port:
        real = asyncio.run(_all(port))
    return {"tests/golden/suite/fleet.txt": report(real, {world: simulated(world) for world in WORLDS})}


def scenario(world: str) -> Scenario:
    """Return the ten minutes in the simulator's words."""
    asked = backlog(PROCESSES * CALLERS, DURATION_S, input_tokens=10, output_tokens=16, max_tokens=16)
    told = Scenario(asked, world)
    return told.restarting(KILLED_S, client=0).restarting(KILLED_S, client=1)


def simulated(world: str, policy: Policy | None = None) -> Account:
    """Return what the simulator says of a world, of the fleet or of another policy."""
    if policy is None:
        store = (
            Store()
            .gone(STOPPED_S, STOPPED_FOR_S)
            .flushed(FLUSHED_S)
            .slow(SLOW_S, SLOW_FOR_S, SLOW_BY_S / 2.0)
            .partitioned(CUT_S, CUT_FOR_S, PROCESSES - 1)
        )
        policy = Fleet(RateLimitConfig(), store, SEED)
    attempts = simulate(scenario(world), policy, seed=SEED, clients=PROCESSES).attempts
    columns = (attempts["sent_s"].tolist(), attempts["client"].tolist(), map(str, attempts["outcome"]))
    return Account(list(zip(*columns, strict=True)), 0)


# --- the real fleet ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def redis_server() -> Iterator[int]:
    """Run a Redis server of its own, and yield its port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield port
    finally:
        server.kill()
        server.wait()


class Wire:
    """A wire to a port of this host that can be cut, and made slow.

    Attributes:
        whole: set while it carries; while it is cut nothing gets through, and nobody is told.
        delay_s: how much later everything arrives, there and back together.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._server: asyncio.Server | None = None
        self.port = 0
        self.whole = asyncio.Event()
        self.whole.set()
        self.delay_s = 0.0

    async def lay(self) -> None:
        """Begin to carry."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Take no more connections."""
        if self._server is not None:
            self._server.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
            await asyncio.gather(self._pass_on(reader, back), self._pass_on(there, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await asyncio.sleep(self.delay_s / 2.0)
                await self.whole.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


class Processes:
    """The processes of one fleet, each with its own wire to Redis, and what they write.

    Args:
        url: of the provider.
        namespace: of the fleet, within Redis.
        wires: one for each process.
        began_s: when the run begins, on the wall clock.
        duration_s: how long it lasts.
    """

    def __init__(self, url: str, namespace: str, wires: list[Wire], began_s: float, duration_s: float) -> None:
        self.wires = wires
        self._url, self._namespace = url, namespace
        self._began_s, self._until_s = began_s, began_s + duration_s
        self._running: list[subprocess.Popen[bytes]] = []
        self._files: list[tuple[int, Path]] = []
        self._folder = tempfile.TemporaryDirectory()

    def start(self, member: int) -> None:
        """Start a process."""
        path = Path(self._folder.name) / f"{len(self._files)}.txt"
        self._files.append((member, path))
        shared = f"redis://127.0.0.1:{self.wires[member].port}/0?namespace={self._namespace}"
        told = [self._url, shared, str(CALLERS), str(self._began_s), str(self._until_s)]
        words = [sys.executable, "-m", "reports.fleet_worker", *told]
        with path.open("wb") as file:
            process = subprocess.Popen(words, cwd=ROOT, stdout=file, env=os.environ | {"PYTHONPATH": str(ROOT)})
        self._running[member:member] = [process]

    def kill(self, member: int) -> None:
        """Kill a process as the kernel does when memory ends."""
        process = self._running.pop(member)
        process.send_signal(signal.SIGKILL)
        process.wait()

    async def account(self) -> Account:
        """Wait for all to end, and return what became of their attempts."""
        for process in self._running:
            await asyncio.to_thread(process.wait)
        sent, failed = [], 0
        words = {"ok": "succeeded"}
        for member, path in self._files:
            for line in path.read_text(encoding="utf-8").splitlines():
                time_s, outcome = line.split()[:2]
                if outcome == "failed":
                    failed += 1
                elif outcome != "cancelled":  # at the end
                    sent.append((float(time_s) - self._began_s, member, words.get(outcome, outcome)))
        self._folder.cleanup()
        return Account(sent, failed)


async def over_http(
    url: str, namespace: str, redis_port: int, *, processes: int, duration_s: float, starts_in_s: float,
    faults: Iterable[Fault] = (),
) -> Account:  # fmt: skip
    """Let a fleet work before a server for a while, once its processes have started; return its attempts."""
    wires = [Wire(redis_port) for _ in range(processes)]
    for wire in wires:
        await wire.lay()
    began_s = time.time() + starts_in_s
    running = Processes(url, namespace, wires, began_s, duration_s)
    for member in range(processes):
        running.start(member)
    for fault in sorted(faults, key=lambda fault: fault.time_s):
        await asyncio.sleep(began_s + fault.time_s - time.time())
        await fault.do(running)
    account = await running.account()
    for wire in wires:
        wire.close()
    return account


def set_wires(*, cut: Mapping[int, bool] | None = None, delay_s: float | None = None) -> Callable[..., Awaitable[None]]:
    """Return a fault that cuts some members' wires or mends them, or makes all slow."""

    async def do(running: Processes) -> None:
        for member, wire in enumerate(running.wires):
            if cut is not None and member in cut:
                (wire.whole.clear if cut[member] else wire.whole.set)()
            wire.delay_s = wire.delay_s if delay_s is None else delay_s

    return do


async def start_anew(running: Processes) -> None:
    """Kill the first two processes, and start them again."""
    for member in (0, 1):
        running.kill(member)
        running.start(member)


async def _all(redis_port: int) -> dict[str, Account]:
    async def flush(_: Processes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", redis_port)
        writer.write(b"FLUSHALL\r\n")
        await reader.readline()
        writer.close()

    everybody = range(PROCESSES)
    faults = [
        Fault(KILLED_S, start_anew),
        Fault(STOPPED_S, set_wires(cut=dict.fromkeys(everybody, True))),
        Fault(STOPPED_S + STOPPED_FOR_S, set_wires(cut=dict.fromkeys(everybody, False))),
        Fault(FLUSHED_S, flush),
        Fault(SLOW_S, set_wires(delay_s=SLOW_BY_S)),
        Fault(SLOW_S + SLOW_FOR_S, set_wires(delay_s=0.0)),
        Fault(CUT_S, set_wires(cut={PROCESSES - 1: True})),
        Fault(CUT_S + CUT_FOR_S, set_wires(cut={PROCESSES - 1: False})),
    ]
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(running_server(world, seed=SEED)) for world in WORLDS]
        runs = [
            over_http(
                server.url,
                world,
                redis_port,
                processes=PROCESSES,
                duration_s=DURATION_S,
                starts_in_s=60.0,
                faults=faults,
            )
            for world, server in zip(WORLDS, servers, strict=True)
        ]
        return dict(zip(WORLDS, await asyncio.gather(*runs), strict=True))


# --- both accounts ----------------------------------------------------------------------------------------------------


def report(real: Mapping[str, Account], runs: Mapping[str, Account]) -> str:
    """Return both accounts as text."""
    lines = [
        f"{PROCESSES} processes of {CALLERS} callers who never pause share a quota through Redis: ten minutes of real",
        "time, the real SDK over HTTP, and what the simulator says of the same ten minutes; goodput as a share of what",
        "one who sees the provider's state gets answered, 429s as a share of attempts, and how long it took after each",
        "disturbance until nine tenths of the quota were used again",
    ]
    for world in real:
        best = simulated(world, oracle())
        lines += ["", f"{world:46} {'over HTTP':>25} {'simulated':>25}"]
        for place, (name, since_s) in enumerate(PHASES):
            until_s = PHASES[place + 1][1] if place + 1 < len(PHASES) else DURATION_S
            told = [_told(account, best, since_s, until_s) for account in (real[world], runs[world])]
            lines.append(f"{since_s:4.0f} s  {name:38} {told[0]:>25} {told[1]:>25}")
        told = [_told(account, best, 0.0, DURATION_S, again=False) for account in (real[world], runs[world])]
        lines.append(f"{'':8}{'in all':38} {told[0]:>25} {told[1]:>25}")
        fair = [f"Jain {jain(account):.3f}" for account in (real[world], runs[world])]
        failed = [f"{account.failed} failed" for account in (real[world], runs[world])]
        lines.append(f"{'':46} {fair[0] + ', ' + failed[0]:>25} {fair[1] + ', ' + failed[1]:>25}")
    return "\n".join(lines) + "\n"


def _told(account: Account, best: Account, since_s: float, until_s: float, *, again: bool = True) -> str:
    answered = _answered(account, since_s, until_s) / max(_answered(best, since_s, until_s), 1)
    attempts = [outcome for at_s, _, outcome in account.sent if since_s <= at_s < until_s]
    told = f"{answered:5.3f} {100.0 * attempts.count('rate_limited') / max(len(attempts), 1):5.2f} %"
    return f"{told} {regained_s(account, best, since_s):4.0f} s" if again and since_s else told


def _answered(account: Account, since_s: float, until_s: float) -> int:
    return sum(outcome == "succeeded" and since_s <= at_s < until_s for at_s, _, outcome in account.sent)


def regained_s(account: Account, best: Account, since_s: float, *, window_s: float = 5.0) -> float:
    """Return how long it took after a disturbance until nine tenths of the quota were used, for a whole window."""
    quota = _answered(best, since_s - 60.0, since_s) / 60.0
    for waited_s in range(60):
        begins_s = since_s + waited_s
        if _answered(account, begins_s, begins_s + window_s) >= 0.9 * quota * window_s:
            return float(waited_s)
    return float("inf")


def jain(account: Account) -> float:
    """Return how evenly the members were answered: 1 where all got the same."""
    counts = [0] * PROCESSES
    for _, member, outcome in account.sent:
        counts[member] += outcome == "succeeded"
    return sum(counts) ** 2 / max(len(counts) * sum(count * count for count in counts), 1)
