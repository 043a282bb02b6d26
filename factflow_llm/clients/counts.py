"""Token counts, wherever a server puts them and whatever it counts among what: one rule per fact.

Input is all that was read, cached and cache-write tokens among them; output all that was written, thoughts among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from factflow_llm.clients.wire import count, mapping
from factflow_llm.types import Usage

_PLACES: dict[str, tuple[str, ...]] = {
    "input": ("prompt_tokens", "input_tokens"),
    "output": ("completion_tokens", "output_tokens"),
    "total": ("total_tokens",),
    "cached": (
        "prompt_tokens_details.cached_tokens",
        "input_tokens_details.cached_tokens",
        "cache_read_input_tokens",
        "prompt_cache_hit_tokens",
        "cached_tokens",
        "prompt_tokens_details.cache_read_tokens",
    ),
    "written": (
        "prompt_tokens_details.cache_write_tokens",
        "input_tokens_details.cache_write_tokens",
        "prompt_tokens_details.cache_creation_tokens",
        "cache_creation_input_tokens",
        "cache_write_input_tokens",
    ),
    "reasoning": (
        "completion_tokens_details.reasoning_tokens",
        "output_tokens_details.reasoning_tokens",
        "output_tokens_details.thinking_tokens",
        "reasoning_tokens",
    ),
}
_PATHS = {fact: tuple(tuple(place.split(".")) for place in places) for fact, places in _PLACES.items()}

Counts = dict[str, int]
"""What was told so far, by the names of ``_PLACES``."""


def gather(usage: Any, counts: Counts) -> None:
    """Take what one report tells into ``counts``: a later figure replaces an earlier one, but 0 replaces nothing."""
    if not isinstance(usage, Mapping):
        return
    for fact, paths in _PATHS.items():
        for path in paths:
            told = count(usage.get(path[0]) if len(path) == 1 else mapping(usage.get(path[0])).get(path[1]))
            if told is not None:
                if told or fact not in counts:
                    counts[fact] = told
                if told:
                    break


def openai_usage(counts: Counts) -> Usage:
    """Say counts of OpenAI's kind, in which cached tokens and thoughts are parts of the whole.

    Some servers count thoughts (or what a cache served) beside the whole instead: their total shows it, or a part that
    is larger than its whole.
    """
    read, written, total = counts.get("input"), counts.get("output"), counts.get("total")
    cached, stored, thought = counts.get("cached"), counts.get("written"), counts.get("reasoning")
    if total is not None:
        if read is None and written is not None and total > written:
            read = total - written
        elif written is None and read is not None and total > read:
            written = total - read
    if read is not None and (cached or 0) > read:
        read += (cached or 0) + (stored or 0)
    if written is not None and (thought or 0) > written:
        written += thought or 0
    elif read is not None and written is not None and total is not None:
        beyond = total - read - written
        if beyond > 0 and (thought is None or beyond == thought):
            written = total - read
    return Usage(read, written, cached, stored, thought)


def embedding_usage(usage: Any) -> Usage:
    """Say the counts of an embeddings answer, which writes nothing: where only a total is told, it is the input."""
    counts: Counts = {}
    gather(usage, counts)
    return Usage(counts.get("input", counts.get("total")), cached_input_tokens=counts.get("cached"))


def anthropic_usage(counts: Counts) -> Usage:
    """Say counts of Anthropic's kind, in which the input is told without what a cache served or took."""
    fresh, cached, stored = counts.get("input"), counts.get("cached"), counts.get("written")
    return Usage(
        input_tokens=None if fresh is None else fresh + (cached or 0) + (stored or 0),
        output_tokens=counts.get("output"),
        cached_input_tokens=cached,
        cache_write_tokens=stored,
        reasoning_tokens=counts.get("reasoning"),
    )
