"""The core compiled, with the tests beside it: ``python -m reports.compiled FOLDER`` builds both into a new folder.

There, ``python -m reports.benchmarks simulation`` and ``python -m pytest`` run on compiled modules. Needs a C compiler
and the headers of Python; the clone stays as it is.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

from reports import ROOT

_SOURCES = ("factflow_llm", "simulators", "notebooks", "pyproject.toml", "README.md", "LICENSE", "hatch_build.py")
_BESIDE = ("tests", "reports")
_ENVIRONMENT = {
    "HATCH_BUILD_HOOK_ENABLE_MYPYC": "1",
    "CFLAGS": "-ffp-contract=off",  # no fused multiply-add: the same bits on every host
}


def modules() -> list[str]:
    """Return the names of the modules that are compiled."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    files = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]["modules"]
    return [file.removesuffix(".py").replace("/", ".") for file in files]


def missing() -> str | None:
    """Return what is missing for a build; ``None`` if nothing is."""
    if find_spec("mypyc") is None:
        return "mypyc (of the package mypy)"
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")[0]
    if shutil.which(compiler) is None:
        return f"the C compiler {compiler}"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return None if header.is_file() else str(header)


def build(folder: Path) -> None:
    """Build the compiled wheel from a copy of the sources, unpack it into ``folder``, and put the tests beside it."""
    copy = folder / "build"
    for name in (*_SOURCES, *_BESIDE):
        source, target = ROOT / name, (folder if name in _BESIDE else copy) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy(source, target)
    shutil.copy(ROOT / "pyproject.toml", folder)
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", "dist"],
        cwd=copy,
        env=os.environ | _ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    (wheel,) = copy.glob("dist/*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    shutil.rmtree(copy)


def main() -> None:
    """Build into the folder that is named."""
    parser = argparse.ArgumentParser(prog="python -m reports.compiled", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to; must not exist yet")
    folder = parser.parse_args().folder
    if folder.exists():
        parser.error(f"{folder} exists already; name a new folder")
    if (lack := missing()) is not None:
        parser.error(f"there is no {lack}; install it (the extra dev; of Debian gcc, libc6-dev, python3-dev)")
    build(folder)


if __name__ == "__main__":
    main()
