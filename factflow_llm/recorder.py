"""Record one row per physical attempt as JSON Lines (schema ``factflow.trace/1``), for replay and calibration.

No prompt, no answer, no key: of the headers only those that speak of limits are written. A background thread writes, so
``record`` never waits for a disk; when the thread cannot keep up, rows are dropped and the file says how many.

What is unknown is left out of a row: absent is unknown, never 0. Rows stand in the order in which attempts ended. A
killed process loses the row being written and those not yet handed to the operating system (normally the last few
milliseconds; none after ``flush``); the file still loads.
"""

from __future__ import annotations

import json
import logging
import math
import queue
import threading
import uuid
import weakref
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from factflow_llm.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from factflow_llm.signals import Axis, AxisLimit

TRACE_VERSION = "factflow.trace/1"
TOTALS = "factflow.recorder"

_log = logging.getLogger(__name__)
_LIMIT_HEADERS = ("retry-after", "x-ratelimit-", "anthropic-ratelimit-", "x-ms-ratelimit-")
_BATCH_ROWS = 512

# Fields of AttemptRow and their names in the file: OpenTelemetry's where it has one.
TIME_FIELDS = {
    "arrival_s": "t_arrival",
    "admitted_s": "t_admitted",
    "sent_s": "t_sent",
    "first_chunk_s": "t_first_chunk",
    "end_s": "t_end",
}
VALUE_FIELDS = {
    "model": "gen_ai.request.model",
    "provider": "gen_ai.provider.name",
    "operation": "gen_ai.operation.name",
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "max_tokens": "gen_ai.request.max_tokens",
    "status": "http.response.status_code",
    "error": "error.type",
    "outcome": "outcome",
    "retry_after_s": "factflow.retry_after_s",
    "axis": "factflow.ratelimit.axis",
    "limit": "factflow.limiter.limit",
    "in_flight": "factflow.limiter.in_flight",
    "queue_depth": "factflow.limiter.queue_depth",
    "reason": "factflow.limiter.decision",
}
LIMIT_FIGURES = ("limit", "remaining", "reset_s")


class RowOutcome(StrEnum):
    """How an attempt ended, in the words of the trace."""

    OK = "ok"
    ERROR = "error"
    RATE_LIMITED = "rate_limited"
    REJECTED_LOCAL = "rejected_local"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"


class AttemptRow(NamedTuple):
    """One physical attempt: times in seconds on the caller's clock, ``None`` where it never came to that.

    Attributes:
        call_id: what the attempts of one call share.
        attempt: 0 for the first, 1 for its first retry.
        arrival_s: when the call was asked of us; the same for all its attempts.
        admitted_s: when the limiter let this attempt go.
        sent_s: when it was actually sent.
        first_chunk_s: when the first part of the answer came.
        end_s: when the attempt was over.
        model: the model asked for.
        provider: who serves it.
        operation: ``chat`` or ``embeddings``.
        input_tokens: tokens read, or the estimate while the provider told none.
        output_tokens: tokens written.
        max_tokens: the caller's bound on the answer.
        status: HTTP status.
        error: a word of ``ErrorReason``.
        outcome: a word of ``RowOutcome``.
        retry_after_s: the provider's wish.
        axis: the dimension that a refusal named, or that its headers show to be used up.
        limit: the limiter's limit at admission, in requests per second; ``inf`` is written as unknown.
        in_flight: attempts under way at admission, this one included.
        queue_depth: calls waiting at admission.
        reason: the limiter's last reason, a word of ``Reason``.
        headers: the response's headers, ``None`` without a response; only those about limits are written.
        limits: the same, parsed.
    """

    call_id: str | int
    attempt: int
    arrival_s: float
    admitted_s: float | None
    sent_s: float | None
    first_chunk_s: float | None
    end_s: float | None
    model: str
    provider: str
    operation: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    max_tokens: int | None = None
    status: int | None = None
    error: str | None = None
    outcome: str = RowOutcome.OK
    retry_after_s: float | None = None
    axis: Axis | None = None
    limit: float | None = None
    in_flight: int | None = None
    queue_depth: int | None = None
    reason: str | None = None
    headers: Mapping[str, str] | None = None
    limits: tuple[AxisLimit, ...] = ()


