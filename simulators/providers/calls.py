"""Calls as a provider sees them, and what they cost: rules that guess a call's tokens, and rules that settle it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from factflow_llm.signals import Axis


class CallKind(StrEnum):
    """What a call asks for."""

    CHAT = "chat"
    EMBEDDING = "embedding"


@dataclass(slots=True)
class Call:
    """One request as the provider sees it; a retry is the same call again.

    ``index`` is the call's place in the world: its luck is drawn by it, whatever the policy.
    """

    index: int
    input_tokens: int
    output_tokens: int = 0
    max_tokens: int | None = None
    kind: CallKind = CallKind.CHAT
    cached_input_tokens: int = 0


CostRule = Callable[[Call], float]
FinalRule = Callable[[Call, float], float]


class Estimate(StrEnum):
    """How a provider guesses a call's tokens before it runs.

    ``SUM`` is input plus ``max_tokens`` (captures of OpenAI traffic fit it), ``MAX`` the larger of both (what OpenAI's
    guide says), ``INPUT`` the input alone, ``OUTPUT`` ``max_tokens`` alone (what Microsoft's Azure simulator does). An
    embedding call has no output whatever the rule.
    """

    SUM = "sum"
    MAX = "max"
    INPUT = "input"
    OUTPUT = "output"


class Settlement(StrEnum):
    """What becomes of the estimate once the answer is complete.

    ``NEVER`` keeps it (unused ``max_tokens`` are not given back), ``AT_END`` corrects it to the tokens really used,
    ``REALTIME`` charges output only once it has been produced.
    """

    NEVER = "never"
    AT_END = "at_end"
    REALTIME = "realtime"


def input_rule(cached_input_counts: bool) -> CostRule:
    """Return what a call's input costs."""
    if cached_input_counts:
        return lambda call: call.input_tokens
    return lambda call: call.input_tokens - call.cached_input_tokens


def output_rule(weight: float, unset: int) -> CostRule:
    """Return what a call's output is guessed to cost; ``unset`` tokens where a chat names no ``max_tokens``."""

    def output_of(call: Call) -> float:
        if call.kind is CallKind.EMBEDDING:
            return 0.0
        return weight * (unset if call.max_tokens is None else call.max_tokens)

    return output_of


def estimate_rule(estimate: Estimate, input_of: CostRule, output_of: CostRule) -> CostRule:
    """Return what input and output together are guessed to cost."""
    return {
        Estimate.SUM: lambda call: input_of(call) + output_of(call),
        Estimate.MAX: lambda call: max(input_of(call), output_of(call)),
        Estimate.INPUT: input_of,
        Estimate.OUTPUT: lambda call: input_of(call) if call.kind is CallKind.EMBEDDING else output_of(call),
    }[estimate]


def final_rule(axis: Axis, input_of: CostRule, weight: float) -> FinalRule:
    """Return what a call that produced so many tokens costs in the end."""
    if axis is Axis.INPUT_TOKENS:
        return lambda call, produced: input_of(call)
    if axis is Axis.OUTPUT_TOKENS:
        return lambda call, produced: weight * produced
    return lambda call, produced: input_of(call) + weight * produced


def nothing(call: Call) -> float:
    """Return the cost of a call that is charged for what it produces alone."""
    return 0.0


def released(call: Call, produced: float) -> float:
    """Return what a call that ended holds of slots."""
    return 0.0
