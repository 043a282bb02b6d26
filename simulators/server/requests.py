"""What a provider reads from a request: its size by the provider's own estimate, and mistakes, which get a 400."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from simulators.providers.calls import CallKind
from simulators.providers.limit_headers import Api

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

Json = dict[str, Any]

_MAX_INPUTS = 2_048
_MAX_TOKENS_PER_INPUT = 8_192
_MAX_TOKENS_PER_REQUEST = 300_000
_MAX_TITAN_CHARS = 50_000
_LARGEST = 1_000_000
_SAMPLING = ("temperature", "top_p", "top_k")


class InvalidAskingError(Exception):
    """The request is wrong: a 4xx and what the provider says about it."""

    def __init__(self, message: str, *, status: int = 400, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param


class Asking(NamedTuple):
    """What a valid request asks for."""

    kind: CallKind
    model: str
    input_tokens: int
    max_tokens: int | None = None
    stream: bool = False
    stream_usage: bool = False
    texts: tuple[str, ...] = ()
    dimensions: int = 0
    packed: bool = False
    vector_kinds: tuple[str, ...] = ()


def openai_chat(body: Json, model: str | None = None) -> Asking:
    """Read a chat completion request; ``model`` is the deployment where the path names one.

    The admission estimate is that of captures: a quarter of the characters of each message, rounded up, plus 1.
    """
    messages = _turns(body)
    if not messages:
        raise InvalidAskingError(
            "Missing required parameter: 'messages'.", code="missing_required_parameter", param="messages"
        )
    options = body.get("stream_options")
    return Asking(
        CallKind.CHAT,
        model or str(body.get("model", "")),
        sum(math.ceil(_characters(message.get("content")) / 4) + 1 for message in messages),
        _whole(body, "max_completion_tokens") or _whole(body, "max_tokens"),
        stream=bool(body.get("stream")),
        stream_usage=isinstance(options, dict) and bool(options.get("include_usage")),
    )


def openai_embeddings(body: Json, model: str | None = None) -> Asking:
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
        dimensions=_whole(body, "dimensions") or (3072 if name.endswith("-large") else 1536),
        packed=body.get("encoding_format") == "base64",
    )


def anthropic_messages(body: Json, version: str | None) -> Asking:
    """Read a message request; from version 2026-10-21 on, sampling parameters are mistakes."""
    if version is None:
        raise InvalidAskingError("anthropic-version: header is required")
    max_tokens, messages = _whole(body, "max_tokens"), _turns(body)
    if max_tokens is None:
        raise InvalidAskingError("max_tokens: Field required")
    if not messages:
        raise InvalidAskingError("messages: at least one message is required")
    sampling = [name for name in _SAMPLING if name in body]
    if sampling and version >= "2026-10-21":
        raise InvalidAskingError(f"{sampling[0]}: Extra inputs are not permitted")
    characters = _characters(body.get("system")) + sum(_characters(one.get("content")) for one in messages)
    return Asking(
        CallKind.CHAT,
        str(body.get("model", "")),
        max(math.ceil(characters / 4), 1),
        max_tokens,
        stream=bool(body.get("stream")),
    )


def titan(body: Json, model: str) -> Asking:
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
    if tokens > _MAX_TOKENS_PER_INPUT:
        raise InvalidAskingError(
            f"400 Bad Request: Too many input tokens. Max input tokens: {_MAX_TOKENS_PER_INPUT}, "
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


def _turns(body: Json) -> list[Json]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return []
    return messages


def _whole(body: Json, name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _LARGEST:
        raise InvalidAskingError(f"Invalid '{name}': expected an integer from 1 to {_LARGEST}.", param=name)
    return value


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


def _characters(content: Any) -> int:
    if isinstance(content, str):
        return len(content)
    if isinstance(content, list):
        return sum(_characters(part.get("text")) for part in content if isinstance(part, dict))
    return 0


def _is_input(text: Any) -> bool:
    """Tell whether it is a text, or a list of token numbers, and not empty."""
    return isinstance(text, str | list) and len(text) > 0


def _length(text: str | list[int]) -> int:
    return len(text) if isinstance(text, str) else 4 * len(text)


class ApiRoute(NamedTuple):
    """A path, how its requests are read, and what Azure calls the operation."""

    path: str
    read: Callable[[Json, Request], Asking]
    operation: str = ""


def _azure_model(request: Request) -> str:
    if "api-version" not in request.query_params:
        raise InvalidAskingError("Resource not found", status=404)
    return str(request.path_params["model"])


ROUTES = {
    Api.OPENAI: (
        ApiRoute("/v1/chat/completions", lambda body, _: openai_chat(body)),
        ApiRoute("/v1/embeddings", lambda body, _: openai_embeddings(body)),
    ),
    Api.AZURE: (
        ApiRoute("/openai/v1/chat/completions", lambda body, _: openai_chat(body), "ChatCompletions_Create"),
        ApiRoute("/openai/v1/embeddings", lambda body, _: openai_embeddings(body), "Embeddings_Create"),
        ApiRoute(
            "/openai/deployments/{model}/chat/completions",
            lambda body, request: openai_chat(body, _azure_model(request)),
            "ChatCompletions_Create",
        ),
        ApiRoute(
            "/openai/deployments/{model}/embeddings",
            lambda body, request: openai_embeddings(body, _azure_model(request)),
            "Embeddings_Create",
        ),
    ),
    Api.ANTHROPIC: (
        ApiRoute(
            "/v1/messages",
            lambda body, request: anthropic_messages(body, request.headers.get("anthropic-version")),
        ),
    ),
    Api.BEDROCK: (
        ApiRoute("/model/{model:path}/invoke", lambda body, request: titan(body, request.path_params["model"])),
    ),
}
