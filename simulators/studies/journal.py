"""Finished runs in a file, so that a sweep that was interrupted, or killed, goes on where it stopped."""

from __future__ import annotations

import json
import logging
import pickle
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import joblib

from factflow_llm.errors import ConfigurationError

if TYPE_CHECKING:
    from types import TracebackType

JOURNAL_VERSION = 1
_log = logging.getLogger(__name__)


def opened(path: str | Path | None, *sweep: object) -> AbstractContextManager[Journal | None]:
    """Return the journal of the sweep with these arguments, to be entered; ``None`` where no file is given."""
    return nullcontext() if path is None else Journal(path, *sweep)


def _identity(part: object) -> str:
    """Return what tells this argument from others, in any process; what holds a lambda is known by its name alone."""
    try:
        return str(joblib.hash(part))
    except pickle.PicklingError:
        return f"{type(part).__qualname__} {getattr(part, 'name', '')}"


class Journal:
    """The journal of one sweep: a line that says which, then a line per finished run, written as soon as it is done.

    A sweep runs its worlds batch by batch (a search: trial by trial), always in the same order, so batch and place name
    a run. Figures come back exactly as they were. A disk that fails in the middle ends the journal, never the sweep.

    Attributes:
        lost: runs that the disk did not take, and that a resumed sweep will do again.
    """

    def __init__(self, path: str | Path, *sweep: object) -> None:
        """Open or begin the journal of the sweep with these arguments.

        Raises:
            ConfigurationError: the file is of another sweep, is no journal, or cannot be written.
        """
        self._path = Path(path)
        self._batch = 0
        self.lost = 0
        head = {"factflow_journal": JOURNAL_VERSION, "sweep": joblib.hash([_identity(part) for part in sweep])}
        try:
            old = self._path.read_bytes() if self._path.exists() else b""
            whole = old[: old.rfind(b"\n") + 1]  # whoever is killed while writing leaves half a line
            self._runs = self._read(whole, head)
            self._file: IO[bytes] = self._path.open("r+b" if old else "xb")
            self._file.truncate(len(whole))
            self._file.seek(len(whole))
            if not whole:
                self._write(head)
        except OSError as error:
            msg = f"{path}: cannot be written ({error.strerror}); choose a file in a folder that you may write to"
            raise ConfigurationError(msg) from None

    def next_batch(self) -> dict[int, Any]:
        """Begin the next batch; return the figures of its runs that are finished already, by place."""
        self._batch += 1
        return self._runs.get(self._batch, {})

    def add(self, place: int, figures: Any) -> None:
        """Note a run of this batch that is finished."""
        if not self.lost:
            try:
                self._write({"batch": self._batch, "place": place, "figures": figures})
            except OSError as error:
                _log.warning("%s: the journal ends here (%s); the sweep goes on", self._path, error.strerror)
            else:
                return
        self.lost += 1

    def _read(self, whole: bytes, head: dict[str, Any]) -> dict[int, dict[int, Any]]:
        runs: dict[int, dict[int, Any]] = {}
        try:
            first, *lines = [json.loads(line) for line in whole.splitlines()] or [head]
            found = first["factflow_journal"], first["sweep"]
            for line in lines:
                runs.setdefault(line["batch"], {})[line["place"]] = line["figures"]
        except (ValueError, KeyError, TypeError):
            msg = f"{self._path}: this is no journal of a sweep; choose another file"
            raise ConfigurationError(msg) from None
        if found != tuple(head.values()):
            msg = (
                f"{self._path}: the journal of another sweep (other scenarios, policies, seeds or clients); choose "
                "another file, or delete it to begin anew"
            )
            raise ConfigurationError(msg)
        return runs

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with suppress(OSError):
            self._file.close()
