"""The catalogue: what one department holds, and what may be asked of it. One TOML file a node.

Bounds, categories and row limits are *declared*: sensitivity, group keys and encodings come from here and never from
the data. What several departments must declare alike to form one joint table is a `Schema`; level, purposes and budget stay
each owner's own, and the strictest wins.
"""

from __future__ import annotations

import datetime
import math
import pathlib
import re
import sys
from typing import Annotated, Literal

import msgspec

from .errors import CatalogError
from .joining.declared import Join, Normaliser
from .joining.declared import problems as join_problems
from .query import Analysis, digest
from .scoring.declared import Declared
from .scoring.declared import problems as model_problems

Level = Literal["core", "important", "general-4", "general-3", "general-2", "general-1"]
Modelling = Literal["fit", "training", "evaluation", "evaluation_by_department", "contribution"]
ColumnType = Literal["integer", "real", "category", "boolean", "identifier"]

MAX_INTEGER = 2**53
MAX_ROWS = 2**40
_NAME = re.compile(r"[^\W\d]\w{0,127}")


class Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The privacy that a data set may spend in its life: (epsilon, delta)-DP per unit."""

    epsilon: float
    delta: float


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One column. `bounds` (inclusive) for numbers, `categories` for a category.

    `clip = true` declares that values outside the bounds are moved to the nearest bound; without it, data outside the bounds
    is an error at the owner. `nullable = true` declares that nulls occur; a nullable group key has a null group. `normaliser` says how
    identifiers are spelt before they are matched with other departments' (`mpc.join.normalise`).
    """

    type: ColumnType
    bounds: tuple[float, float] | None = None
    categories: tuple[str, ...] | None = None
    nullable: bool = False
    clip: bool = False
    description: str = ""
    normaliser: Normaliser = "exact"

    def __post_init__(self) -> None:
        # Equal columns have equal digests: whole numbers become floats, as decoding makes them, and a default text is one object, as encoding
        # wants it to leave it out.
        msgspec.structs.force_setattr(self, "normaliser", sys.intern(self.normaliser))
        if self.bounds is not None:
            msgspec.structs.force_setattr(self, "bounds", tuple(map(float, self.bounds)))


class Schema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every department of a joint table declares alike."""

    columns: dict[str, Column]
    unit: str | None = None
    rows_per_unit: int = 1
    max_rows: int = 2**30

    def digest(self) -> bytes:
        return digest(self)


Names = Annotated[tuple[Annotated[str, msgspec.Meta(min_length=1)], ...], msgspec.Meta(min_length=1)]
Number = Annotated[int, msgspec.Meta(ge=1, le=10**9)]
Setting = Literal[
    "analysts", "organisations", "valid_from", "valid_until", "kinds", "analyses", "epsilon_per_release", "epsilon_per_analyst",
    "releases", "releases_per_analyst", "approvers", "data_version",
]  # fmt: skip


class Overrides(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An owner's own settings, which may only tighten what the level gives (`sandbox.policy`). None leaves a setting as it is.

    Dates are days in UTC, both included. `approvers` is a number of people. `data_version` is the only version that may be
    asked. `refuse_local_difference` refuses on this department's own differences too. Reasons that come from a `hidden` setting
    are for the owner only.
    """

    analysts: Names | None = None
    organisations: Names | None = None
    valid_from: datetime.date | None = None
    valid_until: datetime.date | None = None
    kinds: Annotated[tuple[Literal["exact", "dp"], ...], msgspec.Meta(min_length=1)] | None = None
    analyses: Annotated[tuple[Analysis | Modelling, ...], msgspec.Meta(min_length=1)] | None = None
    epsilon_per_release: Annotated[float, msgspec.Meta(gt=0)] | None = None
    epsilon_per_analyst: Annotated[float, msgspec.Meta(gt=0)] | None = None
    releases: Number | None = None
    releases_per_analyst: Number | None = None
    approvers: Annotated[int, msgspec.Meta(ge=0, le=100)] | None = None
    data_version: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    min_cell: Number | None = None
    rounding: Number | None = None
    refuse_local_difference: bool = False
    hidden: tuple[Setting, ...] = ()


class Postgres(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="kind",
    tag="postgresql",
):
    """A table or view in the owner's own PostgreSQL: 'table', or 'schema.table', read by a role that may only read.

    What is left out is libpq's own: PGHOST, ~/.pg_service.conf, a socket of this machine. `uri_env` names a variable of the environment that
    holds a whole connection string. There is no place for a password: libpq reads ~/.pgpass, PGPASSFILE and PGPASSWORD. A statement
    runs for at most `timeout` seconds.
    """

    table: str
    service: str = ""
    host: str = ""
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    dbname: str = ""
    user: str = ""
    uri_env: str = ""
    timeout: Annotated[int, msgspec.Meta(ge=1, le=86400)] = 600

    def __repr__(self) -> str:
        return f"Postgres(table={self.table!r})"  # not where it is, nor as whom it is read

    @property
    def path(self) -> tuple[str, str]:
        """Schema and table."""
        schema, _, table = self.table.rpartition(".")
        return schema or "public", table


class DataSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One data set of one department.

    `unit` names the identifier column whose holder is protected (none: each row is a unit); a unit has at most `rows_per_unit`
    rows. `max_rows` bounds the department's rows. `source` is a Parquet or CSV file beside the catalogue, a table in PostgreSQL, or
    a frame handed to the engine.
    """

    level: Level
    purposes: tuple[str, ...]
    columns: dict[str, Column]
    source: str | Postgres = ""
    unit: str | None = None
    rows_per_unit: int = 1
    max_rows: int = 2**30
    budget: Budget | None = None
    description: str = ""
    policy: Overrides | None = None
    join: Join | None = None

    def schema(self) -> Schema:
        return Schema(self.columns, self.unit, self.rows_per_unit, self.max_rows)


class Catalog(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All data sets of one department, and the models that it gives scores of."""

    department: str
    datasets: dict[str, DataSet] = {}
    models: dict[str, Declared] = {}

    def __post_init__(self) -> None:
        from . import policy  # which builds on the types above

        _check_name("department", self.department)
        if not self.datasets and not self.models:
            raise CatalogError(
                f"catalogue of {self.department!r}: at least one data set is needed, or a model"
            )
        for name, dataset in self.datasets.items():
            _check_name("data set", name)
            _check_dataset(name, dataset)
            policy.of(name, dataset)
        for name, model in self.models.items():
            _check_name("model", name)
            if name in self.datasets:
                raise CatalogError(f"model {name!r}: a data set has this name")
            for problem in model_problems(model):
                raise CatalogError(f"model {name!r}: {problem}")


def load(path: str | pathlib.Path) -> Catalog:
    """Read and check a catalogue from TOML; raises `CatalogError` naming the field and the allowed range."""
    path = pathlib.Path(path)
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Catalog)
    except OSError as error:
        raise CatalogError(f"catalogue {path.name} cannot be read ({type(error).__name__})") from None
    except msgspec.ValidationError as error:
        raise CatalogError(f"catalogue {path.name}: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CatalogError(f"catalogue {path.name} is not TOML: {error}") from None


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise CatalogError(
            f"{what} {name!r}: a name is 1 to 128 letters, digits or _, and begins with no digit"
        )


def _check_dataset(name: str, dataset: DataSet) -> None:
    at = f"data set {name!r}"
    if not dataset.purposes or not all(dataset.purposes):
        raise CatalogError(f"{at}: 'purposes' needs at least one non-empty purpose")
    if not 1 <= dataset.max_rows <= MAX_ROWS:
        raise CatalogError(f"{at}: 'max_rows' is {dataset.max_rows}; allowed are 1 to {MAX_ROWS}")
    if not 1 <= dataset.rows_per_unit <= 1000:
        raise CatalogError(f"{at}: 'rows_per_unit' is {dataset.rows_per_unit}; allowed are 1 to 1000")
    if dataset.unit is None and dataset.rows_per_unit != 1:
        raise CatalogError(f"{at}: 'rows_per_unit' above 1 needs 'unit', the column that identifies a unit")
    if dataset.unit is not None:
        unit = dataset.columns.get(dataset.unit)
        if unit is None or unit.type != "identifier":
            raise CatalogError(f"{at}: 'unit' must name a column of type 'identifier'")
    if isinstance(dataset.source, Postgres):
        _check_postgres(at, dataset.source)
    if dataset.budget is not None:
        epsilon, delta = dataset.budget.epsilon, dataset.budget.delta
        if not (math.isfinite(epsilon) and 0 < epsilon <= 100):
            raise CatalogError(f"{at}: budget 'epsilon' is {epsilon}; allowed are numbers above 0, to 100")
        if not 1e-15 <= delta <= 1e-3:
            raise CatalogError(f"{at}: budget 'delta' is {delta}; allowed are 1e-15 to 1e-3")
    if not dataset.columns:
        raise CatalogError(f"{at}: at least one column is needed")
    if dataset.join is not None:
        for problem in join_problems(dataset.join, dataset):
            raise CatalogError(f"{at}, join: {problem}")
    for column_name, column in dataset.columns.items():
        _check_name("column", column_name)
        _check_column(f"{at}, column {column_name!r}", column)


def _check_postgres(at: str, source: Postgres) -> None:
    if source.table.count(".") > 1 or not all(source.path):
        raise CatalogError(f"{at}: 'table' of its source is 'table' or 'schema.table'")
    if source.uri_env and (source.service or source.host or source.port or source.dbname or source.user):
        raise CatalogError(f"{at}: 'uri_env' of its source holds everything: give it alone")
    given = (source.table, source.service, source.host, source.dbname, source.user, source.uri_env)
    if any("\0" in text for text in given):
        raise CatalogError(f"{at}: its source holds a NUL character")


def _check_column(at: str, column: Column) -> None:
    numeric = column.type in ("integer", "real")
    if column.normaliser != "exact" and column.type != "identifier":
        raise CatalogError(f"{at}: 'normaliser' belongs to identifier columns")
    if column.bounds is not None:
        low, high = column.bounds
        if not numeric:
            raise CatalogError(f"{at}: 'bounds' belong to integer and real columns")
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise CatalogError(f"{at}: 'bounds' must be two finite numbers, the lower first")
        if max(abs(low), abs(high)) > 1e150:
            raise CatalogError(f"{at}: 'bounds' reach beyond 1e150")
        if column.type == "integer" and not (low == int(low) and high == int(high)):
            raise CatalogError(f"{at}: 'bounds' of an integer column must be whole numbers")
        if column.type == "integer" and max(abs(low), abs(high)) > MAX_INTEGER:
            raise CatalogError(f"{at}: 'bounds' of an integer column must lie within ±2^53")
    if column.clip and column.bounds is None:
        raise CatalogError(f"{at}: 'clip' needs 'bounds'")
    if (column.type == "category") != (column.categories is not None):
        raise CatalogError(f"{at}: 'categories' belong to category columns, and each of those needs them")
    if column.categories is not None:
        if not 1 <= len(column.categories) <= 100_000:
            raise CatalogError(
                f"{at}: 'categories' has {len(column.categories)} entries; allowed are 1 to 100000"
            )
        if len(set(column.categories)) != len(column.categories):
            raise CatalogError(f"{at}: 'categories' must differ from each other")
        if any("\0" in category for category in column.categories):
            raise CatalogError(f"{at}: 'categories' must not hold a NUL character")
