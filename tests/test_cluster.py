"""Sweeps on a real Dask cluster of several worker processes: one argument differs, and not one byte of the results."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import simulators as sim
from factflow_llm.ratelimit.config import RateLimitConfig
from tests.test_journal import InterruptedHereError, interrupt_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor
    from pathlib import Path

    import pandas as pd

distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install factflow-llm[dask]")
pytestmark = pytest.mark.slow

WORKERS = 3
SCENARIOS = [sim.Scenario(sim.backlog(workers=8, duration_s=20.0), "bucket")]
SCENARIOS += [SCENARIOS[0].at(10.0, quota=0.5, label="halved")]
POLICIES = {"ours": RateLimitConfig(), "fixed": sim.policies.fixed_rate(8.0)}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Executor]:
    """Start workers of their own processes on loopback; return the cluster's executor."""
    with (
        distributed.LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None
        ) as local,
        distributed.Client(local) as client,
    ):
        yield client.get_executor()


def bytes_of(frame: pd.DataFrame) -> tuple[str, bytes]:
    """Return a frame as text, and all its numbers bit by bit."""
    return frame.to_csv(), frame.select_dtypes("number").to_numpy().tobytes()


def test_the_workers_are_other_processes(cluster: Executor) -> None:
    """Otherwise the rest of this file would show nothing."""
    pids = {future.result() for future in [cluster.submit(os.getpid, pure=False) for _ in range(20)]}  # type: ignore[call-arg]
    assert len(pids) > 1
    assert os.getpid() not in pids


def test_a_comparison_on_a_cluster_is_the_same_bytes(cluster: Executor) -> None:
    """Serial, in two processes, on a cluster: one frame."""
    serial, forked, clustered = (
        sim.compare(SCENARIOS, POLICIES, seeds=4, jobs=jobs, progress=False) for jobs in (1, 2, cluster)
    )
    assert bytes_of(clustered.frame) == bytes_of(serial.frame) == bytes_of(forked.frame)


def test_a_search_on_a_cluster_writes_the_same_file(cluster: Executor, tmp_path: Path) -> None:
    """The study's file, settings and figures, does not tell where it was made."""
    for name, jobs in (("serial", 1), ("cluster", cluster)):
        sim.tune(SCENARIOS, trials=3, seeds=2, jobs=jobs, held_to=(), progress=False).save(tmp_path / f"{name}.json")
    assert (tmp_path / "cluster.json").read_bytes() == (tmp_path / "serial.json").read_bytes()


def test_the_suite_runs_on_a_cluster(cluster: Executor) -> None:
    """Worlds that come from files travel to the workers, too."""
    policies = {"ours": RateLimitConfig(), "retry only": sim.policies.retry_only()}
    serial, clustered = (
        sim.run_suite(policies, seeds=2, jobs=jobs, worlds=["slots"], progress=False) for jobs in (1, cluster)
    )
    assert bytes_of(clustered.frame) == bytes_of(serial.frame)


def test_an_interrupted_sweep_goes_on_elsewhere(cluster: Executor, tmp_path: Path) -> None:
    """Begun and interrupted on the cluster, finished at home: progress is told on both, and the frame is the same."""
    path = tmp_path / "journal.jsonl"
    with pytest.raises(InterruptedHereError):
        sim.compare(SCENARIOS, POLICIES, seeds=4, jobs=cluster, progress=interrupt_at(3), journal=path)
    kept = len(path.read_text().splitlines()) - 1
    assert kept >= 3
    heard: list[tuple[int, int]] = []
    resumed = sim.compare(SCENARIOS, POLICIES, seeds=4, jobs=1, progress=lambda *done: heard.append(done), journal=path)
    assert heard == [(done, 8) for done in range(1, 9)]
    assert bytes_of(resumed.frame) == bytes_of(sim.compare(SCENARIOS, POLICIES, seeds=4, jobs=1, progress=False).frame)


def test_an_error_on_a_worker_is_the_callers(cluster: Executor) -> None:
    """What a run raises far away is raised here, in its own words."""
    tiny = sim.Provider(name="tiny", quotas=({"kind": "bucket", "axis": "tokens", "limit": 10.0},))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="never admissible"):
        sim.compare(sim.Scenario(sim.backlog(workers=2, duration_s=20.0), tiny), POLICIES, seeds=3, jobs=cluster)
