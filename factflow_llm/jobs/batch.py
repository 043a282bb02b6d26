"""Requests that may take a day, at half the price: handed in as the provider's batches, waited for, read.

A file remembers which batches were handed in, so that the same call goes on after a crash and pays for nothing twice;
answers themselves are the provider's to keep, for weeks. What failed by no fault of its own is handed in once more, or
sent live.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from factflow_llm.clients.offline import BatchApi, Offline, batch_api
from factflow_llm.errors import JournalError, LLMErrorClassification, classify_llm_error, get_error_metadata
from factflow_llm.jobs.identity import digest
from factflow_llm.jobs.job import is_final
from factflow_llm.jobs.results import JobResult, Spent, Sums

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from factflow_llm.types import CompletionResponse, Message

BatchRequest = Sequence[Any] | Mapping[str, Any]
"""A conversation, or the arguments of ``complete`` by name, ``messages`` among them."""

_HEAD = "factflow_batch"
_UNSAID = dict.fromkeys(("max_tokens", "temperature", "stop", "tools", "response_format"))
_TRIES = 5
_log = logging.getLogger(__name__)


class _Prepared(NamedTuple):
    offline: Offline
    arguments: dict[str, Any]
    form: Any


class BatchJob:
    """The answers of a provider's batches: iterate over it with ``async for``, in whatever order they come.

    Attributes:
        spent: what was used, at the batches' price.
        live_cost_usd: what the same would have cost live; ``None`` where a price is unknown.
    """

    def __init__(
        self,
        requests: Iterable[BatchRequest],
        client: Any,
        *,
        provider: str,
        journal: str | Path | None,
        poll_s: float,
        live: bool,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._requests = list(requests)
        self._client = client
        self._provider = provider
        self._path = None if journal is None else Path(journal)
        self._poll_s = poll_s
        self._live = live
        self._sleep = sleep
        self._sums = Sums()
        self._results: AsyncGenerator[JobResult[BatchRequest, CompletionResponse], None] | None = None
        self.spent = Spent()
        self.live_cost_usd: float | None = 0.0

    def __repr__(self) -> str:
        return f"<BatchJob of {len(self._requests)} requests>"

    def summary(self) -> list[dict[str, object]]:
        """Return what has been handed on so far, a row per model and outcome: ``pandas.DataFrame(job.summary())``."""
        return self._sums.rows()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> JobResult[BatchRequest, CompletionResponse]:
        if self._results is None:
            self._results = self._run()
        result = await anext(self._results)
        self._sums.add(result)
        return result

    async def _run(self) -> AsyncGenerator[JobResult[BatchRequest, CompletionResponse], None]:
        await self._client.ready()
        api = batch_api(self._client.client, self._provider)
        prepared = [self._prepare(place, request, api) for place, request in enumerate(self._requests)]
        handed_in = _HandedIn(self._path, digest([one.offline.body for one in prepared]))
        again: list[JobResult[BatchRequest, CompletionResponse]] = []
        for turn in (1, 2):
            places = list(range(len(prepared))) if turn == 1 else [result.place for result in again]
            if turn == 2 and self._live:
                for result in again:
                    yield await self._ask_live(result, prepared[result.place])
                return
            batches = handed_in.of(turn)
            known = {place for _, group in batches for place in group}
            for group in _groups([place for place in places if place not in known], prepared, api):
                offline = [prepared[place].offline for place in group]
                batch_id = await self._patiently(lambda offline=offline: api.submit(offline))  # type: ignore[misc]
                handed_in.note(turn, batch_id, group)
                batches.append((batch_id, group))
            again = []
            async for result in self._answers(batches, prepared, api, turn):
                if turn == 1 and result.error is not None and not is_final(result.error):
                    again.append(result)
                else:
                    yield result

    def _prepare(self, place: int, request: BatchRequest, api: BatchApi) -> _Prepared:
        arguments = dict(request) if isinstance(request, Mapping) else {"messages": request}
        messages: Sequence[Message] = arguments.pop("messages")
        said = self._client.client.prepare(messages, **{**_UNSAID, **arguments})
        return _Prepared(Offline(f"item-{place}", api.body(said)), {"messages": messages, **arguments}, said.form)

    async def _answers(
        self, batches: Sequence[tuple[str, Sequence[int]]], prepared: Sequence[_Prepared], api: BatchApi, turn: int
    ) -> AsyncGenerator[JobResult[BatchRequest, CompletionResponse], None]:
        """Wait for the batches, whichever ends first; yield a result for each of their requests."""
        left = list(batches)
        while left:
            for batch in list(left):
                batch_id, places = batch
                if await self._patiently(lambda batch_id=batch_id: api.has_ended(batch_id)):  # type: ignore[misc]
                    left.remove(batch)
                    missing = set(places)
                    async for told in api.results(batch_id):
                        place = int(told.name.removeprefix("item-"))
                        missing.discard(place)
                        yield self._result(place, prepared[place], api, told.answer, told.error, turn)
                    for place in sorted(missing):
                        late = TimeoutError("the batch ended before this request's turn")
                        yield self._result(place, prepared[place], api, None, late, turn)
            if left:
                await self._sleep(self._poll_s)

    def _result(
        self,
        place: int,
        prepared: _Prepared,
        api: BatchApi,
        answer: dict[str, Any] | None,
        error: Exception | None,
        tries: int,
    ) -> JobResult[BatchRequest, CompletionResponse]:
        response = None
        if answer is not None:
            try:
                response = api.read(answer, prepared.form)
            except Exception as unreadable:
                error = unreadable
        return self._made(place, response, error, tries, share=0.5)

    async def _ask_live(
        self, failed: JobResult[BatchRequest, CompletionResponse], prepared: _Prepared
    ) -> JobResult[BatchRequest, CompletionResponse]:
        try:
            response = await self._client.complete(**prepared.arguments)
        except Exception as error:
            return self._made(failed.place, None, error, 2, share=1.0)
        return self._made(failed.place, response, None, 2, share=1.0)

    def _made(
        self, place: int, response: CompletionResponse | None, error: Exception | None, tries: int, *, share: float
    ) -> JobResult[BatchRequest, CompletionResponse]:
        spent = Spent()
        if response is not None:
            usage = response.usage
            cost_usd = self._client.cost_usd(usage)
            spent = Spent(
                usage.input_tokens or 0, usage.output_tokens or 0, None if cost_usd is None else cost_usd * share
            )
            known = self.live_cost_usd is not None and cost_usd is not None
            self.live_cost_usd = self.live_cost_usd + cost_usd if known else None
        self.spent.add(spent)
        return JobResult(
            place=place,
            item=self._requests[place],
            value=response,
            error=None if error is None else get_error_metadata(error),
            exception=error,
            tries=tries,
            model=self._client.client.model,
            spent=spent,
        )

    async def _patiently(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Ask the provider about batches; try again where that can help: a day's wait survives a bad minute."""
        for attempt in range(1, _TRIES + 1):
            try:
                return await ask()
            except Exception as error:
                if attempt == _TRIES or classify_llm_error(error) is LLMErrorClassification.TERMINAL:
                    raise
                await self._sleep(self._poll_s)
        raise AssertionError


