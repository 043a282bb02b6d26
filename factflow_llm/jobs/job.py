"""One call for each of many items: begun as there is room, handed on as they end, gone on with after a crash.

How many calls run together is the limiter's to find. The job begins items ahead of it, up to ``window``, and waits
until results are taken; so any number of items needs the memory of one window.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Sized
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypedDict, TypeVar

from factflow_llm.errors import (
    BudgetSpentError,
    ConfigurationError,
    ErrorMetadata,
    JournalError,
    LLMErrorClassification,
    get_error_metadata,
)
from factflow_llm.jobs.budget import JobBudget
from factflow_llm.jobs.identity import digest_of_call, digest_of_item, plain
from factflow_llm.jobs.journal import JobJournal, line_of_ending
from factflow_llm.jobs.kept import keep, keep_error, restore, restore_error
from factflow_llm.jobs.progress import Progress
from factflow_llm.jobs.results import JobResult, Results, Spent
from factflow_llm.jobs.source import ItemSource
from factflow_llm.jobs.watch import ItemWatch
from factflow_llm.watching import WATCH

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")

_FATAL_IN_A_ROW: Final = 20
"""Errors that every other request will meet, one after another without a success, after which a job ends."""
_BREATH: Final = 64
"""Results handed on without a pause before other tasks get their turn."""


class JobKeys(TypedDict, total=False):
    """The keyword arguments that every kind of job takes, as of :meth:`LLMClientFactory.map`."""

    ordered: bool
    retries: int
    window: int
    journal: str | Path | None
    job: str | None
    keep: Literal["answers", "prompts"]
    max_cost_usd: float | None
    max_tokens_total: int | None
    until: datetime | None
    progress: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """How a job goes; the arguments of :meth:`LLMClientFactory.map` say what each means."""

    ordered: bool = False
    retries: int = 1
    window: int = 1024
    journal: str | Path | None = None
    job: str | None = None
    keep: str = "answers"
    max_cost_usd: float | None = None
    max_tokens_total: int | None = None
    until: datetime | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise ConfigurationError(f"retries = {self.retries} must be at least 0")
        if self.window < 1:
            raise ConfigurationError(f"window = {self.window} must be at least 1: it is how many items are begun ahead")
        if self.keep not in ("answers", "prompts"):
            raise ConfigurationError(f'keep = {self.keep!r}: write "answers", or "prompts" to keep the items, too')


class _Slot(Generic[ItemT, ValueT]):
    """One item on its way."""

    def __init__(self, place: int, item: ItemT, key: str) -> None:
        self.place = place
        self.item = item
        self.key = key
        self.tries = 0
        self.task: asyncio.Task[None] | None = None
        self.watch: ItemWatch | None = None
        self.spent = Spent()
        self.repeated = False
        self.again = False  # it failed, and another try may help
        self.result: JobResult[ItemT, ValueT] | None = None
        self.over = False


class Job(Results[ItemT, ValueT]):
    """The results of one call for each of many items: iterate over it with ``async for``.

    Leaving it early, by ``break`` inside ``async with``, ends what is under way; the journal knows what is left.

    Attributes:
        ended: why it ended: ``all done``, ``max_cost_usd``, ``max_tokens_total``, ``until``, or ``fatal`` after a row
            of errors that every other request would meet, too; empty before.
        resumed: how many results came from the journal.
        repeated: how many were under way when an earlier run was killed, and were asked again.
    """

    def __init__(
        self,
        items: Iterable[ItemT] | AsyncIterable[ItemT],
        call: Callable[[ItemT], Awaitable[ValueT]],
        settings: JobSettings,
        *,
        identity: Any = None,
    ) -> None:
        super().__init__(len(items) if isinstance(items, Sized) else None)
        self._items = items
        self._call = call
        self._identity = call if identity is None else identity
        self._settings = settings
        self._budget = JobBudget(settings.max_cost_usd, settings.max_tokens_total, settings.until)
        self._journal: JobJournal | None = None
        self._running: set[_Slot[ItemT, ValueT]] = set()
        self._line: deque[_Slot[ItemT, ValueT]] = deque()  # in order; otherwise only what is over
        self._begun = 0
        self._again: list[_Slot[ItemT, ValueT]] = []
        self._changed = asyncio.Event()
        self._broken: Exception | None = None
        self._fatal = 0
        self._closing = False
        self._results: AsyncGenerator[JobResult[ItemT, ValueT], None] | None = None
        self.ended = ""
        self.resumed = self.repeated = 0

    def __repr__(self) -> str:
        of = "" if self._total is None else f" of {self._total}"
        return f"<Job {self.ended or 'under way'}: {self.handed_on}{of} items over, {len(self._running)} under way>"

    @property
    def spent(self) -> Spent:
        """What all calls used so far, those of earlier runs in the journal included."""
        return self._budget.spent

    async def __anext__(self) -> JobResult[ItemT, ValueT]:
        if self._results is None:
            self._results = self._run()
        return await anext(self._results)

    async def aclose(self) -> None:
        """End what is under way; a second call does nothing."""
        if self._results is None:
            self._results = self._run()
        await self._results.aclose()

    async def _run(self) -> AsyncGenerator[JobResult[ItemT, ValueT], None]:
        settings = self._settings
        timer: asyncio.TimerHandle | None = None
        bar: Progress | None = None
        try:
            self._open()
            bar = Progress(self._total) if settings.progress else None
            if (left_s := self._budget.seconds_left) is not None and left_s > 0:
                timer = asyncio.get_running_loop().call_later(left_s, self._stop, "until")
            elif left_s is not None:
                self._stop("until")
            for turn in range(settings.retries + 1):
                async with aclosing(self._pass(again=turn > 0, last=turn == settings.retries)) as results:
                    async for result in results:
                        self._count(result)
                        if bar is not None:
                            bar.tell(self.spent, failed=not result.succeeded)
                        yield result
            if self._broken is not None:
                raise self._broken
            self.ended = self._budget.ended or "all done"
        finally:
            if timer is not None:
                timer.cancel()
            await self._end_tasks()
            if self._journal is not None:
                self._journal.close()
            if bar is not None:
                bar.close()

    def _open(self) -> None:
        settings = self._settings
        if settings.journal is None:
            return
        named = settings.job is not None
        name = settings.job if settings.job is not None else digest_of_call(self._identity)
        self._journal = JobJournal(settings.journal, job=name, named=named, keep=settings.keep)
        self._budget.spent.add(self._journal.spent)
        if settings.max_cost_usd is not None and self._budget.spent.cost_usd is None:
            raise ConfigurationError(
                f"max_cost_usd = {settings.max_cost_usd:g} cannot be kept: the journal {settings.journal} holds calls "
                "whose price was unknown; go on without it, or with max_tokens_total"
            )

    def _count(self, result: JobResult[ItemT, ValueT]) -> None:
        super()._count(result)
        self.resumed += result.resumed
        self.repeated += result.repeated

    async def _pass(self, *, again: bool, last: bool) -> AsyncGenerator[JobResult[ItemT, ValueT], None]:
        """Ask for every item once; yield what is over, and set aside what is to be asked for again."""
        slots, self._again = self._again, []
        source: ItemSource[Any] = ItemSource(slots if again else self._items, self._changed)
        handed = 0
        try:
            while True:
                self._changed.clear()
                while self._room() and (taken := source.take()) is not None:
                    try:
                        self._begin(taken[1] if again else self._slot(*taken))
                    except JournalError as error:
                        self._break(error)
                slot = self._next_over()
                if slot is None:
                    if not self._begun and (source.ended or self._stopped):
                        break
                    await self._changed.wait()
                elif slot.again and not last:
                    self._again.append(slot)
                elif slot.result is not None:
                    yield slot.result
                    handed += 1
                    if handed % _BREATH == 0:
                        await asyncio.sleep(0)
            for slot in slots[source.taken :]:  # the job ended before they could be asked again
                if slot.result is not None:
                    yield slot.result
        finally:
            await source.aclose()

    @property
    def _stopped(self) -> bool:
        return bool(self._budget.ended) or self._broken is not None

    def _room(self) -> bool:
        return not self._stopped and self._begun < self._settings.window

    def _slot(self, place: int, item: ItemT) -> _Slot[ItemT, ValueT]:
        key = "" if self._journal is None else digest_of_item(item, place)
        return _Slot(place, item, key)

    def _begin(self, slot: _Slot[ItemT, ValueT]) -> None:
        recalled = slot.tries == 0 and self._journal is not None and self._recall(slot, self._journal)
        self._begun += 1
        slot.over = False
        if self._settings.ordered:
            self._line.append(slot)
        if recalled:
            self._leave(slot)
            return
        slot.tries += 1
        slot.again = False
        slot.watch = ItemWatch(self._budget, slot.spent, partial(self._note_begun, slot))
        slot.task = asyncio.get_running_loop().create_task(self._ask(slot))
        self._running.add(slot)

    def _recall(self, slot: _Slot[ItemT, ValueT], journal: JobJournal) -> bool:
        """Take an item's ending from the journal; one that failed by no fault of its own is asked for again."""
        line = journal.find(slot.place, slot.key)
        if line is None:
            return False
        if "begun" in line:
            slot.repeated = True
            return False
        error = None if "done" in line else restore_error(line["error"])
        if error is not None and not is_final(error):
            return False
        slot.result = JobResult(
            place=slot.place,
            item=slot.item,
            value=restore(line["value"]) if error is None else None,
            error=error,
            tries=line["tries"],
            model=line["model"],
            spent=Spent(*line["spent"]),
            resumed=True,
        )
        return True

    async def _ask(self, slot: _Slot[ItemT, ValueT]) -> None:
        assert slot.watch is not None
        WATCH.set(slot.watch)
        value: ValueT | None = None
        error: BaseException | None = None
        try:
            waiting = self._call(slot.item)
            if not inspect.isawaitable(waiting):
                raise ConfigurationError(
                    f"the call returned a {type(waiting).__name__}, nothing to await: write it as async def, or use "
                    "factory.sync().map() for one that waits by itself"
                )
            value = await waiting
        except Exception as caught:
            error = caught
        except asyncio.CancelledError as caught:
            if self._closing:
                raise
            error = BudgetSpentError("the job ended before its turn came") if self._stopped else caught
        try:
            self._end(slot, value, error)
        except Exception as caught:  # the journal fails, or cannot hold what the call returned
            self._break(caught)
        self._leave(slot)

    def _end(self, slot: _Slot[ItemT, ValueT], value: ValueT | None, error: BaseException | None) -> None:
        """Make the item's result and note it, unless the item is left for another day."""
        assert slot.watch is not None
        if isinstance(error, BudgetSpentError):
            return
        if isinstance(error, ConfigurationError):
            raise error
        metadata = None if error is None else get_error_metadata(error)
        slot.result = JobResult(
            place=slot.place,
            item=slot.item,
            value=value,
            error=metadata,
            exception=error,
            tries=slot.tries,
            model=slot.watch.model,
            spent=slot.spent,
            repeated=slot.repeated,
        )
        slot.again = metadata is not None and not is_final(metadata)
        self._fatal = 0 if metadata is None else self._fatal + metadata.fatal
        if self._fatal >= _FATAL_IN_A_ROW:
            self._stop("fatal")
        self._note_ending(slot, value, metadata)

    def _note_begun(self, slot: _Slot[ItemT, ValueT], aside: Spent) -> None:
        if self._journal is not None and self._broken is None:
            try:
                self._journal.begun(slot.place, slot.key, aside)
            except JournalError as error:
                self._break(error)

    def _note_ending(self, slot: _Slot[ItemT, ValueT], value: ValueT | None, error: ErrorMetadata | None) -> None:
        if self._journal is None or isinstance(self._broken, JournalError):
            return
        assert slot.watch is not None
        told = {"tries": slot.tries, "model": slot.watch.model, "spent": slot.watch.taken()}
        if error is None:
            line = line_of_ending("done", slot.place, value=keep(value), **told)
        else:
            line = line_of_ending("failed", slot.place, error=keep_error(error), **told)
        content = plain(slot.item) if self._settings.keep == "prompts" else None
        self._journal.over(slot.place, slot.key, line, content)

    def _leave(self, slot: _Slot[ItemT, ValueT]) -> None:
        slot.over = True
        self._running.discard(slot)
        if not self._settings.ordered:
            self._line.append(slot)
        self._changed.set()

    def _next_over(self) -> _Slot[ItemT, ValueT] | None:
        """Take the next item that is over: the first one in order, or any."""
        if not self._line or not self._line[0].over:
            return None
        self._begun -= 1
        return self._line.popleft()

    def _stop(self, bound: str) -> None:
        """Begin nothing any more, and send back who still waits for a turn."""
        self._budget.end(bound)
        self._send_back()

    def _break(self, error: Exception) -> None:
        """End the job by an error, once what is in flight has been handed on."""
        self._broken = self._broken or error
        self._send_back()

    def _send_back(self) -> None:
        for slot in self._running:
            if slot.watch is not None and slot.watch.waits and slot.task is not None:
                slot.task.cancel()
        self._changed.set()

    async def _end_tasks(self) -> None:
        self._closing = True
        tasks = [slot.task for slot in self._running if slot.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def is_final(error: ErrorMetadata) -> bool:
    """Tell whether asking again would bring the same: the request itself is at fault, not provider or account."""
    return error.classification is LLMErrorClassification.TERMINAL and not error.fatal
