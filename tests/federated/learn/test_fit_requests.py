"""Requests to fit: decoded strictly, checked against the schema; their rows are those the declaration says, read once a version of the data."""

from __future__ import annotations

import math
import re
import subprocess
import sys

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pooling import column, request

from federated.learn.layout import Layout, real, symmetric, triangle, whole
from mpc.errors import Overflow
from sandbox import design_matrix, disclosure, keys
from sandbox import fit as f
from sandbox import query as q
from sandbox.catalog import Column, DataSet, Schema
from sandbox.design_matrix import Reader, design
from sandbox.engine import Engine
from sandbox.errors import ParameterError, QueryError
from sandbox.members import members
from sandbox.plan import compile as compile_plan

COLUMNS = {
    "who": Column("identifier"),
    "age": Column("integer", (0, 100), clip=True),
    "income": Column("real", (-10.0, 10.0), nullable=True),
    "region": Column("category", categories=("north", "south", "east"), nullable=True),
    "smokes": Column("boolean"),
    "free": Column("real"),
}
SCHEMA = Schema(COLUMNS)
FRAME = pd.DataFrame(
    {
        "who": range(6),
        "age": [10, 20, 30, 40, 50, 160],
        "income": [1.5, None, -2.0, 0.0, 10.0, 3.0],
        "region": ["north", "south", None, "east", "north", "south"],
        "smokes": [True, False, True, False, True, False],
        "free": [0.0] * 6,
    }
)
ESTIMATORS = [
    f.StandardScaler(),
    f.LinearRegression(fit_intercept=False),
    f.LogisticRegression(C=None, tol=1e-9),
    f.PoissonRegressor(alpha=0.5),
    f.PCA(2),
    f.KMeans(2, ((1.0,), (2.0,)), tol=0.0),
    f.GaussianNB(1e-8),
    f.HistGradientBoostingClassifier(max_depth=3),
    f.HistGradientBoostingRegressor(bins="bounds"),
]


def engine(frame=FRAME, **declared):
    return Engine("d", DataSet("general-1", ("p",), COLUMNS, max_rows=100, **declared), frame)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_requests_survive_their_journey(estimator):
    fit = f.Fit(
        "t", estimator, (column("age"),), column("income"), where=q.Compare(">", q.Column("age"), q.Value(3))
    )
    assert q.decode(q.canonical(fit), f.Fit) == fit
    assert len(fit.digest()) == 32


@pytest.mark.parametrize(
    "data",
    [
        b'{"table":"t","estimator":{"node":"pickle"},"features":[]}',
        b'{"table":"t","estimator":{"node":"pca","n_components":0},"features":[]}',
        b'{"table":"t","estimator":{"node":"pca"},"features":[],"code":"import os"}',
        b'{"table":"t","estimator":{"node":"logistic_regression","C":-1},"features":[]}',
    ],
)
def test_hostile_bytes_are_refused(data):
    with pytest.raises(QueryError):
        q.decode(data, f.Fit)


