"""One quota, many processes: what they tell each other about once a second, and who gets how much.

Each process is a *member*. It sends a ``Report`` (what it wants, what it was admitted, what was rejected) and gets a
``Grant``: its share of the rate and its slots, leased for ``LEASE_S``. ``refresh`` is the whole protocol. A store does
no more than to keep one ``State`` and to call ``refresh`` for one member at a time: ``store_sqlite.py`` calls this
function, ``refresh.lua`` says the same in Redis, and the laboratory calls it with messages that are late or lost.

1. **Leases.** A share is given only out of what nobody holds, and a newcomer gets at most half of that, for others may
   be coming: the shares of all live leases never add up to more than the whole. Who is not heard of for ``LEASE_S`` is
   dropped, and what it held is free again.
2. **Shares follow wants.** Higher priorities first; within one, the scarce is levelled by weight and nobody gets more
   than it wants. What nobody wants is spread, so that a new wish need not wait.
3. **One learns, all follow.** The *leader* runs the rule of ``aimd.py`` on the sum of what all were admitted, and
   publishes its ``Law``: rates of the whole quota, and slots. It alone probes for more.
4. **One cut per fleet.** The first rejection ends the epoch: at once the law falls back to what it names for that.
   No other rejection counts until the leader has judged this one.
5. **Sums are of one moment.** What members say of different moments does not add up: a second apart, twenty calls in
   flight may be any number from 15 to 25. So the state asks about one moment, that of the rejected call or a recent
   one, and everybody says what it was then. The leader judges once all have answered.
6. **Back to a store that forgot,** members bring the law they know and, for one lease, keep what they had.

Times in the state count from its birth, on the store's clock; what members say of time is a distance from now.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from factflow_llm.ratelimit.said import SAMPLES, Asked, Exhausted, Grant, OpenAgain, Seen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from factflow_llm.ratelimit.said import Answer, Law, Rejected, Report, Shown, Units

LEASE_S: Final = 5.0
"""How long a share is held without a word: five refreshes, of which four may be lost."""
LONG_AGO_S: Final = -1e9
ROTATE_S: Final = 60.0
"""How long the slots that do not divide evenly stay with the same members."""
ANSWERED_S: Final = 2.5
"""Whoever has not answered by then is taken to have gone on as before."""


@dataclass(slots=True)
class Member:
    """What the state holds of a member: the lease, and its last words."""

    heard_s: float
    share: float
    slots: int
    limited_s: float
    weight: float
    wants: Mapping[int, float]
    wants_slots: int
    in_flight: int
    admitted: Units
    per_s: Units
    answer: Answer | None


@dataclass(slots=True)
class State:
    """All that a store keeps of one quota.

    Attributes:
        born: when it was made, on the store's clock, in whole seconds.
        members: the live leases, by name.
        gone: units admitted to members that are gone.
        asked: the number of the question, asked at ``asked_at_s`` about ``asked_s``.
        rejected: the rejection that is to be judged, reported by ``rejected_by``; its ``ago_s`` is of no more use.
        reopened: when the quota opened again after it, and how far off that may be.
        settled_s: what was sent before then is no news if it is rejected.
        closed_until_s: before then nobody sends but ``closed_by``.
        exhausted: why the account is, and when that was told.
        learning_until_s: until then members keep what they had.
    """

    born: float
    members: dict[str, Member] = field(default_factory=dict)
    gone: Units = (0.0, 0.0, 0.0)
    leader: str = ""
    epoch: int = 0
    law: Law | None = None
    asked: int = 0
    asked_s: float = 0.0
    asked_at_s: float = 0.0
    rejected: Rejected | None = None
    rejected_by: str = ""
    reopened: tuple[float, float] | None = None
    settled_s: float = LONG_AGO_S
    closed_until_s: float = 0.0
    closed_by: str = ""
    breaker_until_s: float | None = None
    exhausted: tuple[Exhausted, float] | None = None
    shown: dict[str, tuple[Shown, float]] = field(default_factory=dict)
    learning_until_s: float = 0.0


def refresh(state: State | None, report: Report, clock_s: float) -> tuple[State, Grant]:
    """Renew a member's lease, add what it says to what is known, and return its grant.

    Args:
        state: what the store keeps, which may be changed; ``None`` if it keeps nothing.
        report: what the member says.
        clock_s: the store's clock.
    """
    if state is None:
        state = State(born=math.floor(clock_s))
    now = clock_s - state.born
    _drop_the_dead(state, now)
    _remember(state, report, now)
    before = state.members.get(report.member)
    me = state.members[report.member] = Member(
        heard_s=now,
        share=0.0,
        slots=0,
        limited_s=now if report.limited else before.limited_s if before else LONG_AGO_S,
        weight=report.weight,
        wants=report.wants,
        wants_slots=report.wants_slots,
        in_flight=report.in_flight,
        admitted=report.admitted,
        per_s=report.per_s,
        answer=report.answer,
    )
    if report.member == state.leader and report.law is not None and report.epoch == state.epoch:
        state.law = report.law
    _elect(state, report, now)
    others = [(name, other) for name, other in state.members.items() if name != report.member]
    part = 0.5 if before is None else 1.0
    free = part * max(1.0 - sum(other.share for _, other in others), 0.0)
    me.share = min(report.share if now < state.learning_until_s else _share(state, report.member), free)
    slots = None
    if state.law is not None:
        left = _whole(state, state.law) - sum(max(other.slots, other.in_flight) for _, other in others)
        me.slots = slots = max(min(_slots(state, report.member, now), math.ceil(part * left)), 0)
    grant = _grant(state, report.member, me, others, now, slots)
    if report.leaves:
        _drop(state, report.member)
    return state, grant


def _drop_the_dead(state: State, now: float) -> None:
    for name in [name for name, member in state.members.items() if now - member.heard_s > LEASE_S]:
        _drop(state, name)


def _drop(state: State, name: str) -> None:
    member = state.members.pop(name)
    state.gone = _sum(state.gone, member.admitted)


def _remember(state: State, report: Report, now: float) -> None:
    """Take what a member knows and the state does not."""
    forgot = report.born != state.born and state.law is None
    if report.law is not None and (forgot or report.epoch > state.epoch):
        state.law, state.epoch = report.law, max(report.epoch, state.epoch)
        if report.born:
            state.learning_until_s = now + LEASE_S
    if report.member == state.leader and (not state.asked or report.seen == state.asked):
        if state.rejected is not None:
            state.rejected, state.rejected_by, state.reopened, state.settled_s = None, "", None, now
        _ask(state, now, now)
    if report.rejected is not None and state.rejected is None and now - report.rejected.ago_s >= state.settled_s:
        state.epoch += 1
        state.rejected, state.rejected_by, state.reopened = report.rejected, report.member, None
        _ask(state, now - report.rejected.ago_s, now)
        if state.law is not None:
            law = state.law
            state.law = law._replace(rates={**law.rates, **law.fall_back}, slots=law.slots_before)
    if report.reopened is not None and report.member == state.rejected_by:
        state.reopened = now - report.reopened.ago_s, report.reopened.doubt_s
    if report.member == state.closed_by or now + report.closed_s > state.closed_until_s:
        state.closed_until_s, state.closed_by = now + report.closed_s, report.member
    if report.breaker_s is not None:
        is_open = report.breaker_s > 0.0
        state.breaker_until_s = now + report.breaker_s if is_open else None
        state.exhausted = (report.exhausted, now) if is_open and report.exhausted is not None else None
    for axis, shown in report.shown.items():
        known = state.shown.get(axis)
        if known is None or now - shown.ago_s > known[1] - known[0].ago_s:
            state.shown[axis] = shown, now


def _ask(state: State, about_s: float, now: float) -> None:
    state.asked, state.asked_s, state.asked_at_s = state.asked + 1, about_s, now


def _seen(state: State, now: float) -> Seen | None:
    """Return what all have answered, if they have."""
    waited_s = now - state.asked_at_s
    missing = any(member.answer is None or member.answer.number != state.asked for member in state.members.values())
    if not state.asked or (missing and waited_s < ANSWERED_S):
        return None
    told = state.rejected
    if told is not None and state.reopened is None:
        if waited_s < LEASE_S and state.rejected_by in state.members:
            return None
        state.reopened = 0.5 * (state.asked_s + now), 0.5 * (now - state.asked_s)
    admitted, in_flight = state.gone, [0] * SAMPLES
    for member in state.members.values():
        answer = member.answer
        if answer is not None and answer.number == state.asked:
            admitted = _sum(admitted, answer.admitted)
            in_flight = [number + more for number, more in zip(in_flight, answer.in_flight, strict=True)]
        else:
            admitted = _sum(admitted, member.admitted, member.per_s, state.asked_s - member.heard_s)
            in_flight = [number + member.in_flight for number in in_flight]
    ago_s, reopened = now - state.asked_s, None
    if told is not None and state.reopened is not None:
        told, reopened = told._replace(ago_s=ago_s), OpenAgain(now - state.reopened[0], state.reopened[1])
    return Seen(ago_s, admitted, in_flight, told, reopened)


def _elect(state: State, report: Report, now: float) -> None:
    """Let a member lead if nobody does, or if it is held back and the leader has not been for one lease."""
    leader = state.members.get(state.leader)
    if leader is None or (report.limited and now - leader.limited_s > LEASE_S):
        state.leader = report.member
        state.members[report.member].limited_s = now


def _share(state: State, name: str) -> float:
    """Return the share of the rate that a member should have: what it wants, levelled, and a part of the rest."""
    rate = state.law.calls_per_s if state.law is not None else None
    members = sorted(state.members.items())
    weights = [member.weight for _, member in members]
    if rate is None:
        return state.members[name].weight / sum(weights)
    left, shares = 1.0, [0.0] * len(members)
    for priority in sorted({priority for _, member in members for priority in member.wants}, reverse=True):
        wants = [member.wants.get(priority, 0.0) / rate for _, member in members]
        got = levelled(left, wants, weights)
        shares = [share + more for share, more in zip(shares, got, strict=True)]
        left = max(left - sum(got), 0.0)
    number = [other for other, _ in members].index(name)
    return shares[number] + left * weights[number] / sum(weights)


def _whole(state: State, law: Law) -> int:
    """Return the slots there are: one for everybody, where a rate is known and it is not slots that are scarce."""
    whole = math.floor(law.slots)
    return max(whole, len(state.members)) if law.slots_open and law.rates else whole


def _slots(state: State, name: str, now: float) -> int:
    """Return the slots that a member should have; those that do not divide evenly go round."""
    assert state.law is not None
    total = _whole(state, state.law)
    members = sorted(state.members.items())
    weights = [member.weight for _, member in members]
    parts = levelled(float(total), [float(member.wants_slots) for _, member in members], weights)
    rest = max(total - sum(parts), 0.0)
    parts = [part + rest * weight / sum(weights) for part, weight in zip(parts, weights, strict=True)]
    number = [other for other, _ in members].index(name)
    turn = (number + math.floor(now / ROTATE_S)) % len(members)
    left = total - sum(math.floor(part + 1e-9) for part in parts)
    return math.floor(parts[number] + 1e-9) + (1 if turn < left else 0)


def levelled(total: float, wants: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Divide ``total``: nobody gets more than it wants, and who gets less gets as much by weight as anybody."""
    got = [0.0] * len(wants)
    left, weight = total, sum(weights)
    for number in sorted(range(len(wants)), key=lambda number: (wants[number] / weights[number], number)):
        got[number] = min(wants[number], left * weights[number] / weight)
        left -= got[number]
        weight -= weights[number]
    return got


