"""Attempts simulated per CPU-second: the engine with the real core, a bare heap without limiter, and SimPy.

The worlds are the ``bucket`` preset under 64 workers for half an hour, and two traces in an open loop in front of
``openai-tier-3``: Azure's code trace, and one like its conversations at five times their rate.

* *engine*: ``simulate()`` with the default limiter, up to and without the frames.
* *bare heap*: the attempts that the engine made, sent again at the same moments through a loop that is nothing but a
  heap of arrivals and answers: it makes each call, asks the same provider machine for its verdict, pushes and pops the
  answer, and notes four figures. No limiter, no queue, no retries, no wake-ups, no deadlines. Its verdicts must be
  those of the engine.
* *SimPy*: a process per worker and per request, an event per waiting request, the same core, machine and retries, four
  figures noted; SimPy's own loop keeps time.

``python -m reports.compiled FOLDER`` makes a folder in which all three use the compiled core.
"""

from __future__ import annotations

from array import array
from functools import partial
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, NamedTuple

import simpy

from factflow_llm.ratelimit.backoff import retry_delay_s
from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.ratelimit.core import LimiterCore
from factflow_llm.ratelimit.line import NEVER, Ticket
from factflow_llm.signals import Outcome, RateLimitSignal
from reports.benchmarks.measure import Contestant, ratio, show, take_turns, verdict
from simulators.engine import loop as _engine
from simulators.engine.simulate import simulate
from simulators.providers.calls import Call
from simulators.providers.machine import ProviderMachine, Verdict
from simulators.scenarios.demand import calls
from simulators.scenarios.scenario import Backlog, Scenario, backlog
from simulators.scenarios.worlds import TRACES
from simulators.streams import Streams
from simulators.traces import read_trace, synthesize

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED = 7
_ARRIVAL, _ANSWER = 0, 1


class Sent(NamedTuple):
    """One attempt as the engine made it: when, of which call, and of what size."""

    at_s: float
    number: int
    read: int
    written: int


def worlds() -> dict[str, Scenario]:
    """Return what is simulated, by name; the code trace only where it is at hand."""
    found = {"bucket, 64 workers": Scenario(backlog(64, 1800.0), "bucket")}
    code = TRACES / "azure2023" / "AzureLLMInferenceTrace_code.csv"
    if code.is_file():
        found["code trace"] = Scenario(read_trace(code), "openai-tier-3")
    talk = synthesize(5 * 5.53, 1800.0, seed=SEED)
    return found | {"conversations, 5 x": Scenario(talk, "openai-tier-3")}


def engine(scenario: Scenario) -> int:
    """Simulate; return the number of attempts."""
    return simulate(scenario, RateLimitConfig(), seed=SEED).run.tally.attempts


def sent(scenario: Scenario) -> tuple[list[Sent], int]:
    """Return what the engine sends, in order, and how many answers it gets."""
    result = simulate(scenario, RateLimitConfig(), seed=SEED)
    attempts, requests = result.attempts, result.requests.set_index("request")
    calls = attempts[["admitted_s", "request"]].join(requests[["input_tokens", "output_tokens"]], on="request")
    return sorted(map(Sent._make, calls.itertuples(index=False))), int((attempts["status"] == 200).sum())


def bare_heap(scenario: Scenario, arrivals: list[Sent], answers: int) -> int:
    """Send the given calls at the given moments; return the number of attempts."""
    machine = ProviderMachine(scenario.provider, Streams(SEED))
    following: Iterator[Sent] = iter(arrivals)
    rows = array("d")
    first = next(following)
    heap: list[tuple[float, int, int, Any]] = [(first.at_s, 0, _ARRIVAL, Call(*first[1:]))]
    sequence = 1
    succeeded = 0
    while heap:
        now, _, kind, what = heappop(heap)
        if kind == _ARRIVAL:
            sent_on = machine.send(now, what)
            heappush(heap, (now + sent_on.duration_s, sequence, _ANSWER, (what, now, sent_on)))
            upcoming = next(following, None)
            if upcoming is not None:
                at, number, read, written = upcoming
                heappush(heap, (at, sequence + 1, _ARRIVAL, Call(number, read, written)))
            sequence += 2
        else:
            call, sent_s, answer = what
            machine.finish(now, answer.handle)
            rows.extend((call.index, sent_s, now, answer.status))
            succeeded += answer.error is None
    assert abs(succeeded - answers) <= 0.01 * answers, f"{succeeded} answers, not {answers}: this is another world"
    return len(arrivals)


