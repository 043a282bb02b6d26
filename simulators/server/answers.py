"""What each provider's answers look like: bodies, streamed events and errors, as documented or captured.

Literal texts come from the providers' documentation and from captures in public issues; see the tests for which.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from factflow_llm.signals import Axis
from simulators.providers.calls import CallKind
from simulators.providers.limit_headers import Api, go_duration
from simulators.providers.quotas import DAY_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from simulators.providers.calls import Call
    from simulators.providers.catalogue import Provider
    from simulators.providers.machine import RejectionDetail, Verdict
    from simulators.server.requests import Asking

Json = dict[str, Any]

_WORD = " word"
_ORG = "org-XXXX"
_LIMITS_PAGE = "Visit https://platform.openai.com/account/rate-limits to learn more."
_CREATED = 1_767_225_600


def answer_text(tokens: int) -> str:
    """Return a text of so many tokens."""
    return (_WORD * tokens).strip()


# --- answers ---------------------------------------------------------------------------------------------------------


def answer(api: Api, wanted: Asking, call: Call) -> Json:
    """Return the body that answers ``wanted``."""
    if wanted.kind is CallKind.CHAT:
        make = anthropic_message if api is Api.ANTHROPIC else openai_chat
        return make(_reply_id(call), wanted.model, call.input_tokens, call.output_tokens, cut=_is_cut(call))
    if api is Api.BEDROCK:
        text, kinds = wanted.texts[0], wanted.vector_kinds
        return titan_embedding(wanted.model, text, wanted.dimensions, kinds, call.input_tokens)
    return openai_embeddings(wanted.model, wanted.texts, wanted.dimensions, call.input_tokens, packed=wanted.packed)


def events(api: Api, wanted: Asking, call: Call) -> Iterator[str]:
    """Yield the events that answer ``wanted`` as a stream."""
    known = (_reply_id(call), wanted.model, call.input_tokens, call.output_tokens)
    if api is Api.ANTHROPIC:
        return anthropic_events(*known, cut=_is_cut(call))
    return openai_events(*known, cut=_is_cut(call), usage=wanted.stream_usage)


def openai_chat(reply_id: str, model: str, input_tokens: int, output_tokens: int, *, cut: bool) -> Json:
    """Return a chat completion; ``cut``: the answer hit ``max_tokens``."""
    message = {"role": "assistant", "content": answer_text(output_tokens), "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "length" if cut else "stop"}
    usage = openai_usage(input_tokens, output_tokens)
    return _completion(reply_id, model, "chat.completion") | {"choices": [choice], "usage": usage}


def openai_usage(input_tokens: int, output_tokens: int) -> Json:
    """Return the usage of a chat completion."""
    total = input_tokens + output_tokens
    return {"prompt_tokens": input_tokens, "completion_tokens": output_tokens, "total_tokens": total}


def openai_events(
    reply_id: str, model: str, input_tokens: int, output_tokens: int, *, cut: bool, usage: bool
) -> Iterator[str]:
    """Yield the events of a streamed chat: role, words, finish, usage if asked for, ``[DONE]``."""
    shared = _completion(reply_id, model, "chat.completion.chunk") | ({"usage": None} if usage else {})

    def chunk(delta: Json, finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _data(shared | {"choices": [choice]})

    yield chunk({"role": "assistant", "content": "", "refusal": None})
    for number in range(output_tokens):
        yield chunk({"content": _WORD if number else _WORD.lstrip()})
    yield chunk({}, "length" if cut else "stop")
    if usage:
        yield _data(shared | {"choices": [], "usage": openai_usage(input_tokens, output_tokens)})
    yield "data: [DONE]\n\n"


def openai_embeddings(model: str, texts: Sequence[str], dimensions: int, input_tokens: int, *, packed: bool) -> Json:
    """Return vectors, ``packed`` as base64 of little-endian float32 as the SDK asks for unless told otherwise."""
    vectors = [embedding(text, dimensions) for text in texts]
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode() if packed else vector.tolist(),
        }
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": input_tokens, "total_tokens": input_tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def anthropic_message(reply_id: str, model: str, input_tokens: int, output_tokens: int, *, cut: bool) -> Json:
    """Return a message."""
    return _message(reply_id, model, input_tokens) | {
        "content": [{"type": "text", "text": answer_text(output_tokens)}],
        "stop_reason": "max_tokens" if cut else "end_turn",
        "usage": _anthropic_usage(input_tokens, output_tokens),
    }


def anthropic_events(reply_id: str, model: str, input_tokens: int, output_tokens: int, *, cut: bool) -> Iterator[str]:
    """Yield the events of a streamed message, in the documented order."""
    yield _event("message_start", message=_message(reply_id, model, input_tokens))
    yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    yield _event("ping")
    for number in range(output_tokens):
        delta = {"type": "text_delta", "text": _WORD if number else _WORD.lstrip()}
        yield _event("content_block_delta", index=0, delta=delta)
    yield _event("content_block_stop", index=0)
    stop = {"stop_reason": "max_tokens" if cut else "end_turn", "stop_sequence": None}
    yield _event("message_delta", delta=stop, usage={"output_tokens": output_tokens})
    yield _event("message_stop")


def titan_embedding(model: str, text: str, dimensions: int, kinds: Sequence[str], input_tokens: int) -> Json:
    """Return Titan's vector: of version 1, or of version 2 with its copies by type."""
    vector = embedding(text, dimensions)
    body: Json = {"embedding": vector.tolist(), "inputTextTokenCount": input_tokens}
    if "v2" not in model:
        return body
    by_kind = {"float": vector.tolist(), "binary": (vector > 0).astype(int).tolist()}
    return body | {"embeddingsByType": {kind: by_kind[kind] for kind in kinds}}


