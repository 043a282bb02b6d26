"""The waiting line: order, priority, deadlines, and whoever leaves it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from factflow_llm.ratelimit.line import NEVER, OLDEST_EVERY, Decisions, Line, Refusal, Ticket, TicketState
from factflow_llm.signals import Change

if TYPE_CHECKING:
    from factflow_llm.signals import Change, RateLimitSignal


class _Gated(Line):
    """A line whose head may go from a moment that the test moves; admissions cost nothing."""

    def __init__(self, opens_s: float = 0.0, max_queue: int | None = None) -> None:
        super().__init__(max_queue)
        self.opens_s = opens_s

    def turn_s(self, now: float, ticket: Ticket) -> float:
        return self.opens_s

    def settle(self, now: float, ticket: Ticket, signal: RateLimitSignal) -> tuple[Change, ...]:
        self.release(now, ticket)
        return ()


def _told(decisions: Decisions) -> tuple[list[Ticket], list[Ticket], tuple[Change, ...]]:
    return decisions.admitted, decisions.refused, decisions.changes


def _states(*tickets: Ticket) -> list[str]:
    return [ticket.state.value for ticket in tickets]


def test_an_empty_line_lets_go_at_once() -> None:
    """Nobody waits who need not, and the ticket knows when it went and beside whom."""
    line, ticket = _Gated(), Ticket()
    assert line.submit(5.0, ticket)
    assert (ticket.state, ticket.admitted_s, ticket.in_flight, ticket.queued) == (TicketState.ADMITTED, 5.0, 1, 0)
    assert line.wake_at == NEVER


def test_a_waiting_ticket_holds_no_time() -> None:
    """Whoever waits is re-timed when the moment moves, in both directions."""
    line, ticket = _Gated(10.0), Ticket()
    assert not line.submit(0.0, ticket)
    assert line.wake_at == 10.0
    line.opens_s = 20.0
    assert _told(line.advance(10.0)) == ([], [], ())
    assert line.wake_at == 20.0
    line.opens_s = 11.0
    assert _told(line.advance(11.0)) == ([ticket], [], ())
    assert ticket.admitted_s == 11.0
    assert line.wake_at == NEVER


def test_first_come_first_served() -> None:
    """Equal priorities go in order of arrival; newcomers queue even where they would be let through."""
    line = _Gated(1.0)
    tickets = [Ticket() for _ in range(5)]
    for ticket in tickets[:4]:
        line.submit(0.0, ticket)
    line.opens_s = 0.0
    assert not line.submit(0.5, tickets[4])
    assert line.advance(1.0).admitted == tickets


def test_priority_goes_first() -> None:
    """A higher priority overtakes, and among equals order holds."""
    line = _Gated(1.0)
    low, high, higher, high_too = (Ticket(priority=priority) for priority in (0, 1, 2, 1))
    for ticket in (low, high, higher, high_too):
        line.submit(0.0, ticket)
    assert line.advance(1.0).admitted == [higher, high, high_too, low]


def test_one_turn_in_ten_goes_by_age() -> None:
    """However many urgent calls come, whoever has waited longest goes every tenth time, in order of arrival."""
    line = _Gated(1.0)
    patient = [Ticket(priority=-number) for number in range(3)]
    urgent = [Ticket(priority=5) for _ in range(40)]
    for ticket in (*patient, *urgent):
        line.submit(0.0, ticket)
    went = line.advance(1.0).admitted
    assert [went.index(ticket) + 1 for ticket in patient] == [OLDEST_EVERY, 2 * OLDEST_EVERY, 3 * OLDEST_EVERY]
    assert [ticket for ticket in went if ticket in urgent] == urgent


def test_age_counts_for_those_who_came_before_anybody_was_urgent_and_for_retries() -> None:
    """The first urgent call may come late, and a call that comes back is as old as it was."""
    line = _Gated(1.0)
    old, older = [Ticket() for _ in range(12)], Ticket()
    assert line.submit(1.0, older)
    line.opens_s = 2.0
    for ticket in old:
        line.submit(1.0, ticket)
    line.release(1.5, older)
    line.submit(1.5, older)
    for _ in range(20):
        line.submit(1.5, Ticket(priority=1))
    line.cancel(1.0, old[0])
    went = line.advance(2.0).admitted
    assert [went.index(ticket) for ticket in (older, old[1])] == [OLDEST_EVERY - 1, 2 * OLDEST_EVERY - 1]
    assert old[0] not in went
    assert line.queued == 0


def test_whoever_overtakes_is_timed_for_itself() -> None:
    """A newcomer at the head of the line is asked about before the old head's moment."""
    line = _Gated(100.0)
    line.submit(0.0, Ticket())
    line.opens_s = 2.0
    line.submit(1.0, urgent := Ticket(priority=9))
    assert line.wake_at == 2.0
    assert line.advance(2.0).admitted[0] is urgent


