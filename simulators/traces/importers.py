"""Turn public traces into ours: one small function per format, the format recognised from the file's content."""

from __future__ import annotations

from array import array
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from simulators.traces import formats
from simulators.traces.recordings import read_ours, read_parquet
from simulators.traces.servegen import read_servegen
from simulators.traces.sessions import conversations, numbered
from simulators.traces.source import MAX_ROWS, Source, count, known_count, parse_row, seconds, shown, wrong_time
from simulators.traces.spans import read_spans
from simulators.traces.tables import Kind, field_names, read_table, require_order
from simulators.traces.trace import UNKNOWN, Floats, Integers, Mode, Trace, TraceError, TraceHeader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def read_trace(path: str | Path, *, seed: int = 0) -> Trace:
    """Read a trace, recognising its format from its content; ``.gz`` is unpacked on the way.

    Formats: Azure 2023 and 2024, BurstGPT v1 to v3, Mooncake, RAGPulse, TraceLab (rows and CSV), ServeGen (a folder
    or one chunk), OpenTelemetry GenAI spans, our own JSON Lines and Parquet.

    Args:
        path: a file, or a ServeGen folder.
        seed: for ServeGen alone, which publishes distributions: the requests are drawn, and marked simulated.

    Raises:
        TraceError: with file, line, value and remedy, for anything that is not a whole and sane trace.
    """
    path = Path(path)
    if path.is_dir():
        return read_servegen(path, seed)
    with Source(path) as source:
        if source.is_parquet:
            return read_parquet(path)
        first = next(source.lines(), None)
    if first is None:
        raise TraceError(f"{path}: the file is empty; a trace holds at least one request")
    if formats.SERVEGEN_CHUNK.fullmatch(first[1]):
        return read_servegen(path, seed)
    with Source(path) as source:
        return _recognised(source, first[1])(source)


def _recognised(source: Source, first: str) -> Callable[[Source], Trace]:
    known: tuple[formats.Format, ...]
    if first.lstrip()[:1] in ("{", "["):
        known, what = formats.JSON, "keys"
        try:
            names = list(parse_row(source, 1, first))
        except TraceError:
            return read_spans
    else:
        known, what = formats.CSV, "columns"
        names = field_names(first)
    for each in known:
        if each.needs <= set(names):
            return _READERS[each]
    nearest = max(known, key=lambda each: len(each.needs & set(names)) / len(each.needs))
    found = f"found {what} {', '.join(shown(name) for name in names[:10])}"
    if (lacking := sorted(nearest.needs - set(names))) and len(lacking) < len(nearest.needs):
        raise source.fault(f"looks like {nearest.name} but lacks {', '.join(lacking)}; {found}", 1)
    names_known = ", ".join(dict.fromkeys(each.name for each in _READERS))
    raise source.fault(f"not a trace of a known format ({names_known}, ServeGen); {found}", 1)


def _azure(source: Source) -> Trace:
    table = read_table(
        source, {"TIMESTAMP": Kind.WALL_CLOCK, "ContextTokens": Kind.COUNT, "GeneratedTokens": Kind.COUNT}
    )
    moments = table["TIMESTAMP"]
    require_order(source, "TIMESTAMP", moments, table.lines)
    return Trace.of(
        (moments - moments[0]) / 1e9,
        table["ContextTokens"],
        table["GeneratedTokens"],
        header=_header(source, "azure", len(table)),
        name=_name(source),
    )


