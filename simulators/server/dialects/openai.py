"""OpenAI: chat completions, Responses, embeddings, and its rejections, as documented or captured in public issues."""

from __future__ import annotations

import base64
import math
from typing import TYPE_CHECKING, Any, ClassVar

from factflow_llm.signals import Axis
from simulators.providers.calls import CallKind
from simulators.providers.limit_headers import go_duration
from simulators.providers.quotas import DAY_S
from simulators.server.dialects import responses
from simulators.server.dialects.base import (
    CREATED,
    ORG,
    ApiRoute,
    Asking,
    Dialect,
    InvalidAskingError,
    Json,
    characters,
    data,
    embedding,
    reply_id,
    turns,
    whole,
)
from simulators.server.dialects.said import AnswerKind, Offered, inside, objects, offered

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simulators.providers.calls import Call
    from simulators.providers.catalogue import Provider
    from simulators.providers.machine import RejectionDetail, Verdict

_LIMITS_PAGE = "Visit https://platform.openai.com/account/rate-limits to learn more."
_MAX_INPUTS = 2_048
_MAX_TOKENS_PER_INPUT = 8_192
_MAX_TOKENS_PER_REQUEST = 300_000


def read_chat(body: Json, model: str | None = None) -> Asking:
    """Read a chat completion request; ``model`` is the deployment where the path names one.

    The admission estimate is that of captures: a quarter of the characters of each message, rounded up, plus 1.
    """
    messages = turns(body)
    if not messages:
        raise InvalidAskingError(
            "Missing required parameter: 'messages'.", code="missing_required_parameter", param="messages"
        )
    options = body.get("stream_options")
    return Asking(
        CallKind.CHAT,
        model or str(body.get("model", "")),
        sum(math.ceil(characters(message.get("content")) / 4) + 1 for message in messages),
        whole(body, "max_completion_tokens") or whole(body, "max_tokens"),
        stream=bool(body.get("stream")),
        stream_usage=isinstance(options, dict) and bool(options.get("include_usage")),
        offered=_offered(body),
    )


def _offered(body: Json) -> Offered:
    functions = [tool.get("function") for tool in objects(body.get("tools"))]
    tools = [(inside(function, "name"), inside(function, "parameters")) for function in functions]
    choice, form = body.get("tool_choice"), body.get("response_format")
    schema = {"type": "object"} if inside(form, "type") == "json_object" else inside(form, "json_schema", "schema")
    must = choice == "required" or isinstance(choice, dict)
    return offered(tools, must, schema, inside(choice, "function", "name"))


