"""Models through the door, on every network: equal to those of the pooled rows, charged once, proved by a receipt."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
import xgboost
from modelled import COLUMNS, FEATURES, PURPOSE, matrix, opener
from sklearn import cluster, decomposition, linear_model, naive_bayes

from federated import messages
from federated.network import Failure
from sandbox import col, count, entries
from sandbox.catalog import Column
from sandbox.errors import (
    BudgetExceeded,
    CatalogError,
    Denied,
    DepartmentFailed,
    ParameterError,
    QueryError,
    TooFewDepartments,
)
from sandbox.fit import (
    PCA,
    GaussianNB,
    HistGradientBoostingClassifier,
    KMeans,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    StandardScaler,
)


@pytest.fixture(scope="module")
def opened(open_federation, people):
    return opener(open_federation, people)


@pytest.fixture(scope="module")
def here(open_in_process, people):
    """In this process: for what no network changes."""
    return opener(open_in_process, people)


@pytest.fixture(scope="module")
def town(opened):
    return opened()


def test_least_squares_are_statsmodels(town):
    federation, everyone = town
    table, pooled = federation.city.table("t"), everyone.pooled()
    fitted = LinearRegression().fit(table, features=FEATURES, target="cost", purpose=PURPOSE)
    wanted = sm.OLS(pooled["cost"], sm.add_constant(matrix(pooled))).fit()
    np.testing.assert_allclose(fitted.model.coefficients, wanted.params, rtol=1e-9)
    estimator = fitted.to_sklearn()
    np.testing.assert_allclose(estimator.predict(matrix(pooled)), wanted.fittedvalues, rtol=1e-9, atol=1e-9)
    assert fitted.verify(federation.city.roster).ok
    assert "R-squared" in repr(fitted)
    np.testing.assert_allclose(fitted.predict(pooled), wanted.fittedvalues, rtol=1e-9, atol=1e-9)


def test_a_formula_and_a_filter(town):
    federation, everyone = town
    table = federation.city.table("t").filter(col("smokes"))
    fitted = LinearRegression().fit(table, formula="cost ~ height + weight", purpose=PURPOSE)
    pooled = everyone.pooled().query("smokes")
    wanted = sm.OLS(pooled["cost"], sm.add_constant(pooled[["height", "weight"]])).fit()
    np.testing.assert_allclose(fitted.model.coefficients, wanted.params, rtol=1e-9)


def test_a_formula_of_added_columns(town):
    federation, everyone = town
    table = federation.city.table("t").with_columns(
        tall=col("height") > 0, size=col("height") * 2, large=col("weight") > 1
    )
    table = table.with_columns(both=col("size") + col("weight"))
    fitted = LinearRegression().fit(table, formula="both ~ visits * tall + C(large)", purpose=PURPOSE)
    pooled = everyone.pooled().eval("tall = height > 0\nboth = height * 2 + weight\nlarge = weight > 1")
    wanted = smf.ols("both ~ visits * tall + C(large)", pooled).fit()
    assert fitted.model.r_squared == pytest.approx(wanted.rsquared, rel=1e-9)
    with pytest.raises(QueryError, match="unknown column 'wide'"):
        LinearRegression().fit(table, formula="both ~ wide", purpose=PURPOSE)


def test_generalised_linear_models_are_scikit_learns(town):
    federation, everyone = town
    table, pooled = federation.city.table("t"), everyone.pooled()
    fitted = LogisticRegression(C=0.7).fit(table, features=FEATURES, target="ill", purpose=PURPOSE)
    wanted = linear_model.LogisticRegression(C=0.7, tol=1e-12, solver="newton-cholesky").fit(
        matrix(pooled), pooled["ill"]
    )
    np.testing.assert_allclose(fitted.to_sklearn().coef_.ravel(), wanted.coef_.ravel(), rtol=1e-6)
    counted = PoissonRegressor(alpha=0.0).fit(table, features=FEATURES, target="visits", purpose=PURPOSE)
    family = sm.GLM(pooled["visits"], sm.add_constant(matrix(pooled)), family=sm.families.Poisson()).fit(
        tol=1e-12
    )
    np.testing.assert_allclose(counted.model.coefficients, family.params, rtol=1e-6)


def test_what_needs_no_target(town):
    federation, everyone = town
    table, pooled = federation.city.table("t"), everyone.pooled()
    numbers = ["height", "weight"]
    scaler = StandardScaler().fit(table, features=numbers, purpose=PURPOSE).to_sklearn()
    np.testing.assert_allclose(scaler.mean_, pooled[numbers].mean(), rtol=1e-12)
    np.testing.assert_allclose(scaler.scale_, pooled[numbers].std(ddof=0), rtol=1e-12)
    found = PCA().fit(table, features=numbers, purpose=PURPOSE).to_sklearn()
    wanted = decomposition.PCA().fit(pooled[numbers])
    np.testing.assert_allclose(found.explained_variance_, wanted.explained_variance_, rtol=1e-9)
    start = ((-2.0, 0.0), (2.0, 0.0), (0.0, 2.0))
    means = KMeans(3, init=start).fit(table, features=numbers, purpose=PURPOSE).to_sklearn()
    same = cluster.KMeans(3, init=np.array(start), n_init=1, algorithm="lloyd").fit(pooled[numbers])
    np.testing.assert_allclose(means.cluster_centers_, same.cluster_centers_, rtol=1e-9)


def test_bayes_and_boosting(town):
    federation, everyone = town
    table, pooled = federation.city.table("t"), everyone.pooled()
    bayes = GaussianNB().fit(table, features=["height", "weight"], target="ill", purpose=PURPOSE).to_sklearn()
    wanted = naive_bayes.GaussianNB().fit(pooled[["height", "weight"]], pooled["ill"])
    np.testing.assert_allclose(bayes.theta_, wanted.theta_, rtol=1e-9)
    boosted = HistGradientBoostingClassifier(max_iter=8, max_depth=3, max_bins=32, bins="bounds").fit(
        table, features=["height", "weight"], target="ill", purpose=PURPOSE
    )
    booster = boosted.to_xgboost()
    assert isinstance(booster, xgboost.Booster)
    data = xgboost.DMatrix(boosted.matrix(pooled), feature_names=booster.feature_names)
    np.testing.assert_allclose(boosted.predict(pooled), booster.predict(data), rtol=1e-5)
    assert ((booster.predict(data) > 0.5) == pooled["ill"]).mean() > 0.55


def test_predict_reads_the_features_alone_and_gives_a_value_a_row(town):
    federation, everyone = town
    table = federation.city.table("t").filter(col("smokes"))
    fitted = LogisticRegression().fit(
        table, features=["height", "smokes", "region"], target="ill", purpose=PURPOSE
    )
    full = everyone.pooled()
    rows = full[["region", "height", "smokes"]].astype({"smokes": object})
    rows.loc[rows.index % 5 == 0, "height"] = None
    rows.loc[rows.index % 7 == 0, "smokes"] = None
    rows.loc[rows.index % 11 == 0, "region"] = None
    complete = rows.notna().all(axis=1).to_numpy()
    found = fitted.predict(rows)
    np.testing.assert_array_equal(np.isnan(found), ~complete)
    wanted = fitted.to_sklearn().predict_proba(fitted.matrix(full))[:, 1]
    np.testing.assert_allclose(found[complete], wanted[complete], rtol=1e-12)
    assert len(fitted.predict(rows[:0])) == 0
    with pytest.raises(CatalogError, match=r"lacks the columns \['smokes'\]; the model reads"):
        fitted.predict(rows.drop(columns="smokes"))
    with pytest.raises(CatalogError, match="column 'height'"):
        fitted.predict(full.assign(height=100.0))


@pytest.mark.parametrize(
    ("ask", "text"),
    [
        (lambda t, _: LinearRegression().fit(t, features=[col("height")], target="cost", purpose=PURPOSE),
         "names of columns, not Expression"),
        (lambda t, _: LinearRegression().fit(t, features=["height"], target=col("cost"), purpose=PURPOSE),
         "names of columns, not Expression"),
        (lambda t, _: LinearRegression().fit(t, features=None, target="cost", purpose=PURPOSE),
         "'features' must be a list of names"),
        (lambda _, f: LinearRegression().fit(f, features=["height"], target="cost", purpose=PURPOSE),
         "on a joint table, .* not on a DataFrame"),
        (lambda t, _: KMeans(1, init=((1e200,),)).fit(t, features=["height"], purpose=PURPOSE),
         "'init' has 1e\\+200 for 'height'; allowed are -8 to 8"),
        (lambda t, _: LogisticRegression().fit(t, features=["height"], target="ill", purpose=PURPOSE, rounds=3),
         "'rounds' is of a differentially private fit: give 'epsilon'"),
        (lambda t, _: PCA().fit(t, features=["height", "weight"], purpose=PURPOSE).summary(),
         r"PCA has no summary\(\); it has model, predict\(\) and to_sklearn\(\)"),
        (lambda t, _: LinearRegression().fit(t, features=["height"], target="cost", purpose=PURPOSE).to_xgboost(),
         r"has no to_xgboost\(\); it has model, predict\(\) and summary\(\), to_sklearn\(\)"),
    ],
)  # fmt: skip
def test_what_was_asked_wrongly_is_told_in_words(town, ask, text):
    federation, everyone = town
    with pytest.raises((QueryError, ParameterError), match=text):
        ask(federation.city.table("t"), everyone.pooled())


def test_private_models_and_queries_share_one_budget(opened):
    federation, everyone = opened("general-4")
    table = federation.city.table("t")
    table.group_by("smokes").agg(count()).release(purpose=PURPOSE, epsilon=1.0)
    fitted = LogisticRegression().fit(
        table, features=["height", "weight"], target="ill", purpose=PURPOSE, epsilon=1.0
    )
    assert fitted.privacy.mode == "dp"
    assert fitted.verify(federation.city.roster).ok
    spent = federation.spent()
    assert all(
        1.0 < value < 2.0 for value in spent.values()
    )  # zCDP: together less than 2, and more than either
    again = LogisticRegression().fit(
        table, features=["height", "weight"], target="ill", purpose=PURPOSE, epsilon=1.0
    )
    assert all(federation.spent()[name] > spent[name] for name in everyone.names)
    assert again.digest() != fitted.digest()
    with pytest.raises(BudgetExceeded):
        LogisticRegression().fit(table, features=["height"], target="ill", purpose=PURPOSE, epsilon=50.0)


def test_every_department_logs_a_model_as_it_logs_a_query(here):
    federation, everyone = here("general-4")
    LinearRegression().fit(
        federation.city.table("t"), features=["height"], target="cost", purpose=PURPOSE, epsilon=0.5
    )
    for name in everyone.names:
        log = federation.gates[name].state.log
        log.verify()
        kinds = [type(e) for e in log.entries() if hasattr(e, "request")]
        assert kinds == [entries.Request, entries.Decision, entries.Charge, entries.Release]


def test_disclosure_control_of_fitted_models(here):
    federation, _ = here("general-2", sizes=(8, 9, 7))
    table = federation.city.table("t")
    features = {f"x{i}": col("height") * float(i + 1) + col("weight") for i in range(12)}
    with pytest.raises(Denied, match="rows for each of"):
        LinearRegression().fit(table, features=features, target="cost", purpose=PURPOSE)
    with pytest.raises(Denied, match="fewer than 10 rows"):
        LinearRegression().fit(
            table.filter(col("height") > 3.0), features=["weight"], target="cost", purpose=PURPOSE
        )


def test_a_cohort_one_row_apart_is_refused(here):
    federation, everyone = here("general-2")
    table = federation.city.table("t")
    LinearRegression().fit(table, features=["height"], target="cost", purpose=PURPOSE)
    least = float(everyone.pooled()["weight"].min())
    with pytest.raises(Denied, match="differ by fewer than 10"):
        LinearRegression().fit(
            table.filter(col("weight") > least), features=["height"], target="cost", purpose=PURPOSE
        )


@pytest.mark.parametrize("when", ["first", "later", "late"])
def test_a_department_that_vanishes_in_a_round(opened, when):
    federation, everyone = opened()
    table = federation.city.table("t")
    call = federation.wire.call

    def call_and_lose(kind, bodies):
        if kind == "fit" and federation.wire.count("fit"):  # the second round
            federation.wire.lose("fit", "birch")
        return call(kind, bodies)

    if when == "later":  # sums over other rows than the first round's are none of this model
        federation.wire.call = call_and_lose
        with pytest.raises((TooFewDepartments, DepartmentFailed), match=r"vanished|other rows"):
            LinearRegression().fit(table, features=["height"], target="cost", purpose=PURPOSE)
        federation.wire.call = call
    else:
        federation.wire.lose("fit" if when == "first" else "unmask", "birch")
        fitted = LinearRegression().fit(table, features=["height"], target="cost", purpose=PURPOSE)
        present = tuple(name for name in everyone.names if name not in fitted.missing)
        assert fitted.missing == (("birch",) if when == "first" else ())
        assert fitted.model.rows == len(everyone.pooled(present))
    federation.wire.restore()
    fitted = LinearRegression().fit(table, features=["height"], target="cost", purpose=PURPOSE)
    assert fitted.model.rows == len(everyone.pooled())


def test_a_department_answers_each_round_once(here):
    federation, _ = here()
    LinearRegression().fit(federation.city.table("t"), features=["height"], target="cost", purpose=PURPOSE)
    body = federation.wire.body("fit", "ash")
    step = messages.decode(body, messages.Step)
    for slot in range(16):
        again = messages.encode(messages.Step(step.session, slot, step.request, step.state, step.clearance))
        reply = federation.wire.network.call("fit", {"ash": again})["ash"]
        assert not isinstance(reply, Failure)
        refusal = messages.decode_reply(reply)
        assert isinstance(refusal, messages.Refusal)
        assert refusal.error == "ScheduleError"


def test_what_cannot_be_fitted_is_said_before_anything_is_spent(here):
    federation, _ = here("general-4")
    table, before = federation.city.table("t"), federation.spent()
    for features, target, message in (
        (["nothing"], "cost", "nothing"),
        (["height"], "region", "region"),
        (["height"], None, "needs one"),
    ):
        with pytest.raises(QueryError, match=message):
            LinearRegression().fit(table, features=features, target=target, purpose=PURPOSE, epsilon=0.5)
    assert federation.spent() == before


def odd(open_in_process, people, columns=COLUMNS, **changed) -> tuple:
    """Departments of which `changed` rewrites the rows of each that it names."""

    def rewriting(catalogs, frames):
        for name, change in changed.items():
            frames[name] = {"t": change(frames[name]["t"]).reset_index(drop=True)}
        return open_in_process(catalogs, frames)

    return opener(rewriting, people)(sizes=(300, 80, 5), columns=columns)


def test_no_rows_one_class_and_constant_features_at_a_department(open_in_process, people):
    federation, everyone = odd(
        open_in_process, people,
        ash=lambda rows: rows.assign(ill=True),
        birch=lambda rows: rows.assign(height=1.25, region="east"),
        cedar=lambda rows: rows.iloc[:0],
    )  # fmt: skip
    table, pooled = federation.city.table("t"), everyone.pooled()
    assert pooled["ill"].nunique() == 2
    fitted = LogisticRegression().fit(table, features=FEATURES, target="ill", purpose=PURPOSE)
    wanted = linear_model.LogisticRegression(tol=1e-12, solver="newton-cholesky").fit(
        matrix(pooled), pooled["ill"].astype(bool)
    )
    np.testing.assert_allclose(fitted.to_sklearn().coef_.ravel(), wanted.coef_.ravel(), rtol=1e-6)
    boosted = HistGradientBoostingClassifier(max_iter=3, max_depth=2).fit(
        table, features=FEATURES, target="ill", purpose=PURPOSE
    )
    assert len(boosted.model.trees) == 3


def test_what_no_department_can_tell_apart_is_said(open_in_process, people):
    same = dict.fromkeys(("ash", "birch", "cedar"), lambda rows: rows.assign(ill=True, weight=0.5))
    federation, _ = odd(open_in_process, people, **same)
    table = federation.city.table("t")
    for estimator in (LogisticRegression(), GaussianNB(), HistGradientBoostingClassifier()):
        with pytest.raises(QueryError, match="same class"):
            estimator.fit(table, features=["height"], target="ill", purpose=PURPOSE)
    with pytest.raises(QueryError, match="weight"):
        LinearRegression().fit(table, features=["height", "weight"], target="cost", purpose=PURPOSE)


def test_nulls_are_declared_and_then_left_out_or_marked(open_in_process, people):
    def gaps(rows):
        return rows.assign(height=rows["height"].where(rows["weight"] < 1.0))

    with pytest.raises(CatalogError, match="'height': nulls occur"):
        odd(open_in_process, people, birch=gaps)
    nullable = COLUMNS | {"height": Column("real", (-8.0, 8.0), nullable=True)}
    federation, everyone = odd(open_in_process, people, columns=nullable, birch=gaps)
    table, pooled = federation.city.table("t"), everyone.pooled()
    assert pooled["height"].isna().any()
    ask = {"features": ["height", "smokes"], "target": "cost", "purpose": PURPOSE}
    dropped = LinearRegression().fit(table, **ask)
    whole = pooled.dropna()
    exog = sm.add_constant(whole[["height", "smokes"]].astype(float))
    np.testing.assert_allclose(
        dropped.model.coefficients, sm.OLS(whole["cost"], exog).fit().params, rtol=1e-9
    )
    marked = LinearRegression().fit(table, missing="indicator", **ask)
    exog = sm.add_constant(
        pooled.assign(height=pooled["height"].fillna(0.0), gone=pooled["height"].isna())[
            ["height", "gone", "smokes"]
        ].astype(float)
    )
    np.testing.assert_allclose(
        marked.model.coefficients, sm.OLS(pooled["cost"], exog).fit().params, rtol=1e-9
    )
