"""Programs that measure: reports whose text is committed, most under ``tests/golden``, and benchmarks.

``python -m reports`` lists the reports; ``python -m reports NAME --check`` makes one anew and compares it with what is
committed, ``--write`` replaces that. ``python -m reports.benchmarks`` prints speeds, which differ from machine to
machine and are therefore not committed.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
"""Where committed reports stand."""
