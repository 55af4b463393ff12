"""Joint evaluation is scikit-learn's on the pooled rows, with intervals that cover; contributions are those of models fitted by hand."""

from __future__ import annotations

import itertools
import math

import hypothesis
import msgspec
import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pooling import Departments, declared, request, split
from scipy import stats
from sklearn import metrics

from federated.learn import estimators, figures
from federated.learn.contribution import Contribution
from federated.learn.evaluation import Evaluation
from federated.learn.learner import State
from sandbox import fit as f
from sandbox import query as q
from sandbox.disclosure import NONE, RULES
from sandbox.errors import Denied, ParameterError, QueryError

CREDIT = ("student", "balance", "income")
CUT = q.Cut(q.Column("income"), (20_000.0, 40_000.0), ("low", "mid", "high"))


def evaluated(joint, fit, model=None):
    """The evaluation, and target and prediction of all rows."""
    model = model or joint.fit(fit)
    evaluation = Evaluation(fit, joint.schema, len(joint), model)
    rows = joint.rows(evaluation)
    matrix, target = np.vstack([r.matrix for r in rows]), np.concatenate([r.target for r in rows])
    return joint.run(evaluation), target, model.predict(matrix)


@pytest.mark.parametrize(
    "estimator",
    [f.LogisticRegression(), f.HistGradientBoostingClassifier(max_iter=15)],
    ids=["logistic", "trees"],
)
def test_a_classifier_is_scored_as_on_the_pooled_rows(credit, estimator):
    found, target, chance = evaluated(credit, request(estimator, CREDIT, "default"))
    auc = metrics.roc_auc_score(target, chance)
    assert found.auc_bounds[0] <= auc <= found.auc_bounds[1]
    assert found.auc == pytest.approx(auc, abs=2e-4)
    assert found.ks == pytest.approx(
        stats.ks_2samp(chance[target == 0], chance[target == 1]).statistic, abs=2e-3
    )
    assert found.log_loss == pytest.approx(metrics.log_loss(target, chance), rel=1e-9)
    assert found.brier == pytest.approx(metrics.brier_score_loss(target, chance), rel=1e-9)
    assert np.array(found.confusion).tolist() == metrics.confusion_matrix(target, chance > 0.5).tolist()
    assert found.accuracy == pytest.approx(metrics.accuracy_score(target, chance > 0.5))
    assert credit.rounds == 1
    for tenth in found.calibration:
        own = (chance >= tenth.low) & (chance < tenth.high)
        assert tenth.rows == own.sum()
        if tenth.rows:
            assert tenth.predicted == pytest.approx(chance[own].mean())
            assert tenth.observed == pytest.approx(target[own].mean())


def test_intervals_are_the_textbooks(credit):
    found, target, chance = evaluated(credit, request(f.LogisticRegression(), CREDIT, "default"))
    # DeLong by its definition: placements of each row among those of the other class.
    first, second = np.sort(chance[target == 0]), chance[target == 1]
    of_second = np.searchsorted(first, second) / len(first)
    of_first = 1 - np.searchsorted(np.sort(second), first, side="right") / len(second)
    spread = math.sqrt(of_second.var(ddof=1) / len(second) + of_first.var(ddof=1) / len(first))
    half = stats.norm.ppf(0.975) * spread
    np.testing.assert_allclose(found.auc_interval, [found.auc - half, found.auc + half], atol=1e-4)
    loss = -np.log(np.where(target == 1, chance, 1 - chance))
    np.testing.assert_allclose(
        np.diff(found.log_loss_interval), 2 * 1.959964 * loss.std() / math.sqrt(len(loss)), rtol=1e-5
    )
    wilson = stats.binomtest(round(found.accuracy * found.rows), found.rows).proportion_ci(method="wilson")
    np.testing.assert_allclose(found.accuracy_interval, [wilson.low, wilson.high], rtol=1e-9)


