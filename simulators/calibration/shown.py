"""Quotas that headers show but nobody reached: what was left after each answer still tells the window."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np

from simulators.calibration.evidence import currencies
from simulators.calibration.findings import Finding, Known
from simulators.calibration.replay import replayed
from simulators.calibration.search import WINDOWS_S
from simulators.providers.quotas import Bucket, FixedWindow, Quota, SlidingWindow

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from factflow_llm.signals import Axis
    from simulators.calibration.evidence import Evidence, Floats

_SPANS_S = (60.0, 1.0, 3600.0, 86_400.0)
_FULL = 0.98  # a bucket that was seen this full holds it all
_ATTEMPTS = 800  # replayed; they tell any window that is shorter than they last
_AS_SHOWN = 0.01  # of the limit: by so much what is left may be off, as a rule


def read_quota(evidence: Evidence, attempts: pd.DataFrame, axis: Axis, limit: float) -> tuple[Quota, list[Finding]]:
    """Return the quota that would have shown what headers showed, or a full bucket if none would."""
    left, reset_s = (
        attempts[f"{axis}_{figure}"].to_numpy(dtype=np.float64)[evidence.rows] for figure in ("remaining", "reset_s")
    )
    seen = evidence.admitted & np.isfinite(left)
    seen[_ATTEMPTS:] = False
    tried = [
        (_misfit(quota, evidence, left, seen) / limit, quota) for quota in _likely(evidence, axis, limit, left, reset_s)
    ]
    misfit, quota = min(tried, key=lambda each: each[0], default=(np.inf, Bucket(axis=axis, limit=limit)))
    name = axis.replace("_", " ")
    if misfit > _AS_SHOWN:
        quota = Bucket(axis=axis, limit=limit)
        about = Finding(f"{name}: shape", None, known=Known.UNKNOWN, note="never reached; taken for a full bucket")
    else:
        note = f"never reached; what was left agrees with {seen.sum()} headers to {misfit:.2%} of the limit"
        about = Finding(f"{name}: shape", _words(quota), known=Known.READ, note=note)
    return quota, [about, Finding(f"{name}: limit per {quota.per_s:g} s", limit, known=Known.READ)]


def _likely(evidence: Evidence, axis: Axis, limit: float, left: Floats, reset_s: Floats) -> Iterator[Quota]:
    """Yield quotas of that limit that can have had left what was left at most."""
    for currency in (each for each in currencies(evidence) if each.axis is axis):
        before = (left + currency.reserved)[evidence.admitted & np.isfinite(left)]
        most = min(float(before.max(initial=0.0)), limit)
        for per_s in _SPANS_S:
            about = {"limit": limit, "per_s": per_s, **currency.fields}
            yield Bucket(**about, burst_s=most / limit * per_s if most < _FULL * limit else None)
            for window_s in WINDOWS_S:
                if window_s > per_s or limit * window_s / per_s < _FULL * most:
                    continue
                over_s = None if window_s == per_s else window_s
                yield SlidingWindow(**about, enforced_over_s=over_s)
                ends_s = (evidence.sent_s + reset_s)[np.isfinite(reset_s)] % window_s
                yield FixedWindow(**about, enforced_over_s=over_s, phase_s=_middle(ends_s, window_s))


def _middle(moments_s: Floats, window_s: float) -> float:
    """Return the middle of moments on a circle."""
    if not len(moments_s):
        return 0.0
    turns = np.exp(2j * np.pi * moments_s / window_s).mean()
    return float(np.angle(turns) / (2 * np.pi) * window_s % window_s)


def _misfit(quota: Quota, evidence: Evidence, left: Floats, seen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
    """Return by how much what the quota would have shown is off: the median, for calls sent at once have no order."""
    off = [
        abs(max(meter.show(now)[1] - units, 0.0) - left[index])
        for index, now, (meter,), (units,) in takewhile(lambda each: each[0] < _ATTEMPTS, replayed([quota], evidence))
        if seen[index]
    ]
    return float(np.median(off)) if off else np.inf


def _words(quota: Quota) -> str:
    if isinstance(quota, Bucket):
        return f"bucket of {quota.burst_s or quota.per_s:.3g} s"
    assert isinstance(quota, FixedWindow | SlidingWindow)
    kind = "fixed" if isinstance(quota, FixedWindow) else "sliding"
    return f"{kind}, {quota.enforced_over_s or quota.per_s:g} s"
