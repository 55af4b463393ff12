"""Exact joint fits at three departments beside scikit-learn and XGBoost on the pooled rows, in memory, on the same cores.

Ours is the numerical part of a fit: every department's sums of every round, encoded, added modulo 2^64 and decoded; one department after the other,
so that three share the cores that the pooled fit has to itself. Reading the rows from the database, once a version of the data, is a
figure of its own. Runs of ours and of the peer alternate.
"""

from __future__ import annotations

import itertools
import secrets
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import xgboost
from sklearn.linear_model import LinearRegression, LogisticRegression

from federated.learn import estimators
from federated.learn.private.learner import run as run_private
from federated.learn.running import run as run_exact
from sandbox import fit as f
from sandbox import query as q
from sandbox.catalog import Column, DataSet, Schema
from sandbox.design_matrix import Rows, design, read
from sandbox.engine import Engine

COLUMNS = 30
LARGE, MIDDLE = 3_000_000, 300_000
RUNS = 3
DEPARTMENTS = 3
TREES, DEPTH = 100, 6
TOLERANCE = 1e-6
FEATURES = tuple(q.Derived(f"x{j}", q.Column(f"x{j}")) for j in range(COLUMNS))
DECLARED = {f"x{j}": Column("real", (-6.0, 6.0)) for j in range(COLUMNS)}
SCHEMA = Schema(DECLARED | {"y": Column("boolean"), "z": Column("real", (-60.0, 60.0))}, max_rows=2**22)


def run() -> list[dict[str, Any]]:
    return [*_linear(), *_boosting(), _reading()]


def _linear() -> list[dict[str, Any]]:
    matrix, target, label = _rows(LARGE)
    logistic, least = request(f.LogisticRegression(tol=TOLERANCE), "y"), request(f.LinearRegression(), "z")
    records = []
    for name, fit, values, pooled, times in (
        (
            "logistic regression",
            logistic,
            label,
            lambda: LogisticRegression(tol=TOLERANCE, max_iter=1000).fit(matrix, label),
            3.0,
        ),
        ("least squares", least, target, lambda: LinearRegression().fit(matrix, target), None),
    ):
        parts = _parts(matrix, values)
        calls = {"pooled": pooled, "joint, exact": lambda fit=fit, parts=parts: exact(fit, parts)}
        if fit is logistic:
            calls["joint, epsilon 1, 6 rounds"] = lambda parts=parts: private(logistic, parts)
        records += _records(name, LARGE, "scikit-learn, pooled", calls, times)
    return records


def _boosting() -> list[dict[str, Any]]:
    matrix, _, label = _rows(MIDDLE)
    wanted = f.HistGradientBoostingClassifier(
        max_iter=TREES, max_depth=DEPTH, min_samples_leaf=1, max_bins=255
    )
    parts, fit = _parts(matrix, label), request(wanted, "y")
    parameters = {
        "objective": "binary:logistic",
        "tree_method": "hist",
        "max_depth": DEPTH,
        "eta": 0.1,
        "max_bin": 256,
    }
    singles = matrix.astype(np.float32)

    def pooled() -> object:
        return xgboost.train(parameters, xgboost.QuantileDMatrix(singles, label, max_bin=256), TREES)

    def joint() -> object:
        for rows in parts:
            rows.kept.clear()  # bins and margins are worked out anew
        return exact(fit, parts)

    calls = {"pooled": pooled, "joint, exact": joint}
    return _records(f"boosting, {TREES} trees of depth {DEPTH}", MIDDLE, "XGBoost hist, pooled", calls, 10.0)


def _reading() -> dict[str, Any]:
    matrix, target, label = _rows(LARGE // DEPARTMENTS)
    frame = pd.DataFrame(matrix, columns=list(DECLARED)).assign(y=label > 0, z=target)
    source = Engine("t", DataSet("general-1", ("benchmark",), SCHEMA.columns, max_rows=2**22), frame)
    wanted = design(request(f.LogisticRegression(), "y"), SCHEMA)
    source.version()
    samples = []
    for _ in range(RUNS):
        started = time.perf_counter()
        read(source, wanted, bounded=False)
        samples.append(time.perf_counter() - started)
    return _record("reading a department's rows from the database", LARGE // DEPARTMENTS, samples)


def request(estimator: f.Estimator, target: str) -> f.Fit:
    return f.Fit("t", estimator, FEATURES, q.Derived(target, q.Column(target)))


def exact(fit: f.Fit, parts: list[Rows]) -> Any:
    """The exact fit over departments' rows."""
    learner = estimators.exact(fit, SCHEMA, DEPARTMENTS)

    def secure_sum(state: Any, words: int) -> Any:
        layout, total = learner.layout(state), np.zeros(words, np.uint64)
        for rows in parts:
            total += layout.encode(learner.local(state, rows), DEPARTMENTS)
        return total

    return run_exact(learner, secure_sum)


def private(fit: f.Fit, parts: list[Rows]) -> Any:
    """The private fit over departments' rows."""
    learner = estimators.private(fit, SCHEMA, DEPARTMENTS, epsilon=1.0, delta=1e-6, honest=2)

    def secure_sum(state: Any, words: int) -> Any:
        total = np.zeros(words, np.uint64)
        for rows in parts:
            total += learner.encode(state, rows, secrets.token_bytes)
        return total, DEPARTMENTS

    return run_private(learner, secure_sum, 1e-6)


def _parts(matrix: Any, values: Any) -> list[Rows]:
    cuts = np.linspace(0, len(matrix), DEPARTMENTS + 1).astype(int)
    return [Rows(np.asfortranarray(matrix[a:b]), values[a:b]) for a, b in itertools.pairwise(cuts)]


def _rows(size: int) -> tuple[Any, Any, Any]:
    """Columns, a real target and a class."""
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(size, COLUMNS)).clip(-6, 6)
    predictor = matrix @ (generator.normal(size=COLUMNS) / 3)
    label = (generator.random(size) < 1 / (1 + np.exp(-predictor - matrix[:, 0] * matrix[:, 1]))).astype(
        float
    )
    return matrix, (predictor + generator.normal(size=size)).clip(-60, 60), label


def _records(
    name: str, rows: int, peer: str, calls: dict[str, Callable[[], object]], times: float | None
) -> list[dict[str, Any]]:
    samples: dict[str, list[float]] = {call: [] for call in calls}
    for _ in range(RUNS):
        for call, function in calls.items():
            started = time.perf_counter()
            function()
            samples[call].append(time.perf_counter() - started)
    base = statistics.median(samples["pooled"])
    records = []
    for call, values in samples.items():
        record = _record(f"{name}: {call}", rows, values)
        if call != "pooled":
            record |= {"ratio": record["value"] / base, "ratio_to": peer}
            if times is not None and call == "joint, exact":
                record["target"] = times * base
        records.append(record)
    return records


def _record(name: str, rows: int, samples: list[float]) -> dict[str, Any]:
    return {
        "suite": "learning",
        "name": name,
        "parameters": {"rows": rows, "columns": COLUMNS, "departments": DEPARTMENTS},
        "samples": samples,
        "value": statistics.median(samples),
        "unit": "s",
    }
