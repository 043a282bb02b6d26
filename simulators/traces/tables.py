"""Read CSV columns at C speed and still name the line of every fault.

Lines are checked for their number of fields before pandas sees them and quotes mean nothing, so a row is a line.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from simulators.traces.source import MAX_ROWS, MAX_TIME_S, Source, wrong_count, wrong_time
from simulators.traces.trace import MAX_TOKENS, Floats, Integers, TraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Kind(Enum):
    """What the fields of a column are."""

    COUNT = "count"
    SECONDS = "seconds"
    WALL_CLOCK = "wall clock"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of a CSV file and the line each row stood on. Wall clocks are nanoseconds since 1970."""

    columns: Mapping[str, Any]
    lines: Integers

    def __getitem__(self, name: str) -> Any:
        return self.columns[name]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __len__(self) -> int:
        return len(self.lines)


def field_names(header: str) -> list[str]:
    """Return the column names of a CSV header."""
    return [name.strip().strip('"') for name in header.rstrip("\r\n").split(",")]


def read_table(source: Source, needed: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None) -> Table:
    """Return the ``needed`` columns and those of the ``optional`` ones that the file has.

    Raises:
        TraceError: with file and line, for rows of the wrong width and fields that are not of their kind.
    """
    names: list[str] = []
    wanted: dict[str, Kind] = {}
    parts: dict[str, list[Any]] = {}
    lines: list[Integers] = []
    for block in source.blocks():
        body, first_line = block.data, block.first_line
        if first_line == 1:
            header, _, body = body.partition(b"\n")
            names = field_names(header.decode())
            wanted = dict(needed) | {name: kind for name, kind in (optional or {}).items() if name in names}
            parts = {name: [] for name in wanted}
            first_line += 1
        numbers = _row_lines(source, body, first_line, len(names))
        if not len(numbers):
            continue
        if sum(map(len, lines)) + len(numbers) > MAX_ROWS:
            raise source.fault(f"more than {MAX_ROWS} rows; split the file", int(numbers[-1]))
        frame = pd.read_csv(
            io.BytesIO(body),
            header=None,
            names=list(range(len(names))),
            usecols=[names.index(name) for name in wanted],
            dtype={names.index(name): str for name in wanted if wanted[name] in (Kind.WALL_CLOCK, Kind.TEXT)},
            na_filter=False,
            quoting=csv.QUOTE_NONE,
            lineterminator="\n",
            low_memory=False,
        )
        for name, kind in wanted.items():
            parts[name].append(_CONVERT[kind](source, name, frame[names.index(name)], numbers))
        lines.append(numbers)
    if not lines:
        raise source.fault("has a header but no rows; a trace holds at least one request")
    return Table({name: np.concatenate(part) for name, part in parts.items()}, np.concatenate(lines))


def require_order(source: Source, name: str, times: Floats | Integers, lines: Integers, *, allowed: int = 0) -> None:
    """Raise when times run backwards more than ``allowed`` times."""
    backwards = np.flatnonzero(np.diff(times) < 0)
    if len(backwards) > allowed:
        row = int(backwards[allowed]) + 1
        raise source.fault(
            f"{name} runs backwards here ({len(backwards)} times in the file); sort the file by {name}", int(lines[row])
        )


def _row_lines(source: Source, body: bytes, first_line: int, width: int) -> Integers:
    """Return the line number of each row, blank lines left out, after checking that every row has ``width`` fields."""
    text = np.frombuffer(body, dtype=np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    if len(text) and text[-1] != ord("\n"):
        ends = np.append(ends, len(text))
    blank = np.diff(ends, prepend=-1) == 1
    commas = np.diff(np.searchsorted(np.flatnonzero(text == ord(",")), ends), prepend=0)
    wrong = np.flatnonzero(~blank & (commas != width - 1))
    if len(wrong):
        raise source.fault(
            f"{commas[wrong[0]] + 1} fields where the header has {width}; the row is damaged or cut off",
            first_line + int(wrong[0]),
        )
    numbers: Integers = first_line + np.flatnonzero(~blank)
    return numbers


def _first_wrong(right: Any, values: pd.Series[Any], lines: Integers) -> tuple[Any, int] | None:
    wrong = np.flatnonzero(~np.asarray(right))
    if not len(wrong):
        return None
    value = values.iloc[int(wrong[0])]
    return value.item() if isinstance(value, np.generic) else value, int(lines[wrong[0]])


def _numbers(values: pd.Series[Any]) -> pd.Series[Any]:
    return values if values.dtype.kind in "iuf" else pd.to_numeric(values.astype(str), errors="coerce")


def _counts(source: Source, name: str, values: pd.Series[Any], lines: Integers) -> Integers:
    numbers = _numbers(values)
    if wrong := _first_wrong(numbers.between(0, MAX_TOKENS) & (numbers % 1 == 0), values, lines):
        raise wrong_count(source, wrong[1], name, wrong[0])
    return np.asarray(numbers, dtype=np.int64)


def _seconds(source: Source, name: str, values: pd.Series[Any], lines: Integers) -> Floats:
    numbers = _numbers(values)
    if wrong := _first_wrong(numbers.between(0, MAX_TIME_S), values, lines):
        raise wrong_time(source, wrong[1], name, wrong[0])
    return np.asarray(numbers, dtype=np.float64)


def _wall_clock(source: Source, name: str, values: pd.Series[Any], lines: Integers) -> Integers:
    moments = pd.to_datetime(values, format="ISO8601", utc=True, errors="coerce")
    if wrong := _first_wrong(moments.between(_EARLIEST, _LATEST), values, lines):
        raise _wrong_clock(source, wrong[1], name, wrong[0])
    return np.asarray(moments.dt.as_unit("ns").astype("int64"), dtype=np.int64)


def _text(source: Source, name: str, values: pd.Series[Any], lines: Integers) -> Any:
    return values.to_numpy(dtype=object)


def _wrong_clock(source: Source, line: int, name: str, value: object) -> TraceError:
    return source.fault(
        f"{name} is {str(value)[:40]!r}; it must be a date and time such as 2023-11-16 18:17:03.9799600: "
        "correct or remove the row",
        line,
    )


_EARLIEST = pd.Timestamp("1970-01-01", tz="UTC")
_LATEST = pd.Timestamp("2200-01-01", tz="UTC")
_CONVERT: Mapping[Kind, Callable[[Source, str, pd.Series[Any], Integers], Any]] = {
    Kind.COUNT: _counts,
    Kind.SECONDS: _seconds,
    Kind.WALL_CLOCK: _wall_clock,
    Kind.TEXT: _text,
}
