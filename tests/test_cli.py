"""The command line: what it prints and writes, and that every bad input is one line of words and exit code 2."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner, Result

import simulators as sim
from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.recorder import AttemptRow, Recorder, RowOutcome
from factflow_llm.settings import LLMConfig
from simulators import progress
from simulators.cli import notebooks
from simulators.cli.app import app
from simulators.providers.quotas import Bucket
from simulators.studies.comparison import HEADLINES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ROOT = Path(__file__).parents[1]
_AZURE = _ROOT.parent / "shared" / "traces" / "azure2023" / "AzureLLMInferenceTrace_code.csv"
_SMALL = ["--backlog", "8", "--duration", "30", "--provider", "bucket"]
_PNG = b"\x89PNG"
_PROFILE = """
[providers.default]
provider = "openai"
type = "chat"
model = "m"
api_key = "k"
rate_limit = "limiter.toml"
"""


def _run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def _document(*words: str | Path) -> Any:
    result = _run(*words, "--json")
    assert result.exit_code == 0, result.output
    assert all(line.startswith("read ") for line in result.stderr.splitlines()), "what was read is told, and no more"
    return json.loads(result.stdout)


def _files() -> set[str]:
    return {path.name for path in Path().iterdir()}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# --- what works -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["simulate"],
        ["replay"],
        ["compare"],
        ["tune"],
        ["plan"],
        ["calibrate"],
        ["lab"],
        ["serve"],
        ["providers"],
    ],
)
def test_help_teaches_by_example(command: list[str]) -> None:
    """Every help text holds commands to copy."""
    result = _run(*command, "--help")
    assert result.exit_code == 0
    assert " ".join(["factflow-llm", *command]) in result.stdout


def test_simulate_prints_the_run_beside_the_oracles() -> None:
    """A table for people names scenario and seed."""
    result = _run("simulate", *_SMALL, "--at", "15:0.5", "--seed", "3")
    assert result.exit_code == 0, result.output
    for words in ("backlog of 8 on bucket; from 15 s", "seed 3", "ours", "oracle", "goodput_ratio", "recovery_s"):
        assert words in result.stdout


def test_simulate_says_to_machines_what_a_notebook_would_see() -> None:
    """JSON holds the summary of the same run, and null where a figure has no meaning."""
    document = _document("simulate", *_SMALL, "--seed", "3")
    scenario = sim.Scenario(sim.backlog(8, 30.0), "bucket")
    expected = sim.simulate(scenario, RateLimitConfig(), seed=3).summary()
    assert document["figures"]["ours"]["goodput"] == expected["goodput"]
    assert document["figures"]["ours"]["recovery_s"] is None
    assert document["provenance"]["seed"] == "3"


def test_simulate_draws_the_run() -> None:
    """A picture is written whole, and nothing else is left in the folder."""
    assert _run("simulate", *_SMALL, "--plot", "run.png").exit_code == 0
    assert Path("run.png").read_bytes().startswith(_PNG)
    assert _files() == {"run.png"}


def test_simulate_takes_settings_from_a_file() -> None:
    """What tune wrote can be tried."""
    RateLimitConfig(initial_concurrency=1).to_toml("slow.toml")
    slow = _document("simulate", *_SMALL, "--policy", "slow.toml")["figures"]["slow"]
    assert slow["goodput_ratio"] < _document("simulate", *_SMALL)["figures"]["ours"]["goodput_ratio"]


def test_a_log_of_ones_own_is_read_by_its_map() -> None:
    """--columns and --time-unit say what is what; people are told what was read, machines on another channel."""
    Path("log.csv").write_text("t;asked\n0;900\n1500;400\n")
    unread = _run("simulate", "log.csv")
    assert unread.exit_code == 2
    assert "looks like" not in unread.stderr
    assert "sim.read_trace" in unread.stderr or "no columns=" in unread.stderr
    result = _run("simulate", "log.csv", "--columns", "time=t,input_tokens=asked", "--time-unit", "ms")
    assert result.exit_code == 0, result.output
    assert "read log.csv: 2 requests in 1.5 s, 1,300 input tokens; times: milliseconds, as given" in result.stderr
    refused = _run("simulate", "log.csv", "--columns", "time:t")
    assert "write FIELD=COLUMN" in refused.stderr


def test_quotas_of_ones_own_on_the_command_line() -> None:
    """--quota takes the place of the provider's, and a misspelt one gets the nearest."""
    fewer = _document("simulate", *_SMALL, "--quota", "requests=60/min")["figures"]["ours"]["goodput"]
    assert fewer < 0.5 * _document("simulate", *_SMALL)["figures"]["ours"]["goodput"]
    refused = _run("simulate", *_SMALL, "--quota", "request=60/min")
    assert "--quota request_per_minute: no such limit; did you mean 'requests_per_minute'?" in refused.stderr


