"""Worlds of several accounts: what is asked, of which accounts, and who stands by for them.

A file names a workload (``[synthesis]``, ``[trace]`` or ``[[spells]]``), ``[accounts.NAME]`` with the account's
``[accounts.NAME.provider]`` and ``[[accounts.NAME.events]]`` as in a world, and what else there is: ``workers``,
``fallback``, ``[targets]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from factflow_llm.files import read_toml
from factflow_llm.ratelimit.config import FrozenSettings
from simulators.providers.catalogue import described
from simulators.scenarios.scenario import Scenario
from simulators.scenarios.worlds import TRACES, EventTable, WorkloadTables, naming, with_events

if TYPE_CHECKING:
    from collections.abc import Mapping

POOLS = Path(__file__).parents[1] / "presets" / "pools"


class AccountTable(FrozenSettings):
    """Keys of ``[accounts.NAME]``: its provider, as in a world, and what befalls it."""

    provider: dict[str, Any]
    events: tuple[EventTable, ...] = ()


class PoolTargets(FrozenSettings):
    """What a pool shall reach, on average over seeds; what is not given is not asked.

    Attributes:
        duration_ratio: until the last request ended, relative to somebody who sees all accounts, at most.
        rejected_share: 429s per attempt, at most.
        failed: requests that nobody answered, at most.
    """

    duration_ratio: float | None = None
    rejected_share: float | None = None
    failed: float | None = None


class PoolFile(WorkloadTables):
    """A world of several accounts as it stands in a file."""

    description: str = ""
    workers: int | None = Field(default=None, ge=1)
    accounts: dict[str, AccountTable] = Field(min_length=1)
    fallback: tuple[str, ...] = ()
    targets: PoolTargets = PoolTargets()

    @model_validator(mode="after")
    def _can_end(self) -> Self:
        if self.backlog is not None:
            msg = "[backlog] has no end: give [synthesis], [trace] or [[spells]], and workers for a job"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _falls_back_on_accounts(self) -> Self:
        unknown = [name for name in self.fallback if name not in self.accounts]
        if unknown or len(set(self.fallback)) == len(self.accounts):
            msg = f"fallback = {list(self.fallback)!r} must name some of the accounts, and leave one to the pool"
            raise ValueError(msg)
        return self


@dataclass(frozen=True)
class MeasuredPool:
    """Several accounts that answer as one, and what is asked of them: arguments of ``simulate_pool``.

    Attributes:
        name: what reports call it.
        description: one sentence.
        accounts: a scenario per account.
        workers: callers that work through the requests; ``None`` if these come when they come.
        fallback: accounts that are asked when the others cannot answer.
        targets: what shall be reached.
    """

    name: str
    description: str
    accounts: Mapping[str, Scenario]
    workers: int | None
    fallback: tuple[str, ...]
    targets: PoolTargets


def read_pool(path: str | Path, *, traces: str | Path = TRACES) -> MeasuredPool:
    """Read a world of several accounts from a TOML file; it bears the file's name.

    Args:
        path: the file.
        traces: the folder in which ``[trace]`` looks.

    Raises:
        ConfigurationError: naming file, key and remedy.
        MissingTraceError: the trace it names is not there.
    """
    path = Path(path)
    values = read_toml(path, remedy="give the path of a pool's TOML file")
    with naming(path):
        file = PoolFile(**values)
        workload = file.workload(Path(traces))
        accounts = {
            name: with_events(Scenario(workload, described(table.provider, f"accounts.{name}.provider")), table.events)
            for name, table in file.accounts.items()
        }
    return MeasuredPool(path.stem, file.description, accounts, file.workers, file.fallback, file.targets)


def pool_suite() -> dict[str, MeasuredPool]:
    """Return the worlds of several accounts that come with the package, by name."""
    return {path.stem: read_pool(path) for path in sorted(POOLS.glob("*.toml"))}
