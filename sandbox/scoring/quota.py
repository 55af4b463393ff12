"""The durable table of rows that were scored, or might have been: charged before anything is answered, and never refunded.

One row a request, append-only, in SQLite (`sandbox.database`): when `charge` returns, the charge is on the disk. Requests that race for the
last rows of a quota are granted what fits, across threads and processes. Does not protect against the owner of the machine, who can put
back an older copy of the file: the audit log shows that (`books`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from ..database import Database
from ..errors import BudgetExceeded, InternalError, ParameterError

FORMAT = 1
_SCHEMA = """
CREATE TABLE charges (
    number INTEGER PRIMARY KEY, request BLOB NOT NULL UNIQUE, model TEXT NOT NULL, analyst TEXT NOT NULL,
    purpose TEXT NOT NULL, rows INTEGER NOT NULL, time REAL NOT NULL) STRICT;
CREATE INDEX charges_of ON charges (model, analyst, rows);
CREATE TRIGGER no_update BEFORE UPDATE ON charges BEGIN SELECT RAISE(ABORT, 'charges are append-only'); END;
CREATE TRIGGER no_delete BEFORE DELETE ON charges BEGIN SELECT RAISE(ABORT, 'charges are append-only'); END;
"""


class Charge(msgspec.Struct, frozen=True):
    """The rows of one request. `request`: its digest. `time`: Unix seconds."""

    request: bytes
    model: str
    analyst: str
    purpose: str
    rows: int
    time: float

    def __post_init__(self) -> None:
        if not (self.request and self.model and self.analyst and self.rows >= 1):
            raise ParameterError("a charge names its request, model and analyst, and has one row or more")


class Charged(msgspec.Struct, frozen=True):
    """A granted charge: its number, and whether this request was charged before."""

    number: int
    repeated: bool = False


class Quotas:
    """The table at `path`, made where there is none. Safe to use from threads and processes; open it after a fork, not before."""

    def __init__(self, path: str | os.PathLike[str]):
        self._database = Database(path, _SCHEMA, FORMAT)

    def close(self) -> None:
        self._database.close()

    def charge(self, charge: Charge, rows: int, rows_per_analyst: int) -> Charged:
        """Charge, or raise `BudgetExceeded` with each quota that would be passed. A request that was charged before is not
        charged again."""
        with self._database.transaction(write=True):
            found = self._database.execute(
                "SELECT number, model, analyst, purpose, rows FROM charges WHERE request = ?",
                (charge.request,),
            ).fetchone()
            if found is not None:
                number, *stated = found
                if stated != [charge.model, charge.analyst, charge.purpose, charge.rows]:
                    raise InternalError(
                        "a request was charged before as another: its digest does not bind it"
                    )
                return Charged(number, True)
            reasons = tuple(self._against(charge, rows, rows_per_analyst))
            if reasons:
                raise BudgetExceeded(reasons)
            [number] = self._database.execute("SELECT coalesce(max(number), 0) + 1 FROM charges").fetchone()
            self._database.execute(
                "INSERT INTO charges VALUES (?, ?, ?, ?, ?, ?, ?)", (number, *msgspec.structs.astuple(charge))
            )
        return Charged(number)

    def against(self, charge: Charge, rows: int, rows_per_analyst: int) -> tuple[str, ...]:
        """Why `charge` would refuse now; changes nothing."""
        with self._database.transaction(write=False):
            known = self._database.execute("SELECT 1 FROM charges WHERE request = ?", (charge.request,))
            return () if known.fetchone() else tuple(self._against(charge, rows, rows_per_analyst))

    def used(self, model: str, analyst: str | None = None) -> int:
        """Rows that were charged of a model, by one analyst or all."""
        with self._database.transaction(write=False):
            return self._used(model, analyst)

    def entries(self) -> tuple[tuple[int, Charge], ...]:
        """All charges with their numbers, the first first."""
        with self._database.transaction(write=False):
            rows = self._database.execute("SELECT * FROM charges ORDER BY number").fetchall()
        return tuple((number, Charge(*fields)) for number, *fields in rows)

    def _against(self, charge: Charge, rows: int, rows_per_analyst: int) -> Iterator[str]:
        quotas = (("", None, rows), (f" for analyst {charge.analyst!r}", charge.analyst, rows_per_analyst))
        for whose, analyst, most in quotas:
            used = self._used(charge.model, analyst)
            if used + charge.rows > most:
                asked = f"{charge.rows} more are asked for"
                yield f"scores of {charge.model!r}{whose}: {used} of {most} rows are used, and {asked}"

    def _used(self, model: str, analyst: str | None) -> int:
        where, values = ("", (model,)) if analyst is None else (" AND analyst = ?", (model, analyst))
        statement = f"SELECT coalesce(sum(rows), 0) FROM charges WHERE model = ?{where}"
        return int(self._database.execute(statement, values).fetchone()[0])