def test_requests_larger_than_the_quota_are_counted() -> None:
    """Some requests can never be admitted: the others run, and people are told."""
    Path("small.toml").write_text('[[quotas]]\nkind = "bucket"\naxis = "tokens"\nlimit = 3000\n')
    result = _run("simulate", "sample", "--duration", "60", "--provider", "small.toml")
    assert result.exit_code == 0
    assert "requests are never admissible: larger than a quota (3,000 tokens per 60 s)" in result.stderr


def test_replay_describes_the_trace_and_asks_again() -> None:
    """Trace figures first, then what each policy makes of them."""
    document = _document("replay", "sample", "--duration", "60", "--speed", "2", "--policy", "fixed:2")
    assert document["trace"]["requests_per_s"] == pytest.approx(2 * 5.477, rel=0.01)
    assert list(document["figures"]) == ["fixed:2"]
    assert "sped up 2 times" in document["header"]["notes"][-1]


def test_replay_of_a_recording_shows_what_really_happened() -> None:
    """The recorded 429s and waits stand in the first row."""
    with Recorder("recording.jsonl") as recorder:
        for call, (attempt, admitted_s, status) in enumerate([(0, 0.0, 200), (0, 1.0, 429), (0, 4.0, 200)]):
            recorder.record(
                AttemptRow(
                    call_id=call,
                    attempt=attempt,
                    arrival_s=0.0,
                    admitted_s=admitted_s,
                    sent_s=admitted_s,
                    first_chunk_s=admitted_s + 0.5,
                    end_s=admitted_s + 1.0,
                    model="m",
                    provider="openai",
                    operation="chat",
                    input_tokens=10,
                    output_tokens=5,
                    status=status,
                    outcome=RowOutcome.OK if status == 200 else RowOutcome.ERROR,
                )
            )
    recorded = _document("replay", "recording.jsonl", "--provider", "bucket")["figures"]["recorded"]
    assert recorded["rejected_share"] == pytest.approx(1 / 3)
    assert recorded["attempts_per_success"] == pytest.approx(1.5)
    assert recorded["wait_p95_s"] == pytest.approx(3.8)
    assert recorded["goodput_ratio"] is None


def test_replay_draws_the_first_policy() -> None:
    """A picture beside the tables."""
    assert _run("replay", "sample", "--duration", "60", "--plot", "replay.png").exit_code == 0
    assert Path("replay.png").read_bytes().startswith(_PNG)


@pytest.mark.slow
def test_plan_tells_which_provider_fits() -> None:
    """A table with what is needed, for machines all sizes that were tried, and a picture."""
    words = ["plan", "sample", "--duration", "60", "--provider", "openai-tier-1", "--provider", "openai-tier-3"]
    result = _run(*words, "--max-wait", "1", "--jobs", "1", "--plot", "plan.png")
    assert result.exit_code == 0, result.output
    assert "wait p95 at most 1 s; openai-tier-3 meets it as sold" in result.stdout
    assert Path("plan.png").read_bytes().startswith(_PNG)
    document = _document(*words, "--max-wait", "1", "--jobs", "1")
    planned = sim.plan(
        sim.sample_trace().window(0, 60), providers=["openai-tier-1", "openai-tier-3"], max_wait_p95_s=1, jobs=1
    )
    assert document["choice"] == planned.choice == "openai-tier-3"
    assert [row["provider"] for row in document["providers"]] == ["openai-tier-1", "openai-tier-3"]
    assert len(document["sizes"]) == len(planned.frame)


