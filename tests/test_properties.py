"""Invariants of the limiter under any order of arrivals, answers, cancellations, nonsense and new settings."""

from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.ratelimit.core import LimiterCore
from factflow_llm.ratelimit.line import NEVER, Ticket, TicketState
from factflow_llm.signals import Axis, AxisLimit, Change, Outcome, RateLimitSignal, Reason

TOKEN_AXES = (Axis.INPUT_TOKENS, Axis.OUTPUT_TOKENS, Axis.TOKENS)
RATE_AXES = (Axis.REQUESTS, *TOKEN_AXES)
GROWTH = (Reason.SLOW_START, Reason.PROBE, Reason.RECOVER)

nonsense = st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-300, 1e308])
figures = st.none() | nonsense | st.floats(0, 1e6)
limits = st.lists(st.builds(AxisLimit, st.sampled_from(Axis), figures, figures, figures), max_size=3).map(tuple)
tokens = st.none() | st.integers(0, 5000)
bounds = st.tuples(st.floats(6, 60), st.none() | st.floats(60, 6000), st.integers(1, 40))


@st.composite
def configs(draw: st.DrawFn, *, tokens_known: bool) -> RateLimitConfig:
    """Settings of every kind; token quotas all known, or each known or not."""
    low, high, slots = draw(bounds)
    quota = st.floats(600, 600_000)
    known = quota if tokens_known else st.none() | quota
    return RateLimitConfig(
        requests_per_minute=draw(st.none() | st.floats(low, high or 6000)),
        min_requests_per_minute=low,
        max_requests_per_minute=high,
        input_tokens_per_minute=draw(known),
        output_tokens_per_minute=draw(known),
        tokens_per_minute=draw(known),
        initial_concurrency=draw(st.integers(1, slots)),
        max_concurrency=slots,
        decrease=draw(st.floats(0.3, 0.99)),
        cool_off_s=draw(st.floats(0.01, 5)),
        cool_off_cap_s=draw(st.floats(5, 120)),
        breaker_s=draw(st.floats(0.5, 60)),
    )


