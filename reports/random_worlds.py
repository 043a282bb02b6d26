"""Twenty worlds that nobody chose, drawn over two decades of quota, latency, noise, sharing and tails of tokens.

The suite's worlds were written by those who wrote the rule. These were not: numbers decide, and the worst are shown.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from reports import ROOT
from simulators.policies.ours import as_policy
from simulators.providers.catalogue import Provider, RetryAfter
from simulators.providers.faults import Refused
from simulators.providers.latency import LatencyModel
from simulators.providers.quotas import Bucket, FixedWindow, Quota, SlidingWindow
from simulators.scenarios.scenario import Scenario, backlog
from simulators.studies.parallel import World, processes

if TYPE_CHECKING:
    from simulators.engine.result import SimResult

WORLDS = 20
SEED = 2026
WORST = 3
PICTURE = ROOT / "docs" / "pictures" / "random-worlds.png"
_DURATION_S = 900.0
_MOST_CALLERS = 400


class Drawn(NamedTuple):
    """A world, and what was drawn, in words."""

    world: World
    words: str


def drawn(number: int) -> Drawn:
    """Return a world; it does not depend on how many are drawn."""
    luck = np.random.Generator(np.random.Philox(key=[SEED, number]))
    per_s, answer_s = _decades(luck, 0.3, 30.0), _decades(luck, 0.1, 10.0)
    noise, clients = _decades(luck, 0.0005, 0.05), round(_decades(luck, 0.16, 16.0)) or 1
    sigma, uplink_s = round(1.6 * luck.random(), 2), _decades(luck, 0.001, 0.1)
    window_s = float(luck.choice([span for span in (1.0, 10.0, 60.0) if per_s * span >= 2.0]))
    shape = str(luck.choice(["bucket", "fixed window", "sliding window"]))
    per_window = per_s * window_s
    of_calls: dict[str, Quota] = {
        "bucket": Bucket(limit=per_s, per_s=1.0, burst_s=window_s),
        "fixed window": FixedWindow(limit=per_window, per_s=window_s),
        "sliding window": SlidingWindow(limit=per_window, per_s=window_s),
    }
    room = _decades(luck, 0.5, 5.0)  # of tokens, for as many calls as the other quota admits
    tokens = (300.0 + 100.0) * math.exp(sigma**2 / 2.0)
    of_tokens = Bucket(axis="tokens", limit=60.0 * per_s * room * tokens, settlement="at_end")
    told = str(luck.choice(["true", "absent"]))
    source = Provider(
        name="drawn",
        quotas=(of_calls[shape], of_tokens),
        latency=LatencyModel(
            first_token_s=answer_s, per_token_s=0.0, rejection_s=min(0.1, answer_s), uplink_s=uplink_s
        ),
        faults=(Refused(status=429, share=noise),),
        retry_after=RetryAfter.model_validate({"habit": told}),
    )
    workers = int(np.clip(3.0 * per_s * (answer_s + 1.0), 4 * clients, _MOST_CALLERS))
    asked = backlog(workers, _DURATION_S, input_tokens=300.0, output_tokens=100.0, sigma=sigma)
    words = (
        f"{per_s:g}/s by a {shape} of {window_s:g} s, tokens for {room:g} times as much, tails {sigma:g}, answers in "
        f"{answer_s:g} s, {1000 * uplink_s:g} ms away, noise {noise:.2%}, Retry-After {told}, clients {clients}"
    )
    return Drawn(World(Scenario(asked, source, f"drawn {number}"), f"drawn {number}", number, clients), words)


def random_worlds(jobs: int | None = None) -> dict[str, str]:
    """Return the table by its file's name, worst goodput first, and draw the worst."""
    worlds = [drawn(number) for number in range(WORLDS)]
    with processes(jobs) as each:
        figures = each(partial(World.figures, policies=(as_policy(None),)), [one.world for one in worlds])
        rows = sorted(
            (row[0]["goodput_ratio"], row[0]["rejected_share"], row[0].get("jain", 1.0), number)
            for number, row in enumerate(figures)
        )
    goodput, rejected = np.array(rows)[:, :2].mean(axis=0)
    lines = [
        f"{WORLDS} worlds, drawn at random with seed {SEED}, the default limiter, worst goodput first",
        f"mean: goodput {goodput:.3f} of the oracle's, 429s {rejected:.2%}",
        "",
        f"{'goodput':>7} {'429s':>7} {'jain':>6}  world",
    ]
    lines += [f"{row[0]:7.3f} {row[1]:7.2%} {row[2]:6.3f}  {row[3]}: {worlds[row[3]].words}" for row in rows]
    _draw([worlds[row[3]] for row in rows[:WORST]])
    return {"tests/golden/suite/random-worlds.txt": "\n".join(lines) + "\n"}


def _draw(worst: list[Drawn]) -> None:
    """Draw what was admitted and rejected in each, beside what the oracle got."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(len(worst), 1, figsize=(9, 3 * len(worst)), sharex=True, layout="constrained")
    for panel, (world, words) in zip(panels, worst, strict=True):
        best, ours = world.oracle(), world.run(as_policy(None))
        for result, label in ((best, "the oracle"), (ours, "ours")):
            panel.step(*_per_s(result, "succeeded"), where="post", label=label)
        panel.step(*_per_s(ours, "rate_limited"), where="post", label="429s of ours")
        panel.set_title(f"{world.name}: {words}", fontsize=7)
        panel.set_ylabel("calls per second")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    panels[-1].set_xlabel("seconds")
    figure.savefig(PICTURE, dpi=100)
    plt.close(figure)


def _per_s(result: SimResult, outcome: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the calls of an outcome per second, by the half minute in which they were sent."""
    attempts = result.attempts
    edges = np.arange(0.0, _DURATION_S + 30.0, 30.0)
    counts, _ = np.histogram(attempts["sent_s"][attempts["outcome"] == outcome], bins=edges)
    return edges[:-1], counts / 30.0


def _decades(luck: np.random.Generator, low: float, high: float) -> float:
    """Draw a number whose logarithm is uniform, with two digits."""
    return float(f"{low * (high / low) ** luck.random():.2g}")
