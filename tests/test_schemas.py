"""Schemas of models: strict where OpenAI's published rules allow it, and never one that breaks them."""

from __future__ import annotations

import enum
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import IPv4Address
from typing import Annotated, Any, Generic, Literal, Optional, TypeVar, Union
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import AnyUrl, BaseModel, ConfigDict, Field, RootModel, SecretStr, create_model

from factflow_llm.clients.openai_messages import say_format, say_tools
from factflow_llm.clients.schemas import described, model_schema, narrowed, obstacle, parse_answer, schema_name
from factflow_llm.errors import InvalidRequestError
from factflow_llm.types import Tool
from tests.support.strict_rules import violations

T = TypeVar("T")


class Colour(enum.Enum):
    """A closed set."""

    RED = "red"
    BLUE = "blue"


class Part(BaseModel):
    """A part of something."""

    number: int = Field(ge=1, lt=1000, description="as stamped")
    label: str = Field(default="none", min_length=2, pattern="^[a-z]+$")


class Cog(BaseModel):
    """One kind of a union."""

    kind: Literal["cog"]
    teeth: int


class Belt(BaseModel):
    """The other kind."""

    kind: Literal["belt"]
    holes: set[int] = Field(max_length=3)


class Pair(BaseModel, Generic[T]):
    """A generic model."""

    left: T
    right: T | None = None


class Tree(BaseModel):
    """A model that holds itself."""

    name: str
    branches: list[Tree] = []
    twin: Tree | None = Field(default=None, description="as like as can be")


class Endless(BaseModel):
    """A model no instance of which could be written to its end."""

    inner: Endless


class Open(BaseModel):
    """A model that takes any other field."""

    model_config = ConfigDict(extra="allow")
    a: int


MODELS = {
    "plain": (Part, True),
    "discriminated": (create_model("M", part=(Annotated[Cog | Belt, Field(discriminator="kind")], ...)), True),
    "generic": (Pair[int], True),
    "generic of generic": (Pair[Pair[Part]], True),
    "recursive": (Tree, True),
    "recursive by a described reference": (create_model("M", tree=(Tree, Field(description="the root"))), True),
    "enum": (create_model("M", colour=(Colour, Colour.RED), mixed=(Literal[1, "a"] | None, None)), True),
    "formats": (create_model("M", a=(datetime, ...), b=(date, ...), c=(time, ...), d=(UUID, ...)), True),
    "formats unknown": (create_model("M", a=(AnyUrl, ...), b=(SecretStr, ...), c=(IPv4Address, ...)), True),
    "numbers": (create_model("M", a=(Decimal, ...), b=(timedelta, ...), c=(float, Field(multiple_of=0.5))), True),
    "empty": (create_model("M"), True),
    "root list": (RootModel[list[int]], True),
    "root union": (RootModel[Cog | Belt], True),
    "root model": (RootModel[Part], True),
    "alias": (create_model("M", a=(int, Field(alias="the number"))), True),
    "dict": (create_model("M", a=(dict[str, int], ...)), False),
    "tuple": (create_model("M", a=(tuple[int, str], ...)), False),
    "anything": (create_model("M", a=(Any, ...)), False),
    "list of anything": (create_model("M", a=(list, ...)), False),
    "root dict": (RootModel[dict[str, int]], False),
    "open": (Open, False),
    "endless": (Endless, False),
    "deep": (RootModel[list[list[list[list[list[list[list[list[list[list[int]]]]]]]]]]], False),
    "wide": (create_model("M", **{f"f{n}": (int, ...) for n in range(5001)}), False),  # type: ignore[call-overload]
    "long enum": (create_model("M", a=(Literal[tuple(f"{n:060}" for n in range(260))], ...)), False),
    "many values": (create_model("M", a=(Literal[tuple(range(1001))], ...)), False),
}


@pytest.mark.parametrize(("model", "strict"), MODELS.values(), ids=MODELS)
def test_model_is_strict_where_it_can_be(model: type[BaseModel], strict: bool) -> None:
    """A strict schema breaks no published rule; any other is the model's own, an object at its root."""
    sent = say_format(model)["json_schema"]
    assert sent["strict"] is strict
    if strict:
        assert violations(sent["name"], sent["schema"]) == []
    else:
        assert sent["schema"] == described(model)
        assert sent["schema"]["type"] == "object"
        assert violations(sent["name"], narrowed(sent["schema"])) or model in {Endless, MODELS["deep"][0]}


LEAVES = st.sampled_from(
    [int, str, float, bool, date, UUID, Decimal, bytes, AnyUrl, Any, None, Colour, Literal["a", 2], Part, Cog, Tree]
)


