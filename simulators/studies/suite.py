"""The suite: every limiter in every world of ``presets/suite``, and a report that holds each to the targets.

``factflow-llm compare --suite`` runs it. The world called ``random`` is another one for each seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import pandas as pd

from factflow_llm.errors import ConfigurationError
from factflow_llm.tables import nearest
from simulators.policies import published
from simulators.policies.ours import as_policy
from simulators.policies.peers import PEERS, Peer, peers
from simulators.policies.yardsticks import classic_aimd, retry_only
from simulators.progress import Progress, reporting
from simulators.scenarios.scenario import Restart
from simulators.scenarios.worlds import MeasuredWorld, Targets, absent_worlds, random_worlds, read_world, suite
from simulators.streams import Seeds, seeds_of
from simulators.studies.comparison import Comparison, half_width, shown
from simulators.studies.journal import opened
from simulators.studies.parallel import Jobs, World, processes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from factflow_llm.ratelimit.config import RateLimitConfig
    from simulators.policies.base import Policy

__all__ = [
    "OURS",
    "RANDOM",
    "MeasuredWorld",
    "absent_worlds",
    "contenders",
    "dominators",
    "missed",
    "random_worlds",
    "read_world",
    "run_suite",
    "suite",
    "suite_report",
]

OURS = "ours"
RANDOM = "random"
_UNLIMITED = "retry only"
_NOBODY_LEARNS = {peer.name for peer in PEERS if isinstance(peer, Peer) and peer.told}


def contenders() -> dict[str, Policy]:
    """Return ours and all others that can run here, by name."""
    plain = (
        as_policy(None),
        retry_only(),
        classic_aimd(),
        published.netflix_aimd(),
        published.vector_arc(),
        published.polars(),
    )
    return {policy.name: policy for policy in plain} | peers()


def run_suite(
    policies: Mapping[str, Policy | RateLimitConfig] | None = None,
    *,
    seeds: Seeds = 20,
    jobs: Jobs = None,
    worlds: Sequence[str] | None = None,
    progress: Progress = True,
    journal: str | Path | None = None,
) -> Comparison:
    """Run every policy in every world of the suite with every seed; figures do not depend on ``jobs``.

    Besides the names of ``SimResult.summary`` the frame has ``rejected`` (429s in all), ``recovery_0_s``,
    ``recovery_1_s`` … and ``goodput_after_0`` … (from the start and from each event).

    Args:
        policies: what to run, by name; by default all ``contenders``.
        seeds: how many worlds of each kind, or which.
        jobs: processes; ``None`` means one per core; or an executor, as in ``compare``.
        worlds: names, if not all of the suite and ``random``.
        progress: as in ``compare``.
        journal: as in ``compare``.

    Raises:
        ConfigurationError: naming the value and the remedy.
    """
    chosen = {name: as_policy(policy) for name, policy in (policies or contenders()).items()}
    todo = list(_worlds(worlds, seeds_of(seeds)))
    rows = []
    measured = partial(measure, policies=chosen)
    with (
        opened(journal, todo, *chosen, *chosen.values()) as kept,
        processes(jobs) as each,
        reporting(progress, len(todo), "suite") as one_more,
    ):
        for found in each(measured, todo, kept):
            rows += found
            one_more()
    return Comparison(pd.DataFrame(rows), clients=1)


def _worlds(names: Sequence[str] | None, seeds: tuple[int, ...]) -> Iterator[World]:
    known = suite()
    for name in [*known, RANDOM] if names is None else names:
        if name == RANDOM:
            drawn = list(random_worlds(max(seeds) + 1).values())
            yield from (World(drawn[seed].scenario, RANDOM, seed, drawn[seed].clients) for seed in seeds)
        elif name in known:
            world = known[name]
            yield from (World(world.scenario, name, seed, world.clients, world.shared) for seed in seeds)
        else:
            absent = absent_worlds().get(name)
            msg = f"world {name!r}: {absent or f'there is none in the suite{nearest(name, [*known, RANDOM])}'}"
            raise ConfigurationError(msg)


def measure(world: World, policies: Mapping[str, Policy]) -> list[dict[str, str | float]]:
    """Return the rows of ``run_suite``'s frame for one world."""
    best = world.oracle()
    rows: list[dict[str, str | float]] = []
    for name, policy in policies.items():
        result = world.run(policy)
        figures = result.summary(best)
        attempts = figures["attempts_per_success"] * figures["goodput"] * world.scenario.horizon_s
        further: dict[str, float] = {}
        if world.name != RANDOM:  # its events are not comparable
            further |= {f"recovery_{mark}_s": float(took) for mark, took in enumerate(result.recovery(best))}
            further |= {f"goodput_after_{mark}": float(share) for mark, share in enumerate(result.shares(best))}
        further["rejected"] = round(figures["rejected_share"] * attempts)
        rows.append(
            {
                "scenario": world.name,
                "policy": name,
                "seed": world.seed,
                **{str(figure): float(value) for figure, value in figures.items()},
                **further,
            }
        )
    return rows


@dataclass(frozen=True)
class _Figures:
    """Means over seeds and half widths of their intervals, of one policy in one world."""

    frame: pd.DataFrame

    def of(self, figure: str) -> tuple[float, float]:
        """Return mean and half width; NaN where a seed has no such figure."""
        if figure not in self.frame:
            return math.nan, math.nan
        values = self.frame[figure].tolist()
        return math.fsum(values) / len(values), half_width(values)

    def mean(self, figure: str) -> float:
        """Return the mean."""
        return self.of(figure)[0]


