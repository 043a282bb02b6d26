"""Other people's limiters, unmodified, behind the transitions of ours: what the package index holds, for comparison.

Each is driven at the times of the simulation instead of by a clock. Where a package takes a clock, it gets one. Where
it reads ``time`` by itself, its module's own name ``time`` stands for the simulation's while it is called
(``simulators.policies.peers.driving.as_its_own``), and nobody else's. Its coroutines run without an event loop:
none of them has to wait when it is asked at the right moment. What is private is read, never written; two lines that
do say so.

All limiters retry alike (``simulators.policies.base.PATIENT``), for they differ in when they send. The two
that are nothing but a rule for retries have it to themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from factflow_llm.ratelimit.config import RetryConfig
from factflow_llm.signals import Axis
from simulators.policies.base import PATIENT
from simulators.policies.peers import limiters, retries
from simulators.policies.yardsticks import retry_only

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulators.policies.base import Controller, Policy
    from simulators.providers.machine import ProviderMachine


@dataclass(frozen=True)
class Peer:
    """An installed limiter as a policy.

    Attributes:
        name: what reports call it.
        package: what to install.
        module: what must be importable.
        make: builds the limiter of one client.
        told: it is told the provider's nominal rate and learns nothing.
        retry: how a refused call is tried again.
    """

    name: str
    package: str
    module: str
    make: Callable[[ProviderMachine], Controller]
    told: bool = False
    retry: RetryConfig = PATIENT

    def controller(self, machine: ProviderMachine) -> Controller:
        """Make the limiter of one client."""
        return self.make(machine)


@dataclass(frozen=True)
class RetryPeer:
    """No limiter: an installed package's rule for retries, its randomness replaced by the simulation's.

    Attributes:
        name: what reports call it.
        package: what to install.
        module: what must be importable.
        delay_s: the wait, from the number of the failed attempt (from 0), a uniform draw and the Retry-After.
        retry: how often it tries.
    """

    name: str
    package: str
    module: str
    delay_s: Callable[[int, float, float | None], float]
    retry: RetryConfig

    def controller(self, machine: ProviderMachine) -> Controller:
        """Make a line nobody waits in."""
        return retry_only().controller(machine)

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
        """Return the package's wait, or ``None`` once it gives up."""
        return None if attempt + 1 >= retry.max_attempts else self.delay_s(attempt, jitter, retry_after_s)


def _told(limiter: Callable[[float], Controller], factor: float) -> Callable[[ProviderMachine], Controller]:
    """Tell a limiter the nominal requests per second, times ``factor``; where nobody counts requests, a thousand."""
    return lambda machine: limiter(machine.capacity(0.0).get(Axis.REQUESTS, 1000.0) * factor)


PEERS: tuple[Peer | RetryPeer, ...] = (
    Peer("aimd-limiter", "aimd-limiter", "aimd_limiter", lambda _: limiters.AimdLimiter(max_rate=100.0)),
    Peer("botocore adaptive", "botocore", "botocore.retries.adaptive", lambda _: limiters.Botocore()),
    Peer("inspect_ai", "inspect-ai", "inspect_ai.util._concurrency", lambda _: limiters.InspectAi()),
    Peer(
        "DataDesigner",
        "data-designer-engine",
        "data_designer.engine.models.request_admission.controller",
        lambda _: limiters.DataDesigner(max_parallel=64),
    ),
    Peer(
        "Phoenix", "arize-phoenix-evals", "phoenix.evals.rate_limiters", lambda _: limiters.Phoenix(initial_rate=20.0)
    ),
    Peer("aiolimiter, right", "aiolimiter", "aiolimiter", _told(limiters.AioLimiter, 1.0), told=True),
    Peer("aiolimiter, 2 x", "aiolimiter", "aiolimiter", _told(limiters.AioLimiter, 2.0), told=True),
    Peer(
        "LangChain, right", "langchain-core", "langchain_core.rate_limiters", _told(limiters.LangChain, 1.0), told=True
    ),
    RetryPeer("OpenAI SDK retries", "openai", "openai", retries.openai_delay_s, RetryConfig(max_attempts=3)),
    # as the OpenAI cookbook writes it: wait_random_exponential(min=1, max=60), stop_after_attempt(6)
    RetryPeer("tenacity", "tenacity", "tenacity", retries.tenacity_delay_s, RetryConfig(max_attempts=6)),
)
"""All peers, installed or not. Bounds that a limiter must be told are those of the side-by-side of 2026-11-22."""


def absent_peers() -> dict[str, str]:
    """Return why peers cannot run, by name; empty when all can."""
    absent = {}
    for peer in PEERS:
        try:
            import_module(peer.module)
        except ImportError as error:
            absent[peer.name] = f'{error}; pip install "factflow-llm[peers]"'
    return absent


def peers() -> dict[str, Policy]:
    """Return the installed peers by name."""
    absent = absent_peers()
    return {peer.name: peer for peer in PEERS if peer.name not in absent}
