"""The tasks of this repository: ``nox`` lists them, ``nox -s NAME -- …`` runs one and hands it what follows ``--``.

They run in the environment that holds nox (``pip install -e ".[dev]"``) and so start at once; `.ci/run` makes
the other environments. Only ``audit`` makes one of its own.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = []

HERE = Path(sys.executable).parent
EVERYTHING = "not report"


def _run(session: nox.Session, program: str, *arguments: str) -> None:
    session.run(str(HERE / program), *arguments, *session.posargs, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting and layers."""
    session.run(str(HERE / "ruff"), "format", "--check", ".", external=True)
    session.run(str(HERE / "lint-imports"), "--no-logo", external=True)
    _run(session, "ruff", "check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types: the code by mypy, the public names as users type them by pyright, too."""
    session.run(str(HERE / "pyright"), "--pythonpath", sys.executable, external=True)
    _run(session, "mypy")


@nox.session
def fast(session: nox.Session) -> None:
    """Run the tests of the README's command: some minutes."""
    _run(session, "python", "-m", "pytest", "-n", "3")


@nox.session
def full(session: nox.Session) -> None:
    """Run every test but the reports of hours: twenty minutes. Some are in real time and want a core to themselves."""
    _run(session, "python", "-m", "pytest", "-n", "2", "--dist", "worksteal", "-m", EVERYTHING)


@nox.session
def golden(session: nox.Session) -> None:
    """Compare a committed report with what the code does; after ``--``: NAME or ``NAME --write``."""
    arguments = session.posargs or ["--help"]
    if len(arguments) == 1 and arguments != ["--help"]:
        arguments = [*arguments, "--check"]
    session.run(str(HERE / "python"), "-m", "reports", *arguments, external=True)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure speeds; after ``--``: the names of parts, such as ``simulation``."""
    _run(session, "python", "-m", "reports.benchmarks")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into ``site``; any warning is an error."""
    for made in ("api", "commands"):
        session.run(str(HERE / "python"), "-m", "reports", made, "--write", external=True)
    _run(session, "zensical", "build", "--clean", "--strict")


@nox.session
def drift(session: nox.Session) -> None:
    """Print what newer releases of the SDKs brought; never fails for that."""
    _run(session, "python", "-m", "reports.drift")


@nox.session(venv_backend="venv")
def audit(session: nox.Session) -> None:
    """List the licences of what users install, and known weaknesses in it: asks a service of the network."""
    session.run(str(HERE / "python"), "-m", "reports.licences", external=True)
    session.install("pip-audit")
    session.run("pip-audit", "--path", sysconfig.get_path("purelib"), "--skip-editable", *session.posargs)
