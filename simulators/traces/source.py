"""Read hostile files safely: bounded memory, bounded lines, UTF-8 only, every fault with its file and line.

All importers read through a Source; none opens a file itself.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, Self, cast

from simulators.traces.trace import MAX_TOKENS, TraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

BLOCK_BYTES = 4 * 2**20
MAX_LINE_BYTES = 4 * 2**20
MAX_DOCUMENT_BYTES = 64 * 2**20
MAX_ROWS = 50_000_000
MAX_TIME_S = 1e11
# Traces compress 5 to 40 times; deflate itself ends at 1,032. Below the floor a bomb cannot hurt.
MAX_EXPANSION = 100
EXPANSION_FLOOR_BYTES = 64 * 2**20

_LINE = re.compile(r"[^\n]+")
_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"
_REFUSED = {
    b"PK\x03\x04": "a zip archive; unpack it and read the file inside",
    b"\xfd7zXZ": "an xz archive; unpack it and read the file inside",
    b"(\xb5/\xfd": "a zstd archive; unpack it and read the file inside",
    b"\xff\xfe": "UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as UTF-8",
    b"version https://git-lfs": "a git-lfs pointer, not the data; run 'git lfs pull' or download the file itself",
}


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Place(Protocol):
    """Where values come from: a file, or a frame."""

    def fault(self, message: str, line: int | None = None) -> TraceError:
        """Return an error that names the place and the line."""
        ...


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines of a file, without carriage returns; the last line of a file may lack its newline."""

    first_line: int
    data: bytes


