"""Calibrating long recordings: CPU time and memory as rows grow. Runs for minutes, so it has a command of its own.

``python -m reports.benchmarks.calibration 100000 1000000``
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time

from simulators.calibration.calibrate import calibrate
from simulators.providers.quotas import SlidingWindow
from tests.support.shaken_recordings import World, make

_PER_S = 55.0
_ATTEMPTS_PER_CALL = 1.4


def main(rows: int) -> None:
    """Make a recording of about so many rows, of retries before a window, and calibrate with it."""
    duration_s = rows / (_PER_S * _ATTEMPTS_PER_CALL)
    quota = SlidingWindow(limit=3000, enforced_over_s=10)
    recording = make(World(quotas=(quota,), per_s=_PER_S, duration_s=duration_s, retries=2, jitter_s=0.002), seed=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    calibration = calibrate(recording, progress=False)
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = ", ".join(f"{each.kind} {each.limit:g}" for each in calibration.provider.quotas) or "nothing"
    sys.stdout.write(
        f"{len(recording.attempts):>9,} rows: {cpu_s:.0f} s of CPU, {wall_s:.0f} s, {most / 1024:.0f} MB at most, "
        f"{before / 1024:.0f} before; found {found}\n"
    )


if __name__ == "__main__":
    for words in sys.argv[1:]:
        one = multiprocessing.get_context("spawn").Process(target=main, args=(int(words),))  # memory of its own
        one.start()
        one.join()
