"""A scenario: who asks (a trace or a backlog), whom (a provider), and what happens meanwhile (events)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Never, Protocol, overload

from factflow_llm.errors import ConfigurationError
from factflow_llm.signals import Axis
from simulators.providers import catalogue
from simulators.providers.machine import ProviderMachine
from simulators.scenarios.moments import moment_s
from simulators.streams import Streams

if TYPE_CHECKING:
    from simulators.providers.catalogue import Provider
    from simulators.scenarios.neighbours import Neighbour
    from simulators.traces import Trace


@dataclass(frozen=True)
class Backlog:
    """A closed loop: ``workers`` callers who each start the next call as soon as the last one ended.

    Token counts are lognormal around the given medians; with ``sigma`` 0 every call is alike.
    """

    workers: int
    duration_s: float
    input_tokens: float
    output_tokens: float
    sigma: float
    max_tokens: int | None

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"backlog of {self.workers}"


def backlog(
    workers: int = 64,
    duration_s: float = 1800.0,
    *,
    input_tokens: float = 1000.0,
    output_tokens: float = 150.0,
    sigma: float = 0.0,
    max_tokens: int | None = None,
) -> Backlog:
    """Return a closed-loop workload, to stand where a trace stands.

    Args:
        workers: callers who always want the next answer.
        duration_s: how long they go on.
        input_tokens: median tokens read per call.
        output_tokens: median tokens written per call.
        sigma: spread of the logarithm of both.
        max_tokens: bound each call names; ``None`` names none.

    Raises:
        ConfigurationError: naming the value and its bound.
    """
    if not (isinstance(workers, int) and workers >= 1):
        msg = f"backlog: workers = {workers!r} must be a whole number of at least 1"
        raise ConfigurationError(msg)
    if max_tokens is not None and max_tokens < 0:
        msg = f"backlog: max_tokens = {max_tokens!r} must be at least 0; None names no bound"
        raise ConfigurationError(msg)
    for name, value, least in (("duration_s", duration_s, 0), ("sigma", sigma, 0)):
        if not (math.isfinite(value) and value >= least and (name != "duration_s" or value > 0)):
            bound = "above" if name == "duration_s" else "of at least"
            msg = f"backlog: {name} = {value!r} must be a finite number {bound} {least}"
            raise ConfigurationError(msg)
    for name, tokens in (("input_tokens", input_tokens), ("output_tokens", output_tokens)):
        if not (math.isfinite(tokens) and tokens >= 0):
            msg = f"backlog: {name} = {tokens!r} must be a finite number of at least 0"
            raise ConfigurationError(msg)
    return Backlog(workers, duration_s, input_tokens, output_tokens, sigma, max_tokens)


class Workload(Protocol):
    """What a scenario needs to know of a trace or a backlog."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def duration_s(self) -> float:
        """Seconds from the start to the last arrival."""
        ...


@dataclass(frozen=True)
class Event:
    """Something that happens at a moment.

    Attributes:
        time_s: when.
        label: what plots and tables call it.
    """

    time_s: float
    label: str


@dataclass(frozen=True)
class QuotaChange(Event):
    """From now on the quotas are ``quota`` times their nominal size: those of one axis, or all."""

    quota: float
    axis: Axis | None = None


@dataclass(frozen=True)
class Restart(Event):
    """Clients are killed and start anew: one of them, or all.

    Connections drop, what the limiters learned is gone, and all open requests are taken up afresh.
    """

    client: int | None = None


class _Named:
    """A provider that may be given by its name: the attribute is always a ``Provider``."""

    @overload
    def __get__(self, scenario: None, owner: type[Scenario]) -> Never: ...

    @overload
    def __get__(self, scenario: Scenario, owner: type[Scenario]) -> Provider: ...

    def __get__(self, scenario: Scenario | None, owner: type[Scenario]) -> Provider:
        if scenario is None:
            raise AttributeError("provider has no default")
        given: Provider = scenario.__dict__["provider"]
        return given

    def __set__(self, scenario: Scenario, given: Provider | str) -> None:
        scenario.__dict__["provider"] = catalogue.provider(given) if isinstance(given, str) else given


