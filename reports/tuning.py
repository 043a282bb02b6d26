"""What tuning is worth: a search for settings that may lose in other worlds, and one for those that may not.

The provider shows no limit headers and counts a minute's tokens and ten seconds' requests at once. Whoever knows that
its quota stays as it is can do with fewer rejections than the defaults, which are made for quotas that move.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulators.scenarios.worlds import suite
from simulators.studies.tuning import MAX_LOSS, tune
from simulators.studies.verdict import verdict

if TYPE_CHECKING:
    from simulators.studies.tuning import Study

WORLD, TRIALS, SEED, SEEDS, MOST_REJECTED = "azure-blind", 16, 7, 2, 0.02
LOSSES = (0.15, MAX_LOSS)


def search(max_loss: float, jobs: int | None = None) -> Study:
    """Search in one world, for settings that lose no more than ``max_loss`` to the defaults in others."""
    scenario = suite()[WORLD].scenario
    return tune(
        scenario,
        trials=TRIALS,
        seed=SEED,
        seeds=SEEDS,
        jobs=jobs,
        max_rejected_share=MOST_REJECTED,
        max_loss=max_loss,
        progress=False,
    )


def tuning(jobs: int | None = None) -> dict[str, str]:
    """Return the report."""
    lines = [f"{TRIALS} trials in {WORLD}: {suite()[WORLD].description}"]
    for max_loss in LOSSES:
        study = search(max_loss, jobs)
        told = {name: text for name, text in study.provenance.items() if name not in ("factflow-llm", "optuna")}
        lines += [
            "",
            f"at most {max_loss:g} may be lost in any other world",
            *(f"  {key}: {told[key]}" for key in told),
        ]
        lines += [f"  {line}" for line in str(verdict(study)).splitlines()]
    return {"tests/golden/suite/tuning.txt": "\n".join(lines) + "\n"}
