"""Evaluations and contributions through the door: those of the pooled rows, charged, proved, and refused where owners do not permit them."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import statsmodels.api as sm
import torch
from modelled import FEATURES, PURPOSE, matrix, opener
from sklearn import metrics
from torch import nn

from sandbox import col, entries
from sandbox import training as t
from sandbox.catalog import Overrides
from sandbox.errors import BudgetExceeded, Denied, ParameterError, QueryError, TooFewDepartments
from sandbox.fit import (
    GaussianNB,
    HistGradientBoostingClassifier,
    KMeans,
    LinearRegression,
    LogisticRegression,
)

torch.set_num_threads(1)
BOTH = Overrides(analyses=("fit", "evaluation", "evaluation_by_department", "contribution"))


@pytest.fixture(scope="module")
def opened(open_in_process, people):
    return opener(open_in_process, people)


@pytest.fixture(scope="module")
def town(opened):
    return opened()


@pytest.fixture(scope="module")
def consenting(opened):
    """Owners who name what shows single departments' values."""
    return opened(policy=BOTH)


def test_over_every_network(open_federation, people):
    federation, everyone = opener(open_federation, people)(policy=BOTH)
    table, fitted, pooled = federation.city.table("t"), ill(federation), everyone.pooled()
    found = fitted.evaluate(table, purpose=PURPOSE, by_department=True)
    chance = fitted.predict(pooled)
    assert found.figures.log_loss == pytest.approx(metrics.log_loss(pooled["ill"], chance), rel=1e-9)
    assert [found.each[name].rows for name in everyone.names] == [
        len(everyone.pooled([n])) for n in everyone.names
    ]
    worth = fitted.contribution(table, purpose=PURPOSE, method="leave_one_out")
    assert worth.found.departments == everyone.names
    assert found.verify(federation.city.roster).ok
    assert worth.verify(federation.city.roster).ok


def ill(federation, estimator=None, **more):
    table = federation.city.table("t")
    return (estimator or LogisticRegression()).fit(
        table, features=FEATURES, target="ill", purpose=PURPOSE, **more
    )


def test_a_classifier_is_scored_as_on_the_pooled_rows(town):
    federation, everyone = town
    table, pooled, fitted = federation.city.table("t"), everyone.pooled(), ill(federation)
    found = fitted.evaluate(table, purpose=PURPOSE)
    chance = fitted.predict(pooled)
    assert found.figures.auc == pytest.approx(metrics.roc_auc_score(pooled["ill"], chance), abs=1e-3)
    assert found.figures.log_loss == pytest.approx(metrics.log_loss(pooled["ill"], chance), rel=1e-9)
    wanted = metrics.confusion_matrix(pooled["ill"], chance > 0.5)
    np.testing.assert_array_equal(found.figures.confusion, wanted)
    assert found.verify(federation.city.roster).ok
    assert "auc" in repr(found)
    assert found.calibration["rows"].sum() == len(pooled)
    some = fitted.evaluate(table.filter(col("smokes")), purpose=PURPOSE)
    assert some.figures.rows == pooled["smokes"].sum()


def test_trees_and_a_regression(town):
    federation, everyone = town
    table, pooled = federation.city.table("t"), everyone.pooled()
    boosted = HistGradientBoostingClassifier(max_iter=5, max_depth=2, bins="bounds", max_bins=16)
    boosted = ill(federation, boosted)
    found = boosted.evaluate(table, purpose=PURPOSE).figures
    assert found.log_loss == pytest.approx(metrics.log_loss(pooled["ill"], boosted.predict(pooled)), rel=1e-9)
    linear = LinearRegression().fit(table, features=FEATURES, target="cost", purpose=PURPOSE)
    told = linear.evaluate(table, purpose=PURPOSE).figures
    assert told.r_squared == pytest.approx(linear.model.r_squared, rel=1e-9)


def test_a_network_exactly_and_privately(opened):
    federation, everyone = opened("general-4")
    table, pooled = federation.city.table("t"), everyone.pooled()
    module = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))
    trained = table.train(
        module, features=FEATURES, target="ill", loss="cross_entropy", rounds=6, sampling_rate=0.3,
        optimiser=t.Sgd(2.0), privacy=t.RecordLevel("joint", clip=1, noise_multiplier=1, lot=190),
        purpose=PURPOSE, epsilon=3.0,
    )  # fmt: skip
    scores = trained.predict(pooled)
    auc = metrics.roc_auc_score(pooled["ill"], scores)
    found = trained.evaluate(table, purpose=PURPOSE).figures
    assert found.auc_bounds[0] <= auc <= found.auc_bounds[1]
    before = federation.spent()
    private = trained.evaluate(table, purpose=PURPOSE, epsilon=5.0)
    assert private.privacy.mode == "dp"
    assert private.figures.auc_interval[0] <= auc <= private.figures.auc_interval[1]
    assert all(federation.spent()[name] > before[name] for name in everyone.names)
    with pytest.raises(BudgetExceeded):
        trained.evaluate(table, purpose=PURPOSE, epsilon=50.0)