def test_a_retry_keeps_its_place() -> None:
    """A ticket that comes back goes before those that came after its first arrival."""
    line = _Gated()
    first, second = Ticket(), Ticket()
    line.submit(0.0, first)
    first.state, line.in_flight = TicketState.SETTLED, 0
    line.opens_s = 3.0
    line.submit(1.0, second)
    line.submit(2.0, first)
    assert line.advance(3.0).admitted == [first, second]


def test_a_deadline_refuses() -> None:
    """A ticket still waiting at its deadline is refused then, wherever it stands, and never admitted late."""
    line = _Gated(10.0)
    patient, hasty = Ticket(), Ticket(deadline_s=3.0)
    line.submit(0.0, patient)
    line.submit(0.0, hasty)
    assert line.wake_at == 3.0
    assert _told(line.advance(3.0)) == ([], [hasty], ())
    assert (hasty.state, hasty.refusal) == (TicketState.REFUSED, Refusal.DEADLINE)
    assert line.wake_at == 10.0
    assert _told(line.advance(10.0)) == ([patient], [], ())


def test_a_turn_at_the_deadline_is_too_late() -> None:
    """Deadline and turn at one moment: the deadline wins, whoever asks first."""
    line, ticket = _Gated(3.0), Ticket(deadline_s=3.0)
    line.submit(0.0, ticket)
    assert _told(line.advance(3.0)) == ([], [ticket], ())
    assert ticket.state is TicketState.REFUSED


def test_who_comes_too_late_is_not_sent() -> None:
    """A ticket whose deadline has passed when it arrives is refused, even if its turn would be now."""
    line, ticket = _Gated(), Ticket(deadline_s=3.0)
    assert not line.submit(4.0, ticket)
    assert (ticket.state, ticket.refusal) == (TicketState.REFUSED, Refusal.DEADLINE)
    assert line.in_flight == 0


def test_a_cancelled_ticket_is_gone() -> None:
    """Who leaves the line is neither admitted nor refused, and holds nobody back; an admitted one returns its turn."""
    line = _Gated(10.0)
    first, second = Ticket(deadline_s=2.0), Ticket()
    line.submit(0.0, first)
    line.submit(0.0, second)
    line.cancel(1.0, first)
    assert line.queued == 1
    assert _told(line.advance(5.0)) == ([], [], ())
    assert _told(line.advance(10.0)) == ([second], [], ())
    assert _states(first, second) == ["cancelled", "admitted"]
    line.cancel(10.0, second)
    line.cancel(10.0, first)
    assert second.state is TicketState.SETTLED
    assert (line.queued, line.in_flight) == (0, 0)


def test_nothing_due_when_nobody_waits() -> None:
    """A line without waiters asks for no wake-up, though the deadlines of those who went still lie ahead."""
    line = _Gated(1.0)
    line.submit(0.0, Ticket(deadline_s=60.0))
    line.submit(0.0, gone := Ticket(deadline_s=50.0))
    line.cancel(1.0, gone)
    assert len(line.advance(1.0).admitted) == 1
    assert line.queued == 0
    assert line.wake_at == NEVER


@pytest.mark.parametrize("state", ["waiting", "admitted"])
def test_a_ticket_stands_in_line_once(state: str) -> None:
    """A ticket that waits or is under way cannot be submitted again: it would be counted twice."""
    line = _Gated(0.0 if state == "admitted" else 9.0)
    ticket = Ticket()
    line.submit(0.0, ticket)
    assert ticket.state.value == state
    with pytest.raises(RuntimeError, match=state):
        line.submit(0.0, ticket)
    assert line.in_flight + line.queued == 1


def test_counts() -> None:
    """An admitted ticket knows how many were under way and how many still waited."""
    line = _Gated(1.0)
    tickets = [Ticket() for _ in range(3)]
    for ticket in tickets:
        line.submit(0.0, ticket)
    assert line.queued == 3
    line.advance(1.0)
    assert [(ticket.in_flight, ticket.queued) for ticket in tickets] == [(1, 2), (2, 1), (3, 0)]
    assert (line.queued, line.in_flight) == (0, 3)


