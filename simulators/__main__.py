"""``python -m simulators``, which is also the console script ``factflow-llm``."""

from __future__ import annotations

from simulators.cli.app import app


def main() -> None:
    """Run the command line."""
    app(prog_name="factflow-llm")


if __name__ == "__main__":
    main()
