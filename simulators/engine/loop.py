"""Virtual time: a heap of ``(time, sequence, kind, what)`` that drives controllers, callers and one provider.

Only this file advances the clock. It does what an event loop does in production, and ``tests/test_conformance.py``
holds it to that: same attempts, same times, same reasons. As there, a controller's timer goes before all else that is
due at its moment.
"""

from __future__ import annotations

import math
from collections import deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Final

from factflow_llm.errors.metadata import REASONS, Consequence, ErrorReason, LLMErrorClassification
from factflow_llm.ratelimit.backoff import retry_delay_s
from factflow_llm.ratelimit.line import Refusal, TicketState
from factflow_llm.signals import Axis, AxisLimit, Outcome, RateLimitSignal
from simulators.attempts import CANCELLED, Ending
from simulators.engine.run_log import Collect, Run, RunLog
from simulators.policies.base import Controller, PatientPolicy, Policy, ResidentPolicy
from simulators.policies.tickets import RequestTicket
from simulators.providers.machine import ProviderMachine, Verdict
from simulators.scenarios.demand import Sessions, calls
from simulators.scenarios.neighbours import Traffic
from simulators.scenarios.scenario import Backlog, Restart, Scenario
from simulators.streams import Streams

if TYPE_CHECKING:
    from simulators.providers.calls import Call


_EVENT: Final = 0
_ARRIVAL: Final = 1
_ANSWER: Final = 2
_RETRY: Final = 3
_GIVE_UP: Final = 4
_NEXT_ROUND: Final = 5
_NEIGHBOUR: Final = 6
_DEADLINE: Final = 7
_SEND: Final = 8
_REACHED: Final = 9
_LEFT: Final = 10
_ON_ITS_WAY: Final = Verdict(-1, None, None, None, (), math.nan, math.nan, None)
"""What the provider has decided of a call that it does not know yet."""
_HANG_UP: Final = 11
_OVERDUE: Final = 12
_JITTERS: Final = 16
_ARMED: Final = -0.5  # a timer set in time goes before the moment's events, and after what happens to the world
ANSWERED_AT_ONCE_S: Final = 1.0
"""What a caller in a closed loop waits who was answered, or refused, in no time: else no time would pass at all."""
_CONSEQUENCES: Final[dict[str, Consequence]] = {str(reason): consequence for reason, consequence in REASONS.items()}
_SUCCEEDED: Final = Outcome.SUCCEEDED
_ADMITTED: Final = TicketState.ADMITTED
_REFUSALS: Final = {
    Refusal.DEADLINE: Ending.REFUSED_DEADLINE,
    Refusal.BREAKER: Ending.REFUSED_BREAKER,
    Refusal.QUEUE_FULL: Ending.REFUSED_QUEUE_FULL,
}


def run(scenario: Scenario, policy: Policy, *, seed: int, clients: int, collect: Collect) -> Run:
    """Run a scenario and return what was written down; arguments as for ``simulators.engine.simulate.simulate``."""
    return _Loop(scenario, policy, seed, clients, collect).run()


