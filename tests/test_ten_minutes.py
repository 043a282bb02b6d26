"""Ten minutes of real HTTP beside the simulator's account of them: what can be tested without waiting for the clock."""

from __future__ import annotations

from reports.ten_minutes import DURATION_S, OTHERS, PHASES, PROVIDER, Phase, report, scenario, simulated
from simulators.policies.all_knowing import oracle
from simulators.scenarios.scenario import QuotaChange, Restart


def test_the_scenario_holds_all_that_is_promised() -> None:
    """The quota moves twice, a restart falls into a window that others use up, one wait is a lie; and noise."""
    events = scenario().events
    assert [event.quota for event in events if isinstance(event, QuotaChange)] == [0.5, 2.0]
    (restart,) = (event for event in events if isinstance(event, Restart))
    assert OTHERS.start_s == restart.time_s
    assert OTHERS.requests_per_s * 5.0 > 2 * PROVIDER.quotas[0].limit
    assert [fault.kind for fault in PROVIDER.faults] == ["refused", "misleading"]
    assert scenario().horizon_s == DURATION_S


def test_phases_follow_the_quota() -> None:
    """Who sees the provider's state gets two windows of 240, of 120 and of 480; then what others leave, then all."""
    answered = [phase.answered for phase in simulated(0, oracle())]
    assert answered[:3] == [480, 240, 960]
    assert 480 <= answered[3] < 960
    assert answered[4] == 960


def test_the_report_sets_both_accounts_side_by_side() -> None:
    """Each phase has a line, and the last one sums up."""
    real, run = [Phase(10, 1)] * len(PHASES), [Phase(11, 2)] * len(PHASES)
    text = report(real, [run, run])
    assert all(name in text for name, _ in PHASES)
    assert text.splitlines()[-1].split()[:6] == ["in", "all", "50", "and", "5", "429s"]
