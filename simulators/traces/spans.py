"""Read spans of model calls: OTLP as JSON, the Python SDK's spans, Phoenix's and Jaeger's exports.

Attributes may follow OpenTelemetry's GenAI conventions (of any year), OpenLLMetry or OpenInference.
"""

from __future__ import annotations

import itertools
from array import array
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from simulators.traces.documents import json_values
from simulators.traces.sessions import conversations
from simulators.traces.source import MAX_ROWS, Source, known_count, shown
from simulators.traces.trace import UNKNOWN, Mode, Trace, TraceHeader

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# What kind of span it is, by whom, and the words that mean a call of a model. Agents, tools and workflows make spans
# that repeat the tokens of the calls within them: theirs would count twice.
_KINDS: Mapping[str, frozenset[str]] = {
    "gen_ai.operation.name": frozenset({"chat", "text_completion", "generate_content", "embeddings"}),
    "openinference.span.kind": frozenset({"llm", "embedding"}),
    "llm.request.type": frozenset({"chat", "completion", "embedding"}),
    "traceloop.span.kind": frozenset(),
}
_INPUT = (
    "gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt", "llm.usage.prompt_tokens",
)  # fmt: skip
_OUTPUT = (
    "gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.token_count.completion",
    "llm.usage.completion_tokens",
)  # fmt: skip
_MAX = ("gen_ai.request.max_tokens", "llm.request.max_tokens")
_SESSION = ("gen_ai.conversation.id", "session.id", "traceloop.association.properties.session_id")
_BATCHES = ("resourceSpans", "resource_spans", "batches")
_WRAPPED_IN = ("result", "trace", "_source")  # by Jaeger's and Tempo's APIs, and by dumps of Elasticsearch
_SCOPES = ("scopeSpans", "scope_spans", "instrumentationLibrarySpans")


