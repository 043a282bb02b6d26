"""What must not pass: a checker that stays silent on one of these lines fails, for then its ignore is unused."""

# ruff: noqa: B018
from __future__ import annotations

import factflow_llm as ff
import simulators as sim


async def misspelt(factory: ff.LLMClientFactory, scenario: sim.Scenario) -> None:
    """Misspell names, give by position what has a name, and words for a number."""
    ff.LLMClientFactori  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    sim.plot_overveiw  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    sim.simulate(scenario, ff.RateLimitConfig(), 7)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    chat = factory.create_completion_client()
    await chat.complete([], deadline_s="2 s")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    asked = factory.sync().create_completion_client()
    asked.complete([], max_tokens="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
