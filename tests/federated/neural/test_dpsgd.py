"""Samples, grid and noise of DP-SGD. False-alarm rate of every statistical test: 1e-6; keys are fixed."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from trainees import LAYERS, Seeded, rows, training

from federated.neural import dpsgd, local, spec
from federated.neural.network import Network
from mpc.noise import LARGEST, statistical_distance
from sandbox import architecture
from sandbox import training as t
from sandbox.errors import ParameterError

ALARM = 1e-6


@pytest.mark.parametrize("probability", [0.001, 0.1, 0.5, 0.9])
def test_every_row_is_drawn_by_itself_with_the_probability(probability):
    drawn = [dpsgd.sample(20_000, probability, Seeded(i)).numpy() for i in range(20)]
    sizes = np.array([len(d) for d in drawn])
    low, high = stats.binom.ppf([ALARM / 40, 1 - ALARM / 40], 20_000, probability)
    assert ((low <= sizes) & (sizes <= high)).all()
    assert len(set(sizes.tolist())) > 1  # a sample of fixed size is no Poisson sample
    counts = np.bincount(np.concatenate(drawn), minlength=20_000)
    expected = 20_000 * stats.binom.pmf(range(21), 20, probability)
    seen, kept = np.bincount(counts, minlength=21), expected > 5
    statistic = ((seen - expected)[kept] ** 2 / expected[kept]).sum()
    assert statistic < stats.chi2.isf(ALARM, kept.sum())


def test_samples_without_rows_and_of_all_rows():
    assert dpsgd.sample(0, 0.5, Seeded(0)).tolist() == []
    assert dpsgd.sample(5, 1.0, Seeded(0)).tolist() == [0, 1, 2, 3, 4]
    assert dpsgd.sample(3, 1e-6, Seeded(0)).tolist() == []


@pytest.mark.parametrize("privacy", ["joint", "local", "department"])
@pytest.mark.parametrize("departments", [1, 5])
def test_noise_has_the_declared_deviation(privacy, departments):
    """Of departments without rows nothing is sent but noise; 2/3 and 3/2 of its deviation would be seen."""
    layers, clip, z = (architecture.Linear(200, 5),), 0.7, 3.0
    record = t.RecordLevel("joint", clip, z, 1) if privacy == "joint" else t.RecordLevel("local", clip, z, 1)
    made = training(
        layers=layers,
        privacy=t.DepartmentLevel(clip, z) if privacy == "department" else record,
        optimiser=t.Sgd(1.0),
    )
    weights, nobody = np.zeros(1005, np.float32), rows(0, inputs=200)
    honest = departments
    updates = [local.update(made, weights, nobody, honest, Seeded(privacy, i)) for i in range(departments)]
    if privacy == "local":
        # each department adds all of it: the sum has `departments` times the variance
        total, deviation = sum(u.change for u in updates), z * clip * math.sqrt(departments)
    else:
        on = local.joint_grid(made, 1005, honest)
        total = on.values(sum(u.integers for u in updates))
        deviation = z * clip * (2 if privacy == "department" else 1)
    statistic = (total**2).sum() / deviation**2
    low, high = stats.chi2.ppf([ALARM / 2, 1 - ALARM / 2], 1005)
    assert low < statistic < high * (1 + 3 * dpsgd.SLACK)
    assert not low < statistic * 4 / 9 < high
    assert not low < statistic * 9 / 4 < high


def test_rounds_have_noise_of_their_own():
    made = training(privacy=t.RecordLevel("joint", 1, 1, 10))
    network, on = Network(made, spec.unpack(LAYERS, spec.initial(LAYERS, 0))), dpsgd.grid(58, 1, 1, 1)
    random_bytes = Seeded(1)
    first, second = (dpsgd.noisy_gradient(network, rows(0), 0.1, 1.0, on, random_bytes) for _ in range(2))
    assert (first != second).any()


@pytest.mark.parametrize("size", [1, 1000, 20_000_000])
def test_the_grid_is_fine_and_its_noise_far_above_it(size):
    on = dpsgd.grid(size, 2.0, 1.0, 3)
    exact = 2.0 / on.unit
    assert exact < on.sensitivity < exact * (1 + dpsgd.SLACK + 1 / 512 + 1e-9)
    assert on.sensitivity - exact * (1 + dpsgd.SLACK) == pytest.approx(math.sqrt(size))  # the rounding
    assert on.sigma * math.sqrt(3) == pytest.approx(on.sensitivity)
    assert dpsgd.LEAST_SIGMA < on.sigma < LARGEST


def test_noise_that_too_many_share_is_refused():
    dpsgd.grid(1, 1.0, 0.1, 10_000)
    with pytest.raises(ParameterError, match="'noise_multiplier' must be above"):
        dpsgd.grid(1, 1.0, 0.1, 1 << 20)


def test_the_samplers_distance_vanishes_beside_any_delta():
    """Over the most numbers and steps that may be declared; the least delta is 1e-15."""
    most = architecture.MAX_PARAMETERS * 100_000 * 10_000
    assert statistical_distance(LARGEST) * most < 1e-15 / 100


def test_what_is_no_sum_of_gradients_is_refused():
    on = dpsgd.grid(10, 1.0, 1.0, 1)
    for value in (np.nan, np.inf, 1e30):
        with pytest.raises(ParameterError, match="not finite, or beyond the range"):
            on.integers(np.array([0.0, value]))


def test_the_same_secret_gives_the_same_update_and_another_another():
    made = training(privacy=t.RecordLevel("local", 1, 1, 10), local_steps=3)
    weights, data = spec.unpack(LAYERS, spec.initial(LAYERS, 0)), rows(40)
    one, same, other = (local.update(made, weights, data, 2, Seeded(s)).change for s in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()
    assert torch.equal(
        torch.from_numpy(weights), torch.from_numpy(spec.unpack(LAYERS, spec.initial(LAYERS, 0)))
    )
