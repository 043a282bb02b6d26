"""What the readers of all APIs share: what is known before an answer is read, and what one event adds to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from factflow_llm.types import StreamChunk

if TYPE_CHECKING:
    from collections.abc import Mapping

    from factflow_llm.types import CompletionResponse, ToolCallDelta


class AnswerContext(NamedTuple):
    """What a client knows before an answer is read: the model it asked for, where it asked, the answer's headers."""

    model: str
    origin: str
    headers: Mapping[str, str]


class Piece(NamedTuple):
    """What one event adds to an answer."""

    text: str = ""
    calls: tuple[ToolCallDelta, ...] = ()
    reasoning: str = ""


def ending_of(answer: CompletionResponse) -> StreamChunk:
    """Return the last piece of a stream that gave this answer, without words."""
    return StreamChunk(
        usage=answer.usage,
        finish_reason=answer.finish_reason,
        provider_finish_reason=answer.provider_finish_reason,
        headers=answer.headers,
        model=answer.model,
        response_id=answer.response_id,
        origin=answer.origin,
        provider_state=answer.provider_state,
    )


class ReadAnswer(Protocol):
    """Read a whole answer.

    Raises:
        BadResponseError: names the field that has no meaning, or carries the failure told in its ``body``.
    """

    def __call__(self, answer: Mapping[str, Any], known: AnswerContext, raw: Any, /) -> CompletionResponse:
        """Read ``answer``."""
        ...


class Reader(Protocol):
    """Read a streamed answer, event by event. Errors as for ``ReadAnswer``.

    Attributes:
        ended: whether the answer is whole, so far as its events tell.
        over: whether nothing more belongs to it, whatever still comes.
    """

    ended: bool
    over: bool

    def read(self, event: Mapping[str, Any], /) -> Piece | None:
        """Take one event; return what it adds, or ``None``."""
        ...

    def last(self) -> StreamChunk:
        """Return the last chunk of an answer that is whole."""
        ...
