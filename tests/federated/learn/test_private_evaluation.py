"""Private evaluation lies near the exact one, within its intervals; no row moves a sum beyond what is stated."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from pooling import Departments, data, declared, request, split

from federated.learn.evaluation import Evaluation
from federated.learn.private.evaluation import PrivateEvaluation
from sandbox import dp
from sandbox import fit as f
from sandbox.errors import QueryError

CREDIT = ("student", "balance", "income")


@pytest.fixture(scope="module")
def cards():
    frame = data("ISLR", "Default")
    frame["default"] = frame["default"] == "Yes"
    return Departments(declared(frame), split(frame, "thirds"))


CASES = {
    "logistic": request(f.LogisticRegression(), CREDIT, "default"),
    "bayes": request(f.GaussianNB(), ("balance", "income"), "default"),
    "trees": request(f.HistGradientBoostingClassifier(max_iter=10), CREDIT, "default"),
    "linear": request(f.LinearRegression(), ("student", "balance"), "income"),
}


def released(joint, learner, seed="evaluation"):
    counter = itertools.count()

    def key(size):
        return hashlib.sha256(f"{seed} {next(counter)}".encode()).digest()[:size]

    state = learner.start()
    vectors = [learner.encode(state, rows, key) for rows in joint.rows(learner, bounded=True)]
    return learner.update(state, learner.decode(state, np.sum(vectors, axis=0, dtype=np.uint64), len(joint)))


def learner_of(joint, fit, model, epsilon):
    return PrivateEvaluation(fit, joint.schema, len(joint), dp.rho_of(epsilon, 1e-6), len(joint), model)


@pytest.mark.parametrize("name", CASES)
def test_near_the_exact_evaluation_and_within_its_intervals(cards, name):
    fit = CASES[name]
    model = cards.fit(fit)
    exact = cards.run(Evaluation(fit, cards.schema, len(cards), model))
    found = released(cards, learner_of(cards, fit, model, 5.0))
    assert found.rows == pytest.approx(exact.rows, rel=0.05)
    figures = ("r_squared", "rmse") if name == "linear" else ("auc", "ks", "log_loss", "accuracy")
    for figure in figures:
        low, high = getattr(found, f"{figure}_interval")
        width = high - low
        # The exact figure is one draw of what the interval is of; bins add a little.
        assert low - width / 2 <= getattr(exact, figure) <= high + width / 2, figure
        assert width < 0.3 * max(abs(getattr(exact, figure)), 1.0)


@pytest.mark.parametrize("name", CASES)
def test_a_row_adds_what_is_stated_and_no_other_row_matters(cards, name):
    learner = learner_of(cards, CASES[name], cards.fit(CASES[name]), 1.0)
    rows = cards.rows(learner, bounded=True)[0]
    [block] = learner.blocks(learner.start())
    kind = type(rows)
    some = range(0, 400, 7)
    apart = []
    for i in some:
        one = kind(np.asfortranarray(rows.matrix[i : i + 1]), rows.target[i : i + 1])
        [sums] = learner.local(learner.start(), one)
        assert np.linalg.norm(sums.astype(float)) <= block.sensitivity
        apart.append(sums)
    [together] = learner.local(
        learner.start(), kind(np.asfortranarray(rows.matrix[list(some)]), rows.target[list(some)])
    )
    np.testing.assert_array_equal(np.sum(apart, axis=0), together)


def test_too_much_noise_is_said(cards):
    for name in ("logistic", "linear"):
        model = cards.fit(CASES[name])
        with pytest.raises(QueryError, match="noise leaves too little"):
            released(cards, learner_of(cards, CASES[name], model, 0.001))
