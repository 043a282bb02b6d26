"""A crowd before a limiter core, in virtual time: somebody always waits, and a provider answers after a round trip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from factflow_llm.ratelimit.line import NEVER, Ticket, TicketState
from factflow_llm.signals import Axis, Outcome, RateLimitSignal

if TYPE_CHECKING:
    from factflow_llm.ratelimit.core import LimiterCore

INPUT_TOKENS = OUTPUT_TOKENS = 100
"""What each call of a crowd reads and writes."""
SERVED = RateLimitSignal(Outcome.SUCCEEDED, input_tokens=INPUT_TOKENS, output_tokens=OUTPUT_TOKENS)

Answer = Callable[[float], RateLimitSignal]
"""What a provider says to a call that reaches it at that moment."""


@dataclass
class Bucket:
    """A provider that admits ``rate`` calls a second ``burst`` at once, and names ``axis`` when it refuses."""

    rate: float
    burst: float = 5.0
    axis: Axis | None = None
    retry_after_s: float | None = None
    level: float = 0.0
    as_of_s: float = 0.0

    def __call__(self, now: float) -> RateLimitSignal:
        """Answer a call that comes now."""
        self.level = min(self.level + (now - self.as_of_s) * self.rate, self.burst)
        self.as_of_s = now
        if self.level < 1.0:
            return RateLimitSignal(Outcome.RATE_LIMITED, self.retry_after_s, self.axis)
        self.level -= 1.0
        return SERVED


@dataclass
class Crowd:
    """So many callers wait at any time, but for calls under way being ``at_once``.

    ``sent_s`` holds when their calls were sent, ``took_s`` is the round trip.
    """

    core: LimiterCore
    answer: Answer
    waiting: int = 20
    took_s: float = 0.5
    at_once: int = 1000
    now: float = 0.0
    sent_s: list[float] = field(default_factory=list)
    orders: list[int] = field(default_factory=list)
    signals: list[RateLimitSignal] = field(default_factory=list)
    _flying: list[tuple[float, int, Ticket, RateLimitSignal]] = field(default_factory=list)
    _idle_wakes: int = 0

    def run(self, until_s: float) -> None:
        """Go on until then; whoever is under way stays there."""
        core = self.core
        while True:
            while core.queued < self.waiting and len(self._flying) < self.at_once:
                ticket = Ticket(INPUT_TOKENS, OUTPUT_TOKENS)
                if core.submit(self.now, ticket):
                    self._send(ticket)
                elif ticket.state is not TicketState.WAITING:
                    break
            for ticket in core.advance(self.now).admitted:
                self._send(ticket)
            if core.queued < self.waiting and len(self._flying) < self.at_once and not core.refusing:
                continue
            answer_s = self._flying[0][0] if self._flying else NEVER
            next_s = min(core.wake_at, answer_s)
            assert next_s < NEVER or core.refusing or not core.queued, "all wait for each other"
            self._idle_wakes = 0 if next_s > self.now else self._idle_wakes + 1
            assert self._idle_wakes < 10_000, "the clock stands still"
            if next_s > until_s:
                self.now = max(self.now, until_s)
                return
            self.now = max(self.now, next_s)
            while self._flying and self._flying[0][0] <= self.now:
                _, _, ticket, signal = heappop(self._flying)
                core.settle(self.now, ticket, signal)

    def pause(self, until_s: float) -> None:
        """Let nobody come until then; those who wait and fly go home."""
        waiting, self.waiting = self.waiting, 0
        self.run(until_s)
        self.waiting = waiting

    def sent_between(self, since_s: float, until_s: float) -> int:
        """Return how many calls were sent from then until then."""
        return sum(since_s <= sent_s < until_s for sent_s in self.sent_s)

    def _send(self, ticket: Ticket) -> None:
        signal = self.answer(self.now)
        self.sent_s.append(self.now)
        self.orders.append(ticket.order)
        self.signals.append(signal)
        heappush(self._flying, (self.now + self.took_s, ticket.number, ticket, signal))
