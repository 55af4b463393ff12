"""Training networks under differential privacy, and what a round of federated averaging costs beside the training itself.

One epoch of DP-SGD over 60,000 rows of 64 numbers, batches of about 512, a network 128-64-2: ours, of which everything is counted (secret
Poisson samples, clipping, grid, discrete Gaussian noise over AES); the same without privacy, rows in one tensor; Opacus as its documentation
sets it up (hooks, DataLoader), and with its ghost clipping. And what ghost norms are worth: the same step with each record's gradient formed.

A round of federated averaging of a network of 10^6 parameters among three departments, each with an epoch of its own: all that is not local
training, messages in safetensors and masked vectors in bytes, in one process on one thread, without the network between.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from opacus import PrivacyEngine
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from federated.neural import clipping, encoding, local, spec
from federated.neural import training as coordinator
from federated.neural.encoding import Sizes
from federated.neural.network import Data
from mpc.secagg import Aggregator, Client
from sandbox import architecture as a
from sandbox import query as q
from sandbox import training as t

ROWS, INPUTS, LOT = 60_000, 64, 512
STEPS = ROWS // LOT
RUNS = 5
LAYERS = (a.Linear(INPUTS, 128), a.ReLU(), a.Linear(128, 64), a.ReLU(), a.Linear(64, 2))
LARGE = (a.Linear(INPUTS, 960), a.ReLU(), a.Linear(960, 960), a.ReLU(), a.Linear(960, 2))
DEPARTMENTS = ("a", "b", "c")
MOST_TIMES_PLAIN, LEAST_TIMES_OPACUS, MOST_OUTSIDE = 5.0, 5.0, 0.25


def run() -> list[dict[str, Any]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [*_epochs(), *_norms(), *_rounds()]
    finally:
        torch.set_num_threads(threads)


def _training(layers: tuple[a.Layer, ...], **changes: Any) -> t.Training:
    fields: dict[str, Any] = {
        "table": "t",
        "features": (q.Derived("x", q.Column("x")),),
        "target": q.Derived("y", q.Column("y")),
        "layers": layers,
        "loss": "cross_entropy",
        "rounds": 1,
        "sampling_rate": LOT / ROWS,
        "local_steps": STEPS,
    }
    return t.Training(**{**fields, **changes})


def _data(rows: int, seed: int = 0) -> Data:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, INPUTS, generator=generator)
    return Data(x, (x.sum(1) > 0).long())


def _epochs() -> list[dict[str, Any]]:
    data = _data(ROWS)
    weights = spec.unpack(LAYERS, spec.initial(LAYERS, 0))
    record = t.RecordLevel("local", clip=1.0, noise_multiplier=1.0, lot=LOT)
    private, plain = _training(LAYERS, privacy=record), _training(LAYERS)
    calls: dict[str, Callable[[], object]] = {
        "no privacy, rows in one tensor": lambda: local.update(plain, weights, data, 1, os.urandom),
        "DP-SGD": lambda: local.update(private, weights, data, 1, os.urandom),
        "Opacus, ghost clipping, DataLoader": lambda: _opacus(data, "ghost"),
        "Opacus, hooks, DataLoader": lambda: _opacus(data, "hooks"),
    }
    samples = _interleaved(calls)
    base = statistics.median(samples["no privacy, rows in one tensor"])
    opacus = statistics.median(samples["Opacus, hooks, DataLoader"])
    parameters = {"rows": ROWS, "inputs": INPUTS, "lot": LOT}
    records = [
        _record(f"epoch: {name}", parameters, values, "s", value / base, "no privacy")
        for name, values in samples.items()
        if (value := statistics.median(values))
    ]
    records[1]["target"] = MOST_TIMES_PLAIN
    ratios = [o / d for o, d in zip(samples["Opacus, hooks, DataLoader"], samples["DP-SGD"], strict=True)]
    faster = _record("epoch: Opacus, hooks, over DP-SGD", parameters, ratios, "times")
    return [
        *records,
        {**faster, "value": opacus / statistics.median(samples["DP-SGD"]), "target": LEAST_TIMES_OPACUS},
    ]


def _opacus(data: Data, mode: str) -> None:
    module = spec.module(LAYERS, spec.initial(LAYERS, 0)).train()
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(data.x, data.y), batch_size=LOT)
    common: dict[str, Any] = {
        "module": module,
        "optimizer": optimiser,
        "data_loader": loader,
        "noise_multiplier": 1.0,
        "max_grad_norm": 1.0,
    }
    criterion: Any = nn.CrossEntropyLoss()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if mode == "ghost":
            made = PrivacyEngine().make_private(**common, criterion=criterion, grad_sample_mode="ghost")
            private, optimiser, criterion, loader = made
            assert isinstance(criterion, DPLossFastGradientClipping)
        else:
            private, optimiser, loader = PrivacyEngine().make_private(**common)
        for x, y in loader:
            optimiser.zero_grad()
            criterion(private(x), y).backward()
            optimiser.step()


def _norms() -> list[dict[str, Any]]:
    """Clipped sums of one lot, by ghost norms and with each record's gradient formed."""
    records = []
    for name, layers in (("128-64-2", LAYERS), ("960-960-2", LARGE)):
        data, made = _data(LOT), _training(layers)
        network = clipping.Network(made, spec.unpack(layers, spec.initial(layers, 0)))

        def formed(network: clipping.Network = network, data: Data = data) -> None:
            ghost, clipping.GHOST = clipping.GHOST, ()
            try:
                clipping.clipped_sum(network, data, 1.0)
            finally:
                clipping.GHOST = ghost

        samples = _interleaved(
            {
                "ghost norms": lambda network=network, data=data: clipping.clipped_sum(network, data, 1.0),
                "records' gradients formed": formed,
            }
        )
        base = statistics.median(samples["ghost norms"])
        records += [
            _record(
                f"clipped sum, {name}: {how}",
                {"rows": LOT},
                values,
                "s",
                statistics.median(values) / base,
                "ghost",
            )
            for how, values in samples.items()
        ]
    return records


