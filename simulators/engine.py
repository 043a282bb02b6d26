"""Virtual time: a heap of ``(time, sequence, kind, what)`` that drives controllers, callers and one provider.

Only this file advances the clock. It does what an event loop does in production, and ``tests/test_conformance.py``
holds it to that: same attempts, same times, same reasons.
"""

from __future__ import annotations

import math
from array import array
from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

from factflow_llm.errors.metadata import REASONS, Consequence, ErrorReason, LLMErrorClassification
from factflow_llm.ratelimit.backoff import retry_delay_s
from factflow_llm.ratelimit.line import Refusal, TicketState
from factflow_llm.ratelimit.signals import Axis, AxisLimit, Change, Outcome, RateLimitSignal, Reason
from simulators.demand import Sessions
from simulators.demand import calls as _calls
from simulators.neighbours import Traffic
from simulators.policies import Controller, KnownTicket, PatientPolicy, Policy, as_policy
from simulators.provider import Call, ProviderMachine, Verdict
from simulators.scenario import Backlog, QuotaChange, Restart, Scenario
from simulators.streams import Streams

if TYPE_CHECKING:
    from factflow_llm.ratelimit.config import RateLimitConfig
    from simulators.result import SimResult

_EVENT, _ARRIVAL, _ANSWER, _WAKE, _RETRY, _GIVE_UP, _NEXT_ROUND, _NEIGHBOUR = range(8)
_JITTERS = 16
ANSWERED_AT_ONCE_S = 1.0
"""What a caller in a closed loop waits who was answered, or refused, in no time: else no time would pass at all."""
_FIRST = 2**60
_CONSEQUENCES: dict[str, Consequence] = {str(reason): consequence for reason, consequence in REASONS.items()}

OUTCOME_WORDS = (*tuple(str(outcome) for outcome in Outcome), "cancelled")
_OUTCOME_CODE: dict[Outcome, float] = {outcome: float(code) for code, outcome in enumerate(Outcome)}
_CANCELLED_CODE = float(len(Outcome))
REASON_WORDS = tuple(str(reason) for reason in Reason)
_REASON_CODE: dict[Reason, float] = {reason: float(code) for code, reason in enumerate(Reason)}

ATTEMPT_COLUMNS = (
    "request", "attempt", "client", "submitted_s", "admitted_s", "first_chunk_s", "end_s", "status", "outcome",
    "retry_after_s", "rate", "concurrency", "reason", "in_flight", "queued",
)  # fmt: skip
REQUEST_COLUMNS = (
    "request", "client", "arrival_s", "admitted_s", "end_s", "attempts", "end", "input_tokens", "output_tokens",
)  # fmt: skip


class Ending(NamedTuple):
    """The closed set of ways in which a request ends, with their codes in the columns."""

    succeeded: float = 0.0
    failed: float = 1.0
    never_admissible: float = 2.0
    refused_deadline: float = 3.0
    refused_breaker: float = 4.0
    cancelled: float = 5.0
    unfinished: float = 6.0


ENDING = Ending()
ENDING_WORDS = Ending._fields


class Run(NamedTuple):
    """What a run leaves behind, raw: flat columns of doubles, changes of limits, and the provider's true capacity.

    Attributes:
        attempts: rows of ``ATTEMPT_COLUMNS``, in order of their ends.
        requests: rows of ``REQUEST_COLUMNS``, in order of their ends; unfinished ones last.
        changes: client and change.
        capacity: time and units per second by axis, at the start and after each event.
    """

    attempts: array[float]
    requests: array[float]
    changes: list[tuple[int, Change]]
    capacity: list[tuple[float, dict[Axis, float]]]


class _Request:
    __slots__ = (
        "arrival_s", "attempt", "client", "concurrency", "ended", "rate", "reason", "sends",
        "submitted_s", "ticket", "verdict",
    )  # fmt: skip

    def __init__(self, ticket: KnownTicket, arrival_s: float, client: int) -> None:
        self.ticket = ticket
        self.arrival_s = arrival_s
        self.client = client
        self.attempt = self.sends = 0
        self.submitted_s = arrival_s
        self.verdict: Verdict | None = None
        self.ended = False
        self.rate = self.concurrency = math.inf
        self.reason = Reason.CONFIGURED


