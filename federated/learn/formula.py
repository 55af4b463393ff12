"""Wilkinson formulas as features and target: `insurance ~ age + sex + age:education + I(age**2)`.

`formulaic` reads the formula; what its factors hold is translated to the query algebra, and nothing of it is ever evaluated: column names, numbers,
`+ - *`, `/`, whole powers up to 4, `abs()`, `I()`, and `C()` for a category or an integer of few values. Coding is by treatment, the first declared level
being the reference; a category has all its levels where the terms without it are not there before it (the rule of patsy).
"""

from __future__ import annotations

import ast
import functools
import itertools
from collections.abc import Mapping
from typing import Any

import msgspec

from sandbox import bounds
from sandbox import fit as f
from sandbox import query as q
from sandbox.catalog import Schema
from sandbox.errors import ParameterError, QueryError

_OPERATORS: dict[type, Any] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
MAX_LEVELS = 100
MAX_POWER = 4


class Parsed(msgspec.Struct, frozen=True):
    """What a formula says. `intercept` is False for `… - 1`."""

    features: tuple[q.Derived, ...]
    target: q.Derived | None
    intercept: bool


def parse(text: str, schema: Schema, derived: Mapping[str, q.Expression] | None = None) -> Parsed:
    """Features and target of a formula; raises `QueryError` for what the algebra does not hold. `derived`: added columns, of declared ones.

    >>> from sandbox.catalog import Column
    >>> schema = Schema({"y": Column("real", (0, 1)), "x": Column("real", (0, 2))})
    >>> [feature.name for feature in parse("y ~ x + I(x**2)", schema).features]
    ['x', 'I(x ** 2)']
    """
    try:
        from formulaic import Formula
        from formulaic.errors import FormulaSyntaxError
    except ImportError:
        raise ParameterError(
            "formulas need the package formulaic: pip install 'joint-sandbox[learn]'"
        ) from None
    try:
        formula = Formula(text)
    except (FormulaSyntaxError, SyntaxError) as error:
        raise QueryError(f"formula: {str(error).splitlines()[0]}") from None
    sides = formula if hasattr(formula, "rhs") else None
    target, derived = None, derived or {}
    if sides is not None:
        left = [factor.expr for term in sides.lhs for factor in term.factors]
        if len(left) != 1:
            raise QueryError("formula: one target is needed left of '~'")
        target = q.Derived(left[0], _term(left[0], schema, derived))
    terms = [
        tuple(factor.expr for factor in term.factors) for term in (formula if sides is None else sides.rhs)
    ]
    intercept = ("1",) in terms
    terms = [term for term in terms if term != ("1",)]
    spanned = {frozenset[str]()} if intercept else set()
    made = {factor: _term(factor, schema, derived) for term in terms for factor in term}
    features = [feature for term in terms for feature in _features(term, spanned, made, schema)]
    return Parsed(tuple(features), target, intercept)


def _features(
    term: tuple[str, ...],
    spanned: set[frozenset[str]],
    expressions: Mapping[str, q.Expression],
    schema: Schema,
) -> list[q.Derived]:
    """The features of one term. `spanned` holds the sub-terms whose columns are there already, each free of the others', and is added to."""
    categories = [factor for factor in term if bounds.infer(expressions[factor], schema).kind == "text"]
    numbers = frozenset(term) - set(categories)
    new = {
        numbers | set(chosen)
        for size in range(len(categories) + 1)
        for chosen in itertools.combinations(categories, size)
        if numbers | set(chosen) not in spanned
    }
    found = []
    while new:
        top = max(new, key=len)
        # With all its levels a category spans the sub-terms without it, too: where these are all new, none is spanned twice.
        full: list[str] = []
        for factor in categories:
            grown = [*full, factor]
            below = [
                top - set(less) for n in range(len(grown) + 1) for less in itertools.combinations(grown, n)
            ]
            if factor in top and all(part in new for part in below):
                full = grown
        new -= {top - set(less) for n in range(len(full) + 1) for less in itertools.combinations(full, n)}
        found += _columns([factor for factor in term if factor in top], full, expressions, schema)
    spanned |= {
        numbers | set(c) for n in range(len(categories) + 1) for c in itertools.combinations(categories, n)
    }
    return found


