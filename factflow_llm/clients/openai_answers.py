"""OpenAI's chat answers, whole and streamed, as OpenAI and the servers that copy it really send them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from factflow_llm.clients.answers import AnswerContext, Piece
from factflow_llm.clients.counts import Counts, gather, openai_usage
from factflow_llm.clients.finish import read_finish
from factflow_llm.clients.kept import keep_call, keep_message
from factflow_llm.clients.toolcalls import OpenCalls, call_id
from factflow_llm.clients.wire import (
    Pieces,
    count,
    items,
    json_piece,
    json_text,
    mapping,
    number,
    spelt,
    text,
    unreadable,
    whole,
    word,
)
from factflow_llm.errors import failure_inside
from factflow_llm.errors.bodies import is_failed
from factflow_llm.types import CompletionResponse, StreamChunk, TokenLogprob, ToolCall, ToolCallDelta

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_REASONING = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
_THOUGHT_PARTS = frozenset({"thinking", "reasoning", "reasoning_text", "thought", "summary_text"})
_OWN = frozenset({"role", "content", "tool_calls", "function_call", "refusal"})
_JOINED = frozenset({"text", "thinking", "summary", "reasoning", "reasoning_content", "content"})


def read_completion(answer: Mapping[str, Any], known: AnswerContext, raw: Any) -> CompletionResponse:
    """Read a whole answer.

    Raises:
        BadResponseError: names the field that has no meaning, or carries the failure of the choice.
    """
    choices = items(answer.get("choices"), "choices")
    first = _read_choice(choices[0] if choices else None, answer, known, raw)
    if len(choices) < 2:
        return first
    alone = {**answer, "usage": None}
    others = [_read_choice(choice, alone, known, raw) for choice in choices[1:] if choice is not None]
    return replace(first, responses=(first, *others))


def _read_choice(choice: Any, answer: Mapping[str, Any], known: AnswerContext, raw: Any) -> CompletionResponse:
    if not isinstance(choice, dict):
        unreadable("choices[0]", choice, "an object")
    finish = word(choice.get("finish_reason"))
    _raise_if_failed(choice, finish)
    ending = finish or ("content_filter" if _filtered(choice) else None)
    message = _message(choice, ending)
    answer_id = word(answer.get("id"))
    said, thought = _Content().add(message.get("content"), "choices[0].message.content")
    refusal = text(message.get("refusal"), "choices[0].message.refusal")
    calls = _read_calls(message, answer_id, known.origin)
    counts: Counts = {}
    corner = mapping(answer.get("x_groq")).get("usage")
    for report in (message.get("usage"), choice.get("usage"), corner, answer.get("usage")):
        gather(report, counts)
    return CompletionResponse(
        text=whole(said) or refusal,
        model=word(answer.get("model")) or known.model,
        usage=openai_usage(counts),
        finish_reason=read_finish(ending, refused=bool(refusal), calls=bool(calls)),
        provider_finish_reason=finish,
        tool_calls=calls,
        reasoning=whole(thought or _reasoning(message)) or None,
        response_id=answer_id,
        headers=known.headers,
        origin=known.origin,
        provider_state=keep_message(known.origin, message),
        logprobs=tuple(_read_logprobs(choice)) or None,
        raw=raw,
    )


def _read_logprobs(choice: Mapping[str, Any]) -> Iterator[TokenLogprob]:
    """Read the probabilities of the tokens written; what is no token with a number is passed over."""
    told = choice.get("logprobs")
    if isinstance(told, dict):
        yield from _token_logprobs(told.get("content"))


def _token_logprobs(listed: Any) -> Iterator[TokenLogprob]:
    for one in listed if isinstance(listed, list) else ():
        token, logprob = mapping(one).get("token"), number(mapping(one).get("logprob"))
        if isinstance(token, str) and logprob is not None:
            yield TokenLogprob(whole(token), logprob, tuple(_token_logprobs(one.get("top_logprobs"))))


def _raise_if_failed(choice: Mapping[str, Any], finish: str | None) -> None:
    if ("error" in choice or is_failed(finish)) and (failure := failure_inside({"choices": [choice]})):
        raise failure


def _message(choice: Mapping[str, Any], finish: str | None) -> Mapping[str, Any]:
    """Find the message of a choice: a filtered one has none, and some servers call it a delta or a text."""
    message = _either(choice, "message", "delta")
    if isinstance(message, list) and len(message) == 1:
        (message,) = message
    if isinstance(message, dict):
        return message
    if message is None:
        message = choice.get("text")
    if isinstance(message, str):
        return {"content": message}
    if message is not None or finish is None:
        unreadable("choices[0].message", message, "an object")
    return {}


def _either(choice: Mapping[str, Any], name: str, other: str) -> Any:
    value = choice.get(name)
    return choice.get(other) if value is None else value


def _filtered(choice: Mapping[str, Any]) -> bool:
    """Tell whether Azure's filter has taken the message away, should its finish word be missing, too."""
    results = mapping(choice.get("content_filter_results"))
    return any(mapping(result).get("filtered") is True for result in results.values())


