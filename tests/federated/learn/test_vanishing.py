"""A department that vanishes between rounds, or whose data change, never gives a model of mixed rows: the fit ends in words, and starts anew."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.formula.api as smf
from pooling import Departments, data, declared, request, split

from federated.learn import estimators
from federated.learn.running import run
from sandbox import fit as f
from sandbox.errors import DepartmentFailed

REQUESTS = {
    "linear": request(f.LinearRegression(), ("balance", "income"), "default"),
    "logistic": request(f.LogisticRegression(C=None), ("balance", "income"), "default"),
    "poisson": request(f.PoissonRegressor(alpha=0), ("balance", "income"), "default"),
    "pca": request(f.PCA(1), ("balance", "income")),
    "kmeans": request(f.KMeans(2), ("balance", "income")),
    "bayes": request(f.GaussianNB(), ("balance", "income"), "default"),
    "trees": request(
        f.HistGradientBoostingClassifier(max_iter=2, max_depth=2), ("balance", "income"), "default"
    ),
}


@pytest.mark.parametrize(
    ("name", "last"), [(name, 1) for name in REQUESTS] + [(name, 2) for name in REQUESTS if name != "pca"]
)
def test_one_that_vanishes_in_any_round_is_found_out(credit, name, last):
    learner = estimators.exact(REQUESTS[name], credit.schema, len(credit))
    rounds = 0

    def sums(state, words):
        nonlocal rounds
        rounds += 1
        layout = learner.layout(state)
        parts = credit.rows(learner)[:-1] if rounds > last else credit.rows(learner)
        return np.sum(
            [layout.encode(learner.local(state, rows), len(credit)) for rows in parts],
            axis=0,
            dtype=np.uint64,
        )

    with pytest.raises(DepartmentFailed, match="a department vanished, or its data changed"):
        run(learner, sums)
    assert rounds == last + 1


def test_without_it_the_model_is_that_of_the_others():
    frame = data("ISLR", "Default").assign(default=lambda rows: rows["default"] == "Yes")
    rest = split(frame, "thirds")[:-1]
    joint = Departments(declared(frame), rest)
    model = joint.fit(REQUESTS["linear"])
    oracle = smf.ols("y ~ balance + income", joint.pooled.assign(y=joint.pooled["default"] * 1.0)).fit()
    np.testing.assert_allclose(model.coefficients, oracle.params, rtol=1e-6)
    assert model.departments == 2
