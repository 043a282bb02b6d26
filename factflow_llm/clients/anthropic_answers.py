"""Anthropic's answers, whole and streamed, as Anthropic and the servers that copy it really send them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from factflow_llm.clients.answers import AnswerContext, Piece
from factflow_llm.clients.counts import Counts, anthropic_usage, gather
from factflow_llm.clients.finish import read_finish
from factflow_llm.clients.kept import keep_before, keep_blocks
from factflow_llm.clients.toolcalls import OpenCalls, call_id
from factflow_llm.clients.wire import Pieces, count, decode, items, json_text, mapping, spelt, text, unreadable, word
from factflow_llm.errors import BadResponseError
from factflow_llm.errors.bodies import is_failed
from factflow_llm.types import CompletionResponse, StreamChunk, ToolCall

if TYPE_CHECKING:
    from collections.abc import Mapping


def read_message(answer: Mapping[str, Any], known: AnswerContext, raw: Any) -> CompletionResponse:
    """Read a whole answer.

    Raises:
        BadResponseError: names the field that has no meaning, or the stop reason is a failure.
    """
    finish = _stop_reason(answer)
    answer_id = word(answer.get("id"))
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    blocks = _blocks(answer.get("content"), "content")
    for position, block in enumerate(blocks):
        where = f"content[{position}]"
        kind = _kind(block)
        if kind == "text":
            texts.append(text(block.get("text"), f"{where}.text"))
        elif kind == "tool_use":
            name = word(block.get("name"))
            if name is None:
                unreadable(f"{where}.name", block.get("name"), "a name")
            given = word(block.get("id"))
            taken = {call.id for call in calls}
            id_ = given if given and given not in taken else call_id(len(calls), answer_id, taken)
            if id_ != given:
                blocks[position] = {**block, "id": id_}
            arguments = json_text(block.get("input"), f"{where}.input")
            calls.append(ToolCall(id_, name, arguments, keep_before(known.origin, blocks[:position])))
        elif kind == "thinking":
            thoughts.append(text(block.get("thinking"), f"{where}.thinking"))
    counts: Counts = {}
    gather(answer.get("usage"), counts)
    return CompletionResponse(
        text="".join(texts),
        model=word(answer.get("model")) or known.model,
        usage=anthropic_usage(counts),
        finish_reason=read_finish(finish, calls=bool(calls)),
        provider_finish_reason=finish,
        tool_calls=tuple(calls),
        reasoning="".join(thoughts) or None,
        response_id=answer_id,
        headers=known.headers,
        origin=known.origin,
        provider_state=keep_blocks(known.origin, blocks),
        raw=raw,
    )


def _stop_reason(message: Mapping[str, Any]) -> str | None:
    finish = word(message.get("stop_reason"))
    if is_failed(finish):
        told = {"error": {"type": "server_error", "message": f"the answer ended with {finish}"}}
        raise BadResponseError("the provider answered 200 with an error inside", body=told)
    return finish


def _blocks(content: Any, field: str) -> list[dict[str, Any]]:
    """Read content as blocks: a text stands for one block of text, null for none."""
    blocks: list[dict[str, Any]] = []
    for position, block in enumerate([content] if isinstance(content, str) else items(content, field)):
        if isinstance(block, dict):
            blocks.append(block)
        elif isinstance(block, str):
            blocks.append({"type": "text", "text": block})
        elif block is not None:
            unreadable(f"{field}[{position}]", block, "an object")
    return blocks


def _kind(block: Mapping[str, Any]) -> str:
    """Tell the kind of a block, by what it holds where it does not say."""
    if kind := word(block.get("type")):
        return kind
    return next((kind for kind, key in _BY_KEY if key in block), "")


_BY_KEY = (("text", "text"), ("thinking", "thinking"), ("tool_use", "input"))
_DELTA_BY_KEY = (("text_delta", "text"), ("thinking_delta", "thinking"), ("input_json_delta", "partial_json"))


class _Block:
    """A block under way."""

    __slots__ = ("call", "fields", "json", "kind", "words")

    def __init__(self, fields: dict[str, Any], kind: str) -> None:
        self.fields = fields
        self.kind = kind
        self.call: int | None = None
        self.words = Pieces()
        self.json: list[str] = []


class MessageReader:
    """Read a streamed message, event by event."""

    def __init__(self, known: AnswerContext) -> None:
        self.ended = False
        """Whether the answer is whole: a stop reason or the last event has come."""
        self.over = False
        self._known = known
        self._calls = OpenCalls()
        self._counts: Counts = {}
        self._word: str | None = None
        self._message: Mapping[str, Any] = {}
        self._blocks: list[_Block] = []
        self._at: dict[int, _Block] = {}

    def read(self, event: Mapping[str, Any]) -> Piece | None:
        """Take one event; return what it adds, or ``None``.

        Raises:
            BadResponseError: names the field that has no meaning, or the stop reason is a failure.
        """
        kind = event.get("type")
        if kind == "content_block_delta":
            return self._delta(self._block(event), mapping(event.get("delta")))
        if kind == "content_block_start":
            piece = self._open(dict(mapping(event.get("content_block"))))
            self._at[count(event.get("index")) or 0] = self._blocks[-1]
            return piece
        if kind == "content_block_stop":
            return None
        if kind == "message_start":
            return self._start(mapping(event.get("message")))
        if kind == "message_delta":
            gather(event.get("usage"), self._counts)
            self._stop(mapping(event.get("delta")))
        elif kind == "message_stop":
            self.ended = self.over = True
        return None

    def _start(self, message: Mapping[str, Any]) -> Piece | None:
        if self._message:  # a gateway that began anew; what has been handed on cannot be taken back
            if message.get("id") != self._message.get("id"):
                raise BadResponseError("the answer cannot be read: a second one begins in its middle; try again")
            return None
        self._message = message
        gather(message.get("usage"), self._counts)
        self._stop(message)
        pieces = [
            piece for block in _blocks(message.get("content"), "message.content") if (piece := self._open(dict(block)))
        ]
        if not pieces:
            return None
        said, calls, thought = zip(*pieces, strict=True)
        return Piece("".join(said), tuple(delta for deltas in calls for delta in deltas), "".join(thought))

    def _stop(self, delta: Mapping[str, Any]) -> None:
        if (finish := _stop_reason(delta)) is not None:
            self._word, self.ended = finish, True

    def _open(self, fields: dict[str, Any]) -> Piece | None:
        kind = _kind(fields)
        block = _Block(fields, kind)
        self._blocks.append(block)
        if kind == "text":
            return _spoken(block.words.add(spelt(fields.get("text"), "content_block.text")))
        if kind == "thinking":
            return _thought(block.words.add(spelt(fields.get("thinking"), "content_block.thinking")))
        if kind != "tool_use":
            return None
        name = word(fields.get("name"))
        if name is None:
            unreadable("content_block.name", fields.get("name"), "a name")
        state = keep_before(self._known.origin, [self._closed(block) for block in self._blocks[:-1]])
        delta = self._calls.begin(None, word(fields.get("id")), name, "", state)
        block.call = delta.index
        return Piece(calls=(delta,))

    def _block(self, event: Mapping[str, Any]) -> _Block | None:
        """Find the block of a piece: by its index, else the last one opened."""
        block = self._at.get(count(event.get("index")) or 0)
        return block or (self._blocks[-1] if self._blocks else None)

    def _delta(self, block: _Block | None, delta: Mapping[str, Any]) -> Piece | None:
        kind = delta.get("type") or next((kind for kind, key in _DELTA_BY_KEY if key in delta), None)
        if kind == "text_delta":
            return _spoken(self._in(block, "text").words.add(spelt(delta.get("text"), "delta.text")))
        if kind == "thinking_delta":
            return _thought(self._in(block, "thinking").words.add(spelt(delta.get("thinking"), "delta.thinking")))
        if block is None:
            return None
        if kind == "input_json_delta":
            written = spelt(delta.get("partial_json"), "delta.partial_json")
            if block.call is None:
                block.json.append(written)
                return None
            return Piece(calls=(self._calls.go_on(block.call, written),)) if written else None
        if kind == "citations_delta":
            block.fields["citations"] = [*items(block.fields.get("citations"), "citations"), delta.get("citation")]
            return None
        for key, value in delta.items():
            if key != "type":  # a signature, or what is yet to come
                old = block.fields.get(key)
                block.fields[key] = old + value if isinstance(old, str) and isinstance(value, str) else value
        return None

    def _in(self, block: _Block | None, kind: str) -> _Block:
        """Return the block a piece belongs to: one that no event has opened begins here."""
        if block is None or block.kind != kind:
            if not self._blocks or self._blocks[-1].kind != kind:
                self._open({"type": kind})
            block = self._blocks[-1]
        return block

    def _closed(self, block: _Block) -> dict[str, Any]:
        """Return a block with all its pieces in place."""
        fields = block.fields
        if block.kind in {"text", "thinking"}:
            return {**fields, "type": block.kind, block.kind: str(block.words)}
        if block.call is not None:
            return {**fields, "id": self._calls.calls[block.call].id}
        if written := "".join(block.json):
            try:
                return {**fields, "input": decode(written.encode(errors="replace"))}
            except ValueError:
                unreadable("content_block.input", written, "JSON")
        return fields

    def last(self) -> StreamChunk:
        """Return the last chunk of an answer that is whole.

        Raises:
            BadResponseError: the input of a server's tool is no JSON.
        """
        known, message_id = self._known, word(self._message.get("id"))
        missing = self._calls.missing(message_id, self._inputs())
        return StreamChunk(
            tool_calls=missing,
            usage=anthropic_usage(self._counts),
            finish_reason=read_finish(self._word, calls=bool(self._calls.calls)),
            provider_finish_reason=self._word,
            headers=known.headers,
            model=word(self._message.get("model")) or known.model,
            response_id=message_id,
            origin=known.origin,
            provider_state=keep_blocks(known.origin, [self._closed(block) for block in self._blocks]),
        )

    def _inputs(self) -> dict[int, str]:
        """Return the arguments that stood whole in the opening event, for calls of which no piece followed."""
        return {
            block.call: json_text(block.fields.get("input"), "content_block.input")
            for block in self._blocks
            if block.call is not None and not str(self._calls.calls[block.call].arguments).strip()
        }


def _spoken(said: str) -> Piece | None:
    return Piece(said) if said else None


def _thought(thought: str) -> Piece | None:
    return Piece(reasoning=thought) if thought else None