class _Model:
    """The same world in SimPy."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.env = simpy.Environment()
        streams = Streams(SEED)
        self.calls = calls(scenario, streams)
        self.machine = ProviderMachine(scenario.provider, streams)
        self.jitter = streams.stream("jitter", "uniform", 16)
        self.retry = RateLimitConfig().retry
        self.core = LimiterCore(RateLimitConfig())
        self.admitted: dict[Ticket, simpy.Event] = {}
        self.alarm_s = NEVER
        self.rows = array("d")

    def run(self) -> int:
        workload = self.scenario.workload
        if isinstance(workload, Backlog):
            for _ in range(workload.workers):
                self.env.process(self.worker())
        else:
            self.env.process(self.arrivals())
        self.env.run(until=self.scenario.horizon_s)
        return len(self.rows) // 4

    def worker(self) -> Iterator[Any]:
        for _, call in self.calls:
            yield self.env.process(self.request(call))

    def arrivals(self) -> Iterator[Any]:
        for at_s, call in self.calls:
            yield self.env.timeout(at_s - self.env.now)
            self.env.process(self.request(call))

    def request(self, call: Call) -> Iterator[Any]:
        env, core = self.env, self.core
        ticket = Ticket(call.input_tokens, None)
        for attempt in range(self.retry.max_attempts):
            if not core.submit(env.now, ticket):
                turn = self.admitted[ticket] = env.event()
                self.arm()
                yield turn
            sent_s = env.now
            answer = self.machine.send(sent_s, call)
            yield env.timeout(answer.duration_s)
            self.machine.finish(env.now, answer.handle)
            self.rows.extend((call.index, sent_s, env.now, answer.status))
            core.settle(env.now, ticket, _signal(call, answer))
            if core.wake_at <= env.now:
                self.decide()
            if answer.error is None:
                return
            delay_s = retry_delay_s(
                self.retry,
                attempt=attempt,
                jitter=self.jitter.row(call.index)[attempt],
                retry_after_s=answer.retry_after_s,
                remaining_s=None,
            )
            if delay_s is None:
                return
            yield env.timeout(delay_s)

    def decide(self) -> None:
        for ticket in self.core.advance(self.env.now):
            self.admitted.pop(ticket).succeed()
        self.arm()

    def arm(self) -> None:
        if self.core.wake_at not in (self.alarm_s, NEVER):
            self.env.process(self.alarm(self.core.wake_at))
        self.alarm_s = self.core.wake_at

    def alarm(self, at: float) -> Iterator[Any]:
        yield self.env.timeout(max(at - self.env.now, 0.0))
        if self.alarm_s == at:
            self.alarm_s = NEVER
            self.decide()


def _signal(call: Call, answer: Verdict) -> RateLimitSignal:
    if answer.error is None:
        return RateLimitSignal(Outcome.SUCCEEDED, None, None, call.input_tokens, call.output_tokens, answer.limits)
    return RateLimitSignal(Outcome.RATE_LIMITED, answer.retry_after_s, None, None, None, answer.limits)


def main(rounds: int) -> None:
    """Measure and print."""
    print(f"\nThe core is {'pure Python' if str(_engine.__file__).endswith('.py') else 'compiled'}.")
    for name, scenario in worlds().items():
        arrivals, answers = sent(scenario)
        spent = take_turns(
            [
                Contestant("engine, the real core", partial(engine, scenario)),
                Contestant("bare heap, no limiter", partial(bare_heap, scenario, arrivals, answers)),
                Contestant("SimPy, the same core", lambda scenario=scenario: _Model(scenario).run()),
            ],
            rounds,
        )
        show(f"CPU per simulated attempt: {name} ({len(arrivals)} of them)", spent)
        ours, bare, simpys = spent
        speed = 1.0 / ratio(spent, ours, bare)
        verdict("engine's speed / bare heap's", speed, ">= 0.5", met=speed >= 0.5)
        speed = ratio(spent, simpys, ours)
        verdict("engine's speed / SimPy's", speed, ">= 6", met=speed >= 6.0)
