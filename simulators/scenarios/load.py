"""How much of a quota a workload asks for: the mean demand as a share of what the provider sells meanwhile."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

from factflow_llm.signals import Axis
from simulators.providers.calls import Call
from simulators.providers.machine import ProviderMachine
from simulators.scenarios.demand import calls
from simulators.scenarios.scenario import Backlog, QuotaChange
from simulators.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulators.providers.catalogue import Provider
    from simulators.providers.quotas import Quota
    from simulators.scenarios.scenario import Scenario


@lru_cache(maxsize=8)
def mean_load(scenario: Scenario) -> float | None:
    """Return the mean demand, neighbours included, over the quota that it fills most, events included.

    Calls are charged by the provider's own rules. 0 where there is no quota; ``None`` for a backlog, whose workers ask
    for as much as they are given.
    """
    if isinstance(scenario.workload, Backlog):
        return None
    provider, duration_s = scenario.provider, max(scenario.workload.duration_s, 1.0)
    asked = [call for _, call in calls(scenario, Streams(0))]
    capacity = ProviderMachine(provider, Streams(0)).capacity(0.0)
    loads = [0.0]
    for quota in provider.quotas:
        cost = _cost(quota, provider)
        units = math.fsum(map(cost, asked))
        for each in scenario.neighbours:
            end_s = duration_s if each.end_s is None else min(each.end_s, duration_s)
            calls_made = each.requests_per_s * max(end_s - each.start_s, 0.0)
            units += calls_made * cost(Call(0, each.input_tokens, each.output_tokens, None))
        sold = capacity[quota.axis] * _quota_seconds(scenario, quota.axis, duration_s)
        loads.append(units / sold)
    return max(loads)


def _cost(quota: Quota, provider: Provider) -> Callable[[Call], float]:
    estimate, final, latency = quota.cost_rule(), quota.final_rule(), provider.latency
    if quota.axis is Axis.CONCURRENCY:
        return lambda call: latency.first_token_s + latency.per_token_s * call.output_tokens
    if final is not None:
        return lambda call: final(call, call.output_tokens)
    return (lambda _: 1.0) if estimate is None else estimate


def _quota_seconds(scenario: Scenario, axis: Axis, duration_s: float) -> float:
    """Return the seconds of the nominal quota that events leave of so many."""
    seconds = since_s = 0.0
    factor = 1.0
    for event in scenario.events:
        if isinstance(event, QuotaChange) and event.axis in (None, axis) and event.time_s < duration_s:
            seconds += factor * (event.time_s - since_s)
            since_s, factor = event.time_s, event.quota
    return seconds + factor * (duration_s - since_s)
