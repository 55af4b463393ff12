"""What an owner declares of joins: the partners, and the view in which a person with several rows is one row. Part of the catalogue.

    [datasets.values.join]
    tables = ["registry.people", "hospital.events"]
    view.hdl = { of = "mean", column = "value", where = { test = "hdl" } }

Without this part of a declaration, a table is in no join.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

if TYPE_CHECKING:
    from ..catalog import Column, DataSet

Normaliser = Literal["exact", "text", "resident id", "phone", "credit code"]
MOST_TABLES = 8
_TABLE = re.compile(r"[^\W\d]\w{0,62}\.[^\W\d]\w{0,62}")


class Summary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One column of a view, from those of a person's rows in which the columns of `where` have these values.

    "count" of such rows; whether there is "any"; "sum", "mean", "min", "max" of a number, null where there is no row (the sum is then 0).
    """

    of: Literal["count", "any", "sum", "mean", "min", "max"]
    column: str | None = None
    where: dict[str, bool | int | str] = {}


class Join(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """With which other tables, as "department.table", this one may be joined: on its `unit`, the person that it protects.

    `view`: the columns that a join sees, one row a person. Without one they are the table's own, and it has one row a person.
    """

    tables: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    view: dict[str, Summary] | None = None


def table_name(text: str) -> bool:
    """Whether it is a "department.table"."""
    return _TABLE.fullmatch(text) is not None


def problems(join: Join, dataset: DataSet) -> Iterator[str]:
    """What contradicts itself, or the data set."""
    for name in join.tables:
        if not table_name(name):
            yield f"'tables' has {name!r}; allowed are names of the form 'department.table'"
    if dataset.unit is None:
        yield "the data set needs 'unit': rows are matched on it"
    if join.view is None:
        if dataset.rows_per_unit != 1:
            yield f"a unit may have {dataset.rows_per_unit} rows: declare 'view', which gives it one"
        return
    if not join.view:
        yield "'view' needs at least one column"
    for name, summary in join.view.items():
        at = f"view.{name}"
        if name == dataset.unit:
            yield f"{at}: the name is that of the identifier"
        if summary.of in ("count", "any"):
            if summary.column is not None:
                yield f"{at}: {summary.of!r} takes no column"
        elif not _number(dataset.columns.get(summary.column or "")):
            yield f"{at}: 'column' must name a number with bounds"
        for key, value in summary.where.items():
            if not _comparable(dataset.columns.get(key), value):
                yield f"{at}: 'where' must give declared values of categories, booleans or integers; {key!r} does not"


def _number(column: Column | None) -> bool:
    return column is not None and column.type in ("integer", "real") and column.bounds is not None


def _comparable(column: Column | None, value: bool | int | str) -> bool:
    if column is None:
        return False
    if column.type == "category":
        return value in (column.categories or ())
    kinds = {"boolean": bool, "integer": int}
    return column.type in kinds and type(value) is kinds[column.type]
