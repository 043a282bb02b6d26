"""Find the fewest quotas that admit what was admitted and refuse what was refused.

Candidates of every currency and shape are judged alone: at its best size, which admissions does a candidate contradict,
which refusals does it explain? Then the smallest set with the least left over is taken, and its members are fitted in
turn, each to what the others leave unexplained.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from factflow_llm.signals import Axis
from simulators.calibration.evidence import Currency, Evidence, currencies
from simulators.calibration.shapes import (
    SLACK_S,
    Bound,
    BucketShape,
    FixedShape,
    Ledger,
    Shape,
    SlidingShape,
    SlotsShape,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from simulators.calibration.evidence import Bools, Floats, Integers

WINDOWS_S = (1.0, 2.0, 3.0, 5.0, 6.0, 10.0, 12.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 3600.0)

_ADMISSION = 10.0  # an admission that cannot be weighs as much as ten refusals that something else may explain
_STEP = 0.01  # between rates that are tried first
_NEAR = 0.2  # a refusal is nearly explained by a quota that is less than this share too large
_REFUSALS = 500  # looked at while shapes are sought
_BUSY_S = 5.0  # no rate is tried that was not admitted over such a span
_ODD = 4
_FEWEST = 5  # refusals left over, from which on a rarer quota is sought behind them,
_RARE = 0.002  # and share of all
_UNEXPLAINED = 0.2  # share of these that it may leave unexplained
_PER_QUOTA = 3.0  # refusals that a further quota must explain, at least
_PER_QUOTA_SHARE = 0.01


class Told(NamedTuple):
    """Retry-After read as truth: a refused attempt would have passed so much later, and not much earlier.

    Attributes:
        told_s: what each attempt heard; NaN where nothing.
        early_s: how much earlier than told the quota may have opened: rounding up.
        late_s: how much later: what the reading forgives.
    """

    told_s: Floats
    early_s: Floats
    late_s: Floats


@dataclass(frozen=True)
class Candidate:
    """A quota of some shape and its best size, judged by the evidence.

    Attributes:
        shape: the kind, with all parameters but the size.
        ledger: what it counts.
        floor: the least size at which nothing more is contradicted.
        ceiling: the size from which on more would be; ``inf`` when no refusal bounds it.
        cost: contradictions, weighed.
        distance: the same, but refusals that are nearly explained count less: it shows the way to a better rate.
        contradicted: admissions that it would have refused.
        explained: refusals that it would have made.
    """

    shape: Shape
    ledger: Ledger = field(repr=False)
    floor: float
    ceiling: float
    cost: float
    distance: float
    contradicted: Bools = field(repr=False)
    explained: Bools = field(repr=False)

    @property
    def family(self) -> tuple[type[Shape], float]:
        """What tells window shapes apart: the kind and, for windows, the length."""
        return type(self.shape), getattr(self.shape, "window_s", 0.0)

    @property
    def span_s(self) -> float:
        """Over how long the quota looks back."""
        return self.shape.span_s(self.floor)


def judge(shape: Shape, ledger: Ledger, told: Told | None, considered: Bools | None = None) -> Candidate:
    """Return the quota of this shape at the size that contradicts least of what is considered."""
    evidence = ledger.evidence
    passing = shape.critical(ledger, evidence.taken, Bound.LEAST)
    refused = shape.critical(ledger, evidence.turned_away, Bound.MOST)
    blur = SLACK_S * getattr(shape, "rate", 0.0)
    passing_from = passing - blur - 1e-9 * passing.max(initial=0.0, where=np.isfinite(passing))
    least, most = _sizes_that_refuse(shape, ledger, told, refused)
    least, most = least - blur, most + blur
    weighed = np.ones(len(passing), dtype=bool) if considered is None else considered[evidence.taken]
    open_ = np.arange(len(least)) if considered is None else np.flatnonzero(considered[evidence.turned_away])
    # The largest sizes only: whoever is smaller contradicts more admissions than there are refusals to explain.
    largest = np.argsort(passing_from[weighed])[-(int(len(open_) / _ADMISSION) + 2) :]
    worth = passing_from[weighed][largest]
    low, high = np.sort(least[open_]), np.sort(most[open_])
    sizes = np.unique(np.concatenate([passing[weighed][largest], low[low > worth.min(initial=-math.inf)]]))
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    if not len(sizes):  # nothing tells it; the largest call passed
        sizes = np.array([ledger.asked[evidence.taken].max(initial=1.0)])
    contradictions = _ADMISSION * (len(worth) - np.searchsorted(worth, sizes, side="right"))
    silent = len(low) - np.searchsorted(low, sizes, side="right") + np.searchsorted(high, sizes, side="right")
    best = int(np.argmin(contradictions + silent))
    floor = float(sizes[best])
    explained = (least <= floor) & (floor < most)
    misses = np.maximum(least - floor, floor - most)[open_][~explained[open_]]
    return Candidate(
        shape=shape,
        ledger=ledger,
        floor=floor,
        ceiling=float(most[open_][explained[open_]].min(initial=math.inf)) - blur,
        cost=float(contradictions[best] + silent[best]),
        distance=float(contradictions[best] + np.minimum(misses / (_NEAR * floor), 1.0).sum()),
        contradicted=_scattered(passing_from > floor, evidence.taken, evidence),
        explained=_scattered(explained, evidence.turned_away, evidence),
    )


def _sizes_that_refuse(shape: Shape, ledger: Ledger, told: Told | None, refused: Floats) -> tuple[Floats, Floats]:
    """Return, for each refusal, from which size on and below which size the quota explains it."""
    evidence = ledger.evidence
    at = evidence.turned_away
    ours = evidence.speaks_for(ledger.currency.axis)[at]
    least, most = np.full(len(at), -math.inf), np.where(ours, refused, -math.inf)
    if told is None:
        return least, most
    told_s, early_s, late_s = (column[at] for column in told)
    heard = np.isfinite(told_s)
    if isinstance(shape, SlotsShape):
        most[heard & (np.abs(told_s - shape.retry_after_s) > early_s)] = -math.inf
        return least, most
    told_s, early_s, late_s, at = told_s[heard], early_s[heard], late_s[heard], at[heard]
    least[heard] = shape.critical(ledger, at, Bound.LEAST, told_s + late_s)
    most[heard] = np.minimum(most[heard], shape.critical(ledger, at, Bound.MOST, np.maximum(told_s - early_s, 0.0)))
    return least, np.maximum(most, least)


def _scattered(values: Bools, at: Integers, evidence: Evidence) -> Bools:
    column = np.zeros(len(evidence), dtype=bool)
    column[at] = values
    return column


def find(evidence: Evidence, told: Told | None) -> tuple[list[Candidate], list[Candidate]]:
    """Return the quotas that together explain the refusals best, and all candidates that were weighed."""
    weighed = list(_candidates(evidence.thinned(_REFUSALS), told))
    chosen = [replace(each, ledger=Ledger(evidence, each.ledger.currency)) for each in _cover(weighed)]
    found = polished([judge(each.shape, each.ledger, told) for each in chosen], told)
    silent = left_by(found, evidence)
    left = silent & evidence.refused
    if found and left.sum() >= max(_FEWEST, _RARE * evidence.refused.sum()):
        rest = list(_candidates(replace(evidence, refused=left).thinned(_REFUSALS), told))
        further = min(rest, key=_cost)
        if further.cost <= _UNEXPLAINED * left.sum():
            ledger = Ledger(evidence, further.ledger.currency)
            return polished([*found, judge(further.shape, ledger, told, silent)], told), [*weighed, *rest]
    return found, weighed


def joint_cost(candidates: Iterable[Candidate], evidence: Evidence) -> float:
    """Return what a set of quotas contradicts together: admissions, weighed, and refusals that none explains."""
    contradicted, explained = np.zeros(len(evidence), dtype=bool), np.zeros(len(evidence), dtype=bool)
    for each in candidates:
        contradicted |= each.contradicted
        explained |= each.explained
    return _ADMISSION * float(contradicted.sum()) + float((evidence.refused & ~explained).sum())


def left_by(others: Iterable[Candidate], evidence: Evidence) -> Bools:
    """Return the attempts about which the others are silent."""
    left = np.ones(len(evidence), dtype=bool)
    for other in others:
        left &= ~(other.contradicted | other.explained)
    return left


def polished(chosen: list[Candidate], told: Told | None) -> list[Candidate]:
    """Fit each quota to what the others leave open, in turn, until nothing changes."""
    current = list(chosen)
    for _ in range(3 if len(current) > 1 else 1):
        before = [(each.shape, each.floor) for each in current]
        for place, each in enumerate(current):
            left = left_by((other for other in current if other is not each), each.ledger.evidence)
            current[place] = refined(each, told, left)
        if before == [(each.shape, each.floor) for each in current]:
            break
    return current


def refined(candidate: Candidate, told: Told | None, considered: Bools | None) -> Candidate:
    """Fit the continuous parameters of a candidate's shape."""
    shape, ledger = candidate.shape, candidate.ledger
    if isinstance(shape, BucketShape):
        return _zoom(
            lambda rate: judge(replace(shape, rate=rate), ledger, told, considered), shape.rate, 2 * _STEP, 1e-8
        )
    if isinstance(shape, FixedShape):
        tried = _fixed(ledger, shape.window_s, _spans(ledger, told, considered), told, considered)
        best = min([*tried, judge(shape, ledger, told, considered)], key=_cost)
        middle_s = sum(phase_interval(best, told, considered)) / 2  # errs least
        return min(judge(FixedShape(shape.window_s, middle_s), ledger, told, considered), best, key=_cost)
    return judge(shape, ledger, told, considered)


