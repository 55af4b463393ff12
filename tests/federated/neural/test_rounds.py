"""Whole trainings over real secure aggregation: who vanishes, who has nothing, when it ends, and how it goes on."""

import msgspec
import numpy as np
import pytest
import torch
from trainees import LAYERS, PRIVACIES, Seeded, named, rows, training

from federated.neural import clipping, dpsgd, encoding, local, spec
from federated.neural import training as coordinator
from federated.neural.encoding import Sizes
from federated.neural.network import Data, Network
from sandbox import training as t
from sandbox.errors import ParameterError, QueryError


def accuracy(made, weights, size=3000):
    test = rows(size, 99)
    return Network(made, spec.unpack(made.layers, weights)).metric(test, 8.0).right / size


@pytest.mark.parametrize("privacy", PRIVACIES)
def test_departments_learn_together(city, privacy):
    made = training(**{"rounds": 8, **PRIVACIES[privacy]})
    one = city(made, [rows(300, 1), rows(500, 2), rows(100, 3)])
    state = one.run(ask=one.ask)
    assert state.history.stopped == "all rounds are done"
    assert [point.departments for point in state.history.points] == [3] * made.rounds
    assert accuracy(made, state.result) > (0.6 if privacy == "department" else 0.85)
    assert accuracy(made, coordinator.start(made).weights) < 0.6


@pytest.mark.parametrize("privacy", PRIVACIES)
@pytest.mark.parametrize("round", [0, 2])
def test_a_department_that_vanishes_is_left_out_of_that_round(city, privacy, round):
    made = training(**{**PRIVACIES[privacy], "rounds": 4})
    parts = [rows(300, 1), rows(40, 2), rows(100, 3), rows(80, 4)]
    one = city(made, parts, missing=lambda r: ("dept-1",) * (r == round))
    state = one.run(ask=one.ask)
    assert [point.departments for point in state.history.points] == [4 - (r == round) for r in range(4)]
    assert np.isfinite(spec.unpack(LAYERS, state.weights)).all()


def test_without_a_department_the_mean_is_that_of_the_others(city):
    made, parts = training(local_steps=5), [rows(300, 1), rows(40, 2), rows(100, 3), rows(80, 4)]
    weights, changes = coordinator.start(made).weights, []
    absent = city(made, parts, missing=lambda _round: ("dept-1",))
    empty = city(made, [parts[0], rows(0), *parts[2:]])
    for one in (absent, empty):
        joint, present = one.ask(0, weights)
        changes.append(encoding.decode(made, one.sizes, 0, joint, present))
    assert np.array_equal(changes[0].change, changes[1].change)
    assert changes[0].rows == changes[1].rows == 480


@pytest.mark.parametrize("privacy", PRIVACIES)
def test_departments_without_rows_with_one_class_and_of_very_different_sizes(city, privacy):
    made = training(**{**PRIVACIES[privacy], "rounds": 3, "validation": None})
    one_class = rows(50, 4)
    one_class = Data(one_class.x, torch.ones_like(one_class.y))
    one = city(made, [rows(0), rows(1, 1), one_class, rows(9000, 2)])
    state = one.run(ask=one.ask)
    assert state.done
    assert np.isfinite(spec.unpack(LAYERS, state.weights)).all()


def test_nobody_has_rows(city):
    made = training(rounds=2, validation=t.Validation(0.2))
    state = city(made, [rows(0)] * 3).run()
    assert state.weights == coordinator.start(made).weights
    assert all(point.loss is None for point in state.history.points)
    made = training(rounds=2, privacy=t.RecordLevel("joint", 1, 1, 10), validation=t.Validation(0.2))
    state = city(made, [rows(0)] * 3).run()
    assert state.weights != coordinator.start(made).weights  # noise: that there are no rows does not show
    assert all(point.loss is None for point in state.history.points)


def test_an_exact_training_that_diverges_says_so(city):
    made = training(optimiser=t.Sgd(1000.0), local_steps=50, rounds=20)
    with pytest.raises(ParameterError, match="diverged, lower 'learning_rate'"):
        city(made, [rows(50, 1)] * 3).run()


def test_a_department_never_says_without_noise_that_its_training_diverged():
    made = training(privacy=t.DepartmentLevel(1, 1), optimiser=t.Sgd(1000.0), local_steps=50)
    weights = (np.where(np.arange(58) % 3, 1, -1) * 3e38).astype(np.float32)
    with pytest.raises(ParameterError, match="diverged"):
        local.update(msgspec.structs.replace(made, privacy=None), weights, rows(50), 3, Seeded(1))
    update = local.update(made, weights, rows(50), 3, Seeded(1))
    on = local.joint_grid(made, 58, 3)
    assert np.abs(update.integers).max() < 1 / on.unit + 14 * on.sigma


# --- without its noise, what is noisy is exact ---


@pytest.fixture
def noiseless(monkeypatch):
    monkeypatch.setattr(dpsgd.Grid, "noise", lambda _self, size, _bytes: np.zeros(size, np.int64))