def are_spans(sample: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the first values of a file are spans or batches of them."""
    sample = [_unwrapped(row) for row in sample]
    first = sample[0]
    if any(key in first for key in _BATCHES) or _is_jaeger_batch(first):
        return True
    return any(
        isinstance(row.get("attributes"), dict | list) and {"start_time", "startTimeUnixNano"} & set(row)
        for row in sample
    ) or {"operationName", "startTime", "tags"} <= set(first)


def read_spans(source: Source) -> Trace:
    """Return the model calls among the spans of ``source``, in order of their start."""
    starts, ends = array("d"), array("d")
    tokens = [array("q") for _ in range(3)]
    sessions = array("q")
    names: dict[str, int] = {}
    read = 0
    for line, span in _spans(source):
        read += 1
        if read > MAX_ROWS:
            raise source.fault(f"more than {MAX_ROWS} spans; split the file", line)
        attributes = _attributes(source, line, span)
        if not _is_model_call(attributes):
            continue
        start_s, end_s = _bounds(source, line, span)
        starts.append(start_s)
        ends.append(end_s)
        for column, spelt in zip(tokens, (_INPUT, _OUTPUT, _MAX), strict=True):
            name = _first(attributes, spelt)
            value = attributes.get(name)
            if isinstance(value, str) and value.isdigit():
                attributes[name] = int(value[:20])
            column.append(known_count(source, line, attributes, name))
        session = attributes.get(_first(attributes, _SESSION))
        sessions.append(names.setdefault(str(session), len(names)) if session else UNKNOWN)
    if not starts:
        kinds = ", ".join(f"{name}: {', '.join(sorted(words))}" for name, words in _KINDS.items() if words)
        raise source.fault(f"none of {read} spans is a model call ({kinds}; or counts of tokens)")
    return _trace(source, read, np.frombuffer(starts), np.frombuffer(ends), tokens, sessions)


def _trace(source: Source, read: int, start_s: Any, end_s: Any, tokens: Sequence[array[int]], sessions: Any) -> Trace:
    order = np.argsort(start_s, kind="stable")
    start_s = start_s[order]
    session = np.frombuffer(sessions, dtype=np.int64)[order]
    round_index, think_time_s = conversations(session, start_s, end_s[order])
    input_tokens, output_tokens, max_tokens = (np.frombuffer(column, dtype=np.int64)[order] for column in tokens)
    other = read - len(start_s)
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
            created=datetime.fromtimestamp(float(start_s[0]), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            rows_read=read,
            rows_emitted=len(start_s),
            drops={"not a model call": other} if other else {},
            notes=("times: dates or Unix times, as spans have them",),
        ),
        name=source.path.name.split(".")[0],
    )


def _spans(source: Source) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, outer in json_values(source):
        if not isinstance(outer, dict):
            raise source.fault(f"{shown(outer)} is not a span or a batch of spans", line)
        value = _unwrapped(outer)
        batch = next((key for key in _BATCHES if key in value), None)
        if batch is not None:
            for resource in _list(source, line, value, batch):
                for key in _SCOPES:
                    for scope in _list(source, line, resource, key):
                        for span in _list(source, line, scope, "spans"):
                            yield line, span
        elif _is_jaeger_batch(value):
            for trace in itertools.chain(_list(source, line, value, "data"), [value] if "spans" in value else []):
                for span in _list(source, line, trace, "spans"):
                    yield line, span
        else:
            yield line, value


def _unwrapped(value: Any) -> Any:
    return next((value[key] for key in _WRAPPED_IN if isinstance(value.get(key), dict)), value)


def _is_jaeger_batch(value: Mapping[str, Any]) -> bool:
    if isinstance(value.get("spans"), list):
        return True
    traces = value.get("data")
    return isinstance(traces, list) and bool(traces) and isinstance(traces[0], dict) and "spans" in traces[0]


def _is_model_call(attributes: Mapping[str, Any]) -> bool:
    """Whether a span is one, by the first kind it has; without a kind, by its counts of tokens."""
    for name, words in _KINDS.items():
        if name in attributes:
            return str(attributes[name]).lower() in words
    return any(name in attributes for name in (*_INPUT, *_OUTPUT))


def _first(attributes: Mapping[str, Any], spelt: Sequence[str]) -> str:
    """Return the spelling that a span uses."""
    return next((name for name in spelt if name in attributes), spelt[0])


def _attributes(source: Source, line: int, span: Mapping[str, Any]) -> dict[str, Any]:
    key = "tags" if "tags" in span else "attributes"
    attributes = span.get(key, {})
    if isinstance(attributes, dict):
        flat = _flat(attributes)
        if "span_kind" in span:
            flat.setdefault("openinference.span.kind", span["span_kind"])
        return flat
    return {str(pair.get("key")): _plain(source, line, pair) for pair in _list(source, line, span, key)}


def _flat(attributes: Mapping[str, Any], before: str = "", depth: int = 0) -> dict[str, Any]:
    """Return nested attributes under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in attributes.items():
        if isinstance(value, dict) and depth < 5:
            flat |= _flat(value, f"{before}{name}.", depth + 1)
        else:
            flat[f"{before}{name}"] = value
    return flat


def _plain(source: Source, line: int, pair: Mapping[str, Any]) -> Any:
    """Return an OTLP value as a plain one; 64-bit integers travel as strings."""
    value = pair.get("value")
    if "type" in pair and not isinstance(value, dict):
        return _whole(source, line, value) if pair["type"] == "int64" else value
    if not isinstance(value, dict) or len(value) > 1:
        raise source.fault(f"attribute {shown(pair.get('key'))} is not an OTLP value; export the spans again", line)
    for kind, plain in value.items():
        return _whole(source, line, plain) if kind in ("intValue", "int_value") else plain
    return None


def _whole(source: Source, line: int, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise source.fault(f"intValue {shown(value)} is not a whole number", line) from None


def _bounds(source: Source, line: int, span: Mapping[str, Any]) -> tuple[float, float]:
    try:
        if "startTimeUnixNano" in span or "start_time_unix_nano" in span:
            keys = ("startTimeUnixNano", "endTimeUnixNano")
            if keys[0] not in span:
                keys = ("start_time_unix_nano", "end_time_unix_nano")
            start_s, end_s = (int(span[key]) / 1e9 for key in keys)
        elif "startTime" in span:
            start_s = int(span["startTime"]) / 1e6
            end_s = start_s + int(span["duration"]) / 1e6
        else:
            start_s, end_s = (_moment(span[key]) for key in ("start_time", "end_time"))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise source.fault("a span without a readable start and end time; export finished spans", line) from None
    if not 0 <= start_s <= end_s:
        raise source.fault(f"a span ends at {end_s} s, before its start at {start_s} s (or before 1970)", line)
    return start_s, end_s


def _moment(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _list(source: Source, line: int, value: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    inner = value.get(key, [])
    if not isinstance(inner, list) or not all(isinstance(each, dict) for each in inner):
        raise source.fault(f"{key} is not a list of objects; this is not OTLP/JSON", line)
    return inner
