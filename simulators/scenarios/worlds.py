"""Worlds to be measured in: scenarios as files, the suite that comes with the package, and worlds drawn at random.

A file names a workload (``[backlog]``, ``[synthesis]``, ``[trace]`` or ``[[spells]]``), a ``[provider]`` (a preset's
keys, overridden by those given, or all keys), and what else there is: ``[[events]]``, ``[restarts]``,
``[[neighbours]]``, ``clients``, ``shared``, ``[targets]``.
"""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import Field, model_validator

from factflow_llm.errors import ConfigurationError
from factflow_llm.files import read_toml
from factflow_llm.ratelimit.config import FrozenSettings, PositiveFloat
from factflow_llm.signals import Axis  # noqa: TC001 - pydantic reads the annotation
from simulators.providers import latency, quotas
from simulators.providers.catalogue import Provider, RetryAfter, described
from simulators.scenarios.neighbours import Neighbour  # noqa: TC001
from simulators.scenarios.scenario import Backlog, Scenario, backlog
from simulators.traces import Trace, read_trace, synthesize
from simulators.traces.trace import Mode, TraceHeader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SUITE = Path(__file__).parents[1] / "presets" / "suite"
TRACES = Path(__file__).resolve().parents[3] / "shared" / "traces"
"""Where public traces lie beside a checkout; worlds that need one are left out where it is not."""


class BacklogTable(FrozenSettings):
    """Keys of ``[backlog]``: see ``simulators.scenarios.scenario.backlog``."""

    workers: int = Field(default=64, ge=1)
    duration_s: PositiveFloat = 1800.0
    input_tokens: float = Field(default=1000.0, ge=0)
    output_tokens: float = Field(default=150.0, ge=0)
    sigma: float = Field(default=0.0, ge=0)
    max_tokens: int | None = Field(default=None, ge=1)

    def read(self, traces: Path) -> Backlog:
        """Return the workload."""
        return backlog(**self.model_dump())


class SynthesisTable(FrozenSettings):
    """Keys of ``[synthesis]``: see ``simulators.traces.synthesize``."""

    requests_per_s: PositiveFloat
    duration_s: PositiveFloat = 1800.0
    cv: PositiveFloat = 1.0
    max_tokens: int | None = Field(default=None, ge=1)
    seed: int = 0

    def read(self, traces: Path) -> Trace:
        """Return the workload."""
        return synthesize(**self.model_dump())


class TraceTable(FrozenSettings):
    """Keys of ``[trace]``: a file under the folder of traces, asked ``speed`` times as fast."""

    file: str
    speed: PositiveFloat = 1.0

    def read(self, traces: Path) -> Trace:
        """Return the workload.

        Raises:
            MissingTraceError: the file is not there.
        """
        if not (traces / self.file).is_file():
            raise MissingTraceError(f"the trace {self.file} is not under {traces.name}/; see docs for where it is from")
        return read_trace(traces / self.file).sped_up(self.speed)


class Spell(FrozenSettings):
    """Keys of ``[[spells]]``: so many equal requests, evenly spread over ``duration_s``, or all at once."""

    start_s: float = Field(default=0.0, ge=0)
    duration_s: float = Field(default=0.0, ge=0)
    requests: int = Field(ge=1)
    input_tokens: int = Field(default=1000, ge=0)
    output_tokens: int = Field(default=150, ge=0)


def _spelled(spells: Sequence[Spell]) -> Trace:
    """Return spells as a trace."""
    rows = sorted(
        (spell.start_s + spell.duration_s * place / spell.requests, number)
        for number, spell in enumerate(spells)
        for place in range(spell.requests)
    )
    asked = [spells[number] for _, number in rows]
    return Trace.of(
        [arrival_s for arrival_s, _ in rows],
        [spell.input_tokens for spell in asked],
        [spell.output_tokens for spell in asked],
        header=TraceHeader(mode=Mode.SIMULATED, source="spells", rows_read=len(rows), rows_emitted=len(rows)),
        name=f"{len(spells)} spells",
    )


class RestartsTable(FrozenSettings):
    """Keys of ``[restarts]``: every client is started anew after each ``every_s``, one after the other."""

    every_s: PositiveFloat

    def moments(self, clients: int, horizon_s: float) -> Iterator[tuple[float, int]]:
        """Yield when which client restarts."""
        for number in itertools.count():
            moment_s = self.every_s * (number + 1) / clients
            if moment_s >= horizon_s:
                return
            yield moment_s, number % clients


