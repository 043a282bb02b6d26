"""The figures of a run, counted from rows that need not be kept: a run of any length is summed up in fixed space."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from simulators.attempts import UNANSWERED, Ending
from simulators.engine.rows import ENDING_CODES, OUTCOME_CODES, Columns, Rows

if TYPE_CHECKING:
    from collections.abc import Sequence

PERCENTS = (50, 95, 99)
_ENDS = ("admitted_s", "end_s")
_SUCCEEDED = OUTCOME_CODES["succeeded"]
_RATE_LIMITED = OUTCOME_CODES["rate_limited"]
_UNANSWERED = OUTCOME_CODES[UNANSWERED]
_DROPPED_BITS = 42
_LEAST_S = 1e-6
_LEAST_BIN = int(np.float64(_LEAST_S).view(np.int64)) >> _DROPPED_BITS
_BINS = (int(np.float64(1e9).view(np.int64)) >> _DROPPED_BITS) - _LEAST_BIN

Floats = npt.NDArray[np.float64]


class Durations:
    """A histogram of seconds in bins a thousandth wide; a number's own upper bits tell its bin."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS, dtype=np.int64)

    def add(self, values_s: Floats) -> None:
        """Count values; what is below a microsecond counts as 0."""
        bins = (np.maximum(values_s, _LEAST_S).view(np.int64) >> _DROPPED_BITS) - _LEAST_BIN
        self._counts += np.bincount(np.minimum(bins, _BINS - 1), minlength=_BINS)

    def percentiles(self, percents: Sequence[float]) -> list[float]:
        """Return percentiles in seconds, each within a thousandth; NaN of nothing."""
        reached = np.cumsum(self._counts)
        if not reached[-1]:
            return [math.nan] * len(percents)
        ranks = np.asarray(percents) / 100 * (reached[-1] - 1)
        lower, upper = (
            _middle(np.searchsorted(reached, rank, side="right")) for rank in (np.floor(ranks), np.ceil(ranks))
        )
        between: list[float] = (lower + (ranks - np.floor(ranks)) * (upper - lower)).tolist()
        return between


def _middle(bins: npt.NDArray[np.int64]) -> Floats:
    """Return the seconds in the middle of bins; the first holds what is no time."""
    edges = (np.stack([bins, bins + 1]) + _LEAST_BIN << _DROPPED_BITS).view(np.float64)
    return np.where(bins > 0, edges.mean(axis=0), 0.0)


class Tally:
    """What all figures of a run are made from.

    Args:
        horizon_s: when the run stops.
        clients: how many share the provider.

    Attributes:
        attempts: attempts that were answered, or cancelled.
        admitted_at_end: attempts that the provider had admitted and not answered when the run ended.
        rejected: those that were rate limited.
        admitted_per_second: those that succeeded, by the second of their admission.
        rejected_per_second: those that were rate limited, likewise.
        endings: requests by the code of their end.
        shares: requests that succeeded, by client.
        tokens: read and written by requests that succeeded.
        wait_s: percentiles of the successful requests' time from arrival to the last admission.
        latency_s: percentiles of their time from arrival to the end.
    """

    def __init__(self, horizon_s: float, clients: int) -> None:
        seconds = math.ceil(horizon_s) + 1
        self.attempts = self.rejected = self.admitted_at_end = 0
        self.admitted_per_second = np.zeros(seconds, dtype=np.int64)
        self.rejected_per_second = np.zeros(seconds, dtype=np.int64)
        self.endings = np.zeros(len(Ending), dtype=np.int64)
        self.shares = np.zeros(clients, dtype=np.int64)
        self.tokens = 0
        self.wait_s = self.latency_s = [math.nan] * len(PERCENTS)
        self._waits, self._latencies = Durations(), Durations()

    @classmethod
    def of(cls, attempts: Columns, requests: Columns, horizon_s: float, clients: int) -> Tally:
        """Count columns that were kept; percentiles are exact."""
        tally = cls(horizon_s, clients)
        tally._count_attempts(attempts)
        tally._count_requests(requests)
        if tally.succeeded:
            taken = (
                _since_arrival(requests, until) for until in _ENDS
            )  # one after the other: each is as large as a column
            tally.wait_s, tally.latency_s = (
                np.percentile(each, PERCENTS, overwrite_input=True).tolist() for each in taken
            )
        return tally

    @property
    def succeeded(self) -> int:
        """Requests that succeeded."""
        return int(self.endings[ENDING_CODES["succeeded"]])

    def take(self, attempts: Rows, requests: Rows) -> None:
        """Count rows and forget them."""
        self._count_attempts(attempts)
        self._count_requests(requests)
        for histogram, until in zip((self._waits, self._latencies), _ENDS, strict=True):
            histogram.add(_since_arrival(requests, until))

    def close(self) -> None:
        """Read the percentiles off the histograms, and let go of those."""
        self.wait_s, self.latency_s = (each.percentiles(PERCENTS) for each in (self._waits, self._latencies))
        del self._waits, self._latencies

    def _count_attempts(self, rows: Rows | Columns) -> None:
        outcomes, seconds = rows["outcome"], rows["admitted_s"].astype(np.int32)
        succeeded, rejected = outcomes == _SUCCEEDED, outcomes == _RATE_LIMITED
        unanswered = outcomes == _UNANSWERED
        self.attempts += len(outcomes) - int(unanswered.sum())
        self.admitted_at_end += int((unanswered & (rows["status"] == 200)).sum())
        self.rejected += int(rejected.sum())
        length = len(self.admitted_per_second)
        self.admitted_per_second += np.bincount(seconds[succeeded], minlength=length)
        self.rejected_per_second += np.bincount(seconds[rejected], minlength=length)

    def _count_requests(self, rows: Rows | Columns) -> None:
        ends = rows["end"]
        succeeded = ends == ENDING_CODES["succeeded"]
        self.endings += np.bincount(ends, minlength=len(self.endings))
        self.shares += np.bincount(rows["client"][succeeded], minlength=len(self.shares))
        self.tokens += int(rows["input_tokens"][succeeded].sum() + rows["output_tokens"][succeeded].sum())


def _since_arrival(requests: Rows | Columns, until: str) -> Floats:
    """Return the seconds from arrival to another moment of the requests that succeeded."""
    succeeded = requests["end"] == ENDING_CODES["succeeded"]
    passed_s: Floats = (requests[until] - requests["arrival_s"])[succeeded]
    return passed_s
