"""What analysts have asked for, and what came of it: a request outlives the notebook that sent it, and the coordinator's process.

    queued ── running ──┬── released     the release waits here for its analyst
      │          │      ├── refused      a rule said no, with every reason
      │          │      └── failed       departments vanished, or something broke
      └──────────┴───────── cancelled    by its analyst, before anything was spent
                 └───────── interrupted  the coordinator stopped while it ran; what ran is charged, and it cannot run again; a training goes on

One SQLite file at the coordinator, or memory. It holds releases for `KEPT_DAYS`: their analysts' own, which the coordinator has seen anyway.
"""

from __future__ import annotations

import pathlib
import sqlite3
import threading
import time
from typing import TYPE_CHECKING

import msgspec

from sandbox.gate import Entry
from sandbox.keys import Signed
from sandbox.pending import ENDED, Ticket
from sandbox.prepared import prepared
from sandbox.query import canonical
from sandbox.request import Request

if TYPE_CHECKING:
    from .results import Result

KEPT_DAYS = 30

_TABLES = """
CREATE TABLE IF NOT EXISTS request (
    digest TEXT PRIMARY KEY, analyst TEXT NOT NULL, submitted REAL NOT NULL, body BLOB NOT NULL, ticket BLOB NOT NULL,
    state TEXT NOT NULL, release BLOB) STRICT;
CREATE INDEX IF NOT EXISTS of_analyst ON request (analyst, submitted);
CREATE TABLE IF NOT EXISTS checkpoint (digest TEXT PRIMARY KEY, state BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS offer (department TEXT PRIMARY KEY, entries BLOB NOT NULL) STRICT;
"""


class Requests:
    """The store. Safe to use from several threads."""

    def __init__(self, path: str | pathlib.Path = ":memory:"):
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(str(path), check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.executescript(_TABLES)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def add(self, signed: Signed, request: Request) -> Ticket:
        """A new request, or the one that has this digest already."""
        digest = request.digest().hex()
        with self._lock:
            row = self._connection.execute(
                "SELECT ticket FROM request WHERE digest = ?", (digest,)
            ).fetchone()
            if row is not None:
                return _ticket(row[0])
            self._connection.execute(
                "DELETE FROM request WHERE submitted < ?", (time.time() - KEPT_DAYS * 24 * 3600,)
            )
            epsilon = request.privacy.epsilon if request.privacy else None
            ticket = Ticket(
                digest, request.analyst, request.query.title, request.purpose, epsilon, time.time()
            )
            self._connection.execute(
                "INSERT INTO request VALUES (?, ?, ?, ?, ?, ?, NULL)",
                (digest, request.analyst, ticket.submitted, canonical(signed), _pack(ticket), ticket.state),
            )
        return ticket

    def save(self, ticket: Ticket, release: Result | None = None) -> None:
        """How a request stands now, with its release in the same transaction where there is one."""
        data = None if release is None else _pack(release)
        with self._lock:
            self._connection.execute(
                "UPDATE request SET ticket = ?, state = ?, release = ? WHERE digest = ?",
                (_pack(ticket), ticket.state, data, ticket.digest),
            )
            if ticket.state in ENDED:
                self._connection.execute("DELETE FROM checkpoint WHERE digest = ?", (ticket.digest,))

    def keep(self, digest: str, state: bytes) -> None:
        """The latest checkpoint of a training that runs; an empty one is none."""
        with self._lock:
            if state:
                self._connection.execute("INSERT OR REPLACE INTO checkpoint VALUES (?, ?)", (digest, state))
            else:
                self._connection.execute("DELETE FROM checkpoint WHERE digest = ?", (digest,))

    def checkpoint(self, digest: str) -> bytes:
        """What was kept; empty where nothing was."""
        with self._lock:
            row = self._connection.execute(
                "SELECT state FROM checkpoint WHERE digest = ?", (digest,)
            ).fetchone()
        return b"" if row is None else row[0]

    def get(self, digest: str) -> Ticket | None:
        with self._lock:
            row = self._connection.execute(
                "SELECT ticket FROM request WHERE digest = ?", (digest,)
            ).fetchone()
        return None if row is None else _ticket(row[0])

    def release(self, digest: str) -> Result | None:
        with self._lock:
            row = self._connection.execute(
                "SELECT release FROM request WHERE digest = ?", (digest,)
            ).fetchone()
        return None if row is None or row[0] is None else _decode(row[0])

    def of(self, analyst: str) -> tuple[Ticket, ...]:
        """All of one analyst's, the latest first."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT ticket FROM request WHERE analyst = ? ORDER BY submitted DESC", (analyst,)
            ).fetchall()
        return tuple(_ticket(row[0]) for row in rows)

    def unfinished(self) -> tuple[tuple[Ticket, bytes], ...]:
        """What was queued or running when the process stopped, in order, with the signed request."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT ticket, body FROM request WHERE state IN ('queued', 'running') ORDER BY submitted"
            ).fetchall()
        return tuple((_ticket(ticket), body) for ticket, body in rows)

    def offers(self) -> dict[str, dict[str, Entry]]:
        """What each department offered when it was last heard."""
        with self._lock:
            rows = self._connection.execute("SELECT department, entries FROM offer").fetchall()
        return {name: msgspec.msgpack.decode(data, type=prepared(dict[str, Entry])) for name, data in rows}

    def offer(self, department: str, entries: dict[str, Entry]) -> None:
        with self._lock:
            self._connection.execute(
                "INSERT OR REPLACE INTO offer VALUES (?, ?)", (department, _pack(entries))
            )


def _decode(data: bytes) -> Result:
    from .results import decode

    return decode(data)


def _pack(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def _ticket(data: bytes) -> Ticket:
    return msgspec.msgpack.decode(data, type=prepared(Ticket))
