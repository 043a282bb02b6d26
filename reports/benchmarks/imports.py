"""What ``import factflow_llm`` costs beside ``import pydantic``, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

from reports.benchmarks.measure import Spent, ratio, show, verdict

_TIMED = "import time; start = time.process_time(); import {}; print(time.process_time() - start)"


def cpu_s(module: str) -> float:
    """Return the CPU seconds of an import."""
    command = [sys.executable, "-c", _TIMED.format(module)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(rounds: int) -> None:
    """Measure and print."""
    names = ("factflow_llm", "pydantic", "factflow_llm.ratelimit.limiter", "simulators.engine.loop")
    spent: Spent = {name: [] for name in names}
    for _ in range(rounds + 1):
        for name in names:
            spent[name].append(cpu_s(name))
    for costs in spent.values():
        del costs[0]  # that one may have compiled
    show("CPU per import", spent)
    times = ratio(spent, "factflow_llm", "pydantic")
    verdict("factflow_llm / pydantic", times, "<= 3", met=times <= 3.0)
