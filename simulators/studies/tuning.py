"""Search the limiter's settings for those that get most done while 429s stay rare.

The share of 429s is a constraint, not a weight: nobody knows what a 429 is worth in goodput, but everybody can say how
many are too many. Trials run one after the other, so that a seed gives the same study; the worlds of a trial run in
parallel.
"""

from __future__ import annotations

import html
import json
import math
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import optuna
import pandas as pd

from factflow_llm.errors import ConfigurationError
from factflow_llm.files import write_new
from factflow_llm.ratelimit.config import RateLimitConfig, Searched
from simulators.numerals import readable, share_text
from simulators.policies.ours import Adaptive
from simulators.progress import Progress, reporting
from simulators.studies.comparison import HEADLINES
from simulators.studies.holding import WITNESSES, Loss, Witnesses
from simulators.studies.journal import Journal, opened
from simulators.studies.parallel import Each, Jobs, World, make_worlds, processes, with_yardsticks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes

    from simulators.scenarios.scenario import Scenario
    from simulators.streams import Seeds

STUDY_VERSION = 1
MAX_LOSS = 0.02
"""What tuned settings may lose where they were not tuned, of goodput or in 429s, unless told otherwise."""
LARGEST_SEED = 2**32 - 1
"""What numpy's seeding inside optuna takes."""
GOODPUT_DIGITS = 3
"""Goodput ratios that agree to this many digits count as equal: then the shorter wait decides."""
WAIT_FIGURES = 3
"""Waits that agree to this many significant figures count as equal: then the earlier trial stays."""


class Knob(NamedTuple):
    """A setting that the search turns, between bounds; values have four significant digits, as the file will show."""

    setting: str
    low: float
    high: float
    logarithmic: bool
    whole: bool

    @classmethod
    def of_settings(cls) -> tuple[Knob, ...]:
        """Return a knob for each setting whose field says where to search."""
        return tuple(
            cls(name, searched.low, searched.high, searched.logarithmic, field.annotation is int)
            for name, field in RateLimitConfig.model_fields.items()
            for searched in field.metadata
            if isinstance(searched, Searched)
        )

    def suggest(self, trial: optuna.Trial) -> float:
        """Draw a value."""
        if self.whole:
            return trial.suggest_int(self.setting, int(self.low), int(self.high), log=self.logarithmic)
        return float(f"{trial.suggest_float(self.setting, self.low, self.high, log=self.logarithmic):.4g}")


SEARCH_SPACE = Knob.of_settings()
"""What is searched, as the fields of ``RateLimitConfig`` say it."""


