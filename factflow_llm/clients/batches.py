"""Many texts in, vectors in the same order out: batches sent together, cut again when refused as too large.

The bare client and the limited one run the same ``embed_batches``; they differ only in how a batch is sent. A batch
that fails takes none of the others with it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple

from factflow_llm.errors import (
    BadResponseError,
    ErrorMetadata,
    ErrorReason,
    InvalidRequestError,
    PartialEmbeddingError,
    get_error_metadata,
)
from factflow_llm.types import EmbeddingResponse, Usage

SendBatch = Callable[[Sequence[str]], Awaitable[EmbeddingResponse]]
MendBatch = Callable[[Exception, int], int | None]
"""What to do about a refused batch of so many texts: how many to send together instead; ``None`` to give it up."""

_BLAMED = re.compile(r"'input\[(\d+)\]'")
_REFUSALS = frozenset({ErrorReason.INVALID_REQUEST, ErrorReason.CONTEXT_LENGTH, ErrorReason.BATCH_TOO_LARGE})
_HALVED = frozenset({ErrorReason.BATCH_TOO_LARGE, ErrorReason.OUT_OF_MEMORY})

_OTHER_UNIT = r"(?:tokens?|characters?|chars?|bytes?|dimensions?|[kmg]i?b\b)"
_BOUND = (
    r"(?:(?:larg|great|long|high|small|few|less)(?:er)? than(?: or equal to)?|more than|exceed(?:s|ed|ing)?|at most"
    r"|up to|max(?:imum|imal|items)?|limit(?:ed)?|between \d+ and|[<>≤]=?|最多|最大|超过|大于|上限)"
)
_TOLD_SIZE = re.compile(
    rf"{_BOUND}(?:(?!{_OTHER_UNIT})[^\d]){{0,60}}?(?P<after>\d[\d,]*)(?!\d|\.\d|\s*{_OTHER_UNIT})"
    rf"|(?P<before>\d[\d,]*)(?: \w+){{0,2}} (?:or (?:fewer|less)|max|maximum|at most|allowed|permitted)\b"
    r"|\[1, ?(?P<range>\d+)\]"
)
_OF_TEXTS = re.compile(r"batch|inputs?\b|texts?\b|items|array|list\b|documents|elements|instances|requests in|条|数组")
_ONE_ONLY = re.compile(
    r"batch\w*(?: \w+)? (?:is|are) not supported|not support batch|(?:only|a) (?:one|single) (?:input|text|string)"
)
_TOO_MANY = re.compile(r"too many (?:inputs|texts|items|documents|elements)|(?:batch|array|list)(?: size)?(?: is)? too")


def too_many_texts(error: Exception, count: int) -> int | None:
    """Return the batch size that a refusal of ``count`` texts tells or leaves to try; ``None`` when it is another.

    A size told in words ("should not be larger than 10", "at most 100 items") is taken when it is smaller than
    ``count``; without one the half is left to try.
    """
    if count < 2:
        return None
    metadata = get_error_metadata(error)
    if metadata.reason not in _REFUSALS and metadata.status_code != 413:
        return None
    text = refusal_text(error)
    if _OF_TEXTS.search(text):
        told = [int(next(filter(None, found)).replace(",", "")) for found in _TOLD_SIZE.findall(text)]
        if size := next((number for number in told if 0 < number < count), None):
            return size
        if _ONE_ONLY.search(text):
            return 1
    return (count + 1) // 2 if metadata.status_code == 413 or _TOO_MANY.search(text) else None


def refusal_text(error: Exception) -> str:
    """Return all that a refusal says, in lower case; SDKs leave out of their message what they do not know."""
    return f"{error} {getattr(error, 'body', None) or ''}".lower()


def too_much_at_once(error: Exception, count: int) -> int | None:
    """Return half of ``count`` for a batch refused for its tokens or the memory it takes, whatever its size."""
    return (count + 1) // 2 if count > 1 and get_error_metadata(error).reason in _HALVED else None


async def embed_batches(
    texts: Sequence[str], batches: Iterable[slice], send: SendBatch, mend: MendBatch = too_much_at_once
) -> EmbeddingResponse:
    """Send every batch at once and join the answers in the order of the texts.

    A batch that ``mend`` knows how to cut is sent again in its pieces. Any other failure leaves the other batches
    alone, unless it is one that every request will meet (a wrong key): then the rest is not waited for.

    Raises:
        PartialEmbeddingError: some batches failed; carries the vectors of the others. Its cause is one of the errors.
        Exception: no batch succeeded: the first error, unchanged.
    """
    return await _Embedding(texts, send, mend).run(batches)


class _Failure(NamedTuple):
    error: Exception
    metadata: ErrorMetadata


class _Embedding:
    """One call on its way: what is finished, what failed, what is in flight."""

    def __init__(self, texts: Sequence[str], send: SendBatch, mend: MendBatch) -> None:
        self._texts = texts
        self._send = send
        self._mend = mend
        self._answers: dict[int, EmbeddingResponse] = {}  # by the position of its first text
        self._failures: list[_Failure] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, batches: Iterable[slice]) -> EmbeddingResponse:
        async with asyncio.TaskGroup() as group:
            for batch in batches:
                self._start(group, batch.start, batch.stop)
        answers = dict(sorted(self._answers.items()))
        if not self._failures:
            return _join(list(answers.values()))
        failure = next((each for each in self._failures if each.metadata.fatal), self._failures[0])
        if not answers:
            raise failure.error
        raise self._partial(answers, failure) from failure.error

    def _start(self, group: asyncio.TaskGroup, start: int, stop: int, *, mended: bool = False) -> None:
        task = group.create_task(self._embed(group, start, stop, mended))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _embed(self, group: asyncio.TaskGroup, start: int, stop: int, mended: bool) -> None:
        count = stop - start
        try:
            answer = await self._send(self._texts[start:stop])
            self._check_length(answer)
        except Exception as error:
            size = self._mend(error, count)
            if size is None or (size >= count and mended):  # sent again whole, but once
                self._fail(_placed(error, start))
                return
        else:
            self._answers[start] = answer
            return
        for first in range(start, stop, size):
            self._start(group, first, min(first + size, stop), mended=size >= count)

    def _check_length(self, answer: EmbeddingResponse) -> None:
        known = next((each.dimensions for each in self._answers.values()), answer.dimensions)
        if answer.dimensions != known:
            raise BadResponseError(
                f"'input[0]' has a vector of {answer.dimensions} numbers, another batch's have {known}"
            )

    def _fail(self, error: Exception) -> None:
        failure = _Failure(error, get_error_metadata(error))
        self._failures.append(failure)
        if failure.metadata.fatal:
            for task in self._tasks - {asyncio.current_task()}:
                task.cancel()

    def _partial(self, answers: dict[int, EmbeddingResponse], failure: _Failure) -> PartialEmbeddingError:
        vectors: list[tuple[float, ...] | None] = [None] * len(self._texts)
        for start, answer in answers.items():
            vectors[start : start + len(answer.vectors)] = answer.vectors
        missing = tuple(position for position, vector in enumerate(vectors) if vector is None)
        return PartialEmbeddingError(
            f"{len(missing)} of {len(vectors)} texts have no vector, texts[{missing[0]}] the first of them: "
            f"{len(self._failures)} batches failed, one with {type(failure.error).__name__}. The finished vectors are "
            "in this error's vectors; embed the texts at missing again",
            vectors=tuple(vectors),
            missing=missing,
            input_tokens=_join(list(answers.values())).usage.input_tokens,
            reason=failure.metadata.reason,
        )


def _placed(error: Exception, start: int) -> Exception:
    """Name the text by its position in the caller's list where the error names it by its position in the batch."""
    blamed = _BLAMED.search(str(error))
    if blamed is None:
        return error
    name = f"texts[{start + int(blamed[1])}]"
    if isinstance(error, BadResponseError):
        words = str(error).replace(blamed[0], name)
        return BadResponseError(words, status_code=error.status_code, body=error.body, headers=error.headers)
    refused = InvalidRequestError(f"{name} was refused; the cause is in the provider's words")
    refused.__cause__ = error
    return refused


def _join(parts: Sequence[EmbeddingResponse]) -> EmbeddingResponse:
    if len(parts) == 1:
        return parts[0]
    counts = [part.usage.input_tokens for part in parts]
    known = [count for count in counts if count is not None]
    return EmbeddingResponse(
        vectors=tuple(vector for part in parts for vector in part.vectors),
        model=parts[0].model,
        usage=Usage(input_tokens=sum(known) if len(known) == len(counts) else None),
        headers=parts[-1].headers,
        profile=parts[0].profile,
        raw=tuple(raw for part in parts for raw in part.raw),
    )
