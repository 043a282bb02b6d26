"""Whether calibration invents anything: hidden worlds whose networks shake, whose clients insist, whose 429s may lie.

Twenty-six worlds have a quota, of all kinds, asked without a limiter; of the others six never reject for a quota, two
lose a part of the traffic, two change their quota, two mix random 429s in, and two have a window that nobody can tell.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from joblib import Parallel, delayed

from factflow_llm.signals import Axis
from reports.calibration import rate, shape
from simulators.calibration.calibrate import calibrate
from simulators.providers.quotas import Bucket, FixedWindow, Quota, SlidingWindow, Slots
from tests.support.shaken_recordings import World, make

if TYPE_CHECKING:
    from collections.abc import Iterable

SEEDS = range(9000, 9040)
FEW = (9005, 9008, 9017, 9020, 9032)  # of several kinds, quickly told: for every run of the tests
_EXACT = 0.03
_CLOCKS_S = 0.5


@dataclass(frozen=True)
class Told:
    """What was told of one world.

    Attributes:
        seed: of the world.
        about: it, in words.
        rows: attempts recorded.
        rejected: share of 429s.
        expected: quotas that are there to be named.
        named: quotas that were named.
        right: how many of them are there, with the right kind, window and limit.
        words: what they are, or why there are none.
    """

    seed: int
    about: str
    rows: int
    rejected: float
    expected: int
    named: int
    right: int
    words: str

    def __str__(self) -> str:
        verdict = "right" if self.named == self.right and self.named else "wrong" if self.named else "not named"
        return (
            f"{self.seed} | {self.about:<44} | {self.rows:>6} rows, {self.rejected:4.0%} | {verdict:<9} | {self.words}"
        )


def hidden_world(seed: int) -> tuple[World, str]:
    """Return a random world, and what is odd about it."""
    luck = random.Random(f"shaken {seed}")
    place = seed % 40
    per_s = luck.uniform(3.0, 9.0)
    world = World(
        per_s=per_s,
        burstiness=luck.choice([1.0, 1.0, 2.0]),
        duration_s=luck.choice([600.0, 900.0]),
        jitter_s=luck.uniform(0.0003, 0.01),
        retries=luck.choice([0, 2, 6]),
        says=luck.random() < 0.4,
        names=luck.random() < 0.3,
        answer_s=luck.uniform(0.4, 1.5),
    )
    if place < 6:
        share = luck.choice([0.002, 0.05, 0.3, 0.75])
        return replace(world, random_429=share, retries=6, backoff_s=luck.choice([0.1, 1.0])), f"random 429s, {share:g}"
    quota = _quota(luck, per_s * luck.uniform(0.7, 0.95), world)
    world = replace(world, quotas=(quota,))
    if place < 8:
        return replace(world, unrecorded=luck.uniform(0.2, 0.5)), "traffic that was not recorded"
    if place < 10:
        moved = quota.model_copy(update={"limit": round(quota.limit * luck.uniform(0.5, 0.7)) or 1.0})
        return replace(world, moved=(moved,), moved_s=world.duration_s * luck.uniform(0.4, 0.6)), "moved"
    if place < 12:
        return replace(world, random_429=0.03), "random 429s, too"
    if place < 14:
        limit = round(per_s * world.duration_s * 0.7)
        return replace(world, quotas=(FixedWindow(limit=limit, per_s=3600.0),), retries=1), "a window of an hour"
    if place < 20:
        world = replace(world, retries=12, backoff_s=0.2, longest_backoff_s=luck.uniform(1.0, 4.0), says=False)
        return world, "a storm of retries"
    if place < 24:
        return replace(world, clocks_s=_CLOCKS_S), "clocks apart"
    if place < 27:
        both = (quota, _quota(luck, per_s * luck.uniform(0.7, 0.95), world, Axis.TOKENS))
        if quota.axis is Axis.REQUESTS:
            return replace(world, quotas=both), "two quotas"
    return world, ""


def _quota(luck: random.Random, per_s: float, world: World, axis: Axis | None = None) -> Quota:
    kind = luck.choice(["bucket", "bucket", "fixed", "sliding", "slots"])
    axis = axis or luck.choice([Axis.REQUESTS, Axis.REQUESTS, Axis.TOKENS])
    if kind == "slots" and axis is Axis.REQUESTS:
        return Slots(limit=max(round(per_s * world.answer_s * 0.9), 2))
    units = 1.0 if axis is Axis.REQUESTS else world.tokens[0] * 1.2 + world.tokens[2]
    about: dict[str, Any] = {"axis": axis, "limit": round(per_s * units) * 60}
    if kind in ("bucket", "slots"):
        return Bucket(**about, burst_s=luck.choice([4.0, 5.0, 10.0, 20.0]))
    over_s = luck.choice([5.0, 10.0, 60.0])
    if kind == "fixed":
        return FixedWindow(**about, enforced_over_s=over_s, phase_s=luck.uniform(0.0, over_s))
    return SlidingWindow(**about, enforced_over_s=over_s)


def tell(seed: int) -> Told:
    """Record a hidden world, calibrate, and compare."""
    world, odd = hidden_world(seed)
    recording = make(world, seed)
    calibration = calibrate(recording, progress=False)
    there = [*(world.moved or world.quotas)]
    found = list(calibration.provider.quotas)
    right = 0
    words = []
    for each in found:
        same = next((true for true in there if shape(true) == shape(each)), None)
        error = rate(each) / rate(same) - 1 if same else float("nan")
        right += abs(error) <= _EXACT
        words.append(f"{shape(each)} {each.limit:g} ({error:+.2%})")
    if not found:
        words = [str(each.value) for each in calibration.findings if each.name.startswith("429s:")]
    rejected = float((recording.attempts["outcome"] == "rate_limited").mean())
    about = "; ".join([*([odd] if odd else []), *(f"{shape(each)} {each.limit:g}" for each in world.quotas)])
    expected = 0 if odd in ("traffic that was not recorded", "a window of an hour") else len(there)
    return Told(seed, about, len(recording.attempts), rejected, expected, len(found), right, "; ".join(words))


def report(told: Iterable[Told]) -> str:
    """Return all as text, the summary first."""
    listed = list(told)
    named, right = sum(each.named for each in listed), sum(each.right for each in listed)
    lines = [
        f"{len(listed)} hidden worlds with {sum(each.expected for each in listed)} quotas to be named",
        f"quotas named: {named}, of which right in kind, window and limit: {right}",
        f"named where there is none: {sum(each.named for each in listed if not each.expected)}",
        "",
    ]
    return "\n".join([*lines, *map(str, listed)]) + "\n"


def shaken(jobs: int | None) -> dict[str, str]:
    """Judge all hidden worlds."""
    told = Parallel(n_jobs=jobs or -1)(delayed(tell)(seed) for seed in SEEDS)
    return {"tests/golden/calibration/shaken.txt": report(told)}
