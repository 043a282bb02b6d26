"""Read our own format, ``factflow.trace/1``: traces written by us, and recordings of attempts made in production."""

from __future__ import annotations

import json
from array import array
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from factflow_llm.recorder import LIMIT_FIGURES, TIME_FIELDS, TOTALS, TRACE_VERSION, VALUE_FIELDS
from factflow_llm.signals import Axis
from simulators.attempts import OUTCOMES, REQUEST_COLUMNS, Ending, ending_of, outcome_recorded
from simulators.traces.formats import REPLAYED, seems
from simulators.traces.sessions import numbered
from simulators.traces.source import (
    EXPANSION_FLOOR_BYTES,
    MAX_EXPANSION,
    MAX_ROWS,
    MAX_TIME_S,
    Source,
    known_count,
    parse_row,
    seconds,
    shown,
    wrong_time,
)
from simulators.traces.trace import UNKNOWN, Mode, Trace, TraceError, TraceHeader

if TYPE_CHECKING:
    from collections.abc import Mapping

# Columns of a Trace and their names in files, JSON Lines and Parquet alike.
TRACE_FIELDS = {
    "arrival_s": "t_arrival",
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "max_tokens": "gen_ai.request.max_tokens",
    "session": "session_id",
    "round_index": "round_index",
    "think_time_s": "think_time_s",
}
PARQUET_HEADER_KEY = b"factflow.trace"
_COUNT_FIELDS = (
    {"attempt": "attempt"}
    | {name: VALUE_FIELDS[name] for name in ("input_tokens", "output_tokens", "max_tokens", "status", "in_flight")}
    | {"queued": VALUE_FIELDS["queue_depth"]}
)
_ALWAYS_FIELDS = {"retry_after_s": VALUE_FIELDS["retry_after_s"], "rate_per_s": VALUE_FIELDS["limit"]}
_FIGURE_FIELDS = _ALWAYS_FIELDS | {
    f"{axis}_{figure}": f"factflow.ratelimit.{axis}.{figure}" for axis in Axis for figure in LIMIT_FIGURES
}
_TEXT_FIELDS = {"request": "call_id"} | {
    name: VALUE_FIELDS[name] for name in ("model", "provider", "operation", "error", "outcome", "axis", "reason")
}
_AXES = tuple(map(str, Axis))


@dataclass(frozen=True, eq=False, repr=False)
class Recording:
    """Attempts recorded in production.

    Attributes:
        attempts: one row per physical attempt, in the order in which they ended: the columns of
            :data:`simulators.attempts.ATTEMPT_COLUMNS`, ``error``, ``axis``, model and tokens and, where headers told,
            ``<axis>_limit``, ``<axis>_remaining`` and ``<axis>_reset_s``. Times count from the first arrival; NA is
            unknown.
        header: where it comes from, and what is missing.
        name: what plots and tables call it.
    """

    attempts: pd.DataFrame
    header: TraceHeader
    name: str

    def __repr__(self) -> str:
        return (
            f"Recording({self.name!r}, {len(self.attempts)} attempts, {sum(self.header.drops.values())} rows missing)"
        )

    # --- what plots ask of a run -------------------------------------------------------------------------------------

    clients = 1
    """Recorded by one process."""
    events = ()
    """What a provider changed meanwhile no recording tells."""

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One row per request, in order of arrival: see :data:`simulators.attempts.REQUEST_COLUMNS`."""
        calls = self.attempts.sort_values("attempt", kind="stable").groupby("request", sort=False)
        last = calls.last(skipna=False)
        ends = [ending_of(*words) for words in zip(last["outcome"], last["error"], strict=True)]
        frame = last.assign(
            arrival_s=calls["arrival_s"].first(),
            attempts=calls["sent_s"].count(),
            outcome=pd.Categorical(ends, categories=pd.Index([str(each) for each in Ending])),
            wait_s=lambda each: each["admitted_s"] - each["arrival_s"],
            latency_s=lambda each: each["end_s"] - each["arrival_s"],
        )
        return frame.sort_values("arrival_s", kind="stable").reset_index()[list(REQUEST_COLUMNS)]

    @cached_property
    def limits(self) -> pd.DataFrame:
        """One row per change of the limiter's rate from one admission to the next; rates that are unknown left out."""
        known = self.attempts[self.attempts["rate_per_s"].notna() & self.attempts["admitted_s"].notna()]
        known = known.sort_values("admitted_s", kind="stable")
        rate = known["rate_per_s"]
        changes = known.assign(time_s=known["admitted_s"], axis=str(Axis.REQUESTS), old=rate.shift(), new=rate)
        moved = changes["old"].notna() & (changes["old"] != changes["new"])
        return changes.loc[moved, ["time_s", "client", "axis", "old", "new", "reason"]].reset_index(drop=True)

    @cached_property
    def capacity(self) -> pd.DataFrame:
        """Without a row, for no recording knows it; ``calibrate`` finds out."""
        return pd.DataFrame({"time_s": [], "axis": [], "capacity": []})

    @property
    def horizon_s(self) -> float:
        """When the last attempt ended."""
        return float(self.attempts[["arrival_s", "end_s"]].max().max())

    def trace(self) -> Trace:
        """Return what was asked: one request per call, with the tokens of its last attempt that knew them."""
        calls = self.attempts.sort_values("attempt", kind="stable").groupby("request", sort=False)
        columns = {
            "arrival_s": calls["arrival_s"].first(),
            **{name: calls[name].last() for name in ("input_tokens", "output_tokens", "max_tokens")},
        }
        requests = pd.DataFrame(columns).sort_values("arrival_s", kind="stable")
        tokens = requests[["input_tokens", "output_tokens", "max_tokens"]].fillna(UNKNOWN).astype("int64")
        return Trace.of(
            requests["arrival_s"].to_numpy(),
            tokens["input_tokens"].to_numpy(),
            tokens["output_tokens"].to_numpy(),
            max_tokens=tokens["max_tokens"].to_numpy(),
            header=self.header.reduced(len(requests), "further attempts of a call"),
            name=self.name,
        )


