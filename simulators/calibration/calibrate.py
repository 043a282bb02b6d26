"""Calibration: infer the provider behind a recording, say how sure that is, and measure the simulator's own error.

::

    recording = sim.read_recording("monday.jsonl")
    calibration = sim.calibrate(recording, until_s=3600)
    print(calibration.report())
    print(calibration.validate().report())          # the rest of the recording, which the calibration has not seen
"""

from __future__ import annotations

import html
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pandas as pd

from factflow_llm.errors import ConfigurationError
from simulators.calibration import habits
from simulators.calibration.columns import completed, parts
from simulators.calibration.evidence import Evidence, currencies
from simulators.calibration.findings import Finding, Known
from simulators.calibration.inference import infer
from simulators.calibration.replay import verdicts
from simulators.calibration.validation import Validation, validate
from simulators.calibration.watch import Watch
from simulators.progress import Progress, reporting
from simulators.providers.catalogue import Provider
from simulators.providers.limit_headers import Api, shown_axes
from simulators.providers.quotas import Slots

if TYPE_CHECKING:
    from factflow_llm.ratelimit.config import RateLimitConfig
    from simulators.policies.base import Policy
    from simulators.streams import Seeds
    from simulators.traces import Recording


@dataclass(frozen=True, repr=False)
class Calibration:
    """A provider inferred from a recording.

    Attributes:
        provider: the provider, to be simulated.
        findings: every figure with its interval and how well it is identified.
        recording: what it rests on.
        until_s: the calibration has seen attempts sent before this moment.
        back_s: an answer is over at the provider so much before it has come, as far as slots told.
        others: the same for each other model or provider in the file, the busiest first.
    """

    provider: Provider
    findings: tuple[Finding, ...]
    recording: Recording = field(repr=False)
    until_s: float
    back_s: float = 0.0
    others: tuple[Calibration, ...] = ()

    @property
    def identified(self) -> bool:
        """Whether any quota was reached, so that it could be told."""
        return any(finding.name.endswith("window") for finding in self.findings)

    def frame(self) -> pd.DataFrame:
        """Return the findings as a table."""
        columns = ("value", "low", "high", "known", "note")
        rows = [[getattr(finding, column) for column in columns] for finding in self.findings]
        return pd.DataFrame(
            rows, index=[finding.name for finding in self.findings], columns=list(columns), dtype=object
        )

    def validate(
        self,
        held_out: Recording | None = None,
        policy: Policy | RateLimitConfig | None = None,
        *,
        seeds: Seeds = 5,
        clients: int = 1,
    ) -> Validation:
        """Replay a recording's demand in the simulator and measure the simulator's own error against what was recorded.

        Args:
            held_out: another recording of the same provider; by default the part of this one that calibration has not
                seen.
            policy: what the recorded clients ran; ``None`` means our limiter with its defaults.
            seeds: how many worlds are simulated, or which.
            clients: independent clients that were recorded.

        Raises:
            ConfigurationError: there is nothing the calibration has not seen.
        """
        recording = held_out or self.recording
        since_s = self.until_s if held_out is None else 0.0
        if not (recording.attempts["sent_s"] >= since_s).any():
            msg = f"{recording.name}: calibration has seen all of it; give calibrate() an until_s, or another recording"
            raise ConfigurationError(msg)
        return validate(self.provider, self.back_s, recording, since_s, policy, seeds, clients)

    def report(self) -> str:
        """Return all findings as text, one line each."""
        seen = self.recording.attempts["sent_s"] < self.until_s
        head = f"{self.recording.name}: {int(seen.sum())} attempts in {min(self.until_s, self._end_s):.0f} s"
        lines = [head, *(str(finding) for finding in self.findings)]
        for other in self.others:
            lines += ["", other.report()]
        return "\n".join(lines)

    @property
    def _end_s(self) -> float:
        attempts = self.recording.attempts
        return float(attempts[[name for name in ("sent_s", "end_s") if name in attempts]].max().max())

    def __repr__(self) -> str:
        return f"<Calibration {self.report()}>"

    def _repr_html_(self) -> str:
        table = self.frame().assign(interval=[finding.interval for finding in self.findings])
        shown = table[["value", "interval", "known", "note"]].astype(str).to_html()
        others = "".join(other._repr_html_() for other in self.others)
        return f"<p><b>{html.escape(self.recording.name)}</b></p>{shown}{others}"


