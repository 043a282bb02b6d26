"""Answers of OpenAI's Responses API, whole and streamed: items side by side, read as the blocks of one turn."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from factflow_llm.clients.answers import AnswerContext, Piece, ending_of
from factflow_llm.clients.counts import Counts, gather, openai_usage
from factflow_llm.clients.finish import read_finish
from factflow_llm.clients.kept import keep_before, keep_blocks
from factflow_llm.clients.toolcalls import OpenCalls, call_id
from factflow_llm.clients.wire import (
    Pieces,
    count,
    items,
    json_piece,
    json_text,
    mapping,
    spelt,
    text,
    unreadable,
    word,
)
from factflow_llm.errors import BadResponseError
from factflow_llm.types import CompletionResponse, StreamChunk, ToolCall

if TYPE_CHECKING:
    from collections.abc import Mapping

_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})
_FAILED = frozenset({"failed", "cancelled"})
_TEXTS = {"output_text": "text", "text": "text", "refusal": "refusal"}
_UNSENT = frozenset({"type", "role", "content", "call_id", "name", "arguments"})


def read_response(answer: Mapping[str, Any], known: AnswerContext, raw: Any) -> CompletionResponse:
    """Read a whole answer.

    Raises:
        BadResponseError: names the field that has no meaning, or carries the failure that ended the answer.
    """
    _raise_if_failed(answer)
    answer_id = word(answer.get("id"))
    blocks, refused = _blocks(answer, answer_id)
    calls = tuple(
        ToolCall(block["id"], block["name"], block["input"], keep_before(known.origin, blocks[:position]))
        for position, block in enumerate(blocks)
        if block["type"] == "tool_use"
    )
    finish = _finish_word(answer)
    counts: Counts = {}
    gather(answer.get("usage"), counts)
    return CompletionResponse(
        text="".join([block["text"] for block in blocks if block["type"] == "text"]),
        model=word(answer.get("model")) or known.model,
        usage=openai_usage(counts),
        finish_reason=read_finish(finish, refused=refused, calls=bool(calls)),
        provider_finish_reason=finish,
        tool_calls=calls,
        reasoning="".join([_thought(block) for block in blocks if block["type"] == "reasoning"]) or None,
        response_id=answer_id,
        headers=known.headers,
        origin=known.origin,
        provider_state=keep_blocks(known.origin, blocks) if any(map(_is_opaque, blocks)) else None,
        raw=raw,
    )


def _is_opaque(block: Mapping[str, Any]) -> bool:
    """Tell whether a turn must go back with its ids: beside thoughts and tools of OpenAI's own, or of a phase."""
    return block["type"] not in {"text", "tool_use"} or "phase" in block.get("item", {})


def _raise_if_failed(answer: Mapping[str, Any]) -> None:
    if word(answer.get("status")) in _FAILED:
        told = answer.get("error") or {"type": "server_error", "message": f"the answer ended {answer['status']}"}
        raise BadResponseError("the provider answered 200 with an error inside", body={"error": told})


def _finish_word(answer: Mapping[str, Any]) -> str | None:
    return word(mapping(answer.get("incomplete_details")).get("reason")) or word(answer.get("status"))


def _blocks(answer: Mapping[str, Any], answer_id: str | None) -> tuple[list[dict[str, Any]], bool]:
    """Read the items as blocks: words (one block for each part), calls, and what only OpenAI reads."""
    blocks: list[dict[str, Any]] = []
    refused = False
    for position, item in enumerate(items(answer.get("output"), "output")):
        where = f"output[{position}]"
        if item is None:
            continue
        if not isinstance(item, dict):
            unreadable(where, item, "an object")
        kind = word(item.get("type")) or ("message" if "content" in item else "")
        if kind == "message":
            beside = _beside(item)
            for index, part in enumerate(_parts(item.get("content"), f"{where}.content")):
                key = _TEXTS.get(str(part.get("type")), "text")
                refused = refused or key == "refusal"
                words = text(part.get(key), f"{where}.content[{index}].{key}")
                refusal = {"kind": "refusal"} if key == "refusal" else {}
                blocks.append({"type": "text", "text": words, **refusal, **beside})
        elif kind == "function_call":
            name = word(item.get("name"))
            if name is None:
                unreadable(f"{where}.name", item.get("name"), "a name")
            given = word(item.get("call_id")) or word(item.get("id"))
            taken = {block["id"] for block in blocks if block["type"] == "tool_use"}
            arguments = json_text(item.get("arguments"), f"{where}.arguments")
            id_ = call_id(len(taken), answer_id, taken) if given is None or given in taken else given
            blocks.append({"type": "tool_use", "id": id_, "name": name, "input": arguments, **_beside(item)})
        else:
            kept = {name: value for name, value in item.items() if name != "status" and value is not None}
            blocks.append(kept | {"type": kind})
    return blocks, refused


