"""Bedrock: Titan's embeddings, chats by Converse and ConverseStream, and its rejections, with no limit headers."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from typing import TYPE_CHECKING, Any, ClassVar

from factflow_llm.signals import Axis
from simulators.providers.calls import CallKind
from simulators.server import event_stream
from simulators.server.dialects.base import (
    ApiRoute,
    Asking,
    Dialect,
    InvalidAskingError,
    Json,
    characters,
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

_MAX_TITAN_TOKENS = 8_192
_MAX_TITAN_CHARS = 50_000
_SIGNED = "AWS4-HMAC-SHA256"


def read_converse(body: Json, model: str, *, stream: bool) -> Asking:
    """Read a chat; its size is a quarter of the characters in system, turns and results of tools."""
    messages = turns(body)
    if not messages or messages[0].get("role") != "user":
        raise InvalidAskingError("A conversation must start with a user message. Try again with one.")
    roles = [message.get("role") for message in messages]
    if any(one == other for one, other in itertools.pairwise(roles)):
        raise InvalidAskingError("A conversation must alternate between user and assistant roles.")
    size = characters(body.get("system")) + sum(_size(message.get("content")) for message in messages)
    inference = body.get("inferenceConfig")
    longest = whole(inference, "maxTokens") if isinstance(inference, dict) else None
    return Asking(CallKind.CHAT, model, max(math.ceil(size / 4), 1), longest, stream=stream, offered=_offered(body))


def _offered(body: Json) -> Offered:
    choice = inside(body, "toolConfig", "toolChoice")
    tools = [
        (inside(tool, "toolSpec", "name"), inside(tool, "toolSpec", "inputSchema", "json"))
        for tool in objects(inside(body, "toolConfig", "tools"))
    ]
    schema = inside(body, "outputConfig", "textFormat", "structure", "jsonSchema", "schema")
    if isinstance(schema, str):
        with contextlib.suppress(ValueError, RecursionError):
            schema = json.loads(schema)
    must = isinstance(choice, dict) and ("any" in choice or "tool" in choice)
    return offered(tools, must, schema, inside(choice, "tool", "name"))


def _size(content: Any) -> int:
    results = (
        [block.get("toolResult") for block in content if isinstance(block, dict)] if isinstance(content, list) else []
    )
    return characters(content) + sum(
        characters(result.get("content")) for result in results if isinstance(result, dict)
    )


def converse(wanted: Asking, call: Call) -> Json:
    """Return a message of one text."""
    tool = wanted.said.tool
    block: Json = {"text": wanted.said.text}
    if tool is not None:
        block = {"toolUse": {"toolUseId": f"tooluse_{reply_id(call)}", "name": tool.name, "input": tool.arguments}}
    return {
        "output": {"message": {"role": "assistant", "content": [block]}},
        "stopReason": _STOPS.get(wanted.said.kind, "end_turn"),
        "usage": _usage(call),
        "metrics": {"latencyMs": 1},
    }


def converse_events(wanted: Asking, call: Call) -> Iterator[bytes]:
    """Yield the frames of a streamed message; no event opens a block of text."""
    yield event_stream.frame({"messageStart": {"role": "assistant"}})
    tool = wanted.said.tool
    if tool is not None:
        use = {"toolUse": {"toolUseId": f"tooluse_{reply_id(call)}", "name": tool.name}}
        yield event_stream.frame({"contentBlockStart": {"contentBlockIndex": 0, "start": use}})
    for piece in wanted.said.pieces:
        delta = {"text": piece} if tool is None else {"toolUse": {"input": piece}}
        yield event_stream.frame({"contentBlockDelta": {"contentBlockIndex": 0, "delta": delta}})
    yield event_stream.frame({"contentBlockStop": {"contentBlockIndex": 0}})
    yield event_stream.frame({"messageStop": {"stopReason": _STOPS.get(wanted.said.kind, "end_turn")}})
    yield event_stream.frame({"metadata": {"usage": _usage(call), "metrics": {"latencyMs": 1}}})


_STOPS = {
    AnswerKind.LENGTH: "max_tokens",
    AnswerKind.TOOL_CALL: "tool_use",
    AnswerKind.REFUSAL: "content_filtered",
    AnswerKind.FILTERED: "content_filtered",
}


def _usage(call: Call) -> Json:
    total = call.input_tokens + call.output_tokens
    return {"inputTokens": call.input_tokens, "outputTokens": call.output_tokens, "totalTokens": total}


def read_titan(body: Json, model: str) -> Asking:
    """Read a Titan embedding request: one text of at most 8 192 tokens and 50 000 characters."""
    if "titan-embed" not in model:
        raise InvalidAskingError("The provided model identifier is invalid.")
    text = body.get("inputText")
    if not isinstance(text, str) or not text:
        raise InvalidAskingError(
            "Malformed input request: #/inputText: expected minLength: 1, actual: 0, "
            "please reformat your input and try again."
        )
    if len(text) > _MAX_TITAN_CHARS:
        raise InvalidAskingError(
            f"Malformed input request: expected maxLength: {_MAX_TITAN_CHARS}, actual: {len(text)}, "
            "please reformat your input and try again."
        )
    tokens = max(math.ceil(len(text) / 4), 1)
    if tokens > _MAX_TITAN_TOKENS:
        raise InvalidAskingError(
            f"400 Bad Request: Too many input tokens. Max input tokens: {_MAX_TITAN_TOKENS}, "
            f"request input token count: {tokens} "
        )
    return Asking(
        CallKind.EMBEDDING,
        model,
        tokens,
        texts=(text,),
        dimensions=_titan_dimensions(body) if "v2" in model else 1536,
        vector_kinds=_titan_kinds(body),
    )


def _titan_dimensions(body: Json) -> int:
    value = body.get("dimensions", 1024)
    if value not in (256, 512, 1024):
        raise InvalidAskingError(
            "Malformed input request: #/dimensions: not a valid enum value, please reformat your input."
        )
    return int(value)


def _titan_kinds(body: Json) -> tuple[str, ...]:
    kinds = body.get("embeddingTypes", ["float"])
    if not isinstance(kinds, list) or not kinds or not all(kind in ("float", "binary") for kind in kinds):
        raise InvalidAskingError(
            "Malformed input request: #/embeddingTypes: not a valid enum value, please reformat your input."
        )
    return tuple(kinds)


def titan(wanted: Asking, call: Call) -> Json:
    """Return Titan's vector: of version 1, or of version 2 with its copies by type."""
    vector = embedding(wanted.texts[0], wanted.dimensions)
    body: Json = {"embedding": vector.tolist(), "inputTextTokenCount": call.input_tokens}
    if "v2" not in wanted.model:
        return body
    by_kind = {"float": vector.tolist(), "binary": (vector > 0).astype(int).tolist()}
    return body | {"embeddingsByType": {kind: by_kind[kind] for kind in wanted.vector_kinds}}


