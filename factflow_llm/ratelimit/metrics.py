"""What an adaptive limiter knows and does at one moment, as its users see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from factflow_llm.signals import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class AIMDMetrics:
    """What the limiter knows and does at one moment.

    Rates are per second; ``inf`` means no limit is known on that axis.
    """

    time_s: float
    in_flight: int
    queued: int
    concurrency_limit: float
    requests_per_s: float
    input_tokens_per_s: float
    output_tokens_per_s: float
    tokens_per_s: float
    blocked_until_s: float | None
    breaker_open: bool
    last_reason: Reason
    round_trip_s: float | None
    succeeded: int
    rate_limited: int
    overloaded: int
    ignored: int