def simulate(
    scenario: Scenario,
    policy: Policy | RateLimitConfig | None = None,
    seed: int = 0,
    clients: int = 1,
) -> SimResult:
    """Run a scenario under a policy and return what happened.

    A function: no files, no globals, no plots. Equal arguments give equal results, to the bit, on every host.

    Args:
        scenario: workload, provider and events.
        policy: our limiter's settings, one of ``sim.policies``, or anybody's; ``None`` means our defaults.
        seed: of all luck: two policies with one seed meet the same world.
        clients: independent controllers that share the provider's quota; requests are dealt to them in turn.

    Raises:
        ConfigurationError: for something that is no policy, or ``clients`` below 1.
    """
    from factflow_llm.errors import ConfigurationError
    from simulators.result import SimResult

    if clients < 1:
        msg = f"simulate(): clients = {clients!r} must be at least 1"
        raise ConfigurationError(msg)
    chosen = as_policy(policy)
    run = _World(scenario, chosen, seed, clients).run()
    return SimResult(scenario, chosen, seed, clients, run)


class _World:
    """One run's state; :meth:`run` is the loop."""

    def __init__(self, scenario: Scenario, policy: Policy, seed: int, clients: int) -> None:
        self.scenario = scenario
        self.policy = policy
        self.streams = Streams(seed)
        self.machine = ProviderMachine(scenario.machine_spec, self.streams)
        self.controllers: list[Controller] = [policy.controller(self.machine) for _ in range(clients)]
        self.armed = [(math.inf, 0)] * clients
        self.retry = policy.retry
        self.retry_delay_s = policy.retry_delay_s if isinstance(policy, PatientPolicy) else retry_delay_s
        self.closed = scenario.closed_loop
        self.names_axis = scenario.machine_spec.names_axis
        self.heap: list[tuple[float, int, int, object]] = []
        self.sequence = 0
        self.attempts = array("d")
        self.requests = array("d")
        self.changes: list[tuple[int, Change]] = []
        self.open: dict[int, _Request] = {}
        self.jitter = self.streams.stream("jitter", "uniform", _JITTERS)
        self.patience = self.streams.stream("patience", "uniform", 1)
        self.patience_left = self.streams.stream("patience length", "exponential", 1)
        self.sessions: Sessions | None = None
        if scenario.sessions:
            assert not isinstance(scenario.workload, Backlog)
            self.sessions = Sessions(scenario.workload, self.streams)
            self.calls = self.sessions.first_rounds()
        else:
            self.calls = _calls(scenario, self.streams)
        self.started = 0

    def run(self) -> Run:
        scenario, heap = self.scenario, self.heap
        horizon = scenario.horizon_s
        capacity = [(0.0, self.machine.capacity(0.0))]
        for event in scenario.events:
            self.push_first(event.time_s, _EVENT, event)
        if isinstance(scenario.workload, Backlog):
            for worker in range(scenario.workload.workers):
                self.push(0.0, _ARRIVAL, worker)
        else:
            self.next_arrival()
        for place, neighbour in enumerate(scenario.neighbours):
            Traffic(neighbour, place, self.streams, self.machine, lambda at, what: self.push(at, _NEIGHBOUR, what))
        while heap:
            now, sequence, kind, what = heappop(heap)
            if now > horizon:
                break
            if kind == _ANSWER:
                assert isinstance(what, _Request)
                self.answer(now, what)
            elif kind == _WAKE:
                assert isinstance(what, int)
                if self.armed[what][1] == sequence:
                    self.armed[what] = (math.inf, 0)
                    self.decide(now, what)
            elif kind == _ARRIVAL:
                if not self.closed:
                    self.next_arrival()
                self.arrive(now, what)
            elif kind == _RETRY:
                assert isinstance(what, _Request)
                if not what.ended:
                    self.submit(now, what)
            elif kind == _GIVE_UP:
                assert isinstance(what, int)
                self.give_up(now, what)
            elif kind == _NEXT_ROUND:
                assert isinstance(what, tuple)
                self.begin(now, *what)
            elif kind == _NEIGHBOUR:
                what(now)  # type: ignore[operator]
            elif isinstance(what, Restart):
                self.restart(now, what)
            else:
                assert isinstance(what, QuotaChange)
                self.machine.scale(now, what.quota, what.axis)
                capacity.append((now, self.machine.capacity(now)))
        for request in self.open.values():
            self.record_request(math.nan, request, ENDING.unfinished)
        return Run(self.attempts, self.requests, self.changes, capacity)

    def push(self, at: float, kind: int, what: object) -> None:
        heappush(self.heap, (at, self.sequence, kind, what))
        self.sequence += 1

    def push_first(self, at: float, kind: int, what: object) -> int:
        """Push what goes before all else at its moment: an event loop runs timers before the tasks they resume."""
        sequence = self.sequence - _FIRST
        heappush(self.heap, (at, sequence, kind, what))
        self.sequence += 1
        return sequence

    def next_arrival(self) -> None:
        following = next(self.calls, None)
        if following is not None:
            self.push(following[0], _ARRIVAL, following[1])

    def arrive(self, now: float, what: object) -> None:
        index = self.started
        self.started += 1
        if isinstance(what, Call):
            self.begin(now, what, index % len(self.controllers))
        else:
            assert isinstance(what, int)
            self.begin(now, next(self.calls)[1], what % len(self.controllers))

    def begin(self, now: float, call: Call, client: int) -> None:
        scenario, deadline_s = self.scenario, self.retry.deadline_s
        ticket = KnownTicket(
            call,
            output_tokens=call.max_tokens,
            deadline_s=math.inf if deadline_s is None else now + deadline_s,
        )
        request = _Request(ticket, now, client)
        self.open[call.index] = request
        if scenario.impatient_share and self.patience.row(call.index)[0] < scenario.impatient_share:
            self.push(now + scenario.patience_s * self.patience_left.row(call.index)[0], _GIVE_UP, call.index)
        self.submit(now, request)

    def submit(self, now: float, request: _Request) -> None:
        request.submitted_s = now
        controller = self.controllers[request.client]
        if controller.submit(now, request.ticket):
            self.send(now, request)
        elif request.ticket.state is TicketState.REFUSED:
            self.refused(now, request)
        else:
            self.arm(request.client, controller.wake_at)

    def send(self, now: float, request: _Request) -> None:
        controller = self.controllers[request.client]
        request.rate, request.concurrency = controller.rate, controller.concurrency
        request.reason = controller.last_reason
        request.sends += 1
        verdict = request.verdict = self.machine.send(now, request.ticket.call)
        heappush(self.heap, (now + verdict.duration_s, self.sequence, _ANSWER, request))
        self.sequence += 1

    def decide(self, now: float, client: int) -> None:
        controller = self.controllers[client]
        for ticket in controller.advance(now):
            assert isinstance(ticket, KnownTicket)
            request = self.open[ticket.call.index]
            if ticket.state is TicketState.GRANTED:
                self.send(now, request)
            else:
                self.refused(now, request)
        self.arm(client, controller.wake_at)

    def arm(self, client: int, wake_at: float) -> None:
        if wake_at != self.armed[client][0]:
            sequence = 0 if wake_at == math.inf else self.push_first(wake_at, _WAKE, client)
            self.armed[client] = (wake_at, sequence)

    def answer(self, now: float, request: _Request) -> None:
        if request.ended:
            return
        ticket, verdict, client = request.ticket, request.verdict, request.client
        assert verdict is not None
        self.machine.finish(now, verdict.handle)
        error, heard_s = verdict.error, verdict.retry_after_s
        call = ticket.call
        if error is None:
            signal = RateLimitSignal(
                Outcome.SUCCEEDED, None, None, call.input_tokens, call.output_tokens, verdict.limits
            )
        else:
            axis = verdict.axis if self.names_axis and verdict.axis is not Axis.CONCURRENCY else None
            outcome = _CONSEQUENCES[error].outcome
            if heard_s is None and outcome is Outcome.RATE_LIMITED:
                heard_s = _reset_s(verdict.limits)
            signal = RateLimitSignal(outcome, heard_s, axis, None, None, verdict.limits)
        controller = self.controllers[client]
        for change in controller.settle(now, ticket, signal):
            self.changes.append((client, change))
        self.record_attempt(now, request, verdict, _OUTCOME_CODE[signal.outcome])
        self.decide(now, client)
        if error is None:
            self.finish(now, request, ENDING.succeeded)
        else:
            self.failed(now, request, error, heard_s)

    def failed(self, now: float, request: _Request, error: str, retry_after_s: float | None) -> None:
        consequence = _CONSEQUENCES[error]
        if consequence.classification is LLMErrorClassification.TERMINAL:
            never = error == ErrorReason.REQUEST_EXCEEDS_LIMIT
            self.finish(now, request, ENDING.never_admissible if never else ENDING.failed)
            return
        deadline_s = request.ticket.deadline_s
        delay_s = self.retry_delay_s(
            self.retry,
            attempt=request.attempt,
            worth_attempts=consequence.max_attempts,
            jitter=self.jitter.row(request.ticket.call.index)[request.attempt % _JITTERS],
            retry_after_s=retry_after_s,
            remaining_s=None if deadline_s == math.inf else deadline_s - now,
        )
        if delay_s is None:
            self.finish(now, request, ENDING.failed)
        else:
            request.attempt += 1
            self.push(now + delay_s, _RETRY, request)

    def refused(self, now: float, request: _Request) -> None:
        late = request.ticket.refusal is Refusal.DEADLINE
        self.finish(now, request, ENDING.refused_deadline if late else ENDING.refused_breaker)

    def give_up(self, now: float, index: int) -> None:
        request = self.open.get(index)
        if request is None:
            return
        controller = self.controllers[request.client]
        if self.hang_up(now, request):
            controller.settle(now, request.ticket, RateLimitSignal(Outcome.IGNORED))
        else:
            controller.withdraw(request.ticket)
        self.decide(now, request.client)
        self.finish(now, request, ENDING.cancelled)

    def hang_up(self, now: float, request: _Request) -> bool:
        """Drop the request's connection and return whether it had one."""
        if request.ticket.state is not TicketState.GRANTED:
            return False
        assert request.verdict is not None
        self.machine.finish(now, request.verdict.handle)
        self.record_attempt(now, request, request.verdict, _CANCELLED_CODE)
        return True

    def restart(self, now: float, event: Restart) -> None:
        """Kill clients: connections drop, what they learned is gone, and new ones take all open requests up afresh."""
        mine = [request for request in self.open.values() if event.client in (None, request.client)]
        for client in range(len(self.controllers)) if event.client is None else [event.client]:
            self.controllers[client] = self.policy.controller(self.machine)
            self.arm(client, math.inf)
        fresh = []
        for old in mine:
            old.ended = True
            request = self.open[old.ticket.call.index] = _Request(
                KnownTicket(old.ticket.call, output_tokens=old.ticket.output_tokens, deadline_s=old.ticket.deadline_s),
                old.arrival_s,
                old.client,
            )
            request.attempt = old.attempt + self.hang_up(now, old)
            request.sends = old.sends
            fresh.append(request)
        for request in fresh:
            self.submit(now, request)

    def finish(self, now: float, request: _Request, ending: float) -> None:
        request.ended = True
        del self.open[request.ticket.call.index]
        self.record_request(now, request, ending)
        if self.closed:
            self.push(now if now > request.arrival_s else now + ANSWERED_AT_ONCE_S, _ARRIVAL, request.client)
        elif self.sessions is not None:
            following = self.sessions.after(request.ticket.call.index, now)
            if following is not None:
                self.push(following[0], _NEXT_ROUND, (following[1], request.client))

    def record_attempt(self, now: float, request: _Request, verdict: Verdict, outcome: float) -> None:
        ticket = request.ticket
        sent_s = ticket.granted_s
        told = verdict.retry_after_s
        self.attempts.extend(
            (
                ticket.call.index,
                request.attempt,
                request.client,
                request.submitted_s,
                sent_s,
                sent_s + verdict.first_chunk_s,
                now,
                verdict.status,
                outcome,
                math.nan if told is None else told,
                request.rate,
                request.concurrency,
                _REASON_CODE[request.reason],
                ticket.in_flight,
                ticket.queued,
            )
        )

    def record_request(self, now: float, request: _Request, ending: float) -> None:
        ticket = request.ticket
        call = ticket.call
        self.requests.extend(
            (
                call.index,
                request.client,
                request.arrival_s,
                ticket.granted_s,
                now,
                request.sends,
                ending,
                call.input_tokens,
                call.output_tokens,
            )
        )


def _reset_s(limits: tuple[AxisLimit, ...]) -> float | None:
    """Return the wait that headers of limits tell where a refusal states none: the reset of what is used up."""
    return max([limit.reset_s for limit in limits if limit.remaining == 0 and limit.reset_s is not None], default=None)
