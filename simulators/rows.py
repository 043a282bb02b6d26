"""What a run writes down: one packed row per attempt and per request, kept as columns or counted and forgotten.

The engine packs a row in half a microsecond; every few thousand rows go, as columns, to whoever collects.
"""

from __future__ import annotations

import struct
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from factflow_llm.ratelimit.signals import Outcome, Reason

Rows = np.ndarray[Any, np.dtype[np.void]]
Column = npt.NDArray[Any]

CHUNK_BYTES = 1 << 19


class Ending(StrEnum):
    """The closed set of ways in which a request ends."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    NEVER_ADMISSIBLE = "never_admissible"
    REFUSED_DEADLINE = "refused_deadline"
    REFUSED_BREAKER = "refused_breaker"
    CANCELLED = "cancelled"
    UNFINISHED = "unfinished"


OUTCOME_CODES: dict[str, int] = {word: code for code, word in enumerate((*Outcome, "cancelled"))}
REASON_CODES: dict[str, int] = {reason: code for code, reason in enumerate(Reason)}
ENDING_CODES: dict[str, int] = {ending: code for code, ending in enumerate(Ending)}
OUTCOME_WORDS, REASON_WORDS, ENDING_WORDS = (
    tuple(str(word) for word in codes) for codes in (OUTCOME_CODES, REASON_CODES, ENDING_CODES)
)


class Schema:
    """The fields of a row, by name and ``struct`` code, packed without padding, in the same order of bytes everywhere.

    Attributes:
        names: of the columns.
        dtype: of an array of rows.
        pack: values, in order, to bytes.
    """

    def __init__(self, **codes: str) -> None:
        self.names = tuple(codes)
        self.dtype = np.dtype([(name, f"<{np.dtype(code).str[1:]}") for name, code in codes.items()])
        self.pack = struct.Struct("<" + "".join(codes.values())).pack


ATTEMPT = Schema(
    request="q", attempt="i", client="h", submitted_s="d", admitted_s="d", first_chunk_s="d", end_s="d", status="h",
    outcome="b", retry_after_s="d", rate="d", concurrency="d", reason="b", in_flight="i", queued="i",
)  # fmt: skip
REQUEST = Schema(
    request="q", client="h", arrival_s="d", admitted_s="d", end_s="d", attempts="i", end="b", input_tokens="q",
    output_tokens="q",
)  # fmt: skip


class Collector(Protocol):
    """Whoever takes the rows of a run."""

    def take(self, attempts: Rows, requests: Rows) -> None:
        """Take the next rows, in order of their ends."""
        ...


class Columns:
    """Columns that grow a chunk of rows at a time, with hardly a byte to spare."""

    def __init__(self, schema: Schema) -> None:
        self._dtype = schema.dtype
        self._bytes = {name: bytearray() for name in schema.names}

    def __len__(self) -> int:
        name = self._dtype.names[0]  # type: ignore[index]
        return len(self._bytes[name]) // self._dtype[name].itemsize

    def __getitem__(self, name: str) -> Column:
        return np.frombuffer(self._bytes[name], dtype=self._dtype[name])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Columns) and self._bytes == other._bytes

    __hash__ = None  # type: ignore[assignment]

    def add(self, rows: Rows) -> None:
        """Append rows."""
        for name, packed in self._bytes.items():
            packed.extend(rows[name].tobytes())

    def sort(self, by: str) -> None:
        """Order the rows by one column."""
        order = np.argsort(self[by], kind="stable")
        for name in self._bytes:
            self._bytes[name] = bytearray(self[name][order].tobytes())

    def tobytes(self) -> bytes:
        """Return all columns, one after the other."""
        return b"".join(self._bytes.values())


class Frames:
    """Keeps every row, as columns."""

    def __init__(self) -> None:
        self.attempts = Columns(ATTEMPT)
        self.requests = Columns(REQUEST)

    def take(self, attempts: Rows, requests: Rows) -> None:
        """Keep rows."""
        self.attempts.add(attempts)
        self.requests.add(requests)
