"""What a run left behind: tidy frames, a summary with a closed set of names, and a face for notebooks and terminals."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.signals import Axis
from simulators.attempts import ATTEMPT_COLUMNS
from simulators.engine.loop import run
from simulators.engine.rows import (
    ATTEMPT,
    AXIS_WORDS,
    CHANGE,
    ENDING_CODES,
    ENDING_WORDS,
    OUTCOME_WORDS,
    REASON_WORDS,
    REQUEST,
    Columns,
)
from simulators.engine.tally import PERCENTS, Tally
from simulators.numerals import readable
from simulators.policies.all_knowing import oracle

if TYPE_CHECKING:
    from simulators.engine.run_log import Run
    from simulators.policies.base import Policy
    from simulators.scenarios.scenario import Event, Scenario

Kept = TypeVar("Kept")

_WINDOW_S = 30
_WORDS = {"outcome": OUTCOME_WORDS, "reason": REASON_WORDS, "end": ENDING_WORDS, "axis": AXIS_WORDS}


@dataclass(frozen=True, repr=False, eq=False)
class SimResult:
    """One run.

    Attributes:
        scenario: what was run.
        policy: under what.
        seed: with which luck.
        clients: by how many independent clients.
        run: the raw columns.
    """

    scenario: Scenario
    policy: Policy
    seed: int
    clients: int
    run: Run = field(repr=False)

    @property
    def name(self) -> str:
        """What plots call it: the policy's name."""
        return self.policy.name

    @property
    def horizon_s(self) -> float:
        """When the run stopped."""
        return self.scenario.horizon_s

    @property
    def events(self) -> tuple[Event, ...]:
        """What happened meanwhile, in order."""
        return self.scenario.events

    # --- frames ------------------------------------------------------------------------------------------------------

    @cached_property
    def attempts(self) -> pd.DataFrame:
        """One row per physical attempt, in order of their ends; seconds, rates per second, ``inf`` for no limit.

        Attempts in flight at the end stand last, with outcome ``unanswered`` and an unknown end; ``status`` is what the
        provider had decided, -1 of a call that had not reached it yet. Figures count answered attempts alone.
        """
        columns = _columns(self._kept(self.run.attempts), ATTEMPT.names)
        arrival_s = self._kept(self.run.requests)["arrival_s"][columns["request"]]
        columns |= {"arrival_s": arrival_s, "sent_s": columns["admitted_s"]}
        shared = {name: columns.pop(name) for name in ATTEMPT_COLUMNS}
        return pd.DataFrame(shared | columns, copy=False)

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One row per request; ``wait_s`` runs from arrival to the last admission, ``latency_s`` to the end."""
        columns = _columns(self._kept(self.run.requests), REQUEST.names)
        columns["outcome"] = columns.pop("end")
        columns["wait_s"] = columns["admitted_s"] - columns["arrival_s"]
        columns["latency_s"] = columns["end_s"] - columns["arrival_s"]
        return pd.DataFrame(columns, copy=False)

    @cached_property
    def limits(self) -> pd.DataFrame:
        """One row per change of a limit: when, whose, which axis, from what to what, and why."""
        return pd.DataFrame(_columns(self._kept(self.run.changes), CHANGE.names), copy=False)

    @cached_property
    def capacity(self) -> pd.DataFrame:
        """The provider's true capacity, one row per axis at the start and after each event (units/s, or slots)."""
        rows = [(when, str(axis), units) for when, axes in self.run.capacity for axis, units in axes.items()]
        return pd.DataFrame(rows, columns=["time_s", "axis", "capacity"])

    # --- figures -----------------------------------------------------------------------------------------------------

    @cached_property
    def oracle(self) -> SimResult:
        """The same scenario and seed under a policy that knows the provider's state."""
        best = oracle()
        left = run(self.scenario, best, seed=self.seed, clients=self.clients, collect="frames")
        return SimResult(self.scenario, best, self.seed, self.clients, left)

    @property
    def oracle_is_bound(self) -> bool:
        """Whether no client can get more than the oracle: so it is with one quota on which every call costs the same.

        Where quotas are several, or count tokens, the oracle keeps the order of calls, and one that reorders them can
        do better: then a ``goodput_ratio`` above 1 is no error.
        """
        quotas = self.scenario.provider.quotas
        return len(quotas) == 1 and quotas[0].axis is Axis.REQUESTS

    def summary(self, yardstick: SimResult | None = None) -> pd.Series[Any]:
        """Return the figures of the run; names are a closed set (see ``docs``), NaN where a figure has no meaning.

        Args:
            yardstick: the oracle's result on the same scenario and seed, if it is at hand; otherwise it is run.
        """
        if yardstick is None:
            yardstick = self if self.policy == oracle() else self.oracle
        tally = self.run.tally
        succeeded, sent, horizon_s = tally.succeeded, tally.attempts, self.scenario.horizon_s
        asked = int(tally.endings.sum())
        figures: dict[str, float] = {
            "goodput": succeeded / horizon_s,
            "goodput_ratio": _goodput_ratio(tally, yardstick.run.tally),
            "answered_share": succeeded / asked if asked else math.nan,
            "rejected_share": tally.rejected / sent if sent else math.nan,
            "attempts_per_success": sent / succeeded if succeeded else math.nan,
        }
        for name, percentiles in (("wait", tally.wait_s), ("latency", tally.latency_s)):
            figures |= {f"{name}_p{percent}_s": value for percent, value in zip(PERCENTS, percentiles, strict=True)}
        unfinished = int(tally.endings[ENDING_CODES["unfinished"]])
        figures |= {
            "failed": asked - succeeded - unfinished,
            "unfinished": unfinished,
            "tokens_per_s": tally.tokens / horizon_s,
            "wasted_tokens": float(self.run.wasted_tokens),
            "recovery_s": self._worst_recovery(yardstick),
        }
        if self.clients > 1:
            figures["jain"] = jain_index(tally.shares)
        return pd.Series(figures, name=self.policy.name)

    def recovery(self, yardstick: SimResult | None = None) -> pd.Series[Any]:
        """Return seconds from the start and from each event to the first 30 s at >= 90 % of quota and <= 5 % of 429s.

        Quota means what the oracle gets admitted in the same seconds. NaN: not before the next event, or the end.
        """
        best = (yardstick or self.oracle).run.tally.admitted_per_second
        mine, rejected = self.run.tally.admitted_per_second, self.run.tally.rejected_per_second
        events = self.scenario.events
        marks = ["start", *(f"{event.time_s:g} s: {event.label}" for event in events)]
        starts = [0.0, *(event.time_s for event in events), float(self.scenario.workload.duration_s)]
        found = [_recovered(mine, best, rejected, since, until) for since, until in itertools.pairwise(starts)]
        return pd.Series(found, index=marks, name="recovery_s")

    def shares(self, yardstick: SimResult | None = None) -> pd.Series[Any]:
        """Return what was got of the oracle's goodput from the start and from each event until the next, by admission.

        Two events at one moment, or one at the end, leave nothing between them: NaN.
        """
        best = (yardstick or self.oracle).run.tally.admitted_per_second
        mine, events = self.run.tally.admitted_per_second, self.scenario.events
        starts = [0, *(math.floor(event.time_s) for event in events), len(mine)]
        found = [
            mine[since:until].sum() / reached if (reached := best[since:until].sum()) else math.nan
            for since, until in itertools.pairwise(starts)
        ]
        return pd.Series(found, index=["start", *(event.label for event in events)], name="goodput_ratio")

    def _worst_recovery(self, yardstick: SimResult) -> float:
        after_events = self.recovery(yardstick).to_numpy()[1:]
        return float(np.max(after_events)) if len(after_events) else math.nan

    def _kept(self, rows: Kept | None) -> Kept:
        if rows is None:
            msg = f"this run collected only its summary; for frames and plots, simulate(…, seed={self.seed}) again"
            raise ConfigurationError(msg)
        return rows

    # --- faces -------------------------------------------------------------------------------------------------------

    @property
    def provenance(self) -> dict[str, str]:
        """What is needed to run this again."""
        try:
            ours = version("factflow-llm")
        except PackageNotFoundError:
            ours = "source tree"
        return self._head() | {
            "settings": _settings(self.policy),
            "events": "; ".join(f"{event.time_s:g} s: {event.label}" for event in self.scenario.events) or "none",
            "factflow-llm": ours,
        }

    def _head(self) -> dict[str, str]:
        return {
            "scenario": self.scenario.name,
            "policy": self.policy.name,
            "seed": str(self.seed),
            "clients": str(self.clients),
        }

    def __repr__(self) -> str:
        head = ", ".join(f"{key} {value}" for key, value in self._head().items())
        return f"<SimResult {head}>\n{readable(self.summary().to_frame()).to_string()}{self._remark()}"

    def _repr_html_(self) -> str:
        head = " · ".join(f"{key} {value}" for key, value in self._head().items())
        return f"<p><b>{head}</b></p>{readable(self.summary().to_frame()).to_html()}{self._remark()}"

    def _remark(self) -> str:
        """Say what a ratio above 1 means."""
        if self.summary()["goodput_ratio"] <= 1.0 or self.oracle_is_bound:
            return ""
        return "\nThe oracle keeps the order of calls and is no bound here: a client that reorders them can do better."


