"""The quotas that foretell who was rejected, how exactly they do, and whether that is enough to name them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from simulators.calibration.judging import Candidate, Sample, Told, applied, judge, ran_full
from simulators.calibration.search import find, joint_gain, left_by, polished, weigh
from simulators.calibration.shapes import SLACK_S, BucketShape, SlotsShape

if TYPE_CHECKING:
    from simulators.calibration.evidence import Evidence, Floats
    from simulators.calibration.watch import Watch

_FORGIVEN = 0.05  # while shapes are sought, a Retry-After may be off by this share
_FORGIVEN_S = 0.01
_STRICT_S = (0.002, 0.02, 0.1)  # once they are found, by as little as goes: clocks and networks differ
_MISREAD = 0.1  # share of Retry-Afters that may speak against reading them as truth
_SHAKEN_S = (SLACK_S, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_RARELY = 0.003  # share of those that quotas reject: so many may have passed
_FAR = 10.0  # times as far moments may be off, without half of what is missing being told then
_TINY = 1.0  # nats that are nothing
_SPANS = 8.0  # a quota that looks back over fewer times what the network shook explains anything
_ENOUGH = 20.0  # nats; thousands of shapes are tried, and by chance the best of them is worth ten
_FEWEST = 5  # rejections that put a quota to the test
_IMPURE = 0.1  # an attempt that quotas reject may have been admitted this often, beside any attempt
_RECALL = 0.3  # share of the rejections that quotas must explain, if the others come by chance
_MOST = 3  # quotas at once
_OPENINGS = 2  # times that a quota came back: else nobody knows how fast it does
_GOOD_PART = 0.1
_CHANCE = 15.0  # nats that the others may be worth, if they do


@dataclass(frozen=True)
class Explanation:
    """Quotas, and how well they explain the rejections.

    Attributes:
        evidence: what they were judged by.
        chosen: the quotas, fitted.
        weighed: everything that was weighed, for the next best.
        told: how Retry-After was read.
        slack_s: how far recorded moments had to be off.
        gain: what the quotas tell of who was rejected, in nats, at the recorded moments.
        surprise: what there was to tell.
        contradicted: admissions that they would have rejected, moments being off that far.
        silent: rejections that they would have admitted.
        rest: what any quota would tell of these, in nats.
        loose: what the quotas foretell of all attempts, moments being off that far.
    """

    evidence: Evidence = field(repr=False)
    chosen: list[Candidate]
    weighed: list[Candidate] = field(repr=False)
    told: Told | None = field(repr=False)
    slack_s: float
    gain: float
    surprise: float
    contradicted: int
    silent: int
    rest: float
    loose: list[Candidate] = field(repr=False)

    @property
    def rejections(self) -> int:
        """Rejections to be explained."""
        return len(self.evidence.turned_away)

    @property
    def named(self) -> bool:
        """Whether the quotas explain the rejections so well that they may be named, as far as the attempts tell."""
        explained = self.rejections - self.silent
        admitted = max(len(self.evidence.passed), 1) / max(len(self.evidence.passed) + self.rejections, 1)
        return (
            bool(self.chosen)
            and self.rejections >= _FEWEST
            and self.gain >= _ENOUGH
            and explained >= _RECALL * self.rejections
            and self.contradicted <= _IMPURE * admitted * (self.contradicted + explained)
            and self.rest <= _CHANCE
            and all(_openings(each) >= _OPENINGS for each in self.loose)
            and not (len(self.chosen) > 1 and any(_drained_once(each) for each in self.loose))
        )


def explain(evidence: Evidence, watch: Watch) -> Explanation:
    """Return the fewest quotas that tell most of who was rejected."""
    told, chosen, weighed = _best_reading(evidence, watch)
    found = _explanation(evidence, told, chosen, weighed)
    while 0 < len(found.chosen) < _MOST and found.rest > _CHANCE and found.silent >= _FEWEST and not watch.cancelled:
        open_ = Sample.of(evidence).only(left_by(found.loose, evidence))
        behind = max(weigh(open_, evidence, told, watch), key=lambda each: each.gain, default=None)
        if behind is None or behind.gain < _CHANCE:
            break
        behind = judge(behind.shape, behind.ledger, open_, told)
        more = _explanation(evidence, told, polished([*found.chosen, behind], told), [*weighed, behind])
        if more.gain < found.gain + _ENOUGH:
            break
        found = more
    return found


def _explanation(
    evidence: Evidence, told: Told | None, chosen: list[Candidate], weighed: list[Candidate]
) -> Explanation:
    """Fit quotas to moments that are off by as little as goes, and see what they leave unexplained."""
    slack_s = _shaken_s(chosen, evidence)
    if slack_s > SLACK_S:
        told = told if told is None else _strict(evidence.told_s, slack_s)
        chosen = polished(chosen, told, slack_s)
    whole = Sample.of(evidence)
    plain = [applied(judge(each.shape, each.ledger, each.sample, None), whole) for each in chosen]
    loose = [applied(each, whole, slack_s) for each in chosen]
    open_ = left_by(loose, evidence)
    sample = whole.only(open_)
    rest = 0.0
    if len(sample.turned_away) >= _FEWEST and chosen:
        rest = max((judge(each.shape, each.ledger, sample, None).gain for each in weighed), default=0.0)
    return Explanation(
        evidence, chosen, weighed, told, slack_s, joint_gain(plain, evidence) if plain else 0.0, whole.surprise,
        len(whole.taken) - len(sample.taken), len(sample.turned_away), rest, loose,
    )  # fmt: skip


def _openings(candidate: Candidate) -> int:
    """Return how often somebody passed after a quota had rejected."""
    rejected = candidate.sample.turned_away[candidate.explained]
    return len(np.unique(np.searchsorted(candidate.sample.taken, rejected))) - (
        bool(len(rejected)) and bool(rejected[-1] > candidate.sample.taken[-1])
    )


def _drained_once(candidate: Candidate) -> bool:
    """Return whether a bucket was never full again that holds a good part of the recording.

    Beside another quota it may be anything: the like of it explains a quota that moved.
    """
    if not isinstance(candidate.shape, BucketShape):
        return False
    return candidate.span_s > _GOOD_PART * candidate.ledger.evidence.duration_s and not ran_full(candidate)


def _shaken_s(chosen: list[Candidate], evidence: Evidence) -> float:
    """Return by how little recorded moments must be off for hardly anybody to pass whom the quotas reject.

    Rejections that come for another reason do not count: they look as if moments were off by any time.
    """
    if not chosen:
        return SLACK_S
    whole = Sample.of(evidence)
    answer_s = float(np.nanmedian(evidence.answer_s)) if np.isfinite(evidence.answer_s).any() else math.inf
    span_s = min(answer_s if isinstance(each.shape, SlotsShape) else each.span_s for each in chosen)
    allowed = [each for each in _SHAKEN_S if each <= max(span_s / _SPANS, SLACK_S)]
    missing, rare = [], []
    for slack_s in allowed:
        again = (judge(each.shape, each.ledger, each.sample, None, slack_s) for each in chosen)
        loose = [applied(each, whole, slack_s) for each in again]
        rejected = ~left_by(loose, evidence)
        rare.append(rejected[evidence.passed].sum() <= _RARELY * rejected[evidence.turned_away].sum() + 1)
        missing.append(whole.surprise - joint_gain(loose, evidence))
        if missing[-1] < _TINY:
            break
    for place, slack_s in enumerate(allowed[: len(missing)]):
        ahead = [
            each
            for each, other_s in zip(missing, allowed, strict=False)
            if other_s <= _FAR * max(slack_s, _SHAKEN_S[1])
        ]
        if rare[place] and min(ahead) > missing[place] / 2 - _TINY:
            return slack_s
    return allowed[int(np.argmin(missing))]


def _best_reading(evidence: Evidence, watch: Watch) -> tuple[Told | None, list[Candidate], list[Candidate]]:
    """Read Retry-After as truth if quotas can be found that fit it about as well as when it is ignored."""
    if not len(evidence.passed) or not len(evidence.turned_away):
        return None, [], []
    heard = np.isfinite(evidence.told_s[evidence.turned_away])
    if heard.sum() < 0.5 * max(len(heard), 1):
        return (None, *find(evidence, None, watch))
    told = _as_truth(evidence.told_s, _FORGIVEN, _FORGIVEN_S)
    chosen, weighed = find(evidence, told, watch)
    if not chosen or _misread(chosen, told, evidence) > _MISREAD:
        return (None, *find(evidence, None, watch))
    for slack_s in _STRICT_S:
        strictly = _strict(evidence.told_s, slack_s)
        fitted = polished(chosen, strictly)
        if _misread(fitted, strictly, evidence) <= _MISREAD / 2:
            return strictly, fitted, weighed
    return told, chosen, weighed


def _misread(chosen: list[Candidate], told: Told, evidence: Evidence) -> float:
    """Return the share of Retry-Afters that the quotas contradict: too short for one of them, or too long for all."""
    at = evidence.turned_away[np.isfinite(told.told_s[evidence.turned_away])]
    early, late = np.zeros(len(at), dtype=bool), np.zeros(len(at), dtype=bool)
    timed = [each for each in chosen if not isinstance(each.shape, SlotsShape)]
    if not timed:
        return 1.0
    later_s, sooner_s = (told.told_s + told.late_s)[at], np.maximum(told.told_s - told.early_s, 0.0)[at]
    for each in timed:
        edge = each.floor + 1e-9 * max(each.floor, 1.0)
        late |= each.shape.critical(each.ledger, at, later_s) > edge
        early |= each.shape.critical(each.ledger, at, sooner_s, -SLACK_S) > edge
    return float((late | ~early).mean())


def _strict(told_s: Floats, slack_s: float) -> Told:
    return _as_truth(told_s, 0.0, slack_s)


def _as_truth(told_s: Floats, forgiven: float, forgiven_s: float) -> Told:
    heard = told_s[np.isfinite(told_s)]
    rounding_s = 1.0 if np.all(heard == np.round(heard)) else 0.001
    slack_s = forgiven * told_s + forgiven_s
    return Told(told_s, slack_s + rounding_s, slack_s)
