"""The laboratory: the production limiter in virtual time, against simulated providers, on real traces.

::

    import simulators as sim
    result = sim.simulate(sim.Scenario(sim.sample_trace(), "openai-tier-1"), seed=7)
    sim.plot_overview(result)

Names load on first use: nobody waits for matplotlib who only simulates.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from factflow_llm.errors import ExtraMissingError

if TYPE_CHECKING:
    from simulators import policies as policies
    from simulators.calibrate import Calibration as Calibration
    from simulators.calibrate import calibrate as calibrate
    from simulators.calibration.validation import Validation as Validation
    from simulators.comparison import Comparison as Comparison
    from simulators.comparison import compare as compare
    from simulators.dashboard import Dashboard as Dashboard
    from simulators.dashboard import watch as watch
    from simulators.engine import simulate as simulate
    from simulators.faults import incident as incident
    from simulators.latency import LatencyModel as LatencyModel
    from simulators.neighbours import Neighbour as Neighbour
    from simulators.planning import Plan as Plan
    from simulators.planning import plan as plan
    from simulators.plots import plot_calibration as plot_calibration
    from simulators.plots import plot_fairness as plot_fairness
    from simulators.plots import plot_frontier as plot_frontier
    from simulators.plots import plot_heat_map as plot_heat_map
    from simulators.plots import plot_limits as plot_limits
    from simulators.plots import plot_outcomes as plot_outcomes
    from simulators.plots import plot_overview as plot_overview
    from simulators.plots import plot_plan as plot_plan
    from simulators.plots import plot_queue as plot_queue
    from simulators.plots import plot_recovery as plot_recovery
    from simulators.plots import plot_sensitivity as plot_sensitivity
    from simulators.plots import plot_study as plot_study
    from simulators.plots import plot_trace as plot_trace
    from simulators.plots import plot_waits as plot_waits
    from simulators.plots import plot_waits_over_time as plot_waits_over_time
    from simulators.policies import Policy as Policy
    from simulators.provider import Call as Call
    from simulators.provider import Provider as Provider
    from simulators.provider import ProviderMachine as ProviderMachine
    from simulators.provider import provider as provider
    from simulators.provider import provider_names as provider_names
    from simulators.result import SimResult as SimResult
    from simulators.scenario import Backlog as Backlog
    from simulators.scenario import Event as Event
    from simulators.scenario import Scenario as Scenario
    from simulators.scenario import backlog as backlog
    from simulators.server import running_server as running_server
    from simulators.server import serve as serve
    from simulators.suite import run_suite as run_suite
    from simulators.suite import suite_report as suite_report
    from simulators.traces import Mode as Mode
    from simulators.traces import Recording as Recording
    from simulators.traces import TokenLengths as TokenLengths
    from simulators.traces import Trace as Trace
    from simulators.traces import TraceError as TraceError
    from simulators.traces import TraceHeader as TraceHeader
    from simulators.traces import read_recording as read_recording
    from simulators.traces import read_trace as read_trace
    from simulators.traces import sample_trace as sample_trace
    from simulators.traces import synthesize as synthesize
    from simulators.tuning import Study as Study
    from simulators.tuning import tune as tune
    from simulators.variation import Variation as Variation
    from simulators.variation import vary as vary
    from simulators.worlds import random_worlds as random_worlds
    from simulators.worlds import read_world as read_world

_HOMES = {
    "Backlog": "scenario",
    "Calibration": "calibrate",
    "Call": "provider",
    "Comparison": "comparison",
    "Dashboard": "dashboard",
    "Event": "scenario",
    "LatencyModel": "latency",
    "Mode": "traces",
    "Neighbour": "neighbours",
    "Plan": "planning",
    "Policy": "policies",
    "Provider": "provider",
    "ProviderMachine": "provider",
    "Recording": "traces",
    "Scenario": "scenario",
    "SimResult": "result",
    "Study": "tuning",
    "TokenLengths": "traces",
    "Trace": "traces",
    "TraceError": "traces",
    "TraceHeader": "traces",
    "Validation": "calibration.validation",
    "Variation": "variation",
    "backlog": "scenario",
    "calibrate": "calibrate",
    "compare": "comparison",
    "incident": "faults",
    "plan": "planning",
    "plot_calibration": "plots",
    "plot_fairness": "plots",
    "plot_frontier": "plots",
    "plot_heat_map": "plots",
    "plot_limits": "plots",
    "plot_outcomes": "plots",
    "plot_overview": "plots",
    "plot_plan": "plots",
    "plot_queue": "plots",
    "plot_recovery": "plots",
    "plot_sensitivity": "plots",
    "plot_study": "plots",
    "plot_trace": "plots",
    "plot_waits": "plots",
    "plot_waits_over_time": "plots",
    "provider": "provider",
    "provider_names": "provider",
    "random_worlds": "worlds",
    "read_recording": "traces",
    "read_trace": "traces",
    "read_world": "worlds",
    "run_suite": "suite",
    "running_server": "server",
    "sample_trace": "traces",
    "serve": "server",
    "simulate": "engine",
    "suite_report": "suite",
    "synthesize": "traces",
    "tune": "tuning",
    "vary": "variation",
    "watch": "dashboard",
}

__all__ = [
    "Backlog",
    "Calibration",
    "Call",
    "Comparison",
    "Dashboard",
    "Event",
    "LatencyModel",
    "Mode",
    "Neighbour",
    "Plan",
    "Policy",
    "Provider",
    "ProviderMachine",
    "Recording",
    "Scenario",
    "SimResult",
    "Study",
    "TokenLengths",
    "Trace",
    "TraceError",
    "TraceHeader",
    "Validation",
    "Variation",
    "backlog",
    "calibrate",
    "compare",
    "incident",
    "plan",
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
    "policies",
    "provider",
    "provider_names",
    "random_worlds",
    "read_recording",
    "read_trace",
    "read_world",
    "run_suite",
    "running_server",
    "sample_trace",
    "serve",
    "simulate",
    "suite_report",
    "synthesize",
    "tune",
    "vary",
    "watch",
]


_SHADOWED = ("calibrate", "provider")
"""Functions that share their name with the file they live in."""


def __getattr__(name: str) -> Any:
    """Load a public name from where it lives; without the lab extra say how to get it."""
    if name not in _HOMES and name != "policies":
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    try:
        home = import_module(f"{__name__}.{_HOMES.get(name, name)}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in {"factflow_llm", "simulators"}:
            raise
        msg = f'simulators.{name} needs {error.name}, which comes with the laboratory: pip install "factflow-llm[lab]"'
        raise ExtraMissingError(msg) from error
    value = home if name == "policies" else getattr(home, name)
    if name not in _SHADOWED:
        globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)


class _Face(ModuleType):
    """This package, whose functions stay functions: importing ``simulators.provider`` would put the module there."""


def _function(name: str) -> property:
    return property(lambda _: __getattr__(name), lambda _, module: None)


for _name in _SHADOWED:
    setattr(_Face, _name, _function(_name))
sys.modules[__name__].__class__ = _Face
