"""The numbers behind the pictures of a run: pure functions from a result to columns ready to draw.

Times are seconds. Rates are per minute, as quotas are sold and settings are written; calls in flight are a number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from factflow_llm.signals import Axis, Outcome, Reason
from simulators.attempts import UNANSWERED
from simulators.providers.calls import Call
from simulators.providers.faults import Refused
from simulators.providers.machine import ProviderMachine
from simulators.scenarios.scenario import Backlog
from simulators.streams import Streams
from simulators.traces import Recording

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulators.engine.result import SimResult
    from simulators.providers.catalogue import Provider
    from simulators.traces import Trace

Floats = npt.NDArray[np.float64]
Run: TypeAlias = "SimResult | Recording"
"""What happened, simulated or recorded: see :mod:`simulators.attempts`."""

MOVES = frozenset({Reason.SLOW_START, Reason.PROBE, Reason.RECOVER})
"""Reasons that a line shows by its slope; every other change deserves a mark."""

OTHER = "other"
IN_FLIGHT = "in_flight"
_WINDOWS_S = (1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_MOST_WINDOWS = 120


def window_s(duration_s: float) -> float:
    """Return the shortest round window that cuts a duration into at most 120 pieces."""
    fitting = (width for width in _WINDOWS_S if duration_s <= width * _MOST_WINDOWS)
    return next(fitting, _WINDOWS_S[-1])


def per_minute(axis: Axis) -> float:
    """Return the factor from the core's units (per second, or slots) to those of a picture."""
    return 1.0 if axis is Axis.CONCURRENCY else 60.0


def binding_axis(result: Run) -> Axis:
    """Return the metered axis worth looking at: where the policy was cut most, else where most capacity is used."""
    metered = [Axis(axis) for axis in result.capacity["axis"].unique()]
    if not metered:
        return Axis.REQUESTS
    cuts = result.limits.loc[result.limits["reason"] == Reason.RATE_LIMITED, "axis"].astype(str).value_counts()
    if any(cuts.get(axis, 0) for axis in metered):
        return max(metered, key=lambda axis: cuts.get(axis, 0))
    capacity = {axis: capacity_steps(result, axis)["capacity"].mean() for axis in metered}
    return max(metered, key=lambda axis: used_per_window(result, axis)["used"].mean() / capacity[axis])


def capacity_steps(result: Run, axis: Axis) -> pd.DataFrame:
    """Return ``time_s`` and ``capacity`` as steps from 0 to the end; empty where the provider meters no such axis."""
    rows = result.capacity[result.capacity["axis"] == axis]
    if rows.empty:
        return pd.DataFrame({"time_s": [], "capacity": []}, dtype=np.float64)
    times, values = rows["time_s"].to_numpy(), rows["capacity"].to_numpy() * per_minute(axis)
    end_s = result.horizon_s
    return pd.DataFrame({"time_s": np.append(times, end_s), "capacity": np.append(values, values[-1])})


def limit_steps(result: Run, axis: Axis, client: int | None = None) -> pd.DataFrame:
    """Return ``time_s`` and ``limit`` as steps to the end: one client's, or the sum over all; ``inf`` for no limit."""
    clients = range(result.clients) if client is None else (client,)
    each = [_client_steps(result, axis, number) for number in clients]
    times = np.unique(np.concatenate([at for at, _ in each] + [np.array([result.horizon_s])]))
    limits = [values[np.searchsorted(at, times, side="right") - 1] for at, values in each]
    return pd.DataFrame({"time_s": times, "limit": np.sum(limits, axis=0) * per_minute(axis)})


def limit_marks(result: Run, axis: Axis) -> pd.DataFrame:
    """Return ``time_s``, ``limit`` and ``reason`` of the changes that no slope shows, the limit summed over clients."""
    told = result.limits["reason"].notna() & ~result.limits["reason"].isin(MOVES)
    changes = result.limits[(result.limits["axis"] == axis) & told]
    if len(set(changes["client"])) == 1:  # at the limit that each led to, though another followed at once
        limit = changes["new"] * per_minute(axis)
        return pd.DataFrame({"time_s": changes["time_s"], "limit": limit, "reason": changes["reason"]}).reset_index(
            drop=True
        )
    steps = limit_steps(result, axis)
    after = np.searchsorted(steps["time_s"].to_numpy(), changes["time_s"].to_numpy(), side="right") - 1
    marks = {"time_s": changes["time_s"], "limit": steps["limit"].to_numpy()[after], "reason": changes["reason"]}
    return pd.DataFrame(marks).reset_index(drop=True)


def sent(run: Run) -> pd.DataFrame:
    """Return the attempts that were sent: a recording also lists those that our own line refused."""
    attempts = run.attempts
    left = attempts["admitted_s"].notna()
    return attempts if left.all() else attempts[left]


