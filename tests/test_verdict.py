"""Verdicts: each sentence agrees with the figures beside it, and is left out where it would not be true."""

from __future__ import annotations

import re
from dataclasses import replace

import pandas as pd
import pytest

import simulators as sim
from factflow_llm.ratelimit.config import RateLimitConfig
from simulators.studies.comparison import Comparison
from simulators.studies.holding import Loss
from simulators.studies.tuning import Study
from simulators.studies.verdict import gained


def _trace(requests_per_s: float, duration_s: float = 300.0) -> sim.Trace:
    return sim.synthesize(requests_per_s, duration_s, seed=1)


def _numbers(text: str, pattern: str) -> float:
    found = re.search(pattern, text)
    assert found, f"{pattern!r} is not in {text!r}"
    return float(found[1].replace(",", ""))


def test_too_small_a_quota_is_called_so_with_its_numbers() -> None:
    """Demand over quota, who was never answered, that no setting helps, and whom the waits leave out."""
    result = sim.simulate(sim.Scenario(_trace(23), "bucket"))
    told, figures = sim.verdict(result), result.summary()
    assert _numbers(told, r"Demand is ([\d.]+) times the quota") == pytest.approx(2.3, rel=0.05)
    assert _numbers(told, r"quota: (\d+) % of the requests were never answered") == pytest.approx(
        100 * (1 - figures["answered_share"]), abs=0.5
    )
    assert "no setting helps; plan says which tier does" in told
    assert _numbers(told, r"leave out ([\d,]+) of") == figures["unfinished"]


def test_a_quota_with_room_is_called_so() -> None:
    """Nobody waits, nobody is left out, and there is nothing to warn of."""
    told = sim.verdict(sim.simulate(sim.Scenario(_trace(3), "bucket")))
    assert re.match(r"Demand is \d\d % of the quota\. The limiter adds no delay", told)
    for word in ("never", "leave out", "no setting"):
        assert word not in told


def test_settings_that_waste_the_quota_are_not_excused() -> None:
    """Where the oracle does better, that no setting helps would be a lie."""
    slow = RateLimitConfig(max_requests_per_minute=120)
    told = sim.verdict(sim.simulate(sim.Scenario(_trace(23), "bucket"), slow))
    assert "more than a quota of that size forces" in told
    assert "no setting helps" not in told
    assert "of the oracle's work done" in told


def test_a_storm_of_429s_has_a_place_and_a_cause() -> None:
    """A fixed rate is rejected from the moment on that halves the quota; the cut has the name it was given."""
    busy = sim.Scenario(sim.backlog(64, 400), "bucket").at(300, quota=0.2, label="cut").at(330, quota=1, label="back")
    result = sim.simulate(busy, sim.policies.fixed_rate(8))
    told = sim.verdict(result)
    since_s = _numbers(told, r"come from a storm at (\d+) s, after 'cut'")
    sent = result.attempts.loc[result.attempts["outcome"] == "rate_limited", "admitted_s"]
    share = _numbers(told, r"(\d+) % of them") / 100 if "% of them" in told else 1.0
    assert sent.between(since_s, since_s + 61).mean() == pytest.approx(share, abs=0.02)


def test_429s_all_over_are_no_storm() -> None:
    """Retrying without a limiter is rejected all the time."""
    told = sim.verdict(sim.simulate(sim.Scenario(sim.backlog(64, 300), "bucket"), sim.policies.retry_only()))
    assert "spread over the run" in told
    assert "storm" not in told
    assert re.search(r"retry only gets .* and adds [\d.]+ s to a wait", told)


def test_the_providers_own_trouble_is_told_apart() -> None:
    """Answers of 529 are no matter of quotas."""
    ill = sim.provider("bucket").with_faults(*sim.incident("anthropic-529-storm", start_s=60))
    told = sim.verdict(sim.simulate(sim.Scenario(sim.backlog(16, 300), ill)))
    assert _numbers(told, r"answers between (\d+) s") >= 60
    assert "the provider's own trouble" in told


def test_a_backlog_has_no_demand_to_compare() -> None:
    """Workers ask for what they are given."""
    told = sim.verdict(sim.simulate(sim.Scenario(sim.backlog(16, 120), "bucket")))
    assert "Demand" not in told
    assert "leave out" not in told


def _comparison(ratios: dict[str, tuple[float, ...]], shares: dict[str, float], load: float | None) -> Comparison:
    rows = [
        {
            "scenario": "day", "policy": policy, "seed": seed, "goodput_ratio": ratio, "answered_share": ratio,
            "rejected_share": shares.get(policy, 0.0), "attempts_per_success": 1.0, "wait_p95_s": 1.0,
        }
        for policy, given in ratios.items()
        for seed, ratio in enumerate(given)
    ]  # fmt: skip
    return Comparison(pd.DataFrame(rows), 1, {"day": load})


