"""The notebooks: stored clean, short, and run top to bottom without an error, not even one that a widget swallowed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from nbclient import NotebookClient

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
_WIDGETS = "application/vnd.jupyter.widget-state+json"
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    """Return a notebook."""
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def outputs(notebook: Any) -> Iterator[Any]:
    """Yield what cells put out, and what they put out inside of widgets, where it counts as no failure of the cell."""
    for cell in notebook.cells:
        yield from cell.get("outputs", [])
    for model in notebook.metadata.get("widgets", {}).get(_WIDGETS, {}).get("state", {}).values():
        yield from model.get("state", {}).get("outputs", [])


def troubles(notebook: Any) -> list[str]:
    """Return errors, and whatever was said on the channel for warnings."""
    return [
        str(output.get("evalue") or output.get("text"))
        for output in outputs(notebook)
        if output["output_type"] == "error" or output.get("name") == "stderr"
    ]


@each_notebook
def test_source_is_stored_without_outputs(path: Path) -> None:
    """What is committed is the source: no outputs, no counts, and cells that keep their names between edits."""
    notebook = read(path)
    nbformat.validate(notebook)  # type: ignore[no-untyped-call]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert all(cell.id.startswith(path.stem[:2] + "-") for cell in notebook.cells)


@each_notebook
def test_cells_are_few_and_short(path: Path) -> None:
    """A notebook is one idea in at most fifteen cells of at most ten lines; it opens with words."""
    notebook = read(path)
    assert notebook.cells[0].source.startswith("# ")
    assert len(notebook.cells) <= 15
    assert max(len(cell.source.splitlines()) for cell in notebook.cells if cell.cell_type == "code") <= 10


CLAIMS = {
    "01_first_simulation": """
ours, retrying = result.summary(), alone.summary(result.oracle)
assert retrying["goodput_ratio"] > ours["goodput_ratio"] - 0.02, "the goodput is as good"
assert retrying["attempts_per_success"] > 2 * ours["attempts_per_success"], "see attempts_per_success"
assert retrying["wait_p50_s"] < ours["wait_p50_s"], "half are served sooner"
assert retrying["wait_p99_s"] > 2 * ours["wait_p99_s"], "a few are forgotten"
assert ours["wait_p95_s"] < 4 * ours["wait_p50_s"], "everybody waits about as long as everybody else"
assert (result.limits["reason"] == "rate_limited").any(), "each mark is a 429"
assert RateLimitConfig.from_toml(home / "first_limiter.toml") == config, "what was edited is what is written"
assert {"settings", "events"} <= result.provenance.keys()
""",
    "02_replay_a_trace": """
asked = trace.describe()
minutes = trace.duration_s / 60
assert len(trace) / minutes < 500, "the requests would fit"
assert (trace.input_tokens + trace.output_tokens).sum() / minutes > 1.5 * 200_000, "their tokens do not, by far"
low = runs["openai-tier-1"].summary()
assert low["goodput_ratio"] > 0.97 and low["rejected_share"] < 0.02, "nearly all, and 429s are rare"
waits = fits.frame.groupby("scenario", sort=False)["wait_p95_s"].max()
assert waits.iloc[0] < 10 < 60 < waits.iloc[-1], "there is a cliff"
assert "no setting helps" in sim.verdict(runs["openai-tier-1"])
""",
    "03_tune_by_hand": """
assert RateLimitConfig.from_toml(home / "by_hand.toml") == dashboard.config == RateLimitConfig(decrease=0.5)
assert not dashboard.messages.is_error
assert len(days.seeds) == 10, "ask for ten of them"
""",
    "04_search_for_settings": """
assert study.config(0) == RateLimitConfig(), "the first trial is the defaults"
line = study.history()["best_so_far"].dropna()
assert line.is_monotonic_increasing, "the line never falls"
assert not len(line) or abs(line.iloc[-1] - study.best["goodput_ratio"]) < 1e-3, "it ends at the star"
assert RateLimitConfig.from_toml(home / "limiter.toml") == study.best_config
""",
    "05_quota_scenarios": """
limit = sim.plot_limits(runs["neighbour"])
changes = runs["neighbour"].limits.query("axis == 'requests'")
inside, after = (changes[changes["time_s"].between(*span)]["new"] for span in ((360, 600), (700, 900)))
assert 5 < inside.median() < 7.5, "down to what is left over"
assert after.median() > 9, "it comes back"
storm = runs["storm"].attempts
per_s = [((storm["admitted_s"] > a) & (storm["admitted_s"] < b)).sum() / (b - a) for a, b in ((60, 300), (330, 900))]
assert per_s[1] < per_s[0], "it sends less while nothing comes through"
assert costs.loc["failed", "storm"] > 0, "the callers get their errors"
assert costs.loc["failed", "day cap"] > 0, "callers are told at once"
recovery = runs["noon"].recovery()
assert recovery.notna().all(), "the legend tells both times"
apart, shared = both["apart"], both["shared"]
assert apart["rejected_share"] > 2 * runs["noon"].summary()["rejected_share"], "rejected more often than one alone"
assert shared["rejected_share"] < 0.5 * apart["rejected_share"], "a 429 counts once"
assert min(shared["goodput_ratio"], shared["jain"]) > 0.97, "one probes for all"
""",
    "07_a_nights_work": """
assert first.ended == "max_cost_usd" and 0.019 < first.spent.cost_usd < 0.021, "the job ends there"
assert first.left + first.handed_on == 400, "the journal knows what is left"
assert job.ended == "all done" and all(result.succeeded for result in results) and len(results) == 400
assert job.resumed >= 150 and job.repeated <= 64, "only those in flight were asked for twice"
assert {result.value.profile for result in results if not result.resumed} == {"spare"}, "somebody who answers"
assert asked <= 2 * 16, "the spent account was told off once"
assert 0 <= job.spent.cost_usd - bill["cost_usd"].sum() < 0.0003 * (job.repeated + 1), "a little more than its rows"
again, _ = await evaluate(1.0)
assert again.resumed == 400, "call it again, and it asks for nothing"
""",
}
"""What a notebook says in words about its own outputs, as its kernel sees them at the end."""


@pytest.mark.slow
@each_notebook
def test_runs_from_top_to_bottom(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, offline, every cell runs, nothing complains, and what the text claims is so."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = read(path)
    if path.stem in CLAIMS:
        notebook.cells.append(nbformat.v4.new_code_cell(CLAIMS[path.stem]))  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert troubles(notebook) == []
    assert any((tmp_path / "artifacts").iterdir())


def test_errors_inside_widgets_are_found(tmp_path: Path) -> None:
    """A callback of ``interactive_output`` that fails leaves the cell green; the scan of the widgets' state sees it."""
    source = "import ipywidgets as w\nw.interactive_output(lambda x: 1 / x, {'x': w.IntSlider(0)})"
    cells = [nbformat.v4.new_code_cell(source)]  # type: ignore[no-untyped-call]
    notebook: Any = nbformat.v4.new_notebook(cells=cells)  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert troubles(notebook) == ["division by zero"]
