"""Make a JSON value that fits a schema: the smallest with all its properties, the same each time."""

from __future__ import annotations

import math
from typing import Any

_DEEPEST = 24
_FORMATS = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "email": "someone@example.com",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "uri": "https://example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "hostname": "example.com",
    "duration": "P1D",
}


def instance(schema: Any) -> Any:
    """Return a value that fits a JSON schema; patterns are not read, and recursion ends where it may."""
    return _made(schema, schema, 0)


def _made(schema: Any, root: Any, depth: int) -> Any:
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return None
    if isinstance(reference := schema.get("$ref"), str):
        return _made(_resolved(reference, root), root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if isinstance(words := schema.get("enum"), list) and words:
        return words[0]
    for name in ("anyOf", "oneOf"):
        if isinstance(choices := schema.get(name), list) and choices:
            return _made(_merged([schema, min(choices, key=_weight)], drop=name), root, depth + 1)
    if isinstance(parts := schema.get("allOf"), list) and parts:
        whole = [_resolved(part["$ref"], root) if isinstance(part, dict) and "$ref" in part else part for part in parts]
        return _made(_merged([schema, *whole], drop="allOf"), root, depth + 1)
    return _of_type(_kind(schema), schema, root, depth)


def _of_type(kind: str, schema: dict[str, Any], root: Any, depth: int) -> Any:
    if kind == "object":
        properties = schema.get("properties")
        named = properties if isinstance(properties, dict) else {}
        needed = schema.get("required")
        deep = depth > _DEEPEST // 2
        wanted = [name for name in named if not deep or (isinstance(needed, list) and name in needed)]
        return {name: _made(named[name], root, depth + 1) for name in wanted}
    if kind == "array":
        usual = 0 if depth > _DEEPEST // 2 else min(1, _number(schema, "maxItems", 1))
        least = max(_number(schema, "minItems", 0), usual)
        first = schema.get("prefixItems")
        items = first if isinstance(first, list) else []
        return [_made(items[n] if n < len(items) else schema.get("items", {}), root, depth + 1) for n in range(least)]
    if kind == "string":
        text = _FORMATS.get(str(schema.get("format")), "word")
        return text.ljust(_number(schema, "minLength", 0), "x")[: _number(schema, "maxLength", 10**6)]
    if kind in ("integer", "number"):
        return _within(kind, schema)
    return True if kind == "boolean" else None


def _within(kind: str, schema: dict[str, Any]) -> int | float:
    step = schema.get("multipleOf")
    step = step if isinstance(step, int | float) and step > 0 else 1
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if isinstance(low, int | float):
        least = math.ceil(low / step) * step
        found: float = least + step if "exclusiveMinimum" in schema and least <= schema["exclusiveMinimum"] else least
        if isinstance(high, int | float) and found > high and kind == "number":
            found = (low + high) / 2
    elif isinstance(high, int | float) and high < 1:
        found = math.floor(high / step) * step
        found = found - step if "exclusiveMaximum" in schema and found >= schema["exclusiveMaximum"] else found
    else:
        found = step
    return int(found) if kind == "integer" else float(found)


def _kind(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((each for each in kind if each != "null"), "null")
    if isinstance(kind, str):
        return kind
    return "object" if "properties" in schema else "array" if "items" in schema else "string"


def _weight(choice: Any) -> int:
    """Return how little a choice is worth: a plain value first, then what refers, nothing last."""
    if not isinstance(choice, dict) or choice.get("type") == "null":
        return 2
    return 1 if "$ref" in choice else 0


def _merged(parts: list[Any], drop: str) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for part in parts:
        if isinstance(part, dict):
            both = dict(whole.get("properties") or {}) | dict(part.get("properties") or {})
            whole |= part
            if both:
                whole["properties"] = both
    del whole[drop]
    return whole


def _resolved(reference: str, root: Any) -> Any:
    found = root
    for key in reference.removeprefix("#").strip("/").split("/"):
        if key:
            found = found.get(key.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found


def _number(schema: dict[str, Any], name: str, default: int) -> int:
    value = schema.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 10**6 else default
