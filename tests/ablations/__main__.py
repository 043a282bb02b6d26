"""Print what mechanisms and defaults are worth, or write it: ``python -m tests.ablations [--seeds N] [--write]``."""

from __future__ import annotations

import argparse

from tests.ablations import GOLDEN, report


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(prog="python -m tests.ablations", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--write", action="store_true", help=f"write {GOLDEN.name}")
    asked = parser.parse_args()
    text = report(asked.seeds)
    if asked.write:
        GOLDEN.write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
