"""Whether others draw on the same quota: what refusals say of it, and what the rule makes of it."""

from __future__ import annotations

import pytest

from factflow_llm.ratelimit.aimd import RateRule
from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.ratelimit.openings import Opening
from factflow_llm.ratelimit.sharing import Sharing
from simulators.engine.simulate import simulate
from simulators.policies.all_knowing import oracle
from simulators.scenarios.worlds import suite


def _after(climbs: list[float]) -> Sharing:
    sharing = Sharing()
    for climbed in climbs:
        sharing = sharing.after(climbed)
    return sharing


@pytest.mark.parametrize(
    ("climbs", "shared"),
    [
        ([], False),
        ([1.2] * 30, False),
        ([1.2, 1.3, 0.2] * 10, False),
        ([0.1, 0.5, 0.7], True),
        ([0.1, 1.4, 0.3] * 10, True),
        ([0.2] * 30 + [1.5] * 10, False),
    ],
)
def test_others_are_known_by_early_refusals(climbs: list[float], shared: bool) -> None:
    """Refusals at any height of a climb mean company; refusals above the ceiling mean none, also after company left."""
    assert _after(climbs).shared is shared


@pytest.mark.parametrize(("rate", "probe_s", "at_s"), [(4.0, 8.0, 30.0), (16.0, 8.0, 60.0), (20.0, 300.0, 300.0)])
def test_a_climb_in_company_lasts_by_the_root_of_the_rate(rate: float, probe_s: float, at_s: float) -> None:
    """From six hundredths below, a shared rate is back at what was measured then: a small share sooner than a large."""
    rule = RateRule(RateLimitConfig(probe_s=probe_s), now=0.0, known=rate)
    rule.sharing = Sharing(1.0, shared=True)
    rule.rejected(0.0, 0.0, 0.0, 1.0, spare=0.0)
    rule.opened(Opening(0.0, 0.0), 1.0)
    assert rule.rate == pytest.approx(0.94 * rate)
    now = total = 0.0
    halfway = 0.0
    while now < at_s:
        now, total = now + 0.25, total + 0.25 * rule.rate
        rule.step(now, total, limited=True)
        if now <= 0.5 * at_s:
            halfway = rule.rate
    assert halfway == pytest.approx(0.97 * rate, rel=0.005)
    assert rule.rate == pytest.approx(rate, rel=0.005)


def test_early_refusals_of_a_rule_tell_it_of_company() -> None:
    """A rule that is refused again and again right after it began to climb knows that others draw on the quota."""
    rule = RateRule(RateLimitConfig(), now=0.0, known=20.0)
    assert not rule.sharing.shared
    for turn in range(1, 7):
        rule.rejected(5.0 * turn, 5.0 * turn, 100.0 * turn, 1.0, spare=0.0)
        rule.opened(Opening(5.0 * turn, 100.0 * turn), 1.0)
    assert rule.sharing.shared


def test_one_late_refusal_does_not_end_it() -> None:
    """Company stays known while some refusals come late."""
    assert _after([0.1, 0.1, 0.1, 1.5]).shared


@pytest.mark.slow
def test_shares_draw_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four independent clients end with nearly equal shares; without the mechanism those who began large stay large."""
    world = suite()["clients-4"]

    def jain() -> float:
        found = [_summary(seed) for seed in range(3)]
        return sum(found) / len(found)

    def _summary(seed: int) -> float:
        best = simulate(world.scenario, oracle(), seed=seed, clients=world.clients, collect="summary")
        return float(
            simulate(world.scenario, None, seed=seed, clients=world.clients, collect="summary").summary(best)["jain"]
        )

    level = jain()
    monkeypatch.setattr(Sharing, "after", lambda sharing, climbed: sharing)
    assert level > jain() + 0.02
    assert level > 0.96
