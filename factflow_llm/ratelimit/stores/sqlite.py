"""A file for the processes of one host: SQLite in WAL mode, one row per quota, and nothing to start."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.shared import refresh
from factflow_llm.ratelimit.stores.opening import StoreError
from factflow_llm.ratelimit.stores.words import state_from_json, state_to_json

if TYPE_CHECKING:
    from factflow_llm.ratelimit.said import Grant, Report
    from factflow_llm.ratelimit.shared import State

_PATIENCE_S = 1.0
_VERSION = 1


class SqliteStore:
    """One quota's row in a file.

    Args:
        path: the file; it is made if there is none.
        key: the row.
    """

    def __init__(self, path: str, key: str) -> None:
        self._path = path
        self._key = f"{key}:{_VERSION}"
        self._file: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="factflow-llm store")

    async def refresh(self, report: Report) -> Grant:
        """Take a report and return the grant; errors as of ``FleetStore``."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._refresh, report)

    async def aclose(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._thread.submit(self._file.close)
            self._file = None
        self._thread.shutdown(wait=False)

    def _refresh(self, report: Report) -> Grant:
        try:
            if self._file is None:
                self._file = self._opened()
            with contextlib.closing(self._file.cursor()) as cursor:
                cursor.execute("BEGIN IMMEDIATE")
                try:
                    row = cursor.execute("SELECT state FROM quota WHERE key = ?", (self._key,)).fetchone()
                    state, grant = refresh(None if row is None else self._read(row[0]), report, time.time())
                    cursor.execute("REPLACE INTO quota VALUES (?, ?)", (self._key, state_to_json(state)))
                except BaseException:
                    cursor.execute("ROLLBACK")
                    raise
                cursor.execute("COMMIT")
            return grant
        except sqlite3.OperationalError as error:
            self._forget()
            text = str(error)
            if "readonly" in text or "unable to open" in text:
                raise self._useless(f"{text}; let this process write to it and to its folder") from None
            raise StoreError(f"{self._path}: {text}") from None
        except sqlite3.DatabaseError as error:
            self._forget()
            raise self._useless(f"{error}; name a file of its own, which is made if there is none") from None

    def _opened(self) -> sqlite3.Connection:
        file = sqlite3.connect(self._path, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False)
        try:
            if os.path.exists(self._path) and not os.access(self._path, os.W_OK):  # noqa: PTH110
                raise self._useless("the file may only be read; let this process write to it and to its folder")
            file.execute("PRAGMA journal_mode = WAL")
            file.execute("PRAGMA synchronous = OFF")  # what is lost with the machine is learned again
            file.execute("CREATE TABLE IF NOT EXISTS quota (key TEXT PRIMARY KEY, state TEXT NOT NULL)")
        except BaseException:
            file.close()
            raise
        return file

    def _read(self, text: str) -> State:
        try:
            return state_from_json(text)
        except ValueError as error:
            raise self._useless(f"the row {self._key!r} holds something else: {error}") from None

    def _forget(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _useless(self, why: str) -> ConfigurationError:
        return ConfigurationError(f"shared = 'sqlite:///{self._path}' cannot be used: {why}")