def _grant(
    state: State, name: str, me: Member, others: Sequence[tuple[str, Member]], now: float, slots: int | None
) -> Grant:
    leads = name == state.leader
    seen = _seen(state, now) if leads else None
    admitted, per_s = state.gone, (0.0, 0.0, 0.0)
    for _, other in others:
        since_s = now - other.heard_s
        admitted = _sum(admitted, other.admitted, other.per_s, since_s)
        per_s = _sum(per_s, other.per_s)
    until_s, exhausted = state.breaker_until_s, None
    if state.exhausted is not None:
        exhausted, told_s = state.exhausted
        if exhausted.resumes_s is not None:
            exhausted = Exhausted(exhausted.reason, max(exhausted.resumes_s + told_s - now, 0.0))
    return Grant(
        share=me.share,
        slots=slots,
        leads=leads,
        members=len(state.members),
        born=state.born,
        epoch=state.epoch,
        law=state.law,
        others_admitted=admitted,
        others_per_s=per_s,
        others_in_flight=sum(other.in_flight for _, other in others),
        asked=Asked(state.asked, now - state.asked_s, state.rejected is not None),
        seen=seen,
        closed_s=0.0 if name == state.closed_by else max(state.closed_until_s - now, 0.0),
        breaker_s=None if until_s is None else max(until_s - now, 0.0),
        exhausted=exhausted,
        shown={axis: shown._replace(ago_s=shown.ago_s + now - at_s) for axis, (shown, at_s) in state.shown.items()},
    )


def _sum(units: Units, more: Units, per_s: Units = (0.0, 0.0, 0.0), for_s: float = 0.0) -> Units:
    requests, read, written = (
        unit + other + rate * for_s for unit, other, rate in zip(units, more, per_s, strict=True)
    )
    return requests, read, written
