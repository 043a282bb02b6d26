"""The asyncio shell in virtual time: futures, one timer, and nothing left behind by whoever leaves."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest

from factflow_llm.errors import (
    BreakerOpenError,
    DeadlineExceededError,
    ErrorReason,
    InvalidRequestError,
    PermitSettledError,
    WrongEventLoopError,
)
from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.ratelimit.limiter import AdaptiveRateLimiter, Permit
from factflow_llm.signals import Axis, Change, Reason
from factflow_llm.types import Usage
from tests.support.virtual_loop import VirtualLoop, run_virtually


class _StatusError(Exception):
    """What an SDK raises, as far as a classifier needs it."""

    def __init__(self, status: int, code: str | None = None, *, message: str = "", **headers: str) -> None:
        super().__init__(str(status))
        self.status_code = status
        self.body = {"code": code, "message": message}
        self.response = type("Response", (), {"status_code": status, "headers": headers})()


def _limiter(**settings: Any) -> AdaptiveRateLimiter:
    return AdaptiveRateLimiter(RateLimitConfig(**settings))


async def _hold(limiter: AdaptiveRateLimiter, seconds: float, log: list[Any] | None = None, **ask: Any) -> None:
    async with limiter.permit(**ask) as permit:
        if log is not None:
            log.append((asyncio.get_running_loop().time(), ask.get("priority", 0)))
        await asyncio.sleep(seconds)
        permit.succeeded()


async def _tick(times: int = 5) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


# --- admission -------------------------------------------------------------------------------------------------------


def test_a_permit_is_granted_at_once_when_nothing_binds() -> None:
    """Entering does not even yield to the event loop."""

    async def main() -> None:
        limiter = _limiter()
        entering = limiter.permit(input_tokens=5).__aenter__()
        with pytest.raises(StopIteration) as done:
            entering.send(None)
        permit: Permit = done.value.value
        assert permit.admitted_s == 0.0
        permit.succeeded(usage=Usage(5, 7), headers={"x-ratelimit-limit-requests": "60"})
        assert limiter.metrics.succeeded == 1

    run_virtually(main())


def test_waiters_go_in_order_of_priority_then_arrival() -> None:
    """Equal ones go first come, first served; a higher priority goes first."""

    async def main() -> None:
        limiter, log = _limiter(initial_concurrency=1, max_concurrency=1), []
        async with asyncio.TaskGroup() as group:
            for priority in (0, 0, 2, 1, 0, 2):
                group.create_task(_hold(limiter, 1.0, log, priority=priority))
        assert [priority for _, priority in log] == [0, 2, 2, 1, 0, 0]
        assert [when for when, _ in log] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]

    run_virtually(main())


def test_a_pace_is_kept() -> None:
    """Sixty a minute means one a second, to a fraction of it."""

    async def main() -> None:
        limiter, log = _limiter(requests_per_minute=60, max_requests_per_minute=60), []
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(_hold(limiter, 0.1, log))
        gaps = [later - earlier for (earlier, _), (later, _) in pairwise(log)]
        assert all(0.99 <= gap <= 1.1 for gap in gaps)

    run_virtually(main())


def test_a_deadline_ends_the_wait() -> None:
    """Who is not admitted in time fails then, with the limiter's state in the message, and leaves nothing behind."""

    async def main() -> None:
        limiter = _limiter(initial_concurrency=1, max_concurrency=1)
        async with limiter.permit():
            with pytest.raises(DeadlineExceededError, match=r"1/1 in flight.*more time"):
                await limiter.permit(deadline=3.0).__aenter__()
            assert asyncio.get_running_loop().time() == 3.0
            assert limiter.metrics.queued == 0
        assert limiter.metrics.in_flight == 0

    run_virtually(main())


def test_a_deadline_that_has_passed_fails_at_once() -> None:
    """Who comes too late is not sent, even where nobody waits."""

    async def main() -> None:
        limiter = _limiter()
        await asyncio.sleep(10.0)
        with pytest.raises(DeadlineExceededError):
            await limiter.permit(deadline=9.0).__aenter__()

    run_virtually(main())


