"""The first round of every exact learner: joint rows, departments that have some, and each column's mean and deviation.

Later rounds centre and scale by them, so that no digits are lost to a column far from zero or to bounds far too wide.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from sandbox.design_matrix import Design, Rows
from sandbox.errors import QueryError

from .layout import Layout, Sums, real, whole

Floats = NDArray[np.float64]
Vector = tuple[float, ...]
BLOCK = 1 << 13  # rows at a time: a block of 30 columns stays in the second-level cache


class Moments(msgspec.Struct, frozen=True):
    """Joint rows, departments that have some, and each column's mean and (population) deviation, the target's last where there is one.

    `nonzero` says in how many rows each column is not 0, `watched` how many have each watched level.
    """

    rows: int
    departments: int
    mean: Vector
    deviation: Vector
    nonzero: tuple[int, ...]
    watched: tuple[int, ...] = ()


def layout(low: Floats, watched: int, rows: int) -> Layout:
    """Rows and contributing departments, and rows that are not 0; sums of u and u^2, u in [-1, 1] by the declared bounds."""
    one = np.ones(len(low))
    return Layout((whole("rows", 2 + len(low) + watched), real("first", one), real("second", one)), rows)


def local(low: Floats, high: Floats, rows: Rows) -> Sums:
    center, half = middle(low, high)
    first, second, nonzero = np.zeros(len(center)), np.zeros(len(center)), [0] * len(center)
    for j, values in enumerate(_columns(rows)):
        scaled = (values - center[j]) / half[j]
        first[j], second[j], nonzero[j] = scaled.sum(), scaled @ scaled, int(np.count_nonzero(values))
    return [np.array([len(rows), len(rows) > 0, *nonzero, *rows.watched], np.int64), first, second]


def update(low: Floats, high: Floats, joint: Sums) -> Moments:
    """Raises `QueryError` where no row takes part."""
    counts, first, second = joint
    rows, departments, *others = counts.tolist()
    nonzero, watched = others[: len(low)], others[len(low) :]
    if rows == 0:
        raise QueryError("no row takes part in the fit at any department")
    center, half = middle(low, high)
    mean = first / rows
    deviation = half * np.sqrt(np.maximum(second / rows - mean**2, 0.0))
    return Moments(
        rows, departments, vector(center + half * mean), vector(deviation), tuple(nonzero), tuple(watched)
    )


def level_counts(design: Design, moments: Moments) -> dict[str, int]:
    """Joint rows of each level of each category, and of each side of each condition: what must not be small."""
    counts: dict[str, int] = {}
    for column, nonzero in zip(design.columns, moments.nonzero, strict=False):
        if column.level is not None:
            counts[column.name] = nonzero
        elif column.indicator or design.conditional[column.feature]:
            counts[f"{column.name}, not 0"], counts[f"{column.name}, 0"] = nonzero, moments.rows - nonzero
    for i, levels in enumerate(design.levels):
        if levels and design.reference:
            shown = sum(counts[c.name] for c in design.columns if c.feature == i and c.level is not None)
            nulls = sum(
                n
                for c, n in zip(design.columns, moments.nonzero, strict=False)
                if c.feature == i and c.indicator
            )
            counts[f"{design.fit.features[i].name}[{levels[0]}]"] = moments.rows - shown - nulls
    names = [f"{category.name}[{level}]" for category in design.watched for level in category.levels]
    return counts | dict(zip(names, moments.watched, strict=True))


class Scale:
    """z = (x - center) / scale per column, and the bounds of z. `scale` is a power of two, so that scaling rounds nothing.

    Columns whose mean is at most `near` deviations from zero are not centred: little is lost to that, and a pass over the rows saved. Without
    `centred` (a model without intercept) none is.
    """

    def __init__(self, low: Floats, high: Floats, moments: Moments, centred: bool = True, near: float = 0.0):
        mean, deviation = np.array(moments.mean), np.array(moments.deviation)
        width = (high - low) / 2
        # A column that hardly varies is left at the scale of its bounds: whether it varies at all is for the solver to say.
        size = np.where(deviation > 1e-7 * width, deviation, np.where(width > 0, width, 1.0))
        self.center = np.where(np.abs(mean) > near * deviation, mean, 0.0) if centred else np.zeros(len(mean))
        size = np.hypot(size, mean - self.center)
        self.scale = np.exp2(np.rint(np.log2(size)))
        self.bound = np.maximum(np.abs(low - self.center), np.abs(high - self.center)) / self.scale

    def apply(self, block: Floats, columns: slice | int = slice(None)) -> Floats:
        return (block - self.center[columns]) / self.scale[columns]


def middle(low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Centre and half width of bounds; half width 1 where there is none."""
    half = high / 2 - low / 2
    return low / 2 + high / 2, np.where(half > 0, half, 1.0)


def blocks(rows: Rows) -> list[slice]:
    """The rows, a block at a time."""
    return [slice(begin, begin + BLOCK) for begin in range(0, len(rows), BLOCK)]


def vector(values: Floats) -> Vector:
    return tuple(np.asarray(values, np.float64).tolist())


def _columns(rows: Rows) -> list[Floats]:
    columns = [rows.matrix[:, j] for j in range(rows.matrix.shape[1])]
    return columns if rows.target is None else [*columns, rows.target]
