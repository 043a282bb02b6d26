"""Pools measured: every choice of so many accounts side by side, and the worlds of several accounts that we keep."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from factflow_llm.errors import ConfigurationError
from simulators.engine.pooled import simulate_pool
from simulators.scenarios.pools import pool_suite
from simulators.streams import Seeds, seeds_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from factflow_llm.ratelimit.config import RateLimitConfig
    from simulators.engine.pooled import PoolResult
    from simulators.scenarios.pools import MeasuredPool, PoolTargets
    from simulators.scenarios.scenario import Scenario


def plan_pool(
    accounts: Mapping[str, Scenario],
    take: int = 2,
    *,
    config: RateLimitConfig | None = None,
    workers: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Run every choice of ``take`` accounts as a pool; return a row for each, the quickest first.

    Columns: ``accounts``, ``duration_s`` (when the last request ended), ``latency_p50_s`` and ``latency_p95_s`` (from
    arrival to end), ``rejected_share`` (429s of attempts), ``failed`` (requests that nobody answered).

    Args:
        accounts: a scenario per account, as for ``simulate_pool``.
        take: how many accounts a pool has.
        config: settings of each account's limiter.
        workers: as for ``simulate_pool``.
        seed: decides every random draw.

    Raises:
        ConfigurationError: there are not so many accounts, or as of ``simulate_pool``.
    """
    if not 1 <= take <= len(accounts):
        raise ConfigurationError(
            f"plan_pool(): take = {take!r} must be from 1 to the {len(accounts)} accounts there are"
        )
    rows = []
    for names in itertools.combinations(accounts, take):
        chosen = {name: accounts[name] for name in names}
        rows.append({"accounts": " + ".join(names), **_told(simulate_pool(chosen, config, workers=workers, seed=seed))})
    return pd.DataFrame(rows).sort_values(["failed", "duration_s", "latency_p95_s"], ignore_index=True)


def run_pools(
    pools: Mapping[str, MeasuredPool] | None = None, *, config: RateLimitConfig | None = None, seeds: Seeds = 3
) -> pd.DataFrame:
    """Run worlds of several accounts; return a row for each, with means over seeds.

    Columns: ``duration_ratio`` (until the last request ended, relative to somebody who sees all accounts), and
    ``duration_s``, ``latency_p50_s``, ``latency_p95_s``, ``rejected_share`` and ``failed`` as of ``plan_pool``.

    Args:
        pools: by name; by default those that come with the package.
        config: settings of each account's limiter.
        seeds: how many, or which.
    """
    rows = {}
    for name, pool in (pool_suite() if pools is None else pools).items():
        told = []
        for seed in seeds_of(seeds):
            run = simulate_pool(pool.accounts, config, workers=pool.workers, fallback=pool.fallback, seed=seed)
            told.append({"duration_ratio": run.duration_s / run.oracle_s, **_told(run)})
        rows[name] = pd.DataFrame(told).mean()
    return pd.DataFrame(rows).T


def missed_by(targets: PoolTargets, figures: Mapping[str, float]) -> list[str]:
    """Return in words what the figures of a pool miss of its targets."""
    bounds = targets.model_dump(exclude_none=True)
    return [f"{name} {figures[name]:.4g} > {bound:.4g}" for name, bound in bounds.items() if not figures[name] <= bound]


def _told(result: PoolResult) -> dict[str, float]:
    requests = result.requests
    answered = requests[requests["error"] == ""]
    latency_s = (answered["end_s"] - answered["arrival_s"]).to_numpy()
    median_s, late_s = np.percentile(latency_s, [50, 95]) if len(latency_s) else (np.nan, np.nan)
    return {
        "duration_s": result.duration_s,
        "latency_p50_s": float(median_s),
        "latency_p95_s": float(late_s),
        "rejected_share": float((result.attempts["outcome"] == "rate_limited").mean()),
        "failed": float(len(requests) - len(answered)),
    }
