"""What a data set declares -> SQL that says whether its rows keep it. One scan, and one more for units with too many rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from sqlglot import exp

from .catalog import Column, DataSet
from .syntax import (
    SQL,
    absent,
    case,
    cast,
    column,
    double,
    integer,
    literal,
    logic,
    named,
    nan,
    present,
    table,
)

Storage = Literal["integer", "fractional", "boolean", "text", "other"]
ALLOWED: dict[str, tuple[Storage, ...]] = {
    "integer": ("integer", "fractional"),
    "real": ("integer", "fractional"),
    "boolean": ("boolean", "integer", "fractional"),
    "category": ("text", "integer", "boolean"),
    "identifier": ("text", "integer", "fractional", "boolean", "other"),
}


def verification(
    dataset: DataSet, relation: str, storage: Mapping[str, Storage]
) -> tuple[exp.Select, list[tuple[str, str]]]:
    """One scan that says whether the data keep what is declared: per check a column v0, v1, … that is 1 where it fails.

    Also gives, per check, the column's name ('' for the table) and what to tell its owner. `storage` says how each
    column is stored.
    """
    checks: list[tuple[SQL, str, str]] = []
    for name, declared in dataset.columns.items():
        for failing, reason in _checks(name, declared, storage[name], name == dataset.unit):
            flag = exp.Max(this=case([(failing, integer(1))], integer(0)))
            checks.append((flag, name, reason))
    many = exp.GT(this=exp.Count(this=exp.Star()), expression=integer(dataset.max_rows))
    reason = f"more rows than 'max_rows' allows, {dataset.max_rows}"
    checks.append((case([(many, integer(1))], integer(0)), "", reason))
    flags = [
        named(exp.Coalesce(this=flag, expressions=[integer(0)]), f"v{i}")
        for i, (flag, _, _) in enumerate(checks)
    ]
    return exp.select(*flags).from_(table(relation)), [(name, reason) for _, name, reason in checks]


def crowded(dataset: DataSet, relation: str) -> exp.Select:
    """Not empty if some unit has more rows than `rows_per_unit`."""
    assert dataset.unit is not None
    unit = column(dataset.unit)
    crowd = exp.GT(this=exp.Count(this=exp.Star()), expression=integer(dataset.rows_per_unit))
    return (
        exp.select(named(integer(1), "crowded"))
        .from_(table(relation))
        .where(present(unit))
        .group_by(unit.copy())
        .having(crowd)
        .limit(1)
    )


def limit(value: float, declared: Column) -> SQL:
    """One of a column's bounds."""
    return integer(int(value)) if declared.type == "integer" else double(value)


def _checks(name: str, declared: Column, stored: Storage, is_unit: bool) -> list[tuple[SQL, str]]:
    value = column(name)
    checks: list[tuple[SQL, str]] = []
    if is_unit:
        checks.append((absent(value), "nulls occur, but it identifies the unit of privacy"))
    elif not declared.nullable and declared.type != "identifier":
        checks.append((absent(value), "nulls occur, but 'nullable' is not declared"))
    if declared.type == "real" and stored == "fractional":
        most = double(1.7976931348623157e308)
        above = exp.GT(this=value.copy(), expression=most)
        below = exp.LT(this=value.copy(), expression=exp.Neg(this=most.copy()))
        reason = "NaN or infinity occurs; allowed are finite numbers, and null where 'nullable' is declared"
        checks.append((logic(exp.Or, [above, below, exp.EQ(this=value.copy(), expression=nan())]), reason))
    if declared.type == "integer":
        lost = exp.TryCast(this=value.copy(), to=exp.DataType.build("BIGINT"))
        reason = "values are not whole numbers of 64 bits"
        checks.append((logic(exp.And, [present(value), absent(lost)]), reason))
        if stored == "fractional":
            broken = exp.NEQ(this=exp.Floor(this=value.copy()), expression=value.copy())
            checks.append((broken, "values with a fraction occur; allowed are whole numbers"))
    if declared.bounds is not None and not declared.clip:
        low, high = (limit(bound, declared) for bound in declared.bounds)
        outside = [exp.LT(this=value.copy(), expression=low), exp.GT(this=value.copy(), expression=high)]
        allowed = "[{:.15g}, {:.15g}]".format(*declared.bounds)
        reason = f"values lie outside the declared bounds {allowed}, and 'clip' is not declared"
        checks.append((logic(exp.Or, outside), reason))
    if declared.categories is not None:
        known = [literal(category) for category in declared.categories]
        unknown = exp.Not(this=exp.In(this=cast(value.copy(), "VARCHAR"), expressions=known))
        checks.append((unknown, "values occur that are not among its declared categories"))
    if declared.type == "boolean" and stored != "boolean":
        other = exp.Not(this=exp.In(this=value.copy(), expressions=[integer(0), integer(1)]))
        checks.append((other, "values occur other than true and false, or 0 and 1"))
    return checks
