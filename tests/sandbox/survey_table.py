"""A survey in a table of PostgreSQL, and what the tests ask of it."""

from __future__ import annotations

import msgspec
import numpy as np
import pandas as pd
from sqlglot import exp

from sandbox import col, corr, count, plan, syntax
from sandbox.backend import TABLE
from sandbox.catalog import Column, DataSet
from sandbox.engine import Engine
from sandbox.table import JointTable

T = JointTable(None, "t")
COLUMNS = {
    "sex": Column("category", categories=("f", "m"), nullable=True),
    "age": Column("integer", (0, 120), clip=True),
    "income": Column("real", (0, 1e6), nullable=True),
    "who": Column("identifier"),
}
DATASET = DataSet("general-2", ("p",), COLUMNS, unit="who", rows_per_unit=1, max_rows=10_000)
QUERY = T.group_by("sex").agg(count(), col("income").var(), corr("age", "income"), col("age").median()).query

NUMBER = exp.select(syntax.named(exp.Count(this=exp.Star()), "n")).from_(syntax.table(TABLE))


def people(rows=300, seed=3):
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "sex": random.choice(np.array(["f", "m", None], object), rows),
            "age": random.integers(0, 140, rows),
            "income": np.where(random.random(rows) < 0.3, np.nan, random.random(rows) * 1e6),
            "who": [f"p{i}" for i in range(rows)],
        }
    )


def opened(source, dataset=DATASET, **changes):
    return Engine("survey", msgspec.structs.replace(dataset, source=source, **changes))


def ask(engine, query=QUERY, exact=True):
    found = engine.sums(plan.compile(query, engine.dataset.schema(), exact=exact), bounded=not exact)
    return [total.tolist() for total in (*found.components, *found.leaves)]


def table_of(engine):
    return engine.dataset.source.table
