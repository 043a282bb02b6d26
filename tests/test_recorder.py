"""The recorder: what a row holds, what it must never hold, and what survives a kill, a full disk and a slow one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from io import FileIO
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factflow_llm.errors import ConfigurationError
from factflow_llm.recorder import AttemptRow, Recorder, RowOutcome
from factflow_llm.signals import Axis, AxisLimit
from simulators.traces import Mode, TraceError, read_recording, read_trace

if TYPE_CHECKING:
    from pathlib import Path

CHILD = """
import sys, threading
from factflow_llm.recorder import AttemptRow, Recorder
recorder = Recorder(sys.argv[1])
for number in range(1000):
    recorder.record(AttemptRow(number, 0, 100.0 + number, None, None, None, None, "m", "p", "chat"))
"""


def row(call: int | str = 0, attempt: int = 0, arrival_s: float = 100.0, **fields: Any) -> AttemptRow:
    """Return a row of a call that arrives at ``arrival_s`` on the caller's clock."""
    times = {"admitted_s": arrival_s + 1, "sent_s": arrival_s + 1, "first_chunk_s": None, "end_s": arrival_s + 3}
    return AttemptRow(call, attempt, arrival_s, **times | {"model": "m", "provider": "p", "operation": "chat"} | fields)


def record(path: Path, *rows: AttemptRow, **options: int) -> None:
    """Write a recording and close it."""
    with Recorder(path, **options) as recorder:
        for each in rows:
            recorder.record(each)


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file as JSON."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_row(tmp_path: Path) -> None:
    """A row holds the schema's names, times from the first arrival, and limits both raw and parsed."""
    path = tmp_path / "r.jsonl"
    limited = row(
        attempt=1,
        status=429,
        error="rate_limit",
        outcome=RowOutcome.RATE_LIMITED,
        input_tokens=0,
        retry_after_s=2.5,
        axis=Axis.REQUESTS,
        limit=8.0,
        in_flight=3,
        queue_depth=0,
        reason="probe",
        headers={"Retry-After": "3", "X-RateLimit-Remaining-Requests": "0"},
        limits=(AxisLimit(Axis.REQUESTS, 500.0, 0.0, None),),
    )
    record(path, limited)
    header, written, totals = lines(path)
    assert header["trace_version"] == "factflow.trace/1"
    assert (header["mode"], header["time_unit"]) == ("recorded", "s")
    assert written == {
        "call_id": 0,
        "attempt": 1,
        "t_arrival": 0.0,
        "t_admitted": 1.0,
        "t_sent": 1.0,
        "t_end": 3.0,
        "gen_ai.request.model": "m",
        "gen_ai.provider.name": "p",
        "gen_ai.operation.name": "chat",
        "gen_ai.usage.input_tokens": 0,
        "http.response.status_code": 429,
        "error.type": "rate_limit",
        "outcome": "rate_limited",
        "factflow.retry_after_s": 2.5,
        "factflow.ratelimit.axis": "requests",
        "factflow.limiter.limit": 8.0,
        "factflow.limiter.in_flight": 3,
        "factflow.limiter.queue_depth": 0,
        "factflow.limiter.decision": "probe",
        "http.response.header.retry-after": ["3"],
        "http.response.header.x-ratelimit-remaining-requests": ["0"],
        "factflow.ratelimit.requests.limit": 500.0,
        "factflow.ratelimit.requests.remaining": 0.0,
    }
    assert totals == {"factflow.recorder": {"rows": 1, "dropped": 0, "closed": True}}


def test_a_dimension_is_one_of_ours(tmp_path: Path) -> None:
    """A recording that names a dimension nobody knows is refused, with the line and the words that are known."""
    path = tmp_path / "r.jsonl"
    record(path, row(status=429, outcome="rate_limited", axis=Axis.TOKENS))
    path.write_text(path.read_text().replace('"tokens"', '"wishes"'))
    with pytest.raises(TraceError, match=r"r.jsonl:2: factflow.ratelimit.axis is 'wishes'; it must be one of req"):
        read_recording(path)


