"""The numbers behind the dashboard's plots, whether they come from a simulated run or from a limiter at work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from simulators.plots import look, series

if TYPE_CHECKING:
    from factflow_llm.signals import Axis
    from simulators.engine.result import SimResult

Floats = npt.NDArray[np.float64]
Line = tuple[Floats, Floats]


@dataclass(frozen=True, eq=False)
class Curves:
    """What four plots over one time axis show. Times in seconds, rates per minute.

    Attributes:
        axis: which limit is shown.
        span_s: first and last moment.
        limit: steps of the limit; NaN while there is none.
        capacity: steps of the provider's true capacity; empty where nobody knows it.
        marks: moments and heights of the changes worth a mark, by reason.
        edges_s: borders of the windows in which is counted.
        used: what admitted calls took of the axis, per window.
        outcomes: attempts per minute and window, by outcome.
        waiting: requests waiting, mean per window.
        in_flight: calls in flight, mean per window.
        waits: at most two sorts of wait by name, in seconds per window; NaN for none.
        events: moments and labels.
        left_over: in words, who was never answered; empty for nobody.
        unanswered_since_s: from this arrival on nobody was; NaN where the last one was.
    """

    axis: Axis
    span_s: tuple[float, float]
    limit: Line
    capacity: Line
    marks: dict[str, Line]
    edges_s: Floats
    used: Floats
    outcomes: dict[str, Floats]
    waiting: Floats
    in_flight: Floats
    waits: dict[str, Floats]
    events: tuple[tuple[float, str], ...] = ()
    left_over: str = ""
    unanswered_since_s: float = np.nan

    @property
    def middles_s(self) -> Floats:
        """The middle of each window."""
        return 0.5 * (self.edges_s[:-1] + self.edges_s[1:])

    @property
    def limit_top(self) -> float:
        """A height that shows capacity, use and the limit, but not its short excursions far above both."""
        bound = max(_highest(self.capacity[1]), _highest(self.used))
        usual = _highest(self.limit[1]) if bound == 0 else min(_highest(self.limit[1]), 2.0 * bound)
        return 1.2 * max(bound, usual, 1e-9)


def curves_of(result: SimResult, axis: Axis | None = None) -> Curves:
    """Return the numbers of a simulated run, by default on the axis that was cut most."""
    axis = axis or series.binding_axis(result)
    limit, capacity = series.limit_steps(result, axis), series.capacity_steps(result, axis)
    outcomes, queue, waits = series.outcome_rates(result), series.queue_lengths(result), series.wait_percentiles(result)
    end_s, left = result.scenario.horizon_s, series.left_over(result)
    return Curves(
        axis=axis,
        span_s=(0.0, end_s),
        limit=(_floats(limit["time_s"]), finite(_floats(limit["limit"]))),
        capacity=(_floats(capacity["time_s"]), _floats(capacity["capacity"])),
        marks={
            str(reason): (_floats(same["time_s"]), _floats(same["limit"]))
            for reason, same in series.limit_marks(result, axis).groupby("reason", observed=True)
        },
        edges_s=np.append(outcomes.index.to_numpy(), end_s),
        used=_floats(series.used_per_window(result, axis)["used"]),
        outcomes={outcome: _floats(outcomes[outcome]) for outcome in look.OUTCOMES},
        waiting=_floats(queue["waiting"]),
        in_flight=_floats(queue["in_flight"]),
        waits={name: _floats(waits[name]) for name in ("p50", "p95")},
        events=tuple(sorted((each.time_s, each.label) for each in result.scenario.events))
        + tuple((spell.start_s, spell.label) for spell in series.spells(result)),
        left_over=left.told,
        unanswered_since_s=left.since_s,
    )


def finite(values: Floats) -> Floats:
    """Return the values, NaN for no limit, so that a line has a gap there."""
    return np.where(np.isfinite(values), values, np.nan)


def _floats(column: Any) -> Floats:
    return np.asarray(column, dtype=np.float64)


def _highest(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.max()) if len(known) else 0.0
