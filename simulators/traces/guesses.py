"""The map of columns that probably fits a file of no known format: telling names over values that bear them out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from simulators.traces.clocks import unit_in_name
from simulators.traces.layouts import plain_name
from simulators.traces.rows import GROUPED, within

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from simulators.traces.layouts import Path

LIKE_A_DATE = re.compile(r"\d{4}-\d\d-\d\d|\d\d?([./-])\d\d?\1\d{4}|\d{4}/\d\d?/\d\d?")
_UNITS = "(s|ms|us|ns|utc|iso)?"
_SIZES = "(tok|len|count|usage|size)"
_INPUTS = "(prompt|input|request|context|query|eingabe)"
_OUTPUTS = "(complet|output|respon|generat|answer|ausgabe)"
_NO_START = "end|finish|complet|durat|elaps|latenc|first|updat|respon|total|averag|median|timeout|zone|took|ttft"
_NO_TOKENS = "cach|cost|price|audio|imag|max|limit|total|reason"
# Of each field the patterns of its names, the surest first; names are compared without case, spaces and underscores.
_NAMES: Mapping[str, Sequence[str]] = {
    "time": (
        f"(request)?(timestamp|starttime|startedat|createdat|requestedat|requesttime|receivedat|arrival(time)?){_UNITS}",
        f"(ts|t|time|date|datetime|created|started|start|at|when|zeit|@timestamp){_UNITS}",
        f"(?!.*({_NO_START})).*(time|date|stamp|created|started|arriv|zeit|datum).*",
        f"(?!.*({_NO_START})).*(logged|asked|sent|issued|called|queried|made)at",
        f"(elapsed|offset|relative)(time)?{_UNITS}",
    ),
    "input_tokens": (
        f"(.*\\.)?{_INPUTS}s?{_SIZES}.*",
        f"(?!.*({_NO_TOKENS})).*({_INPUTS}|^in).*{_SIZES}.*",
        f"(?!.*({_NO_TOKENS}|out)).*{_SIZES}.*({_INPUTS}|in)",
        "(n|num)?(prompt|input|in|eingabe)s?(tok.*)?",
    ),
    "output_tokens": (
        f"(.*\\.)?{_OUTPUTS}[a-z]{{0,3}}{_SIZES}.*",
        f"(?!.*({_NO_TOKENS})).*({_OUTPUTS}|^out).*{_SIZES}.*",
        f"(?!.*({_NO_TOKENS})).*{_SIZES}.*({_OUTPUTS}|out)",
        "(n|num)?(completion|output|out|gen|generated|ausgabe)s?(tok.*|len.*)?",
    ),
    "max_tokens": ("max(completion|output|new)?tokens",),
    "session": ("(session|conversation|thread|chat)(id)?",),
    "end_time": ("(end|finish|completion|response)(ed)?(time|at|timestamp)|end|finished|ended",),
}


def probable(rows: Sequence[Mapping[str, Any]], names: Mapping[str, Path]) -> dict[str, str]:
    """Return the map that probably fits some rows, as far as one can be told."""
    found: dict[str, str] = {}
    for key, patterns in _NAMES.items():
        bears = _is_time if key.endswith("time") else _is_any if key == "session" else _is_count
        for pattern in patterns:
            fits = [
                name
                for name, path in names.items()
                if name not in found.values()
                and any(re.fullmatch(pattern, plain_name(word)) for word in (name, path[-1]))
                and bears([within(row, path) for row in rows])
            ]
            if fits:
                found[key] = min(fits, key=lambda name: (name.count("."), len(name)))
                break
    if "session" not in found:
        found.pop("end_time", None)
    return found


def needs_unit(rows: Sequence[Mapping[str, Any]], path: Path, name: str) -> bool:
    """Whether the numbers of a column of times may count anything."""
    numbers = [_number(value) for row in rows if _is_number(value := within(row, path))]
    return bool(numbers) and min(numbers) < 9e8 and unit_in_name(name) is None


def _number(value: Any) -> float:
    """Return a number, whose fraction may stand after a comma."""
    return float(str(value).replace(",", ".", 1))


def _is_number(value: Any) -> bool:
    try:
        _number(value)
    except ValueError:
        return False
    return not isinstance(value, bool)


def _is_time(values: Sequence[Any]) -> bool:
    known = [value for value in values if value not in (None, "")]
    return bool(known) and all(_is_number(value) or LIKE_A_DATE.match(str(value)) for value in known)


def _is_count(values: Sequence[Any]) -> bool:
    known = [value for value in values if value not in (None, "")]
    return bool(known) and all(
        GROUPED.fullmatch(str(value)) or (_is_number(value) and _number(value) % 1 == 0) for value in known
    )


def _is_any(values: Sequence[Any]) -> bool:
    return any(value not in (None, "") for value in values)
