"""What our clients cost above the raw SDK, in CPU on the loopback: ``python -m reports.benchmarks.clients``.

The server is another process; what is counted is this process's CPU per call, and per chunk of a stream. All take short
turns, again and again, so that a busy machine hits all alike. Told are the best tenth of the turns, for other processes
can only add to a turn's CPU (they take its caches), and beside it the median; on a quiet machine the two agree.

litellm allows no openai 3, so it has its place in an environment of its own, where all the others run beside it:

    python -m venv V && V/bin/pip install litellm anthropic && V/bin/python -m reports.benchmarks.clients
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import math
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from importlib.metadata import version
from importlib.util import find_spec
from statistics import median
from typing import Any

from factflow_llm import (
    AdaptiveRateLimiter,
    AnthropicClient,
    LLMClientProtocol,
    Message,
    OpenAIClient,
    RateLimitedClient,
)
from reports.benchmarks.clients_server import CHUNKS, running

Ask = Callable[[bool], Awaitable[str]]
"""Ask once, streamed or not, and return the text."""

AIMS = {False: 1.1, True: 1.2}
CALLS_AND_TURNS = {(False, 1): (16, 60), (False, 64): (64, 30), (True, 1): (2, 60), (True, 64): (64, 8)}
"""Calls per turn and turns per contestant, by whether the calls are streamed and how many are in flight."""
CONNECT_TIMEOUT_S = 120.0  # 64 streams at once keep a slow machine's event loop from its new connections
MODELS = {"openai": "gpt-4o-mini", "anthropic": "claude-haiku-4-5"}
KEY = "sk-benchmark"
MAX_TOKENS = 1000
SYSTEM, QUESTION = "You extract facts.", "The tower was built in 1889 and is 330 m tall. " * 16
PLAIN = [{"role": "user", "content": QUESTION}]
MESSAGES = [Message.system(SYSTEM), Message.user(QUESTION)]


def raw_openai(url: str) -> Ask:
    """Ask through the openai SDK alone."""
    import openai

    timeout = openai.Timeout(600.0, connect=CONNECT_TIMEOUT_S)
    client = openai.AsyncOpenAI(api_key=KEY, base_url=f"{url}/v1", max_retries=0, timeout=timeout)
    asked: Any = {
        "model": MODELS["openai"],
        "messages": [{"role": "system", "content": SYSTEM}, *PLAIN],
        "max_tokens": MAX_TOKENS,
    }

    async def ask(streamed: bool) -> str:
        if not streamed:
            return (await client.chat.completions.create(**asked)).choices[0].message.content or ""
        chunks = await client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices])

    return ask


def raw_anthropic(url: str) -> Ask:
    """Ask through the anthropic SDK alone."""
    import anthropic

    timeout = anthropic.Timeout(600.0, connect=CONNECT_TIMEOUT_S)
    client = anthropic.AsyncAnthropic(api_key=KEY, base_url=url, max_retries=0, timeout=timeout)
    asked: Any = {"model": MODELS["anthropic"], "system": SYSTEM, "messages": PLAIN, "max_tokens": MAX_TOKENS}

    async def ask(streamed: bool) -> str:
        if not streamed:
            return "".join(block.text for block in (await client.messages.create(**asked)).content)
        events = await client.messages.create(**asked, stream=True)
        return "".join([event.delta.text async for event in events if event.type == "content_block_delta"])

    return ask


def through(client: LLMClientProtocol) -> Ask:
    """Ask through a client of ours."""

    async def ask(streamed: bool) -> str:
        if not streamed:
            return (await client.complete(MESSAGES, max_tokens=MAX_TOKENS)).text
        async with aclosing(client.stream(MESSAGES, max_tokens=MAX_TOKENS)) as chunks:  # type: ignore[type-var]
            return "".join([chunk.text async for chunk in chunks])

    return ask


def through_litellm(provider: str, url: str) -> Ask:
    """Ask through litellm."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the network while it is imported
    import litellm

    asked: dict[str, Any] = {
        "model": f"{provider}/{MODELS[provider]}",
        "messages": [{"role": "system", "content": SYSTEM}, *PLAIN],
        "max_tokens": MAX_TOKENS,
        "api_key": KEY,
        "api_base": f"{url}/v1" if provider == "openai" else url,
        "max_retries": 0,
    }

    async def ask(streamed: bool) -> str:
        if not streamed:
            return (await litellm.acompletion(**asked)).choices[0].message.content
        chunks = await litellm.acompletion(**asked, stream=True, stream_options={"include_usage": True})
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices])

    return ask


