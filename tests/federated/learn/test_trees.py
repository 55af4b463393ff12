"""Boosted trees over departments are XGBoost's on the pooled rows with the same bins: split for split, and in what they predict."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pandas as pd
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from pooling import Departments, declared, received, request, split

from federated.learn import estimators
from federated.learn.running import run
from sandbox import disclosure
from sandbox import fit as f
from sandbox.catalog import Column
from sandbox.errors import ParameterError, QueryError

CARE = ("visits", "hospital", "chronic", "age", "gender", "school", "income")
STONES = ("carat", "cut", "depth", "table", "clarity", "color")


def rows_of(joint, fit):
    rows = joint.rows(estimators.exact(fit, joint.schema, len(joint)))
    return np.vstack([r.matrix for r in rows]), np.concatenate([r.target for r in rows])


def pooled(model, matrix, target, wanted):
    """XGBoost on the pooled rows. Its bins are ours: each column is replaced by the number of its bin, and it gives each number a bin."""
    codes = np.column_stack([model.bins.codes(j, matrix[:, j]) for j in range(matrix.shape[1])]).astype(
        np.float32
    )
    codes[np.isnan(matrix)] = np.nan
    parameters = {
        "objective": model.objective,
        "tree_method": "hist",
        "max_depth": wanted.max_depth,
        "eta": wanted.learning_rate,
        "lambda": wanted.l2_regularization,
        "min_child_weight": wanted.min_child_weight,
        "base_score": float(np.float32(target.mean())),
        "max_bin": 256,
        "nthread": 1,
    }
    return xgboost.train(
        parameters, xgboost.QuantileDMatrix(codes, target, max_bin=256), wanted.max_iter
    ), codes


def same(model, booster, matrix, codes):
    """The same splits, and predictions but for the last place of a single."""
    trees = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]["model"]["trees"]
    assert len(trees) == len(model.trees)
    for own, theirs in zip(model.trees, trees, strict=True):
        assert list(own.left) == theirs["left_children"]
        inner = np.array(own.feature) >= 0
        np.testing.assert_array_equal(np.array(own.feature)[inner], np.array(theirs["split_indices"])[inner])
        for feature, last, condition in zip(own.feature, own.bin, theirs["split_conditions"], strict=True):
            if feature >= 0:  # the same numbers on the left: that of bins without rows says nothing
                present = np.unique(codes[:, feature][~np.isnan(codes[:, feature])])
                np.testing.assert_array_equal(present <= last, present < condition)
    expected = booster.predict(xgboost.DMatrix(codes))
    np.testing.assert_allclose(model.predict(matrix), expected, rtol=2e-6, atol=2e-7)
    loaded = model.to_xgboost().predict(xgboost.DMatrix(matrix.astype(np.float32)))
    np.testing.assert_allclose(loaded, expected, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize(
    "wanted",
    [
        f.HistGradientBoostingClassifier(min_samples_leaf=1, max_iter=25),
        f.HistGradientBoostingClassifier(
            min_samples_leaf=1,
            max_iter=15,
            max_depth=3,
            bins="bounds",
            max_bins=20,
            learning_rate=0.3,
            min_child_weight=5.0,
        ),
    ],
    ids=["quantiles", "bounds"],
)
def test_classifier_is_the_pooled_one(care, wanted):
    fit = request(wanted, CARE, "insurance")
    model = care.fit(fit)
    matrix, target = rows_of(care, fit)
    booster, codes = pooled(model, matrix, target, wanted)
    same(model, booster, matrix, codes)


def test_regression_is_the_pooled_one(diamonds):
    wanted = f.HistGradientBoostingRegressor(min_samples_leaf=1, max_iter=20, l2_regularization=0.5)
    fit = request(wanted, STONES, "price")
    model = diamonds.fit(fit)
    matrix, target = rows_of(diamonds, fit)
    booster, codes = pooled(model, matrix, target, wanted)
    same(model, booster, matrix, codes)


@pytest.mark.parametrize("bins", ["quantiles", "bounds"])
def test_nulls_learn_a_direction(ship, bins):
    wanted = f.HistGradientBoostingClassifier(min_samples_leaf=1, max_iter=20, bins=bins)
    fit = request(wanted, ("age", "sex", "passengerClass"), "survived", missing="keep")
    model = ship.fit(fit)
    matrix, target = rows_of(ship, fit)
    assert np.isnan(matrix).sum() == 263
    booster, codes = pooled(model, matrix, target, wanted)
    same(model, booster, matrix, codes)
    assert any(any(tree.nulls_left) for tree in model.trees)


def test_a_tree_takes_a_sum_a_level(care):
    care.fit(
        request(
            f.HistGradientBoostingClassifier(min_samples_leaf=1, max_iter=4, max_depth=3), CARE, "insurance"
        )
    )
    assert care.rounds == 2 + 4 * 3


def test_leaves_have_the_rows_that_are_asked_for(care):
    wanted = f.HistGradientBoostingClassifier(min_samples_leaf=150, max_iter=5)
    fit = request(wanted, CARE, "insurance")
    model = care.fit(fit)
    matrix, _ = rows_of(care, fit)
    leaves = model.to_xgboost().predict(xgboost.DMatrix(matrix.astype(np.float32)), pred_leaf=True)
    for tree in leaves.T:
        assert np.unique(tree, return_counts=True)[1].min() >= 150
    learner = estimators.exact(
        request(f.HistGradientBoostingClassifier(min_samples_leaf=5), CARE, "insurance"), care.schema, 3
    )
    state = learner.start()
    state = learner.update(state, [np.array([4000, 3, *[2000] * 9]), np.zeros(9), np.ones(9)])
    assert (
        learner.refusals(state, disclosure.RULES["general-2"])[-1]
        == "'min_samples_leaf' is 5; a leaf needs 10 rows"
    )


def test_to_sklearn_is_an_xgboost_estimator(care):
    fit = request(f.HistGradientBoostingClassifier(max_iter=5), CARE, "insurance")
    model, (matrix, _) = care.fit(fit), rows_of(care, fit)
    estimator = model.to_sklearn()
    np.testing.assert_allclose(estimator.predict_proba(matrix)[:, 1], model.predict(matrix), rtol=2e-6)
    assert set(estimator.predict(matrix)) <= {0, 1}


def test_a_department_that_restarts_works_its_rows_out_anew(care):
    """One that forgets everything between any two sums gives the same trees."""
    fit = request(f.HistGradientBoostingClassifier(max_iter=3, max_depth=3), CARE, "insurance")
    learner = estimators.exact(fit, care.schema, len(care))
    sums = care.secure_sum(learner)

    def forgetful(state, words):
        for rows in care.rows(learner):
            rows.kept.clear()
        return sums(state, words)

    assert run(learner, forgetful) == care.fit(fit)


def test_two_trainings_on_the_same_rows_do_not_mix(care):
    slow = request(f.HistGradientBoostingClassifier(max_iter=3), CARE, "insurance")
    fast = request(f.HistGradientBoostingClassifier(max_iter=3, learning_rate=0.5), CARE, "insurance")
    assert care.fit(slow) == care.fit(slow)
    first = care.fit(fast)
    care.fit(slow)
    assert care.fit(fast) == first


def test_departments_are_not_shown_histograms(care):
    learner = estimators.exact(
        request(f.HistGradientBoostingClassifier(max_iter=1), CARE, "insurance"), care.schema, len(care)
    )
    shown = []

    def sums(state, words):
        shown.append(msgspec.json.encode(learner.shown(state)))
        return care.secure_sum(learner)(state, words)

    run(learner, sums)
    last = received(msgspec.json.decode(shown[-1], type=estimators.States))
    assert last.histograms is None
    assert last.totals is None


def test_the_model_survives_its_journey(ship):
    fit = request(f.HistGradientBoostingClassifier(max_iter=3), ("age", "sex"), "survived", missing="keep")
    model = ship.fit(fit)
    assert msgspec.json.decode(msgspec.json.encode(model), type=estimators.Models) == model


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    values=st.lists(st.integers(2, 40), min_size=1, max_size=4),
    gaps=st.floats(0, 0.4),
    regression=st.booleans(),
    weight=st.sampled_from([0.0, 1.0, 3.0]),
)
def test_any_table_grows_the_pooled_trees(seed, values, gaps, regression, weight):
    generator = np.random.default_rng(seed)
    size = int(generator.integers(30, 300))
    frame = pd.DataFrame(
        {f"x{j}": generator.integers(0, v, size).astype(float) for j, v in enumerate(values)}
    )
    score = sum(generator.normal() * frame[name] / 10 for name in frame) + generator.normal(size=size)
    frame = frame.mask(generator.random(frame.shape) < gaps)
    frame["y"] = score.round(2) if regression else score > score.median()
    kind = f.HistGradientBoostingRegressor if regression else f.HistGradientBoostingClassifier
    wanted = kind(max_iter=6, max_depth=4, min_samples_leaf=1, min_child_weight=weight, learning_rate=0.3)
    columns = {name: Column("integer", (0, v), nullable=True) for name, v in zip(frame, values, strict=False)}
    joint = Departments(columns | {"y": declared(frame)["y"]}, split(frame, "wild"))
    fit = request(wanted, tuple(columns), "y", missing="keep")
    model = joint.fit(fit)
    matrix, target = rows_of(joint, fit)
    booster, codes = pooled(model, matrix, target, wanted)
    np.testing.assert_allclose(
        model.predict(matrix), booster.predict(xgboost.DMatrix(codes)), rtol=1e-5, atol=1e-6
    )


def test_constant_features_and_one_class():
    frame = pd.DataFrame({"x": np.arange(60.0) % 7, "c": 1.5, "y": np.arange(60) % 3 == 0})
    columns = declared(frame) | {"c": declared(frame.assign(c=np.linspace(0, 3, 60)))["c"]}
    joint = Departments(columns, split(frame, "sorted", "y"))
    fit = request(f.HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=1), ("x", "c"), "y")
    model = joint.fit(fit)
    assert all(1 not in tree.feature for tree in model.trees)
    with pytest.raises(QueryError, match="same class"):
        Departments(columns, split(frame.assign(y=True), "thirds")).fit(fit)


def test_nulls_need_a_rule_that_boosting_knows(ship):
    with pytest.raises(ParameterError, match="'drop' and 'keep'"):
        ship.fit(request(f.HistGradientBoostingClassifier(), ("age",), "survived", missing="indicator"))
