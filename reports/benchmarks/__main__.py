"""Print the speed of limiter and engine, and what optional parts cost: ``python -m reports.benchmarks``.

All are ratios measured in one run. Nothing asserts on time: machines differ, ratios hardly. Contestants take turns in
every round and pay in CPU time of the process; least and median are printed. Clients and recorder are measured by
``python -m reports.benchmarks.clients`` and ``python -m reports.benchmarks.recorder``.
"""

from __future__ import annotations

import argparse

from reports.benchmarks import imports, loading, parts, permits, scale, simulation, sweep

PARTS = {
    "simulation": simulation.main,
    "scale": scale.main,
    "permits": permits.main,
    "imports": imports.main,
    "loading": loading.main,
    "sweep": sweep.main,
    "parts": parts.main,
}


def main() -> None:
    """Measure what was asked for, by default everything."""
    parser = argparse.ArgumentParser(
        prog="python -m reports.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of: {', '.join(PARTS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contestant (default: %(default)s)")
    asked = parser.parse_args()
    unknown = [part for part in asked.parts if part not in PARTS]
    if unknown or asked.rounds < 1:
        parser.error(f"no part is called {unknown[0]!r}" if unknown else f"--rounds {asked.rounds}: give at least 1")
    for part in asked.parts or PARTS:
        PARTS[part](asked.rounds)


if __name__ == "__main__":
    main()
