"""The questions asked before anything is sent: each answers with an error of ours that says what to write instead.

A message, a key or a text never appears in an error, only its position, its type and its length.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from factflow_llm.errors import ConfigurationError, FactflowLLMError, InvalidRequestError, WrongEventLoopError
from factflow_llm.types import (
    EFFORTS,
    TOOL_CHOICES,
    AudioPart,
    DocumentPart,
    ImagePart,
    Message,
    Role,
    TextPart,
    Tool,
    ToolCall,
)

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from factflow_llm.clients.chats import Wishes

_write = json.JSONEncoder(ensure_ascii=False).encode
_ROLES = frozenset(Role)
_SPEAKERS = (Role.USER, Role.SYSTEM, Role.ASSISTANT)
_NO_OPTIONS = {
    "model": "it belongs to the client; make another client",
    "messages": "they are the first argument",
    "stream": "call the client's stream()",
}


def check_event_loop() -> AbstractEventLoop | None:
    """Return asyncio's running loop, or ``None`` outside any; raise a ``WrongEventLoopError`` under trio."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        if not _is_trio():
            return None
    raise WrongEventLoopError(
        "factflow_llm runs on asyncio, and this is trio: call it inside trio_asyncio's aio_as_trio(…), or run all with "
        "anyio.run(…, backend='asyncio')"
    )


def _is_trio() -> bool:
    trio = sys.modules.get("trio")
    if trio is None:
        return False
    try:
        trio.lowlevel.current_task()
    except (RuntimeError, AttributeError):  # no task of it runs; it is being imported, or it is another module
        return False
    return True


def check_positive(value: Any, *, name: str) -> float:
    """Return ``value``, or raise a ``ConfigurationError`` unless it is a finite number above zero."""
    if not _is_number(value) or not math.isfinite(value) or value <= 0:
        raise ConfigurationError(f"{name}={value!r} must be a finite number above 0")
    return float(value)


