"""The live view of a limiter at work: what it shows, that it retunes, and that the limiter outlives it."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import pytest

import simulators as sim
from factflow_llm import AdaptiveRateLimiter, RateLimitConfig
from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.metrics import AIMDMetrics
from factflow_llm.signals import Axis, Change, Reason
from simulators.dashboard.live import LiveSample, curves_of_samples

if TYPE_CHECKING:
    from collections.abc import Callable


def _metrics(
    time_s: float, *, rate: float = math.inf, succeeded: int = 0, rejected: int = 0, queued: int = 0
) -> AIMDMetrics:
    return AIMDMetrics(
        time_s=time_s, in_flight=3, queued=queued, concurrency_limit=16.0, requests_per_s=rate,
        input_tokens_per_s=math.inf, output_tokens_per_s=math.inf, tokens_per_s=math.inf, blocked_until_s=None,
        breaker_open=False, last_reason=Reason.CONFIGURED, round_trip_s=None, succeeded=succeeded,
        rate_limited=rejected, overloaded=0, ignored=0,
    )  # fmt: skip


async def _until(happened: Callable[[], bool]) -> None:
    """Let the loop go round until it has happened."""
    for _ in range(5000):
        if happened():
            return
        await asyncio.sleep(0.001)
    pytest.fail("it never happened")


async def _calls(limiter: AdaptiveRateLimiter, number: int) -> None:
    for turn in range(number):
        async with limiter.permit() as permit:
            if turn == number - 1:
                permit.rate_limited(retry_after=0.001)
            else:
                permit.succeeded()


def test_samples_become_rates_and_an_estimated_wait() -> None:
    """Counters that grow are attempts per minute; a line of 10 that moves at 5 per second is a wait of 2 s."""
    samples = [
        LiveSample(100.0, _metrics(100.0)),
        LiveSample(102.0, _metrics(102.0, rate=4.0, succeeded=8, rejected=2, queued=10)),
        LiveSample(104.0, _metrics(104.0, rate=4.0, succeeded=8, rejected=2, queued=10)),
    ]
    cut = Change(101.0, Axis.REQUESTS, math.inf, 4.0, Reason.RATE_LIMITED)
    curves = curves_of_samples(samples, [cut], began_s=100.0)
    assert curves.span_s == (0.0, 4.0)
    assert curves.outcomes["succeeded"].tolist() == [240.0, 0.0]
    assert curves.outcomes["rate_limited"].tolist() == [60.0, 0.0]
    assert curves.waits["estimated"].tolist() == pytest.approx([2.0, math.nan], nan_ok=True)
    assert curves.limit[0].tolist() == [0.0, 1.0, 2.0, 4.0]
    assert curves.limit[1].tolist() == pytest.approx([math.nan, 240.0, 240.0, 240.0], nan_ok=True)
    assert {reason: (list(at), list(high)) for reason, (at, high) in curves.marks.items()} == {
        "rate_limited": ([1.0], [240.0])
    }
    assert len(curves.capacity[0]) == 0


def test_the_axis_shown_is_the_one_that_was_cut_most() -> None:
    """Slots are a number, rates are per minute."""
    samples = [LiveSample(0.0, _metrics(0.0)), LiveSample(1.0, _metrics(1.0))]
    cuts = [Change(0.5, Axis.CONCURRENCY, 16.0, 8.0, Reason.RATE_LIMITED)]
    curves = curves_of_samples(samples, cuts, began_s=0.0)
    assert curves.axis is Axis.CONCURRENCY
    assert curves.limit[1].tolist() == [16.0, 8.0, 16.0]
    assert curves.used.tolist() == [3.0]


def test_many_samples_are_shown_in_at_most_120_windows() -> None:
    """An hour fits into the picture."""
    samples = [LiveSample(float(turn), _metrics(float(turn), succeeded=turn)) for turn in range(3600)]
    curves = curves_of_samples(samples, [], began_s=0.0)
    assert len(curves.outcomes["succeeded"]) <= 120
    assert curves.outcomes["succeeded"] == pytest.approx(60.0)


def test_a_limiter_at_work_is_followed_and_retuned() -> None:
    """The picture moves while calls are made; a slider reaches the limiter, and the change is marked."""

    async def scene() -> None:
        limiter = AdaptiveRateLimiter(RateLimitConfig(requests_per_minute=60_000))
        watch = sim.watch(limiter, every_s=0.01, span_s=5.0)
        picture = watch.widget.children[1].children[1].children[2]
        await _calls(limiter, 20)
        await _until(lambda: bytes(picture.value).startswith(b"\x89PNG"))
        assert picture.layout.display == ""
        watch.sliders["decrease"].value = 0.5
        watch.sliders["requests_per_minute"].value = 1000.0
        await _until(lambda: limiter.config.requests_per_minute == 1000.0)
        assert limiter.config.decrease == 0.5
        assert watch.messages.text.startswith("Retuned: requests_per_minute, now 1000 requests/min")
        curves = watch.curves()
        assert {"retuned"} < set(curves.marks), "the cut is marked too"
        assert "watching" in repr(watch)
        watch.close()
        await asyncio.sleep(0)

    asyncio.run(scene())


def test_settings_that_contradict_leave_the_limiter_alone() -> None:
    """The view says why, in words."""

    async def scene() -> None:
        settings = RateLimitConfig(initial_concurrency=16)
        limiter = AdaptiveRateLimiter(settings)
        watch = sim.watch(limiter)
        watch.sliders["max_concurrency"].value = 11
        await asyncio.sleep(0)
        assert watch.messages.is_error
        assert "initial_concurrency 16 is above max_concurrency 11" in watch.messages.text
        assert limiter.config == settings
        watch.close()
        await asyncio.sleep(0)

    asyncio.run(scene())


def test_a_view_that_stops_lets_the_limiter_go_on() -> None:
    """Nothing stays subscribed, and calls pass as before."""

    async def scene() -> None:
        limiter = AdaptiveRateLimiter()
        watch = sim.watch(limiter)
        watch.stop_button.click()
        await _until(watch._task.done)
        assert watch.messages.text == "No longer watching. The limiter goes on."
        assert limiter._subscribers == []
        await _calls(limiter, 3)
        assert limiter.metrics.succeeded == 2
        watch.close()
        await asyncio.sleep(0)

    asyncio.run(scene())


def test_another_view_takes_the_place_of_the_first() -> None:
    """A cell that is run again leaves one view, and one subscription."""

    async def scene() -> None:
        limiter = AdaptiveRateLimiter()
        first = sim.watch(limiter)
        second = sim.watch(limiter)
        await _until(first._task.done)
        assert len(limiter._subscribers) == 1
        assert not second._task.done()
        second.close()
        await asyncio.sleep(0)

    asyncio.run(scene())


def test_outside_an_event_loop_it_says_where_to_call_it() -> None:
    """There is nothing to follow without one."""
    with pytest.raises(ConfigurationError, match="needs a running event loop"):
        sim.watch(AdaptiveRateLimiter())


@pytest.mark.parametrize(("every_s", "span_s"), [(0.0, 10.0), (-1.0, 10.0), (10.0, 5.0)])
def test_numbers_out_of_bounds_are_refused(every_s: float, span_s: float) -> None:
    """With their names."""

    async def scene() -> None:
        sim.watch(AdaptiveRateLimiter(), every_s=every_s, span_s=span_s)

    with pytest.raises(ConfigurationError, match="every_s = "):
        asyncio.run(scene())
