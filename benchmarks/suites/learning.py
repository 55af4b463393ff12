"""Exact joint fits at three departments beside scikit-learn and XGBoost on the pooled rows, in memory, both on one thread.

Ours is the numerical part of a fit: every department's sums of every round, encoded, added modulo 2^64 and decoded; one department after the
other, so that three share the core that the pooled fit has to itself. Reading the rows from the database, once a version of the data, is a
figure of its own. A fit cannot do without reading its matrix once a round, and a Newton step not without the matrix of cross-products;
a tree not without reading a byte of each row and column for each of its levels.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xgboost
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import log_loss

from benchmarks.harness import Measure, Sizes, sweep
from federated.learn import estimators
from federated.learn.private.learner import run as run_private
from federated.learn.running import run as run_exact
from sandbox import fit as f
from sandbox import query as q
from sandbox.catalog import Column, DataSet, Schema
from sandbox.design_matrix import Rows, design, read
from sandbox.engine import Engine

COLUMNS, DEPARTMENTS = 30, 3
TREES, DEPTH = Sizes(quick=(5,), default=(100,)), 6
LARGE = Sizes(quick=(100_000,), default=(3_000_000,), full=(30_000, 300_000, 3_000_000))
MIDDLE = Sizes(quick=(30_000,), default=(300_000,))
TOLERANCE = 1e-6
FEATURES = tuple(q.Derived(f"x{j}", q.Column(f"x{j}")) for j in range(COLUMNS))
DECLARED = {f"x{j}": Column("real", (-6.0, 6.0)) for j in range(COLUMNS)}
SCHEMA = Schema(DECLARED | {"y": Column("boolean"), "z": Column("real", (-60.0, 60.0))}, max_rows=2**22)
OURS = "three departments' sums of each round; encoded, added, decoded"
POOLED = "sees all rows"


class Pool:
    """A matrix, a real target and a class; pooled and by department."""

    def __init__(self, rows: int) -> None:
        generator = np.random.default_rng(0)
        self.matrix = generator.normal(size=(rows, COLUMNS)).clip(-6, 6)
        predictor = self.matrix @ (generator.normal(size=COLUMNS) / 3)
        odds = np.exp(-predictor - self.matrix[:, 0] * self.matrix[:, 1])
        self.label = (generator.random(rows) < 1 / (1 + odds)).astype(float)
        self.target = (predictor + generator.normal(size=rows)).clip(-60, 60)

    def parts(self, values: Any) -> list[Rows]:
        cuts = np.linspace(0, len(self.matrix), DEPARTMENTS + 1).astype(int)
        return [Rows(np.asfortranarray(self.matrix[a:b]), values[a:b]) for a, b in itertools.pairwise(cuts)]


_pools: dict[int, Pool] = {}


def _pool(rows: int) -> Pool:
    """Made once a size; the last one alone is kept."""
    if rows not in _pools:
        _pools.clear()
        _pools[rows] = Pool(rows)
    return _pools[rows]


_references: dict[tuple[str, int], Any] = {}  # what was fitted to the pooled rows, last


class Fitted(NamedTuple):
    """A joint model, how many sums it took, and words that a department sent for them."""

    model: Any
    rounds: int
    words: int


def _pooled(measure: Measure, call: Callable[[], Any], rows: int) -> None:
    """On the pooled rows; kept for the joint one to be compared with."""
    _references[measure.entry["task"], rows] = measure(call, rounds=3, warm=measure.quick)
    measure.note(work=rows, unit="rows")


def _joint(measure: Measure, call: Callable[[], Fitted], rows: int, rounds: int = 3) -> Fitted:
    fitted: Fitted = measure(call, rounds=rounds, warm=measure.quick)
    measure.note(work=rows, unit="rows", rounds=fitted.rounds, sent={"a department": 8.0 * fitted.words})
    return fitted


def _linear(measure: Measure, fitted: Fitted, pool: Pool, tolerance: float) -> None:
    """Beside scikit-learn's coefficients; what Newton's steps, or the normal equations, cannot do without."""
    rows, task = len(pool.matrix), measure.entry["task"]
    exact = _references[task, rows].coef_.ravel()
    error = float(np.abs(fitted.model.to_sklearn().coef_.ravel() - exact).max() / np.abs(exact).max())
    if not error <= tolerance:
        raise AssertionError(f"coefficients are off by {error:.1e} of the largest")
    measure.note(error=error, error_is="largest, of a coefficient, over the largest; beside scikit-learn")
    products = {"matrix product": float(fitted.rounds * rows * COLUMNS**2)}
    measure.note(demands={"memory read": 8.0 * fitted.rounds * rows * COLUMNS} | products)


def _deviance(measure: Measure, found: Any, reference: Any, labels: Any, tolerance: float) -> None:
    """The logarithmic loss beside that of the pooled model, on the rows of the fit."""
    losses = [log_loss(labels, probabilities) for probabilities in (found, reference)]
    error = abs(losses[0] / losses[1] - 1)
    if not error <= tolerance:
        raise AssertionError(f"the logarithmic loss is off by {error:.1e}")
    measure.note(error=error, error_is="relative, of the logarithmic loss; beside the pooled model")


@sweep(rows=LARGE)
def bench_logistic_pooled(measure: Measure, rows: int) -> None:
    pool = _pool(rows)
    measure.task("logistic regression", "scikit-learn, pooled", POOLED, rows=rows, columns=COLUMNS)
    _pooled(
        measure, lambda: LogisticRegression(tol=TOLERANCE, max_iter=1000).fit(pool.matrix, pool.label), rows
    )


@sweep(rows=LARGE)
def bench_logistic(measure: Measure, rows: int) -> None:
    pool, wanted = _pool(rows), request(f.LogisticRegression(tol=TOLERANCE), "y")
    parts = pool.parts(pool.label)
    measure.task("logistic regression", conditions=OURS, rows=rows, columns=COLUMNS)
    _linear(measure, _joint(measure, lambda: exact(wanted, parts), rows), pool, 1e-3)


@sweep(rows=LARGE)
def bench_logistic_private(measure: Measure, rows: int) -> None:
    pool, wanted = _pool(rows), request(f.LogisticRegression(tol=TOLERANCE), "y")
    parts = pool.parts(pool.label)
    measure.task(
        "logistic regression, epsilon 1, 6 rounds",
        conditions="differential privacy",
        rows=rows,
        columns=COLUMNS,
    )
    fitted = _joint(measure, lambda: private(wanted, parts), rows)
    reference = _references["logistic regression", rows].predict_proba(pool.matrix)[:, 1]
    _deviance(measure, fitted.model.predict(pool.matrix), reference, pool.label, 1.0)
    measure.note(demands={"memory read": 8.0 * fitted.rounds * rows * COLUMNS})


@sweep(rows=LARGE)
def bench_least_squares_pooled(measure: Measure, rows: int) -> None:
    pool = _pool(rows)
    measure.task("least squares", "scikit-learn, pooled", POOLED, rows=rows, columns=COLUMNS)
    _pooled(measure, lambda: LinearRegression().fit(pool.matrix, pool.target), rows)


@sweep(rows=LARGE)
def bench_least_squares(measure: Measure, rows: int) -> None:
    pool, wanted = _pool(rows), request(f.LinearRegression(), "z")
    parts = pool.parts(pool.target)
    measure.task("least squares", conditions=OURS, rows=rows, columns=COLUMNS)
    _linear(measure, _joint(measure, lambda: exact(wanted, parts), rows), pool, 1e-6)


@sweep(rows=MIDDLE, trees=TREES)
def bench_boosting_pooled(measure: Measure, rows: int, trees: int) -> None:
    pool = _pool(rows)
    singles = pool.matrix.astype(np.float32)
    parameters = {
        "objective": "binary:logistic",
        "tree_method": "hist",
        "max_depth": DEPTH,
        "eta": 0.1,
        "max_bin": 256,
    }

    def fit() -> object:
        return xgboost.train(parameters, xgboost.QuantileDMatrix(singles, pool.label, max_bin=256), trees)

    measure.task("boosting", "XGBoost hist, pooled", POOLED, rows=rows, columns=COLUMNS, trees=trees)
    _pooled(measure, fit, rows)


@sweep(rows=MIDDLE, trees=TREES)
def bench_boosting(measure: Measure, rows: int, trees: int) -> None:
    pool = _pool(rows)
    wanted = request(
        f.HistGradientBoostingClassifier(max_iter=trees, max_depth=DEPTH, min_samples_leaf=1, max_bins=255),
        "y",
    )
    parts = pool.parts(pool.label)

    def fit() -> Fitted:
        for rows in parts:
            rows.kept.clear()  # bins and margins are worked out anew
        return exact(wanted, parts)

    measure.task("boosting", conditions=OURS, rows=rows, columns=COLUMNS, trees=trees)
    fitted = _joint(measure, fit, rows, rounds=2)
    reference = _references["boosting", rows].predict(xgboost.DMatrix(pool.matrix.astype(np.float32)))
    _deviance(measure, fitted.model.predict(pool.matrix), reference, pool.label, 0.02)
    measure.note(demands={"memory read": float(trees * DEPTH * rows * COLUMNS)})


@sweep(rows=Sizes(quick=(30_000,), default=(1_000_000,)))
def bench_reading(measure: Measure, rows: int) -> None:
    pool = _pool(rows)
    frame = pd.DataFrame(pool.matrix, columns=list(DECLARED)).assign(y=pool.label > 0, z=pool.target)
    dataset = DataSet("general-1", ("benchmark",), SCHEMA.columns, max_rows=2**22)
    source, wanted = Engine("t", dataset, frame), design(request(f.LogisticRegression(), "y"), SCHEMA)
    source.version()
    measure.task("reading a department's rows from its database", rows=rows, columns=COLUMNS)
    measure(lambda: read(source, wanted, bounded=False), rounds=3, warm=measure.quick)
    measure.note(work=rows, unit="rows", demands={"memory copy": 16.0 * rows * COLUMNS})


def request(estimator: f.Estimator, target: str) -> f.Fit:
    return f.Fit("t", estimator, FEATURES, q.Derived(target, q.Column(target)))


def exact(fit: f.Fit, parts: list[Rows]) -> Fitted:
    """The exact fit over departments' rows."""
    learner, sums = estimators.exact(fit, SCHEMA, DEPARTMENTS), []

    def secure_sum(state: Any, words: int) -> Any:
        sums.append(words)
        layout, total = learner.layout(state), np.zeros(words, np.uint64)
        for rows in parts:
            total += layout.encode(learner.local(state, rows), DEPARTMENTS)
        return total

    return Fitted(run_exact(learner, secure_sum), len(sums), sum(sums))


def private(fit: f.Fit, parts: list[Rows]) -> Fitted:
    """The private fit over departments' rows."""
    learner, sums = estimators.private(fit, SCHEMA, DEPARTMENTS, epsilon=1.0, delta=1e-6, honest=2), []

    def secure_sum(state: Any, words: int) -> Any:
        sums.append(words)
        total = np.zeros(words, np.uint64)
        for rows in parts:
            total += learner.encode(state, rows, secrets.token_bytes)
        return total, DEPARTMENTS

    return Fitted(run_private(learner, secure_sum, 1e-6), len(sums), sum(sums))
