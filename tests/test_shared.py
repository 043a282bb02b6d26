"""The protocol between the processes of one quota: leases, shares by wants, one epoch per cut, what is forgotten."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from factflow_llm.ratelimit.said import SAMPLES, Answer, Grant, Law, OpenAgain, Rejected, Report, Shown
from factflow_llm.ratelimit.shared import ANSWERED_S, LEASE_S, State, levelled, refresh

LAW = Law(
    rates={"requests": 12.0}, known={"requests": 12.0}, fall_back={"requests": 9.0}, calls_per_s=12.0, slots=10.0,
    slots_before=8.0, slots_open=False, searching=False,
)  # fmt: skip
CLOCK_S = 1_800_000_000.25


def says(member: str = "a", wants: float = 100.0, **more: object) -> Report:
    """Return a member's report: it would send ``wants`` calls per second."""
    words: dict[str, object] = {
        "member": member, "weight": 1.0, "wants": {0: wants}, "wants_slots": 100, "in_flight": 0, "limited": True,
        "admitted": (0.0, 0.0, 0.0), "per_s": (0.0, 0.0, 0.0), "law": LAW, "born": 0.0,
    }  # fmt: skip
    return Report(**{**words, **more})  # type: ignore[arg-type]


def settled(*reports: Report, rounds: int = 4) -> tuple[State, dict[str, Grant]]:
    """Let members report in turn until nothing moves; return the state and their last grants."""
    state, grants = None, {}
    for number in range(rounds):
        for report in reports:
            state, grants[report.member] = refresh(state, report, CLOCK_S + number)
    assert state is not None
    return state, grants


def test_who_is_alone_has_all_after_a_moment() -> None:
    """Of a new fleet the first takes half, for others may be coming; then everything."""
    state, first = refresh(None, says(), CLOCK_S)
    _, second = refresh(state, says(born=first.born), CLOCK_S + 1.0)
    assert (first.share, second.share) == (0.5, 1.0)
    assert (first.slots, second.slots) == (5, 10)
    assert first.leads


def test_equal_wants_have_equal_shares() -> None:
    """Three who all want more than there is get a third each, and the slots go round."""
    _, grants = settled(says("a"), says("b"), says("c"))
    assert [grant.share for grant in grants.values()] == pytest.approx([1 / 3] * 3)
    assert sorted(grant.slots or 0 for grant in grants.values()) == [3, 3, 4]


def test_shares_follow_wants_and_weights() -> None:
    """Who wants little gets that; the rest is divided by weight."""
    _, grants = settled(says("a", 1.2), says("b", weight=2.0), says("c"))
    assert grants["a"].share == pytest.approx(0.1)
    assert grants["b"].share == pytest.approx(2 * grants["c"].share) == pytest.approx(0.6)


def test_what_nobody_wants_is_spread() -> None:
    """With room for all, each has more than it wants."""
    _, grants = settled(says("a", 1.2), says("b", 2.4))
    assert grants["a"].share == pytest.approx(0.1 + 0.35)
    assert sum(grant.share for grant in grants.values()) == pytest.approx(1.0)


def test_high_priorities_go_first() -> None:
    """What somebody wants urgently is served before anybody's other wants."""
    _, grants = settled(says("a", wants=0.0), says("b")._replace(wants={5: 9.0, 0: 90.0}), says("c"))
    assert grants["b"].share > 0.75


def answered(grant: Grant, admitted: float, in_flight: int) -> Answer:
    """Return the answer to what a grant asks."""
    return Answer(grant.asked.number, (admitted, 0.0, 0.0), [in_flight] * SAMPLES)


def test_one_cut_per_fleet() -> None:
    """The first rejection ends the epoch; rates and slots fall back at once; others are no news until it is judged."""
    state, grants = settled(says("a"), says("b"), says("c"))
    _lead, one, other = sorted(grants, key=lambda name: not grants[name].leads)
    state, grant = refresh(state, says(one, rejected=Rejected(0.5, None)), CLOCK_S + 5.0)
    assert (grant.epoch, grant.asked.hurry) == (1, True)
    assert grant.asked.ago_s == pytest.approx(0.5)
    assert grant.law is not None
    assert (grant.law.rates, grant.law.slots) == ({"requests": 9.0}, 8.0)
    _, grant = refresh(state, says(other, rejected=Rejected(0.2, None)), CLOCK_S + 5.1)
    assert (grant.epoch, grant.asked.ago_s) == (1, pytest.approx(0.6))


