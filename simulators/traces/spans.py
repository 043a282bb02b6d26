"""Read OpenTelemetry GenAI spans: OTLP/JSON (a document, or one batch per line) and the Python SDK's span JSON."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from simulators.traces.sessions import conversations, numbered
from simulators.traces.source import MAX_ROWS, Source, known_count, parse_json, parse_row, shown
from simulators.traces.trace import Mode, Trace, TraceError, TraceHeader

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Agents and tools also make gen_ai spans; theirs would count the same tokens twice.
_MODEL_CALLS = frozenset({"chat", "text_completion", "generate_content", "embeddings"})


@dataclass(frozen=True, slots=True)
class _SpanCall:
    start_s: float
    end_s: float
    session: str
    tokens: tuple[int, int, int]


def read_spans(source: Source) -> Trace:
    """Return the model calls among the spans of ``source``, in order of their start."""
    calls: list[_SpanCall] = []
    read = 0
    for line, span in _spans(source):
        read += 1
        if read > MAX_ROWS:
            raise source.fault(f"more than {MAX_ROWS} spans; split the file", line)
        call = _call(source, line, span)
        if call is not None:
            calls.append(call)
    if not calls:
        raise source.fault(f"none of {read} spans is a model call (gen_ai.operation.name: {', '.join(_MODEL_CALLS)})")
    calls.sort(key=lambda call: call.start_s)
    start_s = np.array([call.start_s for call in calls])
    session = numbered([call.session for call in calls])
    round_index, think_time_s = conversations(session, start_s, np.array([call.end_s for call in calls]))
    input_tokens, output_tokens, max_tokens = np.array([call.tokens for call in calls], dtype=np.int64).T
    other = read - len(calls)
    return Trace.of(
        start_s - start_s[0],
        input_tokens,
        output_tokens,
        max_tokens=max_tokens,
        session=session,
        round_index=round_index,
        think_time_s=think_time_s,
        header=TraceHeader(
            mode=Mode.IMPORTED,
            source="opentelemetry",
            source_sha256=source.sha256,
            rows_read=read,
            rows_emitted=len(calls),
            drops={"not a model call": other} if other else {},
        ),
        name=source.path.name.split(".")[0],
    )


def _spans(source: Source) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, value in _documents(source):
        if not isinstance(value, dict):
            raise source.fault(f"{shown(value)} is not a span or a batch of spans", line)
        if "resourceSpans" not in value:
            yield line, value
            continue
        for resource in _list(source, line, value, "resourceSpans"):
            for scope in _list(source, line, resource, "scopeSpans"):
                for span in _list(source, line, scope, "spans"):
                    yield line, span


def _documents(source: Source) -> Iterator[tuple[int, Any]]:
    """Yield the objects of a JSON Lines file, or of one document spread over many lines."""
    with Source(source.path) as peek:
        first = next(peek.lines(), (1, "", True))
    try:
        parse_row(source, *first[:2])
    except TraceError:
        document = parse_json(source, 1, source.document())
        yield from ((1, each) for each in (document if isinstance(document, list) else [document]))
        return
    for line, text, _ in source.lines():
        yield line, parse_row(source, line, text)


def _call(source: Source, line: int, span: Mapping[str, Any]) -> _SpanCall | None:
    attributes = _attributes(source, line, span)
    if attributes.get("gen_ai.operation.name") not in _MODEL_CALLS:
        return None
    start_s, end_s = _bounds(source, line, span)
    return _SpanCall(
        start_s,
        end_s,
        str(attributes.get("gen_ai.conversation.id") or ""),
        (
            known_count(
                source, line, attributes, _first(attributes, "gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens")
            ),
            known_count(
                source,
                line,
                attributes,
                _first(attributes, "gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens"),
            ),
            known_count(source, line, attributes, "gen_ai.request.max_tokens"),
        ),
    )


def _first(attributes: Mapping[str, Any], name: str, former: str) -> str:
    """Return the attribute's name, or its name before semantic conventions 1.27 where only that is set."""
    return former if name not in attributes and former in attributes else name


def _attributes(source: Source, line: int, span: Mapping[str, Any]) -> dict[str, Any]:
    attributes = span.get("attributes", {})
    if isinstance(attributes, dict):
        return attributes
    return {str(pair.get("key")): _plain(source, line, pair) for pair in _list(source, line, span, "attributes")}


def _plain(source: Source, line: int, pair: Mapping[str, Any]) -> Any:
    """Return an OTLP value as a plain one; 64-bit integers travel as strings."""
    value = pair.get("value")
    if not isinstance(value, dict) or len(value) > 1:
        raise source.fault(f"attribute {shown(pair.get('key'))} is not an OTLP value; export the spans again", line)
    for kind, plain in value.items():
        if kind == "intValue":
            try:
                return int(plain)
            except (TypeError, ValueError):
                raise source.fault(f"intValue {shown(plain)} is not a whole number", line) from None
        return plain
    return None


def _bounds(source: Source, line: int, span: Mapping[str, Any]) -> tuple[float, float]:
    try:
        if "startTimeUnixNano" in span:
            start_s, end_s = (int(span[key]) / 1e9 for key in ("startTimeUnixNano", "endTimeUnixNano"))
        else:
            start_s, end_s = (datetime.fromisoformat(span[key]).timestamp() for key in ("start_time", "end_time"))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise source.fault("a span without a readable start and end time; export finished spans", line) from None
    if not 0 <= start_s <= end_s:
        raise source.fault(f"a span ends at {end_s} s, before its start at {start_s} s (or before 1970)", line)
    return start_s, end_s


def _list(source: Source, line: int, value: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    inner = value.get(key, [])
    if not isinstance(inner, list) or not all(isinstance(each, dict) for each in inner):
        raise source.fault(f"{key} is not a list of objects; this is not OTLP/JSON", line)
    return inner