class Source:
    """A trace file being read once from front to back; plain or gzip, as its first bytes tell.

    Args:
        path: a regular file.

    Raises:
        TraceError: with file and line, for anything that is not bounded UTF-8 text.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digest = hashlib.sha256()
        self._raw_bytes = 0
        self._expanded_bytes = 0
        if not path.exists():
            raise TraceError(f"{path}: no such file; give the path of a trace, or of a ServeGen folder")
        if not path.is_file():
            raise TraceError(
                f"{path}: not a regular file; a trace is a file, or a ServeGen folder of chunk-*-trace.csv"
            )
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise TraceError(f"{path}: cannot be opened ({error.strerror}); check its permissions") from None
        start = self._file.read(32)
        self._file.seek(0)
        for magic, what in _REFUSED.items():
            if start.startswith(magic):
                self._file.close()
                raise TraceError(f"{path}: {what}")
        self.is_parquet = start.startswith(_PARQUET)
        self._stream: _Readable = _Watched(self._file, self._count_raw)
        if start.startswith(_GZIP):
            self._stream = gzip.GzipFile(fileobj=cast("BinaryIO", self._stream))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()

    @property
    def sha256(self) -> str:
        """Digest of the bytes read so far; of the file, once it is read to its end."""
        return self._digest.hexdigest()

    def fault(self, message: str, line: int | None = None) -> TraceError:
        """Return an error that names this file and the line."""
        return TraceError(f"{self.path}: {message}" if line is None else f"{self.path}:{line}: {message}")

    def blocks(self) -> Iterator[Block]:
        """Yield the file in blocks of whole lines."""
        line, rest = 1, b""
        while chunk := self._read(BLOCK_BYTES, line):
            data, newline, tail = (rest + chunk).rpartition(b"\n")
            if newline:
                yield self._block(line, data + newline)
                line += data.count(b"\n") + 1
            rest = tail
            if len(rest) > MAX_LINE_BYTES:
                raise self._too_long(line)
        if rest:
            yield self._block(line, rest)

    def lines(self) -> Iterator[tuple[int, str, bool]]:
        """Yield (line number, text, whether a newline ended it) of every line that is not blank."""
        for block in self.blocks():
            text, line, seen = block.data.decode(), block.first_line, 0
            for match in _LINE.finditer(text):
                line, seen = line + text.count("\n", seen, match.start()), match.start()
                if not match[0].isspace():
                    yield line, match[0], match.end() < len(text)

    def head(self) -> str:
        """Return the beginning of the file without its blank lines, to recognise it by; faults show when it is read."""
        return self._read(BLOCK_BYTES, 1).removeprefix(b"\xef\xbb\xbf").decode(errors="replace").lstrip()

    def pieces(self) -> Iterator[str]:
        """Yield the file as text in pieces that end anywhere, for what is not made of lines."""
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        line = 1
        while True:
            data = self._read(BLOCK_BYTES, line)
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise self.fault(f"a byte is not UTF-8 ({error.reason}); save the file as UTF-8", line) from None
            if "\0" in text:
                raise self.fault(
                    "holds a NUL byte; a trace is UTF-8 text, so this is another format or a damaged file", line
                )
            yield text
            if not data:
                return
            line += text.count("\n")

    def document(self) -> str:
        """Return the whole file as text, when it is small enough to be one JSON document."""
        texts: list[str] = []
        for text in self.pieces():
            texts.append(text)
            if sum(map(len, texts)) > MAX_DOCUMENT_BYTES:
                raise self.fault(f"one JSON document of more than {MAX_DOCUMENT_BYTES} characters; split it", 1)
        return "".join(texts)

    def _block(self, first_line: int, data: bytes) -> Block:
        if first_line == 1:
            data = data.removeprefix(b"\xef\xbb\xbf")
        data = data.replace(b"\r\n", b"\n")
        nul = data.find(b"\0")
        if nul >= 0:
            raise self.fault(
                "holds a NUL byte; a trace is UTF-8 text, so this is another format or a damaged file",
                first_line + data.count(b"\n", 0, nul),
            )
        try:
            data.decode()
        except UnicodeDecodeError as error:
            raise self.fault(
                f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8",
                first_line + data.count(b"\n", 0, error.start),
            ) from None
        start = 0
        while len(data) - start > MAX_LINE_BYTES:
            end = data.rfind(b"\n", start, start + MAX_LINE_BYTES + 1)
            if end < 0:
                raise self._too_long(first_line + data.count(b"\n", 0, start))
            start = end + 1
        return Block(first_line, data)

    def _too_long(self, line: int) -> TraceError:
        return self.fault(f"a line of more than {MAX_LINE_BYTES} bytes; a trace holds one short row per line", line)

    def _read(self, size: int, line: int) -> bytes:
        try:
            data = self._stream.read(size)
        except EOFError:
            raise self.fault("the gzip file is cut off; download it again", line) from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise self.fault(f"the gzip file is damaged ({error}); download it again", line) from None
        self._expanded_bytes += len(data)
        if self._expanded_bytes > max(EXPANSION_FLOOR_BYTES, MAX_EXPANSION * self._raw_bytes):
            raise self.fault(
                f"{self._raw_bytes} bytes of gzip unpack to more than {self._expanded_bytes}, beyond {MAX_EXPANSION} "
                "times: this looks like a decompression bomb; unpack it yourself if you trust it",
                line,
            )
        return data

    def _count_raw(self, data: bytes) -> None:
        self._digest.update(data)
        self._raw_bytes += len(data)


class _Watched:
    """A file that shows every byte it hands out to ``seen``."""

    def __init__(self, file: BinaryIO, seen: Callable[[bytes], None]) -> None:
        self._file = file
        self._seen = seen

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._seen(data)
        return data


def shown(value: object) -> str:
    """Return a value for an error message, shortened."""
    text = repr(value) if isinstance(value, str | int | float | bool | None) else type(value).__name__
    return text if len(text) <= 40 else f"{text[:36]}...{text[-1]}"


def parse_json(source: Source, line: int, text: str) -> Any:
    """Return one JSON value; NaN, Infinity, absurd nesting and numbers of thousands of digits are errors."""
    try:
        return JSON_DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise source.fault(
            f"not JSON ({error.msg} at column {error.colno}); the row is damaged or cut off", line
        ) from None
    except ValueError as error:
        raise source.fault(f"a number that cannot be read ({error}); correct or remove the row", line) from None
    except RecursionError:
        raise source.fault("JSON nested too deeply for a trace; correct or remove the row", line) from None


def parse_row(source: Source, line: int, text: str) -> dict[str, Any]:
    """Return one JSON object."""
    row = parse_json(source, line, text)
    if not isinstance(row, dict):
        raise source.fault(f"{shown(row)} is not a JSON object; every line of this format is one", line)
    return row


def count(source: Source, line: int, row: dict[str, Any], key: str) -> int:
    """Return a count of tokens (or another whole number) that must be there."""
    value = row.get(key)
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
    if not whole or not 0 <= cast("float", value) <= MAX_TOKENS:
        raise wrong_count(source, line, key, value, missing=key not in row)
    return int(cast("float", value))


def known_count(source: Source, line: int, row: dict[str, Any], key: str) -> int:
    """Return a count, or -1 when it is null or absent."""
    return -1 if row.get(key) is None else count(source, line, row, key)


def seconds(source: Source, line: int, row: dict[str, Any], key: str) -> float:
    """Return a time or duration that must be there, as the file's number; its unit is the caller's business."""
    value = row.get(key)
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        number = None
    if number is None or not 0 <= number <= MAX_TIME_S:
        raise wrong_time(source, line, key, value, missing=key not in row)
    return number


def wrong_count(source: Place, line: int, key: str, value: object, *, missing: bool = False) -> TraceError:
    """Return the error for a value that is not a count."""
    what = f"{key} is missing" if missing else f"{key} is {shown(value)}"
    return source.fault(f"{what}; it must be a whole number from 0 to {MAX_TOKENS}: correct or remove the row", line)


def wrong_time(source: Place, line: int, key: str, value: object, *, missing: bool = False) -> TraceError:
    """Return the error for a value that is not a time."""
    what = f"{key} is missing" if missing else f"{key} is {shown(value)}"
    return source.fault(f"{what}; it must be a time from 0 to {MAX_TIME_S:g}: correct or remove the row", line)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


JSON_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
