"""What marks a format that is more than a map of columns, and what a file that is no recording seems to be.

Who reads a format stands in ``importers.py``; maps of columns stand in ``layouts.py``.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import Final

from simulators.traces.layouts import matching
from simulators.traces.source import shown
from simulators.traces.tables import Header

REPLAYED: Final = "factflow-llm replay and sim.read_trace read those"
SERVEGEN_CHUNK: Final = re.compile(r"\d+(?:\.\d+)?,[^,]+,[^,]+,(?:Gamma|Weibull|),[^,]+,[^,]+")
TRACELAB_TABLE: Final = frozenset(
    {"session_id", "round_idx", "prefix_len", "input_len", "output_len", "tool_wait_after_ms"}
)
TRACELAB_ROUND: Final = frozenset({"session_id", "round_index", "timing_events", "output_tokens"})
_TOML = re.compile(r"#|\[+[\w.\"-]+\]+$|[\w.\"-]+\s*=")
_BY_NAMES = (
    ("factflow", frozenset({"trace_version"})),
    ("tracelab", TRACELAB_TABLE),
    ("tracelab", TRACELAB_ROUND),
    ("OpenTelemetry spans", frozenset({"resourceSpans"})),
)


def seems(first: str) -> str:
    """Say what a file that is no recording and begins with the line ``first`` seems to be, and what reads it."""
    text = first.strip()
    names: set[str] = set()
    if text.startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            names = set(json.loads(text))
    elif text:
        names = set(Header.of(text).names)
    known = matching(names)
    for name, needs in _BY_NAMES:
        if needs <= names:
            return f"it looks like a trace of requests ({name}); {REPLAYED}"
    if known is not None:
        return f"it looks like a trace of requests ({known.name}); {REPLAYED}"
    if SERVEGEN_CHUNK.fullmatch(first):
        return f"it looks like a trace of requests (ServeGen); {REPLAYED}"
    if text in ("{", "["):
        return f"it looks like a JSON document; some of those are traces, and {REPLAYED}"
    if _TOML.match(text):
        return "it looks like TOML; a provider goes to --provider, the settings of a limiter to --policy"
    return f"it begins with {shown(text[:40])}; give the first file that a Recorder wrote"
