"""How much quota a workload needs: the limiter is run on each provider as sold and at other sizes of its quota."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
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
from simulators.scenarios.load import mean_load
from simulators.scenarios.scenario import Backlog, QuotaChange, Scenario
from simulators.streams import Seeds, Streams, seeds_of
from simulators.studies.journal import opened
from simulators.studies.parallel import Jobs, processes, quotas
from simulators.traces import Trace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes


# Loads tried: the mean demand as a share of the quota, closest where waiting begins. Above 1 only bursts help.
_LOADS = (0.25, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5)


_WAITS = ("wait_p95_s", "wait_p95_tighter_s")


@dataclass(frozen=True, repr=False, eq=False)
class Plan:
    """What each provider's quota, and other sizes of it, would mean for a workload.

    Attributes:
        frame: one row per provider and size of quota: ``provider``, ``quota`` (1 is as sold), ``load`` (mean demand as
            a share of that quota), ``wait_p95_s`` (of all requests; ``inf`` where more than 5 % were never admitted),
            ``rejected_share``, ``unserved_share`` (without an answer at the end), and ``meets`` the bound.
        max_wait_p95_s: the bound of the wait's 95th percentile.
        workload: its name.
        providers: as sold; those of one name have their quotas after it.
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
                    "unserved_share": sold["unserved_share"],
                    "rejected_share": sold["rejected_share"],
                    "quota_needed": math.nan if first is None else own["quota"][first],
                    "needed": "more than was tried" if first is None else _units(provider, own["quota"][first]),
                    "wait_p95_tighter_s": own["wait_p95_s"][first - 1] if first else math.nan,
                }
            )
        return pd.DataFrame(rows).set_index("provider")

    def text(self) -> pd.DataFrame:
        """Return ``table`` for the eye."""
        table = self.table()
        waits = {name: table[name].astype(object).where(table[name] != math.inf, "never") for name in _WAITS}
        return readable(table.assign(**waits))

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
        return f"<Plan {self.headline}>\n{self.text().to_string()}"

    def _repr_html_(self) -> str:
        return f"<p><b>{self.headline}</b></p>{self.text().to_html()}"


def plan(
    trace: Trace | Scenario | Sequence[Scenario],
    *,
    providers: Provider | str | Sequence[Provider | str] = (),
    max_wait_p95_s: float,
    config: RateLimitConfig | None = None,
    clients: int = 1,
    shared: bool = False,
    seeds: Seeds = 1,
    jobs: Jobs = None,
    progress: Progress = True,
    journal: str | Path | None = None,
) -> Plan:
    """Find which provider, or how much of its quota, keeps the wait's 95th percentile below a bound.

    Every size of quota is simulated, not computed: bursts, windows, token reservations and the limiter's own caution
    all take their part.

    Args:
        trace: what is asked; or scenarios, whose events and neighbours happen to every provider and size of quota.
        providers: one or more, from the one you would rather have, usually the cheapest; by default the scenarios' own.
        max_wait_p95_s: seconds from arrival to admission that 95 % of the requests may wait at most.
        config: the limiter's settings.
        clients: independent clients that share the quota.
        shared: whether they share what they learn, too, as in ``simulate``.
        seeds: how many worlds per size of quota, or which; figures are those of the worst world and scenario.
        jobs: processes; ``None`` means one per core; or an executor, as in ``compare``.
        progress: a bar where somebody watches, none, or a function that hears (done, total).
        journal: a file that keeps every finished run; interrupted, the same call with it goes on where it stopped.

    Raises:
        ConfigurationError: for an empty or closed-loop workload, no provider, or a number out of bounds.
    """
    given = [providers] if isinstance(providers, Provider | str) else providers
    named = [catalogue.provider(each) if isinstance(each, str) else each for each in given]
    scenarios = _scenarios(trace, named)
    tried = _told_apart(named or list({id(each.provider): each.provider for each in scenarios}.values()))
    chosen = seeds_of(seeds)
    _check(scenarios, tried, max_wait_p95_s, clients)
    items = [
        (replace(scenario, provider=provider), quota, load, seed)
        for provider in tried
        for quota, load in _sizes(scenarios, provider)
        for scenario, seed in itertools.product(scenarios, chosen)
    ]
    measure = partial(_measure, config or RateLimitConfig(), clients, shared)
    with (
        opened(journal, items, config, clients, shared) as kept,
        processes(jobs) as each,
        reporting(progress, len(items), "plan") as one_more,
    ):
        rows = []
        for row in each(measure, items, kept):
            rows.append(row)
            one_more()
    frame = pd.DataFrame(rows).groupby(["provider", "quota", "load"], sort=False, as_index=False).max()
    name = ", ".join(dict.fromkeys(scenario.workload.name for scenario in scenarios))
    return Plan(frame.assign(meets=frame["wait_p95_s"] <= max_wait_p95_s), float(max_wait_p95_s), name, tried)


