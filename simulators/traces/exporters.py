"""Write a trace to a file, whole or not at all: our JSON Lines, Parquet, or Mooncake's format for other replayers."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from factflow_llm.recorder import TRACE_VERSION
from simulators.traces.recordings import PARQUET_HEADER_KEY, TRACE_FIELDS, parquet_library
from simulators.traces.trace import UNKNOWN, Trace, TraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CHUNK_ROWS = 65_536


def write_trace(trace: Trace, path: Path, *, format: str | None, overwrite: bool) -> Path:  # noqa: A002
    """Write ``trace`` to ``path``; see ``Trace.write``."""
    chosen = format or ("parquet" if path.suffix == ".parquet" else "factflow")
    if chosen not in _WRITERS:
        raise TraceError(f"format {chosen!r} is unknown; choose one of {', '.join(_WRITERS)}")
    if path.exists() and not overwrite:
        raise TraceError(f"{path}: the file exists; choose another name, or overwrite=True")
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise TraceError(f"{path}: cannot be written ({error.strerror}); choose an existing, writable folder") from None
    try:
        with os.fdopen(handle, "wb") as file:
            _WRITERS[chosen](trace, file, path.suffix == ".gz")
        mask = os.umask(0)
        os.umask(mask)
        Path(temporary).chmod(0o666 & ~mask)
        Path(temporary).replace(path)
    except OSError as error:
        raise TraceError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def _write_factflow(trace: Trace, file: BinaryIO, compressed: bool) -> None:
    _write_lines(_factflow_lines(trace), file, compressed)


def _write_mooncake(trace: Trace, file: BinaryIO, compressed: bool) -> None:
    unknown = int(((trace.input_tokens == UNKNOWN) | (trace.output_tokens == UNKNOWN)).sum())
    if unknown:
        raise TraceError(
            f"{unknown} of {len(trace)} requests have unknown tokens, which Mooncake's format cannot say; "
            "write our own format"
        )
    _write_lines(_mooncake_lines(trace), file, compressed)


def _write_parquet(trace: Trace, file: BinaryIO, compressed: bool) -> None:
    parquet = parquet_library()
    import pyarrow as pa

    columns = {}
    for name, field in TRACE_FIELDS.items():
        values = getattr(trace, name)
        unknown = np.isnan(values) if values.dtype.kind == "f" else values == UNKNOWN
        columns[field] = pa.array(values, mask=unknown)
    table = pa.table(columns).replace_schema_metadata({PARQUET_HEADER_KEY: json.dumps(_header(trace))})
    parquet.write_table(table, file)


def _write_lines(lines: Iterator[str], file: BinaryIO, compressed: bool) -> None:
    # No time and no name in the gzip header: equal traces give equal bytes.
    with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) if compressed else file as out:
        for line in lines:
            out.write(line.encode())


def _factflow_lines(trace: Trace) -> Iterator[str]:
    yield json.dumps(_header(trace)) + "\n"
    for start in range(0, len(trace), _CHUNK_ROWS):
        columns = [_plain(getattr(trace, name)[start : start + _CHUNK_ROWS]) for name in TRACE_FIELDS]
        for number, values in enumerate(zip(*columns, strict=True), start):
            row: dict[str, Any] = {"call_id": number, "attempt": 0}
            row.update(
                (field, value) for field, value in zip(TRACE_FIELDS.values(), values, strict=True) if value is not None
            )
            yield json.dumps(row, separators=(",", ":")) + "\n"


def _mooncake_lines(trace: Trace) -> Iterator[str]:
    for start in range(0, len(trace), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        milliseconds = np.rint(trace.arrival_s[part] * 1e3).astype(np.int64).tolist()
        lengths = zip(milliseconds, trace.input_tokens[part].tolist(), trace.output_tokens[part].tolist(), strict=True)
        for timestamp, read, written in lengths:
            row = {"timestamp": timestamp, "input_length": read, "output_length": written, "hash_ids": []}
            yield json.dumps(row) + "\n"


def _plain(values: Any) -> list[Any]:
    if values.dtype.kind == "f":
        return [None if value != value else value for value in values.tolist()]
    return [None if value == UNKNOWN else value for value in values.tolist()]


def _header(trace: Trace) -> dict[str, Any]:
    header: dict[str, Any] = {"trace_version": TRACE_VERSION, "name": trace.name, "time_unit": "s", "clock": "rebased"}
    header["generator"] = {"name": "factflow-llm", "version": _version()}
    return header | trace.header.as_dict()


def _version() -> str | None:
    try:
        return version("factflow-llm")
    except PackageNotFoundError:
        return None


_WRITERS: dict[str, Callable[[Trace, BinaryIO, bool], None]] = {
    "factflow": _write_factflow,
    "parquet": _write_parquet,
    "mooncake": _write_mooncake,
}
