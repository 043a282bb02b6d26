"""Importers: every public format recognised from its content, and every hostile file refused with its place."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.traces import Mode, TraceError, read_trace
from simulators.traces.source import MAX_LINE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

TRACES = Path(__file__).parents[1] / "../shared/traces"
public = pytest.mark.skipif(not TRACES.exists(), reason="public traces are not beside this checkout")

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:01+00:00,2399,6
"""
BURSTGPT_1 = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,0,1087,API log
118,GPT-4,0,0,0,Conversation log
"""
BURSTGPT_3 = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
19440110.0,one,43,GPT-4,906,446,1352,Conversation log
19440120.0,,2,ChatGPT,36,29,65,API log
19440192.0,one,4,GPT-4,1000,20,1020,Conversation log
"""
MOONCAKE = """{"timestamp": 0, "input_length": 6755, "output_length": 500, "hash_ids": [0, 1]}
{"timestamp": 3052, "input_length": 7322, "output_length": 490, "hash_ids": [0, 2]}
"""
OURS = """{"trace_version": "factflow.trace/1", "mode": "imported"}
{"t_arrival": 0.0, "gen_ai.usage.input_tokens": 5, "session_id": "a"}
{"t_arrival": 1.5, "gen_ai.usage.output_tokens": 7, "session_id": "b", "round_index": 1, "think_time_s": 0.5}
"""


def put(folder: Path, content: str | bytes, name: str = "trace.txt") -> Path:
    """Write a file whose name tells nothing."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.traces
@public
@pytest.mark.parametrize(
    ("file", "requests", "sessions", "source"),
    [
        ("azure2023/AzureLLMInferenceTrace_code.csv", 8819, 0, "azure"),
        ("mooncake/synthetic_trace.jsonl", 3993, 0, "mooncake"),
        ("ragpulse/0_trace.jsonl", 7106, 3990, "ragpulse"),
        ("tracelab_examples/multi_session_example.csv", 8, 3, "tracelab"),
        ("tracelab_examples/multi_session_large.csv", 303, 48, "tracelab"),
        ("tracelab_examples/session_workload_example.csv", 11, 1, "tracelab"),
        ("tracelab_examples/round_trace.jsonl", 19, 2, "tracelab"),
    ],
)
def test_public_traces(file: str, requests: int, sessions: int, source: str) -> None:
    """Every public trace we hold loads whole, from real bytes."""
    trace = read_trace(TRACES / file)
    assert len(trace) == requests
    assert trace.describe()["sessions"] == sessions
    assert (trace.header.source, trace.header.mode) == (source, Mode.IMPORTED)
    assert trace.header.rows_read == trace.header.rows_emitted + sum(trace.header.drops.values())
    assert trace.arrival_s[0] == 0


@pytest.mark.traces
@public
def test_one_servegen_client_is_seeded() -> None:
    """ServeGen's distributions are drawn: marked simulated, the same for a seed, at the published rate."""
    chunk = TRACES / "servegen/multimodal/mm-image/chunk-10-trace.csv"
    trace, again, other = read_trace(chunk, seed=1), read_trace(chunk, seed=1), read_trace(chunk, seed=2)
    assert trace.header.mode == Mode.SIMULATED
    assert trace.header.seed == 1
    assert trace.frame().equals(again.frame())
    assert not trace.frame().equals(other.frame())
    expected = sum(float(line.split(",")[1]) * 600 for line in chunk.read_text().splitlines())
    assert len(trace) == pytest.approx(expected, rel=0.05)
    assert (trace.input_tokens > 0).all()


@pytest.mark.traces
@public
def test_servegen_folder() -> None:
    """A folder of clients is one trace, in order of arrival."""
    trace = read_trace(TRACES / "servegen/multimodal/mm-image", seed=1)
    assert trace.name == "mm-image"
    assert "35 clients" in trace.header.notes[0]
    assert 0 < trace.arrival_s[0] < trace.duration_s < 86_400


