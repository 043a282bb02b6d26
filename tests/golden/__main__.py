"""Print the golden reports, or write them anew: ``python -m tests.golden --write``."""

from __future__ import annotations

import argparse

from tests.golden import FOLDER, path, reports


def main() -> None:
    """Compute the reports, and print or write them."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the files under tests/golden")
    parser.add_argument("--jobs", type=int, help="processes; by default one per core")
    given = parser.parse_args()
    texts = reports(given.jobs)
    if not given.write:
        print("".join(f"{preset}\n{text}" for preset, text in texts.items()), end="")
        return
    for old in FOLDER.glob("*.txt"):
        old.unlink()
    for preset, text in texts.items():
        path(preset).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