def _parts(content: Any, field: str) -> list[dict[str, Any]]:
    listed = [content] if isinstance(content, str) else items(content, field)
    return [part if isinstance(part, dict) else {"type": "text", "text": part} for part in listed]


def _beside(item: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what an item has beside words and calls: its id, its phase."""
    beside = {name: value for name, value in item.items() if name not in _UNSENT and value is not None}
    return {"item": beside} if beside else {}


def _thought(item: Mapping[str, Any]) -> str:
    """Read a reasoning item's words: the thoughts themselves where they are shown, else their summary."""
    said = spelt(item.get("content"), "output.content") or "\n\n".join(
        [spelt(part, "output.summary") for part in items(item.get("summary"), "output.summary")]
    )
    return text(said, "output.summary")


class ResponseReader:
    """Read a streamed answer, event by event. The last event holds the whole of it."""

    def __init__(self, known: AnswerContext) -> None:
        self.ended = False
        """Whether the answer is whole: completed or incomplete, as its last event says."""
        self.over = False
        self._known = known
        self._calls = OpenCalls()
        self._at: dict[int, int] = {}  # place among the items -> number of the call
        self._items: dict[int, Any] = {}
        self._whole: Mapping[str, Any] = {}
        self._said, self._thought = Pieces(), Pieces()
        self._told: set[str] = set()  # which kind of thought has been shown: its summary or its words, not both
        self._parts: set[tuple[int, int]] = set()

    def read(self, event: Mapping[str, Any]) -> Piece | None:
        """Take one event; return what it adds, or ``None``.

        Raises:
            BadResponseError: names the field that has no meaning, or carries the failure that ended the answer.
        """
        kind = word(event.get("type")) or ""
        place = count(event.get("output_index")) or 0
        if kind in {"response.output_text.delta", "response.refusal.delta"}:
            said = self._said.add(spelt(event.get("delta"), "delta"))
            return Piece(said) if said else None
        if kind == "response.function_call_arguments.delta":
            written = json_piece(event.get("delta"), "delta")
            return Piece(calls=(self._calls.go_on(self._at[place], written),)) if place in self._at else None
        if kind in {"response.reasoning_summary_text.delta", "response.reasoning_text.delta"}:
            return self._think(event, kind, place)
        if kind == "response.output_item.added":
            return self._begin(mapping(event.get("item")), place)
        if kind == "response.output_item.done":
            return self._end(mapping(event.get("item")), place)
        if kind in _ENDS:
            self._whole = mapping(event.get("response"))
            _raise_if_failed(self._whole)
            self.ended = self.over = True
        elif kind == "response.created":
            self._whole = mapping(event.get("response"))
        return None

    def _think(self, event: Mapping[str, Any], kind: str, place: int) -> Piece | None:
        self._told.add(kind)
        if len(self._told) > 1 and "summary" in kind:
            return None
        part = (place, count(event.get("summary_index")) or 0)
        apart = "\n\n" if part[1] and part not in self._parts else ""
        self._parts.add(part)
        thought = self._thought.add(apart + spelt(event.get("delta"), "delta"))
        return Piece(reasoning=thought) if thought else None

    def _begin(self, item: Mapping[str, Any], place: int) -> Piece | None:
        if item.get("type") != "function_call":
            return None
        name = word(item.get("name"))
        if name is None:
            unreadable("item.name", item.get("name"), "a name")
        given = word(item.get("call_id")) or word(item.get("id"))
        written = json_piece(item.get("arguments"), "item.arguments")
        before, _ = _blocks({"output": [self._items[key] for key in sorted(self._items)]}, None)
        delta = self._calls.begin(place, given, name, written, keep_before(self._known.origin, before))
        self._at[place] = delta.index
        return Piece(calls=(delta,))

    def _end(self, item: Mapping[str, Any], place: int) -> Piece | None:
        """Take a finished item; what no event brought of a call, bring now."""
        self._items[place] = dict(item)
        if item.get("type") != "function_call":
            return None
        if place not in self._at:
            return self._begin(item, place)
        number = self._at[place]
        call = self._calls.calls[number]
        if str(call.arguments):
            return None
        return Piece(calls=(self._calls.go_on(number, json_piece(item.get("arguments"), "item.arguments")),))

    def last(self) -> StreamChunk:
        """Return the last chunk of an answer that is whole.

        Raises:
            BadResponseError: the whole answer in the last event cannot be read.
        """
        whole = {**self._whole}
        if not whole.get("output"):
            whole["output"] = [self._items[place] for place in sorted(self._items)]
        answer = read_response(whole, self._known, None)
        unseen = () if self._calls.calls else answer.tool_calls
        opened = [self._calls.begin(None, call.id, call.name, call.arguments, call.provider_state) for call in unseen]
        return replace(
            ending_of(answer),
            text="" if str(self._said) else answer.text,
            tool_calls=(*opened, *self._calls.missing(answer.response_id)),
            reasoning="" if str(self._thought) else answer.reasoning or "",
        )