class _HandedIn:
    """Which batches were handed in, in a file if there is one."""

    def __init__(self, path: Path | None, job: str) -> None:
        self._path = path
        self._lines: list[dict[str, Any]] = []
        if path is None:
            return
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            whole = text[: text.rfind("\n") + 1]
            if whole:
                head, *self._lines = map(json.loads, whole.splitlines())
                if head.get(_HEAD) != job:
                    raise JournalError(f"{path}: the journal of other requests; choose another file")
                os.truncate(path, len(whole.encode()))  # the next line must not be glued to what a kill cut off
            elif text and not text.startswith(f'{{"{_HEAD}"'):
                raise ValueError
            else:
                path.write_text(json.dumps({_HEAD: job}) + "\n", encoding="utf-8")
        except OSError as error:
            raise JournalError(
                f"{path}: cannot be written ({error.strerror}); choose a file in a folder that you may write to"
            ) from None
        except (ValueError, AttributeError) as error:
            if isinstance(error, JournalError):
                raise
            raise JournalError(f"{path}: this is no journal of batches; choose another file") from None

    def of(self, turn: int) -> list[tuple[str, list[int]]]:
        """Return the batches of a turn with the places of their requests."""
        return [(line["batch"], line["places"]) for line in self._lines if line["turn"] == turn]

    def note(self, turn: int, batch_id: str, places: Sequence[int]) -> None:
        """Remember a batch; should that fail, say which, for it is on its way."""
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"batch": batch_id, "turn": turn, "places": list(places)}) + "\n")
        except OSError as error:
            _log.error("%s: batch %s is handed in but not noted (%s)", self._path, batch_id, error.strerror)


def _groups(places: Sequence[int], prepared: Sequence[_Prepared], api: BatchApi) -> list[list[int]]:
    """Cut requests into batches that keep to the provider's limits."""
    groups: list[list[int]] = []
    size = 0
    for place in places:
        weight = len(json.dumps(prepared[place].offline.body)) + 100
        if not groups or len(groups[-1]) == api.most or size + weight > api.most_bytes:
            groups.append([])
            size = 0
        groups[-1].append(place)
        size += weight
    return groups
