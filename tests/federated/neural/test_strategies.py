"""The same updates through Flower's strategy classes, which read every reply, and through ours, which see the joint mean."""

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedProx
from trainees import LAYERS, rows, training

from federated.neural import spec, strategies
from federated.neural import training as coordinator
from federated.neural.encoding import decode
from federated.neural.network import Data
from federated.neural.strategies import Memory
from sandbox import training as t

PAIRS = {
    "fedavg": (t.FedAvg(), lambda: FedAvg()),
    "fedavgm": (t.FedAvg(0.7, 0.9), lambda: FedAvgM(server_learning_rate=0.7, server_momentum=0.9)),
    "fedprox": (t.FedProx(0.3), lambda: FedProx(proximal_mu=0.3)),
    "fedadam": (
        t.FedAdam(0.05, 0.8, 0.95, 1e-2),
        lambda: FedAdam(eta=0.05, beta_1=0.8, beta_2=0.95, tau=1e-2),
    ),
}


class Reply:
    """What Flower's strategies read of a reply: making a `Message` needs a running task."""

    def __init__(self, weights, rows):
        arrays, metrics = ArrayRecord({"w": Array(weights)}), MetricRecord({"num-examples": float(rows)})
        self.content = RecordDict({"arrays": arrays, "metrics": metrics})

    def has_error(self):
        return False


def flower(strategy, round, weights, changes, sizes):
    """The next weights by Flower's class, which is told the weights as its own `configure_train` keeps them."""
    before = weights.astype(np.float64)
    kept = ArrayRecord({"w": Array(before)}) if isinstance(strategy, FedAvgM) else {"w": before}
    strategy.current_arrays = kept
    replies = [Reply(before + change, size) for change, size in zip(changes, sizes, strict=True)]
    return strategy.aggregate_train(round, replies)[0]["w"].numpy()


@pytest.mark.parametrize("name", PAIRS)
def test_a_strategy_is_flowers(name):
    ours, make = PAIRS[name]
    made, theirs = training(strategy=ours), make()
    random = np.random.default_rng(4)
    mine = weights = random.normal(size=58).astype(np.float32)
    memory, sizes = Memory(), [3, 50, 7]
    for round in range(1, 6):
        changes = [random.normal(scale=0.1, size=58) for _ in sizes]
        weights = flower(theirs, round, weights, changes, sizes).astype(np.float32)
        mean = np.average(changes, axis=0, weights=sizes)
        mine, memory = strategies.advance(made, mine, mean, memory)
        assert np.allclose(mine, weights, rtol=1e-5, atol=1e-6)
    assert memory.updates == 5


def test_whole_batches_averaged_by_rows_are_pooled_gradient_descent(city):
    """One step on all rows: the exact joint update is the pooled gradient's, to float32."""
    made = training(rounds=4, sampling_rate=1, optimiser=t.Sgd(0.5))
    parts = [rows(30, 1), rows(500, 2), rows(7, 3)]
    pooled = Data(torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts]))
    together, alone = city(made, parts).run(), city(made, [pooled]).run()
    first, second = (spec.unpack(LAYERS, state.weights) for state in (together, alone))
    assert np.allclose(first, second, atol=1e-6)
    assert not np.allclose(first, spec.unpack(LAYERS, spec.initial(LAYERS, 0)), atol=0.1)


def test_a_mean_does_not_lose_what_small_weights_carry(city):
    """Rows weigh rows / max_rows, here little of what is declared: rounding moves the mean by 3 * 2^-50 / (6000 / 2^30) < 6e-10."""
    made, parts = training(rounds=1, sampling_rate=1), [rows(2000, 1), rows(3000, 2), rows(1000, 3)]
    changes = []
    for max_rows in (2**30, 3000):
        one = city(made, parts, max_rows=max_rows)
        joint, present = one.plain(0, coordinator.start(made).weights)
        changes.append(decode(made, one.sizes, 0, joint, present).change)
    assert np.abs(changes[0] - changes[1]).max() < 6e-10