@dataclass(frozen=True, repr=False, eq=False)
class Study:
    """What a search found.

    Attributes:
        frame: one row per trial: its number, its settings, the means of its figures over all worlds,
            ``worst_rejected_share`` (of the scenario with most 429s) and whether that is ``feasible``.
        seed: of the search.
        seeds: of the worlds.
        scenarios: names of the scenarios.
        max_rejected_share: the constraint, for every scenario.
        versions: of what it was found with.
        max_loss: of goodput, and of 429s more, that the best may lose to the defaults where it was not tuned.
        losses: a row per trial that was held to that and per world: see ``holding.Loss``; empty if none was.
    """

    frame: pd.DataFrame
    seed: int
    seeds: tuple[int, ...]
    scenarios: tuple[str, ...]
    max_rejected_share: float
    versions: dict[str, str]
    max_loss: float = MAX_LOSS
    losses: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(Loss._fields)))

    @property
    def best(self) -> pd.Series[Any]:
        """The best trial; see ``rule``."""
        return self.frame.iloc[self._leaders()[-1]]

    @property
    def rule(self) -> str:
        """How the best trial is chosen, exactly."""
        return (
            f"Best is, of the trials with at most {share_text(self.max_rejected_share)} of 429s in every scenario, the "
            f"one with the highest mean goodput ratio; of ratios equal to {GOODPUT_DIGITS} digits, the one with the "
            f"least mean p95 wait; of waits equal to {WAIT_FIGURES} figures, the earliest; trial 0 is the defaults. "
            "Where no trial keeps the bound, the one nearest to it. Left out are trials that in a world of the suite "
            f"lose more than {share_text(self.max_loss)} of goodput to the defaults, or have so many more 429s."
        )

    @property
    def left_out(self) -> int:
        """How many trials did better than the best, and lost too much in worlds that nobody searched."""
        return len(self._losing())

    @property
    def best_config(self) -> RateLimitConfig:
        """The settings of the best trial."""
        return self.config(int(self.best["trial"]))

    def config(self, trial: int) -> RateLimitConfig:
        """Return the settings of a trial."""
        row = self.frame.iloc[trial]
        return _config({knob.setting: row[knob.setting] for knob in SEARCH_SPACE if knob.setting in row})

    def history(self) -> pd.DataFrame:
        """Return one row per trial: its goodput ratio and 429s, and ``best_so_far`` (NaN before any was feasible).

        ``best_so_far`` has the digits by which trials are judged, so it never falls.
        """
        history = self.frame[["trial", "goodput_ratio", "worst_rejected_share", "feasible"]].copy()
        leaders = self.frame.iloc[self._leaders()]
        history["best_so_far"] = leaders["goodput_ratio"].where(leaders["feasible"]).round(GOODPUT_DIGITS).to_numpy()
        return history

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the search's progress."""
        from simulators.plots.comparisons import plot_study

        return plot_study(self, ax=ax)

    @property
    def provenance(self) -> dict[str, str]:
        """Where the best settings come from; the same for the same search on every host."""
        best, first = self.best, self.frame.iloc[0]
        verdict = "" if best["feasible"] else "; NO trial kept 429s within the bound, this one came nearest"
        return {
            "factflow-llm": self.versions["factflow-llm"],
            "optuna": self.versions["optuna"],
            "search": f"trial {int(best['trial'])} of {len(self.frame)}, seed {self.seed}{verdict}",
            "scenarios": "; ".join(self.scenarios),
            "seeds of the worlds": ", ".join(map(str, self.seeds)),
            **{name: f"{best[name]:.4f} (defaults: {first[name]:.4f})" for name in HEADLINES},
            "bound": f"rejected_share <= {self.max_rejected_share:g} in every scenario",
            "elsewhere": self._elsewhere(),
        }

    def _elsewhere(self) -> str:
        """Say what the best loses where it was not tuned."""
        trial = int(self.best["trial"])
        mine = self.losses[self.losses["trial"] == trial]
        better = f"; {self.left_out} that did better here lost more" if self.left_out else ""
        if trial == 0:
            return f"the defaults lose nothing to themselves{better}"
        if mine.empty:
            return "NOT held to the suite"
        goodput, rejected = (mine.sort_values(name).iloc[-1] for name in ("goodput", "rejected"))
        return (
            f"in {len(mine)} worlds of the suite at most {max(goodput['goodput'], 0.0):.4f} of goodput lost "
            f"({goodput['world']}) and {max(rejected['rejected'], 0.0):.4f} more 429s ({rejected['world']}), "
            f"{self.max_loss:g} allowed{better}"
        )

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the study as JSON, with its seed and versions.

        Raises:
            ConfigurationError: when the file exists or cannot be written.
        """
        document = {
            "factflow_study": STUDY_VERSION,
            "versions": self.versions,
            "seed": self.seed,
            "seeds": self.seeds,
            "scenarios": self.scenarios,
            "max_rejected_share": self.max_rejected_share,
            "trials": {str(name): _nulls(column.tolist()) for name, column in self.frame.items()},
            "max_loss": self.max_loss,
            "losses": {str(name): column.tolist() for name, column in self.losses.items()},
        }
        write_new(Path(path), json.dumps(document, indent=1, allow_nan=False) + "\n", overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a study that ``save`` wrote.

        Raises:
            ConfigurationError: when the file cannot be read or is something else.
        """
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
            if document["factflow_study"] != STUDY_VERSION:
                msg = (
                    f"{path}: a study of version {document['factflow_study']}, not {STUDY_VERSION}; update factflow-llm"
                )
                raise ConfigurationError(msg)
            return cls(
                pd.DataFrame({name: _numbers(values) for name, values in document["trials"].items()}),
                document["seed"],
                tuple(document["seeds"]),
                tuple(document["scenarios"]),
                document["max_rejected_share"],
                document["versions"],
                **_held(document),
            )
        except OSError as error:
            msg = f"{path}: cannot be read ({error.strerror}); give a file written by Study.save()"
        except (UnicodeDecodeError, json.JSONDecodeError, AttributeError, KeyError, TypeError):
            msg = f"{path}: this is no study; give a file written by Study.save()"
        raise ConfigurationError(msg)

    def _leaders(self) -> list[int]:
        """Return, for each trial, which was the best up to then, those left out that lose too much elsewhere."""
        ranks, losing = self._ranks(), self._losing()
        leaders = [0]
        for trial in range(1, len(ranks)):
            better = trial not in losing and ranks[trial] < ranks[leaders[-1]]
            leaders.append(trial if better else leaders[-1])
        return leaders

    def _losing(self) -> set[int]:
        """Return the trials that lose too much where they were not tuned."""
        worst = self.losses.groupby("trial")[["goodput", "rejected"]].max().max(axis=1)
        return set(worst[worst > self.max_loss].index)

    def _ranks(self) -> list[tuple[float, float, float]]:
        """Return what trials are ordered by: the lowest is the best, of equal ones the first."""
        excess = (self.frame["worst_rejected_share"] - self.max_rejected_share).clip(lower=0.0)
        goodput = self.frame["goodput_ratio"].round(GOODPUT_DIGITS)
        waits = [float(f"{wait:.{WAIT_FIGURES}g}") for wait in self.frame["wait_p95_s"].fillna(math.inf)]
        return list(zip(excess, -goodput, waits, strict=True))

    def __repr__(self) -> str:
        return f"<Study\n{self._head()}>\n{readable(self._summary()).to_string()}"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self._head())}</pre>{readable(self._summary()).to_html()}"

    def _head(self) -> str:
        return "\n".join(f"{key}: {value}" for key, value in self.provenance.items())

    def _summary(self) -> pd.DataFrame:
        return pd.DataFrame({"default": self.frame.iloc[0], "best": self.best})


