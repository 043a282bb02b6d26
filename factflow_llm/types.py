"""What goes into a model call and what comes out, in one neutral form for every provider.

Values are frozen. Prompts and answers never show in a repr: they would reach logs and tracebacks.
Counts that a provider did not tell are ``None``, never 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from factflow_llm.prices import Prices

ToolChoice = str | Mapping[str, Any]
"""``auto``, ``none``, ``required``, or the name of the tool to be called; a mapping is the provider's own words."""

TOOL_CHOICES = frozenset({"auto", "none", "required"})

Reasoning = int | str
"""How much to think: an effort (``EFFORTS``), or a budget in tokens."""

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


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


CacheMark = bool | Literal["5m", "1h"]
"""A cache breakpoint: ``True`` for the provider's own lifetime, or the lifetime by name."""


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of text inside a message; ``cache`` asks the provider to keep all up to and with this part."""

    text: str = field(repr=False)
    cache: CacheMark = False


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image inside a message: an https URL, bytes with their media type (``image/png``), or a file's id.

    Attributes:
        detail: how closely to look, where the provider has a choice: ``low``, ``high``, ``auto``.
        cache: asks the provider to keep all up to and with this part.
    """

    url: str | None = field(default=None, repr=False)
    data: bytes | None = field(default=None, repr=False)
    media_type: str | None = None
    detail: str | None = None
    file_id: str | None = field(default=None, repr=False)
    cache: CacheMark = False


@dataclass(frozen=True, slots=True)
class DocumentPart:
    """A document inside a message: bytes with their media type, an https URL, or the id of a file uploaded before.

    Attributes:
        name: its file name or title.
        citations: whether the model shall cite it, where the provider can.
        cache: asks the provider to keep all up to and with this part.
    """

    data: bytes | None = field(default=None, repr=False)
    url: str | None = field(default=None, repr=False)
    file_id: str | None = field(default=None, repr=False)
    media_type: str = "application/pdf"
    name: str | None = field(default=None, repr=False)
    citations: bool = False
    cache: CacheMark = False


@dataclass(frozen=True, slots=True)
class AudioPart:
    """A recording inside a message: bytes with their media type (``audio/wav``, ``audio/mpeg``)."""

    data: bytes = field(repr=False)
    media_type: str = "audio/wav"


Part = TextPart | ImagePart | DocumentPart | AudioPart | Mapping[str, Any]
"""A piece of a message; a mapping is the provider's own words for one and goes out untouched."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's wish to call a tool.

    Attributes:
        id: what the tool's answer names; derived where the provider gives none.
        name: the tool.
        arguments: the JSON text the model wrote, unparsed; ``{}`` where it wrote nothing.
        provider_state: what the provider wants back with this call, should the call go back without its message.
    """

    id: str
    name: str
    arguments: str = field(repr=False)
    provider_state: ProviderState | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call; ``parameters`` is its JSON schema.

    Attributes:
        strict: whether the provider must hold the arguments to the schema; ``None`` leaves it to the provider.
        cache: asks the provider to keep all tools up to and with this one.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    strict: bool | None = None
    cache: CacheMark = False


