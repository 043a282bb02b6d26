"""Turn a column of times into seconds, and say which clock it was.

Dates are told by their look, Unix times by their size; any other number counts a unit that the format documents, the
column's name carries or the caller gives. A unit that none of these tells is asked for, never guessed.
"""

from __future__ import annotations

import re
from typing import Any, Literal, cast, get_args

import numpy as np
import pandas as pd

from simulators.traces.source import MAX_TIME_S, Place, shown, wrong_time
from simulators.traces.trace import Floats, Integers, TraceError

TimeUnit = Literal["s", "ms", "us", "ns"]

SECONDS_PER: dict[str, float] = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_SPOKEN = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
# Unix seconds of 2000 and 2100: no two units can both put a number between them.
_UNIX_S = (946_684_800.0, 4_102_444_800.0)
_EARLIEST = pd.Timestamp("1970-01-01", tz="UTC")
_LATEST = pd.Timestamp("2200-01-01", tz="UTC")
_NAMED_UNITS: tuple[tuple[TimeUnit, re.Pattern[str]], ...] = (
    ("ms", re.compile(r"(?i)(?:[_\s(\[.-](?:ms|msecs?|millis|milliseconds)|(?-i:[a-z]Ms)|milliseconds|millis)[)\]]?$")),
    ("us", re.compile(r"(?i)(?:[_\s(\[.-](?:us|µs|micros|microseconds)|microseconds|micros)[)\]]?$")),
    ("ns", re.compile(r"(?i)(?:[_\s(\[.-](?:ns|nanos|nanoseconds)|UnixNano|nanoseconds|nanos)[)\]]?$")),
    ("s", re.compile(r"(?i)(?:[_\s(\[.-](?:s|secs?|seconds)|seconds)[)\]]?$")),
)
_OTHER_ORDER = re.compile(r"\d\d?[./-]\d\d?[./-]\d{4}")
_BLANK = ("", " ", "null", "NULL", "Null", "none", "None", "\\N", "NA", "N/A", "n/a", "<NA>", "[NULL]")


def blanks(values: pd.Series[Any]) -> Any:
    """Return which fields are empty, or hold a word that databases write for nothing."""
    if values.dtype.kind in "iufbM":
        return np.asarray(values.isna())
    return np.asarray(values.isna() | values.isin(_BLANK))


def checked_unit(unit: str | None) -> TimeUnit | None:
    """Return a unit of time that a caller gave.

    Raises:
        TraceError: it is none.
    """
    if unit is not None and unit not in SECONDS_PER:
        raise TraceError(f"time_unit {unit!r} is unknown; give one of {', '.join(map(repr, get_args(TimeUnit)))}")
    return cast("TimeUnit | None", unit)


def unit_in_name(name: str) -> TimeUnit | None:
    """Return the unit that a column's name carries, as in ``arrival_ms`` or ``time (s)``."""
    return next((unit for unit, pattern in _NAMED_UNITS if pattern.search(name)), None)


class Clock:
    """One column of times, while its parts are read.

    Args:
        place: where the column stands, for errors.
        name: the column's.
        unit: what numbers count, as the caller says.
        documented: what they count by the format's documentation.
    """

    def __init__(self, place: Place, name: str, unit: TimeUnit | None, documented: TimeUnit | None = None) -> None:
        self.place = place
        self.name = name
        self._unit = unit
        self._documented = documented
        self.are_dates: bool | None = None
        self._parts: list[Any] = []
        self._lines: list[Integers] = []

    def add(self, values: pd.Series[Any], lines: Integers) -> None:
        """Take the next rows; NaN and NaT are times that are not known."""
        empty = blanks(values)
        if self.are_dates is None and not empty.all():
            first = values[~empty].iloc[0]
            self.are_dates = not isinstance(first, int | float | np.number) and not _is_number(str(first))
            if self.are_dates and self._unit is not None:
                raise self.place.fault(
                    f"{self.name} holds dates such as {shown(str(first))}; leave out time_unit={self._unit!r}"
                )
        if self.are_dates:
            self._parts.append(_dates(self.place, self.name, values, empty, lines))
        else:
            self._parts.append(_numbers(self.place, self.name, values, empty, lines))
        self._lines.append(lines)

    def settle(self) -> None:
        """Look at the whole column: from here on the unit is known.

        Raises:
            TraceError: a number's unit cannot be told; it says what each would mean.
        """
        nothing: Any = np.array([], dtype=np.int64 if self.are_dates else np.float64)
        self._values = np.concatenate(self._parts) if self._parts else nothing
        self._numbers_of_lines = np.concatenate(self._lines) if self._lines else np.array([], dtype=np.int64)
        self.known = (self._values != _NAT) if self.are_dates else ~np.isnan(self._values)
        self._scale = 1e-9
        self.told = "dates"
        if not self.are_dates and self.known.any():
            unit, self.told = self._told_unit(self._values[self.known])
            self._scale = SECONDS_PER[unit]
            self._require_bounds()

    @property
    def first(self) -> Any:
        """The earliest time, in the column's own counting."""
        return self._values[self.known].min()

    @property
    def started(self) -> str | None:
        """The earliest time as a date in UTC; ``None`` where times count from the trace's start."""
        first_s = float(self.first) * self._scale
        if not self.are_dates and not _UNIX_S[0] <= first_s <= _UNIX_S[1]:
            return None
        return pd.Timestamp(int(first_s * 1e6), unit="us", tz="UTC").strftime("%Y-%m-%dT%H:%M:%SZ")

    def seconds_since(self, first: Any) -> Floats:
        """Return seconds from ``first``; NaN where unknown."""
        passed = (self._values - first) * self._scale if not self.are_dates else (self._values - first) / 1e9
        return np.where(self.known, passed, np.nan)

    def line(self, row: int) -> int:
        """Return the line on which a row stands."""
        return int(self._numbers_of_lines[row])

    def _require_bounds(self) -> None:
        wrong = np.flatnonzero(self.known & ~((self._values >= 0) & (self._values * self._scale <= MAX_TIME_S)))
        if len(wrong):
            value = float(self._values[wrong[0]])
            raise wrong_time(self.place, self.line(int(wrong[0])), self.name, int(value) if value % 1 == 0 else value)

    def _told_unit(self, values: Floats) -> tuple[str, str]:
        if self._unit is not None:
            return self._unit, f"{_SPOKEN[self._unit]}, as given"
        least, most = values.min(), values.max()
        unix = next((u for u, s in SECONDS_PER.items() if _UNIX_S[0] <= least * s and most * s <= _UNIX_S[1]), None)
        if unix is not None:
            if self._documented not in (None, unix):
                raise self.place.fault(
                    f"{self.name} is documented in {_SPOKEN[str(self._documented)]}, but {least:.0f} looks like Unix "
                    f"{_SPOKEN[unix]}; say which: time_unit={self._documented!r} or {unix!r}"
                )
            return unix, f"Unix {_SPOKEN[unix]}"
        if self._documented is not None:
            return self._documented, f"{_SPOKEN[self._documented]}, as documented"
        named = unit_in_name(self.name)
        if named is not None:
            return named, f"{_SPOKEN[named]}, as the column is named"
        raise self.place.fault(self._question(float(most - least), len(values)))

    def _question(self, span: float, rows: int) -> str:
        meanings = "; ".join(
            f"time_unit={unit!r} makes {span * SECONDS_PER[unit]:.4g} s"
            + (f" at {rows / (span * SECONDS_PER[unit]):.3g} requests/s" if span else "")
            for unit in ("s", "ms", "us")
        )
        return (
            f"what the numbers of {shown(self.name)} count cannot be told from the file: {meanings}. "
            "Give time_unit (on the command line --time-unit)"
        )


