"""What is chosen in the dashboard, as a frozen value: scenario, undo history and a run's code follow from it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from simulators.dashboard.parameters import Value, changed, config_of, parameters
from simulators.providers import catalogue
from simulators.scenarios.scenario import Backlog, Event, QuotaChange, Restart, Scenario, backlog
from simulators.traces import columns_of, read_trace, sample_trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from factflow_llm.ratelimit.config import RateLimitConfig
    from simulators.providers.catalogue import Provider
    from simulators.traces import Trace

GIVEN = "as given"
_LENGTHS_S = (60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 21600.0, 86400.0)
_SAMPLE = "sample: 30 min of chat"
_BACKLOGS = {f"backlog of {workers}, 10 min": workers for workers in (16, 64, 256)}
_MERGE_S = 1.0

EVENTS = (
    GIVEN, "none", "quota halved halfway", "quota doubled halfway", "quota at a tenth for a minute", "restart halfway",
)  # fmt: skip


_WORLD_WORDS = {
    "workload": "workload", "provider": "provider", "events": "events", "length_s": "length", "seed": "seed",
    "clients": "clients",
}  # fmt: skip


@dataclass(frozen=True)
class Choices:
    """All that is chosen: one value, so that it can be remembered, undone and compared.

    Attributes:
        workload: a name of the ``Catalogue``.
        provider: likewise.
        events: one of ``EVENTS``.
        length_s: only the beginning of the workload; ``inf`` for all of it.
        seed: decides every random draw.
        clients: independent clients on one quota.
        values: the limiter's settings that differ from their defaults, by name.
    """

    workload: str = GIVEN
    provider: str = GIVEN
    events: str = GIVEN
    length_s: float = math.inf
    seed: int = 0
    clients: int = 1
    values: tuple[tuple[str, Value], ...] = ()

    @property
    def config(self) -> RateLimitConfig:
        """The limiter's settings."""
        return config_of({parameter.name: parameter.default for parameter in parameters()} | dict(self.values))

    @property
    def world(self) -> Choices:
        """The choices without the limiter's settings: where they are equal, the oracle's run is too."""
        return replace(self, values=())


def other_world(theirs: Choices, ours: Choices) -> str:
    """Return what tells one world from another, in words; empty where they are the same."""
    told = []
    for name, word in _WORLD_WORDS.items():
        value = getattr(theirs, name)
        if value != getattr(ours, name):
            whole = "all of it" if value == math.inf else spoken(value) if name == "length_s" else value
            told.append(f"{word} {whole}")
    return ", ".join(told)


