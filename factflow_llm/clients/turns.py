"""What a provider wants back with its own turn, put where it stood; how it is kept, the readers of answers say.

State leaves out what a ``Message`` says itself: texts are kept as lengths and calls as ids. So a turn that was edited
goes out edited, and only what nobody else can read comes back as it was. Nobody is sent another provider's state.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from factflow_llm.types import Message, ProviderState


_SIGNING = re.compile(r"(?:^|[/:])gemini-(?:[3-9]|\d\d)(?!\d)")
_UNSIGNED = "skip_thought_signature_validator"


def origin(language: str, base_url: object) -> str:
    """Name who answers at an address: the language spoken, the host, and the path of a gateway.

    A port says nothing about who answers, nor does ``/v1``.
    """
    parts = urlsplit(str(base_url))
    return f"{language} {parts.hostname}{parts.path.rstrip('/').removesuffix('/v1')}"


def _own(state: ProviderState | None, source: str) -> Any:
    if state is None or state.origin != source:
        return None
    value = state.value()
    if "\\ud" in state.data:  # half a character in what the provider gave is no more than that to it
        value = json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
    return value


def restore_chat_turn(message: Message, said: dict[str, Any], source: str) -> dict[str, Any]:
    """Lay beside a turn in OpenAI's words what ``source``, by ``origin``, wants back with it."""
    own = [_own(call.provider_state, source) or {} for call in message.tool_calls]
    beside = _own(message.provider_state, source)
    if beside is None:
        beside = next((kept["message"] for kept in own if "message" in kept), {})
    restored = {**said}
    for name, value in beside.items():
        restored[name] = _fill(value, said["content"] or "", {}) if name == "content" else value
    if any(own):
        restored["tool_calls"] = [_beside(call, kept) for call, kept in zip(said["tool_calls"], own, strict=True)]
    return restored


def _beside(call: dict[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
    beside = {name: value for name, value in kept.items() if name != "message"}
    return {**beside, **call, "function": {**kept.get("function", {}), **call["function"]}}


def fill_chat_gaps(said: list[dict[str, Any]], source: str, model: str) -> list[dict[str, Any]]:
    """Give turns with calls that came from elsewhere what some servers demand of every such turn.

    DeepSeek demands ``reasoning_content``, be it empty, as does any server once it has sent some; Gemini since 3 a
    signature, for which its documentation names a word to skip the check.
    """
    calling = [turn for turn in said if turn.get("tool_calls")]
    if calling and ("deepseek" in source or any("reasoning_content" in turn for turn in said)):
        for turn in calling:
            turn.setdefault("reasoning_content", "")
    if calling and _SIGNING.search(model):
        for turn in calling:
            if not any("extra_content" in call for call in turn["tool_calls"]):
                turn["tool_calls"][0]["extra_content"] = {"google": {"thought_signature": _UNSIGNED}}
    return said


def restore_blocks(
    message: Message, said: str | list[dict[str, Any]], calls: Mapping[str, dict[str, Any]], source: str
) -> list[dict[str, Any]]:
    """Put a turn's words and calls among the blocks that ``source``, by ``origin``, wants back with it.

    Args:
        message: the assistant's turn.
        said: its text, or its content as Anthropic's blocks.
        calls: its tool calls as Anthropic's blocks, by id; those that were not there before come last.
        source: whom the turn is for.
    """
    kept = _own(message.provider_state, source)
    if kept is not None:
        return _fill(kept, said, dict(calls))
    blocks = [{"type": "text", "text": said}] if isinstance(said, str) else said
    befores = [_own(call.provider_state, source) or [] for call in message.tool_calls]
    ordered = [*(befores[0] if befores else ()), *blocks]
    for number, call in enumerate(message.tool_calls):
        ordered += [*(befores[number] if number else ()), calls[call.id]]
    return _without_blanks(ordered)


def _fill(
    kept: Iterable[Mapping[str, Any]], said: str | list[dict[str, Any]], calls: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    lengths = [block["text"] for block in kept if _is_place(block)]
    rest = [{"type": "text", "text": said}] if isinstance(said, str) else said
    filled: list[dict[str, Any]] = []
    start = 0
    for block in kept:
        if not _is_place(block):
            call = calls.pop(str(block.get("id")), None) if block.get("type") == "tool_use" else {}
            filled += [] if call is None else [{**block, **call}]
        elif isinstance(said, str) and len(said) == sum(lengths):
            filled.append({**block, "text": said[start : start + block["text"]]})
            start += block["text"]
        else:  # the turn was edited since
            filled += rest
            rest = []
    if not lengths:
        place = next((index for index, block in enumerate(filled) if block.get("type") == "tool_use"), len(filled))
        filled[place:place] = rest
    return _without_blanks([*filled, *calls.values()])


def _is_place(block: Mapping[str, Any]) -> bool:
    """Tell whether a kept block stands for words of the message's own, by their number."""
    return isinstance(block.get("text"), int)


def _without_blanks(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [block for block in blocks if block.get("type") != "text" or block["text"].strip()]
