"""Logs as people have them, written to files in every format that is read, with variations: what a reader must find.

Times, sizes and order are drawn once; each file tells them in its own words. Nothing of the readers runs here.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

_ROWS = 120


@dataclass(frozen=True)
class Asked:
    """One call: its place, when it began, what it read and wrote."""

    number: int
    at: datetime
    read: int
    wrote: int

    @property
    def iso(self) -> str:
        """Its time as most write it."""
        return self.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    @property
    def unix_ms(self) -> int:
        """Its time in whole milliseconds since 1970."""
        return round(self.at.timestamp() * 1000)

    def since_ms(self, first: Asked) -> int:
        """Its time in milliseconds since another."""
        return self.unix_ms - first.unix_ms


@dataclass(frozen=True)
class Log:
    """A file, and the independent count of what it holds: by who wrote it.

    Attributes:
        name: of the file.
        content: of it.
        rows: calls in it.
        read: input tokens, as far as they are told.
        wrote: output tokens, likewise.
        span_s: from the first call to the last.
        columns: the map that it needs, where it is of no known format.
        time_unit: what its numbers of time count, where it does not tell.
    """

    name: str
    content: bytes
    rows: int
    read: int
    wrote: int
    span_s: float
    columns: dict[str, str] | None = None
    time_unit: str | None = None

    def write(self, folder: Path) -> Path:
        """Write the file."""
        path = folder / self.name
        path.write_bytes(self.content)
        return path


def drawn(seed: int = 11) -> list[Asked]:
    """Return a hundred calls and some more, in whole milliseconds."""
    luck = random.Random(seed)
    at, calls = datetime(2026, 9, 3, 8, 30, tzinfo=UTC), []
    for number in range(_ROWS):
        at += timedelta(milliseconds=round(luck.expovariate(0.7) * 1000) + 1)
        calls.append(Asked(number, at, luck.randint(10, 3000), luck.randint(1, 500)))
    return calls


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], separator: str = ",", *, quoted: bool = False) -> bytes:
    """Return a CSV file."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue().encode()


