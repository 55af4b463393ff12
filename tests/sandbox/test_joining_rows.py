"""What a department's rows are in a join: its owner's view, marks and words, the same from DuckDB and PostgreSQL, as pandas has them."""

from __future__ import annotations

import msgspec
import numpy as np
import pandas as pd
import pytest

from sandbox import col
from sandbox.catalog import Column, DataSet
from sandbox.engine import Engine
from sandbox.errors import QueryError
from sandbox.joining import split, wide
from sandbox.joining.declared import Join, Summary
from sandbox.joining.rows import read
from sandbox.plan import Component, Factor, Key
from sandbox.query import Joined

DATASET = DataSet(
    "general-2",
    ("research",),
    {
        "person": Column("identifier"),
        "test": Column("category", categories=("hdl", "glucose")),
        "fasting": Column("boolean", nullable=True),
        "value": Column("real", bounds=(-10, 100), nullable=True),
        "visit": Column("integer", bounds=(-5, 9)),
    },
    unit="person",
    rows_per_unit=9,
    max_rows=1000,
    join=Join(
        ("other.t",),
        {
            "n": Summary("count"),
            "fasted": Summary("any", where={"fasting": True}),
            "hdl": Summary("mean", "value", {"test": "hdl"}),
            "total": Summary("sum", "visit", {"test": "hdl", "fasting": False}),
            "first": Summary("min", "visit"),
            "largest": Summary("max", "value"),
        },
    ),
)


def frame(rows: int = 120) -> pd.DataFrame:
    random = np.random.default_rng(4)
    return pd.DataFrame(
        {
            "person": [f"p{i}" for i in random.integers(0, 40, rows)],
            "test": random.choice(["hdl", "glucose"], rows),
            "fasting": pd.array(
                random.choice(np.array([True, False, None], dtype=object), rows), dtype="boolean"
            ),
            "value": np.where(random.random(rows) < 0.2, np.nan, random.uniform(-10, 100, rows)),
            "visit": random.integers(-5, 10, rows),
        }
    )


def expected(rows: pd.DataFrame) -> pd.DataFrame:
    by = rows.groupby("person")
    hdl = rows[rows.test == "hdl"]
    chosen = hdl[(hdl.fasting == False).fillna(False)]  # noqa: E712
    return pd.DataFrame(
        {
            "n": by.size(),
            "fasted": rows.fasting.fillna(False).groupby(rows.person).any(),
            "hdl": hdl.groupby("person").value.mean(),
            "total": chosen.groupby("person").visit.sum(),
            "first": by.visit.min(),
            "largest": by.value.max(),
        }
    ).fillna({"total": 0})


def word(name: str, exponent: int = 0, *, grid: int = 0) -> split.Word:
    term, whole = col(name).node, exponent == 0
    size = 128.0
    component = Component(
        factors=(Factor(term, 0.0, size, whole),),
        bound=int(size * 2**exponent),
        exponent=exponent,
        whole=whole,
    )
    if name in ("hdl", "largest"):
        component = msgspec.structs.replace(component, requires=(term,))
    return split.Word(component, grid=grid)


@pytest.mark.parametrize("database", ["duckdb", "postgres"])
def test_a_view_gives_each_person_one_row(database, request):
    rows, dataset = frame(), DATASET
    if database == "postgres":
        source = request.getfixturevalue("server").put(rows, DATASET)
        dataset = msgspec.structs.replace(DATASET, source=source)
        engine = Engine("t", dataset)
    else:
        engine = Engine("t", dataset, rows)
    bands = col("first").cut([0, 3])
    key = Key("band", bands.node, ("< 0", "0 to < 3", ">= 3"))
    local = split.Local(
        where=((col("n") >= 2).node,),
        present=(col("hdl").node,),
        marks=(
            split.Mark(conditions=((col("fasted") == True).node,)),  # noqa: E712
            split.Mark(present=(col("largest").node,), keys=((key, 1),)),
        ),
        words=(word("n"), word("total"), word("first"), word("hdl", 40), word("largest", grid=1 << 10)),
    )
    found = read(engine, local, bounded=False)
    truth = expected(rows).loc[np.ma.getdata(found.identifiers).tolist()]
    assert len(truth) == rows.person.nunique()
    assert found.nobody.tolist() == ((truth.n < 2) | truth.hdl.isna()).tolist()
    assert found.flags[:, 0].tolist() == truth.fasted.tolist()
    assert found.flags[:, 1].tolist() == (truth["first"].between(0, 2) & truth.largest.notna()).tolist()
    assert found.words[:, :3].T.tolist() == [
        truth[name].astype(int).tolist() for name in ("n", "total", "first")
    ]
    assert np.allclose(found.words[:, 3] / 2**40, truth.hdl.fillna(0), rtol=0, atol=2.0**-38)
    assert found.words[:, 4].tolist() == np.rint(np.rint(truth.largest.fillna(0)) * 8).astype(int).tolist()


def test_a_view_has_the_bounds_that_follow_from_those_declared():
    columns = wide.person_schema(DATASET.schema(), DATASET.join).columns
    told = {name: (column.type, column.bounds, column.nullable) for name, column in columns.items()}
    assert told == {
        "person": ("identifier", None, False),
        "n": ("integer", (0.0, 9.0), False),
        "fasted": ("boolean", None, False),
        "hdl": ("real", (-10.0, 100.0), True),
        "total": ("integer", (-45.0, 81.0), False),
        "first": ("integer", (-5.0, 9.0), False),
        "largest": ("real", (-10.0, 100.0), True),
    }


def test_schemas_that_do_not_fit_are_no_table():
    own = wide.person_schema(DATASET.schema(), DATASET.join)
    joined = Joined(("a.t", "b.t"), "person")
    assert wide.wide(joined, (own, own)).sources["b.n"] == ("b", "n")
    for changed, reason in (
        (Joined(("a.t", "b"), "person"), "'b' must be of the form"),
        (Joined(("a.t", "a.u"), "person"), "must be of another department"),
        (Joined(("a.t", "b.t"), "n"), "a.t is matched on 'person', not on 'n'"),
    ):
        with pytest.raises(QueryError, match=reason):
            wide.wide(changed, (own, own))
    with pytest.raises(QueryError, match="one schema of each table"):
        wide.wide(joined, (own,))
    with pytest.raises(QueryError, match="matched by the row"):
        wide.wide(joined, (own, msgspec.structs.replace(own, unit=None)))
