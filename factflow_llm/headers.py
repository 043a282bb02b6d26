"""Read what providers' headers say about limits and waits: pure functions over text; they read no clock.

Providers tell the same facts in several spellings:

==========  =====================================  ==============================================================
provider    names                                  reset
==========  =====================================  ==============================================================
OpenAI      ``x-ratelimit-{fact}-{axis}``          Go duration until the window is full (``6m0s``, ``119ms``)
Azure       the same, or ``x-rate-limit-…``        bare seconds; ``-1`` and ``0`` as sentinels for "not metered"
Anthropic   ``anthropic-ratelimit-{axis}-{fact}``  RFC 3339 time of day at which the window is full
Mistral     ``…-{fact}-req-minute``, ``-tokens-…``  not told
OpenRouter  ``x-ratelimit-{fact}``                 Unix time in milliseconds
==========  =====================================  ==============================================================

A time of day is measured against the response's own ``date`` header where there is one, so that a skewed local clock
does no harm. What is missing, senseless or absurd (a reset in thirty years, 1e308 requests) is ``None``, never 0.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from factflow_llm.signals import Axis, AxisLimit

if TYPE_CHECKING:
    from collections.abc import Mapping

_NUMBER = re.compile(r"\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+", re.ASCII)
_PART = r"(\d+(?:\.\d+)?)(ms|us|µs|ns|d|h|m|s)"
_DURATION = re.compile(f"(?:{_PART})+", re.ASCII)
_PARTS = re.compile(_PART, re.ASCII)
_SECONDS_PER = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_PER_SECOND = {"ms": 1_000, "us": 1_000_000, "µs": 1_000_000, "ns": 1_000_000_000}
_EPOCH_S = 1e9  # a "duration" of 31 years is a Unix time in the wrong place
_EPOCH_MS = 1e12  # and one of 31,000 years is one in milliseconds
LONGEST_S = 366 * 86_400.0  # no limit in use has a longer window; a reset that is further off is no news
_MOST = 1e12  # units per window; no limit in use is larger

_WAITS_PER_SECOND = {
    "retry-after-ms": 1_000,
    "x-ms-retry-after-ms": 1_000,
    "x-amz-retry-after": 1_000,
    "retry-after": 1,
}
"""Headers that state a wait, in order of authority, and how many of a bare number's units make a second."""


class _Names(NamedTuple):
    """Where one limit is told."""

    axis: Axis
    limit: str
    remaining: str
    reset: str


def _openai(axis: Axis, word: str) -> _Names:
    return _Names(axis, f"x-ratelimit-limit-{word}", f"x-ratelimit-remaining-{word}", f"x-ratelimit-reset-{word}")


def _anthropic(axis: Axis, word: str) -> _Names:
    start = f"anthropic-ratelimit-{word}"
    return _Names(axis, f"{start}-limit", f"{start}-remaining", f"{start}-reset")


_OPENAI = (
    _openai(Axis.REQUESTS, "requests"),
    _openai(Axis.TOKENS, "tokens"),
    _openai(Axis.TOKENS, "project-tokens"),
    _openai(Axis.REQUESTS, "req-minute"),  # Mistral
    _openai(Axis.TOKENS, "tokens-minute"),  # Mistral, Cerebras
    _openai(Axis.REQUESTS, "requests-day"),  # Cerebras
    _Names(Axis.REQUESTS, "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"),  # OpenRouter
)
_ANTHROPIC = (
    _anthropic(Axis.REQUESTS, "requests"),
    _anthropic(Axis.TOKENS, "tokens"),
    _anthropic(Axis.INPUT_TOKENS, "input-tokens"),
    _anthropic(Axis.OUTPUT_TOKENS, "output-tokens"),
)


@lru_cache(maxsize=256)  # here and below: most of what one answer tells, the next one tells again
def parse_duration(text: str) -> float | None:
    """Read a duration in seconds: ``6m0s``, ``120ms``, ``8.64s``, ``23h18m29.144s``, or a bare ``10``.

    Returns:
        Seconds; ``None`` when the text is no duration from 0 to a year.
    """
    text = text.strip()
    if not _DURATION.fullmatch(text):
        number = _number(text)
        return None if number is None else bounded_s(number)
    seconds = sum(
        float(value) * _SECONDS_PER[unit] if unit in _SECONDS_PER else float(value) / _PER_SECOND[unit]
        for value, unit in _PARTS.findall(text)
    )
    return bounded_s(seconds)


def bounded_s(seconds: float) -> float | None:
    """Return seconds that can be a wait; ``None`` for more than a year, and for what is no number."""
    return seconds if 0.0 <= seconds <= LONGEST_S else None


def parse_limits(headers: Mapping[str, str], *, now_utc: datetime | None = None) -> tuple[AxisLimit, ...]:
    """Read the limits that a response's headers show, whichever provider sent them: see ``LimitHeaders.limits``.

    Headers that are none show none.
    """
    try:
        return LimitHeaders(headers, now_utc=now_utc).limits()
    except (TypeError, AttributeError):
        return ()


def parse_retry_after(headers: Mapping[str, str], *, now_utc: datetime | None = None) -> tuple[float, str] | None:
    """Read the wait that a rejection's headers ask for: a stated one, else the reset of what is used up.

    Returns:
        Seconds, uncapped, and the header that says so; ``None`` when none does.
    """
    read = LimitHeaders(headers, now_utc=now_utc)
    return read.stated_wait() or read.reset_wait()