def calibrate(
    recording: Recording, until_s: float | None = None, *, name: str = "", progress: Progress = True
) -> Calibration:
    """Infer the provider from what a recorder saw of it, and say how well each figure is known.

    Quotas are told by whom they reject: the quota that foretells that best is held against its own replay, and
    is named if it rejects what was rejected, and no other kind does nearly as well. What else may be the cause is said.
    A quota that was never reached cannot be told; then the findings say what is the least it can be. A rejection that
    named its dimension is explained by quotas of that dimension only. Where several models or providers stand in one
    recording, each is calibrated by itself. A calibration that is interrupted keeps what it has found.

    Args:
        recording: attempts by everybody who draws on the quotas.
        until_s: look at attempts sent before this moment only; the rest is for ``Calibration.validate``.
        name: of the provider.
        progress: a bar where somebody watches, none, or a function that hears (done, total).

    Raises:
        ConfigurationError: fewer than two attempts were sent, or columns are missing without which nothing can be told.
    """
    attempts, about = completed(recording)
    limit_s = float("inf") if until_s is None else until_s
    seen = attempts[attempts["sent_s"] < limit_s]
    if len(seen) < 2:
        msg = (
            f"{recording.name}: {len(seen)} attempts sent before {limit_s:g} s; calibration needs two at the very least"
        )
        raise ConfigurationError(msg)
    divided = parts(seen, attempts)
    found: list[Calibration] = []
    read = [(label, mine, Evidence.of(part)) for label, part, mine in divided]
    total = sum(len(currencies(evidence)) for _, _, evidence in read)
    with reporting(progress, total, "calibrate") as one_more:
        watch = Watch(one_more)
        for (label, mine, evidence), (_, part, _) in zip(read, divided, strict=True):
            if watch.cancelled:
                break
            whole = replace(recording, attempts=mine, name=f"{recording.name}{label}")
            found.append(_one(whole, part, evidence, limit_s, name, watch))
        if len(divided) > 1 and not watch.cancelled and not any(each.identified for each in found):
            together = _one(replace(recording, attempts=attempts), seen, Evidence.of(seen), limit_s, name, watch)
            if together.identified:
                note = "no model shows a quota by itself, but all together do: they draw on one"
                about.append(Finding("models", f"{len(divided)} together", note=note))
                found = [together]
    main, *others = found
    if others:
        note = f"{len(divided)} models or providers in one file, each calibrated by itself; this is the busiest"
        about.append(Finding("models", f"{len(divided)} in one file", note=note))
    if watch.cancelled and len(found) < len(divided):
        note = f"{len(divided) - len(found)} of {len(divided)} models or providers were not looked at"
        about.append(Finding("search", "cancelled", known=Known.UNKNOWN, note=note))
    return replace(main, findings=(*main.findings, *about), others=tuple(others))


def _one(
    recording: Recording, seen: pd.DataFrame, evidence: Evidence, limit_s: float, name: str, watch: Watch
) -> Calibration:
    """Calibrate one model of one provider."""
    inferred = infer(evidence, seen, watch)
    said = verdicts(inferred.quotas, evidence)
    heard, about_waits = habits.retry_after(evidence, said, all(isinstance(quota, Slots) for quota in inferred.quotas))
    faults, about_errors = habits.errors(seen, inferred.unexplained)
    way = habits.way(evidence, inferred.shaken_s, inferred.back_s)
    latency, about_latency = habits.latency(seen, way)
    spoken = str(seen["provider"].iloc[0])
    api = Api(spoken) if spoken in set(Api) else Api.LOCAL
    provider = Provider(
        name=name or f"as in {recording.name}",
        description=f"Calibrated from {recording.name}.",
        api=api,
        model=str(seen["model"].iloc[0]),
        quotas=inferred.quotas,
        latency=latency,
        retry_after=heard,
        shows_limits=bool(shown_axes(api)) and any(str(column).endswith("_limit") for column in seen),
        names_axis=bool(seen["axis"].notna().any() or not evidence.to_explain.any()),
        faults=faults,
    )
    findings = (*inferred.findings, about_waits, *about_errors, *about_latency)
    return Calibration(provider, findings, recording, limit_s, inferred.back_s)
