"""The report about what newer SDKs brought: it tells news and never fails over them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from reports import drift


def test_news_are_what_came_and_what_went() -> None:
    """Names new to the list and names gone from it are told by source; a source without change says nothing."""
    known = {"codes": ["a", "b"], "headers": ["x"]}

    assert drift.news(known, {"codes": {"b", "c"}, "headers": {"x"}}) == ["codes: new: c", "codes: gone: a"]
    assert drift.news({}, {"codes": {"a"}}) == ["codes: new: a"]


def test_the_command_never_fails() -> None:
    """Whatever releases are installed, the command ends well and names them."""
    done = subprocess.run(
        [sys.executable, "-m", "reports.drift"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("openai ")
