"""The shapes of a policy and of the controllers it makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from factflow_llm.ratelimit.config import RetryConfig

if TYPE_CHECKING:
    from factflow_llm.ratelimit.line import Decisions, Ticket
    from factflow_llm.ratelimit.signals import Change, RateLimitSignal, Reason
    from simulators.providers.machine import ProviderMachine

PATIENT: Final = RetryConfig(max_attempts=1000)
"""Retries that hide no limiter's weakness: as many as it takes, full jitter, no earlier than the Retry-After."""


class Controller(Protocol):
    """What the engine drives: the transitions of the production core."""

    @property
    def wake_at(self) -> float:
        """When ``advance`` must next be called; at once if that is not later than now."""
        ...

    @property
    def last_reason(self) -> Reason:
        """Why a limit last changed."""
        ...

    @property
    def queued(self) -> int:
        """Calls that wait."""
        ...

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        ...

    @property
    def rate(self) -> float:
        """Requests per second allowed now; ``inf`` for no limit."""
        ...

    @property
    def concurrency(self) -> float:
        """Calls allowed in flight now; ``inf`` for no limit."""
        ...

    def submit(self, now: float, ticket: Ticket) -> bool:
        """Put a ticket in line; return whether it was admitted at once."""
        ...

    def advance(self, now: float) -> Decisions:
        """Admit whoever's turn it is and refuse whoever waits in vain."""
        ...

    def settle(self, now: float, ticket: Ticket, signal: RateLimitSignal) -> tuple[Change, ...]:
        """Take an admitted ticket back with what its attempt taught."""
        ...

    def cancel(self, now: float, ticket: Ticket) -> tuple[Change, ...]:
        """Take a ticket out, wherever it stands; one that was admitted taught nothing."""
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
class ResidentPolicy(Policy, Protocol):
    """A yardstick that stands beside the provider: its calls are on no way, there or back."""

    @property
    def resident(self) -> bool:
        """True."""
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
        """Stand in for ``factflow_llm.ratelimit.backoff.retry_delay_s``."""
        ...
