"""How pictures look: colours and shapes for each meaning, a canvas, axes in words and units, labelled events.

The colours are Okabe and Ito's (2008), told apart by everybody and on light and dark grounds; each goes with a shape.
Ink is taken from the axes, never set, so that the reader's own style survives.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from factflow_llm.signals import Axis, Outcome, Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from matplotlib.axes import Axes

    from simulators.scenarios.scenario import Event

BLUE, VERMILION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE, YELLOW, GREY = "#56B4E9", "#CC79A7", "#F0E442", "#888888"
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY, GREY, YELLOW)
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))

HATCHES = ("", "////", "....", "xxxx")

_SMALL = "small"
_ROW_CHARACTERS = 78
_HANDLE_CHARACTERS = 4
_MINUTES_FROM_S = 600.0
_SECOND_STEPS = (1, 2, 5, 10, 20, 50, 100)
_MINUTE_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 240, 720, 1440)


class Look(NamedTuple):
    """How one thing is drawn wherever it appears."""

    color: str
    marker: str
    hatch: str


OUTCOMES = {
    str(Outcome.SUCCEEDED): Look(BLUE, "o", ""),
    str(Outcome.RATE_LIMITED): Look(VERMILION, "v", "////"),
    str(Outcome.OVERLOADED): Look(ORANGE, "s", "...."),
    "other": Look(GREY, "X", "xxxx"),
    "in_flight": Look(SKY, "D", ""),
}
OUTCOME_NAMES = {
    "succeeded": "succeeded",
    "rate_limited": "429",
    "overloaded": "overloaded",
    "other": "other",
    "in_flight": "unanswered",
}

REASONS = {
    str(Reason.RATE_LIMITED): Look(VERMILION, "v", ""),
    str(Reason.OVERLOADED): Look(ORANGE, "s", ""),
    str(Reason.HEADER): Look(PURPLE, "D", ""),
    str(Reason.COOL_OFF): Look(SKY, "<", ""),
    str(Reason.BREAKER_OPEN): Look(VERMILION, "X", ""),
    str(Reason.BREAKER_CLOSED): Look(GREEN, "o", ""),
    str(Reason.RETUNED): Look(YELLOW, "*", ""),
    str(Reason.SHARED): Look(BLUE, "P", ""),
    str(Reason.CONFIGURED): Look(GREY, "o", ""),
}

AXIS_LABELS = {
    Axis.REQUESTS: "requests/min",
    Axis.TOKENS: "tokens/min",
    Axis.INPUT_TOKENS: "input tokens/min",
    Axis.OUTPUT_TOKENS: "output tokens/min",
    Axis.CONCURRENCY: "calls in flight",
}


def canvas(ax: Axes | None, *, height: float = 3.4) -> Axes:
    """Return the axes given, or new ones in a figure of pyplot, which a notebook shows by itself."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(6.0, height), layout="constrained")[1]


def canvases(rows: int, *, height: float) -> list[Axes]:
    """Return axes stacked over one time axis in a new figure of pyplot."""
    import matplotlib.pyplot as plt

    return list(plt.subplots(rows, sharex=True, figsize=(6.0, height), layout="constrained")[1])


def styled(given: Mapping[str, Any], **defaults: Any) -> dict[str, Any]:
    """Return the defaults of an artist's style, overruled by what the caller gave."""
    return defaults | dict(given)


def ink(ax: Axes) -> Any:
    """Return the colour in which the axes' own style writes."""
    return ax.xaxis.label.get_color()


def time_axis(ax: Axes, end_s: float, label: str = "time") -> None:
    """Let x run from 0 to the end; seconds when short, minutes when long, ticks at round numbers."""
    unit_s, unit, steps = (60.0, "min", _MINUTE_STEPS) if end_s > _MINUTES_FROM_S else (1.0, "s", _SECOND_STEPS)
    step_s = unit_s * next((step for step in steps if end_s / (step * unit_s) <= 7.5), end_s / (6 * unit_s))
    ax.xaxis.set_major_locator(MultipleLocator(step_s))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at / unit_s:g}"))
    whole = math.ceil(end_s / step_s) * step_s
    ax.set_xlim(0.0, whole if whole - end_s < 0.01 * end_s else end_s)
    if _lowest(ax):
        ax.set_xlabel(f"{label} ({unit})")


