"""From a candidate to a quota with figures: limit, window, burst and offset, each with the interval that fits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from factflow_llm.signals import Axis
from simulators.calibration.findings import Finding, Known, roundest
from simulators.calibration.search import Candidate, Told, feasible, judge, phase_interval
from simulators.calibration.shapes import BucketShape, FixedShape, Ledger, SlidingShape, SlotsShape

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from simulators.calibration.evidence import Bools
    from simulators.providers.quotas import Quota

_SPANS_S = (60.0, 1.0, 3600.0, 86_400.0)
_BURSTS_S = (60.0, 1.0, 10.0, 5.0, 20.0, 30.0)
_DECIDED = 5.0


@dataclass(frozen=True)
class Sized:
    """A quota inferred, and what is known of it."""

    quota: Quota
    findings: tuple[Finding, ...]


def sized(
    candidate: Candidate, told: Told | None, left: Bools, weighed: Sequence[Candidate], quoted: dict[Axis, float]
) -> Sized:
    """Return the quota that a candidate stands for.

    Args:
        candidate: fitted.
        told: how Retry-After was read.
        left: attempts that the other quotas do not explain.
        weighed: all candidates, for the shape that fits next best.
        quoted: limits that headers named.
    """
    name = candidate.ledger.currency.name
    shape = candidate.shape
    window = _window(candidate, weighed, told, left)
    if isinstance(shape, SlotsShape):
        slots = math.ceil(candidate.floor - 1e-6)
        limit = Finding("concurrency: limit", float(slots), slots, _high(candidate), _known(candidate))
        return Sized(shape.quota(slots, {}, 1.0), (replace(window, name="concurrency: window"), limit))
    if isinstance(shape, BucketShape):
        window = replace(window, note=f"{window.note}; rejections count") if shape.rejections_count else window
        quota, figures = _bucket(candidate, shape, told, left, quoted)
    else:
        assert isinstance(shape, FixedShape | SlidingShape)
        low, high = candidate.floor * (1 - 1e-9), candidate.ceiling
        per_s, capacity = shape.window_s, roundest(low, high if math.isfinite(high) else low * (1 + 1e-6))
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
            begin_s, end_s = phase_interval(candidate, told, left)
            known = Known.PINNED if end_s - begin_s < 0.03 * shape.window_s else Known.ROUGH
            figures.append(Finding(f"{name}: window starts at, s", shape.phase_s, begin_s, end_s, known))
    return Sized(quota, (window, *figures))


def _bucket(
    candidate: Candidate, shape: BucketShape, told: Told | None, left: Bools, quoted: dict[Axis, float]
) -> tuple[Quota, list[Finding]]:
    ledger = candidate.ledger

    def at(rate: float) -> Candidate:
        return judge(replace(shape, rate=rate), ledger, told, left)

    allowed = candidate.cost + math.sqrt(candidate.cost)
    low, high = (shape.rate * (1 + share) for share in feasible(lambda share: at(shape.rate * (1 + share)), allowed))
    rate, burst_s = _roundest(at, low, high, allowed, quoted.get(ledger.currency.axis))
    per_s = next((span_s for span_s in _SPANS_S if quoted.get(ledger.currency.axis) == rate * span_s), 60.0)
    best = at(rate)
    least_s, most_s = best.floor / rate, best.ceiling / rate
    known = Known.by_width(least_s, most_s)
    name = ledger.currency.name
    if not candidate.explained.any():
        known = Known.FLOOR
    quota = replace(shape, rate=rate).quota(burst_s * rate, ledger.currency.fields, per_s)
    return quota, [
        Finding(f"{name}: limit per {per_s:g} s", rate * per_s, low * per_s, high * per_s, Known.by_width(low, high)),
        Finding(f"{name}: burst, s of refill", burst_s, least_s, most_s, known),
    ]


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
    rates = sorted([limit / 60, *(low + (high - low) * step / 40 for step in range(41))])
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


def _window(candidate: Candidate, weighed: Sequence[Candidate], told: Told | None, left: Bools) -> Finding:
    """Name the window's shape, and say how much worse the next best explains the same attempts."""
    mine = candidate.ledger.currency
    others = [each for each in weighed if each.ledger.currency.axis is mine.axis and each.family != candidate.family]
    near = sorted(others, key=lambda each: each.cost)[:6]
    evidence = candidate.ledger.evidence
    again = [judge(each.shape, Ledger(evidence, each.ledger.currency), told, left) for each in near]
    rivals = sorted(again, key=lambda each: each.cost)
    name = f"{mine.name}: window"
    refusals = int(candidate.explained.sum())
    if not rivals or math.isinf(rivals[0].cost):
        return Finding(name, words(candidate), note=f"from {refusals} refusals")
    margin = rivals[0].cost - candidate.cost
    known = Known.PINNED if margin >= _DECIDED else Known.ROUGH if margin > 0 else Known.UNKNOWN
    note = (
        f"from {refusals} refusals; contradicted {candidate.cost:g} times, {words(rivals[0])} {rivals[0].cost:g} times"
    )
    return Finding(name, words(candidate), known=known, note=note)


def words(candidate: Candidate) -> str:
    """Return a candidate's shape in words."""
    shape = candidate.shape
    if isinstance(shape, FixedShape):
        return f"fixed, {shape.window_s:g} s"
    if isinstance(shape, SlidingShape):
        return f"sliding, {shape.window_s:g} s"
    return "bucket" if isinstance(shape, BucketShape) else "slots"


def _high(candidate: Candidate) -> float:
    return candidate.ceiling if math.isinf(candidate.ceiling) else math.ceil(candidate.ceiling - 1e-6) - 1.0


def _known(candidate: Candidate) -> Known:
    if (
        candidate.ledger.currency.axis in (Axis.REQUESTS, Axis.CONCURRENCY)
        and candidate.ceiling - candidate.floor <= 1.5
    ):
        return Known.PINNED  # whole numbers: there is but one
    return Known.by_width(candidate.floor, candidate.ceiling)