_NAT = np.iinfo(np.int64).min


def durations(place: Place, name: str, values: pd.Series[Any], lines: Integers) -> Floats:
    """Return durations as the file's numbers; NaN where a field is empty."""
    numbers = _numbers(place, name, values, blanks(values), lines)
    wrong = np.flatnonzero((numbers < 0) | (numbers > MAX_TIME_S))
    if len(wrong):
        raise wrong_time(place, int(lines[wrong[0]]), name, float(numbers[wrong[0]]))
    return numbers


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ".", 1))
    except ValueError:
        return False
    return True


def _numbers(place: Place, name: str, values: pd.Series[Any], empty: Any, lines: Integers) -> Floats:
    if values.dtype.kind in "iuf":
        return np.asarray(values, dtype=np.float64)
    plain = np.array([isinstance(value, str | int | float) and not isinstance(value, bool) for value in values], bool)
    words: pd.Series[Any] = values.astype(str).where(plain & ~empty)
    numbers = np.asarray(pd.to_numeric(words, errors="coerce"), dtype=np.float64)
    odd = np.flatnonzero(~empty & ~(plain & np.isfinite(numbers)))
    if len(odd):
        raise wrong_time(place, int(lines[odd[0]]), name, _plain(values.iloc[int(odd[0])]))
    return numbers


def _dates(place: Place, name: str, values: pd.Series[Any], empty: Any, lines: Integers) -> Integers:
    if values.dtype.kind == "M":
        moments = pd.to_datetime(values, utc=True)
    else:
        texts = values
        if values.dtype == object and not set(map(type, values)) <= {str, type(None)}:
            texts = pd.Series([value if isinstance(value, str) else None for value in values], dtype=object)
        moments = pd.to_datetime(texts, format="ISO8601", utc=True, errors="coerce")
        if (moments.isna() & ~empty).any():
            moments = pd.to_datetime(_tidied(texts), format="ISO8601", utc=True, errors="coerce")
        # Plain numbers pass for years, which begin at midnight; a column of dates holds none.
        midnights = moments == moments.dt.normalize()
        numbers = pd.to_numeric(texts[midnights], errors="coerce").notna()
        moments = moments.mask(midnights & numbers.reindex(moments.index, fill_value=False))
    wrong = np.flatnonzero(~empty & ~np.asarray(moments.between(_EARLIEST, _LATEST)))
    if len(wrong):
        value = values.iloc[int(wrong[0])]
        remedy = "correct or remove the row"
        if _OTHER_ORDER.match(str(value)):
            remedy = (
                "which part is the month? Say it: "
                "Trace.from_frame(frame.assign(time=pandas.to_datetime(…, format=…)), columns=…)"
            )
        raise place.fault(
            f"{name} is {str(value)[:40]!r}; it must be a date and time such as 2023-11-16 18:17:03.9799600: {remedy}",
            int(lines[wrong[0]]),
        )
    return np.asarray(moments.dt.as_unit("ns").astype("int64"), dtype=np.int64)


def _tidied(texts: pd.Series[Any]) -> pd.Series[Any]:
    """Return dates as ISO 8601 where they end in a zone's name, or write a comma before the fraction."""
    spelt = texts.str.strip().str.replace(r"(?: ?\+00:?00)? ?(?:UTC|GMT)$", "+00:00", regex=True)
    return spelt.str.replace(r"(:\d\d),(\d)", r"\1.\2", regex=True).str.replace(r" ([+-]\d\d)", r"\1", regex=True)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