class EventTable(FrozenSettings):
    """Keys of ``[[events]]``: see ``simulators.scenarios.scenario.Scenario.at``."""

    time_s: float = Field(ge=0)
    quota: PositiveFloat
    axis: Axis | None = None
    label: str | None = None


def with_events(scenario: Scenario, events: Sequence[EventTable]) -> Scenario:
    """Return the scenario with its events."""
    for event in events:
        scenario = scenario.at(event.time_s, quota=event.quota, axis=event.axis, label=event.label)
    return scenario


class Targets(FrozenSettings):
    """What a limiter shall reach in a world, on average over seeds; what is not given is not asked.

    Attributes:
        goodput_ratio: at least.
        goodput_after: ``goodput_ratio`` from the start and after each event, at least, 0 for any; ``SimResult.shares``.
        rejected_share: 429s per attempt, at most.
        rejected: 429s in all, at most.
        recovery_s: from the start and after each event, at most; ``SimResult.recovery`` in order.
        jain: at least.
        added_wait_p99_s: above the 99th percentile of waits without a limiter, at most.
    """

    goodput_ratio: float | None = None
    goodput_after: tuple[float, ...] = ()
    rejected_share: float | None = None
    rejected: float | None = None
    recovery_s: tuple[float, ...] = ()
    jain: float | None = None
    added_wait_p99_s: float | None = None


class WorkloadTables(FrozenSettings):
    """What is asked, in one of the ways in which a file says it."""

    backlog: BacklogTable | None = None
    synthesis: SynthesisTable | None = None
    trace: TraceTable | None = None
    spells: tuple[Spell, ...] | None = None

    @model_validator(mode="after")
    def _one_workload(self) -> Self:
        given = [name for name in ("backlog", "synthesis", "trace", "spells") if getattr(self, name)]
        if len(given) != 1:
            msg = f"give one of [backlog], [synthesis], [trace] and [[spells]], not {' and '.join(given) or 'none'}"
            raise ValueError(msg)
        return self

    def workload(self, traces: Path) -> Trace | Backlog:
        """Return what is asked.

        Raises:
            MissingTraceError: it is a trace, and not there.
        """
        table = self.backlog or self.synthesis or self.trace
        return _spelled(self.spells or ()) if table is None else table.read(traces)


class WorldFile(WorkloadTables):
    """A world as it stands in a file."""

    description: str = ""
    clients: int = Field(default=1, ge=1)
    shared: bool = False
    drain_s: float = Field(default=60.0, ge=0)
    provider: dict[str, Any]
    events: tuple[EventTable, ...] = ()
    restarts: RestartsTable | None = None
    neighbours: tuple[Neighbour, ...] = ()
    targets: Targets = Targets()

    def read(self, name: str, traces: Path) -> MeasuredWorld:
        """Return the world under that name."""
        workload = self.workload(traces)
        scenario = Scenario(workload, described(self.provider), name, neighbours=self.neighbours, drain_s=self.drain_s)
        scenario = with_events(scenario, self.events)
        if self.restarts is not None:
            for moment_s, client in self.restarts.moments(self.clients, scenario.workload.duration_s):
                scenario = scenario.restarting(moment_s, client=client)
        return MeasuredWorld(self.description, scenario, self.clients, self.shared, self.targets)


class MissingTraceError(ConfigurationError):
    """A world's trace is not on this machine."""


