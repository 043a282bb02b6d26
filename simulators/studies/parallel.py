"""Many runs on all cores of one machine, or of a cluster: always in the same order, always with the same figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import joblib

from factflow_llm.errors import ConfigurationError
from factflow_llm.signals import Axis
from simulators.engine.simulate import simulate
from simulators.policies.all_knowing import oracle
from simulators.policies.ours import Adaptive
from simulators.scenarios.scenario import require_scenario
from simulators.streams import seeds_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from simulators.engine.result import SimResult
    from simulators.policies.base import Policy
    from simulators.providers.catalogue import Provider
    from simulators.providers.quotas import Quota
    from simulators.scenarios.scenario import Scenario
    from simulators.streams import Seeds
    from simulators.studies.journal import Journal

Jobs = int | Executor | None
"""Processes, ``None`` for one per core; or an executor: ``dask.distributed.Client(address).get_executor()``."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Each(Protocol):
    """A ``map`` that keeps the order, and notes each result in a journal as soon as it is there."""

    def __call__(
        self, function: Callable[[Item], Result], items: Sequence[Item], /, journal: Journal | None = None
    ) -> Iterator[Result]:
        """Apply the function to each item, somewhere, but for those whose results the journal holds."""
        ...


@dataclass(frozen=True)
class World:
    """A scenario with all its luck: policies that meet in one world are paired.

    Attributes:
        scenario: who asks whom, and what happens meanwhile.
        name: of the scenario, told apart from others of the same name.
        seed: decides every random draw.
        clients: independent clients on the provider's quota.
        shared: whether those of ours share what they learn.
        yardstick: the oracle's result, where it is at hand.
    """

    scenario: Scenario
    name: str
    seed: int
    clients: int = 1
    shared: bool = False
    yardstick: SimResult | None = None

    def oracle(self) -> SimResult:
        """Return the oracle's result, run now unless it is at hand.

        Raises:
            ConfigurationError: when not even the oracle gets an answer, because every request is larger than the quota,
                for example.
        """
        return self.yardstick or answered(self.run(oracle()))

    def figures(self, policies: Sequence[Policy]) -> list[dict[str, float]]:
        """Run each policy and return the summaries; the oracle runs once."""
        best = self.oracle()
        runs = (best if policy == oracle() else self.run(policy) for policy in policies)
        return [{str(name): float(figure) for name, figure in run.summary(best).items()} for run in runs]

    def run(self, policy: Policy) -> SimResult:
        """Run one policy in this world."""
        shared = self.shared and isinstance(policy, Adaptive)
        return simulate(self.scenario, policy, seed=self.seed, clients=self.clients, shared=shared)


def make_worlds(scenarios: Scenario | Sequence[Scenario], seeds: Seeds, clients: int = 1) -> list[World]:
    """Return every scenario with every seed, scenario by scenario.

    Raises:
        ConfigurationError: no scenario, no seed, a seed twice, or two scenarios that cannot be told apart.
    """
    given: list[Scenario] = list(scenarios) if isinstance(scenarios, Iterable) else [scenarios]
    return [
        World(scenario, name, seed, clients)
        for scenario, name in zip(given, _names(given), strict=True)
        for seed in seeds_of(seeds)
    ]


def with_yardsticks(worlds: Sequence[World], each: Each) -> list[World]:
    """Return the worlds with the oracle's results at hand."""
    best = each(World.oracle, worlds)
    return [replace(world, yardstick=result) for world, result in zip(worlds, best, strict=True)]


