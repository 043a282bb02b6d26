"""The notebooks in JupyterLab: those of the clone, or a copy in a folder of one's own."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import simulators
from factflow_llm.errors import ConfigurationError, ExtraMissingError

if TYPE_CHECKING:
    from collections.abc import Sequence

_PACKAGE = Path(simulators.__file__).parent
COPY = Path("factflow-notebooks")
FIRST = "01_first_simulation.ipynb"


def folder(to: Path | None) -> Path:
    """Return the folder to open: the clone's own, or, from an installed package, a copy that may be changed.

    Notebooks that are there already are kept: they may hold somebody's work.

    Args:
        to: where to copy to, also from a clone.

    Raises:
        ConfigurationError: the folder cannot be made or written.
    """
    clones, packaged = _PACKAGE.parent / "notebooks", _PACKAGE / "notebooks"
    source = packaged if packaged.is_dir() else clones
    if to is None and source == clones:
        return clones
    copy = to or COPY
    try:
        copy.mkdir(parents=True, exist_ok=True)
        for notebook in sorted(source.glob("*.ipynb")):
            if not (copy / notebook.name).exists():
                shutil.copyfile(notebook, copy / notebook.name)
    except OSError as error:
        msg = f"--to {copy}: cannot be written ({error.strerror}); choose a folder that you may write to"
        raise ConfigurationError(msg) from None
    return copy


def open_lab(notebooks: Path, arguments: Sequence[str]) -> int:
    """Run JupyterLab on the first notebook until it is stopped; return its exit status.

    Raises:
        ExtraMissingError: JupyterLab is not installed.
    """
    if importlib.util.find_spec("jupyterlab") is None:
        msg = 'lab needs jupyterlab, which comes with the laboratory: pip install "factflow-llm[lab]"'
        raise ExtraMissingError(msg)
    command = [sys.executable, "-m", "jupyterlab", str(notebooks / FIRST), *arguments]
    try:
        return subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        return 0
