"""The suite's reports: everybody's limiter, or ours beside retries alone, in every world; everybody's in messy ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from factflow_llm.errors import ConfigurationError
from simulators.policies.peers import absent_peers
from simulators.scenarios.pools import pool_suite
from simulators.scenarios.worlds import absent_worlds
from simulators.studies.pools import missed_by, run_pools
from simulators.studies.suite import contenders, run_suite, suite_report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from simulators.policies.base import Policy

SEEDS, OUR_SEEDS, MESSY_SEEDS, POOL_SEEDS = 20, 1, 1, 3
MESSY = (
    "burst-after-idling", "cold-bucket", "cold-minute", "crowds", "fleet-16", "fleet-2", "fleet-4", "fleet-8",
    "grows-slowly", "grows-tenfold", "idle-halved", "large-prompts", "noise-bucket", "noise-heavy", "noise-light",
    "noise-minute", "noise-moves", "restarts", "seconds-absent", "seconds-far", "sliding-bursty", "slots-far", "swings",
    "tails-both", "tails-untold", "told-hour-once", "told-long", "told-short",
)  # fmt: skip
"""What real callers meet: used-up windows, odd waits, noise, growth, idling, fleets, distance, tails."""


def ours(jobs: int | None = None) -> dict[str, str]:
    """Return the report of our limiter beside retries without any."""
    everybody = contenders()
    few = {name: everybody[name] for name in ("ours", "retry only")}
    return {"tests/golden/suite/ours.txt": _report(few, OUR_SEEDS, None, jobs)}


def everybody(jobs: int | None = None) -> dict[str, str]:
    """Return the report of everybody; needs the extra ``peers``, and names the releases that it measured."""
    return {"tests/golden/suite/everybody.txt": _report(_all_contenders(), SEEDS, None, jobs)}


def messy(jobs: int | None = None) -> dict[str, str]:
    """Return the report of everybody in the messy worlds; needs the extra ``peers``, too."""
    return {"tests/golden/suite/messy.txt": _report(_all_contenders(), MESSY_SEEDS, MESSY, jobs)}


def pools(jobs: int | None = None) -> dict[str, str]:
    """Return the report of the worlds of several accounts."""
    lines = [f"{POOL_SEEDS} seeds; durations relative to somebody who sees all accounts"]
    figures = run_pools(seeds=POOL_SEEDS)
    for name, pool in pool_suite().items():
        own = figures.loc[name]
        told = ", ".join(f"{figure} {value:.4g}" for figure, value in own.items())
        lines += [
            "",
            f"{name}: {pool.description}",
            f"  targets: {'; '.join(missed_by(pool.targets, own)) or 'met'}",
            f"  {told}",
        ]
    return {"tests/golden/suite/pools.txt": "\n".join(lines) + "\n"}


def _all_contenders() -> dict[str, Policy]:
    """Return everybody, or say who is missing: a report of fewer would pass for one of all."""
    _refuse_absent("limiter", absent_peers())
    return contenders()


def _refuse_absent(kind: str, absent: Mapping[str, str]) -> None:
    if absent:
        reasons = "; ".join(f"{name} ({why})" for name, why in absent.items())
        raise ConfigurationError(f"this report needs every {kind}; not here: {reasons}")


def _report(policies: Mapping[str, Policy], seeds: int, worlds: Sequence[str] | None, jobs: int | None) -> str:
    absent = absent_worlds()
    _refuse_absent("world", {name: why for name, why in absent.items() if worlds is None or name in worlds})
    return suite_report(run_suite(policies, seeds=seeds, worlds=worlds, jobs=jobs, progress=False))