def _read_calls(message: Mapping[str, Any], answer_id: str | None, origin: str) -> tuple[ToolCall, ...]:
    """Read the calls; those of OpenAI's custom tools, which take no JSON, stay in ``raw``."""
    listed = message.get("tool_calls")
    if not listed:
        legacy = message.get("function_call")
        if not isinstance(legacy, dict) or not word(legacy.get("name")):
            return ()
        listed = [{"function": legacy}]
    calls: list[ToolCall] = []
    ids: set[str] = set()
    for call in items(listed, "choices[0].message.tool_calls"):
        if call is None:
            continue
        where = f"choices[0].message.tool_calls[{len(calls)}]"
        if not isinstance(call, dict):
            unreadable(where, call, "an object")
        if _is_custom(call):
            continue
        function = _function(call)
        if function is None:
            unreadable(f"{where}.function", call.get("function"), "an object")
        name = word(function.get("name"))
        if name is None:
            unreadable(f"{where}.function.name", function.get("name"), "a name")
        given = word(call.get("id"))
        id_ = given if given is not None and given not in ids else call_id(len(calls), answer_id, ids)
        ids.add(id_)
        arguments = json_text(function.get("arguments"), f"{where}.function.arguments")
        calls.append(ToolCall(id_, name, arguments, keep_call(origin, call, None if calls else message)))
    return tuple(calls)


def _is_custom(call: Mapping[str, Any]) -> bool:
    """Tell a call of a custom tool, also in its pieces, from one beside which a server sends every field empty."""
    return call.get("type") == "custom" or ("custom" in call and not mapping(call.get("function")).get("name"))


