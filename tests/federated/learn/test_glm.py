"""Logistic and Poisson regression over departments are those of the pooled rows; separation, one class, and small groups are refused in words."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st
from pooling import Departments, column, declared, request, split
from sklearn.linear_model import LogisticRegression, PoissonRegressor

from federated.learn import estimators
from sandbox import disclosure
from sandbox import fit as f
from sandbox import query as q
from sandbox.catalog import Column
from sandbox.errors import QueryError

CREDIT = ("student", "balance", "income")
CARE = ("hospital", "chronic", "age", "gender", "school", "insurance")


def pooled(joint, fit):
    """Matrix and target of all rows, in the design's columns."""
    rows = joint.rows(estimators.exact(fit, joint.schema, len(joint)))
    return np.vstack([part.matrix for part in rows]), np.concatenate([part.target for part in rows])


def same_as(model, oracle):
    """Every parameter of a statsmodels result, by name."""
    names = [name.replace("[T.", "[").removesuffix("[True]") for name in oracle.params.index]
    order = [names.index(name) for name in model.names]
    np.testing.assert_allclose(model.coefficients, oracle.params.to_numpy()[order], rtol=1e-6)
    np.testing.assert_allclose(model.standard_errors, oracle.bse.to_numpy()[order], rtol=1e-6)
    np.testing.assert_allclose(model.z_values, oracle.tvalues.to_numpy()[order], rtol=1e-6)
    np.testing.assert_allclose(model.p_values, oracle.pvalues.to_numpy()[order], rtol=1e-5, atol=1e-12)
    assert model.log_likelihood == pytest.approx(oracle.llf, rel=1e-9)
    assert model.null_log_likelihood == pytest.approx(oracle.llnull, rel=1e-6)
    assert model.pseudo_r_squared == pytest.approx(oracle.prsquared, rel=1e-6)


def test_logistic_without_penalty_is_statsmodels(credit):
    oracle = smf.logit("y ~ student + balance + income", credit.pooled.assign(y=credit.pooled["default"] * 1))
    model = credit.fit(request(f.LogisticRegression(C=None), CREDIT, "default"))
    same_as(model, oracle.fit(disp=0, method="newton", tol=1e-13, maxiter=100))


def test_poisson_without_penalty_is_statsmodels(care):
    oracle = smf.poisson("visits ~ " + " + ".join(CARE), care.pooled)
    model = care.fit(request(f.PoissonRegressor(alpha=0), CARE, "visits"))
    same_as(model, oracle.fit(disp=0, method="newton", tol=1e-13, maxiter=100))


@pytest.mark.parametrize("C", [1.0, 1e-4])
@pytest.mark.parametrize("intercept", [True, False])
def test_logistic_with_penalty_is_sklearn(credit, C, intercept):
    fit = request(f.LogisticRegression(C=C, fit_intercept=intercept), CREDIT, "default")
    matrix, target = pooled(credit, fit)
    oracle = LogisticRegression(C=C, fit_intercept=intercept, solver="newton-cholesky", tol=1e-12).fit(
        matrix, target
    )
    model = credit.fit(fit)
    own = model.to_sklearn()
    np.testing.assert_allclose(own.coef_, oracle.coef_, rtol=1e-6)
    np.testing.assert_allclose(own.intercept_, oracle.intercept_, rtol=1e-6)
    np.testing.assert_allclose(own.predict_proba(matrix), oracle.predict_proba(matrix), rtol=1e-6)
    assert own.classes_.tolist() == [False, True]
    np.testing.assert_allclose(model.predict(matrix), oracle.predict_proba(matrix)[:, 1], rtol=1e-6)


@pytest.mark.parametrize("alpha", [1.0, 1e-3])
def test_poisson_with_penalty_is_sklearn(care, alpha):
    fit = request(f.PoissonRegressor(alpha=alpha), CARE, "visits")
    matrix, target = pooled(care, fit)
    oracle = PoissonRegressor(alpha=alpha, solver="newton-cholesky", tol=1e-12).fit(matrix, target)
    own = care.fit(fit).to_sklearn()
    np.testing.assert_allclose(own.coef_, oracle.coef_, rtol=1e-6)
    assert own.intercept_ == pytest.approx(oracle.intercept_, rel=1e-6)
    assert own.score(matrix, target) == pytest.approx(oracle.score(matrix, target), rel=1e-9)


def test_a_handful_of_sums_do(credit, care):
    credit.fit(request(f.LogisticRegression(C=None), CREDIT, "default"))
    care.fit(request(f.PoissonRegressor(alpha=0), CARE, "visits"))
    assert 3 < credit.rounds <= 12
    assert 3 < care.rounds <= 10


def test_the_table_reads_as_statsmodels_prints_it(credit):
    frame = credit.pooled.assign(y=credit.pooled["default"] * 1)
    theirs = str(smf.logit("y ~ student + balance + income", frame).fit(disp=0, tol=1e-12).summary())
    own = credit.fit(request(f.LogisticRegression(C=None), CREDIT, "default")).summary()
    expected = next(line for line in theirs.splitlines() if line.startswith("student")).split()[1:]
    assert next(line for line in own.splitlines() if line.startswith("student")).split()[1:] == expected
    for label in ("Df Residuals:", "Pseudo R-squ.:", "Log-Likelihood:"):
        assert own.split(label)[1].split()[0] == theirs.split(label)[1].split()[0]


