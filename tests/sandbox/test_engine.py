"""The local engine: sums equal to those of pandas and of exact arithmetic on the same rows, from data that keep their declaration.

What breaks the declaration is refused when opened and again when a file has changed, by the column's name and never by a value.
"""

from __future__ import annotations

import concurrent.futures
import math
from fractions import Fraction

import duckdb
import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox import col, corr, count, cov, plan
from sandbox import query as q
from sandbox.catalog import MAX_INTEGER, Column, DataSet
from sandbox.engine import Engine
from sandbox.errors import CatalogError, QueryError
from sandbox.expressions import Expression
from sandbox.table import JointTable

MANY = settings(max_examples=20, deadline=None, derandomize=True, database=None)
T = JointTable(None, "t")
KINDS = {"age": "int64", "visits": "Int64", "code": "Int64", "insured": "boolean", "weight": "float64"}
KEYS = [(), ("sex",), ("region", "insured"), ("visits",), ("band", "sex")]


def people(rows):
    """The rows with persons, who have up to three each."""
    return [{**row, "person": f"p{i // 3}"} for i, row in enumerate(rows)]


def framed(rows, columns):
    frame = pd.DataFrame(rows, columns=list(columns))
    for name, kind in KINDS.items():
        frame[name] = pd.array(frame[name].tolist(), dtype=kind)
    return frame.astype({"income": "float64", "wealth": "float64", "free": "float64"})


def asked(term, keys=(), where=None):
    """Every kind of component: of a term that is drawn, and of pairs with nulls, a huge column and a boolean."""
    x = Expression(term)
    aggregations = [
        *(x.var().alias("var"), x.count().alias("n"), x.median().alias("median")),
        *(corr("visits", "income"), cov("age", "wealth"), col("insured").mean(), col("visits").median()),
    ]
    table = T.with_columns(band=col("income").cut([0, 1000.5])).group_by(*keys)
    return msgspec.structs.replace(table.agg(*aggregations).query, where=where)


@pytest.fixture(scope="module", params=["duckdb", "postgres"])
def opens(request):
    """Opens a frame's rows in each database."""
    if request.param == "duckdb":
        return lambda dataset, frame: Engine("t", dataset, frame)
    server = request.getfixturevalue("server")

    def in_postgres(dataset, frame):
        source = server.put(frame, dataset, "drawn")
        return Engine("t", msgspec.structs.replace(dataset, source=source))

    return in_postgres


# --- the sums ---


@MANY
@given(data=st.data())
def test_sums_are_those_of_exact_arithmetic_on_the_same_rows(data, opens, drawn, survey, schema, evaluate):
    """Whole numbers to the unit. Reals within two steps of the grid a row: three roundings of a double and one to the grid."""
    term, keys = data.draw(drawn.numbers), data.draw(st.sampled_from(KEYS))
    where = data.draw(st.one_of(st.none(), drawn.conditions))
    try:
        plans = [plan.compile(asked(term, keys, where), schema, exact=exact) for exact in (True, False)]
    except QueryError:
        return
    rows = people(data.draw(st.lists(drawn.rows, max_size=9)))
    engine = opens(survey, framed(rows, survey.columns))
    kept = [row for row in rows if where is None or evaluate(where, row)]
    for compiled in plans:
        found = engine.sums(compiled, bounded=not compiled.exact)
        cells = [[] for _ in range(compiled.cells)]
        for row in kept:
            codes = [key.domain.index(evaluate(key.term, row)) for key in compiled.keys]
            cells[
                np.ravel_multi_index(codes, [len(key.domain) for key in compiled.keys]) if keys else 0
            ].append(row)
        for component, total in zip(compiled.components, found.components, strict=True):
            for value, members in zip(total.tolist(), cells, strict=True):
                wanted, rows_in = summed(component, members, evaluate)
                assert abs(value - wanted) <= (0 if component.whole else 2 * rows_in)
                assert abs(value) <= component.bound * rows_in
        for leaves, counts in zip(compiled.leaves, found.leaves, strict=True):
            assert counts.tolist() == [histogram(leaves, members, evaluate) for members in cells]


