"""SQL text: the same tree as the builder writes, or a refusal with its reason and place; never another meaning.

Meaning is held against DuckDB itself, which runs the same text on the same rows.
"""

from __future__ import annotations

import duckdb
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox import col, corr, count, cov, plan, when
from sandbox.catalog import Column, DataSet
from sandbox.engine import Engine
from sandbox.errors import QueryError, SQLError
from sandbox.sql import MAX_LENGTH, parse
from sandbox.table import JointTable

MANY = settings(max_examples=250, deadline=None, derandomize=True, database=None)
T = JointTable(None, "t")
AGE, BAND = col("age"), when(col("age") < 18).then("child").when(col("age") < 65).then("adult")
HOSTILE = (
    "'; DROP TABLE data; --",
    "o'hara",
    "\\' OR 1=1 --",
    '"; DROP TABLE "data',
    "''",
    "",
    "%s {0} $1 ? :x",
    "/* */ ; --",
    "line\nbreak\ttab",
    "東京 é \u202e",
    "x' AS VARCHAR) OR TRUE OR CAST('",
)


# --- the same tree as the builder's ---


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("SELECT COUNT(*) FROM t", T.agg(count())),
        ("select count(*) as n from t;", T.agg(count().alias("n"))),
        (
            "SELECT COUNT(age), SUM(age), AVG(age), MEDIAN(age) FROM t",
            T.agg(AGE.count(), AGE.sum(), AGE.mean(), AGE.median()),
        ),
        (
            "SELECT VAR_SAMP(age), VARIANCE(age) AS v, STDDEV(age), STDDEV_SAMP(age) AS s FROM t",
            T.agg(AGE.var(), AGE.var().alias("v"), AGE.std(), AGE.std().alias("s")),
        ),
        (
            "SELECT QUANTILE_CONT(age, 0.25), PERCENTILE_CONT(0.9) WITHIN GROUP (ORDER BY age) FROM t",
            T.agg(AGE.quantile(0.25), AGE.quantile(0.9)),
        ),
        ("SELECT COVAR_SAMP(age, x), CORR(age, x) FROM t", T.agg(cov("age", "x"), corr("age", "x"))),
        ("SELECT sex, AVG(age) FROM t GROUP BY sex", T.group_by("sex").agg(AGE.mean())),
        ("SELECT AVG(age), sex, region FROM t GROUP BY 3, sex", T.group_by("region", "sex").agg(AGE.mean())),
        ("SELECT p.sex, COUNT(*) FROM t AS p GROUP BY p.sex", T.group_by("sex").agg(count())),
        (
            "SELECT age >= 60 AS old, COUNT(*) FROM t GROUP BY age >= 60",
            T.with_columns(old=AGE >= 60).group_by("old").agg(count()),
        ),
        (
            "SELECT CASE WHEN age < 18 THEN 'child' WHEN age < 65 THEN 'adult' ELSE 'old' END AS band, COUNT(*)"
            " FROM t GROUP BY band",
            T.with_columns(band=BAND.otherwise("old")).group_by("band").agg(count()),
        ),
        (
            "SELECT CASE sex WHEN 'f' THEN 'women' ELSE 'men' END AS s, COUNT(*) FROM t GROUP BY 1",
            T.with_columns(s=when(col("sex") == "f").then("women").otherwise("men"))
            .group_by("s")
            .agg(count()),
        ),
        ("SELECT AVG(age * 2 - 1) AS a FROM t", T.agg((AGE * 2 - 1).mean().alias("a"))),
        ("SELECT AVG(-age / ABS(x)) AS a FROM t", T.agg((-AGE / col("x").abs()).mean().alias("a"))),
        ("SELECT AVG(insured) FROM t", T.agg(col("insured").mean())),
        ("SELECT COUNT(*) FROM t WHERE age >= 60", T.filter(AGE >= 60).agg(count())),
        ("SELECT COUNT(*) FROM t WHERE sex <> 'it''s'", T.filter(col("sex") != "it's").agg(count())),
        (
            "SELECT COUNT(*) FROM t WHERE NOT insured OR age IN (1, -2, 3.5)",
            T.filter(~col("insured") | AGE.is_in([1, -2, 3.5])).agg(count()),
        ),
        (
            "SELECT COUNT(*) FROM t WHERE age BETWEEN 1 AND 2 AND x IS NULL AND y IS NOT NULL",
            T.filter(AGE.is_between(1, 2), col("x").is_null(), col("y").is_not_null()).agg(count()),
        ),
        ("SELECT COUNT(*) FROM t WHERE x = 1e3", T.filter(col("x") == 1000.0).agg(count())),
        ('SELECT AVG("a ""b"";") AS "n;" FROM "t"', T.agg(col('a "b";').mean().alias("n;"))),
        ("SELECT COUNT(*) -- all of them\nFROM /* from */ t", T.agg(count())),
        ("SELECT 年龄, COUNT(*) FROM t GROUP BY 年龄", T.group_by("年龄").agg(count())),
    ],
)
def test_text_gives_the_tree_that_the_builder_writes(text, query):
    assert parse(text) == query.query
    assert parse(text).digest() == query.query.digest()


