"""Compare policies over scenarios and seeds: every policy meets the same worlds, so differences are paired."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from factflow_llm.errors import ConfigurationError
from simulators.policies.ours import as_policy
from simulators.progress import Progress, reporting
from simulators.scenarios.load import mean_load
from simulators.studies.journal import opened
from simulators.studies.parallel import Jobs, World, make_worlds, processes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from factflow_llm.ratelimit.config import RateLimitConfig
    from simulators.policies.base import Policy
    from simulators.scenarios.scenario import Scenario
    from simulators.streams import Seeds

HEADLINES = ("goodput_ratio", "rejected_share", "attempts_per_success", "wait_p95_s")

# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom.
_T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True, repr=False, eq=False)
class Comparison:
    """What each policy made of each world.

    Attributes:
        frame: one row per scenario, policy and seed, with every name of ``SimResult.summary``.
        clients: independent clients on each provider's quota.
        loads: by scenario, the mean demand as a share of the quota; ``None`` for a backlog.
    """

    frame: pd.DataFrame
    clients: int
    loads: Mapping[str, float | None] = field(default_factory=dict)

    def table(self, figures: Sequence[str] = HEADLINES, *, against: str | None = None) -> pd.DataFrame:
        """Return means over the seeds and half the width of their 95 % confidence intervals.

        Rows are scenario and policy; columns are figure and ``mean`` or ``±``. A mean over seeds of which one has no
        such figure (a recovery that never came) is NaN, as is the interval of a single seed.

        Args:
            figures: names of ``SimResult.summary``.
            against: a policy; rows are then the others' differences from it, seed by seed, which is much sharper than
                comparing two intervals.

        Raises:
            ConfigurationError: for a figure or a policy that is not in the frame.
        """
        _require(figures, list(self.frame.columns[3:]), "figure")
        frame = self.frame
        if against is not None:
            _require([against], list(frame["policy"].unique()), "policy")
            frame = _differences(frame, figures, against)
        groups = frame.groupby(["scenario", "policy"], sort=False)[list(figures)]
        parts = {"mean": groups.agg(_mean), "±": groups.agg(_half_width)}
        table = pd.concat(parts, axis=1).swaplevel(axis=1)
        return table[[(figure, part) for figure in figures for part in parts]]

    def text(self, figures: Sequence[str] = HEADLINES, *, against: str | None = None) -> pd.DataFrame:
        """Return ``table`` for the eye: one column per figure, ``mean ± half width``."""
        table = self.table(figures, against=against)
        columns = {figure: [shown(*row) for row in table[figure].to_numpy()] for figure in figures}
        return pd.DataFrame(columns, table.index)

    @property
    def seeds(self) -> list[int]:
        """The seeds, in order."""
        return [int(seed) for seed in self.frame["seed"].unique()]

    def _headline(self) -> str:
        clients = f", {self.clients} clients" if self.clients > 1 else ""
        return f"{len(self.seeds)} seeds{clients}; mean ± half a 95 % confidence interval"

    def __repr__(self) -> str:
        return f"<Comparison {self._headline()}>\n{self.text().to_string()}"

    def _repr_html_(self) -> str:
        return f"<p>{self._headline()}</p>{self.text().to_html()}"


def compare(
    scenarios: Scenario | Sequence[Scenario],
    policies: Mapping[str, Policy | RateLimitConfig],
    *,
    seeds: Seeds = 20,
    clients: int = 1,
    jobs: Jobs = None,
    progress: Progress = True,
    journal: str | Path | None = None,
) -> Comparison:
    """Run every policy in every scenario with every seed; figures do not depend on ``jobs``.

    Args:
        scenarios: one or more.
        policies: what to compare, by the name that the frame shall give it.
        seeds: how many worlds per scenario, or which.
        clients: independent clients that share the provider's quota.
        jobs: processes; ``None`` means one per core, 1 starts none. Any ``concurrent.futures.Executor`` will do, a Dask
            cluster's for example: ``dask.distributed.Client(address).get_executor()``.
        progress: a bar where somebody watches, none, or a function that hears (done, total).
        journal: a file that keeps every finished run; interrupted, the same call with it goes on where it stopped.

    Raises:
        ConfigurationError: naming the value and the remedy.
    """
    if not policies:
        msg = 'policies is empty; give some by name: {"ours": RateLimitConfig(), "fixed": policies.fixed_rate(8)}'
        raise ConfigurationError(msg)
    if clients < 1:
        msg = f"clients = {clients!r} must be at least 1"
        raise ConfigurationError(msg)
    chosen = {name: as_policy(policy) for name, policy in policies.items()}
    worlds = make_worlds(scenarios, seeds, clients)
    rows = []
    figures_of = partial(World.figures, policies=tuple(chosen.values()))
    with (
        opened(journal, worlds, *chosen, *chosen.values()) as kept,
        processes(jobs) as each,
        reporting(progress, len(worlds), "compare") as one_more,
    ):
        for world, summaries in zip(worlds, each(figures_of, worlds, kept), strict=True):
            rows += [
                {"scenario": world.name, "policy": name, "seed": world.seed} | figures
                for name, figures in zip(chosen, summaries, strict=True)
            ]
            one_more()
    loads = {world.name: mean_load(world.scenario) for world in {each.name: each for each in worlds}.values()}
    return Comparison(pd.DataFrame(rows), clients, loads)


def half_width(values: Sequence[float]) -> float:
    """Return half the width of the 95 % confidence interval of the mean (Student's t); NaN for a single value."""
    freedom = len(values) - 1
    if freedom < 1:
        return math.nan
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / freedom
    quantile = _T_975[freedom - 1] if freedom <= len(_T_975) else 1.96 + 2.372 / freedom + 2.823 / freedom**2
    return quantile * math.sqrt(variance / len(values))


def shown(mean: float, half: float) -> str:
    """Return a mean and its interval for the eye; a dash where there is none."""
    if math.isnan(mean):
        return "-"
    digits = 4 if abs(mean) < 10 else 1
    return f"{mean:.{digits}f}" if math.isnan(half) else f"{mean:.{digits}f} ± {half:.{digits}f}"


def _differences(frame: pd.DataFrame, figures: Sequence[str], against: str) -> pd.DataFrame:
    baseline = frame[frame["policy"] == against].set_index(["scenario", "seed"])
    others = frame[frame["policy"] != against]
    partners = baseline.loc[pd.MultiIndex.from_frame(others[["scenario", "seed"]])]
    return others.assign(**{figure: others[figure].to_numpy() - partners[figure].to_numpy() for figure in figures})


def _mean(values: pd.Series[float]) -> float:
    return math.fsum(values) / len(values)


def _half_width(values: pd.Series[float]) -> float:
    return half_width(values.tolist())


def _require(given: Sequence[str], known: Sequence[str], what: str) -> None:
    for name in given:
        if name not in known:
            msg = f"no {what} is called {name!r}; known: {', '.join(known)}"
            raise ConfigurationError(msg)
