"""Opacus as its documentation sets it up: hooks and a DataLoader; and the same with its ghost clipping.

Its noise is torch's float Gaussian from a generator that is not cryptographic, unless `secure_mode` is asked for. One thread.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import workloads
from benchmarks.harness import Measure, sweep
from benchmarks.workloads import INPUTS, LOT


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
@sweep(rows=workloads.TRAINED)
def bench_epoch(measure: Measure, mode: str, rows: int) -> None:
    torch.set_num_threads(1)
    system = "Opacus, ghost clipping" if mode == "ghost" else ""
    measure.task("epoch", system, "DP-SGD; float noise, generator not cryptographic", rows=rows, threads=1)
    x = torch.randn(rows, INPUTS, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(x, (x.sum(1) > 0).long())

    def epoch() -> None:
        layers = nn.Linear(INPUTS, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 2)
        module = nn.Sequential(*layers).train()
        optimiser: Any = torch.optim.SGD(module.parameters(), lr=0.1)
        criterion: Any = nn.CrossEntropyLoss()
        loader: Any = DataLoader(data, batch_size=LOT)
        common = {"noise_multiplier": 1.0, "max_grad_norm": 1.0}
        engine = PrivacyEngine()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if mode == "ghost":
                private, optimiser, criterion, loader = engine.make_private(
                    module=module,
                    optimizer=optimiser,
                    data_loader=loader,
                    criterion=criterion,
                    grad_sample_mode="ghost",
                    **common,
                )
            else:
                private, optimiser, loader = engine.make_private(
                    module=module, optimizer=optimiser, data_loader=loader, **common
                )
            for inputs, classes in loader:
                optimiser.zero_grad()
                criterion(private(inputs), classes).backward()
                optimiser.step()

    measure(epoch, rounds=3)
    measure.note(work=rows, unit="rows")
