"""What a job may use: set aside before a call is sent, settled by what it used, never overdrawn knowingly.

An answer whose length nobody bounded is expected to be as long as the longest seen so far. So a job can overspend by
what is in flight when the first answers are longer than anything known, and by nothing else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from factflow_llm.errors import BudgetSpentError, ConfigurationError, LLMErrorClassification
from factflow_llm.jobs.results import Spent
from factflow_llm.types import Usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from factflow_llm.errors import ErrorMetadata
    from factflow_llm.watching import Wanted


class Budget:
    """The bounds of one job, and what is spent and set aside of them.

    Args:
        max_cost_usd: US dollars, those of earlier runs in the journal included.
        max_tokens_total: tokens read and written, likewise.
        until: the moment after which no call is sent.

    Attributes:
        spent: what was used so far.
        ended: which bound was reached; empty while none is.
    """

    def __init__(self, max_cost_usd: float | None, max_tokens_total: int | None, until: datetime | None) -> None:
        for name, value in (("max_cost_usd", max_cost_usd), ("max_tokens_total", max_tokens_total)):
            if value is not None and not value > 0:
                raise ConfigurationError(f"{name} = {value!r} must be above 0; leave it out for no bound")
        if until is not None and until.tzinfo is None:
            raise ConfigurationError(
                f"until = {until.isoformat()} has no time zone: write datetime.now().astimezone() + timedelta(hours=8)"
            )
        self._max_cost_usd = max_cost_usd
        self._max_tokens = max_tokens_total
        self.until = until
        self.spent = Spent()
        self.ended = ""
        self._aside_usd = 0.0
        self._aside_tokens = 0
        self._held = 0
        self._longest = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def seconds_left(self) -> float | None:
        """Seconds until ``until``; ``None`` without such a bound."""
        return None if self.until is None else (self.until - datetime.now(UTC)).total_seconds()

    def end(self, bound: str) -> None:
        """Let nothing go any more."""
        self.ended = self.ended or bound
        self._wake()

    async def reserve(self, wanted: Wanted) -> tuple[Usage, float]:
        """Set aside what an attempt may use; wait for others to be settled where only they can make room.

        Raises:
            BudgetSpentError: there is no room, and nothing is set aside that could make some.
            ConfigurationError: dollars are bounded, and the model's price is unknown.
        """
        while True:
            if self.ended:
                raise BudgetSpentError(f"not sent: the job ends by {self.ended}")
            written = self._longest if wanted.output_tokens is None else wanted.output_tokens
            usage = Usage(wanted.input_tokens or 0, written)
            cost_usd = self._price(wanted, usage)
            bound = self._overdrawn(usage, cost_usd)
            if bound is None:
                self._set_aside(usage, cost_usd, 1)
                self._wake()
                return usage, cost_usd
            if self._held:
                await self._settlement()
            else:
                self.end(bound)

    async def _settlement(self) -> None:
        """Wait until somebody else's attempt is over; one waiter at a time is told, and tells the next."""
        room = asyncio.get_running_loop().create_future()
        self._waiting.append(room)
        try:
            await room
        except BaseException:
            self._wake()
            raise

    def settle(self, aside: tuple[Usage, float], used: Spent | None) -> None:
        """Give back what was set aside, and count what was used; ``None`` for an attempt that was not sent."""
        self._set_aside(aside[0], aside[1], -1)
        if used is not None:
            self._longest = max(self._longest, used.output_tokens)
            self.spent.add(used)
        self._wake()

    def _price(self, wanted: Wanted, usage: Usage) -> float:
        cost_usd = wanted.cost_usd(usage)
        if self._max_cost_usd is None:
            return cost_usd or 0.0
        if cost_usd is None:
            raise ConfigurationError(
                f"max_cost_usd = {self._max_cost_usd:g} cannot be kept: no price is known of {wanted.model} at "
                f"{wanted.origin or 'its host'}; write prices = {{ input = …, output = … }} in its profile, in dollars "
                'for a million tokens, or pip install "factflow-llm[prices]" for list prices'
            )
        return cost_usd

    def _overdrawn(self, usage: Usage, cost_usd: float) -> str | None:
        tokens = self.spent.tokens + self._aside_tokens + (usage.total_tokens or 0)
        if self._max_tokens is not None and tokens > self._max_tokens:
            return "max_tokens_total"
        if self._max_cost_usd is not None:
            spent_usd = (self.spent.cost_usd or 0.0) + self._aside_usd + cost_usd
            if spent_usd > self._max_cost_usd * (1 + 1e-9):  # a sum of floats is no reason to send one call fewer
                return "max_cost_usd"
        return None

    def _set_aside(self, usage: Usage, cost_usd: float, sign: int) -> None:
        self._held += sign
        self._aside_tokens += sign * (usage.total_tokens or 0)
        self._aside_usd = self._aside_usd + sign * cost_usd if self._held else 0.0

    def _wake(self) -> None:
        while self._waiting:
            room = self._waiting.popleft()
            if not room.done():
                room.set_result(None)
                if not self.ended:
                    return


def used_by(
    aside: Usage, told: Usage | None, error: ErrorMetadata | None, price: Callable[[Usage], float | None]
) -> Spent:
    """Return what an attempt that was sent is charged for.

    A refusal costs nothing. One that ended without a word, by a time-out or a cancellation, may have been answered:
    it counts as what was set aside for it.
    """
    rejected = int(error is not None and error.classification is LLMErrorClassification.RATE_LIMITED)
    refused = error is not None and ((error.status_code or 0) >= 400 or error.request_sent is False)
    if refused:
        return Spent(rejected=rejected)
    told = told or Usage()
    usage = Usage(
        aside.input_tokens if told.input_tokens is None else told.input_tokens,
        aside.output_tokens if told.output_tokens is None else told.output_tokens,
        told.cached_input_tokens,
        told.cache_write_tokens,
    )
    return Spent(usage.input_tokens or 0, usage.output_tokens or 0, price(usage), rejected)
