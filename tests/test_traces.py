"""The trace as a value: what it promises, how it is cut and scaled, and what it looks like on disk."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.traces import Mode, Trace, TraceError, TraceHeader, read_trace, sample_trace, synthesize

AZURE_CODE = Path(__file__).parents[1] / "../shared/traces/azure2023/AzureLLMInferenceTrace_code.csv"


def header(rows: int) -> TraceHeader:
    """Return a plain header for ``rows`` requests."""
    return TraceHeader(mode=Mode.SIMULATED, source="test", rows_read=rows, rows_emitted=rows)


def make(arrivals: list[float], **columns: object) -> Trace:
    """Return a small trace."""
    return Trace.of(arrivals, header=header(len(arrivals)), name="small", **columns)  # type: ignore[arg-type]


def assert_same(left: Trace, right: Trace) -> None:
    """Assert that two traces hold the same requests under the same name and header."""
    pd.testing.assert_frame_equal(left.frame(), right.frame())
    assert left.name == right.name
    assert left.header == right.header


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Draw small traces with unknown values in every column that may have them."""
    size = draw(st.integers(1, 20))
    several = lambda values: draw(st.lists(values, min_size=size, max_size=size))  # noqa: E731
    counts = st.integers(-1, 10**9)
    return make(
        sorted(several(st.floats(0, 1e9))),
        input_tokens=several(counts),
        output_tokens=several(counts),
        max_tokens=several(counts),
        session=several(st.integers(-1, 5)),
        round_index=several(st.integers(0, 9)),
        think_time_s=several(st.floats(0, 1e6) | st.just(float("nan"))),
    )


@pytest.mark.traces
@pytest.mark.skipif(not AZURE_CODE.exists(), reason="public traces are not beside this checkout")
def test_published_figures() -> None:
    """Azure's code hour is described by the figures published for it."""
    figures = read_trace(AZURE_CODE).describe()
    assert figures["requests"] == 8819
    assert figures["duration_s"] == pytest.approx(3435.9, abs=0.1)
    assert figures["requests_per_s"] == pytest.approx(2.57, abs=0.01)
    assert figures["interarrival_cv"] == pytest.approx(13.2, abs=0.1)
    assert figures["peak_requests_per_s"] == 67
    assert figures["peak_requests_per_minute"] == 632
    assert figures["peak_tokens_per_minute"] == pytest.approx(1.34e6, rel=0.01)
    assert (figures["input_tokens_p50"], figures["output_tokens_p50"]) == (1469, 13)


def test_unknown_is_not_zero() -> None:
    """What a trace does not know is NA in its frame and counted apart, never 0."""
    trace = make([0.0, 1.0], input_tokens=[5, 0], output_tokens=[-1, 0])
    frame = trace.frame()
    assert frame["output_tokens"].isna().tolist() == [True, False]
    assert frame["max_tokens"].isna().all()
    assert frame["think_time_s"].isna().all()
    assert trace.describe()["output_tokens_unknown"] == 1
    assert trace.describe()["output_tokens_p50"] == 0
    assert np.isnan(make([0.0]).describe()["input_tokens_p50"])


def test_columns_cannot_be_changed() -> None:
    """A trace is frozen, and does not freeze the caller's own array."""
    arrivals = np.array([0.0, 1.0])
    trace = Trace.of(arrivals, header=header(2), name="frozen")
    with pytest.raises(ValueError, match="read-only"):
        trace.arrival_s[0] = 9.0
    arrivals[1] = 2.0
    assert arrivals.tolist() == [0.0, 2.0]