class LimitHeaders:
    """What one response's headers say about limits and waits.

    Args:
        headers: names in any case.
        now_utc: stands in for a missing ``date`` header; without either, times of day say nothing.
    """

    def __init__(self, headers: Mapping[str, str], *, now_utc: datetime | None = None) -> None:
        sent = "\n".join(headers)
        names = sent.lower()
        if names != sent or "x-rate-limit-" in names:
            headers = {name.lower().replace("x-rate-limit-", "x-ratelimit-"): text for name, text in headers.items()}
            names = "\n".join(headers)
        self._lower = headers
        self._names = _present(names) if "ratelimit-" in names else ()
        self._now_utc = now_utc

    def limits(self) -> tuple[AxisLimit, ...]:
        """List at most one limit per axis, in a fixed order; of two told for one axis, the one with less left."""
        found: dict[Axis, AxisLimit] = {}
        for _, limit in self._told():
            known = found.setdefault(limit.axis, limit)
            if known is not limit and _left(limit) < _left(known):
                found[limit.axis] = limit
        return tuple(found.values())

    def stated_wait(self) -> tuple[float, str] | None:
        """Read what ``retry-after`` or one of its kin states; a date that has passed is a wait of 0.

        A value that is no finite number of 0 or more, no duration and no date is passed over.
        """
        for name, per_second in _WAITS_PER_SECOND.items():
            text = self._lower.get(name)
            if text is not None and (wait_s := self._wait(text, per_second)) is not None:
                return wait_s, name
        return None

    def reset_wait(self, axis: Axis | None = None) -> tuple[float, str] | None:
        """Read the longest reset among the limits that are used up.

        A limit is used up when nothing remains; when ``remaining`` is not told, only if ``axis`` is known to have
        refused. The reset is when the window is *full* again, so it is an upper bound of the wait needed.
        """
        waits = [
            (limit.reset_s, names.reset)
            for names, limit in self._told()
            if limit.reset_s is not None and (limit.remaining == 0 or (limit.remaining is None and limit.axis == axis))
        ]
        return max(waits, default=None)

    def _told(self) -> list[tuple[_Names, AxisLimit]]:
        return [(names, limit) for names in self._names if (limit := self._read(names)) is not None]

    def _read(self, names: _Names) -> AxisLimit | None:
        told = self._lower.get
        limit, remaining, reset = told(names.limit), told(names.remaining), told(names.reset)
        if (limit or "").startswith("-") or (remaining or "").startswith("-"):
            return None  # how Azure says that nothing is metered
        read = (
            None if limit is None else _units(limit),
            None if remaining is None else _units(remaining),
            None if reset is None else self._reset(reset),
        )
        return None if read == (None, None, None) else AxisLimit(names.axis, *read)

    def _wait(self, text: str, per_second: int) -> float | None:
        if (number := _number(text)) is not None:
            return bounded_s(number / per_second)
        if (seconds := parse_duration(text)) is not None:
            return seconds
        if (seconds := self._until(text)) is not None:
            return seconds
        numbers = [_number(part) for part in text.split(",")]  # the header came twice
        known = [number for number in numbers if number is not None]
        return bounded_s(max(known) / per_second) if known and len(known) == len(numbers) else None

    def _reset(self, text: str) -> float | None:
        number = _number(text)
        if number is not None and number >= _EPOCH_S:
            return self._left_until(number / 1_000 if number >= _EPOCH_MS else number) or None
        seconds = None if ":" in text else parse_duration(text)
        return self._until(text) if seconds is None else seconds

    def _until(self, text: str) -> float | None:
        instant_s = _instant_s(text)
        return None if instant_s is None else self._left_until(instant_s)

    def _left_until(self, instant_s: float) -> float | None:
        now_s = _instant_s(self._lower.get("date", ""))
        if now_s is None and self._now_utc is not None:
            now_s = _aware(self._now_utc).timestamp()
        if now_s is None:
            return None
        return bounded_s(instant_s - now_s) if instant_s > now_s else 0.0


@lru_cache(maxsize=256)  # one server's answers have the same headers again and again
def _present(sent: str) -> tuple[_Names, ...]:
    """Return the limits of which something stands among the names of headers, a line each."""
    names = frozenset(sent.split("\n"))
    return tuple(each for each in (*_OPENAI, *_ANTHROPIC) if not names.isdisjoint(each[1:]))


def _left(limit: AxisLimit) -> float:
    return math.inf if limit.remaining is None else limit.remaining


@lru_cache(maxsize=256)
def _number(text: str) -> float | None:
    if not _NUMBER.fullmatch(text.strip()):
        return None
    number = float(text)
    return number if math.isfinite(number) else None


def _units(text: str) -> float | None:
    number = _number(text)
    return number if number is not None and number <= _MOST else None


@lru_cache(maxsize=256)
def _instant_s(text: str) -> float | None:
    """Read a moment as a Unix time."""
    text = text.strip()
    try:
        moment = datetime.fromisoformat(text) if text[:1].isdigit() else parsedate_to_datetime(text)
        return _aware(moment).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _aware(instant: datetime) -> datetime:
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
