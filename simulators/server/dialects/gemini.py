"""Gemini and Vertex by their OpenAI-compatible path: no headers, details in the body, which is a list."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from starlette.responses import JSONResponse

from factflow_llm.signals import Axis
from simulators.server.dialects.compatible import Compatible, routes_under, span_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.responses import Response

    from simulators.providers.catalogue import Provider
    from simulators.providers.machine import RejectionDetail, Verdict
    from simulators.server.dialects.base import ApiRoute, Json


class Gemini(Compatible):
    """Gemini and Vertex by their OpenAI-compatible path: no headers, details in the body, which is a list."""

    routes: ClassVar[tuple[ApiRoute, ...]] = routes_under("/v1beta/openai")

    def problem(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> Json:
        """Return a mistake in Google's envelope."""
        return {"error": {"code": status, "message": message, "status": "INVALID_ARGUMENT"}}

    def rejection(self, provider: Provider, verdict: Verdict, detail: RejectionDetail | None, operation: str) -> Json:
        """Tell quota and wait in ``details``; of a shared pool that is full, only that it is."""
        if verdict.status != 429:
            return {"error": {"code": verdict.status, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}
        if detail is None:
            message = "Resource exhausted. Please try again later."
            return {"error": {"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED"}}
        requests = verdict.axis is Axis.REQUESTS
        span = "PerDay" if span_of(detail) == "day" else "PerMinute"
        free = "FreeTier" if "free" in provider.name else "PaidTier"
        counted = "requests" if requests else "input_token_count"
        metric = f"generativelanguage.googleapis.com/generate_content_{free[:4].lower()}_tier_{counted}"
        what = "GenerateRequests" if requests else "GenerateContentInputTokens"
        message = (
            "You exceeded your current quota, please check your plan and billing details. For more information on this "
            "error, head to: https://ai.google.dev/gemini-api/docs/rate-limits.\n* Quota exceeded for metric: "
            f"{metric}, limit: {detail.limit:.0f}, model: {provider.model}"
        )
        failure: dict[str, Any] = {
            "quotaMetric": metric,
            "quotaId": f"{what}{span}PerProjectPerModel-{free}",
            "quotaDimensions": {"location": "global", "model": provider.model},
            "quotaValue": f"{detail.limit:.0f}",
        }
        details: list[dict[str, Any]] = [
            {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [failure]}
        ]
        if verdict.retry_after_s is not None:
            message += f"\nPlease retry in {verdict.retry_after_s:.15g}s."
            delay = f"{math.floor(verdict.retry_after_s)}s"
            details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay})
        return {"error": {"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED", "details": details}}

    def error(self, body: Json, status: int, headers: Mapping[str, str]) -> Response:
        """Answer with a list of one error, as this path does."""
        return JSONResponse([body], status, headers)


DIALECT = Gemini()