def _columns(
    factors: list[str], full: list[str], expressions: Mapping[str, q.Expression], schema: Schema
) -> list[q.Derived]:
    """Products over factors, of which categories have several columns: all their levels where `full`, else all but the first."""
    parts = []
    for factor in factors:
        typed = bounds.infer(expressions[factor], schema)
        if typed.domain is None:
            parts.append([(factor, expressions[factor])])
            continue
        if factors == [factor] and factor not in full:
            return [q.Derived(factor, expressions[factor])]
        levels = typed.domain[0 if factor in full else 1 :]
        parts.append([(f"{factor}[{level}]", _is(expressions[factor], level)) for level in levels])
    found = []
    for product in itertools.product(*parts):
        names, terms = zip(*product, strict=True)
        found.append(
            q.Derived(":".join(names), functools.reduce(lambda a, b: q.Arithmetic("*", a, b), terms))
        )
    return found


def _is(expression: q.Expression, level: str) -> q.Expression:
    return q.Compare("==", expression, q.Value(level))


def _term(text: str, schema: Schema, derived: Mapping[str, q.Expression]) -> q.Expression:
    """One factor as an expression."""
    try:
        tree = ast.parse(text.strip("`") if text.startswith("`") else text, mode="eval").body
    except SyntaxError:
        raise QueryError(f"formula: {text!r} is not an expression") from None
    return _translated(tree, schema, derived)


def _translated(node: ast.expr, schema: Schema, derived: Mapping[str, q.Expression]) -> q.Expression:
    match node:
        case ast.Name(name) if name in derived:
            return derived[name]
        case ast.Name(name):
            bounds.infer(q.Column(name), schema)
            return q.Column(name)
        case ast.Constant(value) if isinstance(value, int | float | str):
            return q.Value(value)
        case ast.UnaryOp(ast.USub(), inner):
            return q.Arithmetic("-", q.Value(0), _translated(inner, schema, derived))
        case ast.BinOp(left, ast.Pow(), ast.Constant(power)):
            if not isinstance(power, int) or not 2 <= power <= MAX_POWER:
                raise QueryError(f"formula: powers may be 2 to {MAX_POWER}")
            base = _translated(left, schema, derived)
            product = base
            for _ in range(power - 1):
                product = q.Arithmetic("*", product, base)
            return product
        case ast.BinOp(left, operator, right) if type(operator) in _OPERATORS:
            return q.Arithmetic(
                _OPERATORS[type(operator)],
                _translated(left, schema, derived),
                _translated(right, schema, derived),
            )
        case ast.Call(ast.Name("I"), [inner], []):
            return _translated(inner, schema, derived)
        case ast.Call(ast.Name("abs"), [inner], []):
            return q.Absolute(_translated(inner, schema, derived))
        case ast.Call(ast.Name("C"), [inner], []):
            return _category(_translated(inner, schema, derived), schema)
    raise QueryError(
        f"formula: {ast.unparse(node)!r} cannot be bounded; allowed are columns, numbers, + - * /, powers, abs(), I() and C()"
    )


def _category(term: q.Expression, schema: Schema) -> q.Expression:
    """A category; an integer of few values becomes one."""
    typed = bounds.infer(term, schema)
    if typed.kind == "text":
        return term
    values = f.classes(term, schema)
    if typed.nullable or len(values) > MAX_LEVELS:
        raise QueryError("formula: C() takes a category, or a boolean or integer of few values without nulls")
    branches = tuple((q.Compare("==", term, q.Value(value)), str(value)) for value in values[:-1])
    return q.Case(branches, str(values[-1]))
