"""Bins of columns for boosting: edges that depend on declared bounds, or on joint counts over a fine grid between them; never on a single row.

Edges are single precision, as XGBoost compares: bin b holds edge[b-1] <= x < edge[b]. A whole number with few values, and a column of 0 and
1, has a bin a value. A column with nulls has one bin more for them, the last.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from sandbox.design_matrix import Design

Singles = NDArray[np.float32]
FINE = 4096  # cells of the grid on which quantiles are found


class Bins(msgspec.Struct, frozen=True):
    """Per column its inner edges, in order, and whether it has a bin for nulls."""

    edges: tuple[tuple[float, ...], ...]
    nulls: tuple[bool, ...]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Bins of each column, without that for nulls."""
        return np.array([len(edges) + 1 for edges in self.edges])

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each column's bins begin in one vector of all; the last entry is its length."""
        return np.append(0, np.cumsum(self.counts + np.array(self.nulls)))

    def codes(self, column: int, values: NDArray[np.float64]) -> NDArray[np.uint8]:
        """The bin of each value."""
        edges = np.array(self.edges[column], np.float32)
        singles = values.astype(np.float32)
        codes = np.searchsorted(edges, singles, side="right")
        codes[np.isnan(singles)] = len(edges) + 1
        return codes.astype(np.uint8)


def nulls(design: Design) -> tuple[bool, ...]:
    """Which columns may hold nulls."""
    keep = design.fit.missing == "keep"
    return tuple(keep and design.nullable[column.feature] for column in design.columns)


def by_bounds(design: Design, most: int) -> Bins:
    """Equal widths between the declared bounds."""
    edges = []
    for j, column in enumerate(design.columns):
        fixed = _values(design, j, most)
        edges.append(fixed if fixed else _distinct(np.linspace(column.low, column.high, most + 1)[1:-1]))
    return Bins(tuple(edges), nulls(design))


def gridded(design: Design, most: int) -> tuple[int, ...]:
    """The columns whose quantiles are asked for: those without a bin a value."""
    return tuple(j for j in range(len(design.columns)) if not _values(design, j, most))


def grid(low: float, high: float) -> Singles:
    """Inner edges of the fine grid."""
    return np.linspace(low, high, FINE + 1)[1:-1].astype(np.float32)


def cells(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.int64]:
    """The cell of each value that is not null. Roundings at edges do not matter: edges of bins are chosen by it, not compared."""
    scaled = (values[~np.isnan(values)] - low) * (FINE / (high - low))
    return np.clip(scaled, 0, FINE - 1).astype(np.int64)


def by_quantiles(design: Design, most: int, counts: NDArray[np.int64]) -> Bins:
    """About as many rows in each bin. `counts`: joint rows per cell of the grid, [gridded columns, FINE]."""
    places = {j: i for i, j in enumerate(gridded(design, most))}
    edges = []
    for j, column in enumerate(design.columns):
        if j not in places:
            edges.append(_values(design, j, most))
            continue
        below = np.cumsum(counts[places[j]])
        wanted = np.arange(1, most) * (below[-1] / most)
        cells = np.unique(np.searchsorted(below, wanted, side="left").clip(0, FINE - 2))
        edges.append(_distinct(grid(column.low, column.high)[cells]))
    return Bins(tuple(edges), nulls(design))


def _values(design: Design, j: int, most: int) -> tuple[float, ...]:
    """Edges of a column with a bin for each of its values; () for one with too many."""
    column = design.columns[j]
    if column.level is not None or column.indicator:
        return (0.5,)
    span = column.high - column.low
    if (
        not design.whole[column.feature]
        or not 1 <= span < most
        or max(abs(column.low), abs(column.high)) >= 2**24
    ):
        return ()
    return tuple(column.low + i for i in range(1, int(span) + 1))


def _distinct(values: NDArray[np.floating]) -> tuple[float, ...]:
    return tuple(float(str(value)) for value in np.unique(values.astype(np.float32)))
