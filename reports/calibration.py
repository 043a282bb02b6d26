"""How well calibration does: hidden random providers, told from recordings made by production code, against the truth.

Recordings are made in virtual time: production client, limiter and recorder on an event loop whose clock jumps, before
the very machine that decides behind the HTTP face: forty of half an hour, the same on every host (``hidden``). Over
HTTP the real SDK asks real servers in real time: recordings of one to three minutes, no two runs the same
(``over_http``).

The calibrator was made on other seeds; docs/calibration.md says which.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from factflow_llm.ratelimit.config import RetryConfig
from simulators.calibration.calibrate import Calibration, calibrate
from simulators.calibration.evidence import Evidence
from simulators.calibration.replay import verdicts
from simulators.policies.yardsticks import RetryOnly
from simulators.providers.quotas import FixedWindow, Quota, Slots
from tests.support.recordings import hidden as hidden_provider
from tests.support.recordings import record
from tests.support.recordings_over_http import hidden_over_http, record_over_http

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from simulators.calibration.validation import Validation
    from simulators.policies.base import Policy
    from simulators.providers.catalogue import Provider
    from simulators.traces import Recording

SEEDS = range(7000, 7040)
SEEDS_OVER_HTTP = range(6100, 6136)
UNTIL_S = 1080.0
WORLDS = 9
MORE_WORLDS = 45  # where 429s of so few worlds leave their mean uncertain by more than this share of it:
UNCERTAIN = 0.02
REACHED = 5  # a quota that rejected fewer attempts than this before UNTIL_S was hardly put to the test


class Worlds(NamedTuple):
    """How many 429s came of the same demand in several simulated worlds."""

    mean: float
    deviation: float
    number: int

    @classmethod
    def of(cls, validation: Validation, number: int) -> Worlds:
        """Take them from a validation over so many seeds."""
        row = validation.figures.loc["429s"]
        return cls(float(row["simulated"]), float(row["deviation"]), number)

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return self.deviation / self.number**0.5

    def __str__(self) -> str:
        return f"{self.mean:7.1f} +-{self.deviation:5.1f} ({self.number:>2})"


@dataclass(frozen=True)
class Judgement:
    """One hidden provider: what was found of its quotas that were reached, and how well the rest was foretold.

    Attributes:
        seed: of the provider.
        quotas: one line per quota that was reached.
        shapes: whether each one's currency, kind and window were told.
        errors: of each one's limit, relative.
        held: whether the interval of each one's limit holds the truth.
        invented: quotas told that are not there.
        recorded: 429s in held-out time.
        replayed: the same, by the calibrated quotas alone for the attempts that were recorded: the open loop.
        simulated: the same, where clients and provider are simulated from the recorded demand: the closed loop.
        lucky: the same, simulated with the true provider, which shows what is luck.
        latency_error: of the p95 latency simulated from demand in held-out time, beside the true provider's.
    """

    seed: int
    quotas: tuple[str, ...]
    shapes: tuple[bool, ...]
    errors: tuple[float, ...]
    held: tuple[bool, ...]
    invented: tuple[str, ...]
    recorded: float
    replayed: float
    simulated: Worlds
    lucky: Worlds
    latency_error: float

    def __str__(self) -> str:
        counts = f"{self.recorded:5.0f} {self.replayed:5.0f} {self.simulated} {self.lucky}"
        told = "; ".join([*self.quotas, *(f"{each}: not there" for each in self.invented)])
        return f"{self.seed:>4} | {counts} | p95 {self.latency_error:+6.1%} | {told or 'never reached'}"


def judge(seed: int) -> Judgement:
    """Make a recording of a hidden provider in virtual time, and judge how well calibration tells the provider."""
    provider, trace, limited = hidden_provider(seed)
    with tempfile.TemporaryDirectory() as folder:
        recording = record(provider, trace, Path(folder) / f"hidden-{seed}.jsonl", limited=limited, seed=seed)
    return judged_by(seed, provider, recording, float(trace.arrival_s[0]), UNTIL_S, limited=limited)


def judge_over_http(seed: int) -> Judgement:
    """Do the same in real time, with the real SDK before an HTTP server."""
    provider, trace, limited = hidden_over_http(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"hidden-{seed}.jsonl"
        made = record_over_http(provider, trace, path, limited=limited, seed=seed)
    return judged_by(seed, provider, made.recording, made.zero_s, made.split_s, limited=limited)


def judged_by(
    seed: int, provider: Provider, recording: Recording, begun_s: float, until_s: float, *, limited: bool
) -> Judgement:
    """Calibrate with a recording's first part and compare with the provider, whose time was ``begun_s`` at its zero."""
    calibration = calibrate(recording, until_s)
    policy = None if limited else RetryOnly(RetryConfig())
    validation, simulated = foretold(calibration, policy)
    truth = provider.model_copy(update={"quotas": tuple(rebased(provider.quotas, begun_s))})
    true_one, lucky = foretold(Calibration(truth, (), recording, until_s), policy)
    tested = reached(truth, recording, until_s)
    compared = compare(truth, calibration.provider, tested)
    return Judgement(
        seed=seed,
        quotas=tuple(line for line, _, _ in compared),
        shapes=tuple(right for _, right, _ in compared),
        errors=tuple(error for _, _, error in compared),
        held=tuple(holds(calibration, quota) for quota in tested),
        invented=tuple(invented(truth, calibration.provider)),
        recorded=float(validation.decisions["recorded"]),
        replayed=float(validation.decisions["predicted"]),
        simulated=simulated,
        lucky=lucky,
        latency_error=validation.simulated("latency_p95_s") / true_one.simulated("latency_p95_s") - 1,
    )


