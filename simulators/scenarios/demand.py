"""The calls of a workload: what each of them weighs, when it comes, and which one waits for which."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from simulators.providers.calls import Call
from simulators.scenarios.scenario import Backlog, Scenario

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simulators.streams import Streams
    from simulators.traces import Trace

_UNKNOWN: Final = -1
_CHUNK: Final = 4096


def calls(scenario: Scenario, streams: Streams) -> Iterator[tuple[float, Call]]:
    """Yield arrival time and call, in order of arrival; a closed loop yields for ever and its times mean nothing."""
    workload = scenario.workload
    return _endless(workload, streams) if isinstance(workload, Backlog) else _traced(workload, streams)


class Sessions:
    """A trace asked turn by turn: whoever talks waits for the answer, thinks, and asks again.

    A later round comes ``think_time_s`` after the end of the one before it, however that ended. Where the trace does
    not know the pause, it comes at its own arrival, or with the end of the round before if that is later.
    """

    def __init__(self, trace: Trace, streams: Streams) -> None:
        self._calls = list(_traced(trace, streams))
        self._think_s = trace.think_time_s.tolist()
        order = np.lexsort((trace.round_index, trace.session))
        session = trace.session[order]
        follows = (session[1:] == session[:-1]) & (session[1:] != _UNKNOWN)
        self._next = dict(zip(order[:-1][follows].tolist(), order[1:][follows].tolist(), strict=True))

    def first_rounds(self) -> Iterator[tuple[float, Call]]:
        """Yield what waits for nobody, in order of arrival: first rounds and requests of no session."""
        later = set(self._next.values())
        for each in self._calls:
            if each[1].index not in later:
                yield each

    def after(self, index: int, now: float) -> tuple[float, Call] | None:
        """Return when the round after call ``index``, which ended ``now``, comes; ``None`` if that was the last."""
        following = self._next.get(index)
        if following is None:
            return None
        arrival_s, call = self._calls[following]
        think_s = self._think_s[following]
        return max(arrival_s, now) if math.isnan(think_s) else now + think_s, call


def _endless(workload: Backlog, streams: Streams) -> Iterator[tuple[float, Call]]:
    sizes = streams.stream("sizes", "normal", 2)
    most = workload.max_tokens
    if not workload.sigma:
        read, written = round(workload.input_tokens), round(workload.output_tokens)
        for index in itertools.count():
            yield 0.0, Call(index, read, written, most)
    for index in itertools.count():
        read_luck, written_luck = sizes.row(index)
        read = round(workload.input_tokens * math.exp(workload.sigma * read_luck))
        yield 0.0, Call(index, read, round(workload.output_tokens * math.exp(workload.sigma * written_luck)), most)


def _traced(trace: Trace, streams: Streams) -> Iterator[tuple[float, Call]]:
    """Yield a trace's calls; lengths it does not know are drawn from those it knows, and are 0 where it knows none."""
    luck = streams.stream("unknown lengths", "uniform", 2)
    known_read, known_written = (
        column[column != _UNKNOWN].tolist() or [0] for column in (trace.input_tokens, trace.output_tokens)
    )
    columns = zip(
        *(_numbers(each) for each in (trace.arrival_s, trace.input_tokens, trace.output_tokens, trace.max_tokens)),
        strict=True,
    )
    for index, (arrival_s, read, written, limit) in enumerate(columns):
        bound = None if limit < 0 else limit
        if read < 0 or written < 0:
            read_luck, written_luck = luck.row(index)
            drawn = known_written[int(written_luck * len(known_written))]
            yield (
                arrival_s,
                Call(
                    index,
                    read if read >= 0 else known_read[int(read_luck * len(known_read))],
                    written if written >= 0 else drawn if bound is None else min(drawn, bound),
                    bound,
                ),
            )
        else:
            yield arrival_s, Call(index, read, written, bound)


def _numbers(column: Any) -> Iterator[Any]:
    """Yield a column's numbers, of which only a chunk at a time is a Python object."""
    for start in range(0, len(column), _CHUNK):
        yield from column[start : start + _CHUNK].tolist()