def test_penalised_tables_claim_no_errors(credit):
    model = credit.fit(request(f.LogisticRegression(), CREDIT, "default"))
    assert np.isnan(model.standard_errors).all()
    assert "penalised" in model.summary()


X = pd.DataFrame({"x": np.arange(90.0), "g": ["a", "b", "c"] * 30})
CASES = {
    "complete": X["x"] > 44,
    "quasi": (X["g"] == "a") & (X["x"] % 2 == 0),  # group a has both, b and c none
}


@pytest.mark.parametrize("case", CASES)
def test_separation_is_refused_and_a_penalty_cures_it(case):
    frame = X.assign(y=CASES[case])
    joint = Departments(declared(frame), split(frame, "thirds"))
    with pytest.raises(QueryError, match="separate the target"):
        joint.fit(request(f.LogisticRegression(C=None), ("x", "g"), "y"))
    assert np.isfinite(joint.fit(request(f.LogisticRegression(), ("x", "g"), "y")).coefficients).all()


def test_counts_that_are_all_zero_in_a_group_are_refused():
    frame = X.assign(y=np.where(X["g"] == "c", 0, 1 + X.index % 3))
    joint = Departments(declared(frame, y=Column("integer", (0, 3))), split(frame, "thirds"))
    with pytest.raises(QueryError, match="separate the target"):
        joint.fit(request(f.PoissonRegressor(alpha=0), ("g",), "y"))


def test_one_class_and_no_rows_are_refused():
    frame = X.assign(y=True)
    joint = Departments(declared(frame), split(frame, "thirds"))
    with pytest.raises(QueryError, match="same class"):
        joint.fit(request(f.LogisticRegression(), ("x",), "y"))
    nobody = q.Compare(">", q.Column("x"), q.Value(98.0))
    with pytest.raises(QueryError, match="no row takes part"):
        joint.fit(request(f.LogisticRegression(), ("x",), "y", where=nobody))
    zeros = Departments(declared(X.assign(y=0), y=Column("integer", (0, 3))), split(X.assign(y=0), "thirds"))
    with pytest.raises(QueryError, match="0 in all rows"):
        zeros.fit(request(f.PoissonRegressor(), ("x",), "y"))


def test_too_few_iterations_are_said():
    frame = X.assign(y=X["x"] % 7 > 2)
    joint = Departments(declared(frame), split(frame, "thirds"))
    with pytest.raises(QueryError, match="'max_iter' = 1"):
        joint.fit(request(f.LogisticRegression(max_iter=1), ("x",), "y"))


def test_a_class_or_level_of_few_rows_is_refused(credit):
    rules = disclosure.RULES["general-2"]

    def reasons(fit):
        found = []
        learner = estimators.exact(fit, credit.schema, len(credit))
        state = learner.start()
        layout = learner.layout(state)
        sums = credit.secure_sum(learner)(state, layout.words(len(credit)))
        found += learner.refusals(learner.update(state, layout.decode(sums, len(credit))), rules)
        return found

    def above(balance):
        return q.Compare(">", q.Column("balance"), q.Value(float(balance)))

    assert reasons(request(f.LogisticRegression(), CREDIT, "default", where=above(500))) == []
    rich = credit.pooled["balance"].nlargest(30).min()
    few = reasons(request(f.LogisticRegression(), CREDIT, "default", where=above(rich)))
    assert "a class of the target: fewer than 10 rows" in few
    rare = q.Derived("rare", above(credit.pooled["balance"].nlargest(6).min()))
    assert reasons(f.Fit("t", f.LogisticRegression(), (rare,), column("default"))) == [
        "level rare, not 0: fewer than 10 rows"
    ]


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    offset=st.floats(-50, 50),
    width=st.floats(-5, 5),
    departments=st.integers(3, 6),
)
def test_any_scale_any_place_any_split(seed, offset, width, departments):
    generator = np.random.default_rng(seed)
    size, scale = 120, 10.0**width
    matrix = (generator.normal(size=(size, 2)) + offset) * scale
    frame = pd.DataFrame(matrix, columns=["a", "b"])
    frame["y"] = generator.random(size) < 1 / (
        1 + np.exp(-matrix @ generator.normal(size=2) / scale + offset / 2)
    )
    if frame["y"].nunique() < 2:
        frame.loc[0, "y"] = not frame.loc[0, "y"]
    cuts = np.sort(generator.integers(0, size + 1, departments - 1))
    parts = [frame.iloc[a:b] for a, b in zip([0, *cuts], [*cuts, size], strict=True)]
    fit = request(f.LogisticRegression(C=1 / scale**2), ("a", "b"), "y")
    model = Departments(declared(frame, slack=20), parts).fit(fit)
    # The pooled model in columns of width 1, where the same penalty is 1.
    oracle = LogisticRegression(solver="newton-cholesky", tol=1e-12).fit(matrix / scale, frame["y"])
    np.testing.assert_allclose(
        np.array(model.coefficients[1:]) * scale, oracle.coef_[0], rtol=1e-6, atol=1e-9
    )
    np.testing.assert_allclose(model.coefficients[0], oracle.intercept_[0], rtol=1e-6, atol=1e-7)