def test_unknown_is_left_out(tmp_path: Path) -> None:
    """None, NaN and infinity are unknown: absent from the file, NA in the frame, never 0."""
    path = tmp_path / "r.jsonl"
    record(path, row(limit=float("inf"), retry_after_s=float("nan"), output_tokens=None))
    assert not {"factflow.limiter.limit", "factflow.retry_after_s", "gen_ai.usage.output_tokens"} & set(lines(path)[1])
    attempts = read_recording(path).attempts
    assert attempts[["rate_per_s", "retry_after_s", "output_tokens", "first_chunk_s", "error"]].isna().all(axis=None)


def test_secrets_are_not_recorded(tmp_path: Path) -> None:
    """Only headers about limits reach the file: no key, no cookie, no organisation."""
    path = tmp_path / "r.jsonl"
    headers = {
        "authorization": "Bearer sk-1",
        "set-cookie": "s=1",
        "openai-organization": "org",
        "retry-after-ms": "20",
    }
    record(path, row(headers=headers))
    assert [name for name in lines(path)[1] if "header" in name] == ["http.response.header.retry-after-ms"]


def test_recording_is_a_frame_and_a_trace(tmp_path: Path) -> None:
    """Attempts come back as rows; calls come back as requests, with the tokens of the attempt that knew them."""
    path = tmp_path / "r.jsonl"
    record(
        path,
        row("b", 0, 105.0, status=429, outcome="rate_limited", input_tokens=9, axis=Axis.TOKENS),
        row("a", 0, 100.0, status=200, input_tokens=5, output_tokens=7, max_tokens=50),
        row("b", 1, 105.0, status=200, input_tokens=10, output_tokens=8),
        row("c", 0, 107.0, outcome="cancelled", limits=(AxisLimit(Axis.TOKENS, remaining=3.0),)),
    )
    recording = read_recording(path)
    assert recording.attempts["request"].tolist() == ["b", "a", "b", "c"]
    assert recording.attempts["arrival_s"].tolist() == [5.0, 0.0, 5.0, 7.0]
    assert recording.attempts["tokens_remaining"].iloc[3] == 3.0
    assert "requests_limit" not in recording.attempts
    assert recording.attempts["axis"].fillna("unknown").tolist() == ["tokens", "unknown", "unknown", "unknown"]
    assert recording.attempts["status"].isna().tolist() == [False, False, False, True]
    trace = recording.trace()
    assert trace.arrival_s.tolist() == [0.0, 5.0, 7.0]
    assert trace.input_tokens.tolist() == [5, 10, -1]
    assert trace.output_tokens.tolist() == [7, 8, -1]
    assert trace.max_tokens.tolist() == [50, -1, -1]
    assert trace.header.mode == Mode.RECORDED
    assert trace.header.drops == {"further attempts of a call": 1}
    assert repr(recording) == "Recording('r', 4 attempts, 0 rows missing)"
    assert read_trace(path).frame().equals(trace.frame())
    trace.write(tmp_path / "again.jsonl")
    assert read_trace(tmp_path / "again.jsonl").header == trace.header


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", r"a trace of requests \(azure\); factflow-llm replay .* read"),
        ('{"timestamp": 1, "input_length": 2, "output_length": 3}\n', r"a trace of requests \(mooncake\)"),
        ('{"trace_version": "factflow.trace/1", "mode": "imported"}\n', r"a trace of requests \(factflow\)"),
        ('[\n {"name": "chat"}]', "some of those are traces"),
        ("0,1.5,0.5,Gamma,1,2\n", r"\(ServeGen\)"),
        ("[[quotas]]\nlimit = 5\n", "TOML; a provider goes to --provider"),
        ('name = "limiter"\n', "the settings of a limiter to --policy"),
        ("<html>\n", "it begins with '<html>'; give the first file that a Recorder wrote"),
        ("{" * 2000 + "\n", "give the first file that a Recorder wrote"),
    ],
)
def test_what_is_no_recording_is_called_what_it_is(content: str, told: str, tmp_path: Path) -> None:
    """Who gives something else than a recording reads what it seems to be and what takes it, not that it is damaged."""
    path = tmp_path / "other"
    path.write_text(content)
    with pytest.raises(TraceError, match=rf"other:1: not a recording \(factflow.trace/1\): .*{told}"):
        read_recording(path)


