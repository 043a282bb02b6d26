"""What else may be the cause of rejections that no quota explains, or not all of them, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from factflow_llm.signals import Axis
from simulators.calibration.evidence import counted
from simulators.calibration.findings import Finding, Known
from simulators.calibration.judging import judge
from simulators.calibration.search import left_by
from simulators.calibration.shapes import Ledger
from simulators.calibration.sizes import words

if TYPE_CHECKING:
    from collections.abc import Iterable

    from simulators.calibration.evidence import Bools, Evidence
    from simulators.calibration.explanation import Explanation

_NEARBY_S = 10.0  # the load at an attempt is counted over so long before it
_PARTS = 4
_SPELL_S = 60.0
_SPELLS = 3.0  # variance over mean of the counts per minute: 1 for even luck
_UNLIKELY = 16.3  # chi-squared of three degrees of freedom, exceeded by chance once in a thousand


def others(explained: Explanation, named: bool) -> list[Finding]:
    """Return what else may be the cause, likeliest first; nothing where quotas explain all."""
    evidence = explained.evidence
    rejections = explained.rejections
    left = left_by(explained.chosen, evidence) if named else np.ones(len(evidence), dtype=bool)
    silent = int(left[evidence.turned_away].sum())
    if named and silent <= max(0.02 * rejections, 2):
        return []
    findings = []
    if not named:
        findings.append(Finding("quota", None, known=Known.UNKNOWN, note=_shortfall(explained)))
    listed = [_without_sizes(evidence), _used_up(evidence), *_load(evidence, left, explained)]
    findings.extend(
        Finding("429s: may also be", cause, known=Known.UNKNOWN, note=note)
        for cause, note in (each for each in listed if each is not None)
    )
    return findings


def wrong(explained: Explanation, evidence: Evidence) -> Bools:
    """Return of which attempts quotas that were judged by some of them foretell the wrong thing."""
    rejected = np.zeros(len(evidence), dtype=bool)
    asked = np.flatnonzero(evidence.admitted | evidence.rejected)
    whole = {each.name: each for each in counted(evidence)}
    for each in explained.chosen:
        ledger = Ledger(evidence, whole[each.ledger.currency.name])
        rejected[asked] |= each.shape.critical(ledger, asked) > each.floor * (1 + 1e-9)
    foretold: Bools = (rejected & evidence.admitted) | (~rejected & evidence.rejected)
    return foretold


def in_words(findings: Iterable[Finding]) -> str:
    """Return what quotas are, in short."""
    return ", ".join(f"{each.name} {each.value:g}" for each in findings if ": limit" in each.name and each.value)


def _shortfall(explained: Explanation) -> str:
    if not explained.weighed or not explained.rejections:
        return f"{explained.rejections} rejections, of which no quota tells anything"
    best = max(explained.weighed, key=lambda each: each.gain)
    alone = judge(best.shape, best.ledger, best.sample)
    share = alone.gain / max(best.sample.surprise, 1e-9)
    return (
        f"{explained.rejections} rejections fit no quota; the nearest, {best.ledger.currency.name} {words(best)}, "
        f"tells {share:.0%} of who was rejected"
    )


def _without_sizes(evidence: Evidence) -> tuple[str, str] | None:
    """Rejections that name tokens in a recording without token counts."""
    unknown = np.isnan(evidence.tokens["input_tokens"][evidence.admitted]).mean() if evidence.admitted.any() else 1.0
    axes = [each for each in Axis if each not in (Axis.REQUESTS, Axis.CONCURRENCY)]
    named = np.isin(evidence.named[evidence.turned_away], [list(Axis).index(each) for each in axes])
    if unknown <= 0.2:
        return None
    if named.any():
        return "a quota of tokens", f"{named.sum()} rejections name tokens, and {unknown:.0%} of the calls tell no size"
    return "a quota of tokens", f"{unknown:.0%} of the calls tell no size, so no quota of tokens can be sought"


def _used_up(evidence: Evidence) -> tuple[str, str] | None:
    """Rejected from some moment to the end, or told to come back after half of the recording: a long window."""
    asked = np.flatnonzero(evidence.admitted | evidence.rejected)
    rejected = evidence.rejected[asked]
    last = asked[~rejected][-1] if (~rejected).any() else -1
    since_s = float(evidence.sent_s[last]) if last >= 0 else float(evidence.sent_s[0])
    whole_s = evidence.duration_s
    told_s = evidence.told_s[evidence.turned_away]
    longest_s = float(np.nanmax(told_s)) if np.isfinite(told_s).any() else 0.0
    resets = [reset[evidence.turned_away] for reset in evidence.reset_s.values()]
    for reset_s in resets:
        if np.isfinite(reset_s).any():
            longest_s = max(longest_s, float(np.nanmax(reset_s)))
    after = int((asked > last).sum())
    passed = int(evidence.admitted.sum())
    soon = 0.0 < longest_s <= whole_s / 2
    if not soon and after >= 10 and float(evidence.sent_s[asked[-1]]) - since_s > 0.05 * whole_s:
        note = f"after {passed} calls nothing passed from {since_s:.0f} s to the end"
        note += f"; clients were told to wait {longest_s:.0f} s" if longest_s else ""
        return "a window longer than half of the recording", f"{note}: at least {passed} calls fit"
    if longest_s > whole_s / 2:
        return "a window longer than half of the recording", f"clients were told to wait {longest_s:.0f} s"
    return None


def _load(evidence: Evidence, left: Bools, explained: Explanation) -> list[tuple[str, str] | None]:
    """Say whether the share of rejections grows with the load, and what follows from that."""
    asked = np.flatnonzero((evidence.admitted | evidence.rejected) & left)
    rejected = evidence.rejected[asked]
    if len(asked) < 50 or rejected.sum() < 5 or rejected.all():
        return []
    sent_s = evidence.sent_s[asked]
    load = np.arange(len(asked)) - np.searchsorted(sent_s, sent_s - _NEARBY_S)
    parts = np.array_split(np.argsort(load, kind="stable"), _PARTS)
    shares = [float(rejected[part].mean()) for part in parts]
    share = float(rejected.mean())
    surprise = sum(len(part) * (each - share) ** 2 for part, each in zip(parts, shares, strict=True)) / (
        share * (1 - share)
    )
    if surprise <= _UNLIKELY and not (explained.chosen and not explained.named and explained.gain > 100):
        note = (
            f"their share, {share:.1%}, does not depend on the load: a pool that others share, or an overloaded model"
        )
        return [("random rejections", note)]
    note = f"their share goes from {shares[0]:.0%} to {shares[-1]:.0%} as the load grows, but at no one limit"
    others_too = ("traffic that was not recorded", f"{note}; who else draws on the quota?")
    counts = np.bincount((sent_s[rejected] / _SPELL_S).astype(np.int64))
    if counts.var() <= _SPELLS * counts.mean():
        return [others_too]
    return [others_too, ("a provider that is overloaded at times", "rejections come in spells")]
