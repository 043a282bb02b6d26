"""The suite's reports: everybody's limiter, or ours beside retries alone, in every world; everybody's in messy ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulators.studies.suite import contenders, run_suite, suite_report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from simulators.policies.base import Policy

SEEDS, OUR_SEEDS, MESSY_SEEDS = 20, 1, 1
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
    return {"tests/golden/suite/everybody.txt": _report(contenders(), SEEDS, None, jobs)}


def messy(jobs: int | None = None) -> dict[str, str]:
    """Return the report of everybody in the messy worlds; needs the extra ``peers``, too."""
    return {"tests/golden/suite/messy.txt": _report(contenders(), MESSY_SEEDS, MESSY, jobs)}


def _report(policies: Mapping[str, Policy], seeds: int, worlds: Sequence[str] | None, jobs: int | None) -> str:
    return suite_report(run_suite(policies, seeds=seeds, worlds=worlds, jobs=jobs, progress=False))
