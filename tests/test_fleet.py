"""Several processes on one quota: in the laboratory, on production's own code, and in this process over a real file."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import simulators as sim
from factflow_llm import AdaptiveRateLimiter, RateLimitConfig
from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.line import Ticket
from factflow_llm.ratelimit.member import MemberCore
from factflow_llm.ratelimit.past import KEPT_S, Past
from factflow_llm.ratelimit.shared import LEASE_S, refresh
from factflow_llm.signals import Outcome, RateLimitSignal, Reason
from reports import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from factflow_llm.ratelimit.shared import State


def run(preset: str, clients: int, *, duration_s: float = 200.0, store: sim.Store | None = None) -> pd.Series:
    """Let eight callers per client ask all the time; return the summary."""
    scenario = sim.Scenario(sim.backlog(workers=8 * clients, duration_s=duration_s), preset)
    return sim.simulate(scenario, seed=3, clients=clients, shared=True, store=store, collect="summary").summary()


def test_a_shared_bucket_is_used_up_and_fairly() -> None:
    """Eight processes together are as good as one, with a fifth of the rejections that they have apart."""
    together = run("bucket", 8)
    scenario = sim.Scenario(sim.backlog(workers=64, duration_s=200.0), "bucket")
    apart = sim.simulate(scenario, seed=3, clients=8, collect="summary").summary()
    assert together["goodput_ratio"] > 0.97
    assert together["jain"] > 0.98
    assert together["rejected_share"] < 0.2 * apart["rejected_share"]


def test_shared_slots_are_used_up_and_fairly() -> None:
    """Apart, eight clients are as unfair as they come; together each has an eighth, and few are rejected."""
    together = run("slots", 8, duration_s=600.0)
    assert together["goodput_ratio"] > 0.97
    assert together["jain"] > 0.98
    assert together["rejected_share"] < 0.015


def test_headers_serve_all_members() -> None:
    """Of a provider that shows what is left, nobody is rejected."""
    summary = run("openai-tier-1", 8)
    assert summary["goodput_ratio"] > 0.95
    assert summary["rejected_share"] < 0.005


@pytest.mark.parametrize(
    "store",
    [
        pytest.param(sim.Store().gone(80, for_s=20), id="gone"),
        pytest.param(sim.Store().flushed(80), id="flushed"),
        pytest.param(sim.Store().slow(80, for_s=20, delay_s=0.15), id="slow"),
        pytest.param(sim.Store().partitioned(80, 20, 0, 1), id="partitioned"),
        pytest.param(sim.Store(loss=0.2), id="loses a fifth"),
    ],
)
def test_calls_go_on_whatever_befalls_the_store(store: sim.Store) -> None:
    """No call is lost, none is stuck, and the quota is used as before."""
    summary = run("bucket", 4, store=store)
    assert summary["goodput_ratio"] > 0.9
    assert summary["failed"] == 0
    assert summary["rejected_share"] < 0.1


def test_a_killed_members_share_returns() -> None:
    """Two of four clients restart at once: they know nothing any more, and the fleet does."""
    scenario = sim.Scenario(sim.backlog(workers=32, duration_s=120.0), "bucket")
    scenario = scenario.restarting(60, client=0).restarting(60, client=1)
    result = sim.simulate(scenario, seed=3, clients=4, shared=True)
    sent = result.attempts[result.attempts.outcome == "succeeded"].sent_s
    assert ((sent > 75) & (sent < 115)).sum() > 0.95 * 40 * 10


def test_only_our_limiter_shares() -> None:
    """Others' limiters know no fleet."""
    with pytest.raises(ConfigurationError, match="only our limiter can"):
        sim.simulate(sim.Scenario(sim.backlog(), "bucket"), sim.policies.retry_only(), clients=2, shared=True)


# --- one member's core --------------------------------------------------------------------------------------------


def member(
    name: str, state: State | None, now: float = 0.0, config: RateLimitConfig | None = None
) -> tuple[MemberCore, State, list[Ticket]]:
    """Return a member with three calls, which has had its first grant."""
    core = MemberCore(config or RateLimitConfig(), name)
    tickets = [Ticket(), Ticket(), Ticket()]
    for ticket in tickets:
        core.submit(now, ticket)
    state, grant = refresh(state, core.report(now), 1000.0 + now)
    core.hear(now, grant)
    core.advance(now)
    return core, state, tickets


