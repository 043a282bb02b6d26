"""What the leader of a fleet has learned, as it tells the others, and how each lives by that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from factflow_llm.ratelimit.aimd import Stage
from factflow_llm.ratelimit.costs import on_axis
from factflow_llm.ratelimit.line import NEVER
from factflow_llm.ratelimit.said import Law

if TYPE_CHECKING:
    from collections.abc import Mapping

    from factflow_llm.ratelimit.limits import Limits
    from factflow_llm.ratelimit.said import Units
    from factflow_llm.signals import Axis

_FALL: Final = 0.5
"""What is left of a rate that was searched for, until its rejection is judged: what it was a moment ago."""
_SEARCHED: Final = 2.0
"""A rate so many times what is sent holds nobody back: it is not searched any more."""


def law_of(limits: Limits, per_s: Units, *, fallen: bool) -> Law:
    """Return what was learned.

    Args:
        limits: the leader's.
        per_s: units that all are admitted per second, lately.
        fallen: whether rates and slots have fallen back, for a rejection is to be judged.
    """
    rates, known, fall_back, calls_per_s, searching = {}, {}, {}, NEVER, False
    for paced in limits.active:
        rule, axis = paced.rule, paced.axis
        calls_per_s = min(calls_per_s, paced.rate / limits.costs.unit(axis))
        if rule.rate == NEVER:
            continue
        rates[axis.value] = rule.rate
        if rule.stage is Stage.SEARCH:
            known[axis.value] = rule.rate
            fall_back[axis.value] = _FALL * rule.rate
            searching |= rule.rate < _SEARCHED * on_axis(axis, *per_s)
        else:
            known[axis.value] = rule.measured.rate
            fall_back[axis.value] = min(limits.config.decrease * rule.measured.rate, rule.rate)
    slots = limits.slots
    before = slots.limit if slots.stage is Stage.OPEN else slots.before
    return Law(
        rates=rates,
        known=known,
        fall_back=fall_back,
        calls_per_s=None if calls_per_s == NEVER else calls_per_s,
        slots=before if fallen else slots.limit,
        slots_before=before,
        slots_open=slots.stage is Stage.OPEN,
        searching=searching,
    )


def follow(now: float, limits: Limits, law: Law) -> None:
    """Take the law as it is: who follows learns only where the leader has not learned yet."""
    for paced in limits.axes:
        rate = law.rates.get(paced.axis.value)
        if rate is not None and (paced.rule.rate != rate or paced.rule.next_step_s != NEVER):
            paced.rule = limits.rule(now, paced.axis, rate)
            paced.rule.next_step_s = NEVER
    limits.slots.follow(law.slots)
    limits.pace()


def lead(now: float, limits: Limits, law: Law) -> None:
    """Take up learning where the leader before left it, or what is known from before."""
    for paced in limits.axes:
        paced.rule = limits.rule(now, paced.axis, law.known.get(paced.axis.value, NEVER))
    limits.slots.follow(law.slots)
    limits.slots.lead(now, opens=law.slots_open)
    limits.pace()
    limits.next_step_s = now


def retreat(limits: Limits, law: Law) -> dict[Axis, float]:
    """Stand, as the leader, at what the rates have fallen back to; return where they were before."""
    before = {paced.axis: paced.rule.rate for paced in limits.axes}
    for paced in limits.axes:
        rate = law.rates.get(paced.axis.value)
        if rate is not None:
            paced.rule.rate, paced.rule.next_step_s = rate, NEVER
    return before


def resume(now: float, limits: Limits, before: Mapping[Axis, float]) -> None:
    """Take up the rates where they were before they fell back."""
    for paced in limits.axes:
        paced.rule.rate, paced.rule.next_step_s = before[paced.axis], now
    limits.next_step_s = now
