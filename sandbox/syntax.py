"""The nodes that SQL trees are built of. Names are always quoted, and literals are literal nodes: no text is pasted."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TypeAlias

from sqlglot import exp

from . import query as q
from .catalog import MAX_INTEGER
from .errors import QueryError

SQL: TypeAlias = exp.Expr

MAY_VANISH = "may vanish"  # marks products and quotients of doubles that may be nonzero and yet round to 0


def table(name: str) -> exp.Table:
    return exp.Table(this=exp.to_identifier(name, quoted=True))


def column(name: str) -> SQL:
    return exp.column(exp.to_identifier(name, quoted=True))


def named(value: SQL, name: str) -> SQL:
    return exp.alias_(value, name, quoted=True)


def cast(value: SQL, kind: str) -> SQL:
    """The value as of this type; what is cast to it already stays as it is."""
    to = _type(kind)
    return value if isinstance(value, exp.Cast) and value.to == to else exp.Cast(this=value, to=to.copy())


@functools.cache
def _type(kind: str) -> exp.DataType:
    return exp.DataType.build(kind)


def literal(value: q.Scalar) -> SQL:
    if isinstance(value, bool):
        return exp.Boolean(this=value)
    if isinstance(value, str):
        if "\0" in value:
            raise QueryError("text with a NUL character cannot be asked for")
        return exp.Literal.string(value)
    return integer(value) if isinstance(value, int) else double(value)


def integer(value: int) -> SQL:
    assert abs(value) <= 2 * MAX_INTEGER
    digits = exp.Literal(this=str(abs(value)), is_string=False)
    return exp.Neg(this=digits) if value < 0 else digits


def double(value: float) -> SQL:
    """An exact double: Python's shortest digits, which round back to it; never read as a decimal."""
    digits = repr(abs(float(value)))
    positive = cast(exp.Literal(this=digits if "e" in digits else f"{digits}e0", is_string=False), "DOUBLE")
    return exp.Neg(this=positive) if value < 0 else positive


def nan() -> SQL:
    return cast(exp.Literal.string("NaN"), "DOUBLE")


def powers_of_two(exponent: int) -> list[float]:
    """Doubles whose product is 2^exponent, each exact."""
    whole, rest = divmod(abs(exponent), 1000)
    sign = 1 if exponent > 0 else -1
    return [math.ldexp(1.0, sign * part) for part in [1000] * whole + [rest] if part]


def product(a: SQL, b: SQL, *, vanishes: bool = False) -> SQL:
    node = exp.Mul(this=a, expression=b)
    if vanishes:
        node.meta[MAY_VANISH] = True
    return node


def quotient(a: SQL, b: SQL, *, vanishes: bool = False) -> SQL:
    """Real division: both are doubles, and neither dialect's rules for integers or zero are asked for."""
    node = exp.Div(this=a, expression=b, typed=True, safe=False)
    if vanishes:
        node.meta[MAY_VANISH] = True
    return node


def logic(node: type[exp.Connector], parts: Sequence[SQL]) -> SQL:
    """A balanced tree: databases limit the depth of an expression."""
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    return exp.paren(node(this=logic(node, parts[:middle]), expression=logic(node, parts[middle:])))


def case(branches: Sequence[tuple[SQL, SQL]], otherwise: SQL | None) -> SQL:
    return exp.Case(
        ifs=[exp.If(this=condition, true=value) for condition, value in branches], default=otherwise
    )


def present(value: SQL) -> SQL:
    return exp.Not(this=exp.Is(this=value.copy(), expression=exp.Null()))


def absent(value: SQL) -> SQL:
    return exp.Is(this=value.copy(), expression=exp.Null())