class Bedrock(Dialect):
    """Amazon Bedrock."""

    routes: ClassVar[tuple[ApiRoute, ...]] = (
        ApiRoute(
            "/model/{model:path}/converse",
            lambda body, request: read_converse(body, request.path_params["model"], stream=False),
            converse,
        ),
        ApiRoute(
            "/model/{model:path}/converse-stream",
            lambda body, request: read_converse(body, request.path_params["model"], stream=True),
            converse,
            converse_events,
            event_stream.frame({"serviceUnavailableException": {"message": "The service is temporarily unavailable."}}),
            stream_type=event_stream.CONTENT_TYPE,
        ),
        ApiRoute(
            "/model/{model:path}/invoke",
            lambda body, request: read_titan(body, request.path_params["model"]),
            titan,
        ),
    )

    def headers(self, number: int, status: int) -> dict[str, str]:
        """Name the request, and of a failure the exception."""
        named = {"x-amzn-requestid": f"{number:032x}"}
        return named if status < 400 else named | {"x-amzn-errortype": _error_type(status)}

    def usage_headers(self, call: Call, verdict: Verdict) -> dict[str, str]:
        """Tell tokens and latency, which no body of an embedding tells."""
        told = {
            "x-amzn-bedrock-input-token-count": str(call.input_tokens),
            "x-amzn-bedrock-invocation-latency": str(round(verdict.duration_s * 1000)),
        }
        if call.kind is CallKind.CHAT:
            told["x-amzn-bedrock-output-token-count"] = str(call.output_tokens)
        return told

    def trusts(self, scheme: str) -> bool:
        """Trust a signature, whose secret nobody here knows."""
        return scheme == _SIGNED

    def problem(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> Json:
        """Return a mistake; the exception's name is in the headers."""
        return {"message": message}

    def rejection(self, provider: Provider, verdict: Verdict, detail: RejectionDetail | None, operation: str) -> Json:
        """Return a rejection; the exception's name is in the headers."""
        return {"message": _message(verdict, detail)}


def _error_type(status: int) -> str:
    """Return the exception's name that Bedrock sends in ``x-amzn-errortype``."""
    return {
        400: "ValidationException",
        403: "AccessDeniedException",
        404: "ResourceNotFoundException",
        429: "ThrottlingException",
        503: "ServiceUnavailableException",
    }.get(status, "InternalServerException")


def _message(verdict: Verdict, detail: RejectionDetail | None) -> str:
    if verdict.status == 503:
        return "The service is temporarily unable to process the request. Please try again."
    if verdict.status != 429:
        return "The system encountered an unexpected error during processing. Try your request again."
    what = "requests" if detail is None or detail.axis in (Axis.REQUESTS, Axis.CONCURRENCY) else "tokens"
    span = " per day" if verdict.error == "daily_quota" else ""
    return f"Too many {what}{span}, please wait before trying again."


DIALECT = Bedrock()
