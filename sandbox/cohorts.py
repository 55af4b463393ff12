"""The cohorts of earlier exact releases at one node, kept for ever, and this node's counts against them.

Each cell of a release is a bitmap of rows (`sandbox.bitmaps`). `vector` gives what `differencing` sums over departments; the counts are
exact, and cost microseconds a pair of cells. Releases to all analysts are one list: who asked makes no difference to what can be
subtracted. Releases with equal cohorts are counted once.

A release enters with all its cells as soon as this node has sent sums for it, and is settled once, when the record says which cells
were shown; one whose record never came counts as shown whole. So a coordinator that crashes, or keeps a record back, hides nothing.

A row keeps its number from one version of the data to the next (`members.keys`), so that what differs between two versions is
counted too. Rows that are gone stay in the cohorts that were released with them.

What is counted are rows; `differencing.refusals` is told how many a unit may have.

Nothing here leaves the department but the vector, under a mask.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from . import differencing
from .bitmaps import Cells, Shared
from .database import Database
from .differencing import Counts, Released
from .errors import InternalError, ScheduleError
from .members import Members
from .prepared import prepared

FORMAT = 1
_SCHEMA = """
CREATE TABLE rows (dataset TEXT PRIMARY KEY, version TEXT NOT NULL, keys BLOB NOT NULL, ids BLOB NOT NULL) STRICT;
CREATE TABLE releases (
    number INTEGER PRIMARY KEY, dataset TEXT NOT NULL, request TEXT NOT NULL, shape TEXT NOT NULL, layers INTEGER NOT NULL,
    shown TEXT NOT NULL, settled INTEGER NOT NULL, digest BLOB NOT NULL, UNIQUE (dataset, request)) STRICT;
CREATE TABLE cells (
    release INTEGER NOT NULL REFERENCES releases, layer INTEGER NOT NULL, cell INTEGER NOT NULL, rows BLOB NOT NULL,
    PRIMARY KEY (release, layer, cell)) STRICT;
"""


class _Release(msgspec.Struct, frozen=True):
    """`digest` is of all its cohorts, those too that are forgotten: with shape and layers it names each of them."""

    number: int
    request: str
    shape: tuple[int, ...]
    layers: int
    shown: tuple[int, ...]
    settled: bool
    digest: bytes


_Key = tuple[bytes, tuple[int, ...], int, int, int]


class _Cohort(msgspec.Struct, frozen=True):
    """One cohort that is kept, and its `place` in the table. Equal keys are of equal cohorts, whatever the release."""

    key: _Key
    place: tuple[int, int, int]


class Cohorts:
    """The store at `path`, made where there is none. Safe to use from threads and processes; open it after a fork, not before."""

    def __init__(self, path: str | os.PathLike[str]):
        self._database = Database(path, _SCHEMA, FORMAT)
        self._latest: tuple[Members | None, Cells | None] = (None, None)
        self._numbers: dict[str, tuple[str, NDArray[np.uint32]]] = {}

    def close(self) -> None:
        self._database.close()

    def knows(self, dataset: str, version: str) -> bool:
        """Whether the rows of this version have numbers; if not, `identify` must come before all else."""
        with self._database.transaction(write=False):
            found = self._database.execute(
                "SELECT version FROM rows WHERE dataset = ?", (dataset,)
            ).fetchone()
        return found == (version,)

    def identify(self, dataset: str, version: str, keys: NDArray[np.uint64]) -> None:
        """Number the rows of a version by their keys (`members.keys`): known rows keep their number, new ones get the next."""
        with self._database.transaction(write=True):
            row = self._database.execute("SELECT keys FROM rows WHERE dataset = ?", (dataset,)).fetchone()
            known = np.frombuffer(row[0] if row else b"", "<u8")
            order = np.argsort(known)
            at = np.searchsorted(known, keys, sorter=order)
            ids = np.zeros(len(keys), np.int64) if not len(known) else order[np.minimum(at, len(known) - 1)]
            new = np.ones(len(keys), bool) if not len(known) else known[ids] != keys
            ids[new] = len(known) + np.arange(new.sum())
            everyone = np.concatenate([known, keys[new]])
            self._database.execute(
                "INSERT OR REPLACE INTO rows (dataset, version, keys, ids) VALUES (?, ?, ?, ?)",
                (dataset, version, everyone.astype("<u8").tobytes(), ids.astype("<u4").tobytes()),
            )

    def add(self, dataset: str, request: str, members: Members, cleared: Collection[str]) -> None:
        """Keep the cohorts of a release before its sums leave, all cells as shown. The same again changes nothing.

        `cleared` are the requests whose cohorts the joint differences were taken from. Raises `ScheduleError` if another came
        in meanwhile: of two requests under way at once, neither of which knows the other, only the first passes.
        """
        cells = int(np.prod(members.shape, dtype=np.int64))
        with self._database.transaction(write=True):
            ids, _ = self._ids(dataset, members.version)
            new = self._cells(members, ids, cells)
            [found] = self._database.execute(
                "SELECT max(digest) FROM releases WHERE dataset = ? AND request = ?", (dataset, request)
            ).fetchone()
            if found is not None:
                if found != new.digest:
                    raise InternalError("a request was released before with other rows")
                return
            if any(release.request not in cleared for release in self._releases(dataset)):
                raise ScheduleError(
                    "another exact release was made while this one was being compared: ask again"
                )
            number = self._database.execute(
                "INSERT INTO releases VALUES (NULL, ?, ?, ?, ?, ?, 0, ?)",
                (dataset, request, _json(members.shape), len(new.layers), _json(range(cells)), new.digest),
            ).lastrowid
            for layer, blobs in enumerate(new.blobs):
                for cell, blob in enumerate(blobs):
                    self._database.execute(
                        "INSERT INTO cells VALUES (?, ?, ?, ?)", (number, layer, cell, blob)
                    )

    def settle(self, dataset: str, request: str, shown: Sequence[int], *, included: bool = True) -> None:
        """Once the record says which cells were `shown`, and whether this department is `included` in their sums: forget
        the rest. The same again changes nothing; something else raises `ScheduleError`."""
        wanted = tuple(sorted({int(cell) for cell in shown}))
        with self._database.transaction(write=True):
            release = next((r for r in self._releases(dataset) if r.request == request), None)
            if release is None:
                raise ScheduleError("a record names a request that this department has sent no sums for")
            if release.settled:
                if wanted != release.shown:
                    raise ScheduleError("a second record of one release names other cells")
                return
            if not set(wanted) <= set(release.shown):
                raise ScheduleError("a record names cells that its release does not have")
            self._database.execute(
                "UPDATE releases SET shown = ?, settled = 1 WHERE number = ?", (_json(wanted), release.number)
            )
            gone = release.shown if not included else sorted(set(release.shown) - set(wanted))
            for cell in gone:
                self._database.execute(
                    "DELETE FROM cells WHERE release = ? AND cell = ?", (release.number, cell)
                )

    def released(self, dataset: str) -> tuple[Released, ...]:
        """All earlier releases, the first first, one entry a layer: all departments of a joint table have the same."""
        with self._database.transaction(write=False):
            return tuple(
                Released(name, release.shape, release.shown)
                for release in self._releases(dataset)
                for name in _names(release)
            )

    def vector(self, dataset: str, members: Members, released: Sequence[Released]) -> Counts:
        """This department's counts in `differencing.layout`, one row a layer of `members`: int64 [layers, entries].

        `released` is the coordinator's list. Raises `ScheduleError` if it leaves out, or has with other cells, what this department
        knows of; what only others took part in counts nothing here.
        """
        cells = int(np.prod(members.shape, dtype=np.int64))
        with self._database.transaction(write=False):
            ids, universe = self._ids(dataset, members.version)
            own = {name: release for release in self._releases(dataset) for name in _names(release)}
            _check(own, released)
            new = self._cells(members, ids, cells)
            nobody = (0, [[0] * cells for _ in new.layers])
            met: dict[_Key, tuple[int, Shared]] = {}
            sizes, pairs = [], []
            for earlier in released:
                old = self._cohorts(own.get(earlier.request), earlier.request)
                for cell in earlier.shown:
                    size, meetings = nobody
                    if (cohort := old.get(cell)) is not None:
                        if cohort.key not in met:
                            met[cohort.key] = self._meet(cohort, new, members.shape, universe)
                        size, meetings = met[cohort.key]
                    sizes.append(size)
                    pairs.append(meetings)
        count = len(new.layers)
        shared = np.array(pairs, np.int64).reshape(len(sizes), count, cells).transpose(1, 2, 0)
        head = [[universe, *map(len, layer.cohorts), *sizes] for layer in new.layers]
        return np.concatenate([np.array(head, np.int64), shared.reshape(count, -1)], axis=1)

    def local_refusals(
        self, dataset: str, members: Members, least: int, rows_per_unit: int = 1
    ) -> tuple[str, ...]:
        """Why this department alone would refuse: its own rows differ from a released cohort of its own by too few."""
        released = self.released(dataset)
        counts = self.vector(dataset, members, released)
        return refusals(counts, members.shape, released, least, rows_per_unit)

    # --- inside a transaction ---

    def _releases(self, dataset: str) -> list[_Release]:
        rows = self._database.execute(
            "SELECT number, request, shape, layers, shown, settled, digest FROM releases WHERE dataset = ? ORDER BY number",
            (dataset,),
        ).fetchall()
        return [
            _Release(number, request, _integers(shape), layers, _integers(shown), bool(settled), digest)
            for number, request, shape, layers, shown, settled, digest in rows
        ]

    def _cohorts(self, release: _Release | None, name: str) -> dict[int, _Cohort]:
        """What is kept of one layer of a release: a cohort per cell."""
        if release is None:
            return {}
        layer = _names(release).index(name)
        kept = self._database.execute(
            "SELECT cell FROM cells WHERE release = ? AND layer = ?", (release.number, layer)
        )
        same = (release.digest, release.shape, release.layers, layer)
        return {cell: _Cohort((*same, cell), (release.number, layer, cell)) for (cell,) in kept}

    def _meet(self, cohort: _Cohort, new: Cells, shape: tuple[int, ...], universe: int) -> tuple[int, Shared]:
        """Its size, and how many rows each new cohort has of it."""
        *same, layer, cell = cohort.key
        if same == [new.digest, shape, len(new.layers)]:
            return new.own(layer, cell, universe)
        rows = self._rows(cohort)
        return len(rows), new.shared(rows, universe)

    def _rows(self, cohort: _Cohort) -> BitMap:
        [blob] = self._database.execute(
            "SELECT rows FROM cells WHERE release = ? AND layer = ? AND cell = ?", cohort.place
        ).fetchone()
        return BitMap.deserialize(blob)

    def _cells(self, members: Members, ids: NDArray[np.uint32], cells: int) -> Cells:
        """The cohorts of `members`, worked out once for its comparison and its keeping."""
        known, found = self._latest
        if found is None or known is not members:
            found = Cells(members.cells, ids, cells)
            self._latest = (members, found)
        return found

    def _ids(self, dataset: str, version: str) -> tuple[NDArray[np.uint32], int]:
        """The numbers of the rows of a version, and how many rows there are or ever were."""
        row = self._database.execute(
            "SELECT length(keys) / 8 FROM rows WHERE dataset = ? AND version = ?", (dataset, version)
        ).fetchone()
        if row is None:
            raise InternalError(f"the rows of {dataset!r} have no numbers in this version of the data")
        known, ids = self._numbers.get(dataset, ("", _NONE))
        if known != version:  # they never change, so they are read once
            [blob] = self._database.execute("SELECT ids FROM rows WHERE dataset = ?", (dataset,)).fetchone()
            ids = np.frombuffer(blob, "<u4")
            self._numbers[dataset] = (version, ids)
        return ids, row[0]


def refusals(
    joint: Counts,
    shape: tuple[int, ...],
    released: Sequence[Released],
    least: int,
    rows_per_unit: int = 1,
) -> tuple[str, ...]:
    """`differencing.refusals` of every layer of a summed `vector`, each reason once."""
    found = [differencing.refusals(layer, shape, released, least, rows_per_unit) for layer in joint]
    return tuple(dict.fromkeys(reason for reasons in found for reason in reasons))


_NONE = np.zeros(0, np.uint32)


def _check(own: dict[str, _Release], released: Sequence[Released]) -> None:
    theirs = {earlier.request: earlier for earlier in released}
    if len(theirs) != len(released):
        raise ScheduleError("the list of earlier releases names one twice")
    for name, release in own.items():
        listed = theirs.get(name)
        if listed is None:
            raise ScheduleError(
                "the list of earlier releases leaves out one that this department took part in"
            )
        if listed.shape != release.shape or (release.settled and listed.shown != release.shown):
            raise ScheduleError("the list of earlier releases has one with other cells than its record")


def _names(release: _Release) -> list[str]:
    """One per layer."""
    return [release.request, *(f"{release.request}/{layer}" for layer in range(1, release.layers))]


def _json(values: Sequence[int]) -> str:
    return msgspec.json.encode(list(values)).decode()


def _integers(text: str) -> tuple[int, ...]:
    return msgspec.json.decode(text, type=prepared(tuple[int, ...]))
