"""Least squares over departments is least squares over the pooled rows: scikit-learn's coefficients, statsmodels' table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st
from pooling import Departments, column, data, declared, request, split

from federated.learn import estimators
from sandbox import fit as f
from sandbox import query as q
from sandbox.catalog import Column
from sandbox.errors import QueryError

FEATURES = ("carat", "cut", "depth", "table", "clarity")
FORMULA = "price ~ carat + cut + depth + table + clarity"


@pytest.fixture(scope="module")
def model(diamonds):
    return diamonds.fit(request(f.LinearRegression(), FEATURES, "price"))


@pytest.fixture(scope="module")
def oracle(diamonds):
    return smf.ols(FORMULA, diamonds.pooled).fit()


def aligned(model, oracle):
    """The oracle's parameters in the model's order: patsy puts categories first."""
    names = [name.replace("[T.", "[") for name in oracle.params.index]
    return [names.index(name) for name in model.names]


def test_coefficients_and_errors_are_those_of_the_pooled_rows(model, oracle):
    order = aligned(model, oracle)
    np.testing.assert_allclose(model.coefficients, oracle.params.to_numpy()[order], rtol=1e-9)
    np.testing.assert_allclose(model.standard_errors, oracle.bse.to_numpy()[order], rtol=1e-9)
    np.testing.assert_allclose(model.t_values, oracle.tvalues.to_numpy()[order], rtol=1e-8)
    np.testing.assert_allclose(model.p_values, oracle.pvalues.to_numpy()[order], rtol=1e-6, atol=1e-300)
    np.testing.assert_allclose(model.interval(), oracle.conf_int().to_numpy()[order], rtol=1e-8)


def test_fit_statistics_are_those_of_the_pooled_rows(model, oracle):
    assert model.r_squared == pytest.approx(oracle.rsquared, rel=1e-10)
    assert model.adjusted_r_squared == pytest.approx(oracle.rsquared_adj, rel=1e-10)
    assert model.log_likelihood == pytest.approx(oracle.llf, rel=1e-9)
    assert model.f_statistic[0] == pytest.approx(oracle.fvalue, rel=1e-8)
    assert model.residual_freedom == oracle.df_resid


def test_it_takes_three_sums(diamonds):
    diamonds.fit(request(f.LinearRegression(), FEATURES, "price"))
    assert diamonds.rounds == 3


def test_the_table_reads_as_statsmodels_prints_it(model, oracle):
    own, theirs = model.summary(), str(oracle.summary())
    cells = {
        line.split()[0]: line.split()[1:]
        for line in theirs.splitlines()
        if line.startswith(("carat", "depth"))
    }
    for name, values in cells.items():
        assert next(line for line in own.splitlines() if line.startswith(name)).split()[1:] == values
    for label in ("R-squared:", "F-statistic:", "Log-Likelihood:", "AIC:", "Df Residuals:"):
        value = theirs.split(label)[1].split()[0]
        assert own.split(label)[1].split()[0] == value
    assert max(map(len, own.splitlines())) <= 90


def test_to_sklearn_predicts_as_the_pooled_model(diamonds, model):
    from sklearn.linear_model import LinearRegression

    fit = request(f.LinearRegression(), FEATURES, "price")
    rows = diamonds.rows(estimators.exact(fit, diamonds.schema, len(diamonds)))
    matrix = np.vstack([part.matrix for part in rows])
    target = np.concatenate([part.target for part in rows])
    pooled = LinearRegression().fit(matrix, target)
    own = model.to_sklearn()
    np.testing.assert_allclose(own.coef_, pooled.coef_, rtol=1e-6)
    assert own.score(matrix, target) == pytest.approx(pooled.score(matrix, target), rel=1e-9)


def test_longley_is_right_to_nine_digits():
    """The classical hard case: NIST's certified values (StRD, Longley). Bounds a thousand times too wide, and 2^30 rows allowed."""
    frame = data("datasets", "longley")
    frame.columns = ["deflator", "gnp", "unemployed", "forces", "population", "year", "employed"]
    wide = {name: Column("real", (-1e6, 1e6)) for name in frame.columns}
    model = Departments(wide, split(frame.astype(float), "wild")).fit(
        request(f.LinearRegression(), tuple(frame.columns[:-1]), "employed")
    )
    # In R's units: employed in millions, GNP in thousands of millions, people in thousands.
    certified = [-3482.25863459582, 0.0150618722713733, -0.0358191792925910, -0.0202022980381683, -0.0103322686717359, -0.0511041056535807, 1.82915146461355]  # fmt: skip
    np.testing.assert_allclose(model.coefficients, certified, rtol=1e-9)


