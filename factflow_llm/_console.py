"""The ``factflow-llm`` command: the proxy, the laboratory's commands, or a word on how to get them."""

from __future__ import annotations

import importlib
import sys


def main() -> None:
    """Run the proxy, or the laboratory's command line; without the lab extra say how to install it and exit with 2."""
    if sys.argv[1:2] == ["proxy"]:
        from factflow_llm.proxy.command import main as proxy

        sys.exit(proxy(sys.argv[2:]))
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
