"""From a candidate to a quota with figures: limit, window, burst and offset, each with the interval that fits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from factflow_llm.signals import Axis
from simulators.calibration.findings import Finding, Known, roundest
from simulators.calibration.judging import Candidate, judge, ran_full, sizes_within
from simulators.calibration.search import feasible, phase_interval
from simulators.calibration.shapes import SLACK_S, BucketShape, FixedShape, SlidingShape, SlotsShape

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulators.calibration.explanation import Explanation
    from simulators.providers.quotas import Quota

_SPANS_S = (60.0, 1.0, 3600.0, 86_400.0)
_BURSTS_S = (60.0, 1.0, 10.0, 5.0, 20.0, 30.0)
_DECIDED = 10.0  # nats by which the next best explanation is worse, for a shape to be pinned down,
_LIKELIER = 3.0  # and to be told at all
_RIVALS = 6
_SHAKEN_S = 0.02  # moments that are off by more than this make sizes uncertain, too


@dataclass(frozen=True)
class Sized:
    """A quota inferred, and what is known of it.

    Attributes:
        quota: to be simulated.
        findings: what is known of it.
        margin: by how many nats it tells more than the next best.
    """

    quota: Quota
    findings: tuple[Finding, ...]
    margin: float


def sized(candidate: Candidate, explained: Explanation, quoted: dict[Axis, float]) -> Sized:
    """Return the quota that a candidate stands for.

    Args:
        candidate: fitted, with the attempts that the other quotas do not explain for its sample.
        explained: what it is part of.
        quoted: limits that headers named.
    """
    name = candidate.ledger.currency.name
    shape = candidate.shape
    told, slack_s = explained.told, explained.slack_s
    candidate = judge(shape, candidate.ledger, candidate.sample, told, slack_s)
    margin, window = _window(candidate, explained)
    low, high = sizes_within(candidate, told, slack_s, _allowed(candidate))
    shaken = slack_s * candidate.floor / candidate.span_s if slack_s > _SHAKEN_S else 0.0
    low, high = low - shaken, high + shaken
    if isinstance(shape, SlotsShape):
        slots = float(math.ceil(candidate.floor - 1e-6))
        most = high if math.isinf(high) else max(math.ceil(high - 1e-6) - 1.0, slots)
        limit = Finding("concurrency: limit", slots, min(math.ceil(low - 1e-6), slots), most, _known(candidate))
        return Sized(shape.quota(slots, {}, 1.0), (replace(window, name="concurrency: window"), limit), margin)
    if isinstance(shape, BucketShape):
        window = replace(window, note=f"{window.note}; rejections count") if shape.rejections_count else window
        quota, figures = _bucket(candidate, shape, explained, quoted)
        return Sized(quota, (window, *figures), margin)
    assert isinstance(shape, FixedShape | SlidingShape)
    low = low * (1 - 1e-9)
    ceiling = candidate.ceiling if math.isfinite(candidate.ceiling) else candidate.floor * (1 + 1e-6)
    per_s, capacity = shape.window_s, roundest(candidate.floor * (1 - 1e-9), ceiling)
    for span_s in _SPANS_S:
        named = quoted.get(candidate.ledger.currency.axis, 0.0) * shape.window_s / span_s
        if low <= named < high and span_s >= shape.window_s:
            per_s, capacity = span_s, named
            break
    quota = shape.quota(capacity, candidate.ledger.currency.fields, per_s)
    scale = per_s / shape.window_s
    figures = [
        Finding(f"{name}: limit per {per_s:g} s", capacity * scale, low * scale, high * scale, _known(candidate))
    ]
    if isinstance(shape, FixedShape):
        begin_s, end_s = phase_interval(candidate, told, slack_s)
        known = Known.PINNED if end_s - begin_s < 0.03 * shape.window_s else Known.ROUGH
        figures.append(Finding(f"{name}: window starts at, s", shape.phase_s, begin_s, end_s, known))
    return Sized(quota, (window, *figures), margin)


def _allowed(candidate: Candidate) -> float:
    """Return how many attempts may be foretold wrongly for a figure to fit: as many as at best, and some by chance."""
    return candidate.cost + math.sqrt(candidate.cost)


def _bucket(
    candidate: Candidate, shape: BucketShape, explained: Explanation, quoted: dict[Axis, float]
) -> tuple[Quota, list[Finding]]:
    ledger = candidate.ledger

    def at(rate: float) -> Candidate:
        return judge(replace(shape, rate=rate), ledger, candidate.sample, explained.told, explained.slack_s)

    allowed = _allowed(candidate)
    low, high = (shape.rate * (1 + share) for share in feasible(lambda share: at(shape.rate * (1 + share)), allowed))
    rate, burst_s = _roundest(at, low, high, allowed, quoted.get(ledger.currency.axis))
    per_s = next((span_s for span_s in _SPANS_S if quoted.get(ledger.currency.axis) == rate * span_s), 60.0)
    best = at(rate)
    least, most = sizes_within(best, explained.told, explained.slack_s, max(allowed, best.cost))
    shaken_s = explained.slack_s if explained.slack_s > _SHAKEN_S else 0.0
    least_s, most_s = min(least / rate, burst_s) - shaken_s, max(most / rate, burst_s) + shaken_s
    known, about = Known.by_width(least_s, most_s), ""
    name = ledger.currency.name
    if not candidate.explained.any():
        known = Known.FLOOR
    elif not ran_full(best):
        known = Known.worse(known, Known.ROUGH)
        about = "if the bucket was full when the recording began"
    quota = replace(shape, rate=rate).quota(burst_s * rate, ledger.currency.fields, per_s)
    return quota, [
        Finding(
            f"{name}: limit per {per_s:g} s", rate * per_s, min(low, rate) * per_s, max(high, rate) * per_s,
            Known.by_width(low, high),
        ),
        Finding(f"{name}: burst, s of refill", burst_s, least_s, most_s, known, about),
    ]  # fmt: skip


def _roundest(
    at: Callable[[float], Candidate], low: float, high: float, allowed: float, quoted: float | None
) -> tuple[float, float]:
    """Return the rate and burst that people are likeliest to have chosen, of those that fit.

    The limit that headers name comes first; then a burst of a whole minute, second or the like with the roundest limit
    that goes with it; then the roundest limit and burst.
    """

    def burst(found: Candidate, rate: float) -> tuple[float, float]:
        return found.floor / rate * (1 - 1e-9), found.ceiling / rate

    for span_s in _SPANS_S if quoted is not None else ():
        assert quoted is not None
        rate = quoted / span_s
        if low * (1 - 1e-6) <= rate <= high * (1 + 1e-6) and at(rate).cost <= allowed:
            least_s, most_s = burst(at(rate), rate)
            return rate, next(
                (each for each in _BURSTS_S if least_s <= each < most_s < math.inf), roundest(least_s, most_s)
            )
    limit = roundest(low * 60, high * 60) if high > low else low * 60
    rates = sorted([limit / 60, *(low + (high - low) * step / 20 for step in range(21))])
    judged = [(rate, found) for rate in rates if (found := at(rate)).cost <= allowed]
    for each in _BURSTS_S:
        fitting = [rate for rate, found in judged if burst(found, rate)[0] <= each < burst(found, rate)[1] < math.inf]
        if limit / 60 in fitting:
            return limit / 60, each
        if fitting:
            around = roundest(fitting[0] * 60, fitting[-1] * 60) if len(fitting) > 1 else fitting[0] * 60
            return around / 60, each
    rate = limit / 60 if at(limit / 60).cost <= allowed else (low + high) / 2
    return rate, roundest(*burst(at(rate), rate))


def _window(candidate: Candidate, explained: Explanation) -> tuple[float, Finding]:
    """Name the window's shape, and say how much less the next best tells of the same attempts."""

    def kind(each: Candidate) -> tuple[str, object]:
        return each.ledger.currency.name, each.family

    others = sorted((each for each in explained.weighed if kind(each) != kind(candidate)), key=lambda each: -each.gain)
    again = []
    for each in others[:_RIVALS]:
        slack_s = explained.slack_s if each.span_s >= candidate.span_s else SLACK_S
        again.append(judge(each.shape, each.ledger, candidate.sample, explained.told, slack_s))
    rivals = sorted(again, key=lambda each: -each.gain)
    name = f"{candidate.ledger.currency.name}: window"
    rejections = int(candidate.explained.sum())
    if not rivals:
        return math.inf, Finding(name, words(candidate), note=f"from {rejections} rejections")
    margin = candidate.gain - rivals[0].gain
    known = Known.PINNED if margin >= _DECIDED else Known.ROUGH if margin >= _LIKELIER else Known.UNKNOWN
    rival = words(rivals[0])
    if rivals[0].ledger.currency.name != candidate.ledger.currency.name:
        rival = f"{rivals[0].ledger.currency.name}, {rival}"
    note = f"from {rejections} rejections; wrong {candidate.cost:.0f} times, {rival} {rivals[0].cost:.0f} times"
    return margin, Finding(name, words(candidate), known=known, note=note)


def words(candidate: Candidate) -> str:
    """Return a candidate's shape in words."""
    shape = candidate.shape
    if isinstance(shape, FixedShape):
        return f"fixed, {shape.window_s:g} s"
    if isinstance(shape, SlidingShape):
        return f"sliding, {shape.window_s:g} s"
    return "bucket" if isinstance(shape, BucketShape) else "slots"


def _known(candidate: Candidate) -> Known:
    whole = candidate.ledger.currency.axis in (Axis.REQUESTS, Axis.CONCURRENCY)
    if whole and candidate.ceiling - candidate.floor <= 1.5:
        return Known.PINNED  # whole numbers: there is but one
    return Known.by_width(candidate.floor, candidate.ceiling) if np.isfinite(candidate.ceiling) else Known.FLOOR
