"""The questions asked before anything is sent: each answers with an error of ours that says what to write instead.

A message, a key or a text never appears in an error, only its position, its type and its length.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any
from urllib.parse import urlsplit

from factflow_llm.errors import ConfigurationError, FactflowLLMError, InvalidRequestError
from factflow_llm.types import ImagePart, Message, Role, TextPart, Tool

_ROLES = frozenset(Role)


def check_url(url: str, *, name: str) -> str:
    """Return ``url``, or raise a ``ConfigurationError`` when it lacks a scheme or a host."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https", "socks5", "socks5h"} or not parts.hostname:
        raise ConfigurationError(
            f"{name} {url!r} needs a scheme and a host: write https://HOST, or http://HOST for a server of your own"
        )
    return url


def check_api_key(key: str | None, *, variable: str) -> str:
    """Return the key, or raise a ``ConfigurationError`` when it is missing or cannot stand in an HTTP header."""
    if not key:
        raise ConfigurationError(
            f"no API key: set the environment variable {variable} or give api_key "
            "(any word will do for a server that asks for none)"
        )
    _check_header_value(key, name="the API key")
    return key


def check_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Return a copy of the headers, or raise a ``ConfigurationError`` for a value HTTP cannot carry."""
    for name, value in (headers or {}).items():
        _check_header_value(value, name=f"the header {name!r}")
    return dict(headers or {})


def _check_header_value(value: str, *, name: str) -> None:
    if value != value.strip() or not value.isascii() or not value.isprintable():
        raise ConfigurationError(
            f"{name} holds a line break, a space at an end, or a character outside ASCII: "
            "was it read from a file? strip() it"
        )


def check_positive(value: float, *, name: str) -> float:
    """Return ``value``, or raise a ``ConfigurationError`` unless it is a finite number above zero."""
    if not math.isfinite(value) or value <= 0:
        raise ConfigurationError(f"{name}={value!r} must be a finite number above 0")
    return value


def check_dimensions(dimensions: Any, *, error: type[FactflowLLMError]) -> None:
    """Raise ``error`` unless ``dimensions`` is a whole number from 1, or ``None``."""
    if dimensions is not None and not (isinstance(dimensions, int) and dimensions >= 1):
        raise error(f"dimensions={dimensions!r} must be a whole number from 1; leave it out for the model's own")


def check_messages(messages: Any) -> None:
    """Raise an ``InvalidRequestError`` for an empty conversation or a turn no provider understands."""
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        raise InvalidRequestError(
            f"messages must be a list of Message, not {type(messages).__name__}: write [Message.user(…)]"
        )
    if not messages:
        raise InvalidRequestError("messages is empty: give at least one turn, such as Message.user(…)")
    for position, message in enumerate(messages):
        _check_message(message, where=f"messages[{position}]")


def _check_message(message: Any, *, where: str) -> None:
    if not isinstance(message, Message):
        raise InvalidRequestError(
            f"{where} is of type {type(message).__name__}: write Message.user(…), Message.system(…)"
        )
    if message.role not in _ROLES:
        raise InvalidRequestError(f"{where} has the role {message.role!r}: use one of {', '.join(Role)}")
    if message.role == Role.TOOL and not message.tool_call_id:
        raise InvalidRequestError(
            f"{where} answers a tool but has no tool_call_id: write Message.tool(…, tool_call_id=…)"
        )
    content: Any = message.content
    if isinstance(content, str):
        return
    if isinstance(content, bytes) or not isinstance(content, Sequence):
        raise InvalidRequestError(f"{where}.content is of type {type(content).__name__}: give a str or a list of parts")
    for index, part in enumerate(content):
        if isinstance(part, ImagePart):
            _check_image(part, role=message.role, where=f"{where}.content[{index}]")
        elif not isinstance(part, TextPart) or not isinstance(part.text, str):
            found = part.text if isinstance(part, TextPart) else part
            raise InvalidRequestError(
                f"{where}.content[{index}] is of type {type(found).__name__}: give TextPart(str) or ImagePart(…)"
            )


def _check_image(image: ImagePart, *, role: Role, where: str) -> None:
    if role != Role.USER:
        raise InvalidRequestError(f"{where} is an image in a turn of role {role!r}: only a user's turn can show images")
    if (image.url is None) == (image.data is None):
        raise InvalidRequestError(f"{where} must have either url or data")
    if image.url is not None and not image.url.startswith(("https://", "http://")):
        raise InvalidRequestError(f"{where}.url must begin with https://: give bytes as data= with media_type=")
    if image.data is not None and not image.media_type:
        raise InvalidRequestError(f"{where} has data but no media_type: write media_type='image/png'")


def check_tools(tools: Any) -> None:
    """Raise an ``InvalidRequestError`` for anything but a ``Tool``."""
    for position, tool in enumerate(tools or ()):
        if not isinstance(tool, Tool):
            raise InvalidRequestError(f"tools[{position}] is of type {type(tool).__name__}: write Tool(name, …)")


def check_sampling(temperature: Any, max_tokens: Any, *, max_temperature: float) -> None:
    """Raise an ``InvalidRequestError`` for a temperature or a length outside its bounds."""
    warm = isinstance(temperature, int | float) and 0 <= temperature <= max_temperature
    if temperature is not None and not warm:
        raise InvalidRequestError(f"temperature={temperature!r} must be a number from 0 to {max_temperature:g}")
    if max_tokens is not None and not (isinstance(max_tokens, int) and max_tokens >= 1):
        raise InvalidRequestError(
            f"max_tokens={max_tokens!r} must be a whole number from 1; leave it out for the default"
        )


def check_options(options: Mapping[str, Any], *, accepted: Iterable[str], sdk: str) -> None:
    """Raise an ``InvalidRequestError`` for a provider option the installed SDK does not know, or that is no number."""
    known = frozenset(accepted)
    for name, value in options.items():
        if name not in known:
            nearest = get_close_matches(name, known, n=1)
            hint = f"did you mean {nearest[0]!r}? " if nearest else ""
            raise InvalidRequestError(
                f"{sdk} has no option {name!r}: {hint}a field newer than the SDK goes into extra_body={{{name!r}: …}}"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidRequestError(f"{name}={value!r} must be a finite number")


def check_texts(texts: Any) -> None:
    """Raise an ``InvalidRequestError`` that names the first text which is empty or no string."""
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise InvalidRequestError(f"texts must be a list of str, not {type(texts).__name__}: write [text]")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidRequestError(f"texts[{position}] is of type {type(text).__name__}, not str")
        if not text:
            raise InvalidRequestError(f"texts[{position}] is empty: no provider embeds an empty text; leave it out")
