"""Logs people have: exports of gateways and observability tools, odd separators and clocks, and a caller's own map."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from simulators.traces import Mode, Trace, TraceError, read_trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

START = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
CALLS = [(round(0.37 * n + (n % 7) * 0.05, 3), 11 + 13 * n % 977, 1 + 7 * n % 89) for n in range(60)]
"""Seconds since the start, input and output tokens: what every file below says, in its own way."""


def iso(passed_s: float) -> str:
    """Return a moment as most exports write it."""
    return (START + timedelta(seconds=passed_s)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def unix(passed_s: float) -> float:
    """Return a moment in Unix seconds."""
    return START.timestamp() + passed_s


def table(names: str, row: Callable[[float, int, int], list[object]], separator: str = ",") -> str:
    """Return a CSV file of the calls."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator)
    writer.writerow(names.split(","))
    writer.writerows(row(*call) for call in CALLS)
    return out.getvalue()


def lines(row: Callable[[float, int, int], dict[str, Any]]) -> str:
    """Return a JSON Lines file of the calls."""
    return "".join(json.dumps(row(*call)) + "\n" for call in CALLS)


def listed(row: Callable[[float, int, int], dict[str, Any]], **around: Any) -> str:
    """Return the calls as one JSON list, or within an object."""
    rows = [row(*call) for call in CALLS]
    return json.dumps(around | {"data": rows} if around else rows, indent=1)


def attributes(**values: Any) -> list[dict[str, Any]]:
    """Return OTLP attributes."""
    kinds = {int: "intValue", str: "stringValue"}
    return [{"key": key.replace("__", "."), "value": {kinds[type(value)]: str(value)}} for key, value in values.items()]


def span(t: float, **values: Any) -> dict[str, Any]:
    """Return an OTLP span of one second."""
    return {
        "name": "call",
        "startTimeUnixNano": str(int(unix(t) * 1e9)),
        "endTimeUnixNano": str(int(unix(t + 1) * 1e9)),
        "attributes": attributes(**values),
    }


def batch(spans: list[dict[str, Any]]) -> str:
    """Return spans as one OTLP document."""
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]})


