"""A sweep of 500 short runs on all cores, beside the same sweep in one process: ``python -m tests.benchmarks sweep``.

Efficiency is the time of one process over that of all, times their number; on the wall, for idling is what is to be
seen. Processes are started and warmed up before the clock starts, as they stay for all sweeps of a notebook. On a busy
machine the figure tells of the neighbours too: so the load and the CPU time of both are printed beside it.
"""

from __future__ import annotations

import os
import time
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

import joblib

import simulators as sim
from factflow_llm.ratelimit.config import RateLimitConfig
from simulators.parallel import World, make_worlds, processes
from simulators.policies import as_policy
from tests.benchmarks.measure import verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simulators.parallel import Each

RUNS = 500


def main(rounds: int) -> None:
    """Measure and print."""
    worlds = make_worlds([sim.Scenario(sim.backlog(16, 120.0), "bucket")], RUNS)
    jobs = joblib.cpu_count()
    spans: dict[int, list[tuple[float, float]]] = {1: [], jobs: []}
    with processes(1) as one, processes(jobs) as all_:
        for number in range(min(rounds, 3) + 1):  # the first warms up
            for count, each in ((1, one), (jobs, all_)):
                taken = _spent(each, worlds if number else worlds[: 4 * jobs])
                if number:
                    spans[count].append(taken)
    serial, parallel = spans[1], spans[jobs]
    wall = median(one[0] / (jobs * many[0]) for one, many in zip(serial, parallel, strict=True))
    cpu = median(one[1] / many[1] for one, many in zip(serial, parallel, strict=True))
    print(f"\nSweep of {RUNS} runs, {median(one[0] for one in serial) / RUNS * 1e3:.1f} ms each, {jobs} processes")
    print(f"  load of the machine meanwhile: {os.getloadavg()[0]:.1f}")
    print(f"  CPU of one process / CPU of all: {cpu:.2f}")
    verdict("efficiency on the wall", wall, ">= 0.9", met=wall >= 0.9)


def _spent(each: Each, worlds: Sequence[World]) -> tuple[float, float]:
    """Return seconds on the wall and of CPU, here and in the processes."""
    policies = (as_policy(RateLimitConfig()),)
    start_s, begun_s = time.perf_counter(), time.process_time()
    there_s = sum(each(partial(_cpu_s, policies=policies), worlds))
    here_s = time.process_time() - begun_s
    wall_s = time.perf_counter() - start_s
    return wall_s, max(here_s, there_s)


def _cpu_s(world: World, policies: Sequence[sim.Policy]) -> float:
    begun_s = time.process_time()
    world.figures(policies)
    return time.process_time() - begun_s