def used_per_window(result: Run, axis: Axis, width_s: float | None = None) -> pd.DataFrame:
    """Return ``time_s`` (window starts) and ``used``: what admitted calls took of an axis, by when they were sent.

    It is counted as the provider's quota counts, settled where that settles: beside ``capacity_steps`` both are one
    currency. Of a recording, whose provider nobody knows, what the answers tell is counted.
    """
    edges = _edges(result, width_s)
    attempts = result.attempts
    if axis is Axis.CONCURRENCY:
        return pd.DataFrame({"time_s": edges[:-1], "used": _in_flight(result, edges)})
    taken = attempts["outcome"].isin([str(Outcome.SUCCEEDED), UNANSWERED]) & (attempts["status"] == 200)
    moments, requests = (attempts.loc[taken, name].to_numpy() for name in ("admitted_s", "request"))
    used = np.bincount(_windows(moments, edges), _units(result, axis, requests), minlength=len(edges) - 1)
    return pd.DataFrame({"time_s": edges[:-1], "used": used * 60.0 / np.diff(edges)})


def outcome_rates(result: Run, width_s: float | None = None, client: int | None = None) -> pd.DataFrame:
    """Return attempts per minute by outcome, one row per window (index ``time_s``), by the moment they were sent.

    Outcomes that teach nothing of quotas (ignored, cancelled, exhausted) are summed as ``other``; ``in_flight`` are
    those whose answer the run did not live to see.
    """
    edges = _edges(result, width_s)
    attempts = sent(result)
    attempts = attempts if client is None else attempts[attempts["client"] == client]
    columns = [str(word) for word in (Outcome.SUCCEEDED, Outcome.RATE_LIMITED, Outcome.OVERLOADED)] + [OTHER, IN_FLIGHT]
    column_of = {word: column for column, word in enumerate(columns)}
    column_of[UNANSWERED] = column_of[IN_FLIGHT]
    of_code = [column_of.get(word, column_of[OTHER]) for word in attempts["outcome"].cat.categories]
    column = np.take(of_code, attempts["outcome"].cat.codes)
    cells = np.bincount(
        _windows(attempts["admitted_s"].to_numpy(), edges) * len(columns) + column,
        minlength=(len(edges) - 1) * len(columns),
    )
    per_minute = cells.reshape(-1, len(columns)) * 60.0 / np.diff(edges)[:, None]
    return pd.DataFrame(per_minute, columns=columns, index=pd.Index(edges[:-1], name="time_s"))


def waits(run: Run) -> Floats:
    """Return the waits of the calls that succeeded, ascending: seconds from arrival to the last admission."""
    served = run.requests["outcome"] == "succeeded"
    return np.sort(run.requests.loc[served, "wait_s"].to_numpy(dtype=np.float64))


def survival(values: Floats) -> pd.DataFrame:
    """Return ``value`` and ``share``, the share of values that are larger, at each distinct value of a sorted array."""
    distinct, counts = np.unique(values, return_counts=True)
    return pd.DataFrame({"value": distinct, "share": 1.0 - np.cumsum(counts) / max(len(values), 1)})


def bar_width(values: Floats, most: int = 50) -> float:
    """Return the smallest width of the form 1, 2 or 5 times a power of ten that needs at most so many bars from 0."""
    least = max(float(values.max(initial=0.0)), 0.1) / most
    size = 10.0 ** np.floor(np.log10(least))
    return float(next(step * size for step in (1, 2, 5, 10) if step * size >= least))


def wait_percentiles(result: Run, width_s: float | None = None) -> pd.DataFrame:
    """Return ``p50`` and ``p95`` of the wait of requests that succeeded, by window of arrival; NaN for none."""
    edges = _edges(result, width_s)
    served = result.requests[result.requests["outcome"] == "succeeded"]
    by_window = served["wait_s"].groupby(_windows(served["arrival_s"].to_numpy(), edges))
    found = pd.DataFrame({"p50": by_window.quantile(0.5), "p95": by_window.quantile(0.95)})
    return found.reindex(range(len(edges) - 1)).set_index(pd.Index(edges[:-1], name="time_s"))


class ShownSpell(NamedTuple):
    """A time in which somebody or something else was at work."""

    start_s: float
    end_s: float
    label: str