def lines(rows: Iterable[Any]) -> bytes:
    """Return JSON Lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def document(value: Any, indent: int | None = None) -> bytes:
    """Return one JSON document."""
    return json.dumps(value, indent=indent).encode()


def logs() -> list[Log]:
    """Return all files."""
    calls = drawn()
    everything = {**_tables(calls), **_exports(calls), **_spans(calls), **_published(calls)}
    made = [_counted(name, content, calls) for name, content in everything.items()]
    every_third = [each for each in calls if each.number % 3]
    chains = [
        {"id": each.number, "run_type": "llm" if each.number % 3 else "chain", "start_time": each.iso,
         "prompt_tokens": each.read, "completion_tokens": each.wrote, "total_tokens": each.read + each.wrote}
        for each in calls
    ]  # fmt: skip
    made.append(_counted("langsmith_chains.json", document({"runs": chains}), every_third))
    empty = table(
        ["TIMESTAMP", "ContextTokens", "GeneratedTokens"],
        [[each.iso, each.read, each.wrote if each.number % 3 else ""] for each in calls],
    )
    told = sum(each.wrote for each in every_third)
    made.append(Log("azure_empty_cells.csv", empty, len(calls), _read(calls), told, _span_s(calls)))
    failed = [
        {"custom_id": str(each.number), "error": None if each.number % 3 else {"code": "x"},
         "response": {"body": {"created": each.unix_ms // 1000, "usage": _usage(each)}} if each.number % 3 else None}
        for each in calls
    ]  # fmt: skip
    whole_s = float(every_third[-1].unix_ms // 1000 - every_third[0].unix_ms // 1000)
    made.append(
        Log("openai_batch.jsonl", lines(failed), len(every_third), _read(every_third), _wrote(every_third), whole_s)
    )
    return [*made, *_of_ones_own(calls)]


def _read(calls: Iterable[Asked]) -> int:
    return sum(each.read for each in calls)


def _wrote(calls: Iterable[Asked]) -> int:
    return sum(each.wrote for each in calls)


def _span_s(calls: Sequence[Asked]) -> float:
    return calls[-1].since_ms(calls[0]) / 1000


def _counted(name: str, content: bytes, calls: Sequence[Asked], **more: Any) -> Log:
    return Log(name, content, len(calls), _read(calls), _wrote(calls), _span_s(calls), **more)


def _usage(call: Asked) -> dict[str, int]:
    return {"prompt_tokens": call.read, "completion_tokens": call.wrote, "total_tokens": call.read + call.wrote}


def _tables(calls: list[Asked]) -> dict[str, bytes]:
    """CSV: public traces and exports, columns in other orders, other separators, clocks and quotation."""
    azure = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]
    shuffled = random.Random(3).sample(calls, len(calls))
    burst = [
        [each.since_ms(calls[0]) / 1000, "GPT-4", each.read, each.wrote, each.read + each.wrote, "API log"]
        for each in calls
    ]
    return {
        "azure_turned.tsv": table(
            ["GeneratedTokens", "TIMESTAMP", "ContextTokens"], [[c.wrote, c.iso, c.read] for c in calls], "\t"
        ),
        "azure_semicolons_bom.csv": b"\xef\xbb\xbf" + table(azure, [[c.iso, c.read, c.wrote] for c in calls], ";"),
        "azure_unix_ms.csv": table(azure, [[c.unix_ms, c.read, c.wrote] for c in calls], quoted=True),
        "azure_unsorted.csv.gz": gzip.compress(table(azure, [[c.iso, float(c.read), c.wrote] for c in shuffled])),
        "burstgpt.csv": table(
            ["Timestamp", "Model", "Request tokens", "Response tokens", "Total tokens", "Log Type"], burst
        ),
        "litellm.csv": table(
            ["model", "completion_tokens", "prompt_tokens", "startTime", "spend", "metadata"],
            [["m", c.wrote, c.read, c.iso, 0.01, '{"a": [1, 2]}'] for c in calls],
        ),
        "litellm_database.csv": table(
            ["request_id", "call_type", "startTime", "endTime", "prompt_tokens", "completion_tokens"],
            [[c.number, "acompletion", f"{c.at:%Y-%m-%d %H:%M:%S.%f}", "", c.read, c.wrote] for c in calls],
            quoted=True,
        ),
        "langfuse_cells.csv": table(
            ["startTime", "type", "usageDetails", "endTime"],
            [[c.iso, "GENERATION", json.dumps({"input": c.read, "output": c.wrote}), ""] for c in calls],
        ),
        "langsmith_page.csv": table(
            ["Name", "Run Type", "Start Time", "End Time", "Prompt Tokens", "Completion Tokens"],
            [["n", "llm", f"{c.at:%Y-%m-%d %H:%M:%S.%f}", "", c.read, c.wrote] for c in calls],
            "\t",
        ),
        "helicone.csv": table(
            ["response_id", "request_created_at", "prompt_tokens", "completion_tokens"],
            [[c.number, c.iso, c.read, c.wrote] for c in calls],
        ),
        "openinference.csv": table(
            ["span_kind", "start_time", "attributes.llm.token_count.prompt", "attributes.llm.token_count.completion"],
            [["LLM", c.at.isoformat(), float(c.read), float(c.wrote)] for c in calls],
        ),
    }


def _exports(calls: list[Asked]) -> dict[str, bytes]:
    """JSON of tracing products: one row per line, a list, or a list within a document."""
    spend = [{"request_id": str(c.number), "startTime": c.iso, "endTime": None, **_usage(c)} for c in calls]
    observed = [
        {"type": "GENERATION", "start_time": f"{c.at:%Y-%m-%d %H:%M:%S.%f}",
         "usage_details": {"input": c.read - 5, "input_cached_tokens": 5, "output": c.wrote}}
        for c in calls
    ]  # fmt: skip
    runs = [
        {"run_type": "llm", "start_time": c.at.isoformat(), "outputs": {"llm_output": {"token_usage": _usage(c)}}}
        for c in calls
    ]
    helicone = [
        {"request_created_at": c.iso, **_usage(c), "request_properties": {"Helicone-Session-Id": f"s{c.number % 3}"}}
        for c in calls
    ]
    lengths = {"input_lens": [c.read for c in calls], "output_lens": [c.wrote for c in calls]}
    return {
        "litellm.json": document({"total": len(spend), "data": spend}, indent=1),
        "litellm.jsonl": lines(spend),
        "langfuse.json": document({"data": observed, "meta": {"page": 1}}),
        "langfuse.jsonl": lines(observed),
        "langsmith.jsonl": lines(runs),
        "helicone.json": document({"data": helicone, "error": None}),
        "vllm_bench.json": document(
            {**lengths, "request_rate": "inf", "start_times": [50 + c.since_ms(calls[0]) / 1000 for c in calls]}
        ),
    }


def _spans(calls: list[Asked]) -> dict[str, bytes]:
    """Spans: OTLP, Jaeger and Tempo, with the attributes of several years."""

    def otlp(names: tuple[str, str], value: Callable[[int], dict[str, Any]], **more: str) -> list[dict[str, Any]]:
        return [
            {"startTimeUnixNano": str(c.unix_ms * 10**6), "endTimeUnixNano": str(c.unix_ms * 10**6 + 1),
             "attributes": [
                 *({"key": key, "value": {"stringValue": word}} for key, word in more.items()),
                 *({"key": key, "value": value(n)} for key, n in zip(names, (c.read, c.wrote), strict=True)),
             ]}
            for c in calls
        ]  # fmt: skip

    def jaeger(value: Callable[[int], Any], kind: str) -> list[dict[str, Any]]:
        names = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens")
        return [
            {"operationName": "chat", "startTime": c.unix_ms * 1000, "duration": 10,
             "tags": [{"key": key, "type": kind, "value": value(n)}
                      for key, n in zip(names, (c.read, c.wrote), strict=True)]}
            for c in calls
        ]  # fmt: skip

    def whole(number: int) -> dict[str, Any]:
        return {"intValue": str(number)}

    usage = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens")
    told = ("llm.token_count.prompt", "llm.token_count.completion")
    old = ("gen_ai.usage.prompt_tokens", "gen_ai.usage.completion_tokens")
    operation, kind = {"gen_ai.operation.name": "chat"}, {"openinference.span.kind": "LLM"}
    new = {"scopeSpans": [{"spans": otlp(usage, lambda number: {"intValue": number}, **operation)}]}
    before = {"instrumentationLibrarySpans": [{"spans": otlp(old, whole, **{"llm.request.type": "chat"})}]}
    phoenix = {"scopeSpans": [{"spans": otlp(told, lambda number: {"doubleValue": float(number)}, **kind)}]}
    return {
        "otlp.json": document({"resourceSpans": [new]}),
        "otlp_openllmetry.jsonl": lines([{"resourceSpans": [before]}]),
        "otlp_openinference.json": document({"resourceSpans": [phoenix]}, indent=2),
        "jaeger.json": document({"data": [{"traceID": "a", "spans": jaeger(int, "int64")}]}),
        "jaeger_words.json": document(jaeger(str, "string")),
        "jaeger_v3.json": document({"result": {"resourceSpans": [new]}}),
        "jaeger_elastic.jsonl": lines({"_source": each} for each in jaeger(str, "int64")),
        "tempo.json": document({"batches": [new]}),
    }


def _published(calls: list[Asked]) -> dict[str, bytes]:
    """Traces for replay, each with the clock that its papers document."""
    sizes = [{"output_length": c.wrote, "input_length": c.read} for c in calls]
    whens = [c.since_ms(calls[0]) for c in calls]
    chats = [{"turn": 1, "chat_id": c.number, "parent_chat_id": c.number - 1 if c.number % 3 else -1} for c in calls]
    return {
        "bailian.jsonl": lines(
            chat | size | {"timestamp": when / 1000} for chat, size, when in zip(chats, sizes, whens, strict=True)
        ),
        "mooncake.jsonl": lines(
            size | {"hash_ids": [1], "timestamp": when} for size, when in zip(sizes, whens, strict=True)
        ),
        "aiperf.jsonl": lines(
            size | {"session_id": f"s{c.number % 9}", "timestamp": when}
            for c, size, when in zip(calls, sizes, whens, strict=True)
        ),
    }


def _of_ones_own(calls: list[Asked]) -> list[Log]:
    """Tables of no known format: with the map that their names suggest, and a unit where the file tells none."""
    first = calls[0]
    return [
        _counted(
            "own_names.csv",
            table(["created_at", "prompt_tok", "gen"], [[c.iso, f"{c.read:,}", c.wrote] for c in calls]),
            calls,
            columns={"time": "created_at", "input_tokens": "prompt_tok", "output_tokens": "gen"},
        ),
        _counted(
            "own_offsets.csv",
            table(["n_in", "n_out", "offset"], [[c.read, c.wrote, c.since_ms(first)] for c in calls], "|"),
            calls,
            columns={"time": "offset", "input_tokens": "n_in", "output_tokens": "n_out"},
            time_unit="ms",
        ),
        _counted(
            "own_decimal_commas.csv",
            table(
                ["t", "input", "output"],
                [[f"{c.since_ms(first) / 1000}".replace(".", ","), c.read, c.wrote] for c in calls],
                ";",
            ),
            calls,
            columns={"time": "t", "input_tokens": "input", "output_tokens": "output"},
            time_unit="s",
        ),
        _counted(
            "own_nested.jsonl",
            lines({"meta": {"requested_at": c.unix_ms / 1000}, "response": {"usage": _usage(c)}} for c in calls),
            calls,
            columns={
                "time": "meta.requested_at",
                "input_tokens": "response.usage.prompt_tokens",
                "output_tokens": "response.usage.completion_tokens",
            },
        ),
    ]
