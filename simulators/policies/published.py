"""Rules of limiters that no Python package holds, re-derived from their published descriptions, to stand beside ours.

Constants are the published defaults. Each rule is written for calls that fail fast or are let through; here a call that
may not go waits in line, and a refused one is tried again as the laboratory does it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from factflow_llm.ratelimit.line import NEVER, Line, Ticket
from factflow_llm.signals import Axis, Change, Outcome, RateLimitSignal, Reason
from simulators.policies.base import PATIENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from factflow_llm.ratelimit.config import RetryConfig
    from simulators.policies.base import Controller
    from simulators.providers.machine import ProviderMachine


class Borrowed(Line):
    """Somebody else's rule behind the transitions of ours: one number moves, and it is a rate or a number of slots."""

    axis: Axis
    last_reason = Reason.CONFIGURED

    @property
    @abstractmethod
    def limit(self) -> float:
        """The number that the rule moves."""

    @property
    def rate(self) -> float:
        """Requests per second allowed now."""
        return self.limit if self.axis is Axis.REQUESTS else math.inf

    @property
    def concurrency(self) -> float:
        """Calls allowed in flight now."""
        return self.limit if self.axis is Axis.CONCURRENCY else math.inf

    @abstractmethod
    def learn(self, now: float, ticket: Ticket, signal: RateLimitSignal) -> None:
        """Let the rule have the outcome of a call."""

    def settle(self, now: float, ticket: Ticket, signal: RateLimitSignal) -> tuple[Change, ...]:
        """Take an admitted ticket back with what its attempt taught."""
        self.release(now, ticket)
        old = self.limit
        self.learn(now, ticket, signal)
        if self.limit == old:
            return ()
        self.last_reason = Reason.PROBE if self.limit > old else Reason.RATE_LIMITED
        return (Change(now, self.axis, old, self.limit, self.last_reason),)


class _ArcSlots(Borrowed):
    axis = Axis.CONCURRENCY
    limit: float = 1.0

    def turn_s(self, now: float, ticket: Ticket) -> float:
        return now if self.in_flight < math.floor(self.limit) else NEVER


class _Netflix(_ArcSlots):
    limit = 20.0

    def learn(self, now: float, ticket: Ticket, signal: RateLimitSignal) -> None:
        dropped = signal.outcome in (Outcome.RATE_LIMITED, Outcome.OVERLOADED) or now - ticket.admitted_s > 5.0
        if dropped:
            self.limit *= 0.9
        elif ticket.in_flight * 2 >= self.limit:
            self.limit += 1.0
        self.limit = min(max(math.floor(self.limit), 20.0), 200.0)


