"""What came out, in words: is the quota too small, what does the limiter cost, where do 429s come from, what is gained.

Sentences are made from figures that stand in the tables above them, by fixed rules, so a test can hold them to those.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from simulators.engine.result import SimResult
from simulators.numerals import seconds_text, share_text
from simulators.policies.ours import Adaptive
from simulators.scenarios.load import mean_load
from simulators.scenarios.scenario import Backlog
from simulators.studies.comparison import Comparison, half_width
from simulators.studies.tuning import Study

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    import pandas as pd

    from simulators.studies.planning import Plan

ALL_DONE = 0.98
"""From this share of the oracle's goodput on, no setting can do noticeably better."""
LEFT = 0.005
"""From this share of unanswered requests on, they are spoken of."""
_FULL, _ROOMY = 1.0, 0.9
_SAME_S, _SAME_SHARE = 0.05, 0.02
_LONG_S = 1.0
_STORM_S, _FEW = 60.0, 10
_SAME_WORK = 0.01
_ORACLE = "oracle"


def verdict(found: SimResult | Comparison | Study | Plan, best: SimResult | None = None) -> str:
    """Say in a few sentences what a run, a comparison, a search or a plan shows.

    Args:
        found: what ``simulate``, ``compare``, ``tune`` or ``plan`` returned.
        best: of a run, the oracle's result in the same world, if it is at hand; otherwise it is run.

    Returns:
        One paragraph; of a comparison and of a plan, a line per scenario or provider.
    """
    if isinstance(found, SimResult):
        return _of_run(found, best or found.oracle)
    if isinstance(found, Comparison):
        return "\n".join(_of_scenario(found, str(name)) for name in found.frame["scenario"].unique())
    if isinstance(found, Study):
        return _of_study(found)
    return "\n".join(_of_provider(found, str(name)) for name in found.table().index)


def gained(held_out: Comparison, tuned: str, defaults: str) -> str:
    """Say what tuned settings gained over the defaults, and at which price, in worlds that the search never saw.

    Args:
        held_out: a comparison in which both took part.
        tuned: the name of the tuned settings in it.
        defaults: of the others.
    """
    differences = held_out.table(("goodput_ratio", "rejected_share", "wait_p95_s"), against=defaults)
    lines = []
    for name in held_out.frame["scenario"].unique():
        row = differences.loc[(name, tuned)]
        work, price, wait_s = (_moved(row[figure]["mean"], row[figure]["±"]) for figure in row.index.unique(0))
        parts = []
        if work:
            parts.append(f"{_points(work)} of the oracle's goodput")
        if price:
            parts.append(f"{_points(price)} of 429s")
        if wait_s:
            parts.append(f"{_signed(wait_s, seconds_text(abs(wait_s)))} of wait (p95)")
        better = work > 0 or (not work and (price < 0 or wait_s < 0))
        told = (
            "no difference that these worlds show" if not parts else f"{'' if better else 'worse: '}{', '.join(parts)}"
        )
        lines.append(f"{name}: {told}")
    seeds = held_out.seeds
    return (
        f"Tuned against the defaults, in worlds with seeds {seeds[0]} to {seeds[-1]}, not searched: {'; '.join(lines)}."
    )


def _of_run(result: SimResult, best: SimResult) -> str:
    figures, ideal = result.summary(best), best.summary(best)
    load = mean_load(result.scenario)
    who = "The limiter" if isinstance(result.policy, Adaptive) else result.policy.name
    said = [_of_demand(load, figures, may_help=isinstance(result.policy, Adaptive))]
    if load is not None and load <= _FULL and ideal["wait_p95_s"] > _LONG_S:
        said.append(
            f"For a while it is more: even the oracle's callers wait {seconds_text(ideal['wait_p95_s'])} (p95)."
        )
    said += [_of_cost(who, figures, ideal), _of_rejections(result, figures), _of_trouble(result)]
    said.append(_of_those_left_out(result, figures))
    return " ".join(part for part in said if part)


def _of_demand(load: float | None, figures: Mapping[str, float] | pd.Series[Any], *, may_help: bool = True) -> str:
    """Say how demand and quota relate, and whether settings can help."""
    if load is None:
        return ""
    if load == 0.0:
        return "The provider has no quota that demand could exceed."
    share = figures["answered_share"]
    lost = 1.0 - share
    if load > _FULL:
        size = f"Demand is {load:.3g} times the quota"
        if not lost >= LEFT:
            return f"{size}: the queue grows as long as that lasts, and all were answered only after it."
        told = f"{size}: {_part(lost)} of the requests were never answered"
        if figures["goodput_ratio"] >= ALL_DONE or not may_help:
            return f"{told} and no setting helps; plan says which tier does."
        return f"{told}, more than a quota of that size forces."
    size = f"Demand is {share_text(load)} of the quota"
    told = f"{size}, which leaves little room for bursts" if load > _ROOMY else size
    return f"{told}; yet {_part(lost)} of the requests were not answered." if lost >= LEFT else f"{told}."


