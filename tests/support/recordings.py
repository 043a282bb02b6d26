"""Recordings for calibration, in virtual time: production code and the real recorder before hidden providers."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

from factflow_llm.ratelimit.client import RateLimitedClient
from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.ratelimit.limiter import AdaptiveRateLimiter
from factflow_llm.recorder import Recorder
from factflow_llm.signals import Axis
from factflow_llm.types import CompletionResponse, Message
from simulators.engine.loop import _JITTERS
from simulators.engine.stand_in import SimulatedError
from simulators.providers.catalogue import Provider, RetryAfter
from simulators.providers.faults import Refused
from simulators.providers.latency import LatencyModel
from simulators.providers.machine import ProviderMachine
from simulators.providers.quotas import Bucket, FixedWindow, Quota, SlidingWindow, Slots
from simulators.scenarios.demand import calls as calls_of
from simulators.scenarios.scenario import Scenario
from simulators.streams import Streams
from simulators.traces import Recording, Trace, read_recording, synthesize
from tests.support.production import SimulatedClient
from tests.support.virtual_loop import run_virtually

if TYPE_CHECKING:
    from pathlib import Path

    from simulators.providers.calls import Call

MAX_TOKENS = 400
NAMING = 0.7  # so many of the hidden providers name the dimension that refused


class _Client(SimulatedClient):
    async def complete(self, *arguments: Any, **options: Any) -> CompletionResponse:
        try:
            return await super().complete(*arguments, **options)
        except SimulatedError as error:
            if error.status_code != 429:
                error.body = {
                    "message": "The engine is overloaded.",
                    "type": "server_error",
                    "param": None,
                    "code": None,
                }
            raise


def record(provider: Provider, trace: Trace, path: Path, *, limited: bool = True, seed: int = 0) -> Recording:
    """Return what a recorder saw in virtual time of a trace asked with or without a limiter."""
    scenario = Scenario(trace, provider)
    with Recorder(path, max_queued=2**40) as recorder:
        run_virtually(_main(scenario, AdaptiveRateLimiter(RateLimitConfig()) if limited else None, recorder, seed))
    return read_recording(path)


async def _main(scenario: Scenario, limiter: AdaptiveRateLimiter | None, recorder: Recorder, seed: int) -> None:
    loop = asyncio.get_running_loop()
    streams = Streams(seed)
    machine = ProviderMachine(scenario.provider, streams)
    jitters = streams.stream("jitter", "uniform", _JITTERS)
    calls = calls_of(scenario, streams)
    tasks = set()

    async def ask(call: Call) -> None:
        draws = iter(jitters.row(call.index) * 64)
        client = RateLimitedClient(
            _Client(machine), limiter, recorder=recorder, jitter=draws.__next__, count_tokens=int
        )
        try:
            await client.complete([Message.user(str(call.input_tokens))], max_tokens=call.max_tokens, call=call)
        except Exception:
            return

    def arrive(call: Call) -> None:
        schedule_next()
        task = loop.create_task(ask(call))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def schedule_next() -> None:
        following = next(calls, None)
        if following is not None:
            loop.call_at(following[0], arrive, following[1])

    schedule_next()
    await asyncio.sleep(scenario.horizon_s)


def hidden(seed: int, duration_s: float = 1800.0) -> tuple[Provider, Trace, bool]:
    """Return a random provider, a demand that keeps reaching its quota, and whether the client has a limiter."""
    luck = random.Random(seed)
    limited = luck.random() < 0.7
    rate = luck.uniform(2.0, 7.0)
    load = luck.uniform(1.0, 1.15) if limited else luck.uniform(0.9, 1.0)
    trace = synthesize(rate * load, duration_s, cv=luck.choice([1.0, 2.0, 3.0]), max_tokens=MAX_TOKENS, seed=seed)
    mean_tokens = float(trace.input_tokens.mean()) + MAX_TOKENS
    plan = luck.choices(["requests", "tokens", "input", "both", "slots"], [5, 4, 2, 3, 2])[0]
    latency = LatencyModel(
        first_token_s=luck.uniform(0.2, 1.5),
        first_token_sigma=luck.uniform(0.2, 0.6),
        per_token_s=luck.uniform(0.004, 0.02),
        per_token_sigma=luck.uniform(0.1, 0.3),
        slow_share=(slow := luck.choice([0.0, 0.02])),
        slow_first_token_s=6.0 if slow else None,
        rejection_s=luck.uniform(0.03, 0.15),
    )
    answer_s = latency.first_token_s * 1.1 + latency.per_token_s * float(trace.output_tokens.mean())
    meters: list[Quota] = []
    if plan in ("requests", "both"):
        meters.append(_quota(luck, Axis.REQUESTS, rate))
    if plan in ("tokens", "both"):
        meters.append(_quota(luck, Axis.TOKENS, rate * mean_tokens * (1.1 if plan == "both" else 1.0)))
    if plan == "input":
        meters.append(_quota(luck, Axis.INPUT_TOKENS, rate * (mean_tokens - MAX_TOKENS)))
    if plan == "slots":
        meters.append(Slots(limit=max(round(rate * answer_s), 2), retry_after_s=luck.choice([0.5, 1.0, 2.0])))
    habits: list[dict[str, Any]] = [
        {},
        {"shown_in": "whole_seconds"},
        {"habit": "absent"},
        {"habit": "late", "factor": 1.5},
        {"constant_s": 2.0},
    ]
    habit = luck.choices(habits, [5, 4, 4, 1, 1])[0]
    provider = Provider(
        name=f"hidden {seed}",
        quotas=tuple(meters),
        latency=latency,
        retry_after=RetryAfter(**habit),
        shows_limits=plan != "slots" and plan != "input" and luck.random() < 0.4,
        faults=(Refused(status=503, share=luck.uniform(0.003, 0.02)),) if luck.random() < 0.3 else (),
        names_axis=luck.random() < NAMING,
    )
    return provider, trace, limited


def _quota(luck: random.Random, axis: Axis, per_s: float) -> Quota:
    """Return a quota of odd size that lets ``per_s`` units through per second, in one of the known shapes."""
    limit = round(per_s * 60)
    counts = axis is Axis.REQUESTS and luck.random() < 0.2
    shape = luck.choice(["bucket", "burst", "fixed", "sliding", "quantised"])
    about: dict[str, Any] = {"axis": axis, "limit": limit, "rejections_count": counts}
    if shape == "bucket":
        return Bucket(**about)
    if shape == "burst":
        return Bucket(**about, burst_s=luck.choice([5.0, 10.0, 20.0]))
    if shape == "fixed":
        return FixedWindow(**about, phase_s=luck.uniform(0.0, 60.0))
    if shape == "sliding":
        return SlidingWindow(**about)
    over_s = luck.choice([5.0, 10.0])
    about["limit"] = limit // 12 * 12  # whole units per window, whichever it is
    if luck.random() < 0.5:
        return FixedWindow(**about, enforced_over_s=over_s)
    return SlidingWindow(**about, enforced_over_s=over_s)
