"""What a job hands on: one result per item, the sums of them all, and how they are iterated over."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Self, TypeVar

if TYPE_CHECKING:
    from factflow_llm.errors import ErrorMetadata

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")


@dataclass(slots=True)
class Spent:
    """What calls used. A count that a provider did not tell is taken as it was reserved.

    Attributes:
        input_tokens: tokens read.
        output_tokens: tokens written.
        cost_usd: US dollars; ``None`` once a call's price was unknown.
        rejected: attempts that the provider refused with a 429.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = 0.0
    rejected: int = 0

    @property
    def tokens(self) -> int:
        """All tokens, read or written."""
        return self.input_tokens + self.output_tokens

    def add(self, other: Spent) -> None:
        """Count what something else used, too."""
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.rejected += other.rejected
        known = self.cost_usd is not None and other.cost_usd is not None
        self.cost_usd = self.cost_usd + other.cost_usd if known else None  # type: ignore[operator]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult(Generic[ItemT, ValueT]):
    """What became of one item.

    Attributes:
        place: its position among the items, from 0.
        item: the item itself.
        value: what the call returned; ``None`` when it failed.
        error: why it failed, classified; ``None`` when it did not.
        exception: the error itself; ``None`` also for one that only the journal remembers.
        tries: how often the item was asked for, retries at the end included.
        model: the model asked last; empty where no call of ours was made.
        spent: what its calls used, failed ones included.
        resumed: it comes from the journal, and nothing was asked.
        repeated: it was under way when an earlier run was killed, so that it may have been answered twice.
    """

    place: int
    item: ItemT = field(repr=False)
    value: ValueT | None = field(default=None, repr=False)
    error: ErrorMetadata | None = None
    exception: BaseException | None = field(default=None, repr=False)
    tries: int = 1
    model: str = ""
    spent: Spent = field(default_factory=Spent)
    resumed: bool = False
    repeated: bool = False

    @property
    def succeeded(self) -> bool:
        """Whether there is a value."""
        return self.error is None


class Sums:
    """The results so far, by model and ending: the rows of a job's summary."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], tuple[list[int], Spent]] = {}

    def add(self, result: JobResult[ItemT, ValueT]) -> None:
        """Count a result."""
        ending = "succeeded" if result.error is None else result.error.reason.value
        counts, spent = self._rows.setdefault((result.model, ending), ([0, 0, 0], Spent()))
        for place, number in enumerate((1, result.tries, int(result.resumed))):
            counts[place] += number
        spent.add(result.spent)

    def rows(self) -> list[dict[str, object]]:
        """Return one row per model and ending."""
        return [
            {
                "model": model,
                "outcome": ending,
                "items": counts[0],
                "tries": counts[1],
                "resumed": counts[2],
                "rejected": spent.rejected,
                "input_tokens": spent.input_tokens,
                "output_tokens": spent.output_tokens,
                "cost_usd": spent.cost_usd,
            }
            for (model, ending), (counts, spent) in sorted(self._rows.items())
        ]


class Results(ABC, Generic[ItemT, ValueT]):
    """Results to iterate over with ``async for``; leaving ``async with`` ends what is under way.

    Attributes:
        handed_on: how many results have been handed on.
    """

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._sums = Sums()
        self.handed_on = 0

    @property
    def left(self) -> int | None:
        """How many are not over yet; ``None`` where nobody knows how many there are."""
        return None if self._total is None else self._total - self.handed_on

    def summary(self) -> list[dict[str, object]]:
        """Return what has been handed on so far, a row per model and outcome: ``pandas.DataFrame(job.summary())``."""
        return self._sums.rows()

    def _count(self, result: JobResult[ItemT, ValueT]) -> None:
        """Count a result that is handed on."""
        self._sums.add(result)
        self.handed_on += 1

    @abstractmethod
    async def __anext__(self) -> JobResult[ItemT, ValueT]:
        """Return the next result."""

    @abstractmethod
    async def aclose(self) -> None:
        """End what is under way; a second call does nothing."""

    def __aiter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
