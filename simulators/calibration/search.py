"""Find the fewest quotas that tell of every attempt whether it passed.

Candidates of every currency and shape are judged alone, by a sample of the attempts. Then the smallest set with the
largest gain is taken, and its members are fitted in turn, each to what the others leave open.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from factflow_llm.signals import Axis
from simulators.calibration.evidence import Currency, Evidence, currencies
from simulators.calibration.judging import Candidate, Sample, Told, gain, judge
from simulators.calibration.shapes import SLACK_S, BucketShape, FixedShape, Ledger, Shape, SlidingShape, SlotsShape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from simulators.calibration.evidence import Bools, Floats
    from simulators.calibration.watch import Watch

WINDOWS_S = (
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 15.0, 20.0, 25.0, 30.0, 40.0, 45.0, 60.0, 90.0, 120.0, 180.0,
    300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 14_400.0, 21_600.0, 43_200.0, 86_400.0,
)  # fmt: skip

_LOOKED_AT = 600  # attempts of each kind while shapes are sought,
_LOOKED_AT_AGAIN = 10_000  # and while they are compared
_PROMISING = 12  # so many candidates of each dimension are
_STEP = 0.02  # between rates that are tried first
_BUSY_S = 5.0  # no rate is tried that was not admitted over such a span
_LAGS = (4, 16, 64, 256, 1024, 4096, 16_384)  # openings between which a bucket's rate is measured
_SPANS = 2000  # at most so many pairs of a rejection and an admission tell where windows begin
_SPELLS = 0.03  # share of the rejections that it explains: so often such a bucket may be wrong
_PER_QUOTA = 16.0  # nats that a further quota must be worth,
_PER_QUOTA_SHARE = 0.02  # and share of what there is to tell


def find(evidence: Evidence, told: Told | None, watch: Watch) -> tuple[list[Candidate], list[Candidate]]:
    """Return the quotas that together tell most of the rejections, and all candidates that were weighed."""
    weighed = weigh(Sample.of(evidence), evidence, told, watch)
    chosen = _cover(weighed)
    whole = Sample.of(evidence)
    return polished([judge(each.shape, each.ledger, whole, told) for each in chosen], told), weighed


def weigh(whole: Sample, evidence: Evidence, told: Told | None, watch: Watch) -> list[Candidate]:
    """Return the likeliest candidates of all kinds, judged by these attempts."""
    sample = Sample.among(whole.taken, whole.turned_away, _LOOKED_AT_AGAIN)
    seen: list[Candidate] = []
    with watch.patience():
        seen.extend(_candidates(evidence, Sample.among(whole.taken, whole.turned_away, _LOOKED_AT), told, watch))
    closer = (_closer(each, sample, told) for each in _promising(seen))
    return [each for each in closer if not _only_spells(each)]


def _promising(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return the best of each family in each currency, and of these the best few of each dimension."""
    best: dict[tuple[str, tuple[type[Shape], float]], Candidate] = {}
    for each in candidates:
        key = (each.ledger.currency.name, each.family)
        if key not in best or each.gain > best[key].gain:
            best[key] = each
    listed = sorted(best.values(), key=_gain, reverse=True)
    places: Counter[Axis] = Counter()
    kept = []
    for each in listed:
        places[each.ledger.currency.axis] += 1
        if places[each.ledger.currency.axis] <= _PROMISING:
            kept.append(each)
    return kept


def _only_spells(candidate: Candidate) -> bool:
    """Return whether a bucket that rejections empty may be none: rejections that come in spells look like one."""
    if not getattr(candidate.shape, "rejections_count", False):
        return False
    right = candidate.explained.sum() * candidate.sample.turned_away_weight
    return bool(candidate.cost > _SPELLS * right)


def _closer(candidate: Candidate, sample: Sample, told: Told | None) -> Candidate:
    """Judge by more attempts; a bucket's rate is then known more closely."""
    shape, ledger = candidate.shape, candidate.ledger
    if isinstance(shape, BucketShape):
        return _zoom(lambda rate: judge(replace(shape, rate=rate), ledger, sample, told), shape.rate, 1e-3, 1e-6)
    return judge(shape, ledger, sample, told)


