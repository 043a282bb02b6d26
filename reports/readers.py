"""What the readers of traces find in files of every format, beside an independent count of the same files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulators.traces import Trace, read_trace
from tests.support.logs import Log, logs

if TYPE_CHECKING:
    from simulators.traces.clocks import TimeUnit


def ours(log: Log, folder: Path) -> tuple[Trace, tuple[int, int, int, float]]:
    """Read a file; return the trace, its rows, its sums of tokens as far as known, and the seconds it spans."""
    unit: TimeUnit | Any = log.time_unit
    trace = read_trace(log.write(folder), columns=log.columns, time_unit=unit)
    sums = [int(tokens[tokens >= 0].sum()) for tokens in (trace.input_tokens, trace.output_tokens)]
    return trace, (len(trace), sums[0], sums[1], round(trace.duration_s, 3))


def counted(log: Log) -> tuple[int, int, int, float]:
    """Return the same by an independent count."""
    return log.rows, log.read, log.wrote, round(log.span_s, 3)


def readers(jobs: int | None) -> dict[str, str]:
    """Return the table by its file's name."""
    head = f"{'file':<26} {'read as':<15} {'rows, input, output tokens, seconds: counted':<46} {'by us':<34} times\n"
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for log in logs():
            trace, found = ours(log, Path(folder))
            told = "; ".join(note.removeprefix("times: ") for note in trace.header.notes)
            counts = f"{_figures(counted(log)):<46} {_figures(found):<34}"
            lines.append(f"{log.name:<26} {trace.header.source:<15} {counts} {told}".rstrip())
    return {"tests/golden/traces/readers.txt": head + "\n".join(lines) + "\n"}


def _figures(figures: tuple[int, int, int, float]) -> str:
    rows, read, wrote, span_s = figures
    return f"{rows:>5} {read:>9} {wrote:>8} {span_s:>9.3f}"
