"""Every statistic once, over 3 x 10^5 rows at three departments, beside pandas or SciPy on the pooled rows.

What `joint` does not show: quantiles (a histogram a cell), matrices, and tests, whose p-values under DP come from a simulation of the noise.
Wall clock of one whole release, from the query to the frame, with all departments in this process.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from federated.local import open_city
from sandbox import col, count
from sandbox.catalog import Budget, Catalog, Column, DataSet
from sandbox.table import JointTable

ROWS = 100_000
DEPARTMENTS = ("a", "b", "c")
REGIONS = tuple(f"r{i:02}" for i in range(20))
RUNS = 5
COLUMNS = {
    "region": Column("category", categories=REGIONS),
    "sex": Column("category", categories=("female", "male")),
    "age": Column("integer", (0, 100)),
    "income": Column("real", (0, 200_000), nullable=True),
}


def run() -> list[dict[str, Any]]:
    frames = {name: _rows(seed) for seed, name in enumerate(DEPARTMENTS)}
    dataset = DataSet("general-2", ("benchmark",), COLUMNS, max_rows=2 * ROWS, budget=Budget(100, 1e-6))
    city = open_city(
        {name: Catalog(name, {"people": dataset}) for name in frames},
        {name: {"people": frame} for name, frame in frames.items()},
    )
    pooled = pd.concat(frames.values(), ignore_index=True)
    records = []
    for name, (query, oracle) in _questions(city.table("people"), pooled).items():
        calls: dict[str, Callable[[], object]] = {
            "pooled": oracle,
            "joint, exact": lambda query=query: query.release(purpose="benchmark"),
            "joint, epsilon 0.5": lambda query=query: query.release(purpose="benchmark", epsilon=0.5),
        }
        samples = {call: _seconds(function) for call, function in calls.items()}
        base = statistics.median(samples["pooled"])
        for call, values in samples.items():
            value = statistics.median(values)
            records.append(
                {
                    "suite": "statistics",
                    "name": f"{name}: {call}",
                    "parameters": {"rows": len(pooled), "departments": len(frames)},
                    "samples": values,
                    "value": value,
                    "unit": "s",
                    "ratio": None if call == "pooled" else value / base,
                    "ratio_to": None if call == "pooled" else "pandas and SciPy, pooled",
                }
            )
    return records


def _questions(people: JointTable, pooled: pd.DataFrame) -> dict[str, tuple[Any, Callable[[], object]]]:
    """Each statistic as ours, and as the one on the pooled rows."""
    income, bands = col("income"), [0, 18, 30, 45, 65, 101]

    def grouped(key: str) -> Any:  # anew each time: pandas remembers the groups
        return pooled.groupby(key)["income"]

    def samples(key: str) -> list[Any]:
        return [values.dropna() for _, values in grouped(key)]

    return {
        "mean and variance by region": (
            people.group_by("region").agg(count(), income.mean(), income.var()),
            lambda: grouped("region").agg(["size", "mean", "var"]),
        ),
        "three quantiles": (
            people.agg(*(income.quantile(q) for q in (0.25, 0.5, 0.75))),
            lambda: pooled["income"].quantile([0.25, 0.5, 0.75]),
        ),
        "median by region": (
            people.group_by("region").agg(income.median()),
            lambda: grouped("region").median(),
        ),
        "histogram": (
            people.histogram("age", bands[1:-1]),
            lambda: np.histogram(pooled["age"], bands),
        ),
        "correlation matrix": (
            people.corr(["age", "income"]),
            lambda: pooled[["age", "income"]].corr(),
        ),
        "cross-tab with chi-squared": (
            people.crosstab("region", "sex"),
            lambda: stats.chi2_contingency(pd.crosstab(pooled["region"], pooled["sex"]), correction=False),
        ),
        "Welch t-test": (
            people.ttest("income", "sex"),
            lambda: stats.ttest_ind(*samples("sex"), equal_var=False),
        ),
        "one-way ANOVA": (
            people.anova("income", "region"),
            lambda: stats.f_oneway(*samples("region")),
        ),
    }


def _seconds(call: Callable[[], object]) -> list[float]:
    call()
    samples = []
    for _ in range(RUNS):
        started = time.perf_counter()
        call()
        samples.append(time.perf_counter() - started)
    return samples


def _rows(seed: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    income = generator.lognormal(10, 0.6, ROWS).clip(0, 200_000)
    income[generator.random(ROWS) < 0.05] = np.nan
    return pd.DataFrame(
        {
            "region": generator.choice(np.array(REGIONS, dtype=object), ROWS),
            "sex": generator.choice(np.array(["female", "male"], dtype=object), ROWS),
            "age": generator.integers(0, 101, ROWS),
            "income": income,
        }
    )
