"""The target as a way around disclosure control: a condition that one person alone meets, in the place where no column was counted.

Least squares tells X'y, which is (X'X) b: where y says who is 98, that is the one row of such age. A training's first step, an evaluation of a
model that is nothing but noise, and contributions tell of it too. Each attack works without smallest cells, on the same rows.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from federated import local
from sandbox import col, judge
from sandbox.catalog import Budget, Catalog, Column, DataSet, Overrides
from sandbox.errors import Denied, ParameterError, QueryError
from sandbox.fit import (
    GaussianNB,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    KMeans,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    StandardScaler,
)

NAMES = ("ash", "birch", "cedar")
PURPOSE = "research"
ANALYSES = ("table", "fit", "training", "evaluation", "contribution")
COLUMNS = {
    "age": Column("integer", (0, 120)),
    "visits": Column("integer", (0, 50)),
    "spending": Column("real", (0.0, 100.0)),
    "code": Column("integer", (5, 6)),
    "zone": Column("category", categories=("east", "west")),
    "rare": Column("boolean"),
}
FEATURES = ["visits", "spending"]
VICTIM = (98, 37, 61.5, 6, "east", True)
LEVELS = ("general-1", "general-2")


def city(level: str, rare: int = 1):
    """Three departments of 80 people; one person is 98, and `rare` people have what is rare. The east is ash's, but for the victim."""
    frames, random = {}, np.random.default_rng(7)
    for name in NAMES:
        values = {
            "age": random.integers(20, 90, 80),
            "visits": random.integers(0, 30, 80),
            "spending": random.uniform(0, 100, 80),
            "code": 5,
            "zone": "east" if name == "ash" else "west",
            "rare": False,
        }
        frames[name] = {"t": pd.DataFrame(values)}
    frames["birch"]["t"].loc[0] = VICTIM
    frames["birch"]["t"]["rare"] = np.arange(80) < rare
    budget, own = Budget(100.0, 1e-6), Overrides(analyses=ANALYSES)
    dataset = DataSet(level, (PURPOSE,), COLUMNS, budget=budget, max_rows=1000, policy=own)
    opened = local.open_federation({name: Catalog(name, {"t": dataset}) for name in NAMES}, frames).city()
    one = col("age") == 98
    return opened.table("t").with_columns(
        one=one,
        others=~one,
        spent=one * col("spending"),
        spent_by_others=(~one) * col("spending"),
        twice=2 * col("code"),
    )


def fit(estimator, table, target: str, **options):
    return estimator.fit(table, features=FEATURES, target=target, purpose=PURPOSE, **options)


def products(model) -> tuple[np.ndarray, np.ndarray]:
    """X'X and X'y, the intercept first: what the summary of least squares can be turned back into."""
    inverse = np.array(model.unscaled)
    return np.linalg.inv(inverse), np.linalg.solve(inverse, np.array(model.coefficients))


def row(target: str, model) -> np.ndarray:
    """The victim's visits and spending, from a model with this target."""
    of_columns, with_target = products(model)
    match target:
        case "others":
            return (of_columns[0] - with_target)[1:]
        case "spent":
            return with_target[1:] / with_target[0]
        case "spent_by_others":
            left = of_columns[2] - with_target
            return left[1:] / left[0]
        case "code":
            return (with_target - 5 * of_columns[0])[1:]
        case "twice":
            return (with_target / 2 - 5 * of_columns[0])[1:]
    return with_target[1:]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("target", ["one", "others", "rare", "code", "twice", "spent", "spent_by_others"])
def test_a_row_from_the_sums_of_least_squares(level, target):
    table = city(level)
    if level == "general-1":
        found = row(target, fit(LinearRegression(), table, target).model)
        np.testing.assert_allclose(found, VICTIM[1:3], rtol=1e-5)
    else:
        with pytest.raises(Denied, match=f"level {target}.*fewer than 10 rows"):
            fit(LinearRegression(), table, target)


@pytest.mark.parametrize(
    "estimator",
    [
        PoissonRegressor(),
        HistGradientBoostingRegressor(max_iter=1, max_depth=1, min_samples_leaf=20),
        LogisticRegression(),
        GaussianNB(),
        HistGradientBoostingClassifier(max_iter=1, max_depth=1, min_samples_leaf=20),
    ],
)
@pytest.mark.parametrize("target", ["one", "others"])
def test_no_other_model_takes_such_a_target(estimator, target):
    fit(estimator, city("general-1"), target)
    with pytest.raises(Denied, match="fewer than 10 rows"):
        fit(estimator, city("general-2"), target)


