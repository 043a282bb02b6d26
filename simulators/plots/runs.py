"""Pictures of one run: axes in, axes out. The numbers are made in ``series.py``; no global style is touched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib.ticker import FuncFormatter

from factflow_llm.signals import Axis
from simulators.engine.result import SimResult, jain_index
from simulators.plots import look, series
from simulators.scenarios.scenario import Event

_ENOUGH = 0.9

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from simulators.providers.catalogue import Provider
    from simulators.traces import Trace


def plot_overview(
    result: series.Run, *, ax: Sequence[Axes] | None = None, axis: Axis | str | None = None
) -> list[Axes]:
    """Draw a run at a glance: limit and capacity, outcomes, requests in line and in flight, waits.

    Args:
        result: the run, simulated or recorded.
        ax: four axes, from top to bottom; a new figure by default.
        axis: which limit to show; by default the one that was cut most.

    Returns:
        The four axes.
    """
    panels = look.canvases(4, height=7.2) if ax is None else list(ax)
    plot_limits(result, ax=panels[0], axis=axis)
    for panel, draw in zip(panels[1:], (plot_outcomes, plot_queue, plot_waits_over_time), strict=True):
        draw(result, ax=panel, event_labels=False)
    return panels


def plot_limits(
    result: series.Run,
    *,
    ax: Axes | None = None,
    axis: Axis | str | None = None,
    event_labels: bool = True,
    **line: Any,
) -> Axes:
    """Draw the limit against the provider's true capacity, with the reason of each jump and what was used.

    Args:
        result: the run, simulated or recorded.
        ax: where to draw.
        axis: which limit; by default the one that was cut most.
        event_labels: whether events are named.
        **line: style of the limit's line.
    """
    ax = look.canvas(ax)
    shown = series.binding_axis(result) if axis is None else Axis(axis)
    used, capacity = series.used_per_window(result, shown), series.capacity_steps(result, shown)
    limit, marks = series.limit_steps(result, shown), series.limit_marks(result, shown)
    ends = np.append(used["time_s"], result.horizon_s)
    ax.stairs(used["used"], ends, fill=True, color=look.SKY, alpha=0.35, label="used", zorder=1)
    if len(capacity):
        ax.plot(
            capacity["time_s"], capacity["capacity"], color=look.ink(ax), linewidth=1.6, linestyle=look.DASHES[1],
            drawstyle="steps-post", label="true capacity", zorder=3,
        )  # fmt: skip
    if result.clients > 1:
        for client in range(result.clients):
            own = series.limit_steps(result, shown, client)
            ax.plot(own["time_s"], own["limit"], color=look.BLUE, linewidth=0.6, alpha=0.5, drawstyle="steps-post")
    finite = np.isfinite(limit["limit"])
    name = ("limit" if result.clients == 1 else "limits, summed") if finite.any() else "limit: none"
    style = look.styled(line, color=look.BLUE, linewidth=1.4, drawstyle="steps-post", label=name, zorder=4)
    ax.plot(limit["time_s"], limit["limit"].where(finite), **style)
    for reason, same in marks.groupby("reason", observed=True):
        mark = look.REASONS[str(reason)]
        ax.plot(
            same["time_s"], same["limit"], linestyle="", marker=mark.marker, color=mark.color, markersize=4.5,
            markeredgewidth=0, label=f"{str(reason).replace('_', ' ')} ({len(same)})", zorder=5,
        )  # fmt: skip
    look.value_axis(ax, look.AXIS_LABELS[shown], _top(capacity["capacity"], used["used"], limit))
    _finish(ax, result, "Limit", event_labels)
    return ax


def plot_outcomes(
    result: series.Run, *, ax: Axes | None = None, width_s: float | None = None, event_labels: bool = True, **bars: Any
) -> Axes:
    """Draw what became of the attempts sent in each window, stacked: successes below, 429s and the rest above.

    Args:
        result: the run, simulated or recorded.
        ax: where to draw.
        width_s: length of a window; by default one that gives at most 120.
        event_labels: whether events are named.
        **bars: style of the filled steps.
    """
    ax = look.canvas(ax)
    rates = series.outcome_rates(result, width_s)
    edges = np.append(rates.index.to_numpy(), result.horizon_s)
    base = np.zeros(len(rates))
    for outcome in rates.columns[rates.any()]:
        mark, values = look.OUTCOMES[outcome], rates[outcome].to_numpy()
        share = values.sum() / rates.to_numpy().sum()
        style = look.styled(bars, color=mark.color, linewidth=0.0, alpha=0.85)
        ax.stairs(
            base + values, edges, baseline=base, fill=True, hatch=mark.hatch,
            label=f"{look.OUTCOME_NAMES[outcome]} ({share:.1%})", **style,
        )  # fmt: skip
        base = base + values
    look.value_axis(ax, "attempts/min", 1.05 * max(base.max(), 1.0))
    left = series.left_over(result).told
    _finish(ax, result, f"Outcomes; {left}" if left else "Outcomes", event_labels)
    return ax


def plot_queue(
    result: series.Run, *, ax: Axes | None = None, width_s: float | None = None, event_labels: bool = True, **line: Any
) -> Axes:
    """Draw how many requests wait (in line or backing off) and how many are in flight, mean per window."""
    ax = look.canvas(ax)
    lengths = series.queue_lengths(result, width_s)
    edges = np.append(lengths.index.to_numpy(), result.horizon_s)
    looks = (("waiting", look.ORANGE, look.DASHES[0]), ("in_flight", look.BLUE, look.DASHES[1]))
    for column, color, dashes in looks:
        style = look.styled(line, color=color, linewidth=1.5, linestyle=dashes)
        ax.stairs(lengths[column], edges, baseline=None, label=column.replace("_", " "), **style)
    look.value_axis(ax, "requests", 1.08 * max(lengths.to_numpy().max(), 1.0))
    _finish(ax, result, "Queue", event_labels)
    return ax


def plot_waits_over_time(
    result: series.Run, *, ax: Axes | None = None, width_s: float | None = None, event_labels: bool = True, **line: Any
) -> Axes:
    """Draw the median and the 95th percentile of the wait, by the window in which a request arrived.

    Waits are of requests that succeeded; from the moment on after which nobody who arrived was answered, that is said.
    """
    ax = look.canvas(ax)
    found = series.wait_percentiles(result, width_s)
    middle = found.index.to_numpy() + 0.5 * np.diff(np.append(found.index.to_numpy(), result.horizon_s))
    looks = (("p95", look.VERMILION, look.DASHES[1]), ("p50", look.GREEN, look.DASHES[0]))
    for column, color, dashes in looks:
        ax.plot(middle, found[column], **look.styled(line, color=color, linewidth=1.5, linestyle=dashes, label=column))
    top = found["p95"].max()
    look.value_axis(ax, "wait (s)", 1.08 * top if top > 0 else 1.0)
    since_s = series.left_over(result).since_s
    if not np.isnan(since_s):
        look.nothing_beyond(ax, since_s, result.horizon_s, "arrived too late\nto be answered")
    _finish(ax, result, "Wait of those answered", event_labels)
    return ax


def plot_waits(
    run: series.Run,
    *,
    ax: Axes | None = None,
    kind: Literal["survival", "distribution"] = "survival",
    **line: Any,
) -> Axes:
    """Draw how long calls waited from arrival to admission; call again with the same axes to compare runs.

    Args:
        run: a simulated run, or a recording of a real one.
        ax: where to draw; a second run takes the next colour and dash there.
        kind: ``survival`` draws the share that waited longer than x, on a logarithmic scale that shows the tail;
            ``distribution`` draws the share per second of wait, so that runs compare by area.
        **line: style of the line or bars; ``label`` names the run.

    Raises:
        ValueError: for another ``kind``.
    """
    if kind not in ("survival", "distribution"):
        msg = f"plot_waits: kind = {kind!r} is unknown; take 'survival' or 'distribution'"
        raise ValueError(msg)
    ax = look.canvas(ax)
    values = series.waits(run)
    turn = len(ax.lines) + len(ax.patches)
    name = run.name
    style = look.styled(line, color=look.CYCLE[turn % 8], linewidth=1.6, label=name)
    look.bare(ax)
    longest = max(ax.get_xlim()[1] if turn else 0.0, 1.02 * float(values.max(initial=0.0)), 0.1)
    if kind == "survival":
        _draw_survival(ax, values, look.styled(style, linestyle=look.DASHES[turn % 4]))
    else:
        _draw_distribution(ax, values, style)
    ax.set_xlim(0.0, longest)
    ax.set_xlabel("wait from arrival to admission (s)")
    look.title(ax, "Waits")
    look.legend(ax, least=1)
    return ax


def _draw_survival(ax: Axes, values: series.Floats, style: dict[str, Any]) -> None:
    curve = series.survival(values)
    ax.plot(
        np.append(0.0, curve["value"]), np.append(1.0, curve["share"]).clip(1e-12), drawstyle="steps-post",
        marker=look.SHAPES[len(ax.lines) % 8], markevery=_at_percentiles(curve["share"].to_numpy()), markersize=5,
        **style,
    )  # fmt: skip
    ax.set_yscale("log")
    lowest = max(0.5 / max(len(values), 1), 1e-4)
    ax.set_ylim(min(lowest, ax.get_ylim()[0]) if len(ax.lines) > 1 else lowest, 1.3)
    ax.yaxis.set_major_formatter(FuncFormatter(look.percent))
    ax.set_ylabel("share that waits longer")


def _at_percentiles(shares: series.Floats) -> list[int]:
    """Return where the curve, with its first point added, passes 50, 5 and 1 %."""
    return [int(np.argmax(shares <= share)) + 1 for share in (0.5, 0.05, 0.01) if len(shares) and shares[-1] <= share]


def _draw_distribution(ax: Axes, values: series.Floats, style: dict[str, Any]) -> None:
    width_s = series.bar_width(values)
    edges = np.arange(0.0, values.max(initial=0.0) + width_s, width_s)
    counts = np.histogram(values, edges)[0]
    hatch = look.HATCHES[len(ax.patches) % 4]
    ax.stairs(counts / (max(len(values), 1) * width_s), edges, fill=True, alpha=0.55, hatch=hatch, **style)
    ax.yaxis.set_major_formatter(FuncFormatter(look.percent))
    ax.set_ylabel("share of requests, per s of wait")


def plot_recovery(
    result: SimResult, *, ax: Axes | None = None, yardstick: SimResult | None = None, **line: Any
) -> Axes:
    """Draw how the run comes back after its start and after each event, against what the oracle got admitted.

    A mark stands where a window first holds 90 % of the oracle's admissions with at most 5 % of 429s: ``recovery_s``.

    Args:
        result: the run, simulated or recorded.
        ax: where to draw.
        yardstick: the oracle's result, if it is at hand; otherwise it is run.
        **line: style of the lines.
    """
    ax = look.canvas(ax)
    curves, recovered = series.recovery_curves(result, yardstick), result.recovery(yardstick)
    ax.axhline(_ENOUGH, color=look.ink(ax), linewidth=0.9, linestyle=look.DASHES[2])
    for turn, (event, after_s) in enumerate(recovered.items()):
        color, curve = look.CYCLE[turn % 8], curves[curves["event"] == event]
        told = "not recovered" if np.isnan(after_s) else look.seconds(after_s)
        style = look.styled(
            line, color=color, linewidth=1.5, linestyle=look.DASHES[turn % 4], label=f"{event}: {told}",
            marker=look.SHAPES[turn % 8], markersize=7,
            markevery=np.flatnonzero(curve["since_s"] >= after_s)[:1].tolist(),
        )  # fmt: skip
        ax.plot(curve["since_s"], curve["admitted"], **style)
    look.time_axis(ax, float(np.append(curves["since_s"], 1.0).max()), "time since")
    highest = float(np.nanmax(np.append(curves["admitted"], 1.0)))
    look.value_axis(ax, "admitted in next 30 s ÷ oracle's", min(1.1 * highest, 2.0))
    ax.yaxis.set_major_formatter(FuncFormatter(look.percent))
    look.bare(ax)
    look.title(ax, "Recovery")
    look.legend(ax, least=1)
    return ax


def plot_fairness(result: series.Run, *, ax: Axes | None = None, width_s: float | None = None, **line: Any) -> Axes:
    """Draw each client's successes per minute beside the fair share, and Jain's index of the whole run in the title."""
    ax = look.canvas(ax)
    goodput = series.client_goodput(result, width_s)
    edges = np.append(goodput.index.to_numpy(), result.horizon_s)
    middle = 0.5 * (edges[:-1] + edges[1:])
    for client in range(result.clients):
        color, marker = look.CYCLE[client % 8], look.SHAPES[client % 8]
        style = look.styled(
            line, color=color, linewidth=1.3, marker=marker, markersize=4, label=f"client {client + 1}",
            markevery=(client * 2, max(len(goodput) // 10, 1)),
        )  # fmt: skip
        ax.plot(middle, goodput[client], **style)
    fair = goodput.mean(axis=1)
    ax.stairs(
        fair, edges, baseline=None, color=look.ink(ax), linewidth=1.4, linestyle=look.DASHES[1], label="fair share"
    )
    look.value_axis(ax, "successes/min", 1.1 * max(goodput.to_numpy().max(), 1.0))
    jain = jain_index((goodput.to_numpy() * np.diff(edges)[:, None]).sum(axis=0))
    _finish(ax, result, f"Fairness: Jain {jain:.3f}", event_labels=True)
    return ax


def plot_trace(
    trace: Trace,
    *,
    ax: Axes | None = None,
    axis: Literal["requests", "tokens"] = "requests",
    provider: Provider | None = None,
    width_s: float | None = None,
    **steps: Any,
) -> Axes:
    """Draw what a trace asks for per minute: its requests, or their tokens, as far as they are known.

    Args:
        trace: the trace.
        ax: where to draw.
        axis: what to count.
        provider: whose capacity to draw beside it, where it meters that axis.
        width_s: length of a window; by default one that gives at most 120.
        **steps: style of the filled steps.
    """
    ax = look.canvas(ax, height=2.6)
    asked = series.demand(trace, width_s)[axis]
    edges = np.append(asked.index.to_numpy(), max(trace.duration_s, asked.index[-1] + 1e-9))
    ax.stairs(asked, edges, **look.styled(steps, color=look.BLUE, fill=True, alpha=0.75, label="asked"))
    capacity = None if provider is None else series.capacity_of(provider, Axis(axis))
    if provider is not None and capacity is not None:
        ax.axhline(
            capacity, color=look.ink(ax), linewidth=1.6, linestyle=look.DASHES[1], label=f"sold by {provider.name}"
        )
    look.value_axis(ax, f"{axis}/min", 1.08 * max(asked.max(), capacity or 1.0))
    look.time_axis(ax, edges[-1])
    look.bare(ax)
    look.title(ax, f"{trace.name}: {len(trace):,} requests")
    look.legend(ax)
    return ax


def _finish(ax: Axes, result: series.Run, name: str, event_labels: bool) -> None:
    end_s = result.horizon_s
    look.time_axis(ax, end_s)
    spells = series.spells(result)
    for spell in spells:
        ax.axvspan(spell.start_s, spell.end_s, color=look.YELLOW, alpha=0.2, linewidth=0, zorder=0)
    begun = [Event(spell.start_s, spell.label) for spell in spells]
    happened = sorted([*result.events, *begun], key=lambda event: event.time_s)
    look.events(ax, happened, end_s, label=event_labels)
    look.bare(ax)
    look.title(ax, name)
    look.legend(ax)


def _top(capacity: Any, used: Any, limit: Any) -> float:
    """Return a top that shows capacity, use and the limit, but not the limit's short excursions far above both."""
    held = np.diff(np.append(limit["time_s"], limit["time_s"].iloc[-1]))
    finite = np.isfinite(limit["limit"].to_numpy()) & (held > 0)
    usual = 0.0
    if finite.any():
        order = np.argsort(limit["limit"].to_numpy()[finite])
        passed = np.cumsum(held[finite][order])
        usual = float(limit["limit"].to_numpy()[finite][order][np.searchsorted(passed, 0.98 * passed[-1])])
    sold = float(capacity.max()) if len(capacity) else 0.0
    bound = max(sold, float(used.max()))
    return 1.25 * max(bound, min(usual, 2.0 * bound), 1e-9)