def summed(component, rows, evaluate):
    """The exact sum in steps of the component's grid, and how many rows are in it."""
    rows = [row for row in rows if all(evaluate(term, row) is not None for term in component.requires)]
    if component.kind == "units":
        return len({row["person"] for row in rows}), len(rows)
    if component.kind == "departments":
        return int(len(rows) > 0), len(rows)
    products = (
        math.prod(Fraction(evaluate(f.term, row)) - Fraction(f.center) for f in component.factors)
        for row in rows
    )
    return sum(products) * Fraction(2) ** component.exponent, len(rows)


def histogram(leaves, rows, evaluate):
    values = [value for row in rows if (value := evaluate(leaves.term, row)) is not None]
    counts = [0] * leaves.bins
    for value in values:
        step = (value - leaves.low) / leaves.width if leaves.width else 0
        counts[min(max(math.floor(step), 0), leaves.bins - 1)] += 1
    return counts


@settings(MANY, max_examples=8)
@given(data=st.data())
def test_means_and_variances_are_those_of_pandas(data, opens, drawn, survey, schema):
    """To 1e-12 of the declared range (of its square), since a sum of differences from the centre has no larger error."""
    frame = framed(people(data.draw(st.lists(drawn.rows, min_size=1, max_size=12))), survey.columns)
    columns = ("age", "visits", "income", "weight")
    query = T.group_by("sex").agg(*(col(name).var() for name in columns)).query
    compiled = plan.compile(query, schema, exact=False)
    found = opens(survey, frame).sums(compiled, bounded=True)
    groups = frame.astype({"visits": "float64"}).groupby("sex")
    for name, measure in zip(columns, compiled.measures, strict=True):
        n, first, second = (
            pd.Series(found.components[i] / 2.0 ** compiled.components[i].exponent, compiled.keys[0].domain)
            for i in (measure.rows, measure.first[0], measure.second[0])
        )
        [factor] = compiled.components[measure.first[0]].factors
        range_ = 2 * factor.half_width
        for sex, values in groups[name]:
            assert n[sex] == values.count()
            if n[sex] > 0:
                assert factor.center + first[sex] / n[sex] == pytest.approx(
                    values.mean(), rel=0, abs=1e-12 * range_
                )
            if n[sex] > 1:
                variance = (second[sex] - first[sex] ** 2 / n[sex]) / (n[sex] - 1)
                assert variance == pytest.approx(values.var(), rel=0, abs=1e-12 * range_**2)


def test_sums_that_pass_64_bits_stay_exact(opens, survey):
    """10,000 rows on a grid of 52 bits."""
    columns = {"code": survey.columns["code"], "wealth": survey.columns["wealth"]}
    rows = 10_000
    dataset = DataSet("general-1", ("research",), columns, max_rows=rows)
    frame = pd.DataFrame({"code": np.full(rows, MAX_INTEGER), "wealth": np.full(rows, 1e150)})
    compiled = plan.compile(
        T.agg(col("code").sum(), col("wealth").var()).query, dataset.schema(), exact=False
    )
    found = opens(dataset, frame).sums(compiled, bounded=True).components
    large = [
        (total, component.bound)
        for component, [total] in zip(compiled.components, found, strict=True)
        if component.factors
    ]
    assert len(large) == 3
    for total, bound in large:
        assert type(total) is int
        assert 2**63 < (bound - 2) * rows <= total <= bound * rows


@pytest.mark.parametrize("kinds", [None, "object", "float64"])
def test_a_department_without_rows_or_values_has_sums_of_zero(opens, survey, schema, kinds):
    """pandas gives a column without values a type of its own choice."""
    compiled = plan.compile(asked(q.Column("income"), ("region", "insured")), schema, exact=True)
    empty = pd.DataFrame({name: [] for name in survey.columns}, dtype=kinds)
    sums = opens(survey, empty).sums(compiled, bounded=False)
    assert all(not total.any() for total in sums.components)
    assert all(not counts.any() for counts in sums.leaves)
    assert [total.shape for total in sums.components] == [(15,)] * len(compiled.components)
    row = dict.fromkeys(survey.columns) | {"age": 1, "weight": 1.0, "sex": "male"}
    nulls = framed(people([row]), survey.columns)
    nulls = nulls.astype(dict.fromkeys(("region", "insured", "visits"), kinds) if kinds else {})
    sums = opens(survey, nulls).sums(compiled, bounded=False)
    rows = [int(total.sum()) for total in sums.components if not total.dtype.hasobject]
    assert rows == [0 if component.requires else 1 for component in compiled.components]


