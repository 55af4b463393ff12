"""Models of scikit-learn, XGBoost and torch are read exactly, and what cannot be is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xgboost
from he_sides import scored
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from mpc.errors import OutOfRange
from mpc.he.readers import from_sklearn, from_torch, from_xgboost

GENERATOR = np.random.default_rng(3)
X = GENERATOR.uniform(-2, 2, (200, 4))
Y = (X @ [1, 2, -1, 0.5] + GENERATOR.normal(size=200) > 0).astype(int)
LEVELS_X = GENERATOR.integers(0, 8, (300, 4)) / 10  # 0.1 and the like are not exact in single precision
LEVELS_Y = (LEVELS_X @ [1, 2, -1, 0.5] + GENERATOR.normal(size=300) / 10 > 0.9).astype(int)
BOUNDS = dict.fromkeys("abcd", (-2, 2))
LEVELS = {name: np.arange(8) / 10 for name in "abcd"}


class Square(torch.nn.Module):
    def forward(self, x):
        return x * x


def probability(estimator, rows):
    return estimator.predict_proba(rows)[:, 1]


@pytest.mark.parametrize(
    "estimator",
    [
        LinearRegression(),
        Ridge(),
        LogisticRegression(),
        make_pipeline(StandardScaler(), LogisticRegression()),
        make_pipeline(StandardScaler(), StandardScaler(with_mean=False), Ridge()),
        PoissonRegressor(),
        MLPClassifier((5,), activation="tanh", max_iter=30, random_state=0),
        make_pipeline(
            StandardScaler(), MLPClassifier((5, 3), activation="relu", max_iter=30, random_state=0)
        ),
        MLPRegressor(hidden_layer_sizes=(5,), activation="logistic", max_iter=30, random_state=0),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_over_continuous_features(estimator):
    estimator.fit(X, Y)
    model = from_sklearn(estimator, bounds=BOUNDS)
    expected = probability(estimator, X) if hasattr(estimator, "predict_proba") else estimator.predict(X)
    assert np.abs(model.predict(X)[:, 0] - expected).max() < 1e-12


@pytest.mark.parametrize(
    "estimator",
    [
        DecisionTreeClassifier(max_depth=4, random_state=0),
        DecisionTreeRegressor(max_depth=4, random_state=0),
        RandomForestRegressor(5, max_depth=3, random_state=0),
        GradientBoostingClassifier(n_estimators=8, max_depth=3, random_state=0),
        GradientBoostingClassifier(n_estimators=3, max_depth=2, random_state=0, init="zero"),
        GradientBoostingRegressor(n_estimators=8, max_depth=3, random_state=0),
    ],
    ids=str,
)
def test_scikit_learn_trees_over_levels(estimator):
    estimator.fit(LEVELS_X, LEVELS_Y)
    model = from_sklearn(estimator, levels=LEVELS)
    has = hasattr(estimator, "predict_proba")
    expected = probability(estimator, LEVELS_X) if has else estimator.predict(LEVELS_X)
    assert np.abs(model.predict(LEVELS_X)[:, 0] - expected).max() < 1e-12


@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror", "count:poisson"])
def test_xgboost_to_single_precision(objective):
    data = xgboost.DMatrix(LEVELS_X, LEVELS_Y)
    booster = xgboost.train({"objective": objective, "max_depth": 3, "nthread": 1}, data, 8)
    expected = booster.predict(data)
    assert np.abs(from_xgboost(booster, levels=LEVELS).predict(LEVELS_X)[:, 0] - expected).max() < 2e-6


def test_an_xgboost_estimator_scored_under_encryption():
    estimator = xgboost.XGBClassifier(n_estimators=4, max_depth=2, n_jobs=1).fit(LEVELS_X, LEVELS_Y)
    model = from_xgboost(estimator, levels=LEVELS)
    table = {name: LEVELS_X[:, i] for i, name in enumerate("abcd")}
    found, _, client = scored(model, table, tolerance=1e-2)
    assert np.abs(found[:, 0] - probability(estimator, LEVELS_X)).max() < client.error + 2e-6


@pytest.mark.parametrize(
    "activation",
    [
        Square(),
        torch.nn.ReLU(),
        torch.nn.GELU(),
        torch.nn.SiLU(),
        torch.nn.Tanh(),
        torch.nn.Softplus(),
        torch.nn.Sigmoid(),
    ],
    ids=str,
)
def test_torch(activation):
    torch.manual_seed(0)
    linear = torch.nn.Linear
    module = torch.nn.Sequential(
        linear(4, 3), activation, torch.nn.Dropout(), linear(3, 1), torch.nn.Sigmoid()
    )
    module = module.double().eval()
    expected = module(torch.tensor(X)).detach().numpy()
    model = from_torch(module, bounds=BOUNDS)
    assert model.link == "logistic"
    assert np.abs(model.predict(X) - expected).max() < 1e-12


@pytest.mark.filterwarnings("ignore")
def test_a_trained_network_scored_under_encryption():
    estimator = make_pipeline(
        StandardScaler(), MLPClassifier((4,), activation="tanh", max_iter=60, alpha=1.0, random_state=0)
    ).fit(X, Y)
    table = {name: X[:, i] for i, name in enumerate("abcd")}
    found, _, client = scored(from_sklearn(estimator, bounds=BOUNDS, degree=9), table, tolerance=0.2)
    assert np.abs(found[:, 0] - probability(estimator, X)).max() < client.error


def test_what_cannot_be_read_is_refused():
    three = np.arange(200) % 3
    for estimator, match in (
        (LogisticRegression().fit(X, three), "two classes"),
        (RandomForestClassifier(2, random_state=0).fit(LEVELS_X, LEVELS_Y), "cannot be scored"),
        (make_pipeline(MinMaxScaler(), Ridge()).fit(X, Y), "StandardScalers"),
        (DecisionTreeClassifier().fit(X, three), "cannot be scored"),
        (make_pipeline(StandardScaler(), DecisionTreeRegressor()).fit(X, Y), "without a scaler"),
    ):
        with pytest.raises(OutOfRange, match=match):
            from_sklearn(estimator, bounds=BOUNDS)
    with pytest.raises(OutOfRange, match="must declare levels"):
        from_sklearn(DecisionTreeRegressor(max_depth=2).fit(X, Y), bounds=BOUNDS)
    with pytest.raises(OutOfRange, match="BatchNorm1d cannot be scored"):
        from_torch(torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.BatchNorm1d(2)), bounds=BOUNDS)
    with pytest.raises(OutOfRange, match="objective"):
        from_xgboost(
            xgboost.train({"objective": "multi:softprob", "num_class": 3}, xgboost.DMatrix(X, three), 1),
            levels=LEVELS,
        )


def test_names_must_be_the_model_s_own():
    import pandas as pd

    frame = pd.DataFrame(X, columns=list("abcd"))
    estimator = Ridge().fit(frame, Y)
    assert from_sklearn(estimator, bounds=BOUNDS).features[0].name == "a"
    with pytest.raises(OutOfRange, match="in their order: a, b, c, d"):
        from_sklearn(estimator, bounds=dict.fromkeys("bacd", (-2, 2)))
    with pytest.raises(OutOfRange, match="bounds"):
        from_sklearn(Ridge().fit(X, Y), bounds=dict.fromkeys("abc", (-2, 2)))
