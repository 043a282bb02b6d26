"""The page about jobs: its examples run as they stand, one after another, against a simulated provider."""

from __future__ import annotations

import ast
import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factflow_llm import LLMClientFactory, LLMConfig
from simulators.server.serving import running_server

if TYPE_CHECKING:
    import pytest

PAGE = Path(__file__).parents[1] / "docs" / "jobs.md"


def test_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block of Python in the page runs as it stands, with a factory before them."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)

    assert blocks

    async def run(url: str) -> None:
        both = {"provider": "openai", "api_key": "sk-of-the-test", "base_url": f"{url}/v1"}
        chat = {**both, "model": "gpt-4o-mini"}
        embed = {**both, "model": "text-embedding-3-small", "type": "embedding"}
        config = LLMConfig.from_dict({"default": "chat", "providers": {"chat": chat, "embed": embed}})
        async with LLMClientFactory(config) as factory:
            names: dict[str, Any] = {"factory": factory, "print": lambda *_, **__: None}
            for block in blocks:
                code = compile(block, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                waiting = eval(code, names)
                if waiting is not None:
                    await waiting

    with running_server("openai-tier-5", waits=False) as server:
        asyncio.run(run(server.url))
    assert sum(asked.status == 200 for asked in server.conduct.requests) > len(blocks)
