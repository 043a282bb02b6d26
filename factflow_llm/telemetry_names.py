"""What OpenTelemetry calls things: the GenAI conventions v0.1.0, still in development, and names of our own.

Names of the standard stand here and nowhere else, for they have moved before.
"""

from __future__ import annotations

from typing import Final

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/gen-ai/0.1.0"

PROVIDERS: Final = {"openai": "openai", "azure": "azure.ai.openai", "anthropic": "anthropic", "bedrock": "aws.bedrock"}
"""The standard's names of providers; others keep ours."""

OPERATION: Final = "gen_ai.operation.name"
MODEL: Final = "gen_ai.request.model"
PROVIDER: Final = "gen_ai.provider.name"
MAX_TOKENS: Final = "gen_ai.request.max_tokens"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE: Final = "gen_ai.usage.cache_write.input_tokens"
REASONING: Final = "gen_ai.usage.reasoning.output_tokens"
ERROR: Final = "error.type"
STATUS: Final = "http.response.status_code"

DURATION: Final = "gen_ai.client.inference.duration"
FIRST_CHUNK: Final = "gen_ai.client.inference.time_to_first_chunk"
USAGE: Final = "gen_ai.client.inference.usage."
PER_CALL: Final = "gen_ai.client.inference.operation."
EMBEDDING_DURATION: Final = "gen_ai.client.embeddings.duration"
EMBEDDING_TOKENS: Final = "gen_ai.client.embeddings.operation.input_tokens"
SECONDS: Final = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64),
    *(1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
)
"""The standard's bounds of histograms of seconds."""
TOKENS: Final = tuple(float(4**power) for power in range(14))

ATTEMPT: Final = "factflow.attempt"
WAIT: Final = "factflow.limiter.wait"
REJECTIONS: Final = "factflow.limiter.rejections"
CHANGES: Final = "factflow.limiter.changes"
LIMIT: Final = "factflow.limiter.limit"
IN_FLIGHT: Final = "factflow.limiter.in_flight"
QUEUE: Final = "factflow.limiter.queue"
BREAKER: Final = "factflow.limiter.breaker_open"
SHARE: Final = "factflow.limiter.share"
LEASE_AGE: Final = "factflow.limiter.lease_age"
MEMBERS: Final = "factflow.limiter.members"
AXIS: Final = "factflow.limiter.axis"
REASON: Final = "factflow.limiter.reason"
QUOTA: Final = "factflow.limiter.quota"
"""One name for each quota, as in ``LLMProviderConfig.quota_name``: no key, no address."""
