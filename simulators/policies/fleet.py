"""The production limiter in several processes that share one quota, and the store between them, which may fail.

The members and the protocol are production's own (``factflow_llm/ratelimit/member.py`` and ``shared.py``); only the
store is simulated: messages take time, get lost, find nobody, or find a store that has forgotten everything.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.member import MemberCore
from factflow_llm.ratelimit.shared import State, refresh

if TYPE_CHECKING:
    from factflow_llm.ratelimit.config import RateLimitConfig, RetryConfig
    from factflow_llm.ratelimit.line import Decisions, Ticket
    from factflow_llm.ratelimit.said import Grant, Report
    from factflow_llm.signals import Change, RateLimitSignal, Reason
    from simulators.providers.machine import ProviderMachine

_PATIENCE_S: Final = 1.0
"""How long a member waits for an answer, in production too."""


class _Fault(NamedTuple):
    kind: Literal["gone", "flushed", "partitioned", "slow"]
    time_s: float
    until_s: float = math.inf
    clients: tuple[int, ...] = ()
    delay_s: float = 0.0


@dataclass(frozen=True)
class Store:
    """A store between simulated processes; each method returns one to which something happens.

    Args:
        delay_s: seconds that a message takes, each way.
        loss: the share of messages that get lost.
    """

    delay_s: float = 0.001
    loss: float = 0.0
    _faults: tuple[_Fault, ...] = ()

    def __post_init__(self) -> None:
        if not 0.0 <= self.delay_s < math.inf or not 0.0 <= self.loss <= 1.0:
            msg = f"Store(): delay_s = {self.delay_s!r} must be at least 0, loss = {self.loss!r} between 0 and 1"
            raise ConfigurationError(msg)

    def gone(self, time_s: float, for_s: float) -> Store:
        """Answer nobody for a while."""
        return self._with(_Fault("gone", time_s, time_s + for_s))

    def flushed(self, time_s: float) -> Store:
        """Forget everything at a moment."""
        return self._with(_Fault("flushed", time_s))

    def partitioned(self, time_s: float, for_s: float, *clients: int) -> Store:
        """Be out of reach for some clients for a while."""
        return self._with(_Fault("partitioned", time_s, time_s + for_s, clients))

    def slow(self, time_s: float, for_s: float, delay_s: float) -> Store:
        """Take so much longer for a while, each way."""
        return self._with(_Fault("slow", time_s, time_s + for_s, (), delay_s))

    def _with(self, fault: _Fault) -> Store:
        return replace(self, _faults=(*self._faults, fault))


@dataclass(frozen=True)
class Fleet:
    """The production limiter under these settings, in clients that share what they learn."""

    config: RateLimitConfig
    store: Store
    seed: int = 0
    name: str = "ours, shared"
    _stores: dict[int, _Running] = field(default_factory=dict, compare=False, repr=False)

    @property
    def retry(self) -> RetryConfig:
        """How a failed call is tried again."""
        return self.config.retry

    def controller(self, machine: ProviderMachine) -> _Client:
        """Make one more member of the fleet in front of this machine."""
        running = self._stores.setdefault(id(machine), _Running(self.store, self.seed, machine))
        return _Client(self.config, running)


class _Running:
    """The store during one run."""

    def __init__(self, store: Store, seed: int, machine: ProviderMachine) -> None:
        self.store = store
        self.machine = machine  # kept, so that no other one gets its id
        self.luck = random.Random(seed)
        self.state: State | None = None
        self.clients = 0
        self._flushes = sorted(fault.time_s for fault in store._faults if fault.kind == "flushed")

    def delay_s(self, now: float) -> float:
        slow = [fault for fault in self.store._faults if fault.kind == "slow" and fault.time_s <= now < fault.until_s]
        return self.store.delay_s + sum(fault.delay_s for fault in slow)

    def lost(self, now: float, client: int) -> bool:
        if self.store.loss and self.luck.random() < self.store.loss:
            return True
        return any(
            fault.time_s <= now < fault.until_s and (fault.kind == "gone" or client in fault.clients)
            for fault in self.store._faults
            if fault.kind in ("gone", "partitioned")
        )

    def refresh(self, now: float, report: Report) -> Grant:
        while self._flushes and self._flushes[0] <= now:
            del self._flushes[0]
            self.state = None
        self.state, grant = refresh(self.state, report, 1.0 + now)
        return grant


class _Client:
    """A member's core, and its messages under way."""

    def __init__(self, config: RateLimitConfig, running: _Running) -> None:
        self._running = running
        self._number = running.clients
        running.clients += 1
        self.core = MemberCore(config, f"{self._number:04d}", luck=running.luck.random())
        self._armed_s = math.inf
        self._arrives_s = self._heard_s = self._given_up_s = math.inf
        self._report: Report | None = None
        self._grant: Grant | None = None

    @property
    def wake_at(self) -> float:
        """When ``advance`` must next be called."""
        core = self.core
        if core.refresh_at != self._armed_s:
            return -math.inf
        return min(core.wake_at, self._next_s())

    def _next_s(self) -> float:
        messages = min(self._arrives_s, self._heard_s, self._given_up_s)
        return messages if messages != math.inf else self.core.refresh_at

    @property
    def last_reason(self) -> Reason:
        """Why a limit last changed."""
        return self.core.last_reason

    @property
    def queued(self) -> int:
        """Calls that wait."""
        return self.core.queued

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        return self.core.in_flight

    @property
    def rate(self) -> float:
        """Requests per second that this client may send."""
        return self.core.rate

    @property
    def concurrency(self) -> float:
        """Calls that it may have in flight."""
        return self.core.concurrency

    def submit(self, now: float, ticket: Ticket) -> bool:
        """Put a ticket in line; return whether it was admitted at once."""
        return self.core.submit(now, ticket)

    def settle(self, now: float, ticket: Ticket, signal: RateLimitSignal) -> tuple[Change, ...]:
        """Take an admitted ticket back with what its attempt taught."""
        return self.core.settle(now, ticket, signal)

    def cancel(self, now: float, ticket: Ticket) -> tuple[Change, ...]:
        """Take a ticket out, wherever it stands."""
        return self.core.cancel(now, ticket)

    def advance(self, now: float) -> Decisions:
        """Carry messages to and from the store, and admit whoever's turn it is."""
        core, running = self.core, self._running
        heard: tuple[Change, ...] = ()
        while self._next_s() <= now:
            if self._arrives_s <= now:
                self._arrives_s = math.inf
                assert self._report is not None
                if not running.lost(now, self._number):
                    self._grant = running.refresh(now, self._report)
                    if not running.lost(now, self._number):
                        self._heard_s = now + running.delay_s(now)
            elif self._heard_s <= now:
                self._heard_s = self._given_up_s = math.inf
                assert self._grant is not None
                heard += core.hear(now, self._grant)
            elif self._given_up_s <= now:
                self._heard_s = self._given_up_s = math.inf
                heard += core.lapse(now)
            else:
                self._report = core.report(now)
                self._arrives_s, self._given_up_s = now + running.delay_s(now), now + _PATIENCE_S
        self._armed_s = core.refresh_at
        decisions = core.advance(now)
        decisions.changes = heard + decisions.changes
        return decisions
