"""Which column says what: the maps of the formats people have, and a caller's own map.

Names are compared without case, spaces and underscores, for exports differ in those. Names within names (JSON within
JSON, or within a cell) are joined by dots.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from factflow_llm.tables import nearest
from simulators.traces.trace import TraceError

if TYPE_CHECKING:
    from simulators.traces.clocks import TimeUnit

FIELDS = ("time", "input_tokens", "output_tokens", "max_tokens", "session", "end_time")
_DEPTH = 5

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a format calls its columns.

    Attributes:
        name: of the format.
        signs: names that a file of it has: of each group at least one.
        columns: per field its names, the best first; ``*word*`` sums all names that hold the word.
        time_unit: what numbers of time count by the format's documentation, if it says.
        calls: the words of the column ``call`` that mean a call of a model; other rows are left out.
        strict: a published trace, where a row without a time is a fault and not a row to leave out.
    """

    name: str
    signs: tuple[tuple[str, ...], ...]
    columns: Mapping[str, tuple[str, ...]]
    time_unit: TimeUnit | None = None
    calls: frozenset[str] | None = None
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Chosen:
    """A layout applied to a file: where each field stands, and the list that holds the rows, if one does."""

    layout: Layout
    columns: Mapping[str, Path]
    inside: Path = field(default=())

    def spelt(self, name: str) -> str:
        """Return what the file calls a field."""
        return ".".join(self.columns[name])


def _layout(
    name: str, signs: str, unit: TimeUnit | None = None, calls: str = "", strict: bool = False, **columns: str
) -> Layout:
    return Layout(
        name=name,
        signs=tuple(tuple(group.split("|")) for group in signs.split()),
        columns={key: tuple(names.split("|")) for key, names in columns.items()},
        time_unit=unit,
        calls=frozenset(calls.split()) or None,
        strict=strict,
    )


# The more specific of two formats that share names comes first. Where the names come from: docs/traces.md.
LAYOUTS = (
    _layout(
        "azure", "TIMESTAMP ContextTokens GeneratedTokens", strict=True,
        time="TIMESTAMP", input_tokens="ContextTokens", output_tokens="GeneratedTokens",
    ),
    _layout(
        "burstgpt", "Timestamp RequestTokens ResponseTokens", unit="s", strict=True,
        time="Timestamp", input_tokens="RequestTokens", output_tokens="ResponseTokens", session="SessionID",
        elapsed_s="ElapsedTime",
    ),
    _layout(
        "helicone", "request_created_at|request.created_at prompt_tokens|response.prompt_tokens|promptTokens",
        time="request_created_at|request.created_at", end_time="response_created_at|response.created_at",
        input_tokens="prompt_tokens|response.prompt_tokens",
        output_tokens="completion_tokens|response.completion_tokens",
        session="properties.Helicone-Session-Id|request_properties.Helicone-Session-Id",
    ),
    _layout(
        "litellm",
        "startTime prompt_tokens completion_tokens call_type|spend|completionStartTime|model_group|request_id",
        time="startTime", end_time="endTime", input_tokens="prompt_tokens", output_tokens="completion_tokens",
    ),
    _layout(
        "langsmith",
        "run_type start_time prompt_tokens|total_tokens|outputs|extra|usage_metadata|dotted_order|trace_id",
        calls="llm embedding",
        call="run_type", time="start_time", end_time="end_time", max_tokens="extra.invocation_params.max_tokens",
        input_tokens="prompt_tokens|usage_metadata.input_tokens|outputs.usage_metadata.input_tokens"
        "|extra.metadata.usage_metadata.input_tokens|outputs.llm_output.token_usage.prompt_tokens",
        output_tokens="completion_tokens|usage_metadata.output_tokens|outputs.usage_metadata.output_tokens"
        "|extra.metadata.usage_metadata.output_tokens|outputs.llm_output.token_usage.completion_tokens",
        session="thread_id|extra.metadata.session_id|extra.metadata.thread_id|extra.metadata.conversation_id",
    ),
    _layout(
        "langfuse", "startTime type usageDetails|inputUsage|usage|usage.input|promptTokens|inputTokens|totalUsage",
        calls="generation embedding",
        call="type", time="startTime", end_time="endTime",
        input_tokens="inputUsage|inputTokens|promptTokens|usage.input|usage.promptTokens|usageDetails.*input*",
        output_tokens="outputUsage|outputTokens|completionTokens|usage.output|usage.completionTokens"
        "|usageDetails.*output*",
        session="sessionId|session_id", max_tokens="modelParameters.max_tokens",
    ),
    _layout(
        "openai batch", "custom_id response",
        unit="s", time="response.body.created|response.body.created_at",
        input_tokens="response.body.usage.prompt_tokens|response.body.usage.input_tokens",
        output_tokens="response.body.usage.completion_tokens|response.body.usage.output_tokens",
    ),
    _layout(
        "openinference", "start_time attributes.llm.token_count.prompt|llm.token_count.prompt",
        calls="llm embedding",
        call="attributes.openinference.span.kind|openinference.span.kind|span_kind", time="start_time",
        end_time="end_time", input_tokens="attributes.llm.token_count.prompt|llm.token_count.prompt",
        output_tokens="attributes.llm.token_count.completion|llm.token_count.completion",
        session="attributes.session.id|session.id",
    ),
    _layout(
        "ragpulse", "timestamp input_length output_length session_id", unit="s", strict=True,
        time="timestamp", input_tokens="input_length", output_tokens="output_length", session="session_id",
    ),
    _layout(
        "bailian", "timestamp input_length output_length chat_id parent_chat_id|turn|type", unit="s", strict=True,
        time="timestamp", input_tokens="input_length", output_tokens="output_length",
    ),
    _layout(
        "mooncake", "timestamp input_length output_length hash_ids", unit="ms", strict=True,
        time="timestamp", input_tokens="input_length", output_tokens="output_length",
    ),
    _layout(
        "mooncake", "timestamp input_length output_length", strict=True,
        time="timestamp", input_tokens="input_length", output_tokens="output_length",
    ),
)  # fmt: skip


