"""Real processes that share a quota through a real Redis, over HTTP; and the report of ten minutes of that."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from reports.fleet import (
    DURATION_S,
    PHASES,
    WORLDS,
    Account,
    Fault,
    Processes,
    jain,
    over_http,
    redis_server,
    regained_s,
    report,
    scenario,
    set_wires,
)
from simulators.scenarios.scenario import Restart
from simulators.server.serving import running_server

steady = Account([(0.1 * number, number % 8, "succeeded") for number in range(6000)], 0)


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_a_real_fleet_lives_on_whatever_befalls_it() -> None:
    """Of three processes one is killed, and another cannot reach Redis for a while: no call of the others fails."""

    async def kill(running: Processes) -> None:
        running.kill(0)

    async def run(url: str, port: int) -> Account:
        faults = [Fault(8.0, kill), Fault(10.0, set_wires(cut={1: True})), Fault(14.0, set_wires(cut={1: False}))]
        return await over_http(url, "few", port, processes=3, duration_s=20.0, starts_in_s=8.0, faults=faults)

    with redis_server() as port, running_server("openai-tier-5", seed=1) as server:
        account = asyncio.run(run(server.url, port))
    assert account.failed == 0
    assert {member for _, member, outcome in account.sent if outcome == "succeeded"} == {0, 1, 2}
    assert {member for at_s, member, outcome in account.sent if at_s > 9.0 and outcome == "succeeded"} == {1, 2}


def test_the_scenario_holds_all_that_is_promised() -> None:
    """Two members are killed in the simulated account, too; what befalls the store is told in the phases."""
    killed = [event.client for event in scenario("bucket").events if isinstance(event, Restart)]
    assert killed == [0, 1]
    assert scenario("bucket").horizon_s == DURATION_S
    assert len(PHASES) == 6


def test_how_soon_a_quota_is_regained() -> None:
    """From a disturbance until nine tenths of what was usual are answered again, window by window."""
    gap = Account([each for each in steady.sent if not 300.0 <= each[0] < 310.0], 0)
    assert regained_s(steady, steady, 300.0) == 0.0
    assert 9.0 <= regained_s(gap, steady, 300.0) <= 11.0
    assert regained_s(Account([], 0), steady, 300.0) == float("inf")
    assert jain(steady) == 1.0


@pytest.mark.slow
def test_the_report_sets_both_accounts_side_by_side() -> None:
    """Each world has all phases, and a line that sums up."""
    text = report(dict.fromkeys(WORLDS, steady), dict.fromkeys(WORLDS, steady))
    assert all(text.count(name) == len(WORLDS) for name, _ in PHASES)
    assert text.count("in all") == len(WORLDS)
