"""What an `Engine` asks of a database: one state of one table at a time, and the columns that a select gives on it.

A backend knows how its table is stored and reached, and nothing of plans. Errors name no value, no host and no user.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import msgspec
from sqlglot import exp

from .catalog import DataSet
from .declaration import ALLOWED, Storage
from .dialects import Dialect
from .errors import CatalogError

TABLE = "data"  # the name under which selects know the table
Columns = dict[
    str, Any
]  # of a result: numpy arrays, masked where nulls can be; text and lists are arrays of objects


class Stored(msgspec.Struct, frozen=True):
    """How a column is stored, and the database's word for it."""

    storage: Storage
    kind: str


class Snapshot(Protocol):
    """One state of the data. Every select on it reads the same rows."""

    @property
    def state(self) -> Hashable:
        """Equal states have equal rows."""

    def version(self) -> str:
        """A digest that names the state."""

    def columns(self) -> Mapping[str, Stored]: ...

    def run(self, query: exp.Select, *, raw: bool = False) -> Columns:
        """The columns of the result. With `raw` values are as stored, even where that is not as declared."""

    def settled(self) -> bool:
        """Whether the data are still in this state."""


class Backend(Protocol):
    """`ordered`: whether rows stand in an order of their own, the same for as long as the version is. Else they are put in order by their
    digests where that matters."""

    @property
    def dialect(self) -> Dialect: ...

    @property
    def ordered(self) -> bool: ...

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """The data as they are now. May be asked for by several threads at once."""


def check_columns(name: str, dataset: DataSet, stored: Mapping[str, Stored]) -> None:
    """Raises `CatalogError` for a declared column that is missing or of another type."""
    for column_name, column in dataset.columns.items():
        at = f"data set {name!r}, column {column_name!r}"
        found = stored.get(column_name)
        if found is None:
            raise CatalogError(f"{at}: declared, but the data have no such column")
        if found.storage not in ALLOWED[column.type]:
            raise CatalogError(f"{at}: declared as {column.type}, but stored as {found.kind}")


def check_names(name: str, dataset: DataSet) -> None:
    if len({column.lower() for column in dataset.columns}) != len(dataset.columns):
        raise CatalogError(
            f"data set {name!r}: names of columns must differ in more than upper and lower case"
        )
