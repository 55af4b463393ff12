"""The durable privacy ledger of one node: every release is charged here before anything is computed for it, and never refunded.

One row a charge, append-only (triggers refuse to change or delete one), in SQLite (`database`): when `charge` returns, the charge is on
the disk. All of it happens in one `BEGIN IMMEDIATE` transaction, so that
threads and processes that race for the last of a budget are granted exactly what fits.

Guarantee (a privacy filter: Rogers, Roth, Ullman and Vadhan, NeurIPS 2016; for Rényi DP: Feldman and Zrnic, NeurIPS 2021): whatever analysts
ask, and however their questions depend on earlier answers, the charged releases of a data set together are (epsilon, delta)-DP per unit
for the caps that it was charged under. Exact releases are recorded beside them and count as releases; no epsilon bounds them.

A total per data set, and per data set and analyst, is kept as a sum of RDP curves (`accounting`) in the same transaction, so that
a charge costs the same after a thousand others; `verify` computes all of them anew from the rows.

Does not protect against the owner of the machine, who can put back an older copy of the file: the audit log shows that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec
import numpy as np

from . import accounting
from .accounting import NOTHING, ORDERS, Cost, Event
from .database import Database
from .errors import BudgetExceeded, InternalError, LedgerError, ParameterError
from .prepared import prepared
from .query import canonical

FORMAT = 2
_TOLERANCE = 1e-9  # of a cap: rounding in the conversion from rho
_SCHEMA = """
CREATE TABLE charges (
    number INTEGER PRIMARY KEY, request BLOB NOT NULL, dataset TEXT NOT NULL, analyst TEXT NOT NULL,
    purpose TEXT NOT NULL, analysis TEXT NOT NULL, event TEXT, epsilon REAL, time REAL NOT NULL, spent REAL NOT NULL, remaining REAL,
    UNIQUE (request, dataset)) STRICT;
CREATE INDEX charges_of ON charges (dataset, number);
CREATE TABLE totals (
    dataset TEXT NOT NULL, analyst TEXT NOT NULL, exact INTEGER NOT NULL, private INTEGER NOT NULL,
    rho REAL NOT NULL, curve BLOB NOT NULL, PRIMARY KEY (dataset, analyst)) STRICT, WITHOUT ROWID;
CREATE TRIGGER no_update BEFORE UPDATE ON charges BEGIN SELECT RAISE(ABORT, 'charges are append-only'); END;
CREATE TRIGGER no_delete BEFORE DELETE ON charges BEGIN SELECT RAISE(ABORT, 'charges are append-only'); END;
"""
_EVERYONE = ""  # as analyst of a total


class Charge(msgspec.Struct, frozen=True):
    """One release to be paid. `request`: its digest. Without `event` it is exact. `epsilon`: what was asked. `time`: Unix seconds.

    `analysis`: what kind of question it was, as policies name it."""

    request: bytes
    dataset: str
    analyst: str
    purpose: str
    time: float
    event: Event | None = None
    epsilon: float | None = None
    analysis: str = "table"

    def __post_init__(self) -> None:
        if not (self.request and self.dataset and self.analyst):
            raise ParameterError("a charge names its request, data set and analyst")


class Caps(msgspec.Struct, frozen=True):
    """What may not be passed; None means no limit, but without `epsilon` and `delta` no DP release is offered."""

    epsilon: float | None = None
    delta: float | None = None
    analyst_epsilon: float | None = None
    releases: int | None = None
    analyst_releases: int | None = None


class Charged(msgspec.Struct, frozen=True):
    """A granted charge: its number in the ledger, and the data set's epsilon spent and left as of then."""

    number: int
    spent: float
    left: float | None
    repeated: bool = False


class Spent(msgspec.Struct, frozen=True):
    """A total: epsilon, and releases by mode."""

    epsilon: float = 0.0
    exact: int = 0
    private: int = 0

    @property
    def releases(self) -> int:
        return self.exact + self.private


class Entry(msgspec.Struct, frozen=True):
    """A charge as it stands in the ledger."""

    number: int
    charge: Charge
    spent: float
    left: float | None

    @property
    def mode(self) -> Literal["exact", "dp"]:
        return "exact" if self.charge.event is None else "dp"


class Line(msgspec.Struct, frozen=True):
    """A row of the statement: what one analyst spent on one data set for one purpose, by one kind of analysis. Epsilons of lines do not add up to the data
    set's, which is less: composition is below the sum."""

    dataset: str
    analyst: str
    purpose: str
    analysis: str
    spent: Spent
    last: float


class _Total(msgspec.Struct, frozen=True, eq=False):
    cost: Cost = NOTHING
    exact: int = 0
    private: int = 0

    def plus(self, cost: Cost | None) -> _Total:
        if cost is None:
            return _Total(self.cost, self.exact + 1, self.private)
        return _Total(self.cost + cost, self.exact, self.private + 1)

    def spent(self, delta: float) -> Spent:
        return Spent(accounting.epsilon(self.cost, delta), self.exact, self.private)


class Ledger:
    """The ledger at `path`, made where there is none. Safe to use from threads and processes; open it after a fork, not before."""

    def __init__(self, path: str | os.PathLike[str]):
        self._database = Database(path, _SCHEMA, FORMAT)
        self.path = self._database.path

    def close(self) -> None:
        self._database.close()

    def charge(self, charge: Charge, caps: Caps) -> Charged:
        """Charge, or raise `BudgetExceeded` with every cap that would be passed. A request already charged on this data set
        gets its first result again, `repeated`, and nothing is charged."""
        cost = accounting.cost(charge.event) if charge.event is not None else None
        with self._database.transaction(write=True):
            first = self._first(charge)
            if first is not None:
                return first
            [number] = self._database.execute("SELECT coalesce(max(number), 0) + 1 FROM charges").fetchone()
            charged, totals = self._weigh(charge, cost, caps, number)
            event = canonical(charge.event).decode() if charge.event is not None else None
            self._database.execute(
                "INSERT INTO charges VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    number,
                    charge.request,
                    charge.dataset,
                    charge.analyst,
                    charge.purpose,
                    charge.analysis,
                    event,
                    charge.epsilon,
                    charge.time,
                    charged.spent,
                    charged.left,
                ),
            )
            for analyst, total in totals.items():
                self._database.execute(
                    "INSERT OR REPLACE INTO totals VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        charge.dataset,
                        analyst,
                        total.exact,
                        total.private,
                        total.cost.rho,
                        total.cost.curve.astype("<f8").tobytes(),
                    ),
                )
        return charged

    def preview(self, charge: Charge, caps: Caps) -> Charged:
        """What `charge` would say now; changes nothing."""
        cost = accounting.cost(charge.event) if charge.event is not None else None
        with self._database.transaction(write=False):
            first = self._first(charge)
            return first if first is not None else self._weigh(charge, cost, caps, 0)[0]

    def spent(self, dataset: str, delta: float, analyst: str | None = None) -> Spent:
        """What was spent on a data set, by one analyst or all."""
        with self._database.transaction(write=False):
            total = self._total(dataset, _EVERYONE if analyst is None else analyst)
        return total.spent(delta)

    def spent_by(self, analyst: str, deltas: Mapping[str, float]) -> dict[str, Spent]:
        """What one analyst spent, per data set; `deltas`: each data set's delta, at which its epsilon is given."""
        with self._database.transaction(write=False):
            totals = {dataset: self._total(dataset, analyst) for dataset in deltas}
        return {dataset: total.spent(deltas[dataset]) for dataset, total in totals.items()}

    def history(self, dataset: str) -> tuple[Entry, ...]:
        """All charges of a data set, the first first."""
        with self._database.transaction(write=False):
            rows = self._database.execute(
                "SELECT * FROM charges WHERE dataset = ? ORDER BY number", (dataset,)
            ).fetchall()
        return tuple(map(_entry, rows))

    def entries(self) -> tuple[Entry, ...]:
        """All charges of all data sets, the first first."""
        with self._database.transaction(write=False):
            rows = self._database.execute("SELECT * FROM charges ORDER BY number").fetchall()
        return tuple(map(_entry, rows))

    def statement(self, deltas: Mapping[str, float]) -> tuple[Line, ...]:
        """Who spent what on which data set, and for what; `deltas` as in `spent_by`."""
        sums: dict[tuple[str, str, str, str], tuple[_Total, float]] = {}
        for dataset in deltas:
            for entry in self.history(dataset):
                charge = entry.charge
                line = (dataset, charge.analyst, charge.purpose, charge.analysis)
                total, last = sums.get(line, (_Total(), charge.time))
                cost = accounting.cost(charge.event) if charge.event is not None else None
                sums[line] = (total.plus(cost), max(last, charge.time))
        return tuple(
            Line(*key, total.spent(deltas[key[0]]), last) for key, (total, last) in sorted(sums.items())
        )

    def verify(self) -> None:
        """Check the file, and that all totals are the sums of their charges; raises `LedgerError` naming what does not fit."""
        with self._database.transaction(write=False):
            intact = self._database.intact()
            charges = self._database.execute("SELECT * FROM charges ORDER BY number").fetchall()
            names = self._database.execute("SELECT dataset, analyst FROM totals").fetchall()
            kept = {name: self._total(*name) for name in names}
        if not intact:
            raise LedgerError(f"ledger {self.path.name}: the database file is damaged")
        sums: dict[tuple[str, str], _Total] = {}
        for number, row in enumerate(charges, 1):
            entry = _entry(row)
            if entry.number != number:
                raise LedgerError(f"ledger {self.path.name}: charge {number} is missing")
            cost = accounting.cost(entry.charge.event) if entry.charge.event is not None else None
            for analyst in (_EVERYONE, entry.charge.analyst):
                name = (entry.charge.dataset, analyst)
                sums[name] = sums.get(name, _Total()).plus(cost)
        for dataset, analyst in sorted(kept.keys() | sums.keys()):
            ours, theirs = sums.get((dataset, analyst)), kept.get((dataset, analyst))
            if ours is None or theirs is None or not _alike(ours, theirs):
                raise LedgerError(
                    f"ledger {self.path.name}: the total of {dataset!r} is not the sum of its charges"
                )

    # --- inside a transaction ---

    def _weigh(
        self, charge: Charge, cost: Cost | None, caps: Caps, number: int
    ) -> tuple[Charged, dict[str, _Total]]:
        """The grant and the new totals; raises `BudgetExceeded` with every cap that they pass."""
        before = {name: self._total(charge.dataset, name) for name in (_EVERYONE, charge.analyst)}
        after = {name: total.plus(cost) for name, total in before.items()}
        of = f"of {charge.dataset!r}"
        own = f"{of} for analyst {charge.analyst!r}"
        reasons = [
            *_releases(f"releases {of}", before[_EVERYONE], caps.releases),
            *_releases(f"releases {own}", before[charge.analyst], caps.analyst_releases),
        ]
        spent, left = 0.0, None
        if caps.epsilon is None or caps.delta is None:
            if cost is not None:
                reasons.append(f"{charge.dataset!r} has no privacy budget: DP releases are not offered")
        else:
            spent = accounting.epsilon(after[_EVERYONE].cost, caps.delta)
            left = max(caps.epsilon - spent, 0.0)
            if cost is not None:
                reasons += _epsilon(
                    f"privacy budget {of}", before[_EVERYONE], after[_EVERYONE], caps.epsilon, caps.delta
                )
                if caps.analyst_epsilon is not None:
                    mine = (before[charge.analyst], after[charge.analyst])
                    reasons += _epsilon(f"privacy budget {own}", *mine, caps.analyst_epsilon, caps.delta)
        if reasons:
            raise BudgetExceeded(reasons)
        return Charged(number, spent, left), after

    def _first(self, charge: Charge) -> Charged | None:
        row = self._database.execute(
            "SELECT * FROM charges WHERE request = ? AND dataset = ?", (charge.request, charge.dataset)
        ).fetchone()
        if row is None:
            return None
        entry = _entry(row)
        if msgspec.structs.replace(entry.charge, time=charge.time) != charge:
            raise InternalError(
                "a request was charged before with another analyst, purpose or event: its digest does not bind them"
            )
        return Charged(entry.number, entry.spent, entry.left, repeated=True)

    def _total(self, dataset: str, analyst: str) -> _Total:
        row = self._database.execute(
            "SELECT exact, private, rho, curve FROM totals WHERE dataset = ? AND analyst = ?",
            (dataset, analyst),
        ).fetchone()
        if row is None:
            return _Total()
        exact, private, rho, blob = row
        if len(blob) != 8 * len(ORDERS):
            raise LedgerError(f"ledger {self.path.name}: the total of {dataset!r} has another format")
        return _Total(Cost(rho, np.frombuffer(blob, "<f8")), exact, private)


