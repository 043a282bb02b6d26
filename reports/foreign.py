"""Servers that nobody here wrote: recorded in real time, calibrated, and foretold, replayed and simulated.

Each that is installed (``tests/support/foreign.py``) is asked for a minute without a limiter; three fifths of that
are for calibration.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from factflow_llm.ratelimit.config import RetryConfig
from reports.calibration import rate, shape
from simulators.calibration.calibrate import calibrate
from simulators.policies.yardsticks import RetryOnly
from tests.support.foreign import SERVERS, Foreign, record_foreign

if TYPE_CHECKING:
    from simulators.calibration.calibrate import Calibration

_DURATION_S = 60.0
_CALIBRATED = 0.6
_EXACT = 0.03
_SEEDS = 15


@dataclass(frozen=True)
class Foretold:
    """What was foretold of a foreign server.

    Attributes:
        name: of the server.
        calibration: of its recording.
        right: its quota was named, of the right kind and window, and its limit within 3 %.
        recorded: 429s in held-out time.
        replayed: the same, by the named quotas for the attempts that were recorded.
        simulated: the same, simulated from demand: the mean of worlds,
        deviation: and how far they are from each other.
        starved_s: how late calls were sent and refusals came, the slowest but 5 %: time that this machine took.
    """

    name: str
    calibration: Calibration
    right: bool
    recorded: float
    replayed: float
    simulated: float
    deviation: float
    starved_s: float

    @property
    def named(self) -> bool:
        """Whether any quota was named."""
        return bool(self.calibration.provider.quotas)

    def __str__(self) -> str:
        told = "; ".join(f"{shape(each)} {each.limit:g}" for each in self.calibration.provider.quotas)
        counts = f"{self.recorded:>5.0f} {self.replayed:>5.0f} {self.simulated:>7.1f} +-{self.deviation:5.1f}"
        verdict = "right" if self.right else "wrong" if self.named else "not named"
        return (
            f"{self.name:<20} | {counts} {self.simulated / max(self.recorded, 1) - 1:+6.1%} | {verdict:<9} | "
            f"{self.starved_s:5.3f} s late | {told}"
        )


def foretell(server: Foreign, duration_s: float = _DURATION_S) -> Foretold:
    """Record a server, calibrate with the first part, and compare the rest."""
    with tempfile.TemporaryDirectory() as folder:
        recording = record_foreign(server, duration_s, Path(folder))
    calibration = calibrate(recording, _CALIBRATED * duration_s, progress=False)
    validation = calibration.validate(policy=RetryOnly(RetryConfig()), seeds=_SEEDS)
    found = calibration.provider.quotas
    right = len(found) == 1 and shape(found[0]) == shape(server.quota)
    right = right and abs(rate(found[0]) / rate(server.quota) - 1) <= _EXACT
    row = validation.figures.loc["429s"]
    attempts = recording.attempts
    late_s = (attempts["sent_s"] - attempts["arrival_s"])[attempts["attempt"] == 0]
    refused_s = (attempts["end_s"] - attempts["sent_s"])[attempts["outcome"] == "rate_limited"]
    starved_s = max(float(late_s.quantile(0.95)), float(refused_s.quantile(0.95)) if len(refused_s) else 0.0)
    return Foretold(
        server.name, calibration, right, float(validation.decisions["recorded"]),
        float(validation.decisions["predicted"]), float(row["simulated"]), float(row["deviation"]), starved_s,
    )  # fmt: skip


def foreign(jobs: int | None) -> dict[str, str]:
    """Return the report, of all servers that are installed, one after the other."""
    head = "server | 429s in held-out time: recorded, replayed, simulated with the deviation of worlds | "
    lines = [f"{head}how late calls and refusals were | quotas told"]
    for server in SERVERS:
        if server.is_there:
            lines.append(str(foretell(server)))
            sys.stderr.write(f"{lines[-1]}\n")
    return {"tests/golden/calibration/foreign.txt": "\n".join(lines) + "\n"}
