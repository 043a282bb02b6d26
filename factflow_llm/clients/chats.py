"""A chat request in neutral form: what a client is asked, once it is checked and before it is put in an SDK's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from factflow_llm.types import Message, Reasoning, Tool, ToolChoice


class Wishes(NamedTuple):
    """What most providers understand, each in words of its own; ``None`` leaves it to the provider.

    Attributes:
        tool_choice: ``auto``, ``none``, ``required``, the name of a tool, or the provider's own mapping.
        parallel_tool_calls: whether several tools may be called at once.
        reasoning: how much to think: an effort, from ``none`` to ``max``, or a budget in tokens.
        seed: makes answers repeatable, as far as the provider can.
        n: how many answers to give.
        logprobs: true for the probability of each token written, or how many likelier ones to tell beside it.
    """

    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    seed: int | None = None
    n: int | None = None
    logprobs: bool | int | None = None


class Chat(NamedTuple):
    """A checked chat request, still in neutral form.

    Attributes:
        messages: the conversation, at least one turn.
        max_tokens: longest answer; ``None`` for the provider's default.
        temperature: ``None`` for the provider's default.
        stop: texts at which the model stops.
        tools: functions the model may call.
        response_format: a pydantic model, a JSON schema, or the provider's own mapping; ``None`` for plain text.
        options: whatever only this provider understands.
        wishes: what most providers understand.
    """

    messages: Sequence[Message]
    max_tokens: int | None
    temperature: float | None
    stop: list[str]
    tools: Sequence[Tool | Mapping[str, Any]]
    response_format: Any
    options: dict[str, Any]
    wishes: Wishes
