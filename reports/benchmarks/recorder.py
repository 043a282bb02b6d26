"""What recording costs the caller, against writing the same row in place: ``python -m reports.benchmarks.recorder``."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from factflow_llm.recorder import AttemptRow, Recorder
from factflow_llm.signals import Axis, AxisLimit

ROWS = 20_000
ROUNDS = 5
HEADERS = {
    f"x-ratelimit-{figure}-{unit}": "4999" for figure in ("limit", "remaining") for unit in ("requests", "tokens")
}
ROW = AttemptRow(
    call_id=7,
    attempt=0,
    arrival_s=1000.0,
    admitted_s=1000.5,
    sent_s=1000.5,
    first_chunk_s=1001.0,
    end_s=1002.0,
    model="gpt-4o-mini",
    provider="openai",
    operation="chat",
    input_tokens=900,
    output_tokens=300,
    status=200,
    limit=8.0,
    in_flight=3,
    queue_depth=0,
    reason="probe",
    headers=HEADERS,
    limits=(AxisLimit(Axis.REQUESTS, 5000.0, 4999.0, 0.012), AxisLimit(Axis.TOKENS, 2e6, 1.9e6, 0.006)),
)


def recorded(folder: Path) -> tuple[float, float]:
    """Return seconds per row until ``record`` returned, and until every row was with the operating system."""
    with Recorder(folder / "rows.jsonl", max_queued=ROWS) as recorder:
        start = time.perf_counter()
        for _ in range(ROWS):
            recorder.record(ROW)
        handed_over = time.perf_counter()
        recorder.flush()
        written = time.perf_counter()
        if recorder.dropped:
            raise SystemExit(f"{recorder.dropped} rows dropped; the figures mean nothing")
    return (handed_over - start) / ROWS, (written - start) / ROWS


def in_place(folder: Path) -> float:
    """Return seconds per row when the caller serialises, writes and flushes by itself."""
    with (folder / "plain.jsonl").open("w") as file:
        start = time.perf_counter()
        for _ in range(ROWS):
            file.write(json.dumps(ROW._asdict(), default=dict) + "\n")
            file.flush()
        return (time.perf_counter() - start) / ROWS


def main() -> None:
    """Print the best of a few rounds."""
    figures = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as name:
            figures.append((*recorded(Path(name)), in_place(Path(name))))
    caller, total, plain = map(min, zip(*figures, strict=True))
    print(f"record() returns after  {caller * 1e6:6.1f} us per row, {caller / plain:.2f} of writing in place")
    print(f"row is written after    {total * 1e6:6.1f} us per row, {total / plain:.2f} of writing in place")
    print(f"writing in place takes  {plain * 1e6:6.1f} us per row")


if __name__ == "__main__":
    main()
