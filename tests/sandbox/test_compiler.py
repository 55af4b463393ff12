"""Compiled SQL: recorded texts for two databases, values as Python computes them, and sums that no unit can move beyond their bound."""

from __future__ import annotations

import collections

import duckdb
import msgspec
import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlglot import exp

from sandbox import bounds, col, compiler, corr, count, declaration, plan, terms, when
from sandbox import query as q
from sandbox.catalog import Column, DataSet, Schema
from sandbox.errors import QueryError
from sandbox.table import JointTable

MANY = settings(max_examples=300, deadline=None, derandomize=True, database=None)
DIALECTS = ("duckdb", "postgres")
SMALL = {
    "x": Column("integer", (0, 11)),
    "y": Column("real", (-1, 1), nullable=True),
    "k": Column("category", categories=("a", "it's")),
    "b": Column("boolean", nullable=True),
    "u": Column("identifier"),
}
T = JointTable(None, "t")
BY_UNIT = Schema(SMALL, unit="u", rows_per_unit=2)
BY_ROW = Schema({name: SMALL[name] for name in "xykb"})


def sums(query, schema, *, exact):
    return compiler.sums(plan.compile(query.query, schema, exact=exact), schema, "data", bounded=not exact)


# --- recorded texts ---


def test_a_count_by_key():
    select = sums(T.filter(col("k") == "it's").group_by("k").agg(count()), BY_ROW, exact=True)
    for dialect, text in (("duckdb", "TEXT"), ("postgres", "VARCHAR")):
        assert select.sql(dialect) == (
            'SELECT "k0", COUNT(*) AS "c0", CASE WHEN COUNT(*) > 0 THEN 1 ELSE 0 END AS "c1" FROM ('
            f'SELECT "k" AS "k0" FROM (SELECT CAST("k" AS {text}) AS "k" FROM "data") AS clean '
            "WHERE (\"k\" = 'it''s')) AS terms "
            'GROUP BY "k0"'
        )


def test_a_bounded_sum_of_whole_numbers():
    """Clipped, two rows a unit, doubled about the center 5.5."""
    select = sums(T.agg(col("x").sum()), BY_UNIT, exact=False)
    for dialect in DIALECTS:
        assert select.sql(dialect) == (
            'SELECT COUNT(*) AS "c0", CAST(COALESCE(SUM("t0"), 0) AS BIGINT) AS "c1" FROM ('
            'SELECT (2 * "x" - 11) AS "t0" FROM ('
            'SELECT "x", "u", ROW_NUMBER() OVER (PARTITION BY "u" ORDER BY "x") AS "row number" FROM ('
            'SELECT CAST(CASE WHEN "x" < 0 THEN 0 WHEN "x" > 11 THEN 11 ELSE "x" END AS BIGINT) AS "x", "u" FROM "data"'
            ') AS clean WHERE NOT "u" IS NULL) AS kept WHERE "row number" <= 2) AS terms'
        )


def test_an_exact_sum_of_reals():
    """On the grid 2^-52, as digits, since 2^30 rows may pass 64 bits."""
    select = sums(T.agg(col("y").mean()), BY_ROW, exact=False)
    for dialect, double, text in (("duckdb", "DOUBLE", "TEXT"), ("postgres", "DOUBLE PRECISION", "VARCHAR")):
        number = f'CAST("y" AS {double})'
        assert select.sql(dialect) == (
            f'SELECT COUNT("t0") AS "c0", CAST(COALESCE(SUM(CAST(ROUND("t1" * CAST(2251799813685248.0e0 AS {double})) '
            f'AS BIGINT)), 0) AS {text}) AS "c1" FROM (SELECT "y" AS "t0", {number} AS "t1" FROM (SELECT CASE '
            f"WHEN {number} = CAST('NaN' AS {double}) THEN NULL "
            f"WHEN {number} < -CAST(1.0e0 AS {double}) THEN -CAST(1.0e0 AS {double}) "
            f"WHEN {number} > CAST(1.0e0 AS {double}) THEN CAST(1.0e0 AS {double}) "
            f'ELSE {number} END AS "y" FROM "data") AS clean) AS terms'
        )


