"""The limiter's settings: one frozen value, the same in the laboratory and in production.

Nothing here is needed to start: without a single setting the limiter finds the quota by itself. Every default says
what it rests on.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.stores.address import check_address
from factflow_llm.unfit import unfit

if TYPE_CHECKING:
    from collections.abc import Mapping

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Searched:
    """Between which values a search tries a setting; one without them is knowledge (quotas, bounds) or taste."""

    low: float
    high: float
    logarithmic: bool = True


class FrozenSettings(BaseModel):
    """A frozen pydantic model whose errors name the key, the value, the bound and the remedy."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigurationError(_explain(type(self), error)) from None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build from plain values, as read from a file.

        Raises:
            ConfigurationError: naming each key that is unknown or out of bounds.
        """
        return cls(**values)


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    lines = []
    for problem in unfit(error):
        key = problem.key
        if problem.unknown:
            near = difflib.get_close_matches(str(problem.path[-1]), _keys_at(model, problem.path[:-1]), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(sorted(model.model_fields))}"
            lines.append(f"{key}: unknown key{hint}")
        else:
            shown = problem.missing or not key or "(given: " in problem.text
            lines.append((f"{key}: " if key else "") + problem.text + ("" if shown else f" (given: {problem.given!r})"))
    return f"{model.__name__}: " + "; ".join(lines)


def _keys_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    fields = model.model_fields
    for part in path:
        annotation = fields[str(part)].annotation if str(part) in fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        fields = annotation.model_fields
    return list(fields)


class RetryConfig(FrozenSettings):
    """How a call is retried: bounded by attempts and by time, with full jitter.

    Attributes:
        max_attempts: physical attempts per call, the first included. Eight, because with the limiter in front a
            rejection is rare and eight of them in a row means trouble that waiting does not cure.
        backoff_base_s: the first wait is drawn from 0 to this; it doubles with every attempt.
        backoff_cap_s: no wait is drawn from more than this.
        retry_after_cap_s: a provider's Retry-After is obeyed up to this; Azure says 86,400 s to an oversized request.
        deadline_s: seconds from its beginning by which a call is over, wherever it is: waiting, retrying, answering,
            streaming; ``None`` waits as long as it takes.
    """

    max_attempts: int = Field(default=8, ge=1)
    backoff_base_s: PositiveFloat = 0.5
    backoff_cap_s: PositiveFloat = 30.0
    retry_after_cap_s: PositiveFloat = 120.0
    deadline_s: PositiveFloat | None = None


OF_THE_FLEET = frozenset({"shared", "shared_required", "weight"})
"""The settings that say where and with whom a limiter runs, not how it learns."""


class RateLimitConfig(FrozenSettings):
    """The adaptive limiter's settings.

    What a default is worth was measured in twelve worlds of the suite, in points of a hundred of goodput and share of
    429s, against 97.3 and 1.1 (``tests/golden/suite/ablations.txt``). ``decrease=0.5`` is the textbook's AIMD.

    Attributes:
        requests_per_minute: a quota you know; the limiter starts there instead of searching. ``None`` finds it.
        input_tokens_per_minute: likewise, for tokens read.
        output_tokens_per_minute: likewise, for tokens written.
        tokens_per_minute: likewise, for both together.
        min_requests_per_minute: the limiter never goes below this rate. One call in two minutes, so that a provider
            that lets anything through at all is always tried again.
        max_requests_per_minute: the limiter never goes above this rate, whatever headers show; ``None`` sets no bound.
        initial_concurrency: calls in flight before anything is known; doubles each round trip, or second if that is
            shorter, while none is rejected. 4 costs 0.2 of goodput, 64 costs 0.4 of 429s.
        max_concurrency: calls in flight, at most. It protects this process, not the provider.
        max_queue: calls that may wait; of more, the last of the lowest priority fails at once. ``None`` lets all wait.
        decrease: multiplicative decrease: after a rejection the rate falls to this share of what was let through.
            0.9 costs 1.7 of goodput, 0.5 costs 16; 0.985 costs 0.5, and 5 where a quota grows.
        probe_s: additive increase: seconds in which the rate climbs from the cut back to the remembered ceiling,
            twice as many where noise is known. 4 costs 0.3 of goodput and 0.2 of 429s; 16 saves 0.1 of 429s for 0.07 of
            goodput.
        probe_requests: the climb lasts at least this many requests, so that a small quota is not probed too often. 30
            costs 0.2 of goodput, 120 costs 0.5.
        search_s: once the ceiling has proved stale, the rate doubles in this many seconds. 2 costs 1.3 of
            goodput, 8 costs 1.4.
        cool_off_s: the first pause after a rejection that names no time, or half the time between two calls if that is
            longer; doubles while nothing is let through. 1 second costs 0.9 of goodput, 0.02 costs 0.1.
        cool_off_cap_s: no pause is longer than this, whatever a Retry-After says: two of the longest windows in use.
        breaker_s: with the quota exhausted, waiting calls fail at once; after this long one call tries again. One call
            a minute is nothing to a provider, and a minute is soon enough for somebody who has just paid.
        retry: how a rejected or failed call is retried.
        shared: where the processes of one quota meet, to share what they learn: ``"sqlite:///path"`` for those of one
            host, ``"redis://host/0?namespace=team"`` for those of many; a password is written ``${NAME}`` and comes
            from the environment. ``None`` finds the quota alone.
        shared_required: whether a store that cannot be used at the start is an error; otherwise the process begins
            alone. Once it was used, calls go on whatever befalls it.
        weight: how much of what is scarce this process gets, relative to the others of its quota.
    """

    requests_per_minute: PositiveFloat | None = None
    input_tokens_per_minute: PositiveFloat | None = None
    output_tokens_per_minute: PositiveFloat | None = None
    tokens_per_minute: PositiveFloat | None = None
    min_requests_per_minute: PositiveFloat = 0.5
    max_requests_per_minute: PositiveFloat | None = None
    initial_concurrency: Annotated[int, Searched(1, 256)] = Field(default=8, ge=1)
    max_concurrency: int = Field(default=1024, ge=1)
    decrease: Annotated[float, Searched(0.9, 0.995, logarithmic=False)] = Field(default=0.97, gt=0, lt=1)
    probe_s: Annotated[PositiveFloat, Searched(1.0, 120.0)] = 10.0
    probe_requests: Annotated[PositiveFloat, Searched(5.0, 500.0)] = 60.0
    search_s: Annotated[PositiveFloat, Searched(0.5, 60.0)] = 3.0
    max_queue: int | None = Field(default=None, ge=1)
    cool_off_s: Annotated[PositiveFloat, Searched(0.02, 5.0)] = 0.1
    cool_off_cap_s: PositiveFloat = 120.0
    breaker_s: PositiveFloat = 60.0
    retry: RetryConfig = RetryConfig()
    shared: str | None = None
    shared_required: bool = True
    weight: PositiveFloat = 1.0

    @field_validator("shared")
    @classmethod
    def _is_address(cls, shared: str | None) -> str | None:
        return None if shared is None else check_address(shared)

    @model_validator(mode="after")
    def _bounds_agree(self) -> Self:
        if self.initial_concurrency > self.max_concurrency:
            msg = (
                f"initial_concurrency {self.initial_concurrency} is above max_concurrency {self.max_concurrency}; "
                "lower the first or raise the second"
            )
            raise ValueError(msg)
        known, least = self.requests_per_minute, self.min_requests_per_minute
        if known is not None and known < least:
            msg = (
                f"requests_per_minute {known:g} is below min_requests_per_minute {least:g}; raise it or lower the bound"
            )
            raise ValueError(msg)
        top = self.max_requests_per_minute
        for name in ("min_requests_per_minute", "requests_per_minute"):
            value = getattr(self, name)
            if top is not None and value is not None and value > top:
                msg = f"{name} {value:g} is above max_requests_per_minute {top:g}; lower the first or raise the second"
                raise ValueError(msg)
        return self

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Read a file written by ``to_toml``, or by hand.

        Raises:
            ConfigurationError: naming the file and the key, when it cannot be read or holds anything unknown.
        """
        from factflow_llm.files import read_toml

        remedy = "give the path of a file written by to_toml()"
        values = read_toml(Path(path), remedy=remedy, compare="compare it with what RateLimitConfig().to_toml() writes")
        try:
            return cls(**values)
        except ConfigurationError as error:
            msg = f"{path}: {error}"
            raise ConfigurationError(msg) from None

    def to_toml(
        self, path: str | Path | None = None, *, overwrite: bool = False, comment: str | Mapping[str, str] = ""
    ) -> str:
        """Write the settings as TOML and return the text; ``None`` values are left out, for TOML has no null.

        Args:
            path: where to write; nothing is written without it.
            overwrite: an existing file is an error unless this is true.
            comment: where the settings come from, written as comment lines at the top: text, or words by name.

        Raises:
            ConfigurationError: when the file exists or cannot be written.
        """
        from factflow_llm.files import write_new

        told = comment if isinstance(comment, str) else "\n".join(f"{key}: {value}" for key, value in comment.items())
        lines = [f"# {line}" for line in told.splitlines()]
        values = self.model_dump(exclude_none=True)
        retry = values.pop("retry")
        lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
        lines += ["", "[retry]", *(f"{key} = {_toml(value)}" for key, value in retry.items())]
        text = "\n".join(lines).lstrip("\n") + "\n"
        if path is not None:
            write_new(Path(path), text, overwrite=overwrite)
        return text


def _toml(value: Any) -> str:
    """Write a number, a truth value or a text, which JSON writes as TOML does."""
    return json.dumps(value)