def _releases(what: str, before: _Total, cap: int | None) -> Iterator[str]:
    done = before.exact + before.private
    if cap is not None and done + 1 > cap:
        yield f"{what}: {done} of {cap} are used"


def _epsilon(what: str, before: _Total, after: _Total, cap: float, delta: float) -> Iterator[str]:
    total = accounting.epsilon(after.cost, delta)
    if not total <= cap * (1 + _TOLERANCE):
        spent = accounting.epsilon(before.cost, delta)
        yield (
            f"{what}: epsilon {spent:.4g} of {cap:g} is spent, and this release would bring it to {total:.4g}"
        )


def _entry(row: tuple) -> Entry:
    number, request, dataset, analyst, purpose, analysis, text, epsilon, time, spent, left = row
    event = msgspec.json.decode(text, type=prepared(Event)) if text is not None else None
    charge = Charge(request, dataset, analyst, purpose, time, event, epsilon, analysis)
    return Entry(number, charge, spent, left)


def _alike(a: _Total, b: _Total) -> bool:
    same = (a.exact, a.private) == (b.exact, b.private) and np.isclose(
        a.cost.rho, b.cost.rho, rtol=1e-9, atol=0
    )
    return bool(same and np.allclose(a.cost.curve, b.cost.curve, rtol=1e-9, atol=0))