def joint_gain(candidates: Iterable[Candidate], evidence: Evidence) -> float:
    """Return what a set of quotas tells together: an attempt passes if all of them let it."""
    rejected = np.zeros(len(evidence), dtype=bool)
    for each in candidates:
        rejected |= each.over(evidence)
    taken, away = float(len(evidence.passed)), float(len(evidence.turned_away))
    contradicted = float(rejected[evidence.passed].sum())
    silent = away - float(rejected[evidence.turned_away].sum())
    return float(gain(np.array([contradicted]), np.array([silent]), taken, away)[0][0])


def left_by(others: Iterable[Candidate], evidence: Evidence) -> Bools:
    """Return the attempts that the others would have let pass."""
    left = np.ones(len(evidence), dtype=bool)
    for other in others:
        left &= ~other.over(evidence)
    return left


def polished(chosen: list[Candidate], told: Told | None, slack_s: float = SLACK_S) -> list[Candidate]:
    """Fit each quota to what the others leave open, in turn, until nothing changes."""
    current = list(chosen)
    for _ in range(3 if len(current) > 1 else 1):
        before = [(each.shape, each.floor) for each in current]
        for place, each in enumerate(current):
            evidence = each.ledger.evidence
            left = left_by((other for other in current if other is not each), evidence)
            sample = Sample.of(evidence).only(left)
            current[place] = refined(judge(each.shape, each.ledger, sample, told, slack_s), told, slack_s)
        if before == [(each.shape, each.floor) for each in current]:
            break
    return current


def refined(candidate: Candidate, told: Told | None, slack_s: float = SLACK_S) -> Candidate:
    """Fit the continuous parameters of a candidate's shape to its sample."""
    shape, ledger, sample = candidate.shape, candidate.ledger, candidate.sample
    if isinstance(shape, BucketShape):
        return _zoom(
            lambda rate: judge(replace(shape, rate=rate), ledger, sample, told, slack_s), shape.rate, _STEP, 1e-7
        )
    if isinstance(shape, FixedShape):
        tried = _fixed(ledger, sample, shape.window_s, _spans(ledger, told, sample), told)
        best = max([candidate, *tried], key=_gain)
        assert isinstance(best.shape, FixedShape)
        middle_s = sum(phase_interval(best, told, slack_s)) / 2 % shape.window_s  # errs least
        return max(judge(FixedShape(shape.window_s, middle_s), ledger, sample, told, slack_s), best, key=_gain)
    if isinstance(shape, SlotsShape):
        took_s = (ledger.evidence.end_s - ledger.evidence.sent_s)[sample.turned_away]
        way_s = float(np.nanmedian(took_s)) if np.isfinite(took_s).any() else 0.0
        tried = [
            judge(replace(shape, back_s=share * way_s), ledger, sample, told, slack_s)
            for share in (0, 0.25, 0.5, 0.75, 1)
        ]
        return max(tried, key=_gain)
    return judge(shape, ledger, sample, told, slack_s)


def feasible(make: Callable[[float], Candidate], allowed: float, widest: float = 1.0) -> tuple[float, float]:
    """Return between which displacements the cost stays within ``allowed``, found by bisection on both sides of 0."""
    ends = []
    for sign in (-1.0, 1.0):
        inside, outside = 0.0, None
        step = 1e-6
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


def phase_interval(candidate: Candidate, told: Told | None, slack_s: float = SLACK_S) -> tuple[float, float]:
    """Return between which offsets a fixed window may start anew: no other is wrong as rarely."""
    shape = candidate.shape
    assert isinstance(shape, FixedShape)
    window_s, phase_s = shape.window_s, shape.phase_s

    def moved(share: float) -> Candidate:
        moved_shape = FixedShape(window_s, phase_s + share * window_s)
        return judge(moved_shape, candidate.ledger, candidate.sample, told, slack_s)

    low, high = feasible(moved, candidate.cost, widest=0.5)
    return phase_s + low * window_s, phase_s + high * window_s


