"""Each preset under each policy in one line of text, one file per preset, so that a change is reviewed as a diff."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import simulators as sim
from factflow_llm.ratelimit.config import RateLimitConfig
from simulators.policies.by_the_book import by_the_book
from simulators.policies.ours import Adaptive
from simulators.studies.parallel import World, make_worlds, processes

if TYPE_CHECKING:
    from simulators.policies.base import Policy

SEED = 7
# Callers who never pause, and a quota that is halved when everybody has settled.
WORKLOAD = sim.backlog(workers=48, duration_s=240.0, input_tokens=1000.0, output_tokens=150.0, sigma=0.3)
POLICIES: dict[str, Policy] = {
    "oracle": sim.policies.oracle(),
    "retry only": sim.policies.retry_only(),
    "fixed rate": by_the_book(WORKLOAD),
    "classic AIMD": sim.policies.classic_aimd(),
    "ours": Adaptive(RateLimitConfig()),
}


def presets(jobs: int | None = None) -> dict[str, str]:
    """Return the text for each preset by its file's name, computed in so many processes."""
    scenarios = [sim.Scenario(WORKLOAD, name).at(120.0, quota=0.5, label="halved") for name in sim.provider_names()]
    worlds = make_worlds(scenarios, [SEED])
    with processes(jobs) as each:
        figures = list(each(partial(World.figures, policies=tuple(POLICIES.values())), worlds))
    return {
        f"tests/golden/{world.scenario.provider.name}.txt": "".join(map(_line, POLICIES, rows))
        for world, rows in zip(worlds, figures, strict=True)
    }


def _line(policy: str, figures: dict[str, float]) -> str:
    words = (
        f"goodput={figures['goodput']:.3f}/s",
        f"ratio={figures['goodput_ratio']:.3f}",
        f"rejected={figures['rejected_share']:.4f}",
        f"attempts/success={figures['attempts_per_success']:.3f}",
        *(f"{name}={figures[f'{name}_s']:.2f}s" for name in ("wait_p50", "wait_p95", "latency_p95")),
        f"recovery={_seconds(figures['recovery_s'])}",
        f"failed={figures['failed']:.0f}",
        f"unfinished={figures['unfinished']:.0f}",
    )
    return f"{policy:<13}{' '.join(words)}\n"


def _seconds(value: float) -> str:
    return "never" if math.isnan(value) else f"{value:.0f}s"
