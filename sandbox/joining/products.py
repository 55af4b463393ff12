"""Least squares on a joined table: the sums of its columns and of their products, which is all that the normal equations take.

A column of the design (`sandbox.design_matrix`) is of one department: a number about the middle of its bounds, or whether a category has a
level. Products of one department's columns are computed by it; those of two, on shares. So the coordinator sees the joint number of rows, sums
and cross-products, as it does of least squares over rows that lie apart, and no residual of anybody.
"""

from __future__ import annotations

import msgspec

from .. import bounds
from .. import fit as f
from .. import query as q
from ..design_matrix import design
from ..errors import QueryError
from ..plan import Component, Factor, Key, Plan
from ..request import Request
from .conditions import conditions_of, holder_of
from .split import Builder, Mark, Split, bounded, limit_of, split
from .wide import Wide


class Regression(msgspec.Struct, frozen=True):
    """`split` has the number of rows, each column's sum, and the products of each two in the order of an upper triangle, the target last.

    A sum is on the grid 2^-`exponents`; column i is about `centers[i]`.
    """

    split: Split
    exponents: tuple[int, ...]
    centers: tuple[float, ...]


class _Item(msgspec.Struct, frozen=True):
    """A column: a number's factor, or the mark of a level."""

    holder: str
    factor: Factor | None
    mark: Mark


def apart(request: Request, plan: Plan, wide: Wide) -> Split:
    """What departments compute for a request on a joined table, of a query or of a model."""
    if request.model is None:
        return split(plan, wide)
    return regression(request.model, plan, wide).split


def check(model: object, *, exact: bool) -> f.Fit:
    """The one model that is fitted on joined tables; raises `QueryError` for others."""
    if not isinstance(model, f.Fit) or not isinstance(model.estimator, f.LinearRegression) or not exact:
        raise QueryError("on a joined table LinearRegression alone is fitted, exactly; it takes no epsilon")
    if model.missing != "drop":
        raise QueryError("'missing': on a joined table rows with nulls are left out; allowed is 'drop'")
    return model


def regression(model: object, plan: Plan, wide: Wide) -> Regression:
    """The sums of a fit whose cohort has this plan; raises `QueryError` where it cannot be fitted apart."""
    fit = check(model, exact=plan.exact)
    items = _items(fit, wide)
    filtered, limit = conditions_of(plan.where, wide), limit_of(wide)
    builder, exponents = Builder(wide, distinct=True), [0]
    compared = builder.compared(filtered)
    builder.entry({}, {}, 0, compared, True)
    pairs = [(one, other) for i, one in enumerate(items) for other in items[i:]]
    for group in [*((item,) for item in items), *pairs]:
        factors = tuple(item.factor for item in group if item.factor is not None)
        component, pieces = bounded(Component(factors=factors), wide, limit)
        marks = _marks(group)
        if marks is None:
            builder.nothing()
        else:
            builder.entry(marks, pieces, sum(bool(p.factors) for p in pieces.values()), compared, True)
        exponents.append(component.exponent if factors else 0)
    centers = tuple(item.factor.center if item.factor is not None else 0.0 for item in items)
    return Regression(builder.done(plan, filtered.local, filtered.needed), tuple(exponents), centers)


def _items(fit: f.Fit, wide: Wide) -> list[_Item]:
    wanted = design(fit, wide.schema)
    assert fit.target is not None
    if wanted.watched:
        raise QueryError("on a joined table a condition stands alone, and is of numbers: it multiplies none")
    items = []
    for column in wanted.columns:
        term = fit.features[column.feature].term
        holder = holder_of(term, wide, f"feature {column.name!r}")
        if column.level is None:
            items.append(_Item(holder, _factor(term, wide), Mark()))
        else:
            key = Key(fit.features[column.feature].name, wide.local(term), wanted.levels[column.feature])
            items.append(_Item(holder, None, Mark(keys=((key, column.level),))))
    holder = holder_of(fit.target.term, wide, "'target'")
    return [*items, _Item(holder, _factor(fit.target.term, wide), Mark())]


def _factor(term: q.Expression, wide: Wide) -> Factor:
    number = bounds.numeric(term, wide.schema, "fit")
    center = number.low / 2 + number.high / 2
    return Factor(term, center, max(number.high - center, center - number.low), number.whole)


def _marks(group: tuple[_Item, ...]) -> dict[str, Mark] | None:
    """The levels that must hold together, by department; None where no row has both."""
    found: dict[str, Mark] = {}
    for item in group:
        both = found.get(item.holder, Mark()).both(item.mark)
        if both is None:
            return None
        found[item.holder] = both
    return found
