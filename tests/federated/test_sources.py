"""One federation whose departments keep their rows in different places: a frame, a Parquet file, a real PostgreSQL.

The contract of the networks is on frames alone; what leaves a department must not depend on where its rows are.
"""

from __future__ import annotations

import pathlib
import sys

import msgspec
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from federated import local
from sandbox import col, corr, count, receipt
from sandbox.catalog import Catalog
from sandbox.errors import Denied, DepartmentFailed
from sandbox.fit import LinearRegression

sys.path.append(str(pathlib.Path(__file__).parents[1] / "sandbox"))
from postgres_server import server  # noqa: F401, a fixture

PURPOSE = "research"
TABLE = "people"


def opened(everyone, directory, server):  # noqa: F811
    """Ash has a frame, birch a file, cedar a table; the others frames."""
    catalogs, frames = dict(everyone.catalogs), dict(everyone.frames)
    birch, cedar = (frames.pop(name)["t"] for name in ("birch", "cedar"))
    birch.to_parquet(directory / "birch.parquet", index=False)
    dataset = catalogs["cedar"].datasets["t"]
    sources = {"birch": str(directory / "birch.parquet"), "cedar": server.put(cedar, dataset, TABLE)}
    for name, source in sources.items():
        catalogs[name] = Catalog(name, {"t": msgspec.structs.replace(dataset, source=source)})
        frames[name] = {"t": None}
    return local.open_federation(catalogs, frames)


@pytest.fixture(scope="module")
def everyone(people):
    return people(rows=200, level="general-2")


@pytest.fixture
def mixed(everyone, tmp_path, server):  # noqa: F811
    return opened(everyone, tmp_path, server).city()


def statistics(city):
    query = city.table("t").group_by("region").agg(
        count(), col("income").mean(), col("income").var(), col("age").median(), corr("age", "income").alias("together")
    )  # fmt: skip
    return query.release(purpose=PURPOSE)


def test_statistics_are_those_of_the_pooled_rows_and_of_frames(mixed, everyone):
    found = statistics(mixed).frame.set_index("region")
    groups = everyone.pooled().groupby("region")
    assert found["count"].to_dict() == groups.size().to_dict()
    for region, rows in groups:
        assert found.loc[region, "income_mean"] == pytest.approx(rows["income"].mean(), rel=1e-9)
        assert found.loc[region, "income_var"] == pytest.approx(rows["income"].var(), rel=1e-9)
        assert found.loc[region, "age_median"] == rows["age"].median()
        assert found.loc[region, "together"] == pytest.approx(rows["age"].corr(rows["income"]), rel=1e-6)
    frames = local.open_federation(everyone.catalogs, everyone.frames).city()
    pd.testing.assert_frame_equal(found, statistics(frames).frame.set_index("region"), check_exact=True)


def test_a_difference_within_the_database_is_refused_across_the_federation(mixed, everyone):
    """The one person whom the second filter leaves out is a row of the table in PostgreSQL."""
    income = float(everyone.frames["cedar"]["t"]["income"].max())
    assert (everyone.pooled()["income"] == income).sum() == 1
    table = mixed.table("t")
    others = table.filter((col("income") != income) | col("income").is_null())
    table.agg(count(), col("age").sum()).release(purpose=PURPOSE)
    with pytest.raises(Denied, match="differ by fewer than 10 units"):
        others.agg(count(), col("age").sum()).release(purpose=PURPOSE)


def test_a_model_is_that_of_the_pooled_rows(mixed, everyone):
    fitted = LinearRegression().fit(
        mixed.table("t").filter(col("income").is_not_null()), features=["age", "smokes"], target="income", purpose=PURPOSE
    )  # fmt: skip
    pooled = everyone.pooled().dropna().astype({"smokes": float})
    wanted = sm.OLS(pooled["income"], sm.add_constant(pooled[["age", "smokes"]])).fit()
    np.testing.assert_allclose(fitted.model.coefficients, wanted.params, rtol=1e-9)


def test_an_edited_row_is_a_difference_that_is_refused(mixed, server):  # noqa: F811
    for _ in range(2):
        statistics(mixed)
    server.execute(
        f"UPDATE {TABLE} SET age = 50 WHERE ctid = (SELECT min(ctid) FROM {TABLE} WHERE age <> 50)"
    )
    with pytest.raises(Denied, match="differ by fewer than 10 units"):
        statistics(mixed)


def test_rows_that_change_are_another_version_in_the_receipts(mixed, server):  # noqa: F811
    first = versions(statistics(mixed))
    assert versions(statistics(mixed)) == first
    server.execute(f"UPDATE {TABLE} SET age = 100 - age")
    second = versions(statistics(mixed))
    assert second["cedar"] != first["cedar"]
    assert {**second, "cedar": first["cedar"]} == first


def test_rows_that_break_the_declaration_end_the_request(mixed, server):  # noqa: F811
    server.execute(f"UPDATE {TABLE} SET age = 7777")
    with pytest.raises(DepartmentFailed, match=r"cedar: .* lie outside the declared bounds") as caught:
        statistics(mixed)
    assert "7777" not in str(caught.value)


def versions(release) -> dict[str, str]:
    nodes = receipt.read(release.receipt).receipt.nodes
    return {node.department: node.entry.data_version for node in nodes}