def test_a_folder_and_parquet_are_no_recordings(tmp_path: Path) -> None:
    """Neither is opened as text."""
    with pytest.raises(TraceError, match="a folder; give the first file that a Recorder wrote"):
        read_recording(tmp_path)
    (tmp_path / "trace.parquet").write_bytes(b"PAR1")
    with pytest.raises(TraceError, match="Parquet holds traces; factflow-llm replay"):
        read_recording(tmp_path / "trace.parquet")


def test_files_rotate(tmp_path: Path) -> None:
    """Files stay below their bound, each loads alone, and all load as one with one clock."""
    path = tmp_path / "r.jsonl"
    record(path, *(row(number, arrival_s=100.0 + number) for number in range(50)), max_bytes=2000)
    parts = sorted(tmp_path.iterdir())
    assert len(parts) > 3
    assert all(part.stat().st_size < 2200 for part in parts)
    recording = read_recording(path)
    assert recording.attempts["arrival_s"].tolist() == [float(number) for number in range(50)]
    assert len(read_recording(tmp_path / "r.1.jsonl").attempts) < 50
    (tmp_path / "r.2.jsonl").write_text((tmp_path / "r.2.jsonl").read_text().replace('"recording":"', '"recording":"x'))
    with pytest.raises(TraceError, match=r"r.2.jsonl:1: belongs to another recording"):
        read_recording(path)


def test_one_row_larger_than_a_file(tmp_path: Path) -> None:
    """A bound smaller than a row gives one row per file, not none and not endless files."""
    record(tmp_path / "r.jsonl", row(1), row(2), max_bytes=1)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["r.1.jsonl", "r.jsonl"]


class Slow(Mapping[str, str]):
    """Headers that hold the writer's thread until released, as a slow disk would."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.released = threading.Event()

    def __getitem__(self, name: str) -> str:
        return "1"

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        self.reached.set()
        self.released.wait(30)
        return iter(["retry-after"])


def test_a_slow_disk_blocks_nobody(tmp_path: Path) -> None:
    """While the disk stands still ``record`` returns, memory is bounded, and file and reader tell what was lost."""
    path = tmp_path / "r.jsonl"
    slow = Slow()
    with Recorder(path, max_queued=10) as recorder:
        recorder.record(row(0, headers=slow))
        assert slow.reached.wait(30)
        for number in range(1, 100):
            recorder.record(row(number))
        assert recorder.dropped == 89
        slow.released.set()
        recorder.flush()
        assert recorder.recorded == 11
        assert repr(recorder) == f"Recorder({str(path)!r}, recording, 11 rows, 89 dropped)"
    recording = read_recording(path)
    assert recording.header.drops == {"dropped by the recorder": 89}
    assert recording.header.rows_read == 100


def test_closing(tmp_path: Path) -> None:
    """Closing twice is harmless; a row after that is dropped, counted and not an error."""
    recorder = Recorder(tmp_path / "r.jsonl")
    recorder.record(row())
    recorder.close()
    recorder.close()
    recorder.record(row())
    recorder.flush()
    assert (recorder.recorded, recorder.dropped) == (1, 1)
    assert "closed" in repr(recorder)


def test_a_row_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A row of the wrong shape is dropped and counted, its content unlogged; the next one is written."""
    with Recorder(tmp_path / "r.jsonl") as recorder:
        recorder.record(row(error={"prompt"}))
        recorder.record(row(1))
    assert (recorder.recorded, recorder.dropped) == (1, 1)
    assert "a row that cannot be written is dropped: TypeError" in caplog.text
    assert "prompt" not in caplog.text


