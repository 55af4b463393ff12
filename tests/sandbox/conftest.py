"""A declared table for the query side, and an evaluator of expressions in plain Python to hold the SQL against.

`survey` has a column for every kind that the catalogue knows, with bounds from tiny to huge. `evaluate` computes an expression on one row
with Python's own integers, floats and None: it shares no code with `sandbox.bounds` or `sandbox.compiler`. `drawn` draws expressions
and rows: what it draws may well be outside the algebra (overflow, a divisor around 0), which tests then expect to be refused.
"""

from __future__ import annotations

import bisect
import operator

import pytest
from departments import busy, departments, door, open_door  # noqa: F401, fixtures of the door's tests
from hypothesis import strategies as st
from postgres_server import server  # noqa: F401

from sandbox import query as q
from sandbox.catalog import MAX_INTEGER, Column, DataSet

COLUMNS = {
    "age": Column("integer", (0, 120)),
    "visits": Column("integer", (-3, 8), nullable=True),
    "code": Column("integer", (-MAX_INTEGER, MAX_INTEGER), nullable=True),
    "income": Column("real", (-1e4, 1e6), nullable=True),
    "weight": Column("real", (0.25, 4.0)),
    "wealth": Column("real", (-1e140, 1e150), nullable=True),
    "free": Column("real", nullable=True),
    "sex": Column("category", categories=("female", "male")),
    "region": Column("category", categories=("north", "south", "o'hara; --", "東"), nullable=True),
    "insured": Column("boolean", nullable=True),
    "person": Column("identifier"),
}
OPERATORS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


class Drawn:
    """Strategies over the columns of `survey`."""

    rows = st.fixed_dictionaries(
        {
            "age": st.one_of(st.sampled_from([0, 120]), st.integers(0, 120)),
            "visits": st.one_of(st.none(), st.integers(-3, 8)),
            "code": st.one_of(
                st.sampled_from([None, -MAX_INTEGER, MAX_INTEGER, MAX_INTEGER - 1]),
                st.integers(-MAX_INTEGER, MAX_INTEGER),
            ),
            "income": st.one_of(st.sampled_from([None, -1e4, 1e6, -0.0]), st.floats(-1e4, 1e6)),
            "weight": st.one_of(st.sampled_from([0.25, 4.0, 1 / 3]), st.floats(0.25, 4)),
            "wealth": st.one_of(st.sampled_from([None, -1e140, 1e150, 5e-324]), st.floats(-1e140, 1e150)),
            "free": st.one_of(st.sampled_from([None, 1e308]), st.floats(-1e300, 1e300)),
            "sex": st.sampled_from(COLUMNS["sex"].categories),
            "region": st.sampled_from([None, *COLUMNS["region"].categories]),
            "insured": st.sampled_from([None, True, False]),
        }
    )

    def __init__(self):
        leaves = st.sampled_from(["age", "visits", "code", "income", "weight", "weight", "wealth", "insured"])
        literals = st.one_of(st.integers(-5, 5), st.sampled_from([0.5, -2.5, 1e-3, 2**52 + 1, 1e9]))
        self.numbers = st.recursive(
            st.one_of(leaves.map(q.Column), leaves.map(q.Column), literals.map(q.Value)),
            lambda inner: st.one_of(
                st.builds(q.Arithmetic, st.sampled_from(["+", "-", "*", "/"]), inner, inner),
                st.builds(q.Absolute, inner),
            ),
            max_leaves=5,
        )
        ops = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
        regions = st.lists(st.sampled_from(COLUMNS["region"].categories), min_size=1, max_size=3)
        simple = st.one_of(
            st.just(q.Column("insured")),
            st.builds(q.Compare, ops, self.numbers, self.numbers),
            st.builds(q.Compare, ops, st.just(q.Column("free")), literals.map(q.Value)),
            st.builds(q.IsIn, self.numbers, st.tuples(st.integers(-3, 8), st.just(0.5))),
            st.builds(q.IsIn, st.just(q.Column("region")), regions.map(tuple)),
            st.builds(
                q.Compare, st.just("=="), st.just(q.Column("sex")), st.sampled_from(["male"]).map(q.Value)
            ),
            st.builds(q.IsNull, st.one_of(self.numbers, st.just(q.Column("region")))),
        )
        self.conditions = st.recursive(
            simple,
            lambda inner: st.one_of(
                st.builds(q.Not, inner),
                st.builds(
                    q.Logic,
                    st.sampled_from(["and", "or"]),
                    st.lists(inner, min_size=1, max_size=3).map(tuple),
                ),
            ),
            max_leaves=4,
        )
        breaks = st.lists(st.floats(-10, 200), min_size=1, max_size=3, unique=True).map(sorted).map(tuple)
        cuts = st.builds(
            lambda term, at: q.Cut(term, at, tuple(map(str, range(len(at) + 1)))), self.numbers, breaks
        )
        branches = st.lists(st.tuples(self.conditions, st.sampled_from("abc")), min_size=1, max_size=3)
        self.texts = st.one_of(cuts, st.builds(q.Case, branches.map(tuple), st.just("d")))
        self.terms = st.one_of(self.numbers, self.conditions, self.texts)


def _evaluate(term, row):
    """`term` on one row, a dict of plain values; None is null."""
    match term:
        case q.Column(name):
            return row[name]
        case q.Value(value):
            return value
        case q.Compare(op, left, right):
            a, b = _evaluate(left, row), _evaluate(right, row)
            return None if a is None or b is None else OPERATORS[op](a, b)
        case q.Logic(op, terms):
            values = [_evaluate(part, row) for part in terms]
            decisive = op == "or"
            if decisive in values:
                return decisive
            return None if None in values else not decisive
        case q.Not(inner):
            value = _evaluate(inner, row)
            return None if value is None else not value
        case q.IsNull(inner):
            return _evaluate(inner, row) is None
        case q.IsIn(inner, values):
            value = _evaluate(inner, row)
            return None if value is None else value in values
        case q.Arithmetic(op, left, right):
            a, b = _evaluate(left, row), _evaluate(right, row)
            return None if a is None or b is None else _compute(op, _number(a), _number(b))
        case q.Absolute(inner):
            value = _evaluate(inner, row)
            return None if value is None else abs(_number(value))
        case q.Cut(inner, breaks, labels):
            value = _evaluate(inner, row)
            return None if value is None else labels[bisect.bisect_right(breaks, value)]
        case q.Case(branches, otherwise):
            return next((label for condition, label in branches if _evaluate(condition, row)), otherwise)
    raise AssertionError(term)


def _compute(op, a, b):
    """Whole numbers stay whole below 2^53; everything else is done in doubles."""
    if op != "/" and isinstance(a, int) and isinstance(b, int):
        result = OPERATORS[op](a, b)
        if abs(result) < MAX_INTEGER:
            return result
    return OPERATORS[op](float(a), float(b))


def _number(value):
    return int(value) if isinstance(value, bool) else value


@pytest.fixture(scope="session")
def evaluate():
    return _evaluate


@pytest.fixture(scope="session")
def drawn():
    return Drawn()


@pytest.fixture(scope="session")
def survey():
    """The declaration; a person has at most 3 rows."""
    return DataSet("general-2", ("research",), COLUMNS, unit="person", rows_per_unit=3, max_rows=1000)


@pytest.fixture(scope="session")
def schema(survey):
    return survey.schema()
