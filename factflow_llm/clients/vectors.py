"""Vectors as servers send them: put in the order of the texts, unpacked, and checked one by one.

A vector that is missing, empty, of another length than the others or no number throughout is a ``BadResponseError``
that names its text as ``'input[3]'``, counted within the batch; ``batches`` counts on within the caller's list.
"""

from __future__ import annotations

import math
import struct
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any

from factflow_llm.clients.wire import items
from factflow_llm.errors import BadResponseError

Vector = tuple[float, ...]


def read_vectors(rows: Any, count: int, *, dimensions: int | None) -> tuple[Vector, ...]:
    """Read one vector per text from a server's ``data``.

    Args:
        rows: objects with an ``embedding`` (a list, or little-endian floats as base64) and an ``index``.
        count: how many texts were sent.
        dimensions: the length that was asked for; ``None`` for the model's own.

    Raises:
        BadResponseError: names the first text whose vector is missing or no vector.
    """
    placed = _place([_row(row) for row in items(rows, "data")], count)
    return check_vectors([_unpack(value, at=position) for position, value in enumerate(placed)], dimensions=dimensions)


def check_vectors(vectors: Sequence[Vector], *, dimensions: int | None) -> tuple[Vector, ...]:
    """Return the vectors of a batch, or raise for the first that is empty, not finite or of another length.

    Raises:
        BadResponseError: names the vector's text.
    """
    length = len(vectors[0]) if vectors else 0
    for position, vector in enumerate(vectors):
        where = f"'input[{position}]'"
        if not vector:
            raise BadResponseError(f"{where} has an empty vector")
        if not math.isfinite(sum(vector)):
            raise BadResponseError(f"{where} has a vector with a NaN or an infinite number in it")
        if dimensions is not None and len(vector) != dimensions:
            raise BadResponseError(
                f"{where} has a vector of {len(vector)} numbers where dimensions={dimensions} was asked for: the model "
                "cannot shorten its vectors; leave dimensions out"
            )
        if len(vector) != length:
            raise BadResponseError(f"{where} has a vector of {len(vector)} numbers, the one before it {length}")
    return tuple(vectors)


def _place(rows: Sequence[tuple[int | None, Any]], count: int) -> list[Any]:
    """Order by index. Without any the order is the texts'; a single row without one gets the single place left."""
    placed: dict[int, Any] = {}
    for index, value in rows:
        if index is None:
            continue
        if not 0 <= index < count:
            raise BadResponseError(f"a vector came with index {index} where {count} texts were sent")
        if index in placed:
            raise BadResponseError(f"'input[{index}]' has two vectors")
        placed[index] = value
    free = [position for position in range(count) if position not in placed]
    loose = [value for index, value in rows if index is None]
    if len(loose) == len(free) and (not placed or len(loose) == 1):
        placed.update(zip(free, loose, strict=True))
    elif len(loose) > len(free):
        raise BadResponseError(f"{len(rows)} vectors came for {count} texts")
    elif loose and placed:
        raise BadResponseError(f"'input[{free[0]}]' has no vector: {len(loose)} of {len(rows)} came without index")
    elif free:
        raise BadResponseError(f"'input[{free[len(loose)]}]' has no vector: {len(rows)} came for {count} texts")
    return [placed[position] for position in range(count)]


def _unpack(value: Any, *, at: int) -> Vector:
    try:
        if isinstance(value, str):
            packed = b64decode(value, validate=True)
            return struct.unpack(f"<{len(packed) // 4}f", packed)
        if isinstance(value, Sequence):
            return tuple(map(float, value))
    except (ValueError, TypeError, OverflowError, struct.error):
        pass
    raise BadResponseError(f"'input[{at}]' has no vector of numbers but a value of type {type(value).__name__}")


def _index(value: Any) -> int | None:
    """Read an index: absent, a whole number, or one written as text or as a float."""
    if isinstance(value, str) and value.isdecimal():
        return int(value[:9])
    if isinstance(value, int | float) and not isinstance(value, bool) and value == math.floor(value):
        return int(value)
    return None


def _row(row: Any) -> tuple[int | None, Any]:
    """Read a row as its index and its vector; some servers send the bare vector."""
    return (_index(row.get("index")), row.get("embedding")) if isinstance(row, Mapping) else (None, row)
