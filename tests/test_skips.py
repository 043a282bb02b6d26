"""The rule of conftest.py: in CI a skip without leave is a failure."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

def test_runs():
    pass

def test_without_a_gpu():
    pytest.skip("needs a CUDA device")

@pytest.mark.skip(reason="no time today")
def test_put_off():
    pass

@pytest.mark.xfail(reason="known")
def test_known():
    assert False
"""
FILE = 'import pytest\npytest.importorskip("no_such_package")\n'


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ci", "tally"),
    [("", "1 passed, 3 skipped, 1 xfailed"), ("true", "1 passed, 1 skipped, 1 xfailed, 2 errors")],
    ids=["elsewhere", "in CI"],
)
def test_skips_need_leave_in_ci(ci: str, tally: str, tmp_path: Path) -> None:
    """Only listed reasons skip a test or a file in CI; elsewhere any reason does."""
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_single.py").write_text(TESTS, encoding="utf-8")
    (tmp_path / "test_whole_file.py").write_text(FILE, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n0", "--continue-on-collection-errors", "."],
        cwd=tmp_path,
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )
    assert tally in done.stdout, done.stdout
    assert ("skipped in CI: Skipped: no time today" in done.stdout) == bool(ci)
