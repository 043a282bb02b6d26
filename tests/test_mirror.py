"""The mirror of a provider's budget: what headers showed, less what was sent since."""

from __future__ import annotations

from factflow_llm.ratelimit.mirror import Mirror
from factflow_llm.signals import Axis, AxisLimit


def _shown(remaining: float, *, limit: float = 180.0, reset_s: float = 10.0) -> Mirror:
    mirror = Mirror()
    mirror.observe(1.0, AxisLimit(Axis.REQUESTS, limit, remaining, reset_s), sent_s=0.5, spent_since=0.0)
    return mirror


def _fit_at_once(mirror: Mirror, now: float) -> int:
    sent = 0
    while mirror.wait_s(now, 1.0) == 0.0:
        mirror.spend(1.0)
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
    assert 1.0 < now < 15.0