def value_axis(ax: Axes, label: str, top: float | None = None) -> None:
    """Let y start at 0, with few ticks; thousands are written k."""
    ax.set_ylabel(label)
    ax.set_ylim(0.0, top)
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_formatter(FuncFormatter(thousands))


def thousands(value: float, _: object = None) -> str:
    """Write a number short: 950, 1.5k, 200k, 1.2M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def seconds(value: float, _: object = None) -> str:
    """Write a duration short: 0.2 s, 45 s, 3 min."""
    return f"{value / 60:.3g} min" if value >= 120 else f"{value:.3g} s"


def bare(ax: Axes) -> None:
    """Take away the frame that says nothing."""
    ax.spines[["top", "right"]].set_visible(False)


def title(ax: Axes, text: str) -> None:
    """Write what the picture shows above its left edge."""
    ax.set_title(text, loc="left", fontsize="medium", y=1.0)


def percent(share: float, _: object = None) -> str:
    """Write a share short: 0.1%, 5%, 100%."""
    return f"{100 * share:.3g}%"


def legend(ax: Axes, *, least: int = 2) -> None:
    """Put the legend above the data, where it hides none, in as many rows as leave room for the title.

    Args:
        ax: whose legend.
        least: of fewer entries than these no legend is made: the title says it all.
    """
    handles, labels = ax.get_legend_handles_labels()
    if len(labels) < least:
        return
    room = _ROW_CHARACTERS - len(ax.get_title(loc="left"))
    rows = next(rows for rows in range(1, len(labels) + 1) if rows == len(labels) or _width(labels, rows) <= room)
    ax.legend(
        handles, labels, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=-(-len(labels) // rows),
        fontsize=_SMALL, frameon=False, borderaxespad=0.1, handlelength=1.4, columnspacing=0.9, handletextpad=0.4,
    )  # fmt: skip


def _width(labels: list[str], rows: int) -> int:
    """Return how many characters wide a legend is that fills its columns from top to bottom."""
    columns = [labels[start : start + rows] for start in range(0, len(labels), rows)]
    return sum(max(map(len, column)) + _HANDLE_CHARACTERS for column in columns)


def events(ax: Axes, happened: Iterable[Event], end_s: float, *, label: bool = True) -> None:
    """Draw a dashed line at each event, its label beside it at the top; labels that would collide step down."""
    rows_end: list[float] = []
    for event in happened:
        ax.axvline(event.time_s, color=ink(ax), linewidth=0.9, linestyle=(0, (4, 3)), zorder=1.5)
        if not label:
            continue
        place = event.time_s / end_s
        room = 0.012 * len(event.label) + 0.02
        left = place + room > 1.0
        start = place - room if left else place
        row = next((row for row, taken in enumerate(rows_end) if taken <= start), len(rows_end))
        rows_end[row:] = [place if left else place + room]
        ax.annotate(
            event.label, (event.time_s, 1.0), xycoords=("data", "axes fraction"),
            xytext=(-3 if left else 3, -2 - 11 * row), textcoords="offset points", va="top",
            ha="right" if left else "left", fontsize=_SMALL, color=ink(ax), zorder=6,
            path_effects=[withStroke(linewidth=3, foreground=ax.get_facecolor())],
        )  # fmt: skip


def nothing_beyond(ax: Axes, since_s: float, end_s: float, why: str) -> tuple[Any, Any]:
    """Grey the time in which there is nothing to draw, say why, and return both marks."""
    span = ax.axvspan(since_s, end_s, color=GREY, alpha=0.15, linewidth=0)
    told = ax.annotate(
        why, (0.5 * (since_s + end_s), 0.5), xycoords=("data", "axes fraction"), ha="center", va="center",
        fontsize=_SMALL, color=ink(ax),
    )  # fmt: skip
    return span, told


def _lowest(ax: Axes) -> bool:
    spec = ax.get_subplotspec()
    return spec is None or spec.is_last_row()