PROMPT = 'a prompt, with "quotes";\nand a second line'
FILES: dict[str, tuple[str, str]] = {
    "azure, semicolons": (
        "azure", table("TIMESTAMP,ContextTokens,GeneratedTokens", lambda t, i, o: [iso(t), i, o], ";"),
    ),
    "azure, tabs and Unix milliseconds": (
        "azure", table("TIMESTAMP,ContextTokens,GeneratedTokens", lambda t, i, o: [round(unix(t) * 1e3), i, o], "\t"),
    ),
    "azure, decimal commas": (
        "azure",
        table("TIMESTAMP,ContextTokens,GeneratedTokens",
              lambda t, i, o: [f"{unix(t):.3f}".replace(".", ","), i, o], ";"),
    ),
    "azure, Unix nanoseconds, bars": (
        "azure", table("Timestamp,context_tokens,generated_tokens", lambda t, i, o: [int(unix(t) * 1e9), i, o], "|"),
    ),
    "burstgpt, dates": (
        "burstgpt",
        table("Timestamp,Model,Request tokens,Response tokens", lambda t, i, o: [iso(t)[:-1], "m", i, o]),
    ),
    "litellm, postgres": (
        "litellm",
        table("startTime,endTime,call_type,model,prompt_tokens,completion_tokens,metadata",
              lambda t, i, o: [iso(t).replace("T", " ").replace("Z", "+00"), iso(t + 1), "c", "m", i, o,
                               json.dumps({"a": [1, 2], "b": PROMPT})]),
    ),
    "litellm, lower case": (
        "litellm",
        table("request_id,starttime,endtime,prompt_tokens,completion_tokens",
              lambda t, i, o: ["r", iso(t).replace("Z", " UTC"), "", i, o], ";"),
    ),
    "litellm, pages": (
        "litellm",
        listed(lambda t, i, o: {"request_id": "r", "startTime": iso(t), "prompt_tokens": i, "completion_tokens": o},
               total=60),
    ),
    "langfuse, CSV": (
        "langfuse",
        table("id,type,startTime,endTime,input,inputUsage,outputUsage,totalUsage",
              lambda t, i, o: ["x", "GENERATION", iso(t), iso(t + 1), PROMPT, i, o, i + o]),
    ),
    "langfuse, blob storage": (
        "langfuse",
        lines(lambda t, i, o: {
            "id": "x", "type": "GENERATION", "start_time": iso(t)[:-1].replace("T", " "),
            "usage_details": {"input": i - 5, "input_cached_tokens": 5, "output": o, "total": i + o},
        }),
    ),
    "langfuse, cells of JSON": (
        "langfuse",
        table("id,type,startTime,usageDetails",
              lambda t, i, o: ["x", "GENERATION", iso(t), json.dumps({"input": i, "output": o, "total": i + o})]),
    ),
    "langsmith, with chains": (
        "langsmith",
        "".join(
            json.dumps({"run_type": kind, "start_time": iso(t)[:-1], "prompt_tokens": i, "completion_tokens": o,
                        "trace_id": "t"}) + "\n"
            for t, i, o in CALLS for kind in ("chain", "llm")
        ),
    ),
    "langsmith, nested": (
        "langsmith",
        listed(lambda t, i, o: {"run_type": "llm", "start_time": iso(t), "outputs": {
            "usage_metadata": {"input_tokens": i, "output_tokens": o}}}),
    ),
    "helicone, newest first": (
        "helicone",
        "".join(lines(lambda t, i, o: {
            "request_created_at": iso(t), "response_created_at": iso(t + 1), "prompt_tokens": i, "completion_tokens": o,
        }).splitlines(keepends=True)[::-1]),
    ),
    "openai batch": (
        "openai batch",
        lines(lambda t, i, o: {"custom_id": "c", "response": {"status_code": 200, "body": {
            "created": int(unix(t)), "usage": {"prompt_tokens": i, "completion_tokens": o}}}}),
    ),
    "openai batch, responses": (
        "openai batch",
        lines(lambda t, i, o: {"custom_id": "c", "response": {"status_code": 200, "body": {
            "created_at": int(unix(t)), "usage": {"input_tokens": i, "output_tokens": o}}}}),
    ),
    "openinference, phoenix": (
        "openinference",
        table("name,span_kind,start_time,end_time,attributes.llm.token_count.prompt,"
              "attributes.llm.token_count.completion",
              lambda t, i, o: ["x", "LLM", iso(t), iso(t + 1), f"{i}.0", f"{o}.0"]),
    ),
    "openinference, spans": (
        "opentelemetry",
        batch([s for t, i, o in CALLS for s in (
            span(t, openinference__span__kind="LLM", llm__token_count__prompt=i, llm__token_count__completion=o),
            span(t, openinference__span__kind="CHAIN", llm__token_count__prompt=i),
        )]),
    ),
    "openinference, nested attributes": (
        "opentelemetry",
        lines(lambda t, i, o: {"name": "x", "start_time": iso(t), "end_time": iso(t + 1), "attributes": {
            "openinference": {"span": {"kind": "LLM"}}, "llm": {"token_count": {"prompt": i, "completion": o}}}}),
    ),
    "openllmetry": (
        "opentelemetry",
        batch([s for t, i, o in CALLS for s in (
            span(t, llm__request__type="chat", gen_ai__usage__prompt_tokens=i, gen_ai__usage__completion_tokens=o),
            span(t, traceloop__span__kind="workflow", gen_ai__usage__prompt_tokens=i),
        )]),
    ),
    "jaeger": (
        "opentelemetry",
        json.dumps({"data": [{"traceID": "t", "spans": [
            {"traceID": "t", "operationName": "chat", "startTime": int(unix(t) * 1e6), "duration": 5,
             "tags": [{"key": "gen_ai.operation.name", "type": "string", "value": "chat"},
                      {"key": "gen_ai.usage.input_tokens", "type": "int64", "value": i},
                      {"key": "gen_ai.usage.output_tokens", "type": "int64", "value": o}]} for t, i, o in CALLS]}]}),
    ),
    "bailian": (
        "bailian",
        lines(lambda t, i, o: {"chat_id": 1, "parent_chat_id": -1, "timestamp": t, "input_length": i,
                               "output_length": o, "type": "text", "turn": 1}),
    ),
    "mooncake, one list": (
        "mooncake",
        listed(lambda t, i, o: {
            "timestamp": round(t * 1000), "input_length": i, "output_length": o, "hash_ids": [1]}),
    ),
    "aiperf sessions": (
        "aiperf",
        lines(lambda t, i, o: {
            "session_id": "s", "timestamp": round(t * 1000), "input_length": i, "output_length": o}),
    ),
    "vllm bench": (
        "vllm bench",
        json.dumps({"input_lens": [i for _, i, _ in CALLS], "output_lens": [o for _, _, o in CALLS],
                    "start_times": [9000.5 + t for t, _, _ in CALLS]}, indent=1),
    ),
}  # fmt: skip