def _scenarios(workload: Trace | Scenario | Sequence[Scenario], named: Sequence[Provider]) -> list[Scenario]:
    if isinstance(workload, Scenario):
        return [workload]
    if not isinstance(workload, Trace | Backlog):
        return list(workload)
    if not named:
        msg = f"plan(): providers is empty; name some, for example {['openai-tier-1', 'openai-tier-3']}"
        raise ConfigurationError(msg)
    return [Scenario(workload, named[0])]


def _told_apart(tried: Sequence[Provider]) -> tuple[Provider, ...]:
    """Return the providers, those of one name with their quotas after it."""
    names = [provider.name for provider in tried]
    return tuple(
        provider
        if names.count(provider.name) == 1
        else provider.model_copy(update={"name": f"{provider.name} ({quotas(provider)})"})
        for provider in tried
    )


def _check(scenarios: Sequence[Scenario], tried: Sequence[Provider], max_wait_p95_s: float, clients: int) -> None:
    for scenario in scenarios:
        workload = scenario.workload
        if isinstance(workload, Backlog):
            msg = f"plan(): {workload.name} asks as fast as it is answered, so any quota fits; give a trace"
            raise ConfigurationError(msg)
        if len(workload) == 0:
            msg = f"plan(): {workload.name} holds no request; give a longer trace"
            raise ConfigurationError(msg)
    if not scenarios:
        msg = "plan(): no scenario; give a trace, a scenario, or several"
        raise ConfigurationError(msg)
    if len({provider.name for provider in tried}) < len(tried):
        msg = f"plan(): {tried[-1].name} stands twice among the providers; name each once"
        raise ConfigurationError(msg)
    if not (math.isfinite(max_wait_p95_s) and max_wait_p95_s > 0):
        msg = f"plan(): max_wait_p95_s = {max_wait_p95_s!r} must be a finite number of seconds above 0"
        raise ConfigurationError(msg)
    if clients < 1:
        msg = f"plan(): clients = {clients!r} must be at least 1"
        raise ConfigurationError(msg)


def _sizes(scenarios: Sequence[Scenario], provider: Provider) -> list[tuple[float, float]]:
    """Return sizes of quota to try and the load each means: as sold, and around what the mean demand takes."""
    load_as_sold = max(mean_load(replace(scenario, provider=provider)) or 0.0 for scenario in scenarios)
    if load_as_sold == 0.0:
        return [(1.0, 0.0)]
    sizes = [(float(f"{load_as_sold / load:.3g}"), load) for load in _LOADS]
    least = min([1.0, *(each.quota for scenario in scenarios for each in _changes(scenario))])
    return [
        (1.0, load_as_sold),
        *((quota, load) for quota, load in sizes if quota != 1.0 and _has_room(provider, quota * least)),
    ]


def _changes(scenario: Scenario) -> list[QuotaChange]:
    return [event for event in scenario.events if isinstance(event, QuotaChange)]


def _sized(scenario: Scenario, quota: float) -> Scenario:
    """Return the scenario with quotas of another size: from the start, and after each of its events."""
    if quota == 1.0:
        return scenario
    events = [
        replace(event, quota=event.quota * quota) if isinstance(event, QuotaChange) else event
        for event in scenario.events
    ]
    return replace(scenario, events=(QuotaChange(0.0, f"quota x {quota:g}", quota), *events))


def _has_room(provider: Provider, quota: float) -> bool:
    try:
        ProviderMachine(provider, Streams(0)).scale(0.0, quota)
    except ValueError:
        return False
    return True


def _measure(
    config: RateLimitConfig, clients: int, shared: bool, item: tuple[Scenario, float, float, int]
) -> dict[str, str | float]:
    scenario, quota, load, seed = item
    result = simulate(_sized(scenario, quota), config, seed=seed, clients=clients, shared=shared)
    requests, tally = result.requests, result.run.tally
    for_ever = requests["wait_s"].isna() | (requests["outcome"] == "never_admissible")
    waits = requests["wait_s"].mask(for_ever, math.inf).to_numpy(dtype=np.float64)
    return {
        "provider": scenario.provider.name,
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
