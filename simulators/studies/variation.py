"""What each of the limiter's settings matters: moved one at a time, or two against each other, all else kept."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.config import RateLimitConfig
from simulators.numerals import readable
from simulators.studies.comparison import HEADLINES, compare

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from simulators.progress import Progress
    from simulators.scenarios.scenario import Scenario
    from simulators.streams import Seeds
    from simulators.studies.parallel import Jobs

Settings = dict[str, Any]


@dataclass(frozen=True, repr=False, eq=False)
class Variation:
    """What became of the figures as settings were moved.

    Attributes:
        frame: one row per setting moved (``moved``: its name) and value, with the means of the figures over all worlds;
            where settings were not crossed, the first row is ``config`` itself, with nothing moved.
        config: what was moved from.
        settings: names of what was moved.
        crossed: whether every value met every value of the other setting.
    """

    frame: pd.DataFrame
    config: RateLimitConfig
    settings: tuple[str, ...]
    crossed: bool

    def spans(self, figure: str = "goodput_ratio") -> pd.DataFrame:
        """Return the ``least`` and ``most`` of a figure by setting, and their ``span``; the widest first.

        Raises:
            ConfigurationError: for a figure that is not in the frame, or settings that were crossed.
        """
        self.require(figure, crossed=False)
        curves = pd.concat({name: self.curve(name, figure)[figure] for name in self.settings}, names=["setting"])
        by_setting = curves.groupby(level="setting", sort=False)
        spans = pd.DataFrame({"least": by_setting.min(), "most": by_setting.max()})
        spans["span"] = spans["most"] - spans["least"]
        return spans.sort_values("span", ascending=False, kind="stable")

    def curve(self, setting: str, figure: str = "goodput_ratio") -> pd.DataFrame:
        """Return the values of a setting, ascending, the one that ``config`` has among them, each with a figure.

        Raises:
            ConfigurationError: for a figure that is not in the frame, or settings that were crossed.
        """
        self.require(figure, crossed=False)
        own = self.frame[self.frame["moved"].isin(["", setting]) & self.frame[setting].notna()]
        return own.sort_values(setting, ignore_index=True)[[setting, figure]]

    def table(self, figure: str = "goodput_ratio") -> pd.DataFrame:
        """Return a figure by the values of two settings that were crossed: the first down, the second across.

        Raises:
            ConfigurationError: for a figure that is not in the frame, or settings that were not crossed.
        """
        self.require(figure, crossed=True)
        down, across = self.settings
        return self.frame.pivot_table(figure, down, across)

    def require(self, figure: str, *, crossed: bool) -> None:
        """Refuse a figure that nobody measured, and settings moved in the other way."""
        if figure not in HEADLINES:
            msg = f"no figure is called {figure!r}; known: {', '.join(HEADLINES)}"
            raise ConfigurationError(msg)
        if self.crossed != crossed:
            how = "two settings, crossed=True" if crossed else "crossed=False"
            msg = f"settings were {'' if self.crossed else 'not '}crossed here; call vary() with {how}"
            raise ConfigurationError(msg)

    def __repr__(self) -> str:
        return f"<Variation of {', '.join(self.settings)}>\n{readable(self.frame).to_string(index=False)}"

    def _repr_html_(self) -> str:
        return readable(self.frame).to_html(index=False)


def vary(
    scenarios: Scenario | Sequence[Scenario],
    settings: Mapping[str, Sequence[float]],
    *,
    config: RateLimitConfig | None = None,
    crossed: bool = False,
    seeds: Seeds = 3,
    jobs: Jobs = None,
    progress: Progress = True,
) -> Variation:
    """Measure what settings matter: move each alone to some values, or two of them to every pair of values.

    Args:
        scenarios: one or more; figures are means over all of them.
        settings: values to try, by name: ``{"decrease": (0.5, 0.7, 0.9), "probe_s": (2, 8, 32)}``.
        config: what to move from; by default the defaults.
        crossed: two settings, and every value of one meets every value of the other.
        seeds: how many worlds per scenario, or which.
        jobs: processes; ``None`` means one per core; or an executor, as in ``compare``.
        progress: a bar where somebody watches, none, or a function that hears (done, total).

    Raises:
        ConfigurationError: for an unknown setting, a value out of bounds, or a number of settings that cannot be
            crossed.
    """
    base = config or RateLimitConfig()
    if not settings or not all(len(values) for values in settings.values()):
        msg = 'vary(): settings is empty; give values by name: {"decrease": (0.5, 0.7, 0.9)}'
        raise ConfigurationError(msg)
    if crossed and len(settings) != 2:
        msg = f"vary(): crossed needs two settings, not {len(settings)} ({', '.join(settings)}); leave it out otherwise"
        raise ConfigurationError(msg)
    steps = _pairs(settings) if crossed else _one_at_a_time(settings, base)
    policies = {str(step): RateLimitConfig.from_dict(base.model_dump() | step) for step in steps}
    figures = compare(scenarios, policies, seeds=seeds, jobs=jobs, progress=progress).frame
    means = figures.groupby("policy", sort=False)[list(HEADLINES)].mean()
    own = {name: getattr(base, name) for name in settings}
    rows = [{"moved": ", ".join(step)} | own | step | means.loc[str(step)].to_dict() for step in steps]
    return Variation(pd.DataFrame(rows).astype(dict.fromkeys(settings, float)), base, tuple(settings), crossed)


def _pairs(settings: Mapping[str, Sequence[float]]) -> list[Settings]:
    (down, rows), (across, columns) = settings.items()
    return [{down: row, across: column} for row, column in itertools.product(sorted(set(rows)), sorted(set(columns)))]


def _one_at_a_time(settings: Mapping[str, Sequence[float]], base: RateLimitConfig) -> list[Settings]:
    moves = [{name: value} for name, values in settings.items() for value in sorted(set(values))]
    return [{}, *(move for move in moves if base.model_dump() | move != base.model_dump())]