def put(folder: Path, content: str, name: str = "log.txt") -> Path:
    """Write a file whose name tells nothing."""
    path = folder / name
    path.write_text(content, newline="")
    return path


@pytest.mark.parametrize("file", FILES)
def test_rows_and_sums(tmp_path: Path, file: str) -> None:
    """Whatever spells it, a log holds the calls that were counted before it was written: rows, sums, time."""
    source, content = FILES[file]
    trace = read_trace(put(tmp_path, content))
    assert trace.header.source == source
    assert len(trace) == len(CALLS)
    assert trace.input_tokens.sum() == sum(i for _, i, _ in CALLS)
    assert trace.output_tokens.sum() == sum(o for _, _, o in CALLS)
    spanned_s = max(t for t, _, _ in CALLS) - min(t for t, _, _ in CALLS)
    assert trace.duration_s == pytest.approx(spanned_s, abs=1.0 if "batch" in file else 1e-3)


@pytest.mark.parametrize(
    ("number", "unit", "told"),
    [
        (lambda t: f"{unix(t):.3f}", None, "Unix seconds"),
        (lambda t: f"{unix(t) * 1e6:.0f}", None, "Unix microseconds"),
        (lambda t: t, "s", "seconds, as given"),
        (lambda t: round(t * 1e3), "ms", "milliseconds, as given"),
    ],
)
def test_a_map_of_ones_own(tmp_path: Path, number: Callable[[float], Any], unit: Any, told: str) -> None:
    """A file of no known format is read by a map, and the trace tells how."""
    path = put(tmp_path, table("when,who,read,written,chat", lambda t, i, o: [number(t), "me", i, o, f"c{i % 3}"]))
    columns = {"time": "when", "input_tokens": "read", "output_tokens": "written", "session": "chat"}
    trace = read_trace(path, columns=columns, time_unit=unit)
    assert trace.duration_s == pytest.approx(CALLS[-1][0] - CALLS[0][0], abs=1e-3)
    assert trace.header.notes[0] == f"times: {told}"
    assert trace.describe()["sessions"] == 3
    assert f"{sum(i for _, i, _ in CALLS):,} input tokens" in repr(trace)
    assert trace.header.mode == Mode.IMPORTED


def test_a_unit_is_asked_for(tmp_path: Path) -> None:
    """Numbers that may be seconds or milliseconds are a question, with what each answer would mean."""
    path = put(tmp_path, table("t,inp", lambda t, i, o: [round(t * 1e3), i]))
    with pytest.raises(TraceError, match=r"what the numbers of 't' count cannot be told.*time_unit='ms' makes 21.98 s"):
        read_trace(path, columns={"time": "t", "input_tokens": "inp"})
    named = put(tmp_path, table("t_ms,inp", lambda t, i, o: [round(t * 1e3), i]))
    trace = read_trace(named, columns={"time": "t_ms", "input_tokens": "inp"})
    assert trace.header.notes[0] == "times: milliseconds, as the column is named"
    bare = put(tmp_path, lines(lambda t, i, o: {"timestamp": t, "input_length": i, "output_length": o}))
    with pytest.raises(TraceError, match="Give time_unit"):
        read_trace(bare)
    odd = put(
        tmp_path,
        lines(lambda t, i, o: {"timestamp": int(unix(t)), "input_length": i, "output_length": o, "hash_ids": []}),
    )
    with pytest.raises(TraceError, match=r"documented in milliseconds, but 17.* looks like Unix seconds; say which"):
        read_trace(odd)
    assert read_trace(odd, time_unit="s").duration_s == pytest.approx(22, abs=1)
    dates = put(tmp_path, FILES["azure, semicolons"][1])
    with pytest.raises(TraceError, match=r"holds dates such as '2026-03-04.*leave out time_unit='ms'"):
        read_trace(dates, time_unit="ms")


