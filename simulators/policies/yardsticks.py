"""Yardsticks that know nothing of the provider: no limiter, a hard-coded rate, and textbook AIMD."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.line import NEVER, Line, Ticket
from factflow_llm.ratelimit.signals import Axis, Change, Outcome, RateLimitSignal, Reason
from simulators.policies.base import PATIENT

if TYPE_CHECKING:
    from factflow_llm.ratelimit.config import RetryConfig
    from simulators.policies.base import Controller
    from simulators.providers.machine import ProviderMachine


class _Unlearning(Line):
    """A line whose rule never changes."""

    last_reason = Reason.CONFIGURED
    rate = math.inf
    concurrency = math.inf

    def turn_s(self, now: float, ticket: Ticket) -> float:
        return now

    def settle(self, now: float, ticket: Ticket, signal: RateLimitSignal) -> tuple[Change, ...]:
        self.release(now, ticket)
        return ()


@dataclass(frozen=True)
class RetryOnly:
    """No limiter: send at once, back off and try again after a refusal."""

    retry: RetryConfig
    name: str = "retry only"

    def controller(self, machine: ProviderMachine) -> Controller:
        """Make a line nobody waits in."""
        return _Unlearning()


def retry_only(retry: RetryConfig | None = None) -> RetryOnly:
    """Return the policy of most programs: no limiter, exponential backoff with full jitter."""
    return RetryOnly(retry or PATIENT)


class _Paced(_Unlearning):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self._next_s = 0.0

    def turn_s(self, now: float, ticket: Ticket) -> float:
        return self._next_s

    def admit(self, now: float, ticket: Ticket) -> None:
        super().admit(now, ticket)
        self._next_s = max(self._next_s, now) + 1.0 / self.rate


@dataclass(frozen=True)
class FixedRate:
    """A hard-coded request rate, evenly paced."""

    requests_per_s: float
    retry: RetryConfig

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"fixed {self.requests_per_s:g}/s"

    def controller(self, machine: ProviderMachine) -> Controller:
        """Make the pacer."""
        return _Paced(self.requests_per_s)


def fixed_rate(requests_per_s: float, retry: RetryConfig | None = None) -> FixedRate:
    """Return the policy of a hard-coded rate.

    Raises:
        ConfigurationError: when the rate is not a finite number above 0.
    """
    if not (math.isfinite(requests_per_s) and requests_per_s > 0):
        msg = f"fixed_rate: requests_per_s = {requests_per_s!r} must be a finite number above 0"
        raise ConfigurationError(msg)
    return FixedRate(requests_per_s, retry or PATIENT)


class _ClassicAimdLine(_Unlearning):
    """The textbook: a rate that grows by a constant per success and halves at every rejection."""

    def __init__(self, start: float, increase: float, decrease: float) -> None:
        super().__init__()
        self.rate = start
        self._increase = increase
        self._decrease = decrease
        self._last_s = -NEVER

    def turn_s(self, now: float, ticket: Ticket) -> float:
        return self._last_s + 1.0 / self.rate

    def admit(self, now: float, ticket: Ticket) -> None:
        super().admit(now, ticket)
        self._last_s = now

    def settle(self, now: float, ticket: Ticket, signal: RateLimitSignal) -> tuple[Change, ...]:
        super().settle(now, ticket, signal)
        old = self.rate
        if signal.outcome is Outcome.SUCCEEDED:
            self.rate, self.last_reason = old + self._increase, Reason.PROBE
        elif signal.outcome is Outcome.RATE_LIMITED:
            self.rate, self.last_reason = max(old * self._decrease, 1.0 / 60.0), Reason.RATE_LIMITED
        else:
            return ()
        return (Change(now, Axis.REQUESTS, old, self.rate, self.last_reason),)


@dataclass(frozen=True)
class ClassicAimd:
    """Additive increase per success, multiplicative decrease per rejection, of a paced rate."""

    start: float
    increase: float
    decrease: float
    retry: RetryConfig
    name: str = "classic AIMD"

    def controller(self, machine: ProviderMachine) -> Controller:
        """Make the textbook."""
        return _ClassicAimdLine(self.start, self.increase, self.decrease)


def classic_aimd(
    start: float = 1.0, increase: float = 0.1, decrease: float = 0.5, retry: RetryConfig | None = None
) -> ClassicAimd:
    """Return textbook AIMD on the request rate: no epochs, no ceiling, no hold.

    Args:
        start: requests per second at first.
        increase: added to the rate by each success.
        decrease: factor of the rate at each rejection.
        retry: how calls are retried.
    """
    bounds = {"start": (start, math.inf), "increase": (increase, math.inf), "decrease": (decrease, 1.0)}
    for name, (value, below) in bounds.items():
        if not 0 < value < below:
            msg = f"classic_aimd: {name} = {value!r} must lie above 0 and below {below:g}"
            raise ConfigurationError(msg)
    return ClassicAimd(start, increase, decrease, retry or PATIENT)