@dataclass(frozen=True)
class MeasuredWorld:
    """A scenario, how many independent clients meet in it, and what is asked of them.

    Attributes:
        description: one sentence.
        scenario: it bears the world's name.
        clients: independent limiters on the provider's quota.
        shared: whether those of ours share what they learn.
        targets: what a limiter shall reach.
    """

    description: str
    scenario: Scenario
    clients: int = 1
    shared: bool = False
    targets: Targets = field(default_factory=Targets)

    @property
    def name(self) -> str:
        """What reports call it."""
        return self.scenario.name


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in errors about what stands in it; a trace that is missing is no fault of the file."""
    try:
        yield
    except MissingTraceError:
        raise
    except ConfigurationError as error:
        msg = f"{path}: {error}"
        raise ConfigurationError(msg) from None


def read_world(path: str | Path, *, traces: str | Path = TRACES) -> MeasuredWorld:
    """Read a world from a TOML file; it bears the file's name.

    Args:
        path: the file.
        traces: the folder in which ``[trace]`` looks.

    Raises:
        ConfigurationError: naming file, key and remedy.
        MissingTraceError: the trace it names is not there.
    """
    path = Path(path)
    values = read_toml(path, remedy="give the path of a world's TOML file")
    with naming(path):
        return WorldFile(**values).read(path.stem, Path(traces))


def suite(*, traces: str | Path = TRACES) -> dict[str, MeasuredWorld]:
    """Return the worlds in which limiters are measured, by name; those whose trace is missing are left out."""
    worlds, _ = _suite(traces)
    return worlds


def absent_worlds(*, traces: str | Path = TRACES) -> dict[str, str]:
    """Return why worlds of the suite are left out here, by name; empty when none is."""
    _, absent = _suite(traces)
    return absent


def _suite(traces: str | Path) -> tuple[dict[str, MeasuredWorld], dict[str, str]]:
    worlds, absent = {}, {}
    for path in sorted(SUITE.glob("*.toml")):
        try:
            worlds[path.stem] = read_world(path, traces=traces)
        except MissingTraceError as error:
            absent[path.stem] = str(error)
    return worlds, absent


def random_worlds(n: int, seed: int = 0) -> dict[str, MeasuredWorld]:
    """Draw worlds that nobody can have fitted constants to, by name; equal arguments give equal worlds.

    Quotas are 0.2 to 200 requests/s and answers take 10 ms to 60 s, both log-uniform; windows are buckets, fixed or
    sliding, of 1 to 60 s; Retry-After is true, absent, or wrong by up to a factor of 2; in half of the worlds the quota
    changes midway. Callers want up to twice the quota, but are never more than 1000.

    Args:
        n: how many.
        seed: of the draws; a world does not depend on how many are drawn.

    Raises:
        ConfigurationError: ``n`` is below 1.
    """
    if n < 1:
        msg = f"random_worlds: n = {n!r} must be at least 1"
        raise ConfigurationError(msg)
    return {world.name: world for world in (_random_world(seed, number) for number in range(n))}


def _random_world(seed: int, number: int) -> MeasuredWorld:
    luck = np.random.Generator(np.random.Philox(key=[seed, number]))
    per_s = _rounded(0.2 * 1000.0 ** luck.random())
    answer_s = _rounded(0.01 * 6000.0 ** luck.random())
    step = _rounded(0.4 * 5.0 ** luck.random()) if luck.random() < 0.5 else 1.0
    window_s = float(luck.choice([span for span in (1, 5, 10, 30, 60) if per_s * min(step, 1.0) * span >= 1]))
    shape = str(luck.choice(["bucket", "fixed-window", "sliding-window"]))
    shapes: dict[str, quotas.Quota] = {
        "bucket": quotas.Bucket(limit=per_s, per_s=1.0, burst_s=window_s),
        "fixed-window": quotas.FixedWindow(limit=per_s * window_s, per_s=window_s),
        "sliding-window": quotas.SlidingWindow(limit=per_s * window_s, per_s=window_s),
    }
    habit = luck.choice(["true", "absent", "late"])
    factor = _rounded(0.5 * 4.0 ** luck.random()) if habit == "late" else 1.0
    retry_after = RetryAfter.model_validate({"habit": habit, "factor": factor})
    spread = _rounded(0.1 + 0.7 * luck.random())
    answers = latency.LatencyModel(
        first_token_s=answer_s, first_token_sigma=spread, per_token_s=0.0, rejection_s=min(0.1, answer_s)
    )
    # some 30 000 answers, but time enough to find the quota twice
    duration_s = float(np.clip(30_000 / per_s, 300.0, 3600.0))
    workers = int(np.clip(2.0 * per_s * max(step, 1.0) * answer_s, 4, 1000))
    source = Provider(
        name="random", names_axis=False, quotas=(shapes[shape],), retry_after=retry_after, latency=answers
    )
    scenario = Scenario(backlog(workers, duration_s), source, f"random-{seed}-{number:03}")
    told = f"{habit} ({factor:g})" if habit == "late" else habit
    words = f"{per_s:g}/s, {shape} of {window_s:g} s, Retry-After {told}, answers in {answer_s:g} s, {workers} callers"
    if step != 1.0:
        scenario = scenario.at(duration_s / 2, quota=step)
        words += f", quota x {step:g} midway"
    return MeasuredWorld(f"{words}.", scenario)


def _rounded(value: float) -> float:
    """Return the value with three digits, for people to read."""
    return float(f"{value:.3g}")
