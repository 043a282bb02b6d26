"""Worlds as files, worlds at random, and the suite that measures every limiter in all of them."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from factflow_llm.errors import ConfigurationError
from reports import GOLDEN, ROOT
from reports import suite as suite_reports
from reports.__main__ import differences, texts
from simulators.cli.app import app
from simulators.engine.simulate import simulate
from simulators.policies.all_knowing import oracle
from simulators.policies.ours import as_policy
from simulators.policies.peers import PEERS, absent_peers
from simulators.policies.yardsticks import fixed_rate, retry_only
from simulators.providers.faults import Refused
from simulators.providers.quotas import Bucket, FixedWindow
from simulators.scenarios.scenario import Backlog, Scenario, backlog
from simulators.scenarios.worlds import (
    SUITE,
    TRACES,
    MissingTraceError,
    Targets,
    absent_worlds,
    random_worlds,
    read_world,
    suite,
)
from simulators.studies import suite as measured
from simulators.studies.comparison import Comparison
from simulators.studies.suite import dominators, missed, run_suite, suite_report

if TYPE_CHECKING:
    from pathlib import Path

WORLD = """
description = "A test."
clients = 2

[backlog]
workers = 4
duration_s = 60

[provider]
preset = "bucket"

[[provider.quotas]]
kind = "bucket"
limit = 5
per_s = 1
burst_s = 2

[provider.latency.load]
knee = 3
slope = 1.0

[[events]]
time_s = 20
quota = 2
label = "more"

[[neighbours]]
requests_per_s = 1.5

[targets]
goodput_ratio = 0.9
recovery_s = [5, 6]
"""


def written(folder: Path, text: str, name: str = "mine.toml") -> Path:
    """Write a world's file."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# --- files --------------------------------------------------------------------------------------------------------


def test_a_file_says_all_of_a_world(tmp_path: Path) -> None:
    """Workload, provider, events, neighbours, clients and targets are read; nested tables override key by key."""
    path = written(tmp_path, WORLD)
    world = read_world(path)
    scenario, source = world.scenario, world.scenario.provider
    assert (world.name, world.description, world.clients) == ("mine", "A test.", 2)
    assert isinstance(scenario.workload, Backlog)
    assert scenario.workload.workers == 4
    assert source.quotas == (Bucket(limit=5, per_s=1, burst_s=2),)
    assert source.latency.load is not None
    assert source.latency.first_token_s == 2.0, "what the file does not name stays the preset's"
    assert [event.label for event in scenario.events] == ["more"]
    assert scenario.neighbours[0].requests_per_s == 1.5
    assert world.targets == Targets(goodput_ratio=0.9, recovery_s=(5, 6))


def test_a_trace_is_asked_at_a_factor_of_its_speed(tmp_path: Path) -> None:
    """A trace's file is looked for in the folder of traces; absent, the error says so and is a kind of its own."""
    text = '[trace]\nfile = "t.csv"\nspeed = 4\n[provider]\npreset = "bucket"\n'
    path = written(tmp_path, text)
    with pytest.raises(MissingTraceError, match=r"t\.csv"):
        read_world(path, traces=tmp_path)
    rows = "".join(f"2023-11-16 18:15:{second:02}.0,10,5\n" for second in range(0, 50, 5))
    written(tmp_path, f"TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}", "t.csv")
    assert read_world(path, traces=tmp_path).scenario.workload.duration_s == pytest.approx(45 / 4)