def _candidates(evidence: Evidence, sample: Sample, told: Told | None, watch: Watch) -> Iterator[Candidate]:
    heard = evidence.told_s[np.isfinite(evidence.told_s)]
    slots = Ledger(evidence, Currency(Axis.CONCURRENCY, np.ones(len(evidence))))
    if evidence.speaks_for(Axis.CONCURRENCY)[sample.turned_away].any():
        yield judge(SlotsShape(float(np.median(heard)) if len(heard) else 1.0), slots, sample)
    for currency in currencies(evidence):
        if not evidence.speaks_for(currency.axis)[sample.turned_away].any():
            continue
        ledger = Ledger(evidence, currency)
        spans = _spans(ledger, told, sample)
        yield from _buckets(ledger, sample, told)
        if currency.axis is Axis.REQUESTS:
            yield from _emptied_buckets(ledger, sample, told)
        for window_s in WINDOWS_S:
            if window_s > evidence.duration_s / 2:
                break
            yield judge(SlidingShape(window_s), ledger, sample, told)
            fixed = _fixed(ledger, sample, window_s, spans, told)
            if fixed:
                yield max(fixed, key=_gain)
        watch.one_more()


def _fixed(ledger: Ledger, sample: Sample, window_s: float, spans: _Spans, told: Told | None) -> list[Candidate]:
    """Return fixed windows at likely offsets: within the likeliest guesses and at their ends."""
    offsets = [
        (end_s - share * width_s) % window_s
        for end_s, width_s in _phases(spans, window_s)[:3]
        for share in (0.5, 0.1, 0.9)  # the middle errs least
    ]
    return [judge(FixedShape(window_s, offset), ledger, sample, told) for offset in offsets]


def _emptied_buckets(ledger: Ledger, sample: Sample, told: Told | None) -> list[Candidate]:
    """Return the bucket that rejections empty: from then on, what is admitted and rejected tells the rate by itself.

    A rejection at a lower rate than was admitted found the bucket full before, and tells what it holds instead.
    """
    ours = sample.turned_away[ledger.evidence.speaks_for(ledger.currency.axis)[sample.turned_away]]
    _, passed = ledger.demanded(sample.taken)
    _, rejected = ledger.demanded(ours)
    passed, rejected = np.sort(passed), np.sort(rejected)
    tried = []
    for odd in range(min(4, len(passed))):  # so many may have been admitted for other reasons
        low = float(passed[-1 - odd])
        above = rejected[rejected > low]
        if len(above) and low > 0.0:
            tried.append(judge(BucketShape((low + float(above[0])) / 2, rejections_count=True), ledger, sample, told))
    return [max(tried, key=_gain)] if tried else []


def _buckets(ledger: Ledger, sample: Sample, told: Told | None) -> list[Candidate]:
    """Return the best few buckets: rates in small steps, rates measured between openings, then closer around both."""

    def at(rate: float) -> Candidate:
        return judge(BucketShape(rate), ledger, sample, told)

    counts = np.bincount((np.maximum(ledger.booked_s, 0.0) / _BUSY_S).astype(np.int64), np.maximum(ledger.units, 0.0))
    fastest = max(counts.max(initial=0.0) / _BUSY_S, ledger.rate) * 1.2
    rates = np.exp(np.arange(math.log(ledger.rate * 0.9), math.log(fastest) + _STEP, _STEP)).tolist()
    gains = [at(rate).gain for rate in rates]
    hills = [
        place for place, worth in enumerate(gains)
        if worth >= max(gains[max(place - 1, 0)], gains[min(place + 1, len(rates) - 1)])
    ]  # fmt: skip
    near = sorted(hills, key=gains.__getitem__)[-2:]
    starts = [(rates[place], _STEP) for place in near]
    measured = sorted(_measured(ledger, sample), key=lambda each: at(each[0]).gain)[-2:]
    return [_zoom(at, rate, step, 1e-6) for rate, step in (*starts, *measured)]


def _measured(ledger: Ledger, sample: Sample) -> Iterator[tuple[float, float]]:
    """Yield rates at which quota came back between two openings, with how exact each may be.

    Between a rejection and the admission that follows, quota for one call came back. As long as a bucket does not run
    full in between, what was admitted from one such opening to another came in at its rate.
    """
    evidence = ledger.evidence
    at = evidence.turned_away[evidence.speaks_for(ledger.currency.axis)[evidence.turned_away]]
    last = np.append(np.diff(ledger.before[at]) > 0, True)
    at = at[last]
    when_s, units = evidence.sent_s[at], ledger.total[ledger.before[at]]
    for lag in _LAGS:
        if lag >= len(at):
            break
        apart_s, came = when_s[lag:] - when_s[:-lag], units[lag:] - units[:-lag]
        known = (apart_s > 0) & (came > 0)
        if not known.any():
            continue
        rates = came[known] / apart_s[known]
        step = min(0.5 / lag, _STEP)
        for share in (0.5, 0.75, 0.95):
            yield float(np.quantile(rates, share)), step


