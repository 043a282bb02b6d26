"""A simulated provider at work: every attempt gets a verdict at the moment of its arrival.

``ProviderMachine`` is the running state of a ``Provider``: quotas that must all admit, faults, latency, and what a
rejected client is told. The same machine decides in process under virtual time and behind ``server.py`` over HTTP.
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from factflow_llm.ratelimit.native import mypyc_attr
from factflow_llm.signals import Axis, AxisLimit
from simulators.providers.faults import FaultLayer
from simulators.providers.latency_draws import Latency
from simulators.providers.limit_headers import date_header, limit_headers, shown_axes, shown_limits
from simulators.providers.quotas import DAY_S, Quota, RejectionKind

if TYPE_CHECKING:
    from simulators.providers.calls import Call
    from simulators.providers.catalogue import Provider
    from simulators.streams import Streams

_START_UTC_S = 1_767_225_600.0  # 2026-01-01T00:00:00Z: what a simulated wall clock shows at time 0


class Verdict(NamedTuple):
    """What becomes of one attempt, decided at the moment of its arrival.

    Attributes:
        status: the HTTP status. A stream that breaks has 200 and an ``error``.
        error: a word of ``factflow_llm.errors.ErrorReason``; ``None`` for a success.
        axis: the dimension that rejected.
        retry_after_s: as told to the client.
        limits: as the headers show them.
        first_chunk_s: from the call's arrival to the first byte of the answer.
        duration_s: from the call's arrival to the answer's end.
        handle: what ``finish`` wants back; ``None`` where there is nothing to settle.
    """

    status: int
    error: str | None
    axis: Axis | None
    retry_after_s: float | None
    limits: tuple[AxisLimit, ...]
    first_chunk_s: float
    duration_s: float
    handle: object | None


class RejectionDetail(NamedTuple):
    """The figures that a provider's error message quotes; ``wait_s`` is until all quotas admit."""

    axis: Axis
    limit: float
    per_s: float
    used: float
    requested: float
    wait_s: float


class _Gate:
    """One meter, and what calls cost on it."""

    __slots__ = ("axis", "cost", "final", "meter", "quota")

    def __init__(self, quota: Quota, start_utc_s: float, now: float) -> None:
        self.quota = quota
        self.axis = quota.axis
        self.meter = quota.meter(start_utc_s)
        if quota.used_share:
            self.meter.charge(now, quota.used_share * self.meter.show(now)[1])
        self.cost = quota.cost_rule()
        self.final = quota.final_rule()

    def units(self, call: Call) -> float:
        return 1.0 if self.cost is None else self.cost(call)


class _Flight:
    """An admitted call, until its end is settled."""

    __slots__ = ("call", "charges", "duration_s", "first_chunk_s", "sent_s")

    def __init__(self, call: Call, sent_s: float, first_chunk_s: float, duration_s: float) -> None:
        self.call = call
        self.sent_s = sent_s
        self.first_chunk_s = first_chunk_s
        self.duration_s = duration_s
        self.charges: list[tuple[_Gate, float, Any]] = []

    def produced_tokens(self, now: float) -> int:
        """Return the output tokens written by ``now``: fewer than planned where the connection dropped."""
        elapsed_s = now - self.sent_s
        if elapsed_s >= self.duration_s - 1e-9:
            return self.call.output_tokens
        if elapsed_s < self.first_chunk_s:
            return 0
        written = (elapsed_s - self.first_chunk_s) / (self.duration_s - self.first_chunk_s)
        return math.ceil(self.call.output_tokens * written)


