"""Providers as data: the frozen description of one, and the presets that come with the package."""

from __future__ import annotations

import difflib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Unpack

from factflow_llm.errors import ConfigurationError
from factflow_llm.files import read_toml, write_new
from factflow_llm.tables import nearest, toml_value
from factflow_llm.unfit import Unfit, unfit
from simulators.providers import faults, latency, quotas
from simulators.providers.faults import Fault  # noqa: TC001 - pydantic reads the annotation
from simulators.providers.latency import LatencyModel
from simulators.providers.limit_headers import Api, shown_axes
from simulators.providers.own_quotas import QuotaLimits, limited, limits_of
from simulators.providers.quotas import Quota  # noqa: TC001

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


_PRESETS = Path(__file__).parents[1] / "presets"


class RetryAfter(BaseModel):
    """What a rejected client hears about when to come back.

    Attributes:
        habit: ``true`` (the earliest moment at which all quotas admit), ``late`` (that times ``factor``) or ``absent``.
        factor: how late; below 1 it lures the client back too early.
        constant_s: said instead, whatever the quotas' state.
        shown_in: fractional ``seconds``, ``whole_seconds`` (rounded up), ``milliseconds``, or the ``body`` alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    habit: Literal["true", "late", "absent"] = "true"
    factor: Annotated[float, Field(gt=0)] = 1.0
    constant_s: Annotated[float, Field(ge=0)] | None = None
    shown_in: Literal["seconds", "whole_seconds", "milliseconds", "body"] = "seconds"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.factor != 1 and self.habit != "late":
            msg = f'factor = {self.factor:g} needs habit = "late", not "{self.habit}"'
            raise ValueError(msg)
        return self

    def told_s(self, wait_s: float) -> float | None:
        """Return the seconds a client hears when the truth is ``wait_s``."""
        if self.habit == "absent":
            return None
        seconds = self.constant_s if self.constant_s is not None else wait_s * self.factor
        if self.shown_in == "whole_seconds":
            return float(math.ceil(seconds - 1e-6))
        return math.ceil(seconds * 1000 - 1e-6) / 1000


class Compute(BaseModel):
    """A model on a machine of one's own: calls queue for ``workers``, and too large a batch runs out of memory."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    workers: Annotated[int, Field(ge=1)] = 1
    memory_tokens: Annotated[int, Field(gt=0)] | None = None


class Provider(BaseModel):
    """A provider as data.

    Attributes:
        name: what reports call it.
        description: one sentence for listings.
        api: whose HTTP face it wears.
        model: the model it pretends to serve.
        quotas: all of them must accept a call; with none, everything is accepted.
        latency: how long answers take.
        retry_after: what rejected clients hear.
        shows_limits: answers carry the api's limit headers.
        names_axis: a rejection says whether requests or tokens are over the limit; no rejection mentions slots.
        oversize_retry_after_s: what a request larger than a quota hears, though waiting cannot help.
        faults: what else goes wrong.
        compute: the machine behind it, where calls queue instead of being rejected.
        clock_skew_s: how far the provider's wall clock is ahead.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = "custom"
    description: str = ""
    api: Api = Api.OPENAI
    model: str = "simulated"
    quotas: tuple[Quota, ...] = ()
    latency: LatencyModel = LatencyModel()
    retry_after: RetryAfter = RetryAfter()
    shows_limits: bool = False
    names_axis: bool = True
    oversize_retry_after_s: Annotated[float, Field(gt=0)] | None = None
    faults: tuple[Fault, ...] = ()
    compute: Compute | None = None
    clock_skew_s: float = 0.0

    @model_validator(mode="before")
    @classmethod
    def _called_meters(cls, values: Any) -> Any:
        """Take quotas by the name they had in older files."""
        if not isinstance(values, dict) or "meters" not in values:
            return values
        return {name: value for name, value in values.items() if name != "meters"} | {"quotas": values["meters"]}

    @model_validator(mode="after")
    def _api_can_show(self) -> Self:
        if self.shows_limits and not shown_axes(self.api):
            msg = f'shows_limits = true, but the api "{self.api}" has no limit headers; remove it or choose another api'
            raise ValueError(msg)
        return self

    def with_faults(self, *faults: Fault) -> Self:
        """Return this provider with more going wrong."""
        return self.model_copy(update={"faults": (*self.faults, *faults)})

    def with_uplink(self, uplink_s: float, *, sigma: float = 0.3) -> Self:
        """Return this provider behind a network: calls and answers are on their way for ``uplink_s``, at the median.

        Args:
            uplink_s: seconds each way; 0 takes the network away.
            sigma: spread of its logarithm.

        Raises:
            ConfigurationError: a number out of bounds.
        """
        try:
            answers = LatencyModel.model_validate(
                self.latency.model_dump() | {"uplink_s": uplink_s, "uplink_sigma": sigma}
            )
        except ValidationError as error:
            raise ConfigurationError(_problems("with_uplink", error)) from None
        return self.model_copy(update={"latency": answers})

    def with_quota(self, **limits: Unpack[QuotaLimits]) -> Self:
        """Return this provider with quotas of your own, as in ``with_quota(requests_per_minute=300)``.

        A quota that the provider has on that axis keeps how it counts (window, burst, estimate); one that it lacks is a
        bucket. ``inf`` takes a quota away. Limits of a day from 86,400 s on stand apart from those of shorter spans.

        Raises:
            ConfigurationError: a name that says nothing, with the nearest one, or a number out of bounds.
        """
        return self.model_copy(update={"quotas": limited(self.quotas, limits)})

    def to_toml(self, path: str | Path | None = None, *, overwrite: bool = False, comment: str = "") -> str:
        """Write the provider as TOML, without what is default, and return the text; ``provider`` reads the file.

        Args:
            path: where to write; ``None`` writes nothing.
            overwrite: an existing file may be replaced.
            comment: lines for the top of the file.

        Raises:
            ConfigurationError: the file exists, or cannot be written.
        """
        told = _told(self)
        tables = {key: value for key, value in told.items() if isinstance(value, dict | list)}
        lines = [f"# {line}".rstrip() for line in comment.splitlines()]
        lines += [f"{key} = {toml_value(value)}" for key, value in told.items() if key not in tables]
        for key, value in tables.items():
            for table in value if isinstance(value, list) else [value]:
                lines += ["", f"[[{key}]]" if isinstance(value, list) else f"[{key}]"]
                lines += [f"{name} = {toml_value(item)}" for name, item in table.items()]
        text = "\n".join(lines) + "\n"
        if path is not None:
            write_new(Path(path), text, overwrite=overwrite)
        return text


def provider_names() -> list[str]:
    """Return the names of the presets."""
    return sorted(path.stem for path in _PRESETS.glob("*.toml"))


def provider(name_or_path: str | Path) -> Provider:
    """Return the preset of that name, or the provider that a TOML file describes.

    Raises:
        ConfigurationError: there is neither such a preset nor such a file, or what it says is contradictory.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        names = provider_names()
        if str(name_or_path) not in names:
            near = difflib.get_close_matches(str(name_or_path), names, n=3, cutoff=0.4) or names
            more = f" and {len(names) - len(near)} more" if len(near) < len(names) else ""
            known = f"{', '.join(near)}{more}"
            msg = f"no provider is called {str(name_or_path)!r}; known: {known}; a file's name ends in .toml"
            raise ConfigurationError(msg)
        path = _PRESETS / f"{name_or_path}.toml"
    return _load(path.resolve())