def test_the_leader_judges_by_what_all_were_at_one_moment() -> None:
    """Once all have answered, and the quota is known to be open again: the sums are of the rejected call's moment."""
    state, grants = settled(says("a"), says("b"), says("c"))
    lead, one, other = sorted(grants, key=lambda name: not grants[name].leads)
    state, asked = refresh(state, says(one, rejected=Rejected(0.5, "requests")), CLOCK_S + 5.0)
    state, _ = refresh(state, says(one, answer=answered(asked, 40.0, 3), reopened=OpenAgain(0.1, 0.05)), CLOCK_S + 5.3)
    state, grant = refresh(state, says(lead, epoch=1, answer=answered(asked, 30.0, 2)), CLOCK_S + 5.4)
    assert grant.seen is None
    state, _ = refresh(state, says(other, answer=answered(asked, 5.0, 1)), CLOCK_S + 5.8)
    state, grant = refresh(state, says(lead, epoch=1, answer=answered(asked, 30.0, 2)), CLOCK_S + 6.0)
    seen = grant.seen
    assert seen is not None
    assert seen.rejected is not None
    assert seen.reopened is not None
    assert seen.admitted == (75.0, 0.0, 0.0)
    assert list(seen.in_flight) == [6] * SAMPLES
    assert (seen.ago_s, seen.rejected.axis) == (pytest.approx(1.5), "requests")
    assert seen.reopened == (pytest.approx(0.8), 0.05)
    state, grant = refresh(state, says(lead, epoch=1, seen=grant.asked.number), CLOCK_S + 6.0)
    assert grant.asked.number == asked.asked.number + 1
    assert grant.seen is None
    state, grant = refresh(state, says(one, rejected=Rejected(0.4, None)), CLOCK_S + 6.2)
    assert grant.epoch == 1
    _, grant = refresh(state, says(one, rejected=Rejected(0.1, None)), CLOCK_S + 6.3)
    assert grant.epoch == 2


def test_who_does_not_answer_went_on_as_before() -> None:
    """A judgement waits for nobody for long: not for an answer, nor for who is gone to say that the quota is open."""
    state, grants = settled(says("a"), says("b", admitted=(20.0, 0.0, 0.0), per_s=(2.0, 0.0, 0.0), in_flight=4))
    lead, one = sorted(grants, key=lambda name: not grants[name].leads)
    assert (lead, one) == ("a", "b")
    state, asked = refresh(state, says("c", rejected=Rejected(0.0, None)), CLOCK_S + 5.0)
    state, _ = refresh(state, says("c", leaves=True), CLOCK_S + 5.1)
    says_all = says(lead, epoch=1, answer=answered(asked, 30.0, 2))
    state, grant = refresh(state, says_all, CLOCK_S + 5.0 + ANSWERED_S - 0.1)
    assert grant.seen is None
    state, grant = refresh(state, says_all, CLOCK_S + 5.0 + ANSWERED_S)
    assert grant.seen is not None
    assert grant.seen.admitted[0] == pytest.approx(30.0 + 20.0 + 2.0 * 2.0)
    assert grant.seen.in_flight[0] == 6
    assert grant.seen.reopened is not None


def test_a_leader_that_has_not_heard_of_the_cut_does_not_undo_it() -> None:
    """Its law is of an older epoch."""
    state, grants = settled(says("a"), says("b"))
    lead, one = sorted(grants, key=lambda name: not grants[name].leads)
    state, _ = refresh(state, says(one, rejected=Rejected(0.1, None)), CLOCK_S + 5.0)
    _, grant = refresh(state, says(lead, epoch=0), CLOCK_S + 5.1)
    assert grant.law is not None
    assert grant.law.rates == {"requests": 9.0}


def test_a_store_that_forgot_asks_anew() -> None:
    """Its numbers begin again; what a leader has seen before says nothing of them."""
    state, _ = refresh(None, says("a", epoch=4, seen=57, born=7.0), CLOCK_S)
    _, grant = refresh(state, says("a", epoch=4, seen=57, born=7.0), CLOCK_S + 0.25)
    assert (grant.leads, grant.asked.number) == (True, 1)


def test_where_slots_are_not_scarce_everybody_has_one() -> None:
    """A fleet larger than the number of slots to begin with is not kept waiting for it to grow."""
    names = [f"member {number:02}" for number in range(24)]
    open_law = LAW._replace(slots_open=True)
    _, grants = settled(*(says(name, law=open_law) for name in names), rounds=6)
    assert [grant.slots for grant in grants.values()] == [1] * 24


