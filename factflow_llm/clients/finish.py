"""Why a model stopped, in the words of all servers: normalised to the closed set ``FinishReason``."""

from __future__ import annotations

import re
from functools import lru_cache

from factflow_llm.types import FinishReason

_WORDS = {
    FinishReason.STOP: """
        stop stopped eos eos_token eos_found end_turn end_of_turn end_of_text endoftext stop_sequence stop_token
        stop_word stop_words stop_str end complete completed done finish finished success normal
        """,
    FinishReason.LENGTH: """
        length max_tokens max_token max_length max_new_tokens max_output_tokens max_completion_tokens model_length
        token_limit token_limit_reached error_limit length_limit max_context_length model_context_window_exceeded
        context_window_exceeded context_length_exceeded
        """,
    FinishReason.TOOL_CALLS: """
        tool_calls tool_call tool_use function_call function_calls tools function
        """,
    FinishReason.CONTENT_FILTER: """
        content_filter content_filtered safety image_safety sensitive refusal recitation image_recitation
        prohibited_content image_prohibited_content blocklist spii guardrail_intervened guardrails blocked error_toxic
        moderation content_moderation content_policy content_policy_violation content_blocked risk_control
        """,
    FinishReason.OTHER: "malformed_function_call function_call_filter pause_turn",
}
_LIKELY = (
    (re.compile(r"filter|safety|sensitive|moderat|polic|prohibit|blocklist|guardrail"), FinishReason.CONTENT_FILTER),
    (re.compile(r"maxtoken|maxoutput|length|tokenlimit|contextwindow"), FinishReason.LENGTH),
)
"""What a word nobody has listed most probably says."""
_PUNCTUATION = re.compile(r"[^a-z0-9]+")
_REASONS = {_PUNCTUATION.sub("", word): reason for reason, words in _WORDS.items() for word in words.split()}


def read_finish(word: str | None, *, refused: bool = False, calls: bool = False) -> FinishReason | None:
    """Normalise a finish word: case and punctuation do not matter, nor what follows a colon.

    Args:
        word: the server's own; ``None`` or empty when it told none.
        refused: the model refused in words, which OpenAI ends with ``stop``.
        calls: the answer holds tool calls: a plain stop, or no word at all, then means that they are wanted.
    """
    reason = _normal(word) if word else None
    if refused and word:
        return FinishReason.CONTENT_FILTER
    return FinishReason.TOOL_CALLS if calls and reason in {None, FinishReason.STOP} else reason


@lru_cache(maxsize=256)
def _normal(word: str) -> FinishReason | None:
    squashed = _PUNCTUATION.sub("", word.partition(":")[0].rpartition(".")[2].lower())
    if not squashed or squashed in _REASONS:
        return _REASONS.get(squashed)
    return next((reason for said, reason in _LIKELY if said.search(squashed)), FinishReason.OTHER)