def _composites(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    field = st.tuples(inner, st.booleans(), st.booleans())
    return st.one_of(
        inner.map(lambda one: list[one]),  # type: ignore[valid-type]
        inner.map(lambda one: dict[str, one]),  # type: ignore[valid-type]
        inner.map(lambda one: Optional[one]),  # noqa: UP045 - at run time
        st.tuples(inner, inner).map(lambda two: tuple[two[0], two[1]]),  # type: ignore[name-defined]
        st.tuples(inner, inner).map(lambda two: Union[two[0], two[1]]),  # noqa: UP007 - at run time
        st.just(Annotated[Cog | Belt, Field(discriminator="kind")]),
        st.lists(field, max_size=3).map(_model),
        inner.map(lambda one: RootModel[one]),  # type: ignore[valid-type]
        inner.map(lambda one: Pair[one]),  # type: ignore[valid-type]
    )


def _model(fields: list[tuple[Any, bool, bool]]) -> type[BaseModel]:
    described_or_not = [Field(description="x"), ...]
    made = {
        f"f {number}" if odd else f"f{number}": (kind, None if optional else described_or_not[number % 2])
        for number, (kind, optional, odd) in enumerate(fields)
    }
    return create_model("Made Up", **made)  # type: ignore[call-overload, no-any-return]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.recursive(LEAVES, _composites, max_leaves=8))
def test_made_up_models_break_no_rule(kind: Any) -> None:
    """Whatever a model holds, what is called strict is strict, by an oracle that reads the rules for itself."""
    model = create_model("M", field=(kind, ...))
    schema, strict = model_schema(model)
    assert schema["type"] == "object"
    if strict:
        assert violations(schema_name(model.__name__), schema) == []


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "array", "items": {"type": "string"}}, "the root is no plain object"),
        ({"anyOf": [{"type": "object"}]}, "the root is no plain object"),
        ({"a": {"type": "string", "minLength": 2}}, "'minLength' is not permitted"),
        ({"a": {"allOf": [{"type": "string"}]}}, "'allOf' is not permitted"),
        ({"a": {"$ref": "https://example.org/schema"}}, "a reference leads nowhere"),
        ({"a": {"$ref": "#/$defs/x", "description": "x"}}, "'$ref' stands beside other words"),
        ({"a": {"type": "text"}}, "a schema has no type"),
        ({"a": {"type": "array"}}, "a list does not say of what"),
        ({"a": {"type": "object", "properties": {}}}, "an object does not forbid additional properties"),
        ({"a": {"anyOf": []}}, "'anyOf' is empty"),
        ({"a": True}, "a schema is no object"),
        ({"a": {"type": "string", "pattern": "(?=x)"}}, "this pattern is not permitted"),
        ({"a": {"type": "string", "format": "uri"}}, "this format is not permitted"),
    ],
)
def test_schema_of_ones_own_is_judged(schema: dict[str, Any], reason: str) -> None:
    """A JSON schema goes as it is, strict only when it keeps the rules; the obstacle is named."""
    whole = schema
    if "a" in schema:
        whole = {"type": "object", "properties": schema, "required": ["a"], "additionalProperties": False}
    assert obstacle(whole) == reason
    assert violations("answer", whole)
    sent = say_format(whole)["json_schema"]
    assert (sent["schema"], sent["strict"]) == (whole, False)


@pytest.mark.parametrize(
    ("title", "name"),
    [("Daily Report", "Daily_Report"), ("Page[int]", "Page_int_"), ("é", "_"), ("", "answer"), (None, "answer")],
)
def test_name_is_one_openai_takes(title: Any, name: str) -> None:
    """Any title becomes a name of letters, digits, dashes and underscores."""
    assert schema_name(title) == name
    assert len(schema_name("x" * 99)) == 64


def test_rules_strict_mode_does_not_know_are_told() -> None:
    """What a schema cannot demand is asked for in the description, and checked by the model."""
    schema, _ = model_schema(Part)
    label = schema["properties"]["label"]
    assert label["description"] == "(minLength: 2)"
    assert label["pattern"] == "^[a-z]+$"
    assert parse_answer(Part, '{"number": 1, "label": "x"}')[1] == "the answer is no Part: label: string_too_short"


def test_strict_tool_is_narrowed_or_not_strict() -> None:
    """A strict tool's schema keeps the rules; one that cannot is sent as it is, and not as strict."""
    closed, opened = say_tools(
        [
            Tool(
                "f", parameters={"type": "object", "properties": {"x": {"type": "integer", "default": 1}}}, strict=True
            ),
            Tool("g", parameters={"type": "object", "additionalProperties": {"type": "integer"}}, strict=True),
        ]
    )
    assert closed["function"]["strict"] is True
    assert violations("f", closed["function"]["parameters"]) == []
    assert opened["function"]["strict"] is False
    assert opened["function"]["parameters"] == {"type": "object", "additionalProperties": {"type": "integer"}}


def test_model_without_a_schema() -> None:
    """A model that JSON cannot describe is refused in words."""
    model = create_model("M", call=(type(len), ...), __config__=ConfigDict(arbitrary_types_allowed=True))
    with pytest.raises(InvalidRequestError, match="M has no JSON schema"):
        say_format(model)


def test_answers_of_broken_json() -> None:
    """Depth beyond measure and half a text are no instance, and no exception."""
    for text in ("[" * 100_000, '{"number": ', "", "null"):
        parsed, error = parse_answer(Part, text)
        assert parsed is None
        assert error is not None