def test_nothing_is_sent_before_the_first_word() -> None:
    """A new process waits for its grant, for a second at most, and then goes alone."""
    core = MemberCore(RateLimitConfig(), "a")
    ticket = Ticket()
    assert not core.submit(0.0, ticket)
    assert not core.advance(0.9).admitted
    assert core.advance(1.1).admitted == [ticket]


def test_a_share_holds_until_its_lease_ends() -> None:
    """Then the member finds the quota by itself, from its share of what was known."""
    core, _, _ = member("a", None)
    core.lapse(LEASE_S - 0.1)
    assert core.together
    changes = core.lapse(LEASE_S + 0.1)
    assert not core.together
    assert changes[-1].reason is Reason.SHARED
    assert core.metrics(6.0).share is None
    assert core.concurrency >= 1


def in_turn(members: tuple[MemberCore, ...], state: State, *times_s: float) -> State:
    """Let members report and hear one after the other, at each of some times."""
    for at_s in times_s:
        for core in members:
            state, grant = refresh(state, core.report(at_s), 1000.0 + at_s)
            core.hear(at_s, grant)
            core.advance(at_s)
    return state


def test_a_followers_rejection_cuts_all_at_once_and_is_judged_by_the_leader() -> None:
    """Meanwhile all are paced at what the law falls back to; once the quota is open again, that is told, too."""
    known = RateLimitConfig(requests_per_minute=600)
    leader, state, _ = member("a", None, config=known)
    follower, state, tickets = member("b", state, 0.1, known)
    state = in_turn((leader, follower), state, 1.0, 2.0, 3.0)
    assert (leader.part.leads, follower.part.leads) == (True, False)
    sent = next(ticket for ticket in tickets if ticket.state.value == "admitted")
    follower.settle(3.1, sent, RateLimitSignal(Outcome.RATE_LIMITED))
    assert follower.refresh_at == 3.1
    state = in_turn((follower, leader), state, 3.1)
    assert state.rejected is not None
    assert leader.rate == pytest.approx(0.97 * 10.0 * leader.part.share)
    canary = Ticket()
    follower.submit(3.3, canary)
    follower.advance(4.0)
    follower.settle(4.2, canary, RateLimitSignal(Outcome.SUCCEEDED))
    state = in_turn((follower, leader), state, 4.2)
    assert leader.last_reason is Reason.RATE_LIMITED
    state = in_turn((leader,), state, 4.3)
    assert state.rejected is None


def test_what_was_said_is_said_again_until_it_arrived() -> None:
    """A message that is lost costs a second, and no rejection."""
    leader, state, _ = member("a", None)
    follower, state, tickets = member("b", state, 0.1)
    in_turn((leader, follower), state, 1.0, 2.0)
    follower.settle(2.1, tickets[0], RateLimitSignal(Outcome.RATE_LIMITED))
    lost = follower.report(2.1)
    said = follower.report(3.1)
    assert lost.rejected is not None
    assert said.rejected == lost.rejected._replace(ago_s=lost.rejected.ago_s + 1.0)
    _, grant = refresh(state, said, 1003.1)
    follower.hear(3.1, grant)
    assert follower.report(4.1).rejected is None


def test_a_rejection_takes_a_call_out_of_the_past() -> None:
    """What was in flight at a moment is what was let through."""
    past = Past()
    past.note(1.0, (1.0, 100.0, 0.0), 1)
    past.note(2.0, (2.0, 300.0, 0.0), 2)
    past.note(3.0, (3.0, 350.0, 0.0), 3)
    assert past.at(2.5) == ((2.0, 300.0, 0.0), 2)
    past.rejected(2.0, (1.0, 200.0, 0.0))
    past.note(3.5, (2.0, 150.0, 0.0), 2)
    assert past.at(1.5) == ((1.0, 100.0, 0.0), 1)
    assert past.at(2.5) == ((1.0, 100.0, 0.0), 1)
    assert past.at(3.2) == ((2.0, 150.0, 0.0), 2)
    assert past.at(0.5) == ((0.0, 0.0, 0.0), 0)
    past.forget(3.5 + KEPT_S)
    assert past.at(9.0) == ((2.0, 150.0, 0.0), 2)