def test_a_band_and_its_histogram():
    query = T.with_columns(band=col("x").cut([3])).group_by("band").agg(col("x").median())
    compiled = plan.compile(query.query, BY_ROW, exact=True)
    select = compiler.histogram(compiled, compiled.leaves[0], BY_ROW, "data", bounded=False)
    for dialect, double in (("duckdb", "DOUBLE"), ("postgres", "DOUBLE PRECISION")):
        assert select.sql(dialect) == (
            'SELECT "k0", "bin", COUNT(*) AS "n" FROM (SELECT CASE WHEN NOT "x" IS NULL THEN '
            f'CASE WHEN "x" < CAST(3.0e0 AS {double}) THEN 0 ELSE 1 END END AS "k0", '
            'CAST(CASE WHEN "x" - 0 < 0 THEN 0 WHEN "x" - 0 > 11 THEN 11 ELSE "x" - 0 END AS BIGINT) AS "bin" '
            'FROM (SELECT CAST("x" AS BIGINT) AS "x" FROM "data") AS clean) AS terms '
            'WHERE NOT "bin" IS NULL GROUP BY "k0", "bin"'
        )


def test_the_search_for_units_with_too_many_rows():
    dataset = DataSet("general-1", ("p",), SMALL, unit="u", rows_per_unit=2)
    for dialect in DIALECTS:
        assert declaration.crowded(dataset, "data").sql(dialect) == (
            'SELECT 1 AS "crowded" FROM "data" WHERE NOT "u" IS NULL GROUP BY "u" HAVING COUNT(*) > 2 LIMIT 1'
        )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "TRUE"),
        (1, "1"),
        (-1, "-1"),
        (0.1, "CAST(0.1e0 AS DOUBLE PRECISION)"),
        (-1e22, "-CAST(1e+22 AS DOUBLE PRECISION)"),
        (1 / 3, "CAST(0.3333333333333333e0 AS DOUBLE PRECISION)"),
        ('it\'s "é" \\', "'it''s \"é\" \\'"),
    ],
)
def test_each_kind_of_literal_keeps_its_type_and_digits(value, text):
    assert terms.expression(q.Value(value), BY_ROW).sql("postgres") == text


def test_a_negative_literal_begins_no_comment():
    term = (-(col("x") - -1)).node
    for dialect in DIALECTS:
        assert (
            terms.expression(term, BY_ROW).sql(dialect) == '(CAST(0 AS BIGINT) - ("x" - CAST(-1 AS BIGINT)))'
        )


# --- quoting ---


@settings(MANY, max_examples=80)
@given(data=st.data())
def test_what_is_rendered_reads_back_as_the_same_tree(data, drawn, schema):
    """A name or text that was pasted, or a bracket that is missing, would read back as something else."""
    label = data.draw(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12))
    where = data.draw(drawn.conditions)
    key = q.Case(((data.draw(drawn.conditions), label),), "'" + label)
    number = q.Named("n", q.Sum(data.draw(drawn.numbers)))
    query = q.Query("t", (number,), ("key",), where, (q.Derived("key", key),))
    try:
        compiled = plan.compile(query, schema, exact=False)
    except QueryError:
        return
    select = compiler.sums(compiled, schema, "data", bounded=True)
    named = {identifier.name for identifier in select.find_all(exp.Identifier) if not identifier.quoted}
    assert named <= {"clean", "kept", "terms"}
    for dialect in DIALECTS:
        text = select.sql(dialect)
        assert sqlglot.parse_one(text, read=dialect).sql(dialect) == text


def test_a_text_with_nul_is_refused_since_databases_end_there():
    query = T.with_columns(g=when(col("b")).then("\0").otherwise("x")).filter(col("g") == "\0").agg(count())
    with pytest.raises(QueryError, match="text with a NUL character cannot be asked for"):
        sums(query, BY_ROW, exact=True)


# --- values ---


def fill(connection, rows):
    """Replace the rows of the table `data`."""
    connection.execute("DELETE FROM data")
    if rows:
        marks = f"({', '.join('?' * len(rows[0]))})"
        values = [value for row in rows for value in row]
        connection.execute(f"INSERT INTO data VALUES {', '.join([marks] * len(rows))}", values)


@pytest.fixture(scope="module")
def database(survey):
    """A table of the survey's columns as the layer `clean` gives them, and a number to order by."""
    kinds = {"integer": "BIGINT", "real": "DOUBLE", "boolean": "BOOLEAN"}
    columns = [f"{name} {kinds.get(column.type, 'VARCHAR')}" for name, column in survey.columns.items()]
    connection = duckdb.connect()
    connection.execute(f"CREATE TABLE data (number BIGINT, {', '.join(columns)})")
    return connection


@MANY
@given(data=st.data())
def test_the_database_computes_what_python_computes(data, database, drawn, schema, evaluate):
    """To the last bit, nulls included."""
    typed = []
    for term in [data.draw(drawn.terms), data.draw(drawn.numbers), data.draw(drawn.numbers)]:
        try:
            bounds.infer(term, schema)
        except QueryError:
            continue
        typed.append(term)
    if not typed:
        return
    rows = data.draw(st.lists(drawn.rows, min_size=1, max_size=4))
    fill(database, [(i, *(row.get(name) for name in schema.columns)) for i, row in enumerate(rows)])
    select = exp.select(*(terms.expression(term, schema) for term in typed)).from_("data")
    found = database.execute(select.order_by("number").sql("duckdb")).fetchall()
    assert found == [tuple(evaluate(term, row) for term in typed) for row in rows]