def test_azure_of_both_years(tmp_path: Path) -> None:
    """Seven digits of 2023 keep their precision; time zones and whole seconds of 2024 are read as well."""
    trace = read_trace(put(tmp_path, AZURE))
    assert trace.arrival_s.tolist() == [0.0, 0.052]
    assert trace.input_tokens.tolist() == [4808, 3180]
    assert read_trace(put(tmp_path, AZURE_2024)).arrival_s.tolist() == [0.0, 0.99007]


@pytest.mark.parametrize(
    "content",
    [
        AZURE.replace("\n", "\r\n"),
        "\ufeff" + AZURE,
        AZURE + "\n\n",
        AZURE.rstrip("\n"),
        gzip.compress(AZURE.encode()),
        AZURE.replace("TIMESTAMP,ContextTokens", '"TIMESTAMP","ContextTokens"'),
    ],
    ids=["crlf", "bom", "blank lines", "no last newline", "gzip", "quoted header"],
)
def test_harmless_variants(tmp_path: Path, content: str | bytes) -> None:
    """Line ends, byte order marks, blank lines and gzip change nothing."""
    trace = read_trace(put(tmp_path, content))
    assert trace.output_tokens.tolist() == [10, 8]


def test_burstgpt_by_column_name(tmp_path: Path) -> None:
    """A failed call's answer is unknown, a call that asked nothing is dropped for that reason."""
    trace = read_trace(put(tmp_path, BURSTGPT_1))
    assert trace.arrival_s.tolist() == [0.0, 40.0]
    assert trace.output_tokens.tolist() == [18, -1]
    assert trace.header.drops == {"no request tokens": 1}
    assert trace.header.rows_read == 3
    assert "1 requests failed in the source" in trace.header.notes[0]


def test_burstgpt_sessions(tmp_path: Path) -> None:
    """The third file's sessions give rounds, and pauses measured from the end of the answer before."""
    trace = read_trace(put(tmp_path, BURSTGPT_3))
    assert trace.session.tolist() == [0, -1, 0]
    assert trace.round_index.tolist() == [0, 0, 1]
    assert np.isnan(trace.think_time_s[:2]).all()
    assert trace.think_time_s[2] == 82.0 - 43.0


def test_mooncake(tmp_path: Path) -> None:
    """Milliseconds become seconds."""
    trace = read_trace(put(tmp_path, MOONCAKE))
    assert trace.arrival_s.tolist() == [0.0, 3.052]


def test_ragpulse_sorts_its_one_pair(tmp_path: Path) -> None:
    """Rows out of order are sorted stably, and it is said; times that begin anew are two traces, with the line."""
    rows = [
        {"timestamp": str(t), "input_length": n, "output_length": 1, "session_id": "s"} for n, t in enumerate([5, 9, 7])
    ]
    text = "\n".join(map(json.dumps, rows))
    trace = read_trace(put(tmp_path, text + "\n\n"))
    assert trace.input_tokens.tolist() == [0, 2, 1]
    assert trace.round_index.tolist() == [0, 1, 2]
    assert trace.header.notes[1] == "sorted by time: 1 rows stood before an earlier one"
    with pytest.raises(TraceError, match=r"trace.txt:5: timestamp runs backwards here.*two traces in one file"):
        read_trace(put(tmp_path, MOONCAKE + "\n\n" + MOONCAKE))


def test_tracelab_table(tmp_path: Path) -> None:
    """A round reads its prefix too, and comes after the tool waits of the rounds before."""
    text = "session_id,arrival_time,round_idx,prefix_len,input_len,output_len,tool_wait_after_ms\n"
    trace = read_trace(put(tmp_path, text + "a,100,0,0,512,64,250\na,100,1,576,128,64,0\nb,200,0,0,7,8,9\n"))
    assert trace.arrival_s == pytest.approx([0.0, 0.1, 0.25])
    assert trace.input_tokens.tolist() == [512, 7, 704]
    assert trace.think_time_s[2] == 0.25
    with pytest.raises(TraceError, match=":3: round_idx does not rise"):
        read_trace(put(tmp_path, text + "a,100,1,0,512,64,250\na,100,1,576,128,64,0\n"))


