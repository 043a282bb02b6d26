"""Traces: what was asked of a model and when, read from public formats or our recordings, or synthesised."""

from simulators.traces.clocks import checked_unit
from simulators.traces.importers import read_trace
from simulators.traces.layouts import columns_of
from simulators.traces.recordings import Recording, read_recording
from simulators.traces.synthesis import TokenLengths, sample_trace, synthesize
from simulators.traces.trace import Mode, Trace, TraceError, TraceHeader

__all__ = [
    "Mode",
    "Recording",
    "TokenLengths",
    "Trace",
    "TraceError",
    "TraceHeader",
    "checked_unit",
    "columns_of",
    "read_recording",
    "read_trace",
    "sample_trace",
    "synthesize",
]
