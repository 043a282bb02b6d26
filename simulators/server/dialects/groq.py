"""Groq (console.groq.com/docs/rate-limits, 2026-11): OpenAI's headers, of which ``-requests`` is the day."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from factflow_llm.signals import Axis
from simulators.providers.limit_headers import go_duration
from simulators.server.dialects.compatible import Compatible, routes_under, span_of

if TYPE_CHECKING:
    from simulators.providers.catalogue import Provider
    from simulators.providers.machine import RejectionDetail, Verdict
    from simulators.server.dialects.base import ApiRoute, Json


class Groq(Compatible):
    """Groq (console.groq.com/docs/rate-limits, 2026-11): OpenAI's headers, of which ``-requests`` is the day."""

    routes: ClassVar[tuple[ApiRoute, ...]] = routes_under("/openai/v1")

    def rejection(self, provider: Provider, verdict: Verdict, detail: RejectionDetail | None, operation: str) -> Json:
        """Name the limit, what is used of it, and the wait."""
        if verdict.status != 429 or detail is None:
            return super().rejection(provider, verdict, detail, operation)
        kind = "requests" if verdict.axis is Axis.REQUESTS else "tokens"
        span = "day" if span_of(detail) == "day" else "minute"
        figures = (
            f"Limit {math.floor(detail.limit)}, Used {round(detail.used)}, Requested {math.ceil(detail.requested)}"
        )
        wait = "" if math.isinf(detail.wait_s) else f" Please try again in {go_duration(detail.wait_s)}."
        message = (
            f"Rate limit reached for model `{provider.model}` in organization `org_XXXX` service tier `on_demand` on "
            f"{kind} per {span} ({kind[0].upper()}P{span[0].upper()}): {figures}.{wait} Need more tokens? Upgrade to "
            "Dev Tier today at https://console.groq.com/settings/billing"
        )
        return {"error": {"message": message, "type": kind, "code": "rate_limit_exceeded"}}


DIALECT = Groq()
