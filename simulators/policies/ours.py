"""The production limiter as a policy, and settings that stand for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.config import RateLimitConfig, RetryConfig
from factflow_llm.ratelimit.core import LimiterCore
from simulators.policies.base import Policy

if TYPE_CHECKING:
    from simulators.policies.base import Controller
    from simulators.providers.machine import ProviderMachine


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
