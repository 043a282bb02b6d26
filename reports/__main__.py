"""Make a report: print it, compare it with the committed text, or replace that."""

from __future__ import annotations

import argparse
import difflib
import sys
from importlib import import_module
from typing import NamedTuple

from reports import ROOT


class Report(NamedTuple):
    """A report: the module that makes it, and what to know before one starts it.

    Attributes:
        module: under ``reports``; its function of the report's name takes how many processes to use (``None``: as
            suits it) and returns texts by their paths in the repository.
        about: what it tells.
        takes: how long on two cores.
        repeatable: whether two runs give the same bytes, so that they can be compared.
    """

    module: str
    about: str
    takes: str
    repeatable: bool = True


REPORTS = {
    "api": Report("api", "the pages of the documentation that tell the API; never committed", "seconds"),
    "commands": Report(
        "commands", "the page of the documentation that tells the commands; never committed", "a second"
    ),
    "presets": Report("presets", "every preset under five policies", "a minute"),
    "ours": Report("suite", "our limiter in every world of the suite", "10 minutes"),
    "everybody": Report("suite", "everybody's limiter in every world of the suite", "hours"),
    "messy": Report("suite", "everybody's limiter in the suite's messy worlds", "20 minutes"),
    "ablations": Report("ablations", "what each mechanism of the limiter is worth", "half an hour"),
    "tuning": Report("tuning", "what a search finds that may lose elsewhere, and one that may not", "2 minutes"),
    "random_worlds": Report("random_worlds", "our limiter in twenty worlds drawn at random", "2 minutes"),
    "second_opinion": Report("second_opinion", "eight worlds in a second simulator", "5 minutes"),
    "ten_minutes": Report(
        "ten_minutes",
        "our limiter in real time, over HTTP, beside the simulator's account",
        "11 minutes",
        repeatable=False,
    ),
    "pools": Report("suite", "our limiter and routing in the suite's worlds of several accounts", "half a minute"),
    "pooled": Report("pooled", "twenty thousand embeddings through three accounts, of which one dies", "a minute"),
    "fleet": Report(
        "fleet",
        "eight processes that share a quota through a real Redis, over HTTP, beside the simulator's account",
        "11 minutes",
        repeatable=False,
    ),
    "hidden": Report("calibration", "how well calibration tells hidden providers", "10 minutes"),
    "readers": Report(
        "readers", "files of every format, counted independently and by the readers of traces", "a second"
    ),
    "shaken": Report("shaken", "whether calibration invents anything", "5 minutes"),
    "foreign": Report("foreign", "servers that nobody here wrote, foretold", "8 minutes", repeatable=False),
    "over_http": Report("calibration", "the same in real time, by the real SDK", "20 minutes", repeatable=False),
}


def texts(name: str, jobs: int | None = None) -> dict[str, str]:
    """Make a report; return its texts by their paths in the repository."""
    made: dict[str, str] = getattr(import_module(f"reports.{REPORTS[name].module}"), name)(jobs)
    return made


def differences(made: dict[str, str]) -> str:
    """Return what differs from the committed texts, as a diff; empty if nothing does."""
    lines: list[str] = []
    for path, text in made.items():
        file = ROOT / path
        committed = file.read_text(encoding="utf-8") if file.exists() else ""
        lines += difflib.unified_diff(committed.splitlines(True), text.splitlines(True), f"committed/{path}", path)
    return "".join(lines)


def main() -> int:
    """Do what was asked; 1 if a text is not as committed."""
    listed = "\n".join(f"  {name:<14} {each.about} ({each.takes} on two cores)" for name, each in REPORTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m reports",
        description=__doc__,
        epilog=f"reports:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=REPORTS, metavar="NAME", help="which report; they are listed below")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true", help="compare it with the committed text; 1 if they differ")
    action.add_argument("--write", action="store_true", help="replace the committed text")
    parser.add_argument("--jobs", type=int, help="how many processes (default: as suits the report)")
    asked = parser.parse_args()
    if asked.check and not REPORTS[asked.name].repeatable:
        parser.error(f"{asked.name} runs in real time, no two runs are the same: --write it and read the diff")
    made = texts(asked.name, asked.jobs)
    if asked.check:
        found = differences(made)
        sys.stdout.write(found or f"{asked.name} is as committed\n")
        return int(bool(found))
    for path, text in made.items():
        if asked.write:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(text, encoding="utf-8")
        else:
            sys.stdout.write(f"{path}\n{text}" if len(made) > 1 else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
