"""Requests to an owner's PostgreSQL: each reads one state of the data, writes nothing, and tells nobody where the data are or what they hold."""

from __future__ import annotations

import concurrent.futures
import sys

import msgspec
import pytest
from survey_table import DATASET, NUMBER, T, ask, opened, people, table_of

from sandbox import catalog, col, count
from sandbox.catalog import Catalog, Column, DataSet, Postgres
from sandbox.errors import CatalogError, InternalError, ParameterError
from sandbox.postgres import PostgreSQL


@pytest.fixture
def engine(server):
    return opened(server.put(people(), DATASET))


# --- versions ---


def counted(engine, monkeypatch):
    """What statements run from now on, by their first words."""
    seen, fetch = [], PostgreSQL.fetch

    def noting(self, connection, statement):
        if "digests AS" in statement:
            seen.append("digest")
        elif "hashtidextended" in statement:
            seen.append("rows")
        return fetch(self, connection, statement)

    monkeypatch.setattr(PostgreSQL, "fetch", noting)
    return seen


def test_a_version_is_of_the_content(server, engine):
    table, version = table_of(engine), engine.version()
    assert len(version) == 64
    assert opened(server.source(table)).version() == version
    server.execute(f"INSERT INTO {table} VALUES ('f', 1, 2, 'new')")
    changed = engine.version()
    assert changed != version
    server.execute(f"DELETE FROM {table} WHERE who = 'new'")
    assert engine.version() == version
    server.execute(f"ALTER TABLE {table} ADD undeclared int DEFAULT 7")
    assert engine.version() == version
    server.execute(
        f"UPDATE {table} SET sex = NULL WHERE who = (SELECT who FROM {table} WHERE sex = 'f' LIMIT 1)"
    )
    assert engine.version() not in (version, changed)


def test_a_digest_is_computed_only_when_rows_have_changed(server, engine, monkeypatch):
    table, version = table_of(engine), engine.version()
    seen = counted(engine, monkeypatch)
    assert [engine.version(), engine.version()] == [version] * 2
    assert seen == []  # nothing in the database has changed
    server.execute("CREATE TABLE IF NOT EXISTS elsewhere (a int)", "INSERT INTO elsewhere VALUES (1)")
    assert [engine.version(), engine.version()] == [version] * 2
    assert seen == ["rows"]  # something has, though not this table
    server.execute(f"UPDATE {table} SET age = age WHERE who = 'p1'")
    assert engine.version() == version
    assert seen == ["rows", "rows", "digest"]
    server.execute(f"ALTER TABLE {table} DROP income", f"ALTER TABLE {table} ADD income float8 DEFAULT 5")
    assert engine.version() != version  # no row was written: the default is read


@pytest.mark.parametrize("kind", ["VIEW", "MATERIALIZED VIEW"])
def test_a_view_can_be_read(server, engine, monkeypatch, kind):
    """Of a view the digest is computed anew: what it reads may be outside of this database."""
    table, view = table_of(engine), server.name()
    server.execute(f"CREATE {kind} {view} AS SELECT * FROM {table} WHERE age < 60")
    young = opened(server.source(view))
    assert sum(ask(young)[0]) == int((people()["age"] < 60).sum())
    seen = counted(young, monkeypatch)
    assert young.version() == young.version()
    assert seen == (["digest"] * 2 if kind == "VIEW" else [])


def test_inherited_rows_count(server):
    """Rows of a child table are read through its parent, so the parent's own row versions do not tell."""
    name = server.name()
    server.execute(f"CREATE TABLE {name} (age int)", f"CREATE TABLE {name}_child () INHERITS ({name})")
    engine = opened(server.source(name), DataSet("general-2", ("p",), {"age": Column("integer", (0, 9))}))
    versions = {engine.version()}
    for i in range(3):
        server.execute(f"INSERT INTO {name}_child VALUES ({i})")
        versions.add(engine.version())
        assert ask(engine, T.agg(count()).query)[0] == [i + 1]
    assert len(versions) == 4


def test_a_request_reads_one_state_of_the_data(server, engine):
    """Rows that another session commits between two selects of a request are in neither of them."""
    table = table_of(engine)
    with engine._snapshot() as snapshot:
        version, before = snapshot.version(), snapshot.run(NUMBER)["n"].tolist()
        server.execute(f"INSERT INTO {table} SELECT 'f', 5, 5, 'x' || i FROM generate_series(1, 50) AS i")
        assert snapshot.run(NUMBER)["n"].tolist() == before == [300]
        assert snapshot.version() == version
    again, after = engine.read(NUMBER)
    assert after["n"].tolist() == [350]
    assert again != version