class Catalogue:
    """What can be chosen: the scenario as given, the presets, and traces read from files.

    Args:
        given: the scenario that the dashboard was opened with.
    """

    def __init__(self, given: Scenario) -> None:
        self.given = given
        self._files: dict[str, tuple[str, Trace]] = {}

    @property
    def workloads(self) -> list[tuple[str, str]]:
        """Label and name of each workload."""
        names = [_SAMPLE, *_BACKLOGS]
        files = [(f"{name}: {trace.told}", name) for name, (_, trace) in self._files.items()]
        return [(f"{GIVEN}: {self.given.workload.name}", GIVEN), *((name, name) for name in names), *files]

    @property
    def providers(self) -> list[tuple[str, str]]:
        """Label and name of each provider."""
        return [(f"{GIVEN}: {self.given.provider.name}", GIVEN), *((name, name) for name in catalogue.provider_names())]

    def lengths(self, workload: str) -> list[tuple[str, float]]:
        """Label and seconds of each length a workload can be cut to."""
        whole_s = self.workload(workload).duration_s
        parts = [(f"first {spoken(length_s)}", length_s) for length_s in _LENGTHS_S if length_s < whole_s]
        return [(f"all {spoken(whole_s)}", math.inf), *parts]

    def add_file(self, words: str) -> str:
        """Read a trace, so that it can be chosen, and return its name.

        Args:
            words: as on the command line: ``log.csv --columns time=created_at,input_tokens=prompt --time-unit ms``.

        Raises:
            TraceError: naming the file, the line and the remedy.
        """
        path, given = file_and_map(words)
        trace = read_trace(path, **given)
        name = f"file: {trace.name}"
        told = "".join(f", {key}={value!r}" for key, value in given.items())
        self._files[name] = (f"sim.read_trace({path!r}{told})", trace)
        return name

    def workload(self, name: str) -> Trace | Backlog:
        """Return the workload of that name."""
        if name == GIVEN:
            return self.given.workload
        if name == _SAMPLE:
            return sample_trace()
        return backlog(_BACKLOGS[name], 600.0) if name in _BACKLOGS else self._files[name][1]

    def scenario(self, choices: Choices) -> Scenario:
        """Return the scenario that was chosen."""
        given = self.given
        whole = self.workload(choices.workload)
        workload = shortened(whole, choices.length_s)
        chosen = replace(
            given,
            workload=workload,
            provider=given.provider if choices.provider == GIVEN else catalogue.provider(choices.provider),
            name="" if (choices.workload, choices.provider) != (GIVEN, GIVEN) else given.name,
            sessions=given.sessions and not isinstance(workload, Backlog),
            events=tuple(event for event in given.events if event.time_s < workload.duration_s),
        )
        if choices.events == GIVEN:
            return chosen
        return with_events(replace(chosen, events=()), choices.events)

    def workload_code(self, choices: Choices, name_trace: Callable[[], str]) -> str:
        """Return the expression that makes the chosen workload; ``name_trace`` is as in ``code_of``."""
        workload = self.workload(choices.workload)
        if isinstance(workload, Backlog):
            return _backlog_code(replace(workload, duration_s=min(choices.length_s, workload.duration_s)))
        if workload is sample_trace():
            code = "sim.sample_trace()"
        elif choices.workload in self._files:
            code = self._files[choices.workload][0]
        else:
            code = name_trace()
        return code if choices.length_s >= workload.duration_s else f"{code}.window(0.0, {choices.length_s!r})"


def file_and_map(words: str) -> tuple[str, dict[str, Any]]:
    """Return the path in some words, and what ``--columns`` and ``--time-unit`` after it say, for ``read_trace``."""
    path, *options = re.split(r"\s--(columns|time-unit)[\s=]", words.strip())
    given: dict[str, Any] = {}
    for key, value in zip(options[::2], options[1::2], strict=True):
        plain = value.strip().strip("'\"")
        given |= {"columns": columns_of(plain)} if key == "columns" else {"time_unit": plain}
    return path.strip(), given


def shortened(workload: Trace | Backlog, length_s: float) -> Trace | Backlog:
    """Return the beginning of a workload."""
    if length_s >= workload.duration_s:
        return workload
    if isinstance(workload, Backlog):
        return replace(workload, duration_s=length_s)
    return workload.window(0.0, length_s)


def beginning(scenario: Scenario, length_s: float) -> Scenario:
    """Return the first seconds of a scenario, as they are in the whole of it."""
    workload = shortened(scenario.workload, max(length_s, 1.0))
    events = tuple(event for event in scenario.events if event.time_s < workload.duration_s)
    return replace(scenario, workload=workload, events=events, drain_s=0.0)


def with_events(scenario: Scenario, word: str) -> Scenario:
    """Return the scenario with the events that a word of ``EVENTS`` stands for."""
    middle_s = float(round(scenario.workload.duration_s / 2))
    if word == "quota halved halfway":
        return scenario.at(middle_s, quota=0.5, label="quota halved")
    if word == "quota doubled halfway":
        return scenario.at(middle_s, quota=2.0, label="quota doubled")
    if word == "quota at a tenth for a minute":
        back_s = min(middle_s + 60.0, scenario.horizon_s)
        return scenario.at(middle_s, quota=0.1, label="a tenth").at(back_s, quota=1.0, label="back")
    return scenario.restarting(middle_s) if word == "restart halfway" else scenario


# --- undo ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A moment to go back to: what was chosen before ``key`` was moved, and when that was."""

    before: Choices
    key: str
    time_s: float


