"""The ``factflow-llm`` command: the laboratory's, or a word on how to get it."""

from __future__ import annotations

import importlib
import sys


def main() -> None:
    """Run the laboratory's command line; without the lab extra say how to install it and exit with 2."""
    try:
        laboratory = importlib.import_module("simulators.__main__")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in {"factflow_llm", "simulators"}:
            raise
        print(
            f"The factflow-llm command needs {error.name}, which comes with the laboratory:\n"
            '    pip install "factflow-llm[lab]"',
            file=sys.stderr,
        )
        sys.exit(2)
    laboratory.main()