def _zoom(make: Callable[[float], Candidate], start: float, span: float, finest: float) -> Candidate:
    """Return the candidate of the largest gain near ``start``, from the middle of where it is largest."""
    best, centre = make(start), start
    while span > finest:
        places = (centre * (1 + np.linspace(-span, span, 9))).tolist()
        tried = [make(place) for place in places]
        most = max(each.gain for each in tried)
        among = [place for place, each in enumerate(tried) if each.gain >= most - 1e-9]
        middle = among[len(among) // 2]
        if most >= best.gain:
            best, centre = tried[middle], places[middle]
        span *= 0.4
    return best


class _Spans(NamedTuple):
    """Between which moments new windows must have begun."""

    begin: Floats
    end: Floats


def _spans(ledger: Ledger, told: Told | None, sample: Sample) -> _Spans:
    """A rejection followed by an admission of the same weight has a new window in between; headers may say when."""
    evidence = ledger.evidence
    at = sample.turned_away[evidence.speaks_for(ledger.currency.axis)[sample.turned_away]]
    begin, end = evidence.sent_s[at], np.full(len(at), math.inf)
    taken = np.append(evidence.taken, -1)
    following = np.searchsorted(evidence.taken, at)
    for ahead in range(20):
        later = taken[np.minimum(following + ahead, len(taken) - 1)]
        fits = np.isinf(end) & (later >= 0) & (ledger.asked[later] >= ledger.asked[at] * (1 - 1e-9))
        end[fits] = evidence.sent_s[later[fits]]
    if told is not None:
        exact = evidence.sent_s[at] + told.told_s[at]
        begin = np.fmax(begin, exact - told.early_s[at])
        end = np.fmin(end, exact + told.late_s[at] + SLACK_S)
    if ledger.currency.axis in evidence.reset_s:
        reset_s = evidence.reset_s[ledger.currency.axis][at]
        whole = bool(np.all(reset_s % 1.0 == 0))  # rounded up, where fractions are cut off after milliseconds
        reset = evidence.sent_s[at] + reset_s
        begin = np.fmax(begin, reset - (1.0 if whole else SLACK_S))
        end = np.fmin(end, reset + (0.0 if whole else 0.001))
    return _Spans(begin, end)


def _phases(spans: _Spans, window_s: float) -> list[tuple[float, float]]:
    """Return the offsets of a fixed window on which most spans agree, with the width of each guess, likeliest first."""
    length = spans.end - spans.begin
    short = np.flatnonzero((length < window_s) & (length > 0))
    short = short[np.linspace(0, len(short) - 1, min(len(short), _SPANS)).astype(np.int64)] if len(short) else short
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
    """Return the set of one, two or three candidates that tells most, each worth its place."""
    if not weighed:
        return []
    sample = weighed[0].sample
    price = _PER_QUOTA + _PER_QUOTA_SHARE * sample.surprise
    stops = np.array([each.contradicted for each in weighed], dtype=np.float32)
    misses = np.array([~each.explained for each in weighed], dtype=np.float32)
    taken, rejected = len(sample.taken) * sample.taken_weight, len(sample.turned_away) * sample.turned_away_weight

    def worth(together: Floats, missed: Floats) -> Floats:
        return gain(together * sample.taken_weight, missed * sample.turned_away_weight, taken, rejected)[0]

    alone = worth(stops.sum(axis=1), misses.sum(axis=1)) - price
    best, most = [int(np.argmax(alone))], float(alone.max())
    passes = 1.0 - stops
    both_pass = passes @ passes.T
    pairs = (
        worth(np.asarray(len(sample.taken) - both_pass, dtype=float), np.asarray(misses @ misses.T, dtype=float))
        - 2 * price
    )
    first, second = np.unravel_index(int(np.argmax(pairs)), pairs.shape)
    if pairs[first, second] > most:
        best, most = [int(first), int(second)], float(pairs[first, second])
        both, missed = passes[first] * passes[second], misses[first] * misses[second]
        triples = worth(len(sample.taken) - passes @ both, misses @ missed) - 3 * price
        if triples.max() > most:
            best, most = [*best, int(np.argmax(triples))], float(triples.max())
    return [weighed[place] for place in best] if most > 0 else []


def _gain(candidate: Candidate) -> float:
    return candidate.gain