def _of_cost(who: str, figures: pd.Series[Any], ideal: pd.Series[Any]) -> str:
    """Say what the policy costs in work and in waiting."""
    ratio, wait_s, least_s = figures["goodput_ratio"], figures["wait_p95_s"], ideal["wait_p95_s"]
    if math.isnan(ratio) or math.isnan(wait_s):
        return f"{who} got nothing answered." if figures["goodput"] == 0 and ideal["goodput"] > 0 else ""
    done = f"gets {share_text(ratio)} of the oracle's work done{', which is no bound here' if ratio > 1.0 else ''}"
    later_s = wait_s - least_s
    if abs(later_s) <= max(_SAME_S, _SAME_SHARE * least_s):
        return f"{who} adds no delay and {done}."
    if later_s > 0:
        return f"{who} {done} and adds {seconds_text(later_s)} to a wait of {seconds_text(least_s)} (p95)."
    return f"{who} {done}; those it serves wait less than the oracle's, which keeps the order of arrival."


def _of_rejections(result: SimResult, figures: pd.Series[Any]) -> str:
    """Say how many attempts were 429s, and whether they came in a storm."""
    share = figures["rejected_share"]
    if not share > 0:
        return "No attempt was rejected with a 429." if share == 0 else ""
    told = f"{share_text(share)} of the attempts are 429s"
    crowd = _crowded(_moments(result, "rate_limited"))
    if crowd is None:
        return f"{told}, spread over the run."
    since_s, part = crowd
    return f"{told}; {_part(part)} of them come from a storm at {since_s:.0f} s{_cause(result, since_s)}."


def _of_trouble(result: SimResult) -> str:
    """Say how many answers told of the provider's own trouble."""
    moments = _moments(result, "overloaded")
    if len(moments) < _FEW:
        return ""
    return (
        f"{len(moments):,} answers between {moments[0]:.0f} s and {moments[-1]:.0f} s were the provider's own trouble "
        "(500, 503, 529 or none in time), which no quota explains."
    )


def _of_those_left_out(result: SimResult, figures: pd.Series[Any]) -> str:
    """Say whose waits the figures leave out."""
    left = int(figures["unfinished"] + figures["failed"])
    if not left or isinstance(result.scenario.workload, Backlog):
        return ""
    requests = result.requests
    waiting = requests[requests["outcome"] == "unfinished"]
    longest = result.horizon_s - waiting["arrival_s"].min() if len(waiting) else math.nan
    oldest = "" if math.isnan(longest) else f", of whom the first had waited {seconds_text(longest)}"
    return f"Waits are of answered requests alone: they leave out {left:,} of {len(requests):,}{oldest}."


def _of_scenario(comparison: Comparison, name: str) -> str:
    own = comparison.frame[comparison.frame["scenario"] == name]
    means = own.groupby("policy", sort=False).mean(numeric_only=True)
    rivals = means.drop(index=_ORACLE, errors="ignore")
    head = f"{name}: " if len(comparison.frame["scenario"].unique()) > 1 else ""
    if rivals.empty or rivals["goodput_ratio"].isna().all():
        return f"{head}nobody but the oracle took part."
    first = str(rivals["goodput_ratio"].idxmax())
    demand = _of_demand(comparison.loads.get(name), _row(rivals, first))
    alike = [str(each) for each in rivals.index if _as_good(own, str(each), first)]
    best = str(rivals.loc[alike, "rejected_share"].idxmin())
    price = _priced(_row(rivals, best)["rejected_share"])
    worth = share_text(_row(rivals, best)["goodput_ratio"])
    if len(rivals) == 1:
        told = f"{best} gets {worth} of the oracle's work done; {price}."
    elif len(alike) == 1:
        told = f"{best} gets most done, {worth} of the oracle's; {price}."
    else:
        told = f"{_listed(alike)} get alike much done; of these {best} is rejected least: {price}."
    return " ".join(part for part in (head + demand if demand else head.rstrip(), told) if part)


