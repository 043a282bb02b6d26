"""A day's limit: a restart does not forget that it is spent, and the new day is used when it begins."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from factflow_llm import BreakerOpenError, LLMClientFactory, LLMConfig, Message, RateLimitConfig
from factflow_llm.ratelimit import fellowship
from factflow_llm.ratelimit.core import LimiterCore
from factflow_llm.ratelimit.line import Ticket, TicketState
from factflow_llm.ratelimit.member import MemberCore
from factflow_llm.ratelimit.said import Exhausted
from factflow_llm.ratelimit.shared import refresh
from factflow_llm.ratelimit.stores import sqlite
from factflow_llm.signals import Outcome, RateLimitSignal
from tests.support.faces import openai_answer
from tests.support.loopback import Loopback, Reply

if TYPE_CHECKING:
    from pathlib import Path

    from factflow_llm.ratelimit.shared import State

HELLO = [Message.user("hello")]
HI = Reply(openai_answer({"role": "assistant", "content": "Hi"}, finish="stop"))


def spent(told_s: float) -> RateLimitSignal:
    """Make what a refusal for the day says."""
    return RateLimitSignal(Outcome.EXHAUSTED, told_s)


def goes(core: LimiterCore, now: float) -> Ticket | None:
    """Let a call go if it may."""
    ticket = Ticket()
    core.submit(now, ticket)
    core.advance(now)
    return ticket if ticket.state is TicketState.ADMITTED else None


def test_the_new_day_is_tried_when_it_begins() -> None:
    """One call tries each minute, and one at the moment that was told; its success lets all go."""
    core = LimiterCore(RateLimitConfig(breaker_s=60.0))
    first = goes(core, 0.0)
    assert first is not None
    core.settle(1.0, first, spent(99.0))
    assert goes(core, 60.0) is None
    probe = goes(core, 61.0)
    assert probe is not None
    core.settle(62.0, probe, spent(38.0))
    assert goes(core, 99.0) is None
    morning = goes(core, 100.0)
    assert morning is not None
    core.settle(101.0, morning, RateLimitSignal(Outcome.SUCCEEDED))
    assert goes(core, 101.0) is not None


@pytest.mark.parametrize("told_s", [0.01, 12.0, float("inf"), float("nan"), -5.0])
def test_no_odd_word_changes_the_minute(told_s: float) -> None:
    """A time that is no day's end neither hammers the provider nor closes it for ever."""
    core = LimiterCore(RateLimitConfig(breaker_s=60.0))
    first = goes(core, 0.0)
    assert first is not None
    core.settle(1.0, first, spent(told_s))
    assert goes(core, 60.9) is None
    assert goes(core, 61.0) is not None


def test_a_process_of_tomorrow_knows_the_day_of_yesterday() -> None:
    """What one process was told, another one is told by the store, hours later, and tries when the day begins."""
    state: State | None = None
    first = MemberCore(RateLimitConfig(), "a")
    first.report(0.0)
    state, grant = refresh(None, first.report(0.1), 1000.1)
    first.hear(0.1, grant)
    call = goes(first, 1.2)
    assert call is not None
    first.settle(2.0, call, spent(7_200.0))
    told = first.report(2.0, leaves=True)._replace(exhausted=Exhausted("daily_quota", 7_200.0))
    state, _ = refresh(state, told, 1002.0)
    second = MemberCore(RateLimitConfig(), "b")
    state, grant = refresh(state, second.report(50.0), 1000.0 + 7_190.0)
    assert grant.exhausted == Exhausted("daily_quota", pytest.approx(12.0))
    second.hear(50.0, grant)
    probe = goes(second, 50.0)  # one may try, and no other
    assert probe is not None
    assert goes(second, 50.0) is None
    second.settle(51.0, probe, spent(11.0))
    assert goes(second, 61.9) is None
    assert goes(second, 62.1) is not None


def _patiently(core: MemberCore, now: float) -> None:
    """Wait for the first word however long a busy machine's disk takes: a second may be too short."""
    core.part.closed_until_s = now + 60.0
    core.refresh_at = now


def test_a_restart_does_not_forget_a_spent_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next process sends nothing before the minute is over, then one call; the others say why and until when."""
    monkeypatch.setattr(MemberCore, "await_word", _patiently)
    monkeypatch.setattr(fellowship, "_LAST_WORD_S", 60.0)
    monkeypatch.setattr(sqlite, "_PATIENCE_S", 60.0)
    daily = "Rate limit reached for requests per day (RPD): Limit 200, Used 200. Please try again in 3h20m0s."
    refused = Reply({"error": {"message": daily, "code": "rate_limit_exceeded"}}, 429, {"retry-after": "12000"})

    async def run(server: Loopback, calls: int, breaker_s: float) -> list[Any]:
        keys = {"api_key": "sk-of-the-test", "base_url": f"{server.url}/v1"}
        limits = {"shared": f"sqlite:///{tmp_path}/quota.db", "breaker_s": breaker_s}
        chat = {"provider": "openai", "model": "gpt-4o-mini", "rate_limit": limits, **keys}
        async with LLMClientFactory(LLMConfig.from_dict({"providers": {"chat": chat}})) as factory:
            client = factory.create_completion_client("chat")
            asked = (client.complete(HELLO) for _ in range(calls))
            return await asyncio.gather(*asked, return_exceptions=True)

    with Loopback(refused) as server:
        asyncio.run(run(server, 1, 1_000.0))
        assert len(server.asked) == 1
        unsent = asyncio.run(run(server, 20, 1_000.0))
        assert len(server.asked) == 1
        until = datetime.now(UTC) + timedelta(hours=3, minutes=20)
        for error in unsent:
            assert isinstance(error, BreakerOpenError)
            assert error.reason == "daily_quota"
            assert error.resumes_at is not None
            assert abs(error.resumes_at - until) < timedelta(minutes=5)
    with Loopback(refused) as server:  # another account, whose minute is soon over
        asyncio.run(run(server, 1, 0.001))
        errors = asyncio.run(run(server, 20, 1_000.0))
        assert len(server.asked) == 2
        assert sum(isinstance(error, BreakerOpenError) for error in errors) == 19
    with Loopback(refused) as server:
        asyncio.run(run(server, 1, 0.001))
        server.script[:] = [HI]  # a new day
        answers = asyncio.run(run(server, 1, 0.001)) + asyncio.run(run(server, 20, 0.001))
    assert [answer.text for answer in answers] == ["Hi"] * 21
