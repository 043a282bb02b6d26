"""Ask the provider's own meters what they would have said to every recorded send."""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from simulators.providers.calls import Call, CallKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from simulators.calibration.evidence import Bools, Evidence, Floats
    from simulators.providers.meters import Meter
    from simulators.providers.quotas import Quota


class Verdicts(NamedTuple):
    """What the meters say of each attempt.

    Attributes:
        rejected: they would have rejected it.
        wait_s: how long it would have had to wait; 0 if not at all.
        blamed: place of the quota that asks for the longest wait; -1 for none.
    """

    rejected: Bools
    wait_s: Floats
    blamed: Floats


def verdicts(quotas: Sequence[Quota], evidence: Evidence) -> Verdicts:
    """Return the verdicts of fresh meters, which are charged with what was admitted in truth, whatever they say."""
    wait_s, blamed = np.zeros(len(evidence)), np.full(len(evidence), -1.0)
    for index, now, meters, costs in replayed(quotas, evidence):
        for place, (meter, units) in enumerate(zip(meters, costs, strict=True)):
            wait = meter.wait_s(now, units)
            if wait > wait_s[index]:
                wait_s[index], blamed[index] = wait, place
    return Verdicts(wait_s > 0, wait_s, blamed)


def rejections(quotas: Sequence[Quota], evidence: Evidence, back_s: float = 0.0) -> Bools:
    """Return which attempts fresh meters reject, if nothing but the sends is known: they go by their own verdicts.

    Near a limit a network decides who comes first. Meters that are charged with what was admitted in truth then forgive
    whoever was sent before the last that was admitted; those that go by themselves reject another, but as many.
    Answers end at the provider ``back_s`` before they end here.
    """
    books = _Books(quotas, evidence)
    rejected = np.zeros(len(evidence), dtype=bool)
    for index in np.flatnonzero(evidence.admitted | evidence.rejected).tolist():
        now = float(evidence.sent_s[index])
        costs = books.opened(index, now)
        rejected[index] = any(meter.wait_s(now, units) > 0 for meter, units in zip(books.meters, costs, strict=True))
        if rejected[index]:
            books.reject(now, costs)
        else:
            known = evidence.admitted[index] and math.isfinite(evidence.end_s[index])
            end_s = evidence.end_s[index] if known else now + evidence.answer_s[index]
            books.admit(index, now, costs, float(max(end_s - back_s, now)))
    return rejected


def replayed(
    quotas: Sequence[Quota], evidence: Evidence
) -> Iterator[tuple[int, float, Sequence[Meter], Sequence[float]]]:
    """Yield each attempt: its number, its time, the meters as it finds them, and what it would cost."""
    books = _Books(quotas, evidence)
    for index in range(len(evidence)):
        now = float(evidence.sent_s[index])
        costs = books.opened(index, now)
        yield index, now, books.meters, costs
        if evidence.admitted[index]:
            books.admit(index, now, costs, float(evidence.end_s[index]))
        elif evidence.rejected[index]:
            books.reject(now, costs)


class _Books:
    """Meters, what each attempt costs there, and the answers that are not over yet."""

    def __init__(self, quotas: Sequence[Quota], evidence: Evidence) -> None:
        self.meters = [quota.meter() for quota in quotas]
        self._rules = [(quota.cost_rule(), quota.final_rule(), quota.rejections_count) for quota in quotas]
        self._call = _calls(evidence)
        self._open: list[tuple[float, int, list[tuple[int, Any, float]]]] = []

    def opened(self, index: int, now: float) -> list[float]:
        """Correct what ended by ``now``, and return what the attempt costs."""
        while self._open and self._open[0][0] <= now:
            end_s, number, receipts = heapq.heappop(self._open)
            ended = self._call(number)
            for place, receipt, reserved in receipts:
                _, final, _ = self._rules[place]
                assert final is not None
                self.meters[place].correct(end_s, receipt, final(ended, ended.output_tokens) - reserved)
        return [1.0 if cost is None else cost(self._call(index)) for cost, _, _ in self._rules]

    def admit(self, index: int, now: float, costs: Sequence[float], end_s: float) -> None:
        """Charge the attempt, whose answer ends at ``end_s``."""
        receipts = []
        for place, (_, final, _) in enumerate(self._rules):
            receipt = self.meters[place].charge(now, costs[place])
            if final is not None:
                receipts.append((place, receipt, costs[place]))
        if receipts and math.isfinite(end_s):
            heapq.heappush(self._open, (end_s, index, receipts))

    def reject(self, now: float, costs: Sequence[float]) -> None:
        """Penalise the attempt, where rejections count."""
        for place, (_, _, counts) in enumerate(self._rules):
            if counts:
                self.meters[place].penalise(now, costs[place])


def _calls(evidence: Evidence) -> Callable[[int], Call]:
    """Return what makes the call of an attempt."""
    read, written, bound = (evidence.tokens[name] for name in ("input_tokens", "output_tokens", "max_tokens"))
    typical = float(np.nanmedian(read)) if np.isfinite(read).any() else 0.0
    kind = CallKind.EMBEDDING if evidence.embeds else CallKind.CHAT

    def call(index: int) -> Call:
        return Call(
            index,
            int(typical if math.isnan(read[index]) else read[index]),
            0 if math.isnan(written[index]) else int(written[index]),
            None if math.isnan(bound[index]) else int(bound[index]),
            kind,
        )

    return call
