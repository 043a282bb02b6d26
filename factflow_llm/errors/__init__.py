"""Errors: our own exceptions, and one classifier for everybody else's. Needs no SDK and imports none."""

from factflow_llm.errors.bodies import failure_inside
from factflow_llm.errors.classify import (
    classify_llm_error,
    get_error_metadata,
    is_fatal_llm_error,
    is_retryable_llm_error,
    stamina_hook,
)
from factflow_llm.errors.exceptions import (
    BadResponseError,
    BreakerOpenError,
    ClosedError,
    ConfigurationError,
    DeadlineExceededError,
    ExtraMissingError,
    FactflowLLMError,
    InvalidRequestError,
    PartialEmbeddingError,
    PermitSettledError,
    QueueFullError,
    UnfinishedStreamError,
    UnknownProfileError,
    WrongEventLoopError,
    WrongModelTypeError,
)
from factflow_llm.errors.metadata import ErrorMetadata, ErrorReason, LimitKind, LLMErrorClassification, Phase

__all__ = [
    "BadResponseError",
    "BreakerOpenError",
    "ClosedError",
    "ConfigurationError",
    "DeadlineExceededError",
    "ErrorMetadata",
    "ErrorReason",
    "ExtraMissingError",
    "FactflowLLMError",
    "InvalidRequestError",
    "LLMErrorClassification",
    "LimitKind",
    "PartialEmbeddingError",
    "PermitSettledError",
    "Phase",
    "QueueFullError",
    "UnfinishedStreamError",
    "UnknownProfileError",
    "WrongEventLoopError",
    "WrongModelTypeError",
    "classify_llm_error",
    "failure_inside",
    "get_error_metadata",
    "is_fatal_llm_error",
    "is_retryable_llm_error",
    "stamina_hook",
]