class LimiterMachine(RuleBasedStateMachine):
    """A driver that knows its rights: time goes on, wake-ups are kept, admitted tickets are settled once."""

    tokens_known = False

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.waiting: list[Ticket] = []
        self.flying: list[Ticket] = []
        self.submitted = self.ended = 0
        self.settled: list[tuple[Ticket, float, float]] = []
        self.news: list[Change] = []
        self.rejections = 0
        self.allowed = dict.fromkeys(RATE_AXES, 0.0)

    @initialize(data=st.data(), start=st.floats(0, 1e6))
    def begin(self, data: st.DataObject, start: float) -> None:
        self.now = start
        self.config = data.draw(configs(tokens_known=self.tokens_known))
        self.core = LimiterCore(self.config)
        self.told = {axis: self.limit(axis) for axis in Axis}
        self.told_s = start

    # --- what can happen

    @rule(pause=st.floats(0, 30))
    def time_passes(self, pause: float) -> None:
        until = self.now + pause
        for _ in range(1000):
            if self.core.wake_at > until:
                break
            self.wake()
        self.move_to(until)

    @rule(count=st.integers(1, 8), read=tokens, written=tokens, priority=st.integers(0, 2), patience=figures)
    def arrive(self, count: int, read: int | None, written: int | None, priority: int, patience: float | None) -> None:
        patient = patience is None or not patience > 0 or patience == math.inf
        deadline_s = NEVER if patient else self.now + patience
        for _ in range(count):
            ticket = Ticket(read, written, priority=priority, deadline_s=deadline_s)
            self.submitted += 1
            self.stand_in_line(ticket)

    @precondition(lambda self: self.flying)
    @rule(
        which=st.integers(0, 1000),
        outcome=st.sampled_from(Outcome),
        retry_after_s=figures,
        axis=st.none() | st.sampled_from(Axis),
        read=tokens,
        written=tokens,
        shown=limits,
        again=st.booleans(),
    )
    def answer(
        self,
        which: int,
        outcome: Outcome,
        retry_after_s: float | None,
        axis: Axis | None,
        read: int | None,
        written: int | None,
        shown: tuple[AxisLimit, ...],
        again: bool,
    ) -> None:
        if outcome is Outcome.IGNORED:
            self.advance()  # what time has taught by now is not the answer's
        ticket = self.flying.pop(which % len(self.flying))
        signal = RateLimitSignal(outcome, retry_after_s, axis, read, written, shown)
        changes = self.core.settle(self.now, ticket, signal)
        self.note_settled(ticket, signal)
        self.news += changes
        self.rejections += outcome is Outcome.RATE_LIMITED
        grown = [change for change in changes if change.reason in GROWTH]
        assert all(change.new >= change.old for change in grown), "growth lowered a limit"
        if outcome is Outcome.IGNORED:
            taught = {change.reason for change in changes} - {Reason.HEADER, Reason.SLOW_START}
            assert not taught, "what is ignored taught something"
        self.advance()
        if again and outcome in (Outcome.RATE_LIMITED, Outcome.OVERLOADED):
            self.stand_in_line(ticket)
        else:
            self.ended += 1

    @precondition(lambda self: self.flying)
    @rule(count=st.integers(1, 10), read=tokens, written=tokens)
    def answers_in_a_row(self, count: int, read: int | None, written: int | None) -> None:
        for _ in range(min(count, len(self.flying))):
            if self.flying:
                self.answer(0, Outcome.SUCCEEDED, None, None, read, written, (), again=False)

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 1000))
    def cancel_waiting(self, which: int) -> None:
        ticket = self.waiting.pop(which % len(self.waiting))
        self.core.cancel(self.now, ticket)
        assert ticket.state is TicketState.CANCELLED
        self.ended += 1
        self.advance()

    @precondition(lambda self: self.flying)
    @rule(which=st.integers(0, 1000))
    def cancel_flying(self, which: int) -> None:
        ticket = self.flying.pop(which % len(self.flying))
        self.news += self.core.cancel(self.now, ticket)
        self.note_settled(ticket, RateLimitSignal(Outcome.IGNORED))
        self.ended += 1
        self.advance()

    @rule(data=st.data())
    def retune(self, data: st.DataObject) -> None:
        self.config = data.draw(configs(tokens_known=self.tokens_known))
        self.news += self.core.retune(self.now, self.config)
        self.advance()

    # --- how the driver does it

    def move_to(self, now: float) -> None:
        for axis in RATE_AXES:
            self.allowed[axis] += max(now - self.now, 0.0) * self.limit(axis)
        self.now = max(now, self.now)

    def wake(self) -> None:
        self.move_to(self.core.wake_at)
        self.advance()

    def stand_in_line(self, ticket: Ticket) -> None:
        if self.core.submit(self.now, ticket):
            assert not self.waiting, "overtook those who wait"
            self.note_admitted(ticket)
        elif ticket.state is TicketState.WAITING:
            self.waiting.append(ticket)
        else:
            assert ticket.state is TicketState.REFUSED
            self.ended += 1

    def advance(self) -> None:
        decisions = self.core.advance(self.now)
        self.check_changes((*self.news, *decisions.changes))
        self.news.clear()
        for ticket in (*decisions.refused, *decisions.admitted):
            self.waiting.remove(ticket)
            if ticket.state is TicketState.ADMITTED:
                ahead = [other for other in self.waiting if _place(other) < _place(ticket)]
                oldest = all(ticket.order < other.order for other in self.waiting)
                assert oldest or not ahead, f"{ticket!r} overtook {ahead}"
                self.note_admitted(ticket)
            else:
                assert ticket.state is TicketState.REFUSED
                assert ticket.refusal is not None
                self.ended += 1

    def note_admitted(self, ticket: Ticket) -> None:
        self.flying.append(ticket)
        assert ticket.admitted_s == self.now
        assert ticket.deadline_s > self.now
        assert ticket.in_flight <= self.core.concurrency
        self.check_tokens()

    def note_settled(self, ticket: Ticket, signal: RateLimitSignal) -> None:
        served = signal.outcome is Outcome.SUCCEEDED
        read = ticket.reserved_input if signal.input_tokens is None else signal.input_tokens
        written = ticket.reserved_output if signal.output_tokens is None else signal.output_tokens
        self.settled.append((ticket, read if served else 0.0, written if served else 0.0))

    def limit(self, axis: Axis) -> float:
        metrics = self.core.metrics(self.now)
        return {
            Axis.REQUESTS: metrics.requests_per_s,
            Axis.INPUT_TOKENS: metrics.input_tokens_per_s,
            Axis.OUTPUT_TOKENS: metrics.output_tokens_per_s,
            Axis.TOKENS: metrics.tokens_per_s,
            Axis.CONCURRENCY: metrics.concurrency_limit,
        }[axis]

    def check_changes(self, changes: tuple[Change, ...]) -> None:
        for change in changes:
            assert self.told_s <= change.time_s <= self.now
            self.told_s = change.time_s
            assert not math.isnan(change.old)
            assert not math.isnan(change.new)
        for axis in Axis:
            moved = [change for change in changes if change.axis is axis and "breaker" not in change.reason]
            chain = [self.told[axis], *(change.new for change in moved)]
            assert [change.old for change in moved] == chain[:-1], "changes do not join on"
            assert self.limit(axis) == chain[-1], f"{axis} moved without saying so"
            self.told[axis] = chain[-1]

    def check_tokens(self) -> None:
        """Nothing yet: only where every token quota is known can all tokens be accounted for."""

    # --- what must hold

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "core"):
            return
        assert self.core.in_flight == len(self.flying)
        assert self.core.queued == len(self.waiting)
        assert self.submitted == self.ended + len(self.flying) + len(self.waiting)
        assert all(ticket.state is TicketState.ADMITTED for ticket in self.flying)
        assert all(ticket.state is TicketState.WAITING for ticket in self.waiting)
        assert len({ticket.order for ticket in (*self.flying, *self.waiting)}) == len(self.flying) + len(self.waiting)

    @invariant()
    def limits_are_within_bounds(self) -> None:
        if not hasattr(self, "core"):
            return
        config = self.config
        assert 1.0 <= self.core.concurrency <= config.max_concurrency
        assert self.core.rate >= config.min_requests_per_minute / 60.0 * (1 - 1e-9)
        top = config.max_requests_per_minute
        assert top is None or self.core.rate <= top / 60.0 * (1 + 1e-9)
        for axis in TOKEN_AXES:
            assert self.limit(axis) > 0.0
        assert repr(self.core)

    @invariant()
    def somebody_will_wake_us(self) -> None:
        if not hasattr(self, "core"):
            return
        assert not math.isnan(self.core.wake_at)
        if self.waiting and not self.flying:
            assert self.core.wake_at < NEVER, "all wait for each other"
        if not self.waiting:
            assert self.core.wake_at == NEVER, "a wake-up for nobody"

    def teardown(self) -> None:
        """No ticket starves: with every call answered, the line empties, first come first served."""
        if not hasattr(self, "core"):
            return
        for _ in range(1000 * (len(self.waiting) + len(self.flying)) + 20):
            if self.flying:
                self.move_to(self.now + 0.5)
                self.answer(0, Outcome.SUCCEEDED, None, None, 1, 1, (), again=False)
            elif self.waiting:
                self.wake()  # a rate that climbs is looked at twenty times a climb
            else:
                break
        assert not self.waiting
        assert self.core.in_flight == self.core.queued == 0
        admitted = sorted((ticket for ticket, _, _ in self.settled), key=lambda ticket: ticket.admitted_s)
        assert all(one.admitted_s <= other.admitted_s for one, other in pairwise(admitted))