# --- refusals ---


@pytest.mark.parametrize(
    ("text", "reason", "place"),
    [
        ("SELECT COUNT(*) FROM t JOIN u ON t.a = u.a", "joins are not supported", (1, 24)),
        ("SELECT COUNT(*) FROM t, u", "joins are not supported", (1, 25)),
        ("SELECT COUNT(*) FROM t, LATERAL (SELECT 1)", "joins are not supported", (1, 41)),
        ("SELECT COUNT(*) FROM (SELECT * FROM t)", "sub-queries are not supported", (1, 30)),
        ("SELECT COUNT(*) FROM t\nWHERE a IN (SELECT a FROM u)", "sub-queries are not supported", (2, 7)),
        ("SELECT COUNT(*) FROM t WHERE a = (SELECT 1)", "sub-queries are not supported", (1, 42)),
        ("SELECT COUNT(*) FROM t WHERE EXISTS (SELECT 1)", "sub-queries are not supported", (1, 30)),
        ("WITH u AS (SELECT 1) SELECT COUNT(*) FROM u", "common table expressions", (1, 1)),
        ("SELECT * FROM t", r"SELECT \* is not supported: rows never leave", (1, 8)),
        ("FROM t", r"SELECT \* is not supported", (1, 1)),
        ("SELECT t.* FROM t", r"SELECT \* is not supported", (1, 8)),
        ("SELECT age FROM t", "'age' is neither an aggregate nor in GROUP BY: rows never leave", (1, 8)),
        ("SELECT age + 1, COUNT(*) FROM t", "'this expression' is neither an aggregate", (1, 8)),
        ("SELECT age + 1, COUNT(*) FROM t GROUP BY 1", "a computed group key needs a name", (1, 8)),
        ("SELECT sex FROM t GROUP BY sex", "an aggregate is needed", (1, 8)),
        ("SELECT COUNT(*) FROM t GROUP BY sex", "GROUP BY: 'sex' is no key in SELECT", (1, 33)),
        ("SELECT COUNT(*) FROM t GROUP BY 2", "GROUP BY: place 2 is no key", (1, 33)),
        ("SELECT COUNT(*) FROM t GROUP BY ALL", "GROUP BY takes columns, names and places only", (1, 24)),
        ("SELECT a, COUNT(*) FROM t GROUP BY ROLLUP (a)", "ROLLUP is not among", (1, 44)),
        ("SELECT COUNT(*) FROM t HAVING COUNT(*) > 1", "HAVING is not supported", (1, 24)),
        ("SELECT COUNT(*) FROM t\n\n  ORDER BY 1", "ORDER BY is not supported", (3, 3)),
        ("SELECT COUNT(*) FROM t LIMIT 3", "LIMIT is not supported", (1, 24)),
        ("SELECT COUNT(*) FROM t OFFSET 3", "OFFSET is not supported", (1, 24)),
        ("SELECT DISTINCT COUNT(*) FROM t", "DISTINCT is not supported", (1, 8)),
        ("SELECT COUNT(DISTINCT age) FROM t", "DISTINCT is not supported", (1, 23)),
        ("SELECT COUNT(*) FROM t UNION SELECT COUNT(*) FROM t", "UNION, INTERSECT and EXCEPT", (1, 24)),
        ("SELECT SUM(age) OVER () FROM t", "window functions are not supported", (1, 8)),
        ("SELECT COUNT(*) FROM t QUALIFY TRUE", "window functions are not supported", (1, 24)),
        ("SELECT COUNT(*) FILTER (WHERE age > 1) FROM t", "FILTER is not supported", (1, 8)),
        ("SELECT COUNT(*) FROM t USING SAMPLE 10", "SAMPLE is not supported", (1, 37)),
        ("SELECT COUNT(*) FROM t FOR UPDATE", "locks are not supported", (1, 24)),
        ("SELECT COUNT(*) INTO u FROM t", "INTO is not supported", (1, 22)),
        ("SELECT MAX(age) FROM t", "MIN and MAX are refused: they would show one unit's value", (1, 8)),
        ("SELECT max, Min (1) FROM t", "MIN and MAX are refused", (1, 13)),
        ("SELECT SUM(MAX(age)) FROM t", "MIN and MAX are refused", (1, 12)),
        ("SELECT 'MAX(', SUM(b + MAX(c)) FROM t", "MIN and MAX are refused", (1, 24)),
        ("SELECT APPROX_QUANTILE(a, 0.5) FROM t", "APPROX_QUANTILE is not among the aggregates", (1, 8)),
        ("SELECT SUM(age) / 2 FROM t", "an aggregate cannot stand here", (1, 8)),
        ("SELECT SUM(AVG(age)) FROM t", "an aggregate cannot stand here", (1, 12)),
        ("SELECT COUNT(*) FROM t WHERE AVG(age) > 1", "an aggregate cannot stand here", (1, 30)),
        ("SELECT STDDEV_POP(age) FROM t", "STDDEV_POP is not among the aggregates", (1, 8)),
        ("SELECT SUM(LENGTH(sex)) FROM t", "LENGTH is not among the values", (1, 12)),
        ("SELECT SUM(leak(age)) FROM t", "LEAK is not among the values", (1, 12)),
        ("SELECT leak(age) FROM t", "LEAK is not among the values", (1, 8)),
        ("SELECT COUNT() FROM t", r"COUNT takes a column; to count rows write COUNT\(\*\)", (1, 8)),
        ("SELECT COUNT(a, b) FROM t", "COUNT: a further argument is not supported", (1, 17)),
        ("SELECT QUANTILE_CONT(age, 1.5) FROM t", "allowed are 0 to 1", (1, 27)),
        ("SELECT QUANTILE_CONT(age, 'x') FROM t", "a quantile takes a number from 0 to 1", (1, 27)),
        (
            "SELECT PERCENTILE_CONT(0.9) WITHIN GROUP (ORDER BY age DESC) FROM t",
            "DESC is not supported here",
            (1, 52),
        ),
        ("SELECT COUNT(*) FROM t WHERE a BETWEEN SYMMETRIC 2 AND 1", "SYMMETRIC is not supported", (1, 30)),
        ("SELECT COUNT(*) FROM t WHERE sex LIKE 'f%'", "LIKE is not among the values", (1, 30)),
        ("SELECT COUNT(*) FROM t WHERE a = NULL", "use IS NULL", (1, 30)),
        ("SELECT COUNT(*) FROM t WHERE a = ?", "parameters are not supported", (1, 30)),
        ("SELECT COUNT(*) FROM t WHERE a = 1e999", "not beyond all bounds", (1, 34)),
        ("SELECT COUNT(*) FROM t WHERE a = " + "9" * 5000, "not beyond all bounds", (1, 34)),
        ("SELECT COUNT(*) FROM t WHERE a = 1e", "'1e' is not a number", (1, 34)),
        ("SELECT COUNT(*) FROM t WHERE a::INTEGER = 1", "CAST is not among the values", (1, 30)),
        ("SELECT CASE WHEN a THEN 'x' END AS k, COUNT(*) FROM t GROUP BY k", "CASE needs WHEN", (1, 18)),
        (
            "SELECT CASE WHEN a THEN 1 ELSE 2 END AS k, COUNT(*) FROM t GROUP BY k",
            "CASE gives labels",
            (1, 25),
        ),
        ("SELECT COUNT(*)", "FROM is missing", (1, 8)),
        ("SELECT COUNT(*) FROM main.t", "FROM takes the name of one table", (1, 22)),
        ("SELECT COUNT(*) FROM read_csv('/etc/passwd')", "FROM takes the name of one table", (1, 22)),
        ("SELECT u.age, COUNT(*) FROM t GROUP BY 1", "'u' is not the table of this query", (1, 8)),
        ("SELECT COUNT(*) FROM t; DROP TABLE t", "one statement is needed, not 2", (1, 23)),
        ("", "one statement is needed, not 0", (1, 1)),
        (" ;; ", "one statement is needed, not 0", (1, 2)),
        ("-- nothing", "one statement is needed, not 0", (1, 1)),
        ("DROP TABLE t", "only SELECT is answered", (1, 1)),
        ("\n UPDATE t SET age = 1", "only SELECT is answered", (2, 2)),
        ("COPY t TO 'x.csv'", "only SELECT is answered", (1, 1)),
        ("ATTACH 'x.db'", "only SELECT is answered", (1, 1)),
        ("SET memory_limit = '1GB'", "only SELECT is answered", (1, 1)),
        ("SELECT COUNT(* FROM t", "not SQL", (1, 16)),
        ("SELECT COUNT(*) FRM t", "not SQL", (1, 21)),
        (
            "SELECT COUNT(*) FROM t WHERE a = 'b",
            "not SQL: a quoted text or name, or a comment, does not end",
            None,
        ),
        ("SELECT COUNT(*) FROM t /* ", "not SQL: a quoted text or name, or a comment, does not end", None),
        ("SELECT $$$$, COUNT(*) FROM t LIMIT 1", "LIMIT is not supported", (1, 30)),
        ("SELECT '東', \"é\", COUNT(*) FROM t LIMIT 1", "LIMIT is not supported", (1, 34)),
        ("SELECT COUNT(*) FROM t WHERE a = '\ud800'", "half a character", None),
        ("SELECT COUNT(*) FROM t WHERE " + "(" * 40 + "a" + ")" * 40, "nested deeper than 32", (1, 62)),
        ("SELECT COUNT(*) FROM t WHERE " + "NOT " * 5000 + "a", "nested deeper than 32", None),
        ("SELECT COUNT(*) FROM t WHERE a = 1" + " + 1" * 5000, "nested deeper than 32", None),
        ("SELECT " + "x" * MAX_LENGTH, "allowed are at most 100000", None),
        ("SELECT AVG(" + "x" * 129 + ") FROM t", "a name or value is outside", None),
    ],
)
def test_what_does_not_map_is_refused_with_reason_and_place(text, reason, place):
    with pytest.raises(SQLError, match=reason) as caught:
        parse(text)
    assert (caught.value.line, caught.value.column) == (place or (None, None))
    if place:
        assert str(caught.value).endswith(f" (line {place[0]}, column {place[1]})")