def feasible(make: Callable[[float], Candidate], allowed: float, widest: float = 1.0) -> tuple[float, float]:
    """Return between which displacements the cost stays within ``allowed``, found by bisection on both sides of 0."""
    ends = []
    for sign in (-1.0, 1.0):
        inside, outside = 0.0, None
        step = 1e-5
        while step <= widest:
            if make(sign * step).cost > allowed:
                outside = step
                break
            inside, step = step, step * 2.0
        if outside is not None:
            for _ in range(8):
                middle = (inside + outside) / 2
                if make(sign * middle).cost > allowed:
                    outside = middle
                else:
                    inside = middle
        ends.append(sign * inside)
    return ends[0], ends[1]


def phase_interval(candidate: Candidate, told: Told | None, considered: Bools | None) -> tuple[float, float]:
    """Return between which offsets a fixed window may start anew: no other contradicts as little."""
    shape = candidate.shape
    assert isinstance(shape, FixedShape)
    window_s, phase_s = shape.window_s, shape.phase_s

    def moved(share: float) -> Candidate:
        return judge(FixedShape(window_s, phase_s + share * window_s), candidate.ledger, told, considered)

    low, high = feasible(moved, candidate.cost, widest=0.5)
    return phase_s + low * window_s, phase_s + high * window_s