def test_many_threads(tmp_path: Path) -> None:
    """Rows from several threads arrive once each, in whole lines."""
    path = tmp_path / "r.jsonl"
    with Recorder(path) as recorder:

        def work(start: int) -> None:
            for number in range(start, start + 500):
                recorder.record(row(number))

        threads = [threading.Thread(target=work, args=(500 * each,)) for each in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(read_recording(path).attempts["request"]) == list(range(2000))


def test_a_path_that_will_not_do(tmp_path: Path) -> None:
    """An existing recording is never touched; a missing folder and a senseless bound are named."""
    path = tmp_path / "r.jsonl"
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match="the file exists; choose a new name for each recording"):
        Recorder(path)
    assert path.read_text() == "precious"
    with pytest.raises(ConfigurationError, match=r"cannot be written .No such file"):
        Recorder(tmp_path / "missing" / "r.jsonl")
    (tmp_path / "other.1.jsonl").touch()
    with pytest.raises(ConfigurationError, match=r"other.1.jsonl: part of an earlier recording"):
        Recorder(tmp_path / "other.jsonl")
    with pytest.raises(ConfigurationError, match="max_queued = 0: give a number of at least 1"):
        Recorder(tmp_path / "new.jsonl", max_queued=0)
    assert not (tmp_path / "new.jsonl").exists()