def test_unknown_columns_cost_no_memory() -> None:
    """Columns a trace does not know hold one value, however many rows there are."""
    trace = make([0.0] * 100_000)
    assert trace.session.strides == (0,)
    assert len(trace.session) == 100_000


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"arrivals": [1.0, 0.5]}, r"request 1 arrives at 0.5 s, before the one at 1.0 s; sort"),
        ({"arrivals": [float("nan")]}, "arrives at nan s; arrivals are finite"),
        ({"arrivals": [-1.0]}, "arrives at -1.0 s; count from the trace's start"),
        ({"arrivals": [0.0], "input_tokens": [-2]}, "input_tokens of request 0 is -2; give 0 to"),
        ({"arrivals": [0.0], "output_tokens": [2 * 10**9]}, "output_tokens of request 0 is 2000000000; give 0 to"),
        ({"arrivals": [0.0], "output_tokens": [1.5]}, "output_tokens holds fractions"),
        ({"arrivals": [0.0], "think_time_s": [-1.0]}, r"think_time_s holds -1.0; a pause lasts 0 s or more"),
        ({"arrivals": [0.0, 1.0], "session": [1]}, r"session has shape \(1,\); every column needs shape \(2,\)"),
    ],
)
def test_senseless_columns(columns: dict[str, list[float]], message: str) -> None:
    """A senseless column is refused with its name, its value and the bound."""
    with pytest.raises(TraceError, match=message):
        make(columns.pop("arrivals"), **columns)


def test_rows_reconcile() -> None:
    """A header whose rows do not add up is refused, and so is one that counts another trace."""
    with pytest.raises(TraceError, match="3 read, 1 kept, 1 dropped"):
        TraceHeader(mode=Mode.IMPORTED, source="test", rows_read=3, rows_emitted=1, drops={"failed": 1})
    with pytest.raises(TraceError, match="counts 2 requests, the columns hold 1"):
        Trace.of([0.0], header=header(2), name="miscounted")


def test_window() -> None:
    """A window counts from its own start, holds its left edge, and says what it left out."""
    cut = make([0.0, 10.0, 15.0, 20.0]).window(10.0, 20.0)
    assert cut.arrival_s.tolist() == [0.0, 5.0]
    assert cut.header.drops == {"outside the window": 2}
    with pytest.raises(TraceError, match="needs 0 <= start_s < end_s"):
        cut.window(5.0, 5.0)


@given(traces(), st.floats(1, 1e9))
def test_windows_partition(trace: Trace, cut_s: float) -> None:
    """Two windows that meet share the requests between them and lose none."""
    end_s = trace.duration_s + cut_s + 1
    assert len(trace.window(0, cut_s)) + len(trace.window(cut_s, end_s)) == len(trace)


def test_head() -> None:
    """The head holds the first requests, or all when there are fewer."""
    trace = make([0.0, 1.0, 2.0])
    assert len(trace.head(2)) == 2
    assert len(trace.head(9)) == 3
    assert trace.head(9).header.drops == {}
    with pytest.raises(TraceError, match=r"head\(-1\)"):
        trace.head(-1)


def test_speeding_up_keeps_every_request() -> None:
    """Speeding up divides intervals and pauses, keeps bursts and says so."""
    trace = make([0.0, 4.0, 4.0], think_time_s=[np.nan, 2.0, 0.0]).sped_up(2)
    assert trace.arrival_s.tolist() == [0.0, 2.0, 2.0]
    assert trace.think_time_s.tolist()[1:] == [1.0, 0.0]
    assert trace.header.notes == ("sped up 2 times: intervals and pauses divided, no request left out",)
    with pytest.raises(TraceError, match="factor must be finite and above 0"):
        trace.sped_up(0)


def test_thinning_keeps_times_and_sessions_whole() -> None:
    """Thinning leaves requests out at their own times, whole sessions at once, the same for the same seed."""
    session = np.repeat(np.arange(1000), 3)
    trace = make(np.arange(3000.0).tolist(), session=session)
    half = trace.thinned(0.5, seed=3)
    assert 1300 < len(half) < 1700
    assert set(np.unique(half.session, return_counts=True)[1]) == {3}
    assert set(half.arrival_s) <= set(trace.arrival_s)
    assert half.header.drops == {"thinned": 3000 - len(half)}
    assert_same(half, trace.thinned(0.5, seed=3))
    assert len(make(np.arange(3000.0).tolist()).thinned(0.5)) not in (0, 3000)
    assert len(trace.thinned(1.0)) == 3000
    with pytest.raises(TraceError, match="above 0 and at most 1"):
        trace.thinned(1.5)


