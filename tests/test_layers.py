"""The layers: notebooks use the laboratory, the laboratory uses production, and nobody looks the other way."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHELL = {"fellowship", "__init__", "limiter", "client", "attempts", "road"}


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Judge the packages in a folder by the contracts of the project."""
    code = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command as run; run()"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache", "--no-logo", "--config", str(ROOT / "pyproject.toml")],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def imported(tree: ast.AST) -> set[str]:
    """Return the top-level names of all absolute imports."""
    nodes = list(ast.walk(tree))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.partition(".")[0] for name in plain | {n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)}}


def code_of(notebook: Path) -> ast.AST:
    """Return the code cells of a notebook, magics left out."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return ast.parse("\n".join(line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))))


def test_contracts_hold() -> None:
    """The import contracts of pyproject.toml are kept."""
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("factflow_llm/ratelimit/core.py", "import time"),
        ("factflow_llm/ratelimit/aimd.py", "from random import random"),
        ("factflow_llm/ratelimit/line.py", "from factflow_llm.ratelimit.limiter import Permit"),
        ("factflow_llm/errors/evidence.py", "from factflow_llm.ratelimit.config import RetryConfig"),
        ("factflow_llm/recorder.py", "from factflow_llm.ratelimit.core import LimiterCore"),
        ("factflow_llm/settings.py", "from simulators.scenarios.scenario import Scenario"),
        ("factflow_llm/tokens.py", "import numpy"),
        ("simulators/streams.py", "from simulators.providers.calls import Call"),
        ("simulators/engine/loop.py", "from simulators.engine.simulate import simulate"),
    ],
)
def test_contracts_notice(file: str, line: str, tmp_path: Path) -> None:
    """Each contract is broken by an import that it forbids, be it direct or through another file."""
    for package in ("factflow_llm", "simulators"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / file).open("a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout
    assert "1 broken" in done.stdout


def test_every_pure_file_is_under_contract() -> None:
    """A new file in ratelimit is pure unless it is one of the shell."""
    contracts: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "importlinter"
    ]["contracts"]
    pure = next(each["source_modules"] for each in contracts if each["name"].startswith("the pure files"))
    files = {path.stem for path in (ROOT / "factflow_llm/ratelimit").glob("*.py")}
    assert {name.rpartition(".")[2] for name in pure if ".ratelimit." in name} == files - SHELL


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_use_what_is_installed(notebook: Path) -> None:
    """A notebook runs from the installed package: it imports nothing of the clone, such as its tests."""
    assert imported(code_of(notebook)) & {"tests", "reports", "notebooks"} == set()


def test_nothing_imports_upwards() -> None:
    """Neither package knows of the notebooks, the tests or the reports."""
    sources = [path for package in ("factflow_llm", "simulators") for path in (ROOT / package).rglob("*.py")]
    names = set().union(*(imported(ast.parse(path.read_text(encoding="utf-8"))) for path in sources))
    assert names & {"tests", "reports", "notebooks"} == set()
    assert {"factflow_llm", "simulators"} <= names
