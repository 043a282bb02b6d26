"""Pictures of many runs: which policy wins, and how a search went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from simulators.plots import look
from simulators.studies.comparison import half_width

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from simulators.studies.comparison import Comparison
    from simulators.studies.tuning import Study

_SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_LINEAR_BELOW = 0.02
_TOP = 1.25
"""Single worlds are shown up to so many times the best mean."""


def frontier(comparison: Comparison) -> pd.DataFrame:
    """Return each policy's mean ``goodput_ratio`` and ``rejected_share``, and half the width of their 95 % intervals.

    Scenarios are averaged first, seed by seed; the intervals are over the seeds. The index is ``policy``, in the order
    in which policies were given.
    """
    figures = ["goodput_ratio", "rejected_share"]
    by_seed = comparison.frame.groupby(["policy", "seed"], sort=False)[figures].mean()
    groups = by_seed.groupby(level="policy", sort=False)
    halves = groups.agg(_half_width)
    return groups.mean().join(halves.add_suffix("_half"))


def plot_frontier(comparison: Comparison, *, ax: Axes | None = None, **marks: Any) -> Axes:
    """Draw goodput against the share of 429s: up and left is better.

    A faint point is one world (a scenario with a seed), a bold one the mean over all of them with its 95 % interval.
    The horizontal scale is stretched near 0, where limiters differ. Worlds far above every mean, where only small calls
    ever came through, lie beyond the edge.

    Args:
        comparison: what ``compare`` returned.
        ax: where to draw.
        **marks: style of the bold points.
    """
    ax = look.canvas(ax, height=4.0)
    means = frontier(comparison)
    worlds = comparison.frame.set_index("policy")
    for turn, (policy, mean) in enumerate(means.iterrows()):
        color, shape = look.CYCLE[turn % 8], look.SHAPES[(turn + turn // 8) % 8]
        own = worlds.loc[[policy]]
        ax.plot(
            own["rejected_share"], own["goodput_ratio"], linestyle="", marker=shape, color=color, markersize=4,
            markeredgewidth=0, alpha=0.3, zorder=2,
        )  # fmt: skip
        x, y = mean["rejected_share"], mean["goodput_ratio"]
        x_half, y_half = mean[["rejected_share_half", "goodput_ratio_half"]].fillna(0.0)
        ax.errorbar(x, y, xerr=[[min(x_half, x)], [x_half]], yerr=y_half, color=color, capsize=3, zorder=3)
        style = look.styled(marks, color=color, marker=shape, markersize=9, linestyle="", label=str(policy), zorder=4)
        ax.plot(x, y, **style)
    _share_axis(ax, float(worlds["rejected_share"].max()))
    ratios = worlds["goodput_ratio"].to_numpy()
    _ratio_axis(ax, np.minimum(ratios, _TOP * max(float(means["goodput_ratio"].max()), 1.0)))
    look.bare(ax)
    look.title(ax, "↖ better")
    _legend_below(ax)
    return ax


def _half_width(values: pd.Series[float]) -> float:
    return half_width(values.tolist())


def _share_axis(ax: Axes, largest: float) -> None:
    """Let x show shares: linear up to 2 %, logarithmic beyond."""
    ax.set_xscale("symlog", linthresh=_LINEAR_BELOW, linscale=0.8)
    ax.xaxis.set_major_locator(FixedLocator(_SHARES))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(look.percent))
    ax.set_xlim(-0.001, max(1.15 * largest, 0.03))
    ax.set_xlabel("429s among attempts")


def _ratio_axis(ax: Axes, ratios: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    lowest, highest = float(np.nanmin(ratios)), float(np.nanmax(ratios))
    room = 0.06 * max(highest - lowest, 0.02)
    ax.set_ylim(max(lowest - room, 0.0), max(highest, 1.0) + room)
    ax.yaxis.set_major_formatter(FuncFormatter(look.percent))
    ax.set_ylabel("goodput ÷ oracle's")


def pareto_front(study: Study) -> pd.DataFrame:
    """Return the trials that no other beats in both, more ``goodput_ratio`` and less ``worst_rejected_share``."""
    ordered = study.frame.sort_values(["worst_rejected_share", "goodput_ratio"], ascending=[True, False])
    goodput = ordered["goodput_ratio"].to_numpy()
    before = np.maximum.accumulate(np.append(-np.inf, goodput))[:-1]
    return ordered[goodput > before].reset_index(drop=True)


def plot_study(
    study: Study, *, ax: Axes | None = None, kind: Literal["progress", "pareto"] = "progress", **marks: Any
) -> Axes:
    """Draw how a search went: each trial's goodput in turn, or against the share of 429s that it cost.

    Args:
        study: what ``tune`` returned.
        ax: where to draw.
        kind: ``progress`` draws trial by trial with the best so far; ``pareto`` draws goodput against the worst
            scenario's share of 429s, with the bound and the trials that no other beats in both.
        **marks: style of the trials that keep the bound.

    Raises:
        ValueError: for another ``kind``.
    """
    if kind not in ("progress", "pareto"):
        msg = f"plot_study: kind = {kind!r} is unknown; take 'progress' or 'pareto'"
        raise ValueError(msg)
    ax = look.canvas(ax)
    trials, best = study.history(), study.best
    x = "trial" if kind == "progress" else "worst_rejected_share"
    if kind == "progress":
        ax.plot(
            trials["trial"], trials["best_so_far"], color=look.BLUE, linewidth=1.4, drawstyle="steps-post",
            label="best so far", zorder=2,
        )  # fmt: skip
        ax.set_xlabel("trial")
        ax.set_xlim(-0.5, len(trials) - 0.5)
        ax.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    else:
        front = pareto_front(study)
        ax.plot(front[x], front["goodput_ratio"], color=look.BLUE, linewidth=1.0, label="not beaten", zorder=2)
        ax.axvline(study.max_rejected_share, color=look.ink(ax), linewidth=0.9, linestyle=look.DASHES[1], label="bound")
        _share_axis(ax, float(trials[x].max()))
        ax.set_xlabel("429s among attempts, worst scenario")
    kept, broken = trials[trials["feasible"]], trials[~trials["feasible"]]
    style = look.styled(marks, color=look.SKY, marker="o", markersize=5, markeredgewidth=0, linestyle="", zorder=3)
    ax.plot(kept[x], kept["goodput_ratio"], **style, label="within the bound")
    ax.plot(
        broken[x], broken["goodput_ratio"], linestyle="", marker="x", color=look.VERMILION, markersize=5,
        label="too many 429s", zorder=3,
    )  # fmt: skip
    for name, row, color, shape in (("defaults", trials.iloc[0], look.ORANGE, "s"), ("best", best, look.GREEN, "*")):
        label = f"{name}: {row['goodput_ratio']:.1%}"
        ax.plot(
            row[x], row["goodput_ratio"], linestyle="", marker=shape, color=color, markersize=10, label=label, zorder=4
        )
    _ratio_axis(ax, trials["goodput_ratio"].to_numpy())
    look.bare(ax)
    _legend_below(ax)
    return ax


def _legend_below(ax: Axes) -> None:
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=4, fontsize="small", frameon=False, handletextpad=0.4
    )
