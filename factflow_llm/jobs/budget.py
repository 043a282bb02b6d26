"""What a job may use: set aside before a call is sent, settled by what it used, never overdrawn knowingly.

An answer whose length nobody bounded is expected to be as long as the longest seen so far. What is set aside is looked
at again when the call goes out: others may have used more than they were expected to while it waited for its turn. So
a job can overspend by what is in flight when answers are longer than anything told or seen, and by nothing else.
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


class _Aside:
    """What is set aside for a number of calls."""

    def __init__(self) -> None:
        self.calls = self.tokens = 0
        self.usd = 0.0

    def put(self, aside: tuple[Usage, float], sign: int) -> None:
        """Set aside for one call more, or by a sign of -1 for one fewer."""
        self.calls += sign
        self.tokens += sign * (aside[0].total_tokens or 0)
        self.usd = self.usd + sign * aside[1] if self.calls else 0.0


class JobBudget:
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
        self._waits = _Aside()
        self._flies = _Aside()
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
            aside = self._expected(wanted)
            bound = self._overdrawn(aside, self._waits, self._flies)
            if bound is None:
                self._waits.put(aside, 1)
                self._wake()
                return aside
            if self._waits.calls or self._flies.calls:
                await self._settlement()
            else:
                self.end(bound)

    def send(self, wanted: Wanted, aside: tuple[Usage, float]) -> tuple[Usage, float] | None:
        """Let an attempt go that has waited for its turn; return what is set aside for it now, ``None`` if it may not.

        Whoever else waits is looked at in turn, and does not count.
        """
        expected = self._expected(wanted)
        if self.ended or self._overdrawn(expected, self._flies) is not None:
            return None
        self._waits.put(aside, -1)
        self._flies.put(expected, 1)
        return expected

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
        (self._waits if used is None else self._flies).put(aside, -1)
        if used is not None:
            self._longest = max(self._longest, used.output_tokens)
            self.spent.add(used)
        self._wake()

    def _expected(self, wanted: Wanted) -> tuple[Usage, float]:
        written = self._longest if wanted.output_tokens is None else wanted.output_tokens
        usage = Usage(wanted.input_tokens or 0, written)
        return usage, self._price(wanted, usage)

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

    def _overdrawn(self, wish: tuple[Usage, float], *held: _Aside) -> str | None:
        tokens = self.spent.tokens + (wish[0].total_tokens or 0) + sum(aside.tokens for aside in held)
        if self._max_tokens is not None and tokens > self._max_tokens:
            return "max_tokens_total"
        if self._max_cost_usd is not None:
            spent_usd = (self.spent.cost_usd or 0.0) + wish[1] + sum(aside.usd for aside in held)
            if spent_usd > self._max_cost_usd * (1 + 1e-9):  # a sum of floats is no reason to send one call fewer
                return "max_cost_usd"
        return None

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
