"""Quantiles from a joint histogram, with the interval that its resolution or its noise leaves.

Exact: order statistics are read from the counts; where a bin is a single value the result is the pooled quantile itself, else it lies
within the bin shown as the interval. DP: the number of values below a leaf is the sum of the noisy bins to its left at each level of the
tree (Hay et al., "Boosting the Accuracy of Differentially Private Histograms through Consistency", VLDB 2010, section 4), so its
noise grows with the logarithm of the number of leaves; the interval inverts that curve at the rank moved by 1.96 deviations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sandbox.plan import BRANCHING, Leaves

Floats = NDArray[np.float64]


def exact(leaves: Leaves, counts: NDArray[Any], q: float) -> tuple[Floats, Floats, Floats]:
    """Estimate, low and high per cell from exact counts of shape [cells, bins]; NaN for an empty cell."""
    below = np.cumsum(counts, axis=1)
    total = below[:, -1]
    position = q * (total - 1)
    under, over = np.floor(position), np.ceil(position)
    pairs = [_order_statistic(leaves, counts, below, rank) for rank in (under, over)]
    weight = position - under
    estimate, low, high = (a + weight * (b - a) for a, b in zip(*pairs, strict=True))
    for values in (estimate, low, high):
        values[total == 0] = np.nan
    return estimate, low, high


def noisy(leaves: Leaves, levels: list[Floats], deviation: float, q: float) -> tuple[Floats, Floats, Floats]:
    """Estimate, and the 95 % interval for the noise, from noisy counts per level."""
    curve, terms = _prefix(leaves, levels)
    total = curve[:, -1]
    # Monotone, between the least curve above and the largest below: either alone would shift every quantile one way.
    below = np.minimum.accumulate(curve[:, ::-1], axis=1)[:, ::-1]
    curve = (np.maximum.accumulate(curve, axis=1) + below) / 2
    rank = q * (total - 1) + 0.5
    # the deviation of (values below) - (q * total), the two taken as if independent
    spread = 1.96 * deviation * np.sqrt(terms.max() + q * q * terms[-1])
    return tuple(_invert(leaves, curve, total, rank + shift) for shift in (0.0, -spread, spread))  # type: ignore[return-value]


def _order_statistic(
    leaves: Leaves, counts: NDArray[Any], below: NDArray[Any], rank: Floats
) -> tuple[Floats, Floats, Floats]:
    """The value at a 0-based rank: its estimate and the bin that holds it."""
    bins = np.minimum((below <= rank[:, None]).sum(axis=1), leaves.bins - 1)
    low = leaves.low + bins * leaves.width
    if leaves.values:
        return low, low, low
    cell = np.arange(len(bins))
    inside = counts[cell, bins]
    offset = (rank - (below[cell, bins] - inside) + 0.5) / np.maximum(inside, 1)
    return low + offset * leaves.width, low, low + leaves.width


def _prefix(leaves: Leaves, levels: list[Floats]) -> tuple[Floats, Floats]:
    """Noisy numbers of values in bins 0 … i, and of how many noisy bins each is the sum."""
    cells = levels[0].shape[0]
    curve, terms = np.zeros((cells, leaves.bins)), np.zeros(leaves.bins)
    last = np.arange(leaves.bins)
    block = 1
    for depth, counts in enumerate(levels):
        bins = (last + 1) // block  # whole blocks of this level that end at or before the leaf
        start = bins // BRANCHING * BRANCHING if depth + 1 < len(levels) else np.zeros_like(bins)
        cumulative = np.concatenate([np.zeros((cells, 1)), np.cumsum(counts, axis=1)], axis=1)
        end = np.minimum(bins, counts.shape[1])
        curve += cumulative[:, end] - cumulative[:, np.minimum(start, end)]
        terms += end - np.minimum(start, end)
        block *= BRANCHING
    return curve, terms


def _invert(leaves: Leaves, curve: Floats, total: Floats, rank: Floats) -> Floats:
    """The value below which `rank` values lie, on the line through the curve's points."""
    bins = np.minimum((curve < rank[:, None]).sum(axis=1), leaves.bins - 1)
    low = leaves.low + bins * leaves.width
    if not leaves.values:
        cell = np.arange(len(bins))
        before = np.where(bins > 0, curve[cell, np.maximum(bins - 1, 0)], 0.0)
        inside = curve[cell, bins] - before
        low = low + np.clip((rank - before) / np.where(inside > 0, inside, 1.0), 0, 1) * leaves.width
    return np.where(total >= 1, low, np.nan)
