"""What an effort is worth in tokens, where one provider thinks in efforts and another in budgets."""

from __future__ import annotations

from factflow_llm.types import EFFORTS

BUDGETS = {"minimal": 1_024, "low": 2_048, "medium": 8_192, "high": 16_384, "xhigh": 32_768, "max": 63_999}
"""Thinking tokens by effort; the last is the most every thinking Claude can write beside one token of answer."""


def effort_of(budget: int) -> str:
    """Return the least effort worth so many tokens."""
    return next((effort for effort, worth in BUDGETS.items() if worth >= budget), EFFORTS[-1])
