"""From words on the command line to workloads, scenarios and policies; each refusal names the option and the remedy."""

from __future__ import annotations

import difflib
import math
from pathlib import Path
from typing import TYPE_CHECKING

from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.signals import Outcome
from factflow_llm.tables import nearest
from simulators import policies
from simulators.cli.outputs import say
from simulators.policies.by_the_book import by_the_book
from simulators.providers.catalogue import Provider, provider, quota_limits
from simulators.providers.machine import ProviderMachine
from simulators.scenarios.scenario import Backlog, Scenario, backlog
from simulators.streams import Streams
from simulators.traces import Mode, TraceError, checked_unit, columns_of, read_recording, read_trace, sample_trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    import typer

    from simulators.policies.base import Policy
    from simulators.traces import Trace

SAMPLE = "sample"
_BACKLOG_S = 1800.0
_TOO_MANY = 429


def refuse_beside(option: str, ctx: typer.Context, allowed: set[str]) -> None:
    """Refuse whatever else was given beside an option that decides it.

    Raises:
        ConfigurationError: naming what to leave out.
    """
    sources = (
        (each, ctx.get_parameter_source(each.name or "")) for each in ctx.command.params if each.name not in allowed
    )
    given = [each.opts[0] for each, source in sources if source is not None and source.name == "COMMANDLINE"]
    if surplus := [name if name.startswith("-") else name.upper() for name in given if name != option]:
        msg = f"{', '.join(surplus)}: {option} decides this; leave it out"
        raise ConfigurationError(msg)


def read_workload(
    trace: str | None,
    workers: int | None,
    duration_s: float | None,
    columns: str | None = None,
    time_unit: str | None = None,
) -> Trace | Backlog:
    """Return the trace of that name, its first ``duration_s``, or a backlog that lasts so long.

    Raises:
        ConfigurationError: for a trace and a backlog at once, or a number out of bounds.
    """
    if workers is None:
        return read_trace_window(trace or SAMPLE, duration_s, columns, time_unit)
    if trace is not None:
        msg = f"TRACE {trace!r} and --backlog {workers} are two workloads; give one of them"
        raise ConfigurationError(msg)
    return backlog(workers, _seconds(duration_s) or _BACKLOG_S)


def read_trace_window(
    trace: str, duration_s: float | None, columns: str | None = None, time_unit: str | None = None
) -> Trace:
    """Return the trace of that name, or its first ``duration_s``; another's log is told on standard error.

    Raises:
        TraceError: when it cannot be read.
        ConfigurationError: for a duration out of bounds.
    """
    end_s = _seconds(duration_s)
    if trace == SAMPLE:
        whole = sample_trace()
    else:
        named = None if columns is None else columns_of(columns)
        whole = read_trace(trace, columns=named, time_unit=checked_unit(time_unit))
        if whole.header.mode == Mode.IMPORTED:
            say(f"read {trace}: {'; '.join([whole.told, *whole.header.notes])}")
    return whole if end_s is None else whole.window(0.0, end_s)


def recorded_figures(trace: str) -> dict[str, float] | None:
    """Return what a recording of ours says really happened; ``None`` when the file is another kind of trace."""
    try:
        attempts = read_recording(trace).attempts
    except TraceError:
        return None
    succeeded = attempts["outcome"] == Outcome.SUCCEEDED
    wait_s = (attempts["admitted_s"] - attempts["arrival_s"])[succeeded].dropna()
    return {
        "goodput_ratio": math.nan,
        "rejected_share": float((attempts["status"] == _TOO_MANY).mean()),
        "attempts_per_success": len(attempts) / succeeded.sum() if succeeded.any() else math.nan,
        "wait_p95_s": float(wait_s.quantile(0.95)),
    }


def read_scenarios(
    workload: Trace | Backlog, providers: Sequence[str], events: Sequence[str], quotas: Sequence[str] | None = None
) -> list[Scenario]:
    """Return the workload on each provider, with the events and with quotas of one's own.

    Raises:
        ConfigurationError: for an unknown provider, or an event that says nothing or leaves no room for a request.
    """
    return [_with_events(Scenario(workload, read_provider(name, quotas)), events) for name in dict.fromkeys(providers)]


