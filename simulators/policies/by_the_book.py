"""The rate that a careful engineer hard-codes: the quota, divided by what the average request takes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from factflow_llm.signals import Axis
from simulators.policies.base import PATIENT
from simulators.policies.yardsticks import fixed_rate, retry_only
from simulators.scenarios.scenario import Backlog
from simulators.traces.trace import UNKNOWN

if TYPE_CHECKING:
    from factflow_llm.ratelimit.config import RetryConfig
    from simulators.policies.base import Controller
    from simulators.providers.machine import ProviderMachine
    from simulators.traces.trace import Integers, Trace


@dataclass(frozen=True)
class ByTheBook:
    """A fixed rate at the nominal quota, for requests of this average size; no limit where there is no quota.

    It knows what no program knows by itself: all quotas, and the workload's averages beforehand.
    """

    input_tokens: float
    output_tokens: float
    retry: RetryConfig = PATIENT
    name: str = "fixed rate"

    def requests_per_s(self, machine: ProviderMachine) -> float:
        """Return the highest rate that every quota sustains; slots are taken for the median answer's time."""
        latency = machine.provider.latency
        costs = {
            Axis.REQUESTS: 1.0,
            Axis.INPUT_TOKENS: self.input_tokens,
            Axis.OUTPUT_TOKENS: self.output_tokens,
            Axis.TOKENS: self.input_tokens + self.output_tokens,
            Axis.CONCURRENCY: latency.first_token_s + latency.per_token_s * self.output_tokens,
        }
        sustained = machine.capacity(0.0).items()
        return min((units / costs[axis] for axis, units in sustained if costs[axis]), default=math.inf)

    def controller(self, machine: ProviderMachine) -> Controller:
        """Make the pacer."""
        rate = self.requests_per_s(machine)
        return (retry_only() if math.isinf(rate) else fixed_rate(rate)).controller(machine)


def by_the_book(workload: Trace | Backlog) -> ByTheBook:
    """Return the fixed rate for this workload's average request."""
    if isinstance(workload, Backlog):
        swell = math.exp(workload.sigma**2 / 2)
        return ByTheBook(workload.input_tokens * swell, workload.output_tokens * swell)
    return ByTheBook(_mean(workload.input_tokens), _mean(workload.output_tokens))


def _mean(tokens: Integers) -> float:
    known = tokens[tokens != UNKNOWN]
    return float(np.mean(known)) if len(known) else 0.0
