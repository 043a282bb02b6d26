"""What each mechanism of the limiter is worth, and each default: worlds with one of them missing or moved at a time.

A mechanism that costs nothing when it is missing has no place in the rule.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from joblib import Parallel, delayed

from factflow_llm.ratelimit import aimd, core, slots
from factflow_llm.ratelimit.aimd import Mode, RateRule
from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.ratelimit.core import LimiterCore
from factflow_llm.ratelimit.mirror import Mirror
from factflow_llm.ratelimit.sharing import Sharing
from factflow_llm.ratelimit.slots import SlotRule
from simulators.engine.simulate import simulate
from simulators.policies.all_knowing import oracle
from simulators.scenarios.worlds import MeasuredWorld, random_worlds, suite

WORLDS = (
    "bucket-true", "bucket-absent", "burst-true", "fixed-10-true", "fixed-60-absent", "quantised-true", "sliding-true",
    "sliding-absent", "slots", "slots-few", "slow", "storm", "busy", "openai-1", "openai-1-blind", "azure", "anthropic",
    "below", "code-2x", "clients-4", "rqc-10", "nall", "rejections-count",
)  # fmt: skip
RANDOM_WORLDS = 12
SEEDS = 2
_WORST = 3
_NOTHING = 0.05
_COLUMNS = ("goodput", "429s", "failed", "unfair")

Patch = Callable[[], Any]
_step, _grant, _blames = RateRule.step, LimiterCore.grant, SlotRule.blames


class Ablation(NamedTuple):
    """A mechanism, and how to do without it."""

    name: str
    patch: Patch
    config: RateLimitConfig = RateLimitConfig()


def _constant(module: Any, name: str, value: float) -> Patch:
    return lambda: mock.patch.object(module, name, value)


def _method(owner: type, name: str, stand_in: Callable[..., Any]) -> Patch:
    return lambda: mock.patch.object(owner, name, stand_in)


def _always_limited(rule: RateRule, now: float, sent: float, *, limited: bool, unit: float = 1.0) -> Any:
    return _step(rule, now, sent, limited=True, unit=unit)


def _of_every_epoch(limiter: LimiterCore, now: float, ticket: Any) -> None:
    _grant(limiter, now, ticket)
    ticket.epoch = 10**9


def _keeps_slots(rule: SlotRule, in_flight: int) -> bool:
    mode = rule.mode
    blamed = _blames(rule, in_flight)
    if mode is Mode.PROBE and not blamed:
        rule.mode = mode
    return blamed


def _nothing() -> Any:
    return mock.MagicMock()


ABLATIONS = (
    Ablation("epochs: refusals of one burst are one event", _method(LimiterCore, "grant", _of_every_epoch)),
    Ablation("measured ceiling: 20 calls make a sound sample", _constant(aimd, "SOUND_SAMPLE", 10**9)),
    Ablation("shallow cuts: 0.97 of what was measured", _nothing, RateLimitConfig(decrease=0.5)),
    Ablation("the climb steepens above the ceiling", _constant(aimd, "_CONVEX", 0.0)),
    Ablation("search: a stale ceiling is doubled away from", _constant(aimd, "_STALE_S", math.inf)),
    Ablation("a confirmed ceiling is tried half as often", _constant(aimd, "_CONFIRMED_CLIMB", 1.0)),
    Ablation("a limit long unused measures nothing", _constant(aimd, "_UNUSED_CLIMBS", math.inf)),
    Ablation("what was reached counts beside what was measured", _constant(aimd, "_DOUBTFUL", -1.0)),
    Ablation("... but only while refusals come late", _constant(aimd, "_DOUBTFUL", 1.0)),
    Ablation("shares of one quota draw level", _method(Sharing, "after", lambda sharing, climbed: sharing)),
    Ablation("growth only when the limit was used", _method(RateRule, "step", _always_limited)),
    Ablation("windows are recognised by long blocks", _constant(aimd, "_WINDOW_BLOCK_S", math.inf)),
    Ablation("openings whole windows apart confirm a window", _constant(aimd, "_WHOLE", 0.0)),
    Ablation("an unseen opening is taken to be early", _constant(aimd, "_EARLY", 0.5)),
    Ablation("canary: the first call after a cut goes alone", _constant(core, "_CANARY_S", 0.0)),
    Ablation("Retry-After and cool-off gate dispatch", _nothing, RateLimitConfig(cool_off_cap_s=1e-3)),
    Ablation("slow start of calls in flight", _nothing, RateLimitConfig(initial_concurrency=1024)),
    Ablation("calls in flight grow in silence", _constant(slots, "_NEWS_S", math.inf)),
    Ablation("refusals may speak of slots", _method(SlotRule, "blames", lambda rule, in_flight: False)),
    Ablation("once slots are to blame, the rate is searched anew", _method(RateRule, "search", lambda *_: None)),
    Ablation("once the rate is to blame, slots grow fast again", _method(SlotRule, "blames", _keeps_slots)),
    Ablation("overload takes a tenth off the calls in flight", _constant(slots, "_GIVE_WAY", 1e9)),
    Ablation("headers are a prior", _method(Mirror, "observe", lambda mirror, *_, **__: False)),
)
SETTINGS = tuple(
    Ablation(", ".join(f"{name} {value:g}" for name, value in changed.items()), _nothing, RateLimitConfig(**changed))
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
ALL = Ablation("all of it", _nothing)
TRIED = (ALL, *ABLATIONS, *SETTINGS)


@functools.cache
def worlds() -> list[MeasuredWorld]:
    """Return where mechanisms are tried: worlds of the suite, and some drawn at random."""
    known = suite()
    return [*(known[name] for name in WORLDS), *random_worlds(RANDOM_WORLDS, seed=9).values()]


class Worth(NamedTuple):
    """What a limiter is worth in a world; shares, of which 1 is all.

    Attributes:
        goodput: of the oracle's.
        rejected: of attempts.
        failed: of calls that ended, those that were given up.
        unfair: what Jain's index lacks; 0 for a single client.
    """

    goodput: float
    rejected: float
    failed: float
    unfair: float


def measure(ablation: Ablation, world: MeasuredWorld, seed: int) -> Worth:
    """Return what is left without the mechanism."""
    best = simulate(world.scenario, oracle(), seed=seed, clients=world.clients, collect="summary")
    with ablation.patch():
        found = simulate(world.scenario, ablation.config, seed=seed, clients=world.clients, collect="summary").summary(
            best
        )
    failed = float(found["failed"])
    ended = failed + float(found["goodput"]) * world.scenario.horizon_s
    unfair = 1.0 - float(found["jain"]) if world.clients > 1 else 0.0
    return Worth(float(found["goodput_ratio"]), float(found["rejected_share"]), failed / ended, unfair)


def ablations(jobs: int | None = None) -> dict[str, str]:
    """Return the table by its file's name.

    It tells the mean change without each mechanism, or with another setting, and who suffers most.
    """
    everywhere = worlds()
    asked = itertools.product(range(len(TRIED)), range(len(everywhere)), range(SEEDS))
    found = Parallel(n_jobs=jobs or -1)(delayed(_measure)(*each) for each in asked)
    means = np.array(found).reshape(len(TRIED), len(everywhere), SEEDS, len(Worth._fields)).mean(axis=2) * 100
    base = means[0]
    all_of_it = ", ".join(f"{figure} {mean:.2f}" for figure, mean in zip(_COLUMNS, base.mean(axis=0), strict=True))
    lines = [
        f"{len(everywhere)} worlds, {SEEDS} paired seeds; in points of a hundred: goodput of the oracle's, 429s of",
        "attempts, calls given up, and what Jain's index lacks where several share a quota",
        f"with {ALL.name}: {all_of_it}",
        "",
        f"{'without':54} {'goodput':>8} {'429s':>7} {'failed':>7} {'unfair':>7}  worlds that suffer most",
    ]
    for ablation, mine in zip(TRIED[1:], means[1:], strict=True):
        if ablation is SETTINGS[0]:
            lines += ["", "with another setting"]
        moved = mine - base
        harm = moved[:, 1:].sum(axis=1) - moved[:, 0]
        worst = [
            f"{everywhere[place].name} ({_said(moved[place])})"
            for place in np.argsort(-harm)[:_WORST]
            if harm[place] > _NOTHING
        ]
        goodput, rejected, failed, unfair = moved.mean(axis=0)
        figures = f"{goodput:+8.2f} {rejected:+7.2f} {failed:+7.2f} {unfair:+7.2f}"
        lines.append(f"{ablation.name:54} {figures}  {', '.join(worst) or 'none'}")
    return {"tests/golden/suite/ablations.txt": "\n".join(lines) + "\n"}


def _said(moved: Any) -> str:
    named = zip(_COLUMNS, moved, strict=True)
    return ", ".join(f"{figure} {points:+.1f}" for figure, points in named if abs(points) >= _NOTHING)


def _measure(number: int, place: int, seed: int) -> Worth:
    return measure(TRIED[number], worlds()[place], seed)
