"""What an adaptive limiter knows and does at one moment, and what binds it, in a sentence for someone at 3 a.m."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from factflow_llm.signals import Reason


class Bound(StrEnum):
    """What holds the next call back."""

    DEMAND = "demand"
    REQUESTS = "requests"
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    TOKENS = "tokens"
    CONCURRENCY = "concurrency"
    MAX_CONCURRENCY = "max_concurrency"
    GATE = "gate"
    INQUIRY = "inquiry"
    BREAKER = "breaker"


_SENTENCES = {
    Bound.DEMAND: "Nothing binds{since}: calls go at once, and only more demand would send more.",
    Bound.BREAKER: (
        "The breaker is open{since}: the provider refuses all calls. Pay, or mend the key, then call reset_breaker(); "
        "one call tries by itself from time to time."
    ),
    Bound.GATE: (
        "The provider rejected calls, and the gate has been shut{since}; one call tries again in {left:.1f} s. "
        "Only the provider can lift it sooner."
    ),
    Bound.INQUIRY: "A rejection came as a surprise; a few calls are asking whether it was noise. News in a moment.",
    Bound.CONCURRENCY: (
        "Calls in flight bind{since}: {limit:.0f} are let through. The limit grows as calls succeed; faster answers or "
        "a higher tier lift it."
    ),
    Bound.MAX_CONCURRENCY: (
        "max_concurrency binds{since}: {in_flight} calls are in flight and the settings allow no more. Raise "
        "max_concurrency to send more."
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AIMDMetrics:
    """What the limiter knows and does at one moment.

    Rates are per second; ``inf`` means no limit is known on that axis.

    Attributes:
        binding: what holds the next call back; ``DEMAND`` while nobody waits.
        binding_since_s: since when, on the driver's clock; ``None`` before the first call.
        noise: whether rejections without a cause were recognised.
        shared: whether others were seen to draw on the quota.
        share: the part of the quota that is this process's, by a grant of its fleet; ``None`` while it has none.
        members: processes in the fleet, as far as was heard.
        lease_age_s: seconds since that share was asked for.
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
    binding: Bound = Bound.DEMAND
    binding_since_s: float | None = None
    noise: bool = False
    shared: bool = False
    share: float | None = None
    members: int = 1
    lease_age_s: float | None = None

    def explain(self) -> str:
        """Say what binds, since when, and what would lift it."""
        since = "" if self.binding_since_s is None else f" for {max(self.time_s - self.binding_since_s, 0.0):.0f} s"
        waiting = f"{self.queued} waiting, {self.in_flight} in flight"
        rates = {
            Bound.REQUESTS: self.requests_per_s,
            Bound.INPUT_TOKENS: self.input_tokens_per_s,
            Bound.OUTPUT_TOKENS: self.output_tokens_per_s,
            Bound.TOKENS: self.tokens_per_s,
        }
        if self.binding in rates:
            unit = self.binding.value.replace("_", " ")
            text = (
                f"The quota of {unit} binds{since}: {rates[self.binding] * 60.0:.4g} a minute are known to be allowed; "
                "a higher tier lifts it, and a grown one is found by itself."
            )
        else:
            left_s = 0.0 if self.blocked_until_s is None else max(self.blocked_until_s - self.time_s, 0.0)
            text = _SENTENCES[self.binding].format(
                since=since, left=left_s, in_flight=self.in_flight, limit=self.concurrency_limit
            )
        told = [
            *(["rejections without a cause are being ignored"] if self.noise else []),
            *(["others draw on the same quota"] if self.shared else []),
            *([f"{self.share:.1%} of a quota shared by {self.members}"] if self.share is not None else []),
        ]
        return f"{text} ({'; '.join([waiting, *told])})"
