"""Plain tables of settings in and out: inheritance, names relative to a file, the environment, TOML."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from factflow_llm.errors import ConfigurationError

EXTENDS = "extends"

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def nearest(word: str, known: Iterable[str]) -> str:
    """Say which known word was probably meant, or all of them; to be appended to an error."""
    known = sorted(map(str, known))
    near = get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known) or 'none'}"


def inherit(name: str, tables: Mapping[str, Any], seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a table with all that it ``extends``, nested tables merged key by key.

    Raises:
        ConfigurationError: no such table, a circle, or something that is no table.
    """
    table = tables[name]
    if not isinstance(table, Mapping):
        raise ConfigurationError("a profile is a table of keys")
    own = dict(table)
    if odd := next((key for key in own if not isinstance(key, str)), None):
        raise ConfigurationError(f"the key {odd!r} is no text")
    parent = own.pop(EXTENDS, None)
    if parent is None:
        return own
    if not isinstance(parent, str):
        raise ConfigurationError(f"extends is of type {type(parent).__name__}: write the name of a base or a profile")
    if parent not in tables:
        raise ConfigurationError(f"extends = {parent!r} names neither base nor profile{nearest(parent, tables)}")
    if parent in (name, *seen):
        raise ConfigurationError(f"extends goes in a circle: {' → '.join((*seen, name, parent))}")
    return _merge(inherit(parent, tables, (*seen, name)), own)


def _merge(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in own.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def anchor(tables: Any, keys: Iterable[str], folder: Path) -> Any:
    """Return the tables with the file names under ``keys`` made relative to the folder; anything else as it is."""
    if not isinstance(tables, dict):
        return tables
    anchored = {key: anchor(value, keys, folder) for key, value in tables.items()}
    names = {key: folder / Path(tables[key]).expanduser() for key in keys if isinstance(tables.get(key), str)}
    return anchored | names


def from_environment(environ: Mapping[str, str], prefix: str) -> dict[str, Any]:
    """Return the tables that variables spell: two underscores separate levels, names are lower-cased.

    Below ``options`` a value is read as TOML if it is some; elsewhere it stays text.

    Raises:
        ConfigurationError: a name stands for a value and for a table, or no variable has the prefix.
    """
    values: dict[str, Any] = {}
    for variable, text in sorted(environ.items()):
        first, *path = variable.split("__")
        if first != prefix or not path:
            continue
        *outer, key = (part.lower() for part in path)
        table = values
        for part in outer:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ConfigurationError(f"{variable}: {part} already has a value of its own; unset one of the two")
        table[key] = _read_toml(text) if "options" in outer else text
    if not values:
        raise ConfigurationError(
            f"no environment variable begins with {prefix}__; set {prefix}__PROVIDERS__CHAT__MODEL"
        )
    return values


def _read_toml(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def toml_key(key: str) -> str:
    """Write a key, quoted where it must be."""
    return key if _BARE_KEY.fullmatch(key) else toml_value(key)


def toml_value(value: Any) -> str:
    """Write a value, tables inline; ``None`` inside a table is left out, for TOML has no null.

    Raises:
        ConfigurationError: the value has no TOML form.
    """
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case str() | Path():
            return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
        case BaseModel():
            return toml_value(value.model_dump(exclude_defaults=True))
        case Mapping():
            pairs = (f"{toml_key(key)} = {toml_value(item)}" for key, item in value.items() if item is not None)
            return f"{{ {', '.join(pairs)} }}" if value else "{}"
        case list() | tuple():
            return f"[{', '.join(map(toml_value, value))}]"
    raise ConfigurationError(f"a {type(value).__name__} has no TOML form; keep it out of options, or build it in code")
