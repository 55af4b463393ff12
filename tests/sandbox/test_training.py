import math

import msgspec
import numpy as np
import pytest

from sandbox import accounting, architecture, features, fit
from sandbox import architecture as a
from sandbox import query as q
from sandbox import training as t
from sandbox.accounting import ORDERS, SampledGaussian, Zcdp
from sandbox.catalog import Column, DataSet
from sandbox.errors import BudgetExceeded, ParameterError, QueryError, SandboxError
from sandbox.ledger import Caps, Charge, Ledger

DELTA = 1e-6
LAYERS = (a.Linear(4, 8), a.ReLU(), a.Linear(8, 2))
RECORD = t.RecordLevel("joint", clip=1, noise_multiplier=1.5, lot=512)
COLUMNS = {
    "id": Column("identifier"),
    "age": Column("integer", (0, 100)),
    "income": Column("real", (0, 1000), nullable=True),
    "sex": Column("category", categories=("female", "male")),
    "region": Column("category", categories=("n", "e", "s"), nullable=True),
    "ill": Column("boolean"),
    "unbounded": Column("real"),
}


def named(name) -> q.Derived:
    return q.Derived(name, q.Column(name))


def training(**changes) -> t.Training:
    fields = {
        "table": "t",
        "features": ("age", "sex"),
        "target": "ill",
        "layers": LAYERS,
        "loss": "cross_entropy",
        "rounds": 100,
        "sampling_rate": 0.01,
        **changes,
    }
    fields["features"] = tuple(map(named, fields["features"]))
    return t.Training(**{**fields, "target": named(fields["target"])})


def schema(**changes):
    return DataSet("general-2", ("p",), COLUMNS, unit="id", **changes).schema()


# --- the value ---


@pytest.mark.parametrize(
    "made",
    [
        training(),
        training(privacy=RECORD, validation=t.Validation(0.1, every=10, patience=3)),
        training(privacy=t.DepartmentLevel(1, 2.0), strategy=t.FedProx(0.1), optimiser=t.Adam()),
        training(where=q.Compare("<", q.Column("age"), q.Value(60)), strategy=t.FedAdam(), weights="0" * 64),
    ],
)
def test_a_training_is_its_bytes(made):
    data = q.canonical(made)
    again = q.decode(data, t.Training)
    assert again == made
    assert again.digest() == made.digest()
    assert q.canonical(again) == data


def test_equal_trainings_have_equal_digests_however_they_were_made():
    ints = training(features=["age", "sex"], optimiser=t.Sgd(1), privacy=t.RecordLevel("joint", 1, 2, 512))
    floats = training(optimiser=t.Sgd(1.0), privacy=t.RecordLevel("joint", 1.0, 2.0, 512.0))
    assert ints.digest() == floats.digest()


def test_numbers_of_numpy_are_the_same_training():
    made = training(
        rounds=np.int64(10), sampling_rate=np.float64(0.5), optimiser=t.Sgd(np.float32(0.5), np.int8(0))
    )
    plain = training(rounds=10, sampling_rate=0.5, optimiser=t.Sgd(0.5, 0.0))
    assert made == plain
    assert made.digest() == plain.digest()


OUTSIDE = [
    (lambda v: training(rounds=v), "rounds", (0, 100_001, 1.5, True)),
    (lambda v: training(local_steps=v, rounds=1), "local_steps", (0, -1)),
    (lambda v: training(sampling_rate=v), "sampling_rate", (0, 1.1, math.nan, math.inf)),
    (lambda v: training(loss=v), "loss", ("mse", None)),
    (lambda v: training(features=v), "features", ((),)),
    (lambda v: training(layers=v), "layers", ((), (a.ReLU(),) * 129)),
    (lambda v: training(seed=v), "seed", (-1, 2**60)),
    (lambda v: training(weights=v), "weights", ("zz", "A" * 64)),
    (lambda v: t.Sgd(v), "learning_rate", (0, -1, 1e4, math.nan)),
    (lambda v: t.Sgd(0.1, v), "momentum", (1, -0.1)),
    (lambda v: t.FedProx(v), "proximal_mu", (0, math.nan)),
    (lambda v: t.FedAdam(tau=v), "tau", (0, 2)),
    (lambda v: t.RecordLevel(v, 1, 1, 1), "noise", ("none",)),
    (lambda v: t.RecordLevel("local", v, 1, 1), "clip", (0, -1, math.inf, math.nan)),
    (lambda v: t.RecordLevel("local", 1, v, 1), "noise_multiplier", (0, 0.01, 1e5, math.nan)),
    (lambda v: t.RecordLevel("local", 1, 1, v), "lot", (0, 0.5, math.nan)),
    (lambda v: t.DepartmentLevel(1, v), "noise_multiplier", (0,)),
    (lambda v: t.Validation(v), "share", (0, 0.6, 1)),
    (lambda v: t.Validation(0.1, patience=v), "patience", (0,)),
    (lambda v: a.Linear(v, 2), "in_features", (0, 65_537, "3")),
    (lambda v: a.Dropout(v), "p", (-0.1, 1)),
]


