"""Ask the provider's own meters what they would have said to every recorded send."""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from simulators.quotas import Call, CallKind, Quota

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from simulators.calibration.evidence import Bools, Evidence, Floats
    from simulators.meters import Meter


class Verdicts(NamedTuple):
    """What the meters say of each attempt.

    Attributes:
        refused: they would have refused it.
        wait_s: how long it would have had to wait; 0 if not at all.
        blamed: place of the quota that asks for the longest wait; -1 for none.
    """

    refused: Bools
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


def replayed(
    quotas: Sequence[Quota], evidence: Evidence
) -> Iterator[tuple[int, float, Sequence[Meter], Sequence[float]]]:
    """Yield each attempt: its number, its time, the meters as it finds them, and what it would cost."""
    gates = [(quota.meter(), quota.cost_rule(), quota.final_rule(), quota.rejections_count) for quota in quotas]
    meters = [meter for meter, _, _, _ in gates]
    open_: list[tuple[float, int, Call, list[tuple[int, Any, float]]]] = []
    for index, call in enumerate(_calls(evidence)):
        now = float(evidence.sent_s[index])
        while open_ and open_[0][0] <= now:
            end_s, _, ended, receipts = heapq.heappop(open_)
            for place, receipt, reserved in receipts:
                meter, _, final, _ = gates[place]
                assert final is not None
                meter.correct(end_s, receipt, final(ended, ended.output_tokens) - reserved)
        costs = [1.0 if cost is None else cost(call) for _, cost, _, _ in gates]
        yield index, now, meters, costs
        if evidence.admitted[index]:
            receipts = []
            for place, (meter, _, final, _) in enumerate(gates):
                receipt = meter.charge(now, costs[place])
                if final is not None:
                    receipts.append((place, receipt, costs[place]))
            end_s = float(evidence.end_s[index])
            if receipts and math.isfinite(end_s):
                heapq.heappush(open_, (end_s, index, call, receipts))
        elif evidence.rejected[index]:
            for place, (meter, _, _, counts) in enumerate(gates):
                if counts:
                    meter.penalise(now, costs[place])


def _calls(evidence: Evidence) -> list[Call]:
    read, written, bound = (evidence.tokens[name] for name in ("input_tokens", "output_tokens", "max_tokens"))
    typical = float(np.nanmedian(read)) if np.isfinite(read).any() else 0.0
    kind = CallKind.EMBEDDING if evidence.embeds else CallKind.CHAT
    return [
        Call(
            index,
            int(typical if math.isnan(read[index]) else read[index]),
            0 if math.isnan(written[index]) else int(written[index]),
            None if math.isnan(bound[index]) else int(bound[index]),
            kind,
        )
        for index in range(len(evidence))
    ]
