"""The rows of a run, per attempt, per request and per change of a limit: their fields, their words, their columns."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from factflow_llm.signals import Axis, Reason
from simulators.attempts import OUTCOMES, Ending

Rows = np.ndarray[Any, np.dtype[np.void]]
Column = npt.NDArray[Any]


OUTCOME_CODES: dict[str, int] = {word: code for code, word in enumerate(OUTCOMES)}
REASON_CODES: dict[str, int] = {reason: code for code, reason in enumerate(Reason)}
ENDING_CODES: dict[str, int] = {ending: code for code, ending in enumerate(Ending)}
AXIS_CODES: dict[str, int] = {axis: code for code, axis in enumerate(Axis)}
OUTCOME_WORDS, REASON_WORDS, ENDING_WORDS, AXIS_WORDS = (
    tuple(str(word) for word in codes) for codes in (OUTCOME_CODES, REASON_CODES, ENDING_CODES, AXIS_CODES)
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
    request="i", attempt="i", client="h", submitted_s="d", admitted_s="d", first_chunk_s="d", end_s="d", status="h",
    outcome="b", retry_after_s="d", rate_per_s="d", concurrency="f", reason="b", in_flight="i", queued="i",
)  # fmt: skip
REQUEST = Schema(
    request="i", client="h", arrival_s="d", admitted_s="d", end_s="d", attempts="i", end="b", input_tokens="q",
    output_tokens="q",
)  # fmt: skip

CHANGE = Schema(time_s="d", client="h", axis="b", old="d", new="d", reason="b")


class Columns:
    """Columns that grow a chunk of rows at a time, and are closed without a byte to spare."""

    def __init__(self, schema: Schema) -> None:
        self._dtype = schema.dtype
        self._bytes: dict[str, bytearray | npt.NDArray[np.uint8]] = {name: bytearray() for name in schema.names}

    def __len__(self) -> int:
        name, packed = next(iter(self._bytes.items()))
        return len(packed) // self._dtype[name].itemsize

    def __getitem__(self, name: str) -> Column:
        return np.frombuffer(self._bytes[name], dtype=self._dtype[name])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Columns) and self.tobytes() == other.tobytes()

    __hash__ = None  # type: ignore[assignment]

    def add(self, rows: Rows) -> None:
        """Append rows."""
        for name, packed in self._bytes.items():
            assert isinstance(packed, bytearray)
            packed.extend(rows[name].tobytes())

    def close(self, *, by: str | None = None) -> None:
        """Take no more rows; order them by one column, if it is given."""
        order = slice(None) if by is None else np.argsort(self[by], kind="stable").astype(np.int32)
        for name in self._bytes:
            self._bytes[name] = np.array(self[name][order]).view(np.uint8)

    def tobytes(self) -> bytes:
        """Return all columns, one after the other."""
        return b"".join(bytes(packed) for packed in self._bytes.values())


class Frames:
    """Keeps every row, as columns."""

    def __init__(self) -> None:
        self.attempts = Columns(ATTEMPT)
        self.requests = Columns(REQUEST)

    def take(self, attempts: Rows, requests: Rows) -> None:
        """Keep rows."""
        self.attempts.add(attempts)
        self.requests.add(requests)
