"""Installed limiters, each driven through its own entry points."""

from __future__ import annotations

import math
from contextlib import suppress
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from factflow_llm.ratelimit.line import NEVER
from factflow_llm.signals import Outcome
from simulators.policies.peers.driving import RatePeer, SlotPeer, as_its_own, finish

if TYPE_CHECKING:
    from factflow_llm.ratelimit.line import Ticket
    from factflow_llm.signals import RateLimitSignal


class AimdLimiter(RatePeer):
    """Slow start, then + 1 request/s per success and half of it per failure, of any kind."""

    def __init__(self, max_rate: float) -> None:
        super().__init__()
        self._waits_s = 0.0
        limiter = import_module("aimd_limiter").AIMDAsyncLimiter
        self._limiter = limiter(max_rate, clock=self.clock.time, sleep=self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self._waits_s = seconds
        raise _WouldWaitError

    @property
    @override
    def limit(self) -> float:
        return float(self._limiter.current_rate)

    @override
    def ask(self, now: float, ticket: Ticket) -> tuple[Any, float]:
        with suppress(_WouldWaitError):
            return finish(self._limiter.acquire().__await__()), now
        return None, now + self._waits_s

    @override
    def hear(self, leave: Any, ticket: Ticket, signal: RateLimitSignal) -> None:
        # its context manager takes any exception for congestion
        served = signal.outcome is Outcome.SUCCEEDED
        finish(leave.mark_success() if served else leave.mark_failure())


class _WouldWaitError(Exception):
    """A limiter would sleep here."""


class Botocore(RatePeer):
    """The AWS SDK's ``adaptive`` mode: CUBIC on the measured rate; off until the first throttle."""

    def __init__(self) -> None:
        super().__init__()
        adaptive, bucket, throttling = (import_module(f"botocore.retries.{name}") for name in _BOTOCORE)

        class Bucket(bucket.TokenBucket):  # type: ignore[misc, name-defined]
            def acquire(self, amount: float = 1, block: bool = True) -> Any:
                return super().acquire(amount, block=False)

        self._refuses = import_module("botocore.exceptions").CapacityNotAvailableError
        self._bucket = Bucket(1, self.clock)
        self._limiter = adaptive.ClientRateLimiter(
            rate_adjustor=throttling.CubicCalculator(0, 0.0),
            rate_clocker=adaptive.RateClocker(self.clock),
            token_bucket=self._bucket,
            throttling_detector=SimpleNamespace(is_throttling_error=lambda refused: refused),
            clock=self.clock,
        )

    @property
    @override
    def limit(self) -> float:
        return float(self._bucket.max_rate)

    @override
    def ask(self, now: float, ticket: Ticket) -> tuple[Any, float]:
        try:
            self._limiter.on_sending_request(None)
        except self._refuses:
            return None, now + (1.0 - self._bucket.available_capacity) / self._bucket.max_rate
        return True, now

    @override
    def hear(self, leave: Any, ticket: Ticket, signal: RateLimitSignal) -> None:
        self._limiter.on_receiving_response(refused=signal.outcome is Outcome.RATE_LIMITED)


_BOTOCORE = ("adaptive", "bucket", "throttling")


class _Tokens:
    """As much of anyio's CapacityLimiter as the controller uses; anyio's own needs an event loop."""

    def __init__(self, total_tokens: float) -> None:
        self.total_tokens = total_tokens
        self.borrowed_tokens = 0

    async def acquire(self) -> None:
        self.borrowed_tokens += 1

    def release(self) -> None:
        self.borrowed_tokens -= 1


class InspectAi(SlotPeer):
    """Adaptive connections: 10 to 100 in flight, × 0.8 at most every 15 s; retried calls teach nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._module = import_module("inspect_ai.util._concurrency")
        config = self._module.AdaptiveConcurrency()
        with as_its_own(self._module, time=self.clock):
            self._controller = self._module.AdaptiveConcurrencyController("peer", config, visible=False)
        self._controller._limiter = self._tokens = _Tokens(config.start)  # a stand-in for anyio's
        self._refused: set[Ticket] = set()

    @property
    @override
    def limit(self) -> float:
        return float(self._controller.concurrency)

    @override
    def ask(self, now: float, ticket: Ticket) -> tuple[Any, float]:
        if self._tokens.borrowed_tokens >= self._tokens.total_tokens:
            return None, NEVER
        with as_its_own(self._module, time=self.clock):
            finish(self._controller.semaphore.__aenter__())
        return True, now

    @override
    def hear(self, leave: Any, ticket: Ticket, signal: RateLimitSignal) -> None:
        with as_its_own(self._module, time=self.clock):
            finish(self._controller.semaphore.__aexit__(None, None, None))
            if signal.outcome is Outcome.RATE_LIMITED:
                self._refused.add(ticket)
                self._controller.notify_retry(signal.retry_after_s)
            elif signal.outcome is Outcome.SUCCEEDED and ticket not in self._refused:
                self._controller.notify_success()
            else:
                self._refused.discard(ticket)


class DataDesigner(SlotPeer):
    """NeMo's request admission: × 0.75 once per burst, + 1 per 25 successes, all wait for Retry-After."""

    def __init__(self, max_parallel: int) -> None:
        super().__init__()
        folder = "data_designer.engine.models.request_admission"
        self._module = import_module(f"{folder}.controller")
        resources = import_module(f"{folder}.resources")
        self._outcome = import_module(f"{folder}.outcomes").RequestReleaseOutcome
        key = resources.RequestResourceKey("peer", "model", resources.RequestDomain.CHAT)
        self._item = resources.RequestAdmissionItem(key, resources.RequestGroupSpec(key))
        self._key = key
        with as_its_own(self._module, time=self.clock):
            self._controller = self._module.AdaptiveRequestAdmissionController()
            self._controller.register(
                provider_name="peer", model_id="model", alias="peer", max_parallel_requests=max_parallel
            )
        self._limit = float(max_parallel)
        # its telemetry takes four fifths of its time, decides nothing and is heard by nobody
        self._controller._request_event_locked = self._controller._emit_events = _untold

    @property
    @override
    def limit(self) -> float:
        return self._limit

    @override
    def ask(self, now: float, ticket: Ticket) -> tuple[Any, float]:
        with as_its_own(self._module, time=self.clock):
            decision = self._controller.try_acquire(self._item)
        if isinstance(decision, self._module.RequestAdmissionLease):
            return decision, now
        return None, decision.available_after_monotonic or NEVER

    @override
    def hear(self, leave: Any, ticket: Ticket, signal: RateLimitSignal) -> None:
        kind = {Outcome.SUCCEEDED: "success", Outcome.RATE_LIMITED: "rate_limited"}.get(signal.outcome)
        outcome = self._outcome(kind or "provider_failure", retry_after_seconds=signal.retry_after_s)
        with as_its_own(self._module, time=self.clock):
            self._controller.release(leave, outcome)
            self._limit = float(self._controller.snapshot(self._key).current_limit)


class Phoenix(RatePeer):
    """Its bucket alone.

    ``RateLimiter.alimit`` lets whoever has waited for 10 s go without a token, all of them at once after a cool-down;
    with 64 callers on 10 requests/s that collapses (measured: goodput 0.25, 45 % of 429s): no fair yardstick.
    """

    def __init__(self, initial_rate: float) -> None:
        super().__init__()
        self._module = import_module("phoenix.evals.rate_limiters")
        with as_its_own(self._module, time=self.clock):
            self._bucket = self._module.AdaptiveTokenBucket(initial_rate)

    @property
    @override
    def limit(self) -> float:
        return float(self._bucket.rate)

    @override
    def ask(self, now: float, ticket: Ticket) -> tuple[Any, float]:
        with as_its_own(self._module, time=self.clock), suppress(self._module.UnavailableTokensError):
            self._bucket.increase_rate()
            self._bucket.make_request_if_ready()
            return True, now
        return None, now + 0.1 / self._bucket.rate

    @override
    def hear(self, leave: Any, ticket: Ticket, signal: RateLimitSignal) -> None:
        if signal.outcome is Outcome.RATE_LIMITED:
            with as_its_own(self._module, time=self.clock):
                self._bucket.on_rate_limit_error(ticket.admitted_s)


class _Fixed(RatePeer):
    """A limiter that is told its rate and learns nothing."""

    limit = math.inf

    @override
    def hear(self, leave: Any, ticket: Ticket, signal: RateLimitSignal) -> None:
        """Learn nothing."""


class AioLimiter(_Fixed):
    """A leaky bucket that holds a second of its rate."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.limit = rate
        self._limiter = import_module("aiolimiter").AsyncLimiter(max(rate, 1.0), max(1.0 / rate, 1.0))
        self._limiter._event_loop = self.clock  # it asks its loop for the time

    @override
    def ask(self, now: float, ticket: Ticket) -> tuple[Any, float]:
        if self._limiter.has_capacity():
            finish(self._limiter.acquire())
            return True, now
        excess = 1.0 + self._limiter._level - self._limiter.max_rate
        return None, now + excess * self._limiter.time_period / self._limiter.max_rate


class LangChain(_Fixed):
    """A token bucket of size 1."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.limit = rate
        self._module = import_module("langchain_core.rate_limiters")
        self._limiter = self._module.InMemoryRateLimiter(requests_per_second=rate)

    @override
    def ask(self, now: float, ticket: Ticket) -> tuple[Any, float]:
        with as_its_own(self._module, time=self.clock):
            if self._limiter.acquire(blocking=False):
                return True, now
        # each waiter looks every 0.1 s, at moments of its own; those looks that cannot succeed are left out
        look_s = self._limiter.check_every_n_seconds / max(self.queued, 1)
        missing_s = self._limiter.last + 1.0 / self._limiter.requests_per_second - now
        return None, now + look_s * max(math.ceil(missing_s / look_s), 1)


def _untold(*_: Any, **__: Any) -> None:
    """Stand in for telemetry."""
