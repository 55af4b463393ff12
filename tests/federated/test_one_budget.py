"""Queries, a regression and a network trained with DP-SGD are charged to one budget, and `sandbox budget` says so."""

from __future__ import annotations

import re
import subprocess
import sys

import msgspec
import pytest
import torch
from modelled import BUDGET, PURPOSE, rows
from torch import nn

from federated import local
from sandbox import accounting, count
from sandbox import training as t
from sandbox.accounting import SampledGaussian, Zcdp
from sandbox.catalog import Catalog
from sandbox.fit import LogisticRegression

torch.set_num_threads(1)
NAMES = ("ash", "birch", "cedar")
EPSILON = 1.5
CATALOG = """department = "{}"

[datasets.t]
source = "t.parquet"
level = "general-4"
purposes = ["research"]
max_rows = 1000
budget = {{ epsilon = 20.0, delta = 1e-6 }}

[datasets.t.columns]
height = {{ type = "real", bounds = [-8, 8] }}
ill = {{ type = "boolean" }}
"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Departments whose states stay on the disk, after one release of each kind."""
    frames = {name: {"t": rows(i, 200)[["height", "ill"]]} for i, name in enumerate(NAMES)}
    directory = tmp_path_factory.mktemp("city")
    catalogs = {name: msgspec.toml.decode(CATALOG.format(name), type=Catalog) for name in NAMES}
    federation = local.open_federation(catalogs, frames, directory=directory)
    table = federation.city().table("t")
    table.agg(count()).release(purpose=PURPOSE, epsilon=EPSILON)
    LogisticRegression().fit(table, features=["height"], target="ill", purpose=PURPOSE, epsilon=EPSILON)
    trained = table.train(
        nn.Sequential(nn.Linear(1, 2)), features=["height"], target="ill", loss="cross_entropy", rounds=3,
        sampling_rate=0.1, privacy=t.RecordLevel("joint", clip=1, noise_multiplier=1, lot=60),
        purpose=PURPOSE, epsilon=EPSILON,
    )  # fmt: skip
    return federation, directory, trained.training


def test_the_three_add_up_in_one_ledger(opened):
    federation, _, training = opened
    multiplier = training.privacy.noise_multiplier
    for gate in federation.gates.values():
        events = [entry.charge.event for entry in gate.state.ledger.entries()]
        assert [type(event) for event in events] == [Zcdp, Zcdp, SampledGaussian]
        assert events[2] == SampledGaussian(0.1, multiplier, 3)
        together = sum((accounting.cost(event) for event in events), start=accounting.NOTHING)
        spent = gate.state.ledger.spent("t", BUDGET.delta)
        assert spent.epsilon == pytest.approx(accounting.epsilon(together, BUDGET.delta))
        assert EPSILON < spent.epsilon < 3 * EPSILON


def test_sandbox_budget_prints_them(opened):
    federation, directory, _ = opened
    catalog, roster = directory / "catalog.toml", directory / "roster.toml"
    gate = federation.gates["ash"]
    catalog.write_text(CATALOG.format("ash"), encoding="utf-8")
    roster.write_text(gate.state.roster.dumps(), encoding="utf-8")
    command = [sys.executable, "-m", "sandbox.cli", "budget", "--state", directory / "ash"]
    done = subprocess.run(
        [*command, "--catalog", catalog, "--roster", roster], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    spent = gate.state.ledger.spent("t", BUDGET.delta).epsilon
    total = re.search(r"^ *t +20 +(\S+) +(\S+) +0 +3$", done.stdout, re.MULTILINE)
    assert total
    assert float(total[1]) == pytest.approx(spent, rel=1e-3)
    assert float(total[2]) == pytest.approx(20 - spent, rel=1e-3)
    lines = re.findall(r"^ *t +analyst +research +(\w+) +(\S+) +0 +1 ", done.stdout, re.MULTILINE)
    assert [name for name, _ in lines] == ["fit", "table", "training"]
    assert all(float(each) == pytest.approx(EPSILON, rel=2e-3) for _, each in lines)