def answered(best: SimResult) -> SimResult:
    """Return the oracle's result, unless nothing was answered: then say why.

    Raises:
        ConfigurationError: naming the scenario, the quota and the remedy.
    """
    outcomes, name = best.requests["outcome"], best.scenario.name
    if (outcomes == "succeeded").any():
        return best
    if len(outcomes) == 0:
        msg = f"{name}: the workload holds no request; give a longer one"
    elif (outcomes == "never_admissible").any():
        smallest = int((best.requests["input_tokens"] + best.requests["output_tokens"]).min())
        msg = (
            f"{name}: never admissible: every request, from {smallest} tokens up, is larger than the quota "
            f"({quotas(best.scenario.provider)}); choose a provider with a larger quota, or smaller requests"
        )
    else:
        msg = f"{name}: not one request is answered within {best.scenario.horizon_s:g} s; give a longer workload"
    raise ConfigurationError(msg)


def quotas(provider: Provider) -> str:
    """Return the provider's quotas in words."""
    return ", ".join(map(_in_words, provider.quotas)) or "none"


@contextmanager
def processes(jobs: Jobs) -> Iterator[Each]:
    """Yield a ``map`` over processes, which are kept for further calls, or over an executor of the caller's.

    Raises:
        ConfigurationError: when ``jobs`` is below 1.
    """
    if isinstance(jobs, Executor):
        yield _in_order(partial(_executed, jobs))
        return
    if jobs is not None and jobs < 1:
        msg = f"jobs = {jobs!r} must be at least 1; leave it out for one process per core"
        raise ConfigurationError(msg)
    number = jobs or joblib.cpu_count()
    with joblib.Parallel(n_jobs=number, backend="loky", return_as="generator_unordered") as parallel:
        yield _in_order(partial(_forked, parallel))


def _in_order(as_done: Callable[..., Generator[tuple[int, Any]]]) -> Each:
    """Return a ``map`` made of one that yields (place, result) as they come."""

    def each(
        function: Callable[[Item], Result], items: Sequence[Item], /, journal: Journal | None = None
    ) -> Iterator[Result]:
        held: dict[int, Result] = {} if journal is None else journal.next_batch()
        todo = [(place, item) for place, item in enumerate(items) if place not in held]
        with closing(as_done(function, todo)) as done:
            for place in range(len(items)):
                while place not in held:
                    at, result = next(done)
                    held[at] = result
                    if journal is not None:
                        journal.add(at, result)
                yield held.pop(place)

    return each


def _forked(
    parallel: joblib.Parallel, function: Callable[[Item], Result], todo: Sequence[tuple[int, Item]]
) -> Generator[tuple[int, Result]]:
    with closing(parallel(joblib.delayed(_placed)(function, *each) for each in todo)) as done:
        yield from done


def _executed(
    executor: Executor, function: Callable[[Item], Result], todo: Sequence[tuple[int, Item]]
) -> Generator[tuple[int, Result]]:
    futures = [executor.submit(_placed, function, place, item) for place, item in todo]
    try:
        for future in as_completed(futures):
            yield future.result()
    finally:
        for future in futures:
            future.cancel()


def _placed(function: Callable[[Item], Result], place: int, item: Item) -> tuple[int, Result]:
    return place, function(item)


def _in_words(quota: Quota) -> str:
    if quota.axis is Axis.CONCURRENCY:
        return f"{quota.limit:g} calls at once"
    return f"{quota.limit:,.10g} {str(quota.axis).replace('_', ' ')} per {quota.per_s:g} s"


def _names(scenarios: Sequence[Scenario]) -> list[str]:
    """Return the scenarios' names, with the events' labels where names alone do not tell them apart."""
    for each in scenarios:
        require_scenario(each)
    if not scenarios:
        msg = "scenarios: give at least one"
        raise ConfigurationError(msg)
    plain = [scenario.name for scenario in scenarios]
    names = [
        ", ".join([name, *(event.label for event in scenario.events)]) if plain.count(name) > 1 else name
        for name, scenario in zip(plain, scenarios, strict=True)
    ]
    for name in names:
        if names.count(name) > 1:
            msg = f"two scenarios are called {name!r}; tell them apart: Scenario(..., name=...)"
            raise ConfigurationError(msg)
    return names
