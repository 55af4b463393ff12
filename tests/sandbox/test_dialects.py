"""One meaning in every database: each construct that databases compute differently, on DuckDB and on PostgreSQL, against Python's own numbers."""

from __future__ import annotations

import collections
import itertools
import math

import adbc_driver_postgresql.dbapi as driver
import duckdb
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlglot import exp

from sandbox import bounds, col, compiler, corr, count, declaration, dialects, plan, syntax, terms
from sandbox.catalog import Column, DataSet, Schema
from sandbox.errors import QueryError
from sandbox.table import JointTable

MANY = settings(max_examples=150, deadline=None, derandomize=True, database=None)
KINDS = {"integer": "BIGINT", "real": "DOUBLE", "boolean": "BOOLEAN"}
T = JointTable(None, "t")


class Database:
    """Runs a select over rows that are written into it."""

    def __init__(self, dialect, connection):
        self.dialect, self._connection = dialect, connection

    def rows(self, select, table, kinds):
        """The result over `table`, a list of tuples with columns of `kinds`, known as data."""
        data = [
            exp.select(
                *(syntax.named(self._literal(v, k), n) for v, (n, k) in zip(row, kinds.items(), strict=True))
            )
            for row in table
        ]
        if not data:
            data = [
                exp.select(*(syntax.named(self._literal(None, k), n) for n, k in kinds.items())).where(
                    "1 = 0"
                )
            ]
        union = " UNION ALL ".join(one.sql(self.dialect) for one in data)
        return self.run(
            f'WITH "data" AS ({union}) {select if isinstance(select, str) else dialects.text(select, self.dialect)}'
        )

    def values(self, value, **given):
        """A value over one row of doubles."""
        select = exp.select(value).from_(syntax.table("data"))
        [[found]] = self.rows(select, [tuple(given.values())], dict.fromkeys(given, "DOUBLE"))
        return found

    def run(self, text):
        if self.dialect == "duckdb":
            return self._connection.execute(text).fetchall()
        with self._connection.cursor() as cursor:
            cursor.execute(text)
            return cursor.fetchall()

    def _literal(self, value, kind):
        if value is None:
            return syntax.cast(exp.Null(), kind)
        if isinstance(value, float) and not math.isfinite(value):
            return syntax.cast(exp.Literal.string(str(value)), "DOUBLE")
        return syntax.cast(syntax.literal(value), kind)


@pytest.fixture(scope="module", params=["duckdb", "postgres"])
def database(request):
    if request.param == "duckdb":
        return Database("duckdb", duckdb.connect())
    return Database("postgres", request.getfixturevalue("server").connection)


@pytest.fixture(scope="module")
def postgres(server):
    return Database("postgres", server.connection)


# --- expressions ---


@MANY
@given(data=st.data())
def test_postgres_computes_what_python_computes(data, postgres, drawn, schema, evaluate):
    """To the last bit, nulls included; `test_compiler` holds DuckDB to the same."""
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
    kinds = {"number": "BIGINT"} | {n: KINDS.get(c.type, "VARCHAR") for n, c in schema.columns.items()}
    table = [(i, *(row.get(name) for name in schema.columns)) for i, row in enumerate(rows)]
    values = [syntax.named(terms.expression(term, schema), f"v{i}") for i, term in enumerate(typed)]
    select = exp.select(*values).from_(syntax.table("data")).order_by("number")
    assert postgres.rows(select, table, kinds) == [
        tuple(evaluate(term, row) for term in typed) for row in rows
    ]


SPECIAL = [None, 0.0, -0.0, 1.0, -1.5, 5e-324, 1e308, math.inf, -math.inf, math.nan]


