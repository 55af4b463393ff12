"""The first round of every exact learner: joint rows, departments that have some, and each column's mean and deviation.

Later rounds centre and scale by them, so that no digits are lost to a column far from zero or to bounds far too wide.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from sandbox import fit as f
from sandbox.design_matrix import Column, Design, Rows
from sandbox.disclosure import Rules
from sandbox.errors import QueryError

from .layout import Layout, Sums, real, whole

Floats = NDArray[np.float64]
Vector = tuple[float, ...]
NO_CLASSES = np.zeros(0, np.int64)
BLOCK = 1 << 13  # rows at a time: a block of 30 columns stays in the second-level cache


class Moments(msgspec.Struct, frozen=True):
    """Joint rows, departments that have some, and each column's mean and (population) deviation, the target's last where there is one.

    The others are `counts`.
    """

    rows: int
    departments: int
    mean: Vector
    deviation: Vector
    nonzero: tuple[int, ...]
    watched: tuple[int, ...] = ()
    classes: tuple[int, ...] = ()


def layout(design: Design, rows: int) -> Layout:
    """The counts; sums of u and u^2, u in [-1, 1] by the declared bounds."""
    one = np.ones(len(_ends(design)[0]))
    return Layout((whole("rows", size(design)), real("first", one), real("second", one)), rows)


def size(design: Design) -> int:
    """How many counts there are."""
    levels = sum(len(category.levels) for category in design.watched)
    target = 0 if design.target is None else 1 + len(design.target.classes)
    return 2 + len(design.columns) + levels + target


def counts(design: Design, rows: Rows) -> NDArray[np.int64]:
    """Rows, and 1 where there are any; rows in which each column is not 0, or not the lower of its two values, the target's last; of each
    watched level; of each class of the target."""
    zeros = [column.low if _two(design, column) else 0.0 for column in design.columns]
    target, classes = design.target, NO_CLASSES
    if target is not None:
        zeros.append(target.low if target.two else 0.0)
    if target is not None and target.classes and rows.target is not None:
        classes = np.bincount(rows.target.astype(np.int64), minlength=len(target.classes))
    nonzero = [
        np.count_nonzero(values - zero if zero else values)
        for values, zero in zip(_columns(rows), zeros, strict=True)
    ]
    watched = rows.watched or (0,) * sum(len(category.levels) for category in design.watched)
    return np.array([len(rows), len(rows) > 0, *nonzero, *watched, *classes], np.int64)


def counted(design: Design, values: NDArray[np.int64], mean: Vector = (), deviation: Vector = ()) -> Moments:
    """From joint counts."""
    rows, departments, *others = np.asarray(values).tolist()
    columns = len(design.columns) + (design.target is not None)
    classes = len(others) - (0 if design.target is None else len(design.target.classes))
    split = tuple(others[:columns]), tuple(others[columns:classes]), tuple(others[classes:])
    return Moments(rows, departments, mean, deviation, *split)


def local(design: Design, rows: Rows) -> Sums:
    center, half = middle(*_ends(design))
    first, second = np.zeros(len(center)), np.zeros(len(center))
    for j, values in enumerate(_columns(rows)):
        scaled = (values - center[j]) / half[j]
        first[j], second[j] = scaled.sum(), scaled @ scaled
    return [counts(design, rows), first, second]


def update(design: Design, joint: Sums) -> Moments:
    """Raises `QueryError` where no row takes part."""
    values, first, second = joint
    rows = int(values[0])
    if rows == 0:
        raise QueryError("no row takes part in the fit at any department")
    center, half = middle(*_ends(design))
    mean = first / rows
    deviation = half * np.sqrt(np.maximum(second / rows - mean**2, 0.0))
    return counted(design, np.asarray(values), vector(center + half * mean), vector(deviation))


def refusals(
    design: Design, moments: Moments, parameters: int, rules: Rules, target: bool = False
) -> tuple[str, ...]:
    """Why disclosure control shows nothing of a model of these rows, if it does not. `target`: look at no level of a feature."""
    found = f.refusals(
        rules, moments.rows, moments.departments, parameters, level_counts(design, moments, target)
    )
    if moments.classes and min(moments.classes) < rules.min_cell:
        found += (f"a class of the target: fewer than {rules.min_cell} rows",)
    return found


def level_counts(design: Design, moments: Moments, target: bool = False) -> dict[str, int]:
    """Joint rows of each level of each category and of each side of each condition, of features and target, and rows in which a number is not
    0: what must not be small. `target`: the target's alone."""
    counts = {} if target else _features(design, moments)
    wanted = design.target
    if wanted is not None and not wanted.classes:
        nonzero = moments.nonzero[-1]
        counts[f"{wanted.name}, not {wanted.low if wanted.two else 0:g}"] = nonzero
        if wanted.two:
            counts[f"{wanted.name}, {wanted.low:g}"] = moments.rows - nonzero
    names = [(category, level) for category in design.watched for level in category.levels]
    for (category, level), rows in zip(names, moments.watched, strict=True):
        if category.target or not target:
            counts[f"{category.name}[{level}]"] = rows
    return counts


def _features(design: Design, moments: Moments) -> dict[str, int]:
    counts: dict[str, int] = {}
    pairs = list(zip(design.columns, moments.nonzero, strict=False))
    nulls = {column.feature: nonzero for column, nonzero in pairs if column.indicator}
    for column, nonzero in pairs:
        if column.level is not None:
            counts[column.name] = nonzero
        elif _two(design, column):
            # Nulls with an indicator stand between the two values.
            low, mine = (0.0, 0) if column.indicator else (column.low, nulls.get(column.feature, 0))
            counts[f"{column.name}, not {low:g}"] = nonzero - mine
            counts[f"{column.name}, {low:g}"] = moments.rows - nonzero
        else:
            mine = nulls.get(column.feature, 0) if column.low + column.high else 0
            counts[f"{column.name}, not 0"] = nonzero - mine
    for i, levels in enumerate(design.levels):
        if levels and design.reference:
            shown = sum(counts[c.name] for c in design.columns if c.feature == i and c.level is not None)
            counts[f"{design.fit.features[i].name}[{levels[0]}]"] = moments.rows - shown - nulls.get(i, 0)
    return counts


def _two(design: Design, column: Column) -> bool:
    return column.level is None and (column.indicator or design.two[column.feature])


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


def _ends(design: Design) -> tuple[Floats, Floats]:
    target = design.target
    if target is None:
        return design.low, design.high
    return np.append(design.low, target.low), np.append(design.high, target.high)


def _columns(rows: Rows) -> list[Floats]:
    columns = [rows.matrix[:, j] for j in range(rows.matrix.shape[1])]
    return columns if rows.target is None else [*columns, rows.target]