def test_disclosure_control(opened):
    federation, _ = opened("general-2")
    table, fitted = federation.city.table("t"), ill(federation)
    found = fitted.evaluate(table, purpose=PURPOSE).figures
    assert all(part.rows >= 20 for part in found.calibration)
    with pytest.raises(Denied, match="fewer than 10 rows"):
        fitted.evaluate(table.filter(col("height") > 3.9), purpose=PURPOSE)


def test_each_department_only_where_every_owner_names_it(town, consenting):
    federation, everyone = consenting
    table, fitted = federation.city.table("t"), ill(federation)
    found = fitted.evaluate(table, purpose=PURPOSE, by_department=True)
    for name in everyone.names:
        own = everyone.pooled([name])
        assert found.each[name].rows == len(own)
        assert found.each[name].log_loss == pytest.approx(
            metrics.log_loss(own["ill"], fitted.predict(own)), rel=1e-9
        )
    assert list(found.frame.columns) == ["all", *everyone.names]
    with pytest.raises(QueryError, match="all departments together"):
        fitted.evaluate(table, purpose=PURPOSE, by_department=True, epsilon=1.0)
    federation, _ = town
    with pytest.raises(Denied, match="does not name it"):
        ill(federation).evaluate(federation.city.table("t"), purpose=PURPOSE, by_department=True)


def test_contributions_are_those_of_models_on_pooled_rows(consenting):
    federation, everyone = consenting
    table = federation.city.table("t")
    linear = LinearRegression().fit(table, features=FEATURES, target="cost", purpose=PURPOSE)
    found = linear.contribution(table, purpose=PURPOSE, method="leave_one_out")
    pooled = everyone.pooled()

    def score(names):
        rows = everyone.pooled(names)
        model = sm.OLS(rows["cost"], sm.add_constant(matrix(rows))).fit()
        return metrics.r2_score(pooled["cost"], model.predict(sm.add_constant(matrix(pooled))))

    for name, value in zip(found.found.departments, found.found.values, strict=True):
        others = [other for other in everyone.names if other != name]
        assert value == pytest.approx(score(everyone.names) - score(others), rel=1e-6, abs=1e-9)
    assert found.verify(federation.city.roster).ok
    shapley = ill(federation).contribution(table, purpose=PURPOSE)
    assert sum(shapley.found.values) == pytest.approx(shapley.found.total)
    assert len(shapley.found.scores) == 15
    assert shapley.frame["share"].sum() == pytest.approx(1)


def test_who_may_not_be_asked_for_contributions(consenting):
    federation, _ = consenting
    table = federation.city.table("t")
    with pytest.raises(ParameterError, match="made of sums"):
        ill(federation, GaussianNB()).contribution(table, purpose=PURPOSE)
    fitted = ill(federation)
    federation.wire.lose("fit", "birch")
    with pytest.raises((Denied, TooFewDepartments), match="vanished"):
        fitted.contribution(table, purpose=PURPOSE)
    federation.wire.restore()


def test_one_owner_who_does_not_name_it_is_enough(open_in_process, people):
    def but_one(catalogs, frames):
        name = next(iter(catalogs))
        dataset = msgspec.structs.replace(
            catalogs[name].datasets["t"], policy=Overrides(analyses=("fit", "evaluation"))
        )
        catalogs[name] = msgspec.structs.replace(catalogs[name], datasets={"t": dataset})
        return open_in_process(catalogs, frames)

    federation, everyone = opener(but_one, people)(policy=BOTH)
    fitted, table = ill(federation), federation.city.table("t")
    for asked in (
        lambda: fitted.contribution(table, purpose=PURPOSE),
        lambda: fitted.evaluate(table, purpose=PURPOSE, by_department=True),
    ):
        with pytest.raises(Denied, match=f"{everyone.names[0]}: analysis .* is not permitted"):
            asked()


def test_a_model_without_its_receipt_is_not_evaluated(town):
    federation, _ = town
    table, fitted = federation.city.table("t"), ill(federation)
    with pytest.raises(QueryError, match="no receipt"):
        msgspec.structs.replace(fitted, receipt=b"").evaluate(table, purpose=PURPOSE)
    other = LinearRegression().fit(table, features=FEATURES, target="cost", purpose=PURPOSE)
    with pytest.raises(QueryError, match="another model than its receipt"):
        msgspec.structs.replace(fitted, receipt=other.receipt).evaluate(table, purpose=PURPOSE)
    clusters = KMeans(2).fit(table, features=["height", "weight"], purpose=PURPOSE)
    with pytest.raises(QueryError, match="'target'"):
        clusters.evaluate(table, purpose=PURPOSE)


def test_an_evaluation_is_logged_as_a_release_and_answered_once(opened):
    federation, everyone = opened()
    ill(federation).evaluate(federation.city.table("t"), purpose=PURPOSE)
    for name in everyone.names:
        kinds = [
            type(entry) for entry in federation.gates[name].state.log.entries() if hasattr(entry, "request")
        ]
        assert kinds == [entries.Request, entries.Decision, entries.Charge, entries.Release] * 2
