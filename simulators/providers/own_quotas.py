"""Quotas in one line: ``requests_per_minute=300`` instead of a table, put in the place of a provider's own."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, TypedDict

from pydantic import ValidationError

from factflow_llm.errors import ConfigurationError
from factflow_llm.signals import Axis
from factflow_llm.tables import nearest
from factflow_llm.unfit import unfit
from simulators.providers.quotas import DAY_S, Bucket, Slots

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from simulators.providers.quotas import Quota

_SPANS_S = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": DAY_S}
_UNITS = {"s": "second", "sec": "second", "min": "minute", "m": "minute", "h": "hour", "d": "day"}


class QuotaLimits(TypedDict, total=False):
    """What can be limited: calls and tokens by the span, calls at once; ``inf`` for no limit."""

    requests_per_second: float
    requests_per_minute: float
    requests_per_hour: float
    requests_per_day: float
    tokens_per_second: float
    tokens_per_minute: float
    tokens_per_hour: float
    tokens_per_day: float
    input_tokens_per_minute: float
    input_tokens_per_day: float
    output_tokens_per_minute: float
    output_tokens_per_day: float
    concurrency: float


def limited(quotas: Sequence[Quota], limits: Mapping[str, Any], place: str = "") -> tuple[Quota, ...]:
    """Return quotas with these limits in place of their own; see ``Provider.with_quota``.

    Raises:
        ConfigurationError: after ``place``, the name or number that does not fit.
    """
    found = list(quotas)
    for name, value in limits.items():
        if name not in QuotaLimits.__annotations__:
            raise ConfigurationError(f"{place}{name}: no such limit{nearest(name, QuotaLimits.__annotations__)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ConfigurationError(f"{place}{name}: {value!r} must be a number above 0, or inf for no limit")
        axis, span_s = _meaning(name)
        old = _nearest_quota(found, axis, span_s)
        try:
            new = None if math.isinf(value) else _sized(old, axis, float(value), span_s)
        except ValidationError as error:
            raise ConfigurationError(f"{place}{name} = {value:g}: {unfit(error)[0].text}") from None
        if old is not None:
            at = found.index(old)
            found[at : at + 1] = [] if new is None else [new]
        elif new is not None:
            found.append(new)
    return tuple(found)


def limits_of(words: str) -> dict[str, float]:
    """Return the limit that ``requests=300/min``, ``tokens=2e6/day`` or ``concurrency=20`` says.

    Raises:
        ConfigurationError: something else is said.
    """
    form = "write requests=300/min, input_tokens=1e6/day or concurrency=20"
    fitting = re.fullmatch(r"\s*(\w+)\s*=\s*([\d_.,e+]+|inf)\s*(?:/\s*(\w+))?\s*", words)
    if fitting is None:
        raise ConfigurationError(f"{words!r}: {form}")
    name, number, unit = fitting.groups()
    span = _UNITS.get(unit or "", unit)
    try:
        return {name if span is None else f"{name}_per_{span}": float(number.replace(",", ""))}
    except ValueError:
        raise ConfigurationError(f"{words!r}: {number!r} is no number; {form}") from None


def _meaning(name: str) -> tuple[Axis, float]:
    axis, _, span = name.partition("_per_")
    return Axis(axis), _SPANS_S.get(span, 1.0)


def _nearest_quota(quotas: Sequence[Quota], axis: Axis, span_s: float) -> Quota | None:
    """Return the quota of that axis whose span is nearest; a day's and shorter ones do not stand for each other."""
    alike = [each for each in quotas if each.axis is axis and (each.per_s >= DAY_S) == (span_s >= DAY_S)]
    return min(alike, key=lambda each: abs(math.log(each.per_s / span_s)), default=None)


def _sized(old: Quota | None, axis: Axis, value: float, span_s: float) -> Quota:
    if axis is Axis.CONCURRENCY:
        return Slots(limit=value) if old is None else _changed(old, value)
    if old is None:
        return Bucket(axis=axis, limit=value, per_s=span_s)
    return _changed(old, value * old.per_s / span_s)


def _changed(quota: Quota, limit: float) -> Quota:
    return type(quota).model_validate(quota.model_dump(exclude_unset=True) | {"limit": limit})
