"""The trace as a value: one row per request, held as columns, with a header that says where it came from.

Nothing here reads a file; importers make traces, exporters write them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from factflow_llm.errors import FactflowLLMError
from simulators.streams import generator

if TYPE_CHECKING:
    from collections.abc import Mapping

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

MAX_TOKENS = 1_000_000_000
UNKNOWN = -1


class TraceError(FactflowLLMError, ValueError):
    """A trace that cannot be read, made or written; the message names the place, the value and the remedy."""


class Mode(StrEnum):
    """How the times and tokens of a trace came to be."""

    RECORDED = "recorded"
    IMPORTED = "imported"
    SIMULATED = "simulated"


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceHeader:
    """Where a trace came from and what was done to it. ``rows_read`` is always ``rows_emitted`` plus all ``drops``.

    Attributes:
        mode: recorded by us, imported from another's log, or drawn from a distribution.
        source: name of the format or generator.
        source_sha256: digest of the file as read.
        licence: the data's licence; ``None`` when the file does not tell.
        created: when it was recorded, ISO 8601; ``None`` where a date would only spoil reproducibility.
        rows_read: rows seen in the source.
        rows_emitted: requests in this trace.
        drops: rows left out, by reason.
        seed: the seed of a drawn trace.
        notes: transformations and caveats, in order.
    """

    mode: Mode
    source: str
    rows_read: int
    rows_emitted: int
    source_sha256: str | None = None
    licence: str | None = None
    created: str | None = None
    drops: Mapping[str, int] = field(default_factory=dict)
    seed: int | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        dropped = sum(self.drops.values())
        if self.rows_read != self.rows_emitted + dropped:
            raise TraceError(
                f"rows do not reconcile: {self.rows_read} read, {self.rows_emitted} kept, {dropped} dropped "
                f"{dict(self.drops)}; every row must be kept or dropped for a reason"
            )

    def noted(self, note: str) -> TraceHeader:
        """Return the header with one more note."""
        return replace(self, notes=(*self.notes, note))

    def later(self, by_s: float) -> TraceHeader:
        """Return the header of a trace that begins so many seconds later."""
        if self.created is None or by_s == 0:
            return self
        begins = datetime.fromisoformat(self.created) + timedelta(seconds=by_s)
        return replace(self, created=begins.isoformat().replace("+00:00", "Z"))

    def reduced(self, rows_emitted: int, reason: str) -> TraceHeader:
        """Return the header of a trace of ``rows_emitted`` requests, the others left out for ``reason``."""
        drops = dict(self.drops)
        if rows_emitted < self.rows_emitted:
            drops[reason] = drops.get(reason, 0) + self.rows_emitted - rows_emitted
        return replace(self, rows_emitted=rows_emitted, drops=drops)

    def as_dict(self) -> dict[str, Any]:
        """Return the header as plain values for JSON."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        return plain | {"mode": str(self.mode), "drops": dict(self.drops), "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> TraceHeader:
        """Make a header from plain values, leaving out keys that later versions may add."""
        known = {each.name: plain[each.name] for each in fields(cls) if each.name in plain}
        known["mode"] = Mode(known["mode"])
        known["notes"] = tuple(known.get("notes", ()))
        return cls(**known)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Trace:
    """Requests in order of arrival, as read-only columns of equal length.

    Attributes:
        arrival_s: intended arrival, seconds from the trace's zero, never falling.
        input_tokens: tokens of the prompt; -1 where unknown.
        output_tokens: tokens of the answer; -1 where unknown (a failed request's answer is unknown, not empty).
        max_tokens: the caller's bound on the answer; -1 where none is known.
        session: number of the conversation; -1 where the request belongs to none.
        round_index: place within the conversation, from 0.
        think_time_s: pause between the previous answer of the session and this request; NaN where unknown.
        header: where the trace came from.
        name: what plots and tables call it.
    """

    arrival_s: Floats
    input_tokens: Integers
    output_tokens: Integers
    max_tokens: Integers
    session: Integers
    round_index: Integers
    think_time_s: Floats
    header: TraceHeader
    name: str

    def __post_init__(self) -> None:
        for column, unknown in _COLUMNS.items():
            given = np.asarray(getattr(self, column))
            values = given.astype(unknown.dtype, copy=False).view()
            if given.dtype.kind == "f" and values.dtype.kind == "i" and not np.array_equal(given, values):
                raise TraceError(f"{column} holds fractions; give whole numbers, -1 for unknown")
            values.flags.writeable = False
            object.__setattr__(self, column, values)
            if values.shape != (len(self.arrival_s),):
                raise TraceError(f"{column} has shape {values.shape}; every column needs shape ({len(self)},)")
        _require_times(self.arrival_s)
        for column in ("input_tokens", "output_tokens", "max_tokens"):
            _require_tokens(column, getattr(self, column))
        if np.any(self.think_time_s < 0):
            raise TraceError(f"think_time_s holds {np.nanmin(self.think_time_s)}; a pause lasts 0 s or more")
        if self.header.rows_emitted != len(self):
            raise TraceError(f"the header counts {self.header.rows_emitted} requests, the columns hold {len(self)}")

    @classmethod
    def of(
        cls,
        arrival_s: npt.ArrayLike,
        input_tokens: npt.ArrayLike | None = None,
        output_tokens: npt.ArrayLike | None = None,
        *,
        max_tokens: npt.ArrayLike | None = None,
        session: npt.ArrayLike | None = None,
        round_index: npt.ArrayLike | None = None,
        think_time_s: npt.ArrayLike | None = None,
        header: TraceHeader,
        name: str,
    ) -> Trace:
        """Make a trace from the columns that are known; the others cost no memory."""
        arrivals = np.asarray(arrival_s, dtype=np.float64)
        given = {
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "max_tokens": max_tokens,
            "session": session,
            "round_index": round_index,
            "think_time_s": think_time_s,
        }
        columns: dict[str, Any] = {
            column: np.broadcast_to(_COLUMNS[column], len(arrivals)) if values is None else np.asarray(values)
            for column, values in given.items()
        }
        return cls(arrivals, **columns, header=header, name=name)

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        *,
        columns: Mapping[str, str] | None = None,
        time_unit: Literal["s", "ms", "us", "ns"] | None = None,
        name: str = "frame",
    ) -> Trace:
        """Make a trace from a pandas frame with one row per request.

        Args:
            frame: missing values are unknown, never 0.
            columns: as in ``read_trace``; without it the frame has the columns of ``frame``.
            time_unit: likewise.
            name: what plots and tables call the trace.

        Raises:
            TraceError: with row, value and remedy, for anything that is not a whole and sane trace.
        """
        from simulators.traces.frames import trace_from_frame

        return trace_from_frame(frame, columns, time_unit, name)

    def __len__(self) -> int:
        return len(self.arrival_s)

    def __repr__(self) -> str:
        return f"Trace({self.name!r}, {self.told}, {self.header.mode})"

    @property
    def told(self) -> str:
        """Its requests, time and sums of tokens in words, by which a wrong unit or column is seen."""
        since = f" from {self.header.created}" if self.header.mode == Mode.IMPORTED and self.header.created else ""
        told = [f"{len(self)} requests in {self.duration_s:.1f} s{since}"]
        for column in ("input_tokens", "output_tokens"):
            known = getattr(self, column)[getattr(self, column) != UNKNOWN]
            if len(known):
                unknown = len(self) - len(known)
                more = f" ({unknown} unknown)" if unknown else ""
                told.append(f"{int(known.sum()):,} {column.replace('_', ' ')}{more}")
        return ", ".join(told)

    @property
    def duration_s(self) -> float:
        """Seconds from the trace's zero to the last arrival."""
        return float(self.arrival_s[-1]) if len(self) else 0.0

    def frame(self) -> pd.DataFrame:
        """Return one row per request; what is unknown is NA, never 0."""
        columns: dict[str, Any] = {"arrival_s": self.arrival_s}
        for column in ("input_tokens", "output_tokens", "max_tokens", "session"):
            values = getattr(self, column)
            columns[column] = pd.arrays.IntegerArray(values.copy(), values == UNKNOWN)
        columns["round_index"] = self.round_index
        columns["think_time_s"] = self.think_time_s
        return pd.DataFrame(columns)

    def describe(self) -> pd.Series[Any]:
        """Return the figures by which traces are compared; a figure without data is NaN.

        ``interarrival_cv`` is 1 for Poisson arrivals and grows with bursts; ``peak_*`` count fixed windows from zero.
        """
        figures: dict[str, float] = {
            "requests": len(self),
            "duration_s": self.duration_s,
            "requests_per_s": len(self) / self.duration_s if self.duration_s else np.nan,
            "interarrival_cv": _variation(np.diff(self.arrival_s)),
            "peak_requests_per_s": _peak(self.arrival_s, 1.0),
            "peak_requests_per_minute": _peak(self.arrival_s, 60.0),
            "peak_tokens_per_minute": _peak(self.arrival_s, 60.0, self._known_tokens()),
        }
        for column in ("input_tokens", "output_tokens"):
            values = getattr(self, column)
            known = values[values != UNKNOWN]
            for percent in (50, 90, 99):
                figures[f"{column}_p{percent}"] = float(np.percentile(known, percent)) if len(known) else np.nan
            figures[f"{column}_unknown"] = len(values) - len(known)
        figures["sessions"] = len(np.unique(self.session[self.session != UNKNOWN]))
        return pd.Series(figures, name=self.name)

    def head(self, n: int) -> Trace:
        """Return the first ``n`` requests."""
        if n < 0:
            raise TraceError(f"head({n}): ask for 0 requests or more")
        return self._kept(np.arange(len(self)) < n, "after the head", f"first {n} requests")

    def window(self, start_s: float, end_s: float) -> Trace:
        """Return the requests with ``start_s`` <= arrival < ``end_s``, counted from ``start_s``."""
        if not 0 <= start_s < end_s:
            raise TraceError(f"window({start_s}, {end_s}): needs 0 <= start_s < end_s")
        inside = (self.arrival_s >= start_s) & (self.arrival_s < end_s)
        kept = self._kept(inside, "outside the window", f"window from {start_s:g} s to {end_s:g} s")
        return replace(kept, arrival_s=kept.arrival_s - start_s, header=kept.header.later(start_s))

    def sped_up(self, factor: float) -> Trace:
        """Return the same requests ``factor`` times as fast: every interval and pause divided, bursts kept."""
        if not 0 < factor < np.inf:
            raise TraceError(f"sped_up({factor}): the factor must be finite and above 0; 2 doubles the rate")
        note = f"sped up {factor:g} times: intervals and pauses divided, no request left out"
        return replace(
            self,
            arrival_s=self.arrival_s / factor,
            think_time_s=self.think_time_s / factor,
            header=replace(self.header.noted(note), created=None),
        )

    def thinned(self, fraction: float, seed: int = 0) -> Trace:
        """Return a random ``fraction`` of the requests at their own times; a session stays or goes as a whole."""
        if not 0 < fraction <= 1:
            raise TraceError(f"thinned({fraction}): the fraction must be above 0 and at most 1; 0.5 halves the rate")
        ordinal = np.unique(self.session, return_inverse=True)[1]
        owner = np.where(self.session == UNKNOWN, np.arange(len(self)), len(self) + ordinal)
        draws = generator(seed, "thinning").random(2 * len(self))
        note = f"thinned to {fraction:g} of the requests (seed {seed}): times unchanged"
        return self._kept(draws[owner] < fraction, "thinned", note)

    def dequantised(self, seed: int = 0) -> Trace:
        """Return the trace with arrivals that share one timestamp spread evenly at random up to the next timestamp.

        For logs with coarse clocks (Mooncake's conversations: 3 s steps). The last group takes the median step.
        """
        ticks, group = np.unique(self.arrival_s, return_inverse=True)
        if len(ticks) < 2:
            raise TraceError(f"{self.name} has {len(ticks)} distinct timestamps; spreading arrivals needs two or more")
        steps = np.diff(ticks)
        widths = np.append(steps, np.median(steps))[group]
        spread = self.arrival_s + widths * generator(seed, "dequantise").random(len(self))
        order = np.argsort(spread, kind="stable")
        note = f"de-quantised (seed {seed}): arrivals on one timestamp spread up to the next"
        columns = {column: getattr(self, column)[order] for column in _COLUMNS} | {"arrival_s": spread[order]}
        return replace(self, **columns, header=self.header.noted(note))

    def write(
        self,
        path: str | Path,
        *,
        format: Literal["factflow", "parquet", "mooncake"] | None = None,  # noqa: A002 - the word people look for
        overwrite: bool = False,
    ) -> Path:
        """Write the trace to ``path``, whole or not at all, and return the path.

        Without ``format`` the suffix decides: ``.parquet``, else our JSON Lines (``.jsonl``, ``.jsonl.gz``).
        """
        from simulators.traces.exporters import write_trace

        return write_trace(self, Path(path), format=format, overwrite=overwrite)

    def _known_tokens(self) -> Floats:
        return (np.maximum(self.input_tokens, 0) + np.maximum(self.output_tokens, 0)).astype(np.float64)

    def _kept(self, keep: npt.NDArray[np.bool_], reason: str, note: str) -> Trace:
        columns = {column: getattr(self, column)[keep] for column in _COLUMNS}
        return replace(self, **columns, header=self.header.reduced(int(keep.sum()), reason).noted(note))