class AttemptSink(Protocol):
    """Anything that takes attempt rows: the recorder, a test's list, a metrics exporter."""

    def record(self, row: AttemptRow, /) -> None:
        """Take one row, at once."""
        ...


class Recorder:
    """Write attempt rows to ``path``; continue in ``stem.1.suffix``, ``stem.2.suffix`` … as files fill up.

    Times are written from the arrival of the first row recorded, so any clock will do, as long as it is one.

    Args:
        path: a file that does not exist yet; a recording is never appended to or overwritten.
        max_bytes: size at which the next file is begun.
        max_queued: rows held in memory while the disk is slow; further ones are dropped and counted.

    Raises:
        ConfigurationError: naming the value and the remedy.
    """

    def __init__(self, path: str | Path, *, max_bytes: int = 256 * 2**20, max_queued: int = 10_000) -> None:
        for name, value in (("max_bytes", max_bytes), ("max_queued", max_queued)):
            if value < 1:
                raise ConfigurationError(f"{name} = {value}: give a number of at least 1")
        self._writer = _Writer(Path(path), max_bytes, max_queued)
        self._finish = weakref.finalize(self, _Writer.close, self._writer)

    def record(self, row: AttemptRow, /) -> None:
        """Hand one row to the writer; returns at once, and drops the row when the queue is full or closed."""
        self._writer.offer(row)

    def flush(self) -> None:
        """Wait until every row handed over so far is with the operating system; blocks, so not for an event loop."""
        self._writer.flush()

    def close(self) -> None:
        """Write what is queued, close the file and stop the thread; a second call does nothing. Blocks."""
        self._finish()

    @property
    def recorded(self) -> int:
        """Rows written so far."""
        return self._writer.written

    @property
    def dropped(self) -> int:
        """Rows lost so far: the queue was full, the disk failed, the row could not be written, or we were closed."""
        return self._writer.dropped

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if not self._finish.alive else "broken" if self._writer.broken else "recording"
        return f"Recorder({str(self._writer.path)!r}, {state}, {self.recorded} rows, {self.dropped} dropped)"


