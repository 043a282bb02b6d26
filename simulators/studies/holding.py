"""Whether tuned settings lose anything where they were not tuned: a few worlds of the suite, each of another kind."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from factflow_llm.errors import ConfigurationError
from factflow_llm.tables import nearest
from simulators.policies.ours import Adaptive
from simulators.scenarios.worlds import suite
from simulators.studies.parallel import World, with_yardsticks

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from factflow_llm.ratelimit.config import RateLimitConfig
    from simulators.studies.parallel import Each

WITNESSES: Final = (
    "bucket-true", "cold-minute", "fleet-4", "grows-tenfold", "idle-halved", "noise-bucket", "slots-far",
    "tails-untold",
)  # fmt: skip
"""Worlds of the suite that tell most for the time they take: a quota that moves, used-up and growing windows, a fleet
that reads headers, idling, noise, slots behind a network, tokens that nobody foretells."""
_SEED: Final = 0


class Loss(NamedTuple):
    """What settings lose to the defaults in a world where they were not tuned; below 0 they gain.

    Attributes:
        trial: which settings.
        world: where.
        goodput: of the ratio to the oracle's.
        rejected: share of 429s that they have more.
    """

    trial: int
    world: str
    goodput: float
    rejected: float


class Witnesses:
    """Worlds in which trials are held to what the defaults do.

    Args:
        names: of worlds of the suite.
        tuned_on: names of scenarios that bear no witness, for trials were chosen by them.
        each: where runs are made.

    Raises:
        ConfigurationError: a name that no world has, with the nearest one.
    """

    def __init__(self, names: Sequence[str], tuned_on: Collection[str], each: Each) -> None:
        known = suite()
        for name in names:
            if name not in known:
                msg = f"held_to: no world of the suite is called {name!r}{nearest(name, known)}"
                raise ConfigurationError(msg)
        worlds = [
            World(known[name].scenario, name, _SEED, known[name].clients) for name in names if name not in tuned_on
        ]
        self._each = each
        self._worlds = with_yardsticks(worlds, each)
        self._defaults: list[dict[str, float]] | None = None

    def losses(self, trial: int, config: RateLimitConfig, defaults: RateLimitConfig) -> list[Loss]:
        """Return what a trial's settings lose to the defaults, world by world."""
        if self._defaults is None:
            self._defaults = self._figures(defaults)
        return [
            Loss(
                trial,
                world.name,
                before["goodput_ratio"] - after["goodput_ratio"],
                after["rejected_share"] - before["rejected_share"],
            )
            for world, before, after in zip(self._worlds, self._defaults, self._figures(config), strict=True)
        ]

    def _figures(self, config: RateLimitConfig) -> list[dict[str, float]]:
        return [row[0] for row in self._each(partial(World.figures, policies=(Adaptive(config),)), self._worlds)]