def test_a_joint_step_is_the_pooled_clipped_gradient(city, noiseless):
    parts = [rows(30, 1), rows(500, 2), rows(7, 3)]
    privacy = t.RecordLevel("joint", 0.2, 1, lot=537)
    made = training(rounds=1, sampling_rate=1, optimiser=t.Sgd(0.5), privacy=privacy)
    one, state = city(made, parts), coordinator.start(made)
    weights = spec.unpack(LAYERS, state.weights)
    pooled = Data(torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts]))
    gradient = clipping.clipped_sum(Network(made, weights), pooled, 0.2).numpy()
    after = spec.unpack(LAYERS, one.run(ask=one.ask).weights)
    assert np.allclose(after, weights - 0.5 * gradient / 537, atol=1e-6)


def test_a_local_round_is_the_mean_of_the_departments_own_steps(city, noiseless):
    parts = [rows(30, 1), rows(500, 2), rows(7, 3)]
    made = training(
        rounds=1,
        sampling_rate=1,
        local_steps=3,
        optimiser=t.Sgd(0.5),
        privacy=t.RecordLevel("local", 0.2, 1, lot=100),
    )
    one, state = city(made, parts), coordinator.start(made)
    weights, changes = spec.unpack(LAYERS, state.weights), []
    for part in parts:
        own = weights.copy()
        for _ in range(3):
            own -= 0.5 * clipping.clipped_sum(Network(made, own), part, 0.2).numpy().astype(np.float32) / 100
        changes.append(own - weights)
    after = spec.unpack(LAYERS, one.run(ask=one.ask).weights)
    assert np.allclose(after, weights + np.mean(changes, axis=0), atol=1e-6)


def test_departments_updates_are_cut_as_a_whole(city, noiseless):
    parts = [rows(30, 1), rows(500, 2), rows(7, 3)]
    made = training(rounds=1, local_steps=20, optimiser=t.Sgd(1.0), privacy=t.DepartmentLevel(0.01, 1))
    one, state = city(made, parts), coordinator.start(made)
    weights = spec.unpack(LAYERS, state.weights)
    free = msgspec.structs.replace(made, privacy=None)
    own = [
        local.update(free, weights, part, 2, Seeded(0, name)).change
        for name, part in zip(one.names, parts, strict=True)
    ]
    assert all(np.linalg.norm(change) > 0.01 for change in own)
    after = spec.unpack(LAYERS, one.run(ask=one.ask).weights)
    expected = weights + np.mean([change * 0.01 / np.linalg.norm(change) for change in own], axis=0)
    assert np.linalg.norm(after - weights) <= 0.01 + 1e-6
    assert np.allclose(after, expected, atol=2e-3)  # batches are shuffled by other secrets


def test_the_proximal_term_is_in_the_local_loss():
    data, mu = rows(200), 0.7
    made = training(rounds=1, sampling_rate=1, local_steps=4, optimiser=t.Sgd(0.5), strategy=t.FedProx(mu))
    initial = spec.initial(LAYERS, 0)
    module, start = spec.module(LAYERS, initial), torch.from_numpy(spec.unpack(LAYERS, initial))
    optimiser = torch.optim.SGD(module.parameters(), lr=0.5)
    for _ in range(4):
        optimiser.zero_grad()
        flat = torch.nn.utils.parameters_to_vector(module.parameters())
        loss = (
            torch.nn.functional.cross_entropy(module(data.x), data.y) + mu / 2 * (flat - start).square().sum()
        )
        loss.backward()
        optimiser.step()
    expected = torch.nn.utils.parameters_to_vector(module.parameters()).detach() - start
    change = local.update(made, start.numpy(), data, 2, Seeded(0)).change
    assert np.allclose(change, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    "privacy", [t.RecordLevel("local", 1, 1, 9), t.DepartmentLevel(1, 1)], ids=["local", "department"]
)
def test_a_mean_is_over_those_who_take_part(privacy):
    made, sizes, ones = training(privacy=privacy), Sizes(4, 2, 100), np.ones(58)
    update = local.Exact(ones, 1)
    if isinstance(privacy, t.DepartmentLevel):
        update = local.Noisy(local.joint_grid(made, 58, 2).integers(ones))
    joint = sum(encoding.encode(made, sizes, update, None, Seeded(0)) for _ in range(3))
    assert np.allclose(encoding.decode(made, sizes, 0, joint, 3).change, ones)


# --- from a module ---


def test_any_allowed_module_is_trained_from_the_weights_that_it_has(city):
    module = torch.nn.Sequential(
        torch.nn.Linear(4, 3), torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Linear(3, 2))
    )
    made, weights = coordinator.declare(
        module,
        table="t",
        features=["a", "b", "c", "d"],
        target="y",
        loss="cross_entropy",
        rounds=3,
        sampling_rate=1,
    )
    assert made.features[0] == named("a")
    assert torch.equal(spec.module(made.layers, weights)[0].weight, module[0].weight)
    one = city(made, [rows(300, 1), rows(200, 2), rows(100, 3)])
    assert one.run(coordinator.start(made, weights)).done
    with pytest.raises(ParameterError, match="not those that the training names"):
        coordinator.start(made)
    with pytest.raises(QueryError, match="BatchNorm1d"):
        coordinator.declare(torch.nn.BatchNorm1d(4), features=["a"], target="y")