def test_a_killed_process_loses_at_most_the_last_row(tmp_path: Path) -> None:
    """SIGKILL in the middle of recording leaves a file that loads, with every row flushed before."""
    path = tmp_path / "r.jsonl"
    code = CHILD + (
        "recorder.flush()\n"
        "print('flushed', flush=True)\n"
        "recorder.record(AttemptRow('last', 0, 1.0, None, None, None, None, 'm', 'p', 'chat'))\n"
        "threading.Event().wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "flushed\n"
        child.send_signal(signal.SIGKILL)
    recording = read_recording(path)
    assert recording.attempts["request"].tolist()[:1000] == list(range(1000))
    assert len(recording.attempts) in (1000, 1001)
    assert recording.header.notes == ("the recorder was killed: its last rows may be missing",)
    assert len(read_trace(path)) == len(recording.attempts)


def test_a_process_that_forgets_to_close(tmp_path: Path) -> None:
    """A program that simply ends leaves a whole recording."""
    path = tmp_path / "r.jsonl"
    subprocess.run([sys.executable, "-c", CHILD, str(path)], check=True)
    recording = read_recording(path)
    assert len(recording.attempts) == 1000
    assert recording.header.notes == ()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_file_cut_anywhere_loads_up_to_the_cut(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever byte the writer was killed at, every row before it loads."""
    path = tmp_path_factory.mktemp("cut") / "r.jsonl"
    record(path, *(row(number) for number in range(5)))
    content = path.read_bytes()
    first_row_ends = content.index(b"\n", content.index(b"\n") + 1) + 1
    cut = data.draw(st.integers(first_row_ends, len(content)))
    path.write_bytes(content[:cut])
    recording = read_recording(path)
    whole = min(content[:cut].count(b"\n") - 1, 5)
    assert recording.attempts["request"].tolist() == list(range(whole))
    assert recording.header.drops == ({} if content[:cut].endswith(b"\n") else {"torn last row": 1})


def test_a_full_disk_ends_the_recording_not_the_program(tmp_path: Path) -> None:
    """When the disk refuses, rows are dropped and counted, the program goes on, and the file loads."""
    path = tmp_path / "r.jsonl"
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        + CHILD
        + ("recorder.close()\nprint(recorder.recorded, recorder.dropped)\n")
    )
    child = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    recorded, dropped = map(int, child.stdout.split())
    assert recorded + dropped == 1000
    assert dropped > 0
    assert "recording ends after" in child.stderr
    assert recorded <= len(read_recording(path).attempts) < 1000


@pytest.mark.parametrize("gone", ["removed", "read-only"])
def test_a_folder_that_is_gone_ends_the_recording_not_the_program(
    gone: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the next file cannot be begun, rows are counted as lost, and that is told once."""
    folder = tmp_path / "rows"
    folder.mkdir()
    recorder = Recorder(folder / "r.jsonl", max_bytes=600)
    recorder.record(row(0))
    recorder.flush()
    if gone == "removed":
        (folder / "r.jsonl").unlink()
        folder.rmdir()
    else:  # a superuser may write anywhere, so the system's answer stands in for the folder's mode
        monkeypatch.setattr("factflow_llm.recorder.FileIO", _refuse_to_open)
    for number in range(1, 30):
        recorder.record(row(number))
    recorder.flush()
    recorder.record(row(30))
    recorder.close()

    assert recorder.dropped > 0
    assert recorder.recorded + recorder.dropped == 31
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def _refuse_to_open(*_: object) -> None:
    raise PermissionError(30, "Read-only file system")


def test_a_disk_that_is_full_from_the_start_is_a_mistake_of_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recording that cannot even begin says so at once, and leaves no empty file."""

    class Full(FileIO):
        def write(self, *_: object) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("factflow_llm.recorder.FileIO", Full)
    with pytest.raises(ConfigurationError, match=r"No space left on device\); make room"):
        Recorder(tmp_path / "r.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_rows_that_have_no_line_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a row holds, the thread lives on, counts it, and says so once."""

    class Odd(str):
        __slots__ = ()

        def lower(self) -> str:
            raise RecursionError

    with Recorder(tmp_path / "r.jsonl") as recorder:
        for number in range(3):
            recorder.record(row(number)._replace(headers={Odd("x"): "y"}))
        recorder.record(row(4))
        recorder.flush()
        assert (recorder.recorded, recorder.dropped) == (1, 3)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_an_edited_recording(tmp_path: Path) -> None:
    """Rows taken out, or damaged in the middle, are noticed."""
    path = tmp_path / "r.jsonl"
    record(path, row(1), row(2), row(3))
    content = path.read_text().splitlines(keepends=True)
    path.write_text("".join(content[:2] + content[3:]))
    with pytest.raises(TraceError, match=r"r.jsonl:4: 2 rows stand before this line, where the recorder had counted"):
        read_recording(path)
    path.write_text("".join(content).replace('"t_arrival":0.0', '"t_arrival":"soon"', 1))
    with pytest.raises(TraceError, match=r"r.jsonl:2: t_arrival is 'soon'"):
        read_recording(path)
    path.write_text(content[0])
    with pytest.raises(TraceError, match="holds no attempts"):
        read_recording(path)


def test_production_stays_light(tmp_path: Path) -> None:
    """The recorder brings no SDK and nothing of the laboratory into a production process."""
    code = (
        "import sys, factflow_llm.recorder\n"
        "print(sorted({'pandas', 'numpy', 'openai', 'anthropic', 'simulators', 'pydantic'} & set(sys.modules)))"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_fork_does_not_hang(tmp_path: Path) -> None:
    """A forked child, which has no writer, can flush and close without waiting for ever."""
    code = (
        CHILD
        + "import os\npid = os.fork()\nrecorder.flush()\nrecorder.close()\nos._exit(0) if not pid else os.wait()\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "r.jsonl")], check=True, timeout=60)
    assert len(read_recording(tmp_path / "r.jsonl").attempts) == 1000


def test_frame_types(tmp_path: Path) -> None:
    """Counts are nullable integers, times and figures floats."""
    path = tmp_path / "r.jsonl"
    record(path, row(status=200))
    attempts = read_recording(path).attempts
    assert all(attempts[name].dtype == pd.Int64Dtype() for name in ("attempt", "status", "input_tokens", "queued"))
    assert all(attempts[name].dtype == float for name in ("arrival_s", "end_s", "rate_per_s", "retry_after_s"))
