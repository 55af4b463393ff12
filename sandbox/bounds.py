"""Types and bounds of an expression, from the declared schema alone.

Interval arithmetic over declared bounds gives each numeric expression a closed interval that holds for every row that
keeps the schema. Corners are doubles, as the databases compute: rounding is monotone, so no value passes them. What cannot be
typed or bounded is refused with the offending name.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Literal

import msgspec

from . import query as q
from .catalog import MAX_INTEGER, Schema
from .errors import QueryError

Kind = Literal["integer", "real", "boolean", "text"]
MAX_DOMAIN = 100_000
MAX_NODES = 100_000
MAX_MAGNITUDE = 1e150


class Typed(msgspec.Struct, frozen=True):
    """What is known of an expression. Numbers carry `low` and `high` where declared, text its `domain`."""

    kind: Kind
    nullable: bool
    low: float | None = None
    high: float | None = None
    domain: tuple[str, ...] | None = None

    @property
    def number(self) -> bool:
        return self.kind in ("integer", "real")


class Number(msgspec.Struct, frozen=True):
    """A number within [low, high]; `whole` if it is an integer."""

    whole: bool
    nullable: bool
    low: float
    high: float


def infer(term: q.Expression, schema: Schema, depth: int = 0) -> Typed:
    """Type and bound `term`, whose derived columns have been inlined; raises `QueryError`."""
    if depth > q.MAX_DEPTH:
        raise QueryError(f"expression is nested deeper than {q.MAX_DEPTH} levels")
    deeper = depth + 1
    match term:
        case q.Column(name):
            return _column(name, schema)
        case q.Value(value):
            return _literal(value)
        case q.Compare(op, left, right):
            return _compare(op, left, right, schema, deeper)
        case q.Logic(op, terms):
            if not 1 <= len(terms) <= 1000:
                raise QueryError(f"'{op}' takes 1 to 1000 terms, not {len(terms)}")
            parts = [_boolean(part, schema, deeper, f"'{op}'") for part in terms]
            return Typed("boolean", any(part.nullable for part in parts))
        case q.Not(inner):
            return _boolean(inner, schema, deeper, "'not'")
        case q.IsNull(inner):
            infer(inner, schema, deeper)
            return Typed("boolean", False)
        case q.IsIn(inner, values):
            typed = infer(inner, schema, deeper)
            if not 1 <= len(values) <= 10_000:
                raise QueryError(f"'is_in' takes 1 to 10000 values, not {len(values)}")
            for value in values:
                _comparable("==", inner, typed, _literal(value), value)
            return Typed("boolean", typed.nullable)
        case q.Arithmetic(op, left, right):
            return _arithmetic(op, left, right, schema, deeper)
        case q.Absolute(inner):
            number = numeric(inner, schema, "abs()", deeper)
            low, high = abs(number.low), abs(number.high)
            least = 0.0 if number.low <= 0 <= number.high else min(low, high)
            return Typed("integer" if number.whole else "real", number.nullable, least, max(low, high))
        case q.Cut(inner, breaks, labels):
            nullable = numeric(inner, schema, "cut()", deeper).nullable
            if not all(map(math.isfinite, breaks)) or any(a >= b for a, b in itertools.pairwise(breaks)):
                raise QueryError("cut(): breaks must be finite and increasing")
            if not 1 <= len(breaks) < MAX_DOMAIN or len(labels) != len(breaks) + 1:
                raise QueryError(f"cut(): takes 1 to {MAX_DOMAIN - 1} breaks, and one label more than breaks")
            if len(set(labels)) != len(labels):
                raise QueryError("cut(): labels must differ from each other")
            return Typed("text", nullable, domain=labels)
        case q.Case(branches, otherwise):
            if not 1 <= len(branches) <= 1000:
                raise QueryError(f"when(): takes 1 to 1000 branches, not {len(branches)}")
            for condition, _ in branches:
                _boolean(condition, schema, deeper, "when()")
            domain = tuple(dict.fromkeys([label for _, label in branches] + [otherwise]))
            return Typed("text", False, domain=domain)
    raise QueryError(f"{type(term).__name__} is not an expression")


def numeric(term: q.Expression, schema: Schema, what: str, depth: int = 0) -> Number:
    """`term` as a bounded number; a boolean counts as 0 or 1."""
    typed = infer(term, schema, depth)
    if typed.kind == "boolean":
        return Number(True, typed.nullable, 0.0, 1.0)
    if not typed.number:
        raise QueryError(f"{what}: {describe(term)} is text; a number is needed")
    if typed.low is None or typed.high is None:
        raise QueryError(f"{what}: {describe(term)} has no declared bounds; its owner must declare 'bounds'")
    return Number(typed.kind == "integer", typed.nullable, typed.low, typed.high)


def domain(term: q.Expression, schema: Schema, name: str) -> tuple[str | int | bool | None, ...]:
    """The values that a group key can take, in order, from the schema; raises `QueryError` where it has none."""
    typed = infer(term, schema)
    values: tuple[str | int | bool | None, ...]
    if typed.domain is not None:
        values = typed.domain
    elif typed.kind == "boolean":
        values = (False, True)
    elif typed.kind == "integer" and typed.low is not None and typed.high is not None:
        if typed.high - typed.low >= 1000:
            raise QueryError(
                f"group key {name!r} has {int(typed.high - typed.low) + 1} declared values; allowed are at most 1000: use cut()"
            )
        values = tuple(range(int(typed.low), int(typed.high) + 1))
    else:
        raise QueryError(
            f"group key {name!r} has no declared domain: group by a category, a boolean, an integer with bounds, or use cut()"
        )
    return (*values, None) if typed.nullable else values


def describe(term: q.Expression) -> str:
    """A short name for messages; query text only, never data."""
    return (
        f"column {term.name!r}"
        if isinstance(term, q.Column)
        else f"the {type(term).__name__.lower()} expression"
    )


def columns(term: q.Expression) -> frozenset[str]:
    """Names of the columns that an expression reads."""
    match term:
        case q.Column(name):
            return frozenset([name])
        case q.Value():
            return frozenset()
        case q.Compare(_, left, right) | q.Arithmetic(_, left, right):
            return columns(left) | columns(right)
        case q.Logic(_, terms):
            return frozenset().union(*map(columns, terms))
        case q.Case(branches, _):
            return frozenset().union(*(columns(condition) for condition, _ in branches))
        case _:
            return columns(term.term)


def size(term: q.Expression, derived: Mapping[str, int]) -> int:
    """Nodes of `term` once derived columns, of the sizes given, are replaced by their definitions."""
    match term:
        case q.Column(name):
            return derived.get(name, 1)
        case q.Value():
            return 1
        case q.Compare(_, left, right) | q.Arithmetic(_, left, right):
            return 1 + size(left, derived) + size(right, derived)
        case q.Logic(_, terms):
            return 1 + sum(size(part, derived) for part in terms)
        case q.Case(branches, _):
            return 1 + sum(1 + size(condition, derived) for condition, _ in branches)
        case _:
            return 1 + size(term.term, derived)


def substitute(term: q.Expression, derived: dict[str, q.Expression]) -> q.Expression:
    """`term` with derived columns replaced by their definitions."""
    match term:
        case q.Column(name):
            return derived.get(name, term)
        case q.Value():
            return term
        case q.Compare(op, left, right):
            return q.Compare(op, substitute(left, derived), substitute(right, derived))
        case q.Arithmetic(op, left, right):
            return q.Arithmetic(op, substitute(left, derived), substitute(right, derived))
        case q.Logic(op, terms):
            return q.Logic(op, tuple(substitute(part, derived) for part in terms))
        case q.Case(branches, otherwise):
            return q.Case(tuple((substitute(c, derived), label) for c, label in branches), otherwise)
        case _:
            return msgspec.structs.replace(term, term=substitute(term.term, derived))


def _column(name: str, schema: Schema) -> Typed:
    column = schema.columns.get(name)
    if column is None:
        known = ", ".join(sorted(c for c, d in schema.columns.items() if d.type != "identifier"))
        raise QueryError(f"unknown column {name!r}; known are: {known}")
    if column.type == "identifier":
        raise QueryError(f"column {name!r} identifies units; it cannot be queried")
    if column.type == "category":
        return Typed("text", column.nullable, domain=column.categories)
    if column.type == "boolean":
        return Typed("boolean", column.nullable)
    low, high = column.bounds or (None, None)
    return Typed(column.type, column.nullable, low, high)


def _literal(value: q.Scalar) -> Typed:
    if isinstance(value, bool):
        return Typed("boolean", False)
    if isinstance(value, str):
        return Typed("text", False, domain=(value,))
    if isinstance(value, int) and abs(value) > MAX_INTEGER:  # which may be too long to print
        raise QueryError("a whole literal is beyond ±2^53")
    if not math.isfinite(value) or abs(value) > MAX_MAGNITUDE:
        raise QueryError(f"literal {value} is not a number within ±{MAX_MAGNITUDE:g}")
    return Typed("integer" if isinstance(value, int) else "real", False, float(value), float(value))


def _boolean(term: q.Expression, schema: Schema, depth: int, what: str) -> Typed:
    typed = infer(term, schema, depth)
    if typed.kind != "boolean":
        raise QueryError(f"{what}: {describe(term)} is {typed.kind}; a condition is needed")
    return typed


def _compare(op: str, left: q.Expression, right: q.Expression, schema: Schema, depth: int) -> Typed:
    a, b = infer(left, schema, depth), infer(right, schema, depth)
    if isinstance(right, q.Value):
        _comparable(op, left, a, b, right.value)
    elif isinstance(left, q.Value):
        _comparable(op, right, b, a, left.value)
    elif not ((a.number and b.number) or a.kind == b.kind):
        raise QueryError(f"'{op}' compares {a.kind} with {b.kind}")
    if op not in ("==", "!=") and not (a.number and b.number):
        raise QueryError(f"'{op}' orders numbers only, not {a.kind} with {b.kind}")
    return Typed("boolean", a.nullable or b.nullable)


def _comparable(op: str, term: q.Expression, typed: Typed, literal: Typed, value: q.Scalar) -> None:
    if not ((typed.number and literal.number) or typed.kind == literal.kind):
        raise QueryError(f"'{op}': {describe(term)} is {typed.kind}, but {value!r} is {literal.kind}")
    if typed.domain is not None and value not in typed.domain:
        shown = ", ".join(map(repr, typed.domain[:20])) + (", …" if len(typed.domain) > 20 else "")
        raise QueryError(f"'{op}': {value!r} is no declared value of {describe(term)}; declared are: {shown}")


def _arithmetic(op: str, left: q.Expression, right: q.Expression, schema: Schema, depth: int) -> Typed:
    a, b = (numeric(part, schema, f"'{op}'", depth) for part in (left, right))
    if op == "/":
        if b.low <= 0 <= b.high:
            raise QueryError(
                f"'/': the bounds of {describe(right)} contain 0; filter or shift it away from 0"
            )
        corners = [x / y for x in (a.low, a.high) for y in (b.low, b.high)]
    elif op == "*":
        corners = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
    elif op == "+":
        corners = [a.low + b.low, a.high + b.high]
    else:
        corners = [a.low - b.high, a.high - b.low]
    low, high = min(corners), max(corners)
    if not max(abs(low), abs(high)) <= MAX_MAGNITUDE:
        raise QueryError(f"'{op}': the result can reach beyond ±{MAX_MAGNITUDE:g}")
    # At 2^53 itself the corner may be a rounded 2^53 + 1, which is no longer exact.
    whole = a.whole and b.whole and op != "/" and max(abs(low), abs(high)) < MAX_INTEGER
    return Typed("integer" if whole else "real", a.nullable or b.nullable, low, high)
