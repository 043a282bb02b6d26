"""Whether others draw on the same quota: what refusals say of it, and what the rule makes of it."""

from __future__ import annotations

import pytest

from factflow_llm.ratelimit.aimd import RateRule
from factflow_llm.ratelimit.config import RateLimitConfig
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


@pytest.mark.parametrize(("probe_s", "height"), [(8.0, 0.98), (300.0, 0.945)])
def test_a_climb_in_company_lasts_half_a_minute_or_as_long_as_asked_for(probe_s: float, height: float) -> None:
    """Twenty seconds after a cut, a shared rate has climbed most of the way, or little of it if ``probe_s`` is long."""
    rule, now, sent = RateRule(RateLimitConfig(probe_s=probe_s), now=0.0, ceiling=20.0), 0.0, 0.0

    def sends(seconds: float) -> None:
        nonlocal now, sent
        for _ in range(round(4 * seconds)):
            now, sent = now + 0.25, sent + 0.25 * rule.rate
            rule.step(now, sent, limited=True)

    for _ in range(40):
        sends(5.0)
        rule.cut(now, now, sent, sent)
    sends(20.0)
    assert rule.rate == pytest.approx(height * rule.ceiling, rel=0.005)


def test_one_late_refusal_does_not_end_it() -> None:
    """Company stays known while some refusals come late."""
    assert _after([0.1, 0.1, 0.1, 1.5]).shared


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