def read_embeddings(body: Json, model: str | None = None) -> Asking:
    """Read an embedding request: at most 2 048 inputs of 8 192 tokens, 300 000 together, none of them empty."""
    texts = body.get("input")
    texts = [texts] if isinstance(texts, str) else texts
    name = model or str(body.get("model", ""))
    if not isinstance(texts, list) or not 0 < len(texts) <= _MAX_INPUTS or not all(map(_is_input, texts)):
        raise InvalidAskingError(
            "'$.input' is invalid. Please check the API reference: https://platform.openai.com/docs/api-reference."
        )
    sizes = [max(_length(text) // 4, 1) for text in texts]
    for place, size in enumerate(sizes):
        if size > _MAX_TOKENS_PER_INPUT:
            raise InvalidAskingError(
                f"Invalid 'input[{place}]': maximum input length is {_MAX_TOKENS_PER_INPUT} tokens."
            )
    if sum(sizes) > _MAX_TOKENS_PER_REQUEST:
        message = f"Requested {sum(sizes)} tokens, max {_MAX_TOKENS_PER_REQUEST} tokens per request"
        raise InvalidAskingError(message, code="max_tokens_per_request")
    return Asking(
        CallKind.EMBEDDING,
        name,
        sum(sizes),
        texts=tuple(map(str, texts)),
        dimensions=whole(body, "dimensions") or (3072 if name.endswith("-large") else 1536),
        packed=body.get("encoding_format") == "base64",
    )


def _is_input(text: Any) -> bool:
    """Tell whether it is a text, or a list of token numbers, and not empty."""
    return isinstance(text, str | list) and len(text) > 0


def _length(text: str | list[int]) -> int:
    return len(text) if isinstance(text, str) else 4 * len(text)


def chat(wanted: Asking, call: Call) -> Json:
    """Return a chat completion."""
    says = wanted.said
    message: Json = {"role": "assistant", "content": says.text, "refusal": None}
    if says.tool is not None:
        use = {"id": f"call_{reply_id(call)}", "type": "function"}
        function = {"name": says.tool.name, "arguments": says.tool.text}
        message |= {"content": None, "tool_calls": [use | {"function": function}]}
    elif says.kind is AnswerKind.REFUSAL:
        message |= {"content": None, "refusal": says.text}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _FINISHES.get(says.kind, "stop")}
    return _completion(call, wanted.model, "chat.completion") | {"choices": [choice], "usage": _usage(call)}


_FINISHES = {
    AnswerKind.LENGTH: "length",
    AnswerKind.TOOL_CALL: "tool_calls",
    AnswerKind.FILTERED: "content_filter",
}


def _usage(call: Call) -> Json:
    total = call.input_tokens + call.output_tokens
    return {"prompt_tokens": call.input_tokens, "completion_tokens": call.output_tokens, "total_tokens": total}


def chat_events(wanted: Asking, call: Call) -> Iterator[bytes]:
    """Yield the events of a streamed chat: role, words, finish, usage if asked for, ``[DONE]``."""
    shared = _completion(call, wanted.model, "chat.completion.chunk") | ({"usage": None} if wanted.stream_usage else {})

    def chunk(delta: Json, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return data(shared | {"choices": [choice]})

    says = wanted.said
    yield chunk({"role": "assistant", "content": "" if says.tool is None else None, "refusal": None})
    if says.tool is not None:
        use = {"index": 0, "id": f"call_{reply_id(call)}", "type": "function"}
        yield chunk({"tool_calls": [use | {"function": {"name": says.tool.name, "arguments": ""}}]})
    for piece in says.pieces:
        if says.tool is not None:
            yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
        else:
            yield chunk({"refusal" if says.kind is AnswerKind.REFUSAL else "content": piece})
    yield chunk({}, _FINISHES.get(says.kind, "stop"))
    if wanted.stream_usage:
        yield data(shared | {"choices": [], "usage": _usage(call)})
    yield b"data: [DONE]\n\n"


def embeddings(wanted: Asking, call: Call) -> Json:
    """Return vectors, packed as base64 of little-endian float32 where asked for, as the SDK does unless told not to."""
    vectors = [embedding(text, wanted.dimensions) for text in wanted.texts]
    rows = [
        {
            "object": "embedding",
            "index": index,
            "embedding": (
                base64.b64encode(vector.astype("<f4").tobytes()).decode() if wanted.packed else vector.tolist()
            ),
        }
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": call.input_tokens, "total_tokens": call.input_tokens}
    return {"object": "list", "data": rows, "model": wanted.model, "usage": usage}


def _completion(call: Call, model: str, kind: str) -> Json:
    return {"id": f"chatcmpl-{reply_id(call)}", "object": kind, "created": CREATED, "model": model}


def openai_error(message: str, kind: str | None, code: str | None = None, param: str | None = None) -> Json:
    """Return OpenAI's error envelope."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


STREAM_ERROR = data(
    openai_error("The server had an error while processing your request. Sorry about that!", "server_error")
)


class OpenAI(Dialect):
    """OpenAI itself."""

    routes: ClassVar[tuple[ApiRoute, ...]] = (
        ApiRoute("/v1/chat/completions", lambda body, _: read_chat(body), chat, chat_events, STREAM_ERROR),
        ApiRoute(
            "/v1/responses",
            lambda body, _: responses.read(body),
            responses.answer,
            responses.events,
            responses.STREAM_ERROR,
        ),
        ApiRoute("/v1/embeddings", lambda body, _: read_embeddings(body), embeddings),
    )
    batch_files = ("/v1",)

    def headers(self, number: int, status: int) -> dict[str, str]:
        """Name the request and the organization."""
        return {
            "x-request-id": f"req_{number:032x}",
            "openai-version": "2020-10-01",
            "openai-organization": "org-simulated",
        }

    def problem(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> Json:
        """Return a mistake in the error envelope."""
        return openai_error(message, "invalid_request_error", code, param)

    def rejection(self, provider: Provider, verdict: Verdict, detail: RejectionDetail | None, operation: str) -> Json:
        """Return the rejection in the words of captures."""
        return _rejection(provider, verdict, detail)


def _rejection(provider: Provider, verdict: Verdict, detail: RejectionDetail | None) -> Json:
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
    place = f"for {provider.model} in organization {ORG} on {kind} per {span} ({letter}P{span[0].upper()})"
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


DIALECT = OpenAI()