def matching(names: Iterable[str]) -> Layout | None:
    """Return the layout whose signs a file of these names has."""
    there = {plain_name(name) for name in names}
    for layout in LAYOUTS:
        if all(any(plain_name(name) in there for name in group) for group in layout.signs):
            return layout
    return None


def nearly(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the format of which a file lacks a single sign, and that sign."""
    there = {plain_name(name) for name in names}
    for layout in LAYOUTS:
        lacking = [group for group in layout.signs if not any(plain_name(name) in there for name in group)]
        if len(lacking) == 1 and len(layout.signs) > 2:
            return layout.name, lacking[0][0]
    return None


def resolved(layout: Layout, names: Mapping[str, Path], *, cells: bool = False) -> dict[str, Path]:
    """Return where each field of a layout stands, for those that the file has.

    Args:
        layout: the map.
        names: the file's names and their paths.
        cells: whether a name may stand within the JSON of a cell.
    """
    places = {plain_name(name): path for name, path in reversed(list(names.items()))}
    found: dict[str, Path] = {}
    for key, candidates in layout.columns.items():
        path = next((path for name in candidates if (path := _path(name, names, places, cells)) is not None), None)
        if path is not None:
            found[key] = path
    return found


def own_layout(columns: Mapping[str, str], names: Mapping[str, Path], *, cells: bool = False) -> Chosen:
    """Return a caller's own map applied to a file.

    Raises:
        TraceError: an unknown field, a column that is not there, or no time.
    """
    for key, name in columns.items():
        if key not in FIELDS:
            raise TraceError(f"columns: {key!r} is nothing that a trace has{nearest(key, FIELDS)}")
        if not isinstance(name, str):
            raise TraceError(f"columns: {key!r} is {name!r}; give the name of a column")
    if "time" not in columns:
        raise TraceError("columns: which one is the time? Add 'time': 'the name of its column'")
    found: dict[str, Path] = {}
    for key, name in columns.items():
        path = _path(name, names, {}, cells)
        if path is None:
            raise TraceError(f"columns: {key!r} shall be {name!r}, which is no column{nearest(name, names)}")
        found[key] = path
    layout = Layout(name="your columns", signs=(), columns={key: (name,) for key, name in columns.items()})
    return Chosen(layout, found)


def columns_of(words: str) -> dict[str, str]:
    """Return the map that ``time=created_at,input_tokens=prompt_tok`` says.

    Raises:
        TraceError: something else is said.
    """
    columns: dict[str, str] = {}
    for word in words.split(","):
        key, equals, name = (part.strip() for part in word.partition("="))
        if not equals or not key or not name:
            raise TraceError(f"columns {words!r}: write FIELD=COLUMN,…, as in time=created_at,input_tokens=prompt_tok")
        columns[key] = name
    return columns


def flattened(rows: Iterable[Mapping[str, Any]]) -> dict[str, Path]:
    """Return the dotted names of all values in some rows, and the keys that lead to each."""
    names: dict[str, Path] = {}

    def visit(value: Mapping[str, Any], path: Path) -> None:
        for key, inner in value.items():
            here = (*path, str(key))
            names.setdefault(".".join(here), here)
            if isinstance(inner, Mapping) and len(here) < _DEPTH:
                visit(inner, here)

    for row in rows:
        visit(row, ())
    return names


def lists_within(value: Any, path: Path = ()) -> Iterable[tuple[Path, list[Mapping[str, Any]]]]:
    """Yield the lists of objects within a value, the outermost first, with the first objects of each."""
    if not isinstance(value, Mapping) or len(path) == 3:
        return
    for key, inner in value.items():
        if isinstance(inner, list) and inner and isinstance(inner[0], Mapping):
            yield (*path, str(key)), list(islice((each for each in inner if isinstance(each, Mapping)), 20))
    for key, inner in value.items():
        yield from lists_within(inner, (*path, str(key)))


def _path(name: str, names: Mapping[str, Path], places: Mapping[str, Path], cells: bool) -> Path | None:
    if name in names:
        return names[name]
    if plain_name(name) in places:
        return places[plain_name(name)]
    outer, dot, inner = name.partition(".")
    column = names.get(outer) or places.get(plain_name(outer))
    if not dot or column is None:
        return None
    if cells or inner.startswith("*"):
        return (*column, *inner.split("."))
    return None


def plain_name(name: str) -> str:
    """Return a name as names are compared."""
    return re.sub(r"[^a-z0-9.*@]", "", name.lower())
