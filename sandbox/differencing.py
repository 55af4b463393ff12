"""Differencing: does a new exact release differ from an earlier one by too few units? Pure functions on joint counts.

Threat: an analyst, or several who pool what they got, subtracts released values of two nearly equal cohorts and so learns the value of
the few units in which they differ (Denning and Schlörer, "Inference Controls for Statistical Databases", IEEE Computer 1983). The
defence compares cohorts, not texts of queries: two filters that look unlike may select the same people but one.

Every department counts, over its own rows, the units in each new cell, in each released cell, and in each pair of them. The sums of those
over departments (by the same secure aggregation) give the symmetric difference of any two cohorts, |A| + |B| - 2 |A and B|, and of
one and the other's complement. A difference of 1 to k-1 units refuses; none, or k and more, pass.

Whatever can be built by adding and subtracting shown cells of two releases counts, not single cells alone. Let a reader weigh each new cell
by s and each released one by -t, and rows outside by 0: of a row in cells i and j, the value s_i - t_j is left. So the rows left are those
between vertices i and j of different weight: a cut in the graph of cells whose edges are the numbers of shared rows, of at least
two sides; and merging all weights into two leaves no more. Hence the fewest rows that any combination of the two leaves, real
coefficients too, are the lightest cut (`sandbox.cuts`). Once somebody was shown a result over everyone, rows outside may have a weight too.

Does not protect against combinations of three and more releases, but for those of two with one over everyone; rounding and a privacy
budget do. Nor against what a refusal itself tells: that such a difference is there, and is not nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy import sparse

Counts = NDArray[np.int64]


class Released(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An earlier exact release: the digest of its request, the sizes of its keys' domains, and the cells that were shown."""

    request: str
    shape: tuple[int, ...]
    shown: tuple[int, ...]

    @property
    def cells(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


def layout(cells: int, released: Sequence[Released]) -> int:
    """Entries of the vector that every department sends: all units; each new cell; each shown cell; each pair."""
    shown = sum(len(r.shown) for r in released)
    return 1 + cells + shown + cells * shown


def refusals(
    joint: Counts,
    shape: tuple[int, ...],
    released: Sequence[Released],
    least: int,
    rows_per_unit: int = 1,
) -> tuple[str, ...]:
    """Why a release of cells of `shape` must not be shown beside `released`; empty if it may.

    `joint` is the summed vector of `layout`, in rows; `least` is k, the fewest units in which shown cohorts may differ: k - 1 of them may have
    (k - 1) x `rows_per_unit` rows. Reasons name the earlier request, never the number of units.
    """
    cells = int(np.prod(shape, dtype=np.int64))
    total, new = int(joint[0]), joint[1 : 1 + cells]
    shown = sum(len(r.shown) for r in released)
    old = joint[1 + cells : 1 + cells + shown]
    pairs = joint[1 + cells + shown :].reshape(cells, shown)
    ours = _groups(shape, np.flatnonzero(new >= max(least, 1)))
    few = (least - 1) * rows_per_unit  # rows that fewer than `least` units may have
    ends = np.cumsum([0, *(len(earlier.shown) for earlier in released)])
    everyone = any(old[a:b].sum() == total for a, b in itertools.pairwise(ends))
    reasons = []
    for earlier, start, end in zip(released, ends, ends[1:], strict=False):
        theirs = _groups(earlier.shape, np.asarray(earlier.shown, np.int64))[:, list(earlier.shown)]
        a, b = (ours @ new)[:, None], (theirs @ old[start:end])[None, :]
        apart = (a + b - 2 * (ours @ pairs[:, start:end] @ theirs.T))[(a > 0) & (b > 0)]
        if _close(apart, few).any():
            reasons.append(_reason(earlier, least, "a result here and a group of people"))
        elif _close(total - apart, few).any():
            reasons.append(_reason(earlier, least, "a result here and the rest of a group of people"))
        elif few > 0 and _light(total, new, old[start:end], pairs[:, start:end], few, everyone):
            reasons.append(_reason(earlier, least, "sums of results here and of groups of people"))
    return tuple(reasons)


def _light(total: int, new: Counts, old: Counts, pairs: Counts, few: int, everyone: bool) -> bool:
    """Whether some combination of new cells and those of one release leaves 1 to `few` rows.

    Cells of no more than `few` rows are not shown, or could be had alone: they count as outside. Where `everyone` was released, rows outside
    the new cells and rows outside the released ones may differ in weight, unless either alone are so few.
    """
    from scipy import sparse

    from . import cuts

    mine, theirs = np.flatnonzero(new > few), np.flatnonzero(old > few)
    if len(mine) * len(theirs) <= 1:
        return False  # there is nothing to add up
    inner = pairs[np.ix_(mine, theirs)]
    right, below = new[mine] - inner.sum(axis=1), old[theirs] - inner.sum(axis=0)
    outside = total - np.array([new[mine].sum(), old[theirs].sum()])
    neither = outside[0] - below.sum()
    weights = np.block([[inner, right[:, None]], [below[None, :], neither]])
    rows, columns = weights.nonzero()
    size = len(mine) + len(theirs) + 2
    left = np.where(rows < len(mine), rows, size - 2)
    after = np.where(columns < len(theirs), columns + len(mine), size - 1)
    if not everyone or _close(outside, few).any():
        left, after = np.minimum(left, size - 2), np.minimum(after, size - 2)
    apart = left != after
    edges = (weights[rows, columns][apart], (left[apart], after[apart]))
    return cuts.light(sparse.csr_matrix(edges, (size, size)), few)


def _close(apart: Counts, few: int) -> NDArray[Any]:
    return (apart > 0) & (apart <= few)


def _reason(earlier: Released, least: int, what: str) -> str:
    return (
        f"{what} in the release of request {earlier.request[:12]} differ by fewer than {least} units, whose values could be had "
        "by subtraction: ask for coarser groups, or give an epsilon"
    )


def _groups(shape: tuple[int, ...], shown: Counts) -> sparse.csr_matrix:
    """Cohorts that a reader can add up, as rows of 0 and 1 over cells: each shown cell, all of them, and each margin."""
    from scipy import sparse  # needed by the coordinator alone

    index = np.array(np.unravel_index(shown, shape)) if shape else np.zeros((0, len(shown)), np.int64)
    rows = [np.arange(len(shown)), np.full(len(shown), len(shown))]
    if len(shape) > 1:
        starts = len(shown) + 1 + np.concatenate([[0], np.cumsum(shape)])
        rows += [starts[axis] + index[axis] for axis in range(len(shape))]
    at = np.concatenate(rows)
    cells = np.tile(shown, len(rows))
    size = (len(shown) + 1 + sum(shape), int(np.prod(shape, dtype=np.int64)))
    return sparse.csr_matrix((np.ones(len(at), np.int64), (at, cells)), shape=size)
