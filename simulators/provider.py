"""A simulated provider: quotas that must all admit, latency, and what a refused client is told.

``Provider`` is the frozen description (a preset's TOML, or built in Python), ``ProviderMachine`` its running state. The same
machine decides in process under virtual time and behind ``server.py`` over HTTP. Sources of modelled behaviour are named
in the presets.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from factflow_llm.ratelimit.signals import Axis, AxisLimit
from simulators.latency import Latency, LatencyModel
from simulators.quotas import Estimate, Meter, Quota, Settlement
from simulators.streams import Streams

_PRESETS = Path(__file__).parent / "presets"
_DAY_S = 86_400.0


class Api(StrEnum):
    """Whose headers and bodies a provider speaks."""

    OPENAI = "openai"
    AZURE = "azure"
    ANTHROPIC = "anthropic"
    BEDROCK = "bedrock"


class RetryAfter(BaseModel):
    """What a refused client hears about when to come back.

    Attributes:
        habit: ``true`` (the earliest moment at which all quotas admit), ``late`` (that times ``factor``) or ``absent``.
        factor: how late; below 1 it lures the client back too early.
        constant_s: said instead of the truth, whatever the quotas' state.
        shown_in: fractional seconds, whole seconds (rounded up) or milliseconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    habit: Literal["true", "late", "absent"] = "true"
    factor: Annotated[float, Field(gt=0)] = 1.0
    constant_s: Annotated[float, Field(ge=0)] | None = None
    shown_in: Literal["seconds", "whole_seconds", "milliseconds"] = "seconds"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.factor != 1 and self.habit != "late":
            raise ValueError(f'factor = {self.factor:g} needs habit = "late", not "{self.habit}"')
        return self