def read_recording(path: str | Path) -> Recording:
    """Read a recording with all its parts (``stem.1.suffix`` …); one that was killed loads up to its last whole row.

    Raises:
        TraceError: with file, line, value and remedy, for anything else than a recording.
    """
    path = Path(path)
    if path.is_dir():
        raise TraceError(f"{path}: a folder; give the first file that a Recorder wrote")
    rows = _RecordingRows()
    part, file = 0, path
    while True:
        with Source(file) as source:
            if source.is_parquet:
                raise source.fault(f"not a recording ({TRACE_VERSION}): Parquet holds traces; {REPLAYED}")
            header = rows.read(source, part)
        part += 1
        file = path.with_name(f"{path.stem}.{part}{path.suffix}")
        if not file.exists():
            break
    return rows.recording(header, path.name.split(".")[0])


def read_ours(source: Source) -> Trace:
    """Return the trace in our JSON Lines, be it a written trace or a recording."""
    lines = source.lines()
    line, text, _ = next(lines)
    header = _our_header(source, line, parse_row(source, line, text))
    if header.get("mode") == Mode.RECORDED and "rows_emitted" not in header:
        return read_recording(source.path).trace()
    numbers = {name: array("q") for name in ("input_tokens", "output_tokens", "max_tokens", "round_index")}
    fields = [(numbers[name], TRACE_FIELDS[name]) for name in numbers]
    arrivals, pauses = array("d"), array("d")
    sessions: list[Any] = []
    for line, text, _ in lines:
        row = parse_row(source, line, text)
        arrivals.append(seconds(source, line, row, "t_arrival"))
        if len(arrivals) > 1 and arrivals[-1] < arrivals[-2]:
            raise source.fault(f"t_arrival {arrivals[-1]} runs backwards after {arrivals[-2]}; sort by time", line)
        for column, field in fields:
            column.append(known_count(source, line, row, field))
        pauses.append(np.nan if row.get("think_time_s") is None else seconds(source, line, row, "think_time_s"))
        sessions.append(row.get("session_id"))
        if len(arrivals) > MAX_ROWS:
            raise source.fault(f"more than {MAX_ROWS} rows; split the file", line)
    if not arrivals:
        raise source.fault("holds a header but no requests; a trace holds at least one")
    if header.get("rows_emitted", len(arrivals)) != len(arrivals):
        raise source.fault(
            f"holds {len(arrivals)} requests where its header promises {shown(header['rows_emitted'])}; "
            "the file is cut off or was edited: write the trace again"
        )
    columns = {name: np.frombuffer(values, dtype=np.int64) for name, values in numbers.items()}
    columns["round_index"] = np.maximum(columns["round_index"], 0)
    return Trace.of(
        np.frombuffer(arrivals),
        **columns,
        session=_session_numbers(sessions),
        think_time_s=np.frombuffer(pauses),
        header=_written_header(source, header, len(arrivals)),
        name=str(header.get("name") or source.path.name.split(".")[0]),
    )


