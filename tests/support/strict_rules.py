"""OpenAI's published rules for strict schemas, as an oracle: written from the documentation, not from our code.

Source: platform documentation, "Structured Outputs", supported schemas (February 2026).
"""

from __future__ import annotations

import re
from typing import Any

TYPES = {"string", "number", "boolean", "integer", "object", "array", "null"}
STRING_FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
FORBIDDEN = {
    *("allOf", "oneOf", "not", "dependentRequired", "dependentSchemas", "if", "then", "else", "default"),
    *("minLength", "maxLength", "patternProperties", "unevaluatedProperties", "propertyNames", "minProperties"),
    *("maxProperties", "unevaluatedItems", "contains", "minContains", "maxContains", "uniqueItems", "prefixItems"),
    "discriminator",
}


def violations(name: str, schema: dict[str, Any]) -> list[str]:
    """Return every rule that a strict schema breaks, with its place."""
    found = [] if re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) else [f"name {name!r}"]
    if schema.get("type") != "object" or "anyOf" in schema:
        found.append("the root is no object")
    found += _walk(schema, schema, "#")
    if found:
        return found
    properties, enum_values, letters = _sizes(schema)
    found += [f"{properties} properties"] if properties > 5000 else []
    found += [f"{enum_values} enum values"] if enum_values > 1000 else []
    found += [f"{letters} letters of names and values"] if letters > 120_000 else []
    if _nesting(schema, schema, ()) > 10:
        found.append("nested too deep")
    return found


def _walk(node: Any, root: dict[str, Any], place: str) -> list[str]:
    if not isinstance(node, dict):
        return [f"{place} is no schema"]
    found = [f"{place} has {word}" for word in sorted(FORBIDDEN & set(node))]
    kinds = node.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if "$ref" in node:
        if set(node) - {"$ref", "$defs"}:
            found.append(f"{place} has words beside $ref")
        target = node["$ref"].removeprefix("#/$defs/")
        if node["$ref"] != "#" and target not in root.get("$defs", {}):
            found.append(f"{place} refers to nothing")
    elif not node.get("anyOf") and not kinds:
        found.append(f"{place} has no type")
    if not set(kinds) <= TYPES:
        found.append(f"{place} has a type that is none")
    if "object" in kinds:
        if node.get("additionalProperties") is not False:
            found.append(f"{place} is open")
        if sorted(node.get("required", [])) != sorted(node.get("properties", {})):
            found.append(f"{place} does not require all")
    if "array" in kinds and not isinstance(node.get("items"), dict):
        found.append(f"{place} does not say of what")
    if "format" in node and node["format"] not in STRING_FORMATS:
        found.append(f"{place} has format {node['format']}")
    if re.search(r"\(\?[=!<]", str(node.get("pattern", ""))):
        found.append(f"{place} looks around")
    enum = node.get("enum", [])
    if len(enum) > 250 and all(isinstance(value, str) for value in enum) and sum(map(len, enum)) > 15_000:
        found.append(f"{place} has too long an enum")
    for step, child in _inside(node):
        found += _walk(child, root, f"{place}/{step}")
    return found


def _inside(node: dict[str, Any]) -> list[tuple[str, Any]]:
    named = [
        (f"{word}/{name}", child) for word in ("properties", "$defs") for name, child in node.get(word, {}).items()
    ]
    listed = [(f"anyOf/{number}", child) for number, child in enumerate(node.get("anyOf", []))]
    return [*named, *listed, *([("items", node["items"])] if "items" in node else [])]


def _sizes(node: dict[str, Any]) -> tuple[int, int, int]:
    properties, enum = node.get("properties", {}), node.get("enum", [])
    own = [*properties, *node.get("$defs", {}), *map(str, enum), *([str(node["const"])] if "const" in node else [])]
    sums = [len(properties), len(enum), sum(map(len, own))]
    for _, child in _inside(node):
        sums = [a + b for a, b in zip(sums, _sizes(child), strict=True)]
    return sums[0], sums[1], sums[2]


def _nesting(node: dict[str, Any], root: dict[str, Any], inside: tuple[str, ...]) -> int:
    if "$ref" in node:
        reference = node["$ref"]
        if reference in inside:
            return 0
        target = root if reference == "#" else root["$defs"][reference.removeprefix("#/$defs/")]
        return _nesting(target, root, (*inside, reference))
    deeper = [_nesting(child, root, inside) for step, child in _inside(node) if not step.startswith("$defs")]
    return max(deeper, default=0) + ("properties" in node)
