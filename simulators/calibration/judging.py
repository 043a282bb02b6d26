"""How much does a quota tell of who was rejected? The one figure by which all shapes and sizes are compared.

A quota of some shape and size foretells of every attempt whether it passes. Laid beside what happened that is a table
of two by two, and the logarithm of its likelihood, less that of a coin with the recorded share of rejections, is the
*gain*, in nats: nothing for a quota that has nothing to do with the rejections, however many there are, and the most
for one that is never wrong. A quota that is nearly right loses little for the few attempts that overtook each other on
their way, so nothing has to be known of the network. Gains of different shapes can be compared as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from simulators.calibration.shapes import SLACK_S, Ledger, Shape, SlotsShape

if TYPE_CHECKING:
    from simulators.calibration.evidence import Bools, Evidence, Floats, Integers


class Told(NamedTuple):
    """Retry-After read as truth: a rejected attempt would have passed so much later, and not much earlier.

    Attributes:
        told_s: what each attempt heard; NaN where nothing.
        early_s: how much earlier than told the quota may have opened: rounding up.
        late_s: how much later: what the reading forgives.
    """

    told_s: Floats
    early_s: Floats
    late_s: Floats


class Sample(NamedTuple):
    """Attempts that are looked at.

    Attributes:
        taken: numbers of admitted ones, in order.
        turned_away: numbers of rejected ones, in order.
        taken_weight: how many each of the former stands for.
        turned_away_weight: how many each of the latter stands for.
    """

    taken: Integers
    turned_away: Integers
    taken_weight: float = 1.0
    turned_away_weight: float = 1.0

    @classmethod
    def of(cls, evidence: Evidence, most: int = 0) -> Sample:
        """Take all, or at most so many of each kind, spread evenly."""
        return cls.among(evidence.passed, evidence.turned_away, most)

    @classmethod
    def among(cls, taken: Integers, turned_away: Integers, most: int = 0) -> Sample:
        """Take all of these, or at most so many of each kind, spread evenly."""
        few, fewer = _spread(taken, most), _spread(turned_away, most)
        return cls(few, fewer, len(taken) / max(len(few), 1), len(turned_away) / max(len(fewer), 1))

    def only(self, open_: Bools) -> Sample:
        """Return those of it about which a question is open."""
        return self._replace(taken=self.taken[open_[self.taken]], turned_away=self.turned_away[open_[self.turned_away]])

    @property
    def surprise(self) -> float:
        """What all there is to tell would be worth, in nats."""
        taken, rejected = len(self.taken) * self.taken_weight, len(self.turned_away) * self.turned_away_weight
        return float(_xlogx(taken + rejected) - _xlogx(taken) - _xlogx(rejected))


@dataclass(frozen=True)
class Candidate:
    """A quota of some shape at its best size, judged by the evidence.

    Attributes:
        shape: the kind, with all parameters but the size.
        ledger: what it counts.
        sample: the attempts that were looked at.
        floor: the least size that foretells as much.
        ceiling: the size from which on it foretells less; ``inf`` when no rejection bounds it.
        gain: what it tells of who was rejected, in nats.
        cost: attempts of which it foretells the wrong thing.
        contradicted: which of the sample's admissions it would have rejected.
        explained: which of the sample's rejections it would have made.
    """

    shape: Shape
    ledger: Ledger = field(repr=False)
    sample: Sample = field(repr=False)
    floor: float
    ceiling: float
    gain: float
    cost: float
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

    def over(self, evidence: Evidence) -> Bools:
        """Return of which attempts it says that they were rejected."""
        column = np.zeros(len(evidence), dtype=bool)
        column[self.sample.taken[self.contradicted]] = True
        column[self.sample.turned_away[self.explained]] = True
        return column


def judge(
    shape: Shape, ledger: Ledger, sample: Sample, told: Told | None = None, slack_s: float = SLACK_S
) -> Candidate:
    """Return the quota of this shape at the size that tells most of the sample.

    Args:
        shape: with all its parameters but the size.
        ledger: what it counts.
        sample: attempts to be told apart.
        told: Retry-After, where it is to be believed.
        slack_s: how far recorded moments may be off.
    """
    ours = ledger.evidence.speaks_for(ledger.currency.axis)[sample.turned_away]
    passing = shape.critical(ledger, sample.taken, leeway_s=slack_s)
    rejected = shape.critical(ledger, sample.turned_away, leeway_s=-slack_s)
    fits, not_fits = passing, rejected[ours]
    fits_weight = np.full(len(fits), sample.taken_weight)
    not_weight = np.full(len(not_fits), sample.turned_away_weight)
    if told is not None:
        opened, shut = _as_told(shape, ledger, sample.turned_away[ours], told)
        fits, not_fits = np.concatenate([fits, opened]), np.concatenate([not_fits, shut])
        fits_weight = np.concatenate([fits_weight, np.full(len(opened), sample.turned_away_weight)])
        not_weight = np.concatenate([not_weight, np.full(len(shut), sample.turned_away_weight)])
    floor, ceiling, gain, cost = _best(fits, not_fits, fits_weight, not_weight)
    edge = floor + 1e-9 * max(abs(floor), 1.0)
    return Candidate(shape, ledger, sample, floor, ceiling, gain, cost, passing > edge, ours & (rejected > edge))


def applied(candidate: Candidate, sample: Sample, slack_s: float = SLACK_S) -> Candidate:
    """Return what the candidate, as large as it is, foretells of other attempts; its gain is not asked for."""
    shape, ledger = candidate.shape, candidate.ledger
    edge = candidate.floor + 1e-9 * max(abs(candidate.floor), 1.0)
    ours = ledger.evidence.speaks_for(ledger.currency.axis)[sample.turned_away]
    contradicted = shape.critical(ledger, sample.taken, leeway_s=slack_s) > edge
    explained = ours & (shape.critical(ledger, sample.turned_away, leeway_s=-slack_s) > edge)
    return replace(candidate, sample=sample, contradicted=contradicted, explained=explained)


def sizes_within(candidate: Candidate, told: Told | None, slack_s: float, allowed: float) -> tuple[float, float]:
    """Return the range of sizes around the best at which no more than ``allowed`` attempts are foretold wrongly."""
    shape, ledger, sample = candidate.shape, candidate.ledger, candidate.sample
    ours = sample.turned_away[ledger.evidence.speaks_for(ledger.currency.axis)[sample.turned_away]]
    fits = shape.critical(ledger, sample.taken, leeway_s=slack_s)
    not_fits = shape.critical(ledger, ours, leeway_s=-slack_s)
    if told is not None:
        opened, shut = _as_told(shape, ledger, ours, told)
        fits, not_fits = np.concatenate([fits, opened]), np.concatenate([not_fits, shut])
    sizes = np.unique(np.concatenate([fits[np.isfinite(fits)], not_fits[np.isfinite(not_fits)]]))
    wrong = (
        len(fits)
        - np.searchsorted(np.sort(fits), sizes * (1 + 1e-12), side="right")
        + np.searchsorted(np.sort(not_fits), sizes * (1 + 1e-12), side="right")
    )
    place = int(np.searchsorted(sizes, candidate.floor * (1 - 1e-12)))
    beyond = np.flatnonzero(wrong > allowed)
    below, above = beyond[beyond < place], beyond[beyond > place]
    low = float(sizes[below[-1] + 1]) if len(below) else float(sizes[0])
    high = float(sizes[above[0]]) if len(above) else math.inf
    return min(low, candidate.floor), max(high, candidate.ceiling)


def ran_full(candidate: Candidate) -> bool:
    """Return whether the bucket ran full between rejections, so that its size shows in later ones, too."""
    shape, ledger = candidate.shape, candidate.ledger
    needed = shape.critical(ledger, candidate.sample.taken) - ledger.asked[candidate.sample.taken]
    rejected = candidate.sample.turned_away[candidate.explained]
    full = candidate.sample.taken[needed <= 0.0]
    return bool(len(full) and len(rejected) and ((full > rejected[0]) & (full < rejected[-1])).any())


def _as_told(shape: Shape, ledger: Ledger, at: Integers, told: Told) -> tuple[Floats, Floats]:
    """Return what must fit once a rejection's Retry-After is over, and what must not fit shortly before."""
    told_s, early_s, late_s = (column[at] for column in told)
    heard = np.isfinite(told_s)
    if isinstance(shape, SlotsShape) or not heard.any():
        return np.zeros(0), np.zeros(0)
    at, told_s, early_s, late_s = at[heard], told_s[heard], early_s[heard], late_s[heard]
    before = told_s > early_s
    return (
        shape.critical(ledger, at, told_s + late_s),
        shape.critical(ledger, at[before], (told_s - early_s)[before]),
    )


