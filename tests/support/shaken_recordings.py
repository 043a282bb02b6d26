"""Recordings for calibration, made by the thousand rows a second: meters, a network that shakes, clients that insist.

Nothing of production runs here. What is sent at one moment arrives a little later, in another order, at meters that
decide; what is recorded is when it was sent. The first refusals of a storm, clocks that differ, traffic that nobody
recorded and 429s that mean nothing are made here, for calibration must not take any of them for a quota.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from simulators.providers.calls import Call, CallKind
from simulators.traces import Recording
from simulators.traces.trace import Mode, TraceHeader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simulators.providers.quotas import Quota


@dataclass(frozen=True, kw_only=True)
class World:
    """What stands between calls and their answers.

    Attributes:
        quotas: of the provider; none means that it never refuses for lack of quota.
        moved: the quotas from ``moved_s`` on, if they change.
        moved_s: when.
        per_s: calls per second.
        burstiness: variation of the gaps between calls; 1 is Poisson.
        duration_s: calls arrive for so long.
        jitter_s: calls take up to so much longer to the provider than the quickest.
        clocks_s: every other call is recorded by a clock that is so much ahead.
        retries: how often a refused call comes again,
        backoff_s: after so long at first, twice as long each time up to ``longest_backoff_s``, with full jitter.
        longest_backoff_s: the longest wait.
        heeds: clients wait for what Retry-After says, if it is said.
        says: Retry-After is said.
        random_429: share of calls that are refused for no reason.
        unrecorded: share of the calls that somebody else makes, on the same quota.
        answer_s: typical time of an answer.
        names: refusals name their dimension.
        tokens: typical input and output, and the bound on the latter.
    """

    quotas: Sequence[Quota] = ()
    moved: Sequence[Quota] = ()
    moved_s: float = math.inf
    per_s: float = 5.0
    burstiness: float = 1.0
    duration_s: float = 900.0
    jitter_s: float = 0.0
    clocks_s: float = 0.0
    retries: int = 0
    backoff_s: float = 1.0
    longest_backoff_s: float = 30.0
    heeds: bool = False
    says: bool = False
    random_429: float = 0.0
    unrecorded: float = 0.0
    answer_s: float = 0.8
    names: bool = False
    tokens: tuple[int, int, int] = (900, 150, 400)


def make(world: World, seed: int, name: str = "made") -> Recording:
    """Return a recording of that world."""
    luck = np.random.default_rng(seed)
    shape = 1.0 / world.burstiness**2
    number = int(world.per_s * world.duration_s * 1.2) + 50
    arrival_s = np.cumsum(luck.gamma(shape, 1.0 / (shape * world.per_s), number))
    arrival_s = arrival_s[arrival_s < world.duration_s]
    number = len(arrival_s)
    read = np.maximum(np.exp(luck.normal(math.log(world.tokens[0]), 0.6, number)), 1).astype(int).tolist()
    bound = world.tokens[2]
    written = np.clip(np.exp(luck.normal(math.log(world.tokens[1]), 0.5, number)), 1, bound).astype(int).tolist()
    took_s = np.exp(luck.normal(math.log(world.answer_s), 0.4, number)).tolist()
    hidden = (luck.random(number) < world.unrecorded).tolist()
    ahead_s = np.where(np.arange(number) % 2 == 1, world.clocks_s, 0.0).tolist()
    calls = [Call(index, read[index], written[index], bound, CallKind.CHAT) for index in range(number)]
    rules = [(quota.cost_rule(), quota.final_rule(), quota.rejections_count) for quota in world.quotas]
    meters = [quota.meter() for quota in world.quotas]
    moved = False
    # (time at the provider, order, kind, call, attempt, sent): 0 ends an answer, 1 asks
    events: list[tuple[float, int, int, int, int, float, Any]] = []
    order = 0
    rows: list[tuple[Any, ...]] = []

    def send(index: int, attempt: int, sent_s: float) -> None:
        nonlocal order
        order += 1
        at_s = sent_s + 0.004 + luck.random() * world.jitter_s
        heapq.heappush(events, (at_s, order, 1, index, attempt, sent_s, None))

    for index, arrived_s in enumerate(arrival_s.tolist()):
        send(index, 0, arrived_s)
    while events:
        now, _, kind, index, attempt, sent_s, receipts = heapq.heappop(events)
        if not moved and now >= world.moved_s:
            moved = True
            meters = [quota.meter() for quota in world.moved]
            rules = [(quota.cost_rule(), quota.final_rule(), quota.rejections_count) for quota in world.moved]
        call = calls[index]
        if kind == 0:
            for meter, receipt, units in receipts:
                meter.correct(now, receipt, units)
            continue
        costs = [1.0 if cost is None else cost(call) for cost, _, _ in rules]
        waits = [meter.wait_s(now, units) for meter, units in zip(meters, costs, strict=True)]
        wait_s = max(waits, default=0.0)
        unlucky = luck.random() < world.random_429
        back_s = now + 0.004 + luck.random() * world.jitter_s
        if wait_s > 0 or unlucky:
            for meter, units, (_, _, counts) in zip(meters, costs, rules, strict=True):
                if counts:
                    meter.penalise(now, units)
            axis = world.quotas[int(np.argmax(waits))].axis if world.names and wait_s > 0 else None
            told_s = wait_s if world.says and wait_s > 0 else math.nan
            outcome: tuple[Any, ...] = (429, "rate_limited", told_s, axis, back_s)
            if attempt < world.retries:
                pause_s = min(world.backoff_s * 2**attempt, world.longest_backoff_s) * luck.random()
                if world.heeds and math.isfinite(told_s):
                    pause_s = told_s
                send(index, attempt + 1, back_s + pause_s)
        else:
            receipts = []
            for meter, units, (_, final, _) in zip(meters, costs, rules, strict=True):
                receipt = meter.charge(now, units)
                if final is not None:
                    receipts.append((meter, receipt, final(call, call.output_tokens) - units))
            over_s = now + took_s[index]
            if receipts:
                order += 1
                heapq.heappush(events, (over_s, order, 0, index, attempt, sent_s, receipts))
            outcome = (200, "succeeded", math.nan, None, back_s + took_s[index])
        if not hidden[index]:
            shift = ahead_s[index]
            status, word, told_s, axis, end_s = outcome
            rows.append(
                (f"c{index}", attempt, float(arrival_s[index]) + shift, sent_s + shift, sent_s + shift, end_s + shift,
                 status, word, told_s, axis, call.input_tokens, call.output_tokens if status == 200 else None)
            )  # fmt: skip
    names = ("request", "attempt", "arrival_s", "admitted_s", "sent_s", "end_s", "status", "outcome", "retry_after_s",
             "axis", "input_tokens", "output_tokens")  # fmt: skip
    frame = pd.DataFrame(rows, columns=list(names)).sort_values("end_s", kind="stable", ignore_index=True)
    for column in ("attempt", "status", "input_tokens", "output_tokens"):
        frame[column] = frame[column].astype("Int64")
    frame["max_tokens"] = pd.array([bound] * len(frame), dtype="Int64")
    frame["first_chunk_s"] = np.nan
    frame["model"], frame["provider"], frame["operation"], frame["error"] = "m", "openai", "chat", None
    header = TraceHeader(
        mode=Mode.RECORDED, source="made", source_sha256="", created=None, rows_read=len(frame),
        rows_emitted=len(frame), drops={}, notes=(),
    )  # fmt: skip
    return Recording(frame, header, name)