@pytest.mark.parametrize(
    ("make", "field", "value"), [(make, field, value) for make, field, values in OUTSIDE for value in values]
)
def test_what_is_out_of_range_is_refused_by_name(make, field, value):
    with pytest.raises(ParameterError, match=f"'{field}'"):
        make(value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"privacy": RECORD, "local_steps": 2}, "'local_steps' is 2"),
        ({"privacy": RECORD, "optimiser": t.Adam()}, "'optimiser' must be Sgd without momentum"),
        ({"privacy": RECORD, "optimiser": t.Sgd(0.1, 0.9)}, "'optimiser' must be Sgd without momentum"),
        ({"privacy": RECORD, "strategy": t.FedProx(1)}, "FedProx does nothing"),
        (
            {"privacy": t.DepartmentLevel(1, 1), "validation": t.Validation(0.1)},
            "'validation' is not offered",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(changes, reason):
    with pytest.raises(ParameterError, match=reason):
        training(**changes)


@pytest.mark.parametrize(
    "change",
    [
        lambda made: made["layers"].append({"layer": "batch_norm", "num_features": 2}),
        lambda made: made["layers"][0].update(forward="x * 2"),
        lambda made: made.update(code="print()"),
        lambda made: made["privacy"].update(noise_multiplier=0.0),
        lambda made: made["optimiser"].update(node="lbfgs"),
        lambda made: made.pop("rounds"),
    ],
)
def test_bytes_that_say_anything_else_are_refused(change):
    made = msgspec.json.decode(q.canonical(training(privacy=RECORD)))
    change(made)
    with pytest.raises(SandboxError):
        q.decode(msgspec.json.encode(made), t.Training)


# --- the network ---


@pytest.mark.parametrize(
    ("layers", "inputs", "shape", "parameters"),
    [
        (LAYERS, 4, (2,), 4 * 8 + 8 + 8 * 2 + 2),
        ((a.Linear(4, 3, bias=False),), 4, (3,), 12),
        (
            (a.Unflatten((2, 8)), a.Conv1d(2, 4, 3, stride=2, padding=1), a.Flatten()),
            16,
            (16,),
            2 * 4 * 3 + 4,
        ),
        ((a.Unflatten((1, 8, 8)), a.Conv2d(1, 4, (3, 3)), a.MaxPool2d((2, 2), (2, 2))), 64, (4, 3, 3), 40),
        (
            (a.LayerNorm((4,)), a.LayerNorm((4,), bias=False), a.LayerNorm((4,), elementwise_affine=False)),
            4,
            (4,),
            12,
        ),
        ((a.Unflatten((4, 2)), a.GroupNorm(2, 4), a.Linear(2, 3)), 8, (4, 3), 8 + 9),
        ((a.Unflatten((4, 6)), a.Conv1d(4, 8, 3, groups=2), a.MaxPool1d(2, 2)), 24, (8, 2), 8 * 2 * 3 + 8),
    ],
)
def test_a_records_shape_through_the_layers(layers, inputs, shape, parameters):
    assert architecture.output(layers, inputs) == shape
    assert architecture.parameters(layers) == parameters


@pytest.mark.parametrize(
    ("layers", "inputs", "reason"),
    [
        (LAYERS, 5, r"layer 0 \(Linear\) takes 4 numbers in the last dimension; a record has \(5,\) there"),
        ((a.Linear(4, 3), a.Linear(4, 3)), 4, r"layer 1 \(Linear\)"),
        ((a.Conv1d(1, 1, 3),), 4, "1 channels x positions"),
        ((a.Unflatten((1, 4)), a.Conv1d(1, 1, 9)), 4, "sides of at least 9"),
        ((a.Unflatten((3, 2)), a.Conv1d(3, 4, 1, groups=2)), 6, "channels that its groups divide"),
        ((a.Unflatten((2, 3)),), 5, "a row of 6 numbers"),
        ((a.LayerNorm((3,)),), 4, r"\(3,\) at the end"),
        ((a.ReLU(),), 4, "has 0 parameters"),
        ((a.Linear(60_000, 60_000),), 60_000, "has 3600060000 parameters; allowed are 1 to 20000000"),
        (
            (a.Linear(1, 60_000), a.Unflatten((1, 200, 300)), a.Conv2d(1, 999, (1, 1))),
            1,
            "at most 4194304 numbers",
        ),
    ],
)
def test_layers_that_do_not_fit_are_named(layers, inputs, reason):
    with pytest.raises(ParameterError, match=reason):
        architecture.output(layers, inputs)


# --- against a schema ---


def test_columns_become_inputs_from_the_schema_alone():
    layers = (a.Linear(1 + 2 + 2 + 4, 2),)
    made = features.design(
        training(features=("age", "income", "sex", "region"), layers=layers, missing="indicator"), schema()
    )
    assert [column.feature for column in made.columns] == [0, 1, 1, 2, 2, 3, 3, 3, 3]
    assert made.target.classes == (False, True)
    assert fit_cohort(training(missing="drop")).where is None


def fit_cohort(made):
    return fit.cohort(features.fit(made), schema())


def test_the_cohort_is_who_is_trained_on():
    """What disclosure control and the differencing defence compare."""
    where = q.Compare("<", q.Column("age"), q.Value(60))
    dropped = q.Not(q.IsNull(q.Column("income")))
    layers = (a.Linear(2, 2),)
    both = fit_cohort(training(features=("age", "income"), layers=layers, where=where))
    assert both.where == q.Logic("and", (where, dropped))
    kept = fit_cohort(training(features=("age", "income"), layers=layers, where=where, missing="indicator"))
    assert kept.where == where


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"features": ("age", "no_such")}, QueryError, "unknown column 'no_such'"),
        ({"features": ("age", "age")}, QueryError, "differ from each other"),
        ({"features": ("age", "ill")}, QueryError, "differ from each other"),
        ({"features": ("age", "id")}, QueryError, "identifies units"),
        ({"features": ("age", "unbounded")}, QueryError, "no declared bounds"),
        ({"target": "income"}, QueryError, "needs a declared domain"),
        ({"target": "region", "loss": "binary_cross_entropy"}, QueryError, "3 declared classes; .* needs 2"),
        ({"target": "region"}, ParameterError, r"give \(2,\) numbers a record; .* needs \(3,\)"),
        (
            {"target": "income", "loss": "squared_error", "layers": (a.Linear(2, 2),)},
            ParameterError,
            r"needs \(1,\)",
        ),
        ({"where": q.Column("age")}, QueryError, "a condition is needed, not integer"),
        ({"where": q.Compare("<", q.Column("x"), q.Value(1))}, QueryError, "unknown column 'x'"),
    ],
)
def test_what_the_schema_does_not_offer_is_refused(changes, error, reason):
    layers = (a.Linear(3, 2),)
    with pytest.raises(error, match=reason):
        features.design(training(**{"layers": layers, **changes}), schema())


def test_record_level_privacy_needs_one_row_a_unit():
    layers, several = (a.Linear(3, 2),), schema(rows_per_unit=3)
    with pytest.raises(ParameterError, match="may have 3"):
        features.design(training(layers=layers, privacy=RECORD), several)
    features.design(training(layers=layers, privacy=RECORD), schema())
    features.design(training(layers=layers, privacy=t.DepartmentLevel(1, 1)), several)


# --- what it costs ---


def test_an_event_covers_all_rounds_and_steps():
    assert t.event(training()) is None
    assert t.event(training(privacy=RECORD)) == SampledGaussian(0.01, 1.5, 100)
    local = t.RecordLevel("local", 1, 1.5, 100)
    assert t.event(training(privacy=local, local_steps=7)) == SampledGaussian(0.01, 1.5, 700)
    assert t.event(training(privacy=t.DepartmentLevel(3, 2.0), local_steps=7)) == Zcdp(100 / 8)


@pytest.mark.parametrize("privacy", [RECORD, t.RecordLevel("local", 1, 1.5, 9), t.DepartmentLevel(1, 1.5)])
def test_two_rounds_cost_more_than_one(privacy):
    one, two = (t.epsilon(training(privacy=privacy, rounds=n), DELTA) for n in (1, 2))
    assert two > one > 0


def test_two_rounds_cost_more_than_one_in_the_ledger_and_a_resumed_training_neither_twice_nor_nothing(
    tmp_path,
):
    ledger, caps = Ledger(tmp_path / "ledger.db"), Caps(epsilon=100, delta=DELTA)

    def charge(made):
        name = f"rounds-{made.rounds}"
        return ledger.charge(Charge(made.digest(), name, "li", "research", 0.0, t.event(made), 1.0), caps)

    one, two = training(privacy=RECORD, rounds=1), training(privacy=RECORD, rounds=2)
    first, second = charge(one), charge(two)
    assert second.spent > first.spent > 0
    again = charge(two)
    assert again.repeated
    assert ledger.spent("rounds-2", DELTA).epsilon == pytest.approx(second.spent)
    with pytest.raises(BudgetExceeded):
        ledger.charge(
            Charge(b"x", "rounds-2", "li", "research", 0.0, t.event(two), 1.0),
            Caps(second.spent * 1.01, DELTA),
        )
    ledger.close()


@pytest.mark.parametrize("privacy", [RECORD, t.DepartmentLevel(1, 1)])
@pytest.mark.parametrize("epsilon", [0.5, 8.0])
def test_noise_for_an_epsilon_is_just_enough(privacy, epsilon):
    made = t.with_epsilon(training(privacy=privacy), epsilon, DELTA)
    assert 0.99 * epsilon < t.epsilon(made, DELTA) <= epsilon
    assert msgspec.structs.replace(made, privacy=privacy) == training(privacy=privacy)


@pytest.mark.parametrize("epsilon", [0.0, 101, math.nan])
def test_an_epsilon_that_is_none(epsilon):
    with pytest.raises(ParameterError, match="'epsilon'"):
        t.with_epsilon(training(privacy=RECORD), epsilon, DELTA)
    with pytest.raises(ParameterError, match="needs 'privacy'"):
        t.with_epsilon(training(), 1.0, DELTA)
    with pytest.raises(ParameterError, match="more noise than"):
        t.with_epsilon(training(privacy=t.DepartmentLevel(1, 1), rounds=100_000), 1e-4, DELTA)


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.3, 1])
@pytest.mark.parametrize("every", [1, 10])
def test_the_metrics_of_other_records_cost_nowhere_more_than_training(rate, every):
    made = training(privacy=RECORD, sampling_rate=rate, validation=t.Validation(0.2, every=every))
    z, trained = t.validation_multiplier(made), accounting.cost(t.event(made)).curve
    metrics = made.evaluations * np.array(ORDERS) / (2 * z**2)
    assert (metrics <= trained * (1 + 1e-12)).all()
    less = made.evaluations * np.array(ORDERS) / (2 * (0.99 * z) ** 2)
    assert (less > trained).any()


def test_a_metric_that_would_be_noise_is_refused_before_anything_is_charged():
    private = t.RecordLevel("joint", 1, 1000, 1)
    made = training(
        sampling_rate=1e-6, privacy=private, validation=t.Validation(0.1), layers=(a.Linear(3, 2),)
    )
    with pytest.raises(ParameterError, match="'validation' would need noise of"):
        features.design(made, schema())
    features.design(msgspec.structs.replace(made, validation=None), schema())


def test_evaluations_are_counted():
    made = training(rounds=25, validation=t.Validation(0.1, every=10))
    assert [round for round in range(26) if made.evaluates(round)] == [0, 10, 20, 25]
    assert made.evaluations == 4
    assert training().evaluations == 0
    with pytest.raises(ParameterError, match="record-level"):
        t.validation_multiplier(made)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "exact"),
        ({"privacy": RECORD}, "private for each row: towards whoever sees the joint sums"),
        ({"privacy": t.RecordLevel("local", 1, 1, 1)}, "a department's own updates"),
        ({"privacy": t.DepartmentLevel(1, 1)}, "each department as a whole"),
    ],
)
def test_the_leakage_is_told(changes, words):
    told = t.leakage(training(**changes))
    assert "100 rounds" in told[0]
    assert "58 weights" in told[0]
    assert words in told[-1]
    if "privacy" not in changes:
        assert "11 of them" in t.leakage(training(validation=t.Validation(0.1, every=10)))[1]
