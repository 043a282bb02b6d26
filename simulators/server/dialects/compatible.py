"""What providers and gateways share that speak OpenAI's language on a path of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from simulators.providers.quotas import DAY_S
from simulators.server.dialects import openai
from simulators.server.dialects.base import ApiRoute, Dialect, Json

if TYPE_CHECKING:
    from simulators.providers.catalogue import Provider
    from simulators.providers.machine import RejectionDetail, Verdict

OVERLOADED = "The service is overloaded. Please try again later."


def routes_under(prefix: str) -> tuple[ApiRoute, ...]:
    """Return the routes of chats and embeddings under a path."""
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


def span_of(detail: RejectionDetail | None) -> str:
    """Return whether the quota that rejected is one of the day or of the minute."""
    return "day" if detail is not None and detail.per_s >= DAY_S else "min"


class Compatible(Dialect):
    """OpenAI's language, its error envelope, and nothing else of it."""

    routes: ClassVar[tuple[ApiRoute, ...]] = routes_under("/v1")

    def headers(self, number: int, status: int) -> dict[str, str]:
        """Name the request."""
        return {"x-request-id": f"{number:032x}"}

    def problem(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> Json:
        """Return a mistake in OpenAI's envelope."""
        return openai.openai_error(message, "invalid_request_error", code, param)

    def rejection(self, provider: Provider, verdict: Verdict, detail: RejectionDetail | None, operation: str) -> Json:
        """Return the rejection in OpenAI's envelope."""
        if verdict.status != 429:
            return openai.openai_error(OVERLOADED, "service_unavailable")
        return openai.openai_error("Rate limit reached.", "rate_limit_error", "rate_limit_exceeded")