def test_an_idle_leader_hands_over() -> None:
    """Who is held back leads, once the leader has had nothing to wait for during a lease."""
    state, _ = settled(says("a", 0.0, limited=False), says("b", 0.0, limited=False))
    for at_s in range(5, 12):
        state, _ = refresh(state, says("a", 0.0, limited=False), CLOCK_S + at_s)
        state, grant = refresh(state, says("b"), CLOCK_S + at_s + 0.5)
    assert grant.leads


def test_a_dead_members_share_returns_within_its_lease() -> None:
    """Who was killed is dropped when its lease ends, and what it was admitted still counts."""
    state, _ = settled(says("a"), says("b", admitted=(40.0, 400.0, 4.0)))
    for at_s in range(4, 12):
        state, grant = refresh(state, says("a"), CLOCK_S + at_s)
    assert (grant.share, grant.members) == (1.0, 1)
    assert grant.others_admitted == (40.0, 400.0, 4.0)


def test_who_leaves_gives_its_share_back_at_once() -> None:
    """The last word of a member that ends."""
    state, _ = settled(says("a"), says("b"))
    state, _ = refresh(state, says("b", leaves=True), CLOCK_S + 5.0)
    _, grant = refresh(state, says("a"), CLOCK_S + 5.1)
    assert (grant.share, grant.members) == (1.0, 1)


def test_what_the_others_do_is_carried_on_to_now() -> None:
    """What they admitted when they reported, and since then what they do per second."""
    state, _ = refresh(None, says("a", admitted=(10.0, 100.0, 0.0), per_s=(2.0, 20.0, 0.0), in_flight=3), CLOCK_S)
    _, grant = refresh(state, says("b"), CLOCK_S + 0.5)
    assert grant.others_admitted == (11.0, 110.0, 0.0)
    assert grant.others_per_s == (2.0, 20.0, 0.0)
    assert grant.others_in_flight == 3


def test_a_store_that_forgot_is_told_and_shares_stay() -> None:
    """After a flush, members bring the law; for one lease they keep what they had, whatever they want."""
    _, grants = settled(says("a"), says("b", 1.2))
    kept = {name: grant.share for name, grant in grants.items()}
    state = None
    for name in ("b", "a"):
        state, grant = refresh(state, says(name, 100.0, born=7.0, epoch=4, share=kept[name]), CLOCK_S + 60.0)
        assert grant.law == LAW
        assert grant.epoch == 4
        assert grant.share <= kept[name]
    for name in ("b", "a"):
        state, grant = refresh(state, says(name, born=grant.born, epoch=4, share=kept[name]), CLOCK_S + 61.0)
        assert grant.share == pytest.approx(kept[name])
    for at_s in (67.0, 68.0):
        for name in ("b", "a"):
            state, grant = refresh(state, says(name, born=grant.born, epoch=4, share=kept[name]), CLOCK_S + at_s)
            assert at_s == 67.0 or grant.share == pytest.approx(0.5)


def test_a_state_of_yesterday_is_older_than_what_members_know() -> None:
    """A backup that was restored: the epoch tells, and the members' law goes before the old one."""
    old, _ = settled(says("z", law=LAW._replace(calls_per_s=1.0)))
    _, grant = refresh(old, says("a", epoch=9, born=old.born), CLOCK_S + 86_400.0)
    assert (grant.epoch, grant.law, grant.members) == (9, LAW, 1)


def test_who_was_told_to_wait_says_so_to_all() -> None:
    """Others wait as long; it alone tries again, and its word ends the wait."""
    state, _ = settled(says("a"), says("b"))
    state, mine = refresh(state, says("a", closed_s=20.0), CLOCK_S + 5.0)
    state, other = refresh(state, says("b"), CLOCK_S + 6.0)
    assert (mine.closed_s, other.closed_s) == (0.0, 19.0)
    state, _ = refresh(state, says("a"), CLOCK_S + 7.0)
    _, other = refresh(state, says("b"), CLOCK_S + 7.1)
    assert other.closed_s == 0.0


def test_an_exhausted_account_is_told_to_all() -> None:
    """And that it was mended."""
    state, _ = settled(says("a"), says("b"))
    state, _ = refresh(state, says("a", breaker_s=60.0), CLOCK_S + 5.0)
    state, grant = refresh(state, says("b"), CLOCK_S + 6.0)
    assert grant.breaker_s == 59.0
    state, _ = refresh(state, says("b", breaker_s=0.0), CLOCK_S + 7.0)
    _, grant = refresh(state, says("a"), CLOCK_S + 8.0)
    assert grant.breaker_s is None


