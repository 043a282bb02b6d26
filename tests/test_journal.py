"""Journals: what is finished is not run again, figures come back as they were, and no sweep takes another's."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest

import simulators as sim
from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.config import RateLimitConfig
from simulators.studies import parallel
from simulators.studies.journal import Journal, opened

if TYPE_CHECKING:
    from pathlib import Path

SCENARIO = sim.Scenario(sim.backlog(workers=8, duration_s=20.0), "bucket")
POLICIES = {"ours": RateLimitConfig(), "fixed": sim.policies.fixed_rate(8.0)}


class InterruptedHereError(BaseException):
    """Stands in for Control-C: no handler of plain exceptions catches it."""


def interrupt_at(number: int) -> parallel.Progress:
    """Return a progress function that interrupts once so many runs are done."""

    def progress(done: int, _: int) -> None:
        if done == number:
            raise InterruptedHereError

    return progress


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Return a list that fills with (policy, seed) of every run."""
    ran: list[tuple[str, int]] = []
    simulate = parallel.simulate

    def counted(scenario: sim.Scenario, policy: sim.Policy, **how: Any) -> sim.SimResult:
        ran.append((policy.name, how["seed"]))
        return simulate(scenario, policy, **how)

    monkeypatch.setattr(parallel, "simulate", counted)
    return ran


def test_figures_come_back_exactly(tmp_path: Path) -> None:
    """Batch by batch and place by place, to the last bit, NaN and infinity included."""
    path = tmp_path / "journal.jsonl"
    figures = [{"a": 0.1 + 0.2, "b": math.inf}, {"a": math.nan, "b": 5e-324}]
    with Journal(path, "sweep") as journal:
        assert journal.next_batch() == {}
        journal.add(7, figures[0])
        journal.next_batch()
        journal.add(0, figures[1])
    with Journal(path, "sweep") as journal:
        assert journal.next_batch() == {7: figures[0]}
        found = journal.next_batch()[0]
        assert math.isnan(found["a"])
        assert found["b"] == 5e-324
        assert journal.next_batch() == {}


def test_an_interrupted_comparison_goes_on(tmp_path: Path, ran: list[tuple[str, int]]) -> None:
    """Finished worlds are not run again, and the result is that of a sweep that nobody disturbed, byte by byte."""
    path = tmp_path / "journal.jsonl"
    with pytest.raises(InterruptedHereError):
        sim.compare(SCENARIO, POLICIES, seeds=4, jobs=1, progress=interrupt_at(3), journal=path)
    assert {seed for _, seed in ran} == {0, 1, 2}
    ran.clear()
    resumed = sim.compare(SCENARIO, POLICIES, seeds=4, jobs=1, journal=path)
    assert {seed for _, seed in ran} == {3}
    ran.clear()
    again = sim.compare(SCENARIO, POLICIES, seeds=4, jobs=1, journal=path)
    assert not ran, "all was there"
    undisturbed = sim.compare(SCENARIO, POLICIES, seeds=4, jobs=1)
    for each in (resumed, again):
        assert each.frame.equals(undisturbed.frame)
        assert each.frame.to_csv() == undisturbed.frame.to_csv()


def test_a_search_goes_on_and_may_go_further(tmp_path: Path, ran: list[tuple[str, int]]) -> None:
    """The sampler hears of the finished trials again and proposes what it would have proposed."""
    path = tmp_path / "journal.jsonl"
    with pytest.raises(InterruptedHereError):
        sim.tune(SCENARIO, trials=4, seeds=2, jobs=1, held_to=(), progress=interrupt_at(2), journal=path)
    ran.clear()
    resumed = sim.tune(SCENARIO, trials=4, seeds=2, jobs=1, held_to=(), journal=path)
    assert len([name for name, _ in ran if name != "oracle"]) == 2 * 2
    assert resumed.frame.equals(sim.tune(SCENARIO, trials=4, seeds=2, jobs=1, held_to=()).frame)
    ran.clear()
    further = sim.tune(SCENARIO, trials=5, seeds=2, jobs=1, held_to=(), journal=path)
    assert len([name for name, _ in ran if name != "oracle"]) == 2
    assert further.frame.head(4).equals(resumed.frame)


