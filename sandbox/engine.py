"""One owner's data: checks that they keep their declaration, and computes local sums in the owner's own database.

Nothing here leaves the department: `LocalSums` are this owner's own values, which the gate adds noise to, masks and sends. Only the name of
a version does, in logs and receipts, under a key of the node's: without it, nobody can try a guess at the rows against that name.

An engine never serves data that break the declaration: they are verified when opened, and again whenever they have changed. Error
messages name the data set, the column and what is allowed, never a value.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import hmac
import pathlib
import threading
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sqlglot import exp

from . import compiler, declaration
from . import query as q
from .backend import TABLE, Backend, Columns, Snapshot, check_columns
from .catalog import DataSet, Postgres
from .errors import CatalogError
from .plan import Key, Leaves, Plan

if TYPE_CHECKING:
    import pandas


@dataclasses.dataclass(frozen=True, slots=True)
class LocalSums:
    """One department's sums of a plan, not yet fit to leave.

    `components`: per component an array [cells], int64 where the sum is sure to fit, else Python integers. `leaves`: per
    histogram an int64 array [cells, bins], the finest level only. Cells are in C order over the keys' domains.
    """

    components: list[NDArray[Any]]
    leaves: list[NDArray[np.int64]]


class Engine:
    """The data set `name` of one owner. Safe to use from several threads.

    `source` is a frame, copied; else `dataset.source` says where the rows are: a .parquet or .csv file in `directory`, beside the
    catalogue, or a table in PostgreSQL. Raises `CatalogError` where the data do not keep what `dataset` declares.
    """

    def __init__(
        self,
        name: str,
        dataset: DataSet,
        source: pandas.DataFrame | None = None,
        directory: str | pathlib.Path = ".",
    ):
        self.name, self.dataset, self._schema = name, dataset, dataset.schema()
        self.backend = _open(name, dataset, source, directory)
        self._lock = threading.Lock()
        self._verified: tuple[Hashable] | None = None
        self._secret: bytes | None = None
        with self._snapshot():
            pass

    def keyed(self, secret: bytes) -> Engine:
        """The same engine, whose versions may be published: HMAC-SHA256 (RFC 2104) under `secret`, the same for as long as the data are."""
        named = copy.copy(self)
        named._secret = secret
        return named

    def version(self) -> str:
        """A digest that names this version of the data. Unless `keyed` it confirms a guess at them, and must not leave."""
        with self._snapshot() as snapshot:
            return self._name(snapshot)

    def read(self, *queries: exp.Select) -> tuple[Any, ...]:
        """The version of the data, and the columns of each query's result, all of that version. Queries know the data as `backend.TABLE`.

        Raises `CatalogError` if the data change meanwhile.
        """
        with self._snapshot() as snapshot:
            version = self._name(snapshot)
            results = [snapshot.run(query) for query in queries]
            if not snapshot.settled():
                raise CatalogError(f"data set {self.name!r}: the data changed while they were read")
        return version, *results

    def sums(self, plan: Plan, *, bounded: bool) -> LocalSums:
        """The sums of `plan`; `bounded` (for DP) clips values to their bounds and limits each unit's rows.

        Rows whose key is outside its declared domain are left out.
        """
        with self._snapshot() as snapshot:
            components = self._components(snapshot, plan, bounded) if plan.components else []
            leaves = [self._histogram(snapshot, plan, part, bounded) for part in plan.leaves]
        return LocalSums(components, leaves)

    def _name(self, snapshot: Snapshot) -> str:
        if self._secret is None:
            return snapshot.version()
        message = f"data version\0{self.name}\0{snapshot.version()}".encode()
        return hmac.digest(self._secret, message, hashlib.sha256).hex()

    def _components(self, snapshot: Snapshot, plan: Plan, bounded: bool) -> list[NDArray[Any]]:
        columns = snapshot.run(compiler.sums(plan, self._schema, TABLE, bounded=bounded))
        inside, places = cells(plan, columns)
        return [
            _scatter(columns[f"c{i}"], inside, places, plan.cells, compiler.wide(component, self._schema))
            for i, component in enumerate(plan.components)
        ]

    def _histogram(self, snapshot: Snapshot, plan: Plan, leaves: Leaves, bounded: bool) -> NDArray[np.int64]:
        columns = snapshot.run(compiler.histogram(plan, leaves, self._schema, TABLE, bounded=bounded))
        inside, places = cells(plan, columns)
        counts = np.zeros(plan.cells * leaves.bins, np.int64)
        counts[places * leaves.bins + columns["bin"][inside].astype(np.int64)] = columns["n"][inside]
        return counts.reshape(plan.cells, leaves.bins)

    # --- verification ---

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[Snapshot]:
        """The data as they are now, verified before they are served."""
        with self.backend.snapshot() as snapshot:
            with self._lock:
                if self._verified != (snapshot.state,):
                    self._verify(snapshot)
                    self._verified = (snapshot.state,)
            yield snapshot

    def _verify(self, snapshot: Snapshot) -> None:
        """Check that the data keep the declaration, in at most two scans; raises `CatalogError` with every breach."""
        stored = snapshot.columns()
        check_columns(self.name, self.dataset, stored)
        query, checks = declaration.verification(
            self.dataset, TABLE, {name: column.storage for name, column in stored.items()}
        )
        flags = snapshot.run(query, raw=True)
        broken: dict[str, str] = {}
        for i, (column, reason) in enumerate(checks):
            if flags[f"v{i}"][0]:
                broken.setdefault(column, reason)
        unit = self.dataset.unit
        if unit is not None and not broken:
            crowded = snapshot.run(declaration.crowded(self.dataset, TABLE), raw=True)
            if len(crowded["crowded"]):
                broken[unit] = (
                    f"units with more rows than 'rows_per_unit' allows, {self.dataset.rows_per_unit}"
                )
        if broken:
            parts = [f"column {name!r}: {reason}" if name else reason for name, reason in broken.items()]
            raise CatalogError(f"data set {self.name!r}: {'; '.join(parts)}")


def _open(
    name: str, dataset: DataSet, source: pandas.DataFrame | None, directory: str | pathlib.Path
) -> Backend:
    if source is None and isinstance(dataset.source, Postgres):
        from .postgres import PostgreSQL

        return PostgreSQL(name, dataset)
    from .embedded import Embedded

    return Embedded(name, dataset, source, directory)


def cells(plan: Plan, columns: Columns) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which groups lie inside the declared domains, and the cells of those."""
    groups = len(next(iter(columns.values())))
    places = np.zeros(groups, np.int64)
    inside = np.ones(groups, np.bool_)
    for i, key in enumerate(plan.keys):
        codes = _codes(key, columns[f"k{i}"])
        inside &= codes >= 0
        places = places * len(key.domain) + codes
    return inside, places[inside]


