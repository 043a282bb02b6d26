"""Files of settings: TOML in; files out whole or not at all, and never over something that was not meant to go."""

from __future__ import annotations

import os
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from factflow_llm.errors import ConfigurationError


def read_toml(path: Path, *, remedy: str, compare: str = "") -> dict[str, Any]:
    """Return what a TOML file says.

    Args:
        path: the file.
        remedy: what to do when it cannot be read, for the error.
        compare: what to do when it is no TOML, for the error.

    Raises:
        ConfigurationError: naming the file and what is wrong with it.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except UnicodeDecodeError as error:
        msg = f"{path}: not valid TOML: byte {error.start} is not UTF-8; save the file as UTF-8"
        raise ConfigurationError(msg) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: not valid TOML ({error})" + (f"; {compare}" if compare else "")) from None


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