def test_pool_tells_which_accounts_do_it_soonest() -> None:
    """Two like accounts are two; the table and the document name the same choice first."""
    words = ["pool", "sample", "--duration", "30", "--workers", "40", "-p", "bucket:requests=60/min"]
    words += ["-p", "bucket:requests=60/min", "-p", "bucket"]
    document = _document(*words)
    chosen = [pool["accounts"] for pool in document["pools"]]
    assert len(chosen) == 3
    assert chosen[-1] == "bucket:requests=60/min + bucket:requests=60/min (2)"
    result = _run(*words)
    assert document["verdict"] in " ".join(result.output.split())
    assert _run(*words, "--take", "4").exit_code != 0


def test_plan_says_what_a_quota_can_never_admit() -> None:
    """A quota below any request meets no deadline, however soon it says so."""
    Path("tiny.toml").write_text('name = "tiny"\n[[quotas]]\nkind = "bucket"\naxis = "tokens"\nlimit = 10\n')
    result = _run("plan", "sample", "--duration", "20", "--provider", "tiny.toml", "--jobs", "1")
    assert "no provider meets it as sold" in result.stdout
    assert "requests are never admissible: larger than a quota (10 tokens per 60 s)" in result.stderr


def test_plan_takes_settings_from_a_file() -> None:
    """A limiter that is held at one call at once waits where the quota would not."""
    RateLimitConfig(initial_concurrency=1, max_concurrency=1).to_toml("slow.toml")
    words = ["plan", "sample", "--duration", "60", "--provider", "openai-tier-3", "--jobs", "1"]
    assert _document(*words)["choice"] == "openai-tier-3"
    assert _document(*words, "--settings", "slow.toml")["choice"] is None


def _record(path: str) -> None:
    """Write a recording of 60 s before a bucket of a request a second, behind retries without a limiter."""
    spec = sim.provider("bucket").model_copy(
        update={"quotas": (Bucket(limit=1, per_s=1, burst_s=2),), "latency": sim.LatencyModel(first_token_s=0.2)}
    )
    scenario = sim.Scenario(sim.synthesize(1.2, 60, seed=3), spec)
    run = sim.simulate(scenario, sim.policies.retry_only(), seed=3)
    sizes = run.requests.set_index("request")
    with Recorder(path) as recorder:
        for row in run.attempts.itertuples():
            ok = row.outcome == "succeeded"
            request = sizes.loc[row.request]
            recorder.record(
                AttemptRow(
                    call_id=row.request, attempt=row.attempt, arrival_s=request["arrival_s"],
                    admitted_s=row.admitted_s, sent_s=row.admitted_s, end_s=row.end_s,
                    first_chunk_s=row.end_s if ok else None, model="m", provider="openai", operation="chat",
                    input_tokens=int(request["input_tokens"]), output_tokens=int(request["output_tokens"]),
                    status=200 if ok else 429, outcome=RowOutcome.OK if ok else RowOutcome.RATE_LIMITED,
                )
            )  # fmt: skip


