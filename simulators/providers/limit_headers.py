"""How each provider shows its limits: rounding, units and header names. Pure functions.

``shown_limits`` rounds as the provider does, so that what a simulated client learns in process is, to the last digit,
what the parser of ``factflow_llm`` reads from the headers that ``limit_headers`` writes.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import format_datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from factflow_llm.signals import Axis, AxisLimit

if TYPE_CHECKING:
    from collections.abc import Iterable

Exact = tuple[Axis, float, float, float]
"""Axis, limit, what is left, seconds until nothing is missing: before any rounding."""

_EPS: Final = 1e-6  # units and milliseconds: float noise must not turn 120 ms into 119


class Api(StrEnum):
    """Whose headers and bodies a provider speaks; ``LOCAL`` is a model in the client's own process, with neither."""

    OPENAI = "openai"
    AZURE = "azure"
    ANTHROPIC = "anthropic"
    BEDROCK = "bedrock"
    GEMINI = "gemini"
    GROQ = "groq"
    MISTRAL = "mistral"
    OPENROUTER = "openrouter"
    COHERE = "cohere"
    VOYAGE = "voyage"
    LITELLM = "litellm"
    NGINX = "nginx"
    LOCAL = "local"

    @property
    def overload_status(self) -> int:
        """The HTTP status of a provider that is overloaded."""
        return 529 if self is Api.ANTHROPIC else 503


_SHOWN_AXES: Final[dict[Api, tuple[Axis, ...]]] = {
    Api.OPENAI: (Axis.REQUESTS, Axis.TOKENS),
    Api.GROQ: (Axis.REQUESTS, Axis.TOKENS),
    Api.MISTRAL: (Axis.REQUESTS, Axis.TOKENS),
    Api.AZURE: (Axis.REQUESTS, Axis.TOKENS),
    Api.ANTHROPIC: (Axis.REQUESTS, Axis.TOKENS, Axis.INPUT_TOKENS, Axis.OUTPUT_TOKENS),
}
_MISTRAL_NAMES: Final[dict[Axis, str]] = {Axis.REQUESTS: "req", Axis.TOKENS: "tokens"}


def shown_axes(api: Api) -> tuple[Axis, ...]:
    """Return the axes that the api's limit headers can name, in the order in which they are read."""
    return _SHOWN_AXES.get(api, ())


def shown_limits(api: Api, exact: Iterable[Exact], utc_s: float) -> tuple[AxisLimit, ...]:
    """Return limits as headers sent at ``utc_s`` show them.

    OpenAI floors what remains and truncates the time to full to milliseconds; Azure rounds it up to whole seconds;
    Anthropic rounds remaining tokens to thousands and names the second at which the window is full. Where it limits
    input and output apart, ``tokens`` shows their sum (a capture shows 2 400 000 = 2 000 000 + 400 000). Groq writes as
    OpenAI does, and Mistral tells no reset.
    """
    if api in (Api.OPENAI, Api.GROQ):
        return tuple(
            [AxisLimit(axis, limit, _floor(left), _go_seconds(reset_s)) for axis, limit, left, reset_s in exact]
        )
    if api is Api.AZURE:
        return tuple([AxisLimit(axis, limit, _floor(left), _ceil(reset_s)) for axis, limit, left, reset_s in exact])
    if api is Api.MISTRAL:
        return tuple([AxisLimit(axis, limit, _floor(left), None) for axis, limit, left, _ in exact])
    by_axis = {one[0]: one for one in exact}
    if Axis.TOKENS not in by_axis and Axis.INPUT_TOKENS in by_axis and Axis.OUTPUT_TOKENS in by_axis:
        (_, *given), (_, *taken) = by_axis[Axis.INPUT_TOKENS], by_axis[Axis.OUTPUT_TOKENS]
        by_axis[Axis.TOKENS] = (Axis.TOKENS, given[0] + taken[0], given[1] + taken[1], max(given[2], taken[2]))
    shown = []
    for axis in shown_axes(api):
        if axis in by_axis:
            _, limit, left, reset_s = by_axis[axis]
            remaining = _floor(left) if axis is Axis.REQUESTS else _thousands(left)
            shown.append(AxisLimit(axis, limit, remaining, _ceil(utc_s + reset_s) - math.floor(utc_s)))
    return tuple(shown)


def limit_headers(api: Api, limits: Iterable[AxisLimit], utc_s: float) -> dict[str, str]:
    """Return the headers that show ``limits`` in an answer sent at ``utc_s``, with its ``date`` where one is needed."""
    headers: dict[str, str] = {}
    for limit in limits:
        axis = limit.axis.replace("_", "-")
        values = {"limit": _plain(limit.limit), "remaining": _plain(limit.remaining)}
        reset_s = limit.reset_s or 0.0
        if api is Api.ANTHROPIC:
            values["reset"] = f"{_utc(math.floor(utc_s) + reset_s):%Y-%m-%dT%H:%M:%SZ}"
            headers |= {f"anthropic-ratelimit-{axis}-{fact}": value for fact, value in values.items()}
        elif api is Api.MISTRAL:
            name = _MISTRAL_NAMES[limit.axis]
            headers |= {f"x-ratelimit-{fact}-{name}-minute": value for fact, value in values.items()}
        else:
            values["reset"] = _plain(reset_s) if api is Api.AZURE else go_duration(reset_s)
            headers |= {f"x-ratelimit-{fact}-{axis}": value for fact, value in values.items()}
    return headers


def date_header(utc_s: float) -> str:
    """Return the HTTP ``date`` of ``utc_s``."""
    return format_datetime(_utc(math.floor(utc_s)), usegmt=True)


def go_duration(seconds: float) -> str:
    """Write a duration as Go does, to the millisecond: ``6m0s``, ``8.64s``, ``120ms``, ``0s``."""
    ms = round(seconds * 1000)
    if ms == 0:
        return "0s"
    if ms < 1000:
        return f"{ms}ms"
    minutes, rest_ms = divmod(ms, 60_000)
    text = f"{rest_ms / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if minutes == 0:
        return text
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}"


def _go_seconds(seconds: float) -> float:
    """Truncate to milliseconds and add up as a reader of ``go_duration`` does, to get the same float."""
    ms = int(seconds * 1000 + _EPS)
    if ms < 60_000:
        return ms / 1000
    minutes, rest_ms = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    return hours * 3600.0 + minutes * 60.0 + rest_ms / 1000


def _floor(units: float) -> float:
    return float(int(units + _EPS))


def _ceil(seconds: float) -> float:
    return float(math.ceil(seconds - _EPS))


def _thousands(units: float) -> float:
    return math.floor(units / 1000 + 0.5) * 1000.0


def _plain(number: float | None) -> str:
    return f"{number or 0.0:.15g}"


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