def test_doubles_are_compared_alike(server):
    """NaN is equal to itself and above all others, in both."""
    pairs = list(itertools.product(SPECIAL, repeat=2))
    operators = (exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE)
    a, b = syntax.column("a"), syntax.column("b")
    values = [syntax.named(node(this=a.copy(), expression=b.copy()), node.__name__) for node in operators]
    select = exp.select(*values).from_(syntax.table("data"))
    found = [
        Database(dialect, connection).rows(select, pairs, {"a": "DOUBLE", "b": "DOUBLE"})
        for dialect, connection in (("duckdb", duckdb.connect()), ("postgres", server.connection))
    ]
    assert collections.Counter(found[0]) == collections.Counter(found[1])
    assert len(found[0]) == len(pairs)


@pytest.mark.parametrize(
    "value",
    [
        0.5,
        1.5,
        2.5,
        -0.5,
        -2.5,
        0.49999999999999994,
        1e15 + 0.5,
        2**52 + 1.0,
        2.0**62,
        -(2.0**62),
        0.0,
        1 / 3,
    ],
)
def test_a_half_is_rounded_away_from_zero(database, value):
    wanted = int(math.copysign(math.floor(abs(value) + 0.5), value)) if abs(value) < 2**51 else int(value)
    if abs(value) == 0.49999999999999994:
        wanted = 0  # where floor(x + 1/2) would give 1
    rounded = syntax.cast(exp.Round(this=syntax.column("x")), "BIGINT")
    assert database.values(rounded, x=value) == wanted


def test_plain_rounding_would_differ(postgres):
    """The defence off."""
    assert postgres.run("SELECT round(2.5::float8), round(0.5::float8)") == [(2.0, 0.0)]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, None), (math.nan, None), (math.inf, None), (-math.inf, None), (1e30, None), (2.0**63, None),
        (-(2.0**63), -(2**63)), (2.0**63 - 1024, 2**63 - 1024), (-0.0, 0), (7.0, 7),
    ],
)  # fmt: skip
def test_a_cast_that_cannot_be_is_null(database, value, wanted):
    cast = exp.TryCast(this=syntax.column("x"), to=exp.DataType.build("BIGINT"))
    assert database.values(cast, x=value) == wanted


# --- products too small for a double ---

TINY = st.builds(
    lambda m, e, s: s * math.ldexp(m, e), st.floats(1, 2), st.integers(-1074, 3), st.sampled_from([1, -1])
)


@settings(MANY, max_examples=100)
@given(a=st.one_of(TINY, st.just(0.0)), b=TINY)
@example(a=5e-324, b=0.5)
@example(a=-5e-324, b=5e-324)
@example(a=5e-324, b=2.0**-51)
@example(a=2.0**-1022, b=2.0**-53)
@example(a=2.0**-1022, b=1.5 * 2.0**-53)
@example(a=1.0, b=5e-324)
def test_a_product_that_vanishes_is_zero(database, a, b):
    """As IEEE 754 says; where the product is within 2^-53 of a half of the smallest double, 0 or that double."""
    product = syntax.product(syntax.column("a"), syntax.column("b"), vanishes=True)
    assert abs(database.values(product, a=a, b=b) - a * b) <= (5e-324 if abs(a * b) <= 5e-324 else 0)
    for power in (2.0**-1000, 2.0**-75):
        scaled = syntax.product(syntax.column("a"), syntax.double(power), vanishes=True)
        assert database.values(scaled, a=a) == a * power


@settings(MANY, max_examples=100)
@given(a=st.one_of(TINY, st.just(0.0)), b=st.builds(math.ldexp, st.floats(1, 2), st.integers(-3, 1000)))
@example(a=5e-324, b=2.0)
@example(a=5e-324, b=1.9999999999999998)
@example(a=1.5 * 2.0**-1022, b=2.0**53)
@example(a=2.0**-1022, b=2.0**53)
def test_a_quotient_that_vanishes_is_zero(database, a, b):
    quotient = syntax.quotient(syntax.column("a"), syntax.column("b"), vanishes=True)
    assert database.values(quotient, a=a, b=b) == a / b