def embedding(text: str, dimensions: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Return a unit vector that depends on the text alone."""
    vector = np.random.Generator(np.random.Philox(zlib.crc32(text.encode()))).standard_normal(dimensions)
    unit: np.ndarray[tuple[int], np.dtype[np.float32]] = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit


# --- errors ----------------------------------------------------------------------------------------------------------


def error_body(provider: Provider, verdict: Verdict, detail: RejectionDetail | None, operation: str) -> Json:
    """Return the body with which the provider rejects; ``operation`` is what Azure calls the request."""
    if provider.api is Api.ANTHROPIC:
        return _anthropic_rejection(provider, verdict, detail)
    if provider.api is Api.BEDROCK:
        return {"message": _bedrock_message(verdict, detail)}
    return (
        _azure_rejection(verdict, operation)
        if provider.api is Api.AZURE
        else _openai_rejection(provider, verdict, detail)
    )


def bedrock_error_type(status: int) -> str:
    """Return the exception's name that Bedrock sends in ``x-amzn-errortype``."""
    return {
        400: "ValidationException",
        403: "AccessDeniedException",
        404: "ResourceNotFoundException",
        429: "ThrottlingException",
        503: "ServiceUnavailableException",
    }.get(status, "InternalServerException")


_AZURE_PROBLEMS = {
    401: (
        "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an "
        "active subscription and use a correct regional API endpoint for your resource."
    ),
    404: "Resource not found",
}
"""What Azure's gateway says in words of its own, before OpenAI's part is reached."""


def problem(api: Api, status: int, message: str, *, code: str | None = None, param: str | None = None) -> Json:
    """Return the body of a client's mistake in the api's form."""
    if api is Api.ANTHROPIC:
        kinds = {401: "authentication_error", 404: "not_found_error", 413: "request_too_large"}
        return anthropic_error(kinds.get(status, "invalid_request_error"), message)
    if api is Api.BEDROCK:
        return {"message": message}
    if api is Api.AZURE and status in _AZURE_PROBLEMS:
        return {"error": {"code": str(status), "message": _AZURE_PROBLEMS[status]}}
    return openai_error(message, "invalid_request_error", code, param)


def stream_error(api: Api) -> str:
    """Return the event that reports an overload inside a stream that began well."""
    if api is Api.ANTHROPIC:
        return _event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    body = openai_error("The server had an error while processing your request. Sorry about that!", "server_error")
    return _data(body)


def openai_error(message: str, kind: str | None, code: str | None = None, param: str | None = None) -> Json:
    """Return OpenAI's error envelope."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def anthropic_error(kind: str, message: str, error_code: str | None = None) -> Json:
    """Return Anthropic's error envelope."""
    details = {"details": {"error_code": error_code}} if error_code else {}
    return {"type": "error", "error": {"type": kind, "message": message} | details}


def _openai_rejection(provider: Provider, verdict: Verdict, detail: RejectionDetail | None) -> Json:
    match verdict.error:
        case "quota":
            message = "You exceeded your current quota, please check your plan and billing details."
            return openai_error(message, "insufficient_quota", "insufficient_quota")
        case "ramp":
            return openai_error("Slow down: traffic has grown too fast.", "rate_limit_error", "slow_down")
        case "overloaded":
            message = "The engine is currently overloaded, please try again later"
            return openai_error(message, "service_unavailable_error", "server_is_overloaded")
        case "rate_limit" | "daily_quota" | "request_exceeds_limit":
            pass
        case _:
            message = "The server had an error while processing your request. Sorry about that!"
            return openai_error(message, "server_error")
    wait = "" if (told := _said_s(provider, verdict, detail)) is None else f" Please try again in {go_duration(told)}."
    metered = {Axis.REQUESTS: ("requests", "R"), Axis.TOKENS: ("tokens", "T")}
    axis = verdict.axis
    if detail is None or axis not in metered or not (provider.names_axis or verdict.error == "request_exceeds_limit"):
        return openai_error(f"Rate limit reached.{wait} {_LIMITS_PAGE}", None, "rate_limit_exceeded")
    kind, letter = metered[axis]
    span = "min" if detail.per_s < DAY_S else "day"
    place = f"for {provider.model} in organization {_ORG} on {kind} per {span} ({letter}P{span[0].upper()})"
    limit, requested = math.floor(detail.limit), math.ceil(detail.requested)
    if verdict.error == "request_exceeds_limit":
        message = (
            f"Request too large {place}: Limit {limit}, Requested {requested}. The input or output tokens must be "
            f"reduced in order to run successfully. {_LIMITS_PAGE}"
        )
    else:
        used = f"Limit {limit}, Used {round(detail.used)}, Requested {requested}"
        message = f"Rate limit reached {place}: {used}.{wait} {_LIMITS_PAGE}"
    return openai_error(message, kind, "rate_limit_exceeded")


def _said_s(provider: Provider, verdict: Verdict, detail: RejectionDetail | None) -> float | None:
    """Return the wait an OpenAI message names: the exact one where the provider tells the truth."""
    if verdict.retry_after_s is None or verdict.error == "request_exceeds_limit":
        return None
    truthful = provider.retry_after.habit == "true" and provider.retry_after.constant_s is None
    exact = detail is not None and truthful and math.isfinite(detail.wait_s)
    return math.ceil(detail.wait_s * 1000 - 1e-6) / 1000 if detail is not None and exact else verdict.retry_after_s


def _azure_rejection(verdict: Verdict, operation: str) -> Json:
    if verdict.status != 429:
        message = "The service is temporarily unable to process your request. Please try again later."
        return {"error": {"code": str(verdict.status), "message": message}}
    kind = "call rate limit" if verdict.axis is Axis.REQUESTS else "token rate limit"
    wait = "" if verdict.retry_after_s is None else f" Please retry after {math.ceil(verdict.retry_after_s)} seconds."
    message = (
        f"Requests to the {operation} Operation under Azure OpenAI API version 2024-10-21 have exceeded {kind} of your "
        f"current OpenAI S0 pricing tier.{wait} Please go here: https://aka.ms/oai/quotaincrease if you would like to "
        "further increase the default rate limit."
    )
    return {"error": {"code": "429", "message": message}}


def _anthropic_rejection(provider: Provider, verdict: Verdict, detail: RejectionDetail | None) -> Json:
    match verdict.error:
        case "overloaded":
            return anthropic_error("overloaded_error", "Overloaded")
        case "quota":
            message = (
                "You have reached your API usage limits: your organization has crossed its monthly API usage "
                "threshold, set based on your organization's API tier."
            )
            return anthropic_error("rate_limit_error", message, "enforced_spend_limit_reached")
        case "ramp":
            message = "Your organization's usage has grown too fast."
            return anthropic_error("rate_limit_error", message, "ramp_limit_exceeded")
        case "rate_limit" | "daily_quota" | "request_exceeds_limit":
            what = ""
            if detail is not None and provider.names_axis and detail.axis is not Axis.CONCURRENCY:
                what = f" of {detail.limit:,.0f} {detail.axis.replace('_', ' ')} per minute"
            message = (
                f"This request would exceed your organization's rate limit{what} "
                f"(org: {_ORG}, model: {provider.model}). "
                "For details, refer to: https://docs.claude.com/en/api/rate-limits."
            )
            return anthropic_error("rate_limit_error", message)
        case _:
            return anthropic_error("api_error", "Internal server error")


def _bedrock_message(verdict: Verdict, detail: RejectionDetail | None) -> str:
    if verdict.status == 503:
        return "The service is temporarily unable to process the request. Please try again."
    if verdict.status != 429:
        return "The system encountered an unexpected error during processing. Try your request again."
    what = "requests" if detail is None or detail.axis in (Axis.REQUESTS, Axis.CONCURRENCY) else "tokens"
    span = " per day" if verdict.error == "daily_quota" else ""
    return f"Too many {what}{span}, please wait before trying again."


def _completion(reply_id: str, model: str, kind: str) -> Json:
    return {"id": f"chatcmpl-{reply_id}", "object": kind, "created": _CREATED, "model": model}


def _message(reply_id: str, model: str, input_tokens: int) -> Json:
    return {
        "id": f"msg_{reply_id}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _anthropic_usage(input_tokens, 1),
    }


def _anthropic_usage(input_tokens: int, output_tokens: int) -> Json:
    cache = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {"input_tokens": input_tokens, "output_tokens": output_tokens} | cache


def _data(body: Json) -> str:
    return f"data: {json.dumps(body, separators=(',', ':'))}\n\n"


def _event(kind: str, **fields: Any) -> str:
    return f"event: {kind}\n{_data({'type': kind} | fields)}"


def _reply_id(call: Call) -> str:
    return f"{call.index:08d}"


def _is_cut(call: Call) -> bool:
    return call.output_tokens == call.max_tokens
