"""The best split of every node from its histograms, in XGBoost's arithmetic, so that ties and roundings fall as they do there.

With G, H the sums of gradients and Hessians of a side, a split gains (Chen and Guestrin, KDD 2016, equation 7; without the constant 1/2)

    G_l^2 / (H_l + lambda) + G_r^2 / (H_r + lambda) - G^2 / (H + lambda)

each term in single precision. Every feature is scanned upwards with nulls on the right, then downwards with nulls on the left where there
are any; of equal gains the first found stands, and the lowest feature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from .bins import Bins

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
LEAST_GAIN = np.float32(1e-6)
NULLS_ALONE = -1  # a split that sends every value to the right


class Limits(msgspec.Struct, frozen=True):
    """What a split must keep on both sides."""

    l2: float
    child_weight: float
    leaf_rows: int


class Sums(msgspec.Struct, frozen=True, eq=False):
    """Per entry sums of gradients, Hessians, and rows, of any one shape. `rows` may be None where nothing depends on it."""

    gradient: Floats
    hessian: Floats
    rows: Floats | None

    def __getitem__(self, index: Any) -> Sums:
        rows = None if self.rows is None else self.rows[index]
        return Sums(self.gradient[index], self.hessian[index], rows)

    def __sub__(self, other: Sums) -> Sums:
        rows = None if self.rows is None or other.rows is None else self.rows - other.rows
        return Sums(self.gradient - other.gradient, self.hessian - other.hessian, rows)

    def each(self, apply: Callable[[Floats], Floats]) -> Sums:
        """`apply` to every array."""
        rows = None if self.rows is None else apply(self.rows)
        return Sums(apply(self.gradient), apply(self.hessian), rows)


class Splits(msgspec.Struct, frozen=True, eq=False):
    """Per node: gain (0 where there is none), feature, last bin on the left, whether nulls go left; and the sums of both sides."""

    gain: NDArray[np.float32]
    feature: Integers
    bin: Integers
    nulls_left: NDArray[np.bool_]
    left: Sums
    right: Sums


class Finder:
    """Finds splits over the bins of `bins`."""

    def __init__(self, bins: Bins, limits: Limits):
        self._limits, self._bins = limits, bins
        counts, starts = bins.counts, bins.starts
        self._features, self._most = len(counts), int(counts.max())
        # Columns side by side, each as wide as the widest; what lies beyond a column's own bins is an entry of zeros at the end.
        places = starts[:-1, None] + np.arange(self._most)
        self._places = np.where(np.arange(self._most) < counts[:, None], places, starts[-1])
        self._last = counts - 1

    def best(self, histograms: Sums, totals: Sums) -> Splits:
        """`histograms` [nodes, bins], `totals` [nodes]."""
        nodes = len(totals.gradient)
        spread = histograms.each(
            lambda a: np.concatenate([a, np.zeros((nodes, 1))], axis=1).take(self._places, axis=1)
        )
        below = spread.each(lambda a: np.cumsum(a, axis=2))
        all_ = totals.each(lambda a: a[:, None, None])
        root = _gain(totals, self._limits.l2)
        rise = self._gains(below, all_ - below, root)
        present = below.each(lambda a: a[:, :, -1:])
        nulls = (present.gradient != all_.gradient) | (present.hessian != all_.hessian)
        candidates = [rise]
        if nulls.any():
            above = spread.each(lambda a: np.cumsum(a[:, :, ::-1], axis=2))
            candidates.append(np.where(nulls, self._gains(all_ - above, above, root), np.float32(0)))
        gains = np.concatenate(candidates, axis=2).reshape(nodes, -1)
        choice = gains.argmax(axis=1)
        pick = np.arange(nodes)
        feature, place = np.divmod(choice, gains.shape[1] // self._features)
        nulls_left = place >= self._most
        # Downwards the bins right of the split are counted from the widest column's end, so the split lies below them.
        bin_ = np.where(nulls_left, 2 * self._most - 2 - place, place)
        inner = below[pick, feature, np.maximum(bin_, 0)].each(lambda a: np.where(bin_ < 0, 0.0, a))
        missing = totals - present[pick, feature, 0]
        left = Sums(
            inner.gradient + np.where(nulls_left, missing.gradient, 0.0),
            inner.hessian + np.where(nulls_left, missing.hessian, 0.0),
            None
            if inner.rows is None or missing.rows is None
            else inner.rows + np.where(nulls_left, missing.rows, 0.0),
        )
        bin_ = np.where(nulls_left, bin_, np.minimum(bin_, self._last[feature]))
        return Splits(gains[pick, choice], feature, bin_, nulls_left, left, totals - left)

    def _gains(self, left: Sums, right: Sums, root: NDArray[np.float32]) -> NDArray[np.float32]:
        """Gains of splits [nodes, features, bins]; 0 where a side is too small."""
        limits = self._limits
        both = (_gain(left, limits.l2) + _gain(right, limits.l2)).astype(np.float64)
        gains = (both - root[:, None, None]).astype(np.float32)
        kept = (left.hessian >= limits.child_weight) & (right.hessian >= limits.child_weight)
        kept &= (left.hessian > 0) & (right.hessian > 0)
        if left.rows is not None and right.rows is not None:
            kept &= (left.rows >= limits.leaf_rows) & (right.rows >= limits.leaf_rows)
        return np.where(kept & (gains > LEAST_GAIN), gains, np.float32(0))


def weights(sums: Sums, limits: Limits) -> NDArray[np.float32]:
    """-G / (H + lambda), single precision; 0 where there is too little weight."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (-sums.gradient / (sums.hessian + limits.l2)).astype(np.float32)
    return np.where((sums.hessian < limits.child_weight) | (sums.hessian <= 0), np.float32(0), found)


def _gain(sums: Sums, l2: float) -> NDArray[np.float32]:
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (sums.gradient * sums.gradient / (sums.hessian + l2)).astype(np.float32)
    return np.where(sums.hessian > 0, found, np.float32(0))