def _best(fits: Floats, not_fits: Floats, weight: Floats, not_weight: Floats) -> tuple[float, float, float, float]:
    """Return the size that tells both heaps apart best, up to where it does, its gain, and how many it gets wrong."""
    values = np.concatenate([fits, not_fits])
    if not len(not_fits) or not np.isfinite(fits).any():
        floor = float(fits[np.isfinite(fits)].max(initial=1.0))
        return floor, math.inf, 0.0, float(not_weight.sum())
    order = np.argsort(values)
    values = values[order]
    is_fit = order < len(fits)
    weights = np.concatenate([weight, not_weight])[order]
    passed = np.cumsum(np.where(is_fit, weights, 0.0))
    missed = np.cumsum(np.where(is_fit, 0.0, weights))
    # A size may lie behind each value that is the last of its like, as far as rounding tells, if something fits there.
    last = np.append(values[1:] > values[:-1] + 1e-9 * np.maximum(np.abs(values[:-1]), 1.0), True)
    places = np.flatnonzero(last & np.isfinite(values) & (passed > 0))
    gains, wrong = gain(passed[-1] - passed[places], missed[places], passed[-1], missed[-1])
    best = int(np.argmax(gains))
    place = int(places[best])
    ceiling = float(values[place + 1]) if place + 1 < len(values) else math.inf
    return float(values[place]), ceiling, float(gains[best]), float(wrong[best])


def gain(contradicted: Floats, silent: Floats, taken: float, rejected: float) -> tuple[Floats, Floats]:
    """Return what tables of two by two are worth in nats, and how many attempts they get wrong.

    Args:
        contradicted: admissions that would have been rejected.
        silent: rejections that would have been admitted.
        taken: all admissions.
        rejected: all rejections.
    """
    passed, stopped = taken - contradicted + silent, rejected - silent + contradicted
    worth = (
        _xlogx(taken - contradicted) + _xlogx(silent) + _xlogx(contradicted) + _xlogx(rejected - silent)
        - _xlogx(passed) - _xlogx(stopped) - _xlogx(taken) - _xlogx(rejected) + _xlogx(taken + rejected)
    )  # fmt: skip
    right_way = (rejected - silent) * (taken - contradicted) > silent * contradicted
    return np.where(right_way, worth, 0.0), contradicted + silent


def _xlogx(number: Floats | float) -> Floats:
    number = np.maximum(np.asarray(number, dtype=np.float64), 0.0)
    product: Floats = number * np.log(np.where(number > 0, number, 1.0))
    return product


def _spread(numbers: Integers, most: int) -> Integers:
    if not most or len(numbers) <= most:
        return numbers
    return numbers[np.linspace(0, len(numbers) - 1, most).astype(np.int64)]
