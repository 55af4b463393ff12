"""Training networks under differential privacy, and what a round of federated averaging costs beside the training itself.

An epoch of DP-SGD over rows of 64 numbers, batches of about 512, a network 128-64-2: of ours everything is counted (secret Poisson samples,
clipping, grid, discrete Gaussian noise over AES); the same without privacy, rows in one tensor. One thread. What a record's ghost norm is
worth: the same step with each record's gradient formed.

A round of federated averaging of 10^6 parameters among three departments, each with an epoch of its own: all that is not local training,
messages in safetensors and masked vectors in bytes, in one process, without the network between.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks import workloads
from benchmarks.harness import Measure, sweep
from benchmarks.workloads import INPUTS, LOT
from federated.neural import clipping, encoding, local, spec
from federated.neural import training as coordinator
from federated.neural.encoding import Sizes
from federated.neural.network import Data
from mpc.secagg import Aggregator, Client
from sandbox import architecture as a
from sandbox import query as q
from sandbox import training as t

LAYERS = (a.Linear(INPUTS, 128), a.ReLU(), a.Linear(128, 64), a.ReLU(), a.Linear(64, 2))
LARGE = (a.Linear(INPUTS, 960), a.ReLU(), a.Linear(960, 960), a.ReLU(), a.Linear(960, 2))
DEPARTMENTS = ("a", "b", "c")
FLOPS = 4 * INPUTS * 128 + 6 * (
    128 * 64 + 64 * 2
)  # of a row: forwards, and backwards but for the gradient of the inputs
_sums: dict[tuple[str, int], Any] = {}  # clipped sums by ghost norms


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _training(layers: tuple[a.Layer, ...], rows: int, **changes: Any) -> t.Training:
    fields: dict[str, Any] = {
        "table": "t",
        "features": (q.Derived("x", q.Column("x")),),
        "target": q.Derived("y", q.Column("y")),
        "layers": layers,
        "loss": "cross_entropy",
        "rounds": 1,
        "sampling_rate": LOT / rows,
        "local_steps": rows // LOT,
    }
    return t.Training(**{**fields, **changes})


def _data(rows: int, seed: int = 0) -> Data:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, INPUTS, generator=generator)
    return Data(x, (x.sum(1) > 0).long())


def _epoch(measure: Measure, rows: int, made: t.Training) -> None:
    data, weights = _data(rows), spec.unpack(LAYERS, spec.initial(LAYERS, 0))
    measure(lambda: local.update(made, weights, data, 1, os.urandom))
    # in single precision, of which two cost one of the limit's double precision
    measure.note(work=rows, unit="rows", demands={"matrix product": FLOPS / 2 * rows})


@sweep(rows=workloads.TRAINED)
def bench_epoch_plain(measure: Measure, rows: int) -> None:
    measure.task("epoch", "ours without privacy", "no privacy; rows in one tensor", rows=rows, threads=1)
    _epoch(measure, rows, _training(LAYERS, rows))


@sweep(rows=workloads.TRAINED)
def bench_epoch(measure: Measure, rows: int) -> None:
    said = "DP-SGD: Poisson samples, clipping, integer noise from AES"
    measure.task("epoch", conditions=said, rows=rows, threads=1)
    privacy = t.RecordLevel("local", clip=1.0, noise_multiplier=1.0, lot=LOT)
    _epoch(measure, rows, _training(LAYERS, rows, privacy=privacy))


@pytest.mark.parametrize(("name", "layers"), [("128-64-2", LAYERS), ("960-960-2", LARGE)])
@pytest.mark.parametrize("ghost", [True, False])
@sweep(lot=workloads.Sizes(quick=(LOT // 8,), default=(LOT,)))
def bench_clipped_sum(
    measure: Measure, monkeypatch: pytest.MonkeyPatch, name: str, layers: Any, ghost: bool, lot: int
) -> None:
    system = "" if ghost else "ours, records' gradients formed"
    said = "norms from inputs and gradients of outputs" if ghost else "the same sum by other means"
    measure.task(f"clipped sum of a lot, {name}", system, said, rows=lot, threads=1)
    data = _data(lot)
    network = clipping.Network(_training(layers, 10 * lot), spec.unpack(layers, spec.initial(layers, 0)))
    if not ghost:
        monkeypatch.setattr(clipping, "GHOST", ())
    total = measure(lambda: clipping.clipped_sum(network, data, 1.0))
    ghosts = _sums.setdefault((name, lot), total)
    error = float((total - ghosts).abs().max() / ghosts.abs().max())
    if not error <= 1e-4:
        raise AssertionError(f"the sums by both ways differ by {error:.1e}")
    measure.note(work=lot, unit="rows", error=error, error_is="largest, over the largest; beside ghost norms")


@sweep(rows=workloads.TRAINED)
def bench_averaging(measure: Measure, rows: int) -> None:
    """Each department's training is a part of its own."""
    measure.task("round of FedAvg, 10^6 parameters", rows=rows, departments=3, threads=1)
    made = _training(LARGE, rows)
    sizes = Sizes(len(DEPARTMENTS), len(DEPARTMENTS), rows)
    parts = {name: _data(rows // 3, i) for i, name in enumerate(DEPARTMENTS)}
    start = coordinator.start(made)

    def one_round() -> Averaged:
        began, training, sent, changes = time.perf_counter(), 0.0, {}, []
        aggregator, clients = _set_up()
        aggregator.open(0, bytes(32), encoding.words(made, 0))
        for name in DEPARTMENTS:
            weights = spec.unpack(LARGE, start.weights)
            before = time.perf_counter()
            update = local.update(made, weights, parts[name], sizes.honest, os.urandom)
            training += time.perf_counter() - before
            changes.append(update.change)
            message = clients[name].mask(0, bytes(32), encoding.encode(made, sizes, update, None, os.urandom))
            sent[name] = float(len(message))
            aggregator.accept_masked(name, message)
        survivors = aggregator.survivors(0)
        for name in DEPARTMENTS:
            aggregator.accept_answer(name, clients[name].unmask(0, survivors, b""))
        after = coordinator.update(made, sizes, start, aggregator.result(0), len(DEPARTMENTS))
        parts_of_it = {
            "local training": training,
            "everything else": time.perf_counter() - began - training,
        }
        return Averaged(after, changes, parts_of_it, sent)

    done = measure(one_round, rounds=3)
    expected = spec.unpack(LARGE, start.weights) + np.mean(done.changes, axis=0)
    error = float(np.abs(spec.unpack(LARGE, done.after.weights) - expected).max())
    if not error <= 1e-5:
        raise AssertionError(f"a weight is off by {error:.1e}")
    measure.note(error=error, error_is="largest, of a weight; beside the mean of the updates")
    share = done.parts["everything else"] / sum(done.parts.values())
    measure.note(parts=done.parts, sent=done.sent, figures={"share outside local training": share}, rounds=4)


class Averaged(NamedTuple):
    """One round: the state after it, each department's change, seconds by part, bytes by department."""

    after: Any
    changes: list[Any]
    parts: dict[str, float]
    sent: dict[str, float]


def _set_up() -> tuple[Aggregator, dict[str, Client]]:
    identities = {name: hashlib.sha256(name.encode()).digest() for name in DEPARTMENTS}
    roster = {
        name: Ed25519PrivateKey.from_private_bytes(identity).public_key().public_bytes_raw()
        for name, identity in identities.items()
    }
    clients = {name: Client(name, identities[name], roster) for name in DEPARTMENTS}
    aggregator = Aggregator(roster, threshold=3, setting="honest-but-curious", slots=1)
    for name, client in clients.items():
        aggregator.accept_advertisement(name, client.advertise(aggregator.announce()))
    advertisements = aggregator.advertisements()
    for name, client in clients.items():
        aggregator.accept_shares(name, client.share(advertisements))
    for name, delivery in aggregator.deliveries().items():
        clients[name].receive(delivery)
    return aggregator, clients