def described(values: Mapping[str, Any], place: str = "provider", folder: Path | None = None) -> Provider:
    """Return the provider that some keys describe: all of them, or those in which it differs from its ``preset``.

    Args:
        values: keys of :class:`Provider`; ``preset`` names one, or a file in ``folder``; ``quota`` takes what
            :meth:`Provider.with_quota` takes. Tables are merged key by key, lists replaced.
        place: what stands before a key in an error.
        folder: what a preset's file is relative to.

    Raises:
        ConfigurationError: naming the key and the nearest one that there is.
    """
    own = dict(values)
    preset, limits = own.pop("preset", None), own.pop("quota", {})
    base: dict[str, Any] = {}
    if preset is not None:
        named = folder / str(preset) if folder is not None and str(preset).endswith(".toml") else str(preset)
        base = provider(named).model_dump(mode="json", exclude_unset=True)
    if "meters" in own:
        own["quotas"] = own.pop("meters")
    try:
        made = Provider.model_validate(_merged(base, own))
    except ValidationError as error:
        raise ConfigurationError(_problems(place, error)) from None
    return made.model_copy(update={"quotas": limited(made.quotas, limits, f"{place}.quota: ")}) if limits else made


def quota_limits(words: Sequence[str]) -> QuotaLimits:
    """Return the limits that words such as ``requests=300/min`` say, for :meth:`Provider.with_quota`.

    Raises:
        ConfigurationError: something else is said.
    """
    said: Any = {}
    for each in words:
        said |= limits_of(each)
    return cast("QuotaLimits", said)


def _load(path: Path) -> Provider:
    values = read_toml(path, remedy=f"presets are {', '.join(provider_names())}")
    try:
        return described(values, folder=path.parent)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    except RecursionError:
        raise ConfigurationError(f"{path}: preset goes in a circle") from None


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    nested = {
        key: _merged(base[key], own[key])
        for key in own
        if isinstance(base.get(key), dict) and isinstance(own[key], dict)
    }
    return base | own | nested


def _told(model: BaseModel) -> dict[str, Any]:
    """Return what is not default as plain values; of what comes in kinds, always the kind."""
    fields = type(model).model_fields
    values = {name: getattr(model, name) for name in sorted(fields, key=lambda name: name != "kind")}
    return {
        name: _plain(value) for name, value in values.items() if name == "kind" or value != fields[name].get_default()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _told(value)
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def _problems(place: str, error: ValidationError) -> str:
    return "; ".join(_problem(place, each) for each in unfit(error))


def _problem(place: str, problem: Unfit) -> str:
    where = f"{place}.{problem.key}" if problem.path else place
    if problem.unknown:
        return f"{where}: no such key{nearest(str(problem.path[-1]), keys())}"
    given = "" if isinstance(problem.given, dict) else f" (given {problem.given!r})"
    return f"{where}: {problem.text}{given}"


def keys() -> list[str]:
    """Return all keys that a provider's file may have, at whatever depth."""
    models: list[type[BaseModel]] = [
        model
        for module in (quotas, latency, faults)
        for model in vars(module).values()
        if isinstance(model, type) and issubclass(model, BaseModel)
    ]
    models += [Provider, RetryAfter, Compute]
    return sorted({"preset", "quota"} | {key for model in models for key in model.model_fields})
