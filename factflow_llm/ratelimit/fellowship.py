"""Keeps a limiter in touch with its fleet: sends its reports to a store and brings back the grants.

Nobody waits for a store: calls are paced by the last grant while one report at a time is under way. Whatever befalls
the store costs at most a warning in the log, and, from the end of the lease on, what the others know. Only at the start
is a store that cannot be used an error, unless the settings say that it is not required.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from factflow_llm.errors import ConfigurationError, ErrorMetadata, ErrorReason, LLMErrorClassification
from factflow_llm.ratelimit.said import Exhausted
from factflow_llm.ratelimit.stores.opening import StoreError, open_store
from factflow_llm.secrecy import shown_address

if TYPE_CHECKING:
    from factflow_llm.ratelimit.limiter import AdaptiveRateLimiter
    from factflow_llm.ratelimit.member import MemberCore
    from factflow_llm.ratelimit.said import Report
    from factflow_llm.ratelimit.stores.opening import FleetStore

_log = logging.getLogger(__name__)
_LAST_WORD_S: Final = 1.0


class Fellowship:
    """The link between one limiter and the store of its fleet.

    Args:
        limiter: not kept alive by this.
        core: the limiter's.
        address: of the store, as in the settings.
        quota: names the quota within it.
        required: whether a store that cannot be used at the start is an error.

    Attributes:
        lost: whether the store gives no answer.
        failures: reports without an answer so far.
    """

    def __init__(
        self, limiter: AdaptiveRateLimiter, core: MemberCore, address: str, quota: str, *, required: bool
    ) -> None:
        self._limiter = weakref.ref(limiter)
        self._core = core
        self._shown = shown_address(address)
        self._address, self._quota, self._required = address, quota, required
        self._task: asyncio.Task[None] | None = None
        self._due: asyncio.Event | None = None
        self._met = self.lost = self._leaving = False
        self.failures = 0

    def look(self, now: float) -> None:
        """Begin, if that has not been done, or tell what should be told sooner than planned."""
        if self._task is None or self._task.done():
            store, self._leaving = open_store(self._address, self._quota), False
            self._core.await_word(now)
            self._due = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(
                self._keep_in_touch(store, self._due), name="factflow-llm fleet"
            )
        elif self._due is not None and self._core.refresh_at <= now:
            self._due.set()

    def close(self) -> None:
        """Say goodbye in the background, so that the others get our share at once; a second call does nothing."""
        if self._task is not None and not self._leaving:
            self._leaving = True
            self._task.cancel()

    async def aclose(self) -> None:
        """Say goodbye, and release the store."""
        self.close()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _keep_in_touch(self, store: FleetStore, due: asyncio.Event) -> None:
        loop, core = asyncio.get_running_loop(), self._core
        try:
            while self._limiter() is not None:
                due.clear()
                wait_s = core.refresh_at - loop.time()
                if wait_s > 0.0:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(wait_s):
                            await due.wait()
                if not await self._refresh(store):
                    return
        finally:
            if self._met and not self.lost:
                with contextlib.suppress(StoreError, ConfigurationError, TimeoutError):
                    async with asyncio.timeout(_LAST_WORD_S):
                        await store.refresh(self._report(leaves=True))
            await store.aclose()

    async def _refresh(self, store: FleetStore) -> bool:
        """Send a report and live by the answer; return whether to go on."""
        core = self._core
        try:
            grant = await store.refresh(self._report())
        except (StoreError, ConfigurationError) as error:
            return self._lose(error)
        limiter = self._limiter()
        if limiter is not None:
            if self.lost:
                _log.info("the store of the fleet answers again: this process has its share of the quota back")
            self._met, self.lost = True, False
            now = limiter._now()
            if grant.exhausted is not None and not limiter.metrics.breaker_open:
                limiter._exhausted(_cause(grant.exhausted))
            limiter._changed(now, core.hear(now, grant))
        return True

    def _report(self, *, leaves: bool = False) -> Report:
        """Return what to tell; why an account is exhausted, and until when, is the shell's to add."""
        report, limiter = self._core.report(asyncio.get_running_loop().time(), leaves=leaves), self._limiter()
        if not report.breaker_s or limiter is None:
            return report
        cause, left_s = limiter._exhausted_by, None
        if cause.resumes_at is not None:
            left_s = max((cause.resumes_at - datetime.now(UTC)).total_seconds(), 0.0)
        return report._replace(exhausted=Exhausted(cause.reason.value, left_s))

    def _lose(self, error: Exception) -> bool:
        limiter = self._limiter()
        if limiter is None:
            return False
        self.failures += 1
        now = limiter._now()
        if self._required and not self._met:
            if isinstance(error, StoreError):
                error = ConfigurationError(
                    f"shared = {self._shown!r} cannot be reached: {error}; start it, or write shared_required = false "
                    "to begin without it"
                )
            limiter._fail_waiting(error)
            return False
        if not self.lost:
            self.lost = True
            _log.warning(
                "the store of the fleet gives no answer (%s): this process keeps its share until the lease ends, and "
                "then finds the quota by itself; calls go on",
                error,
            )
        limiter._changed(now, self._core.lapse(now))
        return True


def _cause(exhausted: Exhausted) -> ErrorMetadata:
    """Return what another process, perhaps one of yesterday, was told."""
    known = exhausted.reason in ErrorReason._value2member_map_
    return ErrorMetadata(
        classification=LLMErrorClassification.TERMINAL,
        reason=ErrorReason(exhausted.reason) if known else ErrorReason.QUOTA,
        retry_after_s=exhausted.resumes_s,
    )