class Provider(BaseModel):
    """A provider as data.

    Attributes:
        name: what reports call it.
        description: one sentence for listings.
        api: whose HTTP face it wears.
        model: the model it pretends to serve.
        meters: quotas, all of which must admit; with none, everything is admitted.
        latency: how long answers take.
        retry_after: what refused clients hear.
        shows_limits: whether answers carry the api's limit headers.
        oversize_retry_after_s: what a request larger than a quota hears, though waiting cannot help.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "custom"
    description: str = ""
    api: Api = Api.OPENAI
    model: str = "simulated"
    meters: tuple[Quota, ...] = ()
    latency: LatencyModel = LatencyModel()
    retry_after: RetryAfter = RetryAfter()
    shows_limits: bool = False
    oversize_retry_after_s: Annotated[float, Field(gt=0)] | None = None


class CallKind(StrEnum):
    """What a call asks for."""

    CHAT = "chat"
    EMBEDDING = "embedding"


@dataclass(slots=True)
class Call:
    """One request as the provider sees it; a retry is the same call again."""

    index: int
    input_tokens: int
    output_tokens: int = 0
    max_tokens: int | None = None
    kind: CallKind = CallKind.CHAT
    cached_input_tokens: int = 0


class Verdict(NamedTuple):
    """What becomes of one attempt, decided at the moment of its arrival.

    Attributes:
        status: the HTTP status.
        error: the reason word of ``factflow_llm.errors``; ``None`` for a success.
        axis: the dimension that refused.
        retry_after_s: as told to the client.
        limits: as its headers show them.
        first_chunk_s: from sending to the first byte of the answer.
        duration_s: from sending to the end.
        handle: what ``finish`` wants back, ``None`` where there is nothing to settle.
    """

    status: int
    error: str | None
    axis: Axis | None
    retry_after_s: float | None
    limits: tuple[AxisLimit, ...]
    first_chunk_s: float
    duration_s: float
    handle: object | None


class _Gate:
    """One meter with the rule that says what a call costs on it."""

    __slots__ = ("axis", "cost", "final", "meter", "nominal_window_s", "rejections_count", "shown")

    def __init__(self, quota: Quota) -> None:
        self.meter: Meter = quota.meter()
        self.axis = quota.axis
        self.nominal_window_s = quota.per_s
        self.rejections_count = quota.rejections_count
        self.shown = quota.shown
        self.cost = _cost_rule(quota)
        self.final = _final_rule(quota)


class _Flight:
    """An admitted call of which something must be settled at its end."""

    __slots__ = ("call", "charges", "duration_s", "first_chunk_s", "sent_s")

    def __init__(self, call: Call, sent_s: float, first_chunk_s: float, duration_s: float) -> None:
        self.call = call
        self.sent_s = sent_s
        self.first_chunk_s = first_chunk_s
        self.duration_s = duration_s
        self.charges: list[tuple[_Gate, float, Any]] = []

    def produced_tokens(self, now: float) -> float:
        """Return the output tokens written by ``now``: fewer than planned where the connection dropped."""
        elapsed_s = now - self.sent_s
        if elapsed_s >= self.duration_s - 1e-9:
            return self.call.output_tokens
        if elapsed_s < self.first_chunk_s:
            return 0.0
        writing_s = self.duration_s - self.first_chunk_s
        return math.ceil(self.call.output_tokens * (elapsed_s - self.first_chunk_s) / writing_s)


class ProviderMachine:
    """The running state of a provider; equal seeds and equal calls get equal verdicts.

    Args:
        spec: what to simulate.
        streams: where luck comes from.
        now: the time at which it starts.
    """

    def __init__(self, spec: Provider, streams: Streams, *, now: float = 0.0) -> None:
        self.spec = spec
        self._latency = Latency(spec.latency, streams)
        self._gates = [_Gate(quota) for quota in spec.meters]
        self._settling = [gate for gate in self._gates if gate.final is not None]
        self._penalised = [gate for gate in self._gates if gate.rejections_count]
        self._flights = 0
        self._time_s = now

    def __repr__(self) -> str:
        meters = ", ".join(f"{gate.axis} {gate.meter.show(self._time_s)[1]:g} left" for gate in self._gates)
        return f"<ProviderMachine {self.spec.name} at {self._time_s:.3f} s: {meters or 'no quota'}, {self._flights} in flight>"

    def send(self, now: float, call: Call) -> Verdict:
        """Decide one physical attempt at its arrival."""
        self._time_s = now
        for gate in self._gates:
            cost = gate.cost
            if gate.meter.wait_s(now, 1.0 if cost is None else cost(call)):
                return self._refuse(now, call)
        first_chunk_s, duration_s = self._latency.draw(call.index, call.output_tokens)
        if self._settling:
            flight: _Flight | None = self._launch(now, call, first_chunk_s, duration_s)
        else:
            flight = None
            for gate in self._gates:
                cost = gate.cost
                gate.meter.charge(now, 1.0 if cost is None else cost(call))
        limits = self._limits(now) if self.spec.shows_limits else ()
        return Verdict(200, None, None, None, limits, first_chunk_s, duration_s, flight)

    def finish(self, now: float, handle: object | None) -> None:
        """Settle an admitted call whose answer ended, or whose connection dropped, at ``now``."""
        if handle is None:
            return
        self._time_s = now
        assert isinstance(handle, _Flight)
        self._flights -= 1
        produced = handle.produced_tokens(now)
        for gate, reserved, receipt in handle.charges:
            assert gate.final is not None
            gate.meter.correct(now, receipt, gate.final(handle.call, produced) - reserved)

    def scale(self, now: float, factor: float, axis: Axis | None = None) -> None:
        """Make quotas ``factor`` times their nominal size: all of them, or those of one axis."""
        if not (math.isfinite(factor) and factor > 0):
            raise ValueError(f"quota factor = {factor!r} must be a finite number above 0; for an outage use a fault")
        for gate in self._gates:
            if axis is None or gate.axis is axis:
                gate.meter.scale(now, factor)

    def wait_s(self, now: float, call: Call) -> float:
        """Return seconds until ``call`` would be admitted: 0 now, ``inf`` never (it is larger than a quota).

        When a slot will be free nobody knows: then the answer is the constant refused clients hear, and worth asking for again
        after each ``finish``.
        """
        return max((gate.meter.wait_s(now, _units(gate, call)) for gate in self._gates), default=0.0)

    def capacity(self, now: float) -> dict[Axis, float]:
        """Return what can be sustained per second on each axis (slots for concurrency), by quotas shorter than a day."""
        sustained: dict[Axis, float] = {}
        for gate in self._gates:
            if gate.nominal_window_s < _DAY_S:
                sustained[gate.axis] = min(gate.meter.rate, sustained.get(gate.axis, math.inf))
        return sustained

    def _launch(self, now: float, call: Call, first_chunk_s: float, duration_s: float) -> _Flight:
        flight = _Flight(call, now, first_chunk_s, duration_s)
        for gate in self._gates:
            reserved = _units(gate, call)
            receipt = gate.meter.charge(now, reserved)
            if gate.final is not None:
                flight.charges.append((gate, reserved, receipt))
        self._flights += 1
        return flight

    def _refuse(self, now: float, call: Call) -> Verdict:
        for gate in self._penalised:
            gate.meter.penalise(now, _units(gate, call))
        waits = [gate.meter.wait_s(now, _units(gate, call)) for gate in self._gates]
        worst = max(range(len(waits)), key=waits.__getitem__)
        if math.isinf(waits[worst]):
            error, retry_after_s = "request_exceeds_limit", self.spec.oversize_retry_after_s
        else:
            error, retry_after_s = "rate_limit", _told(self.spec.retry_after, waits[worst])
        limits = self._limits(now) if self.spec.shows_limits else ()
        rejection_s = self._latency.rejection_s
        return Verdict(429, error, self._gates[worst].axis, retry_after_s, limits, rejection_s, rejection_s, None)

    def _limits(self, now: float) -> tuple[AxisLimit, ...]:
        return tuple(AxisLimit(gate.axis, *gate.meter.show(now)) for gate in self._gates if gate.shown)


def _units(gate: _Gate, call: Call) -> float:
    return 1.0 if gate.cost is None else gate.cost(call)


def _cost_rule(quota: Any) -> Callable[[Call], float] | None:
    """Return the function that estimates a call's units at admission; ``None`` means one unit per call."""
    if quota.axis in (Axis.REQUESTS, Axis.CONCURRENCY):
        return None
    input_of = _input_rule(quota)
    if quota.axis is Axis.INPUT_TOKENS or quota.estimate is Estimate.INPUT:
        return input_of
    weight, unset = quota.output_weight, quota.unset_output_tokens

    def output_of(call: Call) -> float:
        if call.kind is CallKind.EMBEDDING:
            return 0.0
        return weight * (unset if call.max_tokens is None else call.max_tokens)

    if quota.axis is Axis.OUTPUT_TOKENS:
        return _nothing if quota.settlement is Settlement.REALTIME else output_of
    if quota.settlement is Settlement.REALTIME:
        return input_of
    if quota.estimate is Estimate.MAX:
        return lambda call: max(input_of(call), output_of(call))
    return lambda call: input_of(call) + output_of(call)