@pytest.mark.traces
@public
def test_tracelab_rounds() -> None:
    """A round is asked with its last input and answered with its last output; the pause lies between."""
    trace = read_trace(TRACES / "tracelab_examples/round_trace.jsonl")
    claude = trace.frame()[trace.session == trace.session[-1]]
    assert claude["round_index"].tolist() == list(range(len(claude)))
    assert claude["think_time_s"].iloc[1] == pytest.approx(50.938 - 31.647)
    assert claude["input_tokens"].tolist()[:2] == [32272, 35740]


def span(start: int, **attributes: Any) -> dict[str, Any]:
    """Return an OTLP span of one second."""
    kinds = {int: "intValue", str: "stringValue"}
    return {
        "name": "chat",
        "startTimeUnixNano": str(start * 10**9),
        "endTimeUnixNano": str((start + 1) * 10**9),
        "attributes": [
            {"key": key.replace("__", "."), "value": {kinds[type(value)]: str(value)}}
            for key, value in attributes.items()
        ],
    }


def batch(*spans: dict[str, Any]) -> dict[str, Any]:
    """Return spans as an OTLP batch."""
    return {"resourceSpans": [{"scopeSpans": [{"spans": list(spans)}]}]}


CHAT = span(
    1_700_000_010,
    gen_ai__operation__name="chat",
    gen_ai__usage__input_tokens=12,
    gen_ai__usage__output_tokens=34,
    gen_ai__conversation__id="c",
)
OLD = span(1_700_000_005, gen_ai__operation__name="chat", gen_ai__usage__prompt_tokens=56, gen_ai__conversation__id="c")
AGENT = span(1_700_000_000, gen_ai__operation__name="invoke_agent", gen_ai__usage__input_tokens=68)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(batch(CHAT, OLD, AGENT)),
        json.dumps(batch(CHAT, OLD, AGENT), indent=2),
        "\n".join([json.dumps(batch(CHAT)), json.dumps(batch(OLD, AGENT))]),
        json.dumps([batch(CHAT), batch(OLD, AGENT)]),
    ],
    ids=["document", "indented", "one batch per line", "list"],
)
def test_otlp_spans(tmp_path: Path, text: str) -> None:
    """Model calls are taken in order of their start; an agent's totals would count twice and are left out."""
    trace = read_trace(put(tmp_path, text))
    assert trace.arrival_s.tolist() == [0.0, 5.0]
    assert trace.input_tokens.tolist() == [56, 12]
    assert trace.output_tokens.tolist() == [-1, 34]
    assert trace.think_time_s[1] == 4.0
    assert trace.header.drops == {"not a model call": 1}


def test_python_sdk_spans(tmp_path: Path) -> None:
    """The Python SDK's console exporter is read too."""
    row = {
        "name": "chat gpt",
        "context": {"trace_id": "0x1"},
        "start_time": "2026-01-01T00:00:00.000000Z",
        "end_time": "2026-01-01T00:00:02.000000Z",
        "attributes": {
            "gen_ai.operation.name": "chat",
            "gen_ai.usage.input_tokens": 3,
            "gen_ai.request.max_tokens": 99,
        },
    }
    for text in (json.dumps(row), json.dumps(row, indent=4)):
        trace = read_trace(put(tmp_path, text))
        assert (trace.input_tokens[0], trace.output_tokens[0], trace.max_tokens[0]) == (3, -1, 99)


def test_our_own_rows_by_hand(tmp_path: Path) -> None:
    """A minimal file of ours loads: what a row leaves out is unknown, sessions may have names."""
    trace = read_trace(put(tmp_path, OURS))
    assert trace.input_tokens.tolist() == [5, -1]
    assert trace.session.tolist() == [0, 1]
    assert trace.think_time_s[1] == 0.5