def test_a_new_ticket_is_nowhere() -> None:
    """Before it is submitted, a ticket has no place and no time."""
    ticket = Ticket(900, None)
    assert ticket.order == -1
    assert math.isnan(ticket.admitted_s)
    assert repr(ticket) == "<Ticket -1 new>"


def test_a_line_must_say_whose_turn_it_is() -> None:
    """The bare line decides nothing."""
    with pytest.raises(NotImplementedError):
        Line().submit(0.0, Ticket())


# --- a full line -----------------------------------------------------------------------------------------------------


def test_a_full_line_sheds_the_lowest_priority_that_came_last() -> None:
    """Of those who are too many, whoever counts least and came last goes; an urgent newcomer finds room."""
    line = _Gated(9.0, max_queue=3)
    first, low, last = Ticket(priority=1), Ticket(), Ticket()
    for ticket in (first, low, last):
        line.submit(0.0, ticket)
    line.submit(1.0, urgent := Ticket(priority=2))
    assert (last.state, last.refusal) == (TicketState.REFUSED, Refusal.QUEUE_FULL)
    assert line.wake_at <= 1.0
    assert _told(line.advance(1.0)) == ([], [last], ())
    assert line.queued == 3
    assert line.advance(9.0).admitted == [urgent, first, low]


def test_a_newcomer_that_counts_least_is_shed_itself() -> None:
    """It is refused at once, and those who waited are not disturbed."""
    line = _Gated(9.0, max_queue=2)
    waiting = [Ticket(), Ticket()]
    for ticket in (*waiting, newcomer := Ticket()):
        line.submit(0.0, ticket)
    assert (newcomer.state, newcomer.refusal) == (TicketState.REFUSED, Refusal.QUEUE_FULL)
    assert _told(line.advance(9.0)) == (waiting, [], ())


def test_a_retry_that_is_older_finds_room() -> None:
    """A call that comes back is as old as it was: of equals, one that came after it is shed."""
    line = _Gated(0.0, max_queue=1)
    line.submit(0.0, retry := Ticket())
    line.opens_s = 9.0
    line.submit(0.0, newer := Ticket())
    line.release(1.0, retry)
    line.submit(1.0, retry)
    assert _told(line.advance(9.0)) == ([retry], [newer], ())


# --- no litter -------------------------------------------------------------------------------------------------------


class _Counted(Ticket):
    """A ticket that counts how often the line looks at its state."""

    __slots__ = ("_stands",)
    looks = 0

    @property
    def state(self) -> TicketState:
        """Where it stands."""
        _Counted.looks += 1
        return self._stands

    @state.setter
    def state(self, state: TicketState) -> None:
        self._stands = state


def _entries(line: Line) -> int:
    return len(line._queue) + len(line._deadlines) + len(line._ages or ())


@pytest.mark.parametrize("deadline_s", [NEVER, 1e9])
def test_the_line_keeps_no_litter_while_urgent_calls_keep_coming(deadline_s: float) -> None:
    """Hours of calls of changing priority leave entries only for those who wait, some of whom never get to the head."""
    line, most = _Gated(0.0), 0
    for number in range(20_000):
        now = float(number)
        line.opens_s = NEVER
        line.submit(now, Ticket(priority=number % 3, deadline_s=deadline_s))
        line.submit(now, Ticket(priority=5, deadline_s=deadline_s))
        if number > 20:
            line.opens_s = now
            assert len(line.advance(now).admitted) >= 2
        most = max(most, _entries(line))
    assert line.queued <= 42
    assert most <= 4 * 42 + 256 + 6


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("calls", [2_000, 100_000])
def test_leaving_takes_a_linear_number_of_steps(calls: int, *, backwards: bool) -> None:
    """Of 100,000 that wait, all give up one by one: the line looks at each a few times, whichever end leaves first."""
    line = _Gated(NEVER)
    tickets = [_Counted(priority=number % 2, deadline_s=1e9 + number) for number in range(calls)]
    for ticket in tickets:
        line.submit(0.0, ticket)
    _Counted.looks = 0
    for ticket in reversed(tickets) if backwards else tickets:
        line.cancel(1.0, ticket)
        line.advance(1.0)
    assert (line.queued, line.wake_at) == (0, NEVER)
    assert _Counted.looks <= 30 * calls
    assert _entries(line) <= 256
