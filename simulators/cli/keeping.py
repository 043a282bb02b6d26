"""Long commands that are stopped keep what they finished, say so, and go on with ``--resume``."""

from __future__ import annotations

import os
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from factflow_llm.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import typer

_OF_THE_OUTPUT = frozenset({"resume", "overwrite", "json", "plot", "out", "study", "jobs", "journal"})


@contextmanager
def journal(ctx: typer.Context, given: Path | None, *, resume: bool, overwrite: bool) -> Iterator[Path | None]:
    """Yield the file that keeps finished runs; a command's own is gone when it ends well.

    Args:
        ctx: of the command.
        given: a file named by the user, which stays; otherwise the name follows from the command's arguments.
        resume: go on with what an interrupted run of the same command left.
        overwrite: begin anew although there is such a file.

    Yields:
        ``None`` in a folder that cannot be written.

    Raises:
        ConfigurationError: there is nothing to go on with, or something that must not be lost.
    """
    path = given or _own_name(ctx)
    if resume and not path.exists():
        msg = f"--resume: there is no {path} here, so nothing to go on with; leave it out to begin"
        raise ConfigurationError(msg)
    if given is None and not resume:
        if path.exists() and not overwrite:
            msg = f"{path}: an interrupted run of this command left it; --resume goes on, --overwrite begins anew"
            raise ConfigurationError(msg)
        path.unlink(missing_ok=True)
    usable = given is not None or os.access(Path.cwd(), os.W_OK)
    try:
        yield path if usable else None
    except KeyboardInterrupt as stopped:
        told = f"what is finished is kept in {path}: the same command with --resume goes on"
        stopped.add_note(told if usable else "nothing is kept, for this folder cannot be written")
        raise
    except Exception:
        if given is None and not resume:
            path.unlink(missing_ok=True)
        raise
    if given is None:
        path.unlink(missing_ok=True)


def _own_name(ctx: typer.Context) -> Path:
    arguments = {name: value for name, value in sorted(ctx.params.items()) if name not in _OF_THE_OUTPUT}
    return Path(f"factflow-{ctx.info_name}-{zlib.crc32(repr(arguments).encode()):08x}.journal")
