"""The closed vocabularies in which an error is described, and the description itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from factflow_llm.signals import Axis, AxisLimit, Outcome

if TYPE_CHECKING:
    from datetime import datetime


class LLMErrorClassification(StrEnum):
    """What to do about an error: send again, give up, or send again once the quota allows."""

    RETRYABLE = "retryable"
    TERMINAL = "terminal"
    RATE_LIMITED = "rate_limited"


class ErrorReason(StrEnum):
    """What went wrong, in one word. Each word implies a classification: see ``REASONS``."""

    # the provider, or the way there
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    SERVER = "server"
    OVERLOADED = "overloaded"
    NOT_READY = "not_ready"
    CONFLICT = "conflict"
    MODEL_ERROR = "model_error"
    BAD_RESPONSE = "bad_response"
    UNSPECIFIED = "unspecified"
    # a limit that refills
    RATE_LIMIT = "rate_limit"
    RAMP = "ramp"
    CAPACITY = "capacity"
    QUOTA_WINDOW = "quota_window"
    SERVICE_QUOTA = "service_quota"
    # every request of this account or configuration
    CONFIGURATION = "configuration"
    AUTHENTICATION = "authentication"
    PERMISSION = "permission"
    NOT_FOUND = "not_found"
    QUOTA = "quota"
    DAILY_QUOTA = "daily_quota"
    # this request
    INVALID_REQUEST = "invalid_request"
    CONTEXT_LENGTH = "context_length"
    CONTENT_FILTER = "content_filter"
    REQUEST_EXCEEDS_LIMIT = "request_exceeds_limit"
    BATCH_TOO_LARGE = "batch_too_large"
    OUT_OF_MEMORY = "out_of_memory"
    # this process
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    CLOSED = "closed"
    QUEUE_FULL = "queue_full"
    BUDGET = "budget"
    MISUSE = "misuse"
    UNKNOWN = "unknown"


class LimitKind(StrEnum):
    """Which kind of limit refused a request. ``DAY`` (or longer) and ``SPEND`` do not refill while one waits."""

    REQUESTS = "requests"
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    TOKENS = "tokens"
    CONCURRENCY = "concurrency"
    DAY = "day"
    SPEND = "spend"


class Phase(StrEnum):
    """How far an attempt had come when its transport failed."""

    POOL = "pool"
    CONNECT = "connect"
    WRITE = "write"
    READ = "read"


class Consequence(NamedTuple):
    """What follows from a reason.

    Attributes:
        classification: what to do.
        fatal: whether every other request of the same client will fail likewise.
        outcome: what the limiter learns from it.
        max_attempts: attempts worth making in all; ``None`` leaves that to the retry policy.
    """

    classification: LLMErrorClassification
    fatal: bool = False
    outcome: Outcome = Outcome.IGNORED
    max_attempts: int | None = None


_RETRYABLE = Consequence(LLMErrorClassification.RETRYABLE)
_OVERLOADED = Consequence(LLMErrorClassification.RETRYABLE, outcome=Outcome.OVERLOADED)
_ONCE_MORE = Consequence(LLMErrorClassification.RETRYABLE, max_attempts=2)
_LIMITED = Consequence(LLMErrorClassification.RATE_LIMITED, outcome=Outcome.RATE_LIMITED)
_TERMINAL = Consequence(LLMErrorClassification.TERMINAL)
_FATAL = Consequence(LLMErrorClassification.TERMINAL, fatal=True)
_EXHAUSTED = Consequence(LLMErrorClassification.TERMINAL, fatal=True, outcome=Outcome.EXHAUSTED)

REASONS: dict[ErrorReason, Consequence] = {
    ErrorReason.TIMEOUT: _OVERLOADED,
    ErrorReason.CONNECTION: _RETRYABLE,
    ErrorReason.SERVER: _RETRYABLE,
    ErrorReason.OVERLOADED: _OVERLOADED,
    ErrorReason.NOT_READY: _RETRYABLE,
    ErrorReason.CONFLICT: _RETRYABLE,
    ErrorReason.MODEL_ERROR: _ONCE_MORE,
    ErrorReason.BAD_RESPONSE: _ONCE_MORE,
    ErrorReason.UNSPECIFIED: _RETRYABLE,
    ErrorReason.RATE_LIMIT: _LIMITED,
    ErrorReason.RAMP: _LIMITED,
    ErrorReason.CAPACITY: _LIMITED,
    ErrorReason.QUOTA_WINDOW: _LIMITED,
    ErrorReason.SERVICE_QUOTA: _LIMITED._replace(max_attempts=3),
    ErrorReason.CONFIGURATION: _FATAL,
    ErrorReason.AUTHENTICATION: _EXHAUSTED,
    ErrorReason.PERMISSION: _FATAL,
    ErrorReason.NOT_FOUND: _FATAL,
    ErrorReason.QUOTA: _EXHAUSTED,
    ErrorReason.DAILY_QUOTA: _EXHAUSTED,
    ErrorReason.INVALID_REQUEST: _TERMINAL,
    ErrorReason.CONTEXT_LENGTH: _TERMINAL,
    ErrorReason.CONTENT_FILTER: _TERMINAL,
    ErrorReason.REQUEST_EXCEEDS_LIMIT: _TERMINAL,
    ErrorReason.BATCH_TOO_LARGE: _TERMINAL,
    ErrorReason.OUT_OF_MEMORY: _TERMINAL,
    ErrorReason.CANCELLED: _TERMINAL,
    ErrorReason.DEADLINE: _TERMINAL,
    ErrorReason.CLOSED: _FATAL,
    ErrorReason.QUEUE_FULL: _FATAL,
    ErrorReason.BUDGET: _FATAL,
    ErrorReason.MISUSE: _TERMINAL,
    ErrorReason.UNKNOWN: _TERMINAL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorMetadata:
    """What is known about one error. Plain values only: it pickles, and holds neither message, prompt nor secret.

    Attributes:
        classification: what to do.
        reason: what went wrong.
        fatal: whether every other request of the same client will fail likewise: stop the run.
        outcome: what the limiter learns from it.
        max_attempts: attempts worth making in all; ``None`` leaves that to the retry policy.
        provider: ``openai``, ``azure``, ``anthropic``, ``bedrock`` or ``huggingface``; ``None`` when nothing tells.
        status_code: HTTP status; 200 for an error inside a stream that began well.
        code: the provider's machine code, the most specific one (AWS: the exception's name).
        type: the provider's error type.
        param: the request parameter the provider blames.
        request_id: what the provider's support asks for.
        retry_after_s: the wait the provider asks for, uncapped; ``None`` when it asks for none.
        retry_after_source: the header or body field that says so, or ``message``.
        resumes_at: when the provider says that access returns (a spend limit's reset).
        axis: the metered dimension that refused.
        limit_kind: the kind of limit that refused.
        limits: the limits that the headers showed.
        in_stream: the error came inside a stream that had begun well.
        phase: how far the attempt had come, for transport errors.
        request_sent: ``False`` when nothing was sent, so that sending again duplicates nothing; ``None`` when unknown.
        exception_types: the chain of exception types, outermost first.
    """

    classification: LLMErrorClassification
    reason: ErrorReason
    fatal: bool = False
    outcome: Outcome = Outcome.IGNORED
    max_attempts: int | None = None
    provider: str | None = None
    status_code: int | None = None
    code: str | None = None
    type: str | None = None
    param: str | None = None
    request_id: str | None = None
    retry_after_s: float | None = None
    retry_after_source: str | None = None
    resumes_at: datetime | None = None
    axis: Axis | None = None
    limit_kind: LimitKind | None = None
    limits: tuple[AxisLimit, ...] = ()
    in_stream: bool = False
    phase: Phase | None = None
    request_sent: bool | None = None
    exception_types: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say it in one line fit for a log."""
        facts = [
            self.provider,
            f"HTTP {self.status_code}" if self.status_code else None,
            self.code or self.type,
            f"{self.limit_kind} limit" if self.limit_kind else None,
            f"{self.phase} phase" if self.phase else None,
            "in stream" if self.in_stream else None,
            f"retry after {self.retry_after_s:g} s ({self.retry_after_source})"
            if self.retry_after_s is not None
            else None,
        ]
        return f"{self.classification} ({self.reason})" + "".join(f", {fact}" for fact in facts if fact)
