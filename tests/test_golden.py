"""Golden reports: the committed text is what the code does, whatever the hash seed and however many processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import simulators as sim
from reports import GOLDEN, ROOT
from reports.presets import presets

_REMEDY = "if the change is meant, run `python -m reports presets --write` and review the diff"


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """Compute all reports, here, once."""
    return presets(jobs=1)


@pytest.mark.parametrize("preset", sim.provider_names())
def test_reports_are_as_committed(preset: str, texts: dict[str, str]) -> None:
    """A change of behaviour shows as a change of text."""
    file = GOLDEN / f"{preset}.txt"
    assert file.exists(), f"{preset} has no golden report; {_REMEDY}"
    assert texts[f"tests/golden/{preset}.txt"] == file.read_text(encoding="utf-8"), _REMEDY


def test_no_report_is_left_over() -> None:
    """Every committed report belongs to a preset."""
    assert {file.stem for file in GOLDEN.glob("*.txt")} == set(sim.provider_names())


@pytest.mark.slow
@pytest.mark.parametrize(("hash_seed", "jobs"), [("0", "1"), ("1", "2"), ("77", "2")])
def test_the_same_seed_gives_the_same_bytes(hash_seed: str, jobs: str, texts: dict[str, str]) -> None:
    """Neither the hash seed nor the number of processes shows in a report."""
    printed = subprocess.run(
        [sys.executable, "-m", "reports", "presets", "--jobs", jobs],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        check=True,
    ).stdout
    assert printed.decode() == "".join(f"{path}\n{text}" for path, text in texts.items())
