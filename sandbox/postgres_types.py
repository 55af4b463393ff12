"""What PostgreSQL stores -> the few types that compiled SQL knows, and what it answers -> numpy arrays.

Whole numbers become BIGINT, others doubles, text is compared byte by byte (COLLATE "C", as DuckDB does), domains are what they are made of,
and an enumerated type is text.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from sqlglot import exp

from .catalog import Column, DataSet
from .declaration import Storage
from .syntax import SQL, case, cast, column, double, named, nan

if TYPE_CHECKING:
    import pyarrow

_STORAGE: dict[str, Storage] = {
    **dict.fromkeys(("int2", "int4", "int8"), "integer"),
    **dict.fromkeys(("float4", "float8", "numeric"), "fractional"),
    **dict.fromkeys(("text", "varchar", "bpchar", "name"), "text"),
    "bool": "boolean",
}
DESCRIBE = """
WITH RECURSIVE columns(name, type, generated, number) AS (
    SELECT attname, atttypid, attgenerated, attnum FROM pg_attribute
    WHERE attrelid = to_regclass({table}) AND attnum > 0 AND NOT attisdropped
  UNION ALL
    SELECT c.name, t.typbasetype, c.generated, c.number FROM columns c JOIN pg_type t ON t.oid = c.type WHERE t.typtype = 'd'
)
SELECT c.name::text AS name, t.typname::text AS type, t.typtype = 'e' AS enumerated, c.generated = 'v' AS virtual, c.number::bigint AS number,
       EXISTS (SELECT FROM pg_opclass o WHERE o.opcdefault AND o.opcmethod = 403
               AND (o.opcintype = t.oid OR (t.typtype = 'e' AND o.opcintype = 'anyenum'::regtype)
                    OR (t.typtype = 'r' AND o.opcintype = 'anyrange'::regtype)
                    OR (t.typcategory = 'A' AND o.opcintype = 'anyarray'::regtype)
                    OR (t.typname = 'varchar' AND o.opcintype = 'text'::regtype))) AS comparable
FROM columns c JOIN pg_type t ON t.oid = c.type WHERE t.typtype <> 'd'
"""


class Type(msgspec.Struct, frozen=True):
    """A column's type as `DESCRIBE` tells it. `virtual`: computed when it is read; `comparable`: values of it can be told apart."""

    name: str
    type: str
    enumerated: bool
    virtual: bool
    number: int
    comparable: bool

    @property
    def storage(self) -> Storage:
        return "text" if self.enumerated else _STORAGE.get(self.type, "other")


def relation(table: exp.Table, dataset: DataSet, types: Mapping[str, Type], raw: bool) -> exp.Select:
    """The declared columns. With `raw` a value is as stored even where that is not as declared: what verification looks at."""
    values = [named(_value(column(n), d, types[n], raw), n) for n, d in dataset.columns.items()]
    return exp.select(*values).from_(table.copy())


def _value(value: SQL, declared: Column, stored: Type, raw: bool) -> SQL:
    if declared.type == "identifier":
        return _bytewise(value) if stored.storage == "text" else value
    if declared.type == "category":
        return _bytewise(value) if stored.storage == "text" or not raw else value
    if declared.type == "boolean" and stored.storage != "boolean" and not raw:
        return exp.NEQ(this=value, expression=exp.Literal.number(0))
    if stored.storage == "integer":
        return cast(value, "BIGINT")
    if declared.type == "real":
        return _double(value) if stored.type == "numeric" else cast(value, "DOUBLE")
    return value


def _bytewise(value: SQL) -> SQL:
    return exp.paren(exp.Collate(this=cast(value, "TEXT"), expression=exp.to_identifier("C", quoted=True)))


def _double(value: SQL) -> SQL:
    """Of a decimal number: infinity where it is too large for a double, and 0 where it is too small. A plain cast would raise an error."""

    def decimal(digits: str) -> SQL:
        return cast(exp.Literal.string(digits), "NUMERIC")

    infinity = cast(exp.Literal.string("Infinity"), "DOUBLE")
    limit = decimal("1.7976931348623157e308")
    return case(
        [
            (exp.EQ(this=value.copy(), expression=decimal("NaN")), nan()),
            (exp.GT(this=value.copy(), expression=limit), infinity),
            (
                exp.LT(this=value.copy(), expression=exp.Neg(this=limit.copy())),
                exp.Neg(this=infinity.copy()),
            ),
            (exp.LT(this=exp.Abs(this=value.copy()), expression=decimal("5e-324")), double(0)),
        ],
        cast(value, "DOUBLE"),
    )


def array(column: pyarrow.ChunkedArray) -> Any:
    """A column of a result as a numpy array, masked where nulls are; lists as an array of arrays."""
    import pyarrow as pa

    found = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if pa.types.is_list(found.type):
        values = found.flatten().to_numpy(zero_copy_only=False)
        lists = np.empty(len(found), object)
        ends = np.concatenate([[0], np.cumsum(found.value_lengths().to_numpy())])
        for i, (start, end) in enumerate(itertools.pairwise(ends.tolist())):
            lists[i] = values[start:end]
        return lists
    if found.null_count == 0:
        return found.to_numpy(zero_copy_only=False)
    mask = found.is_null().to_numpy(zero_copy_only=False)
    blank = "" if pa.types.is_string(found.type) else pa.scalar(0).cast(found.type)
    return np.ma.MaskedArray(found.fill_null(blank).to_numpy(zero_copy_only=False), mask)