def test_an_exhausted_quota_fails_fast_and_says_why() -> None:
    """After the provider says that the money is gone, who waits and who comes hears it at once."""

    async def main() -> None:
        limiter = _limiter(initial_concurrency=1, breaker_s=60.0)
        async with limiter.permit() as permit:
            waiting = [asyncio.ensure_future(_hold(limiter, 1.0)) for _ in range(3)]
            await _tick()
            permit.failed(_StatusError(429, "insufficient_quota"))
        said = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in said] == [BreakerOpenError] * 3
        assert {error.reason for error in said if isinstance(error, BreakerOpenError)} == {ErrorReason.QUOTA}
        assert asyncio.get_running_loop().time() == 0.0
        with pytest.raises(BreakerOpenError, match="60 s"):
            await _hold(limiter, 1.0)
        await asyncio.sleep(60.0)
        await _hold(limiter, 1.0)
        assert not limiter.metrics.breaker_open

    run_virtually(main())


def test_an_open_breaker_tells_when_the_provider_gives_access_again() -> None:
    """The moment a spent budget resets goes on to every call that is not sent; the next refusal's word replaces it."""

    async def main() -> None:
        limiter = _limiter(breaker_s=60.0)
        for told, moment in [
            ("You will regain access on 2027-01-31 at 12:30 UTC.", datetime(2027, 1, 31, 12, 30, tzinfo=UTC)),
            ("", None),
        ]:
            async with limiter.permit() as permit:
                permit.failed(_StatusError(429, "enforced_spend_limit_reached", message=told))
            with pytest.raises(BreakerOpenError) as caught:
                await _hold(limiter, 1.0)
            assert caught.value.resumes_at == moment
            assert ("2027-01-31 12:30 UTC" in str(caught.value)) is (moment is not None)
            await asyncio.sleep(60.0)

    run_virtually(main())


# --- leaving ---------------------------------------------------------------------------------------------------------


def test_cancelled_while_waiting() -> None:
    """Who is cancelled in the queue is gone from it; the others move up."""

    async def main() -> None:
        limiter, log = _limiter(initial_concurrency=1, max_concurrency=1), []
        tasks = [asyncio.ensure_future(_hold(limiter, 1.0, log)) for _ in range(4)]
        await _tick()
        tasks[1].cancel()
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [when for when, _ in log] == [0.0, 1.0]
        assert (limiter.metrics.in_flight, limiter.metrics.queued) == (0, 0)

    run_virtually(main())


def test_cancelled_between_admission_and_start() -> None:
    """Who is cancelled after the admission but before running gives the permit back, and the next one has it."""

    async def main() -> None:
        limiter, log = _limiter(initial_concurrency=1, max_concurrency=1), []
        holder = limiter.permit()
        await holder.__aenter__()
        unlucky = asyncio.ensure_future(_hold(limiter, 1.0, log))
        lucky = asyncio.ensure_future(_hold(limiter, 1.0, log))
        await _tick()
        holder.succeeded()  # admits the unlucky one, whose task has not run yet
        assert (limiter.metrics.in_flight, limiter.metrics.queued) == (1, 1)
        unlucky.cancel()
        await asyncio.gather(unlucky, lucky, return_exceptions=True)
        assert unlucky.cancelled()
        assert log == [(0.0, 0)]
        assert (limiter.metrics.in_flight, limiter.metrics.queued, limiter.metrics.ignored) == (0, 0, 1)

    run_virtually(main())


def test_cancelled_while_under_way() -> None:
    """A cancelled call returns its permit and teaches nothing."""

    async def main() -> None:
        limiter = _limiter(initial_concurrency=1)
        task = asyncio.ensure_future(_hold(limiter, 100.0))
        await asyncio.sleep(1.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (limiter.metrics.in_flight, limiter.metrics.ignored) == (0, 1)

    run_virtually(main())


def test_a_timeout_around_the_wait_leaves_nothing() -> None:
    """``asyncio.timeout`` around a permit is a cancellation like any other."""

    async def main() -> None:
        limiter = _limiter(initial_concurrency=1)
        async with limiter.permit():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2.0):
                    await _hold(limiter, 1.0)
        assert (limiter.metrics.in_flight, limiter.metrics.queued) == (0, 0)

    run_virtually(main())


def test_a_storm_of_cancellations_leaks_nothing() -> None:
    """Two hundred callers who give up at awkward moments leave an empty limiter, and futures nobody missed."""

    async def main() -> None:
        limiter = _limiter(initial_concurrency=3, requests_per_minute=600)
        tasks = [asyncio.ensure_future(_hold(limiter, 0.05 * (number % 4))) for number in range(200)]
        for number, task in enumerate(tasks):
            if number % 3:
                await asyncio.sleep(0.07 * (number % 2))
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (limiter.metrics.in_flight, limiter.metrics.queued) == (0, 0)
        gc.collect()

    run_virtually(main())


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (_StatusError(429), "rate_limited"),
        (_StatusError(529), "overloaded"),
        (TimeoutError(), "overloaded"),
        (_StatusError(400), "ignored"),
        (ValueError("a local fault"), "ignored"),
    ],
)
def test_leaving_by_an_exception_classifies(error: Exception, counted: str) -> None:
    """What an exception says of the limit is what the classifier says of it; the exception itself passes unchanged."""

    async def main() -> None:
        limiter = _limiter()
        with pytest.raises(type(error)) as caught:
            async with limiter.permit():
                raise error
        assert caught.value is error
        counts = {
            word: getattr(limiter.metrics, word) for word in ("succeeded", "rate_limited", "overloaded", "ignored")
        }
        assert counts == dict.fromkeys(counts, 0) | {counted: 1}
        assert limiter.metrics.in_flight == 0

    run_virtually(main())


def test_an_error_brings_its_retry_after() -> None:
    """A rejection's wish shuts the gate for all but a canary, which a teller nobody knows cannot hold back for long."""

    async def main() -> None:
        limiter = _limiter(requests_per_minute=600)
        with pytest.raises(_StatusError):
            async with limiter.permit():
                raise _StatusError(429, **{"retry-after": "7"})
        begun_s = asyncio.get_running_loop().time()
        async with limiter.permit() as canary:
            assert 0.2 <= canary.admitted_s - begun_s < 7.0
            canary.rate_limited(retry_after=6.0)
        for _ in range(5):  # each wait is twice as long, until what was told has passed
            async with limiter.permit() as canary:
                if canary.admitted_s - begun_s >= 7.0:
                    break
                canary.rate_limited(retry_after=7.0 - (canary.admitted_s - begun_s))
        assert 7.0 <= canary.admitted_s - begun_s < 7.5

    run_virtually(main())


def test_leaving_unsettled_is_ignored() -> None:
    """Who says nothing teaches nothing."""

    async def main() -> None:
        limiter = _limiter()
        async with limiter.permit():
            pass
        assert limiter.metrics.ignored == 1

    run_virtually(main())


@pytest.mark.parametrize("again", ["succeeded", "rate_limited", "overloaded", "ignored"])
def test_settled_exactly_once(again: str) -> None:
    """A second settlement is an error, whatever it says, and so is one before entering."""

    async def main() -> None:
        limiter = _limiter()
        permit = limiter.permit()
        with pytest.raises(PermitSettledError, match="<Permit new>"):
            getattr(permit, again)()
        async with permit:
            permit.succeeded()
            with pytest.raises(PermitSettledError, match="<Permit settled>"):
                getattr(permit, again)()
        assert limiter.metrics.in_flight == 0
        assert limiter.metrics.succeeded == 1

    run_virtually(main())


def test_settled_inside_then_an_exception() -> None:
    """Who settles and then fails for reasons of its own has settled."""

    async def main() -> None:
        limiter = _limiter()

        async def call() -> None:
            async with limiter.permit() as permit:
                permit.succeeded()
                raise ValueError("mine")

        with pytest.raises(ValueError, match="mine"):
            await call()
        assert (limiter.metrics.succeeded, limiter.metrics.ignored) == (1, 0)

    run_virtually(main())


def test_a_permit_is_not_entered_twice() -> None:
    """A permit under way cannot be entered again: it would be counted twice and settled once."""

    async def main() -> None:
        limiter = _limiter()
        async with limiter.permit() as permit:
            with pytest.raises(RuntimeError):
                await permit.__aenter__()
        assert limiter.metrics.in_flight == 0

    run_virtually(main())


