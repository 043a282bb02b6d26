"""Whether rejections are noise: what an inquiry asks, what its answers weigh, and how seldom it is made."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factflow_llm.ratelimit.line import Ticket
from factflow_llm.ratelimit.noise import Inquiry, Noise


def _ticket(number: int = 10) -> Ticket:
    ticket = Ticket()
    ticket.number, ticket.admitted_s = number, 1.0
    return ticket


def _inquiry(passed: int, rejected: int = 0, *, early: bool = True, trickled: float = 0.5) -> Inquiry:
    """Return an inquiry with its answers."""
    inquiry = Inquiry.about(_ticket(), None, 2.0, sent_after=0, trickled=trickled, early=early)
    inquiry.sent = passed + rejected
    for _ in range(rejected):
        inquiry.reject(2.0, None)
    return inquiry


def test_it_asks_more_calls_than_may_have_trickled_in() -> None:
    """A budget that is spent rejects at least two of them."""
    for trickled in (0.1, 1.0, 7.3):
        assert _inquiry(0, trickled=trickled).calls >= trickled + 3


def test_where_no_rate_is_known_what_is_under_way_tells_most() -> None:
    """Nobody knows what trickles in: eight calls are under way, three others are asked, and most have to pass."""
    inquiry = Inquiry.about(_ticket(), None, 2.0, sent_after=8, trickled=0.0, early=True)
    assert inquiry.calls == 8 + 3
    for _ in range(5):
        inquiry.reject(2.0, None)
        assert not inquiry.failed
    inquiry.reject(2.0, None)
    assert inquiry.failed


def test_it_remembers_what_the_last_rejection_said() -> None:
    """When it ends in a conviction, the gate needs to know since when and for how long."""
    inquiry = Inquiry.about(_ticket(), 7.0, 2.0, sent_after=0, trickled=1.0, early=True)
    assert (inquiry.rejected_s, inquiry.told_s) == (1.0, 7.0)
    inquiry.reject(3.0, 5.0)
    assert (inquiry.rejected_s, inquiry.told_s, inquiry.failed) == (3.0, 5.0, False)
    inquiry.reject(4.0, None)
    assert (inquiry.rejected_s, inquiry.told_s, inquiry.failed) == (4.0, None, True)


def test_one_answer_proves_little() -> None:
    """The first rejections are believed, though all calls that asked have passed; after three or so they are not."""
    noise = Noise()
    verdicts = [noise.found(_inquiry(4)) for _ in range(4)]
    assert verdicts == [False, False, True, True]
    assert noise.known


def test_where_no_rate_is_known_one_clean_answer_is_enough() -> None:
    """No spent budget lets all of them pass; with one rejected among them nobody knows yet."""
    clean, doubtful = (Inquiry.about(_ticket(), None, 2.0, sent_after=4, trickled=0.0, early=True) for _ in range(2))
    clean.sent = doubtful.sent = 7
    doubtful.reject(2.0, None)
    assert Noise().found(clean)
    assert not Noise().found(doubtful)


def test_an_answer_that_says_nothing_changes_nothing() -> None:
    """One of four rejected is neither noise nor a quota: surprises are questioned as often as before."""
    noise = Noise()
    assert noise.asks(early=True, searching=False)
    noise.found(_inquiry(1, 3))
    assert not noise.asks(early=True, searching=False)
    assert noise.asks(early=True, searching=False)
    noise.found(_inquiry(3, 1))
    assert [noise.asks(early=True, searching=False) for _ in range(2)] == [False, True]


def test_a_rejected_call_weighs_much_against_it() -> None:
    """Two of four rejected outweigh three inquiries without a rejection."""
    noise = Noise()
    for _ in range(3):
        noise.found(_inquiry(4))
    assert noise.known
    assert not noise.found(_inquiry(2, 2))
    assert not noise.known


def test_what_came_late_proves_nothing() -> None:
    """A rejection that was due teaches nothing of noise, whatever its inquiry says."""
    noise = Noise()
    for _ in range(50):
        noise.found(_inquiry(4, early=False))
    assert not noise.known


def test_only_surprises_are_questioned() -> None:
    """A rejection that was due is believed; one that ends a search too, unless noise is suspected."""
    noise = Noise()
    assert not noise.asks(early=False, searching=False)
    assert not noise.asks(early=False, searching=True)
    assert noise.asks(early=True, searching=False)
    noise.found(_inquiry(4))
    assert noise.asks(early=False, searching=True)


def test_once_known_every_rejection_is_questioned() -> None:
    """And forgiven only if its own inquiry says so: a quota may come on top of noise."""
    noise = Noise()
    for _ in range(4):
        noise.found(_inquiry(4))
    assert noise.asks(early=False, searching=False)
    assert noise.found(_inquiry(4, early=False))
    assert not noise.found(_inquiry(1, 3, early=False))


def test_it_asks_ever_more_seldom_while_the_answer_is_the_same() -> None:
    """Asking costs rejections: of a thousand surprises in front of a real quota, some twenty are questioned."""
    noise, asked = Noise(), []
    for surprise in range(1000):
        if noise.asks(early=True, searching=False):
            asked.append(surprise)
            noise.found(_inquiry(1, 3))
    gaps = [later - sooner for sooner, later in pairwise(asked)]
    assert gaps == sorted(gaps)
    assert len(asked) <= 22
    assert gaps[-1] <= 65, "never again would be too seldom: noise may begin at any time"


def test_noise_that_ends_is_forgotten_soon() -> None:
    """However long there was noise, a few real rejections are enough to believe them again."""
    noise = Noise()
    for _ in range(1000):
        noise.found(_inquiry(4))
    answers = [noise.found(_inquiry(1, 3)) for _ in range(3)]
    assert answers == [False] * 3
    assert not noise.known


@pytest.mark.parametrize("early", [True, False])
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20))))
def test_a_failed_inquiry_never_forgives(early: bool, answers: list[tuple[int, int]]) -> None:
    """Whatever was believed before, more rejections than noise explains are taken for what they are."""
    noise = Noise()
    for passed, rejected in answers:
        inquiry = _inquiry(passed, rejected, early=early)
        assert not (noise.found(inquiry) and inquiry.failed)
