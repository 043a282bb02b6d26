"""Write a file whole or not at all, and never over something that was not meant to go."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from factflow_llm.errors import ConfigurationError


def write_new(path: Path, text: str, *, overwrite: bool = False) -> None:
    """Write ``text`` to ``path`` in one step: a reader sees the old file or the new one, never half of it.

    Raises:
        ConfigurationError: when the file exists and ``overwrite`` is false, or the folder cannot be written.
    """
    if path.exists() and not overwrite:
        msg = f"{path}: the file exists; choose another name or allow overwriting"
        raise ConfigurationError(msg)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        msg = f"{path}: cannot be written ({error.strerror}); choose a folder that exists and that you may write to"
        raise ConfigurationError(msg) from None
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    mask = os.umask(0)
    os.umask(mask)
    Path(temporary).chmod(0o666 & ~mask)
    Path(temporary).replace(path)
