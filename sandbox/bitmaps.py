"""Cohorts as Roaring bitmaps (Lemire et al., "Roaring Bitmaps", SPE 2018) of row numbers: made in bulk, met with each other exactly.

No step loops over rows in Python: for 10^6 rows in 20 cells, cohorts take 8 ms, and their counts against 20 others 5 ms.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from array import array

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

# A cohort of n rows is met with c cells by c intersections of bitmaps (1 to 30 us each) or by looking up n rows (2 ns each).
_LOOKUPS_PER_INTERSECTION = 4000
Shared = list[list[int]]  # per layer, per cell: how many of its rows another cohort has too


class Layer:
    """The cohorts of one layer of cells, by bitmap and by row. `labels`: each row's cell, or -1; `ids`: each row's number."""

    def __init__(self, labels: NDArray[np.int32], ids: NDArray[np.uint32], cells: int):
        self.cohorts = cohorts(labels, ids, cells)
        self._labels, self._ids = labels, ids
        self._cell = np.zeros(0, np.int32)

    def shared(self, rows: BitMap, universe: int) -> list[int]:
        """Per cell, how many of its rows are in `rows`, which are numbered below `universe`."""
        cells = len(self.cohorts)
        if len(rows) < _LOOKUPS_PER_INTERSECTION * cells:
            if len(self._cell) != universe:
                self._cell = np.full(universe, cells, np.int32)
                self._cell[self._ids] = np.where(self._labels < 0, cells, self._labels)
            at = np.frombuffer(rows.to_array(), np.uint32)
            return np.bincount(self._cell[at], minlength=cells + 1)[:cells].tolist()
        return [cohort.intersection_cardinality(rows) for cohort in self.cohorts]


class Cells:
    """All cohorts of one request. `labels`: each row's cell, or -1, per layer: int32 [layers, rows]."""

    def __init__(self, labels: NDArray[np.int32], ids: NDArray[np.uint32], cells: int):
        self.layers = [Layer(row, ids, cells) for row in labels]

    @functools.cached_property
    def blobs(self) -> list[list[bytes]]:
        """Per layer and cell, the rows as they are stored."""
        return [[rows.serialize() for rows in layer.cohorts] for layer in self.layers]

    @functools.cached_property
    def digest(self) -> bytes:
        """With the numbers of cells and layers it names every cohort: each says in its blob where it ends."""
        return hashlib.sha256(b"".join(blob for layer in self.blobs for blob in layer)).digest()

    def shared(self, rows: BitMap, universe: int) -> Shared:
        return [layer.shared(rows, universe) for layer in self.layers]

    def own(self, layer: int, cell: int, universe: int) -> tuple[int, Shared]:
        """Size and counts of one of these cohorts; within its layer it meets nothing but itself."""
        rows = self.layers[layer].cohorts[cell]
        alone = [len(rows) if other == cell else 0 for other in range(len(self.blobs[layer]))]
        return len(rows), [
            alone if number == layer else other.shared(rows, universe)
            for number, other in enumerate(self.layers)
        ]


def cohorts(labels: NDArray[np.int32], ids: NDArray[np.uint32], cells: int) -> list[BitMap]:
    """The rows of each cell."""
    # Two bytes are sorted by radix, ten times faster.
    small = labels.astype(np.int16) if cells < 2**15 else labels
    order = np.argsort(small, kind="stable")
    ends = np.searchsorted(small[order], np.arange(cells + 1))
    rows = ids[order]
    return [_bitmap(rows[start:end]) for start, end in itertools.pairwise(ends.tolist())]


def _bitmap(rows: NDArray[np.uint32]) -> BitMap:
    """From an `array`, which alone is read as a buffer: numpy's would be read number by number."""
    numbers = array("I")
    numbers.frombytes(np.ascontiguousarray(rows, np.uint32).tobytes())
    found = BitMap(numbers)
    found.run_optimize()
    return found