def _final_rule(quota: Any) -> Callable[[Call, float], float] | None:
    """Return the function that says what a call costs in the end; ``None`` means that the estimate stands."""
    if quota.axis is Axis.CONCURRENCY:
        return lambda call, produced: 0.0
    if quota.axis is Axis.REQUESTS or quota.settlement is Settlement.NEVER:
        return None
    input_of, weight = _input_rule(quota), quota.output_weight
    if quota.axis is Axis.INPUT_TOKENS:
        return lambda call, produced: input_of(call)
    if quota.axis is Axis.OUTPUT_TOKENS:
        return lambda call, produced: weight * produced
    return lambda call, produced: input_of(call) + weight * produced


def _input_rule(quota: Any) -> Callable[[Call], float]:
    if quota.cached_input_counts:
        return lambda call: call.input_tokens
    return lambda call: call.input_tokens - call.cached_input_tokens


def _nothing(call: Call) -> float:
    return 0.0


def _told(habit: RetryAfter, wait_s: float) -> float | None:
    if habit.habit == "absent":
        return None
    seconds = habit.constant_s if habit.constant_s is not None else wait_s * habit.factor
    if habit.shown_in == "whole_seconds":
        return float(math.ceil(seconds - 1e-6))
    return math.ceil(seconds * 1000 - 1e-6) / 1000


def provider_names() -> list[str]:
    """Return the names of the presets that come with the package."""
    return sorted(path.stem for path in _PRESETS.glob("*.toml"))


def provider(name_or_path: str | Path) -> Provider:
    """Return the preset of that name, or the provider that a TOML file describes.

    Raises:
        ValueError: there is neither such a preset nor such a file, or its numbers contradict each other.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = _PRESETS / f"{name_or_path}.toml"
        if not path.is_file():
            names = provider_names()
            near = difflib.get_close_matches(str(name_or_path), names, n=3, cutoff=0.4) or names
            raise ValueError(
                f"no provider is called {str(name_or_path)!r}; near it are {', '.join(near)}; or give a path ending in .toml"
            )
    return _load(path.resolve())


@cache
def _load(path: Path) -> Provider:
    try:
        return Provider.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file; presets are {', '.join(provider_names())}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TOML file: {error}") from None
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'provider'}: {e['msg']}" for e in error.errors())
        raise ValueError(f"{path}: {problems}") from None
