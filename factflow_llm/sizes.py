"""What a chat holds beside its words: schemas, calls, images, documents, recordings, and about what they weigh."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from factflow_llm.types import AudioPart, DocumentPart, ImagePart, Message, Part, TextPart, Tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

TOKENS_PER_IMAGE = 1_000
"""Between OpenAI's 765 for a detailed square and Anthropic's 1,600 for the largest; the size is not known here."""
TOKENS_PER_GLANCE = 85
"""What OpenAI charges for an image it need not look at closely."""
TOKENS_PER_PAGE = 2_000
"""Anthropic names 1,500 to 3,000 for a page of a PDF, which it reads as text and as an image."""
BYTES_PER_AUDIO_TOKEN = 1_600
"""Ten tokens a second, at the 128 kbit/s of a usual MP3; uncompressed speech has twice the bytes."""

_PAGE = re.compile(rb"/Type\s*/Page(?!s)")


def count_request(
    count: Callable[[str], int],
    messages: Sequence[Message],
    *,
    tools: Sequence[Tool | Mapping[str, Any]] | None = None,
    response_format: Any = None,
) -> int:
    """Count what a chat will read, for a limiter to reserve: all its texts in one count, and its files.

    Args:
        count: counts the tokens of a text.
        messages: the conversation, with tool calls and what providers want back.
        tools: their schemas are read, too.
        response_format: so is the schema of the answer.
    """
    texts = list(chat_texts(messages, tools or ()))
    texts += [message.provider_state.data for message in messages if message.provider_state is not None]
    if response_format is not None:
        texts.append(_schema_text(response_format))
    return count("".join(texts)) + sum(map(file_tokens, messages))


def chat_texts(messages: Iterable[Message], tools: Iterable[Tool | Mapping[str, Any]]) -> Iterator[str]:
    """Yield every text a chat holds: what is said, names, calls with their arguments, tools with their schemas."""
    for message in messages:
        if isinstance(message.content, str):
            yield message.content
        else:
            yield from map(_text_of, message.content)
        yield message.name or ""
        for call in message.tool_calls:
            yield call.name
            yield call.arguments
    for tool in tools:
        if isinstance(tool, Tool):
            yield f"{tool.name} {tool.description} {_json(tool.parameters)}"
        else:
            yield _json(tool)


def _plain(odd: Any) -> Any:
    return dict(odd) if isinstance(odd, Mapping) else str(odd)


_json = json.JSONEncoder(default=_plain).encode


def _schema_text(response_format: Any) -> str:
    if isinstance(response_format, Mapping):
        return _json(response_format)
    return _model_text(response_format) if isinstance(response_format, type) else ""


@lru_cache(maxsize=256)
def _model_text(model: Any) -> str:
    """Write a pydantic model's schema; what is none, or has none, is for the client to refuse."""
    try:
        return _json(model.model_json_schema())
    except Exception:
        return ""


def _text_of(part: Part) -> str:
    if isinstance(part, TextPart):
        return part.text
    if isinstance(part, DocumentPart) and part.data is not None and part.media_type.startswith("text/"):
        return part.data.decode(errors="replace")
    text = part.get("text") if isinstance(part, Mapping) else None
    return text if isinstance(text, str) else ""


def file_tokens(message: Message) -> int:
    """Estimate the tokens of the images, documents and recordings in a message."""
    return 0 if isinstance(message.content, str) else sum(map(_tokens_of_file, message.content))


def _tokens_of_file(part: Part) -> int:
    if _text_of(part) or isinstance(part, TextPart):
        return 0
    if isinstance(part, AudioPart):
        rate = BYTES_PER_AUDIO_TOKEN * (2 if "wav" in part.media_type else 1)
        return math.ceil(len(part.data) / rate)
    if isinstance(part, DocumentPart):
        pages = len(_PAGE.findall(part.data)) if part.data is not None else 1
        return TOKENS_PER_PAGE * max(1, pages)
    return TOKENS_PER_GLANCE if isinstance(part, ImagePart) and part.detail == "low" else TOKENS_PER_IMAGE
