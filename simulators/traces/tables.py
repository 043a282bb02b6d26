"""Read CSV columns at C speed and still name the line of every fault.

The header tells the separator. A row ends where a line ends outside of quotation marks, and every row is checked for
its number of fields before pandas sees it.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from simulators.traces.source import MAX_LINE_BYTES, Source

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from simulators.traces.trace import Integers

SEPARATORS = (",", ";", "\t", "|")


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of a CSV file: its columns' names, in order, and what stands between them."""

    names: tuple[str, ...]
    separator: str

    @classmethod
    def of(cls, line: str) -> Header:
        """Read a header; the separator is what it has most of, outside of quotation marks."""
        text = line.replace("\r", " ").rstrip()
        unquoted = "".join(text.split('"')[::2])
        separator = max(SEPARATORS, key=unquoted.count)
        names = next(csv.reader([text], delimiter=separator), [])
        return cls(tuple(name.strip() for name in names), separator)


def table_blocks(
    source: Source, header: Header, wanted: Collection[int], texts: Collection[int]
) -> Iterator[tuple[pd.DataFrame, Integers]]:
    """Yield the ``wanted`` columns block by block, and the line on which each row begins.

    Args:
        source: the file.
        header: its first line.
        wanted: positions of columns.
        texts: those among them whose fields are never numbers.

    Raises:
        TraceError: with file and line, for rows of the wrong width and quotation marks that do not close.
    """
    for body, first_line in _bodies(source, header):
        numbers = _row_lines(source, body, first_line, header)
        if not len(numbers):
            continue
        try:
            frame = pd.read_csv(
                io.BytesIO(body),
                sep=header.separator,
                header=None,
                index_col=False,
                names=list(range(len(header.names))),
                usecols=sorted(wanted),
                dtype=dict.fromkeys(texts, str),
                decimal="." if header.separator == "," else ",",
                na_filter=False,
                quoting=csv.QUOTE_MINIMAL if b'"' in body else csv.QUOTE_NONE,
                lineterminator="\n",
                low_memory=False,
            )
        except (pd.errors.ParserError, pd.errors.EmptyDataError):
            frame = pd.DataFrame()
        if len(frame) != len(numbers):
            raise source.fault(
                "this row, or one after it, has quotation marks within a field that is not in quotation marks; "
                "write such fields in quotation marks, and double those within",
                int(numbers[0]),
            )
        yield frame, numbers


def _bodies(source: Source, header: Header) -> Iterator[tuple[bytes, int]]:
    """Yield whole rows, and the line of the first: a field in quotation marks may hold lines."""
    rest, line = b"", 1
    for block in source.blocks():
        data, first_line = block.data, block.first_line
        if first_line == 1:
            data, first_line = data.partition(b"\n")[2], 2
        if not rest:
            line = first_line
        data, rest = rest + data, b""
        if data.count(b'"') % 2:
            end = _last_row_end(data)
            if len(data) - end > MAX_LINE_BYTES:
                raise _unclosed(source, data[:end], line)
            data, rest = data[:end], data[end:]
        if data:
            yield data, line
        line += data.count(b"\n")
    if rest:
        raise _unclosed(source, b"", line)


def _last_row_end(data: bytes) -> int:
    text = np.frombuffer(data, dtype=np.uint8)
    outside = np.cumsum(text == ord('"')) % 2 == 0
    ends = np.flatnonzero((text == ord("\n")) & outside)
    return int(ends[-1]) + 1 if len(ends) else 0


def _unclosed(source: Source, before: bytes, line: int) -> Exception:
    return source.fault(
        "a quotation mark that opens in this row never closes; the row is damaged", line + before.count(b"\n")
    )


def _row_lines(source: Source, body: bytes, first_line: int, header: Header) -> Integers:
    """Return the line on which each row begins, blank lines left out, after checking every row's number of fields."""
    text = np.frombuffer(body, dtype=np.uint8)
    newlines = text == ord("\n")
    breaks, separators = newlines, text == ord(header.separator)
    if b'"' in body:
        outside = np.cumsum(text == ord('"'), dtype=np.int32) % 2 == 0
        breaks, separators = breaks & outside, separators & outside
    fresh = np.append(True, breaks[:-1])
    starts = np.flatnonzero(fresh & ~newlines)
    ends = np.flatnonzero(breaks & ~fresh)
    if len(ends) < len(starts):
        ends = np.append(ends, len(text))
    numbers: Integers = first_line + np.searchsorted(np.flatnonzero(newlines), starts)
    fields = np.diff(np.searchsorted(np.flatnonzero(separators), ends), prepend=0) + 1
    wrong = np.flatnonzero(fields != len(header.names))
    if len(wrong):
        raise source.fault(
            f"{fields[wrong[0]]} fields where the header has {len(header.names)}; the row is damaged or cut off",
            int(numbers[wrong[0]]),
        )
    return numbers


def sample_rows(source: Source, header: Header, count: int) -> list[dict[str, Any]]:
    """Return the first rows as words, to look at."""
    rows: list[dict[str, Any]] = []
    for body, _ in _bodies(source, header):
        text = io.StringIO(body[: 2**20].decode(errors="ignore"), newline="")
        with contextlib.suppress(csv.Error):
            reader = itertools.islice(csv.reader(text, delimiter=header.separator), count)
            rows.extend(dict(zip(header.names, fields, strict=False)) for fields in reader)
        break
    return rows