def test_the_freshest_header_is_kept() -> None:
    """A newer word of an older answer does not replace it."""
    state, _ = refresh(None, says("a", shown={"requests": Shown(500.0, 300.0, 24.0, 1.0)}), CLOCK_S)
    state, _ = refresh(state, says("b", shown={"requests": Shown(500.0, 310.0, 23.0, 5.0)}), CLOCK_S + 2.0)
    _, grant = refresh(state, says("c"), CLOCK_S + 3.0)
    assert grant.shown == {"requests": Shown(500.0, 300.0, 24.0, 4.0)}


@settings(deadline=None)
@given(
    total=st.floats(0.0, 1e3),
    members=st.lists(st.tuples(st.floats(0.0, 1e3), st.floats(0.1, 10.0)), min_size=1, max_size=8),
)
def test_levelling_divides_what_there_is(total: float, members: list[tuple[float, float]]) -> None:
    """Nobody gets more than it wants, nothing is invented, nothing wanted is held back, and levels are equal."""
    wants, weights = (list(column) for column in zip(*members, strict=True))
    got = levelled(total, wants, weights)
    assert all(0.0 <= mine <= want * (1 + 1e-9) for mine, want in zip(got, wants, strict=True))
    assert sum(got) == pytest.approx(min(total, sum(wants)), abs=1e-6)
    held_back = [mine / weight for mine, want, weight in zip(got, wants, weights, strict=True) if mine < want - 1e-6]
    assert not held_back or max(held_back) == pytest.approx(min(held_back), abs=1e-6)


class Fleet(RuleBasedStateMachine):
    """Members that come, ask, die and are cut off, in any order; a store that is now and then flushed."""

    members = Bundle("members")

    def __init__(self) -> None:
        super().__init__()
        self.state: State | None = None
        self.now = CLOCK_S
        self.count = 0
        self.leases: dict[str, tuple[float, int, float]] = {}  # share and slots as a member has them, and until when
        self.known: dict[str, Grant] = {}
        self.flushed_s = -math.inf

    def ask(self, name: str, wants: float, weight: float, in_flight: int) -> None:
        known = self.known.get(name)
        if name in self.leases and self.now > self.leases[name][2]:
            del self.leases[name]
        share = self.leases[name][0] if name in self.leases else 0.0
        in_flight = min(in_flight, self.leases[name][1]) if name in self.leases else 0
        report = says(
            name, wants, weight=weight, in_flight=in_flight, share=share, born=known.born if known else 0.0,
            epoch=known.epoch if known else 0,
        )  # fmt: skip
        self.state, grant = refresh(self.state, report, self.now)
        self.known[name] = grant
        self.leases[name] = grant.share, grant.slots or 0, self.now + LEASE_S

    @rule(target=members, wants=st.floats(0.0, 50.0), weight=st.sampled_from([0.5, 1.0, 3.0]))
    def joins(self, wants: float, weight: float) -> str:
        """Somebody new asks for the first time."""
        self.count += 1
        name = f"member {self.count}"
        self.ask(name, wants, weight, 0)
        return name

    @rule(name=members, wants=st.floats(0.0, 50.0), in_flight=st.integers(0, 12))
    def asks(self, name: str, wants: float, in_flight: int) -> None:
        """Somebody who is known, or was cut off for as long as you like, asks again."""
        self.ask(name, wants, 1.0, in_flight)

    @rule(name=consumes(members))
    def dies(self, name: str) -> None:
        """Somebody is killed, and holds its share no longer than its lease."""
        del self.known[name]

    @rule(seconds=st.floats(0.0, 2.0 * LEASE_S))
    def passes(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    @rule()
    def flushes(self) -> None:
        """The store forgets all."""
        self.state = None
        self.flushed_s = self.now

    @invariant()
    def shares_never_exceed_the_whole(self) -> None:
        """As the members have them, cut off or dead; save for one lease after the store forgot who has what."""
        if self.now <= self.flushed_s + LEASE_S:
            return
        live = [lease for lease in self.leases.values() if self.now <= lease[2]]
        assert sum(share for share, _, _ in live) <= 1.0 + 1e-9
        assert sum(slots for _, slots, _ in live) <= LAW.slots

    @invariant()
    def the_dead_are_dropped(self) -> None:
        """Whoever was not heard of for a lease holds nothing once somebody asks."""
        if self.state is not None:
            newest = max((member.heard_s for member in self.state.members.values()), default=0.0)
            assert all(newest - member.heard_s <= LEASE_S for member in self.state.members.values())


Fleet.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestFleet = Fleet.TestCase
