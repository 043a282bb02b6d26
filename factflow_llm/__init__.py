"""One client for every language model provider, behind a limiter that finds the quota by itself.

Names are loaded when they are first used (PEP 562): importing the package imports no SDK, no pydantic, nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from factflow_llm.clients.anthropic import AnthropicClient
    from factflow_llm.clients.azure import AzureOpenAIClient
    from factflow_llm.clients.base import BaseLLMClient
    from factflow_llm.clients.bedrock import BedrockEmbeddingClient
    from factflow_llm.clients.bedrock_chat import BedrockClient
    from factflow_llm.clients.embeddings import BaseEmbeddingClient
    from factflow_llm.clients.huggingface import HuggingFaceEmbeddingClient
    from factflow_llm.clients.openai import OpenAIClient
    from factflow_llm.clients.stream import ChatStream
    from factflow_llm.errors import (
        BadResponseError,
        BreakerOpenError,
        BudgetSpentError,
        ClosedError,
        ConfigurationError,
        DeadlineExceededError,
        ErrorMetadata,
        ErrorReason,
        ExtraMissingError,
        FactflowLLMError,
        InvalidRequestError,
        JournalError,
        LLMErrorClassification,
        PartialEmbeddingError,
        PermitSettledError,
        QueueFullError,
        UnfinishedStreamError,
        UnknownProfileError,
        WrongEventLoopError,
        WrongModelTypeError,
        classify_llm_error,
        get_error_metadata,
        is_fatal_llm_error,
        is_retryable_llm_error,
        stamina_hook,
    )
    from factflow_llm.factory import LLMClientFactory
    from factflow_llm.jobs.batch import BatchJob
    from factflow_llm.jobs.embedding import EmbeddingJob
    from factflow_llm.jobs.job import Job
    from factflow_llm.jobs.results import JobResult
    from factflow_llm.protocols import (
        EmbeddingClientProtocol,
        LimitedEmbeddingClientProtocol,
        LimitedLLMClientProtocol,
        LLMClientProtocol,
    )
    from factflow_llm.providers import ModelType, ProviderName
    from factflow_llm.ratelimit.client import RateLimitedClient, RateLimitedEmbeddingClient
    from factflow_llm.ratelimit.config import RateLimitConfig, RetryConfig
    from factflow_llm.ratelimit.limiter import AdaptiveRateLimiter, Permit
    from factflow_llm.ratelimit.metrics import AIMDMetrics
    from factflow_llm.recorder import AttemptRow, AttemptSink, Recorder
    from factflow_llm.settings import LLMConfig, LLMProviderConfig
    from factflow_llm.signals import Axis, AxisLimit, Change, Outcome, RateLimitSignal, Reason
    from factflow_llm.status import ProfileStatus
    from factflow_llm.sync import SyncClient, SyncEmbeddingClient, SyncFactory, SyncJob, SyncStream
    from factflow_llm.telemetry import Telemetry
    from factflow_llm.tokens import TokenCount, count_message_tokens, count_tokens, estimate_tokens, fetch_vocabulary
    from factflow_llm.types import (
        AudioPart,
        CompletionResponse,
        DocumentPart,
        EmbeddingResponse,
        FinishReason,
        ImagePart,
        Message,
        ProviderState,
        Role,
        StreamChunk,
        TextPart,
        TokenLogprob,
        Tool,
        ToolCall,
        ToolCallDelta,
        Usage,
    )

    ANTHROPIC_AVAILABLE: bool
    BEDROCK_AVAILABLE: bool
    SENTENCE_TRANSFORMERS_AVAILABLE: bool

__all__ = [  # noqa: RUF022 - in the order of sorted()
    "AIMDMetrics",
    "ANTHROPIC_AVAILABLE",
    "AdaptiveRateLimiter",
    "AnthropicClient",
    "AttemptRow",
    "AttemptSink",
    "AudioPart",
    "Axis",
    "AxisLimit",
    "AzureOpenAIClient",
    "BEDROCK_AVAILABLE",
    "BadResponseError",
    "BaseEmbeddingClient",
    "BaseLLMClient",
    "BatchJob",
    "BedrockClient",
    "BedrockEmbeddingClient",
    "BreakerOpenError",
    "BudgetSpentError",
    "Change",
    "ChatStream",
    "ClosedError",
    "CompletionResponse",
    "ConfigurationError",
    "DeadlineExceededError",
    "DocumentPart",
    "EmbeddingClientProtocol",
    "EmbeddingJob",
    "EmbeddingResponse",
    "ErrorMetadata",
    "ErrorReason",
    "ExtraMissingError",
    "FactflowLLMError",
    "FinishReason",
    "HuggingFaceEmbeddingClient",
    "ImagePart",
    "InvalidRequestError",
    "Job",
    "JobResult",
    "JournalError",
    "LLMClientFactory",
    "LLMClientProtocol",
    "LLMConfig",
    "LLMErrorClassification",
    "LLMProviderConfig",
    "LimitedEmbeddingClientProtocol",
    "LimitedLLMClientProtocol",
    "Message",
    "ModelType",
    "OpenAIClient",
    "Outcome",
    "PartialEmbeddingError",
    "Permit",
    "PermitSettledError",
    "ProfileStatus",
    "ProviderName",
    "ProviderState",
    "QueueFullError",
    "RateLimitConfig",
    "RateLimitSignal",
    "RateLimitedClient",
    "RateLimitedEmbeddingClient",
    "Reason",
    "Recorder",
    "RetryConfig",
    "Role",
    "SENTENCE_TRANSFORMERS_AVAILABLE",
    "StreamChunk",
    "SyncClient",
    "SyncEmbeddingClient",
    "SyncFactory",
    "SyncJob",
    "SyncStream",
    "Telemetry",
    "TextPart",
    "TokenCount",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "UnfinishedStreamError",
    "UnknownProfileError",
    "Usage",
    "WrongEventLoopError",
    "WrongModelTypeError",
    "classify_llm_error",
    "count_message_tokens",
    "count_tokens",
    "estimate_tokens",
    "fetch_vocabulary",
    "get_error_metadata",
    "is_fatal_llm_error",
    "is_retryable_llm_error",
    "stamina_hook",
]

_HOMES = {
    name: f"{__name__}.{module}"
    for module, names in {
        "clients.anthropic": ("AnthropicClient",),
        "clients.azure": ("AzureOpenAIClient",),
        "clients.base": ("BaseLLMClient",),
        "clients.bedrock": ("BedrockEmbeddingClient",),
        "clients.bedrock_chat": ("BedrockClient",),
        "clients.embeddings": ("BaseEmbeddingClient",),
        "clients.huggingface": ("HuggingFaceEmbeddingClient",),
        "clients.openai": ("OpenAIClient",),
        "clients.stream": ("ChatStream",),
        "errors": (
            "BadResponseError",
            "BreakerOpenError",
            "BudgetSpentError",
            "ClosedError",
            "ConfigurationError",
            "DeadlineExceededError",
            "ErrorMetadata",
            "ErrorReason",
            "ExtraMissingError",
            "FactflowLLMError",
            "InvalidRequestError",
            "JournalError",
            "LLMErrorClassification",
            "PartialEmbeddingError",
            "PermitSettledError",
            "QueueFullError",
            "UnfinishedStreamError",
            "UnknownProfileError",
            "WrongEventLoopError",
            "WrongModelTypeError",
            "classify_llm_error",
            "get_error_metadata",
            "is_fatal_llm_error",
            "is_retryable_llm_error",
            "stamina_hook",
        ),
        "factory": ("LLMClientFactory",),
        "jobs.batch": ("BatchJob",),
        "jobs.embedding": ("EmbeddingJob",),
        "jobs.job": ("Job",),
        "jobs.results": ("JobResult",),
        "protocols": (
            "EmbeddingClientProtocol",
            "LLMClientProtocol",
            "LimitedEmbeddingClientProtocol",
            "LimitedLLMClientProtocol",
        ),
        "providers": ("ModelType", "ProviderName"),
        "ratelimit.client": ("RateLimitedClient", "RateLimitedEmbeddingClient"),
        "ratelimit.config": ("RateLimitConfig", "RetryConfig"),
        "ratelimit.metrics": ("AIMDMetrics",),
        "ratelimit.limiter": ("AdaptiveRateLimiter", "Permit"),
        "signals": ("Axis", "AxisLimit", "Change", "Outcome", "RateLimitSignal", "Reason"),
        "recorder": ("AttemptRow", "AttemptSink", "Recorder"),
        "settings": ("LLMConfig", "LLMProviderConfig"),
        "status": ("ProfileStatus",),
        "sync": ("SyncClient", "SyncEmbeddingClient", "SyncFactory", "SyncJob", "SyncStream"),
        "telemetry": ("Telemetry",),
        "tokens": ("TokenCount", "count_message_tokens", "count_tokens", "estimate_tokens", "fetch_vocabulary"),
        "types": (
            "AudioPart",
            "CompletionResponse",
            "DocumentPart",
            "EmbeddingResponse",
            "FinishReason",
            "ImagePart",
            "Message",
            "ProviderState",
            "Role",
            "StreamChunk",
            "TextPart",
            "TokenLogprob",
            "Tool",
            "ToolCall",
            "ToolCallDelta",
            "Usage",
        ),
    }.items()
    for name in names
}

_PACKAGES = {
    "ANTHROPIC_AVAILABLE": "anthropic",
    "BEDROCK_AVAILABLE": "boto3",
    "SENTENCE_TRANSFORMERS_AVAILABLE": "sentence_transformers",
}


if not TYPE_CHECKING:  # a type checker must not take any misspelt name for one that loads

    def __getattr__(name: str) -> object:
        """Load a public name from where it lives, once."""
        if name in _PACKAGES:
            value = find_spec(_PACKAGES[name]) is not None
        elif name in _HOMES:
            value = getattr(import_module(_HOMES[name]), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """Show what can be loaded, not only what has been."""
    return sorted({*globals(), *__all__})
