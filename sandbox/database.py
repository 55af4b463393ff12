"""A small SQLite database that survives crashes and is shared by threads and processes: what the ledger and the cohorts stand on.

Write-ahead log, `synchronous = FULL`: when a transaction has ended, it is on the disk; one that was cut off leaves nothing. The file is
made with mode 0600. What SQLite says of an error goes no further than its class.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

from .errors import LedgerError

PATIENCE = 60.0  # seconds to wait for other processes that write


class Database:
    """The database at `path`, made with `schema` where there is none. `format` is the version of the schema.

    Safe to use from threads and processes; open it after a fork, not before.
    """

    def __init__(self, path: str | os.PathLike[str], schema: str, format: int):
        self.path = pathlib.Path(path)
        self._lock = threading.Lock()
        try:
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except OSError as error:
            raise LedgerError(f"{self.path.name}: it cannot be made ({type(error).__name__})") from None
        self.connection = sqlite3.connect(
            self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
        )
        try:
            self._open(schema, format)
        except BaseException:
            self.connection.close()
            raise

    def close(self) -> None:
        with self._lock:
            self.connection.close()

    def execute(self, statement: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        """Run one statement; only inside `transaction`."""
        return self.connection.execute(statement, values)

    @contextlib.contextmanager
    def transaction(self, *, write: bool) -> Iterator[None]:
        """All that is done inside happens together or not at all; writers come one after the other."""
        kind: Literal["IMMEDIATE", "DEFERRED"] = "IMMEDIATE" if write else "DEFERRED"
        with self._lock:
            try:
                self.connection.execute(f"BEGIN {kind}")
                try:
                    yield
                    self.connection.execute("COMMIT")
                finally:
                    if self.connection.in_transaction:
                        self.connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise LedgerError(
                    f"{self.path.name}: the database failed ({type(error).__name__}); nothing was changed"
                ) from None

    def intact(self) -> bool:
        """SQLite's own check of the file; only inside `transaction`."""
        return bool(self.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",))

    def _open(self, schema: str, format: int) -> None:
        try:
            _retry(lambda: self.connection.execute("PRAGMA journal_mode = WAL").fetchone())
            self.connection.execute("PRAGMA synchronous = FULL")
            self.connection.execute("PRAGMA recursive_triggers = ON")  # REPLACE meets triggers on DELETE
        except sqlite3.Error as error:
            raise LedgerError(f"{self.path.name}: it cannot be opened ({type(error).__name__})") from None
        with self.transaction(write=True):
            [found] = self.execute("PRAGMA user_version").fetchone()
            if found == 0:
                for statement in _statements(schema):
                    self.execute(statement)
                self.execute(f"PRAGMA user_version = {format}")
        if found not in (0, format):
            raise LedgerError(f"{self.path.name}: its format is {found}; this version reads {format}")


def _statements(script: str) -> Iterator[str]:
    """The statements of a script; `executescript` would commit on its own."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _retry(call: Callable[[], object]) -> None:
    """Turning on the log needs the file alone, and SQLite does not wait for that by itself."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            call()
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
