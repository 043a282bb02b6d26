"""OpenRouter: limits on rejections alone, in headers that the body repeats; a reset in Unix milliseconds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from simulators.server.dialects.compatible import Compatible, routes_under, span_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simulators.providers.catalogue import Provider
    from simulators.providers.machine import RejectionDetail, Verdict
    from simulators.server.dialects.base import ApiRoute, Json


class OpenRouter(Compatible):
    """OpenRouter: limits on rejections alone, in headers that the body repeats; a reset in Unix milliseconds."""

    routes: ClassVar[tuple[ApiRoute, ...]] = routes_under("/api/v1")

    def rejection(self, provider: Provider, verdict: Verdict, detail: RejectionDetail | None, operation: str) -> Json:
        """Name the pool, or the provider behind that refused."""
        if verdict.status != 429:
            return {"error": {"message": "Provider returned error", "code": verdict.status}}
        if detail is None:
            raw = f"{provider.model} is temporarily rate-limited upstream. Please retry shortly."
            metadata: dict[str, Any] = {"raw": raw, "provider_name": "Upstream"}
            return {"error": {"message": "Provider returned error", "code": 429, "metadata": metadata}}
        advice = " Add 10 credits to unlock 1000 free model requests per day" if span_of(detail) == "day" else ""
        message = f"Rate limit exceeded: free-models-per-{span_of(detail)}.{advice}"
        return {"error": {"message": message, "code": 429, "metadata": {"provider_name": None}}}

    def rejection_headers(self, verdict: Verdict, detail: RejectionDetail | None, utc_s: float) -> dict[str, str]:
        """Tell limit, rest and reset of the pool."""
        if verdict.status != 429 or detail is None:
            return {}
        wait_s = 0.0 if math.isinf(detail.wait_s) else detail.wait_s
        return {
            "X-RateLimit-Limit": f"{detail.limit:.0f}",
            "X-RateLimit-Remaining": f"{max(math.floor(detail.limit - detail.used), 0)}",
            "X-RateLimit-Reset": f"{math.ceil((utc_s + wait_s) * 1000)}",
        }

    def signed(self, body: Json, headers: Mapping[str, str]) -> Json:
        """Repeat the limits in the body."""
        told = {name: value for name, value in headers.items() if name.startswith("X-RateLimit-")}
        if told:
            body["error"]["metadata"]["headers"] = told
        return body


DIALECT = OpenRouter()
