"""From a cold import to a release: a joint group-by over 3 x 10^6 rows beside DuckDB, and each statistic beside pandas or SciPy.

Three departments in this process, wall clock of whole releases: decide, charge, compare with earlier releases, compute, mask, serialise,
unmask, sign. DuckDB, pandas and SciPy work on the pooled rows, which our departments never pool. DuckDB uses all cores, ours through
it, too; BLAS has one thread. `open` rows
(general-1) are added alone; `controlled` ones (general-2) also pass disclosure control, which keeps each released cell's rows.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.harness import Measure, Sizes, sweep
from federated.local import open_city
from sandbox import col, count
from sandbox.catalog import Budget, Catalog, Column, DataSet
from sandbox.table import JointTable

DEPARTMENTS = ("a", "b", "c")
REGIONS = tuple(f"r{i:02}" for i in range(20))
SQL = (
    "SELECT region, COUNT(*), AVG(x), SUM(x), AVG(y), VAR_SAMP(y) FROM pooled GROUP BY region ORDER BY region"
)
HEAVY = ("torch", "flwr", "tenseal", "opacus", "opendp", "pandas", "matplotlib")
POOLED = "sees all rows"
COLUMNS = {
    "region": Column("category", categories=REGIONS),
    "sex": Column("category", categories=("female", "male")),
    "x": Column("integer", (0, 1000)),
    "y": Column("real", (0, 100)),
    "age": Column("integer", (0, 100)),
    "income": Column("real", (0, 200_000), nullable=True),
}
SMALL, LARGE = (
    Sizes(quick=(30_000,), default=(300_000,)),
    Sizes(quick=(300_000,), default=(3_000_000,), full=(30_000, 300_000, 3_000_000)),
)


@pytest.mark.parametrize("code", ["pass", "import numpy", "import sandbox"])
def bench_import(measure: Measure, code: str) -> None:
    """Fresh processes, from the call to the exit."""
    measure.task("cold import", "Python" if code != "import sandbox" else "", code=code)
    measure(
        lambda: subprocess.run([sys.executable, "-c", code], check=True), rounds=5 if measure.quick else 9
    )
    loaded = f"{code}\nimport sys; print(sum(m in sys.modules for m in {HEAVY!r}))"
    said = subprocess.run([sys.executable, "-c", loaded], check=True, capture_output=True, text=True).stdout
    measure.note(figures={"heavy libraries loaded": int(said)})


class Pool:
    """The same rows at three departments and pooled."""

    def __init__(self, rows: int) -> None:
        frames = {name: _rows(seed, rows // len(DEPARTMENTS)) for seed, name in enumerate(DEPARTMENTS)}
        self.rows = rows
        self.pooled = pd.concat(frames.values(), ignore_index=True)
        datasets = {
            name: DataSet(level, ("benchmark",), COLUMNS, max_rows=rows, budget=Budget(100, 1e-6))
            for name, level in (("open", "general-1"), ("controlled", "general-2"))
        }
        self.city = open_city(
            {name: Catalog(name, datasets) for name in frames},
            {name: dict.fromkeys(datasets, frame) for name, frame in frames.items()},
        )


_pools: dict[int, Pool] = {}


def _pool(rows: int) -> Pool:
    """Made once a size; the last one alone is kept."""
    if rows not in _pools:
        _pools.clear()
        _pools[rows] = Pool(rows)
    return _pools[rows]


def _rows(seed: int, rows: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    income = generator.lognormal(10, 0.6, rows).clip(0, 200_000)
    income[generator.random(rows) < 0.05] = np.nan
    return pd.DataFrame(
        {
            "region": generator.choice(np.array(REGIONS, dtype=object), rows),
            "sex": generator.choice(np.array(["female", "male"], dtype=object), rows),
            "x": generator.integers(0, 1000, rows),
            "y": generator.normal(50, 10, rows).clip(0, 100),
            "age": generator.integers(0, 101, rows),
            "income": income,
        }
    )


@sweep(rows=LARGE)
def bench_duckdb(measure: Measure, rows: int) -> None:
    measure.task("group-by, five aggregates", "DuckDB, pooled", POOLED, rows=rows, cells=len(REGIONS))
    connection = duckdb.connect()
    connection.register("frame", _pool(rows).pooled)
    connection.execute("CREATE TABLE pooled AS SELECT * FROM frame")
    measure(lambda: connection.execute(SQL).fetchall(), rounds=7)
    measure.note(work=rows, unit="rows")


@sweep(rows=LARGE)
def bench_open(measure: Measure, rows: int) -> None:
    _group_by(measure, "group-by, five aggregates", "open", rows)


@sweep(rows=LARGE)
def bench_controlled(measure: Measure, rows: int) -> None:
    _group_by(measure, "group-by, five aggregates, disclosure control", "controlled", rows)


@sweep(rows=LARGE)
def bench_private(measure: Measure, rows: int) -> None:
    _group_by(measure, "group-by, five aggregates, epsilon 1", "controlled", rows, epsilon=1.0)


def _group_by(measure: Measure, task: str, table: str, rows: int, epsilon: float | None = None) -> None:
    pool = _pool(rows)
    x, y = col("x"), col("y")
    query = pool.city.table(table).group_by("region").agg(count(), x.mean(), x.sum(), y.mean(), y.var())
    measure.task(task, conditions="masked sums of three departments", rows=rows, cells=len(REGIONS))
    release = measure(lambda: query.release(purpose="benchmark", epsilon=epsilon), rounds=5)
    found = release.frame.sort_values("region")["y_mean"].to_numpy(float)
    exact = pool.pooled.groupby("region")["y"].mean().sort_index().to_numpy()
    _told(measure, release, rows)
    measure.note(error=float(np.abs(found / exact - 1).max()), error_is="largest, relative, of a mean")
    measure.note(demands={"memory read": 8.0 * 3 * rows})


def _told(measure: Measure, release: Any, rows: int) -> None:
    """What a release says of its cost."""
    cost = release.cost
    measure.note(work=rows, unit="rows", sent={k: float(v) for k, v in cost.sent.items()}, rounds=cost.rounds)


class Question(NamedTuple):
    """A statistic as ours and on the pooled rows, how to read the numbers of both, and how far apart exact ones may be."""

    query: Any
    oracle: Callable[[], Any]
    ours: Callable[[Any], Any]
    theirs: Callable[[Any], Any]
    tolerance: float = 1e-9

    def error(self, release: Any) -> float:
        """The largest difference, over the largest number. What noise has left undefined does not count."""
        found, exact = (np.asarray(n, float) for n in (self.ours(release), self.theirs(self.oracle())))
        return float(np.nanmax(np.abs(found - exact)) / np.abs(exact).max())


QUANTILE = (
    1e-2  # of the largest: pandas goes between two neighbours of few rows, ours to the middle of a band
)


def _questions(people: JointTable, pooled: pd.DataFrame) -> dict[str, Question]:
    income, bands = col("income"), [0, 18, 30, 45, 65, 101]

    def grouped(key: str) -> Any:  # anew each time: pandas remembers the groups
        return pooled.groupby(key)["income"]

    def samples(key: str) -> list[Any]:
        return [values.dropna() for _, values in grouped(key)]

    def column(name: str) -> Callable[[Any], Any]:
        return lambda release: release.frame[name]

    def statistic(release: Any) -> Any:
        return [release.test.statistic, release.test.p_value]

    return {
        "mean and variance by region": Question(
            people.group_by("region").agg(count(), income.mean(), income.var()),
            lambda: grouped("region").agg(["size", "mean", "var"]),
            lambda release: release.frame.sort_values("region").drop(columns="region"),
            np.asarray,
        ),
        "three quantiles": Question(
            people.agg(*(income.quantile(q) for q in (0.25, 0.5, 0.75))),
            lambda: pooled["income"].quantile([0.25, 0.5, 0.75]),
            lambda release: release.frame.iloc[0],
            np.asarray,
            QUANTILE,
        ),
        "median by region": Question(
            people.group_by("region").agg(income.median()),
            lambda: grouped("region").median(),
            lambda release: release.frame.sort_values("region")["income_median"],
            np.asarray,
            QUANTILE,
        ),
        "histogram": Question(
            people.histogram("age", bands[1:-1]),
            lambda: np.histogram(pooled["age"], bands),
            column("count"),
            lambda found: found[0],
        ),
        "correlation matrix": Question(
            people.corr(["age", "income"]),
            lambda: pooled[["age", "income"]].corr(),
            lambda release: release.frame,
            np.asarray,
        ),
        "cross-tab with chi-squared": Question(
            people.crosstab("region", "sex"),
            lambda: stats.chi2_contingency(pd.crosstab(pooled["region"], pooled["sex"]), correction=False),
            statistic,
            lambda found: found[:2],
        ),
        "Welch t-test": Question(
            people.ttest("income", "sex"),
            lambda: stats.ttest_ind(*samples("sex"), equal_var=False),
            statistic,
            lambda found: found[:2],
        ),
        "one-way ANOVA": Question(
            people.anova("income", "region"),
            lambda: stats.f_oneway(*samples("region")),
            statistic,
            lambda found: found[:2],
        ),
    }


NAMES = (
    "mean and variance by region",
    "three quantiles",
    "median by region",
    "histogram",
    "correlation matrix",
    "cross-tab with chi-squared",
    "Welch t-test",
    "one-way ANOVA",
)


@pytest.mark.parametrize("name", NAMES)
@sweep(rows=SMALL)
def bench_pooled(measure: Measure, name: str, rows: int) -> None:
    pool = _pool(rows)
    question = _questions(pool.city.table("controlled"), pool.pooled)[name]
    measure.task(name, "pandas and SciPy, pooled", POOLED, rows=rows)
    measure(question.oracle, rounds=3)
    measure.note(work=rows, unit="rows")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("epsilon", [None, 0.5])
@sweep(rows=SMALL)
def bench_statistic(measure: Measure, name: str, epsilon: float | None, rows: int) -> None:
    pool = _pool(rows)
    question = _questions(pool.city.table("controlled"), pool.pooled)[name]
    privacy = f", epsilon {epsilon}" if epsilon else ""
    measure.task(
        name + privacy,
        conditions="masked sums, disclosure control" if not epsilon else "differential privacy",
        rows=rows,
    )
    release = measure(lambda: question.query.release(purpose="benchmark", epsilon=epsilon), rounds=3)
    _told(measure, release, rows)
    error = question.error(release)
    if epsilon is None and not error <= question.tolerance:
        raise AssertionError(f"{name} is off by {error:.1e} of the largest number")
    measure.note(error=error, error_is="largest difference, over the largest number")
    measure.note(demands={"memory read": 8.0 * rows})
