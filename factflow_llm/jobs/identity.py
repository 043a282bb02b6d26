"""What tells one job from another: a digest of each item, and one of the call with all that shapes what it asks.

A call that was changed asks something else, and old answers must not pass for its own. So its code counts, and with it
the helpers of its module, the plain values it closes over, and the models of the clients it uses.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from pathlib import PurePath
from types import CodeType, FunctionType, MethodType
from typing import Any

from factflow_llm.errors import JournalError

_PLAIN = (str, int, float, bool, bytes, type(None))
_DIGEST_BYTES = 12


def digest(value: Any) -> str:
    """Return 24 characters that tell a plain value from any other."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()


def digest_of_item(item: Any, place: int) -> str:
    """Return what tells an item from others, in any process.

    Raises:
        JournalError: the item is made of something that has no value to be told by.
    """
    try:
        return digest(plain(item))
    except TypeError as error:
        raise JournalError(
            f"items[{place}] holds a {error}, which a journal cannot tell from another: let the items be texts, "
            "numbers, messages, dictionaries, lists, dataclasses or pydantic models, such as a document's path or key"
        ) from None


def plain(value: Any) -> Any:
    """Return a value in JSON's words.

    Raises:
        TypeError: naming a type that has none.
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, bytes):
        return {"bytes": hashlib.blake2b(value, digest_size=_DIGEST_BYTES).hexdigest()}
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Sequence):
        return [plain(one) for one in value]
    if isinstance(value, PurePath):
        return str(value)
    if (dump := getattr(value, "model_dump", None)) is not None:
        return plain(dump(mode="json"))
    if (isoformat := getattr(value, "isoformat", None)) is not None:
        return isoformat()
    raise TypeError(type(value).__name__)


def digest_of_call(call: Any) -> str:
    """Return what tells a call from others: its code and what that rests on, as far as it has a value."""
    return digest(_words(call, set()))


def _words(value: Any, seen: set[int]) -> Any:
    """Say what a callable or a value it uses is, so that another one is said otherwise."""
    if isinstance(value, functools.partial):
        return [_words(value.func, seen), _words(value.args, seen), _words(value.keywords, seen)]
    if isinstance(value, MethodType):
        return [_words(value.__func__, seen), _words(value.__self__, seen)]
    if isinstance(value, FunctionType):
        return _words_of_function(value, seen)
    if isinstance(value, CodeType):
        return [value.co_code.hex(), value.co_names, [_words(one, seen) for one in value.co_consts]]
    if isinstance(value, AbstractSet):
        return sorted(map(repr, value))
    for model in ("model", "_model", "_name"):  # a client, of ours or another's
        if isinstance(named := getattr(value, model, None), str) and not isinstance(value, type):
            return [type(value).__name__, named]
    try:
        return plain(value)
    except (TypeError, RecursionError):
        return type(value).__qualname__


def _words_of_function(function: FunctionType, seen: set[int]) -> Any:
    if id(function) in seen:
        return function.__qualname__
    seen.add(id(function))
    closed = [_words(cell.cell_contents, seen) for cell in function.__closure__ or () if _is_filled(cell)]
    used = {}
    for name in _names(function.__code__):
        one = function.__globals__.get(name)
        own = isinstance(one, FunctionType) and one.__module__ == function.__module__
        if own or (one is not None and isinstance(one, _PLAIN)):
            used[name] = _words(one, seen)
    defaults = _words(function.__defaults__ or (), seen), _words(function.__kwdefaults__ or {}, seen)
    return [_words(function.__code__, seen), closed, used, *defaults]


def _names(code: CodeType) -> set[str]:
    inner = (one for one in code.co_consts if isinstance(one, CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