def test_quantiles_alone_need_no_other_sum(opens):
    for table in (T, T.group_by("insured")):
        compiled = plan.compile(table.agg(col("visits").median()).query, declared().schema(), exact=False)
        assert compiled.components == ()
        sums = opens(declared(), ROWS).sums(compiled, bounded=True)
        assert sums.components == []
        [counts] = sums.leaves
        assert counts.sum(axis=0).tolist() == [1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1]


@settings(MANY, max_examples=5)
@given(data=st.data())
def test_a_unit_moves_no_sum_beyond_its_rows_times_the_bound(data, opens, drawn, survey, schema):
    rows = people(data.draw(st.lists(drawn.rows, min_size=1, max_size=8)))
    compiled = plan.compile(asked(q.Column("income"), ("sex",)), schema, exact=False)
    frame = framed(rows, survey.columns)
    everyone = opens(survey, frame).sums(compiled, bounded=True)
    others = opens(survey, frame[frame["person"] != "p0"]).sums(compiled, bounded=True)
    for component, total, without in zip(
        compiled.components, everyone.components, others.components, strict=True
    ):
        moved = sum(abs(int(a) - int(b)) for a, b in zip(total, without, strict=True))
        assert moved <= survey.rows_per_unit * component.bound
    for counts, without in zip(everyone.leaves, others.leaves, strict=True):
        assert np.abs(counts - without).sum() <= survey.rows_per_unit


# --- sources ---


PLAIN = {
    "age": Column("integer", (0, 120)),
    "visits": Column("integer", (-3, 8), nullable=True),
    "income": Column("real", (-1e4, 1e6), nullable=True),
    "zone": Column("category", categories=("01", "1", 'it\'s, "quoted"'), nullable=True),
    "insured": Column("boolean"),
    "person": Column("identifier"),
}
ROWS = pd.DataFrame(
    {
        "age": [0, 120, 33, 34, 35],
        "visits": pd.array([-3, 8, None, 1, 2], "Int64"),
        "income": [0.1, None, 1e6, -1e4, 1 / 3],
        "zone": ["01", "1", 'it\'s, "quoted"', None, "01"],
        "insured": [True, False, True, True, False],
        "person": ["a", "a", "b", "c", "d"],
    }
)
QUERY = (
    T.group_by("zone").agg(count(), col("visits").var(), corr("age", "income"), col("insured").mean()).query
)


@pytest.fixture(params=["frame", "parquet", "csv", "postgres"])
def opened(request, tmp_path):
    """Opens rows from each kind of source; the file is `rows.…` in `tmp_path`."""
    server = request.getfixturevalue("server") if request.param == "postgres" else None

    def open_it(frame, **changes):
        dataset = declared(**changes)
        if request.param == "frame":
            return Engine("survey", dataset, frame)
        if server is not None:
            return Engine("survey", msgspec.structs.replace(dataset, source=server.put(frame, dataset)))
        dataset = msgspec.structs.replace(dataset, source=f"rows.{request.param}")
        write(frame, tmp_path / dataset.source)
        return Engine("survey", dataset, directory=tmp_path)

    return open_it


def declared(columns=PLAIN, **changes):
    fields = {"unit": "person", "rows_per_unit": 2, "max_rows": 10, **changes}
    return DataSet("general-1", ("research",), columns, **fields)


def write(frame, path):
    options = "HEADER" if path.suffix == ".csv" else "FORMAT parquet"
    with duckdb.connect() as connection:
        connection.register("frame", frame)
        connection.execute(f"COPY frame TO '{path}' ({options})")


def test_each_source_gives_the_same_sums(opened):
    compiled = plan.compile(QUERY, declared().schema(), exact=True)
    found = opened(ROWS).sums(compiled, bounded=False)
    wanted = Engine("survey", declared(), ROWS).sums(compiled, bounded=False)
    assert [total.tolist() for total in found.components] == [total.tolist() for total in wanted.components]
    assert found.components[0].tolist() == [2, 1, 1, 1]  # 01 is not 1, and null has its cell