def read_parquet(path: Path) -> Trace:
    """Return a trace from Parquet as ``Trace.write`` makes it; needs pyarrow."""
    try:
        file = parquet_library().ParquetFile(path)
        header = json.loads((file.schema_arrow.metadata or {}).get(PARQUET_HEADER_KEY, b"{}"))
        if header.get("trace_version") != TRACE_VERSION:
            raise TraceError(f"{path}: Parquet, but not a trace of ours ({TRACE_VERSION}); export it with Trace.write")
        rows = file.metadata.num_rows
        if rows > MAX_ROWS:
            raise TraceError(f"{path}: {rows} rows exceed {MAX_ROWS}; split the file")
        if 8 * len(TRACE_FIELDS) * rows > max(EXPANSION_FLOOR_BYTES, MAX_EXPANSION * path.stat().st_size):
            raise TraceError(
                f"{path}: {path.stat().st_size} bytes of Parquet hold {rows} rows, beyond {MAX_EXPANSION} times: this "
                "looks like a decompression bomb; write the trace again if you trust it"
            )
        for field in TRACE_FIELDS.values():
            if (kind := str(file.schema_arrow.field(field).type)) not in ("int64", "double"):
                raise TraceError(f"{path}: {field} is a column of {kind}, not of numbers; write the trace again")
        table = file.read(columns=list(TRACE_FIELDS.values()))
        columns: dict[str, Any] = {}
        for name, field in TRACE_FIELDS.items():
            values = table.column(field)
            unknown = np.nan if name in ("arrival_s", "think_time_s") else UNKNOWN
            columns[name] = values.fill_null(unknown).to_numpy()
        return Trace.of(**columns, header=TraceHeader.from_dict(header), name=str(header["name"]))
    except TraceError as error:
        raise error if str(path) in str(error) else TraceError(f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise TraceError(f"{path}: Parquet that cannot be read ({str(error)[:200]}); write the trace again") from None


def parquet_library() -> Any:
    """Return pyarrow's Parquet module, or say how to get it."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise TraceError("Parquet needs pyarrow: pip install pyarrow (JSON Lines need nothing)") from None
    return pyarrow.parquet


class _RecordingRows:
    """The columns of a recording, while its parts are read."""

    def __init__(self) -> None:
        self._times = {name: array("d") for name in TIME_FIELDS}
        self._counts = {name: array("q") for name in _COUNT_FIELDS}
        self._figures = {name: array("d") for name in _FIGURE_FIELDS}
        self._texts: dict[str, list[Any]] = {name: [] for name in _TEXT_FIELDS}
        self._words: dict[Any, Any] = {}
        self._recording: object = None
        self._torn = 0
        self._dropped = 0
        self._closed = False
        self._notes: list[str] = []
        self._digests: list[str] = []

    def __len__(self) -> int:
        return len(self._counts["attempt"])

    def read(self, source: Source, part: int) -> dict[str, Any]:
        """Add the rows of one part and return its header."""
        lines = source.lines()
        first = next(lines, None)
        if first is None:
            raise source.fault("the file is empty; a recording starts with a header")
        header = _recording_header(source, first[0], first[1])
        if part and header.get("recording") != self._recording:
            raise source.fault("belongs to another recording; move it elsewhere", first[0])
        self._recording = header.get("recording")
        before = len(self)
        self._closed = False
        for line, text, whole in lines:
            if not whole:
                # Only a killed writer leaves a line without its newline, and only as the last.
                self._torn += 1
                break
            row = parse_row(source, line, text)
            if TOTALS in row:
                self._check(source, line, row[TOTALS], len(self) - before)
            else:
                self._add(source, line, row)
        self._digests.append(source.sha256)
        return header

    def recording(self, header: Mapping[str, Any], name: str) -> Recording:
        """Return all that was read."""
        if not len(self):
            raise TraceError(f"{name}: the recording holds no attempts")
        start_s = min(self._times["arrival_s"])
        texts: dict[str, Any] = {column: pd.array(values, dtype=object) for column, values in self._texts.items()}
        frame: dict[str, Any] = {"request": texts.pop("request")}
        outcomes = map(outcome_recorded, texts["outcome"], texts["error"])
        texts["outcome"] = pd.Categorical(list(outcomes), categories=pd.Index(OUTCOMES))
        for column, numbers in self._counts.items():
            values = np.frombuffer(numbers, dtype=np.int64)
            frame[column] = pd.arrays.IntegerArray(values.copy(), values == UNKNOWN)
        for column, moments in self._times.items():
            frame[column] = np.frombuffer(moments) - start_s
        frame |= texts
        for column, figures in self._figures.items():
            values_f = np.frombuffer(figures)
            if column in _ALWAYS_FIELDS or not np.isnan(values_f).all():
                frame[column] = values_f
        drops = {"dropped by the recorder": self._dropped, "torn last row": self._torn}
        return Recording(
            attempts=pd.DataFrame(frame | {"client": np.zeros(len(self), dtype=np.int16)}),
            header=TraceHeader(
                mode=Mode.RECORDED,
                source=str(header.get("source", "factflow_llm.recorder")),
                source_sha256=" ".join(self._digests),
                created=header.get("created"),
                rows_read=len(self) + self._dropped + self._torn,
                rows_emitted=len(self),
                drops={reason: number for reason, number in drops.items() if number},
                notes=() if self._closed else ("the recorder was killed: its last rows may be missing",),
            ),
            name=name,
        )

    def _check(self, source: Source, line: int, totals: Any, rows: int) -> None:
        if not isinstance(totals, dict) or totals.get("rows") != rows:
            raise source.fault(
                f"{rows} rows stand before this line, where the recorder had counted otherwise ({str(totals)[:60]}); "
                "the file was edited or damaged",
                line,
            )
        self._dropped = known_count(source, line, totals, "dropped")
        self._closed = totals.get("closed") is True

    def _add(self, source: Source, line: int, row: dict[str, Any]) -> None:
        if len(self) >= MAX_ROWS:
            raise source.fault(f"more than {MAX_ROWS} rows; split the recording", line)
        for name, field in TIME_FIELDS.items():
            self._times[name].append(_moment(source, line, row, field, needed=name == "arrival_s"))
        for name, field in _COUNT_FIELDS.items():
            self._counts[name].append(known_count(source, line, row, field))
        for name, field in _FIGURE_FIELDS.items():
            self._figures[name].append(np.nan if row.get(field) is None else seconds(source, line, row, field))
        for name, field in _TEXT_FIELDS.items():
            value = row.get(field)
            if not isinstance(value, str | int | None) or (name == "request" and value is None):
                raise source.fault(f"{field} is {shown(value)}; it must be a word or number", line)
            if name == "axis" and value is not None and value not in _AXES:
                raise source.fault(f"{field} is {shown(value)}; it must be one of {', '.join(_AXES)}", line)
            self._texts[name].append(self._words.setdefault(value, value))


def _recording_header(source: Source, line: int, text: str) -> dict[str, Any]:
    """Return the header of a recording, or say what the file seems to be instead, and who reads it."""
    header: dict[str, Any] = {}
    if "trace_version" in text:
        header = _our_header(source, line, parse_row(source, line, text))
        if header.get("mode") == Mode.RECORDED and "rows_emitted" not in header:
            return header
    raise source.fault(f"not a recording ({TRACE_VERSION}): {seems(text)}", line)


def _our_header(source: Source, line: int, header: dict[str, Any]) -> dict[str, Any]:
    if header.get("trace_version") != TRACE_VERSION:
        raise source.fault(
            f"trace_version is {shown(header.get('trace_version'))}; this release reads {TRACE_VERSION}", line
        )
    return header


def _written_header(source: Source, header: Mapping[str, Any], rows: int) -> TraceHeader:
    given = {"mode": Mode.IMPORTED, "source": "factflow", "rows_read": rows, "rows_emitted": rows}
    try:
        return TraceHeader.from_dict(given | {"source_sha256": source.sha256} | dict(header))
    except (TypeError, ValueError, AttributeError) as error:
        raise source.fault(f"the header does not hold ({error}); write the trace again", 1) from None


def _session_numbers(sessions: list[Any]) -> Any:
    if all(each is None for each in sessions):
        return None
    if all(each is None or type(each) is int for each in sessions):
        return np.array([UNKNOWN if each is None else each for each in sessions], dtype=np.int64)
    return numbered(["" if each is None else f"{type(each).__name__} {each}" for each in sessions])


def _moment(source: Source, line: int, row: Mapping[str, Any], field: str, *, needed: bool) -> float:
    """Return a time of a recording; attempts that arrived before the first one recorded lie below 0."""
    value = row.get(field)
    if value is None and not needed:
        return np.nan
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= MAX_TIME_S:
        raise wrong_time(source, line, field, value, missing=value is None)
    return float(value)
