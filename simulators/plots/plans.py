"""The picture of a plan: what the wait does as the quota gets tight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from simulators.plots import look

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from simulators.studies.planning import Plan

_LINEAR_BELOW_S = 0.1
_TICKS_S = (0.0, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 36_000.0)
_ABOVE = 4.0
"""How far above the longest wait "never" stands."""


def plan_curve(plan: Plan, name: str) -> pd.DataFrame:
    """Return one provider's ``load``, ``wait_p95_s`` and ``quota``, from roomy to tight."""
    own = plan.frame[plan.frame["provider"] == name]
    return own.sort_values("load", ignore_index=True)[["load", "wait_p95_s", "quota"]]


def plot_plan(plan: Plan, *, ax: Axes | None = None, **line: Any) -> Axes:
    """Draw the wait's 95th percentile against how tightly the quota is packed, a curve per provider.

    The large mark of a curve is the provider as sold. Where more than 5 % of the requests were never sent there is no
    wait: a cross stands in the row "never", and no line leads there. The scale is linear below 0.1 s.

    Args:
        plan: what ``plan`` returned.
        ax: where to draw.
        **line: style of the curves.
    """
    ax = look.canvas(ax)
    waits = plan.frame["wait_p95_s"]
    longest = float(max(waits[np.isfinite(waits)].max(), plan.max_wait_p95_s, 1.0))
    never = _ABOVE * longest
    for turn, provider in enumerate(plan.providers):
        curve = plan_curve(plan, provider.name)
        wait, load = curve["wait_p95_s"], curve["load"]
        color, shape = look.CYCLE[turn % 8], look.SHAPES[turn % 8]
        style = look.styled(
            line, color=color, linewidth=1.5, linestyle=look.DASHES[turn % 4], marker=shape, markersize=4,
            label=provider.name,
        )  # fmt: skip
        ax.plot(load, wait.where(np.isfinite(wait)), **style)
        lost = np.isinf(wait)
        if lost.any():
            ax.plot(load[lost], np.full(lost.sum(), never), linestyle="", marker="x", markersize=5, color=color)
        sold = curve["quota"] == 1.0
        large: dict[str, Any] = {"marker": shape, "markersize": 10, "color": color, "zorder": 4, "clip_on": False}
        ax.plot(load[sold], wait[sold].clip(upper=never), linestyle="", **large)
    ax.axhline(plan.max_wait_p95_s, color=look.ink(ax), linewidth=1.0, linestyle=look.DASHES[1])
    ax.annotate(
        f"at most {look.seconds(plan.max_wait_p95_s)}", (0.0, plan.max_wait_p95_s), xycoords=("axes fraction", "data"),
        xytext=(3, 3), textcoords="offset points", fontsize="small",
    )  # fmt: skip
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator([0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0]))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f}%"))
    ax.set_yscale("symlog", linthresh=_LINEAR_BELOW_S, linscale=0.5)
    ax.set_ylim(0.0, 2.0 * never if np.isinf(waits).any() else 1.5 * longest)
    ticks = [tick for tick in _TICKS_S if tick <= longest]
    ax.yaxis.set_major_locator(FixedLocator([*ticks, never]))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda at, _: "never" if at == never else look.seconds(at)))
    ax.set_xlabel("mean demand, as a share of the quota")
    ax.set_ylabel("wait p95")
    look.bare(ax)
    look.title(ax, "Wait and quota (large mark: as sold)")
    look.legend(ax)
    return ax