def _rounds() -> list[dict[str, Any]]:
    """One round after the other; each department's training is timed apart."""
    made = _training(LARGE, rounds=RUNS)
    sizes = Sizes(len(DEPARTMENTS), len(DEPARTMENTS), ROWS)
    parts = {name: _data(ROWS // 3, i) for i, name in enumerate(DEPARTMENTS)}
    state = coordinator.start(made)
    shares = []
    for round in range(RUNS):
        trained, began = 0.0, time.perf_counter()
        aggregator, clients = _set_up()
        aggregator.open(0, bytes(32), encoding.words(made, round))
        for name in DEPARTMENTS:
            weights = spec.unpack(LARGE, state.weights)
            start = time.perf_counter()
            update = local.update(made, weights, parts[name], sizes.honest, os.urandom)
            trained += time.perf_counter() - start
            vector = encoding.encode(made, sizes, update, None, os.urandom)
            aggregator.accept_masked(name, clients[name].mask(0, bytes(32), vector))
        survivors = aggregator.survivors(0)
        for name in DEPARTMENTS:
            aggregator.accept_answer(name, clients[name].unmask(0, survivors, b""))
        state = coordinator.update(made, sizes, state, aggregator.result(0), len(DEPARTMENTS))
        shares.append(1 - trained / (time.perf_counter() - began))
    parameters = {"parameters": a.parameters(LARGE), "departments": 3, "rows": ROWS}
    record = _record("round of FedAvg: share outside local training", parameters, shares, "")
    return [{**record, "target": MOST_OUTSIDE}]


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


def _interleaved(calls: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Each call once to warm up, then in turns, so that what else the machine does meets all of them."""
    for call in calls.values():
        call()
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(RUNS):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            samples[name].append(time.perf_counter() - start)
    return samples


def _record(
    name: str,
    parameters: dict[str, Any],
    samples: list[float],
    unit: str,
    ratio: float | None = None,
    ratio_to: str | None = None,
) -> dict[str, Any]:
    return {
        "suite": "neural",
        "name": name,
        "parameters": parameters,
        "samples": samples,
        "value": statistics.median(samples),
        "unit": unit,
        "ratio": ratio,
        "ratio_to": ratio_to,
    }