def missed(targets: Targets, comparison: Comparison, world: str, policy: str = OURS) -> list[str]:
    """Return in words what a policy missed of the world's targets; a figure that is missing is missed."""
    figures = _figures(comparison, world, policy)
    bounds: list[tuple[str, float | None, bool]] = [
        ("goodput_ratio", targets.goodput_ratio, True),
        ("rejected_share", targets.rejected_share, False),
        ("rejected", targets.rejected, False),
        ("jain", targets.jain, True),
        *((f"recovery_{mark}_s", bound, False) for mark, bound in enumerate(targets.recovery_s)),
        *((f"goodput_after_{mark}", bound, True) for mark, bound in enumerate(targets.goodput_after) if bound),
    ]
    if targets.added_wait_p99_s is not None:
        without = _figures(comparison, world, _UNLIMITED).mean("wait_p99_s")
        bounds.append(("wait_p99_s", without + targets.added_wait_p99_s, False))
    words = []
    for figure, bound, at_least in bounds:
        if bound is None:
            continue
        mean = figures.mean(figure)
        if not (mean >= bound if at_least else mean <= bound):
            words.append(f"{figure} {mean:.4g} {'<' if at_least else '>'} {bound:.4g}")
    return words


def dominators(comparison: Comparison, world: str, policy: str = OURS) -> list[str]:
    """Return who has both more goodput and fewer 429s than a policy in a world, on average over seeds."""
    ours = _figures(comparison, world, policy)
    names = comparison.frame["policy"].unique()
    return [
        str(name)
        for name in names
        if name != policy
        and _figures(comparison, world, name).mean("goodput_ratio") > ours.mean("goodput_ratio")
        and _figures(comparison, world, name).mean("rejected_share") < ours.mean("rejected_share")
    ]


def suite_report(comparison: Comparison) -> str:
    """Return what ``run_suite`` found, as text: targets and frontier for ours, then every policy in every world."""
    worlds = [str(name) for name in comparison.frame["scenario"].unique()]
    known = suite() if set(worlds) - {RANDOM} else {}
    policies = [str(name) for name in comparison.frame["policy"].unique()]
    counts = f"{len(worlds)} worlds, {len(policies)} policies, {len(comparison.seeds)} paired seeds"
    lines = [f"{counts}; mean ± half a 95 % confidence interval over seeds", *_versions(policies)]
    if OURS in policies:
        lines += ["", *_verdicts(comparison, worlds, known)]
    for world in worlds:
        about, marks = "Another world for each seed, drawn at random.", 0
        if world in known:
            about, events = known[world].description, known[world].scenario.events
            marks = 0 if any(isinstance(event, Restart) for event in events) else 1 + len(events)
        lines += ["", f"{world}: {about}", *_block(comparison, world, policies, marks)]
    return "\n".join(lines) + "\n"


def _verdicts(comparison: Comparison, worlds: Sequence[str], known: Mapping[str, MeasuredWorld]) -> list[str]:
    rows, short, behind = [], 0, 0
    for world in worlds:
        targets = known[world].targets if world in known else Targets()
        misses = missed(targets, comparison, world)
        better = dominators(comparison, world)
        learning = [name for name in better if name not in _NOBODY_LEARNS]
        short, behind = short + bool(misses), behind + bool(learning)
        verdict = "-" if targets == Targets() else "; ".join(misses) or "met"
        told = [f"({name})" for name in better if name in _NOBODY_LEARNS]
        rows.append((world, verdict, ", ".join([*learning, *told]) or "nobody"))
    asked = sum(known[world].targets != Targets() for world in worlds if world in known)
    met, ahead = f"{asked - short} of {asked} worlds that set some", f"{len(worlds) - behind} of {len(worlds)}"
    return [
        f"ours: targets met in {met}; on the frontier in {ahead}",
        *_columns(("world", "targets", "more goodput and fewer 429s has (who is told the rate)"), rows),
    ]


def _block(comparison: Comparison, world: str, policies: Sequence[str], marks: int) -> list[str]:
    present = comparison.frame[comparison.frame["scenario"] == world]
    figures = ["goodput_ratio", "rejected_share", "wait_p99_s", "failed"]
    figures += ["jain"] if "jain" in present and present["jain"].notna().any() else []
    rows = []
    for policy in policies:
        own = _figures(comparison, world, policy)
        recovery = " / ".join(_seconds(own.mean(f"recovery_{mark}_s")) for mark in range(marks))
        rows.append((policy, *(shown(*own.of(figure)) for figure in figures), recovery))
    return _columns(("policy", *figures, "recovery_s" if marks else ""), rows)


def _figures(comparison: Comparison, world: str, policy: str) -> _Figures:
    frame = comparison.frame
    return _Figures(frame[(frame["scenario"] == world) & (frame["policy"] == policy)])


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]


def _seconds(mean: float) -> str:
    return "never" if math.isnan(mean) else f"{mean:.0f}"


def _versions(policies: Sequence[str]) -> list[str]:
    """Return which releases of others took part."""
    packages = dict.fromkeys(peer.package for peer in PEERS if peer.name in policies)
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:  # importable without being installed
            found.append(package)
    return [f"with {', '.join(found)}"] if found else []
