"""The neutral values: what they show, what they hide, and what None means."""

from __future__ import annotations

import pickle

import pytest

from factflow_llm.types import (
    CompletionResponse,
    EmbeddingResponse,
    FinishReason,
    ImagePart,
    Message,
    Role,
    StreamChunk,
    TextPart,
    Tool,
    ToolCall,
    ToolCallDelta,
    Usage,
)

SECRET = "the patient's name"


@pytest.mark.parametrize(
    "value",
    [
        TextPart(SECRET),
        ImagePart(url=f"https://example.org/{SECRET}"),
        ImagePart(data=SECRET.encode(), media_type="image/png"),
        ToolCall("c", "f", SECRET),
        ToolCallDelta(0, arguments=SECRET),
        Message.user(SECRET),
        Message.assistant(SECRET, tool_calls=(ToolCall("c", "f", SECRET),)),
        StreamChunk(SECRET, reasoning=SECRET, raw=SECRET),
        CompletionResponse(SECRET, "m", Usage(), None, reasoning=SECRET, headers={"x": SECRET}, raw=SECRET),
        EmbeddingResponse(((0.25,),), "m", Usage(), headers={"x": SECRET}, raw=(SECRET,)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_repr_hides_content(value: object) -> None:
    """What people say to a model and hear from it never shows in a repr."""
    assert SECRET not in repr(value)
    assert "0.25" not in repr(value)


def test_constructors_of_messages() -> None:
    """Each short constructor makes the turn its name says."""
    call = ToolCall("c", "f", "{}")
    assert Message.system("a") == Message(Role.SYSTEM, "a")
    assert Message.user([TextPart("a")]) == Message(Role.USER, [TextPart("a")])
    assert Message.assistant(tool_calls=(call,)) == Message(Role.ASSISTANT, "", tool_calls=(call,))
    assert Message.tool("a", tool_call_id="c") == Message(Role.TOOL, "a", tool_call_id="c")


def test_total_tokens_are_unknown_when_a_part_is() -> None:
    """A sum with an unknown is unknown."""
    assert Usage(3, 4).total_tokens == 7
    assert Usage(3, None).total_tokens is None
    assert Usage(None, 4).total_tokens is None
    assert Usage(0, 0).total_tokens == 0


def test_dimensions() -> None:
    """The length of the vectors is read off the first one."""
    assert EmbeddingResponse(((0.0, 1.0),), "m", Usage()).dimensions == 2
    assert EmbeddingResponse((), "m", Usage()).dimensions == 0


def test_raw_does_not_count_in_comparison() -> None:
    """Two answers that say the same are equal, whatever SDK object stands behind them."""
    assert StreamChunk("a", raw=object()) == StreamChunk("a", raw=object())


def test_values_are_frozen_and_picklable() -> None:
    """Values can be sent between processes and changed by none."""
    answer = CompletionResponse("a", "m", Usage(1, 2), FinishReason.STOP, tool_calls=(ToolCall("c", "f", "{}"),))
    assert pickle.loads(pickle.dumps(answer)) == answer
    with pytest.raises(AttributeError):
        answer.text = "b"  # type: ignore[misc]


def test_tools_are_compared_by_value() -> None:
    """Two tools with the same name and schema are the same tool."""
    assert Tool("f", "d", {"type": "object"}) == Tool("f", "d", {"type": "object"})
