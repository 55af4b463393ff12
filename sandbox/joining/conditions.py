"""Conditions of a joined table, apart: whose each is, and what is left to compare between two departments.

A filter is a conjunction; each of its conditions reads the columns of one department, or compares two whole numbers of two. What mixes
departments in another way is refused in words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from .. import bounds
from .. import query as q
from ..errors import QueryError
from .wide import Wide

Side = tuple[str, q.Expression]
Comparison = tuple[str, q.Expression, str, q.Expression]  # whose left term is less than whose right one


class Conditions(msgspec.Struct, frozen=True):
    """A filter, apart: each department's conditions, terms that must be present, and whole numbers to compare."""

    local: dict[str, tuple[q.Expression, ...]]
    needed: dict[str, tuple[q.Expression, ...]]
    compared: tuple[Comparison, ...]


def conditions_of(where: q.Expression | None, wide: Wide) -> Conditions:
    """Each condition of a conjunction is of one department, or compares whole numbers of two."""
    local: dict[str, list[q.Expression]] = {}
    needed: dict[str, list[q.Expression]] = {}
    compared: list[Comparison] = []
    for term in _conjunction(where):
        holders = wide.holders(term) or wide.departments[:1]
        if len(holders) == 1:
            local.setdefault(holders[0], []).append(wide.local(term))
            continue
        left, right = _sides(term, wide)
        for name, side in (left, right):
            if bounds.infer(side, wide.parts[name]).nullable:
                needed.setdefault(name, []).append(side)
        assert isinstance(term, q.Compare)
        compared += _ordered(term.op, left, right)
    return Conditions(
        {name: tuple(terms) for name, terms in local.items()},
        {name: tuple(terms) for name, terms in needed.items()},
        tuple(compared),
    )


def _ordered(op: str, left: Side, right: Side) -> list[Comparison]:
    """As what must be less than what: of whole numbers, x <= y is x < y + 1."""

    def above(side: Side) -> Side:
        return side[0], q.Arithmetic("+", side[1], q.Value(1))

    match op:
        case "<":
            return [(*left, *right)]
        case ">":
            return [(*right, *left)]
        case "<=":
            return [(*left, *above(right))]
        case ">=":
            return [(*right, *above(left))]
    return [(*left, *above(right)), (*right, *above(left))]


def _sides(term: q.Expression, wide: Wide) -> tuple[Side, Side]:
    if isinstance(term, q.Compare) and term.op != "!=":
        sides = [(wide.holders(side), side) for side in (term.left, term.right)]
        whole = [bounds.infer(side, wide.schema).kind == "integer" for _, side in sides]
        if all(whole) and all(len(holders) == 1 for holders, _ in sides):
            (a, left), (b, right) = sides
            for name, side in ((a[0], left), (b[0], right)):
                bounds.numeric(side, wide.schema, f"filter, {name}")
            return (a[0], wide.local(left)), (b[0], wide.local(right))
    raise QueryError(
        f"filter: a condition on columns of {' and '.join(wide.holders(term))} may compare two whole numbers, one of each, "
        "with < <= > >= or ==; combine conditions of one department each with &"
    )


def _conjunction(term: q.Expression | None) -> Iterator[q.Expression]:
    if isinstance(term, q.Logic) and term.op == "and":
        for part in term.terms:
            yield from _conjunction(part)
    elif term is not None:
        yield term


def holder_of(term: q.Expression, wide: Wide, what: str) -> str:
    """The one department whose columns an expression reads."""
    holders = wide.holders(term) or wide.departments[:1]
    if len(holders) > 1:
        raise QueryError(
            f"{what}: {bounds.describe(term)} mixes columns of {' and '.join(holders)}: each expression is of one department's columns; "
            "cov() and corr() take two"
        )
    return holders[0]


def apart_by(terms: Sequence[q.Expression], wide: Wide) -> dict[str, tuple[q.Expression, ...]]:
    """Terms by the department that holds them, by their names there."""
    found: dict[str, list[q.Expression]] = {}
    for term in terms:
        found.setdefault(holder_of(term, wide, "aggregate"), []).append(wide.local(term))
    return {name: tuple(own) for name, own in found.items()}
