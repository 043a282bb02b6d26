"""What a provider wants back with its own turn, kept as ``ProviderState``; ``turns`` puts it back.

Kept is what the neutral form cannot say, and no word of what it can: a text stands as the number of its characters, a
call as its id. So a turn that is edited goes back edited.

- Of a message in OpenAI's language: an object of the fields to lay beside the message's own; where its content is a
  list of more than texts, ``content`` is that list.
- Of a message in Anthropic's language: the list of its blocks.
- Of a tool call, which may go back without its message: in OpenAI's language an object of the fields to lay beside the
  call's own, with the message's as ``message`` on the first call; in Anthropic's the list of the blocks between it and
  the call before it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from factflow_llm.types import ProviderState

if TYPE_CHECKING:
    from collections.abc import Sequence

# reasoning_content, reasoning_details, thinking_blocks, thought_signature, encrypted_content, extra_content …
_WANTED_BACK = re.compile(r"reasoning|thinking|thought|signature|encrypted|extra_content|provider_specific")
_OF_A_CALL = frozenset({"id", "type", "index", "function", "name", "arguments", "custom"})
_OF_A_FUNCTION = frozenset({"name", "arguments"})
_WORDS = frozenset({"type", "text"})
_OF_A_BLOCK = frozenset({"type", "id", "name", "input"})
_PLAIN = (frozenset({"type", "text"}), frozenset({"type", "id"}))


def keep_message(origin: str, message: Mapping[str, Any]) -> ProviderState | None:
    """Keep what belongs to a message in OpenAI's language; ``None`` when the neutral form says it all."""
    kept = _beside_message(message)
    return ProviderState.of(origin, kept) if kept else None


def keep_call(origin: str, call: Mapping[str, Any], message: Mapping[str, Any] | None = None) -> ProviderState | None:
    """Keep what belongs to a tool call in OpenAI's language; ``None`` when the neutral form says it all.

    Args:
        origin: who answered.
        call: the call as JSON.
        message: of a message's first call, the message: its fields go with the call, as ``message``.
    """
    kept = _beside_call(call)
    if message is not None and (beside := _beside_message(message)):
        kept["message"] = beside
    return ProviderState.of(origin, kept) if kept else None


def _beside_message(message: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in message.items() if value and _WANTED_BACK.match(name)}
    audio = message.get("audio")
    if isinstance(audio, Mapping) and audio.get("id"):
        kept["audio"] = {"id": audio["id"]}
    content = message.get("content")
    if isinstance(content, list):
        parts = [_place(part) for part in content if isinstance(part, Mapping)]
        if any(part.get("type") != "text" for part in parts):
            kept["content"] = parts
    return kept


def _beside_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    inner = {} if not isinstance(function, Mapping) or _OF_A_FUNCTION.issuperset(function) else function
    if not inner and _OF_A_CALL.issuperset(call):
        return {}
    kept = {name: value for name, value in call.items() if name not in _OF_A_CALL and value is not None}
    if beside := {name: value for name, value in inner.items() if name not in _OF_A_FUNCTION and value is not None}:
        kept["function"] = beside
    return kept


def keep_blocks(origin: str, blocks: Sequence[Mapping[str, Any]]) -> ProviderState | None:
    """Keep the order and the opaque ones of a message's blocks; ``None`` for plain texts before plain calls."""
    if len(blocks) == 1 and blocks[0].get("type") == "text" and _WORDS.issuperset(blocks[0]):
        return None
    kept = [_place(block) for block in blocks]
    kinds = [str(block.get("type")) for block in kept]
    plain = all(frozenset(block) in _PLAIN for block in kept)
    ordered = kinds == sorted(kinds) and {"text", "tool_use"}.issuperset(kinds)
    return None if plain and ordered else ProviderState.of(origin, kept)


def keep_before(origin: str, blocks: Sequence[Mapping[str, Any]]) -> ProviderState | None:
    """Keep the opaque blocks since the last call, which the next call takes with it."""
    since = takewhile(lambda block: block.get("type") != "tool_use", reversed(blocks))
    kept = [block for block in since if block.get("type") != "text"]
    return ProviderState.of(origin, kept[::-1]) if kept else None


def _place(block: Mapping[str, Any]) -> dict[str, Any]:
    """Say a block without the words and the arguments that the message says itself."""
    kind = str(block.get("type"))
    if kind in {"text", "output_text"} and isinstance(block.get("text"), str):
        beside = {name: value for name, value in block.items() if value and name not in _WORDS}
        return {**beside, "type": kind, "text": len(block["text"])}
    if kind == "tool_use":
        beside = {name: value for name, value in block.items() if value and name not in _OF_A_BLOCK}
        return {**beside, "type": kind, "id": block.get("id")}
    return dict(block)