def test_the_axis_may_be_a_word() -> None:
    """``rate_limited`` takes the axis by name; another word is an error that leaves the permit to be settled."""

    async def main() -> None:
        limiter, told = _limiter(tokens_per_minute=6000), []
        limiter.subscribe(told.append)
        async with limiter.permit(input_tokens=9) as permit:
            with pytest.raises(ValueError, match="bananas"):
                permit.rate_limited(axis="bananas")
            permit.rate_limited(retry_after=1.0, axis="tokens")
        assert [change.axis for change in told] == [Axis.TOKENS]

    run_virtually(main())


# --- one timer, no polling -------------------------------------------------------------------------------------------


class _CountingLoop(VirtualLoop):
    """Counts timers set, and those that lie ahead."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[asyncio.TimerHandle] = []

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        timer = super().call_at(when, callback, *args, context=context)
        self.timers.append(timer)
        return timer

    @property
    def pending(self) -> int:
        return sum(not timer.cancelled() and timer.when() > self.time() for timer in self.timers)


def test_one_timer_for_all_who_wait() -> None:
    """A thousand waiters share one timer, and each admission costs at most one more."""
    loop = _CountingLoop()

    async def main() -> None:
        limiter = _limiter(requests_per_minute=600, max_requests_per_minute=600)
        tasks = [asyncio.ensure_future(_hold(limiter, 0.0)) for _ in range(1000)]
        await _tick()
        assert limiter.metrics.queued >= 998
        assert loop.pending == 1
        before = len(loop.timers)
        deadline = loop.time() + 10.0
        while loop.time() < deadline:
            await asyncio.sleep(1.0)
            assert loop.pending <= 1
        assert len(loop.timers) - before <= 2 * 100 + 20
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert loop.pending == 0

    loop.run_until_complete(main())
    loop.close()


def test_nothing_stirs_while_nothing_is_due() -> None:
    """With every slot taken and ten thousand waiting, an hour passes without a single timer."""
    loop = _CountingLoop()

    async def main() -> None:
        limiter = _limiter(initial_concurrency=2, max_concurrency=2)
        busy = [asyncio.ensure_future(_hold(limiter, 3600.0)) for _ in range(2)]
        waiting = [asyncio.ensure_future(_hold(limiter, 0.0)) for _ in range(10_000)]
        await _tick()
        timers = len(loop.timers)
        await asyncio.sleep(3599.0)
        assert len(loop.timers) == timers + 1  # the test's own sleep
        await asyncio.gather(*busy, *waiting)
        assert limiter.metrics.succeeded == 10_002

    loop.run_until_complete(main())
    loop.close()


def test_no_timer_outlives_the_last_waiter() -> None:
    """Once nobody waits, no timer is set: not even for a deadline that was met."""
    loop = _CountingLoop()

    async def main() -> None:
        limiter = _limiter(initial_concurrency=1)
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(_hold(limiter, 1.0, deadline=1000.0))
        assert limiter.metrics.queued == 0
        assert loop.pending == 0

    loop.run_until_complete(main())
    loop.close()


class _CoarseLoop(VirtualLoop):
    """A clock with ticks of 1/64 s, as on some hosts: a timer may fire before ``time()`` shows its moment."""

    def time(self) -> float:
        return math.floor(super().time() * 64) / 64

    def select(self, timeout: float | None) -> list[Any]:
        ready = super().select(timeout)
        self._clock_resolution = 1 / 64
        return ready


def test_a_coarse_clock_does_no_harm() -> None:
    """Where a timer fires a tick early, admissions keep their order and their pace, and time never runs backwards."""
    loop = _CoarseLoop()

    async def main() -> None:
        limiter = _limiter(requests_per_minute=6000, max_requests_per_minute=6000, initial_concurrency=50)
        admitted: list[float] = []

        async def call() -> None:
            async with limiter.permit(input_tokens=10) as permit:
                admitted.append(permit.admitted_s)
                await asyncio.sleep(0.001)
                permit.succeeded()

        await asyncio.gather(*(call() for _ in range(500)))
        assert admitted == sorted(admitted)
        assert admitted[-1] - admitted[0] >= 0.98 * 499 / 100.0
        assert limiter.metrics.round_trip_s is not None
        assert limiter.metrics.round_trip_s >= 0.0

    loop.run_until_complete(main())
    loop.close()


# --- one loop --------------------------------------------------------------------------------------------------------


def test_another_event_loop_is_an_error() -> None:
    """A limiter belongs to the first loop that used it; a second one is told what to do instead."""
    limiter = _limiter()
    run_virtually(_hold(limiter, 1.0))
    with pytest.raises(WrongEventLoopError, match="one limiter per loop"):
        run_virtually(_hold(limiter, 1.0))
    assert limiter.metrics.in_flight == 0


def test_made_outside_a_loop() -> None:
    """A limiter can be made, read and retuned where no loop runs."""
    limiter = _limiter(initial_concurrency=5)
    assert limiter.metrics.concurrency_limit == 5.0
    limiter.retune(RateLimitConfig(initial_concurrency=7))
    assert limiter.metrics.concurrency_limit == 7.0
    run_virtually(_hold(limiter, 1.0))


# --- what it tells ---------------------------------------------------------------------------------------------------


def test_repr_tells_the_state() -> None:
    """One line says what it is doing now."""

    async def main() -> None:
        limiter = _limiter(initial_concurrency=1)
        async with limiter.permit():
            waiting = asyncio.ensure_future(_hold(limiter, 0.0))
            await _tick()
            assert repr(limiter) == (
                "<AdaptiveRateLimiter open, unpaced, 1/1 in flight, 1 waiting, bound by concurrency, "
                "last change: configured>"
            )
        await waiting

    run_virtually(main())


def test_subscribers_hear_every_change() -> None:
    """Each change reaches every subscriber and the log; who unsubscribes hears no more."""

    async def main() -> None:
        limiter = _limiter(requests_per_minute=600)
        heard: list[Change] = []
        also: list[Change] = []
        leave = limiter.subscribe(heard.append)
        limiter.subscribe(also.append)
        async with limiter.permit() as permit:
            permit.rate_limited(axis=Axis.REQUESTS)
        assert [change.reason for change in heard] == [Reason.COOL_OFF]
        leave()
        limiter.retune(RateLimitConfig(requests_per_minute=60))
        assert len(heard) == 1
        assert also[-1].reason is Reason.RETUNED

    run_virtually(main())


def test_changes_reach_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A log line carries axis, both values and the reason's word."""

    async def main() -> None:
        async with _limiter(requests_per_minute=600).permit() as permit:
            permit.rate_limited(axis=Axis.REQUESTS)

    with caplog.at_level(logging.DEBUG, logger="factflow_llm.ratelimit.limiter"):
        run_virtually(main())
    assert any("requests limit" in line and "cool_off" in line for line in caplog.messages)


