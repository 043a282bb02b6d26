"""What a run writes down while it lasts, and what it leaves behind.

Rows are packed on the hot path and handed over in chunks, to columns that are kept or to a tally that forgets them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import numpy as np

from factflow_llm.signals import Outcome
from simulators.attempts import UNANSWERED, Ending
from simulators.engine.rows import (
    ATTEMPT,
    AXIS_CODES,
    CHANGE,
    ENDING_CODES,
    OUTCOME_CODES,
    REASON_CODES,
    REQUEST,
    Columns,
    Frames,
)
from simulators.engine.tally import Tally

if TYPE_CHECKING:
    from factflow_llm.signals import Axis, Change
    from simulators.attempts import Ending
    from simulators.policies.tickets import RequestTicket

CHUNK_BYTES: Final = 1 << 19
_NAN: Final = math.nan
_SUCCEEDED: Final = Outcome.SUCCEEDED
_pack_attempt: Final = ATTEMPT.pack
_pack_request: Final = REQUEST.pack
_pack_change: Final = CHANGE.pack

Collect = Literal["frames", "summary"]


class Run(NamedTuple):
    """What a run leaves behind.

    Attributes:
        attempts: columns of ``rows.ATTEMPT``, in order of their ends, then those in flight at the end; ``None`` when
            only the summary was collected.
        requests: columns of ``rows.REQUEST``, in order of their arrival; likewise.
        changes: columns of ``rows.CHANGE``, in order of time; likewise.
        capacity: the provider's: time and units per second by axis, at the start and after each event.
        wasted_tokens: input that a provider read for an answer which nobody got.
        tally: what the figures are made from.
    """

    attempts: Columns | None
    requests: Columns | None
    changes: Columns | None
    capacity: list[tuple[float, dict[Axis, float]]]
    wasted_tokens: int
    tally: Tally


class RunLog:
    """Takes down attempts, requests and changes of limits.

    Args:
        collect: every row, or only what the summary is made from.
        horizon_s: when the run stops.
        clients: how many share the provider.
    """

    def __init__(self, collect: Collect, horizon_s: float, clients: int) -> None:
        self._horizon_s = horizon_s
        self._clients = clients
        self._attempts = bytearray()
        self._requests = bytearray()
        self._changes = bytearray() if collect == "frames" else None
        self._collector = Frames() if collect == "frames" else Tally(horizon_s, clients)
        self._wasted_tokens = 0

    def attempt(self, now: float, request: RequestTicket, outcome: str) -> None:
        """Write down an attempt that ended now."""
        verdict = request.verdict
        if outcome is not _SUCCEEDED and verdict.status == 200:
            self._wasted_tokens += request.call.input_tokens
        told_s = verdict.retry_after_s
        self._attempt(now, request, outcome, request.admitted_s + verdict.first_chunk_s, told_s)

    def unanswered(self, request: RequestTicket) -> None:
        """Write down an attempt in flight when the run ends: NaN for what is to come, the status the provider chose."""
        first_chunk_s = request.admitted_s + request.verdict.first_chunk_s
        self._attempt(_NAN, request, UNANSWERED, first_chunk_s if first_chunk_s <= self._horizon_s else _NAN, None)

    def _attempt(
        self, now: float, request: RequestTicket, outcome: str, first_chunk_s: float, told_s: float | None
    ) -> None:
        self._attempts += _pack_attempt(
            request.call.index,
            request.attempt,
            request.client,
            request.submitted_s,
            request.admitted_s,
            first_chunk_s,
            now,
            request.verdict.status,
            OUTCOME_CODES[outcome],
            _NAN if told_s is None else told_s,
            request.rate,
            request.concurrency,
            REASON_CODES[request.reason],
            request.in_flight,
            request.queued,
        )

    def request(self, now: float, request: RequestTicket, ending: Ending) -> None:
        """Write down a request that ended now; NaN where it did not."""
        call = request.call
        self._requests += _pack_request(
            call.index,
            request.client,
            request.arrival_s,
            request.admitted_s,
            now,
            request.sends,
            ENDING_CODES[ending],
            call.input_tokens,
            call.output_tokens,
        )
        if len(self._attempts) >= CHUNK_BYTES:
            self._hand_over()

    def _hand_over(self) -> None:
        """Give the rows packed so far to whoever collects them."""
        attempts = np.frombuffer(bytes(self._attempts), dtype=ATTEMPT.dtype)
        requests = np.frombuffer(bytes(self._requests), dtype=REQUEST.dtype)
        self._collector.take(attempts, requests)
        self._attempts.clear()
        self._requests.clear()

    def changes(self, client: int, changes: tuple[Change, ...]) -> None:
        """Write down how a client's limits moved."""
        if self._changes is not None:
            for change in changes:
                self._changes += _pack_change(
                    change.time_s, client, AXIS_CODES[change.axis], change.old, change.new, REASON_CODES[change.reason]
                )

    def close(self, capacity: list[tuple[float, dict[Axis, float]]]) -> Run:
        """Return all that was written down, beside the provider's capacity."""
        self._hand_over()
        collector = self._collector
        if isinstance(collector, Tally):
            collector.close()
            return Run(None, None, None, capacity, self._wasted_tokens, collector)
        attempts, requests = collector.attempts, collector.requests
        attempts.close()
        requests.close(by="request")
        changes = Columns(CHANGE)
        changes.add(np.frombuffer(self._changes or b"", dtype=CHANGE.dtype))
        changes.close()
        tally = Tally.of(attempts, requests, self._horizon_s, self._clients)
        return Run(attempts, requests, changes, capacity, self._wasted_tokens, tally)