@pytest.mark.slow
def test_calibrate_writes_a_provider_to_simulate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Findings with their intervals, the rest of the recording foretold, and a file that --provider reads."""
    monkeypatch.setenv("COLUMNS", "120")
    _record("recording.jsonl")
    words = ["calibrate", "recording.jsonl", "--until", "45", "--policy", "retry-only"]
    result = _run(*words, "--name", "theirs", "--out", "provider.toml", "--plot", "calibration.png")
    assert result.exit_code == 0, result.output
    for told in (
        "requests: window",
        "bucket",
        "pinned down",
        "429s",
        "which calibration has not seen",
        "attempts replayed",
    ):
        assert told in result.stdout
    assert Path("calibration.png").read_bytes().startswith(_PNG)
    assert "requests: window" in Path("provider.toml").read_text()
    written = sim.provider("provider.toml")
    assert (written.name, written.quotas[0].kind) == ("theirs", "bucket")
    document = _document(*words)
    assert document["provider"] == sim.calibrate(
        sim.read_recording("recording.jsonl"), 45, name="calibrated"
    ).provider.model_dump(mode="json")
    assert {row["figure"] for row in document["findings"]} >= {"requests: window", "Retry-After"}
    assert document["replayed"]["predicted"] == document["replayed"]["recorded"] > 0
    assert set(document["validation"]["goodput"]) == {"recorded", "simulated", "error", "least", "most", "deviation"}
    assert _run("simulate", "--duration", "20", "--provider", "provider.toml").exit_code == 0


def test_calibrate_without_anything_held_out_foretells_nothing() -> None:
    """All of the recording is looked at: findings, and no comparison."""
    _record("recording.jsonl")
    assert _document("calibrate", "recording.jsonl")["validation"] is None


def test_calibrate_says_what_is_no_recording() -> None:
    """A trace is called a trace, with the command that reads it."""
    Path("azure.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,5,6\n")
    result = _run("calibrate", "azure.csv")
    assert result.exit_code == 2
    assert "not a recording" in result.stderr
    assert "factflow-llm replay" in result.stderr


def test_lab_opens_the_clones_notebooks_or_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """JupyterLab is run on notebook 01, with whatever else was said; a copy keeps what is there already."""
    commands: list[list[str]] = []

    def ran(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr("simulators.cli.notebooks.subprocess.run", ran)
    assert _run("lab", "--no-browser", "--port", "8899").exit_code == 3
    first = "01_first_simulation.ipynb"
    assert commands[-1][1:] == [
        "-m", "jupyterlab", str(_ROOT / "notebooks" / first), "--no-browser", "--port", "8899",
    ]  # fmt: skip
    Path("mine").mkdir()
    (Path("mine") / first).write_text("my work")
    _run("lab", "--to", "mine")
    assert commands[-1][1:] == ["-m", "jupyterlab", str(Path("mine") / first)]
    assert (Path("mine") / first).read_text() == "my work"
    assert len(list(Path("mine").iterdir())) == 7


def test_lab_from_a_wheel_copies_the_notebooks_to_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in the package is not to be changed: a copy is opened instead."""
    packaged = tmp_path / "installed" / "simulators"
    (packaged / "notebooks").mkdir(parents=True)
    (packaged / "notebooks" / notebooks.FIRST).write_text("{}")
    monkeypatch.setattr(notebooks, "_PACKAGE", packaged)
    assert notebooks.folder(None) == Path("factflow-notebooks")
    assert (Path("factflow-notebooks") / notebooks.FIRST).read_text() == "{}"


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands(shell: str) -> None:
    """The script that a shell loads is printed, and answers with the commands that begin so."""
    environment = os.environ | {"PYTHONPATH": str(_ROOT), "_FACTFLOW_LLM_COMPLETE": f"source_{shell}"}
    command = [sys.executable, "-m", "simulators"]
    script = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert "factflow-llm" in script
    asked = {"_FACTFLOW_LLM_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": "factflow-llm ca"}
    asked |= {"COMP_WORDS": "factflow-llm ca", "COMP_CWORD": "1", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    told = subprocess.run(command, env=environment | asked, capture_output=True, text=True, check=True).stdout
    assert "calibrate" in told
    assert "simulate" not in told


def test_compare_prints_intervals_and_explains_the_fixed_rate() -> None:
    """Means with intervals by scenario and policy; the fixed rate says what it knows."""
    result = _run("compare", *_SMALL, "--provider", "slots", "--seeds", "2", "--jobs", "1")
    assert result.exit_code == 0, result.output
    for words in ("backlog of 8 on bucket", "backlog of 8 on slots", "classic-aimd", "±", *HEADLINES):
        assert words in result.stdout
    assert "10 requests/s on bucket, " in result.stderr


def test_compare_gives_machines_every_run() -> None:
    """JSON has a row per scenario, policy and seed."""
    runs = _document("compare", *_SMALL, "--policy", "ours", "--policy", "fixed:4", "--seeds", "2", "--jobs", "1")[
        "runs"
    ]
    assert [(run["policy"], run["seed"]) for run in runs] == [("ours", 0), ("fixed:4", 0), ("ours", 1), ("fixed:4", 1)]


def test_journals_keep_what_is_finished() -> None:
    """A second time the same command prints the same from its journal; another command is refused it."""
    words = ["compare", *_SMALL, "--policy", "ours", "--seeds", "2", "--jobs", "1", "--journal", "journal.jsonl"]
    first = _document(*words)
    assert len(Path("journal.jsonl").read_text().splitlines()) == 1 + 2
    assert _document(*words) == first
    refused = _run("tune", *_SMALL, "--trials", "1", "--seeds", "2", "--jobs", "1", "--journal", "journal.jsonl")
    assert refused.exit_code == 2
    assert "another sweep" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "done"),
    [
        (["compare", *_SMALL, "--policy", "ours", "--seeds", "3"], "compare: 1 of 3 done"),
        (["tune", *_SMALL, "--trials", "3", "--seeds", "1"], "tune: 1 of 3 done"),
        (["plan", "--duration", "20", "--provider", "bucket"], "plan: 1 of "),
    ],
)
def test_what_is_stopped_says_how_far_it_came_and_goes_on(
    words: list[str], done: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control-C tells what was done and kept; the same command refuses to lose that, and goes on with --resume."""
    tell = progress.reporting

    @contextlib.contextmanager
    def stopped(_: object, total: int, what: str) -> Iterator[Callable[[], None]]:
        def stop(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with tell(stop, total, what) as one_more:
            yield one_more

    for study in ("comparison", "tuning", "planning"):
        monkeypatch.setattr(f"simulators.studies.{study}.reporting", stopped)
    words = [*words, "--jobs", "1"]
    result = _run(*words)
    assert result.exit_code == 130
    assert done in result.stderr
    (journal,) = Path().glob("factflow-*.journal")
    assert f"kept in {journal}: the same command with --resume goes on" in result.stderr
    for study in ("comparison", "tuning", "planning"):
        monkeypatch.setattr(f"simulators.studies.{study}.reporting", tell)
    refused = _run(*words)
    assert (refused.exit_code, journal.exists()) == (2, True)
    assert "--resume goes on, --overwrite begins anew" in refused.stderr
    assert _run(*words, "--resume").exit_code == 0
    assert not journal.exists()
    assert "nothing to go on with" in _run(*words, "--resume", "--overwrite").stderr


def test_a_plan_knows_events_clients_and_quotas_side_by_side() -> None:
    """The halved quota needs more of it, and two quotas of one preset have rows of their own."""
    usual = ["plan", "--duration", "60", "--jobs", "1", "--max-wait", "5"]
    two = ["--provider", "bucket", "--provider", "bucket:requests=20/s", "--clients", "2", "--at", "30:0.5"]
    found = _document(*usual, *two)
    assert [row["provider"] for row in found["providers"]] == [
        "bucket (10 requests per 1 s)",
        "bucket (20 requests per 1 s)",
    ]
    assert found["verdict"].count("bucket (") >= 2
    assert "--provider bucket:reqests=1/s" in _run(*usual, "--provider", "bucket:reqests=1/s").stderr


def test_compare_draws_the_frontier() -> None:
    """Goodput against 429s, as a picture."""
    assert _run("compare", *_SMALL, "--seeds", "2", "--jobs", "1", "--plot", "frontier.svg").exit_code == 0
    assert "<svg" in Path("frontier.svg").read_text()


@pytest.mark.slow
def test_tune_writes_what_production_loads() -> None:
    """The table, a picture, and settings that LLMConfig reads from its own file."""
    result = _run(
        "tune", *_SMALL, "--trials", "2", "--seeds", "1", "--jobs", "1", "--seed", "7", "--study", "study.json"
    )
    assert result.exit_code == 0, result.output
    for words in ("oracle", "fixed rate", "classic AIMD", "ours by default", "ours tuned", *HEADLINES):
        assert words in result.stdout
    assert Path("limiter.png").read_bytes().startswith(_PNG)
    assert "seed 7" in Path("limiter.toml").read_text()
    Path("llm.toml").write_text(_PROFILE)
    loaded = LLMConfig.from_toml("llm.toml").providers["default"].rate_limit
    assert loaded == RateLimitConfig.from_toml("limiter.toml") == sim.Study.load("study.json").best_config


@pytest.mark.slow
def test_tune_writes_the_same_bytes_for_the_same_seed() -> None:
    """Two runs differ in nothing but the file's name; machines read the same settings."""
    words = ["tune", *_SMALL, "--trials", "3", "--seeds", "1", "--jobs", "1", "--seed", "7"]
    first = _document(*words, "--out", "a.toml")
    _document(*words, "--out", "b.toml")
    assert Path("a.toml").read_bytes() == Path("b.toml").read_bytes()
    assert RateLimitConfig.from_dict(first["settings"]) == RateLimitConfig.from_toml("a.toml")
    assert first["files"] == ["a.toml", "a.png"]


@pytest.mark.slow
def test_tune_measures_in_worlds_the_search_never_saw() -> None:
    """The seeds of the table follow those of the search."""
    words = ["tune", *_SMALL, "--trials", "1", "--seeds", "2", "--jobs", "1"]
    assert {run["seed"] for run in _document(*words)["runs"]} == {2, 3}


@pytest.mark.slow
def test_tune_admits_that_nothing_kept_the_bound() -> None:
    """The nearest settings are written, with a word to people and a comment in the file."""
    words = ["--trials", "1", "--seeds", "1", "--jobs", "1", "--max-rejected-share", "1e-9"]
    result = _run("tune", "--backlog", "64", "--duration", "60", "--provider", "bucket", *words)
    assert result.exit_code == 0
    assert "None of 1 trials kept 429s" in result.stdout
    assert "NO trial kept" in Path("limiter.toml").read_text()


@pytest.mark.slow
def test_tune_admits_that_the_defaults_are_best() -> None:
    """A single trial is the defaults, and nothing else is claimed."""
    result = _run("tune", *_SMALL, "--trials", "1", "--seeds", "1", "--jobs", "1", "--max-rejected-share", "0.5")
    assert "None of 1 trials does better than the defaults" in result.stdout
    assert "trial 0 is the defaults" in " ".join(result.stdout.split())


def test_providers_are_listed_with_their_quotas(monkeypatch: pytest.MonkeyPatch) -> None:
    """People get a table, machines a list."""
    monkeypatch.setenv("COLUMNS", "200")
    assert "500 requests per 60 s, 200,000 tokens per 60 s" in _run("providers").stdout
    assert [row["name"] for row in _document("providers")] == sim.provider_names()


def test_serve_runs_the_server_and_reports_on_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words become the server's arguments, and its account of the client is printed at the end."""
    asked: list[tuple[sim.Provider, dict[str, object]]] = []

    class _Ended:
        conduct = "well behaved"

    def served(provider: sim.Provider, **options: object) -> _Ended:
        asked.append((provider, options))
        return _Ended()

    monkeypatch.setattr("simulators.server.serving.serve", served)
    result = _run("serve", "--provider", "azure-30k", "--port", "9000", "--speed", "5", "--seed", "2")
    ((spec, options),) = asked
    assert spec == sim.provider("azure-30k")
    assert options.items() >= {"host": "127.0.0.1", "port": 9000, "speed": 5.0, "seed": 2}.items()
    assert "well behaved" in result.stdout


def test_the_module_is_the_command(tmp_path: Path) -> None:
    """``python -m simulators`` says the same bytes twice, whatever the hash seed, and no progress bar when piped."""
    outputs = []
    for hash_seed in ("0", "77"):
        words = [sys.executable, "-m", "simulators", "compare", *_SMALL, "--seeds", "2", "--jobs", "1"]
        ran = subprocess.run(
            words,
            cwd=tmp_path,
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(_ROOT)},
            capture_output=True,
            check=True,
        )
        assert b"it/s" not in ran.stderr
        outputs.append(ran.stdout)
    assert outputs[0] == outputs[1]


