"""Published traces whose rows say more than a map of columns can: failures, sessions, rounds of events."""

from __future__ import annotations

from array import array
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from simulators.traces.clocks import blanks, durations
from simulators.traces.formats import TRACELAB_TABLE
from simulators.traces.rows import counts, json_objects
from simulators.traces.sessions import conversations, numbered
from simulators.traces.source import Source, count, known_count, parse_row, seconds, wrong_count, wrong_time
from simulators.traces.tables import Header, table_blocks
from simulators.traces.trace import UNKNOWN, Integers, Mode, Trace, TraceHeader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simulators.traces.rows import Rows


def without_failures(source: Source, rows: Rows) -> tuple[Rows, str]:
    """Return BurstGPT's rows without those that asked nothing; an answer of 0 tokens is a failed call's: unknown."""
    asked = rows.tokens["input_tokens"] != 0
    if not asked.any():
        raise source.fault("every row has 0 request tokens; nothing was asked")
    output = rows.tokens["output_tokens"][asked]
    failed = int((output == 0).sum())
    arrival_s = rows.arrival_s[asked]
    left_out = int((~asked).sum())
    kept = replace(
        rows,
        arrival_s=arrival_s - arrival_s.min(),
        tokens={
            "input_tokens": rows.tokens["input_tokens"][asked],
            "output_tokens": np.where(output == 0, UNKNOWN, output),
        },
        session=None if rows.session is None else rows.session[asked],
        end_s=None if rows.end_s is None else rows.end_s[asked] - arrival_s.min(),
        lines=rows.lines[asked],
        drops=dict(rows.drops) | ({"no request tokens": left_out} if left_out else {}),
    )
    return kept, f"{failed} requests failed in the source (0 response tokens): output unknown" if failed else ""


def united_chats(source: Source, rows: Rows) -> Rows:
    """Return Bailian's rows with the chats that continue each other as one session."""
    roots: dict[Any, int] = {}
    sessions = array("q")
    for _, row in json_objects(source, ()):
        chat, parent = row.get("chat_id"), row.get("parent_chat_id")
        root = roots.get(parent, len(roots)) if parent not in (None, -1, "-1", "") else len(roots)
        sessions.append(roots.setdefault(chat, root))
    return replace(rows, session=np.frombuffer(sessions, dtype=np.int64))


def read_aiperf(source: Source) -> Trace:
    """Return AIPerf's sessions: a turn without ``timestamp`` comes ``delay`` after the one before (ms)."""
    arrivals, pauses, inputs, outputs = array("d"), array("d"), array("q"), array("q")
    sessions: list[str] = []
    latest: dict[str, float] = {}
    for line, row in json_objects(source, ()):
        session = str(row.get("session_id") or "")
        pause_s = seconds(source, line, row, "delay") / 1e3 if row.get("delay") is not None else np.nan
        if row.get("timestamp") is not None:
            arrival_s = seconds(source, line, row, "timestamp") / 1e3
        elif session in latest and pause_s == pause_s:
            arrival_s = latest[session] + pause_s
        else:
            raise wrong_time(source, line, "timestamp", None, missing=True)
        latest[session] = arrival_s
        arrivals.append(arrival_s)
        pauses.append(pause_s)
        inputs.append(known_count(source, line, row, "input_length"))
        outputs.append(known_count(source, line, row, "output_length"))
        sessions.append(session)
    times = np.frombuffer(arrivals)
    order = np.argsort(times, kind="stable")
    session_numbers = numbered(np.array(sessions, dtype=object)[order])
    place, _ = conversations(session_numbers, times[order], np.full(len(times), np.nan))
    return Trace.of(
        times[order] - times.min(),
        np.frombuffer(inputs, dtype=np.int64)[order],
        np.frombuffer(outputs, dtype=np.int64)[order],
        session=session_numbers,
        round_index=place,
        think_time_s=np.frombuffer(pauses)[order],
        header=_header(
            source,
            "aiperf",
            len(times),
            notes=("times: milliseconds, as documented; a turn without one follows the one before after its delay",),
        ),
        name=_name(source),
    )


def read_tracelab_table(source: Source, header: Header) -> Trace:
    """Return TraceLab's sessions from its CSV; a round comes after the tool waits of the rounds before."""
    table, lines = _tracelab_columns(source, header)
    session = numbered(table["session_id"])
    waits_s = pd.Series(table["tool_wait_after_ms"] / 1e3)
    think_time_s = waits_s.groupby(session).shift()
    backwards = np.flatnonzero(pd.Series(table["round_idx"]).groupby(session).diff() <= 0)
    if len(backwards):
        line = int(lines[backwards[0]])
        raise source.fault("round_idx does not rise within its session; sort the file by session and round", line)
    start_s = table["arrival_time"] / 1e3 if "arrival_time" in table else np.zeros(len(lines))
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
        header=_header(source, "tracelab", len(lines), notes=tuple(notes)),
        name=_name(source),
    )


def _tracelab_columns(source: Source, header: Header) -> tuple[dict[str, Any], Integers]:
    places = {
        name: header.names.index(name) for name in (*sorted(TRACELAB_TABLE), "arrival_time") if name in header.names
    }
    parts: dict[str, list[Any]] = {name: [] for name in places}
    lines: list[Integers] = []
    for frame, numbers in table_blocks(source, header, set(places.values()), {places["session_id"]}):
        for name, place in places.items():
            values = frame[place]
            if name == "session_id":
                parts[name].append(values.to_numpy(dtype=object))
                continue
            if (empty := blanks(values)).any():
                raise wrong_count(source, int(numbers[np.argmax(empty)]), name, "")
            read = durations if name in ("arrival_time", "tool_wait_after_ms") else counts
            parts[name].append(read(source, name, values, numbers))
        lines.append(numbers)
    if not lines:
        raise source.fault("has a header but no rows; a trace holds at least one request")
    return {name: np.concatenate(part) for name, part in parts.items()}, np.concatenate(lines)


def read_tracelab_rounds(source: Source) -> Trace:
    """Return TraceLab's rounds: asked with their last input, answered with their last output."""
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