def test_values_are_clipped_where_that_is_declared_and_nowhere_else(opened):
    wild = ROWS.assign(age=[-5, 500, 33, 34, 35], income=[0.1, None, 1e9, -1e200, 1 / 3])
    clipped = PLAIN | {
        name: msgspec.structs.replace(PLAIN[name], clip=True) for name in ("age", "income", "visits")
    }
    engine = opened(wild, columns=clipped)
    compiled = plan.compile(QUERY, declared(columns=clipped).schema(), exact=True)
    wanted = Engine("survey", declared(), ROWS).sums(compiled, bounded=False)
    for bounded in (False, True):
        found = engine.sums(compiled, bounded=bounded)
        assert [total.tolist() for total in found.components] == [t.tolist() for t in wanted.components]
    with pytest.raises(CatalogError, match=r"column 'age': values lie outside .* and 'clip' is not declared"):
        opened(wild, columns=clipped | {"age": PLAIN["age"]})


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("age", [0, 121, 33, 34, 35], r"outside the declared bounds \[0, 120\], and 'clip' is not declared"),
        ("age", [0, -77, 33, 34, 35], r"outside the declared bounds \[0, 120\]"),
        ("age", [0.0, 77.25, 33, 34, 35], "values with a fraction occur; allowed are whole numbers"),
        ("age", [0.0, None, 33, 34, 35], "nulls occur, but 'nullable' is not declared"),
        (
            "age",
            ["0", "secret77", "33", "34", "35"],
            "declared as integer, but stored as|cannot be read as integer",
        ),
        ("age", [1e77] * 5, "not whole numbers of 64 bits"),
        ("income", [0.1, 7e77, 0, 0, 0], r"outside the declared bounds \[-10000, 1000000\]"),
        ("income", [0.1, math.inf, 0, 0, 0], "NaN or infinity occurs"),
        (
            "income",
            ["0", "secret77", "1", "2", "3"],
            "declared as real, but stored as|cannot be read as real",
        ),
        (
            "income",
            pd.to_datetime(["1977-07-07"] * 5),
            "declared as real, but stored as|cannot be read as real",
        ),
        (
            "zone",
            ["01", "secret77", "01", "01", "1"],
            "values occur that are not among its declared categories",
        ),
        ("zone", ["01", "01 ", "01", "01", "1"], "values occur that are not among its declared categories"),
        ("insured", [0, 1, 77, 0, 1], "other than true and false|cannot be read as boolean"),
        ("insured", ["true", "secret77", "no", "1", "0"], "but stored as|cannot be read as boolean"),
        ("person", ["a", "a", "a", "secret77", "d"], "more rows than 'rows_per_unit' allows, 2"),
        ("person", ["a", None, "b", "secret77", "d"], "nulls occur, but it identifies the unit of privacy"),
    ],
)
def test_data_that_break_their_declaration_are_refused_by_column_and_never_by_value(
    opened, column, values, reason
):
    with pytest.raises(CatalogError, match=f"data set 'survey'.* column '{column}': .*({reason})") as caught:
        opened(ROWS.assign(**{column: values}))
    assert "77" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_every_breach_is_named_at_once(opened):
    with pytest.raises(CatalogError) as caught:
        opened(ROWS.assign(age=121, income=1e9, person=["a", "b", "c", "d", None]))
    assert all(f"column '{name}'" in str(caught.value) for name in ("age", "income", "person"))


def test_missing_columns_and_too_many_rows_are_refused(opened):
    with pytest.raises(CatalogError, match="column 'income': declared, but the data have no such column"):
        opened(ROWS.drop(columns="income"))
    with pytest.raises(CatalogError, match="data set 'survey': more rows than 'max_rows' allows, 4"):
        opened(ROWS, max_rows=4)
    opened(ROWS.assign(undeclared="secret77"), max_rows=5)


def test_the_name_of_a_type_shows_no_value():
    """ENUM and STRUCT types spell out categories and names of fields."""
    for values in (pd.Categorical(["secret77"] * 5), [{"secret77": 1}] * 5):
        with pytest.raises(CatalogError, match=r"'age': declared as integer, but stored as (ENUM|STRUCT)$"):
            Engine("survey", declared(), ROWS.assign(age=values))


