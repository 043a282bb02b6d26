"""A run in a thread of its own: it tells how far it is, can be stopped, and its errors come back as values."""

from __future__ import annotations

import gc
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulators.engine.result import SimResult
from simulators.engine.simulate import simulate
from simulators.policies.all_knowing import oracle
from simulators.policies.ours import Adaptive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from factflow_llm.ratelimit.config import RateLimitConfig, RetryConfig
    from factflow_llm.ratelimit.line import Ticket
    from simulators.policies.base import Controller, Policy
    from simulators.providers.machine import ProviderMachine
    from simulators.scenarios.scenario import Scenario


class StoppedError(Exception):
    """A run that was told to stop."""


@dataclass(frozen=True)
class WatchedPolicy:
    """A policy whose every request first reports the virtual time; what hears it may raise, and so end the run."""

    policy: Policy
    heard: Callable[[float], None]

    @property
    def name(self) -> str:
        """What reports call it."""
        return self.policy.name

    @property
    def retry(self) -> RetryConfig:
        """How a failed call is tried again."""
        return self.policy.retry

    def controller(self, machine: ProviderMachine) -> Controller:
        """Make the policy's controller, with an ear at its door."""
        controller, heard = self.policy.controller(machine), self.heard
        submit = controller.submit

        def reported(now: float, ticket: Ticket) -> bool:
            heard(now)
            return submit(now, ticket)

        controller.submit = reported  # type: ignore[method-assign]
        return controller


class BackgroundRun:
    """One run under our limiter, and under the oracle where its result is not at hand.

    Args:
        scenario: what to run.
        config: the limiter's settings.
        seed: decides every random draw.
        clients: independent clients on one quota.
        yardstick: the oracle's result, if it is at hand.
        coarse: a look at the beginning while a slider moves: the oracle is not run.

    Attributes:
        result: our run; ``None`` until it is done.
        yardstick: the oracle's.
        error: what went wrong.
        took_s: how long our run took; ``inf`` until it is done.
    """

    def __init__(
        self,
        scenario: Scenario,
        config: RateLimitConfig,
        seed: int,
        clients: int,
        yardstick: SimResult | None,
        *,
        coarse: bool = False,
    ) -> None:
        self.coarse = coarse
        self.scenario = scenario
        self.config = config
        self.seed = seed
        self.clients = clients
        self.result: SimResult | None = None
        self.yardstick = yardstick
        self.error: Exception | None = None
        self._horizon_s = scenario.horizon_s
        self._virtual_s = 0.0
        self._stop = False
        self._began_s = time.perf_counter()
        self.took_s = float("inf")
        self._thread = threading.Thread(target=self._work, name="factflow-llm dashboard run", daemon=True)

    def start(self) -> BackgroundRun:
        """Begin, and return the job."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End the run at its next request; there will be no result."""
        self._stop = True

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end, at most so long; return whether it came."""
        self._thread.join(timeout_s)
        return self.done

    @property
    def done(self) -> bool:
        """Whether it has ended, one way or the other."""
        return not self._thread.is_alive()

    @property
    def progress(self) -> float:
        """How much of our run's virtual time has passed, from 0 to 1."""
        return 1.0 if self.result is not None else min(self._virtual_s / self._horizon_s, 1.0)

    def expected_s(self) -> float:
        """Return how long our whole run will have taken at the speed so far; ``inf`` before anything moved."""
        return projected_s(time.perf_counter() - self._began_s, self.progress)

    @property
    def speed(self) -> float | None:
        """Seconds of the run per second of the clock; ``None`` before anything moved."""
        elapsed_s = min(time.perf_counter() - self._began_s, self.took_s)
        return self.progress * self._horizon_s / elapsed_s if self.progress > 0 else None

    def _work(self) -> None:
        try:
            with _no_collections():
                self.result = self._run(Adaptive(self.config))
                self.took_s = time.perf_counter() - self._began_s
                if not self.coarse:
                    self.yardstick = self.yardstick or self._run(oracle())
        except StoppedError:
            pass
        except Exception as error:
            self.error = error

    def _run(self, policy: Policy) -> SimResult:
        run = simulate(self.scenario, WatchedPolicy(policy, self._heard), seed=self.seed, clients=self.clients).run
        return SimResult(self.scenario, policy, self.seed, self.clients, run)

    def _heard(self, now: float) -> None:
        self._virtual_s = now
        if self._stop:
            raise StoppedError


def projected_s(elapsed_s: float, progress: float) -> float:
    """Return the whole of what has taken ``elapsed_s`` for a share of it."""
    return elapsed_s / progress if progress > 0 else float("inf")


def shorter_s(duration_s: float, expected_s: float, lengths_s: list[float], within_s: float) -> float | None:
    """Return the longest of some lengths whose run takes ``within_s``, else the shortest; ``None`` where none helps."""
    shorter = sorted(length_s for length_s in lengths_s if length_s < duration_s)
    fitting = [length_s for length_s in shorter if expected_s * length_s / duration_s <= within_s]
    return fitting[-1] if fitting else next(iter(shorter), None)


@contextmanager
def _no_collections() -> Iterator[None]:
    """Keep the cyclic collector still: a run makes no cycles, and in a notebook it would walk all libraries."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
