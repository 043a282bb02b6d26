"""What finishing jobs costs: going on with a journal of 100,000 answers, and a call through the proxy.

``python -m reports.benchmarks.jobs``. The proxy and the server behind it are processes of their own; the program in
front is the openai SDK, which asks the server itself and through the proxy in turns; and so with a proxy that only
passes on what it gets, of the same libraries. Told are medians of rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from factflow_llm import LLMClientFactory, LLMConfig
from reports.benchmarks.clients import PLAIN
from reports.benchmarks.clients_server import running
from tests.support.loopback import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    import openai

ITEMS = 100_000
CALLS, ROUNDS = 100, 15
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def resumed_s(folder: Path, items: int) -> tuple[float, float]:
    """Return the seconds of a job of calls that cost nothing, and of the same job when all is in its journal."""
    factory = LLMClientFactory(LLMConfig.from_dict({"providers": {"chat": {"provider": "openai", "model": "m"}}}))

    async def answer(item: int) -> str:
        return f"An answer of some forty letters to item {item}."

    async def run() -> float:
        start = time.perf_counter()
        job = factory.map(range(items), answer, journal=folder / "run.jsonl", ordered=True)
        places = [result.place async for result in job]
        if len(places) != items:
            raise SystemExit(f"{len(places)} results of {items}; the figures mean nothing")
        return time.perf_counter() - start

    return asyncio.run(run()), asyncio.run(run())


@contextmanager
def proxy(server: str, folder: Path) -> Iterator[tuple[str, int]]:
    """Run the command; give its address and its process' number."""
    config = folder / "llm.toml"
    config.write_text(
        f'[providers.chat]\nprovider = "openai"\nmodel = "gpt-4o-mini"\napi_key = "sk-b"\nbase_url = "{server}/v1"\n',
        encoding="utf-8",
    )
    ours = "from factflow_llm._console import main; main()"
    with listening("-c", ours, "proxy", "--config", str(config), "--port") as there:
        yield there


@contextmanager
def listening(*words: str) -> Iterator[tuple[str, int]]:
    """Run Python with these words and a port; give the address and the process' number, once it listens there."""
    port = free_port()
    with subprocess.Popen([sys.executable, *words, str(port)], stdout=subprocess.DEVNULL) as process:
        try:
            for _ in range(200):
                with socket.socket() as there:
                    if there.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    used = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(used[11]) + int(used[12])) / _TICKS_PER_S


async def ask(client: openai.AsyncOpenAI, calls: int, in_flight: int) -> tuple[float, float]:
    """Return the seconds of a call, and the CPU seconds that it costs this process."""
    took: list[float] = []

    async def worker() -> None:
        for _ in range(calls // in_flight):
            start = time.perf_counter()
            await client.chat.completions.create(model="gpt-4o-mini", messages=PLAIN)  # type: ignore[arg-type]
            took.append(time.perf_counter() - start)

    start = time.process_time()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    return median(took), (time.process_time() - start) / len(took)


async def through(server: str, proxied: str, pid: int, in_flight: int) -> tuple[float, float, float, float]:
    """Return a call's seconds without and with the proxy, and the CPU seconds of program and proxy per call."""
    import openai

    async with (
        openai.AsyncOpenAI(base_url=f"{server}/v1", api_key="k", max_retries=0) as direct,
        openai.AsyncOpenAI(base_url=f"{proxied}/v1", api_key="k", max_retries=0) as by_proxy,
    ):
        for client in (direct, by_proxy):
            await ask(client, CALLS, in_flight)
        rounds = []
        for _ in range(ROUNDS):
            plain_s, program_s = await ask(direct, CALLS, in_flight)
            before = cpu_s(pid)
            proxied_s, _ = await ask(by_proxy, CALLS, in_flight)
            rounds.append((plain_s, proxied_s, program_s, (cpu_s(pid) - before) / CALLS))
    plain_s, proxied_s, program_s, proxy_s = (median(column) for column in zip(*rounds, strict=True))
    return plain_s, proxied_s, program_s, proxy_s


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=ITEMS, help="items of the job (default: %(default)s)")
    items = parser.parse_args().items
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        first_s, again_s = resumed_s(folder, items)
        size = (folder / "run.jsonl").stat().st_size / 2**20
        print(f"{items} items with a journal of {size:.0f} MiB: {first_s:.1f} s; gone on with: {again_s:.1f} s")
        with running() as server:
            for name, started in (
                ("the proxy", proxy(server, folder)),
                ("a bare one", listening("-m", "reports.benchmarks.pass_through", server)),
            ):
                with started as (address, pid):
                    for in_flight in (1, 20):
                        plain_s, proxied_s, program_s, proxy_s = asyncio.run(through(server, address, pid, in_flight))
                        print(
                            f"{in_flight:2} in flight: a call takes {1e3 * plain_s:.2f} ms, by {name} "
                            f"{1e3 * proxied_s:.2f} ms; CPU of the program {1e3 * program_s:.2f} ms, "
                            f"of {name} {1e3 * proxy_s:.2f} ms"
                        )


if __name__ == "__main__":
    main()
