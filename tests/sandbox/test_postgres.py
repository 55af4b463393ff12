"""An owner's rows in a real PostgreSQL: the same sums as in DuckDB from every type that can hold a column, and the same rows wherever they stand."""

from __future__ import annotations

import contextlib

import adbc_driver_postgresql.dbapi as driver
import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from survey_table import COLUMNS, DATASET, T, ask, opened, people

from sandbox import col, corr, count, members, plan, postgres
from sandbox.catalog import Column, DataSet
from sandbox.engine import Engine
from sandbox.errors import CatalogError, QueryError
from sandbox.expressions import Expression

# --- the same as in DuckDB ---


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_sums_are_identical_to_those_of_duckdb(data, server, drawn, survey, schema):
    """Not a step of the grid apart, exact or bounded, with several rows a unit."""
    term, where = data.draw(drawn.numbers), data.draw(st.one_of(st.none(), drawn.conditions))
    x = Expression(term)
    asked = (
        T.group_by("region").agg(x.var(), x.median(), corr("wealth", "income"), col("weight").mean()).query
    )
    try:
        query = msgspec.structs.replace(asked, where=where)
        plans = [plan.compile(query, schema, exact=exact) for exact in (True, False)]
    except QueryError:
        return
    rows = data.draw(st.lists(drawn.rows, max_size=9))
    frame = pd.DataFrame(
        [{**row, "person": f"p{i // 3}"} for i, row in enumerate(rows)], columns=list(schema.columns)
    )
    for name in ("age", "visits", "code"):
        frame[name] = pd.array(frame[name].tolist(), dtype="Int64")
    frame["insured"] = pd.array(frame["insured"].tolist(), dtype="boolean")
    frame = frame.astype(dict.fromkeys(("income", "weight", "wealth", "free"), "float64"))
    engines = [Engine("t", survey, frame), opened(server.put(frame, survey, "drawn"), survey)]
    for compiled in plans:
        sums = [engine.sums(compiled, bounded=not compiled.exact) for engine in engines]
        for one, other in zip(
            sums[0].components + sums[0].leaves, sums[1].components + sums[1].leaves, strict=True
        ):
            assert one.tolist() == other.tolist()


def test_every_type_that_can_hold_a_declared_column_gives_the_same_sums(server):
    frame = people()
    wanted = [ask(Engine("survey", DATASET, frame), exact=exact) for exact in (True, False)]
    source = server.put(frame, DATASET)
    name = source.table
    server.execute(
        f"CREATE TYPE {name}_sex AS ENUM ('m', 'f')",
        f"CREATE DOMAIN {name}_inner AS numeric(30, 17)",
        f"CREATE DOMAIN {name}_outer AS {name}_inner CHECK (VALUE >= 0)",
    )
    for sex, age, income, who in (
        ("char(4)", "smallint", "double precision", "varchar(9)"),
        (f"{name}_sex", "integer", "double precision", "char(12)"),
        ("varchar", "numeric(40, 3)", "numeric", "name"),
        ("text", "double precision", f"{name}_outer", "bytea USING who::bytea"),
        ('text COLLATE "ucs_basic"', "real", "numeric(40, 20)", "text"),
    ):
        server.execute(
            f"CREATE TABLE {name}_other AS TABLE {name}",
            f"ALTER TABLE {name}_other ALTER sex TYPE {sex} USING sex::{sex.split(' COLL')[0]}, ALTER age TYPE {age}, "
            f"ALTER income TYPE {income}, ALTER who TYPE {who}",
        )
        engine = opened(server.source(f"{name}_other"))
        tolerance = 0 if income == "double precision" else None
        for exact, sums in zip((True, False), wanted, strict=True):
            found = ask(engine, exact=exact)
            if tolerance == 0:
                assert found == sums
            else:  # decimal numbers of 15 digits are other doubles
                flat = [np.array(part, float).ravel() for part in (found, sums) for part in part]
                half = len(flat) // 2
                for one, other in zip(flat[:half], flat[half:], strict=True):
                    assert np.allclose(one, other, rtol=1e-9)
        server.execute(f"DROP TABLE {name}_other")


