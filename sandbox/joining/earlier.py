"""Exact releases of joined tables at one node, kept for ever, and the seeds that have served it: what outlives the process of a join.

Of a release its question is kept, not its people: no department knows who is in a joined cell. A later exact release is compared with all
earlier ones by counting, in a join of its own (`sandbox.joining.split.comparison`), the people in each new cell, each earlier one, and
both. So that this is possible, and nothing else can be subtracted, the rule for each data set is

    all its exact releases are of one joined table, of one declaration and one version of the data,

and whatever else is asked exactly is refused; DP releases are free of it. An exact release of its rows alone (`sandbox.cohorts`)
and one of a joined table exclude each other too.

What a release is known by is the request that its analyst signed: a coordinator cannot have one compared that nobody asked.

A release enters when this node has been charged for it, with all cells as shown, and is settled once, by the coordinator's record. A seed
enters before it is used.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from .. import query as q
from ..database import Database
from ..errors import ScheduleError
from ..keys import Signed, decode, open_
from ..prepared import prepared
from ..request import REQUEST, Request
from ..roster import Roster

FORMAT = 1
_SCHEMA = """
CREATE TABLE releases (
    number INTEGER PRIMARY KEY, dataset TEXT NOT NULL, request TEXT NOT NULL UNIQUE, scope TEXT NOT NULL, version TEXT NOT NULL,
    signed TEXT NOT NULL, cells INTEGER NOT NULL, shown TEXT NOT NULL, settled INTEGER NOT NULL) STRICT;
