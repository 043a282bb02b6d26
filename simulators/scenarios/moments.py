"""A moment of a run by the clock: "noon" or "12:00" in the seconds from the start of a trace that has dates."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from factflow_llm.errors import ConfigurationError

_WORDS = {"noon": "12:00", "midnight": "00:00"}
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")


def moment_s(place: str, given: str, workload: Any) -> float:
    """Return the seconds from a trace's start to the next moment at which the clock, in UTC, shows so much.

    Args:
        place: what is being read, for the error.
        given: ``noon``, ``midnight``, ``12:00``, ``12:00:30``, or a whole date such as ``2026-11-29T12:00``.
        workload: the trace.

    Raises:
        ConfigurationError: for anything else, or a workload without dates.
    """
    began = _began(place, given, workload)
    words = _WORDS.get(given.strip().lower(), given.strip())
    clock = _CLOCK.fullmatch(words)
    try:
        if clock is None:
            moment = datetime.fromisoformat(words)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        else:
            hour, minute, second = (int(part or 0) for part in clock.groups())
            moment = began.replace(hour=hour, minute=minute, second=second)
            moment += timedelta(days=moment < began)
    except ValueError:
        msg = f"{place} = {given!r} is no moment; write seconds from the start, noon, 12:00, or 2026-11-29T12:00 (UTC)"
        raise ConfigurationError(msg) from None
    if moment < began:
        msg = f"{place} = {given!r} lies before the trace begins, which is at {began:%Y-%m-%d %H:%M:%S} UTC"
        raise ConfigurationError(msg)
    return (moment - began).total_seconds()


def _began(place: str, given: str, workload: Any) -> datetime:
    header = getattr(workload, "header", None)
    created = getattr(header, "created", None)
    if created is None:
        msg = f"{place} = {given!r}: {workload.name} has no dates; write seconds from the start of the run"
        raise ConfigurationError(msg)
    return datetime.fromisoformat(created)
