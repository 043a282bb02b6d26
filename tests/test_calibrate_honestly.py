"""Calibration names what its own replay bears out, and nothing else: networks that shake, clients that insist, lies."""

from __future__ import annotations

import warnings
from dataclasses import replace as altered
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from factflow_llm.errors import ConfigurationError
from reports import ROOT
from reports.calibration import rate, shape
from reports.shaken import FEW, tell
from simulators.calibration import search
from simulators.calibration.calibrate import calibrate
from simulators.calibration.evidence import Evidence
from simulators.calibration.findings import Known
from simulators.calibration.habits import way
from simulators.providers.quotas import Bucket, FixedWindow, Quota, SlidingWindow, Slots
from tests.support.shaken_recordings import World, make

if TYPE_CHECKING:
    from simulators.calibration.calibrate import Calibration

STORM = {"retries": 8, "backoff_s": 0.2, "longest_backoff_s": 2.0}
GOLDEN = ROOT / "tests/golden/calibration/shaken.txt"


def causes(calibration: Calibration) -> list[str]:
    """Return what else may be the cause, as told."""
    return [str(each.value) for each in calibration.findings if each.name.startswith("429s:")]


@pytest.mark.slow
@pytest.mark.parametrize("seed", FEW)
def test_hidden_worlds_are_told_as_committed(seed: int) -> None:
    """A few of the forty shaken worlds, in every run; ``python -m reports shaken`` makes all of them."""
    assert f"{tell(seed)}\n" in GOLDEN.read_text(encoding="utf-8"), "if meant, python -m reports shaken --write"


def test_nothing_is_invented_in_forty_worlds() -> None:
    """The committed report tells no quota that is not there, and no wrong one."""
    told = GOLDEN.read_text(encoding="utf-8")
    assert "named where there is none: 0\n" in told
    assert told.count("| right     |") >= 25
    assert "| wrong     |" not in told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quota", "jitter_s"),
    [
        (Bucket(limit=270, burst_s=5), 0.001),
        (Bucket(limit=270, burst_s=5), 0.01),
        (SlidingWindow(limit=240, enforced_over_s=5), 0.004),
        (FixedWindow(limit=240, enforced_over_s=10, phase_s=3.0), 0.01),
        (Slots(limit=4), 0.002),
    ],
    ids=["bucket", "bucket, shaken", "sliding", "fixed", "slots"],
)
def test_a_shaky_network_hides_no_quota(quota: Quota, jitter_s: float) -> None:
    """Calls come in another order than they were sent, and storms of retries: kind and limit are told all the same."""
    recording = make(World(quotas=(quota,), per_s=5.2, duration_s=240.0, jitter_s=jitter_s, **STORM), seed=3)
    rejected = (recording.attempts["outcome"] == "rate_limited").mean()
    assert rejected > 0.4, "no storm"
    calibration = calibrate(recording, progress=False)
    (found,) = calibration.provider.quotas
    assert shape(found) == shape(quota), calibration.report()
    assert rate(found) == pytest.approx(rate(quota), rel=0.03)
    window = next(each for each in calibration.findings if each.name.endswith("window"))
    assert window.known is Known.PINNED
    assert "replayed" in window.note


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.01, 0.7])
def test_random_429s_are_no_quota(share: float) -> None:
    """Rejections that come by chance are told to be that, be they few or most of all attempts."""
    world = World(random_429=share, per_s=4.6, duration_s=200.0, jitter_s=0.003, retries=3, backoff_s=0.3)
    calibration = calibrate(make(world, seed=5), progress=False)
    assert not calibration.identified
    assert calibration.provider.quotas == ()
    assert causes(calibration) == ["random rejections"]


@pytest.mark.slow
def test_traffic_that_was_not_recorded_is_suspected() -> None:
    """Where others draw on the quota unseen, no quota is named, for none would reject what was rejected."""
    world = World(quotas=(Bucket(limit=280, burst_s=6),), per_s=5.6, duration_s=200.0, retries=2, unrecorded=0.35)
    calibration = calibrate(make(world, seed=2), progress=False)
    assert calibration.provider.quotas == ()
    assert "traffic that was not recorded" in causes(calibration)


@pytest.mark.slow
def test_a_quota_that_moved() -> None:
    """When a quota moved is told, from what to what; what is in force at the end is calibrated."""
    world = World(
        quotas=(SlidingWindow(limit=240, enforced_over_s=10),),
        moved=(SlidingWindow(limit=150, enforced_over_s=10),),
        moved_s=230.0,
        per_s=5.2,
        duration_s=480.0,
        retries=2,
    )
    calibration = calibrate(make(world, seed=4), progress=False)
    (found,) = calibration.provider.quotas
    assert rate(found) * 60 == pytest.approx(150, rel=0.03), calibration.report()
    moved = next(each for each in calibration.findings if each.name.startswith("quota moved"))
    assert moved.value == pytest.approx(230.0, abs=15.0)
    assert "40" in moved.note
    assert "25" in moved.note