@pytest.mark.traces
@pytest.mark.skipif(not _AZURE.exists(), reason="the Azure trace lies beside the repository, not in it")
def test_a_real_trace_is_replayed() -> None:
    """Ten minutes of Azure's code trace run on a preset."""
    document = _document("replay", _AZURE, "--duration", "600", "--provider", "openai-tier-3")
    assert document["trace"]["requests"] == 1482
    assert document["figures"]["ours"]["goodput_ratio"] > 0.9


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["simulate", "none.csv"], "none.csv: no such file"),
        (["simulate", "empty.csv"], "the file is empty"),
        (["simulate", "wrong.csv"], "known format"),
        (["replay", "negative.csv"], "-5"),
        (["simulate", "--provider", "openai-tier-9"], "no provider is called 'openai-tier-9'; known: openai-tier-"),
        (["simulate", "--policy", "our"], "--policy 'our': no such policy; did you mean 'ours'?"),
        (["simulate", "--policy", "xyzzy"], "known: ours, oracle"),
        (["simulate", "--policy", "fixed:fast"], "'fast' is no number; write fixed:8"),
        (["simulate", "--policy", "fixed:nan"], "requests_per_s = nan must be"),
        (["simulate", "--policy", "none.toml"], "none.toml: cannot be read"),
        (
            ["simulate", "--policy", "typo.toml"],
            "typo.toml: RateLimitConfig: decreese: unknown key; did you mean 'decrease'",
        ),
        (["simulate", "--policy", "nan.toml"], "nan.toml: RateLimitConfig: probe_s: "),
        (["simulate", "sample", "--backlog", "4"], "give one of them"),
        (["simulate", "--backlog", "-3"], "workers = -3"),
        (["simulate", "--backlog", "many"], "'--backlog'"),
        (["simulate", "--duration", "nan"], "--duration: nan"),
        (["simulate", "--duration", "-1"], "--duration: -1.0"),
        (["simulate", "--clients", "0"], "clients = 0"),
        (["simulate", "--at", "600"], "--at '600': says when or how much, not both; write --at MOMENT:FACTOR"),
        (["simulate", "--at", "600:-1"], "quota = -1"),
        (["simulate", "--at", "nan:1"], "time_s = nan"),
        (["simulate", "--at", "600:1e-9"], "no room for a single request"),
        (["replay", "sample", "--speed", "0"], "the factor must be finite and above 0"),
        (["compare", "--seeds", "0"], "seeds = 0"),
        (["compare", "--jobs", "0"], "jobs = 0"),
        (["compare", "--policy", "nobody"], "--policy 'nobody'"),
        (["tune", "--trials", "0"], "trials = 0"),
        (["tune", "--seed", "-1"], "seed = -1"),
        (["tune", "--max-rejected-share", "2"], "max_rejected_share = 2.0"),
        (["tune", "--max-loss", "-1"], "max_loss = -1.0"),
        (["serve", "-p", "nobody"], "no provider is called 'nobody'"),
        (["plan", "none.csv"], "none.csv: no such file"),
        (["plan", "--max-wait", "nan"], "max_wait_p95_s = nan must be a finite number of seconds above 0"),
        (["plan", "--max-wait", "-1"], "max_wait_p95_s = -1.0 must be"),
        (["plan", "--settings", "typo.toml"], "did you mean 'decrease'"),
        (["plan", "--provider", "nobody"], "no provider is called 'nobody'"),
        (["plan", "--plot", "plan.doc"], "cannot draw a .doc"),
        (["calibrate", "none.jsonl"], "none.jsonl: no such file"),
        (["calibrate", "wrong.csv"], "wrong.csv"),
        (["calibrate", "empty.csv", "--plot", "c.png"], "add --until SECONDS"),
        (["lab", "--to", "empty.csv"], "--to empty.csv: cannot be written"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words: list[str], told: str, tmp_path: Path) -> None:
    """Value, place and remedy on one line; no traceback; no file."""
    Path("empty.csv").write_text("")
    Path("wrong.csv").write_text("a,b\n1,2\n")
    Path("negative.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,-5,10\n")
    Path("typo.toml").write_text("decreese = 0.9\n")
    Path("nan.toml").write_text("probe_s = nan\n")
    before = _files()
    result = _run(*words)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert told in result.stderr
    assert _files() == before


