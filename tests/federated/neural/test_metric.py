"""The joint validation metric: what it is, what noise it has, and when it ends a training."""

import math

import numpy as np
import pytest
import torch
from trainees import LAYERS, Seeded, rows, training

from federated.neural import dpsgd, encoding, participant, spec
from federated.neural import training as coordinator
from federated.neural.encoding import Sizes
from federated.neural.network import Data, Network
from federated.neural.participant import Answered, Participant
from sandbox import architecture
from sandbox import training as t


def test_the_metric_is_the_pooled_one(city):
    made = training(rounds=1, validation=t.Validation(0.3, cap=2.0))
    parts = [rows(300, 1), rows(40, 2), rows(500, 3)]
    one = city(made, parts)
    state = coordinator.start(made)
    aside = []
    for name, part in zip(one.names, parts, strict=True):
        key = one.stores[name].take(b"another", 0, Seeded(0, name))
        aside.append(part.take(participant.sample(len(part), 0.3, lambda _size, key=key: key)))
    pooled = Data(torch.cat([part.x for part in aside]), torch.cat([part.y for part in aside]))
    expected = Network(made, spec.unpack(LAYERS, state.weights)).metric(pooled, 2.0)
    point = one.run(ask=one.ask).history.points[0]
    assert point.loss == pytest.approx(expected.loss / len(pooled), rel=1e-6)
    assert point.accuracy == pytest.approx(expected.right / len(pooled))
    assert 0.2 * 840 < len(pooled) < 0.4 * 840


def test_no_row_is_ever_both_trained_on_and_set_aside(tmp_path):
    made, data = training(validation=t.Validation(0.3), rounds=9), rows(500)
    splits = []
    for attempt in range(3):
        store = Answered(tmp_path / "answered.db")
        one = Participant(made, made.digest(), data, Sizes(3, 2, 1000), store, Seeded(attempt))
        for round in (2 * attempt, 2 * attempt + 1):
            trained, aside = one._split(store.take(made.digest(), round, Seeded(attempt)))
            splits.append((trained.x.tolist(), aside.x.tolist()))
        store.close()
    assert all(split == splits[0] for split in splits)
    assert len(splits[0][0]) + len(splits[0][1]) == 500


def test_training_stops_when_the_metric_gets_no_better_and_keeps_the_best(city):
    made = training(rounds=200, local_steps=5, optimiser=t.Sgd(3.0), validation=t.Validation(0.3, patience=4))
    one = city(made, [rows(60, 1), rows(60, 2), rows(60, 3)])
    state = one.run()
    losses = [point.loss for point in state.history.points]
    assert state.history.stopped == "no better in 4 metrics"
    assert len(losses) < 200
    assert state.least == min(losses) == losses[state.history.best]
    assert min(losses) not in losses[-4:]
    assert state.result != state.weights
    assert state.memory.updates == len(losses) - 1  # the round that ended it changed nothing


@pytest.mark.parametrize("noise", ["joint", "local"])
def test_the_metric_under_privacy_has_the_noise_that_is_declared(city, noise):
    """In the local setting each department adds all of it."""
    made = training(
        rounds=60, privacy=t.RecordLevel(noise, 1, 1.0, 90), validation=t.Validation(0.5, cap=4.0)
    )
    one = city(made, [rows(0), rows(0), rows(0)])
    on = encoding.metric_grid(made, one.sizes)
    honest = one.sizes.honest if noise == "joint" else 1
    whole = t.validation_multiplier(made) * math.sqrt(3)
    assert on.sigma * on.unit * math.sqrt(honest) == pytest.approx(whole, rel=2 * dpsgd.SLACK)
    values = []
    for round in range(60):
        joint, _ = one.plain(round, coordinator.start(made).weights)
        values.append(joint.view(np.int64)[-3:])
    seen = on.values(np.array(values)).std()
    assert (
        0.75 < seen / (whole * math.sqrt(3 / honest)) < 4 / 3
    )  # of 180 values; beyond with probability < 1e-6
    assert encoding.decode(made, one.sizes, 0, joint, 3).metric is None


def test_noise_alone_is_no_metric(city):
    """The count may well be positive, and is not taken for one below three of its deviations."""
    made = training(privacy=t.RecordLevel("joint", 1, 1.0, 90), validation=t.Validation(0.5))
    sizes = Sizes(3, 2, 1000)
    on = encoding.metric_grid(made, sizes)
    deviation = on.sigma * on.unit * math.sqrt(3)
    for count, taken in ((2.9, False), (3.1, True)):
        metric = on.integers(np.array([1.0, 1.0, count * deviation]))
        joint = np.concatenate([np.zeros(58, np.int64), metric]).view(np.uint64)
        assert (encoding.decode(made, sizes, 0, joint, 3).metric is not None) == taken


def test_a_loss_that_is_no_number_counts_as_the_cap():
    layers = (architecture.Linear(4, 2), architecture.Linear(2, 1))
    made = training(loss="squared_error", layers=layers)
    data = Data(torch.ones(3, 4), torch.zeros(3))
    assert Network(made, np.full(13, 1e30, np.float32)).metric(data, 5.0).loss == 15
    no_number = np.array([3e38] * 10 + [1, -1, 0], np.float32)  # infinity less infinity
    assert torch.isnan(Network(made, no_number).outputs(data.x)).all()
    assert Network(made, no_number).metric(data, 5.0).loss == 15


def test_the_metric_is_that_of_the_network_at_rest():
    layers = (architecture.Linear(4, 50), architecture.Dropout(0.9), architecture.Linear(50, 2))
    made, data = training(layers=layers), rows(200)
    weights = spec.initial(layers, 0)
    network = Network(made, spec.unpack(layers, weights))
    outputs = spec.module(layers, weights)(data.x)
    losses = torch.nn.functional.cross_entropy(outputs, data.y, reduction="none")
    assert network.metric(data, 50.0).loss == pytest.approx(float(losses.detach().sum()), rel=1e-5)
    assert all(layer.training for layer in network.layers)  # and goes on learning


def test_right_answers_of_two_classes_are_those_on_the_right_side():
    made = training(loss="binary_cross_entropy", layers=(architecture.Linear(1, 1),))
    data = Data(torch.tensor([[-1.0], [0.2], [0.4], [2.0]]), torch.tensor([0, 1, 1, 0]))
    metric = Network(made, np.array([1, 0], np.float32)).metric(data, 9.0)
    assert (metric.right, metric.records) == (3, 4)
    assert metric.loss == pytest.approx(sum(math.log1p(math.exp(z)) for z in (-1, -0.2, -0.4, 2)), rel=1e-6)


def test_a_gain_that_is_too_small_is_none(city):
    parts = [rows(300, 1), rows(200, 2), rows(100, 3)]
    ended = []
    for least_gain in (0.0, 0.05):
        made = training(
            rounds=30, optimiser=t.Sgd(0.3), validation=t.Validation(0.3, patience=3, least_gain=least_gain)
        )
        ended.append(city(made, parts).run())
    assert ended[0].history.stopped == "all rounds are done"
    assert ended[1].history.stopped == "no better in 3 metrics"
    losses = [point.loss for point in ended[1].history.points]
    assert min(losses[-3:]) > ended[1].least - 0.05
