"""The limiter's settings as sliders see them, derived from the model: a new field appears by itself."""

from __future__ import annotations

import inspect
import math
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from factflow_llm.ratelimit.config import OF_THE_FLEET, RateLimitConfig
from simulators.plots.look import thousands

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic.fields import FieldInfo

Value = float | int | None

UNSET = "not set"
"""What a slider holds where a setting is left out: ipywidgets takes ``None`` for no selection."""

# Renard's R20: twenty round numbers per decade, each about 12 % above the one before.
_ROUND = (
    1.0, 1.12, 1.25, 1.4, 1.6, 1.8, 2.0, 2.24, 2.5, 2.8, 3.15, 3.55, 4.0, 4.5, 5.0, 5.6, 6.3, 7.1, 8.0, 9.0,
)  # fmt: skip
_UNITS = (("requests_per_minute", "requests/min"), ("_per_minute", "tokens/min"), ("_s", "s"))
_COUNTED = {"concurrency": "calls", "queue": "calls", "requests": "requests", "attempts": "attempts"}
_UNSET_RANGES = {"requests/min": (1.0, 1e5), "tokens/min": (1e3, 1e8), "s": (1.0, 3600.0), "calls": (1.0, 1e5)}
_DECADES_AROUND_DEFAULT = 2.0


@dataclass(frozen=True)
class Parameter:
    """One setting.

    Attributes:
        name: as in the settings file; ``retry.`` stands before the keys of that table.
        group: heading under which it is shown.
        unit: empty for a share.
        description: one line on what it does.
        default: the model's.
        stops: values a slider offers, ascending; ``None`` first where the setting may be left out.
    """

    name: str
    group: str
    unit: str
    description: str
    default: Value
    stops: tuple[Value, ...]

    def options(self, value: Value) -> tuple[tuple[str, float | int | str], ...]:
        """Return what a slider shows and means, the default marked, ``value`` among them whatever it is."""
        stops = {*self.stops, value}
        ordered = sorted(stops, key=lambda stop: (stop is not None, stop))
        return tuple((self.words(stop), UNSET if stop is None else stop) for stop in ordered)

    def words(self, value: Value) -> str:
        """Return a value with its unit, the default marked."""
        told = UNSET if value is None else f"{_number(value)} {self.unit}".rstrip()
        return f"{told} (default)" if value == self.default else told


def _number(value: float) -> str:
    return f"{value:g}" if value < 10_000 else thousands(value)


@cache
def parameters() -> tuple[Parameter, ...]:
    """Return every setting of how the limiter learns, in the model's order."""
    return tuple(_of(RateLimitConfig, prefix="", group=""))


def values_of(config: RateLimitConfig) -> dict[str, Value]:
    """Return a configuration's values by the names of the parameters."""
    values = {name: value for name, value in config.model_dump().items() if name not in OF_THE_FLEET}
    values |= {f"retry.{name}": value for name, value in values.pop("retry").items()}
    return values


def config_of(values: Mapping[str, Value]) -> RateLimitConfig:
    """Return the configuration of these values.

    Raises:
        ConfigurationError: naming the keys, when the values do not go together.
    """
    plain: dict[str, Any] = {name: value for name, value in values.items() if "." not in name}
    plain["retry"] = {name.partition(".")[2]: value for name, value in values.items() if "." in name}
    return RateLimitConfig.from_dict(plain)


def changed(config: RateLimitConfig) -> dict[str, Value]:
    """Return what differs from the defaults."""
    return {
        parameter.name: value
        for parameter, value in zip(parameters(), values_of(config).values(), strict=True)
        if value != parameter.default
    }


def described(model: type[BaseModel]) -> dict[str, str]:
    """Return the first sentence on each attribute of a model's docstring."""
    text = inspect.getdoc(model) or ""
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", text.partition("Attributes:")[2], flags=re.MULTILINE)
    return {name: _first_sentence(told) for name, told in entries}


def _first_sentence(told: str) -> str:
    plain = re.sub(r"\s+", " ", told).replace("`", "").replace("*", "")
    return re.split(r"(?<=\.) ", plain)[0]


def _of(model: type[BaseModel], *, prefix: str, group: str) -> list[Parameter]:
    told = described(model)
    found = []
    for name, field in model.model_fields.items():
        if name in OF_THE_FLEET:
            continue
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += _of(kind, prefix=f"{name}.", group="Retries")
            continue
        unit = _unit(name)
        found.append(
            Parameter(
                prefix + name, group or _group(unit), unit, told.get(name, ""), field.default, _stops(name, unit, field)
            )
        )
    return found


def _group(unit: str) -> str:
    return "Known quotas and bounds" if unit.endswith("/min") else "How it learns"


def _unit(name: str) -> str:
    for ending, unit in _UNITS:
        if name.endswith(ending):
            return unit
    return _COUNTED.get(name.rpartition("_")[2], "")


def _stops(name: str, unit: str, field: FieldInfo) -> tuple[Value, ...]:
    kinds = get_args(field.annotation) or (field.annotation,)
    optional = type(None) in kinds
    least, most = _bounds(field)
    if math.isfinite(most):
        return tuple(round(least + step * (most - least) / 100, 10) for step in range(1, 100))
    if field.default is None:
        low, high = _UNSET_RANGES[unit]
    else:
        low, high = (field.default * 10.0**sign for sign in (-_DECADES_AROUND_DEFAULT, _DECADES_AROUND_DEFAULT))
    numbers = {number for number in _round_numbers(low, high) if number >= least} | {field.default} - {None}
    stops = sorted({round(number) for number in numbers} if int in kinds else numbers)
    return (None, *stops) if optional else tuple(stops)


def _bounds(field: FieldInfo) -> tuple[float, float]:
    """Return the least and the largest value that the field's constraints allow."""
    found = {"low": -math.inf, "high": math.inf}
    for constraint in _constraints(field):
        for side, words in (("low", ("gt", "ge")), ("high", ("lt", "le"))):
            bound = next((getattr(constraint, word) for word in words if hasattr(constraint, word)), None)
            if bound is not None:
                found[side] = float(bound)
    return found["low"], found["high"]


def _constraints(field: FieldInfo) -> list[Any]:
    inner = [part for kind in get_args(field.annotation) for part in getattr(kind, "__metadata__", ())]
    flat = []
    for part in (*field.metadata, *inner):
        flat += list(part.metadata) if hasattr(part, "metadata") else [part]
    return flat


def _round_numbers(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    numbers = (float(f"{digits * 10.0**decade:.4g}") for decade in decades for digits in _ROUND)
    return [number for number in numbers if low * 0.999 <= number <= high * 1.001]