def test_naive_bayes_is_scored_by_its_posterior(credit):
    fit = request(f.GaussianNB(), ("balance", "income"), "default")
    model = credit.fit(fit)
    found, target, _ = evaluated(credit, fit, model)
    matrix = np.vstack([r.matrix for r in credit.rows(estimators.exact(fit, credit.schema, len(credit)))])
    chance = model.to_sklearn().predict_proba(matrix)[:, 1]
    assert found.log_loss == pytest.approx(metrics.log_loss(target, chance), rel=1e-6)


def test_a_regression_is_scored_as_on_the_pooled_rows(diamonds):
    found, target, predicted = evaluated(diamonds, request(f.LinearRegression(), ("carat", "cut"), "price"))
    assert found.r_squared == pytest.approx(metrics.r2_score(target, predicted), rel=1e-9)
    assert found.rmse == pytest.approx(metrics.root_mean_squared_error(target, predicted), rel=1e-9)
    assert found.bias == pytest.approx(0, abs=1e-9)
    assert found.r_squared_interval[0] < found.r_squared < found.r_squared_interval[1]
    squares = (target - predicted) ** 2
    half = 1.959964 * squares.std() / math.sqrt(len(squares))
    np.testing.assert_allclose(
        np.square(found.rmse_interval), [squares.mean() - half, squares.mean() + half], rtol=1e-5
    )


@pytest.mark.parametrize("level", ["general-2", "general-3"])
def test_under_disclosure_control_figures_are_of_bins_with_rows_enough(credit, level):
    fit, rules = request(f.LogisticRegression(), CREDIT, "default"), RULES[level]
    model = credit.fit(fit)
    evaluation = Evaluation(fit, credit.schema, len(credit), model)
    layout = evaluation.layout(evaluation.start())
    sums = layout.decode(
        credit.secure_sum(evaluation)(evaluation.start(), layout.words(len(credit))), len(credit)
    )
    found, exact = evaluation.result(sums, rules), evaluation.result(sums, NONE)
    slack = 0.0 if level == "general-2" else 0.02
    assert found.auc_bounds[0] - slack <= exact.auc <= found.auc_bounds[1] + slack
    assert found.ks <= exact.ks + slack
    assert found.ks == pytest.approx(exact.ks, abs=0.06)
    assert found.log_loss == pytest.approx(exact.log_loss, rel=0.05)
    assert found.brier == pytest.approx(exact.brier, rel=0.05)
    assert found.accuracy == pytest.approx(exact.accuracy, abs=0.005)
    for part in found.calibration:
        seconds = round(part.observed * part.rows)
        assert min(seconds, part.rows - seconds) >= rules.min_cell
        assert part.low <= part.predicted <= part.high
    if rules.rounding:
        assert not np.array(found.confusion).ravel() % rules.rounding @ np.ones(4)


