"""A budget is overdrawn by no more than what is in flight, however wrong the estimates are."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factflow_llm import BudgetSpentError, Message
from factflow_llm.jobs.budget import JobBudget
from factflow_llm.jobs.results import Spent
from factflow_llm.watching import Wanted
from tests.support.faces import openai_answer
from tests.support.loopback import Loopback, Reply
from tests.test_jobs import make

if TYPE_CHECKING:
    from factflow_llm import CompletionResponse
    from factflow_llm.types import Usage

CALLS = st.lists(
    st.tuples(st.integers(0, 50), st.one_of(st.none(), st.integers(1, 50)), st.integers(0, 400)),
    min_size=1,
    max_size=40,
)
"""What a call is expected to read, what it may write at most, and what it uses in fact."""


@given(CALLS, st.integers(1, 8), st.integers(1, 20), st.integers(1, 2000))
def test_only_what_is_in_flight_can_be_overspent(
    calls: list[tuple[int, int | None, int]], fly: int, wait: int, cap: int
) -> None:
    """Whoever waits, whatever calls use: what is spent at the end exceeds the cap by what was in flight, at most."""

    async def drive() -> None:
        budget = JobBudget(None, cap, None)
        waiting: deque[tuple[Wanted, tuple[Usage, float], int]] = deque()
        flying: deque[tuple[tuple[Usage, float], int]] = deque()
        excess = 0

        def step() -> None:
            """Send who is first in line, where there is room for it; otherwise let the oldest in flight end."""
            nonlocal excess
            if waiting and len(flying) < fly:
                wanted, aside, used = waiting.popleft()
                sent = budget.send(wanted, aside)
                if sent is None:
                    budget.settle(aside, None)
                    return
                flying.append((sent, used))
                assert budget.spent.tokens + sum(aside[0].total_tokens or 0 for aside, _ in flying) <= cap
                excess = sum(max(0, used - (aside[0].total_tokens or 0)) for aside, used in flying)
            elif flying:
                aside, used = flying.popleft()
                budget.settle(aside, Spent(0, used))

        for read, most, used in calls:
            wanted = Wanted("model", "", read, most, lambda _: None)
            reserving = asyncio.ensure_future(budget.reserve(wanted))
            await asyncio.sleep(0)
            while not reserving.done() or len(waiting) >= wait:
                step()
                await asyncio.sleep(0)
            try:
                waiting.append((wanted, await reserving, used))
            except BudgetSpentError:
                break
        while waiting or flying:
            step()
        assert budget.spent.tokens <= cap + excess

    asyncio.run(drive())


@pytest.mark.parametrize("cap", [600, 2500])
def test_those_who_wait_are_looked_at_again(cap: int) -> None:
    """Hundreds wait for two slots, all let in by a low estimate; when answers prove long, they are not sent."""
    usage = {"prompt_tokens": 10, "completion_tokens": 500, "total_tokens": 510}
    long = Reply(openai_answer({"role": "assistant", "content": "so long"}, finish="stop", usage=usage))

    async def main(server: Loopback) -> int:
        async with make(server, rate_limit={"initial_concurrency": 2, "max_concurrency": 2}) as factory:
            client = factory.create_completion_client("chat")

            async def call(item: int) -> CompletionResponse:
                return await client.complete([Message.user(f"item {item}")])

            job = factory.map(range(200), call, max_tokens_total=cap)
            results = [result async for result in job]
            assert (job.ended, len(results)) == ("max_tokens_total", len(server.asked))
            return job.spent.tokens

    with Loopback(long) as server:
        spent = asyncio.run(main(server))
    assert cap - 510 < spent <= cap + 2 * 510
