"""What an answer says, whoever's words it is put in: text, calls of tools, a refusal, JSON that fits a schema."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from simulators.server.dialects.instances import instance

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simulators.providers.calls import Call

Json = dict[str, Any]

_WORD = " word"
_REFUSAL = "I'm sorry, but I cannot help with that."
_PIECE = 12


class AnswerKind(StrEnum):
    """What a simulated answer may be.

    ``TEXT`` is so many words; ``LENGTH`` ends for want of tokens; ``FILTERED`` is cut off by a content filter;
    ``TOOL_CALL`` calls a tool that the request offers, and ``STRUCTURED`` is JSON, both as the schemas given ask for.
    """

    TEXT = "text"
    LENGTH = "length"
    TOOL_CALL = "tool_call"
    STRUCTURED = "structured"
    REFUSAL = "refusal"
    FILTERED = "filtered"


class Offered(NamedTuple):
    """What a request lets the model do.

    Attributes:
        tools: names and JSON schemas of tools.
        must_call: it has to call one.
        schema: what the text has to fit, if it is to be JSON.
    """

    tools: tuple[tuple[str, Json], ...] = ()
    must_call: bool = False
    schema: Json | None = None


class ToolUse(NamedTuple):
    """One call of a tool."""

    name: str
    arguments: Json

    @property
    def text(self) -> str:
        """The arguments as JSON."""
        return json.dumps(self.arguments)


class Said(NamedTuple):
    """What an answer says."""

    kind: AnswerKind
    text: str = ""
    tool: ToolUse | None = None

    @property
    def pieces(self) -> Iterator[str]:
        """The text, a refusal or a tool's arguments, in the pieces of a stream."""
        if self.kind in (AnswerKind.STRUCTURED, AnswerKind.TOOL_CALL):
            whole = self.text if self.tool is None else self.tool.text
            return (whole[start : start + _PIECE] for start in range(0, len(whole), _PIECE))
        words = self.text.split(" ")
        return (word if number == 0 else f" {word}" for number, word in enumerate(words) if word)


def said(kind: AnswerKind | None, offered: Offered, call: Call) -> Said:
    """Return what an answer of that kind says; without a kind, what the request asks for.

    Raises:
        ValueError: it calls a tool, and none is offered.
    """
    if kind is None:
        if offered.must_call and offered.tools:
            kind = AnswerKind.TOOL_CALL
        elif offered.schema is not None:
            kind = AnswerKind.STRUCTURED
        else:
            kind = AnswerKind.LENGTH if call.output_tokens == call.max_tokens else AnswerKind.TEXT
    if kind is AnswerKind.TOOL_CALL:
        if not offered.tools:
            raise ValueError("an answer that calls a tool needs a request that offers one")
        name, schema = offered.tools[0]
        arguments = instance(schema)
        return Said(kind, tool=ToolUse(name, arguments if isinstance(arguments, dict) else {}))
    if kind is AnswerKind.STRUCTURED:
        return Said(kind, json.dumps(instance(offered.schema or {"type": "object"})))
    if kind is AnswerKind.REFUSAL:
        return Said(kind, _REFUSAL)
    tokens = call.output_tokens // 2 if kind is AnswerKind.FILTERED else call.output_tokens
    return Said(kind, (_WORD * tokens).strip())


def offered(tools: list[tuple[Any, Any]], must_call: bool, schema: Any, first: Any = None) -> Offered:
    """Return what a request offers, the tool it names ``first`` in front, leaving out what has no shape."""
    named = tuple(
        (name, parameters if isinstance(parameters, dict) else {})
        for name, parameters in sorted(tools, key=lambda tool: tool[0] != first)
        if isinstance(name, str) and name
    )
    return Offered(named, must_call, schema if isinstance(schema, dict) else None)


def objects(value: Any) -> list[Json]:
    """Return the objects of a list; none for what is no list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def inside(value: Any, *keys: str) -> Any:
    """Return what stands at some keys; ``None`` where there is nothing of that shape."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