def test_who_is_killed_loses_the_last_line_at_most(tmp_path: Path, ran: list[tuple[str, int]]) -> None:
    """Half a line is forgotten and its run done again; what follows stands on a line of its own."""
    path = tmp_path / "journal.jsonl"
    whole = sim.compare(SCENARIO, POLICIES, seeds=3, jobs=1, journal=path)
    path.write_bytes(path.read_bytes()[:-20])
    ran.clear()
    assert sim.compare(SCENARIO, POLICIES, seeds=3, jobs=1, journal=path).frame.equals(whole.frame)
    assert {seed for _, seed in ran} == {2}
    assert [json.loads(line)["place"] for line in path.read_text().splitlines()[1:]] == [0, 1, 2]


@pytest.mark.parametrize(
    "changed",
    [
        {"seeds": 3},
        {"clients": 2},
        {"policies": {"ours": RateLimitConfig(decrease=0.9), "fixed": sim.policies.fixed_rate(8.0)}},
        {"policies": {"mine": RateLimitConfig(), "fixed": sim.policies.fixed_rate(8.0)}},
        {"scenarios": SCENARIO.at(5.0, quota=0.5)},
    ],
    ids=["seeds", "clients", "settings", "names", "events"],
)
def test_another_sweep_is_refused(changed: dict[str, object], tmp_path: Path) -> None:
    """Nobody is given another sweep's figures."""
    arguments: dict[str, object] = {"scenarios": SCENARIO, "policies": POLICIES, "seeds": 2, "jobs": 1}
    path = tmp_path / "journal.jsonl"
    sim.compare(**arguments, journal=path)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="another sweep"):
        sim.compare(**{**arguments, **changed}, journal=path)  # type: ignore[arg-type]


@pytest.mark.parametrize("content", ["rubbish\n", "[]\n", '{"a": 1}\n', '{"factflow_journal": 1, "sweep": "x"}\n[1]\n'])
def test_what_is_no_journal_is_left_alone(content: str, tmp_path: Path) -> None:
    """A file of another kind is named, and stays as it is."""
    path = tmp_path / "notes.txt"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=r"notes\.txt: this is no journal"):
        Journal(path, "sweep")
    assert path.read_text() == content


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Before anything is run."""
    with pytest.raises(ConfigurationError, match=r"nowhere.*cannot be written"):
        sim.compare(SCENARIO, POLICIES, seeds=2, jobs=1, journal=tmp_path / "nowhere" / "journal.jsonl")


def test_policies_that_hold_a_lambda_are_known_by_name(tmp_path: Path) -> None:
    """What cannot be hashed is told apart by type and name, not refused."""

    class Odd:
        name = "odd"

        def __init__(self) -> None:
            self.make = lambda: 1

    path = tmp_path / "journal.jsonl"
    with opened(path, Odd()) as journal:
        assert journal is not None
        journal.next_batch()
        journal.add(0, 1)
    with Journal(path, Odd()) as journal:
        assert journal.next_batch() == {0: 1}
    with opened(None, Odd()) as journal:
        assert journal is None


def test_a_disk_that_fails_ends_the_journal_not_the_sweep(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that the disk does not take are counted and told once; what was written before is found again."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "journal.jsonl"
    with Journal(path, "sweep") as journal:
        journal.next_batch()
        journal.add(0, 1.5)
        monkeypatch.setattr(journal, "_write", full)
        journal.add(1, 2.5)
        journal.add(2, 3.5)
        assert journal.lost == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    with Journal(path, "sweep") as journal:
        assert journal.next_batch() == {0: 1.5}