HOSTILE: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", r"trace.txt: the file is empty"),
    "blank": ("\n\n", r"trace.txt: the file is empty"),
    "header alone": (AZURE.splitlines()[0], "has a header but no rows"),
    "missing column": (
        "TIMESTAMP,ContextTokens\n2023-11-16 18:17:03,1\n",
        ":1: looks like azure but lacks Gen",
    ),
    "unknown format": ("colour,prompt\nred,2\n", r":1: not a trace of a known format \(azure, burstgpt"),
    "unknown keys": ('{"ts": 1}\n', r":1: not a trace of a known format .*found keys 'ts'"),
    "missing key": ('{"timestamp": 0, "input_length": 5}\n', ":1: looks like mooncake but lacks output_length"),
    "negative tokens": (AZURE.replace("3180", "-5"), ":3: ContextTokens is -5; it must be a whole number from 0"),
    "fraction of a token": (AZURE.replace("3180", "1.5"), ":3: ContextTokens is 1.5"),
    "not a number": (AZURE.replace("3180", "NaN"), ":3: ContextTokens is 'NaN'"),
    "infinite": (AZURE.replace("3180", "inf"), ":3: ContextTokens is (inf|'inf')"),
    "huge": (AZURE.replace("3180", "9" * 30), ":3: ContextTokens is"),
    "boolean": (AZURE.replace("3180", "True"), ":3: ContextTokens is 'True'"),
    "formula": (AZURE.replace("3180", "=cmd|'/c calc'!A0"), ':3: ContextTokens is "=cmd'),
    "no time": (
        AZURE.replace("2023-11-16 18:17:04.0319600", "yesterday"),
        ":3: TIMESTAMP is 'yesterday'; it must be a date",
    ),
    "year 9999": (AZURE.replace("2023-11-16 18:17:04.0319600", "9999-01-01 00:00:00"), ":3: TIMESTAMP is '9999-01-01"),
    "number as time": (AZURE.replace("2023-11-16 18:17:04.0319600", "17"), ":3: TIMESTAMP is '17'"),
    "truncated": (AZURE[:-18], ":3: 1 fields where the header has 3; the row is damaged or cut off"),
    "too many fields": (AZURE + "2023-11-16 18:17:05,1,2,3\n", ":4: 4 fields where the header has 3"),
    "quoted newline": (AZURE + '"2023-11-16\n18:17:05",1,2\n', r":4: TIMESTAMP is '2023-11-16.n18"),
    "unclosed quote": (
        AZURE + '"2023-11-16 18:17:05,1,2\n',
        ":4: a quotation mark that opens in this row never closes",
    ),
    "mixed": (AZURE + MOONCAKE, ":4: 5 fields where the header has 3"),
    "mixed json": (MOONCAKE + AZURE, ":3: not JSON"),
    "mixed keys": (MOONCAKE + '{"a": 1}\n', ":3: timestamp is missing"),
    "not utf-8": (AZURE.replace("3180", "3\u00e9").encode("latin-1"), ":3: byte 0xe9 is not UTF-8"),
    "utf-16": (AZURE.encode("utf-16"), "UTF-16 text; save it as UTF-8"),
    "nul": (AZURE.replace("3180", "3\0"), ":3: holds a NUL byte"),
    "negative time": (BURSTGPT_1.replace("45,", "-45,"), ":3: Timestamp is -45"),
    "burstgpt backwards": (BURSTGPT_1.replace("45,", "4,"), ":3: Timestamp runs backwards"),
    "nothing asked": (BURSTGPT_1.replace("472", "0").replace("1087", "0"), "every row has 0 request tokens"),
    "json negative": (MOONCAKE.replace("7322", "-1"), ":2: input_length is -1; it must be a whole number"),
    "json nan": (MOONCAKE.replace("7322", "NaN"), ":2: a number that cannot be read"),
    "json text": (MOONCAKE.replace("7322", '"7322"'), ":2: input_length is '7322'"),
    "json true": (MOONCAKE.replace("7322", "true"), ":2: input_length is True"),
    "json huge": (MOONCAKE.replace("7322", "9" * 9000), ":2: a number that cannot be read"),
    "json infinite": (MOONCAKE.replace("3052", "1e999"), ":2: timestamp is inf"),
    "json deep": (MOONCAKE.replace("[0, 2]", "[" * 100_000), ":2: (JSON nested too deeply|not JSON)"),
    "json truncated": (MOONCAKE[:-30], ":2: not JSON .*damaged or cut off"),
    "json truncated at once": (MOONCAKE[:20], ":1: not JSON"),
    "json list": (MOONCAKE + "[1]\n", ":3: list is not a JSON object"),
    "json backwards": (MOONCAKE.replace('"timestamp": 0', '"timestamp": 9999'), ":2: timestamp runs backwards"),
    "newer version": (
        OURS.replace("trace/1", "trace/9"),
        ":1: trace_version is 'factflow.trace/9'; this release reads",
    ),
    "ours backwards": (OURS.replace("1.5", "-1"), ":3: t_arrival is -1; it must be a time from 0"),
    "ours cut off": (
        OURS.replace('"mode"', '"rows_emitted": 3, "mode"'),
        "holds 2 requests where its header promises 3",
    ),
    "ours empty": (OURS.splitlines()[0], "holds a header but no requests"),
    "ours miscounted": (
        OURS.replace('"mode"', '"rows_read": 9, "mode"'),
        ":1: the header does not hold .*9 read, 2 kept",
    ),
    "tracelab without events": (
        '{"session_id": "s", "round_index": 0, "output_tokens": 1, "timing_events": 5}',
        ":1: timing_events is not a list",
    ),
    "spans without a call": (json.dumps(batch(AGENT)), "none of 1 spans is a model call"),
    "span without end": (
        json.dumps(batch({**CHAT, "endTimeUnixNano": None})),
        ":1: a span without a readable start and end",
    ),
    "span ends first": (json.dumps(batch({**CHAT, "endTimeUnixNano": "1"})), ":1: a span ends at"),
    "spans of another shape": ('{"resourceSpans": [1]}', ":1: resourceSpans is not a list of objects"),
    "git-lfs": ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a git-lfs pointer, not the data"),
    "gzip cut off": (gzip.compress(AZURE.encode() * 99)[:-20], "the gzip file is cut off|damaged"),
    "gzip damaged": (gzip.compress(AZURE.encode())[:20] + b"damage" * 9, "the gzip file is (damaged|cut off)"),
    "parquet by name alone": (b"PAR1 and then nothing", "Parquet that cannot be read|pip install pyarrow"),
    "long line": (AZURE + "x" * (10 * 2**20) + "\n", f":4: a line of more than {MAX_LINE_BYTES} bytes"),
    "long json line": (MOONCAKE + '{"a": "' + "x" * (10 * 2**20), f":3: a line of more than {MAX_LINE_BYTES} bytes"),
    "long first line": ("x" * (10 * 2**20), f":1: a line of more than {MAX_LINE_BYTES} bytes"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files(tmp_path: Path, case: str) -> None:
    """Every fault names the file, the line where there is one, the value and the remedy."""
    content, message = HOSTILE[case]
    with pytest.raises(TraceError, match=message) as caught:
        read_trace(put(tmp_path, content))
    assert "trace.txt" in str(caught.value)
    assert len(str(caught.value)) < 600


RAGPULSE = """{"timestamp": "5", "input_length": 7, "output_length": 2, "session_id": "s"}
{"timestamp": "9", "input_length": 8, "output_length": 3, "session_id": "s"}
"""
TRACELAB = """session_id,arrival_time,round_idx,prefix_len,input_len,output_len,tool_wait_after_ms
a,100,0,0,512,64,250
a,100,1,576,128,64,0
"""
TRACELAB_ROUND = {
    "session_id": "s",
    "round_index": 0,
    "input_tokens_total": 32,
    "output_tokens": 4,
    "timing_events": [{"event_type": "user_message", "timestamp": "2026-01-01T00:00:00Z"}],
}
ROUNDS = "".join(json.dumps(TRACELAB_ROUND | {"round_index": number}) + "\n" for number in range(2))
SPANS = "".join(json.dumps(batch(each)) + "\n" for each in (CHAT, OLD))
RECORDED = (
    '{"trace_version": "factflow.trace/1", "mode": "recorded", "recording": "r"}\n'
    '{"call_id": 1, "attempt": 0, "t_arrival": 0.0, "gen_ai.usage.input_tokens": 5, "outcome": "ok"}\n'
    '{"call_id": 2, "attempt": 0, "t_arrival": 1.0, "gen_ai.usage.input_tokens": 5, "outcome": "ok"}\n'
)
# Every importer: a sound file, and the piece of its second row that is replaced by something huge.
EVERY = {
    "azure 2023": (AZURE, "3180"),
    "azure 2024": (AZURE_2024, "2399"),
    "burstgpt 1": (BURSTGPT_1, "1087"),
    "burstgpt 3": (BURSTGPT_3, "36,"),
    "mooncake": (MOONCAKE, "7322"),
    "ragpulse": (RAGPULSE, " 8,"),
    "tracelab table": (TRACELAB, "128"),
    "tracelab rounds": (ROUNDS, "32"),
    "spans": (SPANS, '"56"'),
    "ours": (OURS, "7,"),
    "recording": (RECORDED, " 5,"),
}


def instead(text: str, number: str, value: str) -> bytes:
    """Return the file with another value where the number stands."""
    digits = number.strip(' ",')
    return text.replace(number, number.replace(digits, value), 1).encode()


HARMS: dict[str, Callable[[str, str], bytes]] = {
    "sound": lambda text, number: text.encode(),
    "truncated": lambda text, number: text[: -len(text.splitlines()[-1]) * 2 // 3].encode() + b"\n",
    "mixed": lambda text, number: (text + (AZURE if text.startswith("{") else MOONCAKE)).encode(),
    "huge": lambda text, number: instead(text, number, "9" * 40),
    "not utf-8": lambda text, number: text.encode() + b"\xff\xfe\n",
    "formula": lambda text, number: instead(text, number, "=HYPERLINK(1)"),
    "long line": lambda text, number: text.encode() + b"1" * (10 * 2**20) + b"\n",
    "gzip bomb": lambda text, number: gzip.compress(text.encode() + blank_lines(text) * (80 * 2**10)),
}


def blank_lines(text: str) -> bytes:
    """Return a thousand bytes of what a format skips: blank lines of JSON may be long, those of tables are empty."""
    return b" " * 1023 + b"\n" if text.startswith("{") else b"\n" * 1024


@pytest.mark.parametrize("harm", [*list(HARMS)[:-1], pytest.param("gzip bomb", marks=pytest.mark.slow)])
@pytest.mark.parametrize("importer", EVERY)
def test_every_importer_on_every_harm(tmp_path: Path, importer: str, harm: str) -> None:
    """Whichever format, whichever harm: an error with file and line, in bounded memory, and nothing executed."""
    text, number = EVERY[importer]
    path = put(tmp_path, HARMS[harm](text, number))
    if harm == "sound":
        assert len(read_trace(path)) >= 1
        return
    tracemalloc.start()
    try:
        with pytest.raises(TraceError, match=r"trace\.txt:\d+: "):
            read_trace(path)
        assert tracemalloc.get_traced_memory()[1] < 150 * 2**20
    finally:
        tracemalloc.stop()


def test_parquet_that_is_not_what_it_seems(tmp_path: Path) -> None:
    """A few kilobytes that hold millions of rows, and columns of text, are refused before they are unpacked."""
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "trace.parquet"
    read_trace(put(tmp_path, OURS)).write(path)
    sound = parquet.read_table(path)
    rows = 5_000_000
    bomb = pyarrow.table(
        {
            name: pyarrow.array(np.zeros(rows), sound.schema.field(name).type, from_pandas=True)
            for name in sound.column_names
        }
    )
    parquet.write_table(bomb.replace_schema_metadata(sound.schema.metadata), path)
    assert path.stat().st_size < rows / 10
    with pytest.raises(TraceError, match=r"trace\.parquet: .*decompression bomb"):
        read_trace(path)
    name = "gen_ai.usage.input_tokens"
    texts = sound.set_column(sound.column_names.index(name), name, pyarrow.array(["=1+1"] * len(sound)))
    parquet.write_table(texts.replace_schema_metadata(sound.schema.metadata), path)
    with pytest.raises(TraceError, match="input_tokens is a column of string"):
        read_trace(path)


def test_rows_stay_compact(tmp_path: Path) -> None:
    """Rows are kept as numbers in columns: 24 bytes each here, and not many more while the file is read."""
    rows = 200_000
    header, row, _ = AZURE.splitlines(keepends=True)
    path = put(tmp_path, header + row * rows)
    tracemalloc.start()
    trace = read_trace(path)
    size, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(trace) == rows
    assert size < 32 * rows
    assert peak < 200 * rows


def test_places_that_are_no_traces(tmp_path: Path) -> None:
    """A path that is missing, a folder without a trace, an archive, a pipe: each is named for what it is."""
    with pytest.raises(TraceError, match="nowhere: no such file"):
        read_trace(tmp_path / "nowhere")
    with pytest.raises(TraceError, match=r"a folder without chunk-\*-trace.csv"):
        read_trace(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("trace.csv", AZURE)
    with pytest.raises(TraceError, match="a zip archive; unpack it"):
        read_trace(tmp_path / "a.zip")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TraceError, match="not a regular file"):
        read_trace(tmp_path / "pipe")


@pytest.mark.slow
@pytest.mark.parametrize("unit", [b"\n", b"0" * 1000 + b"\n", AZURE.encode().splitlines(keepends=True)[1]])
def test_gzip_bombs_are_cut_short(tmp_path: Path, unit: bytes) -> None:
    """A gzip that unpacks without end is refused in bounded memory."""
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(AZURE.encode().splitlines(keepends=True)[0])
        block = unit * (2**20 // len(unit))
        for _ in range(200):
            file.write(block)
    tracemalloc.start()
    with pytest.raises(TraceError, match=r"decompression bomb|fields where the header"):
        read_trace(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400 * 2**20


SERVEGEN_DATASET = {
    "0": {"input_tokens": "{5: 1.0}", "output_tokens": "{7: 0.5, 9: 0.5}", "reason_ratio": "{0.1: 1.0}"}
}


def servegen(folder: Path, windows: str, dataset: object = SERVEGEN_DATASET) -> Path:
    """Write one ServeGen client."""
    put(folder, dataset if isinstance(dataset, str) else json.dumps(dataset), "chunk-0-dataset.json")
    return put(folder, windows, "chunk-0-trace.csv")


def test_servegen_draws_what_is_fitted(tmp_path: Path) -> None:
    """Rate, family and token distributions are those of the file; a silent window stays silent."""
    path = servegen(tmp_path, "0,5,1,Gamma,1.0,0.2\n600,0,0,,0,0\n1200,2,0.5,Weibull,2.1,0.5\n")
    trace = read_trace(path, seed=3)
    counts = np.histogram(trace.arrival_s, [0, 600, 1200, 1800])[0]
    assert counts == pytest.approx([3000, 0, 1200], rel=0.06)
    assert set(trace.input_tokens) == {5}
    assert set(trace.output_tokens) == {7, 9}
    assert trace.window(1200, 1800).describe()["interarrival_cv"] == pytest.approx(0.5, abs=0.06)


def test_servegen_before_its_first_distribution(tmp_path: Path) -> None:
    """Requests in a window without a distribution have unknown tokens."""
    later = {"600": SERVEGEN_DATASET["0"]}
    trace = read_trace(servegen(tmp_path, "0,1,1,Gamma,1,1\n600,1,1,Gamma,1,1\n", later))
    assert set(trace.input_tokens[trace.arrival_s < 600]) == {-1}
    assert set(trace.input_tokens[trace.arrival_s >= 600]) == {5}


@pytest.mark.parametrize(
    ("windows", "dataset", "message"),
    [
        ("0,1e9,1,Gamma,1,1\n", SERVEGEN_DATASET, "rate 1000000000.0 is not between 0 and"),
        ("0,40000000,1,Gamma,1,1\n", SERVEGEN_DATASET, "more than 50000000 requests to draw"),
        ("0,1,1,Gamma,0,1\n", SERVEGEN_DATASET, ":1: shape 0.0 of Gamma is not between"),
        ("0,1,1,Gamma,nan,1\n", SERVEGEN_DATASET, ":1: shape nan"),
        ("0,x,1,Gamma,1,1\n", SERVEGEN_DATASET, ":1: .* holds a field that is not a number"),
        ("600,1,1,Gamma,1,1\n0,1,1,Gamma,1,1\n", SERVEGEN_DATASET, ":2: window 0 s does not follow 600 s"),
        ("0,1,1,Gamma,1,1\nrubbish\n", SERVEGEN_DATASET, ":2: not a ServeGen window"),
        ("0,0,0,,0,0\n", SERVEGEN_DATASET, "every client's rate is 0"),
        ("0,1,1,Gamma,1,1\n", "[]", "not a ServeGen dataset"),
        ("0,1,1,Gamma,1,1\n", {"0": {"input_tokens": "__import__('os').abort()"}}, "expected {tokens: probability"),
        ("0,1,1,Gamma,1,1\n", {"0": {"input_tokens": "{__import__('os').abort(): 1}"}}, "something else than tokens"),
        ("0,1,1,Gamma,1,1\n", {"0": {"input_tokens": "{1: 0.5, 2: 0.1}"}}, "probabilities that sum to 0.6, not 1"),
        ("0,1,1,Gamma,1,1\n", {"0": {"input_tokens": "{-1: 1.0}"}}, "not a whole number from 0"),
        ("0,1,1,Gamma,1,1\n", {"0": {"input_tokens": "{" + "1:1," * 2**19 + "}"}}, "not a string of at most"),
        (
            "0,1,1,Gamma,1,1\n",
            {"0": {"text_tokens": "{1: 1}", "image_count": "{999999999: 1}", "image_tokens": "{1: 1}"}},
            "image parts, beyond",
        ),
    ],
)
def test_hostile_servegen(tmp_path: Path, windows: str, dataset: object, message: str) -> None:
    """Distributions are parsed as numbers: nothing in them runs, and nothing in them can ask for endless requests."""
    with pytest.raises(TraceError, match=message):
        read_trace(servegen(tmp_path, windows, dataset))


SEEDS = [AZURE, AZURE_2024, BURSTGPT_1, BURSTGPT_3, MOONCAKE, OURS, json.dumps(batch(CHAT, OLD, AGENT))]


@given(seed=st.sampled_from(SEEDS), at=st.floats(0, 1), cut=st.integers(0, 12), inserted=st.binary(max_size=12))
@settings(max_examples=300, deadline=None)
def test_damaged_files_never_crash(
    tmp_path_factory: pytest.TempPathFactory, seed: str, at: float, cut: int, inserted: bytes
) -> None:
    """A file damaged anywhere either loads with rows that reconcile, or raises a TraceError; nothing else."""
    data = seed.encode()
    place = int(at * len(data))
    path = put(tmp_path_factory.mktemp("damaged"), data[:place] + inserted + data[place + cut :])
    try:
        trace = read_trace(path)
    except TraceError:
        return
    assert len(trace) == trace.header.rows_read - sum(trace.header.drops.values())
