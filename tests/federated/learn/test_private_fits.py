"""Private fits: no row moves a sum beyond the stated sensitivity, the noise is what is charged, the models are near the exact ones.

Every check of chance fails a right implementation with probability at most `ALARM`.
"""

from __future__ import annotations

import hashlib
import itertools
import math

import msgspec
import numpy as np
import pandas as pd
import pytest
from pooling import Departments, data, declared, request, split
from scipy import stats

from federated.learn import estimators
from federated.learn.learner import State
from federated.learn.private.learner import Noisy
from sandbox import dp
from sandbox import fit as f
from sandbox.accounting import Zcdp
from sandbox.catalog import Column
from sandbox.design_matrix import Rows, design, sql
from sandbox.errors import ParameterError, QueryError

ALARM = 1e-6
COLUMNS = {
    "x": Column("real", (-3.0, 5.0)),
    "k": Column("integer", (0, 9), nullable=True),
    "g": Column("category", categories=("a", "b", "c")),
    "y": Column("boolean"),
    "n": Column("integer", (0, 20)),
    "z": Column("real", (-2.0, 2.0)),
}
REQUESTS = {
    "scaler": request(f.StandardScaler(), ("x", "k", "g"), missing="indicator"),
    "linear": request(f.LinearRegression(), ("x", "k", "g"), "z", missing="indicator"),
    "pca": request(f.PCA(2), ("x", "z")),
    "logistic": request(f.LogisticRegression(), ("x", "k", "g"), "y", missing="indicator", rounds=3),
    "poisson": request(f.PoissonRegressor(), ("x", "k", "g"), "n", missing="indicator", rounds=3),
    "kmeans": request(f.KMeans(3), ("x", "z"), rounds=3),
    "bayes": request(f.GaussianNB(), ("x", "k", "g"), "y", missing="indicator"),
    "classifier": request(
        f.HistGradientBoostingClassifier(max_depth=3), ("x", "k", "g"), "y", missing="keep", rounds=3
    ),
    "regressor": request(
        f.HistGradientBoostingRegressor(max_depth=3), ("x", "k"), "z", missing="keep", rounds=3
    ),
}
SCHEMA = Departments(COLUMNS, [pd.DataFrame({name: pd.Series(dtype=object) for name in COLUMNS})]).schema


def learner_of(fit, epsilon=1.0, parties=3, schema=SCHEMA):
    return estimators.private(fit, schema, parties, epsilon=epsilon, delta=1e-6, honest=2)


def states(learner):
    """The states of a fit whose sums are noise alone: as far from any data's as can be."""
    generator = np.random.default_rng(3)
    state = learner.start()
    while isinstance(state, State):
        yield state
        noisy = []
        for block in learner.blocks(state):
            values = np.rint(generator.normal(0, 3e3 / block.unit, block.size)) * block.unit
            noisy.append(Noisy(values, 5.0))
        state = learner.update(state, noisy)


def extreme(learner, generator):
    """One row at the corners of its bounds, or beyond them."""
    row = np.empty((1, learner.width))
    chosen = {}
    for j, column in enumerate(learner.design.columns):
        if column.level is not None:
            levels = len(learner.design.levels[column.feature])
            row[0, j] = chosen.setdefault(column.feature, generator.integers(0, levels)) == column.level
        elif column.indicator:
            row[0, j] = generator.integers(0, 2)
            if row[0, j]:
                row[0, j - 1] = (
                    column.low / 2
                    if j == 0
                    else (learner.design.columns[j - 1].low + learner.design.columns[j - 1].high) / 2
                )
        else:
            row[0, j] = generator.choice(
                [column.low, column.high, 10 * column.high, generator.uniform(column.low, column.high)]
            )
    target = learner.design.target
    values = None if target is None else np.array([generator.choice([target.low, target.high])])
    return Rows(np.asfortranarray(row), values)


@pytest.mark.parametrize("name", REQUESTS)
def test_no_row_moves_a_sum_beyond_its_sensitivity(name):
    learner = learner_of(REQUESTS[name])
    generator = np.random.default_rng(11)
    largest = {}
    for state in states(learner):
        blocks = learner.blocks(state)
        assert sum(block.share for block in blocks) == pytest.approx(1)
        for _ in range(150):
            sums = learner.local(state, extreme(learner, generator))
            for block, values in zip(blocks, sums, strict=True):
                assert values.dtype == np.int64
                norm = float(np.linalg.norm(values.astype(np.float64)))
                assert norm <= block.sensitivity * (1 + 1e-12), (block.name, state)
                largest[block.name] = max(largest.get(block.name, 0.0), norm / block.sensitivity)
    # The bound is not idle either: some row comes near.
    assert max(largest.values()) > 0.5