def test_the_documented_file_is_a_world(tmp_path: Path) -> None:
    """The example in the documentation can be read as it stands."""
    page = (ROOT / "docs" / "suite.md").read_text(encoding="utf-8")
    example = page.partition("```toml\n")[2].partition("```")[0]
    world = read_world(written(tmp_path, example))
    assert (world.clients, len(world.scenario.neighbours)) == (4, 1)
    assert not world.scenario.provider.shows_limits


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("workers = 4", "wrokers = 4", "wrokers.*did you mean 'workers'"),
        ("clients = 2", "client = 2", "client.*did you mean 'clients'"),
        ("per_s = 1\nburst_s", "per_s = 1\nburts_s", "provider.quotas.*burts_s.*did you mean 'burst_s'"),
        ("knee = 3", "kne = 3", "provider.latency.load.kne.*did you mean 'knee'"),
        ("label = ", "lable = ", "events.*lable.*did you mean 'label'"),
        ("requests_per_s = 1.5", "requests_per_sec = 1.5", "neighbours.*requests_per_sec.*did you mean"),
        ("goodput_ratio", "goodput", "targets.*goodput.*did you mean 'goodput_ratio'"),
        ("limit = 5", "limit = -5", "provider.quotas.*limit.*-5"),
        ("workers = 4", "workers = 0", "workers.*greater than or equal to 1.*0"),
        ('preset = "bucket"', 'preset = "buckte"', "no provider is called 'buckte'"),
        ("[backlog]", "[synthesis]\nrequests_per_s = 1\n[backlog]", r"one of \[backlog\]"),
        ("[backlog]\nworkers = 4\nduration_s = 60\n", "", r"one of \[backlog\].*not none"),
        ("[backlog]\nworkers = 4\nduration_s = 60\n", "[[spells]]\nrequest = 3\n", "request.*did you mean 'requests'"),
        ("clients = 2", "clients 2", "not valid TOML"),
    ],
)
def test_mistakes_are_named_with_a_remedy(tmp_path: Path, old: str, new: str, words: str) -> None:
    """A key that is unknown, a value out of bounds, two workloads: the error names file, key and remedy."""
    assert old in WORLD
    with pytest.raises(ConfigurationError, match=rf"mine\.toml(?s:.*){words}"):
        read_world(written(tmp_path, WORLD.replace(old, new, 1)))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The error names the path."""
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml: cannot be read"):
        read_world(tmp_path / "nowhere.toml")


# --- the worlds ---------------------------------------------------------------------------------------------------


def test_every_file_of_the_suite_is_a_world() -> None:
    """Each has a description, and is either read or left out with a reason."""
    worlds, absent = suite(), absent_worlds()
    assert set(worlds) | set(absent) == {path.stem for path in SUITE.glob("*.toml")}
    assert not set(worlds) & set(absent)
    assert all(world.description for world in worlds.values())
    assert len(worlds) + len(absent) >= 68


def test_worlds_without_their_trace_are_left_out_with_a_reason(tmp_path: Path) -> None:
    """Where the public traces are not, exactly the worlds that replay one are missing."""
    assert set(absent_worlds(traces=tmp_path)) == {"code-1x", "code-2x", "code-4x"}
    assert "code-1x" not in suite(traces=tmp_path)
    assert "AzureLLMInferenceTrace_code.csv" in absent_worlds(traces=tmp_path)["code-1x"]


@pytest.mark.traces
@pytest.mark.skipif(not TRACES.is_dir(), reason="needs the public traces beside the checkout")
def test_the_code_trace_wants_what_its_worlds_say() -> None:
    """At 1, 2 and 4 times its speed the trace wants 0.4, 0.8 and 1.6 times the quota of tokens."""
    shares = []
    for speed in (1, 2, 4):
        scenario = suite()[f"code-{speed}x"].scenario
        trace: Any = scenario.workload
        wanted = float((trace.input_tokens + 16).sum()) / scenario.workload.duration_s
        shares.append(wanted / scenario.provider.quotas[1].units_per_s)
    assert shares == pytest.approx([0.4, 0.8, 1.6], rel=0.02)


def test_published_scenarios_are_as_published() -> None:
    """Nall's and stkai's worlds have the quotas, clients and targets of their sources."""
    worlds = suite()
    nall, rqc = worlds["nall"], worlds["rqc-10"]
    assert (nall.clients, nall.scenario.horizon_s, nall.scenario.provider.quotas[0].units_per_s) == (2, 900, 50)
    assert [event.time_s for event in nall.scenario.events] == [300, 360]
    assert rqc.scenario.provider.quotas == (FixedWindow(limit=100, per_s=60),)
    assert rqc.scenario.provider.retry_after.told_s(30.0) == 5.0
    assert (nall.targets.rejected, rqc.clients) == (56, 10)


def test_storm_and_load_are_no_quota() -> None:
    """The storm refuses with 529, and the loaded provider never refuses but slows down."""
    storm, load = suite()["storm"].scenario, suite()["load"].scenario
    assert storm.provider.faults == (Refused(status=529, start_s=600, duration_s=120, recovery_s=60, share=0.8),)
    assert load.provider.quotas == ()
    assert load.provider.latency.slowdown(0.0, 60) == 3.0


def test_random_worlds_repeat_and_do_not_depend_on_their_number() -> None:
    """Equal seeds give equal worlds, however many are drawn; other seeds give others."""
    few, many, others = random_worlds(3, 5), random_worlds(6, 5), random_worlds(3, 6)
    assert list(many.values())[:3] == list(few.values())
    assert {world.description for world in few.values()}.isdisjoint(world.description for world in others.values())
    assert list(few) == ["random-5-000", "random-5-001", "random-5-002"]


def test_random_worlds_span_what_they_promise() -> None:
    """Over many draws quotas reach from 0.2 to 200 requests/s, answers from 10 ms to 60 s, and all shapes occur."""
    scenarios = [world.scenario for world in random_worlds(300).values()]
    rates = [scenario.provider.quotas[0].units_per_s for scenario in scenarios]
    answers = [scenario.provider.latency.first_token_s for scenario in scenarios]
    assert 0.2 <= min(rates) < 0.4
    assert 100 < max(rates) <= 200
    assert 0.01 <= min(answers) < 0.03
    assert 30 < max(answers) <= 60
    assert len({type(scenario.provider.quotas[0]) for scenario in scenarios}) == 3
    assert {scenario.provider.retry_after.habit for scenario in scenarios} == {"true", "absent", "late"}
    assert 0.4 < sum(bool(scenario.events) for scenario in scenarios) / 300 < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("number", range(8))
def test_random_worlds_can_be_run(number: int) -> None:
    """An oracle gets answers in each, so that limiters can be measured against it."""
    world = list(random_worlds(8, 11).values())[number]
    frame = simulate(world.scenario, oracle(), seed=0, clients=world.clients).requests
    assert (frame["outcome"] == "succeeded").any()


def test_no_worlds_are_refused() -> None:
    """A number below 1 is named."""
    with pytest.raises(ConfigurationError, match="n = 0"):
        random_worlds(0)


def test_spells_and_restarts_are_read(tmp_path: Path) -> None:
    """Spells are equal requests in order of arrival, at once or evenly spread; restarts go round the clients."""
    text = """
