import struct

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from torch import nn

from federated.neural import spec
from sandbox import architecture as a
from sandbox.errors import ParameterError, QueryError

CONVOLUTIONS = nn.Sequential(
    *(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3, padding=1, stride=2), nn.GroupNorm(2, 4), nn.GELU()),
    *(nn.MaxPool2d(2), nn.Flatten()),
    nn.Sequential(nn.Linear(16, 8, bias=False), nn.LayerNorm(8), nn.SiLU(), nn.Dropout(0.2)),
    nn.Linear(8, 3),
)
SEQUENCE = nn.Sequential(
    *(nn.Unflatten(1, (2, 8)), nn.Conv1d(2, 4, 3, groups=2), nn.LeakyReLU(0.2), nn.MaxPool1d(2), nn.Tanh()),
    *(
        nn.LayerNorm((4, 3), elementwise_affine=False),
        nn.Flatten(),
        nn.Sigmoid(),
        nn.Linear(12, 1),
        nn.ReLU(inplace=True),
    ),
)
LAYERS = (a.Linear(3, 2), a.ReLU(), a.Linear(2, 1))


@pytest.mark.parametrize(("module", "inputs"), [(CONVOLUTIONS, 64), (SEQUENCE, 16), (nn.Linear(5, 2), 5)])
def test_a_module_is_its_layers_and_its_numbers(module, inputs):
    layers, data = spec.describe(module), spec.dump(module)
    again = spec.module(layers, data)
    x = torch.randn(5, inputs)
    assert torch.equal(again(x), module.eval()(x))
    assert tuple(again(x).shape[1:]) == a.output(layers, inputs)
    assert spec.describe(again) == layers
    assert spec.pack(layers, spec.unpack(layers, data)) == data


def test_initial_weights_follow_from_the_seed_and_leave_torchs_generator_alone():
    state = torch.random.get_rng_state()
    assert spec.initial(LAYERS, 1) == spec.initial(LAYERS, 1) != spec.initial(LAYERS, 2)
    assert torch.equal(torch.random.get_rng_state(), state)


class Overriding(nn.Linear):
    def forward(self, x):
        return x


def hooked():
    layer = nn.Linear(3, 3)
    layer.register_forward_hook(lambda *_: None)
    return layer


def patched():
    layer = nn.Linear(3, 3)
    layer.forward = lambda x: x
    return layer


def twice():
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.Sequential(layer))


def tied():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    return nn.Sequential(first, second)


def in_batches(kind):
    return f"{kind}.*mixes the records of a batch.*LayerNorm"


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), "layer '1' " + in_batches(r"\(BatchNorm1d\)")),
        (
            nn.Sequential(nn.Sequential(nn.SyncBatchNorm(3))),
            "layer '0.0' " + in_batches(r"\(SyncBatchNorm\)"),
        ),
        (nn.InstanceNorm1d(3), in_batches("InstanceNorm1d")),
        (nn.Embedding(3, 3), "one-hot categories"),
        (nn.LSTM(3, 3), "code would have to be shipped"),
        (Overriding(3, 3), r"\(Overriding\) is not allowed: its code"),
        (nn.ModuleList([nn.Linear(3, 3)]), r"\(ModuleList\) is not allowed"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), "not allowed"),
        (hooked(), "hooks"),
        (patched(), "a forward of its own"),
        (twice(), "layer '1.0' shares its parameters"),
        (tied(), "layer '1' shares its parameters"),
        (nn.Sequential(), "has 0 layers; allowed are 1 to 128"),
        (nn.Linear(3, 3).double(), "'weight' is torch.float64; allowed is torch.float32"),
        (nn.Conv1d(1, 1, 3, dilation=2), "'dilation' must be"),
        (nn.Conv1d(1, 1, 3, padding_mode="reflect"), "'padding_mode' must be 'zeros'"),
        (nn.Conv1d(1, 1, 3, padding="same"), "'padding'"),
        (nn.MaxPool2d(2, padding=1), "'padding' must be 0"),
        (nn.GELU("tanh"), "'approximate' must be 'none'"),
        (nn.Flatten(0), "'start_dim' must be 1"),
        (nn.Linear(70_000, 1), "'in_features' of Linear"),
    ],
)
def test_what_is_not_allowed_is_refused_by_name(module, reason):
    with pytest.raises(QueryError, match=reason):
        spec.describe(module)


def tensors(**changes):
    made = {
        "0.weight": np.ones((2, 3), np.float32),
        "0.bias": np.ones(2, np.float32),
        "2.weight": np.ones((1, 2), np.float32),
        "2.bias": np.ones(1, np.float32),
    }
    return {name: value for name, value in {**made, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    "change",
    [
        {"0.weight": np.ones((3, 2), np.float32)},
        {"0.weight": np.ones(6, np.float32)},
        {"0.weight": np.ones((2, 3), np.int32)},
        {"0.weight": np.ones((2, 3), np.float64)},
        {"0.weight": None},
        {"0.weight": None, "0.wait": np.ones((2, 3), np.float32)},
        {"3.weight": np.ones(1, np.float32)},
        {"0.bias": np.array([1, np.nan], np.float32)},
        {"2.bias": np.array([np.inf], np.float32)},
    ],
)
def test_weights_that_are_not_the_architectures_are_refused(change):
    assert spec.unpack(LAYERS, save(tensors())).tolist() == [1] * 11
    with pytest.raises(ParameterError, match="weights"):
        spec.unpack(LAYERS, save(tensors(**change)))


@pytest.mark.parametrize("position", [0, 8, 20, -1])
def test_bytes_that_are_no_safetensors_are_refused(position):
    data = save(tensors())
    for hostile in (
        b"",
        data[:position],
        data + bytes(1),
        bytes(len(data)),
        struct.pack("<Q", 2**62) + data[8:],
        data.replace(b"F32", b"F16"),
        data.replace(b'"0.weight"', b'"0.wei\\"ht"'),
    ):
        with pytest.raises(ParameterError, match="weights"):
            spec.unpack(LAYERS, hostile)


def test_a_pickle_is_never_loaded(tmp_path):
    torch.save(nn.Linear(3, 2), tmp_path / "m.pt")
    with pytest.raises(ParameterError, match="weights"):
        spec.unpack((a.Linear(3, 2),), (tmp_path / "m.pt").read_bytes())