def foretold(calibration: Calibration, policy: Policy | None) -> tuple[Validation, Worlds]:
    """Validate in few worlds, or in more where few leave the mean count uncertain."""
    validation = calibration.validate(policy=policy, seeds=WORLDS)
    worlds = Worlds.of(validation, WORLDS)
    if worlds.error <= UNCERTAIN * worlds.mean:
        return validation, worlds
    validation = calibration.validate(policy=policy, seeds=MORE_WORLDS)
    return validation, Worlds.of(validation, MORE_WORLDS)


def rebased(quotas: Iterable[Quota], begun_s: float) -> list[Quota]:
    """Return the quotas in the recording's time, whose zero was ``begun_s`` in the provider's."""
    return [
        quota.model_copy(update={"phase_s": (quota.phase_s - begun_s) % window_s(quota)})
        if isinstance(quota, FixedWindow)
        else quota
        for quota in quotas
    ]


def reached(truth: Provider, recording: Recording, until_s: float) -> list[Quota]:
    """Return the quotas that rejected some of what calibration has seen."""
    attempts = recording.attempts
    evidence = Evidence.of(attempts[attempts["sent_s"] < until_s])
    blamed = verdicts(truth.quotas, evidence).blamed[evidence.to_explain]
    return [quota for place, quota in enumerate(truth.quotas) if (blamed == place).sum() >= REACHED]


def compare(truth: Provider, found: Provider, quotas: Iterable[Quota]) -> list[tuple[str, bool, float]]:
    """Return a line, whether the shape is right, and the limit's error, for each quota."""
    compared = []
    for quota in quotas:
        same = [each for each in found.quotas if each.axis is quota.axis]
        if not same:
            compared.append((f"{shape(quota)}: not found", False, np.inf))
            continue
        error = rate(same[0]) / rate(quota) - 1
        right = shape(same[0]) == shape(quota)
        instead = "" if right else f", taken for {shape(same[0])}"
        compared.append((f"{shape(quota)} {quota.limit:g} ({error:+.2%}){instead}", right, abs(error)))
    return compared


def invented(truth: Provider, found: Provider) -> Iterator[str]:
    """Yield quotas found on axes where there are none, or no more."""
    left = Counter(quota.axis for quota in truth.quotas)
    for quota in found.quotas:
        left[quota.axis] -= 1
        if left[quota.axis] < 0:
            yield shape(quota)


def holds(calibration: Calibration, quota: Quota) -> bool:
    """Return whether the interval found for the quota's limit holds its true limit."""
    for finding in calibration.findings:
        axis, limit, figure = finding.name.partition(": limit")
        if finding.value is not None and limit and axis.startswith(quota.axis.replace("_", " ")):
            assert finding.low is not None
            assert finding.high is not None
            per_s = float(figure.removeprefix(" per ").removesuffix(" s") or 1.0)
            return finding.low * (1 - 1e-6) <= rate(quota) * per_s <= finding.high * (1 + 1e-6)
    return False


def shape(quota: Quota) -> str:
    """Return what tells quotas apart but for their size."""
    window = f" {window_s(quota):g} s" if quota.kind.endswith("window") else ""
    counted = "" if quota.axis in ("requests", "concurrency") else f" {quota.estimate} {quota.settlement}"
    return f"{quota.axis} {quota.kind}{window}{counted}"


def window_s(quota: Quota) -> float:
    """Return the length over which a quota is enforced."""
    return getattr(quota, "enforced_over_s", None) or quota.per_s