# --- anything else that can be typed ---

SPELLED = """
SELECT FROM WHERE GROUP BY AND OR NOT IN IS NULL BETWEEN CASE WHEN THEN ELSE END AS WITH JOIN ON UNION ALL HAVING
ORDER LIMIT OVER DISTINCT COUNT SUM AVG MEDIAN QUANTILE_CONT CORR ABS EXISTS LIKE CAST INTERVAL VALUES
t age sex 'f' '' 1 2.5 1e9 TRUE ( ) ( ) , , * + - / = < >= <> . ; :: [ ] { } $$ $a$ " ' -- /* */ ? $1 @ # | ^ ~ % \\
é ² x'' e'\\' 0x1F 1_0 {{ {%
"""
WORDS = [*SPELLED.split(), "\n", "\0"]
VALID = (
    "SELECT sex, CASE WHEN age BETWEEN 1 AND 2 THEN 'a' ELSE 'b' END AS band, COUNT(*), AVG(age + 1.5) AS m, "
    "QUANTILE_CONT(age, 0.5) FROM t AS p WHERE NOT (age IN (1, 2) OR sex = 'it''s' AND x IS NOT NULL) GROUP BY sex, band"
)


def is_parsed_or_refused(text):
    try:
        query = parse(text)
    except QueryError:
        return
    assert query.digest()


