"""JSON schemas for structured output: narrowed to what OpenAI's strict mode takes, and judged by its published rules.

Whatever fits a narrowed schema fits the model it came from, save for rules of length and the like, which strict mode
does not know: they are told in the description, and the model itself checks them when the answer is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError

from factflow_llm.clients.checks import check_unicode
from factflow_llm.errors import InvalidRequestError

if TYPE_CHECKING:
    from factflow_llm.types import CompletionResponse

WRAPPED = "value"
"""The one property of the object put round a schema that describes none, such as a ``RootModel[list[int]]``."""

MAX_PROPERTIES = 5_000
MAX_LEVELS = 10
MAX_CHARS = 120_000
MAX_ENUM_VALUES = 1_000
LONG_ENUM_VALUES, MAX_LONG_ENUM_CHARS = 250, 15_000

_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"},
)
_TYPES = frozenset({"string", "number", "boolean", "integer", "object", "array", "null"})
_RULES = frozenset(
    {
        *("type", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "const", "$ref", "$defs"),
        *("title", "description", "pattern", "format", "minItems", "maxItems"),
        *("multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    }
)
_TOLD = ("minLength", "maxLength", "uniqueItems", "minProperties", "maxProperties", "minContains", "maxContains")
"""Rules strict mode does not know and a model may be asked for in words."""
_NOTES = frozenset(
    {
        *("default", "examples", "example", "deprecated", "readOnly", "writeOnly", "discriminator"),
        *("contentMediaType", "contentEncoding", "$schema", "$id", "$comment"),
    }
)
_LOOKAROUND = re.compile(r"\(\?<?[=!]|\\[1-9]|\(\?P")
_NAME = re.compile(r"[^a-zA-Z0-9_-]")


def schema_name(title: Any) -> str:
    """Make a name OpenAI takes, 1 to 64 letters, digits, ``_`` or ``-``, out of a title."""
    return _NAME.sub("_", title if isinstance(title, str) else "")[:64] or "answer"


@lru_cache(maxsize=256)
def model_schema(model: type[BaseModel]) -> tuple[dict[str, Any], bool]:
    """Return the schema to send OpenAI for a model, and whether strict mode takes it.

    Raises:
        InvalidRequestError: when the model holds what JSON cannot describe.
    """
    schema = described(model)
    narrow = narrowed(schema)
    return (schema, False) if obstacle(narrow) else (narrow, True)


def described(model: type[BaseModel]) -> dict[str, Any]:
    """Return a model's own schema, an object at its root: one that is none is wrapped.

    Raises:
        InvalidRequestError: when the model holds what JSON cannot describe.
    """
    try:
        schema = model.model_json_schema()
    except (PydanticInvalidForJsonSchema, PydanticUserError) as error:
        raise InvalidRequestError(
            f"response_format: {model.__name__} has no JSON schema ({type(error).__name__}): use types JSON can hold"
        ) from None
    check_unicode(schema, where=f"the schema of {model.__name__}")
    return _wrapped(_without_reference(schema))


def _without_reference(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Write out a root that is a reference, as a recursive model's is."""
    if "$ref" not in schema:
        return dict(schema)
    return {**_definition(schema["$ref"], schema), **{name: value for name, value in schema.items() if name != "$ref"}}