def test_an_exhausted_account_shuts_and_opens_all() -> None:
    """One member's breaker is every member's."""
    one, state, tickets = member("a", None)
    other, state, _ = member("b", state, 0.1)
    sent = next(ticket for ticket in tickets if ticket.state.value == "admitted")
    one.settle(1.0, sent, RateLimitSignal(Outcome.EXHAUSTED))
    assert one.refresh_at == 1.0
    for core in (one, other):
        state, grant = refresh(state, core.report(1.1), 1001.1)
        core.hear(1.1, grant)
    assert other.metrics(1.1).breaker_open
    other.reset_breaker(2.0)
    for core in (other, one):
        state, grant = refresh(state, core.report(2.1), 1002.1)
        core.hear(2.1, grant)
    assert not one.metrics(2.1).breaker_open


# --- the link to a store ------------------------------------------------------------------------------------------


def test_limiters_of_one_file_share(tmp_path: Path) -> None:
    """Each holds a part, and says so."""

    async def main() -> list[str]:
        config = RateLimitConfig(shared=f"sqlite:///{tmp_path}/quota.db")
        limiters = [AdaptiveRateLimiter(config) for _ in range(2)]

        async def call(limiter: AdaptiveRateLimiter) -> None:
            async with limiter.permit() as permit:
                await asyncio.sleep(0)
                permit.succeeded()

        await asyncio.gather(*(call(limiter) for limiter in limiters for _ in range(5)))
        told = [limiter.explain() for limiter in limiters]
        assert all(limiter.metrics.share is not None for limiter in limiters)
        await asyncio.gather(*(limiter.aclose() for limiter in limiters))
        return told

    assert any("of a quota shared by 2" in told for told in asyncio.run(main()))


def test_what_was_learned_outlives_a_process(tmp_path: Path) -> None:
    """A new process starts with the law of those before it."""
    state: State | None = None
    first, state, _ = member("a", None)
    law = first.report(1.0).law
    assert law is not None
    law = law._replace(rates={"requests": 3.1}, known={"requests": 3.0}, calls_per_s=3.1)
    state, _ = refresh(state, first.report(1.0)._replace(law=law), 1001.0)
    state, _ = refresh(state, first.report(2.0, leaves=True)._replace(law=state.law), 1002.0)
    second, _, _ = member("b", state, 100.0)
    assert second.part.leads
    assert second.metrics(100.0).requests_per_s == pytest.approx(1.5)  # half of it, for others may be coming


def test_a_lost_store_is_told_once(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """In words, at WARNING; and calls go on."""
    from factflow_llm.ratelimit.fellowship import Fellowship
    from factflow_llm.ratelimit.stores.opening import StoreError

    async def main() -> None:
        config = RateLimitConfig(shared=f"sqlite:///{tmp_path}/quota.db")
        limiter = AdaptiveRateLimiter(config)
        async with limiter.permit() as permit:
            permit.succeeded()
        link = limiter._fellowship
        assert isinstance(link, Fellowship)
        for _ in range(3):
            assert link._lose(StoreError("no answer"))
        assert link.failures == 3
        async with limiter.permit() as permit:
            permit.succeeded()
        await limiter.aclose()

    with caplog.at_level(logging.INFO, logger="factflow_llm"):
        asyncio.run(main())
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "calls go on" in caplog.text


@pytest.mark.slow
def test_the_quick_start_of_the_docs(tmp_path: Path) -> None:
    """Two processes and one file, as ``docs/fleets.md`` has them: all calls are answered, and both had a share."""
    page = (ROOT / "docs/fleets.md").read_text(encoding="utf-8")
    program = re.search(r"^```py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert program is not None
    (tmp_path / "worker.py").write_text(program[1].replace("CALLS = 200", "CALLS = 20"), encoding="utf-8")
    with sim.running_server("openai-tier-5") as server:
        workers = [
            subprocess.Popen(
                [sys.executable, "worker.py", server.url],
                cwd=tmp_path,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        told = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert all("of a quota shared by" in text for text in told)
