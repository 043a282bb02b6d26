"""Pictures: axes in, axes out; each has its numbers in a pure function of ``series``."""

from simulators.plots.calibrations import plot_calibration
from simulators.plots.comparisons import plot_frontier, plot_study
from simulators.plots.plans import plot_plan
from simulators.plots.runs import (
    plot_fairness,
    plot_limits,
    plot_outcomes,
    plot_overview,
    plot_queue,
    plot_recovery,
    plot_trace,
    plot_waits,
    plot_waits_over_time,
)
from simulators.plots.variations import plot_heat_map, plot_sensitivity

__all__ = [
    "plot_calibration",
    "plot_fairness",
    "plot_frontier",
    "plot_heat_map",
    "plot_limits",
    "plot_outcomes",
    "plot_overview",
    "plot_plan",
    "plot_queue",
    "plot_recovery",
    "plot_sensitivity",
    "plot_study",
    "plot_trace",
    "plot_waits",
    "plot_waits_over_time",
]
