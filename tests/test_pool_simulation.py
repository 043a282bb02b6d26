"""Pools in virtual time: our routing keeps up with somebody who sees all accounts, and leaves dead ones alone."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

import simulators as sim
from factflow_llm import ConfigurationError
from reports.__main__ import differences, texts
from reports.pooled import SIZES, accounts
from simulators.providers.faults import Refused
from simulators.providers.latency import LatencyModel
from simulators.providers.quotas import Bucket
from simulators.scenarios.pools import PoolTargets, pool_suite
from simulators.scenarios.worlds import MissingTraceError
from simulators.studies.pools import missed_by

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TRACE = sim.synthesize(20.0, 60.0, seed=3)


def account(per_minute: float, *faults: Any, trace: Any = TRACE, name: str = "account") -> sim.Scenario:
    """Make an account of so many requests a minute."""
    latency = LatencyModel(first_token_s=0.2, per_token_s=0.0, rejection_s=0.02)
    quotas = (Bucket(limit=per_minute, burst_s=5.0),)
    return sim.Scenario(trace, sim.Provider(name=name, quotas=quotas, latency=latency, faults=faults))


def job(pool: Mapping[str, sim.Scenario], **more: Any) -> sim.PoolResult:
    """Work through the trace with sixty callers."""
    return sim.simulate_pool(pool, workers=60, **more)


def test_all_accounts_are_used_as_far_as_they_go() -> None:
    """Three quotas add up; the answers say who gave them, and each account's part follows its quota."""
    result = job({"small": account(300), "large": account(900), "other": account(600)})
    assert set(result.requests["error"]) == {""}
    assert result.duration_s <= 1.03 * result.oracle_s
    answered = result.summary()["answered"]
    assert answered.sum() == len(TRACE)
    assert answered["large"] > answered["other"] > answered["small"]


def test_a_dead_account_is_left_alone() -> None:
    """Its host is in trouble for good: the calls go on with the others, and few try it again."""
    dead = account(900, Refused(status=503, start_s=10.0))
    result = job({"a": account(600), "b": account(600), "dead": dead})
    assert set(result.requests["error"]) == {""}
    assert result.duration_s <= 1.03 * result.oracle_s
    told = result.summary().loc["dead"]
    assert told["attempts"] - told["answered"] <= 100


def test_what_befalls_simulated_accounts_is_no_word_of_productions_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead account is passed over in silence, and real clients of the process are heard as always."""
    levels: list[int] = []
    log = logging.getLogger("factflow_llm")
    monkeypatch.setattr(log, "setLevel", levels.append)
    caplog.set_level(logging.INFO, logger="factflow_llm.routing")
    job({"a": account(600), "dead": account(900, Refused(status=503, start_s=10.0))})
    assert not levels
    assert not [record for record in caplog.records if "passed over" in record.getMessage()]


def test_equal_seeds_are_equal_runs() -> None:
    """To the last digit, as every run in virtual time."""
    pool = {"a": account(600), "b": account(300)}
    one, same, other = job(pool, seed=1), job(pool, seed=1), job(pool, seed=2)
    assert one.requests.equals(same.requests)
    assert one.attempts.equals(same.attempts)
    assert not one.requests.equals(other.requests)


def test_a_fallback_answers_only_when_the_pool_cannot() -> None:
    """It has nothing to do while the pool answers, and everything once that is down."""
    calm = job({"a": account(1200), "spare": account(1200)}, fallback=["spare"])
    assert calm.summary()["answered"].to_dict() == {"a": len(TRACE), "spare": 0}
    down = job({"a": account(1200, Refused(status=503, start_s=20.0)), "spare": account(1200)}, fallback=["spare"])
    assert set(down.requests["error"]) == {""}
    assert down.summary()["answered"]["spare"] > len(TRACE) / 3


def test_requests_may_come_when_they_came() -> None:
    """Without workers the trace's own times hold, and quotas that grow or shrink are met."""
    pool = {"a": account(900).at(20.0, quota=0.5), "b": account(900)}
    result = sim.simulate_pool(pool)
    assert result.requests["arrival_s"].to_numpy() == pytest.approx(TRACE.arrival_s)
    assert set(result.requests["error"]) == {""}
    assert result.duration_s <= result.oracle_s + 3.0


def test_which_two_accounts() -> None:
    """Every pair is run; the one with the most room comes first, and the one that dies last."""
    offers = {"small": account(200), "large": account(900), "middle": account(600)}
    offers["dying"] = account(900, Refused(status=503, start_s=5.0))
    table = sim.plan_pool(offers, take=2, workers=60)
    assert len(table) == 6
    assert table["accounts"].iloc[0] == "large + middle"
    assert table["duration_s"].is_monotonic_increasing
    assert "dying" in table["accounts"].iloc[-1]
    with pytest.raises(ConfigurationError, match="take = 9 must be from 1 to the 4 accounts"):
        sim.plan_pool(offers, take=9)