@pytest.mark.parametrize(
    ("fit", "error", "text"),
    [
        (request(f.LinearRegression(), (), "age"), QueryError, "'features' has 0 entries"),
        (request(f.LinearRegression(), ("age", "age"), "income"), QueryError, "differ from each other"),
        (request(f.LinearRegression(), ("free",), "age"), QueryError, "no declared bounds"),
        (request(f.LinearRegression(), ("who",), "age"), QueryError, "identifies units"),
        (request(f.LinearRegression(), ("height",), "age"), QueryError, "unknown column"),
        (request(f.LinearRegression(), ("age",)), QueryError, "needs one"),
        (request(f.PCA(), ("age",), "income"), QueryError, "takes none"),
        (
            request(f.LogisticRegression(), ("age",), "region"),
            QueryError,
            "has 3 declared classes; allowed are 2",
        ),
        (request(f.LogisticRegression(), ("age",), "income"), QueryError, "declared domain"),
        (request(f.PoissonRegressor(), ("age",), "income"), QueryError, "counts need declared bounds from 0"),
        (request(f.LinearRegression(), ("age",), "region"), QueryError, "is text"),
        (
            request(f.LinearRegression(), ("age",), "income", where=q.Column("age")),
            QueryError,
            "a condition is needed",
        ),
        (request(f.LinearRegression(), ("age",), "income", missing="keep"), ParameterError, "'keep'"),
        (request(f.KMeans(2, ((1.0,),)), ("age",)), ParameterError, "'init' has 1 centres"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_spent(fit, error, text):
    with pytest.raises(error, match=text):
        design(fit, SCHEMA)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (lambda: f.KMeans(0), "'n_clusters' of KMeans: Expected `int` >= 1"),
        (lambda: f.KMeans(1, ((math.nan,),)), "'init' of KMeans must be a finite number"),
        (lambda: f.LogisticRegression(C=math.nan), "'C' of LogisticRegression"),
        (
            lambda: f.LogisticRegression(C="1"),
            "'C' of LogisticRegression: Expected `float | null`, got `str`",
        ),
        (lambda: f.LogisticRegression(C=True), "got `bool`"),
        (lambda: f.LogisticRegression(C=-1.0), "'C'"),
        (lambda: f.LogisticRegression(tol=0.5), "'tol'"),
        (lambda: f.PoissonRegressor(max_iter=0), "'max_iter'"),
        (lambda: f.HistGradientBoostingClassifier(max_bins=300), "'max_bins'"),
    ],
)
def test_a_parameter_outside_its_range_is_named_as_it_is_given(made, text):
    with pytest.raises(ParameterError, match=re.escape(text)):
        made()


@pytest.mark.parametrize(
    ("made", "meant"),
    [
        (f.LogisticRegression(C=1), f.LogisticRegression(C=1.0)),
        (
            f.LogisticRegression(C=np.float64(2), max_iter=np.int64(3)),
            f.LogisticRegression(C=2.0, max_iter=3),
        ),
        (f.LinearRegression(fit_intercept=np.bool_(False)), f.LinearRegression(fit_intercept=False)),
        (f.PoissonRegressor(alpha=0), f.PoissonRegressor(alpha=0.0)),
        (f.GaussianNB(var_smoothing=0), f.GaussianNB(var_smoothing=0.0)),
        (
            f.HistGradientBoostingClassifier(learning_rate=1, l2_regularization=0),
            f.HistGradientBoostingClassifier(learning_rate=1.0, l2_regularization=0.0),
        ),
        (f.KMeans(2, init=((10,), (50,))), f.KMeans(2, init=((10.0,), (50.0,)))),
        (f.KMeans(2, init=np.array([[10], [50]])), f.KMeans(2, init=((10.0,), (50.0,)))),
        (f.KMeans(2, init=[np.array([10.0]), [50]]), f.KMeans(2, init=((10.0,), (50.0,)))),
    ],
)
def test_whole_numbers_and_numpys_are_the_numbers_that_they_mean(made, meant):
    asked, wanted = request(made, ("age",), "smokes"), request(meant, ("age",), "smokes")
    assert asked == wanted
    assert asked.digest() == wanted.digest()
    assert keys.decode(q.canonical(asked), f.Fit) == wanted


@pytest.mark.parametrize(
    ("estimator", "missing", "expected", "complete"),
    [
        (f.LinearRegression(), "drop", [[1, 0], [np.nan] * 2, [np.nan] * 2, [3, 1]], [1, 0, 0, 1]),
        (
            f.LinearRegression(),
            "indicator",
            [[1, 0, 0], [0, 1, 1], [np.nan] * 3, [3, 0, 1]],
            [1, 1, 0, 1],
        ),
        (
            f.HistGradientBoostingRegressor(),
            "keep",
            [[1, 0], [np.nan, 1], [np.nan] * 2, [3, 1]],
            [1, 1, 0, 1],
        ),
    ],
)
def test_ones_own_rows_are_all_there_with_the_nulls_that_the_fit_took(estimator, missing, expected, complete):
    fit = request(estimator, ("income", "smokes"), "age", where=q.Column("smokes"), missing=missing)
    frame = pd.DataFrame({"smokes": [False, True, None, True], "income": [1.0, None, 2.0, 3.0]})
    matrix, scored = design_matrix.own(frame, design(fit, SCHEMA), SCHEMA)
    np.testing.assert_array_equal(matrix, expected)
    np.testing.assert_array_equal(scored, np.array(complete, bool))


def test_ones_own_rows_keep_their_order():
    fit = request(f.LinearRegression(), ("age",), "income")
    ages = np.random.default_rng(0).integers(0, 101, 300_000).astype(float)
    ages[::1000] = np.nan
    matrix, complete = design_matrix.own(pd.DataFrame({"age": ages}), design(fit, SCHEMA), SCHEMA)
    np.testing.assert_array_equal(matrix[:, 0], ages)
    np.testing.assert_array_equal(complete, ~np.isnan(ages))


def test_the_matrix_holds_what_is_declared():
    fit = request(f.LinearRegression(), ("age", "income", "region", "smokes"), "age", missing="indicator")
    fit = msgspec.structs.replace(
        fit, target=q.Derived("next", q.Arithmetic("+", q.Column("age"), q.Value(1)))
    )
    wanted = design(fit, SCHEMA)
    assert wanted.names == (
        "age",
        "income",
        "income[null]",
        "region[south]",
        "region[east]",
        "region[null]",
        "smokes",
    )
    rows = Reader().rows(engine(), wanted, bounded=False)
    expected = [
        [10, 1.5, 0, 0, 0, 0, 1],
        [20, 0.0, 1, 1, 0, 0, 0],
        [30, -2.0, 0, 0, 0, 1, 1],
        [40, 0.0, 0, 0, 1, 0, 0],
        [50, 10.0, 0, 0, 0, 0, 1],
        [100, 3.0, 0, 1, 0, 0, 0],  # clipped, as declared
    ]
    np.testing.assert_array_equal(rows.matrix, expected)
    np.testing.assert_array_equal(rows.target, [11, 21, 31, 41, 51, 101])
    assert rows.matrix.flags.f_contiguous
    assert repr(rows) == "<Rows>"


def test_dropped_rows_are_those_that_the_cohort_leaves_out():
    """What the differencing defence compares is what takes part."""
    where = q.Compare("<", q.Column("age"), q.Value(60))
    fit = request(f.LogisticRegression(), ("income", "region"), "smokes", where=where)
    source = engine()
    rows = Reader().rows(source, design(fit, SCHEMA), bounded=False)
    np.testing.assert_array_equal(rows.matrix[:, 0], [1.5, 0.0, 10.0])
    plan = compile_plan(f.cohort(fit, SCHEMA), SCHEMA, exact=True)
    np.testing.assert_array_equal(
        members(source, plan).cells[0] >= 0, [True, False, False, True, True, False]
    )


def test_trees_keep_nulls_and_all_levels():
    fit = request(f.HistGradientBoostingRegressor(), ("income", "region"), "age", missing="keep")
    wanted = design(fit, SCHEMA)
    assert wanted.names == ("income", "region[north]", "region[south]", "region[east]")
    matrix = Reader().rows(engine(), wanted, bounded=False).matrix
    assert np.isnan(matrix[1, 0])
    assert np.isnan(matrix[2, 1:]).all()


def test_rows_are_read_once_a_version(tmp_path):
    path = tmp_path / "rows.parquet"
    FRAME.to_parquet(path)
    source = Engine(
        "d", DataSet("general-1", ("p",), COLUMNS, source=path.name, max_rows=100), directory=tmp_path
    )
    reader, wanted = Reader(), design(request(f.PCA(1), ("age",)), SCHEMA)
    first = reader.rows(source, wanted, bounded=False)
    assert reader.rows(source, wanted, bounded=False) is first
    assert reader.rows(source, wanted, bounded=True) is not first
    FRAME.iloc[:4].to_parquet(path)
    assert len(reader.rows(source, wanted, bounded=False)) == 4


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(design_matrix, "KEPT_BYTES", 100)
    source, reader = engine(), Reader()
    first, second = (design(request(f.PCA(1), names), SCHEMA) for names in (("age",), ("age", "smokes")))
    kept = reader.rows(source, first, bounded=False)
    assert reader.rows(source, second, bounded=False) is reader.rows(source, second, bounded=False)
    assert reader.rows(source, first, bounded=False) is not kept


def test_no_rows_at_all():
    rows = Reader().rows(
        engine(FRAME.iloc[:0]),
        design(request(f.PCA(1), ("age", "region"), missing="drop"), SCHEMA),
        bounded=False,
    )
    assert rows.matrix.shape == (0, 3)


def test_refusals_of_fitted_models():
    rules = disclosure.RULES["general-2"]
    assert f.refusals(rules, 100, 3, 5, {"a": 10}) == ()
    assert f.refusals(rules, 100, 2, 5, {}) == ("fewer than 3 departments contribute",)
    assert f.refusals(rules, 9, 3, 1, {}) == f.refusals(rules, 0, 0, 1, {"a": 0}) == ("fewer than 10 rows",)
    assert f.refusals(rules, 100, 3, 34, {}) == ("fewer than 3 rows for each of 34 parameters",)
    assert f.refusals(rules, 100, 3, 33, {}) == ()
    assert f.refusals(rules, 19, 3, 10, {"a": 9}) == (
        "fewer than 10 residual degrees of freedom",
        "fewer than 3 rows for each of 10 parameters",
        "level a: fewer than 10 rows",
    )
    assert f.refusals(disclosure.NONE, 1, 1, 50, {"a": 1}) == ()


@settings(deadline=None, derandomize=True, database=None)
@given(
    values=st.lists(st.tuples(st.floats(-1, 1), st.floats(-250, 250)), min_size=1, max_size=5),
    rows=st.integers(3, 2**40),
    parties=st.integers(3, 50),
)
def test_real_sums_lose_nothing_beside_the_largest_row(values, rows, parties):
    bounds = np.array([10.0**power for _, power in values])
    layout = Layout((real("r", bounds), whole("n", 2, 7)), rows)
    share = [
        np.array([fraction for fraction, _ in values]) * bounds * (rows / parties) / (i + 1) for i in range(3)
    ]
    total = np.zeros(layout.words(parties), np.uint64)
    for part in share:
        total += layout.encode([part, np.array([7, -3])], parties)
    decoded, counts = layout.decode(total, parties)
    exact = [math.fsum(parts) for parts in zip(*share, strict=True)]
    # One part in 2^52 of the result is its own rounding.
    assert (np.abs(decoded - exact) <= 2.0**-51 * np.abs(exact) + 2.0**-60 * bounds).all()
    assert counts.tolist() == [21, -9]


def test_a_sum_beyond_its_bound_is_refused():
    layout = Layout((whole("n", 1, 2),), 5)
    with pytest.raises(Overflow):
        layout.encode([np.array([11])], 3)
    with pytest.raises(Overflow):
        Layout((real("r", np.array([1.0])),), 5).encode([np.array([np.inf])], 3)


def test_importing_learners_loads_nothing_heavy():
    code = (
        "import sys, federated.learn.estimators, federated.learn.evaluation, federated.learn.contribution, federated.learn.formula\n"
        "print(sorted({'sklearn', 'scipy', 'pandas', 'xgboost', 'formulaic', 'torch', 'flwr', 'dp_accounting'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_triangles():
    matrix = np.arange(9.0).reshape(3, 3)
    matrix += matrix.T
    np.testing.assert_array_equal(symmetric(matrix[triangle(3)], 3), matrix)
