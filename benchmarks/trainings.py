"""Federated averaging over processes that speak TLS: the share of a round that is not local training.

A coordinator, three nodes and this analyst on loopback, as `sandbox up` starts them; a network of 10^6 parameters, 20,000 rows of 64 numbers at each
node, one epoch a round in batches of 512. Rounds of one epoch and of two: what the second adds is local training, and what is left of a round without it
is everything else, the network included. Nodes have one thread each; where there are fewer cores than nodes they wait for each other, and local
training is that much longer.
"""

from __future__ import annotations

import pathlib
import tempfile
import time
from typing import Any

import duckdb
import numpy as np
import pandas as pd
from torch import nn

from federated import demo, up
from sandbox import architecture
from sandbox import training as t

ROWS, INPUTS, LOT, WIDTH = 20_000, 64, 512, 960
STEPS = ROWS // LOT
ROUNDS, RUNS = 6, 3
MOST_OUTSIDE = 0.25
TABLE = """
[datasets.measurements]
source = "measurements.parquet"
level = "general-1"
purposes = ["public-health"]
max_rows = 20_000

[datasets.measurements.columns]
y = { type = "boolean" }
"""


def run() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="joint-sandbox-") as made:
        place = pathlib.Path(made) / "city"
        up.make(place)
        for seed, name in enumerate(demo.DEPARTMENTS):
            _measure(place / "nodes" / name, seed)
        with up.Processes(place) as processes:
            table = processes.city().table("measurements")
            _train(table, STEPS, 1)  # torch is loaded, keys are exchanged
            samples: dict[int, list[float]] = {STEPS: [], 2 * STEPS: []}
            for _ in range(RUNS):
                for steps, found in samples.items():
                    found.append(_train(table, steps, ROUNDS))
    one, two = map(min, samples.values())  # what else the machine does only adds
    share = 2 - two / one
    parameters = {"departments": len(demo.DEPARTMENTS), "rows": ROWS, "steps": STEPS, "rounds": ROUNDS}
    parameters["parameters"] = architecture.parameters(_layers())
    return [
        _record("round of FedAvg over TLS", one, "s", samples[STEPS], None, parameters),
        _record("round of two epochs", two, "s", samples[2 * STEPS], None, parameters),
        _record("share outside local training", share, "", [share], MOST_OUTSIDE, parameters),
    ]


def _train(table: Any, steps: int, rounds: int) -> float:
    """Seconds a round, of a training and its request."""
    began = time.perf_counter()
    table.train(
        nn.Sequential(
            nn.Linear(INPUTS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2)
        ),
        features=[f"x{i}" for i in range(INPUTS)],
        target="y",
        loss="cross_entropy",
        rounds=rounds,
        sampling_rate=LOT / ROWS,
        local_steps=steps,
        optimiser=t.Sgd(0.05),
        purpose="public-health",
    )
    return (time.perf_counter() - began) / rounds


def _layers() -> tuple[architecture.Layer, ...]:
    a = architecture
    return (a.Linear(INPUTS, WIDTH), a.ReLU(), a.Linear(WIDTH, WIDTH), a.ReLU(), a.Linear(WIDTH, 2))


def _measure(node: pathlib.Path, seed: int) -> None:
    """One more data set at a node."""
    x = np.random.default_rng(seed).normal(size=(ROWS, INPUTS)).clip(-6, 6)
    frame = pd.DataFrame(x, columns=[f"x{i}" for i in range(INPUTS)]).assign(y=x.sum(1) > 0)
    duckdb.from_df(frame).write_parquet(str(node / "measurements.parquet"))
    columns = "".join(f'x{i} = {{ type = "real", bounds = [-6, 6] }}\n' for i in range(INPUTS))
    with (node / "catalog.toml").open("a") as catalog:
        catalog.write(TABLE + columns)


def _record(
    name: str,
    value: float,
    unit: str,
    samples: list[float],
    target: float | None,
    parameters: dict[str, Any],
) -> dict[str, Any]:
    return {
        "suite": "trainings",
        "name": name,
        "value": value,
        "unit": unit,
        "samples": samples,
        "target": target,
        "parameters": parameters,
    }
