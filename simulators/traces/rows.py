"""The rows of a log as columns of numbers, whatever the file: gathered chunk by chunk, then made into a trace."""

from __future__ import annotations

import contextlib
import json
import re
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from simulators.traces.clocks import Clock, TimeUnit, blanks, durations
from simulators.traces.documents import json_values
from simulators.traces.sessions import conversations
from simulators.traces.source import MAX_ROWS, Place, Source, wrong_count, wrong_time
from simulators.traces.tables import Header, table_blocks
from simulators.traces.trace import MAX_TOKENS, UNKNOWN, Floats, Integers, Mode, Trace, TraceHeader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from simulators.traces.layouts import Chosen

_CHUNK_ROWS = 65_536
GROUPED = re.compile(r"\d{1,3}(,\d{3})+")  # 1,234: nobody counts thousandths of tokens
_TOKENS = ("input_tokens", "output_tokens", "max_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The calls of a log, in the file's order.

    Attributes:
        arrival_s: seconds since the earliest arrival.
        tokens: input, output and max_tokens, where the log has them; -1 where unknown.
        session: number of each call's conversation, -1 for none; ``None`` where the log has no conversations.
        end_s: when the answer ended, on the clock of ``arrival_s``; ``None`` where the log does not say.
        lines: where each stands.
        drops: rows left out, by reason.
        started: the earliest arrival as a date, where it is one.
        told: how times were read.
    """

    arrival_s: Floats
    tokens: Mapping[str, Integers]
    session: Integers | None
    end_s: Floats | None
    lines: Integers
    drops: Mapping[str, int]
    started: str | None
    told: str


class Gathering:
    """Columns of a log while its chunks come in.

    Args:
        place: the file or frame, for errors.
        chosen: which column says what.
        time_unit: what numbers of time count, as the caller says.
    """

    def __init__(self, place: Place, chosen: Chosen, time_unit: TimeUnit | None) -> None:
        self.place = place
        self.chosen = chosen
        layout = chosen.layout
        self._clocks = {
            field: Clock(place, chosen.spelt(field), time_unit, layout.time_unit)
            for field in ("time", "end_time")
            if field in chosen.columns
        }
        self._tokens: dict[str, list[Integers]] = {name: [] for name in _TOKENS if name in chosen.columns}
        self._elapsed_s: list[Floats] = []
        self._names: dict[str, int] = {}
        self._sessions = array("q")
        self._lines: list[Integers] = []
        self._drops = {"not a model call": 0, "no time": 0}
        self._count = 0

    def add(self, columns: Mapping[str, pd.Series[Any]], lines: Integers) -> None:
        """Take the next rows: a column per field that was chosen."""
        self._count += len(lines)
        if self._count > MAX_ROWS:
            raise self.place.fault(f"more than {MAX_ROWS} rows; split the file", int(lines[-1]))
        if (words := self.chosen.layout.calls) is not None and "call" in columns:
            keep = np.asarray(columns["call"].astype(str).str.strip().str.lower().isin(words))
            columns, lines = self._without(columns, lines, keep, "not a model call")
        untimed = blanks(columns["time"])
        if untimed.any():
            if self.chosen.layout.strict:
                row = int(np.flatnonzero(untimed)[0])
                value = columns["time"].iloc[row]
                missing = not isinstance(value, str)
                raise wrong_time(self.place, int(lines[row]), self.chosen.spelt("time"), value, missing=missing)
            columns, lines = self._without(columns, lines, ~untimed, "no time")
        if not len(lines):
            return
        for field, clock in self._clocks.items():
            clock.add(columns[field], lines)
        for field, parts in self._tokens.items():
            parts.append(counts(self.place, self.chosen.spelt(field), columns[field], lines))
        if "elapsed_s" in columns:
            elapsed_s = durations(self.place, self.chosen.spelt("elapsed_s"), columns["elapsed_s"], lines)
            self._elapsed_s.append(elapsed_s)
        if "session" in columns:
            empty = blanks(columns["session"])
            for value, nothing in zip(columns["session"].tolist(), empty, strict=True):
                self._sessions.append(UNKNOWN if nothing else self._names.setdefault(str(value), len(self._names)))
        self._lines.append(lines)

    def rows(self) -> Rows:
        """Return all rows.

        Raises:
            TraceError: there are none, or a unit of time cannot be told.
        """
        if not self._lines:
            if not self._count:
                raise self.place.fault("has a header but no rows; a trace holds at least one request")
            reasons = ", ".join(f"{number} {reason}" for reason, number in self._drops.items() if number)
            raise self.place.fault(f"holds no call of a model: of {self._count} rows {reasons}")
        for clock in self._clocks.values():
            clock.settle()
        time, end = self._clocks["time"], self._clocks.get("end_time")
        arrival_s = time.seconds_since(time.first)
        end_s = arrival_s + np.concatenate(self._elapsed_s) if self._elapsed_s else None
        if end is not None and end.are_dates == time.are_dates:
            end_s = end.seconds_since(time.first)
        return Rows(
            arrival_s=arrival_s,
            tokens={name: np.concatenate(parts) for name, parts in self._tokens.items()},
            session=np.frombuffer(self._sessions, dtype=np.int64) if len(self._sessions) else None,
            end_s=end_s,
            lines=np.concatenate(self._lines),
            drops={reason: number for reason, number in self._drops.items() if number},
            started=time.started,
            told=time.told,
        )

    def _without(
        self, columns: Mapping[str, pd.Series[Any]], lines: Integers, keep: Any, reason: str
    ) -> tuple[Mapping[str, pd.Series[Any]], Integers]:
        self._drops[reason] += int((~keep).sum())
        return {name: values[keep] for name, values in columns.items()}, lines[keep]


def table_rows(source: Source, chosen: Chosen, header: Header, time_unit: TimeUnit | None) -> Rows:
    """Return the rows of a CSV file."""
    gathering = Gathering(source, chosen, time_unit)
    places = {field: header.names.index(path[0]) for field, path in chosen.columns.items()}
    inner = {field: path[1:] for field, path in chosen.columns.items() if len(path) > 1}
    texts = {places[field] for field in places if field in ("session", "call") or field in inner}
    for frame, lines in table_blocks(source, header, set(places.values()), texts):
        columns = {field: frame[place] for field, place in places.items()}
        for field, path in inner.items():
            cells = [within(_cell(text), path) for text in columns[field]]
            columns[field] = pd.Series(cells, dtype=object)
        gathering.add(columns, lines)
    return gathering.rows()


def json_rows(source: Source, chosen: Chosen, time_unit: TimeUnit | None) -> Rows:
    """Return the rows of a JSON file."""
    gathering = Gathering(source, chosen, time_unit)
    rows = json_objects(source, chosen.inside)
    while chunk := list(islice(rows, _CHUNK_ROWS)):
        lines = np.array([line for line, _ in chunk], dtype=np.int64)
        columns = {field: _column(_values(chunk, path)) for field, path in chosen.columns.items()}
        if chosen.layout.strict:
            _refuse_words(source, chosen, columns, lines)
        gathering.add(columns, lines)
    return gathering.rows()


def json_objects(source: Source, inside: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a file, or those of the list that stands ``inside`` each of its values."""
    for line, value in json_values(source):
        if not inside:
            if not isinstance(value, dict):
                raise source.fault(f"{type(value).__name__} is not a JSON object; every row is one", line)
            yield line, value
            continue
        for each in within(value, inside) or ():
            if isinstance(each, dict):
                yield line, each


def within(value: Any, path: Sequence[str]) -> Any:
    """Return what stands at a path of keys; ``*word*`` sums the numbers of all keys that hold the word."""
    for key in path:
        if not isinstance(value, Mapping):
            return None
        if key.startswith("*"):
            word = key.strip("*")
            numbers = [each for name, each in value.items() if word in name and isinstance(each, int | float)]
            return sum(numbers) if numbers else None
        value = value.get(key)
    return value


def trace_of(place: Place, chosen: Chosen, rows: Rows, *, name: str, sha256: str | None, note: str = "") -> Trace:
    """Return the trace of a log's rows, sorted by time."""
    order: Any = slice(None)
    notes = [*([note] if note else []), f"times: {rows.told}"]
    backwards = int((np.diff(rows.arrival_s) < 0).sum())
    if backwards:
        _require_one_start(place, chosen, rows)
        order = np.argsort(rows.arrival_s, kind="stable")
        notes.append(f"sorted by time: {backwards} rows stood before an earlier one")
    arrival_s = rows.arrival_s[order]
    known: dict[str, Any] = {field: values[order] for field, values in rows.tokens.items()}
    if rows.session is not None:
        known["session"] = _in_order(rows.session[order])
        end_s = np.full(len(arrival_s), np.nan) if rows.end_s is None else rows.end_s[order]
        known["round_index"], known["think_time_s"] = conversations(known["session"], arrival_s, end_s)
    return Trace.of(
        arrival_s,
        **known,
        header=TraceHeader(
            mode=Mode.IMPORTED,
            source=chosen.layout.name,
            source_sha256=sha256,
            created=rows.started,
            rows_read=len(arrival_s) + sum(rows.drops.values()),
            rows_emitted=len(arrival_s),
            drops=rows.drops,
            notes=tuple(notes),
        ),
        name=name,
    )


def _require_one_start(place: Place, chosen: Chosen, rows: Rows) -> None:
    """Refuse times that count from a start and begin anew: that is two traces in one file, and no order mends it."""
    if chosen.layout.name == "ragpulse":  # its published week does, before its last rows
        return
    back = np.flatnonzero(np.diff(rows.arrival_s) < 0) + 1
    if rows.started is None and np.all(rows.arrival_s[back] <= rows.arrival_s[0]):
        row = int(back[0])
        raise place.fault(
            f"{chosen.spelt('time')} runs backwards here, to where the file began or before ({len(back)} times in the "
            "file): two traces in one file? Split it, or sort it",
            int(rows.lines[row]),
        )


def counts(place: Place, name: str, values: pd.Series[Any], lines: Integers) -> Integers:
    """Return counts of tokens; -1 where a field is empty."""
    empty = blanks(values)
    numbers = values
    if values.dtype.kind not in "iuf":
        odd = [isinstance(value, bool) or not isinstance(value, str | int | float) for value in values]
        words = values.astype(str).where(~empty & ~np.array(odd))
        grouped = words.str.fullmatch(GROUPED).fillna(False).astype(bool)
        numbers = pd.to_numeric(words.mask(grouped, words.str.replace(",", "")), errors="coerce")
    whole = np.asarray(numbers.between(0, MAX_TOKENS) & (numbers % 1 == 0)) | empty
    if not whole.all():
        row = int(np.flatnonzero(~whole)[0])
        raise wrong_count(place, int(lines[row]), name, plain(values.iloc[row]))
    return np.asarray(numbers.where(~empty, UNKNOWN), dtype=np.int64)


def _in_order(session: Integers) -> Integers:
    """Return sessions numbered in order of appearance."""
    numbers = pd.factorize(np.where(session == UNKNOWN, np.nan, session))[0]
    return np.asarray(numbers, dtype=np.int64)


def _values(chunk: list[tuple[int, dict[str, Any]]], path: Sequence[str]) -> list[Any]:
    if len(path) == 1 and not path[0].startswith("*"):
        key = path[0]
        return [row.get(key) for _, row in chunk]
    return [within(row, path) for _, row in chunk]


def _cell(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _column(values: list[Any]) -> pd.Series[Any]:
    if set(map(type, values)) <= {int, float, type(None)}:
        with contextlib.suppress(OverflowError):
            return pd.Series(np.array(values, dtype=np.float64))
    return pd.Series(values, dtype=object)


def _refuse_words(source: Source, chosen: Chosen, columns: Mapping[str, pd.Series[Any]], lines: Integers) -> None:
    """Hold a published format to numbers where it has numbers."""
    for field in _TOKENS:
        for row, value in enumerate(columns[field] if field in columns and columns[field].dtype == object else ()):
            if isinstance(value, str):
                raise wrong_count(source, int(lines[row]), chosen.spelt(field), value)


def plain(value: Any) -> Any:
    """Return a value as it stood in the file."""
    value = value.item() if isinstance(value, np.generic) else value
    return int(value) if isinstance(value, float) and value % 1 == 0 else value
