"""What our clients add to the raw SDKs, counted in function calls: unlike time, those are the same on a busy machine.

The benchmark ``python -m reports.benchmarks.clients`` measures the CPU.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import pytest

from reports.benchmarks.clients import AIMS, MODELS, contestants
from reports.benchmarks.clients_server import running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reports.benchmarks.clients import Ask

TIMES = 5


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Run the benchmark's server."""
    with running() as address:
        yield address


async def calls(ask: Ask, *, streamed: bool) -> int:
    """Count the function calls, Python's and C's, that this thread makes to ask once, after a few times to warm up.

    It is the least of some counts: what earlier tests left may be collected meanwhile.
    """
    counts = []
    for _ in range(3):
        await ask(streamed)
    for _ in range(TIMES):
        counts.append(0)

        def counting(_: Any, event: str, __: Any) -> None:
            counts[-1] += event in {"call", "c_call"}

        before = sys.getprofile()
        sys.setprofile(counting)
        try:
            await ask(streamed)
        finally:
            sys.setprofile(before)
    return min(counts)


@pytest.mark.parametrize("streamed", [False, True], ids=["complete", "stream"])
@pytest.mark.parametrize("provider", MODELS)
def test_little_is_added(provider: str, streamed: bool, url: str) -> None:
    """With and without the limiter, a call makes at most a tenth more function calls, a stream at most a fifth."""

    async def main() -> dict[str, int]:
        asking = contestants(provider, url)
        return {name: await calls(ask, streamed=streamed) for name, ask in asking.items()}

    counts = asyncio.run(main())
    raw, *_ = counts.values()
    added = {name: round(count / raw, 3) for name, count in counts.items()}
    assert max(added["ours"], added["ours, limited"]) <= AIMS[streamed], added
