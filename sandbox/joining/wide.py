"""The joined table: its schema, made of what its tables declare, and whose each column is. Every party makes the same from a request.

A column goes by its own name, or where several tables have that name, by "department.name".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from .. import bounds
from .. import query as q
from ..catalog import MAX_INTEGER, Column, Schema
from ..errors import QueryError
from .declared import MOST_TABLES, Join, Summary, table_name


class Wide(msgspec.Struct, frozen=True):
    """`schema` of the joined table, one row a person; `parts`: each department's own; `sources`: of a column the department and its name
    there.
    """

    joined: q.Joined
    schema: Schema
    parts: dict[str, Schema]
    sources: dict[str, tuple[str, str]]

    @property
    def departments(self) -> tuple[str, ...]:
        return self.joined.departments

    def holders(self, term: q.Expression) -> tuple[str, ...]:
        """The departments whose columns an expression reads, in the order of the tables."""
        found = {self.sources[name][0] for name in bounds.columns(term)}
        return tuple(name for name in self.departments if name in found)

    def local(self, term: q.Expression) -> q.Expression:
        """An expression over one department's columns, by the names that they have there."""
        return bounds.substitute(
            term, {name: q.Column(self.sources[name][1]) for name in bounds.columns(term)}
        )


def person_schema(schema: Schema, join: Join | None) -> Schema:
    """What a data set declares of a join: its own columns, or those of its view; a person is one row."""
    columns = dict(schema.columns)
    if join is not None and join.view is not None and schema.unit is not None:
        columns = {schema.unit: schema.columns[schema.unit]}
        columns |= {name: _summary(summary, schema) for name, summary in join.view.items()}
    return Schema(columns, schema.unit, 1, schema.max_rows)


def wide(joined: q.Joined, schemas: Sequence[Schema]) -> Wide:
    """The table that joins these; raises `QueryError` where they cannot be."""
    tables = joined.tables
    if not 2 <= len(tables) <= MOST_TABLES:
        raise QueryError(f"join: takes 2 to {MOST_TABLES} tables, not {len(tables)}")
    wrong = [name for name in tables if not table_name(name)]
    if wrong:
        raise QueryError(f"join: {wrong[0]!r} must be of the form 'department.table'")
    if len(set(joined.departments)) != len(tables):
        raise QueryError(
            "join: each table must be of another department; a department joins its own by itself"
        )
    if len(schemas) != len(tables):
        raise QueryError("join: a request needs one schema of each table")
    for name, schema in zip(tables, schemas, strict=True):
        if schema.unit != joined.on or schema.rows_per_unit != 1 or joined.on not in schema.columns:
            unit = "by the row" if schema.unit is None else f"on {schema.unit!r}"
            raise QueryError(f"join: {name} is matched {unit}, not on {joined.on!r}")
    spelt = {name: schema.columns[joined.on].normaliser for name, schema in zip(tables, schemas, strict=True)}
    if len(set(spelt.values())) > 1:
        told = ", ".join(f"{name} by {rule!r}" for name, rule in spelt.items())
        raise QueryError(f"join: the tables spell {joined.on!r} by different rules: {told}")
    times = Counter(name for schema in schemas for name in _columns(schema))
    columns: dict[str, Column] = {joined.on: schemas[0].columns[joined.on]}
    sources: dict[str, tuple[str, str]] = {}
    for department, schema in zip(joined.departments, schemas, strict=True):
        for name in _columns(schema):
            known = name if times[name] == 1 else f"{department}.{name}"
            columns[known] = schema.columns[name]
            sources[known] = (department, name)
    most = min(schema.max_rows for schema in schemas)
    parts = dict(zip(joined.departments, schemas, strict=True))
    return Wide(joined, Schema(columns, joined.on, 1, most), parts, sources)


def _columns(schema: Schema) -> list[str]:
    return [name for name, column in schema.columns.items() if column.type != "identifier"]


def _summary(summary: Summary, schema: Schema) -> Column:
    """The column that a summary makes: its bounds follow from those declared."""
    if summary.of == "any":
        return Column("boolean")
    if summary.of == "count":
        return Column("integer", bounds=(0.0, float(schema.rows_per_unit)))
    column = schema.columns[summary.column or ""]
    low, high = column.bounds or (0.0, 0.0)
    if summary.of == "sum":
        low, high = min(low * schema.rows_per_unit, 0.0), max(high * schema.rows_per_unit, 0.0)
        whole = column.type == "integer" and max(-low, high) <= MAX_INTEGER
        return Column("integer" if whole else "real", bounds=(low, high))
    whole = column.type == "integer" and summary.of != "mean"
    nullable = bool(summary.where) or column.nullable
    return Column("integer" if whole else "real", bounds=(low, high), nullable=nullable)