@MANY
@given(st.one_of(st.text(max_size=80), st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join)))
def test_any_text_is_parsed_or_refused(text):
    is_parsed_or_refused(text)


@MANY
@given(st.data())
def test_changed_sql_is_parsed_or_refused(data):
    text = VALID
    for _ in range(data.draw(st.integers(1, 3))):
        place, width = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 8))
        insert = data.draw(st.one_of(st.sampled_from(["", *WORDS]), st.text(max_size=4)))
        text = text[:place] + insert + text[place + width :]
    is_parsed_or_refused(text)


# --- the meaning that DuckDB gives the same text ---

SMALL = DataSet(
    "general-1",
    ("research",),
    {
        "x": Column("integer", (0, 3), nullable=True),
        "y": Column("real", (0.5, 2.5)),
        "b": Column("boolean", nullable=True),
        "c": Column("boolean", nullable=True),
        "s": Column("category", categories=("f", "m"), nullable=True),
    },
)


@pytest.fixture(scope="module")
def small():
    """Every combination of values: an engine over them, and a database that holds the same rows as table t."""
    frame = (
        pd.DataFrame({"x": pd.array([None, 0, 1, 2, 3], "Int64")})
        .merge(pd.DataFrame({"y": [0.5, 1.0, 2.5]}), "cross")
        .merge(pd.DataFrame({"b": pd.array([None, True, False], "boolean")}), "cross")
        .merge(pd.DataFrame({"c": pd.array([None, True, False], "boolean")}), "cross")
        .merge(pd.DataFrame({"s": [None, "f", "m"]}), "cross")
    )
    connection = duckdb.connect()
    connection.register("frame", frame)
    connection.execute("CREATE TABLE t AS SELECT * FROM frame")
    return Engine("t", SMALL, frame), connection


