"""The picture of the simulator's own error: what it says beside what was recorded."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from matplotlib.ticker import FuncFormatter, MaxNLocator

from simulators.plots import look

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from simulators.calibration.validation import Validation

_ROOM = 0.1
_FARTHEST = 2.0


def calibration_ratios(validation: Validation) -> pd.DataFrame:
    """Return ``simulated``, ``least`` and ``most`` over what was recorded, by figure; NaN where that is 0."""
    figures = validation.figures
    recorded = figures["recorded"].where(figures["recorded"] != 0)
    return figures[["simulated", "least", "most"]].div(recorded, axis="index")


def plot_calibration(validation: Validation, *, ax: Axes | None = None, **marks: Any) -> Axes:
    """Draw each figure simulated over recorded, with the range over the seeds; on the line both agree.

    The numbers beside a figure are what was recorded and what was simulated. What is more than twice what was recorded
    is an arrow (▶) at the edge.

    Args:
        validation: what ``Calibration.validate`` returned.
        ax: where to draw.
        **marks: style of the marks.
    """
    ratios, figures = calibration_ratios(validation), validation.figures
    ax = look.canvas(ax, height=1.0 + 0.3 * len(ratios))
    ax.axvline(1.0, color=look.ink(ax), linewidth=0.9, linestyle=look.DASHES[1], zorder=1)
    for row, name in enumerate(ratios.index.astype(str)):
        ratio = ratios.loc[name].clip(upper=_FARTHEST)
        shape = ">" if ratio["simulated"] == _FARTHEST else "o"
        ax.plot([ratio["least"], ratio["most"]], [row, row], color=look.BLUE, linewidth=2.0, solid_capstyle="butt")
        style = look.styled(marks, color=look.BLUE, marker=shape, markersize=6, linestyle="", zorder=3)
        ax.plot(ratio["simulated"], row, **style)
        recorded, simulated = (_text(name, figures[column][name]) for column in ("recorded", "simulated"))
        ax.annotate(
            f"{recorded} → {simulated}", (1.02, row), xycoords=("axes fraction", "data"), va="center",
            fontsize="small", annotation_clip=False,
        )  # fmt: skip
    ax.set_yticks(range(len(ratios)), [str(name) for name in ratios.index])
    ax.set_ylim(len(ratios) - 0.4, -0.6)
    known = ratios.to_numpy()[ratios.notna().to_numpy()]
    ax.set_xlim(min(0.9, *known) - _ROOM, min(max(1.1, *known), _FARTHEST) + _ROOM)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.xaxis.set_major_formatter(FuncFormatter(look.percent))
    ax.set_xlabel("simulated ÷ recorded (mark: mean, bar: range over seeds)")
    look.bare(ax)
    look.title(ax, f"{validation.name}: recorded → simulated")
    return ax


def _text(name: str, value: float) -> str:
    if math.isnan(value):
        return "-"
    return look.seconds(value) if name.endswith("_s") else look.thousands(value)
