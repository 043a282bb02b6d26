"""A job's journal: a line per item, handed to the system before its result is handed on; so a kill loses nothing.

The first line says which job it is. A place's last line holds: ``begun`` when its first call goes out, ``done`` with
the answer, ``failed`` with the error. Only where lines begin is kept in memory, 8 bytes an item; answers are read again
when they are wanted. A half line at the end is what a kill leaves, and is cut off.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from array import array
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from factflow_llm.errors import JournalError
from factflow_llm.jobs.results import Spent

# Windows has none; there nobody watches for a second process
_fcntl: Any = import_module("fcntl") if find_spec("fcntl") is not None else None
JOURNAL_VERSION = 1
_HEAD = "factflow_job"
_log = logging.getLogger(__name__)
_NOWHERE = 0  # where the head stands, and no item's line


class JobJournal:
    """The journal of one job, open for going on.

    Attributes:
        spent: what all runs so far used; calls under way when a run was killed count as they were reserved.
        under_way: how many items were under way then.
    """

    def __init__(self, path: str | Path, *, job: str, named: bool, keep: str) -> None:
        """Open or begin the journal.

        Args:
            path: the file.
            job: what the job is called, or the digest of its call.
            named: whether the caller has called it so.
            keep: ``answers``, or ``prompts`` for the items, too.

        Raises:
            JournalError: the file is another job's, is no journal, is in use, or cannot be written.
        """
        self._path = Path(path)
        self._keep_items = keep == "prompts"
        self.spent = Spent()
        self.under_way = 0
        self._lines = array("q")
        self._begun: dict[int, Spent] = {}
        self._file = -1
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
            self._lock()
            self._end = self._read(job, named)
            os.ftruncate(self._file, self._end)
            if not self._end:
                self._append({_HEAD: JOURNAL_VERSION, "job": job, "keep": keep})
        except OSError as error:
            self.close()
            raise JournalError(
                f"{path}: cannot be written ({error.strerror}); choose a file in a folder that you may write to, on a "
                "disk that has room"
            ) from None
        except BaseException:
            self.close()
            raise
        self.under_way = len(self._begun)
        for spent in self._begun.values():
            self.spent.add(spent)

    def close(self) -> None:
        """Let the file go; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def find(self, place: int, item: str) -> dict[str, Any] | None:
        """Return the line of an item that is over, ``{"begun": …}`` for one that was under way; ``None`` for neither.

        Args:
            place: the item's position.
            item: its digest.

        Raises:
            JournalError: another item stood at this place.
        """
        if place >= len(self._lines) or self._lines[place] == _NOWHERE:
            return None
        line = self._line_at(self._lines[place])
        if line.get("item") != item:
            raise JournalError(
                f"{self._path}: items[{place}] is not the item that the journal knows at this place: the journal of "
                "another job, or the items come in another order. Choose another file, or sort the items; new ones may "
                "follow at the end"
            )
        return line

    def begun(self, place: int, item: str, aside: Spent) -> None:
        """Note that an item's first call goes out, and what is set aside for it."""
        self._note({"begun": place, "item": item, "spent": _spent(aside)}, place)

    def over(self, place: int, item: str, ending: dict[str, Any], content: Any) -> None:
        """Note how an item ended; ``content`` is the item itself, kept if the journal keeps prompts."""
        if self._keep_items:
            ending = {**ending, "prompt": content}
        self._note({**ending, "item": item}, place)

    def _note(self, line: dict[str, Any], place: int) -> None:
        at = self._end
        try:
            self._append(line)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, at)
            self._end = at
            raise JournalError(
                f"{self._path}: cannot be written ({error.strerror}). Nothing it holds is lost; what came after was "
                "handed on, but will be asked again; make room, and make the same call to go on"
            ) from None
        self._place(place, at)

    def _append(self, line: dict[str, Any]) -> None:
        text = json.dumps(line, separators=(",", ":"), ensure_ascii=False)
        data = memoryview(text.encode("utf-8", "surrogatepass") + b"\n")
        rest = data
        os.lseek(self._file, self._end, os.SEEK_SET)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        self._end += len(data)

    def _place(self, place: int, at: int) -> None:
        while len(self._lines) <= place:
            self._lines.append(_NOWHERE)
        self._lines[place] = at

    def _line_at(self, at: int) -> dict[str, Any]:
        with open(self._file, "rb", closefd=False) as file:
            file.seek(at)
            line: dict[str, Any] = _loads(file.readline())
            return line

    def _lock(self) -> None:
        if _fcntl is None:
            return
        try:
            _fcntl.flock(self._file, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
        except BlockingIOError:
            raise JournalError(f"{self._path}: another process goes on with this job; wait for it, or end it") from None

    def _read(self, job: str, named: bool) -> int:
        """Read who wrote the journal and where its lines begin; return where the last whole line ends."""
        end = at = damaged = 0
        with open(self._file, "rb", closefd=False) as file:
            for number, raw in enumerate(file):
                at, start = at + len(raw), at
                whole = raw.endswith(b"\n")
                try:
                    line = _loads(raw) if whole else None
                except ValueError:
                    line = None
                if number == 0:
                    if line is None and not whole and raw.startswith(b'{"%s"' % _HEAD.encode()):
                        return 0  # killed while it wrote its first line
                    self._check_head(line, job, named)
                elif line is None or not self._take(line, start):
                    damaged += whole
                if whole:
                    end = at
        if end < at or damaged:
            _log.warning(
                "%s: %d damaged lines%s are passed over; what they told is asked again",
                self._path,
                damaged + (end < at),
                ", one cut off at the end," if end < at else "",
            )
        return end

    def _check_head(self, line: Any, job: str, named: bool) -> None:
        if not isinstance(line, dict) or _HEAD not in line:
            raise JournalError(f"{self._path}: this is no journal of a job, and is left as it is; choose another file")
        if line[_HEAD] != JOURNAL_VERSION:
            raise JournalError(
                f"{self._path}: a journal of version {line[_HEAD]!r}, and this is version {JOURNAL_VERSION}; choose "
                "another file, or go on with the release that began it"
            )
        if line.get("job") != job:
            other = f"the journal of the job {line.get('job')!r}"
            why = f"and this is {job!r}" if named else "whose call was another (its code, or what it uses)"
            raise JournalError(
                f"{self._path}: {other}, {why}. Choose another file; to go on with a changed call all the same, pass "
                f"job={line.get('job')!r}"
            )

    def _take(self, line: Any, at: int) -> bool:
        """Note what a line tells; return whether it tells anything."""
        if not isinstance(line, dict) or "item" not in line:
            return False
        kind = next((kind for kind in ("done", "failed", "begun") if kind in line), None)
        place = line.get(kind)
        if not isinstance(place, int) or place < 0:
            return False
        try:
            spent = Spent(*line.get("spent", ()))
        except TypeError:
            return False
        self._begun.pop(place, None)
        if kind == "begun":
            self._begun[place] = spent
        else:
            self.spent.add(spent)
        self._place(place, at)
        return True


def _loads(raw: bytes) -> Any:
    return json.loads(raw.decode("utf-8", "surrogatepass"))


def _spent(spent: Spent) -> list[float | None]:
    return [spent.input_tokens, spent.output_tokens, spent.cost_usd, spent.rejected]


def line_of_ending(kind: str, place: int, **told: Any) -> dict[str, Any]:
    """Return the line of an item that is over, without what tells the item."""
    return {kind: place, **{name: _spent(value) if isinstance(value, Spent) else value for name, value in told.items()}}
