"""Let an SDK's exceptions cross a process pool: most cannot be unpickled, and some carry the key in their request.

What crosses: class, text, plain attributes (status, body, codes), the answer's status and headers, and the cause.
The request stays behind. ``classify_llm_error`` says the same on both sides.
"""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from factflow_llm.secrecy import masked

_ROOTS = (
    *(("openai", "OpenAIError"), ("anthropic", "AnthropicError")),
    *(("httpx", "HTTPError"), ("httpx2", "HTTPError"), ("httpx", "StreamError"), ("httpx2", "StreamError")),
)
_CAUSES = frozenset({"asyncio", "builtins", "httpcore", "httpcore2", "json", "socket", "ssl"})
_DEEPEST = 50
_HIDDEN = frozenset({"set-cookie", "authorization", "proxy-authorization", "cookie", "x-api-key", "api-key"})

_registered: set[type[BaseException]] = set()


@dataclass(frozen=True, slots=True)
class Answered:
    """What is left of an HTTP response on the other side.

    Attributes:
        status_code: the HTTP status.
        headers: names in lower case.
    """

    status_code: int | None
    headers: Mapping[str, str] = field(repr=False)


def let_cross() -> None:
    """Teach ``pickle`` the exceptions of the SDKs that are loaded; called again, it finds those loaded since."""
    for module, name in _ROOTS:
        root = getattr(sys.modules.get(module), name, None)
        if isinstance(root, type) and issubclass(root, BaseException):
            for cls in _family(root):
                if cls not in _registered:
                    _registered.add(cls)
                    copyreg.pickle(cls, _reduce)


def _family(cls: type[BaseException]) -> Iterator[type[BaseException]]:
    yield cls
    for child in cls.__subclasses__():
        yield from _family(child)


def _reduce(error: BaseException) -> tuple[Any, ...]:
    state = {name: _masked(value) for name, value in vars(error).items() if _is_plain(value)}
    if (response := getattr(error, "response", None)) is not None:
        state["response"] = _answered(response)
    cause = error.__cause__
    if cause is not None and not (type(cause) in _registered or _is_harmless(cause)):
        cause = None
    args = tuple(_masked(arg) for arg in error.args if _is_plain(arg))
    return _restore, (type(error), args, state, cause)


def _restore(
    cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any], cause: BaseException | None
) -> BaseException:
    error = cls.__new__(cls)
    error.args = args
    vars(error).update(state)
    error.__cause__ = cause
    return error


def _is_harmless(cause: BaseException) -> bool:
    return (
        type(cause).__module__.partition(".")[0] in _CAUSES
        and all(map(_is_plain, cause.args))
        and _is_plain(vars(cause))
    )


def _answered(response: Any) -> Answered:
    status, headers = getattr(response, "status_code", None), getattr(response, "headers", None)
    shown = {
        str(name).lower(): text
        for name, text in (headers.items() if isinstance(headers, Mapping) else ())
        if isinstance(text, str) and str(name).lower() not in _HIDDEN
    }
    return Answered(status if isinstance(status, int) else None, shown)


def _is_plain(value: Any, depth: int = 0) -> bool:
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return True
    if depth > _DEEPEST:
        return False
    if isinstance(value, list | tuple):
        return all(_is_plain(item, depth + 1) for item in value)
    return isinstance(value, dict) and all(
        isinstance(key, str) and _is_plain(item, depth + 1) for key, item in value.items()
    )


def _masked(value: Any) -> Any:
    """Hide the secrets of this process, which a server may have echoed."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, bytes):
        return masked(value.decode("latin-1")).encode("latin-1")
    if isinstance(value, list | tuple):
        return type(value)(map(_masked, value))
    return {key: _masked(item) for key, item in value.items()} if isinstance(value, dict) else value
