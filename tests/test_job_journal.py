"""A job's journal: after a kill the same call goes on, nothing is lost or asked twice; trouble is told in words."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from factflow_llm import (
    CompletionResponse,
    EmbeddingResponse,
    ErrorReason,
    FinishReason,
    JobResult,
    JournalError,
    LLMClientFactory,
    LLMConfig,
    Message,
    ProviderState,
    TokenLogprob,
    ToolCall,
    Usage,
    get_error_metadata,
)
from factflow_llm.jobs.identity import digest_of_call, digest_of_item
from factflow_llm.jobs.kept import keep, keep_error, restore, restore_error
from tests.support.loopback import Asked, Loopback, Reply
from tests.test_jobs import echo, make, refusal, run, said

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


class Part(BaseModel):
    """What an answer is read as."""

    teeth: int


FACTORY = LLMClientFactory(LLMConfig.from_dict({"providers": {"chat": {"provider": "openai", "model": "m"}}}))


def go(items: Sequence[Any], call: Callable[[Any], Any], path: Path, **settings: Any) -> list[JobResult[Any, Any]]:
    """Run a job whose calls go nowhere; return its results in order."""

    async def main() -> list[JobResult[Any, Any]]:
        return [result async for result in FACTORY.map(items, call, journal=path, ordered=True, **settings)]

    return asyncio.run(main())


async def twice(item: Any) -> Any:
    """Answer an item."""
    return item * 2


async def thrice(item: Any) -> Any:
    """Answer an item otherwise."""
    return item * 3


async def must_not(item: Any) -> Any:
    """Fail if anything is asked at all."""
    raise AssertionError(item)


def test_the_same_call_goes_on(tmp_path: Path) -> None:
    """What is in the journal is handed on as it was, without a call; the rest is asked for."""
    path = tmp_path / "run.jsonl"
    with Loopback(echo) as server:
        _, first = run(server, range(10), max_tokens_total=20, journal=path)
        asked = len(server.asked)
        job, second = run(server, range(10), journal=path)
        assert 0 < asked < 10
        assert len(server.asked) == 10
        again, third = run(server, range(10), journal=path)
        assert len(server.asked) == 10
    assert (job.ended, job.resumed, again.resumed) == ("all done", len(first), 10)
    texts = {result.place: result.value.text for result in third if result.value}
    assert texts == {place: str(place) for place in range(10)} == {r.place: r.value.text for r in second if r.value}
    assert again.spent.tokens == job.spent.tokens == 120


def test_failed_items_are_asked_for_again_another_day(tmp_path: Path) -> None:
    """The provider's failures are tried again when the job goes on; what was at fault itself is not."""
    path = tmp_path / "run.jsonl"

    def reply(asked: Asked) -> Reply:
        return {"1": refusal(500), "2": refusal(400, "content_filter")}.get(said(asked)) or echo(asked)

    with Loopback(reply) as server:
        _, first = run(server, range(4), retries=0, journal=path)
        server.script = [echo]
        _, second = run(server, range(4), retries=0, journal=path, ordered=True)
        assert [said(asked) for asked in server.asked[4:]] == ["1"]
    assert {result.place for result in first if not result.succeeded} == {1, 2}
    assert [result.succeeded for result in second] == [True, True, False, True]
    assert second[2].error is not None
    assert (second[2].error.reason, second[2].resumed) == (ErrorReason.CONTENT_FILTER, True)


def test_a_journal_refuses_another_job(tmp_path: Path) -> None:
    """Another call, other items or another order: the words say what differs and how to go on."""
    path = tmp_path / "run.jsonl"
    go([1, 2, 3], twice, path)
    with pytest.raises(JournalError, match=r"whose call was another .* pass job='[0-9a-f]{24}'"):
        go([1, 2, 3], thrice, path)
    with pytest.raises(JournalError, match=r"items\[0\] is not the item that the journal knows"):
        go([2, 1, 3], twice, path)
    name = json.loads(path.read_text(encoding="utf-8").splitlines()[0])["job"]
    assert [result.value for result in go([1, 2, 3, 4], thrice, path, job=name)] == [2, 4, 6, 12]
    named = tmp_path / "named.jsonl"
    go([1], twice, named, job="doubles")
    assert [result.value for result in go([1], must_not, named, job="doubles")] == [2]
    with pytest.raises(JournalError, match=r"the journal of the job 'doubles', and this is 'triples'"):
        go([1], twice, named, job="triples")


