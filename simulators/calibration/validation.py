"""The simulator's own error: recorded demand replayed in front of the calibrated provider, against the recording."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from factflow_llm.signals import Outcome
from simulators.calibration.evidence import Evidence
from simulators.calibration.replay import rejections
from simulators.engine.simulate import simulate
from simulators.numerals import readable
from simulators.scenarios.scenario import Scenario
from simulators.streams import seeds_of

if TYPE_CHECKING:
    from factflow_llm.ratelimit.config import RateLimitConfig
    from simulators.calibration.evidence import Floats
    from simulators.policies.base import Policy
    from simulators.providers.catalogue import Provider
    from simulators.streams import Seeds
    from simulators.traces import Recording

_PERCENTS = (50, 95, 99)


@dataclass(frozen=True, repr=False)
class Validation:
    """How far the simulator is from the recording, in time that calibration has not seen.

    Attributes:
        name: of the recording.
        since_s: begin of that time.
        until_s: its end.
        figures: the closed loop: what comes of the recorded demand when clients and provider are both simulated. One
            row per figure: ``recorded``, ``simulated`` (mean over seeds), ``error`` (relative), ``least`` and ``most``
            of the seeds, and their standard ``deviation``.
        decisions: the open loop: what the calibrated quotas alone say to the recorded sends, of whose fate they are
            told nothing: rejections recorded, rejections predicted, and those that are the same attempts.
        timing_gap: how far the 429s of recording and simulation are apart in time: the largest difference between the
            shares of them that came by any moment (0 same times, 1 nothing in common); NaN without 429s.
    """

    name: str
    since_s: float
    until_s: float
    figures: pd.DataFrame = field(repr=False)
    decisions: pd.Series[Any] = field(repr=False)
    timing_gap: float

    def simulated(self, name: str) -> float:
        """Return a figure of the simulation: the mean over its seeds."""
        return float(self.figures["simulated"][name])

    def error(self, name: str) -> float:
        """Return a figure's error, relative to what was recorded; NaN where that is 0."""
        return float(self.figures["error"][name])

    def report(self) -> str:
        """Return the comparison as text."""
        recorded, predicted, same = (int(self.decisions[name]) for name in ("recorded", "predicted", "same"))
        return "\n".join(
            [
                f"{self.name}, {self.since_s:.0f} s to {self.until_s:.0f} s",
                f"attempts replayed: {recorded} 429s recorded, {predicted} by the quotas, {same} of them the same",
                "demand simulated:",
                readable(self.figures).to_string(),
                f"429s in time: largest gap {self.timing_gap:.3f}",
            ]
        )

    def __repr__(self) -> str:
        return f"<Validation {self.report()}>"

    def _repr_html_(self) -> str:
        return f"<p><b>{html.escape(self.name)}</b></p>{readable(self.figures).to_html()}"


def validate(
    provider: Provider,
    back_s: float,
    recording: Recording,
    since_s: float,
    policy: Policy | RateLimitConfig | None,
    seeds: Seeds,
    clients: int,
) -> Validation:
    """Replay all of a recording's demand, from its start, and compare what happened from ``since_s`` on.

    The demand before ``since_s`` is replayed too: queues, quotas and what the limiter learned are then as warm as then.
    """
    attempts = recording.attempts
    until_s = float(np.nanmax(attempts["end_s"].to_numpy(dtype=np.float64)))
    trace = recording.trace()
    scenario = Scenario(trace, provider, drain_s=max(until_s - trace.duration_s, 0.0))
    truth = _figures(*_recorded(attempts), since_s, until_s)
    runs, rejected_s = [], []
    for seed in seeds_of(seeds):
        result = simulate(scenario, policy, seed=seed, clients=clients)
        calls = result.requests[result.requests["outcome"] == "succeeded"]
        rejected = result.attempts.loc[result.attempts["outcome"] == "rate_limited", "admitted_s"].to_numpy()
        runs.append(_figures(calls[["arrival_s", "admitted_s", "end_s"]], rejected, since_s, until_s))
        rejected_s.append(rejected[rejected >= since_s])
    simulated = pd.DataFrame(runs)
    figures = pd.DataFrame(
        {
            "recorded": truth,
            "simulated": simulated.mean(),
            "error": (simulated.mean() - truth) / truth.where(truth != 0),
            "least": simulated.min(),
            "most": simulated.max(),
            "deviation": simulated.std() if len(runs) > 1 else np.nan,
        }
    )
    recorded_s = _recorded(attempts)[1]
    return Validation(
        name=recording.name,
        since_s=since_s,
        until_s=until_s,
        figures=figures,
        decisions=_decisions(provider, Evidence.of(attempts), back_s, since_s),
        timing_gap=_gap(recorded_s[recorded_s >= since_s], np.concatenate(rejected_s)),
    )


def _recorded(attempts: pd.DataFrame) -> tuple[pd.DataFrame, Floats]:
    """Return the answered calls and the times of 429s."""
    answered = attempts[attempts["outcome"] == Outcome.SUCCEEDED]
    rejected = attempts.loc[attempts["outcome"] == Outcome.RATE_LIMITED, "sent_s"].to_numpy(dtype=np.float64)
    return answered[["arrival_s", "admitted_s", "end_s"]], np.sort(rejected)


def _figures(calls: pd.DataFrame, rejected_s: Floats, since_s: float, until_s: float) -> pd.Series[Any]:
    inside = calls[(calls["end_s"] >= since_s) & (calls["end_s"] <= until_s)]
    figures = {
        "429s": float(((rejected_s >= since_s) & (rejected_s <= until_s)).sum()),
        "goodput": len(inside) / (until_s - since_s),
    }
    for name, end in (("wait", "admitted_s"), ("latency", "end_s")):
        span_s = (inside[end] - inside["arrival_s"]).to_numpy(dtype=np.float64)
        for percent in _PERCENTS:
            figures[f"{name}_p{percent}_s"] = float(np.percentile(span_s, percent)) if len(span_s) else np.nan
    return pd.Series(figures)


def _decisions(provider: Provider, evidence: Evidence, back_s: float, since_s: float) -> pd.Series[Any]:
    held_out = evidence.sent_s >= since_s
    recorded, predicted = evidence.to_explain & held_out, rejections(provider.quotas, evidence, back_s) & held_out
    counts = {"recorded": recorded.sum(), "predicted": predicted.sum(), "same": (recorded & predicted).sum()}
    return pd.Series(counts, dtype=np.int64)


def _gap(one: Floats, other: Floats) -> float:
    if not len(one) or not len(other):
        return float("nan")
    marks = np.sort(np.concatenate([one, other]))
    shares = [np.searchsorted(np.sort(each), marks, side="right") / len(each) for each in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())