def test_a_condition_is_mixed_into_no_number():
    table = city("general-2").with_columns(
        mixed=col("visits") + (col("age") == 98), ordered=(col("age") == 98) * col("visits") - col("visits")
    )
    for target in ("mixed", "ordered"):
        with pytest.raises(QueryError, match=f"target '{target}' mixes a condition into a number"):
            fit(LinearRegression(), table, target)


@pytest.mark.parametrize("level", LEVELS)
def test_as_a_feature_a_product_tells_no_more_than_its_condition(level):
    """`spent_by_others` is not 0 for nearly everyone and 0 for many more than one: who is chosen is counted, not what it comes to."""
    table, features = city(level), ["spending", "others_visits"]
    table = table.with_columns(others_visits=(col("age") != 98) * col("visits"))

    def told():
        return LinearRegression().fit(table, features=[*features, "visits"], target="age", purpose=PURPOSE)

    if level == "general-1":
        of_columns, _ = products(told().model)
        assert of_columns[0, 3] - of_columns[0, 2] == pytest.approx(VICTIM[1])
        assert of_columns[1, 3] - of_columns[1, 2] == pytest.approx(VICTIM[1] * VICTIM[2])
    else:
        with pytest.raises(Denied, match=r"level others_visits\[False\]: fewer than 10 rows"):
            told()


@pytest.mark.parametrize("level", LEVELS)
def test_contributions_of_such_a_target(level):
    table = city(level)
    noise = fit(LinearRegression(), table, "one", epsilon=0.1)
    if level == "general-1":
        assert len(noise.contribution(table, purpose=PURPOSE).found.values) == 3
    else:
        with pytest.raises(Denied, match="level one, not 0: fewer than 10 rows"):
            noise.contribution(table, purpose=PURPOSE)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("target", ["one", "spent"])
def test_the_evaluation_of_a_model_that_is_noise(level, target):
    table = city(level)
    noise = fit(LinearRegression(), table, target, epsilon=0.01)
    if level == "general-1":
        found = noise.evaluate(table, purpose=PURPOSE).figures
        variance = found.rmse**2 / (1 - found.r_squared)
        worth = VICTIM[2] if target == "spent" else 1.0
        assert found.rows * variance == pytest.approx(worth**2 * (1 - 1 / found.rows), rel=1e-3)
    else:
        with pytest.raises(Denied, match=f"level {target}, not 0: fewer than 10 rows"):
            noise.evaluate(table, purpose=PURPOSE)


def test_the_dominance_of_a_target_that_is_not_about_the_middle_of_its_bounds():
    """No condition, and not 0 for anyone, but as good as: 58 to the power of 40 is a person's own."""
    power = (col("age") + 1) / 100
    for _ in range(6):
        power = power * power
    table = city("general-2").with_columns(power=power)
    noise = fit(LinearRegression(), table, "power", epsilon=0.01)
    with pytest.raises(Denied, match="two rows could make up too much"):
        noise.evaluate(table, purpose=PURPOSE)


# --- trainings ---


def stepped(table, feature: str, target: str = "spending"):
    """One step from weights that everyone knows; what it moved, and the weights before."""
    torch = pytest.importorskip("torch")
    from federated.neural import spec
    from sandbox import training

    trained = table.train(
        torch.nn.Linear(1, 1), features=[feature], target=target, loss="squared_error", rounds=1,
        sampling_rate=1.0, optimiser=training.Sgd(1.0), purpose=PURPOSE,
    )  # fmt: skip
    layers = trained.training.layers
    before = spec.unpack(layers, spec.initial(layers, 0)).astype(float)
    return spec.unpack(layers, trained.weights) - before, before


@pytest.mark.parametrize("level", LEVELS)
def test_the_first_step_of_a_training_on_a_condition(level):
    """With x = 1 for the victim and -1 for all others the two gradients differ by the victim's residual."""
    if level == "general-2":
        with pytest.raises(Denied, match="level one, not 0: fewer than 10 rows"):
            stepped(city(level), "one")
        with pytest.raises(Denied, match="level spent, not 0: fewer than 10 rows"):
            stepped(city(level), "visits", "spent")
        return
    moved, before = stepped(city(level), "one")
    residual = -(moved[0] + moved[1]) * 240 / 4
    assert 50 * (before.sum() - residual) + 50 == pytest.approx(VICTIM[2], abs=0.1)