def test_rows_that_change_are_verified_before_they_are_served(server, engine):
    table = table_of(engine)
    server.execute(f"UPDATE {table} SET sex = 'secret77' WHERE who = 'p1'")
    for _ in range(2):
        with pytest.raises(CatalogError, match="column 'sex': values occur that are not among") as caught:
            ask(engine)
        assert "secret77" not in str(caught.value)
    server.execute(f"UPDATE {table} SET sex = 'm' WHERE who = 'p1'")
    ask(engine)
    server.execute(f"ALTER TABLE {table} ALTER age TYPE text")
    with pytest.raises(CatalogError, match="column 'age': declared as integer, but stored as text"):
        ask(engine)


def test_many_threads_get_the_same_sums_while_rows_come_and_go(server, engine):
    table, wanted = table_of(engine), ask(engine)
    server.execute(f"CREATE TABLE {table}_noise (a int)")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = [pool.submit(ask, engine) for _ in range(24)]
        for i in range(10):
            server.execute(f"INSERT INTO {table}_noise VALUES ({i})")
        assert all(result.result() == wanted for result in results)
    assert len(engine.backend._idle) <= 4


# --- the owner's server ---


def test_no_statement_can_write_whatever_the_role_may(server, engine):
    """As the table's owner, with every right."""
    table = table_of(engine)
    backend = opened(server.source(table, user="postgres")).backend
    for statement in (
        f"DELETE FROM public.{table}",
        f"UPDATE public.{table} SET age = 1",
        "CREATE TABLE public.stolen (a int)",
        f"TRUNCATE public.{table}",
        "SELECT setval('pg_catalog.nothing', 1)",
    ):
        with pytest.raises(InternalError), backend.snapshot() as snapshot:
            backend.execute(snapshot._connection, statement)
    with backend.snapshot() as snapshot:
        shown = "SELECT current_setting('transaction_isolation') AS a, current_setting('transaction_read_only') AS b"
        found = snapshot._fetch(
            shown + ", current_setting('search_path') AS c, current_setting('TimeZone') AS d"
        )
    assert [values.tolist() for values in found.values()] == [
        ["repeatable read"],
        ["on"],
        ["pg_catalog, pg_temp"],
        ["UTC"],
    ]


def test_settings_of_the_server_change_no_sum(server, engine):
    wanted, version = [ask(engine), ask(engine, exact=False)], engine.version()
    for setting in (
        "extra_float_digits = -5",
        "datestyle = 'German'",
        "timezone = 'Asia/Tokyo'",
        "search_path = public",
    ):
        server.execute(f"ALTER ROLE reader SET {setting}")
    server.execute(
        "CREATE OR REPLACE FUNCTION public.md5(text) RETURNS text LANGUAGE sql AS $$ SELECT 'same' $$",
        "CREATE OR REPLACE FUNCTION public.abs(double precision) RETURNS double precision LANGUAGE sql AS $$ SELECT 1.0::float8 $$",
    )
    try:
        other = opened(server.source(table_of(engine)))
        assert [ask(other), ask(other, exact=False)] == wanted
        assert other.version() == version
    finally:
        server.execute(
            "ALTER ROLE reader RESET ALL",
            "DROP FUNCTION public.md5(text)",
            "DROP FUNCTION public.abs(double precision)",
        )


END = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'joint-sandbox'"


def test_connections_that_the_server_ended_are_replaced(server, engine):
    wanted = ask(engine)
    server.execute(END)
    assert ask(engine) == wanted


def test_a_connection_that_ends_within_a_request_is_an_error_and_the_next_request_works(server, engine):
    wanted = ask(engine)

    def interrupted():
        with engine._snapshot() as snapshot:
            server.execute(END)
            snapshot.run(NUMBER)

    with pytest.raises(CatalogError, match="data set 'survey': its PostgreSQL did not answer") as caught:
        interrupted()
    assert server.host not in str(caught.value)
    assert caught.value.__cause__ is None
    assert ask(engine) == wanted


def test_a_statement_that_takes_too_long_is_ended(server, engine):
    view = server.name()
    server.execute(
        f"CREATE VIEW {view} AS SELECT t.* FROM {table_of(engine)} AS t, LATERAL (SELECT 1) AS s WHERE pg_sleep(0.02 + age * 0)::text = ''"
    )
    with pytest.raises(CatalogError, match="a statement took more than 'timeout', 1 s"):
        opened(server.source(view, timeout=1))


def test_a_table_that_is_missing_or_may_not_be_read_is_named(server):
    table = server.put(people(), DATASET).table
    server.execute(
        "CREATE ROLE stranger LOGIN", "CREATE SCHEMA hidden", f"CREATE TABLE hidden.{table} AS TABLE {table}"
    )
    with pytest.raises(CatalogError, match=f"its role may not read '{table}'"):
        opened(server.source(table, user="stranger"))
    with pytest.raises(CatalogError, match=r"its role may not read 'hidden\."):
        opened(server.source(f"hidden.{table}", user="stranger"))
    with pytest.raises(CatalogError, match="there is no table 'nowhere', or its role does not see it"):
        opened(server.source("nowhere"))
    opened(server.source(f"hidden.{table}"))


# --- nothing of the way there ---


