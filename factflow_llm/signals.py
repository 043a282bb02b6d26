"""What the world tells the limiter, and what the limiter tells the world: plain values, no behaviour."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Axis(StrEnum):
    """A dimension a provider meters. ``TOKENS`` is input and output together."""

    REQUESTS = "requests"
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    TOKENS = "tokens"
    CONCURRENCY = "concurrency"


class Outcome(StrEnum):
    """What an attempt's end says about the limit.

    ``OVERLOADED`` (503, 529, a timeout) is the provider's trouble, not our quota. ``EXHAUSTED`` is a quota that time
    will not refill soon (spend cap, daily cap, revoked key): the breaker opens. ``IGNORED`` (a 400, a cancellation, a
    local fault) returns the permit and teaches nothing.
    """

    SUCCEEDED = "succeeded"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    EXHAUSTED = "exhausted"
    IGNORED = "ignored"


class AxisLimit(NamedTuple):
    """One axis as a provider's headers show it; ``None`` where a header is missing or senseless.

    Attributes:
        axis: the metered dimension.
        limit: units allowed per window; the window is not named by the header and may be a day.
        remaining: units left now, as the provider rounds them.
        reset_s: seconds until the window is *full* again (OpenAI, Anthropic) or restarts (Azure).
    """

    axis: Axis
    limit: float | None = None
    remaining: float | None = None
    reset_s: float | None = None


class RateLimitSignal(NamedTuple):
    """All that one attempt's end teaches.

    Attributes:
        outcome: what happened, in the limiter's terms.
        retry_after_s: the provider's wish, uncapped; ``None`` when it gave none.
        axis: the dimension a rejection named; ``None`` when it named none.
        input_tokens: tokens actually read, as a server says, which need not be a whole number; ``None`` when unknown.
        output_tokens: tokens actually written; ``None`` when unknown.
        limits: what the headers of this answer showed.
    """

    outcome: Outcome
    retry_after_s: float | None = None
    axis: Axis | None = None
    input_tokens: float | None = None
    output_tokens: float | None = None
    limits: tuple[AxisLimit, ...] = ()


class Reason(StrEnum):
    """Why a limit changed: the closed vocabulary of logs, telemetry, frames and plots."""

    CONFIGURED = "configured"
    SLOW_START = "slow_start"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    HEADER = "header"
    RECOVER = "recover"
    PROBE = "probe"
    COOL_OFF = "cool_off"
    BREAKER_OPEN = "breaker_open"
    BREAKER_CLOSED = "breaker_closed"
    RETUNED = "retuned"
    SHARED = "shared"


class Change(NamedTuple):
    """One change of one limit, and why.

    Attributes:
        time_s: when, on the driver's clock.
        axis: which limit moved.
        old: the limit before (requests or tokens per second, or slots); ``inf`` while there was none.
        new: the limit after.
        reason: a word of the closed vocabulary.
    """

    time_s: float
    axis: Axis
    old: float
    new: float
    reason: Reason