def tune(
    scenarios: Scenario | Sequence[Scenario],
    *,
    trials: int = 100,
    seed: int = 0,
    seeds: Seeds = 3,
    jobs: Jobs = None,
    max_rejected_share: float = 0.01,
    held_to: Sequence[str] = WITNESSES,
    max_loss: float = MAX_LOSS,
    progress: Progress = True,
    journal: str | Path | None = None,
) -> Study:
    """Search for the settings with the highest mean ``goodput_ratio`` among those that keep 429s rare.

    The first trial is the defaults. Equal arguments give equal studies, whatever ``jobs``. The best trial is then tried
    in worlds that it was not tuned on, and gives way to the next best where it loses too much to the defaults.

    Args:
        scenarios: one or more; the settings shall do well in all of them.
        trials: how many settings to try.
        seed: of the search.
        seeds: how many worlds per scenario, or which.
        jobs: processes; ``None`` means one per core, 1 starts none; or an executor, as in ``compare``.
        max_rejected_share: largest mean share of 429s among attempts, in every single scenario.
        held_to: names of worlds of the suite in which the best may not lose; none at all if it is empty.
        max_loss: what it may lose there, at most, in any of them: of the goodput ratio, and of the share of 429s.
        progress: a bar where somebody watches, none, or a function that hears (done, total).
        journal: a file that keeps every finished run; the same call with it goes on where it stopped, also for more
            trials than before.

    Raises:
        ConfigurationError: naming the value and the remedy; also for a scenario in which nothing can be answered.
    """
    if trials < 1:
        msg = f"trials = {trials!r} must be at least 1"
        raise ConfigurationError(msg)
    if not 0 <= seed <= LARGEST_SEED:
        msg = f"seed = {seed!r} must lie between 0 and {LARGEST_SEED}"
        raise ConfigurationError(msg)
    if not 0 < max_rejected_share < 1:
        msg = f"max_rejected_share = {max_rejected_share!r} must lie between 0 and 1; a limiter that probes meets 429s"
        raise ConfigurationError(msg)
    if not max_loss >= 0:
        msg = f"max_loss = {max_loss!r} must be at least 0, a share of goodput"
        raise ConfigurationError(msg)
    worlds = make_worlds(scenarios, seeds)
    names = tuple(dict.fromkeys(world.name for world in worlds))
    search = _new_search(seed)
    rows = []
    with (
        opened(journal, worlds, seed, max_rejected_share, SEARCH_SPACE) as kept,
        processes(jobs) as each,
        reporting(progress, trials, "tune") as one_more,
    ):
        worlds = with_yardsticks(worlds, each)
        for _ in range(trials):
            trial = search.ask()
            settings = {knob.setting: knob.suggest(trial) for knob in SEARCH_SPACE}
            figures = _measure(worlds, _config(settings), each, kept)
            shares = figures.groupby("scenario", sort=False)["rejected_share"].mean()
            for name, share in shares.items():
                trial.set_constraint(f"rejected_share: {name}", share - max_rejected_share)
            means = {name: math.fsum(figures[name]) / len(figures) for name in HEADLINES}
            worst = float(shares.max())
            verdict = {"worst_rejected_share": worst, "feasible": worst <= max_rejected_share}
            rows.append({"trial": trial.number} | settings | means | verdict)
            search.tell(trial, means["goodput_ratio"])
            one_more()
        study = Study(
            frame=pd.DataFrame(rows),
            seed=seed,
            seeds=tuple(dict.fromkeys(world.seed for world in worlds)),
            scenarios=names,
            max_rejected_share=max_rejected_share,
            versions={name: _version(name) for name in ("factflow-llm", "optuna", "numpy", "pandas")},
            max_loss=max_loss,
        )
        return _holding(study, Witnesses(held_to, names, each)) if held_to else study