NUMBERS = st.recursive(
    st.sampled_from(["x", "y", "1", "2.5", "0", "3e0", "-1"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner).map(" ".join),
        inner.map("({}) / y".format),
        inner.map("ABS({})".format),
        inner.map("-({})".format),
        inner.map("({})".format),
    ),
    max_leaves=4,
)
CONDITIONS = st.recursive(
    st.one_of(
        st.sampled_from(["b", "c", "s = 'f'", "s <> 'm'", "s IN ('f', 'm')", "s NOT IN ('f')", "TRUE"]),
        st.tuples(NUMBERS, st.sampled_from(["=", "<>", "!=", "<", "<=", ">", ">="]), NUMBERS).map(" ".join),
        st.tuples(NUMBERS, st.sampled_from(["BETWEEN", "NOT BETWEEN"]), NUMBERS, st.just("AND"), NUMBERS).map(
            " ".join
        ),
        NUMBERS.map("{} IN (1, 2.5)".format),
        NUMBERS.map("{} IS NULL".format),
        NUMBERS.map("{} IS NOT NULL".format),
    ),
    # Without brackets: which part belongs to which must be read as DuckDB reads it.
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(" ".join),
        inner.map("NOT {}".format),
        inner.map("{} IS NULL".format),
        inner.map("{} = b".format),
        inner.map("c <> {}".format),
        inner.map("({})".format),
    ),
    max_leaves=5,
)


