"""Disclosure control of exact results: which joint values are shown, and how rounded. Pure functions on joint sums.

Threat: a reader of releases, possibly one of the departments, who subtracts what it knows. Rules (Hundepool et al., "Statistical Disclosure
Control", 2012, ch. 4-5; defaults by level of GB/T 43697-2024 as in the table `RULES`):

- minimum cell: fewer than `min_cell` units, or non-null values, and the value is suppressed. An empty cell is suppressed too.
- departments: a value to which fewer than `min_departments` departments contribute is suppressed: with two, each could
  subtract its own part.
- dominance, for sums and means: (2, 90 %) and p % = 10. Both ask for the two largest contributions x1 >= x2, which no department may
  show. But x1 + x2 <= sqrt(2 Q) and 1.1 x1 + x2 <= sqrt(2.21 Q), Q the sum of squares (Cauchy-Schwarz), and Q is one more secure sum.
  So a value is shown only if Q <= 0.405 T^2, T the sum of absolute values: then x1 + x2 <= 0.9 T and T - x1 - x2 >= 0.1 x1. The test is
  conservative: it never passes a dominated cell, and may suppress a skewed one with few contributors. Where a unit has up to R rows, its
  squared total is at most R times its sum of squares.
- two values: a sum, mean, variance, covariance or correlation of a column with two values (yes and no, 0 and 1) tells how many rows have
  each, so each is a count of its own, down to the four of a pair: all of fewer than `min_cell` units suppress it.
- full cells: where every unit of a group (all keys but one held fixed) is in one cell, showing it would tell that key of each of them, so
  it is suppressed, unless the filter already speaks of that key's columns.
- rounding: with a base b, counts are rounded to multiples of b and every other sum to multiples of b row bounds, before anything is
  derived from them.

- conditions: an aggregated expression may not choose among a cell's rows, as a comparison, a case, a band or a yes/no column in arithmetic
  would: its sum would be of fewer units than the cell that was counted.

Not here: differencing between releases (`sandbox.differencing`).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np

from . import query as q
from .catalog import Level, Schema
from .plan import Plan

DOMINANCE = 0.405

_CONDITIONS = (q.Compare, q.Logic, q.Not, q.IsIn, q.IsNull, q.Case, q.Cut)


class Rules(msgspec.Struct, frozen=True):
    """What an exact value must keep. `rounding` 0 and `min_cell` 0 mean none."""

    min_cell: int
    rounding: int = 0
    dominance: bool = True
    min_departments: int = 3


NONE = Rules(min_cell=0, dominance=False, min_departments=0)
RULES: dict[Level, Rules | None] = {
    "core": None,
    "important": None,
    "general-4": Rules(min_cell=20),
    "general-3": Rules(min_cell=10, rounding=5),
    "general-2": Rules(min_cell=10),
    "general-1": NONE,
}


def strictest(rules: Iterable[Rules]) -> Rules:
    """Every department's rule holds."""
    several = list(rules)
    return Rules(
        max(r.min_cell for r in several),
        max(r.rounding for r in several),
        any(r.dominance for r in several),
        max(r.min_departments for r in several),
    )


def cell_reasons(rules: Rules, units: np.ndarray, departments: np.ndarray) -> np.ndarray:
    """Per cell the reason to suppress it, or "". `units`, `departments`: joint counts, shape [cells]."""
    reasons = np.full(len(units), "", dtype=object)
    reasons[departments < rules.min_departments] = (
        f"fewer than {rules.min_departments} departments contribute"
    )
    reasons[units < rules.min_cell] = f"fewer than {rules.min_cell} units"
    return reasons


def choosing(plan: Plan, schema: Schema) -> bool:
    """Whether an aggregated expression depends on a condition, so that its sums are of other units than its cell holds."""
    terms = [factor.term for component in plan.components for factor in component.factors]
    nodes = [node for term in (*terms, *(leaves.term for leaves in plan.leaves)) for node in q.walk(term)]
    inside = [inner for node in nodes if isinstance(node, q.Arithmetic) for inner in q.walk(node)]
    return any(isinstance(node, _CONDITIONS) for node in nodes) or any(
        isinstance(node, q.Column) and schema.columns[node.name].type == "boolean" for node in inside
    )


def one_sided(rules: Rules, counts: Iterable[np.ndarray], rows_per_unit: int) -> np.ndarray | bool:
    """Where fewer than `min_cell` units may have one of the values that `counts`, in rows, are of."""
    few = (rules.min_cell - 1) * rows_per_unit
    return np.logical_or.reduce([rows <= few for rows in counts]) if few > 0 else False


def full(units: np.ndarray, shape: tuple[int, ...], axes: Iterable[int]) -> np.ndarray:
    """Cells that hold every unit of their group along one of `axes`; `units` has one entry a cell, in C order of `shape`."""
    table = units.reshape(shape)
    found = np.zeros(shape, dtype=bool)
    for axis in axes:
        if shape[axis] > 1:
            found |= (table > 0) & (table == table.sum(axis=axis, keepdims=True))
    return found.reshape(-1)


def dominated(rules: Rules, absolute: np.ndarray, squares: np.ndarray, rows_per_unit: int) -> np.ndarray:
    """Where two units could make up too much of a sum. `absolute`: sum of |x|, `squares`: sum of x^2, shape [cells]."""
    if not rules.dominance:
        return np.zeros(len(absolute), dtype=bool)
    return rows_per_unit * squares > DOMINANCE * absolute**2


def rounded(sums: np.ndarray, base: int) -> np.ndarray:
    """Exact integers to the nearest multiple of `base` (halves up); 0 leaves them as they are."""
    return (sums + base // 2) // base * base if base else sums
