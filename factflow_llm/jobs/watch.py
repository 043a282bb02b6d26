"""What a job sees of one item's calls: it lets them go within the budget, and counts what they use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from factflow_llm.jobs.budget import used_by
from factflow_llm.jobs.results import Spent

if TYPE_CHECKING:
    from collections.abc import Callable

    from factflow_llm.errors import ErrorMetadata
    from factflow_llm.jobs.budget import JobBudget
    from factflow_llm.types import Usage
    from factflow_llm.watching import Wanted


class ItemWatch:
    """The watch of one try of one item.

    Args:
        budget: the job's.
        spent: what the item has used; added to.
        begin: called when the first attempt goes out, with what is set aside for it.

    Attributes:
        model: the model asked last.
    """

    def __init__(self, budget: JobBudget, spent: Spent, begin: Callable[[Spent], None]) -> None:
        self._budget = budget
        self._spent = spent
        self._begin = begin
        self._begun = False
        self._taken = Spent()
        self._waiting = 0
        self._in_flight = 0
        self.model = ""

    @property
    def waits(self) -> bool:
        """Whether all calls of the item under way wait for their turn, so that ending them loses nothing."""
        return self._waiting > 0 and self._in_flight == 0

    def taken(self) -> Spent:
        """Return what this try has used so far."""
        return self._taken

    async def reserve(self, wanted: Wanted) -> _Reservation:
        """Set aside what an attempt may use; errors as of ``JobBudget.reserve``."""
        self.model = wanted.model
        self._waiting += 1
        try:
            aside = await self._budget.reserve(wanted)
        except BaseException:
            self._waiting -= 1
            raise
        return _Reservation(self, wanted, aside)

    def _sent(self, usage: Usage, cost_usd: float) -> None:
        self._waiting -= 1
        self._in_flight += 1
        if not self._begun:
            self._begun = True
            self._begin(Spent(usage.input_tokens or 0, usage.output_tokens or 0, cost_usd))

    def _over(self, aside: tuple[Usage, float], used: Spent | None) -> None:
        self._budget.settle(aside, used)
        if used is None:
            self._waiting -= 1
            return
        self._in_flight -= 1
        self._taken.add(used)
        self._spent.add(used)


class _Reservation:
    def __init__(self, watch: ItemWatch, wanted: Wanted, aside: tuple[Usage, float]) -> None:
        self._watch = watch
        self._wanted = wanted
        self._aside = aside

    def sends(self) -> bool:
        aside = self._watch._budget.send(self._wanted, self._aside)
        if aside is None:
            self.released()
            return False
        self._aside = aside
        self._watch._sent(*aside)
        return True

    def released(self) -> None:
        self._watch._over(self._aside, None)

    def settled(self, usage: Usage | None, error: ErrorMetadata | None, *, cancelled: bool) -> None:
        told = None if cancelled or error is not None else usage
        self._watch._over(self._aside, used_by(self._aside[0], told, error, self._wanted.cost_usd))