class TokenMachine(LimiterMachine):
    """With every token quota known, every token can be accounted for."""

    tokens_known = True
    HANDFUL = 8

    def check_tokens(self) -> None:
        """At an admission, what is used and reserved is no more than the rates have allowed since the start."""
        for axis, pick in ((Axis.INPUT_TOKENS, (1, 0)), (Axis.OUTPUT_TOKENS, (0, 1)), (Axis.TOKENS, (1, 1))):
            used = sum(pick[0] * read + pick[1] * written for _, read, written in self.settled)
            held = sum(pick[0] * one.reserved_input + pick[1] * one.reserved_output for one in self.flying)
            slack = 1e-6 * (1.0 + self.allowed[axis])
            assert used + held <= self.allowed[axis] + self.head_start() + slack, f"{axis} handed out twice"

    def head_start(self) -> float:
        """Return what may go before anything trickled in: the largest call so far, alone.

        After each rejection one more may go, to try whether the provider has opened, or a handful, to ask whether it
        was noise.
        """
        calls = (*self.flying, *(ticket for ticket, _, _ in self.settled))
        largest = max(ticket.reserved_input + ticket.reserved_output for ticket in calls)
        return largest * (1 + self.HANDFUL * self.rejections)


def _place(ticket: Ticket) -> tuple[int, int]:
    return (-ticket.priority, ticket.order)


quick = settings(
    max_examples=60,
    stateful_step_count=40,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestLimiter = LimiterMachine.TestCase
TestLimiter.settings = quick
TestTokens = TokenMachine.TestCase
TestTokens.settings = quick
