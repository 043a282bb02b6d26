"""The suite's reports: everybody's limiter, or ours beside retries alone, in every world."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulators.studies.suite import contenders, run_suite, suite_report

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simulators.policies.base import Policy

SEEDS = 20


def ours(jobs: int | None = None) -> dict[str, str]:
    """Return the report of our limiter beside retries without any."""
    everybody = contenders()
    return {"tests/golden/suite/ours.txt": _report({name: everybody[name] for name in ("ours", "retry only")}, jobs)}


def everybody(jobs: int | None = None) -> dict[str, str]:
    """Return the report of everybody; needs the extra ``peers``, and names the releases that it measured."""
    return {"tests/golden/suite/everybody.txt": _report(contenders(), jobs)}


def _report(policies: Mapping[str, Policy], jobs: int | None) -> str:
    return suite_report(run_suite(policies, seeds=SEEDS, jobs=jobs, progress=False))
