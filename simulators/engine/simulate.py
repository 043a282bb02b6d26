"""The one function that runs a scenario."""

from __future__ import annotations

from typing import TYPE_CHECKING

from factflow_llm.errors import ConfigurationError
from simulators.engine.loop import run
from simulators.engine.result import SimResult
from simulators.policies.fleet import Fleet, Store
from simulators.policies.ours import Adaptive, as_policy
from simulators.scenarios.scenario import require_scenario

if TYPE_CHECKING:
    from factflow_llm.ratelimit.config import RateLimitConfig
    from simulators.engine.run_log import Collect
    from simulators.policies.base import Policy
    from simulators.scenarios.scenario import Scenario


def simulate(
    scenario: Scenario,
    policy: Policy | RateLimitConfig | None = None,
    *,
    seed: int = 0,
    clients: int = 1,
    shared: bool = False,
    store: Store | None = None,
    collect: Collect = "frames",
) -> SimResult:
    """Run a scenario under a policy and return what happened.

    A function: no files, no globals, no plots. Equal arguments give equal results, to the bit, on every host.

    Args:
        scenario: workload, provider and events.
        policy: our limiter's settings, one of ``sim.policies``, or anybody's; ``None`` means our defaults.
        seed: decides every random draw: two policies with one seed meet the same world.
        clients: independent controllers that share the provider's quota; requests are dealt to them in turn.
        shared: whether the clients share what they learn, as with ``RateLimitConfig(shared=…)`` in production.
        store: how reliable the store between them is; by default one that answers in 2 ms and never fails.
        collect: ``"frames"`` keeps every attempt and request; ``"summary"`` only what the summary is made from, in
            space that does not grow with the run, with percentiles to a thousandth.

    Raises:
        ConfigurationError: for something that is no policy, ``clients`` below 1, or an unknown ``collect``.
    """
    require_scenario(scenario)
    if clients < 1:
        msg = f"simulate(): clients = {clients!r} must be at least 1"
        raise ConfigurationError(msg)
    if collect not in ("frames", "summary"):
        msg = f"simulate(): collect = {collect!r} must be 'frames' or 'summary'"
        raise ConfigurationError(msg)
    chosen = as_policy(policy)
    if shared or store is not None:
        if not isinstance(chosen, Adaptive):
            msg = f"simulate(): {chosen.name!r} cannot share what it learns: only our limiter can; leave shared out"
            raise ConfigurationError(msg)
        chosen = Fleet(chosen.config, store or Store(), seed)
    left = run(scenario, chosen, seed=seed, clients=clients, collect=collect)
    return SimResult(scenario, chosen, seed, clients, left)
