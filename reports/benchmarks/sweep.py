"""A sweep of 500 short runs on all cores, beside the same sweep in one process: ``python -m reports.benchmarks sweep``.

Efficiency is the time of one process over that of all, times their number; on the wall, for idling is what is to be
seen. Processes are started and warmed up before the clock starts, as they stay for all sweeps of a notebook. On a busy
machine that figure tells of the neighbours: a second process gets no second core. So the load is printed beside it, the
CPU time of both, and for how much of the time the processes were inside a run, running or waiting for a core.
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
from reports.benchmarks.measure import verdict
from simulators.policies.ours import as_policy
from simulators.studies.parallel import World, make_worlds, processes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simulators.studies.parallel import Each

RUNS = 500


def main(rounds: int) -> None:
    """Measure and print."""
    worlds = make_worlds([sim.Scenario(sim.backlog(16, 120.0), "bucket")], RUNS)
    jobs = joblib.cpu_count()
    spans: dict[int, list[tuple[float, float, float]]] = {1: [], jobs: []}
    with processes(1) as one, processes(jobs) as all_:
        for number in range(min(rounds, 3) + 1):  # the first warms up
            for count, each in ((1, one), (jobs, all_)):
                taken = _spent(each, worlds if number else worlds[: 4 * jobs])
                if number:
                    spans[count].append(taken)
    serial, parallel = spans[1], spans[jobs]
    wall = median(one[0] / (jobs * many[0]) for one, many in zip(serial, parallel, strict=True))
    cpu = median(one[1] / many[1] for one, many in zip(serial, parallel, strict=True))
    inside = median(many[2] / (jobs * many[0]) for many in parallel)
    print(f"\nSweep of {RUNS} runs, {median(one[0] for one in serial) / RUNS * 1e3:.1f} ms each, {jobs} processes")
    print(f"  load of the machine meanwhile: {os.getloadavg()[0]:.1f}")
    print(f"  CPU of one process / CPU of all: {cpu:.2f}")
    verdict("share of the time in which processes had a run", inside, ">= 0.9", met=inside >= 0.9)
    verdict("efficiency on the wall", wall, ">= 0.9", met=wall >= 0.9)


def _spent(each: Each, worlds: Sequence[World]) -> tuple[float, float, float]:
    """Return seconds on the wall, of CPU inside the runs, and on the wall inside the runs."""
    policies = (as_policy(RateLimitConfig()),)
    start_s = time.perf_counter()
    cpu_s, inside_s = map(sum, zip(*each(partial(_timed, policies=policies), worlds), strict=True))
    return time.perf_counter() - start_s, cpu_s, inside_s


def _timed(world: World, policies: Sequence[sim.Policy]) -> tuple[float, float]:
    begun_s = time.process_time(), time.perf_counter()
    world.figures(policies)
    return time.process_time() - begun_s[0], time.perf_counter() - begun_s[1]
