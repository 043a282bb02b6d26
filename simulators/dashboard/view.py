"""Four linked plots in one figure that is made once: every run only moves what is drawn.

Titles and labels have fixed places: finding them anew takes a fifth of a drawing.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from simulators.plots import look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

    from simulators.dashboard.curves import Curves

_SIZE_IN, _DPI = (7.0, 5.9), 110
_HEIGHTS = (2.3, 1.5, 1.2, 1.2)
_OUTCOMES = ("succeeded", "rate_limited", "overloaded", "other")
_PIN_DASHES = ((0, (6, 2)), (0, (2, 2)), (0, (8, 2, 2, 2)))
MOST_PINS = len(_PIN_DASHES)


class RunView:
    """The picture of a run. It has no background, so that a page may be light or dark; see ``page.py``."""

    def __init__(self) -> None:
        self.figure = Figure(figsize=_SIZE_IN, dpi=_DPI)
        self.figure.patch.set_alpha(0.0)
        self._canvas: Any = FigureCanvasAgg(self.figure)
        axes = self.figure.subplots(4, sharex=True, height_ratios=_HEIGHTS)
        self.figure.subplots_adjust(left=0.1, right=0.985, top=0.955, bottom=0.07, hspace=0.36)
        self.axes: dict[str, Axes] = dict(zip(("limit", "outcomes", "queue", "wait"), axes, strict=True))
        self._labels: list[Any] = []
        self._left: list[Any] = []
        for ax in axes:
            look.bare(ax)
            ax.patch.set_alpha(0.0)
            ax.yaxis.set_major_locator(MaxNLocator(4))
            ax.yaxis.set_major_formatter(FuncFormatter(look.thousands))
            ax.tick_params(labelsize="small")
            ax.yaxis.set_label_coords(-0.08, 0.5)
        axes[-1].xaxis.set_label_coords(0.5, -0.3)
        self._event_lines = [_vertical(ax) for ax in axes]
        self._draw_limit(self.axes["limit"])
        self._draw_counts()

    def _draw_limit(self, ax: Axes) -> None:
        flat = np.zeros(1), np.array([0.0, 1.0])
        self._used: Any = ax.stairs(*flat, fill=True, color=look.SKY, alpha=0.35, label="used", zorder=1)
        self._capacity = _steps(ax, "true capacity", "black", 1.6, look.DASHES[1], zorder=3)
        self._limit = _steps(ax, "limit", look.BLUE, 1.4, "-", zorder=4)
        self._marks = {
            reason: ax.plot(
                [], [], linestyle="", marker=mark.marker, color=mark.color, markersize=4.5, markeredgewidth=0,
                label=reason.replace("_", " "), zorder=5,
            )[0]
            for reason, mark in look.REASONS.items()
        }  # fmt: skip
        self._pins = [_steps(ax, "", look.GREY, 1.2, dashes, zorder=3.5) for dashes in _PIN_DASHES]
        look.title(ax, "Limit")

    def _draw_counts(self) -> None:
        flat = np.zeros(1), np.array([0.0, 1.0])
        ax = self.axes["outcomes"]
        self._outcomes: dict[str, Any] = {
            outcome: ax.stairs(
                *flat, baseline=np.zeros(1), fill=True, color=look.OUTCOMES[outcome].color, alpha=0.85, linewidth=0,
                hatch=look.OUTCOMES[outcome].hatch, label=look.OUTCOME_NAMES[outcome],
            )
            for outcome in _OUTCOMES
        }  # fmt: skip
        ax.set_ylabel("attempts/min", fontsize="small")
        look.title(ax, "Goodput and 429s")
        ax = self.axes["queue"]
        self._waiting = ax.stairs(*flat, baseline=None, color=look.ORANGE, linewidth=1.5, label="waiting")
        self._in_flight = ax.stairs(
            *flat, baseline=None, color=look.BLUE, linewidth=1.5, linestyle=look.DASHES[1], label="in flight"
        )
        ax.set_ylabel("requests", fontsize="small")
        look.title(ax, "Queue")
        ax = self.axes["wait"]
        self._waits = [
            ax.plot([], [], color=color, linewidth=1.5, linestyle=dashes)[0]
            for color, dashes in ((look.GREEN, look.DASHES[0]), (look.VERMILION, look.DASHES[1]))
        ]
        ax.set_ylabel("wait (s)", fontsize="small")
        look.title(ax, "Wait from arrival to admission")

    def show(self, curves: Curves, pins: Sequence[tuple[str, Curves]] = ()) -> None:
        """Move everything drawn to a run's numbers; pinned runs stay behind it as thin lines."""
        first, last = curves.span_s
        edges = curves.edges_s
        self._limit.set_data(*curves.limit)
        self._capacity.set_data(*curves.capacity)
        self._used.set_data(curves.used, edges)
        for reason, line in self._marks.items():
            line.set_data(*curves.marks.get(reason, ([], [])))
        self._draw_pins(curves, pins)
        base = np.zeros(len(edges) - 1)
        for outcome, steps in self._outcomes.items():
            steps.set_data(base + curves.outcomes[outcome], edges, base)
            base = base + curves.outcomes[outcome]
        self._waiting.set_data(curves.waiting, edges)
        self._in_flight.set_data(curves.in_flight, edges)
        for line, (name, waits) in zip(self._waits, curves.waits.items(), strict=False):
            line.set_label(name)
            line.set_data(curves.middles_s, waits)
        self._scale(curves, base)
        self._mark_events(curves, last)
        self._tell_left_over(curves)
        self._explain(curves)
        for ax in self.axes.values():
            ax.set_xlim(first, last)

    def _draw_pins(self, curves: Curves, pins: Sequence[tuple[str, Curves]]) -> None:
        for line in self._pins:
            line.set_data([], [])
        same_axis = [(name, pinned) for name, pinned in pins if pinned.axis is curves.axis]
        for line, (name, pinned) in zip(self._pins, same_axis, strict=False):
            line.set_label(name)
            line.set_data(*pinned.limit)

    def png(self) -> bytes:
        """Return the picture."""
        file = BytesIO()
        self._canvas.print_png(file, pil_kwargs={"compress_level": 1})
        return file.getvalue()

    def _scale(self, curves: Curves, attempts: Any) -> None:
        self.axes["limit"].set_ylim(0.0, curves.limit_top)
        self.axes["limit"].set_ylabel(look.AXIS_LABELS[curves.axis], fontsize="small")
        tops = {
            "outcomes": attempts,
            "queue": np.maximum(curves.waiting, curves.in_flight),
            "wait": np.nan_to_num(np.concatenate(list(curves.waits.values()))),
        }
        for name, values in tops.items():
            self.axes[name].set_ylim(0.0, 1.08 * max(float(values.max(initial=0.0)), 1e-3))
        look.time_axis(self.axes["wait"], curves.span_s[1])

    def _mark_events(self, curves: Curves, last: float) -> None:
        times = [moment for moment, _ in curves.events]
        for line in self._event_lines:
            line.set_data(np.repeat(times, 3), [0.0, 1.0, np.nan] * len(times))
        while self._labels:
            self._labels.pop().remove()
        for row, (moment, label) in enumerate(curves.events):
            left = moment > 0.8 * last
            self._labels.append(
                self.axes["limit"].annotate(
                    label, (moment, 1.0), xycoords=("data", "axes fraction"),
                    xytext=(-3 if left else 3, -2 - 11 * (row % 3)), textcoords="offset points", va="top",
                    ha="right" if left else "left", fontsize="small",
                )
            )  # fmt: skip

    def _tell_left_over(self, curves: Curves) -> None:
        """Say who was never answered, and where the wait stops for want of anybody who was."""
        left = f"; {curves.left_over}" if curves.left_over else ""
        look.title(self.axes["outcomes"], f"Goodput and 429s{left}")
        while self._left:
            self._left.pop().remove()
        if not np.isnan(curves.unanswered_since_s):
            span = (curves.unanswered_since_s, curves.span_s[1])
            self._left += look.nothing_beyond(self.axes["wait"], *span, "arrived too late\nto be answered")

    def _explain(self, curves: Curves) -> None:
        """Name what there is: a legend of things that are not in the picture only distracts."""
        lines: list[Any] = [self._capacity, self._limit]
        lines += [self._marks[reason] for reason in curves.marks if reason in self._marks]
        for reason, (times, _) in curves.marks.items():
            self._marks[reason].set_label(f"{reason.replace('_', ' ')} ({len(times)})")
        lines += self._pins
        _legend(self.axes["limit"], [self._used, *(line for line in lines if len(line.get_data()[0]))])
        told = [steps for outcome, steps in self._outcomes.items() if curves.outcomes[outcome].any()]
        _legend(self.axes["outcomes"], told)
        _legend(self.axes["queue"], [self._waiting, self._in_flight])
        _legend(self.axes["wait"], self._waits[: len(curves.waits)])


def _legend(ax: Axes, artists: Sequence[Any]) -> None:
    ax.legend(
        handles=artists, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=max(len(artists), 1), fontsize="small",
        frameon=False, borderaxespad=0.1, handlelength=1.6, columnspacing=1.1, handletextpad=0.5,
    )  # fmt: skip


def _steps(ax: Axes, label: str, color: str, width: float, dashes: Any, *, zorder: float) -> Line2D:
    line: Line2D = ax.plot(
        [],
        [],
        color=color,
        linewidth=width,
        linestyle=dashes,
        drawstyle="steps-post",
        label=label or "_",
        zorder=zorder,
    )[0]
    return line


def _vertical(ax: Axes) -> Line2D:
    line: Line2D = ax.plot(
        [], [], color="black", linewidth=0.9, linestyle=(0, (4, 3)), transform=ax.get_xaxis_transform(), zorder=1.5
    )[0]
    return line
