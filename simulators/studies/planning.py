"""How much quota a workload needs: the limiter is run on each provider as sold and at other sizes of its quota."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.signals import Axis
from simulators.engine.simulate import simulate
from simulators.numerals import readable
from simulators.progress import Progress, reporting
from simulators.providers import catalogue
from simulators.providers.catalogue import Provider
from simulators.providers.machine import ProviderMachine
from simulators.scenarios.demand import calls
from simulators.scenarios.scenario import Backlog, Scenario
from simulators.streams import Seeds, Streams, seeds_of
from simulators.studies.parallel import Jobs, processes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from simulators.traces import Trace

# Loads tried: the mean demand as a share of the quota, closest where waiting begins. Above 1 only bursts help.
_LOADS = (0.25, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5)


@dataclass(frozen=True, repr=False, eq=False)
class Plan:
    """What each provider's quota, and other sizes of it, would mean for a workload.

    Attributes:
        frame: one row per provider and size of quota: ``provider``, ``quota`` (1 is as sold), ``load`` (mean demand as
            a share of that quota), ``wait_p95_s`` (of all requests; ``inf`` where more than 5 % were never admitted),
            ``rejected_share``, ``unserved_share`` (without an answer at the end), and ``meets`` the bound.
        max_wait_p95_s: the bound of the wait's 95th percentile.
        workload: its name.
        providers: as sold.
    """

    frame: pd.DataFrame
    max_wait_p95_s: float
    workload: str
    providers: tuple[Provider, ...]

    @property
    def choice(self) -> str | None:
        """The first provider, in the order given, that is short enough as sold."""
        table = self.table()
        fitting = table.index[table["meets"]]
        return str(fitting[0]) if len(fitting) else None

    def table(self) -> pd.DataFrame:
        """Return one row per provider: what it does as sold, how much of it is needed, and what that is in units.

        ``quota_needed`` is the smallest size tried from which on every larger one is short enough too; NaN where
        none does. ``wait_p95_tighter_s`` is the wait at the next smaller size tried, some 5 % below.
        """
        rows = []
        for provider in self.providers:
            own = self.frame[self.frame["provider"] == provider.name].sort_values("quota", ignore_index=True)
            sold = own[own["quota"] == 1.0].iloc[0]
            first = _first_that_lasts(own["meets"].tolist())
            rows.append(
                {
                    "provider": provider.name,
                    "meets": bool(sold["meets"]),
                    "load": sold["load"],
                    "wait_p95_s": sold["wait_p95_s"],
                    "rejected_share": sold["rejected_share"],
                    "quota_needed": math.nan if first is None else own["quota"][first],
                    "needed": "more than was tried" if first is None else _units(provider, own["quota"][first]),
                    "wait_p95_tighter_s": own["wait_p95_s"][first - 1] if first else math.nan,
                }
            )
        return pd.DataFrame(rows).set_index("provider")

    def plot(self, *, ax: Axes | None = None, **line: object) -> Axes:
        """Draw the wait against the size of the quota; see ``sim.plot_plan``."""
        from simulators.plots.plans import plot_plan

        return plot_plan(self, ax=ax, **line)

    @property
    def headline(self) -> str:
        """What was asked, and the answer, in one line."""
        choice = self.choice
        fits = "no provider meets it as sold" if choice is None else f"{choice} meets it as sold"
        return f"{self.workload}: wait p95 at most {self.max_wait_p95_s:g} s; {fits}"

    def __repr__(self) -> str:
        return f"<Plan {self.headline}>\n{readable(self.table()).to_string()}"

    def _repr_html_(self) -> str:
        return f"<p><b>{self.headline}</b></p>{readable(self.table()).to_html()}"


def plan(
    trace: Trace | Backlog,
    *,
    providers: Provider | str | Sequence[Provider | str],
    max_wait_p95_s: float,
    config: RateLimitConfig | None = None,
    seeds: Seeds = 1,
    jobs: Jobs = None,
    progress: Progress = True,
) -> Plan:
    """Find which provider, or how much of its quota, keeps the wait's 95th percentile below a bound.

    Every size of quota is simulated, not computed: bursts, windows, token reservations and the limiter's own caution
    all take their part.

    Args:
        trace: what is asked.
        providers: one or more, from the one you would rather have, usually the cheapest.
        max_wait_p95_s: seconds from arrival to admission that 95 % of the requests may wait at most.
        config: the limiter's settings.
        seeds: how many worlds per size of quota, or which; figures are those of the worst.
        jobs: processes; ``None`` means one per core; or an executor, as in ``compare``.
        progress: a bar where somebody watches, none, or a function that hears (done, total).

    Raises:
        ConfigurationError: for an empty or closed-loop workload, no provider, or a number out of bounds.
    """
    given = [providers] if isinstance(providers, Provider | str) else providers
    tried = tuple(catalogue.provider(each) if isinstance(each, str) else each for each in given)
    chosen = seeds_of(seeds)
    trace = _checked(trace, tried, max_wait_p95_s)
    items = [
        (provider, quota, load, seed)
        for provider in tried
        for quota, load in _sizes(trace, provider)
        for seed in chosen
    ]
    measure = partial(_measure, trace, config or RateLimitConfig())
    with processes(jobs) as each, reporting(progress, len(items), "plan") as one_more:
        rows = []
        for row in each(measure, items):
            rows.append(row)
            one_more()
    frame = pd.DataFrame(rows).groupby(["provider", "quota", "load"], sort=False, as_index=False).max()
    return Plan(frame.assign(meets=frame["wait_p95_s"] <= max_wait_p95_s), float(max_wait_p95_s), trace.name, tried)


def _checked(trace: Trace | Backlog, tried: Sequence[Provider], max_wait_p95_s: float) -> Trace:
    if isinstance(trace, Backlog):
        msg = f"plan(): {trace.name} asks as fast as it is answered, so any quota fits; give a trace"
        raise ConfigurationError(msg)
    if len(trace) == 0:
        msg = f"plan(): {trace.name} holds no request; give a longer trace"
        raise ConfigurationError(msg)
    if not tried:
        msg = f"plan(): providers is empty; name some, for example {['openai-tier-1', 'openai-tier-3']}"
        raise ConfigurationError(msg)
    if len({provider.name for provider in tried}) < len(tried):
        msg = "plan(): two providers have one name; tell them apart: provider.model_copy(update={'name': ...})"
        raise ConfigurationError(msg)
    if not (math.isfinite(max_wait_p95_s) and max_wait_p95_s > 0):
        msg = f"plan(): max_wait_p95_s = {max_wait_p95_s!r} must be a finite number of seconds above 0"
        raise ConfigurationError(msg)
    return trace


def _sizes(trace: Trace, provider: Provider) -> list[tuple[float, float]]:
    """Return sizes of quota to try and the load each means: as sold, and around what the mean demand takes."""
    load_as_sold = mean_load(trace, provider)
    if load_as_sold == 0.0:
        return [(1.0, 0.0)]
    sizes = [(float(f"{load_as_sold / load:.3g}"), load) for load in _LOADS]
    return [
        (1.0, load_as_sold),
        *((quota, load) for quota, load in sizes if quota != 1.0 and _has_room(provider, quota)),
    ]


def mean_load(trace: Trace, provider: Provider) -> float:
    """Return the mean demand as a share of the quota that it fills most, charged by the provider's own rules."""
    machine, asked = (
        ProviderMachine(provider, Streams(0)),
        [call for _, call in calls(Scenario(trace, provider), Streams(0))],
    )
    per_s = len(asked) / max(trace.duration_s, 1.0)
    capacity, latency = machine.capacity(0.0), provider.latency
    loads = [0.0]
    for quota in provider.quotas:
        estimate, final = quota.cost_rule(), quota.final_rule()
        if quota.axis is Axis.CONCURRENCY:
            units = [latency.first_token_s + latency.per_token_s * call.output_tokens for call in asked]
        elif final is not None:
            units = [final(call, call.output_tokens) for call in asked]
        else:
            units = [1.0 if estimate is None else estimate(call) for call in asked]
        loads.append(per_s * math.fsum(units) / len(units) / capacity[quota.axis])
    return max(loads)