def test_a_journal_is_one_processs(tmp_path: Path) -> None:
    """Two processes at one job would ask everything twice."""
    path = tmp_path / "run.jsonl"

    async def main() -> None:
        async with FACTORY.map([1, 2], twice, journal=path) as job:
            await anext(job)
            with pytest.raises(JournalError, match="another process goes on with this job"):
                await anext(FACTORY.map([1, 2], twice, journal=path))

    asyncio.run(main())


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_half_last_line_is_cut_off(tmp_path: Path, cut: int, caplog: pytest.LogCaptureFixture) -> None:
    """What a kill leaves at the end costs that item only, and a warning says so."""
    path = tmp_path / "run.jsonl"
    go(range(5), twice, path)
    path.write_bytes(path.read_bytes()[:-cut])
    results = go(range(5), twice, path)
    assert [result.value for result in results] == [0, 2, 4, 6, 8]
    assert [result.resumed for result in results] == [True] * 4 + [False]
    assert "one cut off at the end" in caplog.text
    assert all(result.resumed for result in go(range(5), must_not, path, job=digest_of_call(twice)))


def test_damaged_lines_cost_their_items_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A disk that lost a block does not lose the journal."""
    path = tmp_path / "run.jsonl"
    go(range(5), twice, path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = b"\0" * 20 + b"\n"
    lines[4] = b'{"done": "x", "item": 3}\n'
    path.write_bytes(b"".join(lines))
    results = go(range(5), twice, path)
    assert [result.resumed for result in results] == [True, False, True, False, True]
    assert "2 damaged lines" in caplog.text


def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    """Somebody's own file is refused, not overwritten; a folder that is not there is named."""
    path = tmp_path / "notes.txt"
    path.write_text("my notes\nthat I need", encoding="utf-8")
    with pytest.raises(JournalError, match="this is no journal of a job, and is left as it is"):
        go([1], twice, path)
    assert path.read_text(encoding="utf-8") == "my notes\nthat I need"
    with pytest.raises(
        JournalError, match=r"cannot be written \(No such file or directory\); choose a file in a folder"
    ):
        go([1], twice, tmp_path / "nowhere" / "run.jsonl")


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was answered is handed on, then the words come; with room again, the same call goes on."""
    path = tmp_path / "run.jsonl"
    left = 700
    write = os.write

    def scarce(file: int, data: Any) -> int:
        nonlocal left
        if left <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = write(file, bytes(data)[:left])
        left -= written
        return written

    seen: list[Any] = []

    async def main() -> None:
        async for result in FACTORY.map(range(50), twice, journal=path, window=4):
            seen.append(result.value)  # noqa: PERF401 - the error must not take them along

    with monkeypatch.context() as patch:
        patch.setattr("factflow_llm.jobs.journal.os.write", scarce)
        with pytest.raises(JournalError, match=r"cannot be written \(No space left on device\).* make room"):
            asyncio.run(main())
    assert len(seen) > len(path.read_bytes().splitlines()) - 1 > 3
    assert path.read_bytes().endswith(b"\n")
    results = go(range(50), twice, path)
    assert [result.value for result in results] == [2 * place for place in range(50)]
    assert 3 < sum(result.resumed for result in results) < 50


def test_prompts_are_kept_only_if_asked(tmp_path: Path) -> None:
    """By default the journal holds digests and answers; ``keep="prompts"`` adds the items."""
    items = [{"text": "SECRET WORDS"}]

    async def call(item: Any) -> int:
        return len(item)

    go(items, call, tmp_path / "a.jsonl")
    go(items, call, tmp_path / "b.jsonl", keep="prompts")
    assert "SECRET" not in (tmp_path / "a.jsonl").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "b.jsonl").read_text(encoding="utf-8").splitlines()[1])["prompt"] == items[0]


def test_what_a_journal_cannot_hold_is_said(tmp_path: Path) -> None:
    """A value that is no JSON, and an item that nothing tells from another, are refused in words."""

    async def opaque(_: Any) -> object:
        return object()

    with pytest.raises(JournalError, match="the call returned a object, which a journal cannot hold"):
        go([1], opaque, tmp_path / "a.jsonl")
    with pytest.raises(JournalError, match=r"items\[0\] holds a object, which a journal cannot tell"):
        go([object()], twice, tmp_path / "b.jsonl")


ANSWERS = [
    None,
    {"a": [1, 2.5, "x", True, None]},
    CompletionResponse("hi \ud800", "m", Usage(1, None, 0), FinishReason.STOP, response_id="r", origin="openai h"),
    CompletionResponse(
        "",
        "m",
        Usage(),
        None,
        "weird",
        tool_calls=(ToolCall("c", "f", "{}", ProviderState("o", "[1]")),),
        reasoning="hm",
        provider_state=ProviderState("o", "{}"),
        logprobs=(TokenLogprob("a", -0.5, (TokenLogprob("b", -1.0),)),),
    ),
    EmbeddingResponse(((0.5, 0.25), (0.1, 1e300)), "m", Usage(input_tokens=3)),
]


@pytest.mark.parametrize("value", ANSWERS)
def test_answers_come_back_as_they_were(value: Any) -> None:
    """What is kept is JSON, and the same value comes out of it."""
    assert restore(json.loads(json.dumps(keep(value)))) == value


def test_several_answers_and_parsed_ones_come_back() -> None:
    """``responses`` and ``parsed`` are restored; a model that is not imported leaves the text and says so."""
    one = CompletionResponse('{"teeth": 7}', "m", Usage(), FinishReason.STOP, parsed=Part(teeth=7))
    kept = json.loads(json.dumps(keep(one)))
    assert restore(kept) == one
    kept["completion"]["form"] = ["nowhere", "Part"]
    assert restore(kept).parsed is None
    assert "nowhere.Part is not known here" in restore(kept).parse_error
    several = dataclasses.replace(ANSWERS[2], responses=(ANSWERS[2], ANSWERS[3]))
    assert restore(keep(several)).responses == (ANSWERS[2], ANSWERS[3])


def test_errors_come_back_and_unknown_words_are_unknown() -> None:
    """An error of a later release is read all the same."""
    error = get_error_metadata(TimeoutError())
    kept = json.loads(json.dumps(keep_error(error)))
    assert restore_error(kept) == error
    assert restore_error({**kept, "reason": "of_tomorrow"}).reason is ErrorReason.UNKNOWN


PROMPT = "Summarise"


async def with_prompt(item: str) -> str:
    """Ask with a prompt that is a constant of the module, by a helper."""
    return helped(item, PROMPT)


def helped(item: str, prompt: str) -> str:
    """Help."""
    return f"{prompt}: {item}"


def test_a_changed_call_is_another_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code, the constants and helpers of its module, and what it closes over all count; the client's model too."""

    def closing(over: Any) -> Any:
        async def call(item: str) -> Any:
            return over, item

        return call

    assert digest_of_call(closing("a")) == digest_of_call(closing("a")) != digest_of_call(closing("b"))
    before = digest_of_call(with_prompt)
    assert before == digest_of_call(with_prompt)
    monkeypatch.setitem(globals(), "PROMPT", "Translate")
    changed = digest_of_call(with_prompt)
    assert changed != before
    monkeypatch.setitem(globals(), "helped", lambda item, prompt: f"{prompt}! {item}")
    assert digest_of_call(with_prompt) not in (before, changed)
    with Loopback(echo) as server:
        first = make(server).create_completion_client("chat")
        assert digest_of_call(closing(first)) == digest_of_call(closing(make(server).create_completion_client("chat")))


