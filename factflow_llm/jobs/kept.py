"""Answers as a journal keeps them: JSON out, the same values back. Prompts, headers and raw objects stay out.

An answer that was read as an instance of a model is kept as its text and read again, by a model that the program has
imported meanwhile; a journal imports nothing.
"""

from __future__ import annotations

import base64
import dataclasses
import sys
from array import array
from collections.abc import Mapping
from typing import Any, NamedTuple

from factflow_llm.errors import ErrorMetadata, ErrorReason, JournalError, LimitKind, LLMErrorClassification, Phase
from factflow_llm.signals import Axis, Outcome
from factflow_llm.types import (
    CompletionResponse,
    EmbeddingResponse,
    FinishReason,
    ProviderState,
    TokenLogprob,
    ToolCall,
    Usage,
)

_ERROR_WORDS: dict[str, Any] = {
    "classification": LLMErrorClassification,
    "reason": ErrorReason,
    "outcome": Outcome,
    "axis": Axis,
    "limit_kind": LimitKind,
    "phase": Phase,
    "exception_types": tuple,
}
_ERROR_LEFT_OUT = frozenset({"limits", "resumes_at"})
_ANSWER_WORDS = (
    "text",
    "model",
    "provider_finish_reason",
    "reasoning",
    "response_id",
    "origin",
    "profile",
    "parse_error",
)


class Embedded(NamedTuple):
    """What became of a batch of texts: a vector or an error for each.

    Attributes:
        vectors: one per text; ``None`` where there is none.
        errors: why not, by the text's place in the batch.
    """

    vectors: tuple[tuple[float, ...] | None, ...]
    errors: Mapping[int, ErrorMetadata]


def keep(value: Any) -> Any:
    """Return a call's value in JSON's words.

    Raises:
        JournalError: it is neither an answer of ours nor plain JSON.
    """
    if isinstance(value, CompletionResponse):
        return {"completion": _keep_completion(value)}
    if isinstance(value, EmbeddingResponse):
        return {"embedding": [value.model, *_counts(value.usage)], "vectors": [*map(keep_vector, value.vectors)]}
    if isinstance(value, Embedded):
        vectors = [None if vector is None else keep_vector(vector) for vector in value.vectors]
        return {"embedded": vectors, "errors": {str(place): keep_error(one) for place, one in value.errors.items()}}
    _check_json(value)
    return {"json": value}


def restore(kept: Mapping[str, Any]) -> Any:
    """Return the value that was kept."""
    if "completion" in kept:
        return _restore_completion(kept["completion"])
    if "embedding" in kept:
        model, *counts = kept["embedding"]
        return EmbeddingResponse(tuple(map(restore_vector, kept["vectors"])), model, Usage(*counts))
    if "embedded" in kept:
        vectors = tuple(None if vector is None else restore_vector(vector) for vector in kept["embedded"])
        return Embedded(vectors, {int(place): restore_error(one) for place, one in kept["errors"].items()})
    return kept["json"]


def keep_vector(vector: tuple[float, ...]) -> str:
    """Write a vector, in half the room where its numbers are of single precision, as most providers send them."""
    single = array("f", vector)
    exact = single if tuple(single) == tuple(vector) else array("d", vector)
    return exact.typecode + base64.b64encode(exact.tobytes()).decode()


def restore_vector(kept: str) -> tuple[float, ...]:
    """Read a vector."""
    return tuple(array(kept[0], base64.b64decode(kept[1:])))


def keep_error(error: ErrorMetadata) -> dict[str, Any]:
    """Return what is known of an error, as far as it matters another day."""
    fields = [field.name for field in dataclasses.fields(error) if field.name not in _ERROR_LEFT_OUT]
    return {name: value for name in fields if (value := getattr(error, name)) not in (None, (), False)}


def restore_error(kept: Mapping[str, Any]) -> ErrorMetadata:
    """Return the error that was kept; a word that this version does not know is ``unknown``."""
    words = {name: _word(_ERROR_WORDS[name], value) if name in _ERROR_WORDS else value for name, value in kept.items()}
    return ErrorMetadata(**words)


def _word(vocabulary: Any, value: Any) -> Any:
    try:
        return vocabulary(value)
    except ValueError:
        return ErrorReason.UNKNOWN if vocabulary is ErrorReason else None


def _check_json(value: Any) -> None:
    if isinstance(value, Mapping):
        for one in value.values():
            _check_json(one)
    elif isinstance(value, list | tuple):
        for one in value:
            _check_json(one)
    elif not isinstance(value, str | int | float | bool | None):
        raise JournalError(
            f"the call returned a {type(value).__name__}, which a journal cannot hold: return the response itself, or "
            "text, numbers, lists and dictionaries (of a pydantic model: model_dump(mode='json'))"
        )


def _keep_completion(answer: CompletionResponse) -> dict[str, Any]:
    kept: dict[str, Any] = {name: getattr(answer, name) for name in _ANSWER_WORDS}
    kept["usage"] = _counts(answer.usage)
    kept["finish_reason"] = answer.finish_reason
    kept["provider_state"] = _keep_state(answer.provider_state)
    kept["tool_calls"] = [
        [call.id, call.name, call.arguments, _keep_state(call.provider_state)] for call in answer.tool_calls
    ]
    kept["responses"] = [_keep_completion(other) for other in answer.responses[1:]]
    kept["logprobs"] = answer.logprobs and [_keep_logprob(one) for one in answer.logprobs]
    if answer.parsed is not None:
        kept["form"] = [type(answer.parsed).__module__, type(answer.parsed).__qualname__]
    return {name: value for name, value in kept.items() if value not in (None, [], "")}


def _restore_completion(kept: Mapping[str, Any]) -> CompletionResponse:
    from factflow_llm.clients.schemas import fitted

    words: dict[str, Any] = {name: kept.get(name) for name in _ANSWER_WORDS}
    words |= {name: kept.get(name, "") for name in ("text", "model", "origin", "profile")}
    finish = kept.get("finish_reason")
    first = CompletionResponse(
        **words,
        usage=Usage(*kept.get("usage", ())),
        finish_reason=None if finish is None else FinishReason(finish),
        provider_state=_restore_state(kept.get("provider_state")),
        tool_calls=tuple(
            ToolCall(id_, name, arguments, _restore_state(state))
            for id_, name, arguments, state in kept.get("tool_calls", ())
        ),
        logprobs=tuple(map(_restore_logprob, kept["logprobs"])) if "logprobs" in kept else None,
    )
    if others := kept.get("responses"):
        first = dataclasses.replace(first, responses=(first, *map(_restore_completion, others)))
    if "form" not in kept:
        return first
    module, name = kept["form"]
    form: Any = sys.modules.get(module)
    for part in name.split("."):
        form = getattr(form, part, None)
    if form is None:
        return dataclasses.replace(
            first, parse_error=f"{module}.{name} is not known here: import it, and read the text"
        )
    return fitted(first, form)


def _counts(usage: Usage) -> list[int | None]:
    return [getattr(usage, field.name) for field in dataclasses.fields(usage)]


def _keep_state(state: ProviderState | None) -> list[str] | None:
    return None if state is None else [state.origin, state.data]


def _restore_state(kept: list[str] | None) -> ProviderState | None:
    return None if kept is None else ProviderState(*kept)


def _keep_logprob(one: TokenLogprob) -> list[Any]:
    return [one.token, one.logprob, [_keep_logprob(other) for other in one.likeliest]]


def _restore_logprob(kept: list[Any]) -> TokenLogprob:
    return TokenLogprob(kept[0], kept[1], tuple(map(_restore_logprob, kept[2])))