def test_whole_numbers_and_booleans_may_be_stored_as_numbers(server):
    columns = {
        "b": Column("boolean"),
        "code": Column("category", categories=("0", "1")),
        "n": Column("integer"),
    }
    dataset = DataSet("general-2", ("p",), columns)
    name = server.name()
    server.execute(
        f"CREATE TABLE {name} AS SELECT i % 2 AS b, (i % 2)::numeric(3, 1) AS d, i % 2 AS code, i % 2 = 1 AS flag, i::numeric AS n "
        "FROM generate_series(1, 5) AS i"
    )
    engine = opened(server.source(name), dataset)
    query = T.group_by("b", "code").agg(count()).query
    assert ask(engine, query)[0] == [2, 0, 0, 3]
    server.execute(f"ALTER TABLE {name} DROP code", f"ALTER TABLE {name} RENAME flag TO code")
    flags = msgspec.structs.replace(
        dataset, columns=columns | {"code": Column("category", categories=("false", "true"))}
    )
    assert ask(opened(server.source(name), flags), query)[0] == [2, 0, 0, 3]
    server.execute(f"ALTER TABLE {name} DROP b", f"ALTER TABLE {name} RENAME d TO b")
    assert ask(opened(server.source(name), flags), query)[0] == [2, 0, 0, 3]


def test_text_is_what_its_bytes_are(server):
    """Neither blanks at the end, nor case, nor how an accent is written makes texts equal."""
    name, columns = server.name(), {"k": Column("category", categories=("é", "e\u0301", "E", "e", "e "))}
    server.execute(
        f'CREATE TABLE {name} (k text COLLATE "pg_unicode_fast")',
        f"INSERT INTO {name} VALUES ('é'), ('e\u0301'), ('E'), ('e'), ('e ')",
    )
    engine = opened(server.source(name), DataSet("general-2", ("p",), columns))
    assert ask(engine, T.group_by("k").agg(count()).query)[0] == [1, 1, 1, 1, 1]
    for category in columns["k"].categories:
        assert ask(engine, T.filter(col("k") == category).agg(count()).query)[0] == [1]


def test_decimal_numbers_that_no_double_holds_are_refused_and_small_ones_are_zero(server):
    name, columns = server.name(), {"x": Column("real", (-1, 1))}
    dataset = DataSet("general-2", ("p",), columns)
    server.execute(
        f"CREATE TABLE {name} (x numeric)", f"INSERT INTO {name} VALUES ('1e-400'), ('-1e-330'), (0.5)"
    )
    assert ask(opened(server.source(name), dataset), T.agg(count(), col("x").sum()).query)[1] == [2**50]
    for wild in ("1e400", "-1e400", "NaN", "Infinity"):
        server.execute(
            f"UPDATE {name} SET x = '{wild}' WHERE x = 0.5 OR x <> x + 1 AND abs(x) > 1 OR x = 'NaN'"
        )
        with pytest.raises(CatalogError, match="column 'x': NaN or infinity occurs"):
            opened(server.source(name), dataset)


def test_values_that_no_declared_column_may_hold_are_refused(server):
    name = server.name()
    for kind, value, declared, reason in (
        ("double precision", "'NaN'", Column("real", nullable=True), "NaN or infinity occurs"),
        ("double precision", "'-Infinity'", Column("real", nullable=True), "NaN or infinity occurs"),
        ("double precision", "'NaN'", Column("integer", (0, 1), clip=True), "not whole numbers of 64 bits"),
        ("numeric", "1e30", Column("integer", (0, 1), clip=True), "not whole numbers of 64 bits"),
        ("numeric", "0.5", Column("integer", (0, 1)), "values with a fraction"),
        ("numeric", "0.5", Column("boolean"), "other than true and false"),
        ("bigint", "7", Column("category", categories=("1",)), "not among its declared categories"),
        ("json", "'{}'", Column("category", categories=("1",)), "declared as category, but stored as json"),
        ("timestamptz", "now()", Column("real"), "declared as real, but stored as timestamptz"),
        ("money", "7", Column("real"), "declared as real, but stored as money"),
    ):
        server.execute(f"DROP TABLE IF EXISTS {name}", f"CREATE TABLE {name} AS SELECT {value}::{kind} AS x")
        with pytest.raises(CatalogError, match=f"column 'x': .*{reason}"):
            opened(server.source(name), DataSet("general-2", ("p",), {"x": declared}))