def test_items_are_told_by_their_value() -> None:
    """Messages, paths and models are told apart by what they say, in any process."""
    assert digest_of_item([Message.user("a")], 0) != digest_of_item([Message.user("b")], 0)
    assert digest_of_item(Part(teeth=1), 0) != digest_of_item(Part(teeth=2), 0)
    assert digest_of_item({"a": 1, "b": b"2"}, 0) == digest_of_item({"b": b"2", "a": 1}, 5)
    assert len(digest_of_item("über \ud800", 0)) == 24


RUNNER = """
import asyncio, os, sys
from factflow_llm import LLMClientFactory, LLMConfig, Message, RateLimitConfig
import factflow_llm.jobs.job, openai
url, path, items = sys.argv[1], sys.argv[2], int(sys.argv[3])

async def main(api_key):
    profile = {
        "provider": "openai", "model": "m", "api_key": api_key, "base_url": url + "/v1", "rate_limit": False,
    }
    async with LLMClientFactory(LLMConfig.from_dict({"providers": {"chat": profile}})) as factory:
        client = factory.create_completion_client()
        async def call(item):
            return (await client.complete([Message.user(f"item {item}")])).text
        async with factory.map(range(items), call, journal=path, window=8) as job:
            print(*[f"{r.place}:{r.value}:{int(r.repeated)}" async for r in job], sep="|", flush=True)

for line in sys.stdin:
    child = os.fork()
    if not child:
        print(os.getpid(), flush=True)
        sys.stdin.readline()
        asyncio.run(main(f"sk-{line.strip()}"))
        os._exit(0)
    print("ended", os.waitpid(child, 0)[1], flush=True)
"""


