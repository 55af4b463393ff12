"""The joined table that departments' offers make, and that a request names."""

from __future__ import annotations

import msgspec

from sandbox import query as q
from sandbox.catalog import Schema
from sandbox.errors import QueryError
from sandbox.gate import Entry
from sandbox.joining.wide import Wide, person_schema, wide
from sandbox.prepared import prepared
from sandbox.request import Request

from ..offers import Offers


def wide_of(request: Request) -> Wide:
    """The joined table as a request has it."""
    if request.query.joined is None:
        raise QueryError("the request is of no joined table")
    return wide(request.query.joined, request.schemas)


def entries(offers: Offers, joined: q.Joined) -> dict[str, Entry]:
    """What each department publishes of its table; raises `QueryError` for one that nobody offers, or that its owner opens to no join."""
    found = {}
    for text, department in zip(joined.tables, joined.departments, strict=True):
        entry = offers.entries.get(department, {}).get(joined.table_of(department) or "")
        if entry is None:
            known = sorted(f"{name}.{table}" for name, tables in offers.entries.items() for table in tables)
            raise QueryError(f"unknown table {text!r}; known are: {', '.join(known)}")
        if entry.join is None:
            raise QueryError(f"{text} is open to no joins: its owner would have to declare 'join'")
        found[department] = entry
    return found


def schemas(offers: Offers, joined: q.Joined) -> tuple[Schema, ...]:
    """What each table declares of a join, in order."""
    return tuple(person_schema(entry.schema, entry.join) for entry in entries(offers, joined).values())


def offered(offers: Offers, joined: q.Joined) -> Wide:
    """The joined table as it is offered now."""
    if len(set(joined.departments)) != len(joined.tables):
        raise QueryError(
            "join: each table must be of another department; a department joins its own by itself"
        )
    return wide(joined, schemas(offers, joined))


def shape(offers: Offers, query: q.Query) -> tuple[Schema, tuple[str, ...]]:
    """The schema of what a query asks, and the departments that answer it."""
    if query.joined is None:
        return offers.schema(query.table), offers.departments(query.table)
    found = offered(offers, query.joined)
    return found.schema, tuple(sorted(found.departments))


def joined(tables: tuple[str, ...], on: str) -> q.Joined:
    """The value that `city.join` makes of its arguments; raises `QueryError`."""
    try:
        return msgspec.convert({"tables": tables, "on": on}, prepared(q.Joined))
    except msgspec.ValidationError as error:
        raise QueryError(f"join: {error}") from None
