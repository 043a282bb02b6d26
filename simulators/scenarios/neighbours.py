"""Other people's traffic on the same quota: open loop, drawn from streams of its own, blind to what our clients do."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from factflow_llm.ratelimit.config import FrozenSettings, PositiveFloat
from simulators.providers.calls import Call

if TYPE_CHECKING:
    from simulators.providers.machine import ProviderMachine, Verdict
    from simulators.streams import Streams

Schedule = Callable[[float, Callable[[float], None]], None]
"""Have a function called with the time, at that time."""

_FIRST_INDEX = 1 << 40  # calls of neighbours have luck of their own
_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0


class Neighbour(FrozenSettings):
    """Somebody else who draws on the provider's quota; nobody's goodput counts their calls.

    Attributes:
        requests_per_s: mean rate of their calls (Poisson).
        input_tokens: tokens each call reads.
        output_tokens: tokens each call writes.
        start_s: when they begin.
        end_s: when they stop; ``None`` for never.
        backs_off: after a rejection they pause for the Retry-After, or else for 0.5 s, doubled at each further
            rejection up to 30 s; what they would have sent meanwhile is not sent. Otherwise they go on as if nothing
            had happened.
    """

    requests_per_s: PositiveFloat
    input_tokens: int = Field(default=1000, ge=0)
    output_tokens: int = Field(default=150, ge=0)
    start_s: float = Field(default=0.0, ge=0)
    end_s: float | None = None
    backs_off: bool = False

    @model_validator(mode="after")
    def _ends_after_it_began(self) -> Self:
        if self.end_s is not None and self.end_s <= self.start_s:
            msg = f"end_s = {self.end_s:g} must lie after start_s = {self.start_s:g}"
            raise ValueError(msg)
        return self


class Traffic:
    """A neighbour at work: calls come due by the schedule of whoever drives the world.

    Args:
        neighbour: who it is.
        place: among the scenario's neighbours, from 0.
        streams: where luck comes from.
        machine: the provider that serves them, and us.
        at: the driver's schedule.
    """

    def __init__(
        self, neighbour: Neighbour, place: int, streams: Streams, machine: ProviderMachine, at: Schedule
    ) -> None:
        self._neighbour = neighbour
        self._machine = machine
        self._at = at
        self._gaps = streams.stream(f"neighbour {place}", "exponential")
        self._first_index = _FIRST_INDEX * (place + 1)
        self._calls = self._rejections = 0
        self._silent_until_s = -math.inf
        self._schedule_next(neighbour.start_s)

    def _schedule_next(self, after_s: float) -> None:
        due_s = after_s + self._gaps.row(self._calls)[0] / self._neighbour.requests_per_s
        if self._neighbour.end_s is None or due_s < self._neighbour.end_s:
            self._at(due_s, self._arrive)

    def _arrive(self, now: float) -> None:
        who = self._neighbour
        call = Call(self._first_index + self._calls, who.input_tokens, who.output_tokens)
        self._calls += 1
        self._schedule_next(now)
        if now >= self._silent_until_s:
            verdict = self._machine.send(now, call)
            self._at(now + verdict.duration_s, partial(self._answered, verdict))

    def _answered(self, verdict: Verdict, now: float) -> None:
        self._machine.finish(now, verdict.handle)
        if verdict.error is None:
            self._rejections = 0
        elif self._neighbour.backs_off:
            pause_s = min(_PAUSE_S * 2.0 ** min(self._rejections, 60), _LONGEST_PAUSE_S)
            self._rejections += 1
            self._silent_until_s = now + (pause_s if verdict.retry_after_s is None else verdict.retry_after_s)
