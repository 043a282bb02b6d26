"""The waiting line: tickets in, admissions and refusals out, first come first served within a priority.

Higher priorities go first, but every tenth turn belongs to whoever has waited longest: nobody starves.

A driver's verbs are ``submit``, ``advance``, ``settle`` and ``cancel``. A waiting ticket holds no send time;
``wake_at`` says when somebody may have a turn as things stand, and any verb can move it: the driver calls ``advance``
when it has come.

Whoever decides *when* the head of the line may go derives from ``Line`` and answers its hooks: ``opened``,
``passed``, ``turn_s``, ``held``, ``admit`` and, while it is ``refusing``, ``refusal``.
"""

from __future__ import annotations

import math
from enum import Enum
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final

from factflow_llm.errors.exceptions import PermitSettledError
from factflow_llm.ratelimit.native import mypyc_attr
from factflow_llm.signals import Outcome, RateLimitSignal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from factflow_llm.signals import Change, Reason

NEVER: Final = math.inf
AT_ONCE: Final = -math.inf
NO_CHANGES: Final[tuple[Change, ...]] = ()
OLDEST_EVERY: Final = 10
"""One turn in so many goes by age instead of priority."""


class TicketState(Enum):
    """Where a ticket stands."""

    NEW = "new"
    WAITING = "waiting"
    ADMITTED = "admitted"
    REFUSED = "refused"
    SETTLED = "settled"
    CANCELLED = "cancelled"


class Refusal(Enum):
    """Why a ticket was refused."""

    DEADLINE = "deadline"
    BREAKER = "breaker"
    QUEUE_FULL = "queue_full"


class Decisions:
    """What one advance decided, and what it changed on the way; iterating gives the tickets, admitted ones first.

    Attributes:
        admitted: those whose turn has come, in order.
        refused: those who waited in vain, in order.
        changes: what changed, and why.
    """

    __slots__ = ("admitted", "changes", "refused")

    def __init__(self, admitted: list[Ticket], refused: list[Ticket], changes: tuple[Change, ...]) -> None:
        self.admitted = admitted
        self.refused = refused
        self.changes = changes

    def __iter__(self) -> Iterator[Ticket]:
        yield from self.admitted
        yield from self.refused


_LITTER: Final = 4
"""Entries for every ticket that waits, above which those who left are cleared away: it costs no more than they did."""
_FEW: Final = 256

_WAITING: Final = TicketState.WAITING
ADMITTED: Final = TicketState.ADMITTED
IGNORED: Final = RateLimitSignal(Outcome.IGNORED)


@mypyc_attr(allow_interpreted_subclasses=True)
class Ticket:
    """One call's place in line. A retry submits the same ticket again and keeps its place.

    Args:
        input_tokens: tokens the call will read; ``None`` when unknown.
        output_tokens: tokens it is expected to write; ``None`` leaves the estimate to the limiter.
        priority: higher goes first.
        deadline_s: on the driver's clock; a ticket still waiting then is refused.

    Attributes:
        order: its place among all tickets of the line, from 0.
        admitted_s: when it was last admitted; NaN before.
        in_flight: tickets under way at that moment, this one included.
        queued: tickets that still waited at that moment.
        rate: requests per second allowed at that moment, where a limiter learns.
        reason: why a limit had last changed.

    What an admission sets is unset before it.
    """

    __slots__ = (
        "admitted_s",
        "deadline_s",
        "in_flight",
        "input_tokens",
        "number",
        "order",
        "output_tokens",
        "priority",
        "queued",
        "rate",
        "reason",
        "refunded_before",
        "refusal",
        "rejected",
        "reserved_input",
        "reserved_output",
        "sent_before",
        "state",
    )  # fmt: skip
    number: int
    rejected: bool
    in_flight: int
    queued: int
    rate: float
    reason: Reason
    reserved_input: float
    reserved_output: float
    sent_before: tuple[float, float, float]
    refunded_before: tuple[float, float, float]

    def __init__(
        self,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        *,
        priority: int = 0,
        deadline_s: float = NEVER,
    ) -> None:
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.priority = priority
        self.deadline_s = deadline_s
        self.state = TicketState.NEW
        self.refusal: Refusal | None = None
        self.order = -1
        self.admitted_s = math.nan

    def __repr__(self) -> str:
        return f"<Ticket {self.order} {self.state.value}>"


