"""A joint group-by with five aggregates over 3 x 10^6 rows at three departments, beside DuckDB on the pooled rows.

The same statistics over the same rows; ours also decides, masks, serialises and unmasks. Both use all cores.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from federated.local import open_city
from sandbox import col, count
from sandbox.catalog import Budget, Catalog, Column, DataSet

ROWS = 1_000_000
DEPARTMENTS = ("a", "b", "c")
REGIONS = tuple(f"r{i}" for i in range(20))
RUNS = 7
SQL = "SELECT region, COUNT(*), AVG(x), SUM(x), AVG(y), VAR_SAMP(y) FROM pooled GROUP BY region"


def run() -> list[dict[str, Any]]:
    frames = {name: _rows(seed) for seed, name in enumerate(DEPARTMENTS)}
    columns = {
        "region": Column("category", categories=REGIONS),
        "x": Column("integer", (0, 1000)),
        "y": Column("real", (0, 100)),
    }
    datasets = {
        table: DataSet(level, ("benchmark",), columns, max_rows=2 * ROWS, budget=Budget(100, 1e-6))
        for table, level in (("open", "general-1"), ("controlled", "general-2"))
    }
    city = open_city(
        {name: Catalog(name, datasets) for name in frames},
        {name: dict.fromkeys(datasets, frame) for name, frame in frames.items()},
    )
    queries = {
        table: city.table(table)
        .group_by("region")
        .agg(count(), col("x").mean(), col("x").sum(), col("y").mean(), col("y").var())
        for table in datasets
    }
    connection = duckdb.connect()
    connection.register("rows", pd.concat(frames.values()))
    connection.execute("CREATE TABLE pooled AS SELECT * FROM rows")

    def pooled() -> object:
        return connection.execute(SQL).fetchall()

    calls: dict[str, Callable[[], object]] = {
        "DuckDB, pooled": pooled,
        "joint, exact, open data": lambda: queries["open"].release(purpose="benchmark"),
        "joint, exact, compared with earlier releases": lambda: queries["controlled"].release(
            purpose="benchmark"
        ),
        "joint, epsilon 1": lambda: queries["controlled"].release(purpose="benchmark", epsilon=1.0),
    }
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(RUNS):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            samples[name].append(time.perf_counter() - started)
    base = statistics.median(samples["DuckDB, pooled"])
    return [
        {
            "suite": "joint",
            "name": f"group-by, five aggregates: {name}",
            "parameters": {"rows": ROWS * len(frames), "departments": len(frames), "cells": len(REGIONS)},
            "samples": values,
            "value": statistics.median(values),
            "unit": "s",
            "ratio": statistics.median(values) / base,
            "target": None if name == "DuckDB, pooled" else 1.5 * base + 0.1,
        }
        for name, values in samples.items()
    ]


def _rows(seed: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "region": generator.choice(np.array(REGIONS, dtype=object), ROWS),
            "x": generator.integers(0, 1000, ROWS),
            "y": generator.normal(50, 10, ROWS).clip(0, 100),
        }
    )