CREATE TABLE seeds (digest BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TRIGGER no_reuse BEFORE DELETE ON seeds BEGIN SELECT RAISE(ABORT, 'seeds are kept for ever'); END;
CREATE TRIGGER no_delete BEFORE DELETE ON releases BEGIN SELECT RAISE(ABORT, 'releases are kept for ever'); END;
"""


class Earlier(q.Node, frozen=True, tag="earlier"):
    """An exact release of a joined table: the request that its analyst signed, and the cells that were shown."""

    signed: Signed
    shown: tuple[int, ...]

    @property
    def asked(self) -> Request:
        """The request, unverified."""
        found: Request = decode(self.signed.body, Request)
        return found

    @property
    def request(self) -> str:
        """The digest of the request."""
        return self.asked.digest().hex()

    @property
    def query(self) -> q.Query:
        return self.asked.query


class Joins:
    """The store at `path`, made where there is none. Safe to use from threads and processes."""

    def __init__(self, path: str | os.PathLike[str]):
        self._database = Database(path, _SCHEMA, FORMAT)

    def close(self) -> None:
        self._database.close()

    def released(self, dataset: str) -> tuple[Earlier, ...]:
        """All exact releases of joined tables with this data set, the first first."""
        with self._database.transaction(write=False):
            rows = self._database.execute(
                "SELECT signed, shown FROM releases WHERE dataset = ? ORDER BY number", (dataset,)
            ).fetchall()
        return tuple(Earlier(decode(signed.encode(), Signed), _integers(shown)) for signed, shown in rows)

    def knows(self, request: str) -> bool:
        """Whether a request's release is kept here."""
        with self._database.transaction(write=False):
            found = self._database.execute("SELECT 1 FROM releases WHERE request = ?", (request,)).fetchone()
        return found is not None

    def against(self, dataset: str, scope: str, version: str) -> str:
        """Why no exact release of this joined table may be made; empty if one may."""
        with self._database.transaction(write=False):
            rows = self._database.execute(
                "SELECT signed, version FROM releases WHERE dataset = ? GROUP BY scope, version", (dataset,)
            ).fetchall()
        for signed, _ in rows:
            asked: Request = decode(decode(signed.encode(), Signed).body, Request)
            if scope_of(asked) != scope and asked.query.joined is not None:
                tables = ", ".join(sorted(asked.query.joined.tables))
                return (
                    f"{dataset!r} has exact releases of {tables} joined on {asked.query.joined.on!r}: only that join, declared as it was, "
                    "may be asked exactly, since anything else could be subtracted from it: ask that join, or give an epsilon"
                )
        if any(other != version for _, other in rows):
            return (
                f"the data of {dataset!r} have changed since an exact release of this joined table, from which the new one could be "
                "subtracted: give an epsilon"
            )
        return ""

    def add(
        self,
        dataset: str,
        request: str,
        scope: str,
        version: str,
        signed: Signed,
        cells: int,
        cleared: Sequence[str],
    ) -> None:
        """Keep a release before its sums leave. Raises `ScheduleError` if another came in since the comparison with those `cleared`."""
        with self._database.transaction(write=True):
            known = self._database.execute(
                "SELECT request FROM releases WHERE dataset = ?", (dataset,)
            ).fetchall()
            if any(other not in cleared for (other,) in known):
                raise ScheduleError(
                    "another exact release was made while this one was being compared: ask again"
                )
            self._database.execute(
                "INSERT INTO releases VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, 0)",
                (dataset, request, scope, version, q.canonical(signed).decode(), cells, _json(range(cells))),
            )

    def settle(self, request: str, shown: Sequence[int]) -> None:
        """Once the record says which cells were `shown`. The same again changes nothing; something else raises `ScheduleError`."""
        wanted = sorted({int(cell) for cell in shown})
        with self._database.transaction(write=True):
            row = self._database.execute(
                "SELECT cells, shown, settled FROM releases WHERE request = ?", (request,)
            ).fetchone()
            if row is None:
                raise ScheduleError("a record names a request that this department has sent no sums for")
            cells, before, settled = row
            if settled and list(_integers(before)) != wanted:
                raise ScheduleError("a second record of one release names other cells")
            if any(not 0 <= cell < cells for cell in wanted):
                raise ScheduleError("a record names cells that its release does not have")
            self._database.execute(
                "UPDATE releases SET shown = ?, settled = 1 WHERE request = ?", (_json(wanted), request)
            )

    def checked(self, dataset: str, listed: Sequence[Earlier], roster: Roster) -> None:
        """Raises `ScheduleError` if the coordinator's list leaves out a release that this department knows, or has it otherwise.

        Of one that only others took part in, an analyst's signature is asked for.
        """
        theirs = {earlier.request: earlier for earlier in listed}
        if len(theirs) != len(listed):
            raise ScheduleError("the list of earlier releases names one twice")
        known = {own.request: own for own in self.released(dataset)}
        for name, own in known.items():
            found = theirs.get(name)
            if found is None:
                raise ScheduleError(
                    "the list of earlier releases leaves out one that this department took part in"
                )
            if found.shown != own.shown and self._settled(name):
                raise ScheduleError("the list of earlier releases has one with other cells than its record")
        for name, earlier in theirs.items():
            if name not in known:
                public = roster.public(earlier.signed.signer, "analyst")
                open_(earlier.signed, REQUEST, Request, public)

    def claim(self, seed: bytes) -> bool:
        """Take a seed, by its digest; False where it has served before."""
        with self._database.transaction(write=True):
            if self._database.execute("SELECT 1 FROM seeds WHERE digest = ?", (seed,)).fetchone():
                return False
            self._database.execute("INSERT INTO seeds VALUES (?)", (seed,))
        return True

    def _settled(self, request: str) -> bool:
        with self._database.transaction(write=False):
            [settled] = self._database.execute(
                "SELECT settled FROM releases WHERE request = ?", (request,)
            ).fetchone()
        return bool(settled)


def scope_of(request: Request) -> str:
    """What names the joined table of a request, as declared: in whichever order its tables were named, since the people in it are the same."""
    joined = request.query.joined
    assert joined is not None
    declared = sorted(zip(joined.tables, request.schemas, strict=False), key=lambda table: table[0])
    return q.digest((joined.on, sorted(joined.tables), declared, len(request.schemas))).hex()


def _json(values: Sequence[int] | range) -> str:
    return msgspec.json.encode(list(values)).decode()


def _integers(text: str) -> tuple[int, ...]:
    return msgspec.json.decode(text, type=prepared(tuple[int, ...]))