@mypyc_attr(allow_interpreted_subclasses=True)
class ProviderMachine:
    """The running state of a provider; equal seeds and equal calls get equal verdicts.

    Args:
        provider: what to simulate.
        streams: where luck comes from.
        now: the time at which it starts.
        start_utc_s: what the wall clock shows at time 0.

    Attributes:
        attempts: how many it has decided.
    """

    def __init__(
        self, provider: Provider, streams: Streams, *, now: float = 0.0, start_utc_s: float = _START_UTC_S
    ) -> None:
        self.provider = provider
        self._latency = Latency(provider.latency, streams)
        self._rejection_s = provider.latency.rejection_s
        self._varies = provider.latency.load is not None or provider.latency.daily_swing > 0
        self._faults = FaultLayer(provider.faults, streams) if provider.faults else None
        self._free_at = [now] * provider.compute.workers if provider.compute else []
        self._gates = [_Gate(quota, start_utc_s, now) for quota in provider.quotas]
        self._penalised = [gate for gate in self._gates if gate.quota.rejections_count]
        self._settles = provider.latency.load is not None or any(gate.final is not None for gate in self._gates)
        shown = [gate for gate in self._gates if gate.quota.shown and provider.shows_limits]
        self._shown = [
            (axis, [gate.meter for gate in shown if gate.axis is axis])
            for axis in shown_axes(provider.api)
            if any(gate.axis is axis for gate in shown)
        ]
        self._start_utc_s = start_utc_s + provider.clock_skew_s
        self._in_flight = 0
        self._time_s = now
        self.attempts = 0

    def __repr__(self) -> str:
        left = [f"{gate.meter.show(self._time_s)[1]:.0f} {gate.axis} left" for gate in self._gates]
        return f"<ProviderMachine {self.provider.name} at {self._time_s:.3f} s: {', '.join(left) or 'no quota'}>"

    @property
    def distant(self) -> bool:
        """Whether calls and answers are on their way for some time."""
        return self.provider.latency.uplink_s > 0.0

    def ways_s(self, call: Call) -> tuple[float, float]:
        """Return how long ``call`` is on its way, and its answer on the way back."""
        return self._latency.ways(call.index) if self.distant else (0.0, 0.0)

    def send(self, now: float, call: Call) -> Verdict:
        """Decide one physical attempt at its arrival."""
        self._time_s = now
        self.attempts += 1
        if self._faults is not None and (storm := self._faults.storm(now, call)) is not None:
            return self._reject(now, call, storm.status, storm.error, None, storm.retry_after_s)
        for gate in self._gates:
            if gate.meter.wait_s(now, 1.0 if gate.cost is None else gate.cost(call)):
                return self._reject_over_quota(now, call)
        if self._free_at and self._out_of_memory(call):
            return self._reject(now, call, 500, "out_of_memory", None, None)
        first_chunk_s, duration_s = self._latency.draw(call.index, call.input_tokens, call.output_tokens)
        if self._varies:
            slowdown = self.provider.latency.slowdown(now, self._in_flight)
            first_chunk_s, duration_s = first_chunk_s * slowdown, duration_s * slowdown
        if self._free_at:
            queued_s = self._queue(now, duration_s)
            first_chunk_s, duration_s = first_chunk_s + queued_s, duration_s + queued_s
        ends_s, error = duration_s, None
        if self._faults is not None:
            first_chunk_s, duration_s, ends_s, error = self._faults.shape(now, call, first_chunk_s, duration_s)
        if self._settles:
            flight = self._launch(now, call, first_chunk_s, duration_s)
        else:
            flight = None
            for gate in self._gates:
                gate.meter.charge(now, 1.0 if gate.cost is None else gate.cost(call))
        limits = self._limits(now, call) if self._shown else ()
        return Verdict(200, error, None, None, limits, first_chunk_s, ends_s, flight)

    def finish(self, now: float, handle: object | None) -> None:
        """Settle an admitted call whose answer ended, or whose connection dropped, at ``now``."""
        if handle is None:
            return
        assert isinstance(handle, _Flight)
        self._time_s = now
        self._in_flight -= 1
        produced = handle.produced_tokens(now)
        for gate, reserved, receipt in handle.charges:
            assert gate.final is not None
            gate.meter.correct(now, receipt, gate.final(handle.call, produced) - reserved)

    def scale(self, now: float, factor: float, axis: Axis | None = None) -> None:
        """Make quotas ``factor`` times their nominal size: all of them, or those of one axis.

        Raises:
            ValueError: the factor is no finite number above 0, or leaves room for less than one request.
        """
        if not (math.isfinite(factor) and factor > 0):
            msg = f"quota factor {factor!r} must be a finite number above 0; for an outage, use a fault"
            raise ValueError(msg)
        for gate in self._gates:
            if axis is not None and gate.axis is not axis:
                continue
            gate.meter.scale(now, factor)
            if gate.axis is Axis.REQUESTS and math.isinf(gate.meter.wait_s(now, 1.0)):
                msg = f"quota factor {factor:g} leaves {self.provider.name} no room for a single request; raise it"
                raise ValueError(msg)

    def wait_s(self, now: float, call: Call) -> float:
        """Return seconds until ``call`` would be admitted: 0 now, ``inf`` never (it is larger than a quota).

        When a slot will be free nobody knows: then the answer is the constant that rejected clients hear, and worth
        asking for again after each ``finish``.
        """
        return max((gate.meter.wait_s(now, gate.units(call)) for gate in self._gates), default=0.0)

    def capacity(self, now: float) -> dict[Axis, float]:
        """Return what can be sustained per second on each axis (slots for concurrency); daily quotas do not count."""
        sustained: dict[Axis, float] = {}
        for gate in self._gates:
            if gate.quota.per_s < DAY_S and math.isfinite(gate.meter.rate):
                sustained[gate.axis] = min(gate.meter.rate, sustained.get(gate.axis, math.inf))
        return sustained

    def utc_s(self, now: float) -> float:
        """Return what the provider's wall clock shows."""
        return self._start_utc_s + now

    def headers(self, now: float, verdict: Verdict) -> dict[str, str]:
        """Return the HTTP headers with which the provider sends ``verdict`` at ``now``."""
        utc_s = self._start_utc_s + now
        headers = {"date": date_header(utc_s)} | limit_headers(self.provider.api, verdict.limits, utc_s)
        if verdict.retry_after_s is not None and self.provider.retry_after.shown_in != "body":
            if self.provider.retry_after.shown_in == "milliseconds":
                headers["retry-after-ms"] = str(round(verdict.retry_after_s * 1000))
            else:
                headers["retry-after"] = f"{verdict.retry_after_s:.15g}"
        return headers

    def rejection(self, now: float, call: Call, axis: Axis | None) -> RejectionDetail | None:
        """Return the figures of the quota on ``axis`` that rejected ``call`` at ``now``; ``None`` when none did."""
        gate, wait_s = self._strictest(now, call, [gate for gate in self._gates if gate.axis is axis])
        if gate is None or not wait_s:
            return None
        limit, left, _ = gate.meter.show(now)
        used = max(limit - left, 0.0)
        return RejectionDetail(gate.axis, limit, gate.quota.per_s, used, gate.units(call), self.wait_s(now, call))

    def _strictest(self, now: float, call: Call, gates: list[_Gate]) -> tuple[_Gate | None, float]:
        strictest, longest_s = None, -1.0
        for gate in gates:
            wait_s = gate.meter.wait_s(now, gate.units(call))
            if wait_s > longest_s:
                strictest, longest_s = gate, wait_s
        return strictest, longest_s

    def _reject_over_quota(self, now: float, call: Call) -> Verdict:
        gate, wait_s = self._strictest(now, call, self._gates)
        assert gate is not None
        if math.isinf(wait_s):
            return self._reject(
                now, call, 429, "request_exceeds_limit", gate.axis, self.provider.oversize_retry_after_s
            )
        rejection = gate.quota.rejection_word
        for penalised in self._penalised:
            penalised.meter.penalise(now, penalised.units(call))
        if rejection is RejectionKind.QUOTA:
            return self._reject(now, call, 429, rejection, gate.axis, None)
        told_s = self.provider.retry_after.told_s(self.wait_s(now, call) if self._penalised else wait_s)
        if self._faults is not None:
            told_s = self._faults.told_s(now, call, told_s)
        status = self.provider.api.overload_status if rejection is RejectionKind.OVERLOADED else 429
        return self._reject(now, call, status, rejection, gate.axis, told_s)

    def _reject(
        self, now: float, call: Call, status: int, error: str, axis: Axis | None, retry_after_s: float | None
    ) -> Verdict:
        limits = self._limits(now, call) if self._shown else ()
        rejection_s = self._rejection_s
        return Verdict(status, error, axis, retry_after_s, limits, rejection_s, rejection_s, None)

    def _launch(self, now: float, call: Call, first_chunk_s: float, duration_s: float) -> _Flight:
        flight = _Flight(call, now, first_chunk_s, duration_s)
        for gate in self._gates:
            reserved = gate.units(call)
            receipt = gate.meter.charge(now, reserved)
            if gate.final is not None:
                flight.charges.append((gate, reserved, receipt))
        self._in_flight += 1
        return flight

    def _limits(self, now: float, call: Call) -> tuple[AxisLimit, ...]:
        """Return what headers show; of several windows on one axis, the one that takes longest to be full again."""
        exact = []
        for axis, meters in self._shown:
            shown = meters[0].show(now) if len(meters) == 1 else max([m.show(now) for m in meters], key=_reset_s)
            limit, left, reset_s = shown
            exact.append((axis, limit, left, reset_s))
        limits = shown_limits(self.provider.api, exact, self._start_utc_s + now)
        return limits if self._faults is None else self._faults.veil(now, call, limits)

    def _queue(self, now: float, service_s: float) -> float:
        """Take the worker that is free first; return the wait. A call whose client hangs up runs to its end."""
        start_s = max(now, self._free_at[0])
        heapq.heapreplace(self._free_at, start_s + service_s)
        return start_s - now

    def _out_of_memory(self, call: Call) -> bool:
        compute = self.provider.compute
        return compute is not None and compute.memory_tokens is not None and call.input_tokens > compute.memory_tokens


def _reset_s(shown: tuple[float, float, float]) -> float:
    return shown[2]
