"""Least squares on a joined table is that of statsmodels on the merged plaintext; what disclosure control or the protocol refuses."""

from __future__ import annotations

import clinic
import numpy as np
import pytest
import statsmodels.formula.api as smf

from sandbox import col
from sandbox.errors import Denied, QueryError
from sandbox.fit import LinearRegression, LogisticRegression

MERGED = clinic.merged(clinic.frames()).assign(diabetes=lambda rows: rows.diabetes.astype(int))


@pytest.fixture(scope="module")
def wide():
    return clinic.federation("general-1").city().join(*clinic.TABLES, on="person")


def fitted(table, features, target, estimator=None, **options):
    estimator = LinearRegression() if estimator is None else estimator
    return estimator.fit(table, features=features, target=target, purpose=clinic.PURPOSE, **options)


@pytest.mark.parametrize(
    ("features", "target", "relative"),
    [
        (["age", "sex", "diabetes", "highest"], "limit", 1e-9),  # whole numbers are exact
        (
            ["weight", "age", "highest", "diabetes"],
            "hdl",
            1e-5,
        ),  # products of reals at two departments have 25 bits
    ],
)
def test_coefficients_and_their_errors_are_those_of_the_merged_rows(wide, features, target, relative):
    found = fitted(wide.filter(col("age") >= 25), features, target)
    rows = MERGED[MERGED.age >= 25].dropna(subset=[*features, target])
    expected = smf.ols(f"{target} ~ {' + '.join(features)}", rows).fit()
    named = dict(zip(found.model.names, found.model.coefficients, strict=True))
    truth = {name.replace("[T.", "["): value for name, value in expected.params.items()}
    assert found.model.rows == len(rows)
    assert named == pytest.approx(truth, rel=relative, abs=relative)
    errors = np.sqrt(np.diag(found.model.unscaled) * found.model.residual_squares / expected.df_resid)
    wanted = [expected.bse[name.replace("[", "[T.") if "[" in name else name] for name in found.model.names]
    assert errors == pytest.approx(wanted, rel=relative)
    assert 1 - found.model.residual_squares / found.model.total_squares == pytest.approx(
        expected.rsquared, rel=10 * relative
    )


def test_a_fit_is_released_and_compared_as_its_cohort():
    town = clinic.federation()
    city = town.city()
    table = city.join(*clinic.TABLES, on="person")
    found = fitted(table, ["age", "highest"], "limit")
    assert found.verify(city.roster).ok
    assert any("sums of columns and of products of two" in line for line in found.leakage)
    with pytest.raises(Denied, match="differ by fewer than 10 units"):
        fitted(table.filter(col("age") < 90), ["age", "highest"], "limit")
    with pytest.raises(Denied, match="fewer than 10 residual degrees of freedom"):
        fitted(
            clinic.federation(people=30).city().join(*clinic.TABLES, on="person"),
            ["age", "highest", "sex"],
            "limit",
        )


@pytest.mark.parametrize(
    ("ask", "reason"),
    [
        (lambda t: fitted(t, ["age"], "limit", epsilon=1.0), "LinearRegression alone is fitted, exactly"),
        (lambda t: fitted(t, ["age"], "diabetes", LogisticRegression()), "LinearRegression alone is fitted"),
        (lambda t: fitted(t, ["weight"], "limit", missing="indicator"), "allowed is 'drop'"),
        (
            lambda t: fitted(t, {"both": col("age") * col("hdl")}, "limit"),
            "mixes columns of registry and lab",
        ),
        (lambda t: fitted(t, {"old": (col("age") > 60) * col("age")}, "limit"), "a condition stands alone"),
        (
            lambda t: LinearRegression().fit(t, formula="limit ~ age", purpose=clinic.PURPOSE),
            "no formula is read on a joined table",
        ),
    ],
)
def test_what_is_not_fitted(wide, ask, reason):
    with pytest.raises(QueryError, match=reason):
        ask(wide)
