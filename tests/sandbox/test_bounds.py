"""Bounds: no row that keeps the schema leaves the interval, and what has no interval is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox import bounds, col, when
from sandbox import query as q
from sandbox.catalog import MAX_INTEGER, Column, Schema
from sandbox.errors import QueryError

MANY = settings(max_examples=400, deadline=None, derandomize=True, database=None)
age, code, wealth = col("age"), col("code"), col("wealth")


@MANY
@given(data=st.data())
def test_every_value_of_every_row_lies_in_what_was_inferred(data, drawn, schema, evaluate):
    term = data.draw(st.one_of(drawn.numbers, drawn.terms))
    try:
        typed = bounds.infer(term, schema)
    except QueryError:
        return
    for row in data.draw(st.lists(drawn.rows, min_size=3, max_size=3)):
        value = evaluate(term, row)
        if value is None:
            assert typed.nullable
        elif typed.number:
            assert typed.low <= value <= typed.high
            assert typed.kind == "real" or (value == int(value) and abs(value) <= MAX_INTEGER)
        elif typed.kind == "boolean":
            assert isinstance(value, bool)
        else:
            assert value in typed.domain


@pytest.mark.parametrize(
    ("term", "kind", "low", "high"),
    [
        (age + 1, "integer", 1, 121),
        (1 - age, "integer", -119, 1),
        (-col("visits"), "integer", -8, 3),
        (age * col("visits"), "integer", -360, 960),
        (age * 0.5, "real", 0, 60),
        (age / col("weight"), "real", 0, 480),
        (1 / -col("weight"), "real", -4, -0.25),
        (col("visits").abs(), "integer", 0, 8),
        ((col("visits") - 9).abs(), "integer", 1, 12),
        (col("insured") + col("insured"), "integer", 0, 2),
        (age / 2, "real", 0, 60),
        (code * 1, "real", -(2.0**53), 2.0**53),
        (code + 1, "real", 1 - 2.0**53, 2.0**53),
        (wealth + wealth, "real", None, None),
    ],
)
def test_intervals_of_single_steps(schema, term, kind, low, high):
    """Beyond ±2^53 whole numbers are no longer exact in a double, hence real."""
    if low is None:
        with pytest.raises(QueryError, match=r"'\+': the result can reach beyond ±1e\+150"):
            bounds.infer(term.node, schema)
        return
    typed = bounds.infer(term.node, schema)
    assert (typed.kind, typed.low, typed.high) == (kind, low, high)


def test_corners_are_rounded_as_the_database_rounds(schema):
    """Exact integers would give a corner below the sum of the rounded products."""
    product = q.Arithmetic("*", q.Value(2**53 - 1), q.Value(2**53 - 3))
    other = q.Arithmetic("*", q.Value(2**53 - 1), q.Value(3))
    typed = bounds.infer(q.Arithmetic("+", product, other), schema)
    computed = float(2**53 - 1) * float(2**53 - 3) + float(2**53 - 1) * 3.0
    assert typed.low == computed == typed.high
    assert isinstance(typed.low, float)


@pytest.mark.parametrize(
    ("term", "reason"),
    [
        (age / col("visits"), "'/': the bounds of column 'visits' contain 0; filter or shift it away from 0"),
        (age / 0, "'/': the bounds of the value expression contain 0"),
        (1 / age, "'/': the bounds of column 'age' contain 0"),
        (1 / (age - 120), "'/': the bounds of the arithmetic expression contain 0"),
        (1 / col("insured"), "'/': the bounds of column 'insured' contain 0"),
        (wealth * wealth, r"'\*': the result can reach beyond ±1e\+150"),
        (wealth / 1e-150, r"'/': the result can reach beyond ±1e\+150"),
        (wealth * 10, r"'\*': the result can reach beyond"),
        (1e150 / (col("weight") * 1e-300), "'/': the result can reach beyond"),
        (col("free") + 1, r"'\+': column 'free' has no declared bounds; its owner must declare 'bounds'"),
        (col("free").abs(), r"abs\(\): column 'free' has no declared bounds"),
        (col("free").cut([1]), r"cut\(\): column 'free' has no declared bounds"),
        (col("sex") + 1, r"'\+': column 'sex' is text; a number is needed"),
        (age.cut([1]) * 2, r"'\*': the cut expression is text"),
        (col("nobody"), "unknown column 'nobody'; known are: age, code, free, income"),
        (col("person"), "column 'person' identifies units; it cannot be queried"),
        (col("person") == "7", "column 'person' identifies units"),
        (age == "7", "'==': column 'age' is integer, but '7' is text"),
        (age == True, "'==': column 'age' is integer, but True is boolean"),  # noqa: E712
        (col("sex") == "m", "'==': 'm' is no declared value of column 'sex'; declared are: 'female', 'male'"),
        (col("sex").is_in(["male", "m"]), "'==': 'm' is no declared value of column 'sex'"),
        (col("sex") > "female", "'>' orders numbers only, not text with text"),
        (col("insured") < True, "'<' orders numbers only, not boolean with boolean"),
        (col("insured") == age, "'==' compares boolean with integer"),
        (age & col("insured"), "'and': column 'age' is integer; a condition is needed"),
        (~age, "'not': column 'age' is integer; a condition is needed"),
        (when(age).then("a").otherwise("b"), r"when\(\): column 'age' is integer; a condition is needed"),
        (age.is_in([]), "'is_in' takes 1 to 10000 values, not 0"),
        (age.cut([]), r"cut\(\): takes 1 to 99999 breaks"),
        (age.cut([2, 1]), r"cut\(\): breaks must be finite and increasing"),
        (age.cut([1, float("inf")]), r"cut\(\): breaks must be finite and increasing"),
        (age.cut([float("nan")]), r"cut\(\): breaks must be finite and increasing"),
        (age.cut([1], ["a"]), r"cut\(\): takes .* and one label more than breaks"),
        (age.cut([1], ["a", "a"]), r"cut\(\): labels must differ from each other"),
        (age + float("nan"), r"literal nan is not a number within ±1e\+150"),
        (age < float("inf"), r"literal inf is not a number within ±1e\+150"),
        (age < 1e151, r"literal 1e\+151 is not a number within ±1e\+150"),
        (age < 2**53 + 1, r"a whole literal is beyond ±2\^53"),
        (age < 10**5000, r"a whole literal is beyond ±2\^53"),
        (age.is_in([10**400]), r"a whole literal is beyond ±2\^53"),
    ],
)
def test_what_has_no_type_or_interval_is_refused_by_name(schema, term, reason):
    with pytest.raises(QueryError, match=reason):
        bounds.infer(term.node, schema)


@pytest.mark.parametrize("step", [q.Not, q.Absolute, lambda term: q.Logic("or", (term,))])
def test_deep_expressions_are_refused(schema, step):
    term = q.Column("insured")
    for _ in range(q.MAX_DEPTH):
        term = step(term)
    bounds.infer(term, schema)
    with pytest.raises(QueryError, match="nested deeper than 32 levels"):
        bounds.infer(step(term), schema)


def test_domains_follow_from_the_declaration_alone(schema):
    def domain(term):
        return bounds.domain(term.node, schema, "k")

    assert domain(col("sex")) == ("female", "male")
    assert domain(col("region")) == ("north", "south", "o'hara; --", "東", None)
    assert domain(col("insured")) == (False, True, None)
    assert domain(age > 60) == (False, True)
    assert domain(col("visits")) == (*range(-3, 9), None)
    assert domain(age.cut([20, 60.5])) == ("< 20", "20 to < 60.5", ">= 60.5")
    assert domain(col("income").cut([0], ["-", "+"])) == ("-", "+", None)
    assert domain(when(age < 18).then("a").when(age > 60).then("b").otherwise("a")) == ("a", "b")
    assert domain(col("visits") + col("insured")) == (*range(-3, 10), None)


def test_a_key_of_whole_numbers_has_at_most_1000_values():
    for high, allowed in ((999, True), (1000, False)):
        schema = Schema({"x": Column("integer", (0, high))})
        if allowed:
            assert bounds.domain(q.Column("x"), schema, "k") == tuple(range(1000))
        else:
            with pytest.raises(QueryError, match="'k' has 1001 declared values; allowed are at most 1000"):
                bounds.domain(q.Column("x"), schema, "k")


@pytest.mark.parametrize(
    ("term", "reason"),
    [
        (col("income"), r"group key 'k' has no declared domain: group by a category, .* or use cut\(\)"),
        (col("free"), "group key 'k' has no declared domain"),
        (age * 9, r"group key 'k' has 1081 declared values; allowed are at most 1000: use cut\(\)"),
        (code, "group key 'k' has 18014398509481985 declared values"),
        (col("person"), "column 'person' identifies units"),
    ],
)
def test_a_key_without_a_domain_is_refused(schema, term, reason):
    with pytest.raises(QueryError, match=reason):
        bounds.domain(term.node, schema, "k")


@MANY
@given(data=st.data())
def test_substitution_keeps_the_value_and_the_size_that_is_announced(data, drawn, schema, evaluate):
    """Derived columns are put in by name; `size` tells beforehand how large the result is."""
    derived = data.draw(drawn.numbers)
    term = data.draw(drawn.terms)
    row = data.draw(drawn.rows)
    inlined = bounds.substitute(term, {"age": derived})
    assert bounds.size(inlined, {}) == bounds.size(term, {"age": bounds.size(derived, {})})
    expected = (bounds.columns(term) - {"age"}) | (
        bounds.columns(derived) if "age" in bounds.columns(term) else frozenset()
    )
    assert bounds.columns(inlined) == expected
    try:
        bounds.infer(derived, schema)
        bounds.infer(inlined, schema)
    except QueryError:
        return
    assert evaluate(inlined, row) == evaluate(term, row | {"age": evaluate(derived, row)})


def test_magnitudes_leave_room_for_squares():
    """Why 1e150: the square of a declared value is still a finite double."""
    assert math.isfinite(bounds.MAX_MAGNITUDE**2)
