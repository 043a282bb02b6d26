"""What each mechanism of the limiter is worth, and each default: worlds without one of them, or two, or with it moved.

A mechanism that costs nothing when it is missing has no place in the rule, unless another does its work meanwhile. So
those that nobody misses are taken out by twos as well, and beside means the table counts targets that are lost.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from factflow_llm.ratelimit import aimd, gate, slots
from factflow_llm.ratelimit.aimd import RateRule
from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.ratelimit.costs import Costs
from factflow_llm.ratelimit.mirror import Mirror
from factflow_llm.ratelimit.noise import Noise
from factflow_llm.ratelimit.openings import Openings
from factflow_llm.ratelimit.sharing import Sharing
from factflow_llm.ratelimit.slots import SlotRule
from simulators.policies.ours import Adaptive
from simulators.scenarios.worlds import MeasuredWorld, suite
from simulators.studies.comparison import Comparison
from simulators.studies.parallel import World
from simulators.studies.suite import measure as figures_of
from simulators.studies.suite import missed

WORLDS = (
    "bucket-true", "quantised-true", "slots", "busy", "clients-4", "told-hour-once", "noise-bucket", "grows-tenfold",
    "burst-after-idling", "fleet-4", "tails-untold", "large-prompts",
)  # fmt: skip
SEED = 0
CRUTCHES = 5
"""So many of the mechanisms that nobody misses are taken out by twos."""
_WORST = 3
_NOTHING = 0.05
_COLUMNS = ("goodput", "429s", "failed", "unfair")

Patch = Callable[[], Any]
_step = RateRule.step


class Ablation(NamedTuple):
    """A mechanism, and how to do without it."""

    name: str
    patch: Patch = contextlib.nullcontext
    config: RateLimitConfig = RateLimitConfig()

    def and_also(self, other: Ablation) -> Ablation:
        """Return what does without both."""
        changed = self.config.model_dump(exclude_defaults=True) | other.config.model_dump(exclude_defaults=True)
        return Ablation(f"{self.name} + {other.name}", _both(self.patch, other.patch), RateLimitConfig(**changed))


def _both(one: Patch, other: Patch) -> Patch:
    @contextlib.contextmanager
    def patched() -> Any:
        with one(), other():
            yield

    return patched


def _constant(module: Any, name: str, value: float) -> Patch:
    return lambda: mock.patch.object(module, name, value)


def _method(owner: type, name: str, stand_in: Any) -> Patch:
    return lambda: mock.patch.object(owner, name, stand_in)


def _nothing(*_: Any, **__: Any) -> None:
    """Stand in for what only remembers."""


def _always_limited(rule: RateRule, now: float, sent: float, *, limited: bool, unit: float = 1.0) -> Any:
    return _step(rule, now, sent, limited=True, unit=unit)


ABLATIONS = (
    Ablation("shallow cuts: 0.97 of what was measured", config=RateLimitConfig(decrease=0.5)),
    Ablation("the climb steepens above the measured rate", _constant(aimd, "_CONVEX", 0.0)),
    Ablation("a search: what is too low is doubled", _method(RateRule, "search", _nothing)),
    Ablation("growth only when the limit was used", _method(RateRule, "step", _always_limited)),
    Ablation("measured along a chain of openings", _method(Openings, "_lengthen", _nothing)),
    Ablation("windows are recognised", _method(RateRule, "_notice_window", _nothing)),
    Ablation("a burst that was seen may be used", _method(RateRule, "_remember_burst", _nothing)),
    Ablation("a rate whose unused part is lost is raised", _method(RateRule, "_raise_lost", _nothing)),
    Ablation("shares of one quota draw level", _method(Sharing, "after", lambda sharing, climbed: sharing)),
    Ablation("noise is told apart", _method(Noise, "asks", lambda noise, **_: False)),
    Ablation("a Retry-After is doubted", _constant(gate, "_PATIENCE_S", math.inf)),
    Ablation("slow start of calls in flight", config=RateLimitConfig(initial_concurrency=1024)),
    Ablation("rejections may speak of slots", _method(SlotRule, "blames", lambda rule, in_flight: False)),
    Ablation("overload takes a tenth off the calls in flight", _constant(slots, "_GIVE_WAY", 1e9)),
    Ablation("headers are mirrored", _method(Mirror, "observe", lambda mirror, *_, **__: False)),
    Ablation("headers show the others' share", _method(Mirror, "_watch_others", _nothing)),
    Ablation("large calls accuse the tokens", _method(Costs, "large_are_rejected", property(lambda costs: False))),
)
SETTINGS = tuple(
    Ablation(", ".join(f"{name} {value:g}" for name, value in changed.items()), config=RateLimitConfig(**changed))
    for changed in (
        {"decrease": 0.9},
        {"decrease": 0.985},
        {"probe_s": 4.0},
        {"probe_s": 16.0},
        {"probe_requests": 30.0},
        {"probe_requests": 120.0},
        {"search_s": 2.0},
        {"search_s": 8.0},
        {"cool_off_s": 0.02},
        {"cool_off_s": 1.0},
        {"initial_concurrency": 4},
        {"initial_concurrency": 64},
    )
)
ALL = Ablation("all of it")
SINGLES = (*ABLATIONS, *SETTINGS)


@functools.cache
def worlds() -> dict[str, MeasuredWorld]:
    """Return where mechanisms are tried, by name: worlds of the suite that tell each of them from nothing."""
    known = suite()
    return {name: known[name] for name in WORLDS}


class Worth(NamedTuple):
    """What a limiter is worth in a world; shares, of which 1 is all.

    Attributes:
        goodput: of the oracle's.
        rejected: of attempts.
        failed: of calls that ended, those that were given up.
        unfair: what Jain's index lacks; 0 for a single client.
        lost: how many of the world's targets are missed.
    """

    goodput: float
    rejected: float
    failed: float
    unfair: float
    lost: float


@functools.cache
def _lucky(name: str, seed: int) -> World:
    """Return a world with its luck, and the oracle's result at hand."""
    known = worlds()[name]
    world = World(known.scenario, name, seed, known.clients)
    return replace(world, yardstick=world.oracle())