@mypyc_attr(allow_interpreted_subclasses=True)
class Line:
    """A line of tickets of which the head goes when ``turn_s`` says so.

    Args:
        max_queue: tickets that may wait; of those who are too many, the lowest priority that came last is refused.

    Attributes:
        wake_at: when ``advance`` must next be called; at once if that is not later than now, ``inf`` for never.
        queued: tickets waiting.
        in_flight: tickets admitted and not settled.
    """

    refusing = False
    """Whether ``refusal`` has a say; whoever derives turns it on."""

    def __init__(self, max_queue: int | None = None) -> None:
        self.wake_at = NEVER
        self.queued = 0
        self.in_flight = 0
        self.max_queue = max_queue
        self._queue: list[tuple[int, int, Ticket]] = []
        self._deadlines: list[tuple[float, int, Ticket]] = []
        self._orders = 0
        self._ages: list[tuple[int, Ticket]] | None = None  # who waits, by age, once priorities differ
        self._turns = 0
        self._shed: list[Ticket] = []

    # --- hooks -------------------------------------------------------------------------------------------------------

    def opened(self, now: float) -> None:
        """Begin: the first ticket has come. Time before that taught nothing."""

    def passed(self, now: float) -> None:
        """Conclude whatever follows from the time that has passed."""

    def changes(self) -> tuple[Change, ...]:
        """Return what changed since this was last asked."""
        return NO_CHANGES

    def turn_s(self, now: float, ticket: Ticket) -> float:
        """Return when the ticket may go: ``now`` or earlier means now, ``inf`` that only a settlement can tell.

        A question, which changes nothing that a driver could see.
        """
        raise NotImplementedError

    def held(self, now: float, ticket: Ticket) -> None:
        """Note that the head of the line has to wait."""

    def refusal(self, now: float, ticket: Ticket) -> Refusal | None:
        """Return why the ticket may not even wait; asked only while ``refusing``."""
        raise NotImplementedError

    def admit(self, now: float, ticket: Ticket) -> None:
        """Count the ticket in; whoever derives takes what it costs."""
        ticket.state = ADMITTED
        ticket.admitted_s = now
        self.in_flight = ticket.in_flight = self.in_flight + 1
        ticket.queued = self.queued

    def release(self, now: float, ticket: Ticket) -> None:
        """Take an admitted ticket back, which may be what somebody waits for."""
        ticket.state = TicketState.SETTLED
        self.in_flight -= 1
        self.wake_at = now

    # --- the driver's verbs ------------------------------------------------------------------------------------------

    def submit(self, now: float, ticket: Ticket) -> bool:
        """Put a ticket in line; return whether it was admitted at once (otherwise look at its state and ``wake_at``).

        Raises:
            PermitSettledError: when the ticket waits or is admitted already.
        """
        if ticket.order < 0:
            if self._orders == 0:
                self.opened(now)
            ticket.order = self._orders
            self._orders += 1
        if ticket.state is _WAITING or ticket.state is ADMITTED:
            msg = f"{ticket!r} stands in line already; it can be submitted again once it is settled"
            raise PermitSettledError(msg)
        refusal = None
        if ticket.deadline_s <= now:
            refusal = Refusal.DEADLINE
        elif self.refusing:
            refusal = self.refusal(now, ticket)
        if refusal is not None:
            ticket.state, ticket.refusal = TicketState.REFUSED, refusal
            return False
        self.passed(now)
        if not self.queued:
            at = self.turn_s(now, ticket)
            if at <= now:
                self.admit(now, ticket)
                return True
            self.held(now, ticket)
            self.wake_at = at
        elif self.max_queue is not None and self.queued >= self.max_queue and self._make_room(ticket):
            return False
        ticket.state = _WAITING
        self.queued += 1
        if ticket.priority and self._ages is None:
            self._ages = sorted((other.order, other) for _, _, other in self._queue if other.state is _WAITING)
        heappush(self._queue, (-ticket.priority, ticket.order, ticket))
        if self._ages is not None:
            heappush(self._ages, (ticket.order, ticket))
        if ticket.deadline_s != NEVER:
            heappush(self._deadlines, (ticket.deadline_s, ticket.order, ticket))
            self.wake_at = min(self.wake_at, ticket.deadline_s)
        if self.queued > 1 and self._queue[0][2] is ticket:
            self.wake_at = min(self.wake_at, max(self.turn_s(now, ticket), now))
        return False

    def advance(self, now: float) -> Decisions:
        """Admit whoever's turn it is and refuse whoever waits in vain."""
        admitted: list[Ticket] = []
        refused, self._shed = self._shed, []
        self.passed(now)
        deadlines = self._deadlines
        while deadlines and (deadlines[0][0] <= now or deadlines[0][2].state is not _WAITING):
            late = heappop(deadlines)[2]
            if late.state is _WAITING:
                self._refuse(late, Refusal.DEADLINE)
                refused.append(late)
        queue = self._queue
        wake = NEVER
        while queue:
            ticket = queue[0][2]
            if ticket.state is not _WAITING:
                heappop(queue)
                continue
            if self._ages is not None:
                ticket = self._by_age(ticket)
            if self.refusing:
                refusal = self.refusal(now, ticket)
                if refusal is not None:
                    self._refuse(ticket, refusal)
                    refused.append(ticket)
                    continue
            at = self.turn_s(now, ticket)
            if at > now:
                self.held(now, ticket)
                wake = at
                break
            self.queued -= 1
            self._turns += 1
            self.admit(now, ticket)
            admitted.append(ticket)
        while deadlines and deadlines[0][2].state is not _WAITING:
            heappop(deadlines)
        if deadlines and deadlines[0][0] < wake:
            wake = deadlines[0][0]
        self.wake_at = wake
        if len(queue) + len(deadlines) + len(self._ages or ()) > _LITTER * self.queued + _FEW:
            self._tidy()
        return Decisions(admitted, refused, self.changes())

    def settle(self, now: float, ticket: Ticket, signal: RateLimitSignal) -> tuple[Change, ...]:
        """Take an admitted ticket back with what its attempt taught; return what changed and why."""
        raise NotImplementedError

    def cancel(self, now: float, ticket: Ticket) -> tuple[Change, ...]:
        """Take a ticket out, wherever it stands; one that was admitted taught nothing. Return what changed."""
        if ticket.state is ADMITTED:
            return self.settle(now, ticket, IGNORED)
        if ticket.state is _WAITING:
            ticket.state = TicketState.CANCELLED
            self.queued -= 1
            self.wake_at = AT_ONCE
        return NO_CHANGES

    # --- inside ------------------------------------------------------------------------------------------------------

    def _by_age(self, first: Ticket) -> Ticket:
        """Return who goes instead of the first by priority, if it is the turn of whoever has waited longest."""
        ages = self._ages
        assert ages is not None
        while ages[0][1].state is not _WAITING:
            heappop(ages)
        return first if (self._turns + 1) % OLDEST_EVERY else ages[0][1]

    def _refuse(self, ticket: Ticket, refusal: Refusal) -> None:
        self.queued -= 1
        ticket.state = TicketState.REFUSED
        ticket.refusal = refusal

    def _make_room(self, ticket: Ticket) -> bool:
        """Refuse the last of the lowest priority; return whether that is the ticket itself."""
        last = max(entry for entry in self._queue if entry[2].state is _WAITING)
        if (-ticket.priority, ticket.order) > last[:2]:
            ticket.state, ticket.refusal = TicketState.REFUSED, Refusal.QUEUE_FULL
            return True
        self._refuse(last[2], Refusal.QUEUE_FULL)
        self._shed.append(last[2])
        self.wake_at = AT_ONCE
        return False

    def _tidy(self) -> None:
        """Forget those who left the line otherwise than by its head."""
        self._queue = [entry for entry in self._queue if entry[2].state is _WAITING]
        self._deadlines = [entry for entry in self._deadlines if entry[2].state is _WAITING]
        heapify(self._queue)
        heapify(self._deadlines)
        if self._ages is not None:
            self._ages = sorted((order, waiting) for order, waiting in self._ages if waiting.state is _WAITING)
