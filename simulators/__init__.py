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

if TYPE_CHECKING:
    from simulators import policies as policies
    from simulators.comparison import Comparison as Comparison
    from simulators.comparison import compare as compare
    from simulators.engine import simulate as simulate
    from simulators.plots import plot_frontier as plot_frontier
    from simulators.plots import plot_limits as plot_limits
    from simulators.plots import plot_outcomes as plot_outcomes
    from simulators.plots import plot_overview as plot_overview
    from simulators.plots import plot_recovery as plot_recovery
    from simulators.plots import plot_study as plot_study
    from simulators.plots import plot_waits as plot_waits
    from simulators.policies import Policy as Policy
    from simulators.provider import Provider as Provider
    from simulators.provider import provider as provider
    from simulators.provider import provider_names as provider_names
    from simulators.result import SimResult as SimResult
    from simulators.scenario import Backlog as Backlog
    from simulators.scenario import Scenario as Scenario
    from simulators.scenario import backlog as backlog
    from simulators.traces import Trace as Trace
    from simulators.traces import read_trace as read_trace
    from simulators.traces import sample_trace as sample_trace
    from simulators.traces import synthesize as synthesize
    from simulators.tuning import Study as Study
    from simulators.tuning import tune as tune

_HOMES = {
    "Backlog": "scenario",
    "Comparison": "comparison",
    "Policy": "policies",
    "Provider": "provider",
    "Scenario": "scenario",
    "SimResult": "result",
    "Study": "tuning",
    "Trace": "traces",
    "backlog": "scenario",
    "compare": "comparison",
    "plot_frontier": "plots",
    "plot_limits": "plots",
    "plot_outcomes": "plots",
    "plot_overview": "plots",
    "plot_recovery": "plots",
    "plot_study": "plots",
    "plot_waits": "plots",
    "provider": "provider",
    "provider_names": "provider",
    "read_trace": "traces",
    "sample_trace": "traces",
    "simulate": "engine",
    "synthesize": "traces",
    "tune": "tuning",
}

__all__ = sorted([*_HOMES, "policies"])


def __getattr__(name: str) -> Any:
    if name == "policies":
        return import_module("simulators.policies")
    if name not in _HOMES:
        msg = f"module 'simulators' has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(f"simulators.{_HOMES[name]}"), name)
    if name not in _SHADOWED:
        globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)


_SHADOWED = ("provider",)
"""Functions that share their name with the file they live in."""


class _Face(ModuleType):
    """This package, with functions that stay functions: importing ``simulators.provider`` would put the module there."""


def _function(name: str) -> property:
    return property(lambda _: __getattr__(name), lambda _, module: None)


for _name in _SHADOWED:
    setattr(_Face, _name, _function(_name))
sys.modules[__name__].__class__ = _Face