@dataclass(frozen=True)
class Scenario:
    """A workload, a provider, and events; build on it with ``at``, ``restarting``, ``impatient`` ….

    Args:
        workload: a trace, or a ``backlog``.
        provider: a provider, a preset's name, or a TOML file's path.
        name: what reports call it; made from the parts when left out.
        events: in order of time.
        neighbours: who else draws on the provider's quota.
        drain_s: an open-loop run goes on for this long after the last arrival.
        impatient_share: share of callers who give up when their patience ends.
        patience_s: their mean patience (exponential).
        sessions: the trace is asked turn by turn; see ``by_session``.
    """

    workload: Trace | Backlog
    provider: _Named = _Named()
    name: str = ""
    events: tuple[Event, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    drain_s: float = 60.0
    impatient_share: float = 0.0
    patience_s: float = math.inf
    sessions: bool = False

    def __post_init__(self) -> None:
        if not hasattr(self.workload, "duration_s"):
            msg = f"{self.workload!r} is no workload: give sim.read_trace(path), sim.synthesize(…) or sim.backlog(…)"
            raise ConfigurationError(msg)
        if not (math.isfinite(self.drain_s) and self.drain_s >= 0):
            msg = f"drain_s = {self.drain_s!r} must be a finite number of at least 0"
            raise ConfigurationError(msg)
        if not self.name:
            object.__setattr__(self, "name", f"{self.workload.name} on {self.provider.name}")

    @property
    def closed_loop(self) -> bool:
        """Whether callers wait for an answer before they ask again."""
        return isinstance(self.workload, Backlog)

    @property
    def horizon_s(self) -> float:
        """When the run stops."""
        return self.workload.duration_s + (0.0 if self.closed_loop else self.drain_s)

    def at(
        self, time_s: float | str, *, quota: float, axis: Axis | str | None = None, label: str | None = None
    ) -> Scenario:
        """Return the scenario with one more event: from ``time_s`` on, quotas are ``quota`` times their nominal size.

        Args:
            time_s: seconds from the start; or, for a trace with dates, a time of the clock in UTC: ``"12:00"``.
            quota: 0.5 halves the quotas, 1 restores them.
            axis: of which quotas; by default of all.
            label: what plots and tables call it.

        Raises:
            ConfigurationError: naming the value and its bound.
        """
        time_s = self._moment("at", time_s)
        if not (math.isfinite(quota) and quota > 0):
            msg = f"at(): quota = {quota!r} must be a finite number above 0 (1 is the nominal quota)"
            raise ConfigurationError(msg)
        axes = [str(each) for each in Axis]
        if axis is not None and axis not in axes:
            msg = f"at(): axis = {str(axis)!r} is none of {', '.join(axes)}; None means all"
            raise ConfigurationError(msg)
        event = QuotaChange(time_s, label or f"quota x {quota:g}", quota, None if axis is None else Axis(axis))
        try:
            ProviderMachine(self.provider, Streams(0)).scale(0.0, quota, event.axis)
        except ValueError as error:
            msg = f"at(): quota = {quota!r}: {error}"
            raise ConfigurationError(msg) from None
        return self._with(event)

    def restarting(self, time_s: float | str, *, client: int | None = None, label: str | None = None) -> Scenario:
        """Return the scenario with clients that are killed and started anew at ``time_s``: one of them, or all.

        Raises:
            ConfigurationError: naming the value and its bound.
        """
        time_s = self._moment("restarting", time_s)
        if client is not None and client < 0:
            msg = f"restarting(): client = {client!r} must be at least 0; None restarts all"
            raise ConfigurationError(msg)
        return self._with(Restart(time_s, label or "restart", client))

    def by_session(self) -> Scenario:
        """Return the scenario as a closed loop: a session's next round waits for the answer, then for its think time.

        The other way, recorded arrivals whatever happens, is an open loop: it asks on where people would have waited.

        Raises:
            ConfigurationError: the workload knows no sessions.
        """
        session = getattr(self.workload, "session", None)
        if session is None or not (session >= 0).any():
            msg = f"by_session(): {self.workload.name} knows no sessions; replay it in an open loop, as it stands"
            raise ConfigurationError(msg)
        return replace(self, sessions=True)

    def _moment(self, method: str, time_s: float | str) -> float:
        if isinstance(time_s, str):
            time_s = moment_s(f"{method}(): time_s", time_s, self.workload)
        if isinstance(time_s, bool) or not isinstance(time_s, int | float):
            msg = f"{method}(): time_s = {time_s!r} must be a number: seconds from the start of the run"
            raise ConfigurationError(msg)
        if not (math.isfinite(time_s) and time_s >= 0):
            msg = f"{method}(): time_s = {time_s!r} must be a finite number of at least 0"
            raise ConfigurationError(msg)
        if time_s > self.horizon_s:
            msg = f"{method}(): time_s = {time_s:g} lies after the end of the run, which is at {self.horizon_s:g} s"
            raise ConfigurationError(msg)
        return time_s

    def _with(self, event: Event) -> Scenario:
        return replace(self, events=tuple(sorted((*self.events, event), key=lambda event: event.time_s)))

    def impatient(self, share: float, patience_s: float) -> Scenario:
        """Return the scenario with callers of whom a share gives up after a random patience of that mean.

        Raises:
            ConfigurationError: naming the value and its bound.
        """
        if not 0 <= share <= 1:
            msg = f"impatient(): share = {share!r} must lie between 0 and 1"
            raise ConfigurationError(msg)
        if not patience_s > 0:
            msg = f"impatient(): patience_s = {patience_s!r} must be above 0"
            raise ConfigurationError(msg)
        return replace(self, impatient_share=share, patience_s=patience_s)


def require_scenario(given: object) -> None:
    """Raise a ``ConfigurationError`` for what is no scenario, such as a trace without a provider."""
    if not isinstance(given, Scenario):
        msg = f'{given!r} is no scenario: say whom it asks, as in sim.Scenario(trace, "openai-tier-1")'
        raise ConfigurationError(msg)
