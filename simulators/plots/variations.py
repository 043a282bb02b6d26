"""Pictures of settings that were moved: how much each one matters, and two against each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter

from simulators.plots import look

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

    from simulators.studies.variation import Variation

_FIGURES: dict[str, tuple[str, Callable[..., str]]] = {
    "goodput_ratio": ("goodput ÷ oracle's", look.percent),
    "rejected_share": ("429s among attempts", look.percent),
    "attempts_per_success": ("attempts per success", look.thousands),
    "wait_p95_s": ("wait p95", look.seconds),
}
_PRICE = "rejected_share"
_DARK = 0.45


def plot_sensitivity(
    variation: Variation, *, figure: str = "goodput_ratio", ax: Axes | None = None, **marks: Any
) -> Axes:
    """Draw what a figure does as each setting is moved alone: the setting that matters most is at the top.

    A mark is one value of a setting, below (▼) or above (▲) the one it was moved from; the numbers are the setting's
    least and greatest value. The dashed line is the figure with nothing moved. At the right edge stands the range
    of the share of 429s that goes with it: goodput alone is easily bought.

    Args:
        variation: what ``vary`` returned, not crossed.
        figure: one of the figures in its frame.
        ax: where to draw.
        **marks: style of the marks.
    """
    spans = variation.spans(figure)
    ax = look.canvas(ax, height=0.9 + 0.42 * len(spans))
    label, shown = _FIGURES[figure]
    for row, name in enumerate(spans.index):
        curve, given = variation.curve(str(name), figure), getattr(variation.config, str(name))
        values, heights = curve[name].to_numpy(), curve[figure].to_numpy()
        ax.plot(heights[[heights.argmin(), heights.argmax()]], [row, row], color=look.GREY, linewidth=2.0, zorder=2)
        for side, color, shape in ((values < (given or 0), look.BLUE, "v"), (values > (given or 0), look.ORANGE, "^")):
            style = look.styled(marks, color=color, marker=shape, markersize=7, linestyle="", alpha=0.8, zorder=3)
            ax.plot(heights[side], np.full(side.sum(), row), **style)
        if figure != _PRICE:
            shares = variation.curve(str(name), _PRICE)[_PRICE]
            ax.annotate(
                f"{look.percent(shares.min())} – {look.percent(shares.max())}", (1.02, row),  # noqa: RUF001 - a range
                xycoords=("axes fraction", "data"), va="center", fontsize="small", annotation_clip=False,
            )  # fmt: skip
        for place, above in ((0, False), (-1, True)):
            ax.annotate(
                look.thousands(values[place]), (heights[place], row), xytext=(0, 5 if above else -5),
                textcoords="offset points", ha="center", va="bottom" if above else "top", fontsize="x-small", zorder=4,
                path_effects=[withStroke(linewidth=2, foreground=ax.get_facecolor())],
            )  # fmt: skip
    if figure != _PRICE:
        ax.annotate(
            "429s", (1.02, -0.6), xycoords=("axes fraction", "data"), va="bottom", fontsize="small",
            annotation_clip=False,
        )  # fmt: skip
    nothing_moved = float(variation.frame[figure].iloc[0])
    ax.axvline(nothing_moved, color=look.ink(ax), linewidth=0.9, linestyle=look.DASHES[1], zorder=1)
    ax.set_yticks(range(len(spans)), [str(name) for name in spans.index])
    ax.set_ylim(len(spans) - 0.4, -0.6)
    ax.set_xlabel(f"{label} (dashed: nothing moved, {shown(nothing_moved)})")
    ax.xaxis.set_major_formatter(FuncFormatter(shown))
    ax.margins(x=0.08)
    look.bare(ax)
    look.title(ax, "What each setting matters")
    return ax


def plot_heat_map(variation: Variation, *, figure: str = "goodput_ratio", ax: Axes | None = None, **mesh: Any) -> Axes:
    """Draw a figure over the values of two settings, darker is less; the number stands in each field.

    Args:
        variation: what ``vary`` returned, two settings crossed.
        figure: one of the figures in its frame.
        ax: where to draw.
        **mesh: style of the fields.
    """
    table = variation.table(figure)
    ax = look.canvas(ax, height=1.2 + 0.42 * len(table))
    label, shown = _FIGURES[figure]
    values = table.to_numpy()
    image: Any = ax.pcolormesh(values, **look.styled(mesh, cmap="cividis", edgecolors="none"))
    strength = image.norm(values)
    for row, column in np.ndindex(*values.shape):
        value, ink = values[row, column], "black" if strength[row, column] > _DARK else "white"
        ax.text(column + 0.5, row + 0.5, shown(value), ha="center", va="center", fontsize="small", color=ink)
    ax.set_xticks(np.arange(len(table.columns)) + 0.5, [look.thousands(float(value)) for value in table.columns])
    ax.set_yticks(np.arange(len(table)) + 0.5, [look.thousands(value) for value in table.index])
    ax.tick_params(length=0)
    ax.set_xlabel(str(table.columns.name))
    ax.set_ylabel(str(table.index.name))
    look.bare(ax)
    look.title(ax, label[0].upper() + label[1:])
    return ax
