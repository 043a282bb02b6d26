"""Make a trace from a pandas frame: by its own column names, or by a caller's map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from simulators.traces.clocks import checked_unit
from simulators.traces.guesses import probable
from simulators.traces.layouts import own_layout
from simulators.traces.rows import Gathering, trace_of
from simulators.traces.trace import UNKNOWN, Mode, Trace, TraceError, TraceHeader

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

_OWN = ("input_tokens", "output_tokens", "max_tokens", "session", "round_index", "think_time_s")


class _Frame:
    """The place of a fault: a row of the frame, counted from 0."""

    def fault(self, message: str, line: int | None = None) -> TraceError:
        """Return an error that names the row."""
        return TraceError(f"the frame: {message}" if line is None else f"the frame, row {line}: {message}")


def trace_from_frame(frame: pd.DataFrame, columns: Mapping[str, str] | None, time_unit: str | None, name: str) -> Trace:
    """Return the trace of a frame; see ``Trace.from_frame``."""
    place, unit = _Frame(), checked_unit(time_unit)
    if not len(frame):
        raise place.fault("has no rows; a trace holds at least one request")
    names = {str(column): (str(column),) for column in frame.columns}
    if columns is None:
        if "arrival_s" not in names:
            rows: Any = frame.head(20).to_dict("records")
            fitting = probable(rows, names)
            remedy = f"probably columns={fitting!r}" if "time" in fitting else "give columns={'time': …}"
            raise place.fault(f"has no arrival_s, the time of a trace's own frame; {remedy}")
        return _own(frame, name)
    chosen = own_layout(columns, names)
    gathering = Gathering(place, chosen, unit)
    parts = {field: frame[path[0]].reset_index(drop=True) for field, path in chosen.columns.items()}
    gathering.add(parts, np.arange(len(frame)))
    return trace_of(place, chosen, gathering.rows(), name=name, sha256=None)


def _own(frame: pd.DataFrame, name: str) -> Trace:
    """Return the trace of which ``frame`` is the frame."""
    frame = frame.sort_values("arrival_s", kind="stable")
    known: dict[str, Any] = {}
    for column in (each for each in _OWN if each in frame):
        values = frame[column]
        known[column] = (
            values.to_numpy(dtype=float, na_value=np.nan)
            if column == "think_time_s"
            else values.fillna(UNKNOWN).to_numpy(dtype=float)
        )
    header = TraceHeader(mode=Mode.IMPORTED, source="frame", rows_read=len(frame), rows_emitted=len(frame))
    return Trace.of(frame["arrival_s"].to_numpy(dtype=float), **known, header=header, name=name)
