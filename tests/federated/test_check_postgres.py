"""`sandbox node check` before a real PostgreSQL: reachable, within its declaration, and read by a role that may do no more."""

from __future__ import annotations

import pathlib
import sys

import deployed
import pandas as pd
import pytest

from federated.deploy import checks
from sandbox.catalog import Column, DataSet, Postgres

sys.path.append(str(pathlib.Path(__file__).parents[1] / "sandbox"))
from postgres_server import server  # noqa: F401, a fixture

ROWS = pd.DataFrame({"age": [30, 60, 777_777]})
CATALOG = """
department = "ash"

[datasets.t]
level = "general-1"
purposes = ["research"]
source = {{ kind = "postgresql", table = "{table}", host = "{host}", dbname = "postgres", user = "{user}" }}
columns.age = {{ type = "integer", bounds = [0, {most}] }}
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    return deployed.make(tmp_path_factory.mktemp("made") / "city") / "nodes" / "ash"


@pytest.fixture(scope="module")
def source(server) -> Postgres:  # noqa: F811
    """The table, its name one that must be quoted; and roles that may read it, change it, and do neither."""
    found = server.put(
        ROWS, DataSet("general-1", ("research",), {"age": Column("integer", (0, 10**6))}), "Odd name"
    )
    server.execute(
        "CREATE ROLE writer LOGIN",
        'GRANT SELECT, INSERT ON "Odd name" TO writer',
        "CREATE ROLE stranger LOGIN",
    )
    return found


@pytest.mark.parametrize(
    ("user", "most", "ok", "detail"),
    [
        ("reader", 10**6, True, "reachable, and within what is declared"),
        (
            "writer",
            10**6,
            True,
            "reachable, and within what is declared; its role may also write there: give it one that may only read",
        ),
        ("stranger", 10**6, False, "data set 't': its role may not read 'Odd name'"),
        ("nobody", 10**6, False, "data set 't': its PostgreSQL cannot be reached"),
        ("reader", 100, False, "values lie outside the declared bounds [0, 100]"),
    ],
)
def test_what_the_check_says_of_a_table(node, source, user, most, ok, detail):
    (node / "catalog.toml").write_text(
        CATALOG.format(table=source.table, host=source.host, user=user, most=most)
    )
    found = {check.name: check for check in checks.run(node)}["data t"]
    assert found.ok is ok, found
    assert found.detail == detail if ok else detail in found.detail
    assert "777777" not in found.detail