class _Loop:
    """One run's state; ``run`` is the loop."""

    def __init__(self, scenario: Scenario, policy: Policy, seed: int, clients: int, collect: Collect) -> None:
        self.scenario = scenario
        self.policy = policy
        self.streams = Streams(seed)
        self.machine = ProviderMachine(scenario.provider, self.streams)
        self.controllers: list[Controller] = [policy.controller(self.machine) for _ in range(clients)]
        self.timers = [(math.inf, _ARMED, 0, client) for client in range(clients)]
        self.retry = policy.retry
        self.retry_delay_s = policy.retry_delay_s if isinstance(policy, PatientPolicy) else retry_delay_s
        self.distant = self.machine.distant and not isinstance(policy, ResidentPolicy)
        self.closed = scenario.closed_loop
        self.names_axis = scenario.provider.names_axis
        self.heap: list[tuple[float, int, int, Any]] = []
        self.sequence = 0
        self.at_once: deque[int] = deque()
        self.log = RunLog(collect, scenario.horizon_s, clients)
        self.open: dict[int, RequestTicket] = {}
        self.jitter = self.streams.stream("jitter", "uniform", _JITTERS)
        self.patience = self.streams.stream("patience", "uniform", 1)
        self.patience_left = self.streams.stream("patience length", "exponential", 1)
        self.sessions: Sessions | None = None
        if scenario.sessions:
            assert not isinstance(scenario.workload, Backlog)
            self.sessions = Sessions(scenario.workload, self.streams)
            self.calls = self.sessions.first_rounds()
        else:
            self.calls = calls(scenario, self.streams)
        self.started = 0

    def run(self) -> Run:
        scenario, heap, timers, at_once = self.scenario, self.heap, self.timers, self.at_once
        horizon = scenario.horizon_s
        capacity = [(0.0, self.machine.capacity(0.0))]
        for place, event in enumerate(scenario.events, -len(scenario.events)):
            heappush(heap, (event.time_s, place, _EVENT, event))
        if isinstance(scenario.workload, Backlog):
            for worker in range(scenario.workload.workers):
                self.push(0.0, _ARRIVAL, worker)
        else:
            self.next_arrival()
        for place, neighbour in enumerate(scenario.neighbours):
            Traffic(neighbour, place, self.streams, self.machine, lambda at, what: self.push(at, _NEIGHBOUR, what))
        alone = len(timers) == 1
        now = 0.0
        while True:
            wake_at, rank, _, client = timers[0] if alone else min(timers)
            if at_once and wake_at > now:
                self.begin(now, next(self.calls)[1], at_once.popleft())
                continue
            if heap:
                due_s, place, kind, what = heap[0]
            else:
                due_s, place = math.inf, 0
            if wake_at < due_s or (wake_at == due_s and rank < place):
                if wake_at > horizon:
                    break
                if wake_at > now:
                    now = wake_at
                timers[client] = (math.inf, _ARMED, 0, client)
                self.decide(now, client)
                continue
            now = due_s
            if now > horizon:
                break
            heappop(heap)
            if kind == _ANSWER:
                if not what.ended:
                    self.answer(now, what)
            elif kind == _ARRIVAL:
                self.arrive(now, what)
            elif kind == _RETRY:
                if not what.ended:
                    self.submit(now, what)
            elif kind == _GIVE_UP:
                self.push(now, _HANG_UP, what)  # a cancelled task is told after what is ready before it
            elif kind == _HANG_UP:
                self.give_up(now, what)
            elif kind == _DEADLINE:
                if what.state is _ADMITTED:
                    self.push(now, _OVERDUE, what)
            elif kind == _OVERDUE:
                self.overdue(now, what)
            elif kind == _SEND:
                if what.state is _ADMITTED:
                    self.send(now, what)
            elif kind == _REACHED:
                self.reached(now, what)
            elif kind == _LEFT:
                if not what.ended:
                    self.machine.finish(now, what.verdict.handle)
                    what.verdict = what.verdict._replace(handle=None)
            elif kind == _NEXT_ROUND:
                self.begin(now, *what)
            elif kind == _NEIGHBOUR:
                what(now)
            elif isinstance(what, Restart):
                self.restart(now, what)
            else:
                self.machine.scale(now, what.quota, what.axis)
                capacity.append((now, self.machine.capacity(now)))
        for request in self.open.values():
            if request.state is _ADMITTED:
                self.log.unanswered(request)
            self.log.request(math.nan, request, Ending.UNFINISHED)
        return self.log.close(capacity)

    def push(self, at: float, kind: int, what: object) -> None:
        heappush(self.heap, (at, self.sequence, kind, what))
        self.sequence += 1

    def next_arrival(self) -> None:
        following = next(self.calls, None)
        if following is not None:
            self.push(following[0], _ARRIVAL, following[1])

    def arrive(self, now: float, what: Any) -> None:
        """Let a worker of a closed loop ask, or the next request of an open one come, dealt to the clients in turn."""
        clients = len(self.controllers)
        if self.closed:
            self.begin(now, next(self.calls)[1], what % clients)
        else:
            self.next_arrival()
            client, self.started = self.started % clients, self.started + 1
            self.begin(now, what, client)

    def begin(self, now: float, call: Call, client: int) -> None:
        scenario, deadline_s = self.scenario, self.retry.deadline_s
        request = RequestTicket(call, now, client, math.inf if deadline_s is None else now + deadline_s)
        self.open[call.index] = request
        if deadline_s is not None:
            self.push(request.deadline_s, _DEADLINE, request)
        if scenario.impatient_share and self.patience.row(call.index)[0] < scenario.impatient_share:
            self.push(now + scenario.patience_s * self.patience_left.row(call.index)[0], _GIVE_UP, call.index)
        self.submit(now, request)

    def submit(self, now: float, request: RequestTicket) -> None:
        request.submitted_s = now
        client = request.client
        if self.controllers[client].submit(now, request):
            self.admitted(request)
            self.send(now, request)
        elif request.state is TicketState.REFUSED:
            self.refused(now, request)
        else:
            self.arm(now, client)

    def admitted(self, request: RequestTicket) -> None:
        """Note the limiter's state at the admission."""
        controller = self.controllers[request.client]
        request.rate, request.concurrency = controller.rate, controller.concurrency
        request.reason = controller.last_reason

    def send(self, now: float, request: RequestTicket) -> None:
        request.sends += 1
        if self.distant:
            request.verdict = _ON_ITS_WAY
            self.push(now + self.machine.ways_s(request.call)[0], _REACHED, request)
            return
        verdict = request.verdict = self.machine.send(now, request.call)
        heappush(self.heap, (now + verdict.duration_s, self.sequence, _ANSWER, request))
        self.sequence += 1

    def reached(self, now: float, request: RequestTicket) -> None:
        """Let the provider judge a call that arrived, also one whose caller has hung up meanwhile."""
        verdict = self.machine.send(now, request.call)
        if request.ended:
            self.machine.finish(now, verdict.handle)
            return
        there_s, back_s = now - request.admitted_s, self.machine.ways_s(request.call)[1]
        request.verdict = verdict._replace(
            first_chunk_s=there_s + verdict.first_chunk_s + back_s, duration_s=there_s + verdict.duration_s + back_s
        )
        if verdict.handle is not None:
            self.push(now + verdict.duration_s, _LEFT, request)
        self.push(now + verdict.duration_s + back_s, _ANSWER, request)

    def decide(self, now: float, client: int) -> None:
        decisions = self.controllers[client].advance(now)
        if decisions.changes:
            self.log.changes(client, decisions.changes)
        request: Any  # the engine's own tickets, all of them
        for request in decisions.admitted:
            self.admitted(request)
            self.push(now, _SEND, request)  # after what else happens at this very moment, as in an event loop
        for request in decisions.refused:
            self.refused(now, request)
        self.arm(now, client)

    def arm(self, now: float, client: int) -> None:
        """Set the client's timer; of two for the same moment, the one set first goes first.

        One set for this very moment goes after what was due at this moment before it, as in an event loop.
        """
        wake_at = self.controllers[client].wake_at
        if wake_at != self.timers[client][0] or wake_at <= now:
            self.timers[client] = (wake_at, _ARMED if wake_at > now else self.sequence, self.sequence, client)
            self.sequence += 1

    def answer(self, now: float, request: RequestTicket) -> None:
        verdict, client, call = request.verdict, request.client, request.call
        if verdict.handle is not None:
            self.machine.finish(now, verdict.handle)
        error, heard_s = verdict.error, verdict.retry_after_s
        if error is None:
            outcome = _SUCCEEDED
            signal = RateLimitSignal(outcome, None, None, call.input_tokens, call.output_tokens, verdict.limits)
        else:
            axis = verdict.axis if self.names_axis and verdict.axis is not Axis.CONCURRENCY else None
            outcome = _CONSEQUENCES[error].outcome
            if heard_s is None and outcome is Outcome.RATE_LIMITED:
                heard_s = _reset_s(verdict.limits)
            signal = RateLimitSignal(outcome, heard_s, axis, None, None, verdict.limits)
        controller = self.controllers[client]
        changes = controller.settle(now, request, signal)
        if changes:
            self.log.changes(client, changes)
        self.log.attempt(now, request, outcome)
        if controller.wake_at <= now:
            self.decide(now, client)
        if error is None:
            self.finish(now, request, Ending.SUCCEEDED)
        else:
            self.failed(now, request, error, heard_s)

    def failed(self, now: float, request: RequestTicket, error: str, retry_after_s: float | None) -> None:
        consequence = _CONSEQUENCES[error]
        if consequence.classification is LLMErrorClassification.TERMINAL:
            never = error == ErrorReason.REQUEST_EXCEEDS_LIMIT
            self.finish(now, request, Ending.NEVER_ADMISSIBLE if never else Ending.FAILED)
            return
        deadline_s = request.deadline_s
        delay_s = self.retry_delay_s(
            self.retry,
            attempt=request.attempt,
            worth_attempts=consequence.max_attempts,
            jitter=self.jitter.row(request.call.index)[request.attempt % _JITTERS],
            retry_after_s=retry_after_s,
            remaining_s=None if deadline_s == math.inf else deadline_s - now,
        )
        if delay_s is None:
            self.finish(now, request, Ending.FAILED)
        else:
            request.attempt += 1
            self.push(now + delay_s, _RETRY, request)

    def refused(self, now: float, request: RequestTicket) -> None:
        assert request.refusal is not None
        self.finish(now, request, _REFUSALS[request.refusal])

    def give_up(self, now: float, index: int) -> None:
        request = self.open.get(index)
        if request is None:
            return
        if self.hang_up(now, request) or request.state is TicketState.WAITING:
            self.log.changes(request.client, self.controllers[request.client].cancel(now, request))
            self.decide(now, request.client)
        self.finish(now, request, Ending.CANCELLED)

    def overdue(self, now: float, request: RequestTicket) -> None:
        """End a call whose deadline passes while it is answered; one in line is refused by the line itself."""
        if request.ended or not self.hang_up(now, request):
            return
        self.log.changes(request.client, self.controllers[request.client].cancel(now, request))
        self.decide(now, request.client)
        self.finish(now, request, Ending.REFUSED_DEADLINE)

    def hang_up(self, now: float, request: RequestTicket) -> bool:
        """Drop the request's connection and return whether it had one."""
        if request.state is not _ADMITTED:
            return False
        self.machine.finish(now, request.verdict.handle)
        self.log.attempt(now, request, CANCELLED)
        return True

    def restart(self, now: float, event: Restart) -> None:
        """Kill clients: connections drop, what they learned is gone, and new ones take all open requests up afresh."""
        mine = [request for request in self.open.values() if event.client in (None, request.client)]
        for client in range(len(self.controllers)) if event.client is None else [event.client]:
            self.controllers[client] = self.policy.controller(self.machine)
            self.arm(now, client)
        fresh = []
        for old in mine:
            old.ended = True
            request = self.open[old.call.index] = RequestTicket(old.call, old.arrival_s, old.client, old.deadline_s)
            request.attempt = old.attempt + self.hang_up(now, old)
            request.sends = old.sends
            fresh.append(request)
        for request in fresh:
            self.submit(now, request)

    def finish(self, now: float, request: RequestTicket, ending: Ending) -> None:
        request.ended = True
        del self.open[request.call.index]
        self.log.request(now, request, ending)
        if self.closed:
            if now == request.arrival_s:
                self.push(now + ANSWERED_AT_ONCE_S, _ARRIVAL, request.client)
            elif self.heap and self.heap[0][0] == now:
                self.push(now, _ARRIVAL, request.client)
            else:
                self.at_once.append(request.client)
        elif self.sessions is not None:
            following = self.sessions.after(request.call.index, now)
            if following is not None:
                self.push(following[0], _NEXT_ROUND, (following[1], request.client))


def _reset_s(limits: tuple[AxisLimit, ...]) -> float | None:
    """Return the wait that headers of limits tell where a refusal states none: the reset of what is used up."""
    return max([limit.reset_s for limit in limits if limit.remaining == 0 and limit.reset_s is not None], default=None)