def test_plain_products_would_be_refused(postgres):
    """The defence off: one row with a small value, and no statistic of its column could be had."""
    for text in ("SELECT 1e-200::float8 * 1e-200::float8", "SELECT 1e-200::float8 / 1e200::float8"):
        with pytest.raises(driver.DataError) as caught:
            postgres.run(text)
        assert caught.value.sqlstate == "22003"


def test_only_what_may_vanish_is_guarded():
    """Whole numbers, and reals kept away from 0, cost nothing."""
    columns = {"n": Column("integer", (0, 9)), "x": Column("real", (0, 1)), "far": Column("real", (2, 3))}
    schema = Schema(columns)

    def guarded(term):
        return "operands" in dialects.text(terms.expression(term.node, schema), "postgres")

    assert guarded(col("x") * col("x"))
    assert guarded(col("x") / col("far"))
    assert guarded(col("x") * 1e-300)
    for term in (col("n") * col("n"), col("n") * col("x"), col("far") * col("x") * 2, col("n") / col("far")):
        assert not guarded(term)
    for name, wanted in (("n", False), ("x", False), ("far", False)):
        compiled = plan.compile(T.agg(col(name).var()).query, schema, exact=False)
        assert (
            "operands" in dialects.text(compiler.sums(compiled, schema, "data", bounded=True), "postgres")
        ) is wanted
    centred = Schema({"z": Column("real", (-1, 1))})
    compiled = plan.compile(T.agg(col("z").var()).query, centred, exact=False)
    assert "operands" in dialects.text(compiler.sums(compiled, centred, "data", bounded=True), "postgres")


# --- sensitivity ---

