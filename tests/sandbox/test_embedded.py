"""The embedded database: the file that is named and no other, whatever its name means to DuckDB; rows in their order, compressed."""

from __future__ import annotations

import duckdb
import numpy as np
import pandas as pd
import pytest
from sqlglot import exp

from sandbox import syntax
from sandbox.backend import TABLE
from sandbox.catalog import Column, DataSet
from sandbox.engine import Engine
from sandbox.errors import CatalogError

COLUMNS = {"age": Column("integer", (0, 120))}
AGES = exp.select(syntax.column("age")).from_(syntax.table(TABLE))


def write(path, ages):
    path.parent.mkdir(exist_ok=True)
    frame = pd.DataFrame({"age": ages})
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        with duckdb.connect() as connection:
            connection.from_df(frame).write_parquet(str(path))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("data[1]", ["data1"]),
        ("data*", ["data", "data2"]),
        ("dat?", ["data"]),
        ("**", ["a"]),
        ("[!x]", ["y", "[!x"]),
        ("it's {a,b}", ["it's a"]),
        ("age=7/rows", []),
        ("years[12]/rows", ["years1/rows", "years2/rows"]),
    ],
)
def test_a_name_is_no_pattern(tmp_path, name, others, suffix):
    for other in others:
        write(tmp_path / f"{other}.{suffix}", [100, 100])
    write(tmp_path / f"{name}.{suffix}", [1, 2, 3])
    dataset = DataSet("general-1", ("p",), COLUMNS, source=f"{name}.{suffix}")
    _, columns = Engine("t", dataset, directory=tmp_path).read(AGES)
    assert columns["age"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_path_that_cannot_be_told_from_a_pattern_is_refused(tmp_path, suffix):
    write(tmp_path / f"a\\b.{suffix}", [1])
    dataset = DataSet("general-1", ("p",), COLUMNS, source=f"a\\b.{suffix}")
    with pytest.raises(CatalogError, match="must not hold a backslash"):
        Engine("t", dataset, directory=tmp_path)


def test_rows_in_memory_are_compressed_and_in_their_order():
    ages = np.random.default_rng(1).integers(0, 120, 300_000)
    engine = Engine("t", DataSet("general-1", ("p",), COLUMNS), pd.DataFrame({"age": ages}))
    cursor = engine.backend.connection.cursor()
    kinds = cursor.execute(
        "SELECT DISTINCT compression FROM pragma_storage_info('compressed.main.data') WHERE segment_type = 'BIGINT'"
    ).fetchall()
    assert ("Uncompressed",) not in kinds
    assert (cursor.execute("SELECT age FROM data").fetchnumpy()["age"] == ages).all()