def _holding(study: Study, witnesses: Witnesses) -> Study:
    """Return the study with a best trial that loses nowhere more than it may; the defaults never do."""
    losses: list[Loss] = []
    while (trial := int(study.best["trial"])) not in {0, *study.losses["trial"]}:
        losses += witnesses.losses(trial, study.config(trial), RateLimitConfig())
        study = replace(study, losses=pd.DataFrame(losses, columns=list(Loss._fields)))
    return study


def _new_search(seed: int) -> optuna.Study:
    with _quiet():
        search = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    defaults = RateLimitConfig()
    search.enqueue_trial({knob.setting: getattr(defaults, knob.setting) for knob in SEARCH_SPACE})
    return search


def _measure(worlds: Sequence[World], config: RateLimitConfig, each: Each, kept: Journal | None) -> pd.DataFrame:
    rows = each(partial(World.figures, policies=(Adaptive(config),)), worlds, kept)
    return pd.DataFrame([{"scenario": world.name} | row[0] for world, row in zip(worlds, rows, strict=True)])


def _config(settings: dict[str, float]) -> RateLimitConfig:
    whole = {knob.setting for knob in SEARCH_SPACE if knob.whole}
    return RateLimitConfig.from_dict(
        {name: int(value) if name in whole else float(value) for name, value in settings.items()}
    )


@contextmanager
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "source tree"


def _held(document: dict[str, Any]) -> dict[str, Any]:
    """Return what a study was held to; older files know nothing of that."""
    if "losses" not in document:
        return {}
    return {"max_loss": document["max_loss"], "losses": pd.DataFrame(document["losses"])}


def _numbers(values: list[Any]) -> list[Any]:
    return [math.nan if value is None else value for value in values]


def _nulls(values: list[Any]) -> list[Any]:
    return [None if isinstance(value, float) and math.isnan(value) else value for value in values]
