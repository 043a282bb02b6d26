"""Azure OpenAI: OpenAI's language on two paths, with a gateway's own words before and for its limits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from factflow_llm.signals import Axis
from simulators.server.dialects import openai, responses
from simulators.server.dialects.base import ApiRoute, Dialect, InvalidAskingError, Json

if TYPE_CHECKING:
    from starlette.requests import Request

    from simulators.providers.catalogue import Provider
    from simulators.providers.machine import RejectionDetail, Verdict

_PROBLEMS = {
    401: (
        "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an "
        "active subscription and use a correct regional API endpoint for your resource."
    ),
    404: "Resource not found",
}
"""What Azure's gateway says in words of its own, before OpenAI's part is reached."""


def _model(request: Request) -> str:
    if "api-version" not in request.query_params:
        raise InvalidAskingError("Resource not found", status=404)
    return str(request.path_params["model"])


def _chat(path: str, *, named: bool) -> ApiRoute:
    return ApiRoute(
        path,
        lambda body, request: openai.read_chat(body, _model(request) if named else None),
        openai.chat,
        openai.chat_events,
        openai.STREAM_ERROR,
        "ChatCompletions_Create",
    )


def _embeddings(path: str, *, named: bool) -> ApiRoute:
    return ApiRoute(
        path,
        lambda body, request: openai.read_embeddings(body, _model(request) if named else None),
        openai.embeddings,
        operation="Embeddings_Create",
    )


class Azure(Dialect):
    """Azure, by the v1 API or by deployment and dated version."""

    routes: ClassVar[tuple[ApiRoute, ...]] = (
        _chat("/openai/v1/chat/completions", named=False),
        _embeddings("/openai/v1/embeddings", named=False),
        ApiRoute(
            "/openai/v1/responses",
            lambda body, _: responses.read(body),
            responses.answer,
            responses.events,
            responses.STREAM_ERROR,
            "Responses_Create",
        ),
        _chat("/openai/deployments/{model}/chat/completions", named=True),
        _embeddings("/openai/deployments/{model}/embeddings", named=True),
    )
    batch_files = ("/openai/v1", "/openai")

    def headers(self, number: int, status: int) -> dict[str, str]:
        """Name the request, twice."""
        return {"apim-request-id": f"{number:032x}", "x-request-id": f"{number:032x}"}

    def problem(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> Json:
        """Return a mistake in the gateway's words where the gateway finds it, else in OpenAI's."""
        if status in _PROBLEMS:
            return {"error": {"code": str(status), "message": _PROBLEMS[status]}}
        return openai.openai_error(message, "invalid_request_error", code, param)

    def rejection(self, provider: Provider, verdict: Verdict, detail: RejectionDetail | None, operation: str) -> Json:
        """Return the gateway's rejection."""
        if verdict.status != 429:
            message = "The service is temporarily unable to process your request. Please try again later."
            return {"error": {"code": str(verdict.status), "message": message}}
        kind = "call rate limit" if verdict.axis is Axis.REQUESTS else "token rate limit"
        wait = (
            "" if verdict.retry_after_s is None else f" Please retry after {math.ceil(verdict.retry_after_s)} seconds."
        )
        message = (
            f"Requests to the {operation} Operation under Azure OpenAI API version 2024-10-21 have exceeded {kind} of "
            f"your current OpenAI S0 pricing tier.{wait} Please go here: https://aka.ms/oai/quotaincrease if you would "
            "like to further increase the default rate limit."
        )
        return {"error": {"code": "429", "message": message}}


DIALECT = Azure()
