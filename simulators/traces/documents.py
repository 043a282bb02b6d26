"""The JSON values of a file: one per line, the elements of one long list, or one document over many lines."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from simulators.traces.source import JSON_DECODER, MAX_DOCUMENT_BYTES, Source, parse_json
from simulators.traces.trace import TraceError

if TYPE_CHECKING:
    from collections.abc import Iterator

_BETWEEN = re.compile(r"[\s,]+")
# A value cut off by the end of a piece fails here; farther from the end it is damaged.
_CUT_CHARACTERS = 32


def json_values(source: Source) -> Iterator[tuple[int, Any]]:
    """Yield (line, value): each line of JSON Lines, element of a list, or the document; no list is held whole.

    Raises:
        TraceError: with the line, for anything that is not JSON.
    """
    if _is_lines(source):
        for line, text, _ in source.lines():
            yield line, parse_json(source, line, text)
    else:
        yield from _elements(source)


def _is_lines(source: Source) -> bool:
    """Whether the first line is a whole object, and thus every line a row."""
    with Source(source.path) as peek:
        line, newline, _ = peek.head().partition("\n")
    if not line.startswith("{") or not newline:
        return False
    try:
        parse_json(source, 1, line)
    except TraceError:
        return False
    return True


def _elements(source: Source) -> Iterator[tuple[int, Any]]:
    """Yield values that follow each other, in a list or not, while the text comes in pieces."""
    pieces = source.pieces()
    text, at, line, counted = "", 0, 1, 0
    needed, in_list, ended = 1, False, False
    while not ended or at < len(text):
        while not ended and len(text) - at < needed:
            piece = next(pieces, "")
            ended = not piece
            line += text.count("\n", counted, at)
            text, at, counted = text[at:] + piece, 0, 0
        if between := _BETWEEN.match(text, at):
            at = between.end()
        if at == len(text):
            needed = 1
            continue
        line, counted = line + text.count("\n", counted, at), at
        if text[at] == "[" and not in_list:
            in_list, at = True, at + 1
            continue
        if text[at] == "]" and in_list:
            in_list, at = False, at + 1
            continue
        try:
            value, end = JSON_DECODER.raw_decode(text, at)
        except json.JSONDecodeError as error:
            cut = error.pos >= len(text) - _CUT_CHARACTERS or error.msg.startswith("Unterminated")
            if ended or not cut:
                raise source.fault(
                    f"not JSON ({error.msg} at column {error.colno}); the row is damaged or cut off",
                    line + text.count("\n", counted, error.pos),
                ) from None
            needed = _more(source, line, text, at)
            continue
        except ValueError as error:
            raise source.fault(f"a number that cannot be read ({error}); correct or remove the row", line) from None
        except RecursionError:
            raise source.fault("JSON nested too deeply for a trace; correct or remove the row", line) from None
        if end == len(text) and not ended:
            needed = _more(source, line, text, at)
            continue
        yield line, value
        at, needed = end, 1
    if in_list:
        raise source.fault("not JSON (a list that never ends); the file is cut off", line)


def _more(source: Source, line: int, text: str, at: int) -> int:
    """Return how many characters the value at ``at`` may need: twice what there is, so that none is read too often."""
    if len(text) - at > MAX_DOCUMENT_BYTES:
        raise source.fault(
            f"one JSON document of more than {MAX_DOCUMENT_BYTES} bytes; export one row or batch per line", line
        )
    return 2 * (len(text) - at)