_COLUMNS: Mapping[str, np.generic[Any]] = {
    "arrival_s": np.float64(0),
    "input_tokens": np.int64(UNKNOWN),
    "output_tokens": np.int64(UNKNOWN),
    "max_tokens": np.int64(UNKNOWN),
    "session": np.int64(UNKNOWN),
    "round_index": np.int64(0),
    "think_time_s": np.float64(np.nan),
}


def _require_times(arrival_s: Floats) -> None:
    if not np.all(np.isfinite(arrival_s)):
        row = int(np.flatnonzero(~np.isfinite(arrival_s))[0])
        raise TraceError(f"request {row} arrives at {arrival_s[row]} s; arrivals are finite")
    if len(arrival_s) and arrival_s[0] < 0:
        raise TraceError(f"the first request arrives at {arrival_s[0]} s; count from the trace's start, at 0 or later")
    backwards = np.flatnonzero(np.diff(arrival_s) < 0)
    if len(backwards):
        row = int(backwards[0]) + 1
        raise TraceError(
            f"request {row} arrives at {arrival_s[row]} s, before the one at {arrival_s[row - 1]} s; sort by time"
        )


def _require_tokens(column: str, tokens: Integers) -> None:
    wrong = np.flatnonzero((tokens < UNKNOWN) | (tokens > MAX_TOKENS))
    if len(wrong):
        raise TraceError(
            f"{column} of request {wrong[0]} is {tokens[wrong[0]]}; give 0 to {MAX_TOKENS}, or -1 for unknown"
        )


def _variation(intervals: Floats) -> float:
    mean = float(intervals.mean()) if len(intervals) else 0.0
    return float(intervals.std()) / mean if mean else np.nan


def _peak(arrival_s: Floats, window_s: float, weights: Floats | None = None) -> float:
    if not len(arrival_s):
        return np.nan
    number = (arrival_s // window_s).astype(np.int64)
    starts = np.flatnonzero(np.diff(number, prepend=-1))
    return float(np.add.reduceat(np.ones(len(number)) if weights is None else weights, starts).max())
