"""What commands print and write: tables for people, JSON for machines, files whole or not at all."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from factflow_llm.errors import ConfigurationError
from simulators.numerals import figure_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pandas as pd
    from matplotlib.axes import Axes

    from simulators.calibration.validation import Validation
    from simulators.engine.result import SimResult
    from simulators.studies.comparison import Comparison
    from simulators.studies.planning import Plan

_PICTURES = (".png", ".svg", ".pdf")
_PIPE_WIDTH = 200
_ENDLESS = 10_000


def check_outputs(files: Mapping[str, Path | None], *, overwrite: bool) -> None:
    """Refuse, before any work, files that exist, that cannot be written, or that are one and the same.

    Args:
        files: by the option that names them; ``None`` is not written.
        overwrite: existing files may go.

    Raises:
        ConfigurationError: naming the option, the file and the remedy.
    """
    taken: dict[Path, str] = {}
    for option, path in files.items():
        if path is None:
            continue
        place = f"{option} {path}"
        if path.resolve() in taken:
            msg = f"{place}: {taken[path.resolve()]} names the same file; choose another name"
            raise ConfigurationError(msg)
        taken[path.resolve()] = option
        if path.is_dir():
            msg = f"{place}: this is a folder; give a file's name"
            raise ConfigurationError(msg)
        if path.exists() and not overwrite:
            msg = f"{place}: the file exists; choose another name or add --overwrite"
            raise ConfigurationError(msg)
        try:
            tempfile.TemporaryFile(dir=path.parent).close()
        except OSError as error:
            msg = (
                f"{place}: cannot be written ({error.strerror}); choose a folder that exists and that you may write to"
            )
            raise ConfigurationError(msg) from None
        if option == "--out" and path.suffix.lower() != ".toml":
            msg = f"{place}: this is written as TOML; give a name that ends in .toml (--json prints JSON)"
            raise ConfigurationError(msg)
        if option == "--plot" and path.suffix.lower() not in _PICTURES:
            msg = f"{place}: cannot draw a {path.suffix or 'file without suffix'}; choose one of {', '.join(_PICTURES)}"
            raise ConfigurationError(msg)


def draw_overview(result: SimResult, path: Path) -> None:
    """Draw a run's overview into a file."""
    from matplotlib.figure import Figure

    from simulators.plots.runs import plot_overview

    figure = Figure(figsize=(8.0, 7.2), layout="constrained")
    plot_overview(result, ax=list(figure.subplots(4, 1, sharex=True)))
    _save(figure, path)


def draw_frontier(comparison: Comparison, path: Path) -> None:
    """Draw goodput against the share of 429s into a file."""
    from simulators.plots.comparisons import plot_frontier

    with _one_picture(path, height=5.0) as ax:
        plot_frontier(comparison, ax=ax)


def draw_plan(plan: Plan, path: Path) -> None:
    """Draw the wait against the size of the quota into a file."""
    with _one_picture(path, height=4.5) as ax:
        plan.plot(ax=ax)


def draw_calibration(validation: Validation, path: Path) -> None:
    """Draw what was simulated beside what was recorded into a file."""
    from simulators.plots.calibrations import plot_calibration

    with _one_picture(path, height=4.0) as ax:
        plot_calibration(validation, ax=ax)


def show(frame: pd.DataFrame, title: str, justify: Literal["left", "right"] = "right") -> None:
    """Print a frame as a table under its title; equal words of the outer index stand once.

    Columns of figures that do not fit beside the others go to a further table below, so that no word is cut.
    """
    console = _console()
    console.print(title, highlight=False, markup=False)
    first, columns = 0, frame.shape[1]
    while first < columns:
        fitting = next(
            (
                last
                for last in range(columns, first + 1, -1)
                if justify == "left" or _width(console, _table(frame.iloc[:, first:last], justify)) <= console.width
            ),
            first + 1,
        )
        console.print(_table(frame.iloc[:, first:fitting], justify))
        first = fitting


def _width(console: Console, table: Table) -> int:
    return Measurement.get(console, console.options.update(max_width=_ENDLESS), table).maximum


def _table(frame: pd.DataFrame, justify: Literal["left", "right"]) -> Table:
    table = Table()
    for name in frame.index.names:
        table.add_column(str(name or ""), overflow="fold")
    for name in frame.columns:
        table.add_column(str(name), justify=justify, overflow="fold", no_wrap=justify == "right")
    above: tuple[Any, ...] = ()
    for row in frame.itertuples():
        keys = row[0] if isinstance(row[0], tuple) else (row[0],)
        starts = keys[:-1] != above[:-1]
        if starts and above:
            table.add_section()
        shown = keys if starts else ("",) * (len(keys) - 1) + keys[-1:]
        table.add_row(*map(str, shown), *map(figure_text, row[1:]))
        above = keys
    return table


def tell(text: str) -> None:
    """Print sentences for people, below a table."""
    _console().print(text, highlight=False, markup=False)


def say(text: str) -> None:
    """Print a line for people, on the channel that machines do not read."""
    print(text, file=sys.stderr)


def print_json(document: Any) -> None:
    """Print a document for machines; what has no value is null."""
    print(json.dumps(_plain(document), indent=1, ensure_ascii=False, allow_nan=False))


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a frame's rows as plain values."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _console() -> Console:
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console() if known else Console(width=_PIPE_WIDTH)


@contextmanager
def _one_picture(path: Path, height: float) -> Iterator[Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, height), layout="constrained")
    yield figure.subplots()
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        draft = Path(folder) / path.name
        figure.savefig(draft, dpi=150)
        draft.replace(path)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
