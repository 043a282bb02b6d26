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


@pytest.mark.slow
@each_notebook
def test_runs_from_top_to_bottom(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, offline, every cell runs, nothing complains, and there is something to take home."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = read(path)
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