def spells(result: Run) -> list[ShownSpell]:
    """Return when neighbours called and when the provider's faults raged, those that last all the time left out."""
    if isinstance(result, Recording):
        return []
    end_s = result.horizon_s
    found = [
        ShownSpell(each.start_s, end_s if each.end_s is None else each.end_s, f"neighbour, {each.requests_per_s:g}/s")
        for each in result.scenario.neighbours
    ]
    for fault in result.scenario.provider.faults:
        until_s = np.inf if fault.duration_s is None else fault.start_s + fault.duration_s + fault.recovery_s
        word = f"storm of {fault.status}s" if isinstance(fault, Refused) else fault.kind
        found.append(ShownSpell(fault.start_s, min(until_s, end_s), f"{word}, {fault.share:.0%} of calls"))
    return sorted(each for each in found if each.start_s < end_s and (each.start_s > 0 or each.end_s < end_s))


class LeftOver(NamedTuple):
    """Requests that the run did not live to see answered.

    Attributes:
        requests: how many.
        asked: of how many.
        since_s: from this arrival on none was answered; NaN where the last one was.
    """

    requests: int
    asked: int
    since_s: float

    @property
    def told(self) -> str:
        """In words; empty where there are none."""
        return f"{self.requests:,} of {self.asked:,} requests never answered" if self.requests else ""


def left_over(result: Run) -> LeftOver:
    """Return who was never answered; of a closed loop nobody, for its workers go on for ever."""
    asked = result.requests
    if isinstance(result, Recording) or isinstance(result.scenario.workload, Backlog):
        return LeftOver(0, len(asked), np.nan)
    open_s = asked.loc[asked["outcome"] == "unfinished", "arrival_s"]
    last_s = asked.loc[asked["outcome"] != "unfinished", "arrival_s"].max()
    later = open_s[~(open_s <= last_s)]
    return LeftOver(len(open_s), len(asked), float(later.min()) if len(later) else np.nan)


def queue_lengths(result: Run, width_s: float | None = None) -> pd.DataFrame:
    """Return the mean number of requests ``in_flight`` and ``waiting`` (in line or backing off), one row per window."""
    edges = _edges(result, width_s)
    requests = result.requests
    flying = _in_flight(result, edges)
    inside = _overlap(requests["arrival_s"].to_numpy(), _ends(result, requests["end_s"]), edges)
    waiting = np.maximum(inside - flying, 0.0)
    return pd.DataFrame({"in_flight": flying, "waiting": waiting}, index=pd.Index(edges[:-1], name="time_s"))


def recovery_curves(result: SimResult, yardstick: SimResult | None = None, width_s: int = 30) -> pd.DataFrame:
    """Return how runs come back after the start and after each event, one row per second and event.

    ``admitted`` is what was admitted in the next ``width_s`` seconds over what the oracle got admitted in them;
    ``rejected`` the share of 429s in them; ``since_s`` counts from the event and ``event`` names it.
    """
    best = yardstick or result.oracle
    mine, theirs = (_sent_per_second(run, Outcome.SUCCEEDED) for run in (result, best))
    rejected = _sent_per_second(result, Outcome.RATE_LIMITED)
    ahead = [np.convolve(values, np.ones(width_s))[width_s - 1 :] for values in (mine, theirs, rejected)]
    names = result.recovery(best).index
    starts = [0, *(int(np.ceil(event.time_s)) for event in result.events)]
    ends = [*starts[1:], int(result.scenario.workload.duration_s)]
    parts = []
    for name, start, end in zip(names, starts, ends, strict=True):
        window = slice(start, max(end - width_s + 1, start))
        admitted, ideal, rejected = (values[window] for values in ahead)
        with np.errstate(invalid="ignore", divide="ignore"):
            columns = {"admitted": admitted / ideal, "rejected": rejected / (admitted + rejected)}
        parts.append(pd.DataFrame({"event": name, "since_s": np.arange(len(admitted), dtype=np.float64), **columns}))
    return pd.concat(parts, ignore_index=True)


def client_goodput(result: Run, width_s: float | None = None) -> pd.DataFrame:
    """Return successes per minute by client, one column each, one row per window (index ``time_s``)."""
    columns = {
        client: outcome_rates(result, width_s, client)[str(Outcome.SUCCEEDED)] for client in range(result.clients)
    }
    return pd.DataFrame(columns)


def demand(trace: Trace, width_s: float | None = None) -> pd.DataFrame:
    """Return what a trace asks for per minute, ``requests`` and known ``tokens``, by window (index ``time_s``)."""
    edges = _cut(trace.duration_s, width_s)
    tokens = np.maximum(trace.input_tokens, 0) + np.maximum(trace.output_tokens, 0)
    scale = 60.0 / np.diff(edges)
    requests = np.histogram(trace.arrival_s, edges)[0] * scale
    asked = np.histogram(trace.arrival_s, edges, weights=tokens)[0] * scale
    return pd.DataFrame({"requests": requests, "tokens": asked}, index=pd.Index(edges[:-1], name="time_s"))