def _has_room(provider: Provider, quota: float) -> bool:
    try:
        ProviderMachine(provider, Streams(0)).scale(0.0, quota)
    except ValueError:
        return False
    return True


def _measure(trace: Trace, config: RateLimitConfig, item: tuple[Provider, float, float, int]) -> dict[str, object]:
    provider, quota, load, seed = item
    scenario = Scenario(trace, provider)
    result = simulate(scenario if quota == 1.0 else scenario.at(0.0, quota=quota), config, seed=seed)
    requests, tally = result.requests, result.run.tally
    for_ever = requests["wait_s"].isna() | (requests["outcome"] == "never_admissible")
    waits = requests["wait_s"].mask(for_ever, math.inf).to_numpy(dtype=np.float64)
    return {
        "provider": provider.name,
        "quota": quota,
        "load": load,
        "wait_p95_s": float(np.percentile(waits, 95, method="higher")),
        "rejected_share": tally.rejected / tally.attempts if tally.attempts else math.nan,
        "unserved_share": float((requests["outcome"] != "succeeded").mean()),
    }


def _first_that_lasts(meets: Sequence[bool]) -> int | None:
    """Return the first place from which on everything is true."""
    first = None
    for place in reversed(range(len(meets))):
        if not meets[place]:
            break
        first = place
    return first


def _units(provider: Provider, quota: float) -> str:
    parts = []
    for sold in provider.quotas:
        units = f"{float(f'{sold.limit * quota:.3g}'):,.10g} {str(sold.axis).replace('_', ' ')}"
        parts.append(units if sold.axis is Axis.CONCURRENCY else f"{units} per {sold.per_s:g} s")
    return ", ".join(parts)
