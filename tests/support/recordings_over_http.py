"""Recordings for calibration over HTTP: the real SDK in real time, before servers of whom the client knows nothing."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import openai

from factflow_llm.clients.openai import OpenAIClient
from factflow_llm.ratelimit.client import RateLimitedClient
from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.ratelimit.limiter import AdaptiveRateLimiter
from factflow_llm.recorder import AttemptRow, AttemptSink, Recorder, RowOutcome
from factflow_llm.signals import Axis
from factflow_llm.types import Message
from simulators.providers.catalogue import Provider, RetryAfter
from simulators.providers.latency import LatencyModel
from simulators.providers.quotas import Bucket, FixedWindow, Quota, SlidingWindow, Slots
from simulators.server.serving import running_server
from simulators.traces import Recording, Trace, read_recording, synthesize
from tests.support.recordings import MAX_TOKENS, NAMING

if TYPE_CHECKING:
    from pathlib import Path

_MOST_CALLS = 5000
_FIRST_PER_S = 5.0
_STAGE_S = 3.0
_STEP = 1.15  # by so much the demand rises,
_FLOWING_S = 3.0  # while no more calls are under way than come in such a time
_NOTICED = 10  # and no more were refused than this
_ENOUGH = 40  # refusals that are enough to calibrate with,
_SHORTEST_S = 45.0  # if it took so long at least;
_LONGEST_S = 120.0  # after so long there is no more waiting for them
_HELD_OUT = 2 / 3  # of that time


def hidden_over_http(seed: int) -> tuple[Provider, Trace, bool]:
    """Return the same, but such that it can be told in minutes of real time: more calls, shorter windows.

    The trace is one call per second; whoever drives it sets the pace.
    """
    luck = random.Random(f"over HTTP {seed}")
    limited = luck.random() < 0.4
    rate = luck.uniform(9.0, 14.0)
    trace = synthesize(1.0, _MOST_CALLS, cv=luck.choice([1.0, 2.0]), max_tokens=MAX_TOKENS, seed=seed)
    mean_tokens = float(trace.input_tokens.mean()) + MAX_TOKENS
    latency = LatencyModel(
        first_token_s=luck.uniform(0.1, 0.4),
        first_token_sigma=luck.uniform(0.2, 0.4),
        per_token_s=luck.uniform(0.001, 0.003),
        rejection_s=luck.uniform(0.01, 0.05),
    )
    answer_s = latency.first_token_s * 1.1 + latency.per_token_s * float(trace.output_tokens.mean())
    plan = luck.choices(["requests", "tokens", "slots"], [3, 3, 1])[0]
    quota = {
        "requests": lambda: _brief_quota(luck, Axis.REQUESTS, rate),
        "tokens": lambda: _brief_quota(luck, Axis.TOKENS, rate * mean_tokens),
        "slots": lambda: Slots(limit=max(round(rate * answer_s), 2), retry_after_s=luck.choice([0.5, 1.0])),
    }[plan]()
    habits: list[dict[str, Any]] = [{}, {"shown_in": "whole_seconds"}, {"habit": "absent"}]
    provider = Provider(
        name=f"hidden {seed}",
        quotas=(quota,),
        latency=latency,
        retry_after=RetryAfter(**luck.choice(habits)),
        shows_limits=plan != "slots" and luck.random() < 0.2,
        names_axis=luck.random() < NAMING,
    )
    return provider, trace, limited


def _brief_quota(luck: random.Random, axis: Axis, per_s: float) -> Quota:
    about: dict[str, Any] = {"axis": axis, "limit": round(per_s) * 60}  # whole units per window, whichever it is
    shape = luck.choice(["bucket", "fixed", "sliding"])
    if shape == "bucket":
        return Bucket(**about, burst_s=luck.choice([1.0, 2.0, 5.0]))
    over_s = luck.choice([1.0, 2.0, 3.0, 5.0])
    if shape == "fixed":
        return FixedWindow(**about, enforced_over_s=over_s, phase_s=luck.uniform(0.0, over_s))
    return SlidingWindow(**about, enforced_over_s=over_s)


class Load:
    """How hard to ask of a provider of whom nothing is known.

    Harder and harder, until it refuses or calls pile up;
    from then on a little more than it answers, or a little less while calls pile up.

    What comes until enough refusals were seen is for calibration; then it goes on for two thirds of that time, which
    is held out. Takes attempt rows as a recorder does, for they tell what was refused, and hands them on.
    """

    def __init__(self, recorder: AttemptSink) -> None:
        self._recorder = recorder
        self._refused = 0
        self._stage_s = 0.0
        self._over = 0
        self._found = False
        self.per_s = _FIRST_PER_S
        self.split_s: float | None = None

    def record(self, row: AttemptRow, /) -> None:
        """Count what is refused."""
        self._refused += row.outcome == RowOutcome.RATE_LIMITED
        self._recorder.record(row)

    def goes_on(self, now: float, begun: int, over: int) -> bool:
        """Set the pace for ``now``, seconds from the start, by the calls begun and over; return whether to go on."""
        if now >= self._stage_s + _STAGE_S:
            flowing = begun - over <= _FLOWING_S * self.per_s
            self._found |= not flowing or self._refused >= _NOTICED
            answered_per_s = (over - self._over) / (now - self._stage_s)
            self.per_s = (
                (self.per_s + answered_per_s * (1.1 if flowing else 0.9)) / 2 if self._found else self.per_s * _STEP
            )
            self._stage_s, self._over = now, over
        if self.split_s is not None:
            return now < self.split_s * (1 + _HELD_OUT)
        if now >= _LONGEST_S or (now >= _SHORTEST_S and self._refused >= _ENOUGH):
            self.split_s = now
        return True


@dataclass(frozen=True)
class OverHttp:
    """What was recorded over HTTP.

    Attributes:
        recording: of the production client.
        zero_s: the server's time at the recording's zero.
        split_s: when, in the recording's time, enough was seen for calibration.
    """

    recording: Recording
    zero_s: float
    split_s: float


def record_over_http(provider: Provider, trace: Trace, path: Path, *, limited: bool = False, seed: int = 0) -> OverHttp:
    """Return what a recorder saw of the real SDK before a provider's HTTP face, under a load that finds the quota."""
    limiter = AdaptiveRateLimiter(RateLimitConfig()) if limited else None
    with running_server(provider, seed=seed) as server, Recorder(path) as recorder:
        load = Load(recorder)
        begun_s = asyncio.run(ask_over_http(f"{server.url}/v1", trace, load, limiter))
        zero_s = server.now - (time.monotonic() - begun_s)
    assert load.split_s is not None
    return OverHttp(read_recording(path), zero_s, load.split_s)


