"""Draw the pictures of docs/gallery.md by its own lines: ``python -m reports.gallery [NAME …]``."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

from reports import ROOT

PAGE = ROOT / "docs" / "gallery.md"
PICTURES = ROOT / "docs" / "pictures" / "gallery"
_BLOCK = re.compile(r"^```python(?: picture=(\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def main(names: list[str]) -> None:
    """Run the page's blocks in order; save the figure that each draws, or those that are named."""
    mpl.use("agg")
    os.chdir(tempfile.mkdtemp())
    known: dict[str, object] = {}
    for name, code in _BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if name and names and name not in names:
            continue
        exec(compile(code, f"{PAGE}: {name}", "exec"), known)
        if name:
            plt.gcf().savefig(Path(PICTURES, f"{name}.png"), dpi=110, bbox_inches="tight")
            plt.close("all")


if __name__ == "__main__":
    main(sys.argv[1:])
