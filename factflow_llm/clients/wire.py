"""Read what came over the wire, field by field: nothing is trusted to have a shape.

Each reader takes whatever JSON gave and the field's name. It accepts what servers really send (absent, null, a list for
a text, a number for a text, a text for a number, an object for a list) and raises a ``BadResponseError`` that names the
field for what has no meaning. Of the answer itself nothing is shown.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn

from factflow_llm.errors import BadResponseError

if TYPE_CHECKING:
    from collections.abc import Mapping

_KINDS = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
_TEXT_KEYS = ("text", "content", "value", "thinking", "reasoning", "summary")
_DEEPEST = 16  # lists of parts of lists; real answers need two


def unreadable(field: str, value: Any, wanted: str) -> NoReturn:
    """Raise for a field that has no meaning: named by its place, with what came and what belongs there."""
    found = _KINDS.get(type(value), "null or missing")
    raise BadResponseError(
        f"the answer cannot be read: {field} is {found} where {wanted} belongs; try again, and if it stays so, "
        "look at raw answers of this server: it does not keep to the API"
    )


def decode(content: bytes) -> Any:
    """Decode JSON; ``ValueError`` when it is none. Bytes that are no UTF-8 become U+FFFD.

    Raises:
        ValueError: broken JSON, a number of thousands of digits, or nesting beyond all measure.
    """
    try:
        return json.loads(content.decode())
    except UnicodeDecodeError:
        return _decode_oddly(content)
    except ValueError:
        if content[:1] in {b"\xef", b"\xfe", b"\xff"} or b"\0" in content[:4]:
            return _decode_oddly(content)
        raise
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _decode_oddly(content: bytes) -> Any:
    """Decode what is no plain UTF-8: with a byte order mark, in UTF-16, with halves of characters, or broken."""
    try:
        return json.loads(content)
    except UnicodeDecodeError:
        return json.loads(content.decode(errors="replace"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def mapping(value: Any) -> Mapping[str, Any]:
    """Read an object; anything else has no fields."""
    return value if isinstance(value, dict) else {}


def items(value: Any, field: str) -> list[Any]:
    """Read a list: null is an empty one, and an object stands for a list of one."""
    if isinstance(value, list):
        return value
    if value is None:
        return []
    if isinstance(value, dict):
        return [value]
    unreadable(field, value, "a list")


def text(value: Any, field: str) -> str:
    """Read a text: null is an empty one, parts are joined, numbers are spelt; always valid Unicode."""
    return whole(spelt(value, field))


def spelt(value: Any, field: str, _depth: int = 0) -> str:
    """Read a piece of a text, as ``text`` does; half a character may stand at its ends (see ``Pieces``)."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool) or _depth > _DEEPEST:
        unreadable(field, value, "text")
    if isinstance(value, int | float):
        return json.dumps(value)
    if isinstance(value, list):
        return "".join([spelt(item, field, _depth + 1) for item in value])
    for key in _TEXT_KEYS:
        if key in value:
            return spelt(value[key], field, _depth + 1)
    return ""


def whole(value: str) -> str:
    """Return the text as valid Unicode: two halves of a character side by side become one, a lone half U+FFFD."""
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def word(value: Any) -> str | None:
    """Read a machine's word (an id, a model, a kind): anything that is neither text nor a number, and "", is none."""
    if isinstance(value, str):
        return whole(value) or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def count(value: Any) -> int | None:
    """Read a whole number from 0, also written as text or as 3.0; anything else is unknown."""
    if value is None:
        return None
    if isinstance(value, str):
        value = int(value) if value.isdecimal() and value.isascii() and len(value) < 20 else None
    elif isinstance(value, float):
        value = int(value) if value.is_integer() else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def number(value: Any) -> float | None:
    """Read a number; anything else, and one beyond all floats, is unknown."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def json_text(value: Any, field: str) -> str:
    """Read a tool's arguments as JSON text: an object is written out, nothing at all is no arguments."""
    written = json_piece(value, field)
    return whole(written) if written.strip() else "{}"


def json_piece(value: Any, field: str) -> str:
    """Read a piece of a tool's arguments: text as it is, an object written out."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, dict):
        return json.dumps(value)
    unreadable(field, value, "JSON text or an object")


class Pieces:
    """A text that arrives in pieces; a character the server has cut in two is held back until it is whole."""

    __slots__ = ("_half", "_pieces")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._half = ""

    def add(self, piece: str) -> str:
        """Take a raw piece; return as much as is whole."""
        if not piece.isascii() or self._half:
            piece, self._half = self._half + piece, ""
            if "\ud800" <= piece[-1:] <= "\udbff":
                piece, self._half = piece[:-1], piece[-1]
            piece = whole(piece)
        if piece:
            self._pieces.append(piece)
        return piece

    def __str__(self) -> str:
        return "".join(self._pieces)
