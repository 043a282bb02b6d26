"""Which quotas a recording shows: those that were reached, by rejections; those that were not, by headers if at all.

A finding is held against its own replay. Quotas that nearly foretell who was rejected, whose spans are long beside what
the network shook, and that reject as many when the recorded sends are played to them once more, are named; anything
else is not identified, and what else may be the cause is said.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from factflow_llm.signals import Axis
from simulators.calibration import causes
from simulators.calibration.evidence import currencies
from simulators.calibration.explanation import Explanation, explain
from simulators.calibration.findings import Finding, Known
from simulators.calibration.judging import Sample
from simulators.calibration.replay import rejections
from simulators.calibration.search import left_by
from simulators.calibration.shapes import STEADY_S, SlotsShape
from simulators.calibration.shown import read_quota
from simulators.calibration.sizes import sized
from simulators.providers.quotas import Bucket

if TYPE_CHECKING:
    import pandas as pd

    from simulators.calibration.evidence import Evidence
    from simulators.calibration.watch import Watch
    from simulators.providers.quotas import Quota

_EXACT = 0.03  # a quota that is pinned down rejects as many as were rejected, up to this share,
_NEAR = (0.1, 0.05, 0.05)  # and one, two or three that are named at all up to these
_PLAYED = 200_000  # attempts are played to the quotas at most
_NEARLY = 0.01  # of the recording, before and after a quota moved, that is not looked at
_PARTS = (0.34, 0.15)  # a quota that moved is sought in so much of the recording's begin and end


@dataclass(frozen=True)
class Inference:
    """The quotas found.

    Attributes:
        quotas: to be simulated.
        findings: what is known of them.
        unexplained: rejections that fit none of them.
        back_s: an answer is over at the provider so much before it has come.
        shaken_s: moments had to be off so far for the quotas to explain the rejections.
    """

    quotas: tuple[Quota, ...]
    findings: tuple[Finding, ...]
    unexplained: int
    back_s: float
    shaken_s: float


@dataclass(frozen=True)
class Held:
    """An explanation, held against its own replay.

    Attributes:
        explanation: in question.
        quotas: as they would be named; none where they may not be.
        findings: what is known of them.
        back_s: an answer is over at the provider so much before it has come.
        foretold: rejections by the quotas, and those by chance.
        recorded: the same in truth, as far as they were played.
    """

    explanation: Explanation
    quotas: tuple[Quota, ...] = ()
    findings: tuple[Finding, ...] = ()
    back_s: float = 0.0
    foretold: float = 0.0
    recorded: int = field(default=0)

    @property
    def told(self) -> bool:
        """Whether quotas are named, and each one's kind is told from the next best."""
        windows = [each.known for each in self.findings if each.name.endswith("window")]
        return bool(self.quotas) and Known.UNKNOWN not in windows

    @property
    def agrees(self) -> bool:
        """Whether the replay rejects as many as were rejected."""
        return bool(self.quotas) and _off(self.foretold, self.recorded) <= _EXACT


def infer(evidence: Evidence, attempts: pd.DataFrame, watch: Watch) -> Inference:
    """Return the fewest quotas that explain the rejections, then those that only headers tell of.

    Args:
        evidence: what was sent, and what became of it.
        attempts: the same as recorded, for the headers.
        watch: who waits for it.
    """
    quoted = _quoted(attempts)
    quotas: list[Quota] = []
    findings: list[Finding] = []
    unexplained, back_s, shaken_s = 0, 0.0, 0.0
    if evidence.to_explain.any():
        held = _held(explain(evidence, watch), quoted)
        if not held.agrees and not watch.cancelled:
            moved = None
            with watch.patience():
                moved = _moved(evidence, quoted, watch)
            if moved is not None:
                held, about = moved
                findings.append(about)
        quotas.extend(held.quotas)
        findings.extend(held.findings)
        if held.quotas:
            back_s, shaken_s = held.back_s, held.explanation.slack_s
            unexplained = held.explanation.silent
            if unexplained <= 0.02 * held.explanation.rejections:
                unexplained = 0
        else:
            unexplained = held.explanation.rejections
        findings.extend(causes.others(held.explanation, bool(held.quotas)))
        if watch.cancelled:
            note = "cancelled before every kind of quota was tried; another may fit better"
            findings = [replace(each, known=Known.worse(each.known, Known.ROUGH)) for each in findings]
            findings.append(Finding("search", "cancelled", known=Known.UNKNOWN, note=note))
    found = {quota.axis for quota in quotas}
    for axis, limit in quoted.items():
        if axis not in found:
            quota, about_it = read_quota(evidence, attempts, axis, limit)
            quotas.append(quota)
            findings.extend(about_it)
    findings.extend(_floors(evidence, found | set(quoted)))
    return Inference(tuple(quotas), tuple(findings), unexplained, back_s, shaken_s)


