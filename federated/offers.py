"""What the departments offer together: which tables exist, whose they are, and what all of them declare alike."""

from __future__ import annotations

import msgspec

from sandbox.catalog import Schema
from sandbox.errors import QueryError, SchemaMismatch
from sandbox.gate import Entry


class Offers(msgspec.Struct, frozen=True):
    """Per department its tables, as last heard; `unreachable`: who did not answer the last time, and why."""

    entries: dict[str, dict[str, Entry]]
    unreachable: dict[str, str] = {}

    def tables(self) -> tuple[str, ...]:
        return tuple(sorted({name for tables in self.entries.values() for name in tables}))

    def departments(self, table: str) -> tuple[str, ...]:
        """The departments that hold rows of a table."""
        return tuple(sorted(name for name, tables in self.entries.items() if table in tables))

    def schema(self, table: str) -> Schema:
        """What the departments declare alike; raises `QueryError` for an unknown table, `SchemaMismatch` where they differ."""
        holders = self.departments(table)
        if not holders:
            raise QueryError(f"unknown data set {table!r}; known are: {', '.join(self.tables())}")
        schemas = {name: self.entries[name][table].schema for name in holders}
        first = schemas[holders[0]]
        for name, other in schemas.items():
            if other != first:
                raise SchemaMismatch(
                    f"{holders[0]} and {name} declare table {table!r} differently: {_difference(first, other)}"
                )
        return first


def _difference(a: Schema, b: Schema) -> str:
    for field in ("unit", "rows_per_unit", "max_rows"):
        if getattr(a, field) != getattr(b, field):
            return f"'{field}'"
    different = [name for name in {**a.columns, **b.columns} if a.columns.get(name) != b.columns.get(name)]
    return f"column {different[0]!r}" if different else "the order of columns"
