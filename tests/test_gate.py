"""The gate: one canary at a time, and how far a Retry-After is trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factflow_llm.ratelimit.gate import Gate

CAP_S = 120.0
PAUSE_S = 0.1
LAG_S = 0.05


@dataclass
class _Provider:
    """A provider that shuts now and then, and whoever stands before it: calls answered after ``LAG_S``."""

    gate: Gate = field(default_factory=Gate)
    now: float = 0.0
    canaries: int = 0

    def shut_for(self, shut_s: float, told_s: float | None, *, obey: bool = False) -> float:
        """Be rejected until ``shut_s`` are over; return how long after that the gate opened.

        ``told_s`` is how far off the provider says that it opens, as measured from when it shut; ``None`` says nothing.
        """
        gate, began = self.gate, self.now
        sent_s = began
        while True:
            told = None if told_s is None else max(began + told_s - sent_s, 0.0)
            self.now = sent_s + LAG_S
            gate.rejected(self.now, sent_s, told, pause_s=PAUSE_S, cap_s=CAP_S, lag_s=LAG_S, obey=obey)
            assert gate.shut
            assert self.now <= gate.until_s <= self.now + CAP_S
            sent_s = self.now = gate.opens_s
            self.canaries += 1
            gate.sent(self.canaries, sent_s, LAG_S)
            if sent_s >= began + shut_s:
                self.now = gate.opens_s
                opened_s, doubt_s = gate.opened(sent_s, 0.1)
                assert not gate.shut
                told_true = told_s == shut_s or doubt_s > 0.0
                assert not told_true or opened_s - doubt_s - 1e-6 <= began + shut_s <= opened_s + doubt_s + LAG_S + 1e-6
                self.now += 10.0 + (7 * self.canaries) % 23  # not as regular as windows are
                return sent_s - (began + shut_s)

    def episodes(self, count: int, shut_s: float, told_s: float | None) -> tuple[int, float]:
        """Return the rejected canaries of so many episodes, and the seconds lost in them."""
        before, lost_s = self.canaries, 0.0
        for _ in range(count):
            lost_s += self.shut_for(shut_s, told_s)
        return self.canaries - before - count, lost_s


def test_without_a_retry_after_pauses_double_up_to_the_cap() -> None:
    """From a tenth of a second to two minutes in a dozen tries, and then at that pace."""
    gate, now, pauses = Gate(), 0.0, []
    for _ in range(14):
        gate.rejected(now, now, None, pause_s=PAUSE_S, cap_s=CAP_S, lag_s=0.0, obey=False)
        pauses.append(gate.until_s - now)
        now = gate.until_s
        gate.sent(1, now, 0.0)
    assert pauses == pytest.approx([min(PAUSE_S * 2.0**step, CAP_S) for step in range(14)])


def test_patience_doubles_with_each_early_canary_that_is_rejected() -> None:
    """A true Retry-After of ten seconds is asked about after two seconds, four more, and then obeyed."""
    provider = _Provider()
    provider.shut_for(10.0, 10.0)
    assert 2 <= provider.canaries <= 3
    assert provider.gate.patience_s >= 4.0


def test_who_told_the_truth_is_obeyed_next_time() -> None:
    """A few rejections once; from then on one wait of exactly what was told, and nothing lost."""
    provider = _Provider()
    provider.episodes(1, 10.0, 10.0)
    rejected, lost_s = provider.episodes(20, 10.0, 10.0)
    assert rejected <= 20 // 4
    assert lost_s <= 20 * 0.15


def test_one_retry_after_of_an_hour_costs_nothing() -> None:
    """The provider is open again after a moment, whatever it said: so are we, in two seconds, and next time sooner."""
    provider = _Provider()
    assert provider.shut_for(0.1, 3600.0) <= 2.0
    assert provider.shut_for(0.1, 3600.0) <= 1.0


@pytest.mark.parametrize("told_s", [20.0, 3600.0, 1e9])
def test_told_too_much_each_time_costs_little(told_s: float) -> None:
    """Told 20 s by a provider that opens after one: nobody waits 20 s, not the first time and not the fiftieth."""
    provider = _Provider()
    losses = [provider.shut_for(1.0, told_s) for _ in range(50)]
    assert max(losses) <= 2.0, "pauses double: no more is lost than twice the second that it was shut"
    assert sum(losses) <= 50 * 1.2


def test_who_was_found_wrong_has_to_be_right_several_times() -> None:
    """After a lie the truth is not obeyed at once, and in the end it is."""
    provider = _Provider()
    provider.shut_for(0.1, 3600.0)
    first, _ = provider.episodes(3, 10.0, 10.0)
    provider.episodes(5, 10.0, 10.0)
    later, _ = provider.episodes(3, 10.0, 10.0)
    assert first >= 9
    assert later <= 2


def test_not_open_when_told_is_a_lie_too() -> None:
    """A teller who was obeyed and proved wrong loses all credit: the next one is asked about after a quarter second."""
    provider = _Provider()
    provider.episodes(3, 10.0, 10.0)
    assert provider.gate.patience_s > 4.0
    provider.shut_for(30.0, 5.0)
    assert provider.shut_for(1.0, 60.0) <= 1.0


def test_a_teller_who_is_believed_is_exact_about_the_moment() -> None:
    """What was told is when it opened, and needs no canary in between to know."""
    gate = Gate()
    gate.rejected(0.05, 0.0, 0.2, pause_s=PAUSE_S, cap_s=CAP_S, lag_s=LAG_S, obey=False)
    gate.sent(7, gate.until_s, LAG_S)
    assert gate.opened(gate.opens_s, 0.1) == (0.2, 0.0)


def test_no_pause_is_longer_than_the_cap() -> None:
    """Not even where sizes differ so much that a Retry-After is obeyed from the start."""
    gate = Gate()
    gate.rejected(0.0, 0.0, 86_400.0, pause_s=PAUSE_S, cap_s=30.0, lag_s=0.0, obey=True)
    assert gate.until_s == 30.0


def test_where_sizes_differ_a_retry_after_is_obeyed() -> None:
    """A small canary would be let through and prove nothing: wait for what was told."""
    gate = Gate()
    gate.rejected(0.0, 0.0, 20.0, pause_s=PAUSE_S, cap_s=CAP_S, lag_s=0.0, obey=True)
    assert gate.until_s == 20.0


def test_a_time_that_has_passed_does_not_make_us_hammer() -> None:
    """Told zero seconds, each time: the pauses double all the same."""
    gate, now, pauses = Gate(), 0.0, []
    for _ in range(8):
        gate.rejected(now, now, 0.0, pause_s=PAUSE_S, cap_s=CAP_S, lag_s=0.0, obey=False)
        pauses.append(gate.until_s - now)
        now = gate.until_s
        gate.sent(1, now, 0.0)
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8])


def test_a_canary_that_was_lost_is_followed_by_another() -> None:
    """What became of it tells nothing: the gate stays shut, and the next may go at once."""
    gate = Gate()
    gate.rejected(0.0, 0.0, None, pause_s=PAUSE_S, cap_s=CAP_S, lag_s=LAG_S, obey=False)
    gate.sent(3, 1.0, 5.0)
    assert (gate.canary, gate.opens_s) == (3, 6.0)
    gate.canary_lost()
    assert (gate.shut, gate.canary, gate.opens_s) == (True, -1, 0.1)


def test_the_opening_lies_between_the_last_rejected_and_the_canary() -> None:
    """In the middle, give or take the half; calls rejected meanwhile make it narrower."""
    gate = Gate()
    gate.rejected(1.0, 0.0, None, pause_s=PAUSE_S, cap_s=CAP_S, lag_s=LAG_S, obey=False)
    gate.rejected_too(2.0)
    gate.sent(3, 4.0, LAG_S)
    assert gate.opened(4.0, 10.0) == (3.0, 1.0)


waits = st.lists(st.tuples(st.floats(0.0, 300.0), st.none() | st.floats(0.0, 1e9)), max_size=12)


@given(waits, st.booleans())
def test_the_gate_opens_within_the_last_pause(history: list[tuple[float, float | None]], obey: bool) -> None:
    """Whatever is told and however long it lasts: no pause is longer than the cap, and in the end the gate is open."""
    provider = _Provider()
    for shut_s, told_s in history:
        assert provider.shut_for(shut_s, told_s, obey=obey) <= CAP_S + 2.0 * LAG_S
        assert not math.isnan(provider.gate.patience_s)
    assert not provider.gate.shut
