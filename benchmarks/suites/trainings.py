"""Federated averaging over processes that speak TLS: the share of a round that is not local training.

The processes are those of `conftest.py`; a network of 10^6 parameters, rows of 64 numbers at each
node, batches of 512. Rounds of one epoch and of two: what the second adds is local training, and what is left of a round without it is
everything else, the network included. Nodes have one thread each; where there are fewer cores than nodes they wait for each other, and
local training is that much longer. Least times are compared, since what else the machine does only adds.
"""

from __future__ import annotations

import pathlib
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from torch import nn

from benchmarks.harness import Measure, Sizes, sweep
from benchmarks.workloads import INPUTS, LOT
from federated import up
from sandbox import training as t

WIDTH = 960
ROWS = Sizes(quick=(1_024,), default=(20_000,))
ROUNDS = Sizes(quick=(1,), default=(2,))
TABLE = """
[datasets.measurements]
source = "measurements.parquet"
level = "general-1"
purposes = ["public-health"]
max_rows = 20_000

[datasets.measurements.columns]
y = { type = "boolean" }
"""
_least: dict[int, float] = {}  # seconds of a round, by epochs


@pytest.mark.parametrize("epochs", [1, 2])
@sweep(rows=ROWS, rounds=ROUNDS)
def bench_rounds(measure: Measure, processes: up.Processes, epochs: int, rows: int, rounds: int) -> None:
    measure.task("rounds of FedAvg over TLS, 10^6 parameters", rows=rows, epochs=epochs)
    table = processes.city().table("measurements")
    measure(lambda: _train(table, rows, epochs, rounds), rounds=1 if measure.quick else 2, warm=epochs == 1)
    measure.note(work=rounds, unit="rounds", cpu_seconds=None, peak_bytes=None)
    _least[epochs] = min(measure.entry["seconds"]) / rounds
    if epochs == 2:
        share = 2 - _least[2] / _least[1]
        if not 0 <= share <= 1:
            raise AssertionError(
                f"rounds of two epochs took {_least[2] / _least[1]:.1f} x those of one: what else ran?"
            )
        measure.note(figures={"share of a round of one epoch outside local training": share})


def _train(table: Any, rows: int, epochs: int, rounds: int) -> None:
    layers = nn.Linear(INPUTS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2)
    table.train(
        nn.Sequential(*layers),
        features=[f"x{i}" for i in range(INPUTS)],
        target="y",
        loss="cross_entropy",
        rounds=rounds,
        sampling_rate=LOT / rows,
        local_steps=epochs * rows // LOT,
        optimiser=t.Sgd(0.05),
        purpose="public-health",
    )


def prepare(node: pathlib.Path, seed: int, mode: str) -> None:
    """One more data set at a node."""
    [rows] = ROWS.of(mode)
    x = np.random.default_rng(seed).normal(size=(rows, INPUTS)).clip(-6, 6)
    frame = pd.DataFrame(x, columns=[f"x{i}" for i in range(INPUTS)]).assign(y=x.sum(1) > 0)
    duckdb.from_df(frame).write_parquet(str(node / "measurements.parquet"))
    columns = "".join(f'x{i} = {{ type = "real", bounds = [-6, 6] }}\n' for i in range(INPUTS))
    with (node / "catalog.toml").open("a") as catalog:
        catalog.write(TABLE + columns)