@pytest.mark.parametrize(
    ("pool", "keys", "words"),
    [
        ({}, {}, "give each account a scenario"),
        ({"a": account(60), "b": account(60, trace=sim.synthesize(1.0, 9.0))}, {}, "one and the same trace"),
        ({"a": account(60, trace=sim.backlog(2, 9.0))}, {}, "a backlog has no end"),
        ({"a": account(60)}, {"fallback": ["b"]}, "must name accounts"),
        ({"a": account(60)}, {"fallback": ["a"]}, "leave one to the pool"),
        ({"a": account(60)}, {"workers": 0}, "workers = 0 must be at least 1"),
    ],
)
def test_pools_that_make_no_sense_are_refused(pool: Any, keys: dict[str, Any], words: str) -> None:
    """In words, before anything runs."""
    with pytest.raises(ConfigurationError, match=words):
        sim.simulate_pool(pool, **keys)


@pytest.mark.slow
@pytest.mark.traces
@pytest.mark.skipif(not SIZES.exists(), reason="the public traces are not beside the checkout")
def test_five_thousand_embeddings_of_a_real_traces_sizes() -> None:
    """A quarter of the committed report: tokens bind, one account dies at a third, one has half the quota."""
    result = sim.simulate_pool(accounts(texts=5_000, dies_s=27.0), workers=256)
    assert set(result.requests["error"]) == {""}
    assert result.duration_s <= 1.03 * result.oracle_s


# --- worlds of several accounts -----------------------------------------------------------------------------------

POOL = """
workers = 20
fallback = ["spare"]

[[spells]]
requests = 200

[accounts.main.provider]
preset = "bucket"
quota = { requests_per_minute = 300 }

[[accounts.main.events]]
time_s = 10
quota = 2.0

[accounts.spare.provider]
preset = "fixed-window"
"""


def pool_file(folder: Path, text: str) -> Path:
    """Write a pool's file."""
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_says_what_simulate_pool_takes(tmp_path: Path) -> None:
    """Accounts with quotas of their own and what befalls them, a workload, callers, and who stands by."""
    pool = sim.read_pool(pool_file(tmp_path, POOL))
    assert (pool.name, pool.workers, pool.fallback) == ("mine", 20, ("spare",))
    main, spare = pool.accounts.values()
    assert main.workload is spare.workload
    assert [(event.time_s, event.quota) for event in main.events] == [(10.0, 2.0)]
    quick = sim.run_pools({"mine": pool}, seeds=1)
    slow = pool_file(tmp_path, POOL.replace("quota = 2.0", "quota = 1.0"))
    assert (
        quick.loc["mine", "duration_s"]
        < sim.run_pools({"mine": sim.read_pool(slow)}, seeds=1).loc["mine", "duration_s"]
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[[spells]]\nrequests = 200", "[backlog]\nworkers = 2", r"\[backlog\] has no end: give \[synthesis\]"),
        ('["spare"]', '["spear"]', r"fallback = \['spear'\] must name some of the accounts"),
        ('["spare"]', '["spare", "main"]', "leave one to the pool"),
        ("requests_per_minute", "requests_per_minuet", "did you mean 'requests_per_minute'"),
        ('preset = "bucket"', 'preset = "buckets"', "buckets"),
        ("workers = 20", "worker = 20", "worker"),
        ("requests = 200", "requests = 0", "requests"),
    ],
)
def test_a_wrong_pool_is_an_error_in_words(old: str, new: str, words: str, tmp_path: Path) -> None:
    """It names the file, the key and the remedy."""
    with pytest.raises(ConfigurationError, match=words) as caught:
        sim.read_pool(pool_file(tmp_path, POOL.replace(old, new)))
    assert "mine.toml" in str(caught.value)


def test_a_pool_whose_trace_is_elsewhere_says_so(tmp_path: Path) -> None:
    """As a world does."""
    text = POOL.replace("[[spells]]\nrequests = 200", '[trace]\nfile = "nowhere.csv"')
    with pytest.raises(MissingTraceError, match=r"nowhere\.csv is not under"):
        sim.read_pool(pool_file(tmp_path, text), traces=tmp_path)


@pytest.mark.slow
def test_the_pools_of_the_suite_reach_their_targets() -> None:
    """As the committed report says, to the last digit."""
    made = texts("pools")
    assert differences(made) == ""
    (text,) = made.values()
    assert text.count("  targets: met\n") == len(pool_suite())


def test_what_a_pool_misses_is_named() -> None:
    """Each figure over its bound, and none that is not asked for."""
    targets = PoolTargets(duration_ratio=1.03, failed=0)
    assert missed_by(targets, {"duration_ratio": 1.0, "failed": 0.0, "rejected_share": 0.9}) == []
    assert missed_by(targets, {"duration_ratio": 1.2, "failed": 3.0}) == ["duration_ratio 1.2 > 1.03", "failed 3 > 0"]
