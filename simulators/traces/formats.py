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
    for name, needs in
