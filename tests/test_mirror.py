"""The mirror of a provider's budget: what headers showed, less what was sent since."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factflow_llm.ratelimit.mirror import Mirror
from factflow_llm.signals import Axis, AxisLimit


def _shown(remaining: float, *, limit: float = 180.0, reset_s: float = 10.0) -> Mirror:
    """Return a mirror that was shown so much to be left, all of the rest taken from here."""
    mirror = Mirror()
    shown = AxisLimit(Axis.REQUESTS, limit, remaining, reset_s)
    assert mirror.observe(1.0, shown, sent_s=0.5, before=limit - remaining - 1.0, cost=1.0, after=0.0)
    return mirror


def _fit_at_once(mirror: Mirror, now: float) -> int:
    sent = 0
    while mirror.wait_s(now, 1.0) == 0.0:
        mirror.spend(now, 1.0)
        sent += 1
    return sent


def test_no_more_at_once_than_was_ever_shown() -> None:
    """A quota per minute that is enforced over ten seconds never shows more than a sixth of it to be left."""
    mirror = _shown(29.0)
    assert 20 <= _fit_at_once(mirror, 1.0) <= 29
    assert 20 <= _fit_at_once(mirror, 300.0) <= 30


def test_an_empty_budget_fills() -> None:
    """Headers that showed nothing to be left do not block for ever: what is needed trickles in."""
    mirror = _shown(0.0)
    now = 1.0
    while wait_s := mirror.wait_s(now, 1.0):
        now += wait_s
    assert 1.0 < now < 62.0


@pytest.mark.parametrize("cost", [1.0, 50.0, 180.0])
def test_who_waits_as_told_is_let_through(cost: float) -> None:
    """Also a call that takes all there is, which nothing would be held back for."""
    mirror, now = _shown(0.0, reset_s=60.0), 1.0
    for _ in range(3):
        now += mirror.wait_s(now, cost)
    assert mirror.wait_s(now, cost) == 0.0
    assert now < 62.0


def test_what_was_sent_meanwhile_is_taken_off() -> None:
    """The headers of a call know nothing of the ten that were sent after it."""
    mirror = Mirror()
    shown = AxisLimit(Axis.REQUESTS, 600.0, 30.0, 57.0)
    mirror.observe(1.0, shown, sent_s=1.0, before=569.0, cost=1.0, after=10.0)
    assert _fit_at_once(mirror, 1.0) == pytest.approx(30 - 10 - 9, abs=1)


def test_older_headers_say_nothing_new() -> None:
    """Answers overtake each other: what an earlier call shows is passed over."""
    mirror = _shown(29.0)
    assert not mirror.observe(
        1.1, AxisLimit(Axis.REQUESTS, 999.0, 900.0, 10.0), sent_s=0.4, before=0.0, cost=1.0, after=0.0
    )
    assert mirror.limit == 180.0


nonsense = st.none() | st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-300, 1e308, 1e13])
figures = nonsense | st.floats(0, 1e6)


@given(st.lists(st.tuples(figures, figures, figures, st.floats(0, 100), st.floats(0, 1e4)), max_size=30))
def test_no_header_makes_it_anything_but_a_number(
    history: list[tuple[float | None, float | None, float | None, float, float]],
) -> None:
    """Nonsense is passed over; what remains gives a wait that is a number and not negative."""
    mirror, now, spent, seen = Mirror(), 0.0, 0.0, False
    for limit, remaining, reset_s, pause_s, units in history:
        shown = AxisLimit(Axis.TOKENS, limit, remaining, reset_s)
        seen |= mirror.observe(now, shown, sent_s=now, before=spent, cost=units, after=0.0)
        now, spent = now + pause_s, spent + units
        if seen:
            assert 0.0 <= mirror.wait_s(now, 100.0) < math.inf
            assert 0.0 < mirror.rate < math.inf
            mirror.spend(now, units)


@pytest.mark.parametrize(
    ("limit", "remaining", "reset_s"),
    [(math.nan, 1.0, 1.0), (0.0, 0.0, 1.0), (1e308, 1.0, 1.0), (60.0, 90.0, 1.0), (60.0, 1.0, -1.0), (60.0, None, 1.0)],
)
def test_nonsense_is_no_header(limit: float, remaining: float | None, reset_s: float) -> None:
    """A limit of nothing, more left than there is, a reset in the past: nothing was shown."""
    mirror = Mirror()
    shown = AxisLimit(Axis.REQUESTS, limit, remaining, reset_s)
    assert not mirror.observe(1.0, shown, sent_s=0.5, before=0.0, cost=1.0, after=0.0)
    assert math.isnan(mirror.limit)


def test_a_refusal_that_it_foretold_is_believed() -> None:
    """Nothing was left: the refusal proves the headers right."""
    mirror = _shown(0.0)
    assert mirror.rejected(1.0, 1.0)
    assert not mirror.blind


def test_a_refusal_that_it_did_not_foretell_turns_it_blind_for_a_while() -> None:
    """Half of it was left, it said: for two minutes it is not believed, and then again."""
    mirror = _shown(90.0)
    assert not mirror.rejected(2.0, 1.0)
    assert mirror.blind
    shown = AxisLimit(Axis.REQUESTS, 180.0, 90.0, 10.0)
    assert not mirror.observe(50.0, shown, sent_s=49.0, before=300.0, cost=1.0, after=0.0)
    assert mirror.blind
    assert mirror.observe(130.0, shown, sent_s=129.0, before=900.0, cost=1.0, after=0.0)
    assert not mirror.blind


# --- company ---------------------------------------------------------------------------------------------------------


@dataclass
class _Level:
    """One budget of 600 a minute that all draw on, and clients that each hold a mirror of it to its headers."""

    clients: int
    limit: float = 600.0
    took_s: float = 0.4
    level: float = 600.0
    as_of_s: float = 0.0
    sent: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)

    def run(self, since_s: float, until_s: float) -> None:
        """Let everybody send what its mirror lets through, each call shown its headers after a round trip."""
        if not self.sent:
            self.sent, self.refused = [0] * self.clients, [0] * self.clients
            self.mirrors = [Mirror() for _ in range(self.clients)]
            self.totals = [0.0] * self.clients
            self.news: list[tuple[float, int, AxisLimit, float, float]] = []
        self.counted_from_s = since_s
        tick = 0.02
        while self.as_of_s < until_s:
            now = self.as_of_s = self.as_of_s + tick
            self.level = min(self.level + tick * self.limit / 60.0, self.limit)
            while self.news and self.news[0][0] <= now:
                _, client, shown, sent_s, before = self.news.pop(0)
                after = self.totals[client] - before - 1.0
                self.mirrors[client].observe(now, shown, sent_s=sent_s, before=before, cost=1.0, after=after)
            for turn in range(self.clients):
                self._send((turn + round(now / tick)) % self.clients, now)

    def _send(self, client: int, now: float) -> None:
        mirror = self.mirrors[client]
        if math.isnan(mirror.limit):
            if any(who == client for _, who, *_ in self.news):
                return  # its first call is under way
        elif mirror.wait_s(now, 1.0) > 0.0:
            return
        before = self.totals[client]
        if self.level < 1.0:
            mirror.rejected(now, 1.0)
            self.refused[client] += now >= self.counted_from_s
            return
        self.level -= 1.0
        self.totals[client] += 1.0
        mirror.spend(now, 1.0)
        self.sent[client] += now >= self.counted_from_s
        reset_s = (self.limit - self.level) * 60.0 / self.limit
        shown = AxisLimit(Axis.REQUESTS, self.limit, math.floor(self.level), reset_s)
        self.news.append((now + self.took_s, client, shown, now, before))


@pytest.mark.parametrize("clients", [2, 4, 8])
def test_in_company_shares_draw_level_and_nobody_is_refused(clients: int) -> None:
    """They never hear of each other: each paces by the level that all see, and most of the quota is used."""
    world = _Level(clients)
    world.run(120.0, 420.0)
    total = sum(world.sent)
    jain = total**2 / (clients * sum(count**2 for count in world.sent))
    assert sum(world.refused) == 0
    assert jain >= 0.98
    assert total >= 0.9 * 10.0 * 300.0
    assert all(mirror.company for mirror in world.mirrors)


def test_alone_there_is_no_company() -> None:
    """What is left falls by what was sent from here: nobody else draws on it, and all of it is used."""
    world = _Level(1)
    world.run(120.0, 420.0)
    assert not world.mirrors[0].company
    assert sum(world.refused) == 0
    assert world.sent[0] >= 0.97 * 10.0 * 300.0
