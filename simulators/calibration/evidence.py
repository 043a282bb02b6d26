"""A recording as calibration reads it: when each attempt was sent, what became of it, what it weighed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from factflow_llm.signals import Axis, Outcome
from simulators.attempts import CANCELLED
from simulators.providers.calls import Estimate, Settlement

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_UNSET_OUTPUT_TOKENS = 16
_AXES = tuple(Axis)
_NONE = -1
_COLUMNS = (
    "sent_s",
    "end_s",
    "admitted",
    "to_explain",
    "rejected",
    "named",
    "told_s",
    "by_reset",
    "answer_s",
    "rows",
    "judged",
)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Attempts that reached the provider, in order of sending; where two were sent at once, the admitted one first.

    Attributes:
        sent_s: when.
        end_s: when the answer was over.
        admitted: the quotas let it pass: answered, broken off, or hung up on.
        to_explain: a quota rejected it, which is to be explained.
        rejected: a quota rejected it, be that to be explained here or not.
        named: the dimension that a rejection named, as its place in ``Axis``; -1 where it named none.
        told_s: the Retry-After of a rejection; NaN without one.
        by_reset: no Retry-After was stated, but headers told when the used-up limit resets, and clients went by that.
        reset_s: by axis, in how long the limit resets, as the headers of each answer told; NaN where they did not.
        tokens: input, output and ``max_tokens``; NaN where unknown.
        embeds: the calls are embeddings: they write nothing.
        answer_s: how long the answer took or would have taken: as long as that of the same call when it was let in, or
            the typical one.
        rows: positions in the recording's frame.
        judged: the attempts in question; of those before it only matters what they used up.
    """

    sent_s: Floats
    end_s: Floats
    admitted: Bools
    to_explain: Bools
    rejected: Bools
    named: Integers
    told_s: Floats
    by_reset: Bools
    reset_s: dict[Axis, Floats]
    tokens: dict[str, Floats]
    embeds: bool
    answer_s: Floats
    rows: Integers
    judged: Bools

    @classmethod
    def of(cls, attempts: pd.DataFrame) -> Evidence:
        """Take what matters from a recording's frame; rejected attempts weigh what the call's answered one weighed."""
        sent = _floats(attempts, "sent_s")
        outcome = attempts["outcome"].to_numpy()
        status = _floats(attempts, "status")
        rejected = (outcome == Outcome.RATE_LIMITED) & (status == 429)
        admitted = (status == 200) | (outcome == CANCELLED) | (attempts["error"] == "timeout").to_numpy()
        reached = np.isfinite(sent)
        order = np.lexsort((rejected, sent))
        order = order[reached[order]]
        told = np.where(rejected, _floats(attempts, "retry_after_s"), np.nan)
        by_reset = np.abs(told - _used_up_reset_s(attempts)) < 1e-6
        resets = {axis: _floats(attempts, f"{axis}_reset_s") for axis in Axis if f"{axis}_reset_s" in attempts}
        end = _floats(attempts, "end_s")
        took = pd.Series(np.where(outcome == Outcome.SUCCEEDED, end - sent, np.nan), index=attempts.index)
        answer = took.groupby(attempts["request"]).transform("max").fillna(took.median())
        tokens = {}
        for name in ("input_tokens", "output_tokens", "max_tokens"):
            answered = attempts[name].where(outcome == Outcome.SUCCEEDED)
            known = answered.groupby(attempts["request"]).transform("max").fillna(attempts[name])
            tokens[name] = known.to_numpy(dtype=np.float64, na_value=np.nan)[order]
        return cls(
            sent_s=sent[order],
            end_s=end[order],
            admitted=(admitted & ~rejected)[order],
            to_explain=rejected[order],
            rejected=rejected[order],
            named=np.where(rejected, _named(attempts), _NONE)[order],
            told_s=np.where(by_reset, np.nan, told)[order],
            by_reset=by_reset[order],
            reset_s={axis: reset[order] for axis, reset in resets.items()},
            tokens=tokens,
            embeds=bool((attempts["operation"] == "embeddings").all()),
            answer_s=answer.to_numpy(dtype=np.float64)[order],
            rows=order,
            judged=np.ones(len(order), dtype=bool),
        )

    def __len__(self) -> int:
        return len(self.sent_s)

    def between(self, since_s: float, until_s: float) -> Evidence:
        """Return the same up to ``until_s``, where only what was sent from ``since_s`` on is in question."""
        early = self.part(slice(int(np.searchsorted(self.sent_s, until_s))))
        judged = early.sent_s >= since_s
        return replace(early, to_explain=early.rejected & judged, judged=judged)

    def part(self, places: slice) -> Evidence:
        """Return only these attempts."""
        parts = {name: getattr(self, name)[places] for name in _COLUMNS}
        tokens = {name: each[places] for name, each in self.tokens.items()}
        resets = {axis: each[places] for axis, each in self.reset_s.items()}
        return replace(self, **parts, tokens=tokens, reset_s=resets)

    @cached_property
    def taken(self) -> Integers:
        """Numbers of the admitted attempts."""
        return np.flatnonzero(self.admitted)

    @cached_property
    def passed(self) -> Integers:
        """Numbers of the admitted attempts in question."""
        return np.flatnonzero(self.admitted & self.judged)

    @cached_property
    def turned_away(self) -> Integers:
        """Numbers of the rejected attempts in question."""
        return np.flatnonzero(self.to_explain)

    @cached_property
    def ends_s(self) -> Floats:
        """When the answers of admitted attempts were over, in order."""
        return np.sort(self.end_s[self.admitted])

    def speaks_for(self, axis: Axis) -> Bools:
        """Return whether attempts may have been rejected on that axis: the rejection named it, or none."""
        may: Bools = (self.named == _NONE) | (self.named == _AXES.index(axis))
        return may

    @property
    def duration_s(self) -> float:
        """Seconds from the first attempt in question to the last."""
        sent_s = self.sent_s[self.judged]
        return float(sent_s[-1] - sent_s[0]) if len(sent_s) else 0.0


