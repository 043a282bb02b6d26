"""What the members of a fleet say to their store, and what they are told: the words of ``shared.py``.

What members say of time is a distance from now: their clocks need not agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SAMPLES: Final = 40
SAMPLE_S: Final = 0.05
"""An answer tells of so many moments, so far apart; the last of them is the one asked about."""

Units = tuple[float, float, float]
"""Requests, tokens read, tokens written."""


class Law(NamedTuple):
    """What the leader has learned of the whole quota.

    Attributes:
        rates: units per second by axis; an axis of which nothing is known is absent.
        known: what a new leader takes them to be, wherever the last one stood in probing for more.
        fall_back: what becomes of the rates when a rejection is reported, before it is judged.
        calls_per_s: the rates in calls of the usual size; ``None`` while nothing is known.
        slots: calls that may be in flight.
        slots_before: what becomes of them when a rejection is reported.
        slots_open: whether their number still grows fast, for nothing was rejected yet.
        searching: whether a rate, too, may grow fast: then it matters that all are told soon.
    """

    rates: Mapping[str, float]
    known: Mapping[str, float]
    fall_back: Mapping[str, float]
    calls_per_s: float | None
    slots: float
    slots_before: float
    slots_open: bool
    searching: bool


class Rejected(NamedTuple):
    """A rejection; its call was sent ``ago_s`` before now, and it named an axis or none."""

    ago_s: float
    axis: str | None


class OpenAgain(NamedTuple):
    """After its rejection, a member was let through again; ``doubt_s`` is how far off the moment may be."""

    ago_s: float
    doubt_s: float


class Asked(NamedTuple):
    """A question: what were you ``ago_s`` before now? ``hurry`` says that a judgement waits for the answer."""

    number: int
    ago_s: float
    hurry: bool


class Answer(NamedTuple):
    """What a member was at the moment asked about.

    Attributes:
        number: the question's.
        admitted: units admitted by then.
        in_flight: calls in flight then, that were not rejected, and every ``SAMPLE_S`` before it.
    """

    number: int
    admitted: Units
    in_flight: Sequence[int]


class Seen(NamedTuple):
    """What the whole fleet was at a moment, and what befell it then.

    Attributes:
        ago_s: how long ago that was.
        admitted: units admitted to all members by then, to those that are gone, too.
        in_flight: as in ``Answer``, of all.
        rejected: the rejection to be judged; its ``ago_s`` is the same.
        reopened: when the quota opened again; ``None`` without a rejection.
    """

    ago_s: float
    admitted: Units
    in_flight: Sequence[int]
    rejected: Rejected | None
    reopened: OpenAgain | None


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
        reopened: when the quota was open again after it.
        answer: to the question heard last; ``None`` before there was one.
        seen: the number of the last question to which, as the leader, it has seen all answers.
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
    reopened: OpenAgain | None = None
    answer: Answer | None = None
    seen: int = 0
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
        asked: the question to be answered.
        seen: what all answered, for the leader.
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
    asked: Asked
    seen: Seen | None
    closed_s: float
    breaker_s: float | None
    exhausted: Exhausted | None
    shown: Mapping[str, Shown]