@hypothesis.given(
    counts=arrays(np.int64, (2, 32), elements=st.integers(0, 9)),
    least=st.integers(1, 40),
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_bins_hold_rows_enough_of_each_class(counts, least):
    if counts.sum(axis=1).min() < least:
        with pytest.raises(Denied, match="of a class"):
            figures.edges(counts, least)
        return
    cuts, halved = figures.edges(counts, least)
    assert cuts[0] == 0
    assert cuts[-1] == 32
    assert np.add.reduceat(counts, cuts[:-1], axis=1).min() >= least
    assert halved == (16 in cuts) or not halved
    assert halved == bool(min(counts[:, :16].sum(1).min(), counts[:, 16:].sum(1).min()) >= least)


def test_a_class_of_few_rows_is_not_evaluated():
    frame = pd.DataFrame({"x": np.arange(90.0), "y": np.arange(90) % 30 == 0})
    scores = np.array([[87], [3]]).repeat(2, axis=1)
    with pytest.raises(Denied, match="fewer than 10 rows of a class"):
        figures.edges(np.array([[50, 37], [2, 1]]), 10)
    assert figures.edges(scores, 3)[1]
    joint = Departments(declared(frame), split(frame, "thirds"))
    found, _, _ = evaluated(joint, request(f.LogisticRegression(), ("x",), "y"))
    assert found.rows == 90  # where nothing is asked of a cell


def test_a_regression_that_two_rows_make_up_is_not_shown():
    few = figures.Missed(
        np.array([10.0, 0, 50, 2000]), np.array([0.0, 100, 200, 900]), np.array([100.0, 200]), 10.0
    )
    with pytest.raises(Denied, match="two rows"):
        figures.regressed(100, 3, 2, few, RULES["general-2"])
    assert figures.regressed(100, 3, 2, few).r_squared == pytest.approx(0.75)


def test_classes_beyond_two_are_refused(credit):
    three = request(f.GaussianNB(), ("income",), "student")
    model = credit.fit(request(f.LogisticRegression(), ("income",), "default"))
    three = msgspec.structs.replace(three, target=q.Derived("band", CUT))
    with pytest.raises(QueryError, match="3 classes"):
        Evaluation(three, credit.schema, len(credit), model)


def test_each_department_by_itself(credit):
    fit = request(f.LogisticRegression(), CREDIT, "default")
    model = credit.fit(fit)
    evaluation = Evaluation(fit, credit.schema, len(credit), model, by_department=True)
    layout, rows = evaluation.layout(evaluation.start()), credit.rows(evaluation)
    words = sum(
        layout.encode(evaluation.local(evaluation.start(), part, i), len(credit))
        for i, part in enumerate(rows)
    )
    sums = layout.decode(words, len(credit))
    joint, _, _ = evaluated(credit, fit, model)
    total = evaluation.result(sums, NONE)
    assert (total.confusion, total.auc) == (joint.confusion, joint.auc)
    assert total.log_loss == pytest.approx(joint.log_loss, rel=1e-12)
    for part, found in zip(rows, evaluation.each(sums, NONE), strict=True):
        if isinstance(found, str):
            assert len(part) < 2 or len(set(part.target)) == 1
            continue
        chance = model.predict(part.matrix)
        assert found.rows == len(part)
        assert found.log_loss == pytest.approx(metrics.log_loss(part.target, chance), rel=1e-9)
        assert found.departments == 1


def test_a_model_of_other_features_is_refused(credit):
    model = credit.fit(request(f.LogisticRegression(), ("balance",), "default"))
    with pytest.raises(QueryError, match="other features"):
        Evaluation(request(f.LogisticRegression(), ("income",), "default"), credit.schema, 3, model)


# --- contributions ---


def contributions(joint, fit, method):
    """Who contributed what, over secure sums, and how many there were."""
    names = tuple(f"d{i}" for i in range(len(joint)))
    learner = Contribution(fit, joint.schema, names, method)
    state, rounds = learner.start(), 0
    while isinstance(state, State):
        layout = learner.layout(state)
        total = np.zeros(layout.words(len(joint)), np.uint64)
        for i, rows in enumerate(joint.rows(learner.inner)):
            total += layout.encode(learner.local(state, rows, i), len(joint))
        state, rounds = learner.update(state, layout.decode(total, len(joint))), rounds + 1
    return state, rounds


@pytest.fixture(scope="module")
def uneven():
    """Four departments: one large, one small, one whose target is noise, one without rows."""
    generator = np.random.default_rng(4)
    frames = []
    for size, noise in ((300, 0.3), (60, 0.3), (200, 3.0), (0, 1.0)):
        x = generator.normal(size=(size, 2)).clip(-3, 3)
        y = (x @ [1.0, -0.5] + noise * generator.normal(size=size)).clip(-9, 9)
        counts = generator.poisson(np.exp(0.5 * x[:, 0])).clip(0, 40)
        frames.append(pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "y": y, "n": counts, "c": y > 0}))
    columns = declared(pd.concat(frames[:3], ignore_index=True))
    return Departments(columns, frames), frames