@dataclass(frozen=True)
class Currency:
    """What a quota might count, and what each attempt would cost then.

    Attributes:
        axis: the dimension.
        reserved: units per attempt at admission.
        settled: units per attempt in the end; ``None`` where the estimate stands.
        fields: what a quota of this currency is made with.
    """

    axis: Axis
    reserved: Floats = field(repr=False)
    settled: Floats | None = field(default=None, repr=False)
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The axis, with what tells this currency from others on the same axis."""
        about = [
            str(value) for key, value in self.fields.items() if key != "axis" and str(value) not in ("sum", "never")
        ]
        return " ".join([self.axis.replace("_", " "), *(f"({word.replace('_', ' ')})" for word in about)])


def counted(evidence: Evidence) -> list[Currency]:
    """Return all that quotas may count: calls that run at once, and the currencies."""
    return [Currency(Axis.CONCURRENCY, np.ones(len(evidence))), *currencies(evidence)]


def currencies(evidence: Evidence) -> list[Currency]:
    """Return what a provider may count, the commonest first; what no recording can tell apart is listed once."""
    read, written, bound = (evidence.tokens[name] for name in ("input_tokens", "output_tokens", "max_tokens"))
    listed = [Currency(Axis.REQUESTS, np.ones(len(evidence)), None, {"axis": Axis.REQUESTS})]
    if np.isnan(read[evidence.admitted]).mean() > 0.2:
        return listed  # token quotas cannot be judged by calls whose size nobody knows
    read = np.where(np.isnan(read), np.nanmedian(read), read)
    if evidence.embeds:
        return [*listed, Currency(Axis.TOKENS, read, None, {"axis": Axis.TOKENS})]
    reserve = np.where(np.isnan(bound), _UNSET_OUTPUT_TOKENS, bound)
    used = np.where(np.isnan(written), reserve, written)

    def add(axis: Axis, reserved: Floats, settled: Floats | None, **about: Any) -> None:
        for known in listed:
            if _proportional(known.reserved, reserved) and _same(known.settled, settled):
                return
        listed.append(Currency(axis, reserved, settled, {"axis": axis, **about}))

    add(Axis.TOKENS, read + reserve, None, estimate=Estimate.SUM)
    add(Axis.TOKENS, read + reserve, read + used, settlement=Settlement.AT_END)
    add(Axis.INPUT_TOKENS, read, None)
    add(Axis.TOKENS, read, read + used, settlement=Settlement.REALTIME)
    add(Axis.OUTPUT_TOKENS, np.zeros_like(read), used, settlement=Settlement.REALTIME)
    add(Axis.OUTPUT_TOKENS, reserve, used, settlement=Settlement.AT_END)
    add(Axis.OUTPUT_TOKENS, reserve, None)
    add(Axis.TOKENS, np.maximum(read, reserve), None, estimate=Estimate.MAX)
    return listed


def _proportional(one: Floats, other: Floats) -> bool:
    scale = one.sum()
    return bool(scale > 0 and np.allclose(other, one * (other.sum() / scale), rtol=1e-3))


def _same(one: Floats | None, other: Floats | None) -> bool:
    return (one is None) == (other is None) and (one is None or other is None or np.array_equal(one, other))


def _named(attempts: pd.DataFrame) -> Integers:
    places = np.full(len(attempts), _NONE, dtype=np.int64)
    for place, axis in enumerate(_AXES):
        places[(attempts["axis"] == axis).to_numpy()] = place
    return places


def _used_up_reset_s(attempts: pd.DataFrame) -> Floats:
    """Return when the last of the used-up limits resets, by the headers; NaN where none is used up."""
    resets = np.full(len(attempts), np.nan)
    for axis in Axis:
        if f"{axis}_reset_s" in attempts and f"{axis}_remaining" in attempts:
            used_up = _floats(attempts, f"{axis}_remaining") == 0
            resets = np.fmax(resets, np.where(used_up, _floats(attempts, f"{axis}_reset_s"), np.nan))
    return resets


def _floats(frame: pd.DataFrame, name: str) -> Floats:
    return frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