def _wrapped(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type") == "object":
        return schema
    inner = {name: value for name, value in schema.items() if name != "$defs"}
    definitions = {"$defs": schema["$defs"]} if "$defs" in schema else {}
    return {"type": "object", "properties": {WRAPPED: inner}, "required": [WRAPPED], **definitions}


def parse_answer(model: type[BaseModel], text: str) -> tuple[BaseModel | None, str | None]:
    """Read an answer's text as an instance of the model that was asked for.

    Returns:
        The instance and ``None``, or ``None`` and what does not fit: places and rules, nothing of the text.
    """
    try:
        return model.model_validate_json(text), None
    except ValidationError as error:
        unfit = error
    except (RecursionError, ValueError) as error:
        return None, f"{model.__name__} cannot be read: {type(error).__name__}"
    if model.__pydantic_root_model__:
        try:
            return model.model_validate(json.loads(text)[WRAPPED]), None
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            pass
    places = [
        f"{'.'.join(map(str, one['loc'])) or 'the whole'}: {one['type']}"
        for one in unfit.errors(include_input=False, include_context=False, include_url=False)
    ]
    return None, f"the answer is no {model.__name__}: {'; '.join(places[:5])}"


def fitted(response: CompletionResponse, form: Any) -> CompletionResponse:
    """Return an answer with its text read as an instance of ``form``; as it is when that is no model."""
    if not isinstance(form, type) or not issubclass(form, BaseModel) or not response.text:
        return response
    parsed, error = parse_answer(form, response.text)
    first = replace(response, parsed=parsed, parse_error=error, responses=())
    if not response.responses:
        return first
    return replace(first, responses=(first, *(fitted(other, form) for other in response.responses[1:])))


def narrowed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema's narrowest reading: every property there, nothing else, unions without a discriminator.

    Defaults, which strict mode forbids, go; so do rules it does not know, into the description. A reference with
    words beside it is written out.
    """
    narrow = _narrow(schema, schema, ())
    assert isinstance(narrow, dict)
    return narrow


def _narrow(node: Any, root: Mapping[str, Any], inside: tuple[str, ...]) -> Any:
    if not isinstance(node, Mapping):
        return node
    if "$ref" in node and len(node) > 1 and node is not root:
        target = node["$ref"]
        beside = {name: value for name, value in node.items() if name != "$ref" and name not in _NOTES}
        if not beside or target in inside:
            return {"$ref": target}
        return _narrow({**_definition(target, root), **beside}, root, (*inside, target))
    if len(node.get("allOf", ())) == 1 and isinstance(node["allOf"][0], Mapping):
        rest = {name: value for name, value in node.items() if name != "allOf"}
        return _narrow({**node["allOf"][0], **rest}, root, inside)
    narrow: dict[str, Any] = {}
    told: list[str] = []
    for name, value in node.items():
        if name in {"properties", "$defs"}:
            narrow[name] = {key: _narrow(child, root, inside) for key, child in value.items()}
        elif name in {"anyOf", "oneOf"}:
            narrow["anyOf"] = [_narrow(child, root, inside) for child in value]
        elif name == "items":
            narrow[name] = _narrow(value, root, inside)
        elif name in _TOLD or not _is_known(name, value):
            told.append(f"{name}: {json.dumps(value, default=str)}")
        elif name not in _NOTES:
            narrow[name] = value
    if "type" not in narrow and "enum" in narrow:
        narrow["type"] = sorted({_type_of(value) for value in narrow["enum"]})
    if narrow.get("type") == "object" and "properties" in narrow:
        narrow.setdefault("additionalProperties", False)
        narrow["required"] = list(narrow["properties"])
    if told:
        narrow["description"] = " ".join(filter(None, (narrow.get("description"), f"({', '.join(told)})")))
    return narrow


def _is_known(name: str, value: Any) -> bool:
    """Tell whether strict mode takes this format or pattern; true for anything else."""
    if name == "format":
        return value in _FORMATS
    return name != "pattern" or (isinstance(value, str) and not _LOOKAROUND.search(value))


def _type_of(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    return names.get(type(value), "object")


def _definition(reference: Any, root: Mapping[str, Any]) -> dict[str, Any]:
    found = root.get("$defs", {}).get(reference.removeprefix("#/$defs/")) if isinstance(reference, str) else None
    return dict(found) if isinstance(found, Mapping) else {}


def obstacle(schema: Mapping[str, Any]) -> str | None:
    """Tell why OpenAI's strict mode would refuse a schema, by its published rules; ``None`` when it would not."""
    if schema.get("type") != "object" or "anyOf" in schema:
        return "the root is no plain object"
    definitions = schema.get("$defs", {})
    for node in _nodes(schema):
        if reason := _fault(node, definitions):
            return reason
    if _levels(schema, definitions, ()) > MAX_LEVELS:
        return f"it is nested more than {MAX_LEVELS} levels deep"
    if not _is_finite(schema, definitions):
        return "no answer to it could ever end"
    return _excess(schema)


def _nodes(node: Any) -> Iterator[Any]:
    """Yield a schema and all schemas inside."""
    yield node
    if isinstance(node, Mapping):
        for child in _children(node):
            yield from _nodes(child)


def _children(node: Mapping[str, Any]) -> Iterator[Any]:
    for name in ("properties", "$defs"):
        if isinstance(node.get(name), Mapping):
            yield from node[name].values()
    if isinstance(node.get("anyOf"), list):
        yield from node["anyOf"]
    if "items" in node:
        yield node["items"]


def _fault(node: Any, definitions: Mapping[str, Any]) -> str | None:
    if not isinstance(node, Mapping):
        return "a schema is no object"
    if unknown := sorted(set(node) - _RULES):
        return f"{unknown[0]!r} is not permitted"
    for name in ("format", "pattern"):
        if name in node and not _is_known(name, node[name]):
            return f"this {name} is not permitted"
    if "$ref" in node:
        if len(node) > 1 and "$defs" not in node:
            return "'$ref' stands beside other words"
        known = node["$ref"] == "#" or str(node["$ref"]).removeprefix("#/$defs/") in definitions
        return None if known else "a reference leads nowhere"
    if "anyOf" in node:
        return None if isinstance(node["anyOf"], list) and node["anyOf"] else "'anyOf' is empty"
    kinds = node.get("type")
    if not kinds or not set([kinds] if isinstance(kinds, str) else kinds) <= _TYPES:
        return "a schema has no type"
    if "object" in kinds:
        return _object_fault(node)
    if "array" in kinds and "items" not in node:
        return "a list does not say of what"
    return None


def _object_fault(node: Mapping[str, Any]) -> str | None:
    if node.get("additionalProperties") is not False or not isinstance(node.get("properties"), Mapping):
        return "an object does not forbid additional properties"
    if set(node["properties"]) != set(node.get("required", ())):
        return "an object does not require each of its properties"
    return None


def _target(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Any:
    return definitions.get(str(node["$ref"]).removeprefix("#/$defs/"))


def _levels(node: Any, definitions: Mapping[str, Any], inside: tuple[str, ...]) -> int:
    """Return how many objects and lists stand in one another; one that holds itself counts once."""
    if "$ref" in node:
        target = _target(node, definitions)
        again = node["$ref"] in inside or target is None
        return 0 if again else _levels(target, definitions, (*inside, node["$ref"]))
    own = 1 if "properties" in node or "items" in node else 0
    below = (child for child in _children({name: node[name] for name in node if name != "$defs"}))
    return own + max((_levels(child, definitions, inside) for child in below), default=0)


def _is_finite(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> bool:
    """Tell whether an object can be written that fits: none can where each must hold another of its own."""
    ending: set[str] = set()

    def ends(node: Mapping[str, Any]) -> bool:
        if "$ref" in node:
            return node["$ref"] in ending
        if "anyOf" in node:
            return any(map(ends, node["anyOf"]))
        if "items" in node and node.get("minItems", 0) > 0:
            return ends(node["items"])
        return "properties" not in node or all(map(ends, node["properties"].values()))

    named = {f"#/$defs/{name}": node for name, node in definitions.items()} | {"#": schema}
    while found := {name for name, node in named.items() if name not in ending and ends(node)}:
        ending |= found
    return "#" in ending


def _excess(schema: Mapping[str, Any]) -> str | None:
    nodes = list(_nodes(schema))
    names = [name for node in nodes for part in ("properties", "$defs") for name in node.get(part, ())]
    enums = [node["enum"] for node in nodes if "enum" in node]
    values = [str(value) for enum in enums for value in enum]
    consts = [str(node["const"]) for node in nodes if "const" in node]
    if sum(len(node.get("properties", ())) for node in nodes) > MAX_PROPERTIES:
        return f"it has more than {MAX_PROPERTIES} properties"
    if len(values) > MAX_ENUM_VALUES:
        return f"it has more than {MAX_ENUM_VALUES} enum values"
    if sum(map(len, names + values + consts)) > MAX_CHARS:
        return f"its names and values hold more than {MAX_CHARS} characters"
    longest = max((sum(len(str(v)) for v in enum) for enum in enums if len(enum) > LONG_ENUM_VALUES), default=0)
    return (
        f"an enum's values hold more than {MAX_LONG_ENUM_CHARS} characters" if longest > MAX_LONG_ENUM_CHARS else None
    )
