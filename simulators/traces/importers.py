"""Recognise what a file is by its content and read it: public traces, logs of calls, and files with a caller's map."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulators.traces import layouts
from simulators.traces.bench import is_bench, read_bench
from simulators.traces.clocks import TimeUnit, checked_unit
from simulators.traces.documents import json_values
from simulators.traces.formats import SERVEGEN_CHUNK, TRACELAB_ROUND, TRACELAB_TABLE
from simulators.traces.guesses import needs_unit, probable
from simulators.traces.layouts import Chosen
from simulators.traces.published import (
    read_aiperf,
    read_tracelab_rounds,
    read_tracelab_table,
    united_chats,
    without_failures,
)
from simulators.traces.recordings import read_ours, read_parquet
from simulators.traces.rows import json_rows, table_rows, trace_of
from simulators.traces.servegen import read_servegen
from simulators.traces.source import Source, shown
from simulators.traces.spans import are_spans, read_spans
from simulators.traces.tables import Header, sample_rows
from simulators.traces.trace import Trace, TraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from simulators.traces.rows import Rows

_LOOKED_AT_ROWS = 20
_FORMATS = (
    "azure, burstgpt, mooncake, ragpulse, bailian, aiperf, tracelab, ServeGen, litellm, langfuse, langsmith, helicone, \
openinference, OpenTelemetry and Jaeger spans, openai batch, vllm bench, factflow"
)


def read_trace(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    time_unit: TimeUnit | None = None,
    seed: int = 0,
) -> Trace:
    """Read a trace or a log of calls, recognising its format from its content; ``.gz`` is unpacked on the way.

    What is read, and from whom: docs/traces.md. Any other CSV or JSON is answered with the ``columns`` that probably
    fit. ``repr(trace)`` and ``trace.header`` tell the time it spans, its sums of tokens and how times were read.

    Args:
        path: a file, or a ServeGen folder.
        columns: which column says what: ``time``, and of ``input_tokens``, ``output_tokens``, ``max_tokens``,
            ``session``, ``end_time`` those that there are. A name within a name is joined by a dot, as ``usage.input``.
        time_unit: what the numbers of times count, where the file cannot tell: ``"s"``, ``"ms"``, ``"us"``, ``"ns"``.
        seed: for files that publish distributions (ServeGen, vLLM bench without times): the requests are drawn, and
            marked simulated.

    Raises:
        TraceError: with file, line, value and remedy, for anything that is not a whole and sane trace.
    """
    path = Path(path)
    checked_unit(time_unit)
    given = columns is not None or time_unit is not None
    if path.is_dir():
        _refuse(given, path, "a ServeGen folder")
        return read_servegen(path, seed)
    with Source(path) as source:
        if source.is_parquet:
            _refuse(given, path, "Parquet of ours; for others make Trace.from_frame(pandas.read_parquet(…), …)")
            return read_parquet(path)
        first = source.head().partition("\n")[0]
    if not first:
        raise TraceError(f"{path}: the file is empty; a trace holds at least one request")
    if SERVEGEN_CHUNK.fullmatch(first.rstrip()):
        _refuse(given, path, "a ServeGen client")
        return read_servegen(path, seed)
    with Source(path) as source:
        if first[0] in "{[":
            return _read_json(source, columns, time_unit, seed)
        return _read_table(source, columns, time_unit)


def _read_table(source: Source, columns: Mapping[str, str] | None, time_unit: TimeUnit | None) -> Trace:
    with Source(source.path) as peek:
        _, first, _ = next(peek.lines())
    header = Header.of(first)
    names = {name: (name,) for name in header.names}
    if columns is not None:
        chosen = _own(source, columns, names, cells=True)
    elif set(header.names) >= TRACELAB_TABLE:
        _refuse(time_unit is not None, source.path, "TraceLab")
        return read_tracelab_table(source, header)
    else:
        layout = layouts.matching([*header.names, *(f"{name}.*" for name in header.names)])
        if layout is None:
            with Source(source.path) as peek:
                sample = sample_rows(peek, header, _LOOKED_AT_ROWS)
            raise _unknown(source, "columns", sample, names)
        chosen = _timed(source, Chosen(layout, layouts.resolved(layout, names, cells=True)))
    rows = table_rows(source, chosen, header, time_unit)
    return _finished(source, chosen, rows)


def _read_json(source: Source, columns: Mapping[str, str] | None, time_unit: TimeUnit | None, seed: int) -> Trace:
    with Source(source.path) as peek:
        sample = [value for _, value in islice(json_values(peek), _LOOKED_AT_ROWS) if isinstance(value, dict)]
    if not sample:
        raise source.fault("JSON without a single object; a trace holds one per request", 1)
    if columns is None and (read := _by_itself(sample)) is not None:
        _refuse(time_unit is not None, source.path, "a format that says its times itself")
        return read(source, seed)
    chosen = _chosen_json(source, columns, sample)
    rows = json_rows(source, chosen, time_unit)
    if chosen.layout.name == "bailian":
        with Source(source.path) as again:
            rows = united_chats(again, rows)
    return _finished(source, chosen, rows)


def _by_itself(sample: Sequence[dict[str, Any]]) -> Callable[[Source, int], Trace] | None:
    """Return what reads a format that is more than a map of columns; ``None`` for the others."""
    first = sample[0]
    names = {name for row in sample for name in row}
    if "trace_version" in first:
        return lambda source, _: read_ours(source)
    if names >= TRACELAB_ROUND:
        return lambda source, _: read_tracelab_rounds(source)
    if is_bench(first):
        return read_bench
    if are_spans(sample):
        return lambda source, _: read_spans(source)
    if "session_id" in names and {"input_length", "output_length"} & names and {"timestamp", "delay"} & names:
        times = [row["timestamp"] for row in sample if row.get("timestamp") is not None]
        if not any(isinstance(time, str) for time in times):
            return lambda source, _: read_aiperf(source)
    return None


def _chosen_json(source: Source, columns: Mapping[str, str] | None, sample: Sequence[dict[str, Any]]) -> Chosen:
    """Return the map for the rows of a file, which may stand in a list within its values."""
    places = [((), sample), *layouts.lists_within(sample[0])]
    for inside, rows in places:
        names = layouts.flattened(rows)
        if columns is not None:
            with contextlib.suppress(TraceError):
                return replace(layouts.own_layout(columns, names), inside=inside)
        elif (layout := layouts.matching(names)) is not None:
            return _timed(source, Chosen(layout, layouts.resolved(layout, names), inside))
    if columns is not None:
        return _own(source, columns, layouts.flattened(sample), cells=False)
    likely = [(rows, layouts.flattened(rows)) for _, rows in places]
    rows, names = next(((r, n) for r, n in likely if "time" in probable(r, n)), likely[0])
    raise _unknown(source, "keys", rows, names)


def _timed(source: Source, chosen: Chosen) -> Chosen:
    """Return a map that has a time: of a format that is known for one, a file may have none all the same."""
    if "time" not in chosen.columns:
        wanted = " or ".join(chosen.layout.columns["time"])
        raise source.fault(
            f"looks like {chosen.layout.name}, but tells no times ({wanted}); nothing can be replayed", 1
        )
    return chosen


def _own(source: Source, columns: Mapping[str, str], names: Mapping[str, tuple[str, ...]], *, cells: bool) -> Chosen:
    try:
        return layouts.own_layout(columns, names, cells=cells)
    except TraceError as error:
        raise source.fault(str(error), 1) from None


def _finished(source: Source, chosen: Chosen, rows: Rows) -> Trace:
    note = ""
    if chosen.layout.name == "burstgpt":
        rows, note = without_failures(source, rows)
    return trace_of(source, chosen, rows, name=source.path.name.split(".")[0], sha256=source.sha256, note=note)


def _unknown(
    source: Source, what: str, rows: Sequence[Mapping[str, Any]], names: Mapping[str, tuple[str, ...]]
) -> TraceError:
    """Return the answer to a file of no known format: the map that probably fits, ready to paste."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    found = f"found {what} {', '.join(shown(name) for name in list(names)[:10])}{more}"
    if not rows:
        return source.fault(f"has a header but no rows; a trace holds at least one request ({found})", 1)
    fitting = probable(rows, names)
    if any("num_model_requests" in str(row) for row in rows):
        return source.fault(f"holds sums over many requests, not the requests; export single ones ({found})", 1)
    lacking = layouts.nearly(names)
    start = f"looks like {lacking[0]} but lacks {lacking[1]}; {found}" if lacking else "not a trace of a known format"
    if "time" in fitting and len(fitting) > 1:
        unit = needs_unit(rows, names[fitting["time"]], fitting["time"])
        call = f"sim.read_trace({str(source.path)!r}, columns={fitting!r})"
        option = ",".join(f"{key}={name}" for key, name in fitting.items())
        asked = f", with a time_unit ('s', 'ms', 'us', 'ns') for the numbers of {fitting['time']!r}" if unit else ""
        return source.fault(f"{start}; probably {call}, or --columns {option!r}{asked}", 1)
    if lacking:
        return source.fault(start, 1)
    return source.fault(f"{start} ({_FORMATS}), and no columns= that probably fit; {found}", 1)


def _refuse(given: bool, path: Path, what: str) -> None:
    if given:
        raise TraceError(f"{path}: {what}; leave out columns and time_unit")