def _held(explained: Explanation, quoted: dict[Axis, float]) -> Held:
    """Play the attempts to the quotas once more, and name them as surely as they reject what was rejected."""
    if not explained.named:
        return Held(explained)
    evidence = explained.evidence
    back_s = max((each.shape.back_s for each in explained.chosen if isinstance(each.shape, SlotsShape)), default=0.0)
    each_sized = []
    for each in explained.chosen:
        left = left_by((other for other in explained.chosen if other is not each), evidence)
        each_sized.append(sized(replace(each, sample=Sample.of(evidence).only(left)), explained, quoted))
    quotas = tuple(one.quota for one in each_sized)
    played = evidence.part(slice(int(np.argmax(evidence.judged)) + _PLAYED))
    rejected = rejections(quotas, played, back_s) & played.judged
    by_chance = explained.silent / max(len(evidence.passed) + explained.silent, 1)
    foretold = float(rejected.sum())
    recorded = int(played.to_explain.sum())
    expected = foretold + by_chance * float((~rejected & played.judged).sum())
    apart = _off(expected, recorded)
    if apart > _NEAR[len(quotas) - 1]:
        return Held(explained, foretold=expected, recorded=recorded)
    pinned = apart <= _EXACT and _off(foretold, recorded) <= _EXACT
    findings = []
    for one in each_sized:
        first, *figures = one.findings
        if pinned:
            note = f"{first.note}; replayed, {foretold:.0f} rejections for {recorded}"
        else:
            note = f"{first.note}; replayed, only {foretold:.0f} rejections for {recorded}"
            figures = [replace(each, known=Known.worse(each.known, Known.ROUGH)) for each in figures]
            first = replace(first, known=Known.worse(first.known, Known.ROUGH))
        findings.extend([replace(first, note=note), *figures])
    if explained.slack_s > STEADY_S:
        note = "so far sends and arrivals are apart, by the rejections"
        findings.append(Finding("network: times shaken by, s", explained.slack_s, known=Known.ROUGH, note=note))
    return Held(explained, quotas, tuple(findings), back_s, expected, recorded)


def _off(foretold: float, recorded: int) -> float:
    """Return how far off a count is; two are no error."""
    apart = abs(foretold - recorded)
    return 0.0 if apart <= 2.0 else apart / max(recorded, 1)


def _moved(evidence: Evidence, quoted: dict[Axis, float], watch: Watch) -> tuple[Held, Finding] | None:
    """Return what is in force at the end, if begin and end of the recording each show quotas, and other ones."""
    begun_s, over_s = float(evidence.sent_s[0]), float(evidence.sent_s[-1])
    for share in _PARTS:
        part_s = share * (over_s - begun_s)
        early = explain(evidence.between(begun_s, begun_s + part_s), watch)
        late = explain(evidence.between(over_s - part_s, np.inf), watch)
        if not (early.chosen and late.chosen):
            continue
        wrong = [causes.wrong(each, evidence) for each in (early, late)]
        cut = int(np.argmin(np.cumsum(wrong[0]) - np.cumsum(wrong[1])))
        at_s = float(evidence.sent_s[cut])
        near_s = _NEARLY * (over_s - begun_s)  # nobody knows the moment exactly
        before = _held(explain(evidence.between(begun_s, at_s - near_s), watch), quoted)
        after = _held(explain(evidence.between(at_s + near_s, np.inf), watch), quoted)
        if before.told and after.told:
            note = f"from {causes.in_words(before.findings)} to {causes.in_words(after.findings)}, which is calibrated"
            about = Finding("quota moved at, s", at_s, at_s - near_s, at_s + near_s, Known.ROUGH, note)
            return _as_full_as(before, after), about
    return None


def _as_full_as(before: Held, after: Held) -> Held:
    """Return what is in force after a move, with bursts as before: nobody knows how full its buckets were then."""
    bursts = {quota.axis: quota.burst_s for quota in before.quotas if isinstance(quota, Bucket)}
    quotas = tuple(
        quota.model_copy(update={"burst_s": bursts[quota.axis]})
        if isinstance(quota, Bucket) and quota.axis in bursts
        else quota
        for quota in after.quotas
    )
    findings = tuple(
        replace(each, value=None, low=None, high=None, known=Known.UNKNOWN, note="taken to be as before it moved")
        if ": burst" in each.name
        else each
        for each in after.findings
    )
    return replace(after, quotas=quotas, findings=findings)


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
        note = "no rejection that tells it; the busiest minute passed"
        findings.append(Finding(name, None, float(busiest), float("inf"), Known.FLOOR, note))
    return findings
