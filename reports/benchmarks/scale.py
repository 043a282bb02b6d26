"""What an attempt costs in runs of a thousand to a million: CPU that stays flat, and memory kept and not kept.

Memory is what a process of its own has in use at most, less what it has before it simulates, so it counts everything.
"""

from __future__ import annotations

import resource
import subprocess
import sys

from reports.benchmarks.measure import Contestant, show, take_turns, verdict
from simulators.engine.simulate import simulate
from simulators.scenarios.scenario import Scenario, backlog

SIZES = (1_000, 10_000, 100_000, 1_000_000)
_PER_S = 10.0


def world(attempts: int) -> Scenario:
    """Return some so many attempts of 64 workers at ten requests a second."""
    return Scenario(backlog(64, attempts / _PER_S), "bucket")


def counted(attempts: int) -> int:
    """Simulate, keep only the summary, and return the attempts."""
    return simulate(world(attempts), seed=7, collect="summary").run.tally.attempts


def peak_bytes(attempts: int, collect: str) -> float:
    """Return bytes in use at most by a process that simulates so many attempts, frames included."""
    told = subprocess.run(
        [sys.executable, "-m", "reports.benchmarks.scale", str(attempts), collect],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(told.stdout)


def main(rounds: int) -> None:
    """Measure and print."""
    names = {f"{size:,} attempts": size for size in SIZES}
    spent = take_turns(
        [Contestant(name, lambda size=size: counted(size)) for name, size in names.items()], min(rounds, 3)
    )
    show("CPU per simulated attempt, summary only", spent)
    least = [min(costs) for costs in spent.values()]
    verdict(
        "1,000,000 attempts / 10,000 attempts", least[-1] / least[1], "flat: <= 1.2", met=least[-1] <= 1.2 * least[1]
    )
    print("\nMemory per simulated attempt, in bytes at the peak")
    for collect, most in (("frames", 200.0), ("summary", 1.0)):
        few, many = (peak_bytes(size, collect) for size in SIZES[-2:])
        each = (many - few) / (SIZES[-1] - SIZES[-2])
        verdict(f'collect="{collect}"', each, f"<= {most:g}", met=each <= most)


def _measure(attempts: int, collect: str) -> None:
    simulate(world(1000), collect="frames").attempts.sum(numeric_only=True)  # imports and caches
    result = simulate(world(attempts), seed=7, collect="frames" if collect == "frames" else "summary")
    if collect == "frames":
        assert len(result.attempts) >= len(result.requests) > 0
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


if __name__ == "__main__":
    _measure(int(sys.argv[1]), sys.argv[2])