SMALL = Schema(
    {
        "x": Column("integer", (0, 11)),
        "y": Column("real", (-1, 1), nullable=True),
        "k": Column("category", categories=("a", "it's")),
        "b": Column("boolean", nullable=True),
        "u": Column("identifier"),
    },
    unit="u",
    rows_per_unit=2,
)
STORED = {"x": "DOUBLE", "y": "DOUBLE", "k": "VARCHAR", "b": "BOOLEAN", "u": "VARCHAR"}
WILD = st.tuples(
    st.sampled_from([None, 0.0, 3.0, 11.0, -7.5, 2.5, 1e300, math.nan, math.inf, -math.inf]),
    st.sampled_from([None, 0.0, 0.3, -1.0, 5e-324, 1e-200, 2.0, -1e308, math.nan, math.inf, -math.inf]),
    st.sampled_from([None, "a", "it's", "undeclared"]),
    st.sampled_from([None, True, False]),
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
def questions():
    """Of each query the bounded SQL, how many columns are keys, and what one row may add to each column after them."""
    return [
        ({dialect: dialects.text(select, dialect) for dialect in ("duckdb", "postgres")}, keys, limits)
        for select, keys, limits in selects()
    ]


def selects():
    for query in QUERIES:
        compiled = plan.compile(query.query, SMALL, exact=False)
        keys = len(compiled.keys)
        yield (
            compiler.sums(compiled, SMALL, "data", bounded=True),
            keys,
            [c.bound for c in compiled.components],
        )
        for leaves in compiled.leaves:
            yield compiler.histogram(compiled, leaves, SMALL, "data", bounded=True), keys + 1, [1]


def cells(rows, keys):
    """The sums of each cell, by the values of its keys; 0 where there is no cell."""
    found = collections.defaultdict(lambda: [0] * 20)
    for row in rows:
        found[row[:keys]] = [int(value) for value in row[keys:]]
    return found


@settings(MANY, max_examples=20)
@given(
    victim=st.lists(WILD, max_size=6),
    others=st.lists(st.tuples(st.sampled_from([None, "v2", "v3"]), WILD), max_size=6),
)
def test_in_postgres_no_unit_moves_a_bounded_sum_beyond_its_bound_and_sums_are_those_of_duckdb(
    postgres, questions, victim, others
):
    """Many rows of one unit, out of bounds, with NaN and infinity: as `test_compiler` shows of DuckDB."""
    embedded = Database("duckdb", duckdb.connect())
    rows = [(*row, unit) for unit, row in others]
    everyone = rows + [(*row, "victim") for row in victim]
    for texts, keys, limits in questions:
        before, after = (
            cells(postgres.rows(texts["postgres"], table, STORED), keys) for table in (rows, everyone)
        )
        assert dict(after) == dict(cells(embedded.rows(texts["duckdb"], everyone, STORED), keys))
        for i, limit in enumerate(limits):
            moved = [abs(after[cell][i] - before[cell][i]) for cell in before.keys() | after.keys()]
            assert sum(moved) <= SMALL.rows_per_unit * limit


# --- row digests ---


def test_different_rows_have_different_texts(database):
    schema = Schema({"a": Column("identifier"), "b": Column("identifier")})
    rows = [
        ("x:1", "y"),
        ("x", "1:y"),
        ("-", "x"),
        (None, "x"),
        ("x", "-"),
        ("x", None),
        ("", "x"),
        ("1", ":x"),
    ]
    for make in (dialects.row_digest, lambda schema: dialects.row_key(schema, database.dialect)):
        select = exp.select(make(schema)).from_(syntax.table("data"))
        found = database.rows(select, rows, {"a": "VARCHAR", "b": "VARCHAR"})
        assert len(set(found)) == len(rows)


def test_a_row_of_many_columns_has_a_digest(database):
    """Functions take a hundred arguments at most."""
    schema = Schema({f"c{i}": Column("identifier") for i in range(400)})
    select = exp.select(dialects.row_digest(schema)).from_(syntax.table("data"))
    [[found]] = database.rows(select, [("x",) * 400], dict.fromkeys(schema.columns, "VARCHAR"))
    assert len(found) == 32


def test_a_text_is_known_by_its_place(database):
    domain = ["north", "o'hara; --", "東", 'a"b', "\\", "North "]
    select = exp.select(dialects.code(syntax.column("t"), domain, database.dialect)).from_(
        syntax.table("data")
    )
    table = [(text,) for text in [*domain, None, "NORTH", "north ", ""]]
    found = [row[0] for row in database.rows(select, table, {"t": "VARCHAR"})]
    assert found == [0, 1, 2, 3, 4, 5, None, None, None, None]


# --- recorded texts ---


def test_a_bounded_mean_in_trino():
    """Compiled, and not run here. Sums are of decimals, since those of BIGINT overflow; NaN is not equal to itself."""
    query = T.filter(col("k") == "it's").group_by("k").agg(count(), col("y").mean()).query
    select = compiler.sums(plan.compile(query, SMALL, exact=False), SMALL, "data", bounded=True)
    y = 'CAST("y" AS DOUBLE)'
    assert dialects.text(select, "trino") == (
        'SELECT "k0", COUNT(*) AS "c0", COUNT("t0") AS "c1", CAST(COALESCE(SUM(CAST(CAST(ROUND('
        '"t1" * CAST(2251799813685248.0e0 AS DOUBLE)) AS BIGINT) AS DECIMAL(38, 0))), 0) AS VARCHAR) AS "c2" FROM ('
        f'SELECT "k" AS "k0", "y" AS "t0", {y} AS "t1" FROM (SELECT "k", "y", "u", '
        'ROW_NUMBER() OVER (PARTITION BY "u" ORDER BY "k", "y") AS "row number" FROM ('
        f'SELECT TRY_CAST("k" AS VARCHAR) AS "k", CASE WHEN IS_NAN({y}) THEN NULL '
        f"WHEN {y} < -CAST(1.0e0 AS DOUBLE) THEN -CAST(1.0e0 AS DOUBLE) "
        f'WHEN {y} > CAST(1.0e0 AS DOUBLE) THEN CAST(1.0e0 AS DOUBLE) ELSE {y} END AS "y", "u" FROM "data"'
        ') AS clean WHERE ("k" = \'it\'\'s\') AND NOT "u" IS NULL) AS kept WHERE "row number" <= 2) AS terms '
        'GROUP BY "k0"'
    )


def test_a_histogram_in_trino():
    query = T.with_columns(band=col("x").cut([3])).group_by("band").agg(col("x").median()).query
    compiled = plan.compile(query, SMALL, exact=True)
    select = compiler.histogram(compiled, compiled.leaves[0], SMALL, "data", bounded=False)
    assert dialects.text(select, "trino") == (
        'SELECT "k0", "bin", COUNT(*) AS "n" FROM (SELECT CASE WHEN NOT "x" IS NULL THEN '
        'CASE WHEN "x" < CAST(3.0e0 AS DOUBLE) THEN 0 ELSE 1 END END AS "k0", '
        'CAST(CASE WHEN "x" - 0 < 0 THEN 0 WHEN "x" - 0 > 11 THEN 11 ELSE "x" - 0 END AS BIGINT) AS "bin" '
        'FROM (SELECT CAST("x" AS BIGINT) AS "x", "u" FROM "data") AS clean) AS terms '
        'WHERE NOT "bin" IS NULL GROUP BY "k0", "bin"'
    )


def test_verification_in_trino():
    dataset = DataSet("general-1", ("p",), {"y": Column("real", clip=True, bounds=(0, 1))}, max_rows=9)
    select, checks = declaration.verification(dataset, "data", {"y": "fractional"})
    assert [name for name, _ in checks] == ["y", "y", ""]
    largest = "CAST(1.7976931348623157e+308 AS DOUBLE)"
    assert dialects.text(select, "trino") == (
        'SELECT COALESCE(MAX(CASE WHEN "y" IS NULL THEN 1 ELSE 0 END), 0) AS "v0", '
        f'COALESCE(MAX(CASE WHEN ("y" > {largest} OR ("y" < -{largest} OR IS_NAN("y"))) THEN 1 ELSE 0 END), 0) AS "v1", '
        'COALESCE(CASE WHEN COUNT(*) > 9 THEN 1 ELSE 0 END, 0) AS "v2" FROM "data"'
    )


def test_a_row_digest_in_trino():
    digest = dialects.row_digest(Schema({"a": Column("identifier")}))
    assert exp.select(digest).sql("trino") == (
        'SELECT LOWER(TO_HEX(MD5(TO_UTF8((CONCAT(CAST(CONCAT(CAST(COALESCE(CAST(LENGTH(CAST("a" AS VARCHAR)) AS VARCHAR), '
        "'-') AS VARCHAR), CAST(':' AS VARCHAR)) AS VARCHAR), CAST(CONCAT(CAST(COALESCE(CAST(\"a\" AS VARCHAR), '-') "
        "AS VARCHAR), CAST(':' AS VARCHAR)) AS VARCHAR)))))))"
    )


def test_an_exact_sum_of_reals_in_postgres():
    """Rounded away from 0, where ROUND of a double would round to even."""
    schema = Schema({"y": Column("real", (-1, 3))})
    select = compiler.sums(
        plan.compile(T.agg(col("y").sum()).query, schema, exact=False), schema, "data", bounded=False
    )
    value, half = '"t0" * CAST(1125899906842624.0e0 AS DOUBLE PRECISION)', "CAST(0.5e0 AS DOUBLE PRECISION)"
    rest = f"({value} - TRUNC({value}))"
    assert dialects.text(select, "postgres") == (
        f'SELECT COUNT(*) AS "c0", CAST(COALESCE(SUM(CAST((TRUNC({value}) + CASE WHEN {rest} >= {half} THEN 1 '
        f'WHEN {rest} <= -{half} THEN -1 ELSE 0 END) AS BIGINT)), 0) AS VARCHAR) AS "c1" FROM ('
        'SELECT (CAST("y" AS DOUBLE PRECISION) - CAST(1.0e0 AS DOUBLE PRECISION)) AS "t0" FROM ('
        'SELECT CAST("y" AS DOUBLE PRECISION) AS "y" FROM "data") AS clean) AS terms'
    )