def test_names_that_differ_in_case_alone_are_refused():
    columns = {"age": PLAIN["age"], "Age": PLAIN["age"]}
    with pytest.raises(CatalogError, match="must differ in more than upper and lower case"):
        Engine("survey", DataSet("general-1", ("research",), columns), ROWS)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "'source' '' is not a file beside the catalogue"),
        ("absent.parquet", "'source' 'absent.parquet' is not a file beside the catalogue"),
        ("rows.xlsx", r"'source' must end in \.parquet or \.csv"),
        ("broken.parquet", "its source cannot be read"),
        ("broken.csv", "data set 'survey'"),
    ],
)
def test_a_source_that_cannot_be_read_is_refused(tmp_path, source, reason):
    for name in ("rows.xlsx", "broken.parquet", "broken.csv"):
        (tmp_path / name).write_bytes(b'\xff\x00secret77,\n"' * 5)
    with pytest.raises(CatalogError, match=reason) as caught:
        Engine("survey", declared(source=source), directory=tmp_path)
    assert "secret77" not in str(caught.value)


# --- what may change while the engine is open ---


def test_a_frame_is_copied():
    frame = ROWS.copy()
    engine = Engine("survey", declared(), frame)
    version = engine.version()
    frame.loc[:, "age"] = 121
    compiled = plan.compile(T.agg(col("age").mean()).query, declared().schema(), exact=False)
    assert engine.sums(compiled, bounded=False).components[1].tolist() == [222 - 5 * 60]
    assert engine.version() == version == Engine("survey", declared(), ROWS).version()
    assert version != Engine("survey", declared(), frame.assign(age=[0, 120, 33, 34, 36])).version()


def test_a_view_of_a_frame_is_read_in_its_own_order():
    compiled = plan.compile(QUERY, declared().schema(), exact=True)
    wanted = Engine("survey", declared(), ROWS).sums(compiled, bounded=False).components
    for view in (ROWS.iloc[::-1], ROWS.set_index("zone", drop=False), ROWS.loc[[3, 1, 4, 0, 2]]):
        found = Engine("survey", declared(), view).sums(compiled, bounded=False).components
        assert [total.tolist() for total in found] == [total.tolist() for total in wanted]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_file_that_changes_is_verified_before_it_is_served_again(tmp_path, suffix):
    dataset = declared(source=f"rows.{suffix}")
    path = tmp_path / dataset.source
    write(ROWS, path)
    engine = Engine("survey", dataset, directory=tmp_path)
    compiled = plan.compile(T.agg(count()).query, dataset.schema(), exact=False)
    first = engine.version()
    write(ROWS.assign(age=121), path)
    for _ in range(2):
        with pytest.raises(CatalogError, match="column 'age': values lie outside"):
            engine.sums(compiled, bounded=True)
    with pytest.raises(CatalogError, match="column 'age': values lie outside"):
        engine.version()
    path.unlink()
    with pytest.raises(CatalogError, match="is not a file beside the catalogue"):
        engine.sums(compiled, bounded=True)
    write(ROWS.iloc[:3], path)
    assert engine.sums(compiled, bounded=True).components[0].tolist() == [3]
    assert engine.version() != first


@pytest.mark.parametrize("suffix", ["", ".parquet", ".csv"])
def test_the_database_reads_its_own_source_and_nothing_else(suffix, tmp_path):
    if suffix:
        write(ROWS, tmp_path / f"rows{suffix}")
    dataset = declared(source=f"rows{suffix}" if suffix else "")
    engine = Engine("survey", dataset, None if suffix else ROWS, tmp_path)
    write(ROWS, tmp_path / "other.parquet")
    (tmp_path / "other.csv").write_text("a\n1\n")
    cursor = engine.backend.connection.cursor()
    for text in (
        f"SELECT * FROM read_parquet('{tmp_path}/other.parquet')",
        f"SELECT * FROM read_csv('{tmp_path}/other.csv')",
        f"COPY data TO '{tmp_path}/stolen.csv'",
        f"ATTACH '{tmp_path}/new.db'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "SET memory_limit = '1GB'",
    ):
        with pytest.raises(duckdb.Error):
            cursor.execute(text)
    assert {path.name for path in tmp_path.iterdir()} <= {
        "other.parquet",
        "other.csv",
        "rows.parquet",
        "rows.csv",
    }


def test_many_threads_get_the_same_sums(opened):
    engine = opened(ROWS)
    compiled = plan.compile(QUERY, declared().schema(), exact=True)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda _: engine.sums(compiled, bounded=False).components, range(40))
        distinct = {str([total.tolist() for total in result]) for result in results}
    assert len(distinct) == 1
