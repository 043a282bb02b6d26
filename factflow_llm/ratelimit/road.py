"""What all calls of one client share on their way to the provider, and the list of those that are under way."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from factflow_llm.errors import ClosedError, ErrorReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from factflow_llm.prices import Prices
    from factflow_llm.ratelimit.config import RetryConfig
    from factflow_llm.ratelimit.limiter import AdaptiveRateLimiter
    from factflow_llm.recorder import AttemptRow, AttemptSink
    from factflow_llm.telemetry import Telemetry
    from factflow_llm.types import Usage

_log = logging.getLogger(__name__)
_MOST_TOKENS = 100_000_000  # ten times the longest context there is, and more than any answer's length


@dataclass(slots=True, eq=False)
class Road:
    """What all calls of one client share.

    Attributes:
        limiter: admits each attempt; ``None`` lets all go at once.
        retry: how failed attempts are repeated.
        recorder: gets one row per attempt.
        jitter: uniform draws in [0, 1) for the waits between attempts.
        model: as the rows name it.
        provider: as the rows name it.
        telemetry: told of each call and attempt.
        cache_is_free: whether the provider's limits leave out what a cache served.
        prices: what the profile says of prices; without, they are looked up.
        origin: who answers, by provider and host; empty until the client is made.
        rows_lost: rows that the recorder has refused by raising; the first is told in the log.
        calls: those under way: waiting, answered or pausing between attempts.
        unreached: nobody has answered since a connection failed, and the log says so.
        closed: no call begins any more, and none is repeated.
    """

    limiter: AdaptiveRateLimiter | None
    retry: RetryConfig
    recorder: AttemptSink | None
    jitter: Callable[[], float]
    model: str
    provider: str
    telemetry: Telemetry | None = None
    cache_is_free: bool = False
    prices: Prices | None = None
    origin: str = ""
    rows_lost: int = 0
    unreached: bool = False
    closed: bool = False
    calls: set[Any] = field(default_factory=set, repr=False)
    _pauses: set[asyncio.Future[None]] = field(default_factory=set, init=False, repr=False)
    _over: asyncio.Future[None] | None = field(default=None, init=False, repr=False)

    def metered(self, usage: Usage | None) -> Usage | None:
        """Return what the provider's limits count of a call's tokens; a count that no call can have is unknown."""
        if usage is None:
            return None
        read, written, cached = usage.input_tokens, usage.output_tokens, usage.cached_input_tokens
        if self.cache_is_free and cached and read is not None:
            read = max(0, read - cached)
        read, written = (count if _is_plausible(count) else None for count in (read, written))
        if (read, written) == (usage.input_tokens, usage.output_tokens):
            return usage
        return replace(usage, input_tokens=read, output_tokens=written)

    def cost_usd(self, usage: Usage) -> float | None:
        """Return what a call costs, in US dollars; ``None`` where it is unknown. Vectors are not written tokens."""
        if self.prices is not None:
            return self.prices.cost_usd(usage)
        from factflow_llm.prices import cost_usd

        written = usage if usage.output_tokens is not None else replace(usage, output_tokens=0)
        return cost_usd(written, model=self.model, origin=self.origin)

    def record(self, row: AttemptRow) -> None:
        """Hand a row on; a recorder that raises costs the row, never the call."""
        assert self.recorder is not None
        try:
            self.recorder.record(row)
        except Exception:
            self.rows_lost += 1
            if self.rows_lost == 1:
                _log.exception("the recorder of %s failed; rows are lost until it is mended", self.model)

    def heard(self, reason: ErrorReason | None, delay_s: float | None) -> None:
        """Note whether the provider was reached; the first call that was not, and waits to be sent again, is told."""
        if reason is not ErrorReason.CONNECTION:
            self.unreached = False
        elif not self.unreached and delay_s is not None:
            self.unreached = True
            _log.warning(
                "%s cannot be reached for %s: is its address right, and does it run? Calls are tried again, the first "
                "in %.1f s, up to %d times; nothing more is said until one is answered",
                self.origin or self.provider,
                self.model,
                delay_s,
                self.retry.max_attempts,
            )

    async def pause(self, seconds: float) -> None:
        """Wait between two attempts.

        Raises:
            ClosedError: when ``wake`` ends the wait.
        """
        loop = asyncio.get_running_loop()
        pause = loop.create_future()
        timer = loop.call_later(seconds, _end, pause)
        self._pauses.add(pause)
        try:
            await pause
        finally:
            timer.cancel()
            self._pauses.discard(pause)

    def wake(self) -> None:
        """End the waits for a turn and the pauses between attempts: those calls get a ``ClosedError``."""
        for pause in self._pauses:
            if not pause.done():
                pause.set_exception(ClosedError("the client was closed while the call waited to be sent again"))
        for call in self.calls:
            call.leave_the_line()

    def leave(self, call: object) -> None:
        """Strike a call that is over."""
        self.calls.discard(call)
        if not self.calls and self._over is not None:
            _end(self._over)

    async def over(self) -> None:
        """Wait until no call is under way."""
        while self.calls:
            self._over = asyncio.get_running_loop().create_future()
            await self._over


def _is_plausible(count: int | None) -> bool:
    return count is None or 0 <= count <= _MOST_TOKENS


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
