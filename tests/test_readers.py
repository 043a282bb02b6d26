"""Readers of traces find what is in a file, in every format and spelling, or say what they cannot tell."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from reports import ROOT
from reports.readers import counted, ours, readers
from simulators.traces import Trace, TraceError, read_trace
from tests.support.logs import Log, drawn, lines, logs, table

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("log", logs(), ids=lambda log: log.name)
def test_what_is_in_a_file_is_found(log: Log, tmp_path: Path) -> None:
    """Rows, both sums of tokens and the time spanned are those that whoever wrote the file knows."""
    assert ours(log, tmp_path)[1] == counted(log)


def test_the_table_is_as_committed() -> None:
    """The committed table of files, counted independently and by us, is what the readers do."""
    for path, text in readers(None).items():
        assert (ROOT / path).read_text(encoding="utf-8") == text, "python -m reports readers --write"


@pytest.mark.parametrize("log", [log for log in logs() if log.columns], ids=lambda log: log.name)
def test_the_map_that_fits_is_suggested(log: Log, tmp_path: Path) -> None:
    """An unknown file is answered with the map that fits, ready to paste; a unit is asked for, not guessed."""
    path = log.write(tmp_path)
    with pytest.raises(TraceError) as refused:
        read_trace(path)
    assert f"columns={log.columns!r}" in str(refused.value)
    assert ("with a time_unit" in str(refused.value)) == (log.time_unit is not None)


HOSTILE = {
    "a batch without times": (
        lines([{"custom_id": "1", "response": {"body": {"usage": {"prompt_tokens": 3, "total_tokens": 3}}}}]),
        "looks like openai batch, but tells no times",
    ),
    "several benchmarks": (lines([{"input_lens": [1], "output_lens": [2], "request_rate": 1.0}] * 2), "several"),
    "a header alone": (table(["time", "input_tokens"], []), "has a header but no rows"),
    "no spans": (json.dumps({"result": {"rows": [1]}, "trace": "x"}).encode(), "not a trace of a known format"),
    "sums": (table(["start_time", "num_model_requests", "input_tokens"], [[1_790_000_000, 9, 5]]), "sums over many"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_trace_is_told_in_words(case: str, tmp_path: Path) -> None:
    """Files that nearly are a trace are refused with what they lack."""
    content, message = HOSTILE[case]
    path = tmp_path / "log"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=message):
        read_trace(path)


def test_days_and_months_are_never_guessed(tmp_path: Path) -> None:
    """A date of which nobody knows which part is the month is refused, with the way to say it."""
    calls = drawn()
    path = tmp_path / "log.csv"
    path.write_bytes(table(["when", "prompt_tokens"], [[f"{call.at:%d.%m.%Y %H:%M:%S}", call.read] for call in calls]))
    with pytest.raises(TraceError, match=r"columns=\{'time': 'when', 'input_tokens': 'prompt_tokens'\}"):
        read_trace(path)
    with pytest.raises(TraceError, match="which part is the month"):
        read_trace(path, columns={"time": "when"})
    frame = pd.read_csv(path)
    known = frame.assign(when=pd.to_datetime(frame["when"], format="%d.%m.%Y %H:%M:%S"))
    trace = Trace.from_frame(known, columns={"time": "when", "input_tokens": "prompt_tokens"})
    assert int(trace.input_tokens.sum()) == sum(call.read for call in calls)


def test_failed_requests_of_a_benchmark_wrote_nobody_knows_what(tmp_path: Path) -> None:
    """An answer that failed has unknown tokens, and is counted."""
    path = tmp_path / "bench.json"
    bench = {"input_lens": [5, 6], "output_lens": [7, 0], "errors": ["", "timeout"], "start_times": [0.0, 1.0]}
    path.write_text(json.dumps(bench))
    trace = read_trace(path)
    assert trace.output_tokens.tolist() == [7, -1]
    assert "1 requests failed in the benchmark: output unknown" in trace.header.notes
