"""Formats of traces by name: what marks each of them, and what a file that is none of ours seems to be.

Who reads a format stands in ``importers.py``.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from typing import Final

from simulators.traces.source import shown
from simulators.traces.tables import field_names

REPLAYED: Final = "factflow-llm replay and sim.read_trace read those"
SERVEGEN_CHUNK: Final = re.compile(r"\d+(?:\.\d+)?,[^,]+,[^,]+,(?:Gamma|Weibull|),[^,]+,[^,]+")
_TOML = re.compile(r"#|\[+[\w.\"-]+\]+$|[\w.\"-]+\s*=")


@dataclass(frozen=True, slots=True)
class Format:
    """A format of one row per request.

    Attributes:
        name: what messages call it; variants of one format share it.
        needs: columns or keys that a row must have to be of this format.
    """

    name: str
    needs: frozenset[str]

    @classmethod
    def of(cls, name: str, needs: str) -> Format:
        """Return the format whose rows need these names, separated by commas."""
        return cls(name, frozenset(needs.split(",")))


AZURE: Final = Format.of("azure", "TIMESTAMP,ContextTokens,GeneratedTokens")
BURSTGPT: Final = Format.of("burstgpt", "Timestamp,Request tokens,Response tokens")
TRACELAB_TABLE: Final = Format.of("tracelab", "session_id,round_idx,prefix_len,input_len,output_len,tool_wait_after_ms")
OURS: Final = Format.of("factflow", "trace_version")
TRACELAB_ROUNDS: Final = Format.of("tracelab", "session_id,round_index,timing_events,output_tokens")
RAGPULSE: Final = Format.of("ragpulse", "timestamp,input_length,output_length,session_id")
MOONCAKE: Final = Format.of("mooncake", "timestamp,input_length,output_length")
SPAN_EXPORT: Final = Format.of("OpenTelemetry spans", "resourceSpans")
SPAN_LINES: Final = Format.of("OpenTelemetry spans", "name,start_time,end_time,attributes")

# The more specific of two formats that share names comes first.
CSV: Final = (AZURE, BURSTGPT, TRACELAB_TABLE)
JSON: Final = (OURS, TRACELAB_ROUNDS, RAGPULSE, MOONCAKE, SPAN_EXPORT, SPAN_LINES)


def seems(first: str) -> str:
    """Say what a file that is no recording and begins with the line ``first`` seems to be, and what reads it."""
    text = first.strip()
    names: set[str] = set()
    if text.startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            names = set(json.loads(text))
    elif text:
        names = set(field_names(text))
    for each in (*JSON, *CSV):
        if each.needs <= names:
            return f"it looks like a trace of requests ({each.name}); {REPLAYED}"
    if SERVEGEN_CHUNK.fullmatch(first):
        return f"it looks like a trace of requests (ServeGen); {REPLAYED}"
    if text in ("{", "["):
        return f"it looks like a JSON document; of those, OpenTelemetry spans are traces, and {REPLAYED}"
    if _TOML.match(text):
        return "it looks like TOML; a provider goes to --provider, the settings of a limiter to --policy"
    return f"it begins with {shown(text[:40])}; give the first file that a Recorder wrote"