def capacity_of(provider: Provider, axis: Axis) -> float | None:
    """Return a provider's nominal capacity per minute, or in slots; ``None`` where it meters no such axis."""
    per_second = ProviderMachine(provider, Streams(0)).capacity(0.0).get(axis)
    return None if per_second is None else per_second * per_minute(axis)


def _edges(result: Run, width_s: float | None) -> Floats:
    return _cut(result.horizon_s, width_s)


def _cut(duration_s: float, width_s: float | None) -> Floats:
    """Return window edges from 0 to the end; the last window may be shorter."""
    width = width_s or window_s(duration_s)
    edges = np.arange(0.0, duration_s, width)
    return np.append(edges, duration_s) if len(edges) else np.array([0.0, width])


def _windows(times: Floats, edges: Floats) -> npt.NDArray[np.int64]:
    """Return the number of each moment's window; the end belongs to the last."""
    return np.minimum(np.searchsorted(edges, times, side="right"), len(edges) - 1) - 1


def _client_steps(result: Run, axis: Axis, client: int) -> tuple[Floats, Floats]:
    changes = result.limits[(result.limits["axis"] == axis) & (result.limits["client"] == client)]
    if changes.empty:
        return np.zeros(1), np.array([_constant(result, axis, client)])
    times = np.append(0.0, changes["time_s"].to_numpy())
    return times, np.append(changes["old"].iloc[0], changes["new"].to_numpy())


def _constant(result: Run, axis: Axis, client: int) -> float:
    column = {Axis.REQUESTS: "rate_per_s", Axis.CONCURRENCY: "concurrency"}.get(axis)
    theirs = result.attempts[result.attempts["client"] == client]
    return np.inf if column not in theirs or theirs.empty else float(theirs[column].iloc[0])


def _units(result: Run, axis: Axis, requests: npt.NDArray[np.int64]) -> Floats:
    """Return what calls cost on an axis: by the rule of its tightest quota, after settlement where it settles."""
    if axis is Axis.REQUESTS:
        return np.ones(len(requests))
    sizes = result.requests.set_index("request")[["input_tokens", "output_tokens"]]
    known = () if isinstance(result, Recording) else result.scenario.provider.quotas
    quotas = [quota for quota in known if quota.axis is axis]
    if isinstance(result, Recording) or not quotas:
        unmetered = {Axis.INPUT_TOKENS: ["input_tokens"], Axis.OUTPUT_TOKENS: ["output_tokens"]}.get(
            axis, sizes.columns
        )
        return sizes.loc[requests, list(unmetered)].sum(axis=1).to_numpy(dtype=np.float64)
    tightest = min(quotas, key=lambda quota: quota.units_per_s)
    cost, final = tightest.cost_rule(), tightest.final_rule()
    assert cost is not None
    bound_of = _bounds(result)
    asked = (
        Call(index, read, written, bound_of(index))
        for index, (read, written) in zip(requests.tolist(), sizes.loc[requests].to_numpy().tolist(), strict=True)
    )
    return np.array([cost(call) if final is None else final(call, call.output_tokens) for call in asked], dtype=float)


def _bounds(result: SimResult) -> Callable[[int], int | None]:
    """Return the function that gives a request's ``max_tokens``."""
    workload = result.scenario.workload
    if isinstance(workload, Backlog):
        return lambda index: workload.max_tokens
    limits = workload.max_tokens
    return lambda index: None if limits[index] < 0 else int(limits[index])


def _in_flight(result: Run, edges: Floats) -> Floats:
    """Return the mean number of calls in flight per window, those included that the end of the run cut off."""
    attempts = sent(result)
    return _overlap(attempts["admitted_s"].to_numpy(), _ends(result, attempts["end_s"]), edges)


def _ends(result: Run, ends: pd.Series[float]) -> Floats:
    return np.asarray(ends.fillna(result.horizon_s), dtype=np.float64)


def _overlap(starts: Floats, ends: Floats, edges: Floats) -> Floats:
    """Return how many of the intervals hold on average in each window."""
    spent = np.zeros(len(edges))
    for sign, times in ((1.0, np.sort(starts)), (-1.0, np.sort(ends))):
        total = np.append(0.0, np.cumsum(times))
        before = np.searchsorted(times, edges)
        spent += sign * (before * edges - total[before])
    return np.asarray(np.diff(spent) / np.diff(edges), dtype=np.float64)


def _sent_per_second(result: SimResult, outcome: Outcome) -> Floats:
    seconds = int(np.ceil(result.horizon_s)) + 1
    sent = result.attempts.loc[result.attempts["outcome"] == outcome, "admitted_s"].to_numpy()
    return np.bincount(sent.astype(np.int64), minlength=seconds).astype(np.float64)