def _candidates(evidence: Evidence, told: Told | None) -> Iterator[Candidate]:
    heard = evidence.told_s[np.isfinite(evidence.told_s)]
    slots = Ledger(evidence, Currency(Axis.CONCURRENCY, np.ones(len(evidence))))
    yield judge(SlotsShape(float(np.median(heard)) if len(heard) else 1.0), slots, told)
    for currency in currencies(evidence):
        if not evidence.speaks_for(currency.axis)[evidence.turned_away].any():
            continue
        ledger = Ledger(evidence, currency)
        spans = _spans(ledger, told, None)
        yield from _buckets(ledger, told)
        if currency.axis is Axis.REQUESTS:
            yield from _emptied_buckets(ledger, told)
        for window_s in WINDOWS_S:
            if window_s > evidence.duration_s / 2:
                break
            yield judge(SlidingShape(window_s), ledger, told)
            fixed = _fixed(ledger, window_s, spans, told, None)
            if fixed:
                yield min(fixed, key=_cost)


def _fixed(
    ledger: Ledger, window_s: float, spans: _Spans, told: Told | None, considered: Bools | None
) -> list[Candidate]:
    """Return fixed windows at likely offsets: at the ends of the likeliest guesses, and within them."""
    offsets = [
        (end_s - share * width_s) % window_s
        for end_s, width_s in _phases(spans, window_s)[:3]
        for share in (0.5, 0.3, 0.7, 0.1, 0.9, 0.0)  # the middle errs least
    ]
    return [judge(FixedShape(window_s, offset), ledger, told, considered) for offset in offsets]


def _emptied_buckets(ledger: Ledger, told: Told | None) -> list[Candidate]:
    """Return buckets that rejections empty: from then on, what is admitted and refused tells the rate by itself.

    A refusal at a lower rate than was admitted found the bucket full before, and tells what it holds instead.
    """
    turned_away = np.flatnonzero(ledger.evidence.refused & ledger.evidence.speaks_for(ledger.currency.axis))
    passed, refused = ledger.demanded(ledger.evidence.taken), ledger.demanded(turned_away)
    tried = []
    for odd in range(min(_ODD, len(passed))):  # so many may have been admitted for other reasons
        low = float(passed[-1 - odd])
        above = refused[refused > low]
        if len(above) and low > 0.0:
            tried.append(judge(BucketShape((low + float(above[0])) / 2, rejections_count=True), ledger, told))
    return tried


def _buckets(ledger: Ledger, told: Told | None) -> list[Candidate]:
    """Return the best few buckets: rates in small steps, then closer around the promising ones."""

    def at(rate: float) -> Candidate:
        return judge(BucketShape(rate), ledger, told)

    counts = np.bincount((np.maximum(ledger.booked_s, 0.0) / _BUSY_S).astype(np.int64), np.maximum(ledger.units, 0.0))
    fastest = max(counts.max(initial=0.0) / _BUSY_S, ledger.rate) * 1.2
    rates = np.exp(np.arange(math.log(ledger.rate * 0.9), math.log(fastest) + _STEP, _STEP)).tolist()
    distances = [at(rate).distance for rate in rates]
    hollows = [
        place for place, distance in enumerate(distances)
        if distance <= min(distances[max(place - 1, 0)], distances[min(place + 1, len(rates) - 1)])
    ]  # fmt: skip
    near = sorted(hollows, key=distances.__getitem__)[:3]
    return [_zoom(at, rates[place], _STEP, 1e-6) for place in near]


