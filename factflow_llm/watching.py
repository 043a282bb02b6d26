"""Who watches a task's calls: a job sets a watch in the tasks of its items, and every attempt made there tells it.

The watch is found by context, so whatever a caller's code does between an item and its calls, no call escapes it.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from factflow_llm.errors import ErrorMetadata
    from factflow_llm.types import Usage


class Wanted(NamedTuple):
    """What an attempt is about to use.

    Attributes:
        model: the model asked.
        origin: who will answer, such as ``openai api.openai.com``; empty where the client does not say.
        input_tokens: what it will read, estimated; ``None`` when unknown.
        output_tokens: the most it will write; ``None`` when unbounded.
        cost_usd: returns the price of a usage; ``None`` when it is unknown.
    """

    model: str
    origin: str
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: Callable[[Usage], float | None]


class Reservation(Protocol):
    """What is set aside for one attempt, from before it waits for its turn until it is over."""

    def sends(self) -> bool:
        """Tell whether the attempt may still go out, which it then does; otherwise what was set aside is released."""
        ...

    def released(self) -> None:
        """Note that the attempt was not sent."""
        ...

    def settled(self, usage: Usage | None, error: ErrorMetadata | None, *, cancelled: bool) -> None:
        """Note how the attempt ended, and what it used where that was told."""
        ...


class CallWatch(Protocol):
    """Whoever lets a task's attempts go, and hears of them."""

    async def reserve(self, wanted: Wanted, /) -> Reservation:
        """Set aside what an attempt may use; wait until there is room, or raise where there will be none."""
        ...


WATCH: ContextVar[CallWatch | None] = ContextVar("factflow_llm_watch", default=None)
"""The watch of the running task, if there is one."""
