"""What README and docs show: every block of Python runs, every file they name exists, every command is spelt right."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import factflow_llm
import simulators as sim
from reports import ROOT
from reports.api import api
from reports.commands import commands

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "commands.md"),
]
_BLOCK = re.compile(r"^```(?P<info>[^\n`]+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)[^)]*\)")


class Block(NamedTuple):
    """A fenced block: what follows the fence, its text, and how many lines stand before it."""

    info: str
    text: str
    before: int


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = _BLOCK.finditer(text)
    return [Block(each["info"], each["text"], text.count("\n", 0, each.start("text"))) for each in found]


def is_python(block: Block) -> bool:
    """Tell whether a block is to be run."""
    return block.info.partition(" ")[0] == "python"


def command(name: str) -> str:
    """Return the README's shell command of that name."""
    (text,) = [block.text.strip() for block in blocks(ROOT / "README.md") if block.info == f"sh {name}"]
    return text


MADE = ("api/", "commands.md")
LONG = ("README", "gallery", "log", "quotas", "tutorial")
RUN_ELSEWHERE = ("asking", "jobs", "stacks")
"""Pages whose examples share a client: ``test_asking.py``, ``test_jobs_page.py`` and ``test_adapters.py`` run them."""
PROGRAMS = [
    pytest.param(page, marks=[pytest.mark.slow] * (page.stem in LONG))
    for page in PAGES
    if page.stem not in RUN_ELSEWHERE and any(map(is_python, blocks(page)))
]


@pytest.mark.parametrize("page", PROGRAMS, ids=lambda page: page.stem)
def test_code_runs(page: Path, tmp_path: Path) -> None:
    """The blocks of a page run as one program, top to bottom, among the files that the page shows."""
    program = ""
    for block in blocks(page):
        if (title := re.search(r'title="([^"]+)"', block.info)) is not None:
            (tmp_path / title[1]).write_text(block.text, encoding="utf-8")
        if is_python(block):
            program += "\n" * (block.before - program.count("\n")) + block.text  # an error names the line of the page
    done = subprocess.run(
        [sys.executable, "-c", f"exec(compile({program!r}, {str(page)!r}, 'exec'))"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "OPENAI_API_KEY": "none"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_commands_page_tells_the_commands() -> None:
    """It has a section for each, with its options and what they are by default."""
    page = commands()["docs/commands.md"]
    for command in ("simulate", "replay", "compare", "tune", "plan", "calibrate", "lab", "serve", "providers"):
        assert f"\n## {command}\n" in page
    assert "\n| `--provider`, `-p` `PROVIDER` | A preset" in page
    assert "| `openai-tier-1` |\n" in page


def test_the_gallery_shows_every_plot() -> None:
    """Each has its lines and its picture."""
    text = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    for name in (name for name in sim.__all__ if name.startswith("plot_")):
        assert f"\n```python picture={name}\n" in text, f"{name} has no lines"
        assert f"](pictures/gallery/{name}.png)" in text, f"{name} has no picture"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    """Links and pictures within the repository exist, save for pages that are made when the documentation is built."""
    links = [link for link in _LINK.findall(page.read_text(encoding="utf-8")) if not link.startswith(MADE)]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_api_pages_are_made_of_every_public_class() -> None:
    """One page a class, all in an index."""
    pages = api()
    for package, index in ((factflow_llm, "production"), (sim, "laboratory")):
        for name in package.__all__:
            if isinstance(getattr(package, name), type):
                assert f"docs/api/{package.__name__}/{name}.md" in pages
                assert f"[`{name}`](" in pages[f"docs/api/{index}.md"]


@pytest.mark.parametrize("name", ["lab", "tests"])
def test_commands_set_up_their_own_environment(name: str) -> None:
    """Both commands are one line, make the environment they use, and name only extras and files that exist."""
    line = command(name)
    assert "\n" not in line
    make, install, start = (shlex.split(part) for part in line.split("&&"))
    assert make == ["python3", "-m", "venv", ".venv"]
    assert install[0] == ".venv/bin/pip"
    extra = re.fullmatch(r"\.\[(\w+)\]", install[-1])
    assert extra is not None
    assert f"\n{extra[1]} = [" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert start[0].startswith(".venv/bin/")
    assert all((ROOT / word).exists() for word in start[1:] if "/" in word)


def test_laboratory_command_ends_in_a_laboratory(tmp_path: Path) -> None:
    """The program that the main command starts is there and understands its arguments."""
    words = shlex.split(command("lab").rpartition("&&")[2])
    program = Path(sys.executable).with_name(Path(words[0]).name)
    done = subprocess.run(
        [program, *words[1:-1], "--version"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout[:1].isdigit()) == (0, True), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "smaller"),
    [
        ("picture", ["--duration", "1260", "--seeds", "1", "--jobs", "1", "--plot", "picture.png"]),
        ("tune", ["--duration", "60", "--seeds", "1", "--jobs", "1", "--trials", "2"]),
    ],
)
def test_other_commands_run(name: str, smaller: list[str], tmp_path: Path) -> None:
    """The commands without Jupyter run, here on a smaller job."""
    program, *words = shlex.split(command(name))
    assert program == ".venv/bin/factflow-llm"
    done = subprocess.run(
        [sys.executable, "-m", "simulators", *words, *smaller],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {
        "picture": {"picture.png"},
        "tune": {"limiter.toml", "limiter.png"},
    }[name]


def test_readme_fits_the_eye() -> None:
    """The README starts with one sentence, then the two commands; its picture is a file of reasonable size."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.index("```sh lab") < text.index("```sh tests") < text.index("![") < text.index("```python")
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert 5_000 < (ROOT / picture).stat().st_size < 300_000