def kill_at_random_points(path: Path, kills: int, items: int, seed: int) -> list[int]:
    """Kill a job again and again, at random points, and let it end; return the places that the last run gave.

    What holds at each kill is checked on the way: nothing answered is asked for again. Each run has a key of its own,
    for the server may read what a killed process sent only when the next one has begun.
    """
    chance = random.Random(seed)
    runs: list[Counter[str]] = [Counter() for _ in range(kills + 1)]
    victim = [0, 0, 0.0]  # who, after how many requests, and how much later

    def kill() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(victim[0]), signal.SIGKILL)

    def reply(asked: Asked) -> Reply:
        run_ = runs[int(asked.headers["authorization"].rpartition("-")[2])]
        run_[said(asked)] += 1
        if sum(run_.values()) == victim[1]:
            threading.Timer(victim[2], kill).start()
        return echo(asked)

    done: list[set[int]] = []
    with Loopback(reply) as server:
        command = [sys.executable, "-c", RUNNER, server.url, str(path), str(items)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for number in range(kills + 1):
                process.stdin.write(f"{number}\n")
                process.stdin.flush()
                pid = int(process.stdout.readline())
                left = items - (len(done[-1]) if done else 0)
                later_s = chance.uniform(0.0, 0.004)
                victim[:] = [pid, chance.randint(1, max(1, left // 3)) if number < kills else -1, later_s]
                process.stdin.write("now\n")
                process.stdin.flush()
                said_last = process.stdout.readline()
                if not said_last.startswith("ended"):
                    results, said_last = said_last, process.stdout.readline()
                done.append(done_in(path))
            process.stdin.close()
    results = [entry.split(":") for entry in results.strip().split("|")]
    assert said_last == "ended 0\n"
    assert all(text == f"item {place}" for place, text, _ in results)
    for before, run_ in zip(done, runs[1:], strict=False):
        assert not before & {int(text.split()[1]) for text in run_}, "an answered item was asked for again"
    asked = sum(runs, Counter())
    assert sum(asked.values()) - items <= 8 * kills
    last = {f"item {place}" for place, _, repeated in results if repeated == "1"}
    assert all(count == 1 for count in runs[-1].values())
    assert last <= set(runs[-1])
    assert {text for text in runs[-1] if asked[text] > 1} <= last, "a repeated item did not say so"
    return sorted(int(place) for place, *_ in results)


def done_in(path: Path) -> set[int]:
    """Return the places that a journal knows the answers of."""
    whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
    return {line["done"] for line in map(json.loads, whole.splitlines()) if "done" in line}


def test_a_kill_loses_nothing(tmp_path: Path) -> None:
    """A few kills at random points of a real process against a real server."""
    assert kill_at_random_points(tmp_path / "run.jsonl", kills=4, items=60, seed=7) == list(range(60))


@pytest.mark.report
@pytest.mark.parametrize("seed", range(20))
def test_a_hundred_kills_lose_nothing(tmp_path: Path, seed: int) -> None:
    """Five kills each, at other points."""
    given = kill_at_random_points(tmp_path / "run.jsonl", kills=5, items=200, seed=100 + seed)
    assert given == list(range(200))
