"""What goes into a model call and what comes out, in one neutral form for every provider.

Values are frozen. Prompts and answers never show in a repr: they would reach logs and tracebacks.
Counts that a provider did not tell are ``None``, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence  # noqa: TC003 - pydantic reads these annotations at run time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """Who speaks in a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class FinishReason(StrEnum):
    """Why a model stopped: the closed set to which every provider's word is normalised."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of text inside a message."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image inside a message: an https URL, or bytes with their media type (``image/png``)."""

    url: str | None = field(default=None, repr=False)
    data: bytes | None = field(default=None, repr=False)
    media_type: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's wish to call a tool: ``arguments`` is the JSON text the model wrote, unparsed."""

    id: str
    name: str
    arguments: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call; ``parameters`` is its JSON schema."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    ``content`` is text, or a sequence of parts. An assistant's turn may carry ``tool_calls``; a turn of
    ``Role.TOOL`` answers the call named by ``tool_call_id``.
    """

    role: Role
    content: str | Sequence[TextPart | ImagePart] = field(default="", repr=False)
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    @classmethod
    def system(cls, text: str) -> Message:
        """Make a system turn."""
        return cls(Role.SYSTEM, text)

    @classmethod
    def user(cls, content: str | Sequence[TextPart | ImagePart]) -> Message:
        """Make a user's turn."""
        return cls(Role.USER, content)

    @classmethod
    def assistant(cls, text: str = "", *, tool_calls: tuple[ToolCall, ...] = ()) -> Message:
        """Make an assistant's turn."""
        return cls(Role.ASSISTANT, text, tool_calls=tool_calls)

    @classmethod
    def tool(cls, text: str, *, tool_call_id: str) -> Message:
        """Make the answer to a tool call."""
        return cls(Role.TOOL, text, tool_call_id=tool_call_id)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens a call consumed; ``None`` where the provider did not say.

    Attributes:
        input_tokens: all that was read, whatever served it: cached and cache-write tokens are among them.
        output_tokens: all that was written: reasoning tokens are among them.
        cached_input_tokens: the part of the input a cache served.
        cache_write_tokens: the part of the input written to a cache.
        reasoning_tokens: the part of the output that was thought.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None

    @property
    def total_tokens(self) -> int | None:
        """Input plus output, or ``None`` when either is unknown."""
        if self.input_tokens is None or self.output_tokens is None:
            return None
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class CompletionResponse:
    """A finished answer.

    Attributes:
        text: what was said; a refusal's words when the model refused.
        model: the model that answered, by the provider's name.
        usage: tokens consumed.
        finish_reason: why the model stopped; ``None`` when the provider did not say.
        provider_finish_reason: the provider's own word for it.
        tool_calls: the tools the model wants called.
        reasoning: what the model thought, where the provider shows it.
        response_id: the provider's name for this answer.
        headers: HTTP response headers, names in lower case.
        raw: the SDK's response.
    """

    text: str = field(repr=False)
    model: str
    usage: Usage
    finish_reason: FinishReason | None
    provider_finish_reason: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = field(default=None, repr=False)
    response_id: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    raw: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a streamed tool call: ``index`` tells which call it belongs to."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class StreamChunk:
    """A piece of a streamed answer; the last one carries ``usage`` and ``finish_reason``."""

    text: str = field(default="", repr=False)
    tool_calls: tuple[ToolCallDelta, ...] = ()
    reasoning: str = field(default="", repr=False)
    usage: Usage | None = None
    finish_reason: FinishReason | None = None
    provider_finish_reason: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    raw: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class EmbeddingResponse:
    """Vectors in the order of the texts.

    ``raw`` holds the SDK's responses, one per batch.
    """

    vectors: tuple[tuple[float, ...], ...] = field(repr=False)
    model: str
    usage: Usage
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    raw: tuple[Any, ...] = field(default=(), repr=False, compare=False)

    @property
    def dimensions(self) -> int:
        """Length of each vector; 0 when there is none."""
        return len(self.vectors[0]) if self.vectors else 0