@pytest.mark.parametrize(
    "source",
    [
        {"host": "/secret77/host"},
        {"host": "127.0.0.1", "port": 1, "user": "secret77", "dbname": "secret77"},
        {"service": "secret77"},
        {"dbname": "secret77"},
        {"user": "secret77"},
    ],
)
def test_errors_tell_neither_host_nor_user(server, source):
    with pytest.raises(CatalogError, match="data set 'survey': its PostgreSQL cannot be reached") as caught:
        opened(server.source("t", **source))
    assert "77" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_uri_comes_from_the_environment(server, engine, monkeypatch):
    source = Postgres(table_of(engine), uri_env="HEALTH_DB")
    with pytest.raises(CatalogError, match="'uri_env' of its source names 'HEALTH_DB', which is not set"):
        opened(source)
    monkeypatch.setenv("HEALTH_DB", f"postgresql://reader@/postgres?host={server.host}")
    assert ask(opened(source)) == ask(engine)
    monkeypatch.setenv("HEALTH_DB", "postgresql://u:secret77@secret77/secret77?nonsense=secret77")
    with pytest.raises(CatalogError) as caught:
        opened(source)
    assert "77" not in str(caught.value)


def test_reprs_tell_neither_host_nor_user(server, engine):
    source = server.source("t", host="/secret77", user="secret77", dbname="secret77", service="")
    dataset = msgspec.structs.replace(DATASET, source=source)
    for shown in (source, dataset, Catalog("ash", {"t": dataset}), engine.backend, engine):
        assert "secret77" not in repr(shown)
    assert repr(source) == "Postgres(table='t')"


def test_a_value_in_an_error_of_the_server_does_not_go_on(engine):
    with (
        pytest.raises(
            InternalError, match=r"could not run a compiled query \(DataError, SQLSTATE 22P02\)$"
        ) as caught,
        engine.backend.snapshot() as snapshot,
    ):
        snapshot._fetch("SELECT 'secret77'::bigint AS x")
    assert "secret77" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_without_the_driver_the_extra_is_named(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "adbc_driver_postgresql.dbapi", None)
    with pytest.raises(ParameterError, match=r"pip install 'joint-sandbox\[postgres\]'"):
        opened(server.source("t"))


# --- the catalogue ---

TOML = """
department = "ash"
[datasets.t]
level = "general-2"
purposes = ["p"]
columns = {{ age = {{ type = "integer" }} }}
{}
"""


def loaded(tmp_path, source):
    (tmp_path / "catalog.toml").write_text(TOML.format(source))
    return catalog.load(tmp_path / "catalog.toml").datasets["t"].source


def test_a_source_is_a_file_or_a_table(tmp_path):
    assert loaded(tmp_path, 'source = "t.csv"') == "t.csv"
    assert loaded(tmp_path, 'source = { kind = "postgresql", table = "t" }') == Postgres("t")
    table = (
        '[datasets.t.source]\nkind = "postgresql"\ntable = "health.survey"\nservice = "city"\ntimeout = 30'
    )
    found = loaded(tmp_path, table)
    assert found == Postgres("health.survey", service="city", timeout=30)
    assert found.path == ("health", "survey")
    assert Postgres("t").path == ("public", "t")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ('kind = "postgresql", table = "t", password = "secret77"', "unknown field `password`"),
        ('kind = "postgresql"', "missing required field `table`"),
        ('kind = "mysql", table = "t"', "Invalid value 'mysql'"),
        ('kind = "postgresql", table = "a.b.c"', "'table' of its source is 'table' or 'schema.table'"),
        ('kind = "postgresql", table = "a."', "'table' of its source is 'table' or 'schema.table'"),
        ('kind = "postgresql", table = ""', "'table' of its source is 'table' or 'schema.table'"),
        (
            'kind = "postgresql", table = "t", uri_env = "X", host = "h"',
            "'uri_env' of its source holds everything",
        ),
        ('kind = "postgresql", table = "t", port = 70000', "port"),
        ('kind = "postgresql", table = "t", timeout = 0', "timeout"),
        ('kind = "postgresql", table = "a\\u0000b"', "NUL"),
    ],
)
def test_a_source_that_is_none_is_refused(tmp_path, source, reason):
    with pytest.raises(CatalogError, match=reason) as caught:
        loaded(tmp_path, f"source = {{ {source} }}")
    assert "secret77" not in str(caught.value)


def test_names_are_quoted(server):
    """A table and a column may have any name; none of them is read as SQL."""
    server.execute(
        'CREATE SCHEMA "Select; --"',
        """CREATE TABLE "Select; --"."it's ""a"" \\ table" AS SELECT 5 AS größe""",
    )
    dataset = DataSet("general-2", ("p",), {"größe": Column("integer", (0, 9))})
    engine = opened(server.source("""Select; --.it's "a" \\ table"""), dataset)
    assert ask(engine, T.agg(count(), col("größe").sum()).query)[0] == [1]
    assert len(engine.version()) == 64