@dataclass(frozen=True, slots=True)
class ProviderState:
    """What a provider wants back with its own turn: signatures, encrypted reasoning, blocks nobody else reads.

    Attributes:
        origin: who gave it, such as ``anthropic api.anthropic.com``; nobody else is sent it.
        data: JSON text, so that a message stays immutable, comparable and picklable. It leaves out what the message
            says itself: a text that was edited or redacted does not come back by this way.
    """

    origin: str
    data: str = field(repr=False)

    @classmethod
    def of(cls, origin: str, value: Any) -> ProviderState:
        """Keep a JSON value."""
        return cls(origin, json.dumps(value, separators=(",", ":"), sort_keys=True))

    def value(self) -> Any:
        """Return the JSON value that was kept."""
        return json.loads(self.data)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    ``content`` is text, or a sequence of parts. An assistant's turn may carry ``tool_calls``; a turn of
    ``Role.TOOL`` answers the call named by ``tool_call_id``.

    Attributes:
        is_error: on a tool's turn, whether the tool failed.
        reasoning: on an assistant's turn, what the model thought, in words; for reading, never sent by itself.
        provider_state: on an assistant's turn, what the provider that answered wants back with it.
    """

    role: Role
    content: str | Sequence[Part] = field(default="", repr=False)
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    is_error: bool = False
    reasoning: str | None = field(default=None, repr=False)
    provider_state: ProviderState | None = field(default=None, repr=False)

    @classmethod
    def system(cls, content: str | Sequence[Part]) -> Message:
        """Make a system turn."""
        return cls(Role.SYSTEM, content)

    @classmethod
    def user(cls, content: str | Sequence[Part]) -> Message:
        """Make a user's turn."""
        return cls(Role.USER, content)

    @classmethod
    def assistant(cls, text: str = "", *, tool_calls: tuple[ToolCall, ...] = ()) -> Message:
        """Make an assistant's turn; one that a client answered is ``response.message``."""
        return cls(Role.ASSISTANT, text, tool_calls=tool_calls)

    @classmethod
    def tool(cls, content: str | Sequence[Part], *, tool_call_id: str, is_error: bool = False) -> Message:
        """Make the answer to a tool call: text, or parts with images and documents among them."""
        return cls(Role.TOOL, content, tool_call_id=tool_call_id, is_error=is_error)


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
class TokenLogprob:
    """How probable a token was: the natural logarithm, and of the likeliest ones at its place where they were asked."""

    token: str = field(repr=False)
    logprob: float
    likeliest: tuple[TokenLogprob, ...] = field(default=(), repr=False)


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
        origin: who answered: provider and host, such as ``openai api.openai.com``.
        provider_state: what the provider wants back with this turn; ``message`` carries it.
        parsed: the text as an instance of the model given as ``response_format``; ``None`` without one, or when the
            text does not fit.
        parse_error: what does not fit: places and rules, nothing of the text.
        logprobs: of each token written, where they were asked for and told.
        responses: all answers, this one first, where ``n`` asked for several; usage is told of all together, here.
        profile: whose answer it is, where several profiles might have answered.
        prices: what the profile says of prices; by default they are looked up.
        raw: the SDK's response; of a stream, its last event.
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
    origin: str = ""
    provider_state: ProviderState | None = field(default=None, repr=False)
    parsed: Any = field(default=None, repr=False)
    parse_error: str | None = None
    logprobs: tuple[TokenLogprob, ...] | None = field(default=None, repr=False)
    responses: tuple[CompletionResponse, ...] = field(default=(), repr=False)
    profile: str = ""
    prices: Prices | None = field(default=None, repr=False, compare=False)
    raw: Any = field(default=None, repr=False, compare=False)

    @property
    def cost_usd(self) -> float | None:
        """Price in US dollars: the profile's, else as listed (extra ``prices``); ``None`` where it is unknown."""
        if self.prices is not None:
            return self.prices.cost_usd(self.usage)
        from factflow_llm.prices import cost_usd

        return cost_usd(self.usage, model=self.model, origin=self.origin)

    @property
    def message(self) -> Message:
        """This turn as it goes back into the conversation, with all its provider wants to see again."""
        return Message(
            Role.ASSISTANT,
            self.text,
            tool_calls=self.tool_calls,
            reasoning=self.reasoning,
            provider_state=self.provider_state,
        )


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a streamed tool call.

    Attributes:
        index: which call of the answer it belongs to, counted from 0 in the order in which calls begin.
        id: on one piece of each call.
        name: on one piece of each call.
        arguments: a piece of JSON text; all of a call's joined are whole.
        provider_state: what the provider wants back with the call.
    """

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = field(default="", repr=False)
    provider_state: ProviderState | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class StreamChunk:
    """A piece of a streamed answer.

    The last one carries ``usage`` and ``finish_reason``, and what is known of the answer as a whole: ``model``,
    ``response_id``, ``origin``, ``provider_state``, ``logprobs``, ``prices``. ``profile`` is whose answer it is, where
    several profiles might have answered.
    """

    text: str = field(default="", repr=False)
    tool_calls: tuple[ToolCallDelta, ...] = ()
    reasoning: str = field(default="", repr=False)
    usage: Usage | None = None
    finish_reason: FinishReason | None = None
    provider_finish_reason: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    model: str = ""
    response_id: str | None = None
    origin: str = ""
    provider_state: ProviderState | None = field(default=None, repr=False)
    logprobs: tuple[TokenLogprob, ...] | None = field(default=None, repr=False)
    profile: str = ""
    prices: Prices | None = field(default=None, repr=False, compare=False)
    raw: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class EmbeddingResponse:
    """Vectors in the order of the texts.

    ``raw`` holds the SDK's responses, one per batch. ``profile`` is whose answer it is, where several profiles might
    have answered; of several batches, the first one's.
    """

    vectors: tuple[tuple[float, ...], ...] = field(repr=False)
    model: str
    usage: Usage
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    profile: str = ""
    raw: tuple[Any, ...] = field(default=(), repr=False, compare=False)

    @property
    def dimensions(self) -> int:
        """Length of each vector; 0 when there is none."""
        return len(self.vectors[0]) if self.vectors else 0