def read_accounts(workload: Trace, providers: Sequence[str], events: Sequence[str]) -> dict[str, Scenario]:
    """Return a scenario per account, by name; the second of one provider has a number after it.

    Raises:
        ConfigurationError: as of ``read_scenarios``.
    """
    accounts: dict[str, Scenario] = {}
    for place, name in enumerate(providers):
        number = providers[: place + 1].count(name)
        (accounts[name if number == 1 else f"{name} ({number})"],) = read_scenarios(workload, [name], events)
    return accounts


def read_provider(name: str, quotas: Sequence[str] | None) -> Provider:
    """Return the provider of that name, with quotas such as ``requests=300/min`` instead of its own.

    The name may carry quotas itself, after a colon: ``bucket:requests=300/min,tokens=60000/min``.

    Raises:
        ConfigurationError: for an unknown provider, or a quota that says nothing.
    """
    preset, _, own = name.partition(":") if "=" in name else (name, "", "")
    given = [*filter(None, own.split(",")), *(quotas or ())]
    sold = provider(preset)
    try:
        return sold.with_quota(**quota_limits(given))
    except ConfigurationError as error:
        place = f"--provider {name}" if own else "--quota"
        raise ConfigurationError(f"{place} {error}") from None


def read_contenders(ctx: typer.Context, names: Sequence[str]) -> dict[str, Policy]:
    """Return those who take part in the suite: the named ones, or all when none is named.

    Raises:
        ConfigurationError: nobody in the suite has that name.
    """
    from simulators.studies.suite import contenders

    everybody = contenders()
    source = ctx.get_parameter_source("policy")
    if source is None or source.name != "COMMANDLINE":
        return everybody
    for name in names:
        if name not in everybody:
            msg = f"--policy {name}: nobody in the suite is called so{nearest(name, everybody)}"
            raise ConfigurationError(msg)
    return {name: everybody[name] for name in names}


def read_policy(word: str, workload: Trace | Backlog) -> Policy:
    """Return the policy that a word or a settings file stands for.

    Raises:
        ConfigurationError: when there is no such policy, or the file holds anything unknown.
    """
    if word.endswith(".toml"):
        return policies.Adaptive(RateLimitConfig.from_toml(word), Path(word).stem)
    name, colon, rate = word.partition(":")
    if name == "fixed" and colon:
        return policies.fixed_rate(_number(rate, f"--policy {word!r}", "write fixed:8 for 8 requests per second"))
    known: dict[str, Policy] = {
        "ours": policies.Adaptive(RateLimitConfig()),
        "oracle": policies.oracle(),
        "retry-only": policies.retry_only(),
        "fixed": by_the_book(workload),
        "classic-aimd": policies.classic_aimd(),
    }
    if word not in known:
        near = difflib.get_close_matches(word, known, n=1)
        hint = (
            f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}, fixed:RATE, or a settings file .toml"
        )
        msg = f"--policy {word!r}: no such policy; {hint}"
        raise ConfigurationError(msg)
    return known[word]


def _with_events(scenario: Scenario, events: Sequence[str]) -> Scenario:
    for event in events:
        place, form = f"--at {event!r}", "write --at MOMENT:FACTOR, as in --at 600:0.5 or --at noon:0.5"
        moment, _, factor = (part.strip() for part in event.rpartition(":"))
        if not moment:
            msg = f"{place}: says when or how much, not both; {form}"
            raise ConfigurationError(msg)
        quota = _number(factor, place, form)
        try:
            scenario = scenario.at(_moment(moment), quota=quota)
            ProviderMachine(scenario.provider, Streams(0)).scale(0.0, quota)
        except (ConfigurationError, ValueError) as error:
            msg = f"{place}: {str(error).removeprefix('at(): ')}"
            raise ConfigurationError(msg) from None
    return scenario


def _moment(words: str) -> float | str:
    try:
        return float(words)
    except ValueError:
        return words


def _seconds(duration_s: float | None) -> float | None:
    if duration_s is not None and not (math.isfinite(duration_s) and duration_s > 0):
        msg = f"--duration: {duration_s!r} must be a finite number of seconds above 0"
        raise ConfigurationError(msg)
    return duration_s


def _number(text: str, place: str, form: str) -> float:
    try:
        return float(text)
    except ValueError:
        msg = f"{place}: {text!r} is no number; {form}"
        raise ConfigurationError(msg) from None
