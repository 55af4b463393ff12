"""Plan -> SQL, as a sqlglot tree that any dialect can render. Pure functions; nothing is executed here.

The query is built in layers, each a sub-select of the next:

    clean   the columns that the plan reads, cast to their declared type and clipped to their bounds
    kept    (bounded only) rows that pass the filter, at most `rows_per_unit` of each unit
    terms   group keys, and the factors of the sums
    the sums themselves, per group

With `bounded`, one unit can move no sum by more than `rows_per_unit` times its component's bound, whatever its rows hold: values are
clipped to the declared bounds, NaN counts as null, null adds nothing, and which rows of a unit are kept depends on no
other unit's rows (they are ordered by all that the plan reads, so that rows that tie are alike). Interval arithmetic over
the declared bounds is sound for floating point, since rounding is monotone: no rounded value passes the rounded bound.

What databases do not agree on is left to `sandbox.dialects`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlglot import exp

from . import bounds
from . import query as q
from .catalog import Column, Schema
from .declaration import limit
from .plan import Component, Factor, Leaves, Plan
from .syntax import (
    SQL,
    case,
    cast,
    column,
    double,
    integer,
    logic,
    named,
    nan,
    powers_of_two,
    present,
    product,
    quotient,
    table,
)
from .terms import exponent, expression, group, least, number, vanishing

ROW = "row number"  # no declared name has a space


def wide(component: Component, schema: Schema) -> bool:
    """Whether the sum may need more than 64 bits; the SQL then gives it as decimal digits."""
    return component.bound * schema.max_rows >= 2**63


def sums(plan: Plan, schema: Schema, relation: str, *, bounded: bool) -> exp.Select:
    """All components per group: columns k0, k1, … for the keys and c0, c1, … for the components.

    The key of a `Cut` or `Case` is the index of its label; other keys are values. Groups without rows are absent.
    """
    terms = Terms(schema)
    totals = [named(_total(component, terms, schema), f"c{i}") for i, component in enumerate(plan.components)]
    keys = groups(plan, schema)
    inner = _terms(plan, schema, relation, bounded, keys + terms.selected())
    names = [column(f"k{i}") for i in range(len(keys))]
    return _grouped(exp.select(*names, *totals).from_(inner.subquery("terms")), names)


def histogram(plan: Plan, leaves: Leaves, schema: Schema, relation: str, *, bounded: bool) -> exp.Select:
    """Rows per group and bin: columns k0, k1, …, bin and n. Nulls are left out; empty bins are absent."""
    keys = groups(plan, schema)
    inner = _terms(plan, schema, relation, bounded, [*keys, named(bin_of(leaves, schema), "bin")])
    names = [*(column(f"k{i}") for i in range(len(keys))), column("bin")]
    rows = named(exp.Count(this=exp.Star()), "n")
    return _grouped(
        exp.select(*names, rows).from_(inner.subquery("terms")).where(present(column("bin"))), names
    )


# --- layers ---


class Terms:
    """Collects the columns of the `terms` layer, each once."""

    def __init__(self, schema: Schema):
        self.schema = schema
        self._names: dict[tuple[object, ...], str] = {}
        self._selected: list[SQL] = []

    def selected(self) -> list[SQL]:
        return self._selected

    def _add(self, key: tuple[object, ...], make: Callable[[], SQL]) -> SQL:
        if key not in self._names:
            self._names[key] = f"t{len(self._names)}"
            self._selected.append(named(make(), self._names[key]))
        return column(self._names[key])

    def factor(self, factor: Factor, whole: bool) -> SQL:
        return self._add((factor, whole), lambda: _factor(factor, whole, self.schema))

    def plain(self, term: q.Expression) -> SQL:
        return self._add((term,), lambda: expression(term, self.schema))

    def unit(self) -> SQL:
        assert self.schema.unit is not None
        return self._add(("unit",), lambda: column(self.schema.unit or ""))


def _terms(plan: Plan, schema: Schema, relation: str, bounded: bool, selected: list[SQL]) -> exp.Select:
    read = used(plan)
    columns = [named(clean(name, schema.columns[name], bounded), name) for name in read]
    if schema.unit is not None:
        columns.append(column(schema.unit))
    cleaned = exp.select(*(columns or [named(integer(1), ROW)])).from_(table(relation))
    where = [expression(plan.where, schema)] if plan.where is not None else []
    rows = cleaned.subquery("clean")
    if bounded and schema.unit is not None:
        rows = kept(rows, where, read, schema.unit).subquery("kept")
        where = [exp.LTE(this=column(ROW), expression=integer(schema.rows_per_unit))]
    inner = exp.select(*(selected or [named(integer(1), ROW)])).from_(rows)
    return inner.where(*where, copy=False) if where else inner


def kept(cleaned: exp.Subquery, where: list[SQL], read: Sequence[str], unit: str) -> exp.Select:
    """Rows that pass the filter, numbered within their unit by all that is read."""
    order = exp.Order(expressions=[exp.Ordered(this=column(name), nulls_first=False) for name in read])
    numbered = exp.Window(this=exp.RowNumber(), partition_by=[column(unit)], order=order if read else None)
    names = [column(name) for name in read]
    rows = exp.select(*names, column(unit), named(numbered, ROW)).from_(cleaned)
    return rows.where(*where, present(column(unit)), copy=False)


def used(plan: Plan) -> list[str]:
    """Columns that the plan reads, in order of name."""
    terms: list[q.Expression] = [key.term for key in plan.keys] + [leaves.term for leaves in plan.leaves]
    if plan.where is not None:
        terms.append(plan.where)
    for component in plan.components:
        terms += [factor.term for factor in component.factors] + list(component.requires)
    return sorted(frozenset().union(*map(bounds.columns, terms)))


def clean(name: str, declared: Column, bounded: bool) -> SQL:
    """A column as declared. Clipping comes before the cast of a whole number, so that no cast can fail."""
    raw: SQL = column(name)
    kind = "BOOLEAN" if declared.type == "boolean" else "VARCHAR"
    if declared.type == "real":
        raw, kind = cast(raw, "DOUBLE"), "DOUBLE"
    elif declared.type == "integer":
        kind = "BIGINT"
    clip = declared.bounds is not None and (bounded or declared.clip)
    missing = (
        [(exp.EQ(this=raw.copy(), expression=nan()), exp.Null())]
        if bounded and declared.type == "real"
        else []
    )
    if clip or missing:
        limits: list[tuple[SQL, SQL]] = []
        if clip:
            assert declared.bounds is not None
            low, high = (limit(value, declared) for value in declared.bounds)
            limits = [
                (exp.LT(this=raw.copy(), expression=low), low.copy()),
                (exp.GT(this=raw.copy(), expression=high), high.copy()),
            ]
        cleaned = case([*missing, *limits], raw)
        return cleaned if declared.type == "real" else cast(cleaned, kind)
    if declared.type == "real":
        return raw
    return exp.TryCast(this=raw, to=exp.DataType.build(kind)) if bounded else cast(raw, kind)


def groups(plan: Plan, schema: Schema) -> list[SQL]:
    """The group keys k0, k1, …"""
    return [named(group(key, schema), f"k{i}") for i, key in enumerate(plan.keys)]


def _grouped(select: exp.Select, names: Sequence[SQL]) -> exp.Select:
    return select.group_by(*(name.copy() for name in names), copy=False) if names else select


# --- sums ---


def _total(component: Component, terms: Terms, schema: Schema) -> SQL:
    if component.kind == "units":
        unit: SQL = terms.unit()
        if component.requires:
            needed = [present(terms.plain(term)) for term in component.requires]
            unit = case([(logic(exp.And, needed), unit)], None)
        return exp.Count(this=exp.Distinct(expressions=[unit]))
    if component.kind == "departments":
        counted = _total(Component("rows", requires=component.requires), terms, schema)
        some = exp.GT(this=counted, expression=integer(0))
        return case([(some, integer(1))], integer(0))
    if not component.factors:
        needed = [terms.plain(term) for term in component.requires]
        if len(needed) > 1:
            needed = [case([(logic(exp.And, [present(part) for part in needed]), integer(1))], None)]
        return exp.Count(this=needed[0] if needed else exp.Star())
    value = value_of(component, terms, schema)
    own = {factor.term for factor in component.factors}
    others = [present(terms.plain(term)) for term in component.requires if term not in own]
    if others:
        value = case([(logic(exp.And, others), value)], None)
    total = exp.Coalesce(this=exp.Sum(this=value), expressions=[integer(0)])
    return cast(total, "VARCHAR" if wide(component, schema) else "BIGINT")


def value_of(component: Component, terms: Terms, schema: Schema) -> SQL:
    """The product of the factors on one row; of reals on the grid."""
    whole = component.whole
    value, size = integer(1), 0
    for i, factor in enumerate(component.factors):
        part = terms.factor(factor, whole)
        size += _least(factor, schema)
        value = part if i == 0 else product(value, part, vanishes=not whole and vanishing(size))
    if not whole:
        for power in powers_of_two(component.exponent):
            size += exponent(power)
            value = product(value, double(power), vanishes=power < 1 and vanishing(size))
        value = cast(exp.Round(this=value), "BIGINT")
    return value


def _least(factor: Factor, schema: Schema) -> int:
    """As `terms.least`, of a factor: x - c is no closer to 0 than doubles near c are to each other."""
    if factor.center == 0:
        return least(factor.term, schema)
    return exponent(factor.center) - 53


def _factor(factor: Factor, whole: bool, schema: Schema) -> SQL:
    """term - center; as integers twice that where the center is a half."""
    value = number(factor.term, schema)
    if not whole:
        value, center = cast(value, "DOUBLE"), double(factor.center)
    elif factor.doubled:
        value, center = product(integer(2), value), integer(int(2 * factor.center))
    else:
        center = integer(int(factor.center))
    return value if factor.center == 0 else exp.paren(exp.Sub(this=value, expression=center))


def bin_of(leaves: Leaves, schema: Schema) -> SQL:
    """min(max(floor((x - low) / width), 0), bins - 1)."""
    value = number(leaves.term, schema)
    if leaves.width == 0:
        return case([(present(value), integer(0))], None)
    if leaves.values:
        raw: SQL = exp.Sub(this=value, expression=integer(int(leaves.low)))
    else:
        shifted = exp.paren(exp.Sub(this=cast(value, "DOUBLE"), expression=double(leaves.low)))
        size = least(leaves.term, schema)
        if leaves.low != 0:
            size = exponent(leaves.low) - 53
        vanishes = vanishing(size - exponent(leaves.width) - 1)
        raw = exp.Floor(this=quotient(shifted, double(leaves.width), vanishes=vanishes))
    last = integer(leaves.bins - 1)
    below = exp.LT(this=raw, expression=integer(0))
    above = exp.GT(this=raw.copy(), expression=last)
    return cast(case([(below, integer(0)), (above, last.copy())], raw.copy()), "BIGINT")