def test_a_target_that_never_varies_is_printed_as_statsmodels_prints_it():
    frame = pd.DataFrame({"x": np.arange(30.0), "y": 0.0})
    schema = declared(frame, slack=1) | {"y": Column("real", (-1.0, 1.0))}
    model = Departments(schema, split(frame, "thirds")).fit(request(f.LinearRegression(), ("x",), "y"))
    oracle = sm.OLS(frame["y"], sm.add_constant(frame["x"])).fit()
    assert np.isnan(oracle.rsquared)
    for name in ("r_squared", "adjusted_r_squared"):
        assert np.isnan(getattr(model, name))
    assert np.isnan(model.f_statistic).all()
    assert np.isnan(model.p_values).all()
    assert model.log_likelihood == oracle.llf == np.inf
    np.testing.assert_array_equal(model.interval(), oracle.conf_int())
    assert "nan" in model.summary()


def test_without_intercept(diamonds):
    model = diamonds.fit(request(f.LinearRegression(fit_intercept=False), ("carat", "depth"), "price"))
    oracle = sm.OLS(diamonds.pooled["price"], diamonds.pooled[["carat", "depth"]]).fit()
    np.testing.assert_allclose(model.coefficients, oracle.params, rtol=1e-9)
    np.testing.assert_allclose(model.standard_errors, oracle.bse, rtol=1e-9)
    assert model.r_squared == pytest.approx(oracle.rsquared, rel=1e-10)


def test_filter_and_derived_features(diamonds):
    carat = q.Column("carat")
    squared = q.Derived("carat2", q.Arithmetic("*", carat, carat))
    where = q.Compare(">", carat, q.Value(1.0))
    fit = f.Fit("t", f.LinearRegression(), (column("carat"), squared), column("price"), where=where)
    kept = diamonds.pooled[diamonds.pooled["carat"] > 1]
    oracle = smf.ols("price ~ carat + I(carat**2)", kept).fit()
    model = diamonds.fit(fit)
    assert model.rows == len(kept)
    np.testing.assert_allclose(model.coefficients, oracle.params, rtol=1e-8)


@pytest.mark.parametrize("missing", ["drop", "indicator"])
def test_nulls_by_the_declared_rule(ship, missing):
    fit = request(f.LinearRegression(), ("age", "passengerClass"), "survived", missing=missing)
    frame = ship.pooled.assign(survived=ship.pooled["survived"].astype(float))
    low, high = ship.schema.columns["age"].bounds
    if missing == "drop":
        oracle = smf.ols("survived ~ age + passengerClass", frame.dropna()).fit()
    else:
        frame["gone"] = frame["age"].isna().astype(float)
        frame["age"] = frame["age"].fillna(low / 2 + high / 2)
        oracle = smf.ols("survived ~ age + gone + passengerClass", frame).fit()
    model = ship.fit(fit)
    assert model.rows == oracle.nobs
    order = [list(oracle.params.index).index(name) for name in ("Intercept", "age")]
    np.testing.assert_allclose(model.coefficients[:2], oracle.params.to_numpy()[order], rtol=1e-8)
    assert model.r_squared == pytest.approx(oracle.rsquared, rel=1e-9)


def test_collinear_and_constant_features_are_named(diamonds):
    twice = q.Derived("twice", q.Arithmetic("*", q.Value(2), q.Column("carat")))
    nothing = q.Derived("nothing", q.Arithmetic("*", q.Value(0), q.Column("depth")))
    base = (column("carat"), column("table"))
    with pytest.raises(QueryError, match="carat, twice determine each other"):
        diamonds.fit(f.Fit("t", f.LinearRegression(), (*base, twice), column("price")))
    with pytest.raises(QueryError, match="nothing has the same value in every row"):
        diamonds.fit(f.Fit("t", f.LinearRegression(), (*base, nothing), column("price")))


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    widths=st.lists(st.floats(-8, 8), min_size=1, max_size=4),
    offset=st.floats(-1e3, 1e3),
    rows=st.integers(12, 60),
)
def test_any_scale_any_place(seed, widths, offset, rows):
    """Columns of widths 10^-8 to 10^8, up to a thousand widths from zero, under bounds a hundred times as wide."""
    generator = np.random.default_rng(seed)
    scale = 10.0 ** np.array(widths)
    matrix = (generator.normal(size=(rows, len(scale))) + offset) * scale
    frame = pd.DataFrame(matrix, columns=[f"x{j}" for j in range(len(scale))])
    frame["y"] = matrix @ (generator.normal(size=len(scale)) / scale) + generator.normal(size=rows)
    model = Departments(declared(frame, slack=50), split(frame, "wild")).fit(
        request(f.LinearRegression(), tuple(frame.columns[:-1]), "y")
    )
    # The oracle works on centred columns: on raw ones a thousand widths from zero it is the one that loses digits.
    centred = frame[frame.columns[:-1]] - frame[frame.columns[:-1]].mean()
    oracle = sm.OLS(frame["y"], sm.add_constant(centred / scale)).fit()
    np.testing.assert_allclose(
        np.array(model.coefficients[1:]) * scale, oracle.params.iloc[1:], rtol=1e-6, atol=1e-8
    )
    np.testing.assert_allclose(model.standard_errors[1:] * scale, oracle.bse.iloc[1:], rtol=1e-6)