class _Load(AttemptSink, Protocol):
    """How hard to ask, and when to end."""

    per_s: float

    def goes_on(self, now: float, begun: int, over: int) -> bool: ...


async def ask_over_http(url: str, trace: Trace, load: _Load, limiter: AdaptiveRateLimiter | None) -> float:
    """Ask as long and as hard as ``load`` says; return when the first call arrived."""
    loop = asyncio.get_running_loop()
    sdk = OpenAIClient("simulated", api_key="sk-test", base_url=url)
    client = RateLimitedClient(sdk, limiter, recorder=load, count_tokens=_as_the_face_counts)
    over = 0

    async def ask(number: int) -> None:
        nonlocal over
        text = "word" * (int(trace.input_tokens[number]) - 1)
        headers = {"x-simulated-output-tokens": str(trace.output_tokens[number])}
        with contextlib.suppress(openai.APIError):
            await client.complete([Message.user(text)], max_tokens=MAX_TOKENS, extra_headers=headers)
        over += 1

    begun_s = due_s = loop.time()
    asked: list[asyncio.Task[None]] = []
    for number, gap in enumerate(np.diff(trace.arrival_s).tolist()):
        await asyncio.sleep(due_s - loop.time())
        if not load.goes_on(loop.time() - begun_s, len(asked), over):
            break
        asked.append(loop.create_task(ask(number)))
        due_s += gap / load.per_s
    try:
        await asyncio.gather(*asked)
    finally:
        await client.aclose()
    return begun_s


def _as_the_face_counts(text: str) -> int:
    """Take four letters for a token, and one more; the estimate for real text is a sixth off for this one."""
    return len(text) // 4 + 1
