"""The query tree: a small closed algebra of frozen values, and its canonical bytes.

What the algebra cannot bound it cannot express. Trees are built by `sandbox.expressions` (the Polars-like
builder) or `sandbox.sql`, typed and bounded by `sandbox.bounds`, compiled by `sandbox.plan`. Decoding is
strict: unknown tags, unknown fields and trees deeper than `MAX_DEPTH` are refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Annotated, Literal, TypeVar, Union

import msgspec

from .errors import QueryError
from .prepared import prepared

MAX_DEPTH = 32
MAX_BYTES = 1 << 20
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
# A string may lack its end, so that every quote starts a match and the scan is linear in hostile bytes too.
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Scalar = Union[bool, int, float, str]


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="node"):
    """Base of every part of the tree."""


class Column(Node, frozen=True, tag="column"):
    """A declared or derived column."""

    name: Name


class Value(Node, frozen=True, tag="value"):
    """A literal."""

    value: Scalar


class Compare(Node, frozen=True, tag="compare"):
    op: Literal["==", "!=", "<", "<=", ">", ">="]
    left: Expression
    right: Expression


class Logic(Node, frozen=True, tag="logic"):
    op: Literal["and", "or"]
    terms: tuple[Expression, ...]


class Not(Node, frozen=True, tag="not"):
    term: Expression


class IsIn(Node, frozen=True, tag="is_in"):
    term: Expression
    values: tuple[Scalar, ...]


class IsNull(Node, frozen=True, tag="is_null"):
    term: Expression


class Arithmetic(Node, frozen=True, tag="arithmetic"):
    op: Literal["+", "-", "*", "/"]
    left: Expression
    right: Expression


class Absolute(Node, frozen=True, tag="absolute"):
    term: Expression


class Cut(Node, frozen=True, tag="cut"):
    """Bands of a number: label i holds breaks[i-1] <= term < breaks[i]; one label more than breaks."""

    term: Expression
    breaks: tuple[float, ...]
    labels: tuple[str, ...]


class Case(Node, frozen=True, tag="case"):
    """The label of the first branch whose condition holds, else `otherwise`."""

    branches: tuple[tuple[Expression, str], ...]
    otherwise: str


Expression = Union[Column, Value, Compare, Logic, Not, IsIn, IsNull, Arithmetic, Absolute, Cut, Case]


class Count(Node, frozen=True, tag="count"):
    """Rows; with a term, rows in which the term is not null."""

    term: Expression | None = None


class Sum(Node, frozen=True, tag="sum"):
    term: Expression


class Mean(Node, frozen=True, tag="mean"):
    term: Expression


class Variance(Node, frozen=True, tag="variance"):
    """Sample variance, n - 1 in the denominator."""

    term: Expression


class StandardDeviation(Node, frozen=True, tag="standard_deviation"):
    term: Expression


class Quantile(Node, frozen=True, tag="quantile"):
    """Linear interpolation between order statistics (pandas' default)."""

    term: Expression
    q: Annotated[float, msgspec.Meta(ge=0, le=1)]


class Covariance(Node, frozen=True, tag="covariance"):
    left: Expression
    right: Expression


class Correlation(Node, frozen=True, tag="correlation"):
    left: Expression
    right: Expression


Aggregate = Union[Count, Sum, Mean, Variance, StandardDeviation, Quantile, Covariance, Correlation]


class Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An aggregate and the name of its column in the result."""

    name: Name
    aggregate: Aggregate


class Derived(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column computed from others; later ones may use earlier ones."""

    name: Name
    term: Expression


Analysis = Literal["table", "crosstab", "welch", "anova", "covariance", "correlation"]


class Joined(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tables whose rows are matched on the identifier `on`, each as "department.table". The first is looked up in the others.

    A person is one row of the joined table where every table knows that person, else none.
    """

    tables: tuple[Name, ...]
    on: Name

    @property
    def departments(self) -> tuple[str, ...]:
        return tuple(table.partition(".")[0] for table in self.tables)

    def table_of(self, department: str) -> str | None:
        """The table that a department brings, by the name that it has there."""
        held = (table.partition(".") for table in self.tables)
        return next((name for owner, _, name in held if owner == department), None)


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Filter, then group by `keys`, then aggregate. `analysis` says what is derived from the aggregates.

    Of one table, whose rows may lie at several departments; or of one that `join` makes, then `table` is the first of its tables.
    """

    table: Name
    aggregates: tuple[Named, ...]
    keys: tuple[Name, ...] = ()
    where: Expression | None = None
    derived: tuple[Derived, ...] = ()
    analysis: Analysis = "table"
    join: Joined | msgspec.UnsetType = (
        msgspec.UNSET
    )  # left out where unset: digests of other queries stay what they were

    @property
    def joined(self) -> Joined | None:
        return self.join if isinstance(self.join, Joined) else None

    @property
    def title(self) -> str:
        """What is asked, for people."""
        return self.table if self.joined is None else f"{' + '.join(self.joined.tables)} on {self.joined.on}"

    def table_at(self, department: str) -> str:
        """The data set that a department answers from. Empty where it has no part: no data set is named so."""
        return self.table if self.joined is None else self.joined.table_of(department) or ""

    def digest(self) -> bytes:
        """SHA-256 of the canonical bytes."""
        return digest(self)


T = TypeVar("T")


def canonical(value: object) -> bytes:
    """The one JSON encoding of a value: keys in order, no white space."""
    return msgspec.json.encode(value, order="deterministic")


def digest(value: object) -> bytes:
    """SHA-256 of the canonical bytes of a frozen value."""
    return hashlib.sha256(canonical(value)).digest()


def decode(data: bytes, kind: type[T]) -> T:
    """Strictly decode bytes from another party into a value of `kind`; raises `QueryError`."""
    if len(data) > MAX_BYTES:
        raise QueryError(f"message of {len(data)} bytes; allowed are at most {MAX_BYTES}")
    if nesting(data) > 4 * MAX_DEPTH:
        raise QueryError(f"message is nested deeper than {4 * MAX_DEPTH} levels")
    try:
        return msgspec.json.decode(data, type=prepared(kind))
    except (
        msgspec.MsgspecError,
        RecursionError,
        ValueError,
    ) as error:  # ValueError: not UTF-8, or endless digits
        raise QueryError(f"malformed {kind.__name__}: {error}") from None


def walk(term: object) -> Iterator[Node]:
    """Every node of an expression, depth first."""
    if isinstance(term, Node):
        yield term
        for field in term.__struct_fields__:
            yield from walk(getattr(term, field))
    elif isinstance(term, tuple):
        for part in term:
            yield from walk(part)


def nesting(data: bytes) -> int:
    """The depth of JSON. Strings are left out: a closing bracket in one would hide an opening one outside."""
    depth = deepest = 0
    for byte in _STRING.sub(b"", data).translate(None, _NO_BRACKETS):
        depth += 1 if byte in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest
