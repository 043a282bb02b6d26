"""What most providers understand, in Anthropic's words: which tools to call, how much to think, how long to answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from factflow_llm.clients.efforts import BUDGETS, effort_of
from factflow_llm.errors import InvalidRequestError
from factflow_llm.types import TOOL_CHOICES, ToolChoice

if TYPE_CHECKING:
    from factflow_llm.clients.chats import Chat

MIN_BUDGET = 1_024

_MODEL = re.compile(r"claude-(?:[a-z]+-)?(\d)(?:[-.](\d{1,2}))?(?!\d)")
_ADAPTIVE, _ONLY_ADAPTIVE, _XHIGH = (4, 6), (4, 7), (4, 7)


def say_wishes(call: Chat, *, model: str, default_max_tokens: int) -> dict[str, Any]:
    """Say a call's wishes and the longest answer, which Anthropic counts with the thoughts.

    Raises:
        InvalidRequestError: for what Anthropic cannot do.
    """
    wishes = call.wishes
    for name, asked, remedy in (
        ("seed", wishes.seed is not None, "leave it out"),
        ("n", (wishes.n or 1) > 1, "call as often as you want answers"),
        ("logprobs", bool(wishes.logprobs), "leave it out"),
    ):
        if asked:
            raise InvalidRequestError(f"Anthropic has no option {name!r}: {remedy}")
    said: dict[str, Any] = {"max_tokens": call.max_tokens or default_max_tokens}
    if choice := _say_tool_choice(wishes.tool_choice, parallel=wishes.parallel_tool_calls):
        said["tool_choice"] = choice
    if wishes.reasoning is not None:
        thoughts, budget = _say_reasoning(wishes.reasoning, model, call.max_tokens)
        said |= thoughts
        if call.max_tokens is None:
            said["max_tokens"] += budget
    return said


def _say_tool_choice(choice: ToolChoice | None, *, parallel: bool | None) -> dict[str, Any] | None:
    """Say which tools may or must be called, and whether several at once; ``None`` when neither was asked."""
    if isinstance(choice, Mapping):
        said = dict(choice)
    elif choice in TOOL_CHOICES or choice is None:
        said = {"type": "any" if choice == "required" else choice or "auto"}
    else:
        said = {"type": "tool", "name": choice}
    if parallel is None or said.get("type") == "none":
        return None if choice is None else said
    return {**said, "disable_parallel_tool_use": not parallel}


def _say_reasoning(reasoning: int | str, model: str, max_tokens: int | None) -> tuple[dict[str, Any], int]:
    """Say how much to think, in the way this model knows; return the tokens it is worth, too.

    Since 4.6 a Claude takes an effort, since 4.7 nothing else; before, a budget. One of no version takes what is said.
    """
    if reasoning == "none":
        return {"thinking": {"type": "disabled"}}, 0
    found = _MODEL.search(model)
    version = (int(found[1]), int(found[2] or 0)) if found else None
    if isinstance(reasoning, str):
        adaptive = version is None or version >= _ADAPTIVE
    else:
        adaptive = version is not None and version >= _ONLY_ADAPTIVE
    if not adaptive:
        budget = _budget(reasoning, max_tokens)
        return {"thinking": {"type": "enabled", "budget_tokens": budget}}, budget
    effort = reasoning if isinstance(reasoning, str) else effort_of(reasoning)
    worth = BUDGETS[effort]
    if effort == "minimal":
        effort = "low"
    if effort == "xhigh" and version is not None and version < _XHIGH:
        effort = "high"
    return {"thinking": {"type": "adaptive"}, "output_config": {"effort": effort}}, worth


def _budget(reasoning: int | str, max_tokens: int | None) -> int:
    """Return the budget for thoughts, which must leave room for an answer; an effort takes what room there is."""
    room = BUDGETS["max"] if max_tokens is None else max_tokens - 1
    budget = min(BUDGETS[reasoning], room) if isinstance(reasoning, str) else reasoning
    if budget < MIN_BUDGET or budget > room:
        raise InvalidRequestError(
            f"reasoning={reasoning!r} with max_tokens={max_tokens!r}: Anthropic thinks in no fewer than {MIN_BUDGET} "
            "tokens, and max_tokens, which holds thoughts and answer, must be above them"
        )
    return budget