def test_dequantising() -> None:
    """Arrivals that share a timestamp are spread up to the next one, and the header says so."""
    trace = make([0.0] * 50 + [3.0] * 50 + [6.0] * 50, output_tokens=np.arange(150)).dequantised(seed=1)
    assert len(np.unique(trace.arrival_s)) == 150
    assert sorted(trace.output_tokens[:50]) == list(range(50))
    assert trace.arrival_s[49] < 3.0 <= trace.arrival_s[50]
    assert trace.duration_s < 9.0
    assert "de-quantised (seed 1)" in trace.header.notes[0]
    with pytest.raises(TraceError, match="two or more"):
        make([1.0, 1.0]).dequantised()


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
@given(trace=traces())
@settings(max_examples=25, deadline=None)
def test_written_is_read(tmp_path_factory: pytest.TempPathFactory, suffix: str, trace: Trace) -> None:
    """A trace survives its file exactly: every column, the name and the header."""
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="Parquet is optional")
    path = tmp_path_factory.mktemp("written") / f"trace{suffix}"
    trace.write(path)
    assert_same(read_trace(path), trace)


def test_equal_traces_give_equal_bytes(tmp_path: Path) -> None:
    """Files carry no date and no path, so that a diff shows changes alone."""
    first = sample_trace().head(50).write(tmp_path / "first.jsonl.gz")
    second = sample_trace().head(50).write(tmp_path / "second.jsonl.gz")
    assert first.read_bytes() == second.read_bytes()
    rows = gzip.decompress(first.read_bytes()).splitlines()
    assert json.loads(rows[0])["trace_version"] == "factflow.trace/1"
    assert "gen_ai.request.max_tokens" not in json.loads(rows[1])


def test_mooncake_export(tmp_path: Path) -> None:
    """Another replayer's format keeps milliseconds and lengths, and refuses to say 0 for unknown."""
    path = make([0.0, 1.2345], input_tokens=[7, 8], output_tokens=[1, 2]).write(tmp_path / "m.jsonl", format="mooncake")
    assert json.loads(path.read_text().splitlines()[1]) == {
        "timestamp": 1234,
        "input_length": 8,
        "output_length": 2,
        "hash_ids": [],
    }
    assert read_trace(path).header.source == "mooncake"
    with pytest.raises(TraceError, match="1 of 1 requests have unknown tokens"):
        make([0.0], input_tokens=[7]).write(tmp_path / "unknown.jsonl", format="mooncake")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["m.jsonl"]


def test_files_are_not_overwritten(tmp_path: Path) -> None:
    """An existing file stays as it is unless asked otherwise; a folder that is not there is named."""
    path = tmp_path / "trace.jsonl"
    path.write_text("precious")
    with pytest.raises(TraceError, match=r"trace.jsonl: the file exists; .*overwrite=True"):
        make([0.0]).write(path)
    assert path.read_text() == "precious"
    make([0.0]).write(path, overwrite=True)
    assert len(read_trace(path)) == 1
    with pytest.raises(TraceError, match=r"cannot be written \(No such file"):
        make([0.0]).write(tmp_path / "missing" / "trace.jsonl")
    with pytest.raises(TraceError, match="format 'csv' is unknown; choose one of factflow, parquet, mooncake"):
        make([0.0]).write(tmp_path / "t.csv", format="csv")  # type: ignore[arg-type]


def test_parquet_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pyarrow the error says what to install, and leaves no file behind."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(TraceError, match="pip install pyarrow"):
        make([0.0]).write(tmp_path / "t.parquet")
    assert not list(tmp_path.iterdir())


def test_repr() -> None:
    """A trace tells its name, size, length and kind."""
    assert repr(synthesize(2.0, 60.0, seed=1, name="demo")).startswith("Trace('demo', ")
    assert repr(make([0.0, 2.5])) == "Trace('small', 2 requests in 2.5 s, simulated)"
