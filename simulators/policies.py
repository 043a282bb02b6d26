"""What can be put between callers and a provider: our limiter, yardsticks, and others of the same shape.

A policy makes one controller per client. The production core is such a controller as it stands; so is anything that
derives from :class:`factflow_llm.ratelimit.line.Line`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.config import RateLimitConfig, RetryConfig
from factflow_llm.ratelimit.core import LimiterCore
from factflow_llm.ratelimit.line import NEVER, Line, Ticket
from factflow_llm.signals import Axis, Change, Outcome, RateLimitSignal, Reason
from simulators.oracle import Oracle as Oracle  # noqa: PLC0414 - handed on
from simulators.oracle import oracle as oracle  # noqa: PLC0414
from simulators.tickets import KnownTicket as KnownTicket  # noqa: PLC0414

if TYPE_CHECKING:
    from collections.abc import Iterable

    from simulators.provider import ProviderMachine


class Controller(Protocol):
    """What the engine drives: the transitions of the production core."""

    wake_at: float
    last_reason: Reason
    queued: int
    in_flight: int

    @property
    def rate(self) -> float:
        """Requests per second allowed now; ``inf`` for no limit."""
        ...

    @property
    def concurrency(self) -> float:
        """Calls allowed in flight now; ``inf`` for no limit."""
        ...

    def submit(self, now: float, ticket: Ticket) -> bool:
        """Put a ticket in line; return whether it was granted at once."""
        ...

    def advance(self, now: float) -> Iterable[Ticket]:
        """Grant whoever's turn it is and refuse whoever waits in vain."""
        ...

    def settle(self, now: float, ticket: Ticket, signal: RateLimitSignal) -> tuple[Change, ...]:
        """Take a granted ticket back with what its attempt taught."""
        ...

    def withdraw(self, ticket: Ticket) -> None:
        """Take a waiting ticket out of the line."""
        ...


@runtime_checkable
class Policy(Protocol):
    """A way to make controllers, and how calls are retried under it."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def retry(self) -> RetryConfig:
        """How a failed call is tried again."""
        ...

    def controller(self, machine: ProviderMachine) -> Controller:
        """Make the controller of one client; only a yardstick looks at the machine."""
        ...


@runtime_checkable
class PatientPolicy(Policy, Protocol):
    """A policy that waits before a retry by a rule of its own."""

    def retry_delay_s(
        self,
        retry: RetryConfig,
        *,
        attempt: int,
        jitter: float,
        retry_after_s: float | None,
        remaining_s: float | None,
        worth_attempts: int | None = None,
    ) -> float | None:
        """Stand in for :func:`factflow_llm.ratelimit.backoff.retry_delay_s`."""
        ...


@dataclass(frozen=True)
class Adaptive:
    """The production limiter under these settings."""

    config: RateLimitConfig
    name: str = "ours"

    @property
    def retry(self) -> RetryConfig:
        """How a failed call is tried again."""
        return self.config.retry

    def controller(self, machine: ProviderMachine) -> Controller:
        """Make the production core."""
        return LimiterCore(self.config)


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
    return RetryOnly(retry or RetryConfig(max_attempts=1000))


class _Paced(_Unlearning):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self._next_s = 0.0

    def turn_s(self, now: float, ticket: Ticket) -> float:
        return self._next_s

    def grant(self, now: float, ticket: Ticket) -> None:
        super().grant(now, ticket)
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
    return FixedRate(requests_per_s, retry or RetryConfig(max_attempts=1000))


class _ClassicAimd(_Unlearning):
    """The textbook: a rate that grows by a constant per success and halves at every rejection."""

    def __init__(self, start: float, increase: float, decrease: float) -> None:
        super().__init__()
        self.rate = start
        self._increase = increase
        self._decrease = decrease
        self._last_s = -NEVER

    def turn_s(self, now: float, ticket: Ticket) -> float:
        return self._last_s + 1.0 / self.rate

    def grant(self, now: float, ticket: Ticket) -> None:
        super().grant(now, ticket)
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
        return _ClassicAimd(self.start, self.increase, self.decrease)


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
    return ClassicAimd(start, increase, decrease, retry or RetryConfig(max_attempts=1000))


def as_policy(policy: object) -> Policy:
    """Return settings as the policy they stand for; ``None`` means our defaults.

    Raises:
        ConfigurationError: for anything that is neither settings nor a policy.
    """
    if policy is None:
        return Adaptive(RateLimitConfig())
    if isinstance(policy, RateLimitConfig):
        return Adaptive(policy)
    if isinstance(policy, Policy):
        return policy
    msg = (
        f"{policy!r} is no policy: give a RateLimitConfig, one of sim.policies, "
        "or an object with name, retry and controller()"
    )
    raise ConfigurationError(msg)