def remember(history: tuple[Step, ...], before: Choices, key: str, now_s: float) -> tuple[Step, ...]:
    """Return the history with one more step; a slider that is still being dragged makes one step of all its moves."""
    if history and history[-1].key == key and now_s - history[-1].time_s < _MERGE_S:
        return (*history[:-1], replace(history[-1], time_s=now_s))
    return (*history, Step(before, key, now_s))[-100:]


# --- code ------------------------------------------------------------------------------------------------------------


def code_of(catalogue: Catalogue, choices: Choices, name_trace: Callable[[], str]) -> str:
    """Return the cell that reproduces a run.

    Args:
        catalogue: what there was to choose.
        choices: what was chosen.
        name_trace: returns an expression for the trace as given, where no constructor repeats it.
    """
    scenario = catalogue.scenario(choices)
    provider = scenario.provider
    machine = repr(provider.name) if _is_preset(provider) else f"sim.Provider.model_validate({_plain(provider)!r})"
    arguments = [catalogue.workload_code(choices, name_trace), machine]
    plain = Scenario(scenario.workload, provider)
    arguments += [
        f"{field}={getattr(scenario, field)!r}"
        for field in ("name", "neighbours", "drain_s", "impatient_share", "patience_s", "sessions")
        if getattr(scenario, field) != getattr(plain, field)
    ]
    imports = ["import simulators as sim", "from factflow_llm import RateLimitConfig"]
    if scenario.neighbours:
        imports.append("from simulators.scenarios.neighbours import Neighbour")
    run = [f"seed={choices.seed}"] + ([f"clients={choices.clients}"] if choices.clients > 1 else [])
    lines = [
        *imports,
        "",
        f"scenario = sim.Scenario({', '.join(arguments)})",
        *(f"scenario = scenario{_event_code(event)}" for event in scenario.events),
        f"config = {config_code(choices.config)}",
        f"result = sim.simulate(scenario, config, {', '.join(run)})",
        "sim.plot_overview(result)",
        "result",
    ]
    return "\n".join(lines) + "\n"


def config_code(config: RateLimitConfig) -> str:
    """Return the expression that makes a configuration: what differs from the defaults."""
    values = changed(config)
    own = [f"{name}={value!r}" for name, value in values.items() if "." not in name]
    retry = {name.partition(".")[2]: value for name, value in values.items() if "." in name}
    return f"RateLimitConfig({', '.join(own + ([f'retry={retry!r}'] if retry else []))})"


def spoken(duration_s: float) -> str:
    """Return a duration in the largest unit that suits it."""
    for unit_s, unit in ((3600.0, "h"), (60.0, "min")):
        if duration_s >= 2 * unit_s or duration_s == unit_s:
            return f"{duration_s / unit_s:.3g} {unit}"
    return f"{duration_s:.2g} s" if duration_s < 10 else f"{duration_s:.0f} s"


def _is_preset(provider: Provider) -> bool:
    return provider.name in catalogue.provider_names() and catalogue.provider(provider.name) == provider


def _plain(provider: Provider) -> dict[str, Any]:
    """Return a provider as the plain values it was made from, with the word that tells what each part is."""
    parts = {
        name: [
            part.model_dump(mode="json", exclude_unset=True) | {"kind": part.kind} for part in getattr(provider, name)
        ]
        for name in ("quotas", "faults")
    }
    return provider.model_dump(mode="json", exclude_unset=True) | parts


def _event_code(event: Event) -> str:
    if isinstance(event, Restart):
        only = "" if event.client is None else f", client={event.client}"
        return f".restarting({event.time_s!r}{only}, label={event.label!r})"
    assert isinstance(event, QuotaChange)
    axis = "" if event.axis is None else f", axis={str(event.axis)!r}"
    return f".at({event.time_s!r}, quota={event.quota!r}{axis}, label={event.label!r})"


def _backlog_code(value: Backlog) -> str:
    usual = backlog(value.workers, value.duration_s)
    told = [
        f"{field.name}={getattr(value, field.name)!r}"
        for field in fields(value)
        if getattr(value, field.name) != getattr(usual, field.name)
    ]
    return f"sim.backlog({', '.join([repr(value.workers), repr(value.duration_s), *told])})"