def test_a_failing_subscriber_hurts_nobody() -> None:
    """A subscriber's exception neither reaches a caller nor keeps waiters from their turn."""

    async def main() -> None:
        limiter = _limiter(initial_concurrency=1)

        def broken(change: Change) -> None:
            raise ZeroDivisionError

        limiter.subscribe(broken)
        await asyncio.gather(*(_hold(limiter, 1.0) for _ in range(4)))
        assert limiter.metrics.succeeded == 4

    run_virtually(main())


# --- new settings ----------------------------------------------------------------------------------------------------


def test_retune_takes_effect_on_those_who_wait() -> None:
    """A raised quota lets waiters go at once; a lowered one holds them back; nobody loses their place."""

    async def main() -> None:
        limiter, log = _limiter(requests_per_minute=6), []
        tasks = [asyncio.ensure_future(_hold(limiter, 0.0, log)) for _ in range(10)]
        await asyncio.sleep(11.0)
        slow = len(log)
        assert slow <= 3
        limiter.retune(RateLimitConfig(requests_per_minute=600))
        await asyncio.sleep(2.0)
        assert len(log) == 10
        assert limiter.config.requests_per_minute == 600
        await asyncio.gather(*tasks)

    run_virtually(main())


@pytest.mark.parametrize("name", ["input_tokens", "output_tokens", "deadline"])
@pytest.mark.parametrize("value", [-1, float("nan")])
def test_senseless_permits_are_refused(name: str, value: float) -> None:
    """A negative number or NaN would disturb the budgets of everybody: the error names it and the remedy."""
    with pytest.raises(InvalidRequestError, match=rf"{name} = {value!r} must be at least 0; leave it out"):
        _limiter().permit(**{name: value})  # type: ignore[arg-type]
