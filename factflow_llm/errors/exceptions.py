"""The exceptions this package raises itself: each message names the value, the bound and the remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from factflow_llm.errors.metadata import ErrorReason

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


class FactflowLLMError(Exception):
    """Root of all errors raised by this package; errors of an SDK pass through unchanged and are not among them."""

    reason: ErrorReason = ErrorReason.UNKNOWN


class ConfigurationError(FactflowLLMError, ValueError):
    """A setting is missing, malformed or contradicts another."""

    reason = ErrorReason.CONFIGURATION


class UnknownProfileError(ConfigurationError):
    """No profile of that name is configured."""


class WrongModelTypeError(ConfigurationError):
    """A chat client was asked of an embedding profile, or the reverse."""


class ExtraMissingError(FactflowLLMError, ImportError):
    """A provider's optional packages are not installed."""

    reason = ErrorReason.CONFIGURATION


class InvalidRequestError(FactflowLLMError, ValueError):
    """A call's arguments can never succeed; nothing was sent."""

    reason = ErrorReason.INVALID_REQUEST


class BadResponseError(FactflowLLMError):
    """An answer of status 2xx is no answer: HTML, no JSON, the wrong shape, or an ``error`` object.

    Raised by clients. The classifier reads an ``error`` object in ``body`` as it reads the body of a failed request.

    Attributes:
        status_code: the HTTP status that came with it.
        body: what came instead of an answer (decoded JSON or text); never shown, it may hold user text.
        headers: the HTTP response headers.
        in_stream: it came after an answer had begun.
    """

    reason = ErrorReason.BAD_RESPONSE

    def __init__(
        self,
        message: str,
        *,
        status_code: int = 200,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        in_stream: bool = False,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.in_stream = in_stream
        self.body = body
        self.headers = dict(headers or {})


class PartialEmbeddingError(FactflowLLMError):
    """Some batches of an embedding call failed; what the others brought is here, so that it is not paid for twice.

    It classifies as its cause does, which is one of the failed batches' errors.

    Attributes:
        vectors: one per text, in the texts' order; ``None`` where there is none.
        missing: the positions of the texts without a vector.
        input_tokens: tokens read by the batches that succeeded; ``None`` where the provider did not say.
        reason: the cause's.
    """

    def __init__(
        self,
        message: str,
        *,
        vectors: tuple[tuple[float, ...] | None, ...] = (),
        missing: tuple[int, ...] = (),
        input_tokens: int | None = None,
        reason: ErrorReason = ErrorReason.UNKNOWN,
    ) -> None:
        super().__init__(message)
        self.vectors = vectors
        self.missing = missing
        self.input_tokens = input_tokens
        self.reason = reason


class DeadlineExceededError(FactflowLLMError, TimeoutError):
    """The caller's deadline passes before the call is over, wherever it is: waiting, retrying, answering, streaming."""

    reason = ErrorReason.DEADLINE


class ClosedError(FactflowLLMError, RuntimeError):
    """The client, its limiter or the factory was closed or drains; the call was not sent, or its wait was ended."""

    reason = ErrorReason.CLOSED


class BreakerOpenError(FactflowLLMError):
    """The quota is exhausted for longer than waiting makes sense; the call was not sent.

    Attributes:
        reason: what exhausted it, such as ``ErrorReason.QUOTA`` or ``ErrorReason.DAILY_QUOTA``.
        resumes_at: when access returns, where the provider said so.
    """

    def __init__(
        self, message: str, *, reason: ErrorReason = ErrorReason.QUOTA, resumes_at: datetime | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.resumes_at = resumes_at


class QueueFullError(FactflowLLMError):
    """As many calls wait as the settings allow (``max_queue``), and none of them is less urgent; it was not sent."""

    reason = ErrorReason.QUEUE_FULL


class BudgetSpentError(FactflowLLMError):
    """The job's budget or time is spent: the call was not sent, and its item is left for another day."""

    reason = ErrorReason.BUDGET


class JournalError(ConfigurationError):
    """A job's journal cannot be read or written, or is another job's."""


class WrongEventLoopError(FactflowLLMError, RuntimeError):
    """A limiter or client is used in another event loop than the one it belongs to."""

    reason = ErrorReason.MISUSE


class PermitSettledError(FactflowLLMError, RuntimeError):
    """A permit is settled a second time."""

    reason = ErrorReason.MISUSE


class UnfinishedStreamError(FactflowLLMError, RuntimeError):
    """A stream's answer is asked for before its last chunk has come."""

    reason = ErrorReason.MISUSE