@pytest.mark.parametrize("level", LEVELS)
def test_a_training_on_rows_that_one_department_alone_has(level):
    """The east is ash's: the joint update would be ash's own, which it shows to nobody."""
    table = city(level, rare=0).filter((col("zone") == "east") & (col("age") < 98))
    if level == "general-1":
        assert stepped(table, "visits")[0].any()
        return
    with pytest.raises(Denied, match="fewer than 3 departments contribute"):
        LinearRegression().fit(table, features=["visits"], target="spending", purpose=PURPOSE)
    with pytest.raises(Denied, match="fewer than 3 departments contribute"):
        stepped(table, "visits")


@pytest.mark.parametrize("coordinator", [True, False])
def test_each_department_looks_at_the_counts_of_a_training_too(monkeypatch, coordinator):
    """A coordinator that does not look is told by the departments; both have to be silent for the attack to work."""
    training = pytest.importorskip("federated.training")
    monkeypatch.setattr(training.AskedTraining, "refusals", lambda *_: ())
    if not coordinator:
        monkeypatch.setattr(training.AnsweringTraining, "_check", lambda *_: None)
        assert stepped(city("general-2"), "one")[0].any()
        return
    with pytest.raises(Exception, match="fewer than 10 rows"):
        stepped(city("general-2"), "one")


# --- clusters ---


@pytest.mark.parametrize("defended", [True, False])
def test_first_centres_that_part_the_rows_at_one_person(monkeypatch, defended):
    """The first clusters of two fits differ by whoever spends what the victim does, and by nobody else; all four are large."""
    table = city("general-2")
    if not defended:
        monkeypatch.setattr(judge.fit, "places", lambda _model: False)

    def part(cut: float) -> np.ndarray:
        begin = ((15.0, cut - 38.0), (15.0, cut + 38.0))
        found = KMeans(2, init=begin, max_iter=1).fit(table, features=FEATURES, purpose=PURPOSE).model
        low, high = np.array(found.centers)
        mean = np.array(StandardScaler().fit(table, features=FEATURES, purpose=PURPOSE).model.mean)
        return round(240 * (mean - high) @ (low - high) / ((low - high) @ (low - high))) * low

    if defended:
        with pytest.raises(Denied, match="'init': an exact k-means begins from centres that are drawn"):
            part(VICTIM[2])
        begin = ((0.0, 50.0), (40.0, 50.0))
        assert KMeans(2).fit(table, features=FEATURES, purpose=PURPOSE).model.sizes
        options = {"features": FEATURES, "purpose": PURPOSE, "epsilon": 1.0, "rounds": 2}
        assert KMeans(2, init=begin).fit(table, **options).model.centers
    else:
        np.testing.assert_allclose(part(VICTIM[2] + 1e-3) - part(VICTIM[2] - 1e-3), VICTIM[1:3], rtol=1e-6)


# --- none, and few ---


@pytest.mark.parametrize(
    ("estimator", "target"),
    [
        (LogisticRegression(), "rare"),
        (GaussianNB(), "rare"),
        (HistGradientBoostingClassifier(min_samples_leaf=20), "rare"),
        (PoissonRegressor(), "spent"),
        (LinearRegression(), "rare"),
    ],
)
def test_none_is_not_told_apart_from_few(estimator, target):
    told = {}
    for level in LEVELS:
        for rare in (0, 5):
            table = city(level, rare)
            if target == "spent":
                table = table.with_columns(spent=col("rare") * col("spending"))
            try:
                fit(estimator, table, target)
                told[level, rare] = "a model"
            except (Denied, QueryError, ParameterError) as error:
                told[level, rare] = str(error)
    assert told["general-2", 0] == told["general-2", 5]
    assert "fewer than 10 rows" in told["general-2", 0]
    if not isinstance(estimator, LinearRegression):
        assert told["general-1", 0] != told["general-1", 5]


def test_contributions_tell_none_from_few_no_more():
    told = []
    for rare in (0, 5):
        table = city("general-2", rare)
        noise = fit(LogisticRegression(), table, "rare", epsilon=1.0, rounds=2)
        with pytest.raises(Denied) as raised:
            noise.contribution(table, purpose=PURPOSE)
        told.append(str(raised.value))
    assert told[0] == told[1]
