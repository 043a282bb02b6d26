"""Which quotas a recording shows: those that were reached, by refusals; those that were not, by headers if at all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from factflow_llm.signals import Axis
from simulators.calibration.evidence import currencies
from simulators.calibration.findings import Finding, Known
from simulators.calibration.search import Candidate, Told, find, joint_cost, left_by, polished
from simulators.calibration.shown import read_quota
from simulators.calibration.sizes import sized

if TYPE_CHECKING:
    import pandas as pd

    from simulators.calibration.evidence import Evidence, Floats
    from simulators.providers.quotas import Quota

_FORGIVEN = 0.05  # while shapes are sought, a Retry-After may be off by this share
_FORGIVEN_S = 0.01
_STRICT_S = (0.002, 0.02, 0.1)  # once they are found, by as little as goes: clocks and networks differ
_STRICT_SHARE = 0.02
_MISREAD = 0.1  # share of refusals that may speak against reading Retry-After as truth
_EXPLAINED = 0.05  # share of refusals that may stay unexplained before delays are considered
_DELAYS = (25, 75, 95)  # percentiles of the time that refusals took
_SPANS = 3.0  # a quota that looks back over fewer delays than this explains anything: each may have overtaken the other


@dataclass(frozen=True)
class Inference:
    """The quotas found.

    Attributes:
        quotas: to be simulated.
        findings: what is known of them.
        unexplained: refusals that fit none of them.
        delay_s: delay between sending and arrival that had to be granted.
    """

    quotas: tuple[Quota, ...]
    findings: tuple[Finding, ...]
    unexplained: int
    delay_s: float


def infer(evidence: Evidence, attempts: pd.DataFrame) -> Inference:
    """Return the fewest quotas that explain the refusals, then those that only headers tell of."""
    quoted = _quoted(attempts)
    quotas: list[Quota] = []
    findings: list[Finding] = []
    unexplained = 0
    if evidence.refused.any():
        evidence, told, chosen, weighed = _least_delay(evidence)
        for each in chosen:
            left = left_by((other for other in chosen if other is not each), evidence)
            one = sized(each, told, left, weighed, quoted)
            quotas.append(one.quota)
            findings.extend(one.findings)
        unexplained = int((left_by(chosen, evidence) & evidence.refused).sum())
        if unexplained <= 0.02 * evidence.refused.sum():
            unexplained = 0
    found = {quota.axis for quota in quotas}
    for axis, limit in quoted.items():
        if axis not in found:
            quota, about = read_quota(evidence, attempts, axis, limit)
            quotas.append(quota)
            findings.extend(about)
    findings.extend(_floors(evidence, found | set(quoted)))
    if evidence.delay_s:
        note = "refusals cannot be explained without some delay between sending and arrival"
        findings.append(Finding("network: delay up to, s", evidence.delay_s, known=Known.ROUGH, note=note))
    return Inference(tuple(quotas), tuple(findings), unexplained, evidence.delay_s)


def _least_delay(evidence: Evidence) -> tuple[Evidence, Told | None, list[Candidate], list[Candidate]]:
    """Grant the network as little delay as explains the refusals: none, or up to what a refusal itself took."""
    refusals = evidence.refused.sum()
    took_s = (evidence.end_s - evidence.sent_s)[evidence.refused]
    best = (evidence, *_best_reading(evidence))
    for delay_s in np.percentile(took_s, _DELAYS).tolist():
        cost = joint_cost(best[2], best[0])
        if cost <= _EXPLAINED * refusals:
            break
        delayed = replace(evidence, delay_s=delay_s)
        tried = (delayed, *_best_reading(delayed))
        seen = all(each.span_s > _SPANS * delay_s for each in tried[2])
        if seen and joint_cost(tried[2], delayed) < cost / 2:
            best = tried
    return best


def _best_reading(evidence: Evidence) -> tuple[Told | None, list[Candidate], list[Candidate]]:
    """Read Retry-After as truth if quotas can be found that fit it about as well as when it is ignored."""
    refusals = int(evidence.refused.sum())
    if not np.isfinite(evidence.told_s).any():
        return (None, *find(evidence, None))
    told = _as_truth(evidence.told_s, _FORGIVEN, _FORGIVEN_S)
    chosen, weighed = find(evidence, told)
    cost = joint_cost(chosen, evidence)
    if not chosen or cost > _MISREAD / 2 * refusals:
        plain, plain_weighed = find(evidence, None)
        if not chosen or cost > joint_cost(plain, evidence) + _MISREAD * refusals + 2:
            return None, plain, plain_weighed
    for slack_s in _STRICT_S:
        strictly = _as_truth(evidence.told_s, 0.0, slack_s)
        fitted = polished(chosen, strictly)
        if joint_cost(fitted, evidence) <= cost + _STRICT_SHARE * refusals:
            return strictly, fitted, weighed
    return told, chosen, weighed


def _as_truth(told_s: Floats, forgiven: float, forgiven_s: float) -> Told:
    heard = told_s[np.isfinite(told_s)]
    rounding_s = 1.0 if np.all(heard == np.round(heard)) else 0.001
    slack_s = forgiven * told_s + forgiven_s
    return Told(told_s, slack_s + rounding_s, slack_s)


def _quoted(attempts: pd.DataFrame) -> dict[Axis, float]:
    """Return the limits that headers named, by axis."""
    named = {}
    for axis in Axis:
        column = f"{axis}_limit"
        if column in attempts and attempts[column].notna().any():
            named[axis] = float(attempts[column].mode().iloc[0])
    return named


def _floors(evidence: Evidence, known: set[Axis]) -> list[Finding]:
    """Say what axes that were never the bottleneck let through at least."""
    findings = []
    for currency in currencies(evidence):
        if currency.axis in known or currency.settled is not None:
            continue
        known = known | {currency.axis}
        minutes = (np.maximum(evidence.sent_s[evidence.taken], 0.0) / 60.0).astype(np.int64)
        busiest = np.bincount(minutes, currency.reserved[evidence.taken]).max(initial=0.0)
        name = f"{currency.axis.replace('_', ' ')}: limit per 60 s"
        note = "no refusal that tells it; the busiest minute passed"
        findings.append(Finding(name, None, float(busiest), float("inf"), Known.FLOOR, note))
    return findings