def _burstgpt(source: Source) -> Trace:
    table = read_table(
        source,
        {"Timestamp": Kind.SECONDS, "Request tokens": Kind.COUNT, "Response tokens": Kind.COUNT},
        {"Session ID": Kind.TEXT, "Elapsed time": Kind.SECONDS},
    )
    require_order(source, "Timestamp", table["Timestamp"], table.lines)
    kept = table["Request tokens"] > 0
    if not kept.any():
        raise source.fault("every row has 0 request tokens; nothing was asked")
    arrival_s = table["Timestamp"][kept]
    output = np.where(table["Response tokens"] == 0, UNKNOWN, table["Response tokens"])[kept]
    known: dict[str, Any] = {}
    if "Session ID" in table:
        known["session"] = numbered(table["Session ID"][kept])
        elapsed_s = table["Elapsed time"][kept] if "Elapsed time" in table else np.full(len(arrival_s), np.nan)
        known["round_index"], known["think_time_s"] = conversations(known["session"], arrival_s, arrival_s + elapsed_s)
    failed = int((output == UNKNOWN).sum())
    return Trace.of(
        arrival_s - arrival_s[0],
        table["Request tokens"][kept],
        output,
        **known,
        header=_header(
            source,
            "burstgpt",
            len(table),
            drops={"no request tokens": int((~kept).sum())},
            notes=(f"{failed} requests failed in the source (0 response tokens): output unknown",) if failed else (),
        ),
        name=_name(source),
    )


def _mooncake(source: Source) -> Trace:
    rows = _Lengths(source)
    require_order(source, "timestamp", rows.times, rows.lines)
    return Trace.of(
        (rows.times - rows.times[0]) / 1e3,
        rows.input_tokens,
        rows.output_tokens,
        header=_header(source, "mooncake", len(rows.times)),
        name=_name(source),
    )


def _ragpulse(source: Source) -> Trace:
    rows = _Lengths(source, session_key="session_id")
    # The published week has exactly one pair out of order.
    require_order(source, "timestamp", rows.times, rows.lines, allowed=1)
    order = np.argsort(rows.times, kind="stable")
    times = rows.times[order]
    session = numbered(np.array(rows.sessions, dtype=object)[order])
    round_index, think_time_s = conversations(session, times, np.full(len(times), np.nan))
    return Trace.of(
        times - times[0],
        rows.input_tokens[order],
        rows.output_tokens[order],
        session=session,
        round_index=round_index,
        think_time_s=think_time_s,
        header=_header(source, "ragpulse", len(times), notes=("times in whole seconds", "sorted by time, stably")),
        name=_name(source),
    )


class _Lengths:
    """The columns that Mooncake and RAGPulse share."""

    def __init__(self, source: Source, session_key: str | None = None) -> None:
        times, inputs, outputs, lines = array("d"), array("q"), array("q"), array("q")
        self.sessions: list[str] = []
        for line, text, _ in source.lines():
            row = parse_row(source, line, text)
            times.append(seconds(source, line, row, "timestamp"))
            inputs.append(count(source, line, row, "input_length"))
            outputs.append(count(source, line, row, "output_length"))
            lines.append(line)
            if session_key:
                self.sessions.append(str(row.get(session_key) or ""))
            if len(lines) > MAX_ROWS:
                raise source.fault(f"more than {MAX_ROWS} rows; split the file", line)
        self.times: Floats = np.frombuffer(times)
        self.input_tokens: Integers = np.frombuffer(inputs, dtype=np.int64)
        self.output_tokens: Integers = np.frombuffer(outputs, dtype=np.int64)
        self.lines: Integers = np.frombuffer(lines, dtype=np.int64)


def _tracelab_table(source: Source) -> Trace:
    table = read_table(
        source,
        {
            "session_id": Kind.TEXT,
            "round_idx": Kind.COUNT,
            "prefix_len": Kind.COUNT,
            "input_len": Kind.COUNT,
            "output_len": Kind.COUNT,
            "tool_wait_after_ms": Kind.SECONDS,
        },
        {"arrival_time": Kind.SECONDS},
    )
    session = numbered(table["session_id"])
    waits_s = pd.Series(table["tool_wait_after_ms"] / 1e3)
    think_time_s = waits_s.groupby(session).shift()
    backwards = np.flatnonzero(pd.Series(table["round_idx"]).groupby(session).diff() <= 0)
    if len(backwards):
        line = int(table.lines[backwards[0]])
        raise source.fault("round_idx does not rise within its session; sort the file by session and round", line)
    start_s = table["arrival_time"] / 1e3 if "arrival_time" in table else np.zeros(len(table))
    arrival_s = start_s + think_time_s.fillna(0.0).groupby(session).cumsum().to_numpy()
    order = np.argsort(arrival_s, kind="stable")
    notes = ["later rounds arrive after the session's tool waits alone, as if answers took no time: replay by session"]
    if "arrival_time" not in table:
        notes.append("the file names no arrivals: every session starts at 0 s")
    return Trace.of(
        (arrival_s - arrival_s.min())[order],
        (table["prefix_len"] + table["input_len"])[order],
        table["output_len"][order],
        session=session[order],
        round_index=table["round_idx"][order],
        think_time_s=think_time_s.to_numpy()[order],
        header=_header(source, "tracelab", len(table), notes=tuple(notes)),
        name=_name(source),
    )