def by_hand(frames, kind):
    """Each coalition's score from models that statsmodels fits on its pooled rows."""
    whole = pd.concat(frames)

    def deviance(predicted):
        y = whole[{"linear": "y", "logistic": "c", "poisson": "n"}[kind]].astype(float).to_numpy()
        if kind == "linear":
            return ((y - predicted) ** 2).sum()
        if kind == "logistic":
            return -2 * (y * np.log(predicted) + (1 - y) * np.log1p(-predicted)).sum()
        return 2 * (np.where(y > 0, y * np.log(np.where(y > 0, y, 1) / predicted), 0) - (y - predicted)).sum()

    scores = {frozenset(): 0.0}
    column = {"linear": "y", "logistic": "c", "poisson": "n"}[kind]
    null = deviance(np.full(len(whole), whole[column].mean()))
    for size in range(1, len(frames) + 1):
        for members in itertools.combinations(range(len(frames)), size):
            rows = pd.concat([frames[i] for i in members]).assign(c=lambda d: d["c"] * 1)
            if len(rows) == 0:
                scores[frozenset(members)] = 0.0
                continue
            model = {"linear": smf.ols, "logistic": smf.logit, "poisson": smf.poisson}[kind]
            options = {} if kind == "linear" else {"disp": 0, "method": "newton", "tol": 1e-12, "maxiter": 60}
            fitted = model(f"{column} ~ a + b", rows).fit(**options)
            scores[frozenset(members)] = 1 - deviance(np.asarray(fitted.predict(whole))) / null
    return scores


KINDS = {
    "linear": request(f.LinearRegression(), ("a", "b"), "y"),
    "logistic": request(f.LogisticRegression(C=None), ("a", "b"), "c"),
    "poisson": request(f.PoissonRegressor(alpha=0), ("a", "b"), "n"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_shapley_values_are_those_worked_out_by_hand(uneven, kind):
    joint, frames = uneven
    found, _ = contributions(joint, KINDS[kind], "shapley")
    scores = by_hand(frames, kind)
    d = len(frames)
    for i in range(d):
        expected = sum(
            math.factorial(len(s))
            * math.factorial(d - len(s) - 1)
            / math.factorial(d)
            * (scores[s | {i}] - scores[s])
            for s in scores
            if i not in s
        )
        assert found.values[i] == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert sum(found.values) == pytest.approx(found.total, rel=1e-9)
    assert found.values[3] == pytest.approx(0, abs=1e-9)  # no rows


@pytest.mark.parametrize("kind", KINDS)
def test_leaving_one_out_is_fitting_without_it(uneven, kind):
    joint, frames = uneven
    found, rounds = contributions(joint, KINDS[kind], "leave_one_out")
    scores, every = by_hand(frames, kind), frozenset(range(4))
    np.testing.assert_allclose(
        found.values, [scores[every] - scores[every - {i}] for i in range(4)], rtol=1e-6, atol=1e-9
    )
    assert rounds <= 12


def test_noise_is_worth_less_than_rows(uneven):
    found, _ = contributions(uneven[0], KINDS["linear"], "shapley")
    assert found.values[0] > found.values[1] > found.values[2]


def test_who_may_be_asked(uneven):
    joint, _ = uneven
    with pytest.raises(ParameterError, match="made of sums"):
        Contribution(request(f.KMeans(2), ("a",)), joint.schema, ("a", "b"), "shapley")
    with pytest.raises(ParameterError, match="2 to 10 departments, not 11"):
        Contribution(KINDS["linear"], joint.schema, tuple("abcdefghijk"), "shapley")


def test_ten_departments_take_as_many_sums_as_two():
    generator = np.random.default_rng(2)
    frame = pd.DataFrame({"a": generator.normal(size=200).clip(-3, 3)})
    frame["y"] = frame["a"] + generator.normal(size=200).clip(-3, 3)
    parts = [frame.iloc[i::10].reset_index(drop=True) for i in range(10)]
    found, rounds = contributions(
        Departments(declared(frame), parts), request(f.LinearRegression(), ("a",), "y"), "shapley"
    )
    assert rounds == 4
    assert len(found.scores) == 1023
    assert sum(found.values) == pytest.approx(smf.ols("y ~ a", frame).fit().rsquared, rel=1e-9)
