"""What a run left behind: tidy frames, a summary with a closed set of names, and a face for notebooks and terminals."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from simulators.engine import (
    ATTEMPT_COLUMNS,
    ENDING,
    ENDING_WORDS,
    OUTCOME_WORDS,
    REASON_WORDS,
    REQUEST_COLUMNS,
    Run,
    simulate,
)
from simulators.policies import Policy, oracle

if TYPE_CHECKING:
    from simulators.scenario import Scenario

_WINDOW_S = 30
_SUCCEEDED = float(OUTCOME_WORDS.index("succeeded"))
_RATE_LIMITED = float(OUTCOME_WORDS.index("rate_limited"))
_INTEGERS = (
    "request",
    "attempt",
    "client",
    "status",
    "in_flight",
    "queued",
    "attempts",
    "input_tokens",
    "output_tokens",
)


@dataclass(frozen=True, repr=False, eq=False)
class SimResult:
    """One run.

    Attributes:
        scenario: what was run.
        policy: under what.
        seed: with which luck.
        clients: by how many independent clients.
        run: the raw columns.
    """

    scenario: Scenario
    policy: Policy
    seed: int
    clients: int
    run: Run = field(repr=False)

    # --- frames ------------------------------------------------------------------------------------------------------

    @cached_property
    def attempts(self) -> pd.DataFrame:
        """One row per physical attempt, in order of their ends; seconds, rates per second, ``inf`` for no limit."""
        columns = _columns(self.run.attempts, ATTEMPT_COLUMNS)
        columns["outcome"] = _words(columns["outcome"], OUTCOME_WORDS)
        columns["reason"] = _words(columns["reason"], REASON_WORDS)
        return pd.DataFrame(columns)

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One row per request; ``wait_s`` runs from arrival to the last admission, ``latency_s`` to the end."""
        columns = _columns(self.run.requests, REQUEST_COLUMNS)
        columns["end"] = _words(columns["end"], ENDING_WORDS)
        frame = pd.DataFrame(columns).rename(columns={"end": "outcome"})
        frame["wait_s"] = frame["admitted_s"] - frame["arrival_s"]
        frame["latency_s"] = frame["end_s"] - frame["arrival_s"]
        return frame.sort_values("request", ignore_index=True)

    @cached_property
    def limits(self) -> pd.DataFrame:
        """One row per change of a limit: when, whose, which axis, from what to what, and why."""
        rows = self.run.changes
        return pd.DataFrame(
            {
                "time_s": np.array([change.time_s for _, change in rows], dtype=np.float64),
                "client": np.array([client for client, _ in rows], dtype=np.int64),
                "axis": pd.Categorical([str(change.axis) for _, change in rows]),
                "old": np.array([change.old for _, change in rows], dtype=np.float64),
                "new": np.array([change.new for _, change in rows], dtype=np.float64),
                "reason": pd.Categorical([str(change.reason) for _, change in rows], categories=list(REASON_WORDS)),
            }
        )

    @cached_property
    def capacity(self) -> pd.DataFrame:
        """The provider's true capacity, one row per axis at the start and after each event (units/s, or slots)."""
        rows = [(when, str(axis), units) for when, axes in self.run.capacity for axis, units in axes.items()]
        return pd.DataFrame(rows, columns=["time_s", "axis", "capacity"])

    # --- figures -----------------------------------------------------------------------------------------------------

    @cached_property
    def oracle(self) -> SimResult:
        """The same scenario and seed under a policy that knows the provider's state."""
        return simulate(self.scenario, oracle(), self.seed, self.clients)

    def summary(self, yardstick: SimResult | None = None) -> pd.Series[Any]:
        """Return the figures of the run; names are a closed set (see ``docs``), NaN where a figure has no meaning.

        Args:
            yardstick: the oracle's result on the same scenario and seed, if it is at hand; otherwise it is run.
        """
        if yardstick is None:
            yardstick = self if self.policy == oracle() else self.oracle
        attempts, requests = self._attempt_columns, self._request_columns
        succeeded = requests["end"] == ENDING.succeeded
        successes = int(succeeded.sum())
        horizon_s = self.scenario.horizon_s
        rejected = int((attempts["outcome"] == _RATE_LIMITED).sum())
        sent = len(attempts["outcome"])
        wait_s = requests["admitted_s"][succeeded] - requests["arrival_s"][succeeded]
        latency_s = requests["end_s"][succeeded] - requests["arrival_s"][succeeded]
        tokens = requests["input_tokens"] + requests["output_tokens"]
        best = int((yardstick._request_columns["end"] == ENDING.succeeded).sum())
        figures: dict[str, float] = {
            "goodput": successes / horizon_s,
            "goodput_ratio": successes / best if best else math.nan,
            "rejected_share": rejected / sent if sent else math.nan,
            "attempts_per_success": sent / successes if successes else math.nan,
        }
        for name, values in (("wait", wait_s), ("latency", latency_s)):
            for percent in (50, 95, 99):
                figures[f"{name}_p{percent}_s"] = float(np.percentile(values, percent)) if successes else math.nan
        unfinished = int((requests["end"] == ENDING.unfinished).sum())
        figures |= {
            "failed": len(succeeded) - successes - unfinished,
            "unfinished": unfinished,
            "tokens_per_s": float(tokens[succeeded].sum()) / horizon_s,
            "wasted_tokens": self._wasted_tokens(),
            "recovery_s": self._worst_recovery(yardstick),
        }
        if self.clients > 1:
            shares = np.bincount(requests["client"][succeeded].astype(np.int64), minlength=self.clients)
            figures["jain"] = jain_index(shares)
        return pd.Series(figures, name=self.policy.name)

    def recovery(self, yardstick: SimResult | None = None) -> pd.Series[Any]:
        """Return seconds from the start and from each event to the first 30 s at >= 90 % of quota and <= 5 % of 429s.

        Quota means what the oracle gets admitted in the same seconds. NaN: not before the next event, or the end.
        """
        best = (yardstick or self.oracle)._admitted_per_second()
        mine = self._admitted_per_second()
        refused = self._per_second(self._attempt_columns["outcome"] == _RATE_LIMITED)
        events = self.scenario.events
        marks = ["start", *(f"{event.time_s:g} s: {event.label}" for event in events)]
        starts = [0.0, *(event.time_s for event in events), float(self.scenario.workload.duration_s)]
        found = [_recovered(mine, best, refused, since, until) for since, until in itertools.pairwise(starts)]
        return pd.Series(found, index=marks, name="recovery_s")

    def _worst_recovery(self, yardstick: SimResult) -> float:
        after_events = self.recovery(yardstick).to_numpy()[1:]
        return float(np.max(after_events)) if len(after_events) else math.nan

    def _wasted_tokens(self) -> float:
        """Return input tokens of attempts that a provider read and whose answer nobody got."""
        attempts = self._attempt_columns
        lost = (attempts["status"] == 200) & (attempts["outcome"] != _SUCCEEDED)
        tokens = self._request_columns
        by_request = dict(zip(tokens["request"].tolist(), tokens["input_tokens"].tolist(), strict=True))
        return float(sum(by_request[request] for request in attempts["request"][lost].tolist()))

    def _admitted_per_second(self) -> npt.NDArray[np.float64]:
        return self._per_second(self._attempt_columns["outcome"] == _SUCCEEDED)

    def _per_second(self, which: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        seconds = math.ceil(self.scenario.horizon_s) + 1
        at = self._attempt_columns["admitted_s"][which].astype(np.int64)
        return np.bincount(at, minlength=seconds).astype(np.float64)

    @cached_property
    def _attempt_columns(self) -> dict[str, npt.NDArray[np.float64]]:
        return _raw(self.run.attempts, ATTEMPT_COLUMNS)

    @cached_property
    def _request_columns(self) -> dict[str, npt.NDArray[np.float64]]:
        return _raw(self.run.requests, REQUEST_COLUMNS)

    # --- faces -------------------------------------------------------------------------------------------------------

    @property
    def provenance(self) -> dict[str, str]:
        """What is needed to run this again."""
        try:
            ours = version("factflow-llm")
        except PackageNotFoundError:
            ours = "source tree"
        return {
            "scenario": self.scenario.name,
            "policy": self.policy.name,
            "seed": str(self.seed),
            "clients": str(self.clients),
            "factflow-llm": ours,
        }

    def __repr__(self) -> str:
        head = ", ".join(f"{key} {value}" for key, value in self.provenance.items())
        return f"<SimResult {head}>\n{self.summary().round(4).to_string()}"

    def _repr_html_(self) -> str:
        head = " · ".join(f"{key} {value}" for key, value in self.provenance.items())
        return f"<p><b>{head}</b></p>{self.summary().round(4).to_frame().to_html()}"


def jain_index(shares: npt.ArrayLike) -> float:
    """Return Jain's fairness index: 1 when all shares are equal, 1/n when one has it all (Jain, Chiu, Hawe 1984)."""
    given = np.asarray(shares, dtype=np.float64)
    squares = float((given**2).sum())
    return float(given.sum()) ** 2 / (len(given) * squares) if squares else math.nan


def _raw(flat: Any, names: tuple[str, ...]) -> dict[str, npt.NDArray[np.float64]]:
    table = np.frombuffer(flat, dtype=np.float64).reshape(-1, len(names)) if len(flat) else np.empty((0, len(names)))
    return {name: table[:, column] for column, name in enumerate(names)}


def _columns(flat: Any, names: tuple[str, ...]) -> dict[str, Any]:
    raw = _raw(flat, names)
    return {name: values.astype(np.int64) if name in _INTEGERS else values.copy() for name, values in raw.items()}


def _words(codes: npt.NDArray[np.float64], words: tuple[str, ...]) -> pd.Categorical[str]:
    return pd.Categorical.from_codes(codes.astype(np.int64), categories=pd.Index(list(words)))


def _recovered(
    mine: npt.NDArray[np.float64],
    best: npt.NDArray[np.float64],
    refused: npt.NDArray[np.float64],
    since_s: float,
    until_s: float,
) -> float:
    for start in range(math.ceil(since_s), math.floor(until_s) - _WINDOW_S + 1):
        window = slice(start, start + _WINDOW_S)
        admitted, rejections = mine[window].sum(), refused[window].sum()
        enough = admitted >= 0.9 * best[window].sum()
        if enough and rejections <= 0.05 * (admitted + rejections):
            return start - since_s
    return math.nan
