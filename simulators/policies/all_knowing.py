"""The yardstick: a client that sees the provider's state, and so is never refused while it is alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from factflow_llm.ratelimit.line import NEVER, Decisions, Line, Ticket
from factflow_llm.signals import Change, RateLimitSignal, Reason
from simulators.policies.base import PATIENT
from simulators.policies.tickets import KnownTicket

if TYPE_CHECKING:
    from factflow_llm.ratelimit.config import RetryConfig
    from simulators.policies.base import Controller
    from simulators.providers.machine import ProviderMachine


class _OracleLine(Line):
    """Decides one by one: each call depends on what the provider made of the one before."""

    last_reason = Reason.CONFIGURED
    rate = math.inf
    concurrency = math.inf

    def __init__(self, machine: ProviderMachine) -> None:
        super().__init__()
        self._machine = machine
        self._last: Ticket | None = None
        self._decided_before = 0

    @property
    def _last_is_on_its_way(self) -> bool:
        return self._last is not None and self._machine.attempts == self._decided_before

    def turn_s(self, now: float, ticket: Ticket) -> float:
        assert isinstance(ticket, KnownTicket)
        if self._last_is_on_its_way:
            return NEVER
        wait_s = self._machine.wait_s(now, ticket.call)
        return now if wait_s == NEVER else now + wait_s  # what never fits is sent, to be told so

    def advance(self, now: float) -> Decisions:
        decisions = super().advance(now)
        self._ask_again(now)
        return decisions

    def submit(self, now: float, ticket: Ticket) -> bool:
        admitted = super().submit(now, ticket)
        if not admitted:
            self._ask_again(now)
        return admitted

    def _ask_again(self, now: float) -> None:
        """Wake once the provider has decided; until then nobody goes."""
        if self._last_is_on_its_way:
            self.wake_at = now

    def admit(self, now: float, ticket: Ticket) -> None:
        super().admit(now, ticket)
        self._last, self._decided_before = ticket, self._machine.attempts

    def release(self, now: float, ticket: Ticket) -> None:
        super().release(now, ticket)
        if ticket is self._last:
            self._last = None

    def settle(self, now: float, ticket: Ticket, signal: RateLimitSignal) -> tuple[Change, ...]:
        self.release(now, ticket)
        return ()


@dataclass(frozen=True)
class Oracle:
    """Sends each call at the first moment at which the provider admits it, in order of arrival.

    With one bucket, window or set of slots this is the best any client can do. With several dimensions it is a bound
    for clients that keep the order: one that reorders calls by size could do better. Where there is a network, it
    stands at the other end: a bound again.
    """

    retry: RetryConfig
    name: str = "oracle"
    resident: bool = True

    def controller(self, machine: ProviderMachine) -> Controller:
        """Make a line that asks the provider."""
        return _OracleLine(machine)


def oracle() -> Oracle:
    """Return the yardstick that knows the provider's state."""
    return Oracle(PATIENT)