def test_among_equals_the_one_rejected_least_is_named() -> None:
    """Ties are ties; the oracle is out of the race."""
    ratios = {"oracle": (1.0,) * 3, "a": (0.98, 0.99, 0.97), "b": (0.985, 0.97, 0.985), "c": (0.5, 0.5, 0.5)}
    told = sim.verdict(_comparison(ratios, {"a": 0.3, "b": 0.004}, 0.5))
    assert told.startswith("Demand is 50 % of the quota")
    assert "a and b get alike much done; of these b is rejected least: 0.4 % of its attempts are 429s." in told


def test_a_clear_winner_is_named_with_its_price() -> None:
    """More than luck explains."""
    told = sim.verdict(_comparison({"a": (0.9, 0.91, 0.9), "b": (0.7, 0.71, 0.7)}, {"a": 0.25}, None))
    assert told == "a gets most done, 90 % of the oracle's; 25 % of its attempts are 429s."


def test_what_tuning_gained_is_said_only_where_worlds_show_it() -> None:
    """A difference whose interval holds 0 is none; a loss is called worse."""
    base = {"defaults": (0.90, 0.91, 0.92)}
    better = _comparison(base | {"tuned": (0.95, 0.96, 0.97)}, {"tuned": 0.01}, None)
    assert "day: +5 points of the oracle's goodput, +1 points of 429s" in gained(better, "tuned", "defaults")
    alike = _comparison(base | {"tuned": (0.91, 0.90, 0.92)}, {}, None)
    assert "day: no difference that these worlds show" in gained(alike, "tuned", "defaults")
    worse = _comparison(base | {"tuned": (0.85, 0.86, 0.87)}, {}, None)
    assert "day: worse: \u22125 points" in gained(worse, "tuned", "defaults")


def _study(best: dict[str, float], bound: float = 0.01) -> Study:
    first = {"goodput_ratio": 0.90, "rejected_share": 0.002, "attempts_per_success": 1.0, "wait_p95_s": 3.0}
    rows = [first, first | best]
    frame = pd.DataFrame(
        [{"trial": number, **row, "worst_rejected_share": row["rejected_share"]} for number, row in enumerate(rows)]
    )
    frame["feasible"] = frame["worst_rejected_share"] <= bound
    return Study(frame, 0, (0,), ("day",), bound, {"factflow-llm": "0", "optuna": "0"})


@pytest.mark.parametrize(
    ("best", "words"),
    [
        ({"goodput_ratio": 0.95}, "Trial 1 of 2 is best where it was searched: +5 points of the oracle's goodput"),
        (
            {"goodput_ratio": 0.85},
            "None of 2 trials does better than the defaults, which get 90 % of the oracle's work",
        ),
        ({"goodput_ratio": 0.9004, "wait_p95_s": 2.0}, "Trial 1 of 2 is best"),
        ({"goodput_ratio": 0.9004}, "None of 2 trials does better"),
        ({"goodput_ratio": 0.99, "rejected_share": 0.02}, "None of 2 trials does better"),
    ],
)
def test_a_search_is_judged_as_its_rule_says(best: dict[str, float], words: str) -> None:
    """Goodput to three digits, then the wait, then the earlier; never beyond the bound."""
    study = _study(best)
    assert words in sim.verdict(study)
    assert "3 digits" in study.rule
    assert study.history()["best_so_far"].dropna().is_monotonic_increasing


def test_a_search_that_kept_no_bound_says_so() -> None:
    """The nearest trial is named with what it has."""
    told = sim.verdict(_study({"rejected_share": 0.0015}, bound=0.001))
    assert told.startswith(
        "None of 2 trials kept 429s at or below 0.1 % in every scenario; the nearest, trial 1, has 0.15 %"
    )


@pytest.mark.parametrize(
    ("best", "bound", "words"),
    [
        ({"goodput_ratio": 0.95}, 0.01, "None of 2 trials does better than the defaults, which get 90 %"),
        ({"rejected_share": 0.0015}, 0.001, "in every scenario and lost little elsewhere; the nearest, trial 0, has"),
    ],
)
def test_a_search_says_what_it_left_out(best: dict[str, float], bound: float, words: str) -> None:
    """Where the best loses too much in other worlds, that is the reason, and how to allow it."""
    losses = pd.DataFrame([Loss(1, "grows-tenfold", 0.10, 0.0)])
    told = sim.verdict(replace(_study(best, bound), losses=losses, max_loss=0.02))
    assert words in told
    assert "1 that did better here lose more than 2 % in other worlds, which a larger max_loss allows" in told
    assert "next to nothing to gain" not in told


def test_a_plan_says_who_is_too_small_and_what_is_enough() -> None:
    """A line per provider, in its own units."""
    providers = [sim.provider("bucket").with_quota(requests_per_second=2), "slots"]
    found = sim.plan(_trace(5, 120), providers=providers, max_wait_p95_s=2.0, jobs=1, progress=False)
    small, large = sim.verdict(found).splitlines()
    assert re.match(
        r"bucket: too small, demand is 2\.\d+ times the quota, \d+ % was never answered; [\d.]+ times", small
    )
    assert "requests per 1 s" in small
    assert "slots: keeps 95 % of the waits at or below 2 s" in large
    never = replace(found, frame=found.frame.assign(meets=False))
    assert "no size that was tried is enough" in sim.verdict(never)