@pytest.mark.slow
def test_a_window_longer_than_the_recording() -> None:
    """A quota that was used up and never came back is no quota with figures, but is spoken of."""
    world = World(quotas=(FixedWindow(limit=900, per_s=7200.0),), per_s=5.0, duration_s=240.0, says=True)
    calibration = calibrate(make(world, seed=1), progress=False)
    assert calibration.provider.quotas == ()
    assert "a window longer than half of the recording" in causes(calibration)


@pytest.mark.slow
def test_several_models_in_one_file() -> None:
    """Each model of a file is calibrated by itself, and that is said."""
    one = make(World(quotas=(Bucket(limit=200, burst_s=5),), per_s=4.0, duration_s=200.0), seed=1)
    other = make(World(quotas=(SlidingWindow(limit=120),), per_s=2.6, duration_s=200.0), seed=2)
    both = pd.concat([one.attempts, other.attempts.assign(model="n", request=other.attempts["request"] + "n")])
    calibration = calibrate(altered(one, attempts=both.reset_index(drop=True)), progress=False)
    (further,) = calibration.others
    assert {calibration.provider.model, further.provider.model} == {"m", "n"}
    assert calibration.provider.quotas[0].limit == pytest.approx(200, rel=0.03)
    assert further.provider.quotas[0].limit == pytest.approx(120, rel=0.03)
    assert "2 models or providers in one file" in calibration.report()


def test_what_a_recording_lacks_is_said_in_words() -> None:
    """Missing columns, rows without an end and NaN are answered without a traceback, nor a warning of NumPy's."""
    recording = make(World(quotas=(Bucket(limit=180, burst_s=5),), per_s=4.0, duration_s=150.0), seed=1)
    bare = recording.attempts[["sent_s", "status"]].copy()
    bare.loc[::50, "sent_s"] = np.nan
    holes = recording.attempts.copy()
    holes.loc[::7, "end_s"] = np.nan
    holes["input_tokens"] = pd.array([None] * len(holes), dtype="Int64")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = calibrate(altered(recording, attempts=bare), progress=False).report()
        without = calibrate(altered(recording, attempts=holes), progress=False)
    assert "without end_s" in told
    assert f"{len(holes.loc[::7])} attempts of {len(holes)} tell no end" in without.report()
    assert without.provider.quotas[0].limit == pytest.approx(180, rel=0.03)
    with pytest.raises(ConfigurationError, match="neither status nor outcome"):
        calibrate(altered(recording, attempts=recording.attempts[["sent_s"]]), progress=False)
    with pytest.raises(ConfigurationError, match="no column sent_s"):
        calibrate(altered(recording, attempts=recording.attempts[["status"]]), progress=False)


@pytest.mark.slow
def test_progress_is_told_and_an_interruption_keeps_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever watches hears how far it is; whoever interrupts gets what was found, less surely."""
    recording = make(World(quotas=(Bucket(limit=200, burst_s=5),), per_s=4.0, duration_s=150.0), seed=1)
    heard: list[tuple[int, int]] = []
    calibrate(recording, progress=lambda done, total: heard.append((done, total)))
    assert heard[0] == (1, heard[-1][1])
    real, asked = search._buckets, []

    def impatient(*arguments: object) -> object:
        asked.append(arguments)
        if len(asked) > 1:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(search, "_buckets", impatient)
    calibration = calibrate(recording, progress=False)
    assert calibration.provider.quotas[0].limit == pytest.approx(200, rel=0.03)
    assert "cancelled" in calibration.report()
    assert not any(each.known is Known.PINNED for each in calibration.findings if each.name.startswith("requests"))


def test_the_way_there_is_told_where_rejections_show_it() -> None:
    """Round trips of rejections tell the way where moments were off or slots came back early; else none is told."""
    quota = Bucket(limit=180, burst_s=5)
    recording = make(World(quotas=(quota,), per_s=4.0, duration_s=150.0, jitter_s=0.02, retries=2), seed=1)
    evidence = Evidence.of(recording.attempts)
    assert way(evidence, 0.0, 0.0) is None
    shaken = way(evidence, 0.005, 0.0)
    assert shaken is not None
    assert shaken.median_s == pytest.approx(0.014, rel=0.15)
    early = way(evidence, 0.0, 0.011)
    assert early is not None
    assert early.median_s == 0.011
