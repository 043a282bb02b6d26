"""JSON schemas for structured output: made strict from a pydantic model, or recognised as strict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel


def strict_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return a model's JSON schema in the strict form: no additional properties, every property required.

    An optional field stays nullable. Defaults go, and a reference with a description beside it is written out, because
    strict mode allows neither.
    """
    schema = model.model_json_schema()
    strict = _strict(schema, schema.get("$defs", {}))
    assert isinstance(strict, dict)
    return strict


def _strict(node: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_strict(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node and len(node) > 1:
        beside = {key: value for key, value in node.items() if key != "$ref"}
        return _strict({**definitions[node["$ref"].rpartition("/")[2]], **beside}, definitions)
    strict: dict[str, Any] = {}
    for key, value in node.items():
        if key in {"properties", "$defs"}:
            strict[key] = {name: _strict(child, definitions) for name, child in value.items()}
        elif key not in {"default", "enum", "const"}:
            strict[key] = _strict(value, definitions)
        elif key != "default":
            strict[key] = value
    if node.get("type") == "object" and "properties" in node:
        strict.update(additionalProperties=False, required=list(node["properties"]))
    return strict


def is_closed(schema: Any) -> bool:
    """Tell whether every object inside a schema forbids additional properties and requires all it names."""
    if isinstance(schema, list):
        return all(is_closed(item) for item in schema)
    if not isinstance(schema, Mapping):
        return True
    if schema.get("type") == "object":
        named = set(schema.get("properties", {}))
        if schema.get("additionalProperties") is not False or named != set(schema.get("required", ())):
            return False
    return all(is_closed(child) for child in schema.values())