@MANY
@given(condition=CONDITIONS)
def test_a_condition_keeps_the_rows_that_duckdb_keeps(small, condition):
    engine, connection = small
    text = f"SELECT COUNT(*) FROM t WHERE {condition}"
    try:
        [[wanted]] = connection.execute(text).fetchall()
    except duckdb.Error:  # such as a = b = c: not a sentence of its grammar
        return
    try:
        compiled = plan.compile(parse(text), SMALL.schema(), exact=True)
    except QueryError:
        return
    assert engine.sums(compiled, bounded=False).components[0].tolist() == [wanted]


# --- text that would be code ---


@pytest.fixture(scope="module")
def hostile():
    """Categories that would be code if they were pasted, and names of columns that mean something in SQL."""
    names = ["data", "clean", "terms", "select", "group", "k0", "t0", "c0", "rowid", "年龄"]
    columns = {name: Column("integer", (0, 998)) for name in names}
    columns["kind"] = Column("category", categories=HOSTILE)
    dataset = DataSet("general-1", ("research",), columns)
    frame = pd.DataFrame(
        {name: [i * len(HOSTILE) + j for j in range(len(HOSTILE))] for i, name in enumerate(names)}
    )
    frame["kind"] = HOSTILE
    return dataset, frame, Engine("t", dataset, frame)


def quoted(text, mark="'"):
    return mark + text.replace(mark, mark * 2) + mark


@pytest.mark.parametrize("text", HOSTILE)
def test_a_literal_is_a_value_whatever_it_spells(hostile, text):
    dataset, frame, engine = hostile
    query = parse(
        f"SELECT CASE WHEN kind = {quoted(text)} THEN {quoted(text)} ELSE 'other' END AS {quoted('k;' + text, chr(34))}, "
        f"COUNT(*) AS {quoted('n' + text, chr(34))} FROM t WHERE kind IN ({quoted(text)}, 'o''hara') "
        f"AND kind <> {quoted(HOSTILE[0] if text == HOSTILE[1] else HOSTILE[1])} GROUP BY 1"
    )
    compiled = plan.compile(query, dataset.schema(), exact=True)
    assert compiled.keys[0].domain == (text, "other")
    assert engine.sums(compiled, bounded=False).components[0].tolist() == [1, 0]
    everything = plan.compile(parse("SELECT COUNT(*) FROM t"), dataset.schema(), exact=True)
    assert engine.sums(everything, bounded=False).components[0].tolist() == [len(frame)]


def test_a_column_is_a_column_whatever_its_name_means(hostile):
    dataset, frame, engine = hostile
    names = list(frame.columns.drop("kind"))
    listed = ", ".join(f"AVG({quoted(name, chr(34))})" for name in names)
    condition = " AND ".join(f"{quoted(name, chr(34))} >= 1" for name in names)
    query = parse(f'SELECT "k0", {listed} FROM "t" WHERE {condition} GROUP BY "k0"')
    compiled = plan.compile(query, dataset.schema(), exact=False)
    sums = engine.sums(compiled, bounded=True)
    kept = frame[(frame[names] >= 1).all(axis=1)]
    for measure, name in zip(compiled.measures, names, strict=True):
        [first] = measure.first
        center = compiled.components[first].factors[0].center
        cells = {key: row[name] - center for key, row in kept.set_index("k0", drop=False).iterrows()}
        assert sums.components[first].tolist() == [cells.get(key, 0) for key in compiled.keys[0].domain]


@pytest.mark.parametrize("name", ['x"; DROP TABLE data; --', "x' OR TRUE --", "kind;", "x\0", "\U0001f600"])
def test_a_name_that_is_not_declared_is_unknown_however_it_is_spelled(hostile, name):
    dataset = hostile[0]
    for text in (f"AVG({quoted(name, chr(34))})", f"AVG(t.{quoted(name, chr(34))})"):
        with pytest.raises(QueryError, match="unknown column"):
            plan.compile(parse(f"SELECT {text} FROM t"), dataset.schema(), exact=True)