def _of_study(study: Study) -> str:
    first, best = study.frame.iloc[0], study.best
    count = len(study.frame)
    left_out = (
        f"{study.left_out} that did better here lose more than {share_text(study.max_loss)} in other worlds, which a "
        "larger max_loss allows"
        if study.left_out
        else ""
    )
    if not best["feasible"]:
        kept = f"kept 429s at or below {share_text(study.max_rejected_share)} in every scenario"
        kept += " and lost little elsewhere" if left_out else ""
        nearest = f"the nearest, trial {int(best['trial'])}, has {share_text(best['worst_rejected_share'])}"
        remedy = "Try more trials or a larger bound" + (f"; {left_out}" if left_out else "")
        return f"None of {count} trials {kept}; {nearest}. {remedy}."
    done = f"{share_text(first['goodput_ratio'])} of the oracle's work"
    if best["trial"] == 0:
        stay = "there was next to nothing to gain" if first["goodput_ratio"] >= ALL_DONE else "the defaults stay"
        return f"None of {count} trials does better than the defaults, which get {done} done: {left_out or stay}."
    gain, price = (best[name] - first[name] for name in ("goodput_ratio", "worst_rejected_share"))
    before = "" if first["feasible"] else " The defaults break the bound."
    return (
        f"Trial {int(best['trial'])} of {count} is best where it was searched: {_points(gain)} of the oracle's goodput "
        f"beside the defaults, {_points(price)} of 429s in the worst scenario.{before}"
    )


def _of_provider(plan: Plan, name: str) -> str:
    row = _row(plan.table(), name)
    bound = seconds_text(plan.max_wait_p95_s)
    needed, load = row["quota_needed"], row["load"]
    if load == 0.0:
        return f"{name}: has no quota that demand could exceed."
    if math.isnan(needed):
        return (
            f"{name}: misses {bound}, filled to {share_text(load)}, and no size that was tried is enough: the wait is "
            "not for quota but for a limiter that begins without knowing it, or a bound that does not grow with it."
        )
    enough = f"{needed:.3g} times its quota is enough ({row['needed']})"
    if row["meets"]:
        return f"{name}: keeps 95 % of the waits at or below {bound}, filled to {share_text(load)}; {enough}."
    if load > _FULL:
        lost = row["unserved_share"]
        why = f"demand is {load:.3g} times the quota" + (f", {_part(lost)} was never answered" if lost >= LEFT else "")
    else:
        why = f"demand fills {share_text(load)} of the quota, its bursts more"
    return f"{name}: too small, {why}; {enough}."


def _row(frame: pd.DataFrame, name: str) -> dict[str, Any]:
    (row,) = frame.loc[[name]].to_dict("records")
    return {str(column): value for column, value in row.items()}


def _as_good(own: pd.DataFrame, name: str, first: str) -> bool:
    """Return whether the worlds show no difference in goodput between one and the first, or one of no weight."""
    by_policy = own.pivot_table(index="seed", columns="policy", values="goodput_ratio")
    lost = (by_policy[first] - by_policy[name]).tolist()
    mean, half = float(np.mean(lost)), half_width(lost)
    return mean <= max(_SAME_WORK, 0.0 if math.isnan(half) else half)


def _priced(rejected_share: float) -> str:
    return f"{share_text(rejected_share)} of its attempts are 429s" if rejected_share > 0 else "with no 429 at all"


def _moved(mean: float, half: float) -> float:
    """Return a difference, 0 where its interval contains 0."""
    return 0.0 if math.isnan(mean) or abs(mean) <= (0.0 if math.isnan(half) else half) else float(mean)


def _moments(result: SimResult, outcome: str) -> npt.NDArray[np.float64]:
    attempts = result.attempts
    return np.sort(attempts.loc[attempts["outcome"] == outcome, "admitted_s"].to_numpy(dtype=np.float64))


def _crowded(moments: npt.NDArray[np.float64]) -> tuple[float, float] | None:
    """Return where a minute holds half of all moments or more, and which share; ``None`` where none does."""
    if len(moments) < _FEW:
        return None
    held = np.searchsorted(moments, moments + _STORM_S, side="right") - np.arange(len(moments))
    fullest = int(np.argmax(held))
    share = float(held[fullest]) / len(moments)
    return (float(moments[fullest]), share) if share >= 0.5 else None


def _cause(result: SimResult, since_s: float) -> str:
    """Return what began in the minute before, and is the likely cause."""
    begun = [(event.time_s, f"after '{event.label}'") for event in result.events]
    begun += [(each.start_s, "when a neighbour comes") for each in result.scenario.neighbours]
    begun += [(each.start_s, f"with the provider's fault '{each.kind}'") for each in result.scenario.provider.faults]
    begun.append((0.0, "while the limiter does not know the quota yet"))
    near = [(time_s, told) for time_s, told in begun if since_s - _STORM_S <= time_s <= since_s + 1.0]
    return f", {max(near)[1]}" if near else ""


def _part(share: float) -> str:
    return "all" if share >= 1.0 else "half" if 0.49 <= share < 0.51 else share_text(share)


def _points(share: float) -> str:
    return _signed(share, f"{100 * abs(share):.2g} points") if share else "no difference"


def _signed(value: float, size: str) -> str:
    return f"{'+' if value > 0 else '−'}{size}"  # noqa: RUF001 - the typographic minus is as wide as the plus


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