@pytest.mark.parametrize("command", ["simulate", "compare", "tune"])
def test_a_quota_below_any_request_is_never_admissible(command: str) -> None:
    """Nothing waits for ever, and no file is written."""
    Path("tiny.toml").write_text('[[quotas]]\nkind = "bucket"\naxis = "tokens"\nlimit = 10\n')
    result = _run(command, "--backlog", "2", "--duration", "30", "--provider", "tiny.toml")
    assert result.exit_code == 2
    assert "never admissible" in result.stderr
    assert _files() == {"tiny.toml"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--out", "taken.toml"], "--out taken.toml: the file exists; choose another name or add --overwrite"),
        (["--plot", "taken.png"], "--plot taken.png: the file exists"),
        (["--out", "folder"], "--out folder: this is a folder"),
        (["--out", "no/such/limiter.toml"], "choose a folder that exists"),
        (["--plot", "overview.doc"], "cannot draw a .doc; choose one of .png, .svg, .pdf"),
        (["--study", "limiter.toml"], "--out names the same file"),
    ],
)
def test_outputs_are_checked_before_any_work(words: list[str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits an hour to hear that a file exists."""
    for taken in ("taken.toml", "taken.png"):
        Path(taken).write_text("mine")
    Path("folder").mkdir()
    monkeypatch.setattr("simulators.cli.inputs.read_workload", lambda *_: pytest.fail("work was begun"))
    result = _run("tune", *words)
    assert result.exit_code == 2
    assert told in result.stderr
    assert Path("taken.toml").read_text() == Path("taken.png").read_text() == "mine"


def test_overwriting_is_asked_for() -> None:
    """With --overwrite, existing files are replaced."""
    words = ["tune", *_SMALL, "--trials", "1", "--seeds", "1", "--jobs", "1"]
    Path("limiter.toml").write_text("mine")
    assert _run(*words).exit_code == 2
    assert _run(*words, "--overwrite").exit_code == 0
    assert "seed 0" in Path("limiter.toml").read_text()


def test_a_taken_port_is_named() -> None:
    """A second server on one port says so and ends."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = _run("serve", "-p", "bucket", "--port", str(port))
    assert result.exit_code == 2
    assert f"cannot listen on 127.0.0.1:{port}" in result.stderr


def test_the_version_is_told_and_help_is_short_to_type() -> None:
    """``--version`` names package and version; ``-h`` is ``--help``, of the whole and of each command."""
    assert re.fullmatch(r"factflow-llm (\d+\.\S+|from a source tree)\n", _run("--version").stdout.replace(",", ""))
    assert _run("-h").stdout == _run("--help").stdout
    assert _run("simulate", "-h").stdout == _run("simulate", "--help").stdout


def test_help_loads_nothing_heavy() -> None:
    """Nobody waits for pandas, pydantic or an SDK to read a help text."""
    code = (
        "import sys; from simulators.cli.app import app\n"
        "try: app(['--help'], prog_name='factflow-llm')\n"
        "except SystemExit: print({'pandas', 'numpy', 'pydantic', 'openai', 'matplotlib'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_no_header_is_cut_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns that do not fit stand in a further table; each header is whole and no line is longer."""
    monkeypatch.setenv("COLUMNS", "80")
    words = ["--duration", "60", "--jobs", "1"]
    told = _run("compare", "sample", *words, "--seeds", "2", "--policy", "oracle", "--policy", "ours").stdout
    planned = _run("plan", "sample", *words, "--provider", "openai-tier-1").stdout
    assert max(map(len, (told + planned).splitlines())) <= 80
    for header in (*HEADLINES, "wait_p95_tighter_s", "quota_needed", "needed", "meets"):
        assert f" {header} " in told + planned


def test_settings_are_not_written_as_json() -> None:
    """A name that promises JSON is refused before any work."""
    result = _run("tune", "sample", "--out", "limiter.json")
    assert result.exit_code == 2
    assert "--out limiter.json: this is written as TOML; give a name that ends in .toml" in result.stderr
