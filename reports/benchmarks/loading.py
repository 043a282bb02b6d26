"""Loading a million rows: time beside that of the parser alone (pandas, json), and memory of the trace."""

from __future__ import annotations

import json
import tempfile
import tracemalloc
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from reports.benchmarks.measure import Contestant, ratio, show, take_turns, verdict
from simulators.traces import read_trace

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = 1_000_000


def write_azure(path: Path, rows: int) -> None:
    """Write so many rows in the format of Azure's traces."""
    luck = np.random.default_rng(1)
    moments = np.datetime64("2023-11-16T18:00:00", "us") + np.cumsum(luck.integers(1, 9000, rows)).astype("m8[us]")
    table = pd.DataFrame(
        {
            "TIMESTAMP": np.char.replace(moments.astype(str), "T", " "),
            "ContextTokens": luck.integers(1, 8000, rows),
            "GeneratedTokens": luck.integers(1, 900, rows),
        }
    )
    table.to_csv(path, index=False)


def write_mooncake(path: Path, rows: int) -> None:
    """Write so many rows in Mooncake's format."""
    luck = np.random.default_rng(1)
    columns = (np.cumsum(luck.integers(0, 9, rows)), luck.integers(1, 8000, rows), luck.integers(1, 900, rows))
    with path.open("w") as file:
        file.writelines(
            f'{{"timestamp": {at}, "input_length": {read}, "output_length": {written}, "hash_ids": [1, 2, 3]}}\n'
            for at, read, written in zip(*(column.tolist() for column in columns), strict=True)
        )


def main(rounds: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        for name, write, plain in (("azure", write_azure, _azure_alone), ("mooncake", write_mooncake, _json_alone)):
            path = Path(folder) / f"{name}.txt"
            write(path, ROWS)
            _measure(path, plain, min(rounds, 3))


def _azure_alone(path: Path) -> int:
    return len(pd.read_csv(path, parse_dates=["TIMESTAMP"]))


def _json_alone(path: Path) -> int:
    with path.open() as file:
        return len([json.loads(line) for line in file])


def _measure(path: Path, plain: Callable[[Path], int], rounds: int) -> None:
    contestants = [
        Contestant("read_trace", lambda: len(read_trace(path))),
        Contestant("parser alone", lambda: plain(path)),
    ]
    spent = take_turns(contestants, rounds)
    show(f"{ROWS:,} rows of {path.stem}, {path.stat().st_size / 2**20:.0f} MiB: CPU per row", spent)
    print(f"  -> read_trace / parser alone: {ratio(spent, 'read_trace', 'parser alone'):.2f}")
    tracemalloc.start()
    trace = read_trace(path)
    size, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    seconds = median(spent["read_trace"]) * ROWS
    verdict("seconds to load", seconds, "<= 10", met=seconds <= 10)
    verdict("bytes a row, loaded", size / len(trace), "<= 64", met=size / len(trace) <= 64)
    print(f"  -> bytes a row, at the peak: {peak / len(trace):.0f}")