def rate(quota: Quota) -> float:
    """Return what a quota lets through: per second, or slots."""
    return quota.limit if isinstance(quota, Slots) else quota.limit / quota.per_s


def hidden(jobs: int | None = None) -> dict[str, str]:
    """Return the report by its file's name, of providers in virtual time."""
    return {"tests/golden/calibration/hidden.txt": report(_shown(judgements(jobs or -1)))}


def over_http(jobs: int | None = None) -> dict[str, str]:
    """Return the report by its file's name, of providers in real time; they mostly wait, so four run at a time."""
    judged = _shown(_each(judge_over_http, SEEDS_OVER_HTTP, jobs or 4))
    return {"tests/golden/calibration/over-http.txt": report(judged)}


def judgements(jobs: int = -1) -> Iterator[Judgement]:
    """Judge all hidden providers, in order."""
    return _each(judge, SEEDS, jobs)


def _each(judge_one: Callable[[int], Judgement], seeds: Iterable[int], jobs: int) -> Iterator[Judgement]:
    judged: Iterator[Judgement] = Parallel(n_jobs=jobs, return_as="generator")(map(delayed(judge_one), seeds))
    return judged


def _shown(judged: Iterable[Judgement]) -> list[Judgement]:
    done = []
    for each in judged:
        sys.stderr.write(f"{each}\n")
        done.append(each)
    return done


def table(judged: Iterable[Judgement]) -> pd.DataFrame:
    """Return the figures of the providers that were reached."""
    rows = [
        {
            "recorded": each.recorded,
            "replayed": each.replayed,
            "simulated": each.simulated.mean,
            "lucky": each.lucky.mean,
            "counting": 2 * each.recorded**0.5,
            "worlds": 2 * each.simulated.deviation * (1 + 1 / each.simulated.number) ** 0.5,
            "means": 2 * (each.simulated.error**2 + each.lucky.error**2) ** 0.5,
            "p95": each.latency_error,
        }
        for each in judged
        if each.quotas
    ]
    return pd.DataFrame(rows)


def report(judged: list[Judgement]) -> str:
    """Return all judgements as text, the summary first."""
    counts = table(judged)
    shapes = np.array([right for each in judged for right in each.shapes])
    errors = np.array([error for each in judged for error in each.errors])
    lines = [
        f"{len(judged)} hidden providers, of which {len(counts)} were reached: {len(shapes)} quotas to be told",
        f"window shape right: {shapes.mean():.1%}",
        f"quotas told that are not there: {sum(len(each.invented) for each in judged)}",
        f"limit within 3 %: {(errors <= 0.03).mean():.1%}, worst {errors.max():.2%}",
        f"limit's interval holds the truth: {np.mean([held for each in judged for held in each.held]):.1%}",
        "429s in held-out time:",
        "  attempts replayed, beside those recorded: " + _agreement(counts, "replayed", "recorded", "counting"),
        "  demand simulated, beside the true provider's: " + _agreement(counts, "simulated", "lucky", "means"),
        "  demand simulated, beside those recorded: " + _agreement(counts, "simulated", "recorded", "worlds"),
        "  the true provider simulated, beside those recorded: " + _agreement(counts, "lucky", "recorded", "worlds"),
        f"p95 latency in held-out time, beside the true provider's: median error {counts['p95'].abs().median():.1%}",
        "",
        "seed | 429s in held-out time: recorded; by the quotas for the recorded attempts; simulated from demand, mean",
        "     | and deviation (number) of worlds; the same with the true provider",
        "     | error of the simulated p95 latency | quotas that were reached, and the error of the limit",
        "",
    ]
    return "\n".join([*lines, *map(str, judged)]) + "\n"


def _agreement(counts: pd.DataFrame, ours: str, theirs: str, luck: str) -> str:
    apart = off(counts, ours, theirs)
    within = apart <= 0.1
    lucky = within | ((counts[ours] - counts[theirs]).abs() <= counts[luck])
    return (
        f"median error {apart.median():.1%}, within 10 % for {within.mean():.1%}, within 10 % or twice the "
        f"deviation of luck for {lucky.mean():.1%}, in all {in_all(counts, ours, theirs):+.1%}"
    )


def off(counts: pd.DataFrame, ours: str, theirs: str) -> pd.Series[float]:
    """Return how far one count is off the other, per provider; a difference of one is no error."""
    apart = (counts[ours] - counts[theirs]).abs()
    return (apart / counts[theirs]).where(apart > 1, 0.0)


def in_all(counts: pd.DataFrame, ours: str, theirs: str) -> float:
    """Return how far the sum of one count is off that of the other."""
    return float(counts[ours].sum() / counts[theirs].sum() - 1)
