"""How benchmarks measure: CPU time of this process, contestants taking turns, ratios within a round."""

from __future__ import annotations

import asyncio
import gc
import time
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

Spent = dict[str, list[float]]


class Contestant(NamedTuple):
    """Something to run: returns how many units of work it did."""

    name: str
    run: Callable[[], int]


def take_turns(contestants: list[Contestant], rounds: int) -> Spent:
    """Run all in every round, each round beginning with another one; return CPU seconds per unit, by name."""
    spent: Spent = {contestant.name: [] for contestant in contestants}
    for number in range(rounds + 1):  # the first round warms up
        first = number % len(contestants)
        for name, run in contestants[first:] + contestants[:first]:
            gc.collect()
            start = time.process_time()
            units = run()
            cost_s = (time.process_time() - start) / units
            if number:
                spent[name].append(cost_s)
    return spent


def ratio(spent: Spent, name: str, base: str) -> float:
    """Return how many times the cost of ``base`` it is: the median of the rounds' ratios."""
    return median(mine / theirs for mine, theirs in zip(spent[name], spent[base], strict=True))


def show(title: str, spent: Spent) -> None:
    """Print least and median cost per unit."""
    print(f"\n{title}")
    for name, costs in spent.items():
        print(f"  {name:44} {min(costs) * 1e6:9.2f} us min {median(costs) * 1e6:9.2f} us median")


def verdict(what: str, value: float, aim: str, *, met: bool) -> None:
    """Print a figure beside its aim."""
    print(f"  -> {what}: {value:.3g} (aim {aim}: {'met' if met else 'MISSED'})")


def in_loop(main: Callable[[], Coroutine[Any, Any, int]]) -> Callable[[], int]:
    """Return a run that begins and ends an event loop of its own; both are paid for by many units."""
    return lambda: asyncio.run(main())
