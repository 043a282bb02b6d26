"""Recordings as people have them: columns are missing, moments unknown, and several models stand in one file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from factflow_llm.errors import ConfigurationError
from factflow_llm.signals import Outcome
from simulators.attempts import ATTEMPT_COLUMNS
from simulators.calibration.findings import Finding, Known

if TYPE_CHECKING:
    from simulators.traces import Recording

_NUMBERS = (
    "arrival_s", "admitted_s", "sent_s", "first_chunk_s", "end_s", "input_tokens", "output_tokens", "max_tokens",
    "status", "retry_after_s",
)  # fmt: skip
_WORDS = ("error", "axis", "model", "provider", "operation")
_WITHOUT = {
    "end_s": "how long answers take and quotas of concurrency",
    "input_tokens": "quotas of tokens",
    "request": "which attempts belong to one call",
}
_FEWEST = 20  # attempts of a model that is calibrated by itself


def completed(recording: Recording) -> tuple[pd.DataFrame, list[Finding]]:
    """Return the attempts with all columns that calibration reads, and what it cannot tell for lack of them.

    Raises:
        ConfigurationError: nobody knows when attempts were sent, or what became of them.
    """
    given = recording.attempts
    attempts = given.copy(deep=False)
    if "sent_s" not in given:
        instead = next((name for name in ("admitted_s", "arrival_s") if name in given), None)
        if instead is None:
            msg = f"{recording.name}: no column sent_s; calibration needs to know when attempts were sent"
            raise ConfigurationError(msg)
        attempts["sent_s"] = given[instead]
    if "status" not in given and "outcome" not in given:
        msg = f"{recording.name}: neither status nor outcome; calibration needs to know who was rejected"
        raise ConfigurationError(msg)
    for name in (*ATTEMPT_COLUMNS, *_NUMBERS, *_WORDS):
        if name not in attempts:
            attempts[name] = np.nan if name in _NUMBERS else None
    for name in _NUMBERS:
        figures = pd.to_numeric(attempts[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        attempts[name] = np.where(np.isfinite(figures), figures, np.nan)
    if "outcome" not in given:
        words = np.where(attempts["status"] == 200, Outcome.SUCCEEDED, Outcome.IGNORED)
        attempts["outcome"] = np.where(attempts["status"] == 429, Outcome.RATE_LIMITED, words)
    if "status" not in given:
        codes = {Outcome.SUCCEEDED: 200, Outcome.RATE_LIMITED: 429}
        attempts["status"] = attempts["outcome"].map(codes).astype(np.float64)
    if "request" not in given:
        attempts["request"] = np.arange(len(attempts))
    for name, word in (("model", "unknown"), ("provider", "unknown"), ("operation", "chat")):
        attempts[name] = attempts[name].fillna(word) if attempts[name].notna().any() else word
    lacking = [name for name in _WITHOUT if name not in given or attempts[name].isna().all()]
    about = [
        Finding(f"without {name}", None, known=Known.UNKNOWN, note=f"the recording does not tell {_WITHOUT[name]}")
        for name in lacking
    ]
    ended = attempts["end_s"].notna()
    if "end_s" not in lacking and not ended.all():
        sent = attempts["sent_s"].notna()
        note = f"{int((sent & ~ended).sum())} attempts of {int(sent.sum())} tell no end"
        if (sent & ~ended).any():
            about.append(Finding("without end_s", None, known=Known.UNKNOWN, note=note))
    return attempts, about


def parts(seen: pd.DataFrame, attempts: pd.DataFrame) -> list[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Return each model of each provider: what to call it, what calibration sees of it, and all of it.

    A model with fewer than twenty attempts is none if there is a busier one.
    """
    keys = seen["provider"].astype(str) + " " + seen["model"].astype(str)
    counts = keys.value_counts()
    listed = [key for place, key in enumerate(counts.index) if not place or counts[key] >= _FEWEST]
    if len(counts) == 1:
        return [("", seen, attempts)]
    everywhere = attempts["provider"].astype(str) + " " + attempts["model"].astype(str)
    return [(f", {key}", seen[keys == key], attempts[everywhere == key]) for key in listed]
