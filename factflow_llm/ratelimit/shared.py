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
   publishes its ``Law``: rates of the whole quota, slots, whether it is closed. It alone probes for more.
4. **One cut per fleet.** A rejection counts only if its call was sent in the current epoch. The first member to report
   one ends the epoch; the leader judges it.
5. **Back to a store that forgot,** members bring the law they know and, for one lease, keep what they had.

Times in the state count from its birth, on the store's clock; what members say of time is a distance from now.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LEASE_S: Final = 5.0
"""How long a share is held without a word: five refreshes, of which four may be lost."""
LONG_AGO_S: Final = -1e9
ROTATE_S: Final = 60.0
"""How long the slots that do not divide evenly stay with the same members."""

Units = tuple[float, float, float]
"""Requests, tokens read, tokens written."""


class Law(NamedTuple):
    """What the leader has learned of the whole quota.

    Attributes:
        rates: units per second by axis; an axis of which nothing is known is absent.
        calls_per_s: the rates in calls of the usual size; ``None`` while nothing is known.
        slots: calls that may be in flight.
        slots_open: whether their number still grows fast, for nothing was rejected yet.
    """

    rates: Mapping[str, float]
    calls_per_s: float | None
    slots: float
    slots_open: bool


class Rejected(NamedTuple):
    """A rejection that the leader should judge, for whom the quota has opened again since.

    Attributes:
        epoch: the epoch in which its call was sent.
        ago_s: how long ago that was.
        opened_ago_s: how long ago the quota opened again, and ``doubt_s`` how far off that may be.
        axis: the axis it named.
        in_flight: calls in flight in the whole fleet when it was sent.
    """

    epoch: int
    ago_s: float
    opened_ago_s: float
    doubt_s: float
    axis: str | None
    in_flight: int


class Exhausted(NamedTuple):
    """Why an account refuses all calls, such as ``daily_quota``, and in how many seconds it said that it will not."""

    reason: str
    resumes_s: float | None = None


class Shown(NamedTuple):
    """What a header showed of an axis; its call was sent ``ago_s`` before now."""

    limit: float
    remaining: float
    reset_s: float
    ago_s: float


class Report(NamedTuple):
    """What a member says.

    Attributes:
        member: its name, told apart from all others.
        weight: how much of what is scarce it gets, relative to others.
        wants: calls per second that it would send, by priority.
        wants_slots: calls that it would have in flight.
        in_flight: calls that it has in flight.
        limited: whether calls wait.
        admitted: units admitted since it began, and ``per_s`` lately.
        share: the share that it sends at.
        born: the birth of the state that it knows; 0 for none.
        epoch: the epoch that it knows.
        law: what it has learned, of a leader; what it was told, of others.
        rejected: a rejection that nobody knows of yet.
        closed_s: seconds for which nobody should send, for it was told so; 0 while the quota is open.
        breaker_s: positive if it found the account exhausted, to try again then; 0 if it found it mended; else None.
        exhausted: why, with a positive ``breaker_s``.
        shown: the freshest headers, by axis.
        leaves: whether this is its last word.
    """

    member: str
    weight: float
    wants: Mapping[int, float]
    wants_slots: int
    in_flight: int
    limited: bool
    admitted: Units
    per_s: Units
    share: float = 0.0
    born: float = 0.0
    epoch: int = 0
    law: Law | None = None
    rejected: Rejected | None = None
    closed_s: float = 0.0
    breaker_s: float | None = None
    exhausted: Exhausted | None = None
    shown: Mapping[str, Shown] = {}
    leaves: bool = False


class Grant(NamedTuple):
    """What a member gets, until ``LEASE_S`` after it asked.

    Attributes:
        share: of every rate, from 0 to 1.
        slots: calls that it may have in flight, of ``law.slots``; ``None`` while there is no law.
        leads: whether it is the one who learns.
        members: how many there are.
        born: the birth of the state, to recognise it.
        epoch: the current epoch.
        law: what the leader has learned; ``None`` while nothing is.
        others_admitted: units admitted to all others, up to now, and ``others_per_s`` lately.
        others_in_flight: calls that the others have in flight.
        rejected: a rejection to be judged, for the leader.
        closed_s: seconds for which nobody but the one who was told so should send.
        breaker_s: seconds until somebody may try whether the account is mended; ``None`` while it is not exhausted.
        exhausted: why it is, where that was told.
        shown: the freshest headers, by axis.
    """

    share: float
    slots: int | None
    leads: bool
    members: int
    born: float
    epoch: int
    law: Law | None
    others_admitted: Units
    others_per_s: Units
    others_in_flight: int
    rejected: Rejected | None
    closed_s: float
    breaker_s: float | None
    exhausted: Exhausted | None
    shown: Mapping[str, Shown]


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


@dataclass(slots=True)
class State:
    """All that a store keeps of one quota.

    Attributes:
        born: when it was made, on the store's clock, in whole seconds.
        members: the live leases, by name.
        gone: units admitted to members that are gone.
        rejected_s: when the rejection was reported, from which what it says of time counts.
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
    rejected: Rejected | None = None
    rejected_s: float = 0.0
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
    )
    if report.member == state.leader and report.law is not None:
        state.law = report.law
    _elect(state, report, now)
    others = [(name, other) for name, other in state.members.items() if name != report.member]
    part = 0.5 if before is None else 1.0
    free = part * max(1.0 - sum(other.share for _, other in others), 0.0)
    me.share = min(report.share if now < state.learning_until_s else _share(state, report.member), free)
    slots = None
    if state.law is not None:
        left = math.floor(state.law.slots) - sum(max(other.slots, other.in_flight) for _, other in others)
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
    if report.rejected is not None and report.rejected.epoch == state.epoch:
        state.epoch += 1
        if report.member != state.leader:  # which has judged it already
            state.rejected, state.rejected_s = report.rejected, now
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


def _slots(state: State, name: str, now: float) -> int:
    """Return the slots that a member should have; those that do not divide evenly go round."""
    assert state.law is not None
    total = math.floor(state.law.slots)
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
    leads, rejected = name == state.leader, None
    if leads and state.rejected is not None:
        since_s, told = now - state.rejected_s, state.rejected
        rejected = told._replace(ago_s=told.ago_s + since_s, opened_ago_s=told.opened_ago_s + since_s)
        state.rejected = None
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
        rejected=rejected,
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