class _Writer:
    """The file and its thread. Knows nothing of the Recorder, so that a forgotten Recorder can be collected."""

    def __init__(self, path: Path, max_bytes: int, max_queued: int) -> None:
        self.path = path
        self.written = 0
        self.dropped = 0
        self.broken = False
        self._first_path = path
        self._max_bytes = max_bytes
        self._max_queued = max_queued
        self._recording = uuid.uuid4().hex
        self._part = 0
        self._part_rows = 0
        self._part_bytes = 0
        self._told_dropped = 0
        self._origin_s: float | None = None
        self._closed = False
        self._refused = False
        self._drop_lock = threading.Lock()
        # Its put neither blocks nor fails, in a signal handler or a finalizer either; the bound is kept in offer().
        self._queue: queue.SimpleQueue[AttemptRow | threading.Event | None] = queue.SimpleQueue()
        if self._part_path(1).exists():
            raise ConfigurationError(f"{self._part_path(1)}: part of an earlier recording; choose another name")
        self._file = self._open()
        self._thread = threading.Thread(target=self._run, name="factflow-recorder", daemon=True)
        self._thread.start()

    def offer(self, row: AttemptRow) -> None:
        if self._closed or self._queue.qsize() >= self._max_queued:
            self._drop(1)
        else:
            self._queue.put(row)

    def flush(self) -> None:
        # After a fork the child has no such thread, and nothing to wait for.
        if self._thread.is_alive():
            done = threading.Event()
            self._queue.put(done)
            done.wait()

    def close(self) -> None:
        self._closed = True
        self._queue.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        open_ = True
        while open_:
            item = self._queue.get()
            rows: list[AttemptRow] = []
            waiting: list[threading.Event] = []
            while True:
                if item is None:
                    open_ = False
                elif isinstance(item, threading.Event):
                    waiting.append(item)
                else:
                    rows.append(item)
                if len(rows) == _BATCH_ROWS:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            try:
                self._write_rows(rows)
            except Exception as error:  # a fault of ours: what is recorded is lost, not the thread that counts it
                self._drop(len(rows))
                self._fail(error)
            finally:
                for done in waiting:
                    done.set()
        self._write(self._totals(closed=True))
        with suppress(OSError):  # some disks say only now that they are full
            self._file.close()

    def _write_rows(self, rows: list[AttemptRow]) -> None:
        batch = bytearray()
        count = 0
        if self.dropped != self._told_dropped:
            batch += self._totals(closed=False)
        for row in rows:
            try:
                line = self._encode(row)
            except Exception as error:
                self._refuse(error)
                continue
            if self._part_rows + count and self._part_bytes + len(batch) + len(line) > self._max_bytes:
                self._commit(batch, count)
                self._next_part()
                batch, count = bytearray(), 0
            batch += line
            count += 1
        self._commit(batch, count)

    def _commit(self, batch: bytearray, count: int) -> None:
        if self._write(batch):
            self._part_rows += count
            self.written += count
        else:
            self._drop(count)

    def _next_part(self) -> None:
        self._write(self._totals(closed=True))
        if self.broken:
            return
        with suppress(OSError):
            self._file.close()
        self._part += 1
        self.path = self._part_path(self._part)
        self._part_rows = self._part_bytes = 0
        try:
            self._file = self._open()
        except (ConfigurationError, OSError) as error:
            self._fail(error)

    def _open(self) -> FileIO:
        try:
            file = FileIO(self.path, "x")
        except FileExistsError:
            raise ConfigurationError(f"{self.path}: the file exists; choose a new name for each recording") from None
        except OSError as error:
            raise ConfigurationError(
                f"{self.path}: cannot be written ({error.strerror}); choose an existing folder that you may write to"
            ) from None
        header = {
            "trace_version": TRACE_VERSION,
            "mode": "recorded",
            "source": "factflow_llm.recorder",
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "time_unit": "s",
            "clock": "monotonic,rebased",
            "recording": self._recording,
            "part": self._part,
        }
        try:
            self._part_bytes = file.write(_line(header)) or 0
        except OSError as error:
            with suppress(OSError):
                file.close()
                self.path.unlink()
            raise ConfigurationError(f"{self.path}: cannot be written ({error.strerror}); make room for it") from None
        return file

    def _write(self, data: bytes | bytearray) -> bool:
        """Hand ``data`` to the operating system; a full or failing disk ends the recording, not the program."""
        if self.broken:
            return False
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._fail(error)
            return False
        self._part_bytes += len(data)
        return True

    def _fail(self, error: Exception) -> None:
        self.broken = True
        _log.error("%s: recording ends after %d rows: %s", self.path, self.written, error)

    def _refuse(self, error: Exception) -> None:
        """Drop a row that has no line; the first is told, all are counted."""
        if not self._refused:
            self._refused = True
            _log.warning("a row that cannot be written is dropped: %s; others are only counted", type(error).__name__)
        self._drop(1)

    def _drop(self, count: int) -> None:
        with self._drop_lock:
            self.dropped += count

    def _totals(self, *, closed: bool) -> bytes:
        """Say how many rows this part holds and how many the whole recording has lost so far."""
        self._told_dropped = self.dropped
        return _line({TOTALS: {"rows": self._part_rows, "dropped": self._told_dropped, "closed": closed}})

    def _part_path(self, part: int) -> Path:
        return self._first_path.with_name(f"{self._first_path.stem}.{part}{self._first_path.suffix}")

    def _encode(self, row: AttemptRow) -> bytes:
        if self._origin_s is None:
            self._origin_s = row.arrival_s
        plain: dict[str, Any] = {"call_id": row.call_id, "attempt": row.attempt}
        for name, field in TIME_FIELDS.items():
            moment = getattr(row, name)
            plain[field] = None if moment is None else round(moment - self._origin_s, 6)
        for name, field in VALUE_FIELDS.items():
            plain[field] = getattr(row, name)
        for name, value in (row.headers or {}).items():
            if (lower := name.lower()).startswith(_LIMIT_HEADERS):
                plain[f"http.response.header.{lower}"] = [value]
        for axis, *figures in row.limits:
            for figure, units in zip(LIMIT_FIGURES, figures, strict=True):
                plain[f"factflow.ratelimit.{axis}.{figure}"] = units
        return _line({field: value for field, value in plain.items() if _known(value)})


def _known(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def _line(plain: Mapping[str, Any]) -> bytes:
    return json.dumps(plain, separators=(",", ":"), allow_nan=False).encode() + b"\n"