def test_units_must_be_told_apart(server):
    """An ordinary type is; JSON has no equality, and a type without case is its own owner's notion of a person."""
    name = server.name()
    dataset = DataSet("general-2", ("p",), {"who": Column("identifier")}, unit="who", max_rows=9)
    for kind, values in (
        ("uuid", "gen_random_uuid()"),
        ("date", "DATE '2020-01-01' + i"),
        ("int[]", "ARRAY[i]"),
    ):
        server.execute(
            f"DROP TABLE IF EXISTS {name}",
            f"CREATE TABLE {name} AS SELECT ({values})::{kind} AS who FROM generate_series(1, 3) AS i",
        )
        assert ask(opened(server.source(name), dataset), T.agg(count()).query)[0] == [3]
    server.execute(f"DROP TABLE {name}", f"CREATE TABLE {name} AS SELECT '{{}}'::json AS who")
    with pytest.raises(CatalogError, match="column 'who': units stored as json cannot be told apart"):
        opened(server.source(name), dataset)


def test_sums_that_are_more_than_a_result_may_have_columns_come_in_parts(server, monkeypatch):
    """Here of 50 columns. Groups, one of them of null, are the same in each part."""
    for many, refused in ((postgres._COLUMNS + 100, False), (1665, True)):
        statement = f"SELECT {', '.join('1' for _ in range(many))}"
        with pytest.raises(driver.Error, match="1664") if refused else contextlib.nullcontext():
            server.fetch(statement)
    monkeypatch.setattr(postgres, "_COLUMNS", 50)
    random = np.random.default_rng(2)
    frame = pd.DataFrame(random.integers(0, 9, (40, 20)), columns=[f"x{i}" for i in range(20)])
    columns = {name: Column("integer", (0, 9)) for name in frame.columns}
    frame["sex"] = random.choice(np.array(["f", "m", None], object), 40)
    dataset = DataSet("general-2", ("p",), columns | {"sex": COLUMNS["sex"]}, max_rows=99)
    pairs = [corr(a, b).alias(f"{a} {b}") for a in columns for b in columns if a < b]
    engines = [Engine("t", dataset, frame), opened(server.put(frame, dataset), dataset)]
    for query in (T.group_by("sex").agg(*pairs).query, T.agg(*pairs).query):
        assert len(plan.compile(query, dataset.schema(), exact=False).components) > 200
        embedded, found = (ask(engine, query, exact=False) for engine in engines)
        assert found == embedded


# --- rows ---


def test_cells_and_keys_of_rows_go_together_wherever_the_rows_stand(server):
    frame = people()
    compiled = plan.compile(
        T.group_by("sex").agg(count(), col("income").mean()).query, DATASET.schema(), exact=True
    )
    source = server.put(frame, DATASET)
    engine = opened(source)
    found, (version, keys) = members.members(engine, compiled), members.keys(engine)
    assert found.version == version
    assert len(set(keys.tolist())) == len(frame)
    cells = [np.bincount(layer[layer >= 0], minlength=3).tolist() for layer in found.cells]
    code = frame["sex"].map({"f": 0, "m": 1}).fillna(2)
    present = code[frame["income"].notna()]
    assert cells == [np.bincount(part.astype(int), minlength=3).tolist() for part in (code, present)]
    assert cells[0] == ask(engine, T.group_by("sex").agg(count()).query)[0]
    name = source.table
    for move in (
        f"CREATE INDEX {name}_income ON {name} (income)",
        f"CLUSTER {name} USING {name}_income",
        f"VACUUM FULL {name}",
        f"UPDATE {name} SET age = age WHERE age < 60",
    ):
        server.execute(move)
        again, (same, moved) = members.members(engine, compiled), members.keys(engine)
        assert (same, again.version) == (version, version)
        assert (again.cells == found.cells).all()
        assert (moved == keys).all()
    server.execute(f"UPDATE {name} SET income = 1 WHERE who = 'p17'")
    other, edited = members.keys(engine)
    assert other != version
    assert len(set(edited.tolist()) - set(keys.tolist())) == 1


def test_equal_rows_have_different_keys(server):
    frame = pd.concat([people(3)] * 4, ignore_index=True)
    dataset = msgspec.structs.replace(DATASET, unit=None)
    _, keys = members.keys(opened(server.put(frame, dataset), dataset))
    assert len(set(keys.tolist())) == 12
    _, fewer = members.keys(opened(server.put(frame.head(9), dataset), dataset))
    assert set(fewer.tolist()) < set(keys.tolist())
