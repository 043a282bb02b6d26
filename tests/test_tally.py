"""Figures counted as they come: the same as from frames, in space that does not grow with the run."""

from __future__ import annotations

import sys
import tracemalloc

import numpy as np
import pytest

from factflow_llm.errors import ConfigurationError
from simulators.engine import run_log
from simulators.engine.rows import ATTEMPT, REQUEST, Columns
from simulators.engine.simulate import simulate
from simulators.engine.tally import PERCENTS, Durations
from simulators.policies.yardsticks import retry_only
from simulators.scenarios.scenario import Scenario, backlog
from simulators.traces import synthesize

MIXED = Scenario(synthesize(6.0, 120.0, cv=3.0, seed=5), "openai-tier-1").at(30, quota=0.5).impatient(0.2, 4.0)


@pytest.mark.parametrize("clients", [1, 3])
@pytest.mark.parametrize("policy", [None, retry_only()], ids=["ours", "retry only"])
def test_both_collections_tell_the_same(policy: object, clients: int) -> None:
    """Every figure is equal, but for percentiles, which agree to a thousandth."""
    kept, counted = (
        simulate(MIXED, policy, seed=3, clients=clients, collect=collect) for collect in ("frames", "summary")
    )  # type: ignore[arg-type]
    expected, found = kept.summary(), counted.summary()
    percentiles = [name for name in expected.index if name.startswith(("wait_p", "latency_p"))]
    assert len(percentiles) == 2 * len(PERCENTS)
    assert found.drop(percentiles).equals(expected.drop(percentiles))
    assert found[percentiles].tolist() == pytest.approx(expected[percentiles].tolist(), rel=2e-3)
    assert counted.recovery().equals(kept.recovery())


def test_chunks_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often rows are handed over, the columns and the figures are the same."""
    whole = simulate(MIXED, seed=3)
    monkeypatch.setattr(run_log, "CHUNK_BYTES", 1000)
    parts = simulate(MIXED, seed=3)
    assert parts.run.attempts == whole.run.attempts
    assert parts.run.requests == whole.run.requests
    assert (
        simulate(MIXED, seed=3, collect="summary")
        .summary()
        .equals(simulate(MIXED, seed=3, collect="summary").summary())
    )


def test_a_summary_keeps_no_rows() -> None:
    """Who asks a counted run for frames hears how to get them; capacity is there."""
    counted = simulate(MIXED, seed=3, collect="summary")
    for frame in ("attempts", "requests", "limits"):
        with pytest.raises(ConfigurationError, match="collected only its summary"):
            getattr(counted, frame)
    assert len(counted.capacity)


@pytest.mark.slow
def test_a_summary_does_not_grow() -> None:
    """Ten times the attempts leave behind as many bytes, but for a bin per second."""
    retained = []
    for duration_s in (200.0, 2000.0):
        tracemalloc.start()
        run = simulate(Scenario(backlog(64, duration_s), "bucket"), collect="summary").run
        retained.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert run.attempts is None
    assert retained[1] - retained[0] < 1800 * 2 * 8 + 20_000


def test_rows_are_small() -> None:
    """An attempt and the request it belongs to take less than 200 bytes, frames and all."""
    result = simulate(Scenario(backlog(64, 1000.0), "bucket"))
    frames = sum(int(frame.memory_usage(index=False).sum()) for frame in (result.attempts, result.requests))
    assert frames / len(result.attempts) < 200
    assert ATTEMPT.dtype.itemsize + REQUEST.dtype.itemsize < 200


def test_frames_share_the_columns_of_the_run() -> None:
    """A frame is another view of the columns, not another copy of them."""
    result = simulate(Scenario(backlog(4, 60.0), "bucket"))
    assert result.run.attempts is not None
    assert np.shares_memory(result.attempts["admitted_s"].to_numpy(), result.run.attempts["admitted_s"])


@pytest.mark.parametrize("scale_s", [1e-4, 1.0, 5e4])
def test_durations(scale_s: float) -> None:
    """Percentiles of a histogram lie within a thousandth of the true ones, over nine decades."""
    values_s = np.random.default_rng(7).lognormal(0.0, 1.0, 20_000) * scale_s
    histogram = Durations()
    for part in np.array_split(values_s, 7):
        histogram.add(part)
    exact = np.percentile(values_s, PERCENTS)
    assert histogram.percentiles(PERCENTS) == pytest.approx(exact.tolist(), rel=1e-3)


def test_durations_of_nothing_and_of_no_time() -> None:
    """Nothing has no percentile; no time at all is exactly 0, and what outlasts all bins falls into the last."""
    histogram = Durations()
    assert np.isnan(histogram.percentiles(PERCENTS)).all()
    histogram.add(np.array([0.0, 1e-9, sys.float_info.max]))
    assert histogram.percentiles([0, 50]) == [0.0, 0.0]
    assert histogram.percentiles([100])[0] > 9e8


def test_unknown_collection() -> None:
    """A third way to collect is refused by name."""
    with pytest.raises(ConfigurationError, match="collect = 'parquet'"):
        simulate(MIXED, collect="parquet")  # type: ignore[arg-type]


def test_columns_compare_by_content() -> None:
    """Two runs with the same rows are equal, whatever their buffers; a column is no list."""
    first, second = Columns(ATTEMPT), Columns(ATTEMPT)
    assert first == second
    assert first != []
    assert len(first) == 0