def _goodput_ratio(mine: Tally, best: Tally) -> float:
    """Return successes over the oracle's.

    More than the oracle's are still no more than 1 where the calls that it had in flight at the end make up for them:
    who got calls in earlier is not ahead of one whose last calls are yet to be answered.
    """
    if not best.succeeded:
        return math.nan
    if mine.succeeded <= best.succeeded:
        return mine.succeeded / best.succeeded
    return max((mine.succeeded + mine.admitted_at_end) / (best.succeeded + best.admitted_at_end), 1.0)


def _settings(policy: Policy) -> str:
    """Return what a policy's settings are, where they are not the defaults."""
    config = getattr(policy, "config", None)
    if not isinstance(config, RateLimitConfig):
        return repr(policy)
    changed = config.model_dump(exclude_defaults=True)
    return ", ".join(f"{name} = {value}" for name, value in changed.items()) or "defaults"


def jain_index(shares: npt.ArrayLike) -> float:
    """Return Jain's fairness index: 1 when all shares are equal, 1/n when one has it all (Jain, Chiu, Hawe 1984)."""
    given = np.asarray(shares, dtype=np.float64)
    squares = float((given**2).sum())
    return float(given.sum()) ** 2 / (len(given) * squares) if squares else math.nan


def _columns(kept: Columns, names: tuple[str, ...]) -> dict[str, Any]:
    return {
        name: pd.Categorical.from_codes(kept[name], categories=pd.Index(_WORDS[name])) if name in _WORDS else kept[name]
        for name in names
    }


def _recovered(
    mine: npt.NDArray[np.int64],
    best: npt.NDArray[np.int64],
    rejected: npt.NDArray[np.int64],
    since_s: float,
    until_s: float,
) -> float:
    for start in range(math.ceil(since_s), math.floor(until_s) - _WINDOW_S + 1):
        window = slice(start, start + _WINDOW_S)
        admitted, rejections = mine[window].sum(), rejected[window].sum()
        enough = admitted >= 0.9 * best[window].sum()
        if enough and rejections <= 0.05 * (admitted + rejections):
            return start - since_s
    return math.nan
