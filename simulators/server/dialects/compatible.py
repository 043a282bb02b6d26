"""Providers and gateways that speak OpenAI's language on their own path, and refuse in their own words and headers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from starlette.responses import JSONResponse, Response

from factflow_llm.signals import Axis
from simulators.providers.limit_headers import go_duration
from simulators.providers.quotas import DAY_S
from simulators.server.dialects import openai
from simulators.server.dialects.base import ApiRoute, Dialect, Json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simulators.providers.calls import Call
    from simulators.providers.catalogue import Provider
    from simulators.providers.machine import RejectionDetail, Verdict

_OVERLOADED = "The service is overloaded. Please try again later."


def _routes(prefix: str) -> tuple[ApiRoute, ...]:
    return (
        ApiRoute(
            f"{prefix}/chat/completions",
            lambda body, _: openai.read_chat(body),
            openai.chat,
            openai.chat_events,
            openai.STREAM_ERROR,
        ),
        ApiRoute(f"{prefix}/embeddings", lambda body, _: openai.read_embeddings(body), openai.embeddings),
    )


def _span(detail: RejectionDetail | None) -> str:
    return "day" if detail is not None and detail.per_s >= DAY_S else "min"


class Compatible(Dialect):
    """OpenAI's language, its error envelope, and nothing else of it."""

    routes: ClassVar[tuple[ApiRoute, ...]] = _routes("/v1")

    def headers(self, number: int, status: int) -> dict[str, str]:
        """Name the request."""
        return {"x-request-id": f"{number:032x}"}

    def problem(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> Json:
        """Return a mistake in OpenAI's envelope."""
        return openai.openai_error(message, "invalid_request_error", code, param)

    def rejection(self, provider: Provider, verdict: Verdict, detail: RejectionDetail | None, operation: str) -> Json:
        """Return the rejection in OpenAI's envelope."""
        if verdict.status != 429:
            return openai.openai_error(_OVERLOADED, "service_unavailable")
        return openai.openai_error("Rate limit reached.", "rate_limit_error", "rate_limit_exceeded")


class Groq(Compatible):
    """Groq (console.groq.com/docs/rate-limits, 2026-11): OpenAI's headers, of which ``-requests`` is the day."""

    routes: ClassVar[tuple[ApiRoute, ...]] = _routes("/openai/v1")

    def rejection(self, provider: Provider, verdict: Verdict, detail: RejectionDetail | None, operation: str) -> Json:
        """Name the limit, what is used of it, and the wait."""
        if verdict.status != 429 or detail is None:
            return super().rejection(provider, verdict, detail, operation)
        kind = "requests" if verdict.axis is Axis.REQUESTS else "tokens"
        span = "day" if _span(detail) == "day" else "minute"
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


class OpenRouter(Compatible):
    """OpenRouter: limits on rejections alone, in headers that the body repeats; a reset in Unix milliseconds."""

    routes: ClassVar[tuple[ApiRoute, ...]] = _routes("/api/v1")

    def rejection(self, provider: Provider, verdict: Verdict, detail: RejectionDetail | None, operation: str) -> Json:
        """Name the pool, or the provider behind that refused."""
        if verdict.status != 429:
            return {"error": {"message": "Provider returned error", "code": verdict.status}}
        if detail is None:
            raw = f"{provider.model} is temporarily rate-limited upstream. Please retry shortly."
            metadata: dict[str, Any] = {"raw": raw, "provider_name": "Upstream"}
            return {"error": {"message": "Provider returned error", "code": 429, "metadata": metadata}}
        advice = " Add 10 credits to unlock 1000 free model requests per day" if _span(detail) == "day" else ""
        message = f"Rate limit exceeded: free-models-per-{_span(detail)}.{advice}"
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


class Gemini(Compatible):
    """Gemini and Vertex by their OpenAI-compatible path: no headers, details in the body, which is a list."""

    routes: ClassVar[tuple[ApiRoute, ...]] = _routes("/v1beta/openai")

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
        span = "PerDay" if _span(detail) == "day" else "PerMinute"
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


class Cohere(Compatible):
    """Cohere by its compatibility path: a sentence, and nothing about when."""

    routes: ClassVar[tuple[ApiRoute, ...]] = _routes("/compatibility/v1")

    def rejection(self, provider: Provider, verdict: Verdict, detail: RejectionDetail | None, operation: str) -> Json:
        """Say which key is limited to what."""
        if verdict.status != 429 or detail is None:
            return {"message": _OVERLOADED}
        message = (
            f"You are using a Trial key, which is limited to {detail.limit:.0f} API calls / minute. You can continue "
            "to use the Trial key for free or upgrade to a Production key with higher rate limits at "
            "'https://dashboard.cohere.com/api-keys'."
        )
        return {"message": message}


class Voyage(Compatible):
    """Voyage: embeddings, and a ``detail`` for an error."""

    def problem(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> Json:
        """Return a mistake."""
        return {"detail": message}

    def rejection(self, provider: Provider, verdict: Verdict, detail: RejectionDetail | None, operation: str) -> Json:
        """Say that it was too much."""
        if verdict.status != 429:
            return {"detail": _OVERLOADED}
        return {"detail": "You have exceeded your rate limits. Please wait and try again later."}


class LiteLLM(Compatible):
    """A LiteLLM gateway that limits keys: words for null, and the moment of the reset in the message."""

    def rejection(self, provider: Provider, verdict: Verdict, detail: RejectionDetail | None, operation: str) -> Json:
        """Name the key's limit."""
        if verdict.status != 429 or detail is None:
            return super().rejection(provider, verdict, detail, operation)
        kind = "requests" if verdict.axis is Axis.REQUESTS else "tokens"
        left = max(math.floor(detail.limit - detail.used), 0)
        message = (
            f"Rate limit exceeded for api_key: sk-XXXX. Limit type: {kind}. Current limit: {detail.limit:.0f}, "
            f"Remaining: {left}."
        )
        return {"error": {"message": message, "type": "None", "param": "None", "code": "429"}}


class Nginx(Compatible):
    """A gateway's ``limit_req``: a page for people, not for programs."""

    def error(self, body: Json, status: int, headers: Mapping[str, str]) -> Response:
        """Answer with the page."""
        title = {429: "429 Too Many Requests", 503: "503 Service Temporarily Unavailable"}.get(status)
        if title is None:
            return super().error(body, status, headers)
        page = (
            f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n"
            "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
        )
        plain = {name: value for name, value in headers.items() if name != "content-type"}
        return Response(page, status, plain, media_type="text/html")
