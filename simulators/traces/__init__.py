"""Traces: what was asked of a model and when, read from public formats or our recordings, or synthesised."""

from simulators.traces.importers import read_trace
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
    "read_recording",
    "read_trace",
    "sample_trace",
    "synthesize",
]