class _Vector(_ArcSlots):
    """Once per round trip: one more if nothing pushed back and the limit was reached, a tenth fewer otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self._mean_s = self._variance = 0.0
        self._times_s: list[float] = []
        self._next_s: float | None = None
        self._pushed_back = self._reached = False

    def admit(self, now: float, ticket: Ticket) -> None:
        super().admit(now, ticket)
        self._reached |= self.in_flight >= self.limit

    def learn(self, now: float, ticket: Ticket, signal: RateLimitSignal) -> None:
        if signal.outcome in (Outcome.RATE_LIMITED, Outcome.OVERLOADED):
            self._pushed_back = True
        else:
            self._times_s.append(now - ticket.admitted_s)
        took_s = sum(self._times_s) / len(self._times_s) if self._times_s else None
        if self._next_s is None:
            if took_s is not None:
                self._mean_s, self._next_s = took_s, now + took_s
        elif now >= self._next_s:
            self._next_s = now + self._mean_s
            self._move(took_s)

    def _move(self, took_s: float | None) -> None:
        slow_s = self._mean_s + 2.5 * math.sqrt(self._variance)
        if not self._pushed_back and self._reached and took_s is not None and took_s <= self._mean_s:
            self.limit = min(self.limit + 1.0, 200.0)
        elif self._pushed_back or (took_s is not None and took_s >= slow_s):
            self.limit = max(math.floor(self.limit * 0.9), 1.0)
        if took_s is not None:
            off_s = took_s - self._mean_s
            self._mean_s += 0.4 * off_s
            self._variance = 0.6 * (self._variance + 0.4 * off_s**2)
        self._pushed_back = self._reached = False
        self._times_s.clear()


class _Polars(Borrowed):
    """Search, recover, track: double until refused; 0.7 of the anchor for 2 s; double up to it and creep beyond."""

    axis = Axis.REQUESTS
    limit = 64.0

    def __init__(self) -> None:
        super().__init__()
        self._anchor: float | None = None
        self._goodput = 0.0
        self._tick_s = self._recover_until_s = 0.0
        self._sent = self._served = 0
        self._used = False
        self._cut_s = self._last_s = -NEVER

    def open(self, now: float) -> None:
        self._tick_s = now

    def turn_s(self, now: float, ticket: Ticket) -> float:
        self._tick(now)
        return self._last_s + 1.0 / self.limit

    def admit(self, now: float, ticket: Ticket) -> None:
        super().admit(now, ticket)
        self._last_s = now
        self._sent += 1

    def learn(self, now: float, ticket: Ticket, signal: RateLimitSignal) -> None:
        self._tick(now)
        if signal.outcome is Outcome.SUCCEEDED:
            self._served += 1
        elif signal.outcome in (Outcome.RATE_LIMITED, Outcome.OVERLOADED) and now >= self._cut_s + 1.0:
            seen = min(self.limit, self._goodput)
            if self._anchor is None or seen > self._anchor or self._used:
                self._anchor = seen or None
            self.limit = max(0.5 * self.limit if self._anchor is None else 0.7 * self._anchor, 0.1)
            self._cut_s, self._recover_until_s = now, now + 2.0

    def _tick(self, now: float) -> None:
        while now >= self._tick_s + 1.0:
            self._tick_s += 1.0
            self._goodput = self._served if not self._goodput else 0.8 * self._goodput + 0.2 * self._served
            self._used = self._sent >= 0.8 * self.limit
            if not self._sent and self.limit > _Polars.limit:
                self.limit = max(0.9 * self.limit, _Polars.limit)
            elif self._used and now >= self._recover_until_s:
                beyond = self._anchor is not None and self.limit >= self._anchor
                step = max(0.1 * (self._anchor or 0.0), 5.0) if beyond else self.limit
                reach = math.inf if beyond or self._anchor is None else self._anchor
                self.limit = min(self.limit + step, reach)
            self._sent = self._served = 0


_STATES: dict[str, Callable[[], Borrowed]] = {"Netflix AIMD": _Netflix, "Vector ARC": _Vector, "Polars": _Polars}


@dataclass(frozen=True)
class Rule:
    """A published rule as a policy."""

    name: str
    retry: RetryConfig = PATIENT

    def controller(self, machine: ProviderMachine) -> Controller:
        """Make the rule's state for one client."""
        return _STATES[self.name]()


def netflix_aimd() -> Rule:
    """Return Netflix' ``AIMDLimit``: one more per call while half the limit is used, a tenth less per drop.

    Limits lie between 20 and 200 calls in flight and start at 20; a call of more than 5 s counts as dropped
    (Netflix/concurrency-limits).
    """
    return Rule("Netflix AIMD")


def vector_arc() -> Rule:
    """Return Vector's adaptive request concurrency: at most one step per round trip, by rejections and by latency.

    Starts at 1, at most 200, × 0.9 down; a mean round trip 2.5 deviations above the average (EWMA 0.4) counts as a
    refusal (vector.dev, "Adaptive Request Concurrency").
    """
    return Rule("Vector ARC")


def polars() -> Rule:
    """Return Polars' pacing of object stores: search, recover, track around a remembered anchor, in ticks of 1 s.

    × 2 per tick while 80 % is used; after a refusal 0.7 of the anchor, the smaller of rate and goodput (EWMA 0.8), for
    2 s; then × 2 up to the anchor and beyond it by 10 % of it, or 5 requests/s, per tick. The anchor falls only while
    80 % of the rate is used (pola-rs/polars, http_rate_limit). The first rate is not published; 64 per s is assumed.
    """
    return Rule("Polars")
