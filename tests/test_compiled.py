"""The compiled core: built from the same files, it does what they say, to the last bit."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from reports.compiled import build, missing, modules

if TYPE_CHECKING:
    from pathlib import Path

TESTS = [
    f"tests/test_{name}.py"
    for name in (
        "conformance", "golden", "core", "aimd", "slots", "line", "axis", "mirror", "limiter", "engine", "provider",
        "quotas", "faces", "faults", "latency", "neighbours", "oracle", "policies", "sessions", "streams",
    )
]  # fmt: skip


def _run(folder: Path, *arguments: str) -> str:
    """Run Python in a folder that holds compiled packages, which so go before those of the clone; return its output."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.compiler
@pytest.mark.slow
@pytest.mark.skipif(missing() is not None, reason=f"to compile, there is no {missing()}")
def test_the_compiled_core_passes_the_same_tests(tmp_path: Path) -> None:
    """All modules that should be are compiled, agree with the production client, and write the same golden reports."""
    build(tmp_path)
    code = f"import importlib\nfor name in {modules()}: print(importlib.import_module(name).__file__)"
    files = _run(tmp_path, "-c", code).split()
    assert all(file.startswith(str(tmp_path)) and file.endswith(".so") for file in files), files
    assert len(files) == len(modules())
    options = ("-q", "-n0", "-p", "no:cacheprovider", "-m", "not report")
    told = _run(tmp_path, "-m", "pytest", *options, *TESTS).splitlines()[-1]
    assert " passed" in told
    assert "skipped" not in told, told


def test_the_compiled_modules_are_named_as_they_are() -> None:
    """Every module that the build names exists: a misspelt one would stay pure without a word."""
    from importlib.util import find_spec

    assert [name for name in modules() if find_spec(name) is None] == []