def _function(call: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Find a call's function, which some servers do not wrap."""
    function = call.get("function")
    if isinstance(function, dict):
        return function
    return call if function is None and "name" in call else None


def _reasoning(message: Mapping[str, Any]) -> str:
    """Read the thoughts that other servers add to OpenAI's shape, under the first of their names."""
    for name in _REASONING:
        if (value := message.get(name)) and isinstance(value, str | list | dict):
            return spelt(value, name)
    return ""


class _Content:
    """The parts of a message's content, so far."""

    __slots__ = ("_parts", "mixed")

    def __init__(self) -> None:
        self._parts: list[dict[str, Any]] = []
        self.mixed = False
        """Whether there are other parts than texts."""

    def add(self, content: Any, where: str) -> tuple[str, str]:
        """Take a content or a piece of one; return what it says and what it thinks."""
        if isinstance(content, str | int | float):
            content = spelt(content, where)
            self._text(content)
            return content, ""
        said, thought = [], []
        for part in items(content, where):
            kind = word(mapping(part).get("type"))
            if kind in _THOUGHT_PARTS:
                thought.append(spelt(part, where))
                self.mixed, self._parts = True, _merged(self._parts, [part])
            elif kind in {None, "text", "output_text", "refusal"}:
                words = spelt(part.get("refusal") if kind == "refusal" else part, where)
                said.append(words)
                self._text(words)
            else:
                self.mixed = True
                self._parts.append(part)
        return "".join(said), "".join(thought)

    def _text(self, words: str) -> None:
        last = self._parts[-1] if self._parts else {}
        if isinstance(pieces := last.get("text"), _Words):
            pieces.append(words)
        elif words:
            self._parts.append({"type": "text", "text": _Words([words])})

    def parts(self) -> list[dict[str, Any]]:
        """Return the parts, each text in one."""
        return [
            part | {"text": "".join(words)} if isinstance(words := part.get("text"), _Words) else part
            for part in self._parts
        ]


class _Words(list[str]):
    """The pieces of a text under way."""


def _merged(old: Any, new: Any) -> Any:
    """Join a later piece of some JSON to an earlier one: texts are strung together, lists grow, objects fill."""
    if isinstance(old, dict) and isinstance(new, dict):
        joined = dict(old)
        for key, value in new.items():
            if isinstance(value, str) and isinstance(old.get(key), str):
                joined[key] = old[key] + value if key in _JOINED else value
            elif value is not None:
                joined[key] = _merged(old.get(key), value)
        return joined
    if isinstance(old, list) and isinstance(new, list):
        joined_list = list(old)
        for item in new:
            last = joined_list[-1] if joined_list else None
            if isinstance(last, dict) and isinstance(item, dict) and _goes_on(last, item):
                joined_list[-1] = _merged(last, item)
            else:
                joined_list.append(item)
        return joined_list
    return new


def _goes_on(last: Mapping[str, Any], item: Mapping[str, Any]) -> bool:
    return last.get("type") == item.get("type") and last.get("index") == item.get("index")


class ChatReader:
    """Read a streamed chat, chunk by chunk."""

    def __init__(self, known: AnswerContext) -> None:
        self.ended = False
        """Whether the answer is whole: a finish word or the usage has come."""
        self.over = False
        self._known = known
        self._calls = OpenCalls()
        self._counts: Counts = {}
        self._word: str | None = None
        self._refused = False
        self._model: str | None = None
        self._id: str | None = None
        self._said, self._thought = Pieces(), Pieces()
        self._content = _Content()
        self._beside: dict[str, Any] = {}
        self._logprobs: list[TokenLogprob] = []

    def read(self, event: Mapping[str, Any]) -> Piece | None:
        """Take one chunk; return what it adds, or ``None``.

        Raises:
            BadResponseError: names the field that has no meaning.
        """
        if self._id is None:
            self._id, self._model = word(event.get("id")), word(event.get("model"))
        if usage := event.get("usage"):
            gather(usage, self._counts)
        if groq := event.get("x_groq"):
            gather(mapping(groq).get("usage"), self._counts)
        choice = next((choice for choice in items(event.get("choices"), "choices") if _is_first(choice)), None)
        if choice is None:
            self.ended = self.ended or bool(usage)
            return None
        if usage := choice.get("usage"):
            gather(usage, self._counts)
        finish = word(choice.get("finish_reason"))
        _raise_if_failed(choice, finish)
        if finish is not None:
            self._word, self.ended = finish, True
        if choice.get("logprobs"):
            self._logprobs += _read_logprobs(choice)
        delta = _either(choice, "delta", "message")
        return self._piece(delta) if isinstance(delta, dict) else None

    def _piece(self, delta: Mapping[str, Any]) -> Piece | None:
        said, thought = self._content.add(delta.get("content"), "choices[0].delta.content")
        if refusal := delta.get("refusal"):
            self._refused = True
            said = said or spelt(refusal, "choices[0].delta.refusal")
        if not _OWN.issuperset(delta):
            thought = thought or _reasoning(delta)
            beside = {name: value for name, value in delta.items() if value and name not in _OWN}
            if beside:
                self._beside = _merged(self._beside, beside)
        said = self._said.add(said) if said else ""
        thought = self._thought.add(thought) if thought else ""
        calls = self._deltas(delta) if "tool_calls" in delta or "function_call" in delta else ()
        return Piece(said, calls, thought) if said or calls or thought else None

    def _deltas(self, delta: Mapping[str, Any]) -> tuple[ToolCallDelta, ...]:
        where = "choices[0].delta.tool_calls"
        listed = items(delta.get("tool_calls"), where)
        legacy = delta.get("function_call")
        if not listed and isinstance(legacy, dict) and any(legacy.values()):
            listed = [{"index": 0, "function": legacy}]
        deltas = []
        for position, call in enumerate(listed):
            if call is None or (isinstance(call, dict) and _is_custom(call)):
                continue
            if not isinstance(call, dict):
                unreadable(f"{where}[{position}]", call, "an object")
            function = _function(call) or {}
            deltas.append(
                self._calls.take(
                    count(call.get("index")),
                    word(call.get("id")),
                    word(function.get("name")),
                    json_piece(function.get("arguments"), f"{where}[{position}].function.arguments"),
                    keep_call(self._known.origin, call, None if self._calls.calls else self._beside),
                )
            )
        return tuple(deltas)

    def last(self) -> StreamChunk:
        """Return the last chunk of an answer that is whole.

        Raises:
            BadResponseError: a tool call never got a name.
        """
        known = self._known
        content = {"content": self._content.parts()} if self._content.mixed else {}
        return StreamChunk(
            tool_calls=self._calls.missing(self._id),
            usage=openai_usage(self._counts),
            finish_reason=read_finish(self._word, refused=self._refused, calls=bool(self._calls.calls)),
            provider_finish_reason=self._word,
            headers=known.headers,
            model=self._model or known.model,
            response_id=self._id,
            origin=known.origin,
            logprobs=tuple(self._logprobs) or None,
            provider_state=keep_message(known.origin, self._beside | content),
        )


def _is_first(choice: Any) -> bool:
    return isinstance(choice, dict) and not count(choice.get("index"))