def measure(ablation: Ablation, name: str, seed: int = SEED) -> Worth:
    """Return what is left in a world without the mechanism."""
    world, lucky = worlds()[name], _lucky(name, seed)
    with ablation.patch():
        rows = figures_of(lucky, {"ours": Adaptive(ablation.config)})
    found = Comparison(pd.DataFrame(rows), clients=world.clients)
    figures = found.frame.iloc[0]
    failed = float(figures["failed"])
    ended = failed + float(figures["goodput"]) * world.scenario.horizon_s
    unfair = 1.0 - float(figures["jain"]) if world.clients > 1 else 0.0
    lost = float(len(missed(world.targets, found, name)))
    return Worth(float(figures["goodput_ratio"]), float(figures["rejected_share"]), failed / ended, unfair, lost)


def ablations(jobs: int | None = None) -> dict[str, str]:
    """Return the table by its file's name.

    It tells the mean change without each mechanism, without two that nobody misses, or with another setting; how many
    targets are lost; and who suffers most.
    """
    base = _measured([ALL], jobs)[0]
    singles = _measured(SINGLES, jobs) - base
    pairs = tuple(one.and_also(other) for one, other in itertools.combinations(_crutches(singles), 2))
    means = base[:, :-1].mean(axis=0) * 100
    all_of_it = ", ".join(f"{figure} {mean:.2f}" for figure, mean in zip(_COLUMNS, means, strict=True))
    lines = [
        f"{len(WORLDS)} worlds, seed {SEED}; in points of a hundred: goodput of the oracle's, 429s of attempts, calls",
        "given up, what Jain's index lacks where several share a quota; and targets lost that are met with all of it",
        f"with {ALL.name}: {all_of_it}, targets missed {base[:, -1].sum():.0f}",
    ]
    parts = (
        ("without", ABLATIONS, singles[: len(ABLATIONS)]),
        (f"without two of the {CRUTCHES} that are missed least", pairs, _measured(pairs, jobs) - base),
        ("with another setting", SETTINGS, singles[len(ABLATIONS) :]),
    )
    width = max(len(ablation.name) for ablation in (*SINGLES, *pairs))
    for title, tried, moved in parts:
        lines += [
            "",
            f"{title:{width}} {'goodput':>8} {'429s':>7} {'failed':>7} {'unfair':>7} {'lost':>5}  who suffers most",
        ]
        lines += [f"{ablation.name:{width}} {_told(each)}" for ablation, each in zip(tried, moved, strict=True)]
    return {"tests/golden/suite/ablations.txt": "\n".join(lines) + "\n"}


def _crutches(singles: Any) -> list[Ablation]:
    """Return the mechanisms that are missed least, in their order: fewest targets lost, then least harm."""
    ranks = [(each[:, -1].sum(), _harm(each).sum()) for each in singles[: len(ABLATIONS)]]
    least = sorted(range(len(ABLATIONS)), key=ranks.__getitem__)[:CRUTCHES]
    return [ABLATIONS[place] for place in sorted(least)]


def _measured(tried: tuple[Ablation, ...] | list[Ablation], jobs: int | None) -> Any:
    """Return a row per ablation, a column per world, and what it is worth there."""
    each = Parallel(n_jobs=jobs or -1)(delayed(measure)(*one) for one in itertools.product(tried, WORLDS))
    return np.array(each).reshape(len(tried), len(WORLDS), len(Worth._fields))


def _harm(moved: Any) -> Any:
    return moved[:, 1:-1].sum(axis=1) - moved[:, 0]


def _told(moved: Any) -> str:
    harm = _harm(moved) * 100
    worst = [
        f"{WORLDS[place]} ({_said(moved[place])})"
        for place in np.argsort(-harm, kind="stable")[:_WORST]
        if harm[place] > _NOTHING
    ]
    goodput, rejected, failed, unfair, _ = moved.mean(axis=0) * 100
    figures = f"{goodput:+8.2f} {rejected:+7.2f} {failed:+7.2f} {unfair:+7.2f} {moved[:, -1].sum():+5.0f}"
    return f"{figures}  {', '.join(worst) or 'nobody'}"


def _said(moved: Any) -> str:
    named = zip(_COLUMNS, moved[:-1] * 100, strict=True)
    return ", ".join(f"{figure} {points:+.1f}" for figure, points in named if abs(points) >= _NOTHING)
