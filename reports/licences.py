"""Under which licence each package comes that the library needs, by extra: ``python -m reports.licences``.

Told is what the installed releases say of themselves: their licence expression, else their licence, else their
classifiers. What an extra needs in turn is listed with it, at its first mention; what is not installed says so.
"""

from __future__ import annotations

import re
from collections import deque
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement

PACKAGE = "factflow-llm"
FOR_DEVELOPERS = frozenset({"dev", "docs", "test", "peers"})
_LONGEST = 60
_CLASSIFIER = "License :: OSI Approved :: "


def needed(package: str, extra: str) -> list[Requirement]:
    """Return what a package requires with an extra; with ``""``, what it always does."""
    found = map(Requirement, distribution(package).requires or ())
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": extra})]


def closure(package: str, extra: str) -> dict[str, Distribution | None]:
    """Return everything that an extra brings, by name; ``None`` for what is not installed."""
    found: dict[str, Distribution | None] = {}
    left = deque(needed(package, extra))
    while left:
        requirement = left.popleft()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name not in found and name != PACKAGE:
            try:
                found[name] = distribution(name)
            except PackageNotFoundError:
                found[name] = None
                continue
            left.extend(needed(name, ""))
        if found.get(name) is not None or name == PACKAGE:
            for part in requirement.extras:
                left.extend(needed(name, part))
    return found


def licence(package: Distribution) -> str:
    """Return what a release says of its licence, in a few words."""
    told = package.metadata
    named = [text.removeprefix(_CLASSIFIER) for text in told.get_all("Classifier", []) if text.startswith(_CLASSIFIER)]
    text = told.get("License-Expression") or told.get("License") or ""
    if not text or "\n" in text or len(text) > _LONGEST:
        text = ", ".join(named) or text.strip().partition("\n")[0][:_LONGEST]
    return text or "says nothing"


def extras() -> list[str]:
    """Name the extras that users install; first what every user has."""
    return ["", *sorted(set(distribution(PACKAGE).metadata.get_all("Provides-Extra", [])) - FOR_DEVELOPERS)]


def main() -> None:
    """Print a list per extra."""
    known: set[str] = set()
    for extra in extras():
        found = closure(PACKAGE, extra)
        print(f"\n{PACKAGE}[{extra}]" if extra else PACKAGE)
        for name in sorted(found.keys() - known):
            package = found[name]
            told = "not installed" if package is None else f"{package.version:14} {licence(package)}"
            print(f"  {name:36} {told}")
        known |= found.keys()


if __name__ == "__main__":
    main()
