"""Figures beside figures: what changed, by how much, and whether that is good; as values and as a table."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulators.plots.look import percent, thousands

if TYPE_CHECKING:
    from simulators.engine.result import SimResult

MORE_IS_BETTER = {
    "goodput_ratio": True,
    "rejected_share": False,
    "wait_p50_s": False,
    "wait_p95_s": False,
    "failed": False,
    "unfinished": False,
    "recovery_s": False,
}
"""The figures shown, and which way is better."""

_NEEDS_ORACLE = ("goodput_ratio", "recovery_s")
_HEADINGS = {
    "goodput_ratio": "oracle's goodput",
    "rejected_share": "429s",
    "wait_p50_s": "wait p50",
    "wait_p95_s": "wait p95",
    "failed": "failed",
    "unfinished": "unfinished",
    "recovery_s": "recovery",
}
_WAITS = ("wait_p50_s", "wait_p95_s")
_SHARES = ("goodput_ratio", "rejected_share")
_RELATIVE_NOISE = 5e-4

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Difference:
    """How a figure moved.

    Attributes:
        change: new minus old.
        better: ``None`` where it did not move, or where there is nothing to compare.
    """

    change: float
    better: bool | None


_NOT_COMPARED = Difference(math.nan, None)


def figures_of(result: SimResult, yardstick: SimResult | None) -> dict[str, float]:
    """Return the figures shown; ``inf`` for never, NaN where the oracle's run is needed and not there."""
    summary = result.summary(yardstick or result)
    figures = {
        name: math.nan if yardstick is None and name in _NEEDS_ORACLE else float(summary[name])
        for name in MORE_IS_BETTER
    }
    never = [name for name in _WAITS if result.run.tally.endings.sum() and math.isnan(figures[name])]
    if result.events and yardstick is not None and math.isnan(figures["recovery_s"]):
        never.append("recovery_s")
    return figures | dict.fromkeys(never, math.inf)


def differences(now: Figures, before: Figures) -> dict[str, Difference]:
    """Return how each figure moved."""
    return {name: _difference(name, now[name], before[name]) for name in MORE_IS_BETTER}


def _difference(name: str, now: float, before: float) -> Difference:
    if now == before:
        return Difference(0.0, None)
    change = now - before
    noise = _RELATIVE_NOISE * max(abs(now), abs(before))
    if math.isnan(change) or (math.isfinite(change) and abs(change) <= noise):
        return Difference(change, None)
    return Difference(change, (change > 0) is MORE_IS_BETTER[name])


def shown(name: str, value: float) -> str:
    """Return a figure for the eye, with its unit; a dash where it has no value."""
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "never"
    if name in _SHARES:
        return percent(value).replace("%", " %")
    return f"{_short(value)} s" if name.endswith("_s") else _short(value)


def signed(name: str, difference: Difference) -> str:
    """Return a difference for the eye: its sign always, and an arrow that says better or worse without colour."""
    if math.isnan(difference.change):
        return ""
    if difference.better is None:
        return "="
    if math.isinf(difference.change):
        return "▲" if difference.better else "▼"
    sign = "+" if difference.change > 0 else "−"  # noqa: RUF001 - the typographic minus is as wide as the plus
    size = shown(name, abs(difference.change))
    return f"{'▲' if difference.better else '▼'} {sign}{size.replace('%', 'pp')}"


def table(now: Figures, others: Sequence[tuple[str, Figures, bool]]) -> str:
    """Return the panel's table: this run, and how it differs from each of the others, where that is of one world."""
    head = "".join(f"<th scope='col'>{html.escape(_HEADINGS[name])}</th>" for name in MORE_IS_BETTER)
    rows = [_row("this run", [f"<b>{shown(name, now[name])}</b>" for name in MORE_IS_BETTER])]
    for label, figures, comparable in others:
        moved = differences(now, figures) if comparable else dict.fromkeys(MORE_IS_BETTER, _NOT_COMPARED)
        rows.append(_row(label, [_cell(name, figures[name], moved[name]) for name in MORE_IS_BETTER]))
    legend = "▲ this run is better than the row, ▼ worse, = alike; the number with a sign is this run minus the row"
    body = f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f"<div class='ff-wide'><table class='ff-figures'>{body}</table></div><div class='ff-hint'>{legend}</div>"


def _row(label: str, cells: Sequence[str]) -> str:
    return f"<tr><th scope='row'>{html.escape(label)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _cell(name: str, value: float, difference: Difference) -> str:
    colour = {True: "ff-better", False: "ff-worse", None: "ff-same"}[difference.better]
    return f"{shown(name, value)}<br><span class='{colour}'>{signed(name, difference)}</span>"


def _short(value: float) -> str:
    return thousands(value) if abs(value) >= 1000 else f"{value:.3g}"