clients = 2
drain_s = 5
[[spells]]
start_s = 10
duration_s = 20
requests = 4
input_tokens = 7
[[spells]]
start_s = 15
requests = 2
[provider]
preset = "bucket"
[restarts]
every_s = 8
"""
    scenario = read_world(written(tmp_path, text)).scenario
    trace: Any = scenario.workload
    assert trace.arrival_s.tolist() == [10, 15, 15, 15, 20, 25]
    assert trace.input_tokens.tolist() == [7, 7, 1000, 1000, 7, 7]
    assert scenario.horizon_s == 30
    restarts: Any = scenario.events
    assert [(event.time_s, event.client) for event in restarts] == [(4, 0), (8, 1), (12, 0), (16, 1), (20, 0), (24, 1)]


def test_goodput_is_told_from_event_to_event() -> None:
    """A client as good as the oracle has all of each stretch; of a stretch of no time nothing is known."""
    scenario = Scenario(backlog(64, 60.0), "bucket").at(20.0, quota=2.0).at(40.0, quota=1.0).at(40.0, quota=2.0)
    best = simulate(scenario, oracle(), seed=0)
    assert best.shares().to_numpy() == pytest.approx([1.0, 1.0, float("nan"), 1.0], nan_ok=True)
    slow = simulate(scenario, fixed_rate(5.0), seed=0).shares(best).to_numpy()
    assert slow[0] == pytest.approx(0.5, abs=0.1)
    assert slow[1] == pytest.approx(0.25, abs=0.05)


# --- the suite ----------------------------------------------------------------------------------------------------

FEW = {"ours": as_policy(None), "retry only": retry_only(), "fixed": fixed_rate(8.0)}


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    """Run three policies in three worlds with two seeds."""
    return run_suite(FEW, seeds=2, jobs=1, worlds=["rqc-10", "below", "random"], progress=False)


def test_the_suite_runs_every_policy_in_every_world(comparison: Comparison) -> None:
    """One row per world, policy and seed, with the figures that targets ask for."""
    frame = comparison.frame
    assert len(frame) == 3 * 3 * 2
    assert not frame.duplicated(["scenario", "policy", "seed"]).any()
    assert {"goodput_ratio", "rejected_share", "rejected", "recovery_0_s", "wait_p99_s"} <= set(frame.columns)
    assert frame[frame["scenario"] == "rqc-10"]["jain"].notna().all()
    assert (frame[frame["policy"] == "retry only"].set_index("scenario").loc["rqc-10", "rejected"] > 100).all()


@pytest.mark.slow
def test_figures_do_not_depend_on_processes(comparison: Comparison) -> None:
    """Two processes give the same frame, to the bit."""
    again = run_suite(FEW, seeds=2, jobs=2, worlds=["rqc-10", "below", "random"], progress=False)
    pd.testing.assert_frame_equal(again.frame, comparison.frame, check_exact=True)


def test_the_report_has_a_verdict_and_a_line_per_policy_and_world(comparison: Comparison) -> None:
    """It begins with our targets and frontier, then shows every policy in every world."""
    text = suite_report(comparison)
    assert text.startswith("3 worlds, 3 policies, 2 paired seeds")
    assert "of 2 worlds that set some; on the frontier in" in text
    for name in FEW:
        assert sum(line.startswith(f"  {name} ") for line in text.splitlines()) == 3
    assert "rqc-10: 10 clients of one caller each" in text
    assert suite_report(comparison) == text


def made_up(**figures: dict[str, float]) -> Comparison:
    """Make a comparison of one world from figures by policy."""
    rows = [{"scenario": "w", "policy": policy, "seed": 0} | values for policy, values in figures.items()]
    return Comparison(pd.DataFrame(rows), clients=1)


def test_targets_are_held_to() -> None:
    """Each figure is compared with its bound in the right direction, and what is missing is missed."""
    told = made_up(
        ours={"goodput_ratio": 0.96, "rejected_share": 0.02, "recovery_0_s": 12.0, "wait_p99_s": 1.2},
        **{"retry only": {"goodput_ratio": 1.0, "rejected_share": 0.5, "recovery_0_s": 1.0, "wait_p99_s": 1.0}},
    )
    assert missed(Targets(goodput_ratio=0.95, rejected_share=0.02, recovery_s=(12,)), told, "w") == []
    assert missed(Targets(added_wait_p99_s=0.25), told, "w") == []
    assert missed(Targets(goodput_ratio=0.97, rejected_share=0.01, added_wait_p99_s=0.1), told, "w") == [
        "goodput_ratio 0.96 < 0.97",
        "rejected_share 0.02 > 0.01",
        "wait_p99_s 1.2 > 1.1",
    ]
    assert missed(Targets(jain=0.98, recovery_s=(20, 5)), told, "w") == ["jain nan < 0.98", "recovery_1_s nan > 5"]


def test_only_who_is_better_in_both_dominates() -> None:
    """More goodput at more 429s, fewer 429s at less goodput, and an equal figure do not count."""
    told = made_up(
        ours={"goodput_ratio": 0.96, "rejected_share": 0.02},
        greedy={"goodput_ratio": 1.0, "rejected_share": 0.5},
        shy={"goodput_ratio": 0.5, "rejected_share": 0.0},
        even={"goodput_ratio": 0.96, "rejected_share": 0.01},
        better={"goodput_ratio": 0.97, "rejected_share": 0.01},
    )
    assert dominators(told, "w") == ["better"]


def test_unknown_worlds_and_no_seeds_are_refused() -> None:
    """The error names the nearest world, or the value."""
    with pytest.raises(ConfigurationError, match=r"'bukcet-true'.*did you mean 'bucket-true'"):
        run_suite(FEW, seeds=1, worlds=["bukcet-true"])
    with pytest.raises(ConfigurationError, match="seeds = 0"):
        run_suite(FEW, seeds=0)


def test_the_command_prints_the_report_and_draws_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``compare --suite`` prints what ``suite_report`` returns and nothing else; ``--plot`` draws the frontier."""
    one = {"rqc-10": suite()["rqc-10"]}
    monkeypatch.setattr(measured, "suite", lambda: one)
    monkeypatch.setattr(measured, "contenders", lambda: FEW)
    picture = tmp_path / "frontier.png"
    result = CliRunner().invoke(
        app, ["compare", "--suite", "--seeds", "1", "--jobs", "1", "--plot", str(picture)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("2 worlds, 3 policies, 1 paired seeds")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_command_takes_some_of_the_contenders(monkeypatch: pytest.MonkeyPatch) -> None:
    """``--policy`` chooses among those who take part; a name nobody has is refused with the nearest."""
    monkeypatch.setattr(measured, "suite", lambda: {"rqc-10": suite()["rqc-10"]})
    asked = ["compare", "--suite", "--seeds", "1", "--jobs", "1", "--policy"]
    result = CliRunner().invoke(app, [*asked, "ours"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("2 worlds, 1 policies, 1 paired seeds")
    result = CliRunner().invoke(app, [*asked, "Polar"])
    assert result.exit_code == 2
    assert "nobody in the suite is called so; did you mean 'Polars'?" in " ".join(result.output.split())


def test_the_command_refuses_what_the_suite_decides() -> None:
    """Another workload or provider beside ``--suite`` is an error, not ignored."""
    result = CliRunner().invoke(app, ["compare", "--suite", "--backlog", "3", "--provider", "bucket"])
    assert result.exit_code == 2
    assert "--provider, --backlog: --suite decides this" in result.output


@pytest.mark.parametrize("name", ["everybody", "messy"])
def test_a_report_of_everybody_is_not_written_without_somebody(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer limiters would pass for all of them; who is missing is said, and how to install it."""
    monkeypatch.setattr(
        suite_reports, "absent_peers", lambda: {"Phoenix": 'no phoenix; pip install "factflow-llm[peers]"'}
    )
    with pytest.raises(ConfigurationError, match=r"needs every limiter; not here: Phoenix \(no phoenix; pip install"):
        texts(name)


def test_a_report_of_the_suite_is_not_written_without_a_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """A world whose trace is not here is named."""
    monkeypatch.setattr(suite_reports, "absent_worlds", lambda: {"nall": "no such file: nall.jsonl"})
    with pytest.raises(ConfigurationError, match=r"needs every world; not here: nall \(no such file"):
        texts("ours")


@pytest.mark.report
@pytest.mark.parametrize("name", ["ours", "everybody", "messy"])
def test_the_golden_reports_are_what_the_suite_finds(name: str) -> None:
    """`python -m reports ours --write`, `everybody --write` and `messy --write` make them anew."""
    if absent := absent_worlds() | ({} if name == "ours" else absent_peers()):
        pytest.skip(f"needs all peers and traces: {absent}")
    golden = (GOLDEN / "suite" / f"{name}.txt").read_text(encoding="utf-8")
    if name != "ours" and any(f"{peer.package} {version(peer.package)}" not in golden for peer in PEERS):
        pytest.skip("needs the peers' releases that the report names")
    assert differences(texts(name)) == ""
