"""Expressions of a query -> SQL, over columns that are as declared. Three-valued logic as in SQL, whole numbers of 64 bits, doubles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from sqlglot import exp

from . import bounds
from . import query as q
from .catalog import Schema
from .errors import InternalError
from .plan import Key
from .syntax import SQL, case, cast, column, double, integer, literal, logic, present, product, quotient

_LEAST = -1074  # exponent of the smallest double above 0
_COMPARE: dict[str, type[exp.Binary]] = {
    "==": exp.EQ,
    "!=": exp.NEQ,
    "<": exp.LT,
    "<=": exp.LTE,
    ">": exp.GT,
    ">=": exp.GTE,
}


def expression(term: q.Expression, schema: Schema) -> SQL:
    match term:
        case q.Column(name):
            return column(name)
        case q.Value(value):
            return literal(value)
        case q.Compare(op, left, right):
            return exp.paren(
                _COMPARE[op](this=expression(left, schema), expression=expression(right, schema))
            )
        case q.Logic(op, terms):
            return logic(exp.And if op == "and" else exp.Or, [expression(part, schema) for part in terms])
        case q.Not(inner):
            return exp.paren(exp.Not(this=expression(inner, schema)))
        case q.IsIn(inner, values):
            return exp.paren(
                exp.In(this=expression(inner, schema), expressions=[literal(value) for value in values])
            )
        case q.IsNull(inner):
            return exp.paren(exp.Is(this=expression(inner, schema), expression=exp.Null()))
        case q.Arithmetic(op, left, right):
            return _arithmetic(term, op, left, right, schema)
        case q.Absolute(inner):
            return exp.Abs(this=number(inner, schema))
        case q.Cut(inner, breaks, labels):
            return _bands(number(inner, schema), breaks, lambda i: literal(labels[i]))
        case q.Case(branches, otherwise):
            cases = [(expression(condition, schema), literal(label)) for condition, label in branches]
            return case(cases, literal(otherwise))
    raise InternalError(f"{type(term).__name__} is not an expression")


def number(term: q.Expression, schema: Schema) -> SQL:
    """A number; a boolean counts as 0 or 1. Whole numbers are 64-bit, so that no literal overflows 32 bits."""
    value = expression(term, schema)
    kind = bounds.infer(term, schema).kind
    if kind == "boolean":
        negated = exp.Not(this=value.copy())
        return cast(case([(value, integer(1)), (negated, integer(0))], None), "BIGINT")
    return cast(value, "BIGINT") if isinstance(term, q.Value) and kind == "integer" else value


def group(key: Key, schema: Schema) -> SQL:
    """A group key: of a `Cut` or `Case` the index of its label, of others the value."""
    match key.term:
        case q.Cut(inner, breaks, _):
            return _bands(number(inner, schema), breaks, integer)
        case q.Case(branches, otherwise):
            cases = [
                (expression(condition, schema), integer(key.domain.index(label)))
                for condition, label in branches
            ]
            return case(cases, integer(key.domain.index(otherwise)))
    return expression(key.term, schema)


def exponent(value: float) -> int:
    """The exponent of the largest power of two that is not above |value|."""
    return math.frexp(value)[1] - 1


def least(term: q.Expression, schema: Schema) -> int:
    """An exponent e such that the number is 0, or at least 2^e from it: databases differ in what they make of a product below 2^-1074."""
    typed = bounds.infer(term, schema)
    if typed.kind != "real":
        return 0
    known = _LEAST
    if typed.low is not None and typed.high is not None and (typed.low > 0 or typed.high < 0):
        known = exponent(min(abs(typed.low), abs(typed.high)))
    match term:
        case q.Value(value) if value:
            return exponent(float(value))
        case q.Absolute(inner):
            return max(known, least(inner, schema))
        case q.Arithmetic("*", left, right):
            return max(known, least(left, schema) + least(right, schema))
        case q.Arithmetic("/", left, right):
            return max(known, least(left, schema) - _reach(right, schema))
    return known


def vanishing(size: int) -> bool:
    """Whether a number that is at least 2^size may round to 0."""
    return size < _LEAST


def _arithmetic(term: q.Expression, op: str, left: q.Expression, right: q.Expression, schema: Schema) -> SQL:
    a, b = number(left, schema), number(right, schema)
    real = bounds.infer(term, schema).kind == "real"
    if real:
        a, b = cast(a, "DOUBLE"), cast(b, "DOUBLE")
    match op:
        case "/":
            vanishes = vanishing(least(left, schema) - _reach(right, schema))
            return exp.paren(quotient(a, b, vanishes=vanishes))
        case "*":
            vanishes = real and vanishing(least(left, schema) + least(right, schema))
            return exp.paren(product(a, b, vanishes=vanishes))
    return exp.paren({"+": exp.Add, "-": exp.Sub}[op](this=a, expression=b))


def _reach(term: q.Expression, schema: Schema) -> int:
    """An exponent e such that the number is below 2^e."""
    inside = bounds.numeric(term, schema, "'/'")
    return exponent(max(abs(inside.low), abs(inside.high))) + 1


def _bands(value: SQL, breaks: Sequence[float], leaf: Callable[[int], SQL]) -> SQL:
    """The leaf of the band that holds `value`, by bisection; null for null."""

    def bisect(first: int, last: int) -> SQL:
        if first == last:
            return leaf(first)
        middle = (first + last) // 2
        below = exp.LT(this=value.copy(), expression=double(breaks[middle]))
        return case([(below, bisect(first, middle))], bisect(middle + 1, last))

    return case([(present(value), bisect(0, len(breaks)))], None)
