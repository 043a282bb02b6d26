"""What a provider does beside counting: what rejected clients hear, how long answers take, how often it fails."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from factflow_llm.signals import Outcome
from simulators.calibration.answers import fit_whole_answers
from simulators.calibration.findings import Finding, Known
from simulators.calibration.shapes import STEADY_S
from simulators.providers.catalogue import RetryAfter
from simulators.providers.faults import Refused
from simulators.providers.latency import LatencyModel

if TYPE_CHECKING:
    import pandas as pd

    from simulators.calibration.evidence import Evidence, Floats
    from simulators.calibration.replay import Verdicts

_FEWEST = 20
_EXACT_S = 0.02


def retry_after(evidence: Evidence, said: Verdicts, only_slots: bool) -> tuple[RetryAfter, Finding]:
    """Infer what rejected clients hear, by comparing it with how long they would have had to wait."""
    name = "Retry-After"
    told_s = evidence.told_s[evidence.to_explain]
    heard = np.isfinite(told_s)
    if not len(told_s):
        return RetryAfter(), Finding(name, None, known=Known.UNKNOWN, note="nobody was rejected; taken to be true")
    if heard.mean() < 0.05:
        instead = "; clients went by the reset that headers tell" if evidence.by_reset.any() else ""
        return RetryAfter(habit="absent"), Finding(name, "absent", note=f"in {len(told_s)} rejections{instead}")
    told_s, wait_s = told_s[heard], said.wait_s[evidence.to_explain][heard]
    judged = (wait_s > 0) & np.isfinite(wait_s)
    note = f"from {int(judged.sum())} of {len(told_s)} that were heard"
    whole = bool(np.all(told_s == np.round(told_s)))
    shown_in: Literal["whole_seconds", "seconds"] = "whole_seconds" if whole and len(told_s) >= 5 else "seconds"
    if only_slots:
        return RetryAfter(), Finding(name, f"always {np.median(told_s):g} s", note=note)
    rounding_s = 1.0 if whole else 0.001
    took_s = (evidence.end_s - evidence.sent_s)[evidence.to_explain]
    took_s = took_s[np.isfinite(took_s)]
    jitter_s = float(np.subtract(*np.percentile(took_s, [95, 5]))) if len(took_s) else 0.0
    true = np.abs(told_s - wait_s - rounding_s / 2) <= rounding_s / 2 + _EXACT_S + jitter_s
    if judged.any() and true[judged].mean() > 0.8:
        return RetryAfter(shown_in=shown_in), Finding(name, f"true, {shown_in.replace('_', ' ')}", note=note)
    if np.ptp(np.percentile(told_s, [5, 95])) < 1e-6:
        constant_s = float(np.median(told_s))
        return RetryAfter(constant_s=constant_s), Finding(name, f"always {constant_s:g} s", note=note)
    if judged.sum() >= 5:
        ratios = (told_s[judged] - rounding_s / 2) / wait_s[judged]
        low, factor, high = np.percentile(ratios, [25, 50, 75])
        if high - low < 0.1 * factor and not low <= 1.0 <= high:
            habit = RetryAfter(habit="late", factor=float(f"{factor:.3g}"), shown_in=shown_in)
            late = "late" if factor > 1 else "too early"
            finding = Finding(
                f"{name}: told / true", float(factor), float(low), float(high), Known.PINNED, f"{late}; {note}"
            )
            return habit, finding
    return RetryAfter(), Finding(name, None, known=Known.UNKNOWN, note=f"follows no habit known here; {note}")


def errors(attempts: pd.DataFrame, unexplained: int) -> tuple[tuple[Refused, ...], list[Finding]]:
    """Infer error rates by status, as shares of all attempts sent, with Wilson's 95 % interval."""
    sent = attempts[attempts["sent_s"].notna()]
    outcome = sent["outcome"].to_numpy()
    statuses = sent["status"].to_numpy(dtype=np.float64, na_value=np.nan)
    failed = np.isin(outcome, [Outcome.IGNORED, Outcome.OVERLOADED, Outcome.EXHAUSTED])
    counts = Counter(statuses[failed & np.isfinite(statuses)].astype(int).tolist())
    faults, findings = [], []
    for status, count in sorted(counts.items()):
        low, high = wilson(count, len(sent))
        share = count / len(sent)
        at_s = sent["sent_s"].to_numpy(dtype=np.float64)[failed & (statuses == status)]
        storms = count >= _FEWEST and _dispersion(at_s, float(sent["sent_s"].max())) > 3.0
        note = f"{count} of {len(sent)} attempts" + (
            "; in storms, which an even share does not reproduce" if storms else ""
        )
        findings.append(Finding(f"share of HTTP {status}", share, low, high, Known.by_width(low, high), note))
        if 500 <= status <= 599:
            faults.append(Refused(status=status, share=share))
    if unexplained:
        low, high = wilson(unexplained, len(sent))
        note = f"{unexplained} rejections fit no quota"
        findings.append(Finding("share of unexplained 429", unexplained / len(sent), low, high, Known.LOOSE, note))
        faults.append(Refused(status=429, share=unexplained / len(sent)))
    return tuple(faults), findings


@dataclass(frozen=True)
class Way:
    """How long calls are on their way to the provider, and answers on theirs back.

    Attributes:
        median_s: typical time of each way.
        sigma: spread of its logarithm.
        note: what tells it.
    """

    median_s: float
    sigma: float
    note: str


def way(evidence: Evidence, shaken_s: float, back_s: float) -> Way | None:
    """Return the way to the provider, where rejections show that there is one.

    A slot that is free before its answer has come tells the way back. Where moments had to be off, a rejection's round
    trip is taken to be all network: mean and variance of two ways that are drawn alike tell one of them.

    Args:
        evidence: with the rejections.
        shaken_s: how far moments had to be off for the quotas to explain them.
        back_s: an answer is over at the provider so much before it has come.
    """
    took_s = (evidence.end_s - evidence.sent_s)[evidence.turned_away]
    took_s = took_s[np.isfinite(took_s) & (took_s > 0)]
    if len(took_s) < _FEWEST or (shaken_s <= STEADY_S and not back_s):
        return None
    took_s = np.minimum(took_s, np.percentile(took_s, 99))
    sigma = math.sqrt(math.log1p(2 * float(took_s.var()) / float(took_s.mean()) ** 2))
    if back_s:
        return Way(back_s, sigma, "slots are free so long before their answer has come")
    median_s = float(took_s.mean()) / 2 * math.exp(-(sigma**2) / 2)
    return Way(median_s, sigma, f"half of the round trip of {len(took_s)} rejections")


def latency(attempts: pd.DataFrame, way: Way | None) -> tuple[LatencyModel, list[Finding]]:
    """Fit how long answers take, and rejections; whole answers tell first token and pace by duration and length.

    Args:
        attempts: as recorded; their times hold the way to the provider and back.
        way: what of that is known; ``None`` where nothing tells of a network.
    """
    round_trip_s = 2 * way.median_s if way else 0.0
    network: dict[str, Any] = {"uplink_s": way.median_s, "uplink_sigma": way.sigma} if way else {}
    sent = attempts["sent_s"]

    def at_provider(name: str) -> pd.Series[float]:
        took_s = attempts[name] - sent
        return (took_s - round_trip_s).clip(lower=0.1 * took_s)

    frame = attempts.assign(first_chunk_s=at_provider("first_chunk_s"), duration_s=at_provider("end_s"))
    answered = frame[(frame["outcome"] == Outcome.SUCCEEDED) & frame["duration_s"].notna()]
    streamed = int(answered["first_chunk_s"].notna().sum())
    if len(answered) < _FEWEST:
        note = f"{len(answered)} answers; a model needs {_FEWEST}: these are the defaults"
        return LatencyModel(**network), [Finding("latency", None, known=Known.UNKNOWN, note=note)]
    if streamed >= _FEWEST:
        model, note = LatencyModel.fit(frame), f"{streamed} streamed answers"
    else:
        written = answered["output_tokens"].to_numpy(dtype=np.float64, na_value=np.nan)
        duration_s = answered["duration_s"].to_numpy(dtype=np.float64)
        model = fit_whole_answers(duration_s, np.where(np.isfinite(written), written, 1.0))
        rejected_s = frame.loc[frame["outcome"] == Outcome.RATE_LIMITED, "duration_s"]
        if len(rejected_s):
            model = model.model_copy(update={"rejection_s": float(rejected_s.median())})
        note = f"{len(answered)} whole answers, parted by their length"
    known = Known.PINNED if streamed >= 200 else Known.ROUGH
    model = model.model_copy(update=network)
    told = [Finding("network: each way, s (median)", way.median_s, known=Known.ROUGH, note=way.note)] if way else []
    return model, [
        *told,
        Finding("latency: first token, s (median)", model.first_token_s, known=known, note=note),
        Finding("latency: per token, s (median)", model.per_token_s, known=known),
        Finding("latency: share of slow calls", model.slow_share, known=known),
    ]


def wilson(count: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's interval of a share: sensible for few and for none (Wilson 1927)."""
    share, spread = count / of, z * z / of
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / of + spread / (4 * of))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _dispersion(at_s: Floats, end_s: float) -> float:
    """Return variance over mean of the counts per minute: 1 for even luck, more for storms."""
    counts = np.bincount((at_s / 60.0).astype(np.int64), minlength=max(int(end_s / 60.0), 1))
    return float(counts.var() / counts.mean())