def _codes(key: Key, column: Any) -> NDArray[np.int64]:
    """The index of each group's key in its domain; -1 for none."""
    null = len(key.domain) - 1 if key.domain[-1] is None else -1
    mask = np.ma.getmaskarray(column)
    values = np.ma.getdata(column)
    codes = np.full(len(values), null, np.int64)
    if isinstance(key.term, q.Cut | q.Case) or isinstance(key.domain[0], bool):
        codes[~mask] = values[~mask].astype(np.int64)
    elif isinstance(key.domain[0], int):
        offsets = values[~mask].astype(np.int64) - key.domain[0]
        known = len(key.domain) - (null >= 0)
        codes[~mask] = np.where((offsets >= 0) & (offsets < known), offsets, -1)
    else:
        index = {value: i for i, value in enumerate(key.domain)}
        codes[~mask] = [index.get(value, -1) for value in values[~mask]]
    return codes


def _scatter(
    column: Any, inside: NDArray[np.bool_], places: NDArray[np.int64], size: int, wide: bool
) -> NDArray[Any]:
    """Sums of the groups, at their cells; digits become Python integers."""
    total = np.zeros(size, object if wide else np.int64)
    values = np.ma.getdata(column)[inside]
    total[places] = np.array([int(digits) for digits in values], object) if wide else values
    return total