@pytest.mark.parametrize("name", REQUESTS)
def test_sums_are_exact_so_that_rows_add_up_in_any_order(name):
    learner = learner_of(REQUESTS[name])
    generator = np.random.default_rng(5)
    many = [extreme(learner, generator) for _ in range(61)]
    matrix = np.asfortranarray(np.vstack([rows.matrix for rows in many]))
    target = None if many[0].target is None else np.concatenate([rows.target for rows in many])
    for state in states(learner):
        together = learner.local(state, Rows(matrix, target))
        apart = [
            np.sum(parts, axis=0)
            for parts in zip(*(learner.local(state, rows) for rows in many), strict=True)
        ]
        for one, other in zip(together, apart, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", REQUESTS)
def test_the_noise_is_what_is_charged(name):
    """Noise alone (no rows): its variance is that of the charge, neither 2/3 nor 3/2 of it, over all blocks of all rounds."""
    learner = learner_of(REQUESTS[name], epsilon=2.0)
    assert learner.cost == Zcdp(dp.rho_of(2.0, 1e-6))
    empty = Rows(np.zeros((0, learner.width), order="F"), np.zeros(0) if learner.design.target else None)
    counter = itertools.count()

    def key(size):
        return hashlib.sha256(b"noise" + next(counter).to_bytes(4, "big")).digest()[:size]

    state = next(states(learner))
    spent = 0.0
    for i, block in enumerate(learner.blocks(state)):
        drawn = []
        while sum(map(len, drawn)) < 6000:
            joint = np.sum([learner.encode(state, empty, key) for _ in range(2)], axis=0, dtype=np.uint64)
            drawn.append(learner.decode(state, joint, 2)[i].values / block.unit)
        values = np.concatenate(drawn)
        # Two departments of which at least two add noise: sigma^2 in all.
        sigma = block.sensitivity / math.sqrt(2 * learner.rho / learner.rounds * block.share)
        statistic = (values**2).sum() / sigma**2
        low, high = stats.chi2.ppf([ALARM / 40, 1 - ALARM / 40], len(values))
        assert low < statistic < high
        assert not low < statistic * 2 / 3 < high
        assert not low < statistic * 3 / 2 < high
        spent += block.sensitivity**2 / (2 * sigma**2)
    assert spent * learner.rounds == pytest.approx(learner.cost.rho)


def test_two_rounds_cost_more_noise_than_one():
    few, many = (learner_of(request(f.LogisticRegression(), ("x",), "y", rounds=r)) for r in (1, 8))
    sigma = [
        learner.decode(learner.start(), np.zeros(learner.words(learner.start()), np.uint64), 3)[0].deviation
        for learner in (few, many)
    ]
    assert sigma[1] == pytest.approx(sigma[0] * math.sqrt(8))


def test_a_unit_of_several_rows_costs_their_noise():
    several = msgspec.structs.replace(SCHEMA, rows_per_unit=5)
    one, five = (learner_of(REQUESTS["linear"], schema=schema) for schema in (SCHEMA, several))
    deviations = [
        learner.decode(learner.start(), np.zeros(learner.words(learner.start()), np.uint64), 3)[0].deviation
        for learner in (one, five)
    ]
    assert deviations[1] == pytest.approx(5 * deviations[0])


def test_rows_of_a_unit_beyond_its_limit_are_left_out():
    frame = pd.DataFrame({"who": [1] * 3 + list(range(2, 40)), "x": np.linspace(-1, 1, 41)})
    columns = {"who": Column("identifier"), "x": Column("real", (-1, 1))}
    joint = Departments(columns, [frame], unit="who", rows_per_unit=3)
    wanted = design(request(f.StandardScaler(), ("x",)), joint.schema)

    def rows(limit):
        schema = msgspec.structs.replace(joint.schema, rows_per_unit=limit)
        cursor = joint.engines[0].backend.connection.cursor()
        return cursor.execute(sql(wanted, schema, "data", bounded=True).sql("duckdb")).fetchnumpy()["f0"]

    assert [len(rows(limit)) for limit in (1, 2, 3)] == [39, 40, 41]
    assert len(joint.rows(estimators.exact(wanted.fit, joint.schema, 1))[0]) == 41


@pytest.fixture(scope="module")
def many():
    """The credit card holders and a few columns more, at three departments."""
    frame = data("ISLR", "Default")
    generator = np.random.default_rng(1)
    frame["late"] = generator.poisson(np.exp(-0.5 + frame["balance"] / 1500))
    frame["default"] = frame["default"] == "Yes"
    frame["score"] = (
        0.5 * frame["balance"] / 1000 - frame["income"] / 40000 + generator.normal(0, 0.5, len(frame))
    )
    return Departments(declared(frame, slack=0), split(frame, "thirds"))


def keys(seed):
    counter = itertools.count()
    return lambda size: hashlib.sha256(f"{seed} {next(counter)}".encode()).digest()[:size]


@pytest.mark.parametrize(
    ("estimator", "target"),
    [
        (f.LinearRegression(), "score"),
        (f.LogisticRegression(C=None), "default"),
        (f.PoissonRegressor(alpha=0), "late"),
    ],
    ids=["linear", "logistic", "poisson"],
)
def test_coefficients_lie_near_the_exact_ones(many, estimator, target):
    fit = request(estimator, ("balance", "income", "student"), target)
    exact, private = many.fit(fit), many.private(fit, 20.0, key=keys(target))
    errors = (np.array(private.coefficients) - exact.coefficients) / private.standard_errors
    # Within seven of their own standard errors, which hold the noise: and better than a model that knows nothing.
    assert np.abs(errors).max() < 7
    loose = many.private(fit, 1.0, key=keys(target))
    assert (np.array(loose.standard_errors) > private.standard_errors).all()


def test_errors_of_least_squares_hold_the_noise(many):
    """Their squares over many fits follow a chi-squared law, as those of a right covariance do, within what its first order misses."""
    fit = request(f.LinearRegression(), ("balance", "income", "student"), "score")
    exact = np.array(many.fit(fit).coefficients)
    squares = []
    for seed in range(60):
        model = many.private(fit, 4.0, key=keys(seed))
        difference = np.array(model.coefficients) - exact
        squares.append(difference @ np.linalg.solve(np.array(model.noise), difference))
    mean = np.mean(squares) / len(exact)
    low, high = stats.chi2.ppf([ALARM / 2, 1 - ALARM / 2], 60 * len(exact)) / (60 * len(exact))
    assert 0.8 * low < mean < 1.25 * high


def test_components_scales_and_clusters_lie_near(many):
    numbers = ("balance", "income")
    exact, private = (
        many.fit(request(f.PCA(1), numbers)),
        many.private(request(f.PCA(1), numbers), 10.0, key=keys(1)),
    )
    assert abs(np.dot(exact.components[0], private.components[0])) > 0.999
    scaled = many.private(request(f.StandardScaler(), numbers), 10.0, key=keys(2))
    np.testing.assert_allclose(
        scaled.deviation, many.fit(request(f.StandardScaler(), numbers)).deviation, rtol=0.1
    )
    clusters = many.private(request(f.KMeans(2, random_state=2), numbers, rounds=4), 10.0, key=keys(3))
    assert sum(clusters.sizes) == pytest.approx(10_000, rel=0.05)
    assert clusters.inertia is None


@pytest.mark.parametrize("name", ["bayes", "trees"])
def test_classifiers_rank_nearly_as_the_exact_ones(many, name):
    from sklearn.metrics import roc_auc_score

    estimator = (
        f.GaussianNB()
        if name == "bayes"
        else f.HistGradientBoostingClassifier(max_depth=4, learning_rate=0.5)
    )
    fit = request(estimator, ("balance", "income"), "default")
    model = many.private(fit, 10.0, key=keys(4))
    rows = many.rows(estimators.exact(fit, many.schema, 3))
    matrix, target = np.vstack([r.matrix for r in rows]), np.concatenate([r.target for r in rows])
    scores = model.raw(matrix)
    scores = scores[:, 1] - scores[:, 0] if name == "bayes" else scores
    assert roc_auc_score(target, scores) > 0.9


def test_private_trees_load_in_xgboost(many):
    import xgboost

    fit = request(f.HistGradientBoostingRegressor(max_depth=3), ("balance", "income"), "score", rounds=5)
    model = many.private(fit, 10.0, key=keys(5))
    matrix = many.rows(estimators.exact(fit, many.schema, 3))[0].matrix
    loaded = model.to_xgboost().predict(xgboost.DMatrix(matrix.astype(np.float32)))
    np.testing.assert_allclose(loaded, model.predict(matrix), rtol=1e-5)


@pytest.mark.parametrize("name", REQUESTS)
def test_states_and_models_survive_their_journey(name):
    learner = learner_of(REQUESTS[name])
    for state in states(learner):
        assert msgspec.json.decode(msgspec.json.encode(state), type=estimators.States) == state
        last = state
    generator = np.random.default_rng(0)
    noisy = [Noisy(generator.normal(100, 10, block.size), 1.0) for block in learner.blocks(last)]
    model = learner.update(last, noisy)
    assert msgspec.json.decode(msgspec.json.encode(model), type=estimators.Models) == model


def test_what_cannot_be_private_is_refused():
    with pytest.raises(ParameterError, match="'fit_intercept' is False"):
        learner_of(request(f.LinearRegression(fit_intercept=False), ("x",), "z"))
    with pytest.raises(ParameterError, match="'rounds' is 3; this fit takes 1 sum"):
        learner_of(request(f.LinearRegression(), ("x",), "z", rounds=3))
    with pytest.raises(QueryError, match="each centre needs 1 coordinates"):
        learner_of(request(f.KMeans(2, ((1.0, 2.0), (3.0, 4.0))), ("x",)))
    with pytest.raises(ParameterError, match="'honest' is 2; allowed are 1 to 1"):
        learner_of(REQUESTS["linear"], parties=1)
    with pytest.raises(ParameterError, match="'epsilon'"):
        learner_of(REQUESTS["linear"], epsilon=0.0)
    with pytest.raises(ParameterError, match="'delta' is 1e-40"):
        learner_of(REQUESTS["linear"]).check(learner_of(REQUESTS["linear"]).start(), 1e-40)
