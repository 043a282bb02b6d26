"""Read a result of vLLM's serving benchmark: lists of lengths, with send times or with the rate they were drawn at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from simulators.streams import generator
from simulators.traces.documents import json_values
from simulators.traces.trace import MAX_TOKENS, UNKNOWN, Floats, Integers, Mode, Trace, TraceHeader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simulators.traces.source import Source


def is_bench(value: Mapping[str, Any]) -> bool:
    """Whether an object is such a result, saved in detail."""
    return isinstance(value.get("input_lens"), list) and isinstance(value.get("output_lens"), list)


def read_bench(source: Source, seed: int) -> Trace:
    """Return the benchmark's requests; without ``start_times`` their arrivals are drawn anew and marked simulated.

    The benchmark draws gamma intervals at ``request_rate`` with shape ``burstiness``; at rate inf it sends all at once.
    """
    results = json_values(source)
    _, result = next(results)
    if next(results, None) is not None:
        raise source.fault("holds several benchmarks, each on a clock of its own; save one to a file")
    lengths = [_lengths(source, result, key) for key in ("input_lens", "output_lens")]
    rows = len(lengths[0])
    if not rows or len(lengths[1]) != rows:
        raise source.fault(f"{rows} input_lens and {len(lengths[1])} output_lens; one of each belongs to a request")
    lengths[1], failed = _answered(result, lengths[1])
    started = result.get("start_times")
    if isinstance(started, list) and len(started) == rows and all(isinstance(each, int | float) for each in started):
        times = np.array(started, dtype=np.float64)
        mode, notes, drawn = Mode.IMPORTED, ("times: start_times, in seconds",), None
    else:
        times, note = _drawn(source, result, rows, seed)
        mode, notes, drawn = Mode.SIMULATED, (note,), seed
    order = np.argsort(times, kind="stable")
    return Trace.of(
        times[order] - times.min(),
        lengths[0][order],
        lengths[1][order],
        header=TraceHeader(
            mode=mode,
            source="vllm bench",
            source_sha256=source.sha256,
            rows_read=rows,
            rows_emitted=rows,
            seed=drawn,
            notes=(*notes, *([f"{failed} requests failed in the benchmark: output unknown"] if failed else [])),
        ),
        name=source.path.name.split(".")[0],
    )


def _lengths(source: Source, result: Mapping[str, Any], key: str) -> Integers:
    lengths = result[key]
    wrong = [each for each in lengths if type(each) is not int or not 0 <= each <= MAX_TOKENS]
    if wrong:
        raise source.fault(f"{key} holds {str(wrong[0])[:40]!r}; lengths are whole numbers from 0 to {MAX_TOKENS}", 1)
    return np.array(lengths, dtype=np.int64)


def _answered(result: Mapping[str, Any], lengths: Integers) -> tuple[Integers, int]:
    """Return the lengths of answers, unknown where the request failed, and how many did."""
    errors = result.get("errors")
    if not isinstance(errors, list) or len(errors) != len(lengths):
        return lengths, 0
    failed = np.array([bool(error) for error in errors])
    return np.where(failed, UNKNOWN, lengths), int(failed.sum())


def _drawn(source: Source, result: Mapping[str, Any], rows: int, seed: int) -> tuple[Floats, str]:
    try:
        rate, shape = float(result["request_rate"]), float(result.get("burstiness") or 1.0)
        assert rate > 0
        assert shape > 0
    except (KeyError, TypeError, ValueError, AssertionError):
        raise source.fault(
            "holds lengths, but neither start_times nor a request_rate to draw them at; save the benchmark in detail", 1
        ) from None
    if np.isinf(rate):
        return np.zeros(rows), "all requests sent at once, as at request_rate inf"
    intervals = generator(seed, "vllm bench").gamma(shape, 1 / (rate * shape), rows)
    return np.cumsum(intervals), f"the file holds no times: drawn at its request_rate {rate:g}/s, burstiness {shape:g}"