def check_count(value: Any, *, name: str) -> int:
    """Return ``value``, or raise a ``ConfigurationError`` unless it is a whole number from 1."""
    if not _is_count(value):
        raise ConfigurationError(f"{name}={value!r} must be a whole number from 1")
    return int(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_dimensions(dimensions: Any, *, error: type[FactflowLLMError]) -> None:
    """Raise ``error`` unless ``dimensions`` is a whole number from 1, or ``None``."""
    if dimensions is not None and not _is_count(dimensions):
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
        if not _is_plain(message):
            _check_message(message, where=f"messages[{position}]")


def _is_plain(message: Any) -> bool:
    """Tell whether this is the usual turn, of which nothing more need be asked."""
    if type(message) is not Message or message.tool_calls or message.name or message.role not in _SPEAKERS:
        return False
    return type(message.content) is str and message.content.isascii()


def _check_message(message: Any, *, where: str) -> None:
    if not isinstance(message, Message):
        raise InvalidRequestError(
            f"{where} is of type {type(message).__name__}: write Message.user(…), Message.system(…)"
        )
    if not isinstance(message.role, str) or message.role not in _ROLES:
        raise InvalidRequestError(f"{where} has the role {message.role!r}: use one of {', '.join(Role)}")
    if message.role == Role.TOOL and not message.tool_call_id:
        raise InvalidRequestError(
            f"{where} answers a tool but has no tool_call_id: write Message.tool(…, tool_call_id=…)"
        )
    for index, tool_call in enumerate(message.tool_calls):
        if not isinstance(tool_call, ToolCall):
            raise InvalidRequestError(
                f"{where}.tool_calls[{index}] is of type {type(tool_call).__name__}: write ToolCall(id, name, …)"
            )
    _check_texts((message.name, message.tool_call_id), where=where)
    for index, tool_call in enumerate(message.tool_calls):
        call = (tool_call.id, tool_call.name, tool_call.arguments)
        _check_texts(call, where=f"{where}.tool_calls[{index}]")
    content: Any = message.content
    if isinstance(content, str):
        check_unicode(content, where=f"{where}.content")
        return
    if isinstance(content, bytes | Mapping) or not isinstance(content, Sequence):
        raise InvalidRequestError(f"{where}.content is of type {type(content).__name__}: give a str or a list of parts")
    for index, part in enumerate(content):
        _check_part(part, role=message.role, where=f"{where}.content[{index}]")


def _check_texts(texts: Iterable[Any], *, where: str) -> None:
    for text in texts:
        if isinstance(text, str):
            check_unicode(text, where=where)
        elif text is not None:
            raise InvalidRequestError(f"{where} holds a {type(text).__name__} where a str belongs")


def _check_mark(cache: Any, *, where: str) -> None:
    if cache not in (True, False, "5m", "1h"):
        raise InvalidRequestError(f"{where} has cache={cache!r}: write True, or the lifetime '5m' or '1h'")


def _check_part(part: Any, *, role: Role, where: str) -> None:
    _check_mark(getattr(part, "cache", False), where=where)
    if isinstance(part, TextPart) and isinstance(part.text, str):
        check_unicode(part.text, where=where)
    elif _is_own_words(part):
        check_unicode(part, where=where)
    elif isinstance(part, ImagePart | DocumentPart):
        _check_file(part, role=role, where=where)
    elif isinstance(part, AudioPart):
        _check_shown(part, role=role, where=where)
        if not isinstance(part.data, bytes):
            raise InvalidRequestError(f"{where}.data is of type {type(part.data).__name__}: give the bytes as read")
    else:
        found = part.text if isinstance(part, TextPart) else part
        raise InvalidRequestError(
            f"{where} is of type {type(found).__name__}: give TextPart(str), ImagePart(…), DocumentPart(…), "
            "AudioPart(…), or the provider's own words as {'type': …}"
        )


def _is_own_words(value: Any) -> bool:
    """Tell whether this is a provider's own form of a part or a tool: a mapping that says its type."""
    return isinstance(value, Mapping) and isinstance(value.get("type"), str)


def check_unicode(value: Any, *, where: str) -> None:
    """Raise an ``InvalidRequestError`` when a text, or one inside a mapping or a list, holds half a character."""
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise InvalidRequestError(
                    f"{where} holds half a character at {error.start}: decode or cut the text by characters, "
                    "or mend it with text.encode(errors='replace').decode()"
                ) from None
    elif _is_whole(value):
        return
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            check_unicode(name, where=f"a name in {where}")
            check_unicode(inner, where=f"{where}[{name!r}]")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            check_unicode(inner, where=f"{where}[{index}]")


def _is_whole(value: Any) -> bool:
    """Tell at C's speed whether all texts inside are valid Unicode; false also for what is no JSON."""
    try:
        text = _write(value)
        return text.isascii() or bool(text.encode())
    except (TypeError, ValueError, RecursionError):  # UnicodeEncodeError is a ValueError
        return False


def _check_shown(part: Any, *, role: Role, where: str) -> None:
    if role not in {Role.USER, Role.TOOL}:
        raise InvalidRequestError(
            f"{where} is of type {type(part).__name__} in a turn of role {role!r}: only a user's turn can show images, "
            "documents and recordings, or a tool's"
        )


def _check_file(part: ImagePart | DocumentPart, *, role: Role, where: str) -> None:
    _check_shown(part, role=role, where=where)
    if sum(source is not None for source in (part.url, part.data, part.file_id)) != 1:
        raise InvalidRequestError(f"{where} must have either url or data or file_id")
    if part.url is not None and not part.url.startswith(("https://", "http://")):
        raise InvalidRequestError(f"{where}.url must begin with https://: give bytes as data= with media_type=")
    if part.data is not None and not isinstance(part.data, bytes):
        raise InvalidRequestError(f"{where}.data is of type {type(part.data).__name__}: give the file's bytes as read")
    if part.data is not None and not part.media_type:
        raise InvalidRequestError(f"{where} has data but no media_type: write media_type='image/png'")
    detail, name = getattr(part, "detail", None), getattr(part, "name", None)
    _check_texts((part.url, part.file_id, part.media_type, detail, name), where=where)


def check_tools(tools: Any) -> None:
    """Raise an ``InvalidRequestError`` for anything but a list of ``Tool`` with names, or of providers' own tools."""
    if tools is not None and (isinstance(tools, Mapping) or not isinstance(tools, Sequence)):
        raise InvalidRequestError(f"tools must be a list of Tool, not {type(tools).__name__}: write [Tool(name, …)]")
    for position, tool in enumerate(tools or ()):
        where = f"tools[{position}]"
        if _is_own_words(tool):
            check_unicode(tool, where=where)
            continue
        if not isinstance(tool, Tool) or not tool.name:
            found = "has no name" if isinstance(tool, Tool) else f"is of type {type(tool).__name__}"
            raise InvalidRequestError(f"{where} {found}: write Tool(name, …), or a provider's own as {{'type': …}}")
        _check_mark(tool.cache, where=where)
        check_unicode((tool.name, tool.description, tool.parameters), where=where)


def check_wishes(wishes: Wishes, tools: Sequence[Any]) -> None:
    """Raise an ``InvalidRequestError`` for a wish that cannot be meant."""
    _check_tool_choice(wishes.tool_choice, tools)
    if not isinstance(wishes.parallel_tool_calls, bool | None):
        raise InvalidRequestError(f"parallel_tool_calls={wishes.parallel_tool_calls!r} must be True or False")
    reasoning = wishes.reasoning
    if reasoning is not None and not _is_count(reasoning) and reasoning not in EFFORTS:
        raise InvalidRequestError(
            f"reasoning={reasoning!r} must be an effort ({', '.join(EFFORTS)}) or a budget in tokens from 1"
        )
    if wishes.seed is not None and (not isinstance(wishes.seed, int) or isinstance(wishes.seed, bool)):
        raise InvalidRequestError(f"seed={wishes.seed!r} must be a whole number")
    if wishes.n is not None and not _is_count(wishes.n):
        raise InvalidRequestError(f"n={wishes.n!r} must be a whole number from 1: so many answers")
    logprobs: Any = wishes.logprobs
    if logprobs is not None and not isinstance(logprobs, bool) and not _is_count(logprobs):
        raise InvalidRequestError(f"logprobs={logprobs!r} must be True, or how many likelier tokens to tell, from 1")


def _check_tool_choice(choice: Any, tools: Sequence[Any]) -> None:
    if choice is None or isinstance(choice, Mapping):
        return check_unicode(choice, where="tool_choice")
    names = [tool.name if isinstance(tool, Tool) else tool.get("name") for tool in tools]
    if not isinstance(choice, str) or (choice not in TOOL_CHOICES and choice not in names):
        known = ", ".join(map(repr, [*sorted(TOOL_CHOICES), *filter(None, names)]))
        raise InvalidRequestError(f"tool_choice={choice!r} names no tool: use one of {known}")
    return None


def check_stop(stop: Any) -> list[str]:
    """Return the stop texts as a list, or raise an ``InvalidRequestError`` for one that is empty or no text."""
    if stop is None:
        return []
    stops = [stop] if isinstance(stop, str) or not isinstance(stop, Iterable) else list(stop)
    for text in stops:
        if not isinstance(text, str) or not text:
            raise InvalidRequestError(f"stop={stop!r}: give texts that are not empty; leave it out for none")
        check_unicode(text, where="stop")
    return stops


def check_sampling(temperature: Any, max_tokens: Any, *, max_temperature: float) -> None:
    """Raise an ``InvalidRequestError`` for a temperature or a length outside its bounds."""
    warm = _is_number(temperature) and 0 <= temperature <= max_temperature
    if temperature is not None and not warm:
        raise InvalidRequestError(f"temperature={temperature!r} must be a number from 0 to {max_temperature:g}")
    check_max_tokens(max_tokens)


def check_max_tokens(max_tokens: Any) -> None:
    """Raise an ``InvalidRequestError`` for a length that no answer has."""
    if max_tokens is not None and not _is_count(max_tokens):
        raise InvalidRequestError(
            f"max_tokens={max_tokens!r} must be a whole number from 1; leave it out for the default"
        )


def check_turn(priority: Any, deadline_s: Any) -> None:
    """Raise an ``InvalidRequestError`` for a place in line that cannot be meant."""
    if not isinstance(priority, int):
        raise InvalidRequestError(f"priority={priority!r} must be a whole number; the higher goes first")
    if deadline_s is not None and (not _is_number(deadline_s) or math.isnan(deadline_s)):
        raise InvalidRequestError(f"deadline_s={deadline_s!r} must be a number of seconds from now; None sets no bound")


def check_options(options: Mapping[str, Any], *, accepted: Iterable[str], sdk: str) -> None:
    """Raise an ``InvalidRequestError`` for a provider option the installed SDK does not know, or that is no number."""
    known = frozenset(accepted)
    for name, value in options.items():
        if name in _NO_OPTIONS:
            raise InvalidRequestError(f"{name} is no provider option: {_NO_OPTIONS[name]}")
        if name not in known:
            nearest = get_close_matches(name, known, n=1)
            hint = f"did you mean {nearest[0]!r}? " if nearest else ""
            raise InvalidRequestError(
                f"{sdk} has no option {name!r}: {hint}a field newer than the SDK goes into extra_body={{{name!r}: …}}"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidRequestError(f"{name}={value!r} must be a finite number")
        check_unicode(value, where=name)


def check_texts(texts: Any) -> None:
    """Raise an ``InvalidRequestError`` that names the first text which is empty or no string."""
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise InvalidRequestError(f"texts must be a list of str, not {type(texts).__name__}: write [text]")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidRequestError(f"texts[{position}] is of type {type(text).__name__}, not str")
        if not text:
            raise InvalidRequestError(f"texts[{position}] is empty: no provider embeds an empty text; leave it out")
        check_unicode(text, where=f"texts[{position}]")
