"""Mistral (mistralai/client-ts#169): names of its own, no reset, and a 429 that says nothing about when."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulators.server.dialects.compatible import Compatible

if TYPE_CHECKING:
    from simulators.providers.calls import Call
    from simulators.providers.catalogue import Provider
    from simulators.providers.machine import RejectionDetail, Verdict
    from simulators.server.dialects.base import Json


class Mistral(Compatible):
    """Mistral (mistralai/client-ts#169): names of its own, no reset, and a 429 that says nothing about when."""

    def rejection(self, provider: Provider, verdict: Verdict, detail: RejectionDetail | None, operation: str) -> Json:
        """Say that it was too much."""
        message = "Rate limit exceeded" if verdict.status == 429 else "Service unavailable."
        kind, code = ("rate_limited", "1300") if verdict.status == 429 else ("internal_server_error", "1000")
        return {"object": "error", "message": message, "type": kind, "param": None, "code": code}

    def usage_headers(self, call: Call, verdict: Verdict) -> dict[str, str]:
        """Tell what the call cost."""
        return {"x-ratelimit-tokens-query-cost": str(call.input_tokens + call.output_tokens)}


DIALECT = Mistral()