def contestants(provider: str, url: str) -> dict[str, Ask]:
    """Make all who can ask a provider, the raw SDK first; ours without and with the limiter, both at their defaults."""
    bare: Any
    wiring: dict[str, Any] = {"api_key": KEY, "connect_timeout_s": CONNECT_TIMEOUT_S}
    if provider == "openai":
        raw, bare = raw_openai(url), OpenAIClient(MODELS[provider], base_url=f"{url}/v1", **wiring)
    else:
        raw, bare = raw_anthropic(url), AnthropicClient(MODELS[provider], base_url=url, **wiring)
    asking = {
        f"{provider} {version(provider)}": raw,
        "ours": through(bare),
        "ours, limited": through(RateLimitedClient(bare, AdaptiveRateLimiter())),
    }
    if find_spec("litellm") is not None:
        asking[f"litellm {version('litellm')}"] = through_litellm(provider, url)
    return asking


async def cpu_s(ask: Ask, *, streamed: bool, calls: int, in_flight: int) -> float:
    """Return the CPU seconds of this process per call."""

    async def worker() -> None:
        for _ in range(calls // in_flight):
            text = await ask(streamed)
            if not text.endswith(f"word{CHUNKS - 1}"):
                raise SystemExit(f"answer of {len(text)} characters, not the whole; the figures mean nothing")

    gc.collect()
    start = time.process_time()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    return (time.process_time() - start) / (calls // in_flight * in_flight)


def best_tenth(turns: list[float]) -> float:
    """Return the CPU of the turn that a tenth of them undercut."""
    return sorted(turns)[len(turns) // 10]


async def compare(provider: str, url: str, *, times: float) -> list[str]:
    """Measure all contestants of a provider; print a table, return what missed its aim."""
    asking = contestants(provider, url)
    raw, *others = asking
    missed = []
    for (streamed, in_flight), (calls, turns) in CALLS_AND_TURNS.items():
        for ask in asking.values():  # a first turn to open connections and to fill caches
            await cpu_s(ask, streamed=streamed, calls=calls, in_flight=in_flight)
        spent: dict[str, list[float]] = {name: [] for name in asking}
        for turn in range(math.ceil(turns * times)):
            names = list(asking)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                spent[name].append(await cpu_s(asking[name], streamed=streamed, calls=calls, in_flight=in_flight))
        scale, unit = (1e6 / CHUNKS, "chunk") if streamed else (1e6, "call")
        print(f"\n{provider}, CPU per {unit}, {in_flight} in flight")
        for name in asking:
            ratio = best_tenth(spent[name]) / best_tenth(spent[raw])
            usual = f"(median {median(spent[name]) * scale:7.1f} us {median(spent[name]) / median(spent[raw]):5.2f} x)"
            print(f"  {name:22} {best_tenth(spent[name]) * scale:9.1f} us {ratio:5.2f} x raw  {usual}", flush=True)
            if name in others and name.startswith("ours") and ratio > AIMS[streamed]:
                missed.append(f"{provider} {name}, per {unit}, {in_flight} in flight: {ratio:.2f}")
    return missed


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=float, default=1.0, metavar="FACTOR", help="so many times the usual turns")
    times = parser.parse_args().times
    if find_spec("litellm") is None:
        print("litellm is not measured: it is not installed here; --help says where it can be")
    missed = []
    with running() as url:
        for provider in MODELS:
            missed += await compare(provider, url, times=times)
    aims = f"aims: at most {AIMS[False]} x raw per call, {AIMS[True]} x raw per chunk"
    print("\n" + ("\n  missed: ".join([aims, *missed]) if missed else f"{aims}: met"))


if __name__ == "__main__":
    asyncio.run(main())
