"""Calibration names what its own replay bears out, and nothing else: networks that shake, clients that insist, lies."""

from __future__ import annotations

import pytest

from reports.calibration import rate, shape
from simulators.calibration.calibrate import calibrate
from simulators.calibration.findings import Known
from simulators.providers.quotas import Bucket, FixedWindow, Quota, SlidingWindow
from tests.support.shaken_recordings import World, make

STORM = {"retries": 8, "backoff_s": 0.2, "longest_backoff_s": 2.0}


@pytest.mark.parametrize(
    ("quota", "jitter_s"),
    [
        (Bucket(limit=270, burst_s=5), 0.001),
        (Bucket(limit=270, burst_s=5), 0.01),
        (SlidingWindow(limit=240, enforced_over_s=5), 0.004),
        (FixedWindow(limit=240, enforced_over_s=10, phase_s=3.0), 0.01),
    ],
    ids=["bucket", "bucket, shaken", "sliding", "fixed"],
)
def test_a_shaky_network_hides_no_quota(quota: Quota, jitter_s: float) -> None:
    """Calls come in another order than they were sent, and storms of retries: kind and limit are told all the same."""
    recording = make(World(quotas=(quota,), per_s=5.2, duration_s=240.0, jitter_s=jitter_s, **STORM), seed=3)
    refused = (recording.attempts["outcome"] == "rate_limited").mean()
    assert refused > 0.4, "no storm"
    calibration = calibrate(recording, progress=False)
    (found,) = calibration.provider.quotas
    assert shape(found) == shape(quota), calibration.report()
    assert rate(found) == pytest.approx(rate(quota), rel=0.03)
    window = next(each for each in calibration.findings if each.name.endswith("window"))
    assert window.known is Known.PINNED
    assert "replayed" in window.note