def _tracelab_rounds(source: Source) -> Trace:
    arrivals, ends, inputs, outputs, rounds = array("d"), array("d"), array("q"), array("q"), array("q")
    sessions: list[str] = []
    untimed = 0
    for line, text, _ in source.lines():
        row = parse_row(source, line, text)
        asked, answered = _round_times(source, line, row)
        if asked is None:
            untimed += 1
            continue
        arrivals.append(asked)
        ends.append(np.nan if answered is None else answered)
        inputs.append(known_count(source, line, row, "input_tokens_total"))
        outputs.append(known_count(source, line, row, "output_tokens"))
        rounds.append(count(source, line, row, "round_index"))
        sessions.append(str(row.get("session_id") or ""))
    if not arrivals:
        raise source.fault("no row has timing events; without times there is nothing to replay")
    times = np.frombuffer(arrivals)
    order = np.lexsort((np.frombuffer(rounds, dtype=np.int64), times))
    times = times[order]
    session = numbered(np.array(sessions, dtype=object)[order])
    _, think_time_s = conversations(session, times, np.frombuffer(ends)[order])
    return Trace.of(
        times - times[0],
        np.frombuffer(inputs, dtype=np.int64)[order],
        np.frombuffer(outputs, dtype=np.int64)[order],
        session=session,
        round_index=np.frombuffer(rounds, dtype=np.int64)[order],
        think_time_s=think_time_s,
        header=_header(source, "tracelab", len(times) + untimed, drops={"no timing events": untimed}),
        name=_name(source),
    )


def _round_times(source: Source, line: int, row: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return when a round was asked (its last input) and answered (its last output), in seconds since 1970."""
    events = row.get("timing_events")
    if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        raise source.fault("timing_events is not a list of events; correct or remove the row", line)
    asked: list[float] = []
    answered: list[float] = []
    for event in events:
        kind = event.get("event_type")
        if kind in ("user_message", "tool_result"):
            asked.append(_moment(source, line, event))
        elif kind in ("reasoning", "text", "tool_call"):
            answered.append(_moment(source, line, event))
    arrival = max(asked, default=min(answered, default=None))
    return arrival, max(answered, default=None)


def _moment(source: Source, line: int, event: Mapping[str, Any]) -> float:
    value = event.get("timestamp")
    try:
        moment = datetime.fromisoformat(str(value))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise wrong_time(source, line, "timestamp", value) from None


def _header(
    source: Source, name: str, rows_read: int, drops: Mapping[str, int] | None = None, notes: tuple[str, ...] = ()
) -> TraceHeader:
    dropped = {reason: number for reason, number in (drops or {}).items() if number}
    return TraceHeader(
        mode=Mode.IMPORTED,
        source=name,
        source_sha256=source.sha256,
        rows_read=rows_read,
        rows_emitted=rows_read - sum(dropped.values()),
        drops=dropped,
        notes=notes,
    )


def _name(source: Source) -> str:
    return source.path.name.split(".")[0]


_READERS: dict[formats.Format, Callable[[Source], Trace]] = {
    formats.AZURE: _azure,
    formats.BURSTGPT: _burstgpt,
    formats.TRACELAB_TABLE: _tracelab_table,
    formats.OURS: read_ours,
    formats.TRACELAB_ROUNDS: _tracelab_rounds,
    formats.RAGPULSE: _ragpulse,
    formats.MOONCAKE: _mooncake,
    formats.SPAN_EXPORT: read_spans,
    formats.SPAN_LINES: read_spans,
}
