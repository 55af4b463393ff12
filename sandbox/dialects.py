"""SQL trees -> the text of one database, with one meaning in all of them: what DuckDB computes is what every other must compute, to the bit.

sqlglot translates names and syntax; this module adds what databases compute differently:

    rounding      of a half: away from 0 (PostgreSQL rounds doubles to even)
    TRY_CAST      to whole numbers of 64 bits: null where there is none (PostgreSQL raises an error)
    vanishing     a product or quotient of doubles too small for a double is 0 (PostgreSQL raises an error)
    sums          of 64-bit numbers are exact (Trino's overflow)
    NaN           equals itself (not in Trino)
    row digests   a hash of all declared values, which identifies a row
    codes         the place of a text in a list

DuckDB and PostgreSQL are run by the tests; Trino is compiled to recorded texts, and was not run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec
import sqlglot
from sqlglot import exp

from .catalog import Schema
from .errors import InternalError
from .syntax import MAY_VANISH, SQL, case, cast, column, double, integer, logic, named, nan, product, quotient

Dialect = Literal["duckdb", "postgres", "trino"]
DIALECTS: tuple[Dialect, ...] = ("duckdb", "postgres", "trino")


def text(query: exp.Expr, dialect: Dialect) -> str:
    """The query as `dialect` understands it."""
    rule = _RULES.get(dialect)
    if rule is None:
        return query.sql(dialect)
    tree = query.copy()
    for node in reversed(list(tree.walk(bfs=True))):  # what is inside first
        changed = rule(node)
        if changed is not node:
            node.replace(changed)
    return tree.sql(dialect)


def row_text(schema: Schema) -> SQL:
    """All declared values of a row, each behind its length: no two different rows give the same text."""
    parts: list[SQL] = []
    for name in sorted(schema.columns):
        value = cast(column(name), "VARCHAR")
        length = cast(exp.Length(this=value.copy()), "VARCHAR")
        for part in (length, value):
            parts.append(exp.Coalesce(this=part, expressions=[exp.Literal.string("-")]))
            parts.append(exp.Literal.string(":"))
    return _joined(parts)


def row_digest(schema: Schema) -> SQL:
    """32 hexadecimal digits."""
    return exp.MD5(this=row_text(schema))


def row_key(schema: Schema, dialect: Dialect) -> SQL:
    """64 bits of the digest: unsigned in DuckDB, signed elsewhere."""
    if dialect == "duckdb":
        return exp.func("md5_number_lower", row_text(schema), dialect="duckdb")
    if dialect == "postgres":
        return sqlglot.parse_one("('x' || substr(digest, 17))::bit(64)::bigint", read="postgres").transform(
            lambda node: row_digest(schema) if isinstance(node, exp.Column) else node
        )
    raise InternalError(f"row keys are not read from {dialect}")


def code(value: SQL, domain: Sequence[str], dialect: Dialect) -> SQL:
    """The index of a text in `domain`, found by hash or by bisection; null for null, and for a text that is not there."""
    if dialect == "duckdb":
        texts = [exp.Literal.string(text) for text in domain]
        kind = exp.DataType(this=exp.DataType.Type.ENUM, expressions=texts)
        return cast(exp.func("enum_code", exp.TryCast(this=value, to=kind)), "INT")
    if dialect == "postgres":
        index = msgspec.json.encode({text: i for i, text in enumerate(domain)}).decode()
        places = cast(exp.Literal.string(index), "JSONB")
        return cast(exp.Anonymous(this="jsonb_extract_path", expressions=[places, value]), "INT")
    raise InternalError(f"rows are not read from {dialect}")


def _joined(parts: Sequence[SQL]) -> SQL:
    """Concatenation as a balanced tree: functions take a hundred arguments at most."""
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    return exp.paren(exp.DPipe(this=_joined(parts[:middle]), expression=_joined(parts[middle:]), safe=True))


# --- PostgreSQL ---


def _postgres(node: exp.Expr) -> exp.Expr:
    match node:
        case exp.Round():
            return _half_away(node.this)
        case exp.TryCast() if node.to.is_type("bigint"):
            return _whole(node.this)
        case exp.Mul() if node.meta.get(MAY_VANISH):
            return _let({_LEFT: node.left, _RIGHT: node.right}, _product(column(_LEFT), column(_RIGHT)))
        case exp.Div() if node.meta.get(MAY_VANISH):
            return _let({_LEFT: node.left, _RIGHT: node.right}, _quotient(column(_LEFT), column(_RIGHT)))
    return node


def _half_away(value: SQL) -> SQL:
    """trunc(x), and one further from 0 where at least a half is cut off: both are exact."""
    if value.find(exp.Subquery):
        return _let({_LEFT: value}, _half_away(column(_LEFT)))
    whole = exp.Anonymous(this="trunc", expressions=[value.copy()])
    rest = exp.paren(exp.Sub(this=value.copy(), expression=whole.copy()))
    up = exp.GTE(this=rest, expression=double(0.5))
    down = exp.LTE(this=rest.copy(), expression=double(-0.5))
    step = case([(up, integer(1)), (down, integer(-1))], integer(0))
    return exp.paren(exp.Add(this=whole, expression=step))


def _whole(value: SQL) -> SQL:
    """A cast to BIGINT; null outside of its range, and for NaN."""
    inside = [
        exp.GTE(this=value.copy(), expression=double(-(2.0**63))),
        exp.LT(this=value.copy(), expression=double(2.0**63)),
    ]
    return case([(logic(exp.And, inside), cast(value.copy(), "BIGINT"))], None)


_LEFT, _RIGHT = "left operand", "right operand"  # no declared name has a space


def _let(values: Mapping[str, SQL], body: SQL) -> SQL:
    """`body`, with names for values: each is computed once, however often the body names it; OFFSET keeps the planner from copying it."""
    given = exp.select(*(named(value.copy(), name) for name, value in values.items())).offset(0)
    return exp.select(body).from_(given.subquery("operands")).subquery()


def _product(a: SQL, b: SQL) -> SQL:
    """0 where |a b| <= 2^-1075. That is asked of |a| 2^500 |b| 2^500, which is a double unless both are below 2^-540."""
    tiny = [exp.LT(this=exp.Abs(this=x.copy()), expression=double(2.0**-540)) for x in (a, b)]
    small = [exp.LT(this=exp.Abs(this=x.copy()), expression=integer(1)) for x in (a, b)]
    scaled = [exp.paren(product(exp.Abs(this=x.copy()), double(2.0**500))) for x in (a, b)]
    vanishes = exp.LTE(this=product(*scaled), expression=double(2.0**-75))
    careful = case([(logic(exp.And, tiny), double(0)), (vanishes, double(0))], product(a.copy(), b.copy()))
    return case([(logic(exp.And, small), careful)], product(a, b))


def _quotient(a: SQL, b: SQL) -> SQL:
    """0 where |a| <= 2^-1075 |b|. That is asked of |a| 2^1000 and |b| 2^-75, which both are exact for |a| < 1 < |b|."""
    small = exp.LT(this=exp.Abs(this=a.copy()), expression=integer(1))
    large = exp.GT(this=exp.Abs(this=b.copy()), expression=integer(1))
    vanishes = exp.LTE(
        this=product(exp.Abs(this=a.copy()), double(2.0**1000)),
        expression=product(exp.Abs(this=b.copy()), double(2.0**-75)),
    )
    careful = case([(vanishes, double(0))], quotient(a.copy(), b.copy()))
    return case([(logic(exp.And, [small, large]), careful)], quotient(a, b))


# --- Trino ---


def _trino(node: exp.Expr) -> exp.Expr:
    match node:
        case exp.Sum():
            return exp.Sum(this=cast(node.this.copy(), "DECIMAL(38, 0)"))
        case exp.EQ() if node.expression == nan():
            return exp.IsNan(this=node.this.copy())
    return node


_RULES: dict[str, Callable[[exp.Expr], exp.Expr]] = {"postgres": _postgres, "trino": _trino}