def test_an_unknown_file_is_answered_with_its_map(tmp_path: Path) -> None:
    """The answer holds a call that reads the file, and the option that does the same on the command line."""
    path = put(tmp_path, table("id,created_at,prompt_tok,completion_tok", lambda t, i, o: [7, iso(t), i, o], ";"))
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    call = str(caught.value).partition(f"sim.read_trace({str(path)!r}, columns=")[2].partition("})")[0] + "}"
    columns = json.loads(call.replace("'", '"'))
    assert columns == {"time": "created_at", "input_tokens": "prompt_tok", "output_tokens": "completion_tok"}
    assert len(read_trace(path, columns=columns)) == len(CALLS)
    assert "--columns 'time=created_at,input_tokens=prompt_tok,output_tokens=completion_tok'" in str(caught.value)
    relative = put(tmp_path, table("t,n_in,n_out", lambda t, i, o: [t, i, o]))
    with pytest.raises(TraceError, match=r"with a time_unit \('s', 'ms', 'us', 'ns'\) for the numbers of 't'"):
        read_trace(relative)
    nested = put(tmp_path, lines(lambda t, i, o: {"at": iso(t), "usage": {"in_tokens": i, "out_tokens": o}}))
    with pytest.raises(TraceError, match=r"'input_tokens': 'usage.in_tokens', 'output_tokens': 'usage.out_tokens'"):
        read_trace(nested)
    columns = {"time": "at", "input_tokens": "usage.in_tokens"}
    assert read_trace(nested, columns=columns).input_tokens.sum() == sum(i for _, i, _ in CALLS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"a": 1}, {"a": 2}]', "not a trace of a known format .* found keys 'a'"),
        ('{"name": "x", "version": 2}', "not a trace of a known format"),
        ("[1, 2, 3]", "JSON without a single object"),
        ('{"data": [{"num_model_requests": 5, "input_tokens": 9}]}', "sums over many requests"),
        ("metric_name,value\nhttp_req,3\n", "no columns= that probably fit"),
    ],
)
def test_what_is_no_trace(tmp_path: Path, content: str, message: str) -> None:
    """JSON that is no trace is not taken for spans, and sums of many requests not for requests."""
    with pytest.raises(TraceError, match=message):
        read_trace(put(tmp_path, content))


def test_maps_are_checked(tmp_path: Path) -> None:
    """A misspelt field or column gets the nearest one; a map without a time is none."""
    path = put(tmp_path, table("created_at,inp", lambda t, i, o: [iso(t), i]))
    for columns, message in (
        ({"tiem": "created_at"}, "'tiem' is nothing that a trace has; did you mean 'time'"),
        ({"time": "creatd_at"}, "which is no column; did you mean 'created_at'"),
        ({"input_tokens": "inp"}, "which one is the time"),
    ):
        with pytest.raises(TraceError, match=message):
            read_trace(path, columns=columns)
    with pytest.raises(TraceError, match="time_unit 'minutes' is unknown; give one of 's', 'ms', 'us', 'ns'"):
        read_trace(path, columns={"time": "created_at"}, time_unit="minutes")  # type: ignore[arg-type]


def test_empty_cells_are_unknown(tmp_path: Path) -> None:
    """An empty cell, or a database's word for nothing, is unknown; a row of a log without a time is left out."""
    rows = [["2026-03-04 05:06:07", "5", ""], ["2026-03-04 05:06:08", "NULL", "7"], ["", "6", "8"]]
    text = "startTime,prompt_tokens,completion_tokens,spend\n" + "".join(",".join(row) + ",0\n" for row in rows)
    trace = read_trace(put(tmp_path, text))
    assert trace.input_tokens.tolist() == [5, -1]
    assert trace.output_tokens.tolist() == [-1, 7]
    assert trace.header.drops == {"no time": 1}
    assert "7 output tokens (1 unknown)" in trace.told


def test_logs_are_sorted(tmp_path: Path) -> None:
    """Exports begin with the newest call; a trace begins with the oldest, and says that it was sorted."""
    content = FILES["azure, semicolons"][1].splitlines(keepends=True)
    trace = read_trace(put(tmp_path, content[0] + "".join(content[:0:-1])))
    assert trace.input_tokens.tolist() == read_trace(put(tmp_path, "".join(content))).input_tokens.tolist()
    assert trace.header.notes[1] == "sorted by time: 59 rows stood before an earlier one"


def test_quoted_fields_keep_their_line(tmp_path: Path) -> None:
    """A field that holds lines counts them: a fault further down is still found on its line."""
    head = "startTime,prompt_tokens,completion_tokens,request_id\n"
    text = head + '2026-01-01,1,2,"a\nb, ""c"""\n\n2026-01-02,x,2,d\n'
    with pytest.raises(TraceError, match=r"log.txt:5: prompt_tokens is 'x'"):
        read_trace(put(tmp_path, text))


def test_vllm_bench_without_times(tmp_path: Path) -> None:
    """Without send times, arrivals are drawn as the benchmark drew them: seeded, marked simulated, and said."""
    result = {"input_lens": [5] * 4000, "output_lens": [7] * 4000, "request_rate": 8.0, "burstiness": 4.0}
    path = put(tmp_path, json.dumps(result))
    trace, other = read_trace(path, seed=1), read_trace(path, seed=2)
    assert (trace.header.mode, trace.header.seed) == (Mode.SIMULATED, 1)
    assert len(trace) / trace.duration_s == pytest.approx(8.0, rel=0.03)
    assert trace.describe()["interarrival_cv"] == pytest.approx(0.5, abs=0.03)
    assert trace.duration_s != other.duration_s
    assert "request_rate 8/s" in trace.header.notes[0]


def test_aiperf_turns_follow_their_delay(tmp_path: Path) -> None:
    """A turn without a timestamp follows the one before; its pause is the delay, in milliseconds."""
    rows = [
        {"session_id": "a", "timestamp": 500, "input_length": 10, "output_length": 2},
        {"session_id": "b", "timestamp": 600, "input_length": 11, "output_length": 2},
        {"session_id": "a", "delay": 2000, "input_length": 12, "output_length": 2},
    ]
    trace = read_trace(put(tmp_path, "".join(json.dumps(row) + "\n" for row in rows)))
    assert trace.arrival_s == pytest.approx([0.0, 0.1, 2.0])
    assert trace.think_time_s[2] == 2.0
    assert trace.round_index.tolist() == [0, 0, 1]


def test_bailian_chats_are_sessions(tmp_path: Path) -> None:
    """Chats that name a parent continue its session."""
    chats = [(1, -1), (2, -1), (3, 1), (4, 3)]
    text = "".join(
        json.dumps({"chat_id": c, "parent_chat_id": p, "timestamp": c, "input_length": 1, "output_length": 1}) + "\n"
        for c, p in chats
    )
    assert read_trace(put(tmp_path, text)).session.tolist() == [0, 1, 0, 0]


def test_frames(tmp_path: Path) -> None:
    """A pandas frame is read by the same map; a trace's own frame by its own names."""
    frame = pd.DataFrame(
        {
            "when": pd.to_datetime([iso(t) for t, _, _ in CALLS]),
            "inp": [float(i) for _, i, _ in CALLS[:-1]] + [np.nan],
        }
    )
    trace = Trace.from_frame(frame, columns={"time": "when", "input_tokens": "inp"}, name="mine")
    assert trace.input_tokens[-1] == -1
    assert trace.duration_s == pytest.approx(CALLS[-1][0] - CALLS[0][0], abs=1e-3)
    assert Trace.from_frame(trace.frame()).frame().equals(trace.frame())
    with pytest.raises(TraceError, match=r"has no arrival_s.*probably columns={'time': 'when'"):
        Trace.from_frame(frame)
    with pytest.raises(TraceError, match=r"the frame, row 1: inp is 1.5; it must be a whole number"):
        Trace.from_frame(pd.DataFrame({"t_s": [0, 1], "inp": [1, 1.5]}), columns={"time": "t_s", "input_tokens": "inp"})


@pytest.mark.slow
def test_long_lists_are_not_held_whole(tmp_path: Path) -> None:
    """A JSON list takes no more memory than its columns and a piece of its text."""
    row = json.dumps({"request_id": "r" * 60, "startTime": iso(0), "prompt_tokens": 5, "completion_tokens": 6})
    path = put(tmp_path, "[" + ",\n".join([row] * 100_000) + "]")
    tracemalloc.start()
    trace = read_trace(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(trace) == 100_000
    assert peak < 100 * 2**20