def test_literals_are_of_64_bits(database, schema):
    product = q.Arithmetic("*", q.Value(100_000), q.Value(100_000))
    text = exp.select(terms.expression(product, schema)).sql("duckdb")
    assert database.execute(text).fetchall() == [(10**10,)]


def test_a_sum_is_given_in_digits_from_2_to_the_63_on(schema):
    at = msgspec.structs.replace(schema, max_rows=2**30)
    assert compiler.wide(plan.Component(bound=2**33), at)
    assert not compiler.wide(plan.Component(bound=2**33 - 1), at)


# --- sensitivity ---

WILD = st.tuples(
    st.sampled_from([None, 0.0, 3.0, 11.0, -7.5, 2.5, 1e300, float("nan"), float("inf"), float("-inf")]),
    st.sampled_from([None, 0.0, 0.3, -1.0, 1.0, 2.0, -1e308, float("nan"), float("inf"), float("-inf")]),
    st.sampled_from([None, "a", "it's", "undeclared"]),
    st.sampled_from([None, "true", "0", "maybe"]),
)
QUERIES = [
    T.group_by("k").agg(count(), col("x").var(), col("y").var(), corr("x", "y"), col("b").mean()),
    T.filter(col("x") > 2).agg(
        (col("x") * col("y") + 1).sum(), (col("x") * 1000000007).var(), col("x").median()
    ),
    T.with_columns(band=col("y").cut([0.1]))
    .group_by("band", "b")
    .agg(col("y").median(), col("y").abs().sum()),
]


@pytest.fixture(scope="module")
def unbounded():
    """A table that promises nothing."""
    connection = duckdb.connect()
    connection.execute("CREATE TABLE data (x DOUBLE, y DOUBLE, k VARCHAR, b VARCHAR, u VARCHAR)")
    return connection


@pytest.fixture(scope="module")
def questions():
    """Of each query the bounded SQL, how many columns are keys, and what one row may add to each column after them."""
    listed = []
    for query in QUERIES:
        compiled = plan.compile(query.query, BY_UNIT, exact=False)
        keys = len(compiled.keys)
        select = compiler.sums(compiled, BY_UNIT, "data", bounded=True)
        listed.append((select.sql("duckdb"), keys, [component.bound for component in compiled.components]))
        for leaves in compiled.leaves:
            select = compiler.histogram(compiled, leaves, BY_UNIT, "data", bounded=True)
            listed.append((select.sql("duckdb"), keys + 1, [1]))
    return listed


@settings(MANY, max_examples=80)
@given(
    victim=st.lists(WILD, max_size=6),
    others=st.lists(st.tuples(st.sampled_from([None, "v2", "v3"]), WILD), max_size=6),
)
def test_no_unit_moves_a_bounded_sum_beyond_its_bound_whatever_its_rows_hold(
    unbounded, questions, victim, others
):
    """Many rows of one unit, out of bounds, of wrong types, with NaN and infinity: the sensitivity that the noise is made for."""
    rows = [(*row, unit) for unit, row in others]
    results = []
    for table in (rows, rows + [(*row, "victim") for row in victim]):
        fill(unbounded, table)
        results.append([cells(unbounded, text, keys) for text, keys, _ in questions])
    for before, after, (_, _, limits) in zip(*results, questions, strict=True):
        for i, limit in enumerate(limits):
            moved = [abs(after[cell][i] - before[cell][i]) for cell in before.keys() | after.keys()]
            assert sum(moved) <= BY_UNIT.rows_per_unit * limit


def cells(connection, text, keys):
    """The sums of each cell, by the values of its keys; 0 where there is no cell."""
    found = collections.defaultdict(lambda: [0] * 20)
    for row in connection.execute(text).fetchall():
        found[row[:keys]] = [int(value) for value in row[keys:]]
    return found


def test_without_bounding_a_unit_moves_a_sum_as_far_as_it_likes(unbounded):
    """The defence off: what the test above would find."""
    fill(unbounded, [(1, 1, "a", "0", "victim")] * 50)
    compiled = plan.compile(T.agg(count()).query, BY_UNIT, exact=False)
    for bounded, wanted in ((False, 50), (True, 2)):
        select = compiler.sums(compiled, BY_UNIT, "data", bounded=bounded)
        assert unbounded.execute(select.sql("duckdb")).fetchall() == [(wanted,)]
