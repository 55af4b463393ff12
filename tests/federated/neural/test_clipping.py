"""Clipped sums beside Opacus's per-record gradients, and beside one record at a time."""

import numpy as np
import pytest
import torch
from opacus import GradSampleModule
from trainees import training

from federated.neural import clipping, dpsgd, spec
from federated.neural.network import Data, Network
from sandbox import architecture as a

NETWORKS = {
    "linear": (a.Linear(16, 8), a.ReLU(), a.Linear(8, 4, bias=False), a.Tanh(), a.Linear(4, 2)),
    "norms": (a.Linear(16, 8), a.LayerNorm((8,)), a.GELU(), a.LayerNorm((8,), elementwise_affine=False), a.Linear(8, 2)),
    "rows of a record": (a.Unflatten((4, 4)), a.Linear(4, 3), a.SiLU(), a.GroupNorm(2, 4), a.Flatten(), a.Linear(12, 2)),
    "convolutions 1": (a.Unflatten((2, 8)), a.Conv1d(2, 4, 3, 2, 1), a.MaxPool1d(2, 2), a.Flatten(), a.Linear(8, 2)),
    "convolutions 2": (a.Unflatten((1, 4, 4)), a.Conv2d(1, 3, (2, 2), bias=False), a.LeakyReLU(), a.Flatten(), a.Linear(27, 2)),
    "groups": (a.Unflatten((4, 4)), a.Conv1d(4, 8, 2, groups=2), a.Sigmoid(), a.Flatten(), a.Linear(24, 2)),
}  # fmt: skip


def data(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 16, generator=generator) * torch.linspace(0.1, 3, max(rows, 1))[:rows, None]
    return Data(x, torch.randint(0, 2, (rows,), generator=generator))


def network(layers):
    made = training(layers=layers)
    return Network(made, spec.unpack(layers, spec.initial(layers, 3)))


def one_by_one(layers, rows):
    """Each record's gradient, from torch alone."""
    module = spec.module(layers, spec.initial(layers, 3))
    for i in range(len(rows)):
        module.zero_grad()
        torch.nn.functional.cross_entropy(module(rows.x[i : i + 1]), rows.y[i : i + 1]).backward()
        yield torch.cat([p.grad.reshape(-1) for p in module.parameters()]).double()


def clipped(gradients, clip):
    return sum(g * min(1.0, clip / float(g.norm())) for g in gradients)


@pytest.mark.parametrize("clip", [0.05, 0.5, 1e6])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_sum_is_that_of_each_record_clipped(name, clip):
    layers, rows = NETWORKS[name], data(20)
    expected = clipped(one_by_one(layers, rows), clip)
    made = clipping.clipped_sum(network(layers), rows, clip)
    assert torch.allclose(made, expected, rtol=1e-4, atol=1e-5 * float(expected.norm()))


@pytest.mark.parametrize("name", ["linear", "norms", "convolutions 1", "convolutions 2"])
def test_the_sum_is_opacuss(name):
    layers, rows = NETWORKS[name], data(33)
    module = GradSampleModule(spec.module(layers, spec.initial(layers, 3)).train())
    torch.nn.functional.cross_entropy(module(rows.x.requires_grad_()), rows.y, reduction="sum").backward()
    gradients = torch.cat([p.grad_sample.flatten(1) for p in module.parameters()], dim=1)
    expected = clipped(gradients.double(), 0.3)
    made = clipping.clipped_sum(network(layers), data(33), 0.3)
    assert torch.allclose(made, expected, rtol=1e-4, atol=1e-5 * float(expected.norm()))


@pytest.mark.parametrize("name", NETWORKS)
def test_many_records_are_summed_in_parts(name, monkeypatch):
    rows, made = data(50), network(NETWORKS[name])
    whole = clipping.clipped_sum(made, rows, 0.1)
    monkeypatch.setattr(clipping, "ROWS", 7)
    assert torch.allclose(clipping.clipped_sum(made, rows, 0.1), whole, atol=1e-6)
    monkeypatch.setattr(clipping, "NUMBERS", 1)
    assert torch.allclose(clipping.clipped_sum(made, rows, 0.1), whole, atol=1e-6)


def test_no_records_have_a_sum_of_zeros():
    assert not clipping.clipped_sum(network(NETWORKS["linear"]), data(0), 1.0).any()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_record_whose_gradient_is_not_finite_is_left_out(name):
    rows, made = data(6), network(NETWORKS[name])
    kept = clipping.clipped_sum(made, rows.take(torch.tensor([0, 1, 3, 4, 5])), 0.1)
    rows.x[2] = torch.tensor(float("inf"))
    assert torch.allclose(clipping.clipped_sum(made, rows, 0.1), kept, atol=1e-6)
    rows.x[:] = torch.nan
    assert not clipping.clipped_sum(made, rows, 0.1).any()


@pytest.mark.parametrize("size", [1, 64, 513, 4000])
@pytest.mark.parametrize("name", ["linear", "norms"])
def test_one_record_moves_the_grid_by_no_more_than_the_sensitivity(name, size):
    """A record whose gradient is at the bound, in a lot of any size; rounding and float32 included."""
    layers, rows, clip = NETWORKS[name], data(size + 1), 1e-3  # every gradient is cut
    made = network(layers)
    on = dpsgd.grid(made.flat.numel(), clip, 1.0, 1)
    with_it = on.integers(clipping.clipped_sum(made, rows, clip).numpy())
    bound = 2**16 * 0.999
    for left_out in {0, size // 2, size}:
        kept = torch.tensor([i for i in range(size + 1) if i != left_out])
        without = on.integers(clipping.clipped_sum(made, rows.take(kept), clip).numpy())
        assert bound < np.linalg.norm(with_it - without) <= on.sensitivity
