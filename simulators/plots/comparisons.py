"""Pictures of many runs: which policy wins, and how a search went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from simulators.comparison import half_width
from simulators.plots import look

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from simulators.comparison import Comparison

_SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_LINEAR_BELOW = 0.02


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
    The horizontal scale is stretched near 0, where limiters differ.

    Args:
        comparison: what ``compare`` returned.
        ax: where to draw.
        **marks: style of the bold points.
    """
    ax = look.canvas(ax, height=4.0)
    means = frontier(comparison)
    worlds = comparison.frame.set_index("policy")
    for turn, (policy, mean) in enumerate(means.iterrows()):
        color, shape = look.CYCLE[turn % 8], look.SHAPES[turn % 8]
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
    _ratio_axis(ax, worlds["goodput_ratio"].to_numpy())
    ax.annotate(
        "better", (0.02, 0.98), xytext=(0.12, 0.88), xycoords="axes fraction", va="center", ha="center",
        color=look.ink(ax), fontsize="small", arrowprops={"arrowstyle": "->", "color": look.ink(ax)}, zorder=1,
    )  # fmt: skip
    look.bare(ax)
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=4, fontsize="small", frameon=False, handletextpad=0.2
    )
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