def _zoom(make: Callable[[float], Candidate], start: float, span: float, finest: float) -> Candidate:
    """Return the candidate of least distance near ``start``, from the middle of where the distance is least."""
    best, centre = make(start), start
    while span > finest:
        places = (centre * (1 + np.linspace(-span, span, 9))).tolist()
        tried = [make(place) for place in places]
        least = min(each.distance for each in tried)
        among = [place for place, each in enumerate(tried) if each.distance == least]
        middle = among[len(among) // 2]
        if least <= best.distance:
            best, centre = tried[middle], places[middle]
        span *= 0.3
    return best


class _Spans(NamedTuple):
    """Between which moments new windows must have begun."""

    begin: Floats
    end: Floats


def _spans(ledger: Ledger, told: Told | None, considered: Bools | None) -> _Spans:
    """A refusal followed by an admission of the same weight has a new window in between; headers may say when."""
    evidence = ledger.evidence
    asked = evidence.refused & evidence.speaks_for(ledger.currency.axis)
    at = np.flatnonzero(asked if considered is None else asked & considered)
    begin, end = evidence.sent_s[at], np.full(len(at), math.inf)
    taken = np.append(evidence.taken, -1)
    following = np.searchsorted(evidence.taken, at)
    for ahead in range(20):
        later = taken[np.minimum(following + ahead, len(taken) - 1)]
        fits = np.isinf(end) & (later >= 0) & (ledger.asked[later] >= ledger.asked[at] * (1 - 1e-9))
        end[fits] = evidence.sent_s[later[fits]] + evidence.delay_s
    if told is not None:
        exact = evidence.sent_s[at] + told.told_s[at]
        begin = np.fmax(begin, exact - told.early_s[at])
        end = np.fmin(end, exact + SLACK_S + evidence.delay_s)
    if ledger.currency.axis in evidence.reset_s:
        reset_s = evidence.reset_s[ledger.currency.axis][at]
        whole = bool(np.all(reset_s % 1.0 == 0))  # rounded up, where fractions are cut off after milliseconds
        reset = evidence.sent_s[at] + reset_s
        begin = np.fmax(begin, reset - (1.0 if whole else SLACK_S))
        end = np.fmin(end, reset + (0.0 if whole else 0.001) + evidence.delay_s)
    return _Spans(begin, end)


def _phases(spans: _Spans, window_s: float) -> list[tuple[float, float]]:
    """Return the offsets of a fixed window on which most spans agree, with the width of each guess, likeliest first."""
    length = spans.end - spans.begin
    short = (length < window_s) & (length > 0)
    begin = spans.begin[short] % window_s
    end = begin + length[short]
    marks = np.concatenate([begin, begin - window_s, end, end - window_s])
    order = np.argsort(marks, kind="stable")
    depth = np.cumsum(np.repeat([1.0, -1.0], 2 * len(begin))[order])[:-1]
    marks = marks[order]
    inside = (marks[:-1] < window_s) & (marks[1:] > 0)
    likeliest = np.argsort(-depth * inside, kind="stable")[:6].tolist()
    return [(float(marks[place + 1] % window_s), float(marks[place + 1] - marks[place])) for place in likeliest]


def _cover(weighed: list[Candidate]) -> list[Candidate]:
    """Return the set of one, two or three candidates that leaves least unexplained, each worth its place."""
    evidence = weighed[0].ledger.evidence
    refusals = len(evidence.turned_away)
    price = _PER_QUOTA + _PER_QUOTA_SHARE * refusals
    contradicted = np.array([each.contradicted.sum() * _ADMISSION for each in weighed])
    silent = np.array([(evidence.refused & ~each.explained)[evidence.refused] for each in weighed], dtype=np.float32)
    alone = contradicted + silent.sum(axis=1) + price
    best, cost = [int(np.argmin(alone))], float(alone.min())
    pairs = contradicted[:, None] + contradicted[None, :] + silent @ silent.T + 2 * price
    first, second = np.unravel_index(int(np.argmin(pairs)), pairs.shape)
    if pairs[first, second] < cost:
        best, cost = [int(first), int(second)], float(pairs[first, second])
        both = silent[first] * silent[second]
        triples = contradicted[first] + contradicted[second] + contradicted + silent @ both + 3 * price
        if triples.min() < cost:
            best, cost = [*best, int(np.argmin(triples))], float(triples.min())
    return [weighed[place] for place in best] if cost < refusals else []


def _cost(candidate: Candidate) -> float:
    return candidate.cost
