"""One schema for what became of requests: runs that were simulated and runs that were recorded speak it alike.

So every figure and every plot takes both. Times are seconds from the start of the run, rates are per second.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from factflow_llm.errors.metadata import REASONS
from factflow_llm.recorder import RowOutcome
from factflow_llm.signals import Outcome

CANCELLED: Final = "cancelled"
UNANSWERED: Final = "unanswered"
"""The outcome of an attempt that was in flight when the run ended."""
REFUSED: Final = "refused"
"""The outcome of what our own line sent away unsent; only recordings list it."""
OUTCOMES: Final = (*map(str, Outcome), CANCELLED, UNANSWERED, REFUSED)
"""Words of ``attempts["outcome"]``."""

ATTEMPT_COLUMNS: Final = (
    "request", "attempt", "client", "arrival_s", "admitted_s", "sent_s", "first_chunk_s", "end_s", "status", "outcome",
    "retry_after_s", "rate_per_s", "reason", "in_flight", "queued",
)  # fmt: skip
"""What the frame of attempts holds, whoever made it; each may hold more."""

REQUEST_COLUMNS: Final = (
    "request", "client", "arrival_s", "admitted_s", "end_s", "attempts", "outcome", "input_tokens", "output_tokens",
    "wait_s", "latency_s",
)  # fmt: skip
"""What the frame of requests holds, whoever made it."""


class Ending(StrEnum):
    """The closed set of ways in which a request ends."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    NEVER_ADMISSIBLE = "never_admissible"
    REFUSED_DEADLINE = "refused_deadline"
    REFUSED_BREAKER = "refused_breaker"
    REFUSED_QUEUE_FULL = "refused_queue_full"
    CANCELLED = "cancelled"
    UNFINISHED = "unfinished"


_RECORDED: Final[dict[str | None, str]] = {
    RowOutcome.OK: str(Outcome.SUCCEEDED),
    RowOutcome.RATE_LIMITED: str(Outcome.RATE_LIMITED),
    RowOutcome.REJECTED_LOCAL: REFUSED,
    RowOutcome.CANCELLED: CANCELLED,
}
_FAILURES: Final[dict[str | None, str]] = {str(reason): str(each.outcome) for reason, each in REASONS.items()}


def outcome_recorded(word: str | None, error: str | None) -> str | None:
    """Return the outcome that a recorder's words for outcome and error mean; ``None`` for words it does not use."""
    if word in (RowOutcome.ERROR, RowOutcome.TIMEOUT):
        return _FAILURES.get(error, str(Outcome.IGNORED))
    return _RECORDED.get(word)


def ending_of(outcome: str | None, error: str | None) -> Ending:
    """Return how a request ended whose last attempt had that outcome and error."""
    if outcome == REFUSED:
        return Ending.REFUSED_DEADLINE if error == "deadline" else Ending.REFUSED_BREAKER
    if outcome == CANCELLED:
        return Ending.CANCELLED
    return Ending.SUCCEEDED if outcome == Outcome.SUCCEEDED else Ending.FAILED
